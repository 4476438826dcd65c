"""The metrics of the report and their means over clips."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from osmnet.evaluation.protocol import FLOORS, METHODS, ClipResult

COLUMNS = {method: method for method in METHODS} | {"compressed": "real, CRF 28", "mirrored": "real, mirrored"}
ARROWS = {"higher": "↑", "lower": "↓", "one": "→ 1", "zero": "→ 0", "real": "→ real"}


@dataclass(frozen=True)
class Metric:
    """A metric of the report.

    Attributes:
        name (`str`): Key in report.json.
        label (`str`): Name in tables.
        unit (`str`): Unit; empty for plain numbers.
        better (`str`): Better direction: up, down, towards 1 or 0, or towards the real video's value.
        meaning (`str`): Short definition; docs/evaluation.md has the exact one.
        digits (`int`): Decimals in tables.
    """

    name: str
    label: str
    unit: str
    better: Literal["higher", "lower", "one", "zero", "real"]
    meaning: str
    digits: int = 2

    @property
    def arrow(self) -> str:
        """Sign of the better direction."""
        return ARROWS[self.better]


METRICS = (
    Metric("ssim", "SSIM", "", "higher", "structural similarity to the real frame", 3),
    Metric("psnr", "PSNR", "dB", "higher", "likeness to the real frame, pixel by pixel", 2),
    Metric("ssim_face", "SSIM, face", "", "higher", "the same within the box around the real face", 3),
    Metric("psnr_face", "PSNR, face", "dB", "higher", "the same within the box around the real face", 2),
    Metric("cpbd", "CPBD", "", "higher", "share of edges that look sharp; noise raises it, too", 3),
    Metric("sharpness", "sharpness", "of real", "one", "energy of fine detail", 2),
    Metric("fid", "FID", "", "lower", "distance of the distributions of Inception features", 1),
    Metric("lmd_mouth_px", "LMD, mouth", "px of 256", "lower",
           "landmark distance of the lips; where the head is counts", 2),
    Metric("lmd_face_px", "LMD, face", "px of 256", "lower", "the same of the whole face", 2),
    Metric("lmd_mouth", "LMD, mouth", "eye distances", "lower", "the same, whatever the size of the face", 3),
    Metric("lmd_face", "LMD, face", "eye distances", "lower", "the same, whatever the size of the face", 3),
    Metric("lmd_lips", "LMD, lips without pose", "head units / 1000", "lower",
           "the same with position and turn of the head taken away", 1),
    Metric("lse_d", "LSE-D (SyncNet)", "", "lower", "distance of sound and picture to SyncNet", 3),
    Metric("lse_c", "LSE-C (SyncNet)", "", "higher", "how much better that is than at other offsets", 3),
    Metric("av_offset", "AV offset (SyncNet)", "frames", "zero", "positive: the picture is late", 1),
    Metric("judge_distance", "distance (our judge)", "", "lower",
           "a scale of its own, never to be compared with LSE-D", 3),
    Metric("judge_confidence", "confidence (our judge)", "", "higher",
           "a scale of its own, never to be compared with LSE-C", 3),
    Metric("judge_offset", "AV offset (our judge)", "frames", "zero", "positive: the picture is late", 1),
    Metric("opening_correlation", "mouth opening, correlation", "", "higher",
           "with the real mouth; 1 is the same curve", 2),
    Metric("opening_lag", "mouth opening, lag", "frames", "zero", "positive: the lips are late", 1),
    Metric("width_correlation", "mouth width, correlation", "", "higher",
           "with the real mouth; 1 is the same curve", 2),
    Metric("amplitude", "mouth opening, amplitude", "of real", "one", "how far the mouth opens and shuts", 2),
    Metric("silence_motion", "mouth motion in silence", "head units / 1000 a frame", "real",
           "how much the mouth moves while nobody speaks", 2),
    Metric("silent_recording_motion", "mouth motion, silent recording", "head units / 1000 a frame", "zero",
           "the same, driven by a silent room", 2),
    Metric("diversity", "Diversity (our tracker)", "°", "real", "standard deviation of the turn of the head", 2),
    Metric("identity", "identity distance", "head units / 1000", "lower",
           "how far the shape of the face is from that of the first frame", 1),
    Metric("flicker", "flicker outside the head", "grey levels", "real",
           "how much the picture changes around the head", 2),
    Metric("faces_found", "frames with a face found", "", "one",
           "share of frames in which the tracker sees a face", 2),
)  # fmt: skip


def mean_metrics(results: Sequence[ClipResult], by_length: bool) -> dict[str, dict[str, float]]:
    """Average every metric over the clips that have it, optionally weighted by length."""
    means: dict[str, dict[str, float]] = {}
    floors = [floor for floor in FLOORS if any(floor in result.metrics for result in results)]
    for method in (*METHODS, *floors):
        means[method] = {}
        for metric in METRICS:
            pairs = [(r.metrics.get(method, {}).get(metric.name, np.nan), r.seconds) for r in results]
            pairs = [(value, seconds if by_length else 1.0) for value, seconds in pairs if np.isfinite(value)]
            if pairs:
                values, weights = zip(*pairs, strict=True)
                means[method][metric.name] = float(np.average(values, weights=weights))
    return means


def rows(means: dict[str, dict[str, Any]]) -> list[tuple[Metric, dict[str, Any]]]:
    """Return metrics with values by method and floor (`None` if missing), without empty ones."""
    values = [(metric, {method: mean.get(metric.name) for method, mean in means.items()}) for metric in METRICS]
    return [(metric, of_method) for metric, of_method in values if any(v is not None for v in of_method.values())]


def jsonable(value: Any) -> Any:
    """Convert NumPy values to Python's, and NaN and infinity to `None`."""
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, np.ndarray):
        return jsonable(value.tolist())
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value
