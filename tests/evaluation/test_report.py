"""The report: means over clips, aims, tables, and figures that are not there."""

import json

import numpy as np
import pytest
import torch

from osmnet.evaluation.evaluation_report import aims, html, markdown, number
from osmnet.evaluation.protocol import METHODS, ClipResult
from osmnet.evaluation.summary import METRICS, jsonable, mean_metrics
from osmnet.loading.fingerprint import weights_fingerprint
from tests.support.dummies import read_json


@pytest.fixture(scope="module")
def shipped(repository):
    """The report of the shipped weights, without its curves."""
    return read_json(repository / "weights_card" / "evaluation.json")


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
        ({"yaw": 19.0}, "largest yaw in 5 min, degrees", True),
        ({"yaw": 21.0}, "largest yaw in 5 min, degrees", False),
    ],
)
def test_aims_are_reached_or_missed_by_the_figures(change, name, reached, shipped):
    report = json.loads(json.dumps(shipped))
    means, motion = report["mean_by_length"], report["motion"]
    means["static"]["lmd_lips"], means["real"]["cpbd"], motion["drift"]["real_99"][0] = 100.0, 0.3, 20.0
    row = next(row for row in motion["by_epsilon"] if row["epsilon"] == 1)
    for key, value in change.items():
        if key == "yaw":
            motion["drift"]["largest"][0] = value
        else:
            (row if key in row else means["ours"])[key] = value
    found = {label: verdict for label, *_, verdict in aims(report)}
    assert found[name] is reached and len(found) == 13


def test_report_without_head_motion(shipped):
    report = shipped | {
        "clips": [],
        "notes": [],
        "motion": {"clips": 0, "takes": 2, "sampling": "span", "skipped": []},
    }
    assert "Head motion" not in html(report, []) and "| ε =" not in markdown(report)
    assert "| head motion at ε = 1, spread, of real | ≥ 0.80 | — | — |" in markdown(report)


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
