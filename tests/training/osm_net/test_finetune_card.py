"""The model card of a fine-tuned model: terms carried over, nothing private, nothing overwritten."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import metadata_load

from osmnet.cli.push import check_card
from osmnet.loading.packaged import packaged_weights
from osmnet.training.osm_net import finetune_card
from osmnet.training.osm_net.finetune_card import find_card, write_card

CLIPS = [SimpleNamespace(frames=1500, speaker=name) for name in ("ann", "ann", "bob")]


def report(**changes) -> dict:
    stage = {"steps": 6, "figure": "L1", "better": "↓", "before": 0.2, "after": 0.1, "kept": True}
    figure = {"label": "SSIM", "better": "↑", "before": 0.7, "after": 0.8, "digits": 2, "change": "better"}
    base = {"model": "weights of osmnet 1", "dataset": "data", "held_out": ["ann-at-home"], "seconds": 6.0}
    return base | {"stages": {"video": stage}, "figures": [figure]} | changes


@pytest.fixture
def out(tiny_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_folder, tmp_path / "tuned")


def written(out: Path, start: Path, given: str | None = None, **changes) -> tuple[dict, str]:
    write_card(out, report(**changes), given, start, CLIPS[:2], CLIPS[2:])
    return metadata_load(out / "README.md"), (out / "README.md").read_text(encoding="utf-8")


def test_the_packages_terms_go_along(out: Path):
    metadata, text = written(out, find_card(None))
    assert metadata["license"] == "other" and metadata["license_name"] == "non-commercial-research"
    assert metadata["library_name"] == "osmnet" and "fine-tuned" in metadata["tags"]
    assert metadata["pipeline_tag"] == "image-to-video" and "base_model" not in metadata
    for name in ("LICENSE", "NOTICE"):
        assert (out / name).read_bytes() == (packaged_weights() / name).read_bytes()
    assert "2 clips with speech of 1 person, 2.0 minutes;\n1 clip held out" in text
    assert "| SSIM | ↑ | 0.70 | 0.80 | better |" in text and "- video, 6 steps: L1 (↓) 0.200 → 0.100" in text
    assert "non-commercial-research (`LICENSE`)" in text and "ann-at-home" not in text
    check_card(out)


def test_a_model_on_the_hub_is_the_base_model(out: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(finetune_card, "find_folder", lambda model, names: packaged_weights())
    metadata, text = written(out, find_card("someone/model"), "someone/model", model="someone/model@abc")
    assert metadata["base_model"] == "someone/model" and "fine-tuned from someone/model@abc" in text


def test_folders_of_this_machine_are_not_named(out: Path, tmp_path: Path):
    start = tmp_path / "start"
    start.mkdir()
    _, text = written(out, start, str(start), model=str(start), dataset=str(tmp_path))
    assert str(tmp_path) not in text and "fine-tuned from start" in text


@pytest.mark.parametrize("card", [None, "no head", "---\n{: no YAML\n---\n", "---\ntags: [x]\n---\n"])
def test_a_licence_is_never_made_up(out: Path, tmp_path: Path, card: str | None):
    start = tmp_path / "start"
    start.mkdir()
    if card is not None:
        (start / "README.md").write_text(card)
    metadata, text = written(out, start, str(start))
    assert "license" not in metadata and "names no licence. State one" in text
    with pytest.raises(ValueError, match="license"):
        check_card(out)


def test_a_card_that_somebody_changed_stays(out: Path):
    _, first = written(out, packaged_weights())
    assert written(out, packaged_weights(), seconds=3.0)[1] != first
    own = first.replace(finetune_card.MADE, "My words.")
    (out / "README.md").write_text(own, encoding="utf-8")
    assert written(out, packaged_weights())[1] == own
