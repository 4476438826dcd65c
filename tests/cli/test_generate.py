"""`osmnet generate` from files to files, with a tiny model."""

import re
import subprocess
import sys

import av
import numpy as np
import pytest
from PIL import Image

import osmnet.cli as cli
from osmnet.media.video_reader import read_frames
from osmnet.media.video_writer import VideoWriter
from osmnet.takes.background import BackgroundWriter
from osmnet.takes.unfinished import FOLDER_NAME
from tests.support.dummies import portrait, read_json, speech, write_wav

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    Image.fromarray(portrait()).save(folder / "face.png")
    write_wav(folder / "voice.wav", speech(0.6))  # 15 frames
    return folder


@pytest.fixture
def generate(tiny_folder, inputs, tmp_path, capfd):
    """Run the command; give its folder of results, the lines on stdout and the text on stderr, native code's too."""

    def run(*options, portrait=inputs / "face.png", speech=inputs / "voice.wav", output=tmp_path / "out", status=0):
        capfd.readouterr()
        arguments = ["generate", portrait, speech, "--model", tiny_folder, "--output", output, *options]
        result = cli.main([str(argument) for argument in arguments])
        stdout, stderr = capfd.readouterr()
        assert result == status, stderr
        assert "Traceback" not in stderr
        return output, stdout.splitlines(), stderr.replace("\r", "\n")

    return run


def frames_of(path):
    return np.stack(list(read_frames(path)))


def look_alike(first, second):
    """Whether two videos were made of the same frames: x264 itself varies by a little from time to time."""
    return np.abs(frames_of(first).astype(int) - frames_of(second)).mean() < 0.3


def pose_of(path):
    return np.array(read_json(path)["head_pose"])


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_whole_way(generate, inputs, tiny_folder):
    before = {path: path.read_bytes() for path in inputs.iterdir()}
    out, stdout, stderr = generate("--num-videos", "2", "--epsilon", "0.5", "--seed", "3")
    expected = ["take-1.mp4", "take-1.json", "take-2.mp4", "take-2.json", "sheet.png"]
    assert stdout == [str(out / name) for name in expected]  # and nothing else
    assert names(out) == sorted(expected)
    assert "30/30" in stderr and re.search(r"\d\d:\d\d<\d\d:\d\d", stderr)  # the bar tells the time left
    bars = ("rendering", "finishing files")
    assert not [line for line in stderr.splitlines() if line.strip() and not line.startswith(bars)], stderr
    for take in (1, 2):
        assert frames_of(out / f"take-{take}.mp4").shape == (15, 160, 160, 3)  # the whole picture
        content = read_json(out / f"take-{take}.json")
        assert (content["seed"], content["epsilon"], content["take"]) == (3, 0.5, take)
        assert content["model"] == str(tiny_folder) and len(content["head_pose"]) == 15
    with av.open(str(out / "take-1.mp4")) as container:
        assert [stream.type for stream in container.streams] == ["video", "audio"]
        assert float(container.duration / av.time_base) == pytest.approx(0.6, abs=0.08)
    assert (pose_of(out / "take-1.json") != pose_of(out / "take-2.json")).any()
    assert {path: path.read_bytes() for path in inputs.iterdir()} == before


def test_the_same_seed_gives_the_same_videos(generate, tmp_path):
    first, second, other = (
        generate("-n", "2", "--seed", seed, "--no-sheet", output=tmp_path / name)[0]
        for name, seed in (("a", 5), ("b", 5), ("c", 6))
    )
    for take in ("take-1", "take-2"):
        assert look_alike(first / f"{take}.mp4", second / f"{take}.mp4")
        assert not look_alike(first / f"{take}.mp4", other / f"{take}.mp4")
        assert np.array_equal(pose_of(first / f"{take}.json"), pose_of(second / f"{take}.json"))
        assert (pose_of(first / f"{take}.json") != pose_of(other / f"{take}.json")).any()
    assert names(first) == ["take-1.json", "take-1.mp4", "take-2.json", "take-2.mp4"]


def test_a_seed_that_was_drawn_is_said(generate, tmp_path):
    out, _, stderr = generate("-n", "1", "--no-sheet", output=tmp_path / "first")
    seed = re.search(
        r"^osmnet: The same command with --seed (\d+) makes these videos again\.$", stderr, re.MULTILINE
    ).group(1)
    assert read_json(out / "take-1.json")["seed"] == int(seed)
    again, _, _ = generate("-n", "1", "--no-sheet", "--seed", seed, output=tmp_path / "again")
    assert look_alike(again / "take-1.mp4", out / "take-1.mp4")
    assert np.array_equal(pose_of(again / "take-1.json"), pose_of(out / "take-1.json"))


def test_takes_near_one_are_nearer_and_can_be_made_again(generate, tmp_path):
    first, _, _ = generate("-n", "4", "--seed", "5", "--no-sheet", output=tmp_path / "first")
    poses = [pose_of(first / f"take-{take}.json")[:, :3] for take in range(1, 5)]
    seed = str(read_json(first / "take-1.json")["take_seed"])
    near, _, _ = generate("-n", "2", "--seed", "6", "--near", seed, "--no-sheet", output=tmp_path / "near")
    like = [pose_of(near / f"take-{take}.json")[:, :3] for take in (1, 2)]
    apart = np.mean([np.abs(pose - poses[0]).mean() for pose in poses[1:]])
    assert all(0 < np.abs(pose - poses[0]).mean() < 0.7 * apart for pose in like)
    content = read_json(near / "take-2.json")
    assert content["near"] == [int(seed)]
    again, _, _ = generate(
        "--take-seed", content["take_seed"], "--near", seed, "--no-sheet", output=tmp_path / "again"
    )
    assert np.array_equal(pose_of(again / "take-1.json"), pose_of(near / "take-2.json"))
    generate("--near", seed, "--still", output=tmp_path / "neither", status=2)


def test_epsilon_0_makes_all_takes_alike(generate):
    out, _, _ = generate("-n", "2", "--seed", "1", "--epsilon", "0", "--no-blink")
    assert np.array_equal(pose_of(out / "take-1.json"), pose_of(out / "take-2.json"))
    assert look_alike(out / "take-1.mp4", out / "take-2.mp4")


@pytest.mark.parametrize("size", [128, 75])
def test_crop_and_size(generate, size):
    out, _, _ = generate("-n", "1", "--seed", "1", "--crop", "--size", size)
    height, width = frames_of(out / "take-1.mp4").shape[1:3]
    assert height == width == size + size % 2  # H.264 has even sizes only


@pytest.mark.parametrize(
    "name", ["with space", "quote \" and ' too", "Grüße été 日本 🎬", "-leading dash", "per %d cent", "a,b;c&d$(e)"]
)
def test_paths_of_all_kinds(generate, inputs, tmp_path, monkeypatch, name):
    folder = tmp_path / name
    folder.mkdir()
    (folder / f"{name}.png").write_bytes((inputs / "face.png").read_bytes())
    (folder / f"{name}.wav").write_bytes((inputs / "voice.wav").read_bytes())
    _, stdout, _ = generate(
        *("-n", "1", "--seed", "1"),
        portrait=folder / f"{name}.png",
        speech=folder / f"{name}.wav",
        output=folder / "out" / name,
    )
    assert stdout == [str(folder / "out" / name / file) for file in ("take-1.mp4", "take-1.json", "sheet.png")]
    assert len(frames_of(folder / "out" / name / "take-1.mp4")) == 15


def test_several_faces(generate, tmp_path):
    left, right = portrait(200), np.pad(portrait(160), ((40, 0), (0, 0), (0, 0)), mode="edge")
    Image.fromarray(np.concatenate([left, right], 1)).save(tmp_path / "two.png")
    options = ("-n", "1", "--seed", "1", "--crop", "--size", "96", "--no-sheet")
    out, _, stderr = generate(*options, portrait=tmp_path / "two.png", output=tmp_path / "largest")
    said = [line for line in stderr.splitlines() if line.startswith("osmnet: ")]
    assert said == ["osmnet: The portrait shows 2 faces; the largest is taken (--face N takes another)."]
    assert "Warning" not in stderr and ".py" not in stderr
    for face, same in (("1", True), ("2", False)):
        chosen, _, stderr = generate(*options, "--face", face, portrait=tmp_path / "two.png", output=tmp_path / face)
        assert "osmnet: " not in stderr
        assert look_alike(chosen / "take-1.mp4", out / "take-1.mp4") == same
    # Both are the same woman, in nearly the same square at the same size.
    first, second = (frames_of(tmp_path / face / "take-1.mp4")[0].astype(int) for face in "12")
    assert np.abs(first - second).mean() < 30


def test_controls(generate, tmp_path):
    options = ("-n", "1", "--seed", "1", "--crop", "--size", "64", "--no-sheet")
    poses = {}
    for name, extra in (
        ("plain", ()),
        ("still", ("--still",)),
        ("turned", ("--yaw", "10", "--pitch", "-5", "--roll", "2")),
        ("half", ("--motion-scale", "0.5")),
        ("ball", ("--sampling", "ball")),
    ):
        out, _, _ = generate(*options, *extra, output=tmp_path / name)
        poses[name] = pose_of(out / "take-1.json")
    start = poses["still"][0]
    assert not np.ptp(poses["still"], axis=0).any()
    np.testing.assert_allclose(poses["plain"][0], start, atol=2e-5)
    turn = np.radians([10, -5, 2])
    np.testing.assert_allclose(poses["turned"][:, :3] - poses["plain"][:, :3], np.tile(turn, (15, 1)), atol=3e-5)
    np.testing.assert_allclose(poses["half"] - start, (poses["plain"] - start) / 2, atol=3e-5)
    assert (poses["ball"] != poses["plain"]).any()
    assert read_json(tmp_path / "ball" / "take-1.json")["sampling"] == "ball"


def test_head_motion(generate, inputs, tmp_path):
    first, _, _ = generate("-n", "1", "--seed", "2", "--epsilon", "2", output=tmp_path / "first")
    options = ("-n", "2", "--seed", "9", "--head-motion", first / "take-1.mp4")
    out, _, _ = generate(*options, output=tmp_path / "second")
    taken = pose_of(out / "take-1.json")
    assert np.array_equal(taken, pose_of(out / "take-2.json"))
    assert read_json(out / "take-1.json")["sampling"] == "video"
    wanted = pose_of(first / "take-1.json")
    strongest = int(np.ptp(wanted[:, :3], axis=0).argmax())
    assert np.corrcoef(taken[:, strongest], wanted[:, strongest])[0, 1] > 0.8


def test_the_sound_of_a_video(generate, tmp_path):
    with VideoWriter(tmp_path / "film.mp4", (64, 64), waveform=speech(0.8)) as writer:
        writer.write(np.zeros((20, 64, 64, 3), np.uint8))
    out, _, _ = generate("-n", "1", "--seed", "1", speech=tmp_path / "film.mp4")
    assert 20 <= len(frames_of(out / "take-1.mp4")) <= 22


def test_results_of_an_earlier_run_are_replaced_when_asked(generate):
    first, _, _ = generate("-n", "1", "--seed", "1")
    before = (first / "take-1.mp4").read_bytes()
    (first / "my notes.txt").write_text("kept")
    _, _, stderr = generate("-n", "1", "--seed", "2", status=2)
    assert "holds takes already; add --overwrite to replace, or name another" in stderr and "out-2'" in stderr
    assert (first / "take-1.mp4").read_bytes() == before
    generate("-n", "1", "--seed", "2", "--no-sheet", "--overwrite")
    assert (first / "take-1.mp4").read_bytes() != before
    assert names(first) == ["my notes.txt", "take-1.json", "take-1.mp4"]  # no sheet of other takes


def test_without_a_name_the_takes_get_a_folder_of_their_own(
    generate, inputs, tiny_folder, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    for name in ("out", "out-2"):
        argv = [
            "generate",
            inputs / "face.png",
            inputs / "voice.wav",
            "--model",
            tiny_folder,
            "-n",
            "1",
            "--seed",
            "1",
        ]
        assert cli.main([*map(str, argv), "--no-sheet"]) == 0
        assert capfd.readouterr().out.split() == [f"{name}/take-1.mp4", f"{name}/take-1.json"]


def test_one_take_into_one_file(generate, tmp_path):
    file = tmp_path / "videos" / "me.mp4"
    _, lines, _ = generate("-n", "1", "--seed", "1", output=file)
    assert lines == [str(file)]
    assert names(file.parent) == ["me.mp4"] and len(frames_of(file)) == 15
    before = file.read_bytes()
    _, _, stderr = generate("-n", "1", "--seed", "2", output=file, status=2)
    assert "There is a file" in stderr and file.read_bytes() == before
    generate("-n", "1", "--seed", "2", "--overwrite", output=file)
    assert file.read_bytes() != before


@pytest.mark.parametrize("kind", ["webp", "gif"])
def test_animation(generate, kind):
    out, lines, _ = generate("-n", "1", "--seed", "1", "--no-sheet", "--animation", kind)
    assert [line.rpartition("/")[2] for line in lines] == ["take-1.mp4", "take-1.json", f"take-1.{kind}"]
    with Image.open(out / f"take-1.{kind}") as picture:
        assert picture.n_frames > 5


def test_ctrl_c_keeps_the_takes_that_are_finished(generate, tmp_path, monkeypatch):
    write = BackgroundWriter.write

    def interrupt(self, frames):
        if self.writer.path.name == "take-5.mp4":
            raise KeyboardInterrupt
        write(self, frames)

    with monkeypatch.context() as patch:
        patch.setattr(BackgroundWriter, "write", interrupt)
        out, stdout, stderr = generate("-n", "5", status=130)
    seed = re.search(r"--seed (\d+) makes", stderr)[1]
    assert stdout == [] and "stopped; finished parts are kept, --resume completes the takes" in stderr
    finished = sorted(f"take-{i}.{kind}" for i in range(1, 5) for kind in ("mp4", "json"))
    assert names(out) == [FOLDER_NAME, *finished]
    assert len(frames_of(out / "take-4.mp4")) == 15

    # The same command goes on, with the seed that was drawn.
    before = {i: (out / f"take-{i}.mp4").stat().st_mtime_ns for i in range(1, 5)}
    _, lines, stderr = generate("-n", "5", "--resume")
    assert f"--seed {seed} makes" in stderr and len(lines) == 11
    assert "osmnet: 60 of 75 frames were there already." in stderr
    assert names(out) == sorted([*finished, "sheet.png", "take-5.json", "take-5.mp4"])
    assert {i: (out / f"take-{i}.mp4").stat().st_mtime_ns for i in range(1, 5)} == before
    assert read_json(out / "take-5.json")["seed"] == int(seed)


def test_a_profile_is_said_and_written(generate):
    out, lines, stderr = generate("-n", "1", "--no-sheet", "--profile")
    assert lines[-1] == str(out / "profile.json")
    profile = read_json(out / "profile.json")
    assert profile["frames"] == 15
    assert {"read portrait", "landmarks", "read speech", "motion", "warp", "encode"} <= set(profile["spans"])
    assert all(f"\n{name}" in stderr for name in profile["spans"])


def test_a_real_process(tiny_folder, inputs, tmp_path, subprocess_environment):
    """Nothing that MediaPipe, FFmpeg or any other native code prints gets between the names of the files."""
    Image.fromarray(np.concatenate([portrait(), portrait()], 1)).save(tmp_path / "two.png")
    argv = ["generate", tmp_path / "two.png", inputs / "voice.wav", "-n", "1", "--seed", "1", "--crop", "--size", "64"]
    command = [sys.executable, "-P", "-m", "osmnet", *argv, "--model", tiny_folder, "--output", tmp_path / "out"]
    result = subprocess.run(command, env=subprocess_environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        str(tmp_path / "out" / n) for n in ("take-1.mp4", "take-1.json", "sheet.png")
    ]
    lines = [line for line in result.stderr.replace("\r", "\n").splitlines() if line.strip()]
    assert lines[0].startswith("osmnet: The portrait shows 2 faces")
    assert all(line.startswith(("rendering", "finishing files")) for line in lines[1:]), result.stderr


def test_take_seed_makes_one_take_again(generate, tmp_path):
    both, _, _ = generate("--num-videos", "2", "--seed", "5", "--crop", output=tmp_path / "both")
    second = read_json(both / "take-2.json")
    again, lines, _ = generate("--take-seed", second["take_seed"], "--crop", "--no-sheet", output=tmp_path / "again")
    assert len(lines) == 2
    assert read_json(again / "take-1.json")["head_pose"] == second["head_pose"]
    generate("--take-seed", "1", "--seed", "2", output=tmp_path / "neither", status=2)
    generate("--take-seed", "1", "--num-videos", "4", output=tmp_path / "neither", status=2)


def test_noise_is_said_to_be_no_speech(generate, tmp_path):
    noise = write_wav(
        tmp_path / "noise.wav", 0.1 * np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    )
    _, _, errors = generate("--num-videos", "1", "--crop", speech=noise, output=tmp_path / "noise")
    assert "No speech was found" in errors
    _, _, errors = generate("--num-videos", "1", "--crop")
    assert "No speech was found" not in errors
