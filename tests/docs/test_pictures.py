"""Pictures in the docs are made by scripts, which still make them."""

import importlib.util
import re

import pytest
from PIL import Image

from osmnet.provenance.verify import verify
from tests.support.dummies import speech, write_wav


@pytest.fixture
def script(repository):
    def load(name: str):
        spec = importlib.util.spec_from_file_location(name, repository / "scripts" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.mark.integration
def test_animation_is_small_labelled_and_signed(script, repository, tiny_folder, tmp_path, capsys):
    path = tmp_path / "takes.webp"
    voice = write_wav(tmp_path / "speech.wav", speech(0.5))
    arguments = ["--model", str(tiny_folder), "--speech", str(voice), "--size", "64", "--frames", "2", "10"]
    assert script("takes_animation").main([*arguments, "--takes", "2", "--output", str(path)]) == 0
    assert capsys.readouterr().out.split() == [str(path)]
    assert verify(path).state == "valid"
    with Image.open(path) as picture:
        assert (picture.size, picture.n_frames) == ((128, 64), 8)
    assert verify(repository / "docs" / "takes.webp").state == "valid"


@pytest.mark.integration
def test_architecture_shows_the_layers_of_the_contract(script, repository, tmp_path):
    path = tmp_path / "architecture.svg"
    assert script("architecture_figure").main(["--output", str(path)]) == 0
    assert path.with_suffix(".png").is_file()

    def words(svg):
        return re.findall(r">([^<>]+)</text>", svg.read_text(encoding="utf-8"))

    assert words(path) == words(repository / "docs" / "architecture.svg")
