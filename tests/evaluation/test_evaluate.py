"""Whole evaluations of a made-up speaker: the four methods, the report, and clips that are broken."""

import hashlib
import json
import re

import numpy as np
import pytest
import torch

from osmnet.cli import main
from osmnet.data.dataset import Clip, Dataset, clips_fingerprint
from osmnet.data.manifest import read_manifest, write_manifest
from osmnet.evaluation import protocol
from osmnet.evaluation.evaluate import choose_clips, evaluate
from osmnet.evaluation.evaluation_report import markdown, number
from osmnet.evaluation.metrics.sync import load_sync_judge
from osmnet.evaluation.metrics.upper_face import FIGURES
from osmnet.evaluation.protocol import METHODS, MetricNetworks, evaluate_clip
from osmnet.evaluation.summary import COLUMNS, jsonable, rows
from osmnet.loading.fingerprint import weights_fingerprint
from osmnet.utils.marked import read_marked
from tests.support.clips import dataset_of, talking_video
from tests.support.dummies import tiny_pipeline

pytestmark = pytest.mark.integration

BROKEN = "opentalker-face-2"


@pytest.fixture(scope="module")
def data(talking, tmp_path_factory):
    """Two speakers to train on; one held out, two seconds long, and one held out whose video is damaged."""
    folder = tmp_path_factory.mktemp("evaluation")
    held_out = read_manifest(dataset_of(talking, folder / "set", ("opentalker-face-1", BROKEN)))
    start, size = held_out[1]["files"]["mp4"]
    with open(folder / "set" / held_out[1]["shard"], "r+b") as file:
        file.seek(start)
        file.write(bytes(size))
    long = talking_video(folder / "long.mp4", frames=104)
    others = read_manifest(dataset_of(long, folder / "set", ("ann-<b>voice", "bob-voice")))
    write_manifest(folder / "set", held_out + others)
    return folder / "set"


def held_out_clip(data) -> Clip:
    return choose_clips(Dataset.open(data), "held-out", "speaker")[0][0]


@pytest.fixture(scope="module")
def warper():
    """The tiny pipeline with a network that paints nothing: what the random one paints is no mouth."""
    pipe = tiny_pipeline()
    with torch.no_grad():
        pipe.video_generator.conv_out.weight[3] = 0  # of the mask
        pipe.video_generator.conv_out.bias[3] = -30
    return pipe


@pytest.fixture(scope="module")
def model(warper, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "warper"
    warper.save_pretrained(folder)
    return folder


class Inception(torch.nn.Module):
    """Stands in for the network of FID, whose weights are not here: 2048 numbers of a frame, its mean colours."""

    def forward(self, images: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(images.float(), [16, 16]).flatten(1).repeat(1, 3)[:, :2048]


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    path = tmp_path_factory.mktemp("inception") / "inception.pt"
    torch.jit.script(Inception()).save(path)
    return path


@pytest.fixture(scope="module")
def evaluated(model, data, inception, tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    return out, evaluate(data, out, model=model, inception=inception, quick=True, progress=False)


def strict(text: str) -> dict:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_the_report_says_what_was_measured(evaluated, warper):
    out, report = evaluated
    assert strict((out / "report.json").read_text(encoding="utf-8")) == report
    assert sorted(path.name for path in out.iterdir()) == ["report.html", "report.json", "report.md"]
    assert [clip["name"] for clip in report["clips"]] == ["opentalker-face-1"]
    assert report["model"] == {"name": "warper", "fingerprint": weights_fingerprint(warper.components)}
    assert report["data"]["name"] == "set" and report["data"]["clips"] == 4 and report["seconds"] == pytest.approx(2)
    assert report["settings"]["quick"] and report["settings"]["takes"] == 2
    assert not any(str(out.parent) in text for text in map(str, report.values()))  # nothing of this machine's folders


def test_one_broken_clip_does_not_stop_the_run(evaluated):
    (failed,) = evaluated[1]["failed"]
    assert failed["clip"] == BROKEN and len(failed["reason"]) > 10 and "\n" not in failed["reason"]
    assert failed["reason"] in (evaluated[0] / "report.html").read_text(encoding="utf-8").replace("&#39;", "'")


def test_the_oracle_is_nearest_and_static_is_the_baseline(evaluated):
    means = evaluated[1]["mean_by_length"]
    ours, static, oracle, real = (means[method] for method in METHODS)
    # Nothing is as near to the real lips as the real frames, compressed; the mirror shows the tracker's own bias.
    assert 0 < means["compressed"]["lmd_lips"] < oracle["lmd_lips"] < static["lmd_lips"]
    assert 0 < means["mirrored"]["lmd_lips"] < 0.8 * static["lmd_lips"]
    assert means["mirrored"]["opening_correlation"] > 0.9 and means["mirrored"]["opening_lag"] == 0
    assert "ssim" not in means["compressed"]
    for name in ("lmd_mouth_px", "lmd_face_px", "lmd_mouth", "lmd_face", "lmd_lips"):
        assert oracle[name] < 0.6 * static[name] and name not in real, name
    assert oracle["psnr_face"] > static["psnr_face"] + 2
    assert oracle["opening_correlation"] > 0.9 and oracle["opening_lag"] == 0
    assert 0.4 < oracle["amplitude"] < 1.2
    assert oracle["diversity"] == pytest.approx(real["diversity"], rel=0.1)
    assert max(static[name] for name in ("identity", "flicker", "diversity", "amplitude")) < 1e-6
    assert "opening_correlation" not in static and "ssim" not in real
    assert ours["identity"] > 0 and ours["silent_recording_motion"] < 3  # lips that speak move by 10 to 30
    assert all(means[method]["faces_found"] == 1 for method in METHODS)
    eye_px = oracle["lmd_mouth_px"] / oracle["lmd_mouth"]
    assert 40 < eye_px < 110  # of 256: the distance that normalises


def test_fid_is_over_all_clips_and_the_report_warns_of_few_frames(evaluated):
    means = evaluated[1]["mean_by_length"]
    assert 0 < means["oracle"]["fid"] < means["static"]["fid"] and "fid" not in means["real"]
    assert evaluated[1]["mean_plain"]["ours"]["fid"] == means["ours"]["fid"]
    assert any("FID" in note and "10 samples" in note for note in evaluated[1]["notes"])


def test_the_report_says_what_judged(evaluated, data, inception):
    report = evaluated[1]
    digest = hashlib.sha256(inception.read_bytes()).hexdigest()
    assert report["judges"]["inception"] == {"file": "inception.pt", "sha256": digest}
    assert report["judges"]["syncnet"] is None
    assert report["judges"]["own"] == weights_fingerprint({"judge": load_sync_judge()})
    assert {"osmnet", "python", "torch", "scipy", "mediapipe"} <= report["versions"].keys()
    clips = Dataset.open(data).clips()
    assert report["data"]["fingerprint"] == clips_fingerprint(clips)
    elsewhere = [Clip("elsewhere", clip.info) for clip in clips]
    assert clips_fingerprint(elsewhere) == report["data"]["fingerprint"] != clips_fingerprint(clips[1:])
    assert report["settings"]["clips"] is None and report["version"] == 2
    assert any("2 of the clips were tracked by an earlier" in note for note in report["notes"])


def test_head_motion_is_that_of_all_speakers(evaluated):
    motion = evaluated[1]["motion"]
    assert motion["clips"] == 2 and motion["takes"] == 2 and motion["drift"]["minutes"] == 1


def test_the_upper_face_is_measured_beside_the_real_one(evaluated):
    upper = evaluated[1]["upper_face"]
    assert upper["clips"] == 2 and upper["takes"] == 2
    assert upper["real"].keys() == upper["sampled"].keys() == upper["ratio"].keys() == FIGURES.keys()
    assert upper["ratio"]["gaze"] == pytest.approx(upper["sampled"]["gaze"] / upper["real"]["gaze"])
    assert np.isfinite(upper["fdd"])


def test_the_page_needs_nothing_else_and_takes_names_as_text(evaluated):
    out, report = evaluated
    page = (out / "report.html").read_text(encoding="utf-8")
    assert not re.search(r'(src|href)="(?!data:)', page) and "<script" not in page
    assert page.count("data:image/jpeg") == 3  # a strip of real, ours and oracle
    assert page.count("data:image/png") == 4  # takes, ε, drift, opening
    assert "ann-&lt;b&gt;voice" in page and "<b>voice" not in page
    assert page.count("<details>") == len(report["clips"])
    for method in COLUMNS.values():
        assert f">{method}</th>" in page


def test_markdown_has_every_figure(evaluated):
    out, report = evaluated
    text = (out / "report.md").read_text(encoding="utf-8")
    assert text == markdown(report)
    for metric, values in rows(report["mean_by_length"]):
        cells = " | ".join(number(values[method], metric.digits) for method in COLUMNS)
        assert f"| {metric.label} | {metric.unit} | {metric.arrow} | {cells} |" in text
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert [{line.count("|") for line in table} for table in tables] == [{10}, {8}, {6}, {5}]
    for table in tables[1:]:  # the others are on the page as well
        for name in (line.split(" | ")[0].removeprefix("| ") for line in table[2:]):
            assert name in (out / "report.html").read_text(encoding="utf-8"), name


def test_the_tables_are_put_into_a_page_and_their_figures_beside_it(evaluated, data, tmp_path, monkeypatch):
    out, report = evaluated
    monkeypatch.setattr("osmnet.evaluation.evaluate.evaluate", lambda **_: report)
    page = tmp_path / "README.md"
    page.write_text("# Card\n<!-- evaluation: x -->\nold\n<!-- /evaluation -->\n\nrest\n")
    assert main(["evaluate", "--data", str(data), "--out", str(out), "--page", str(page)]) == 0
    kept = strict((tmp_path / "evaluation.json").read_text(encoding="utf-8"))
    assert read_marked(page, "evaluation") == markdown(kept).strip() == markdown(report).strip()
    assert page.read_text().startswith("# Card\n") and page.read_text().endswith("\n\nrest\n")
    assert "curves" in report["motion"] and "curves" not in kept["motion"] and kept["clips"] == report["clips"]


def test_span_and_ball_are_compared(evaluated):
    out, report = evaluated
    (other,) = report["motion"]["other_sampling"]
    one = next(row for row in report["motion"]["by_epsilon"] if row["epsilon"] == 1)
    assert report["motion"]["sampling"] == "span" and other["sampling"] == "ball" and other["epsilon"] == 1
    assert other.keys() - {"sampling"} == one.keys() and other["spread"] != one["spread"]
    assert "| ε = 1, sampling ball |" in markdown(report)


def test_a_clip_is_measured_the_same_again(evaluated, data, warper):
    again = evaluate_clip(warper, held_out_clip(data), MetricNetworks.load())
    (row,) = evaluated[1]["clips"]
    assert jsonable(again.metrics) == row["metrics"]
    assert again.strips["ours"].dtype == np.uint8 and len(again.curves["real"]) == 50


@pytest.mark.slow
def test_workers_measure_what_one_process_does(evaluated, data, model, inception, tmp_path):
    report = evaluate(data, tmp_path, model=model, inception=inception, quick=True, workers=2, progress=False)
    assert report["failed"] == evaluated[1]["failed"]
    for method in METHODS:
        assert report["mean_plain"][method] == pytest.approx(evaluated[1]["mean_plain"][method], rel=1e-4)


def test_nothing_is_written_when_no_clip_can_be_evaluated(data, model, tmp_path, monkeypatch):
    held = [clip for clip in Dataset.open(data).clips() if clip.name == BROKEN]
    monkeypatch.setattr("osmnet.evaluation.evaluate.choose_clips", lambda *_: (held, []))
    with pytest.raises(ValueError, match="None of the 1 clips"):
        evaluate(data, tmp_path, model=model, quick=True, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_takes_no_files_is_refused_before_anything_is_rendered(data, model, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    monkeypatch.setattr("osmnet.evaluation.evaluate.evaluate_clip", lambda *_: pytest.fail("rendered"))
    with pytest.raises(ValueError, match="cannot be written to .Read-only file system."):
        evaluate(data, tmp_path, model=model, progress=False)


@pytest.fixture(scope="module")
def wrecked(data, warper):
    """A clip whose rendered face is gone and whose real one is lost in every second frame; pixels for flicker."""
    outsides, whole = [], (protocol.track, protocol.flicker)

    def track(*arguments):
        found = whole[0](*arguments)
        if found is not None:
            found.found[1::2] = False
        return found

    def flicker(frames, outside):
        outsides.append(outside)
        return whole[1](frames, outside)

    def grey(pipe, source, speech):
        return np.full((speech.num_frames, 256, 256, 3), 120, np.uint8)

    with pytest.MonkeyPatch.context() as patch:
        for replacement in (track, flicker):
            patch.setattr(protocol, replacement.__name__, replacement)
        patch.setattr(protocol, "render_ours", grey)
        return evaluate_clip(warper, held_out_clip(data), MetricNetworks.load(), max_seconds=1.0), outsides


def test_a_face_that_is_gone_costs_its_figures_and_not_the_clip(wrecked):
    """A model must not gain by wrecking a face so badly that the clip drops out of the mean."""
    result = wrecked[0]
    ours, oracle = result.metrics["ours"], result.metrics["oracle"]
    assert ours["faces_found"] == 0 and 0 < ours["ssim"] < oracle["ssim"] and ours["psnr"] < oracle["psnr"]
    assert "lmd_lips" not in ours and "identity" not in ours and np.isnan(result.curves["ours"]).all()
    assert ours["flicker"] == 0 and oracle["lmd_lips"] > 0


def test_flicker_is_of_the_same_pixels_for_all_methods(wrecked):
    outsides = wrecked[1]
    assert len(outsides) == len(METHODS) and all(np.array_equal(outsides[0], each) for each in outsides)


def test_a_frozen_face_is_found_if_the_first_frame_has_one(wrecked):
    metrics = wrecked[0].metrics
    assert metrics["static"]["faces_found"] == 1
    assert metrics["real"]["faces_found"] == pytest.approx(0.5, abs=0.03)
