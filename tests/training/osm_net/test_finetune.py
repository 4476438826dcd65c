"""Fine-tuning: what is trained, kept and reported; on a made-up speaker and a tiny model."""

import math
import shutil
import subprocess

import numpy as np
import pytest
from huggingface_hub import metadata_load
from PIL import Image
from safetensors.torch import load_file

from osmnet import OSMNetPipeline
from osmnet.cli import main
from osmnet.cli.push import check_card, choose_files
from osmnet.evaluation.protocol import STRIP_SIDE, ClipResult
from osmnet.loading.model import WEIGHTS_NAME
from osmnet.loading.packaged import packaged_weights
from osmnet.training.osm_net import finetune_report
from osmnet.training.osm_net.finetune import FinetuneConfig, load_configs
from osmnet.utils.files import only_run_in
from osmnet.utils.marked import read_marked
from tests.support import quick_finetune
from tests.support.clips import dataset_of
from tests.support.dummies import edit_tensors, read_json
from tests.support.launch import two_processes

FAST = [
    "evaluate_clips=1", "evaluate_seconds=1", "expression.frames=20", "expression.batch_size=4", "video.batch_size=2",
    "video.min_size=64", "expression.amplitude=0", "audio-motion.batch_size=8",
]  # fmt: skip
LEARN = ["expression.steps=60", "expression.learning_rate=1e-2", "expression.warm_up=5"]


def arguments(data, model, out, *settings) -> list[str]:
    folders = ["--data", str(data), "--model", str(model), "--out", str(out)]
    return ["finetune", *folders, *(part for each in [*FAST, *settings] for part in ("--set", each))]


def finetune(data, model, out, *settings, options=()) -> int:
    return main(["train", *arguments(data, model, out, *settings), *options])


def weights(folder, component) -> dict:
    return load_file(folder / component / WEIGHTS_NAME)


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all((a[name] == b[name]).all() for name in a)


@pytest.fixture(scope="module")
def start(tiny_folder, tmp_path_factory):
    """A model with untrained lips, and a video generator that paints nothing, which two steps do not improve."""
    folder = tmp_path_factory.mktemp("start") / "model"
    shutil.copytree(tiny_folder, folder)
    for name in ("README.md", "LICENSE", "NOTICE"):
        shutil.copy(packaged_weights() / name, folder / name)

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


@pytest.fixture
def quick_protocol(monkeypatch):
    """Skip the evaluation, which takes seconds."""
    monkeypatch.setattr("osmnet.training.osm_net.finetune.evaluate_clip", quick_finetune.no_figures)


@pytest.mark.integration
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


@pytest.mark.integration
def test_the_result_is_a_pipeline_with_a_report_of_the_changes(tuned, start):
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


@pytest.mark.integration
def test_the_result_has_a_model_card_and_can_be_pushed(tuned, start, capsys):
    out, report = tuned
    metadata = metadata_load(out / "README.md")
    assert {name: metadata[name] for name in ("license", "license_name", "license_link")} == {
        "license": "other", "license_name": "non-commercial-research", "license_link": "LICENSE",
    }  # fmt: skip
    card = (out / "README.md").read_text(encoding="utf-8")
    assert finetune_report.figure_table(report) in card and finetune_report.stage_lines(report) in card
    assert str(start.parent) not in card and report["held_out"][0] not in card  # no paths, no names of people
    for name in ("LICENSE", "NOTICE"):
        assert (out / name).read_bytes() == (start / name).read_bytes()
    check_card(out)
    sent, kept = (set(map(str, files)) for files in choose_files(out))
    assert {"README.md", "LICENSE", "NOTICE", "model_index.json", "face_landmarker.task"} < sent
    assert "finetune.png" in kept  # frames of the clips
    assert not any(name.startswith("work/") for name in sent)
    assert main(["push", "someone/tuned", "--model", str(out)]) == 0
    assert "Nothing was sent" in capsys.readouterr().err


@pytest.mark.integration
def test_two_processes_fine_tune_and_resume_with_equal_weights(
    dataset_folder, start, tmp_path, subprocess_environment
):
    launch, environment = two_processes(subprocess_environment)

    out = tmp_path / "out"
    settings = [
        "expression.steps=6", "expression.checkpoint_every=2", "stages=expression", "expression.keep_checkpoints=9",
        "expression.learning_rate=1e-2",
    ]  # fmt: skip
    command = [*launch, quick_finetune.__file__, *arguments(dataset_folder, start, out, *settings)]

    def tune():
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)

    done = tune()
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("# Fine-tuned from") == 1  # the main process reports
    first = weights(out, "expression_extractor")
    assert read_json(out / "finetune.json")["stages"]["expression"]["kept"]
    assert not same(first, weights(start, "expression_extractor"))
    # As a run that was killed after step 2 leaves it.
    for step in (4, 6):
        shutil.rmtree(out / "work" / "expression" / f"checkpoint-{step:06d}")
    shutil.rmtree(out / "expression_extractor")
    done = tune()
    assert done.returncode == 0 and "resuming from" in done.stderr, done.stderr
    assert same(weights(out, "expression_extractor"), first)
    # What the main process refuses, it reports once, and nobody waits for it.
    with only_run_in(out / "work"):
        done = tune()
    assert done.returncode != 0 and done.stderr.count("osmnet: ") == 1 and "Another run is at work" in done.stderr


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


@pytest.mark.integration
def test_a_finished_run_that_is_started_again_ends_with_the_same_weights(
    dataset_folder, start, tmp_path, quick_protocol
):
    out, settings = tmp_path / "out", ["expression.steps=4", "expression.learning_rate=1e-2", "stages=expression"]
    assert finetune(dataset_folder, start, out, *settings) == 0
    first, checkpoints = weights(out, "expression_extractor"), sorted((out / "work").rglob("checkpoint-*"))
    assert finetune(dataset_folder, start, out, *settings) == 0
    assert same(weights(out, "expression_extractor"), first)
    assert sorted((out / "work").rglob("checkpoint-*")) == checkpoints
    assert list(read_json(out / "finetune.json")["stages"]) == ["expression"]


def test_the_packaged_configuration_has_small_steps_and_loses_no_setting():
    config, stages = load_configs("finetune", ["video.weights.rec=2", "evaluate_seconds=3", "stages=video,motion"])
    assert config.stages == ("video", "motion") and config.evaluate_seconds == 3.0
    assert stages["video"]["video"].weights["rec"] == 2.0 and stages["video"]["video"].weights["feature"] > 0
    _, stages = load_configs("finetune", [])
    assert [len(each) for each in stages.values()] == [1, 1]
    for stage, configs in stages.items():
        config, default = configs[stage], type(configs[stage])()
        assert config.steps < default.steps and config.learning_rate < default.learning_rate


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


@pytest.mark.integration
def test_a_run_resumes_with_its_own_clips_and_weights_alone(
    talking, dataset_folder, start, tmp_path, capsys, quick_protocol
):
    """Held-out clips are every fifth: with one clip more, some of them would have been trained on."""

    def tune(data, model, out):
        settings = ["expression.steps=2", "stages=expression"]
        status = finetune(data, model, out, *settings)
        return status, capsys.readouterr().err

    out = tmp_path / "out"
    assert tune(dataset_folder, start, out)[0] == 0
    moved = out.rename(tmp_path / "moved")
    status, said = tune(dataset_folder, start, moved)
    assert status == 0 and "resuming from" in said
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


@pytest.mark.integration
def test_a_split_that_holds_nobody_out_is_refused(talking, tiny_folder, tmp_path, capsys):
    data = dataset_of(talking, tmp_path / "set", ("ann-voice", "bob-voice"))
    assert finetune(data, tiny_folder, tmp_path / "out", "split=speaker") == 2
    assert "No speaker in" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.integration
def test_one_clip_is_not_enough(talking, tiny_folder, tmp_path, capsys):
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
