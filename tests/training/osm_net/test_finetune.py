"""Fine-tuning: what is trained, what stays, and what is said about it; on a made-up speaker and a tiny model."""

import math
import shutil

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from osmnet import OSMNetPipeline
from osmnet.cli import main
from osmnet.cli.train import main as train
from osmnet.evaluation.protocol import STRIP_SIDE, ClipResult
from osmnet.loading.model import WEIGHTS_NAME
from osmnet.training.core.processes import Stopped
from osmnet.training.osm_net import finetune_report
from osmnet.training.osm_net.finetune import FinetuneConfig, load_configs
from osmnet.utils.files import only_run_in
from osmnet.utils.marked import read_marked
from tests.support.dummies import edit_tensors, read_json

pytest.importorskip("accelerate")

FAST = [
    "evaluate_clips=1", "evaluate_seconds=1", "expression.frames=20", "expression.batch_size=4", "video.batch_size=2",
    "video.min_size=64", "expression.amplitude=0", "audio-motion.batch_size=8",
]  # fmt: skip


def finetune(data, model, out, *settings, options=()) -> int:
    arguments = ["train", "finetune", "--data", str(data), "--model", str(model), "--out", str(out)]
    return main([*arguments, *options, *(part for each in [*FAST, *settings] for part in ("--set", each))])


def weights(folder, component) -> dict:
    return load_file(folder / component / WEIGHTS_NAME)


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all((a[name] == b[name]).all() for name in a)


LEARN = ["expression.steps=60", "expression.learning_rate=1e-2", "expression.warm_up=5"]


@pytest.fixture(scope="module")
def start(tiny_folder, tmp_path_factory):
    """A model whose lips know nothing, and whose video generator paints nothing: two steps do not better it."""
    folder = tmp_path_factory.mktemp("start") / "model"
    shutil.copytree(tiny_folder, folder)

    def close_mask(state):
        state["conv_out.weight"].zero_()
        state["conv_out.bias"].fill_(-30)

    edit_tensors(folder, close_mask, "video_generator")
    return folder


@pytest.fixture(scope="module")
def tuned(dataset_folder, start, tmp_path_factory):
    """Lips learn from a speaker whose mouth follows the loudness, motion from its head; video learns nothing."""
    out = tmp_path_factory.mktemp("tuned") / "model"
    motion = ["audio-motion.steps=20", "audio-motion.learning_rate=1e-2"]
    settings = [*LEARN, *motion, "video.steps=2", "video.learning_rate=1e-2", "stages=expression,video,motion"]
    page = out.with_name("page.md")
    page.write_text("<!-- fine-tuning: x -->\n<!-- /fine-tuning -->\n")
    assert finetune(dataset_folder, start, out, *settings, options=["--page", str(page)]) == 0
    return out, read_json(out / "finetune.json")


def test_a_stage_that_helps_is_kept_and_one_that_does_not_is_undone(tuned, start):
    out, report = tuned
    lips, video, motion = (report["stages"][name] for name in ("expression", "video", "motion"))
    assert lips["kept"] and lips["after"] > lips["before"] + 0.3
    assert motion["kept"] and motion["after"] < motion["before"]
    assert not video["kept"] and video["after"] >= video["before"]
    # The bases stay, so that epsilon keeps its meaning; the video generator is that from before.
    components = OSMNetPipeline.from_pretrained(start).components
    changed = {name for name in components if not same(weights(out, name), weights(start, name))}
    assert changed == {"expression_extractor", "audio_motion_encoder"}


def test_the_result_is_a_pipeline_and_the_report_says_what_changed(tuned, start):
    out, report = tuned
    assert OSMNetPipeline.from_pretrained(out).name == str(out)
    text = (out / "finetune.md").read_text(encoding="utf-8")
    assert "NOT BETTER" in text.split("- video")[1].split("\n")[0]
    assert "kept" in text.split("- expression")[1].split("\n")[0]
    assert str(start) in text and report["held_out"][0] in text
    assert text.endswith(read_marked(out.with_name("page.md"), "fine-tuning") + "\n")
    rows = {(row["method"], row["metric"]): row for row in report["figures"]}
    opening = rows["ours", "opening_correlation"]
    assert opening["after"] > opening["before"] and opening["change"] == "better"
    # With true motion only the video generator counts, and that has not changed.
    assert all(row["change"] == "same" for (method, _), row in rows.items() if method == "oracle")
    lines = text.splitlines()
    for change in ("better", "worse"):
        said = next(
            line for line in lines if line.startswith((f"{change.capitalize()} than", f"No figure is {change}"))
        )
        labels = said.partition(": ")[2].rstrip(".").split("; ")
        assert [label for label in labels if label] == [r["label"] for r in report["figures"] if r["change"] == change]
    with Image.open(out / "finetune.png") as picture:
        assert picture.height == 3 * STRIP_SIDE + 14  # real, before, after


def test_a_finished_run_that_is_started_again_ends_with_the_same_weights(tuned, dataset_folder, start, monkeypatch):
    out, _ = tuned
    first = weights(out, "expression_extractor")
    checkpoints = sorted((out / "work" / "expression").glob("checkpoint-*"))
    strips = dict.fromkeys(("real", "ours"), np.zeros((6, STRIP_SIDE, STRIP_SIDE, 3), np.uint8))
    measured = ClipResult("clip", 1.0, {name: {} for name in ("ours", "oracle", "real")}, {}, strips, {})
    monkeypatch.setattr("osmnet.training.osm_net.finetune.evaluate_clip", lambda *_: measured)  # that takes long
    assert finetune(dataset_folder, start, out, *LEARN, "stages=expression") == 0
    assert same(weights(out, "expression_extractor"), first)
    assert sorted((out / "work" / "expression").glob("checkpoint-*")) == checkpoints
    assert list(read_json(out / "finetune.json")["stages"]) == ["expression"]


def result(name="clip", **figures) -> ClipResult:
    metrics = {"ours": {}, "static": {}, "oracle": {}, "real": {"silence_motion": 2.0}}
    metrics["ours"] |= figures
    return ClipResult(name, 2.0, metrics, {}, {}, {})


def changes(before: dict, after: dict) -> dict[str, str]:
    return {row["metric"]: row["change"] for row in finetune_report.compare([result(**before)], [result(**after)])}


def test_each_figure_knows_which_way_is_better():
    before = {"ssim": 0.70, "lmd_mouth_px": 4.0, "amplitude": 0.5, "silence_motion": 1.0}
    assert changes(before, {"ssim": 0.71, "lmd_mouth_px": 3.0, "amplitude": 1.2, "silence_motion": 2.2}) == {
        "ssim": "better", "lmd_mouth_px": "better", "amplitude": "better", "silence_motion": "better",
    }  # fmt: skip
    assert changes(before, {"ssim": 0.69, "lmd_mouth_px": 5.0, "amplitude": 3.0, "silence_motion": 4.0}) == {
        "ssim": "worse", "lmd_mouth_px": "worse", "amplitude": "worse", "silence_motion": "worse",
    }  # fmt: skip
    assert set(changes(before, before | {"ssim": 0.70001}).values()) == {"same"}


def test_only_clips_and_figures_that_are_there_both_times_count():
    before = [result("a", ssim=0.5, psnr=20.0), result("b", ssim=0.9)]
    after = [result("a", ssim=0.6, psnr=math.nan), result("c", ssim=0.1)]
    (row,) = finetune_report.compare(before, after)
    assert (row["metric"], row["before"], row["after"]) == ("ssim", 0.5, 0.6)


def test_the_packaged_configuration_has_small_steps_and_loses_no_setting():
    config, stages = load_configs("finetune", ["video.weights.rec=2", "evaluate_seconds=3", "stages=video,motion"])
    assert config.stages == ("video", "motion") and config.evaluate_seconds == 3.0
    assert stages["video"][0].weights["rec"] == 2.0 and stages["video"][0].weights["feature"] > 0
    _, stages = load_configs("finetune", [])
    assert [len(each) for each in stages.values()] == [1, 1]
    for stage in stages.values():
        default = type(stage[0])()
        assert stage[0].steps < default.steps and stage[0].learning_rate < default.learning_rate


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["stages=lips"], "not 'lips'"),
        (["split=half"], "split must be"),
        (["expression.wieghts.l2=1"], "no setting 'wieghts'"),
        (["colour=red"], "no setting 'colour'"),
        (["evaluate_seconds=0"], "evaluate_seconds"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_made(
    settings, sentence, dataset_folder, tiny_folder, tmp_path, capsys
):
    assert finetune(dataset_folder, tiny_folder, tmp_path / "out", *settings) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_several_processes_are_refused(dataset_folder, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="finetune runs in one process; start it with `osmnet train finetune`"):
        train(["finetune", "--data", str(dataset_folder), "--model", str(tiny_folder), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_a_run_goes_on_with_its_own_clips_and_weights_alone(talking, dataset_folder, start, tmp_path, capsys):
    """Held-out clips are every fifth: with another clip among them, some would be judged by that were trained on."""
    from tests.support.clips import dataset_of

    def tune(data, model, out):
        settings = ["expression.steps=2", "stages=expression"]
        status = finetune(data, model, out, *settings)
        return status, capsys.readouterr().err

    out = tmp_path / "out"
    assert tune(dataset_folder, start, out)[0] == 0
    moved = out.rename(tmp_path / "moved")
    status, said = tune(dataset_folder, start, moved)
    assert status == 0 and "going on from" in said
    others = dataset_of(talking, tmp_path / "set", ("ann-voice", "ann-voice-2", "bob"))
    status, said = tune(others, start, moved)
    assert status == 2 and "belongs to another dataset; delete it to train anew, or give another folder" in said
    other = tmp_path / "other"
    shutil.copytree(start, other)
    edit_tensors(other, lambda state: [value.mul_(1.01) for value in state.values()], "expression_extractor")
    status, said = tune(dataset_folder, other, moved)
    assert status == 2 and "belongs to another starting model" in said
    with only_run_in(moved / "work"):
        status, said = tune(dataset_folder, start, moved)
    assert status == 2 and "Another run is at work" in said


@pytest.mark.parametrize(
    "stop", [KeyboardInterrupt(), Stopped("stopped after step 3; run the same command again to go on", 2)]
)
def test_who_stops_it_is_told_how_to_go_on(monkeypatch, capsys, stop):
    def stopped(_):
        raise stop

    monkeypatch.setattr("osmnet.cli.finetune.main", stopped)
    assert main(["train", "finetune"]) == 130
    assert capsys.readouterr().err.endswith("run the same command again to go on.\n")


def test_nobody_to_judge_by_is_refused(talking, tiny_folder, tmp_path, capsys):
    from tests.support.clips import dataset_of

    data = dataset_of(talking, tmp_path / "set", ("ann-voice", "bob-voice"))
    assert finetune(data, tiny_folder, tmp_path / "out", "split=speaker") == 2
    assert "No speaker in" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_one_clip_is_not_enough(talking, tiny_folder, tmp_path, capsys):
    from tests.support.clips import dataset_of

    data = dataset_of(talking, tmp_path / "set", ("ann-voice",))
    assert finetune(data, tiny_folder, tmp_path / "out") == 2
    assert "single clip" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_settings_of_the_whole_are_checked():
    with pytest.raises(ValueError, match="at least one"):
        FinetuneConfig(stages=())
    with pytest.raises(ValueError, match="evaluate_clips"):
        FinetuneConfig(evaluate_clips=0)
    assert np.isfinite(FinetuneConfig().evaluate_seconds)
