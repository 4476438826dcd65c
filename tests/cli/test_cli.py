"""The command line: what it accepts, what it refuses before any weights are loaded, how it ends."""

import subprocess
import sys
import types
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import osmnet
import osmnet.cli as cli
from osmnet.cli import doctor
from osmnet.pipelines.options import MotionOptions, PictureOptions

COMMAND = [sys.executable, "-P", "-m", "osmnet"]


@pytest.fixture
def inputs(tmp_path):
    """Files that exist; what is in them is not looked at here."""
    (tmp_path / "earlier").mkdir()
    for name in ("face.png", "voice.wav", "motion.mp4", "take-0.mp4", "earlier/take-1.mp4"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


@pytest.fixture
def run(inputs, subprocess_environment):
    """Run the command line in a child process whose working folder holds the inputs."""

    def run_in_child(*argv):
        return subprocess.run(
            COMMAND + [*argv], cwd=inputs, env=subprocess_environment, capture_output=True, text=True
        )

    return run_in_child


@pytest.fixture
def pipeline(monkeypatch):
    """Replace the pipeline by one that records how it is called, and makes what `behave` makes."""
    record = types.SimpleNamespace(loaded=None, called=None, saved=None, precision=None, behave=None)

    class Output:
        source = types.SimpleNamespace(num_faces=1)
        motion = types.SimpleNamespace(speech=types.SimpleNamespace(activity=np.ones(10)))

        def save(self, folder, *, sheet, progress, resume, label, consent, overwrite, animation):
            record.saved = {"folder": folder, "sheet": sheet, "resume": resume, "overwrite": overwrite}
            record.saved |= {"animation": animation}
            record.marks = {"label": label, "consent": consent}
            if record.behave is not None:
                raise record.behave
            progress(0, 10)
            progress(5, 10)
            progress(10, 10)
            return [folder / "take-1.mp4", folder / "take-1.json"]

    class Pipeline:
        @classmethod
        def from_pretrained(cls, model=None, **options):
            record.loaded = (model, options)
            return cls()

        def __call__(self, portrait, speech, **options):
            record.called, record.precision = (portrait, speech, options), self.precision
            return Output()

    module = types.ModuleType("osmnet.pipelines.talking_head")
    module.TalkingHeadPipeline = Pipeline
    monkeypatch.setitem(sys.modules, "osmnet.pipelines.talking_head", module)
    return record


def test_without_a_command_there_is_help(capsys):
    assert cli.main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and all(name in captured.err for name in cli.COMMANDS)


def test_version(run):
    result = run("--version")
    assert (result.returncode, result.stdout, result.stderr) == (0, f"osmnet {osmnet.__version__}\n", "")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("sing",), ("sing", "generate")),
        (("generate", "face.png"), ("SPEECH",)),
        (("generate", "nobody.png", "voice.wav"), ("There is no portrait at 'nobody.png'",)),
        (("generate", "face.png", "silence.wav"), ("There is no speech at 'silence.wav'",)),
        (("generate", ".", "voice.wav"), ("portrait '.' is a folder", "name a picture file")),
        (("generate", "face.png", "."), ("speech '.' is a folder", "audio or video file")),
        (("generate", "face.png", "voice.wav", "--head-motion", "no.mp4"), ("no head-motion video at 'no.mp4'",)),
        (
            ("generate", "face.png", "voice.wav", "--head-motion", "motion.mp4", "--still"),
            ("still", "head_motion", "leave one out"),
        ),
        (("generate", "face.png", "voice.wav", "--epsilon", "nan"), ("--epsilon", "nan", "finite")),
        (("generate", "face.png", "voice.wav", "--epsilon", "inf"), ("--epsilon", "finite")),
        (("generate", "face.png", "voice.wav", "--epsilon", "-0.5"), ("--epsilon", "-0.5", "at least 0")),
        (("generate", "face.png", "voice.wav", "--epsilon", "much"), ("--epsilon", "'much' is not a number")),
        (("generate", "face.png", "voice.wav", "--num-videos", "0"), ("--num-videos", "from 1 to 100")),
        (("generate", "face.png", "voice.wav", "--num-videos", "1000"), ("--num-videos", "1000", "from 1 to 100")),
        (("generate", "face.png", "voice.wav", "--num-videos", "2.5"), ("--num-videos", "whole number")),
        (("generate", "face.png", "voice.wav", "--seed", "-1"), ("--seed", "-1")),
        (("generate", "face.png", "voice.wav", "--seed", str(2**63)), ("--seed",)),
        (("generate", "face.png", "voice.wav", "--yaw", "nan"), ("--yaw", "nan")),
        (("generate", "face.png", "voice.wav", "--pitch", "90"), ("--pitch", "from -60 to 60")),
        (("generate", "face.png", "voice.wav", "--motion-scale", "-1"), ("--motion-scale", "from 0 to 10")),
        (("generate", "face.png", "voice.wav", "--crop", "--size", "8"), ("--size", "from 64 to 2048")),
        (("generate", "face.png", "voice.wav", "--output", "take.mp4"), ("'take.mp4'", "4 takes", "name a folder")),
        (("generate", "face.png", "voice.wav", "--near", "1", "--still"), ("near", "still")),
        (("generate", "face.png", "voice.wav", "--output", "earlier"), ("'earlier' holds takes", "'earlier-2'")),
        (
            ("generate", "face.png", "voice.wav", "-n", "1", "--output", "take-0.mp4"),
            ("'take-0.mp4'", "--overwrite", "'take-0-2.mp4'"),
        ),
        (("generate", "face.png", "voice.wav", "--face", "0"), ("--face", "from 1")),
        (("generate", "face.png", "voice.wav", "--device", "tpu"), ("--device", "'tpu'", "cuda")),
        (("generate", "face.png", "voice.wav", "--sampling", "grid"), ("--sampling", "span", "ball")),
        (("generate", "face.png", "voice.wav", "--output", "face.png"), ("'face.png' is a file", "name another")),
        (("generate", "face.png", "voice.wav", "--output", "face.png/out"), ("'face.png' is a file",)),
    ],
)
def test_wrong_input_is_one_sentence_and_status_2(inputs, monkeypatch, capsys, pipeline, argv, words):
    monkeypatch.chdir(inputs)
    before = sorted(inputs.rglob("*"))
    try:
        status = cli.main(list(argv))
    except SystemExit as stop:
        status = stop.code
    captured = capsys.readouterr()
    assert status == 2
    assert captured.out == ""
    assert captured.err.startswith("osmnet: ") and captured.err.count("\n") == 1 and captured.err.endswith(".\n")
    assert all(word in captured.err for word in words), captured.err
    assert pipeline.loaded is None  # refused before any weights are loaded
    assert sorted(inputs.rglob("*")) == before


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("prepare", "face.png"), ("--out", "osmnet prepare --help")),
        (("train", "dance"), ("'dance'", "face-model", "osmnet train --help")),
        (("train", "finetune", "--data", "data"), ("--out", "osmnet train finetune --help")),
        (("evaluate", "--data", "data"), ("--out", "osmnet evaluate --help")),
        (("bases", "--epsilon", "much"), ("--epsilon", "osmnet bases --help")),
    ],
)
def test_commands_with_a_parser_of_their_own_refuse_alike(capsys, argv, words):
    with pytest.raises(SystemExit) as stop:
        cli.main(list(argv))
    captured = capsys.readouterr()
    assert stop.value.code == 2 and captured.out == ""
    assert captured.err.startswith("osmnet: ") and captured.err.count("\n") == 1
    assert all(word in captured.err for word in words), captured.err


def test_refusal_in_a_real_process_has_no_traceback_and_leaves_nothing(run, inputs):
    before = sorted(inputs.rglob("*"))
    result = run("generate", "nobody.png", "voice.wav", "--output", "new/folder")
    assert result.returncode == 2
    assert result.stderr == "osmnet: There is no portrait at 'nobody.png'; check the path.\n"
    assert result.stdout == ""
    assert sorted(inputs.rglob("*")) == before


def test_debug_shows_the_traceback_as_well(inputs, monkeypatch, capsys):
    monkeypatch.chdir(inputs)
    assert cli.main(["generate", "nobody.png", "voice.wav", "--debug"]) == 2
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert error.endswith("osmnet: There is no portrait at 'nobody.png'; check the path.\n")


def test_every_option_reaches_the_pipeline(inputs, monkeypatch, capsys, pipeline):
    monkeypatch.chdir(inputs)
    argv = "generate face.png voice.wav -n 3 --epsilon 0.5 --seed 7 --output out --model some/weights --revision v1"
    argv += " --variant fp16 --device cpu --crop --size 192 --face 2 --motion-scale 0.8 --expression-scale 1.2"
    argv += " --no-blink --yaw 10 --pitch -5 --roll 90e-1 --head-motion motion.mp4 --sampling ball --no-sheet"
    argv += " --resume --precision float32 --overwrite --animation gif --upper-face 0.5 --gaze free"
    assert cli.main(argv.split()) == 0
    assert pipeline.loaded == ("some/weights", {"revision": "v1", "variant": "fp16", "device_map": "cpu"})
    portrait, speech, options = pipeline.called
    assert (portrait, speech) == (Path("face.png"), Path("voice.wav"))
    assert options == {
        "seed": 7,
        "yaw": 10,  # degrees, as everywhere
        "pitch": -5,
        "roll": 9,
        "num_videos": 3,
        "epsilon": 0.5,
        "sampling": "ball",
        "full_frame": False,
        "size": 192,
        "face": 1,  # the command line counts from 1
        "motion_scale": 0.8,
        "expression_scale": 1.2,
        "near": (),
        "still": False,
        "upper_face": 0.5,
        "gaze": "free",
        "blink": False,
        "head_motion": Path("motion.mp4"),
        "output_type": "lazy",
    }
    assert pipeline.saved == {
        "folder": Path("out"), "sheet": False, "resume": True, "overwrite": True, "animation": "gif"
    }  # fmt: skip
    assert pipeline.precision == "float32"
    captured = capsys.readouterr()
    assert captured.out.split() == [str(Path("out/take-1.mp4")), str(Path("out/take-1.json"))]
    assert "10/10" in captured.err  # the progress bar


def test_defaults(inputs, monkeypatch, capsys, pipeline):
    monkeypatch.chdir(inputs)
    assert cli.main(["generate", "face.png", "voice.wav"]) == 0
    assert pipeline.loaded == (None, {"revision": None, "variant": None, "device_map": "auto"})
    options = dict(pipeline.called[2])
    first = options["seed"]
    # Those of Python, but for the number of takes.
    assert {name: options.pop(name) for name in ("seed", "output_type", "num_videos")}["num_videos"] == 4
    fields = asdict(MotionOptions()) | asdict(PictureOptions())
    assert options == {name: value for name, value in fields.items() if name != "num_videos"}
    assert PictureOptions().whole_picture
    assert options["size"] is options["face"] is options["head_motion"] is None
    assert pipeline.saved == {
        "folder": Path("out"), "sheet": True, "resume": False, "overwrite": False, "animation": None
    }  # fmt: skip
    assert pipeline.marks == {"label": True, "consent": None}
    assert pipeline.precision == "auto"
    # The seed drawn is printed, and it is the one used.
    assert f"--seed {first} " in capsys.readouterr().err
    assert cli.main(["generate", "face.png", "voice.wav"]) == 0
    assert pipeline.called[2]["seed"] != first
    assert cli.main(["generate", "face.png", "voice.wav", "--no-label", "--consent"]) == 0
    assert pipeline.marks == {"label": False, "consent": True}


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (
            ValueError("No face was found in\n'face.png'; use another."),
            2,
            "No face was found in 'face.png'; use another.",
        ),
        (OSError(28, "No space left on device"), 2, "No space left on device"),
        (ImportError("libGL.so.1: cannot open shared object file"), 2, "osmnet doctor"),
        (KeyboardInterrupt(), 130, "stopped"),
    ],
)
def test_errors_while_rendering(inputs, monkeypatch, capsys, pipeline, error, status, message):
    monkeypatch.chdir(inputs)
    pipeline.behave = error
    assert cli.main(["generate", "face.png", "voice.wav", "--seed", "1"]) == status
    captured = capsys.readouterr()
    assert message in captured.err and "Traceback" not in captured.err
    assert captured.out == ""


def test_a_defect_is_not_taken_for_wrong_input(inputs, monkeypatch, pipeline):
    monkeypatch.chdir(inputs)
    pipeline.behave = TypeError("a defect")
    with pytest.raises(TypeError, match="a defect"):
        cli.main(["generate", "face.png", "voice.wav"])


@pytest.mark.parametrize("command", sorted(cli.COMMANDS))
def test_dispatch_hands_all_arguments_over(monkeypatch, command):
    module = types.ModuleType("module")
    seen = []
    module.main = lambda argv: seen.append(argv)
    monkeypatch.setitem(sys.modules, f"osmnet.cli.{command}", module)
    assert cli.main([command, "--help", "--anything", "1"]) == 0
    assert seen == [["--help", "--anything", "1"]]


def test_missing_extra_is_named(monkeypatch, capsys):
    def missing(name):
        raise ModuleNotFoundError(name="a_module_that_is_not_there")

    monkeypatch.setattr(cli, "import_module", missing)
    assert cli.main(["train"]) == 2
    assert "'a_module_that_is_not_there'" in capsys.readouterr().err


def test_doctor_prints_every_finding_and_the_remedy(monkeypatch, capsys):
    findings = [doctor.Finding("python", "3.11.7"), doctor.Finding("mediapipe", "libEGL.so.1 is missing", "apt-get x")]
    monkeypatch.setattr(doctor, "examine", lambda model, revision: findings)
    assert cli.main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"osmnet {osmnet.__version__} ")
    assert [line.split()[:2] for line in lines[1:3]] == [["ok", "python"], ["WRONG", "mediapipe"]]
    assert lines[3].strip() == "fix: apt-get x"
    assert lines[-1] == "1 of 2 checks failed."
    monkeypatch.setattr(doctor, "examine", lambda model, revision: findings[:1])
    assert cli.main(["doctor"]) == 0


def test_doctor_tells_a_missing_package_a_missing_library_and_a_wrong_version_apart(monkeypatch):
    assert doctor.check_package("numpy").remedy is None

    def fail_with(error):
        def import_module(name):
            raise error

        monkeypatch.setattr(doctor, "import_module", import_module)
        return doctor.check_package("mediapipe")

    assert fail_with(ModuleNotFoundError("No module named 'mediapipe'")).remedy.startswith("pip install 'mediapipe")
    assert "libegl1" in fail_with(ImportError("libEGL.so.1: cannot open shared object file")).remedy

    monkeypatch.setattr(doctor, "import_module", lambda name: None)
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: ["numpy<2,>=1", "gradio>=6; extra == 'demo'"])
    finding = doctor.check_package("numpy")
    assert "needs <2,>=1" in finding.detail and finding.remedy == "pip install 'numpy<2,>=1'"


def test_doctor_goes_on_after_a_check_that_cannot_run(monkeypatch):
    def cannot_import():
        raise ImportError("libGL.so.1: cannot open shared object file")

    monkeypatch.setattr(doctor, "MODULES", {"numpy": "numpy"})
    monkeypatch.setattr(doctor, "check_weights", lambda model, revision: doctor.Finding("weights", "load"))
    monkeypatch.setattr(doctor, "check_landmarker", cannot_import)
    monkeypatch.setattr(doctor, "check_video", lambda: doctor.Finding("video", "fine"))
    findings = {finding.name: finding for finding in doctor.examine()}
    assert list(findings) == ["python", "numpy", "device", "weights", "landmarker", "video"]
    assert "libGL.so.1" in findings["landmarker"].detail and findings["landmarker"].remedy
    assert findings["video"].remedy is None


def test_doctor_writes_a_real_video():
    assert doctor.check_video().remedy is None


def test_doctor_finds_the_face_with_the_bundle_of_the_repository(monkeypatch, repository, tmp_path):
    monkeypatch.setattr("osmnet.loading.packaged.packaged_weights", lambda: repository / "weights_card")
    assert doctor.check_landmarker() == doctor.Finding("landmarker", "finds the face in the test picture")
    Image.new("RGB", (192, 192)).save(tmp_path / "nobody.jpg")
    monkeypatch.setattr(doctor, "TEST_PICTURE", tmp_path / "nobody.jpg")
    assert "finds 0 faces" in doctor.check_landmarker().detail
    monkeypatch.setattr("osmnet.loading.packaged.packaged_weights", lambda: tmp_path)
    finding = doctor.check_landmarker()
    assert "No face landmarker" in finding.detail and finding.remedy
