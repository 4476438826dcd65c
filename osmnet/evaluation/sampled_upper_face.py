"""Sampled brows, gaze and blinks against a dataset's real faces, without rendering."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from osmnet.data.dataset import Clip
from osmnet.evaluation.metrics.upper_face import FIGURES, dynamics, upper_face_figures
from osmnet.face.crop import CropBox
from osmnet.face.topology import eye_opening
from osmnet.media.audio import SAMPLES_PER_FRAME, SAMPLING_RATE
from osmnet.pipelines.osm_net.upper_face import UpperFace
from osmnet.rendering.renderer import lid_closing
from osmnet.structures import Source

if TYPE_CHECKING:
    from osmnet.pipelines.osm_net.pipeline_osm_net import OSMNetPipeline


def measure_upper_faces(
    pipe: "OSMNetPipeline",
    clips: Sequence[Clip],
    *,
    takes: int,
    max_frames: int,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Measure brows, gaze and blinks sampled for clips at ε = 1.

    Args:
        pipe (`OSMNetPipeline`): The model.
        clips (`Sequence[Clip]`): From `motion_clips`.
        takes (`int`): Takes of every clip.
        max_frames (`int`): Largest number of frames of a clip.
        seed (`int`): Seed of the takes.
        progress (`Callable`, *optional*): Called with the name of every finished clip.

    Returns:
        `dict`: `real`, `sampled` and `ratio` with the figures of docs/evaluation.md, `fdd`, `clips`.
    """
    real: list[dict[str, float]] = []
    sampled: list[dict[str, float]] = []
    deviations = []
    for number, clip in enumerate(clips):
        try:
            fit = clip.fit(pipe.face_model)
            shape, pose = fit.shape[:max_frames], fit.head_pose[:max_frames]
            speech = pipe.encode_speech(clip.speech()[: len(pose) * SAMPLES_PER_FRAME], SAMPLING_RATE)
        except (ValueError, OSError):  # reported with the head's motion
            continue
        # The frame with the usual opening of the eyes as portrait.
        opening = eye_opening(shape)
        usual = int(np.abs(opening - np.median(opening)).argmin())
        blank = np.zeros((clip.size, clip.size, 3), np.uint8)
        portrait = pipe.face_model.fit(clip.landmarks_px()[usual], clip.size)
        source = Source(blank, blank, CropBox(0, 0, clip.size), portrait, full_frame=False)
        generator = torch.Generator().manual_seed(seed + number)
        motion = pipe.sample_motion(speech, num_videos=takes, generator=generator)
        face, closing = UpperFace(pipe.upper_face_space, pipe.face_model, source), lid_closing(source, pipe.face_model)
        closure, _ = face.of(motion)
        frames = np.arange(min(motion.head_pose.shape[1], len(pose)))
        true = dynamics(shape)
        real.append(upper_face_figures(shape, pose))
        for take in range(takes):
            beta = closure[take, frames, None] * closing
            if motion.upper_face is not None:
                beta = beta + face.change(motion.upper_face[take, frames], drawn=False)
            moved = pipe.face_model.move(portrait.shape, beta)
            sampled.append(upper_face_figures(moved, motion.head_pose[take, frames]))
            deviations.append(float(true.mean() - dynamics(moved).mean()))
        if progress:
            progress(clip.name)
    if not real:
        return {"clips": 0}
    rows = {"real": _means(real), "sampled": _means(sampled)}
    ratio = {
        name: rows["sampled"][name] / rows["real"][name] if rows["real"][name] else float("nan") for name in FIGURES
    }
    return {"clips": len(real), "takes": takes, **rows, "ratio": ratio, "fdd": 1000 * float(np.mean(deviations))}


def _means(figures: Sequence[dict[str, float]]) -> dict[str, float]:
    """Average each figure over the clips that have it."""
    means = {}
    for name in FIGURES:
        finite = [row[name] for row in figures if np.isfinite(row[name])]
        means[name] = float(np.mean(finite)) if finite else float("nan")
    return means
