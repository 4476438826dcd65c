"""`osmnet push`: model cards, and which files of a folder are sent. Sending itself: tests/loading/test_hub.py."""

import json

import pytest

from osmnet.cli import main, push
from osmnet.pipelines.osm_net.pipeline_osm_net import OSMNetPipeline


def test_a_model_needs_a_card_with_a_licence(tmp_path, capsys):
    (tmp_path / "model_index.json").write_text("{}")
    card = tmp_path / "README.md"
    for text, words in (
        ("# No head", "names a license"),
        ("---\nlicense: other\n---\n", "as LICENSE"),
        ("---\nlicense: [\n---\n", "not YAML"),
    ):
        card.write_text(text)
        assert main(["push", "someone/new", "--model", str(tmp_path)]) == 2
        assert words in capsys.readouterr().err
    card.unlink()
    assert main(["push", "someone/new", "--model", str(tmp_path)]) == 2
    assert "no model card" in capsys.readouterr().err


def test_what_is_no_part_of_the_model_stays(tmp_path):
    """Whatever else lies in the folder: a run's checkpoints, and pictures that the card does not show."""
    mine = ("video_generator/config.json", "video_generator/model.safetensors", "figures/a b.png", "one.jpg")
    others = ("checkpoints/1.safetensors", "optimizer/config.json", "somebody.png", "video_generator/a.pt", "x.task")
    for name in (*mine, *others, "README.md", ".env"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('![A](figures/a b.png) <img src="./one.jpg">' if name == "README.md" else "x")
    sent, kept = push.choose_files(tmp_path)
    assert {file.as_posix() for file in sent} == {*mine, "README.md"}
    assert {file.as_posix() for file in kept} == {*others}


@pytest.mark.integration
def test_the_weights_of_the_package_can_be_sent(repository, capsys):
    folder = repository / "weights_card"
    push.check_card(folder)
    OSMNetPipeline.from_pretrained(folder)
    sent, kept = push.choose_files(folder)
    assert kept == []
    index = json.loads((folder / "model_index.json").read_text())
    parts = [name for name in index if not name.startswith("_") and name != "format_version"]
    names = {file.as_posix() for file in sent}
    assert {f"{name}/config.json" for name in parts} | {"README.md", "LICENSE", "NOTICE"} <= names
