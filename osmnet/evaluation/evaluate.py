"""Evaluation of a model on a dataset by the papers' protocol."""

import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import av
import cv2
import numpy as np
import torch
from tqdm import tqdm

from osmnet.data.cluster import on_processes
from osmnet.data.dataset import Clip, Dataset, is_held_out
from osmnet.evaluation.evaluation_report import write_report
from osmnet.evaluation.metrics.fid import fid
from osmnet.evaluation.metrics.frechet import few_samples
from osmnet.evaluation.metrics.motion_statistics import HARMONICS
from osmnet.evaluation.protocol import MAX_SECONDS, METHODS, ClipResult, MetricNetworks, evaluate_clip
from osmnet.evaluation.sampled_motion import MAX_CLIPS, MAX_FRAMES, measure_takes, motion_clips
from osmnet.evaluation.sampled_upper_face import measure_upper_faces
from osmnet.evaluation.settings import (
    MINUTES,
    QUICK_CLIPS,
    QUICK_MINUTES,
    QUICK_SECONDS,
    QUICK_TAKES,
    check_counts,
)
from osmnet.evaluation.summary import jsonable, mean_metrics
from osmnet.loading.fingerprint import file_record, versions, weights_fingerprint
from osmnet.media.audio import FPS
from osmnet.pipelines.osm_net.pipeline_osm_net import OSMNetPipeline
from osmnet.utils.files import make_folder

# A damaged clip or one without a face can raise these; anything else is a defect and stops the run.
CLIP_ERRORS = (ValueError, OSError, RuntimeError, ArithmeticError, cv2.error, av.FFmpegError)
BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"  # its unit is a second of video

VERSION = 2  # of the protocol, see docs/evaluation.md

Outcome = tuple[Clip, ClipResult | Exception]


def evaluate(
    data: str | Path,
    out: str | Path,
    *,
    model: str | Path | None = None,
    split: Literal["held-out", "all", "train"] = "held-out",
    split_by: Literal["speaker", "clip"] = "speaker",
    clips: int | None = None,
    syncnet: str | Path | None = None,
    inception: str | Path | None = None,
    takes: int = 4,
    sampling: Literal["span", "ball"] = "span",
    quick: bool = False,
    workers: int = 1,
    device: str = "cpu",
    seed: int = 0,
    progress: bool = True,
) -> dict[str, Any]:
    """Evaluate a model on a dataset and write report.json, report.html and report.md.

    Args:
        data (`str` or `Path`): Folder or address of a dataset from `osmnet prepare`.
        out (`str` or `Path`): Folder for the report.
        model (`str` or `Path`, *optional*): A folder or a Hub id; the weights in the package by default.
        split (`"held-out"`, `"all"` or `"train"`): Clips to render. Head motion is measured on all speakers.
        split_by (`"speaker"` or `"clip"`): How clips are held out, see `Dataset.split`.
        clips (`int`, *optional*): Number of clips, chosen evenly over their names; all by default.
        syncnet (`str` or `Path`, *optional*): SyncNet's published weights, for LSE-C, LSE-D and AV offset.
        inception (`str` or `Path`, *optional*): Inception weights, for FID.
        takes (`int`): Takes of each clip and ε for the figures of head motion, 2 to 20.
        sampling (`"span"` or `"ball"`): How takes are sampled.
        quick (`bool`): Use four seconds of each clip, two takes, and one minute for drift.
        workers (`int`): Processes that share the clips.
        device (`str`): Device of the networks: `"cpu"`, `"auto"`, `"cuda"`, `"mps"`.
        seed (`int`): Seed of the takes.
        progress (`bool`): Write an estimate and progress bars to stderr.

    Returns:
        `dict`: The content of report.json, see docs/evaluation.md.

    Raises:
        ValueError: If an argument is wrong, or not one clip can be evaluated.
    """
    check_counts(workers, takes, clips)
    dataset = Dataset.open(data)
    chosen, notes = choose_clips(dataset, split, split_by, clips)
    pipe = OSMNetPipeline.from_pretrained(model, device_map=device)
    networks = MetricNetworks.load(syncnet, inception)
    out = Path(out)
    make_folder(out)
    if old := sum("tracks" not in clip.info for clip in chosen):
        notes.append(
            f"{old} of the clips were tracked by an earlier `osmnet prepare`, less steadily, which the oracle shows; "
            "prepare their videos again."
        )
    if networks.sync is None:
        notes.append("This installation has no sync judge, so sync is measured by the mouth's opening alone.")
    seconds = QUICK_SECONDS if quick else MAX_SECONDS
    takes, minutes = (QUICK_TAKES, QUICK_MINUTES) if quick else (takes, MINUTES)

    # 1. Evaluate the clips.
    if workers == 1:
        outcomes: Iterator[Outcome] = ((clip, _attempt(pipe, networks, clip, seconds)) for clip in chosen)
    else:
        outcomes = _in_processes(workers, (model, device, (syncnet, inception)), chosen, seconds)
    lengths = {clip.name: min(clip.frames / FPS, seconds) for clip in chosen}
    results, failed = _collect(with_progress(outcomes, lengths, workers, progress), progress)
    if not results:
        raise ValueError(f"None of the {len(chosen)} clips of '{data}' can be evaluated; {failed[0]['reason']}.")
    notes += _notes_on_clips(results, failed)

    # 2. Measure head motion, on all speakers: a distribution over people needs many of them.
    with_motion = motion_clips(dataset.clips(speech=True), QUICK_CLIPS if quick else MAX_CLIPS)
    other: Literal["span", "ball"] = "ball" if sampling == "span" else "span"
    with tqdm(total=2 * len(with_motion), desc="head motion", unit="clip", disable=not progress) as bar:
        measure = partial(
            measure_takes, pipe, with_motion, takes=takes, seed=seed,
            max_frames=int(seconds * FPS) if quick else MAX_FRAMES, progress=lambda _: bar.update(),
        )  # fmt: skip
        motion = measure(minutes=minutes, sampling=sampling)
        compared = measure(minutes=0, sampling=other, epsilons=[1.0])
    motion["other_sampling"] = [{"sampling": other, **row} for row in compared.get("by_epsilon", [])]
    notes += _notes_on_motion(motion)

    with tqdm(total=len(with_motion), desc="upper face", unit="clip", disable=not progress) as bar:
        upper_face = measure_upper_faces(
            pipe, with_motion, takes=takes, seed=seed, max_frames=int(seconds * FPS) if quick else MAX_FRAMES,
            progress=lambda _: bar.update(),
        )  # fmt: skip

    # 3. Write the report.
    by_length, plain = mean_metrics(results, by_length=True), mean_metrics(results, by_length=False)
    if networks.inception is not None:
        notes += _add_fid(results, by_length, plain)
    report = jsonable({
        "format": "osmnet-evaluation",
        "version": VERSION,
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "model": {"name": _model_name(pipe, model), "fingerprint": weights_fingerprint(pipe.components)},
        "data": {
            "name": str(data) if "://" in str(data) else Path(data).resolve().name,
            "fingerprint": dataset.fingerprint,
            "clips": len(dataset.clips()),
        },
        "settings": {
            "split": split, "split_by": split_by, "clips": clips, "takes": takes, "sampling": sampling,
            "quick": quick, "seed": seed, "device": device, "seconds": seconds, "minutes": minutes,
        },
        "judges": {
            "own": None if networks.sync is None else weights_fingerprint({"judge": networks.sync}),
            "syncnet": file_record(syncnet),
            "inception": file_record(inception),
        },
        "versions": versions(),
        "notes": notes,
        "seconds": sum(result.seconds for result in results),
        "mean_by_length": by_length,
        "mean_plain": plain,
        "clips": [
            {"name": result.name, "seconds": result.seconds, "metrics": result.metrics} for result in results
        ],
        "failed": failed,
        "motion": motion,
        "upper_face": upper_face,
    })  # fmt: skip
    write_report(out, report, results)
    return report


def choose_clips(
    dataset: Dataset, split: str, split_by: Literal["speaker", "clip"], count: int | None = None
) -> tuple[list[Clip], list[str]]:
    """Return the clips of a split with speech, and notes for the report.

    Raises:
        ValueError: If there are none, or the split is unknown.
    """
    if split not in ("held-out", "all", "train") or split_by not in ("speaker", "clip"):
        raise ValueError(f"split must be held-out, all or train, by speaker or clip, not '{split}' by '{split_by}'.")
    clips, notes = dataset.clips(speech=True), []
    if split_by == "clip" and split != "all":
        training, held = dataset.split(speech=True, by="clip")
        clips = held if split == "held-out" else training
    elif split == "train":
        clips = dataset.split(speech=True)[0]
    elif split == "held-out":
        held = [clip for clip in clips if is_held_out(clip.speaker)]
        if not held:
            notes.append(
                "No speaker of this dataset is held out by name: a model may have been trained on these clips."
            )
        clips = held or clips
    if count is not None and count < len(clips):
        clips = [clips[i] for i in np.unique(np.linspace(0, len(clips) - 1, count).astype(int))]
    return clips, notes


def _model_name(pipe: OSMNetPipeline, model: str | Path | None) -> str:
    """Return the Hub id or the folder's name, without its path."""
    return Path(model).resolve().name if model is not None and Path(os.path.expanduser(model)).is_dir() else pipe.name


def _attempt(pipe: OSMNetPipeline, networks: MetricNetworks, clip: Clip, seconds: float) -> ClipResult | Exception:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return evaluate_clip(pipe, clip, networks, seconds)
    except CLIP_ERRORS as error:
        return error


@dataclass(frozen=True)
class _Job:
    """A clip for a worker process, and its cached models."""

    clip: Clip
    seconds: float
    threads: int
    model: str | Path | None
    device: str
    weights: tuple[str | Path | None, ...]  # arguments of MetricNetworks.load


def _work(job: _Job) -> ClipResult | Exception:
    torch.set_num_threads(job.threads)
    pipe, networks = _loaded(job.model, job.device, job.weights)
    return _attempt(pipe, networks, job.clip, job.seconds)


@cache
def _loaded(
    model: str | Path | None, device: str, weights: tuple[str | Path | None, ...]
) -> tuple[OSMNetPipeline, MetricNetworks]:
    return OSMNetPipeline.from_pretrained(model, device_map=device), MetricNetworks.load(*weights)


def _in_processes(workers: int, models: tuple[Any, ...], clips: Sequence[Clip], seconds: float) -> Iterator[Outcome]:
    """Evaluate clips in worker processes; a killed one loses only its clip."""
    workers = min(workers, len(clips))
    threads = max(torch.get_num_threads() // workers, 1)
    longest_first = sorted(clips, key=lambda clip: -clip.frames)
    jobs = [_Job(clip, seconds, threads, *models) for clip in longest_first]
    return ((job.clip, result) for job, result in on_processes(jobs, _work, workers))


def with_progress(
    outcomes: Iterator[Outcome], lengths: dict[str, float], workers: int, shown: bool
) -> Iterator[Outcome]:
    """Show a progress bar in seconds of video, and an estimate after the first clip."""
    total, count, workers = sum(lengths.values()), len(lengths), min(workers, len(lengths))
    size = f"{count} clip{'s' * (count > 1)}, {clock(total)} of video"
    begun, is_estimated = time.monotonic(), False
    with tqdm(total=total, desc=f"clips 0/{count}", bar_format=BAR, disable=not shown) as bar:
        if shown:
            bar.write(f"Evaluating {size}; the first one shows how long that takes.", file=sys.stderr)
        for number, (clip, result) in enumerate(outcomes, 1):
            if shown and not is_estimated and isinstance(result, ClipResult):
                rate = (time.monotonic() - begun) / lengths[clip.name]  # s for a second of video, of one worker
                about = clock(rate * total / workers)
                bar.write(f"{size}: about {about}, then head motion.", file=sys.stderr)
                is_estimated = True
            bar.set_description_str(f"clips {number}/{count}", refresh=False)
            bar.update(lengths[clip.name])
            yield clip, result
            if not is_estimated and workers == 1:
                begun = time.monotonic()


def clock(seconds: float) -> str:
    """Format a duration, e.g. `40 s`, `3 min 20 s` or `1 h 5 min`."""
    minutes, rest = divmod(max(round(seconds), 1), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _collect(outcomes: Iterator[Outcome], progress: bool) -> tuple[list[ClipResult], list[dict[str, str]]]:
    """Return results and failed clips, both sorted by name."""
    results, failed = [], []
    for clip, result in outcomes:
        if isinstance(result, ClipResult):
            results.append(result)
            continue
        reason = " ".join(str(result).split()).rstrip(".") or type(result).__name__
        failed.append({"clip": clip.name, "reason": reason})
        if progress:
            tqdm.write(f"{clip.name}: not evaluated, {reason}", file=sys.stderr)
    return sorted(results, key=lambda result: result.name), sorted(failed, key=lambda row: row["clip"])


def _notes_on_clips(results: Sequence[ClipResult], failed: Sequence[dict[str, str]]) -> list[str]:
    notes = []
    if failed:
        rest = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
        notes.append(f"Not evaluated: {failed[0]['clip']} ({failed[0]['reason']}){rest}.")
    for method in METHODS:
        faceless = [result.name for result in results if not result.metrics[method]["faces_found"]]
        if faceless:
            notes.append(
                f"No face is found in any frame of {method} of {', '.join(faceless)}: its means of lips, face and "
                "sync are over the other clips."
            )
    return notes


def _notes_on_motion(motion: dict[str, Any]) -> list[str]:
    notes = []
    if not motion["clips"]:
        notes.append("No clip with speech is four seconds long, so head motion is not measured.")
    elif np.isnan(motion["static_frechet"]):
        notes.append(
            "There is too little head motion to be halved by speakers, so its Fréchet distance is not measured."
        )
    elif note := few_samples(motion["windows"] // 2, 3 * HARMONICS):
        notes.append(f"Head motion, each half of the speakers: {note}")
    if motion["skipped"]:
        count, row = len(motion["skipped"]), motion["skipped"][0]
        notes.append(f"Clips left out of head motion: {count} ({row['clip']}: {row['reason'].rstrip('.')}).")
    return notes


def _add_fid(results: Sequence[ClipResult], *means: dict[str, dict[str, float]]) -> list[str]:
    """Add FID to the means and return notes on it."""
    features = {method: np.concatenate([result.features[method] for result in results]) for method in METHODS}
    for method in METHODS[:-1]:
        distance = fid(features["real"], features[method])
        for mean in means:
            mean[method]["fid"] = distance
    note = few_samples(*features["real"].shape)
    return [f"FID: {note}"] if note else []
