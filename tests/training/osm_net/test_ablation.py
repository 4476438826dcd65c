"""The ablation: what each variant trains and what it takes over, resuming, and the table."""

import json
import shutil

import pytest
from safetensors.torch import load_file

from osmnet import OSMNetPipeline
from osmnet.cli import main
from osmnet.evaluation.summary import METRICS
from osmnet.loading.model import WEIGHTS_NAME
from osmnet.training.osm_net import ablation
from osmnet.utils.marked import read_marked
from tests.support.dummies import read_json

pytest.importorskip("accelerate")

TINY = """
evaluation: {clips: 1, quick: true, takes: 2}
shared:
  motion: {steps: 2, batch_size: 8, num_bases: 6, motion_dim: 16, hidden_dim: 16}
  audio-motion: {steps: 2, batch_size: 8, hidden_dim: 16}
  expression: {steps: 2, batch_size: 2, frames: 20, hidden_dim: 16, context_layers: 2, dropout: 0, amplitude: 0}
  video: {steps: 1, batch_size: 2, image_size: 32, base_channels: 4, min_size: 64, adversarial_from: 9}
variants:
  full: {title: Ours}
  without-ldmk: {title: w/o L_ldmk, expression: {weights: {ldmk: 0}}}
  without-window: {title: w/o WF, video: {window: 1}}
  without-clip: {title: w/o Clip, motion: {clip_length: 2}}
  geometry-none: {video: {geometry: none, image_size: 64, weights: {rec: 1}}}
  ball: {title: sampling ball, sampling: ball}
"""
COMPONENTS = set(OSMNetPipeline.components_classes)
MOTION = {"motion_encoder", "motion_space", "motion_decoder", "audio_motion_encoder"}
TRAINED = {
    "full": COMPONENTS - {"face_model"},
    "without-ldmk": {"expression_extractor"},
    "without-window": {"video_generator"},
    "without-clip": MOTION,
    "geometry-none": {"video_generator"},
    "ball": set(),
}


class FakeEvaluate:
    """In place of the protocol, which has tests of its own and takes minutes: figures that tell the variants apart."""

    def __init__(self):
        self.calls = []

    def __call__(self, data, out, *, model, sampling, **options):
        pipe = OSMNetPipeline.from_pretrained(model)  # every variant is a whole model
        self.calls.append((out.parent.name, sampling, options))
        ours = {"ssim": 0.8 if pipe.video_generator.config.window == 17 else 0.7, "lmd_mouth_px": 3.131, "lse_c": None}
        takes = {"epsilon": 1.0, "jerk_ratio": 5 / pipe.motion_decoder.config.clip_length, "pairwise": 2.0}
        report = {
            "mean_by_length": {"ours": ours | {"psnr_face": 1.0}, "oracle": {"ssim": 0.9}},
            "clips": [{}],
            "motion": {"by_epsilon": [{"epsilon": 0.0, "jerk_ratio": 9.0}, takes]},
        }
        out.mkdir(parents=True)
        (out / "report.json").write_text(json.dumps(report))
        return report


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def ablated(dataset_folder, config, tmp_path_factory):
    out = tmp_path_factory.mktemp("ablation") / "out"
    fake = FakeEvaluate()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ablation, "evaluate", fake)
        page = out.with_name("page.md")
        page.write_text("# Page\n<!-- ablation: x -->\n<!-- /ablation -->\n")
        arguments = ["--data", str(dataset_folder), "--out", str(out), "--page", str(page)]
        assert main(["evaluate", "--ablate", str(config), *arguments]) == 0
    return out, fake.calls


def weights(out, variant, component) -> dict:
    return load_file(out / "variants" / variant / "model" / component / WEIGHTS_NAME)


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(a[k].shape == b[k].shape and (a[k] == b[k]).all() for k in a)


@pytest.mark.integration
@pytest.mark.parametrize("variant", [name for name in TRAINED if name != "full"])
def test_a_variant_differs_from_the_full_model_in_what_it_changes_alone(ablated, variant):
    out, _ = ablated
    different = {c for c in COMPONENTS if not same(weights(out, variant, c), weights(out, "full", c))}
    assert different == TRAINED[variant]


@pytest.mark.integration
def test_the_variants_are_those_of_the_configuration(ablated):
    out, calls = ablated
    load = lambda name: OSMNetPipeline.from_pretrained(out / "variants" / name / "model")  # noqa: E731
    assert load("full").video_generator.config.window == 17
    assert load("without-window").video_generator.config.window == 1
    assert load("without-clip").motion_decoder.config.clip_length == 2
    assert load("geometry-none").video_generator.config.geometry == "none"
    assert [(name, sampling) for name, sampling, _ in calls] == [
        (name, "ball" if name == "ball" else "span") for name in TRAINED
    ]
    wanted = {"clips": 1, "quick": True, "takes": 2, "split_by": "speaker"}
    assert all(wanted.items() <= options.items() for *_, options in calls)


@pytest.mark.integration
def test_the_table_has_a_row_for_each_variant_and_the_budget(ablated):
    out, _ = ablated
    result = read_json(out / "ablation.json")
    assert [row["variant"] for row in result["rows"]] == list(TRAINED) and result["missing"] == []
    assert result["budget"] == {"motion": [2, 2], "expression": [2], "video": [1]}
    rows = {row["variant"]: row for row in result["rows"]}
    assert rows["without-window"]["metrics"] == {"ours.ssim": 0.7, "ours.lmd_mouth_px": 3.131}
    assert rows["without-clip"]["motion"]["jerk_ratio"] == 2.5  # at ε = 1, not at 0
    assert rows["without-ldmk"]["steps"] == {"expression": [2]} and rows["ball"]["steps"] == {}
    assert rows["ball"]["changes"] == {"sampling": "ball"}
    markdown, html = ((out / f"ablation.{ending}").read_text() for ending in ("md", "html"))
    assert "| w/o WF | 0.700 | 3.13 | 2.50 |" not in markdown  # the jerk of w/o Clip is not its
    assert "| w/o WF | 0.700 | 3.13 | 1.00 |" in markdown
    assert "| w/o Clip | 0.800 | 3.13 | 2.50 |" in markdown
    assert "LSE-C" not in markdown.splitlines()[0]  # no weights of SyncNet were given
    for text in (markdown, html):
        assert "motion 2 + 2, expression 2, video 1" in text
    assert html.count("<tr>") == len(TRAINED) + 1


@pytest.mark.integration
def test_the_table_is_put_into_a_page(ablated):
    out, _ = ablated
    assert read_marked(out.with_name("page.md"), "ablation") == (out / "ablation.md").read_text().strip()
    assert read_json(out.with_name("ablation.json")) == read_json(out / "ablation.json")


@pytest.mark.integration
def test_what_is_done_is_not_done_again_and_what_is_missing_is(ablated, dataset_folder, config, tmp_path, monkeypatch):
    out = tmp_path / "out"
    shutil.copytree(ablated[0], out)
    shutil.rmtree(out / "variants" / "ball")
    shutil.rmtree(out / "variants" / "without-ldmk" / "report")
    before = {path: path.stat().st_mtime_ns for path in out.glob(f"variants/*/model/*/{WEIGHTS_NAME}")}
    fake = FakeEvaluate()
    monkeypatch.setattr(ablation, "evaluate", fake)
    result = ablation.ablate(dataset_folder, out, ablation.load_ablation(str(config)))
    assert [name for name, *_ in fake.calls] == ["without-ldmk", "ball"]
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert result == read_json(ablated[0] / "ablation.json")


@pytest.mark.integration
def test_a_folder_of_another_budget_is_refused(ablated, dataset_folder, config, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    shutil.copytree(ablated[0], out)
    other = tmp_path / "other.yaml"
    other.write_text(TINY.replace("video: {steps: 1", "video: {steps: 2"))
    monkeypatch.setattr(ablation, "evaluate", FakeEvaluate())
    arguments = ["evaluate", "--ablate", str(other), "--data", str(dataset_folder), "--out", str(out)]
    assert main(arguments) == 2
    assert "with other settings" in capsys.readouterr().err


def test_a_dataset_without_anyone_to_train_on_is_refused_before_anything_is_made(talking, config, tmp_path, capsys):
    from tests.support.clips import dataset_of

    data = dataset_of(talking, tmp_path / "set", ("opentalker-face-1",))  # held out by name
    assert main(["evaluate", "--ablate", str(config), "--data", str(data), "--out", str(tmp_path / "out")]) == 2
    assert "held out by name" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("full: {title: Ours}", "full: {video: {window: 1}}"), "changes nothing"),
        (("sampling: ball}", "sampling: cube}"), "span or ball"),
        (("video: {window: 1}", "picture: {window: 1}"), "'picture' is not a section"),
        (("video: {window: 1}", "video: {windows: 1}"), "without-window"),
        (("clips: 1", "clips: many"), "evaluation takes"),
        (("clips: 1", "split: half"), "speaker or clip"),
        (("shared:", "common:"), "must hold the sections"),
        (("shared:", "shared: [", ), "not valid YAML"),
    ],
)  # fmt: skip
def test_a_wrong_configuration_is_refused_before_anything_is_trained(
    change, sentence, dataset_folder, tmp_path, capsys
):
    path = tmp_path / "wrong.yaml"
    path.write_text(TINY.replace(*change))
    arguments = ["--data", str(dataset_folder), "--out", str(tmp_path / "out")]
    assert main(["evaluate", "--ablate", str(path), *arguments]) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_packaged_configuration_has_the_papers_rows_and_known_settings():
    config = ablation.load_ablation("ablation")
    titles = [variant.title for variant in config.variants]
    assert {"Ours", "w/o L_ldmk", "w/o WF", "w/o Clip", "geometry none", "sampling ball"} <= set(titles)
    for variant in config.variants:
        stages = ablation._stage_configs(config, variant)
        assert stages["video"]["video"].window == (1 if variant.title == "w/o WF" else 17)
        assert stages["motion"]["motion"].clip_length == (2 if variant.title == "w/o Clip" else 5)
        assert (stages["expression"]["expression"].weights["ldmk"] == 0) == ("L_ldmk" in variant.title)
        assert stages["expression"]["expression"].weights["l2"] == 1
    assert {name for _, name in ablation.COLUMNS} <= {metric.name for metric in METRICS}
