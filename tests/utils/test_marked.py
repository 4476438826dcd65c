"""Tables between marks: what is made anew, what stays, and what is refused; and the shipped pages."""

import json

import pytest

from osmnet.cli import main
from osmnet.evaluation.evaluation_report import markdown
from osmnet.evaluation.figures.gallery_page import FINGERPRINT
from osmnet.loading.fingerprint import weights_fingerprint
from osmnet.pipelines.osm_net.pipeline_osm_net import OSMNetPipeline
from osmnet.utils.marked import read_marked, write_marked

PAGE = (
    "# Häder\n\n<!-- evaluation: made by osmnet -->\nold\n\n| a |\n<!-- /evaluation -->\n\nrest  \n<!-- speed: x -->\n"
)


def test_only_what_stands_between_the_marks_changes(tmp_path):
    page = tmp_path / "README.md"
    page.write_text(PAGE, encoding="utf-8")
    assert read_marked(page, "evaluation") == "old\n\n| a |"
    for table in ("| new | \\1 |\n\nnote — é\n", "shorter"):
        write_marked(page, "evaluation", table)
        assert read_marked(page, "evaluation") == table.strip()
    before, after = PAGE.split("old\n\n| a |")
    assert page.read_text(encoding="utf-8") == before + "shorter" + after
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        PAGE.replace("<!-- /evaluation -->", ""),
        PAGE.replace("<!-- evaluation: made by osmnet -->", ""),
        PAGE + PAGE,
        "<!-- /evaluation -->\n<!-- evaluation: made by osmnet -->\n",
        PAGE.replace("evaluation", "ablation"),
    ],
)
def test_a_page_without_one_place_for_the_table_is_refused_and_stays(text, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="no place for this table"):
        write_marked(page, "evaluation", "| new |")
    assert page.read_text(encoding="utf-8") == text


@pytest.mark.integration
@pytest.mark.parametrize("command", [["evaluate"], ["evaluate", "--ablate"], ["train", "finetune"]])
def test_commands_look_for_the_place_before_they_do_anything(command, dataset_folder, tmp_path, capsys):
    page, out = tmp_path / "page.md", tmp_path / "out"
    page.write_text("no marks")
    command = [*command, "--data", str(dataset_folder), "--out", str(out)]
    assert main([*command, "--page", str(page)]) == 2
    assert "no place for this table" in capsys.readouterr().err
    assert main([*command, "--page", str(tmp_path / "nowhere.md")]) == 2
    assert "cannot be read" in capsys.readouterr().err
    assert not out.exists()


@pytest.fixture(scope="module")
def fingerprint() -> str:
    return weights_fingerprint(OSMNetPipeline.from_pretrained().components)


@pytest.mark.integration
def test_the_model_card_shows_the_report_beside_it_and_that_is_of_the_weights_beside_it(repository, fingerprint):
    report = json.loads((repository / "weights_card" / "evaluation.json").read_text(encoding="utf-8"))
    assert read_marked(repository / "weights_card" / "README.md", "evaluation") == markdown(report).strip()
    assert report["model"]["fingerprint"] == fingerprint, "make it anew: docs/evaluation.md says how"
    assert report["settings"]["split"] == "held-out" and not report["settings"]["quick"]


@pytest.mark.integration
def test_the_gallery_is_of_the_shipped_weights_and_small_enough_to_be_committed(repository, fingerprint):
    page, folder = repository / "docs" / "gallery.md", repository / "docs" / "gallery"
    text = page.read_text(encoding="utf-8")
    assert FINGERPRINT.format(fingerprint) in text, "make it anew: osmnet gallery --out docs/gallery.md"
    pictures = sorted(folder.iterdir())
    assert all(f"(gallery/{path.name})" in text for path in pictures) and text.count("](gallery/") == len(pictures)
    assert sum(path.stat().st_size for path in pictures) < 1.5e6
    examples = {path.stem for path in (repository / "examples").glob("portrait_*.jpg")}
    assert {path.stem.rsplit("-", 1)[0] for path in pictures} == examples  # no other faces are published
