"""Paths that no file can have, in Python and on the command line."""

import numpy as np
import pytest
from PIL import Image

from osmnet.cli import main
from osmnet.media.animation import write_animation
from osmnet.media.audio import load_speech
from osmnet.media.image import load_portrait
from osmnet.media.video_writer import VideoWriter
from osmnet.pipelines.osm_net.pipeline_osm_net import OSMNetPipeline
from osmnet.provenance.manifest import sign
from osmnet.provenance.verify import verify
from osmnet.takes.sheet import contact_sheet

FRAMES = np.zeros((2, 8, 8, 3), np.uint8)
USES = {
    "portrait": load_portrait,
    "speech": load_speech,
    "save": lambda path: OSMNetPipeline.tiny().save_pretrained(path),
    "load": OSMNetPipeline.from_pretrained,
    "sign": sign,
    "verify": verify,
    "animation": lambda path: write_animation(path, FRAMES),
    "video": lambda path: VideoWriter(path, (8, 8)),
    "sheet": lambda path: contact_sheet([FRAMES], [0.0, 1.0], np.zeros((1, 50, 6)), path),
}


@pytest.mark.parametrize("use", USES)
def test_every_function_that_takes_a_path_refuses_them(use, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="cannot be .*, which no file system can hold"):
        USES[use](f"{'a' * 300}.webp")
    assert list(tmp_path.iterdir()) == []


def test_trust_anchors_are_a_path(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="trust_anchors must be a path, not int"):
        verify(tmp_path / "a.png", 3)


@pytest.mark.parametrize("path", ["a\0b.mp4", "a" * 300])
@pytest.mark.parametrize(
    "command", ["generate {} voice.wav", "verify {}", "prepare {} --out set", "prepare a --out {}"]
)
def test_commands_refuse_them(command, path, capsys):
    argv = [path if word == "{}" else word for word in command.split()]
    assert main(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("osmnet: The path '") and line.isprintable() and len(line) < 220
