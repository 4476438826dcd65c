"""The gallery: which moments it shows, that its commands make what it shows, and its page."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from osmnet.cli import main
from osmnet.cli.generate import build_parser
from osmnet.evaluation.figures.gallery_page import (
    SIZE,
    Setting,
    first_blink,
    liveliest_stretch,
    longest_pause,
    speaking_moments,
)
from osmnet.evaluation.figures.gallery_sheet import Line, draw_sheet
from tests.support.dummies import PORTRAIT, SAMPLING_RATE, speech, write_wav


def test_moments_are_open_and_shut_in_turn_all_over_the_take():
    opening = np.abs(np.sin(np.linspace(0, 12 * np.pi, 400)))
    moments = speaking_moments(opening, 8)
    assert moments == sorted(moments) and [moment // 50 for moment in moments] == list(range(8))
    assert (opening[moments[::2]] > 0.95).all() and (opening[moments[1::2]] < 0.05).all()
    assert len(speaking_moments(opening[:3], 8)) == 3


def test_the_liveliest_stretch_is_where_the_mouth_moves():
    opening = np.zeros(100)
    opening[60:70:2] = 1
    opening[20] = 3  # one jump, further but shorter
    assert 56 <= liveliest_stretch(opening, 14) <= 60
    assert liveliest_stretch(opening[:5], 14) == liveliest_stretch(np.zeros(1), 14) == 0


def test_a_pause_lies_between_words():
    activity = np.ones(100)
    activity[:20] = activity[90:] = 0  # before and after the speech
    activity[40:43] = activity[60:70] = 0
    assert longest_pause(activity, 8) == 61
    activity[22:90] = 1
    assert longest_pause(activity, 8) + 8 <= 22 or longest_pause(activity, 8) >= 88  # none: where it is quietest
    assert longest_pause(np.ones(4), 8) == 0


def test_a_blink_is_shown_whole():
    lids = np.zeros(50)
    lids[[10, 11, 12, 13]] = 0.5, 0.95, 1, 0.5
    start = first_blink(lids, 9)
    assert start <= 9 and start + 9 > 14
    assert first_blink(np.full(50, 0.5), 9) is None
    lids[:] = 0
    lids[48] = 1
    assert first_blink(lids, 9) == 41


def test_a_sheet_shows_every_picture_where_its_line_is():
    colours = [(255, 0, 0), (0, 160, 0), (0, 0, 255)]
    pictures = [np.full((40, 80, 3), colour, np.uint8) for colour in colours]
    turns = np.zeros((50, 3))
    sheet = draw_sheet([
        Line("a", pictures, ["1", "2", "3"], [0, 20, 49], degrees=turns, heard=np.ones(50)),
        Line("b", [], [], [10], opening=np.linspace(0, 1, 50)),
        Line("c", pictures[::-1], ["3", "2", "1"]),
    ])  # fmt: skip
    pixels = np.asarray(sheet).astype(int)
    seen = [np.argwhere(np.abs(pixels - colour).sum(-1) < 9) for colour in colours]
    rows, columns = [where[:, 0] for where in seen], [where[:, 1] for where in seen]
    for where in rows:  # in the first and in the last line
        assert where.min() < 0.3 * sheet.height and where.max() > 0.7 * sheet.height
    assert columns[0].min() == columns[2].min() and columns[0].max() == columns[2].max()  # the other way round there
    assert columns[1].min() > columns[0].min()


@pytest.fixture(scope="module")
def made(tiny_folder, tmp_path_factory):
    """The gallery of a portrait and of a picture without a face, made by the command."""
    folder = tmp_path_factory.mktemp("gallery")
    write_wav(folder / "a voice.wav", speech(1.2))
    Image.new("RGB", (200, 200), "grey").save(folder / "wall.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        arguments = ["--portraits", str(PORTRAIT), "wall.png", "--speech", "a voice.wav", "--seed", "3"]
        assert main(["gallery", "--model", str(tiny_folder), *arguments, "--out", "show/page.md"]) == 0
    return folder / "show"


@pytest.mark.integration
def test_the_page_shows_every_picture_that_was_made(made):
    text = (made / "page.md").read_text(encoding="utf-8")
    linked = re.findall(r"\]\((page/[^)]+)\)", text)
    assert sorted(linked) == sorted(f"page/{path.name}" for path in (made / "page").iterdir())
    assert {"takes", "epsilon", "mouth", "strength", "turns", "still", "whole"} <= {
        name.removeprefix("page/portrait_astronaut-").removesuffix(".jpg") for name in linked
    }
    for name in linked:
        with Image.open(made / name) as picture:
            assert picture.format == "JPEG" and np.asarray(picture.convert("L")).std() > 15
    assert sorted(path.name for path in made.iterdir()) == ["page", "page.md"]  # and nothing half-written


@pytest.mark.integration
def test_the_page_names_what_cannot_be_used_and_nothing_of_this_machine(made):
    text = (made / "page.md").read_text(encoding="utf-8")
    assert "`wall.png` speaks `a voice.wav`" in text and "Not usable: No face was found" in text
    assert str(made.parent) not in text and str(PORTRAIT.parent) not in text


@pytest.mark.integration
def test_the_commands_of_the_page_are_commands(made):
    text = (made / "page.md").read_text(encoding="utf-8")
    own, *commands = [line for block in re.findall(r"```bash\n(.*?)```", text, re.S) for line in block.splitlines()]
    assert own.startswith("osmnet gallery --out show/page.md --portraits portrait_astronaut.jpg wall.png")
    assert own.endswith("--seed 3") and "'a voice.wav'" in own
    options = [build_parser().parse_args(shlex.split(command, comments=True)[2:]) for command in commands]
    assert {each.epsilon for each in options} == {0, 0.5, 1, 2}
    assert all(each.seed == 3 and each.speech.name == "a voice.wav" for each in options)
    assert {each.motion_scale for each in options} == {0.5, 1, 2}
    assert any(each.still and each.yaw == 30 for each in options)
    assert all((each.size == SIZE) == each.crop for each in options) and not all(each.crop for each in options)


@pytest.mark.integration
def test_frames_are_those_of_the_videos_that_its_command_makes(tiny, tmp_path):
    voice = write_wav(tmp_path / "voice.wav", speech(0.8))
    source = tiny.encode_source(PORTRAIT, size=SIZE)
    setting = Setting(tiny, PORTRAIT, source, voice, tiny.encode_speech(voice), seed=5)
    shown = setting.frames(setting.takes(2, motion_scale=0.5), [3, 17], take=1)
    generator = torch.Generator().manual_seed(5)
    videos = tiny(PORTRAIT, voice, num_videos=2, generator=generator, motion_scale=0.5, size=SIZE)
    difference = np.abs(np.stack(shown).astype(int) - videos.frames[1, [3, 17]])
    assert difference.max() <= 2  # chunks of other sizes round otherwise
    assert np.abs(shown[0].astype(int) - shown[1]).mean() > 0.5


@pytest.mark.integration
def test_close_ups_go_along_with_the_head(tiny):
    source, sound = tiny.encode_source(PORTRAIT, full_frame=False), tiny.encode_speech(speech(0.8), SAMPLING_RATE)
    setting = Setting(tiny, PORTRAIT, source, Path("voice.wav"), sound, seed=5)
    anchor_of = lambda output: tiny.face_model.mouth_anchor(output.source.fit.identity)  # noqa: E731
    rolled, still = setting.takes(still=True, roll=17), setting.takes(still=True)
    windows = [setting.close_ups(output, [10], anchor_of(output))[0].astype(float) for output in (rolled, still)]
    frames = [setting.frames(output, [10])[0].astype(float) for output in (rolled, still)]
    assert np.abs(windows[0] - windows[1]).mean() < 0.4 * np.abs(frames[0] - frames[1]).mean()


@pytest.mark.integration
def test_a_gallery_without_a_face_is_refused_and_leaves_no_page(tiny_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (200, 200), "grey").save("wall.png")
    write_wav(tmp_path / "voice.wav", speech(0.5))
    arguments = ["--model", str(tiny_folder), "--out", "page.md", "--portraits", "wall.png", "--speech", "voice.wav"]
    assert main(["gallery", *arguments]) == 2
    assert "No portrait can be used" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "page.md").exists()
