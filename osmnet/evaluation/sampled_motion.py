"""Sampled head motion against a dataset's real heads, without rendering."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from osmnet.data.dataset import Clip
from osmnet.evaluation.metrics.motion_statistics import (
    STRETCH,
    angles_deg,
    diversity_deg,
    jerk_deg,
    largest_deg,
    last_minute_deg,
    motion_frechet,
    pairwise_distance_deg,
    reach_deg,
    smoothed,
    speed_deg,
    spread_deg,
    window_features,
)
from osmnet.media.audio import FPS, SAMPLES_PER_FRAME, SAMPLING_RATE

if TYPE_CHECKING:
    from osmnet.pipelines.osm_net.pipeline_osm_net import OSMNetPipeline

EPSILONS = (0.0, 0.25, 0.5, 1.0, 2.0)
MAX_CLIPS = 64  # of a large dataset, evenly over the names
MAX_FRAMES = 30 * FPS  # of each clip


def motion_clips(clips: Sequence[Clip], count: int = MAX_CLIPS) -> list[Clip]:
    """Choose at most `count` clips with speech of four seconds or more, evenly over names."""
    long = [clip for clip in clips if clip.has_speech and clip.frames >= STRETCH]
    return [long[i] for i in np.unique(np.linspace(0, len(long) - 1, min(count, len(long))).astype(int))]


def measure_takes(
    pipe: "OSMNetPipeline",
    clips: Sequence[Clip],
    *,
    takes: int = 4,
    epsilons: Sequence[float] = EPSILONS,
    minutes: float = 5.0,
    max_frames: int = MAX_FRAMES,
    sampling: Literal["span", "ball"] = "span",
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Measure head motion sampled for clips.

    Args:
        pipe (`OSMNetPipeline`): The model.
        clips (`Sequence[Clip]`): From `motion_clips`.
        takes (`int`): Takes of every clip and ε.
        epsilons (`Sequence[float]`): Values of ε, with 1 among them.
        minutes (`float`): Length of the speech for drift, joined from the clips' sound; 0 skips drift.
        max_frames (`int`): Largest number of frames of a clip.
        sampling (`"span"` or `"ball"`): How the ball is sampled.
        seed (`int`): Seed of the takes.
        progress (`Callable`, *optional*): Called with the name of every finished clip.

    Returns:
        `dict`: `real` and, for each ε, a row of `by_epsilon` with the figures of docs/evaluation.md; `drift`;
        `curves` (angles in degrees: takes of one clip, and the long speech once a second); `skipped`, clips that could
        not be read, with reasons.
    """
    tracks, speakers, names, sounds, skipped = [], [], [], [], []
    sampled: dict[float, list[np.ndarray]] = {epsilon: [] for epsilon in epsilons}
    for number, clip in enumerate(clips):
        try:
            pose = clip.fit(pipe.face_model).head_pose[:max_frames]
            sound = clip.speech()[: len(pose) * SAMPLES_PER_FRAME]
            speech = pipe.encode_speech(sound, SAMPLING_RATE)
        except (ValueError, OSError) as error:
            skipped.append({"clip": clip.name, "reason": str(error)})
            continue
        for epsilon in epsilons:
            generator = torch.Generator().manual_seed(seed + number)
            motion = pipe.sample_motion(
                speech, num_videos=takes, epsilon=epsilon, generator=generator, sampling=sampling, blink=False
            )
            sampled[epsilon].append(motion.head_pose)
        tracks.append(smoothed(pose))
        speakers.append(clip.speaker)
        names.append(clip.name)
        sounds.append(sound)
        if progress:
            progress(clip.name)
    result: dict[str, Any] = {"clips": len(tracks), "takes": takes, "sampling": sampling, "skipped": skipped}
    if not tracks:
        return result

    # 1. Compare generated with real heads.
    features = [window_features(track) for track in tracks]
    real = {name: _mean([figure(track) for track in tracks]) for name, figure in _FIGURES.items()}
    result["real"] = real | {"frechet": motion_frechet(features, features, speakers)}
    result["static_frechet"] = motion_frechet(features, [np.zeros_like(each) for each in features], speakers)
    result["windows"] = sum(map(len, features))
    result["by_epsilon"] = []
    for epsilon, motions in sampled.items():
        row: dict[str, float] = {"epsilon": epsilon}
        for name, figure in _FIGURES.items():
            row[name] = _mean([figure(take) for motion in motions for take in motion])
            row[f"{name}_ratio"] = row[name] / real[name] if real[name] else float("nan")
        row["pairwise"] = _mean([pairwise_distance_deg(motion) for motion in motions])
        per_take = [[window_features(motion[take]) for motion in motions] for take in range(takes)]
        row["frechet"] = _mean([motion_frechet(features, take, speakers) for take in per_take])
        result["by_epsilon"].append(row)
    if not minutes:
        return result

    # 2. Measure drift on a long speech.
    longest = max(range(len(tracks)), key=lambda i: len(tracks[i]))
    sound = np.resize(np.concatenate(sounds), round(minutes * 60 * SAMPLING_RATE))
    speech = pipe.encode_speech(sound, SAMPLING_RATE)
    generator = torch.Generator().manual_seed(seed)
    long = pipe.sample_motion(
        speech, num_videos=min(takes, 2), generator=generator, sampling=sampling, blink=False
    ).head_pose
    result["drift"] = {
        "minutes": minutes,
        "largest": largest_deg(long).tolist(),
        "last_minute": last_minute_deg(long).tolist(),
        "real_99": reach_deg(tracks).tolist(),
    }
    result["curves"] = {
        "clip": names[longest],
        "takes": angles_deg(sampled[1.0][longest]).round(2).tolist(),
        "real": angles_deg(tracks[longest] - tracks[longest][:1]).round(2).tolist(),
        "long": angles_deg(long[0, ::FPS]).round(2).tolist(),
    }
    return result


_FIGURES: dict[str, Callable[[np.ndarray], float]] = {
    "diversity": diversity_deg,
    "spread": spread_deg,
    "speed": speed_deg,
    "jerk": jerk_deg,
}


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")
