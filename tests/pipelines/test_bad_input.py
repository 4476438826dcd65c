"""Every wrong input is refused by one clear sentence, by the pipeline and the command line, and leaves nothing."""

import errno
import os
import pickle
import re
import shutil
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import osmnet.cli as cli
from osmnet.face.landmarker import FaceLandmarker
from osmnet.loading.model import WEIGHTS_NAME
from osmnet.media.video_writer import VideoWriter
from osmnet.pipelines.osm_net.pipeline_osm_net import OSMNetPipeline
from osmnet.takes.unfinished import FOLDER_NAME
from tests.support.dummies import SAMPLING_RATE, edit_tensors, portrait, speech, write_wav

pytestmark = pytest.mark.integration

# What is wrong, with which of the files below, and what the sentence must say.
PORTRAITS = {
    "no face": ("nobody.png", "No face was found in the portrait"),
    "face too small": ("small.png", r"face is only \d+ pixels high.*at least 48"),
    "not an image": ("text.jpg", "text.jpg' is not a picture"),
    "sound": ("voice.wav", "voice.wav' is not a picture"),
    "truncated image": ("truncated.jpg", "truncated.jpg' is damaged"),
    "decompression bomb": ("bomb.png", "bomb.png' has more than 178 million pixels, and the limit is 64 million"),
    "empty image": ("empty.png", "empty.png' is empty"),
    "folder as portrait": ("folder", "folder' is a folder"),
    "missing portrait": ("missing.png", "no (file|portrait).*missing.png"),
}
SPEECHES = {
    "empty audio": ("empty.wav", "empty.wav' is empty"),
    "no samples": ("no samples.wav", "no samples.wav'"),
    "silent audio": ("silent.wav", "silent.wav' is silent throughout"),
    "0.1 s": ("short.wav", "short.wav' is 0.10 s long.*at least 0.2 s"),
    "corrupt audio": ("corrupt.mp3", "corrupt.mp3' cannot be decoded"),
    "a picture": ("face.png", "face.png' cannot be decoded"),
    "text": ("text.wav", "text.wav' (cannot be decoded|has no sound)"),
    "video without sound": ("mute.mp4", "mute.mp4' has no sound"),
    "folder as speech": ("folder", "folder' is a folder"),
    "missing speech": ("missing.wav", "no (file|speech).*missing.wav"),
}
# Arguments of the pipeline, options of the command line (None: it has no such thing), what the sentence must say.
OPTIONS = {
    "epsilon below 0": ({"epsilon": -1.0}, ("--epsilon", "-1"), "epsilon.*-1"),
    "epsilon NaN": ({"epsilon": float("nan")}, ("--epsilon", "nan"), "epsilon.*nan"),
    "epsilon infinite": ({"epsilon": float("inf")}, ("--epsilon", "inf"), "epsilon.*inf"),
    "epsilon far too large": ({"epsilon": 1e30}, ("--epsilon", "1e30"), "epsilon.*1e.?30.*"),
    "epsilon text": ({"epsilon": "much"}, ("--epsilon", "much"), "epsilon.*much"),
    "0 videos": ({"num_videos": 0}, ("--num-videos", "0"), "num.videos.*0.*|from 1 to 100"),
    "1000 videos": ({"num_videos": 1000}, ("--num-videos", "1000"), "num.videos.*from 1 to 100|1000"),
    "-3 videos": ({"num_videos": -3}, ("--num-videos", "-3"), "num.videos.*from 1 to 100"),
    "half a video": ({"num_videos": 1.5}, ("--num-videos", "1.5"), "num.videos.*whole number"),
    "no such face": ({"face": 1}, ("--face", "2"), "shows 1 face; choose one of them"),
    "motion scale below 0": ({"motion_scale": -1}, ("--motion-scale", "-1"), "motion.scale.*from 0 to 10"),
    "expression scale NaN": (
        {"expression_scale": float("nan")},
        ("--expression-scale", "nan"),
        "expression.scale.*from 0 to 10",
    ),
    "size too small": ({"size": 8}, ("--crop", "--size", "8"), "size.*64 to 2048"),
    "turned too far": ({"yaw": 115.0}, ("--yaw", "115"), "yaw.*60"),
    "yaw NaN": ({"yaw": float("nan")}, ("--yaw", "nan"), "yaw"),
    "no such sampling": ({"sampling": "grid"}, ("--sampling", "grid"), "sampling.*grid"),
    "head motion of a text": ({"head_motion": "text.jpg"}, ("--head-motion", "text.jpg"), "text.jpg'.*video"),
    "head motion of a sound": (
        {"head_motion": "voice.wav"},
        ("--head-motion", "voice.wav"),
        "voice.wav' is not a video",
    ),
    "head motion of nobody": (
        {"head_motion": "mute.mp4"},
        ("--head-motion", "mute.mp4"),
        "No face was found in the video",
    ),
    "head motion missing": ({"head_motion": "missing.mp4"}, ("--head-motion", "missing.mp4"), "no .*missing.mp4"),
    "still and head motion": (
        {"head_motion": "mute.mp4", "still": True},
        ("--head-motion", "mute.mp4", "--still"),
        "exclude each other",
    ),
    "no such output type": ({"output_type": "mp3"}, None, "output_type must be.*mp3"),
    "no generator": ({"generator": 7}, None, "generator must be"),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder of good and bad files."""
    folder = tmp_path_factory.mktemp("inputs")
    Image.fromarray(portrait()).save(folder / "face.png")
    shade = np.linspace(30, 220, 200)[:, None, None] * np.ones((1, 160, 3))
    Image.fromarray(shade.astype(np.uint8)).save(folder / "nobody.png")
    wide = np.full((300, 400, 3), 200, np.uint8)
    wide[80:180, 100:200] = portrait(100)  # a face 40 pixels high
    Image.fromarray(wide).save(folder / "small.png")
    Image.fromarray(portrait()).save(folder / "truncated.jpg", quality=95)
    (folder / "truncated.jpg").write_bytes((folder / "truncated.jpg").read_bytes()[:3000])
    (folder / "text.jpg").write_text("This is no picture.\n")
    (folder / "text.wav").write_text("This is no sound.\n")
    (folder / "bomb.png").write_bytes(_png_header(30_000, 30_000))
    for name in ("empty.png", "empty.wav"):
        (folder / name).touch()
    (folder / "folder").mkdir()
    write_wav(folder / "voice.wav", speech(0.4))
    write_wav(folder / "silent.wav", np.zeros(16_000))
    write_wav(folder / "short.wav", speech(0.1))
    write_wav(folder / "no samples.wav", np.zeros(0))
    (folder / "corrupt.mp3").write_bytes(np.random.default_rng(0).bytes(5000))
    with VideoWriter(folder / "mute.mp4", (96, 96)) as writer:
        writer.write(np.full((6, 96, 96, 3), 90, np.uint8))
    return folder


def _png_header(width, height):
    """A picture of which only the size is there."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 100))
        + chunk(b"IEND", b"")
    )


def refused_by_pipeline(tiny, inputs, folder, pattern, portrait="face.png", speech="voice.wav", **options):
    for name in ("head_motion",):
        if name in options:
            options[name] = inputs / options[name]
    if not options.get("full_frame"):
        options.setdefault("size", 64)
    options.setdefault("output_type", "lazy")
    with pytest.raises(ValueError) as caught:
        tiny(inputs / portrait, inputs / speech, **options).save(folder)
    message = str(caught.value)
    assert re.search(pattern, message), message
    assert_one_sentence(message)
    assert not folder.exists() or not list(folder.iterdir())


def assert_one_sentence(message):
    assert "\n" not in message and message.endswith(".") and len(message) < 500, message


def run(argv):
    try:
        return cli.main([str(argument) for argument in argv])
    except SystemExit as stop:
        return stop.code


def refused_by_command(capfd, inputs, model, folder, pattern, *options, portrait="face.png", speech="voice.wav"):
    """Run the command in the folder of inputs; what it and all native code print is seen."""
    before = sorted(inputs.rglob("*"))
    capfd.readouterr()
    arguments = ["generate", portrait, speech, "--seed", "1", "-n", "2", "--model", model, "--output", folder]
    status = run([*arguments, *options])
    stdout, stderr = capfd.readouterr()
    assert status == 2, stderr
    assert stdout == ""
    assert stderr.startswith("osmnet: ") and stderr.endswith(".\n") and stderr.count("\n") == 1, stderr
    assert "Traceback" not in stderr and len(stderr) < 600
    assert re.search(pattern, stderr), stderr
    assert not folder.exists() or not list(folder.iterdir())
    assert sorted(inputs.rglob("*")) == before


@pytest.mark.parametrize("case", PORTRAITS)
def test_portraits(tiny, tiny_folder, inputs, tmp_path, capfd, monkeypatch, case):
    name, pattern = PORTRAITS[case]
    refused_by_pipeline(tiny, inputs, tmp_path / "out", pattern, portrait=name)
    monkeypatch.chdir(inputs)
    refused_by_command(capfd, inputs, tiny_folder, tmp_path / "out", pattern, portrait=name)


@pytest.mark.parametrize("case", SPEECHES)
def test_speeches(tiny, tiny_folder, inputs, tmp_path, capfd, monkeypatch, case):
    name, pattern = SPEECHES[case]
    refused_by_pipeline(tiny, inputs, tmp_path / "out", pattern, speech=name)
    monkeypatch.chdir(inputs)
    refused_by_command(capfd, inputs, tiny_folder, tmp_path / "out", pattern, speech=name)


@pytest.mark.parametrize("case", OPTIONS)
def test_options(tiny, tiny_folder, inputs, tmp_path, capfd, monkeypatch, case):
    arguments, options, pattern = OPTIONS[case]
    refused_by_pipeline(tiny, inputs, tmp_path / "out", pattern, **arguments)
    if options is not None:
        monkeypatch.chdir(inputs)
        refused_by_command(capfd, inputs, tiny_folder, tmp_path / "out", pattern, *options)


def test_a_face_turned_away(tiny, tiny_folder, inputs, tmp_path, capfd, monkeypatch):
    look = FaceLandmarker.detect
    angle = np.radians(70)
    turn = np.array([[np.cos(angle), 0, -np.sin(angle)], [0, 1, 0], [np.sin(angle), 0, np.cos(angle)]])

    def see_from_the_side(self, image):
        return [((face - face.mean(0)) @ turn.T + face.mean(0)).astype(np.float32) for face in look(self, image)]

    monkeypatch.setattr(FaceLandmarker, "detect", see_from_the_side)
    pattern = r"turned (6[5-9]|7\d)° to the side.*nearer to frontal"
    refused_by_pipeline(tiny, inputs, tmp_path / "out", pattern)
    monkeypatch.chdir(inputs)
    refused_by_command(capfd, inputs, tiny_folder, tmp_path / "out", pattern)


@pytest.mark.parametrize(
    ("speech_given", "pattern"),
    [
        (speech(0.5), "needs its rate"),
        ((speech(0.5), 16_000, 1), "must be \\(array, sampling rate\\)"),
        ((np.full(9000, np.nan, np.float32), 16_000), "NaN"),
        ((np.zeros(9000, np.float32), 16_000), "silent throughout"),
        ((speech(0.1), SAMPLING_RATE), "0.10 s long"),
        (7, "must be a file or a numpy array"),
    ],
)
def test_arrays_of_speech(tiny, inputs, speech_given, pattern):
    with pytest.raises(ValueError, match=pattern) as caught:
        tiny(inputs / "face.png", speech_given, size=64)
    assert_one_sentence(str(caught.value))


@pytest.mark.parametrize(
    ("picture", "pattern"),
    [
        (portrait().astype(np.float32), r"floats must lie in \[0, 1\]"),
        (np.zeros((4, 5)), "No face|shape|pixels"),
        (np.zeros((160, 160, 7), np.uint8), "must have shape"),
        (np.zeros((0, 160, 3), np.uint8), "must have shape"),
        (np.zeros((1, 1, 3), np.uint8), "No face"),
        (None, "must be a file, a PIL image or a numpy array"),
    ],
)
def test_arrays_of_pictures(tiny, inputs, picture, pattern):
    with pytest.raises(ValueError, match=pattern) as caught:
        tiny(picture, inputs / "voice.wav", size=64)
    assert_one_sentence(str(caught.value))


# Steps


@pytest.mark.parametrize(
    ("wrong", "pattern"),
    [
        (
            lambda pipe, source, motion: pipe.sample_motion("voice.wav"),
            "the Speech that encode_speech returns",
        ),
        (lambda pipe, source, motion: pipe.takes("face.png", motion), "must be the Source that encode_source returns"),
        (lambda pipe, source, motion: pipe.takes(source, "motion"), "must be the Motion that sample_motion returns"),
        (lambda pipe, source, motion: next(pipe.render("face.png", motion)), "must be the Source"),
        (lambda pipe, source, motion: pipe.sample_motion(motion.speech, near=5.0), "near must be"),
        (lambda pipe, source, motion: pipe.sample_motion(motion.speech, near=(-1,)), "near must be"),
        (lambda pipe, source, motion: pipe.sample_motion(motion.speech, near="abc"), "near must be"),
        (lambda pipe, source, motion: pipe.sample_motion(motion.speech, generator=[7]), "generator must be"),
        (lambda pipe, source, motion: pipe.sample_motion(motion.speech, generator=[None]), "generator must be"),
        (lambda pipe, source, motion: motion.take([]), "at least one of the takes 0 to 0"),
        (lambda pipe, source, motion: motion.take([5]), "at least one of the takes 0 to 0"),
        (lambda pipe, source, motion: pipe.takes(source, motion).save(None), "path must be a path, not NoneType"),
        (lambda pipe, source, motion: pipe(source, ""), "its path is empty"),
        (lambda pipe, source, motion: pipe("", motion.speech), "its path is empty"),
        (lambda pipe, source, motion: pipe.from_pretrained(""), "path of the model is empty"),
        (lambda pipe, source, motion: pipe.from_pretrained(3), "not int"),
        (lambda pipe, source, motion: pipe.from_pretrained(revision="v1"), "is for models on the Hub"),
    ],
)
def test_what_a_step_cannot_take(tiny, inputs, wrong, pattern):
    source = tiny.encode_source(inputs / "face.png", size=64)
    motion = tiny.sample_motion(tiny.encode_speech(inputs / "voice.wav"))
    with pytest.raises(ValueError, match=pattern) as caught:
        wrong(tiny, source, motion)
    assert_one_sentence(str(caught.value))


# Output


@pytest.mark.parametrize("name", ["voice.wav", "voice.wav/out"])
def test_output_at_or_under_a_file(tiny, tiny_folder, inputs, capfd, monkeypatch, name):
    out = tiny(inputs / "face.png", inputs / "voice.wav", size=64, output_type="lazy")
    with pytest.raises(ValueError, match="voice.wav.*cannot be made") as caught:
        out.save(inputs / name)
    assert_one_sentence(str(caught.value))
    monkeypatch.chdir(inputs)
    before = (inputs / "voice.wav").read_bytes()
    status = run(["generate", "face.png", "voice.wav", "--model", tiny_folder, "--output", name])
    stdout, stderr = capfd.readouterr()
    assert (status, stdout) == (2, "") and "is a file; name another" in stderr and stderr.count("\n") == 1
    assert (inputs / "voice.wav").read_bytes() == before


def test_output_without_permission(tiny_folder, inputs, tmp_path, capfd, monkeypatch):
    (tmp_path / "locked").mkdir(mode=0o500)
    if os.access(tmp_path / "locked", os.W_OK):  # the superuser may write anywhere
        access = os.access
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "locked" and access(path, mode))
    monkeypatch.chdir(inputs)
    for folder in (tmp_path / "locked", tmp_path / "locked" / "new"):
        refused_by_command(capfd, inputs, tiny_folder, folder, "cannot be written to")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder in which nobody can write")
def test_output_where_nothing_can_be_made(tiny_folder, inputs, capfd, monkeypatch):
    monkeypatch.chdir(inputs)
    arguments = ["--model", tiny_folder, "--seed", "1", "--output", "/proc/osmnet/out"]
    assert run(["generate", "face.png", "voice.wav", *arguments]) == 2
    stdout, stderr = capfd.readouterr()
    assert stdout == "" and "Traceback" not in stderr
    assert re.search("^osmnet: .*/proc/osmnet/out' cannot be (made|written)", stderr, re.MULTILINE), stderr


def test_a_full_disk(tiny_folder, inputs, tmp_path, capfd, monkeypatch):
    written = []
    encode = VideoWriter._encode_picture

    def fill_up(self, pixels):
        written.append(1)
        if len(written) > 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        encode(self, pixels)

    monkeypatch.setattr(VideoWriter, "_encode_picture", fill_up)
    monkeypatch.chdir(inputs)
    arguments = ["--model", tiny_folder, "--seed", "1", "--crop", "--size", "64", "--output", tmp_path / "out"]
    assert run(["generate", "face.png", "voice.wav", *arguments]) == 2
    stdout, stderr = capfd.readouterr()
    assert stdout == "" and "Traceback" not in stderr
    last = stderr.replace("\r", "\n").strip().splitlines()[-1]  # behind the progress bar
    assert last.startswith("osmnet: ") and "No space left on device" in last
    assert not (tmp_path / "out").exists()


def test_a_json_that_cannot_be_written(tiny, inputs, tmp_path):
    (tmp_path / "take-1.json").mkdir()
    out = tiny(inputs / "face.png", inputs / "voice.wav", size=64, output_type="lazy")
    with pytest.raises(ValueError, match="take-1.json' cannot be written"):
        out.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [FOLDER_NAME, "take-1.json", "take-1.mp4"]
    (tmp_path / "take-1.json").rmdir()
    before = (tmp_path / "take-1.mp4").stat().st_mtime_ns
    out.save(tmp_path, sheet=False, resume=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["take-1.json", "take-1.mp4"]
    assert (tmp_path / "take-1.mp4").stat().st_mtime_ns == before


def test_size_of_a_whole_picture(tiny, inputs):
    with pytest.raises(ValueError, match="size is the side of the square.*full_frame=False"):
        tiny(inputs / "face.png", inputs / "voice.wav", size=128, full_frame=True)


# Models


def _lose_a_tensor(folder):
    edit_tensors(folder, lambda state: state.pop("motion_bases"))


def _add_a_tensor(folder):
    edit_tensors(folder, lambda state: state.update(surplus_tensor=torch.zeros(2)))


def _reshape_a_tensor(folder):
    edit_tensors(folder, lambda state: state.update(motion_bases=torch.zeros(6, 15)))


def _replace_by_a_pickle(folder):
    (folder / "motion_space" / WEIGHTS_NAME).unlink()
    with open(folder / "motion_space" / "diffusion_pytorch_model.bin", "wb") as file:
        pickle.dump(_Trap(), file)


def _disguise_a_pickle(folder):
    with open(folder / "motion_space" / WEIGHTS_NAME, "wb") as file:
        pickle.dump(_Trap(), file)


def _cut_the_weights(folder):
    path = folder / "video_generator" / WEIGHTS_NAME
    path.write_bytes(path.read_bytes()[:-100])


def _lose_a_component(folder):
    shutil.rmtree(folder / "motion_decoder")


def _break_the_index(folder):
    (folder / "model_index.json").write_text("{")


def _lose_the_landmarker(folder):
    (folder / "face_landmarker.task").unlink()


def _break_the_landmarker(folder):
    (folder / "face_landmarker.task").write_bytes(b"no bundle")


class _Trap:
    """Ends the process when it is unpickled."""

    def __reduce__(self):
        return sys.exit, ("a pickle was loaded",)


MODEL_FAULTS = {
    "missing tensor": (_lose_a_tensor, "motion_space.* lacks tensor motion_bases"),
    "surplus tensor": (_add_a_tensor, "motion_space.* has the surplus tensor surplus_tensor"),
    "wrong shape": (_reshape_a_tensor, r"wrong shape for tensor motion_bases \(\(6, 15\) instead of \(6, 16\)\)"),
    "pickle": (_replace_by_a_pickle, "diffusion_pytorch_model.bin.*never loaded"),
    "pickle in disguise": (_disguise_a_pickle, "motion_space.* is not a whole safetensors file.*never loaded"),
    "truncated weights": (_cut_the_weights, "video_generator.* is not a whole safetensors file"),
    "missing component": (_lose_a_component, "lacks the folder of its component 'motion_decoder'"),
    "broken index": (_break_the_index, "model_index.json is not readable JSON"),
    "missing landmarker": (_lose_the_landmarker, "has no face_landmarker.task"),
    "broken landmarker": (_break_the_landmarker, "face_landmarker.task is another face landmarker than the package's"),
}


@pytest.mark.parametrize("case", MODEL_FAULTS)
def test_models(tiny_folder, inputs, tmp_path, capfd, monkeypatch, case):
    damage, pattern = MODEL_FAULTS[case]
    model = tmp_path / "model"
    shutil.copytree(tiny_folder, model)
    damage(model)
    with pytest.raises(ValueError, match=pattern) as caught:
        OSMNetPipeline.from_pretrained(model)(inputs / "face.png", inputs / "voice.wav", size=64)
    assert_one_sentence(str(caught.value))
    monkeypatch.chdir(inputs)
    refused_by_command(capfd, inputs, model, tmp_path / "out", pattern)


@pytest.mark.parametrize("name", ["./not here", "face.png", "folder"])
def test_folders_that_are_no_model(inputs, tmp_path, capfd, monkeypatch, name):
    monkeypatch.chdir(inputs)
    refused_by_command(
        capfd, inputs, name, tmp_path / "out", f"{Path(name).name} (is not a folder|has no model_index.json)"
    )


def test_a_variant_that_is_not_there(tiny_folder, inputs, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(inputs)
    refused_by_command(capfd, inputs, tiny_folder, tmp_path / "out", "diffusion_pytorch_model.fp8", "--variant", "fp8")


# Unusual, but not wrong


def test_50_megapixels_work(tiny_folder, inputs, tmp_path, capfd):
    Image.fromarray(portrait(200)).resize((7100, 7100), Image.Resampling.NEAREST).save(
        tmp_path / "huge.jpg", quality=80
    )
    arguments = ["--model", tiny_folder, "--seed", "1", "-n", "1", "--no-sheet", "--output", tmp_path / "out"]
    assert run(["generate", tmp_path / "huge.jpg", inputs / "voice.wav", "--crop", "--size", "64", *arguments]) == 0
    assert capfd.readouterr().out.split() == [str(tmp_path / "out" / f"take-1.{kind}") for kind in ("mp4", "json")]


def test_half_a_recording_is_used(tiny, inputs, tmp_path):
    whole = write_wav(tmp_path / "cut.wav", speech(1.0))
    whole.write_bytes(whole.read_bytes()[:17_000])
    assert 12 <= tiny.encode_speech(whole).num_frames <= 14
