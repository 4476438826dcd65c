"""`osmnet evaluate` on a made-up speaker: the four methods, the report, and clips that are broken."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from osmnet.cli import main
from osmnet.data.dataset import Clip, Dataset, clips_fingerprint
from osmnet.data.shards import read_manifest, write_manifest
from osmnet.evaluation.evaluate import choose_clips, evaluate
from osmnet.evaluation.metrics.sync import load_sync_judge
from osmnet.evaluation.protocol import (
    METHODS,
    ClipResult,
    MetricNetworks,
    evaluate_clip,
    face_boxes,
    room_noise,
    source_of,
)
from osmnet.evaluation.report import aims, html, markdown, number
from osmnet.evaluation.summary import METRICS, jsonable, mean_metrics, rows
from osmnet.face.topology import OVAL
from osmnet.loading.fingerprint import weights_fingerprint
from osmnet.media.features import speech_activity
from osmnet.utils.files import write_whole
from osmnet.utils.marked import read_marked
from tests.support.clips import dataset_of, talking_video
from tests.support.dummies import tiny_pipeline

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
    assert report["settings"]["clips"] is None


def test_head_motion_is_that_of_all_speakers(evaluated):
    motion = evaluated[1]["motion"]
    assert motion["clips"] == 2 and motion["takes"] == 2 and motion["drift"]["minutes"] == 1


def test_the_page_needs_nothing_else_and_takes_names_as_text(evaluated):
    out, report = evaluated
    page = (out / "report.html").read_text(encoding="utf-8")
    assert not re.search(r'(src|href)="(?!data:)', page) and "<script" not in page
    assert page.count("data:image/jpeg") == 3  # a strip of real, ours and oracle
    assert page.count("data:image/png") == 4  # takes, ε, drift, opening
    assert "ann-&lt;b&gt;voice" in page and "<b>voice" not in page
    assert page.count("<details>") == len(report["clips"])
    for method in METHODS:
        assert f">{method}</th>" in page


def test_markdown_has_every_figure(evaluated):
    out, report = evaluated
    text = (out / "report.md").read_text(encoding="utf-8")
    assert text == markdown(report)
    for metric, values in rows(report["mean_by_length"]):
        cells = " | ".join(number(values[method], metric.digits) for method in METHODS)
        assert f"| {metric.label} | {metric.unit} | {metric.arrow} | {cells} |" in text
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert [{line.count("|") for line in table} for table in tables] == [{8}, {8}, {5}]
    for table in tables[1:]:  # the other two are on the page as well
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


@pytest.mark.parametrize(
    ("change", "name", "reached"),
    [
        ({"opening_correlation": 0.76}, "mouth opening, correlation", True),
        ({"opening_correlation": 0.74}, "mouth opening, correlation", False),
        ({"opening_correlation": None}, "mouth opening, correlation", None),
        ({"amplitude": 1.3}, "mouth opening, amplitude, of real", False),
        ({"lmd_lips": 69.0}, "LMD of the lips without pose, of static", True),
        ({"lmd_lips": 71.0}, "LMD of the lips without pose, of static", False),
        ({"cpbd": 0.1}, "CPBD, of real", False),
        ({"spread_ratio": 0.85}, "head motion at ε = 1, spread, of real", True),
        ({"jerk_ratio": 1.6}, "head motion at ε = 1, jerk, of real", False),
        ({"yaw": 19.0}, "largest yaw in 1 min, degrees", True),
        ({"yaw": 21.0}, "largest yaw in 1 min, degrees", False),
    ],
)
def test_aims_are_reached_or_missed_by_the_figures(change, name, reached, evaluated):
    report = json.loads(json.dumps(evaluated[1]))
    means, motion = report["mean_by_length"], report["motion"]
    means["static"]["lmd_lips"], means["real"]["cpbd"], motion["drift"]["real_99"][0] = 100.0, 0.3, 20.0
    row = next(row for row in motion["by_epsilon"] if row["epsilon"] == 1)
    for key, value in change.items():
        if key == "yaw":
            motion["drift"]["largest"][0] = value
        else:
            (row if key in row else means["ours"])[key] = value
    found = {label: verdict for label, *_, verdict in aims(report)}
    assert found[name] is reached and len(found) == 11


def test_a_clip_is_measured_the_same_again(evaluated, data, warper):
    clip = choose_clips(Dataset.open(data), "held-out", "speaker")[0][0]
    again = evaluate_clip(warper, clip, MetricNetworks.load())
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


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    write_whole(tmp_path / "a", b"old")

    def full(path: Path, content: bytes) -> int:
        with open(path, "wb") as file:
            file.write(content[:1])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ValueError, match="No space left"):
        write_whole(tmp_path / "a", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_bytes() == b"old"


def test_a_face_that_is_gone_costs_its_figures_and_not_the_clip(data, warper, monkeypatch):
    """A model must not gain by wrecking a face so badly that the clip drops out of the mean."""
    clip = choose_clips(Dataset.open(data), "held-out", "speaker")[0][0]
    grey = lambda pipe, source, speech: np.full((speech.num_frames, 256, 256, 3), 120, np.uint8)  # noqa: E731
    monkeypatch.setattr("osmnet.evaluation.protocol.render_ours", grey)
    result = evaluate_clip(warper, clip, MetricNetworks.load(), max_seconds=1.0)
    ours, oracle = result.metrics["ours"], result.metrics["oracle"]
    assert ours["faces_found"] == 0 and 0 < ours["ssim"] < oracle["ssim"] and ours["psnr"] < oracle["psnr"]
    assert "lmd_lips" not in ours and "identity" not in ours and np.isnan(result.curves["ours"]).all()
    assert ours["flicker"] == 0 and oracle["lmd_lips"] > 0


def test_flicker_is_of_the_same_pixels_for_all_methods(data, warper, monkeypatch):
    outsides = []

    def noted(frames, outside):
        outsides.append(outside)
        return 0.0

    monkeypatch.setattr("osmnet.evaluation.protocol.flicker", noted)
    clip = choose_clips(Dataset.open(data), "held-out", "speaker")[0][0]
    evaluate_clip(warper, clip, MetricNetworks.load(), max_seconds=1.0)
    assert len(outsides) == len(METHODS) and all(np.array_equal(outsides[0], each) for each in outsides)


def test_a_frozen_face_is_found_if_the_first_frame_has_one(data, warper, monkeypatch):
    """The tracker loses the real face in every second frame, but the static video shows the first one only."""
    from osmnet.evaluation import protocol

    whole = protocol.track

    def loses(*arguments):
        found = whole(*arguments)
        found.found[1::2] = False
        return found

    monkeypatch.setattr(protocol, "track", loses)
    clip = choose_clips(Dataset.open(data), "held-out", "speaker")[0][0]
    metrics = evaluate_clip(warper, clip, MetricNetworks.load(), max_seconds=1.0).metrics
    assert metrics["static"]["faces_found"] == 1
    assert metrics["real"]["faces_found"] == pytest.approx(0.5, abs=0.03)


def test_which_clips(data):
    dataset = Dataset.open(data)
    names = {split: [clip.name for clip in choose_clips(dataset, split, "speaker")[0]] for split in ("all", "train")}
    assert len(names["all"]) == 4 and names["train"] == ["ann-<b>voice", "bob-voice"]
    assert [clip.name for clip in choose_clips(dataset, "all", "speaker", 2)[0]] == ["ann-<b>voice", BROKEN]
    held, training = (choose_clips(dataset, split, "clip")[0] for split in ("held-out", "train"))
    assert held and sorted(clip.name for clip in held + training) == names["all"]
    known = Dataset(dataset.where, [clip.info for clip in dataset.clips() if "voice" in clip.name])
    clips, (note,) = choose_clips(known, "held-out", "speaker")
    assert len(clips) == 2 and "may have been trained" in note
    with pytest.raises(ValueError, match="split must be"):
        choose_clips(dataset, "half", "speaker")


def test_the_source_is_the_whole_first_frame(data, tiny):
    clip = Dataset.open(data).clips()[0]
    first = np.zeros((256, 256, 3), np.uint8)
    source = source_of(clip, first, tiny.face_model)
    np.testing.assert_allclose(source.fit.head_pose, clip.fit(tiny.face_model).head_pose[0], atol=1e-3)
    assert source.frame_size == (256, 256) and source.crop is first


def test_a_silent_recording_is_not_speech_yet_not_refused(tiny):
    noise = room_noise(2.0)
    assert 20 * np.log10(noise.std()) == pytest.approx(-50, abs=0.5)
    assert speech_activity(noise).max() < 0.05
    assert tiny.encode_speech(noise, 16_000).num_frames == 50


def test_face_boxes_hold_the_face_and_stay_within_the_picture():
    landmarks = np.zeros((2, 478, 3))
    landmarks[:, OVAL, :2] = np.random.default_rng(0).uniform((40, 50), (200, 220), (len(OVAL), 2))
    landmarks[1] += (150, -300, 0)
    (x0, y0, x1, y1), (_, top, right, bottom) = face_boxes(landmarks, 256)
    oval = landmarks[0, OVAL, :2]
    assert x0 <= oval[:, 0].min() < x0 + 1 and x1 - 1 < oval[:, 0].max() <= x1
    assert y0 <= oval[:, 1].min() < y0 + 1 and y1 - 1 < oval[:, 1].max() <= y1
    assert (top, bottom, right) == (0, 16, 256)


def result(name: str, seconds: float, value: float) -> ClipResult:
    metrics = {method: {} for method in METHODS}
    metrics["ours"] = {"ssim": value, "opening_correlation": float("nan")}
    return ClipResult(name, seconds, metrics, {}, {}, {})


def test_means_weigh_by_length_and_leave_out_what_is_not_there():
    results = [result("a", 1.0, 0.2), result("b", 3.0, 0.6), result("c", 9.0, float("nan"))]
    assert mean_metrics(results, by_length=True)["ours"] == {"ssim": pytest.approx(0.5)}
    assert mean_metrics(results, by_length=False)["ours"] == {"ssim": pytest.approx(0.4)}
    assert mean_metrics(results, by_length=False)["static"] == {}


def test_no_nan_in_json():
    value = {"a": [float("nan"), np.float32(1.5), np.int64(2)], "b": np.array([np.inf, 1]), 1.0: None}
    assert jsonable(value) == {"a": [None, 1.5, 2], "b": [None, 1.0], "1.0": None}


def test_numbers_in_tables():
    assert [number(None), number(-0.001), number(-1.005, 1), number(0.0, 0)] == ["—", "0.00", "-1.0", "0"]


def test_report_without_head_motion(evaluated):
    report = evaluated[1] | {
        "clips": [],
        "notes": [],
        "motion": {"clips": 0, "takes": 2, "sampling": "span", "skipped": []},
    }
    assert "Head motion" not in html(report, []) and "| ε =" not in markdown(report)
    assert "| head motion at ε = 1, spread, of real | ≥ 0.80 | — | — |" in markdown(report)


def test_fingerprint_is_of_the_tensors(tiny):
    before = weights_fingerprint(tiny.components)
    parameter = next(tiny.motion_decoder.parameters())
    kept = parameter.detach().clone()
    with torch.no_grad():
        parameter[0] += 1e-3
        assert weights_fingerprint(tiny.components) != before
        parameter.copy_(kept)
    assert weights_fingerprint(tiny.components) == before


def test_every_metric_is_explained(repository):
    text = (repository / "docs" / "evaluation.md").read_text(encoding="utf-8")
    for metric in METRICS:
        assert f"`{metric.name}`" in text, metric.name
