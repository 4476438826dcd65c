"""Choose and crop segments: stretches of one face with its sound."""

import io
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from PIL import Image

from osmnet.data.offset import LAGS, Agreement, Listener, Verdict, decide, pooled
from osmnet.data.second_look import SecondLook
from osmnet.data.shards import TRACKS
from osmnet.data.track import FaceRun, Tracking
from osmnet.face.crop import CropBox, crop_box, extract, from_crop, to_crop
from osmnet.face.morphable import FaceFit, FaceModel
from osmnet.media.audio import FPS
from osmnet.media.video_reader import Window, read_frames
from osmnet.media.video_writer import VideoWriter
from osmnet.models.identity_network import IdentityNetwork, face_chip, load_identity_network

CROP_SIZE = 384  # px, largest side that is stored; smaller crops keep theirs
CRF = 14  # of x264
FACE_HEIGHT = 128  # px at which sharpness is measured
SHARPNESS_EVERY = 5  # frames
LEAST_SOUND = 0.5  # s of speech activity needed to compare lips and sound
FACES = 8  # frames of a clip that describe its face
MOST_SECONDS = 3600  # of a clip
STRIP = 112  # px, side of the three pictures in the report


@dataclass(frozen=True)
class Options:
    """Criteria for kept clips.

    Attributes:
        max_seconds (`float`): Longer stretches are split into equal pieces.
        min_seconds (`float`): Shorter stretches are dropped.
        min_face (`int`): Smallest height of a face, forehead to chin, in pixels of the video.
        min_sharpness (`float`): Smallest sharpness of the face, see `sharpness_of`.
        max_turn (`float`): Degrees; a face turned further in more than half of the frames is dropped.
    """

    max_seconds: float = 20.0
    min_seconds: float = 1.0
    min_face: int = 64
    min_sharpness: float = 1.0
    max_turn: float = 60.0

    def __post_init__(self) -> None:
        if not 0.2 <= self.min_seconds <= self.max_seconds / 2 <= MOST_SECONDS / 2:
            raise ValueError(
                f"min_seconds must be at least 0.2 and at most half of max_seconds, and that at most {MOST_SECONDS}, "
                f"not {self.min_seconds:g} and {self.max_seconds:g}."
            )
        if self.min_face < 1 or self.min_sharpness < 0 or not 0 < self.max_turn <= 90:
            raise ValueError("min_face must be positive, min_sharpness not negative, max_turn within 90 degrees.")

    def as_dict(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


@dataclass(frozen=True)
class Known:
    """Known facts about a video; `None` is measured.

    Attributes:
        speech (`bool`, *optional*): Whether its sound is speech of the face seen.
        av_offset (`int`, *optional*): Frames by which the picture is late (negative: early).
        speaker (`str`, *optional*): Name of the person seen.
    """

    speech: bool | None = None
    av_offset: int | None = None
    speaker: str | None = None


@dataclass
class Segment:
    """A stretch of one face.

    Attributes:
        run (`FaceRun`): Its first track, in the whole picture.
        whole (`int`): Number of the unbroken run that it is a part of.
        box (`CropBox`): The square around the head, in pixels of the video.
        size (`int`): Side of the stored crop in pixels.
        landmarks_px (`np.ndarray` of shape `(frames, 478, 3)`): Vertices in pixels of the stored crop; of the second
            track once there is one.
        fit (`FaceFit`): Fit of the face model to them.
        measured (`dict`): Sharpness, size and turn, for the manifest.
        reason (`str`): Why it is dropped; empty if it is kept.
        verdict (`Verdict`): Decision about its sound.
        descriptor (`np.ndarray` of shape `(128,)`, *optional*): Mean of the identity network's answers.
    """

    run: FaceRun
    whole: int
    box: CropBox
    size: int
    landmarks_px: np.ndarray
    fit: FaceFit
    measured: dict[str, Any]
    reason: str = ""
    verdict: Verdict = Verdict(False)
    descriptor: np.ndarray | None = None


def dropped(reason: str, seconds: float, **more: Any) -> dict[str, Any]:
    """Make a manifest row for something dropped."""
    return {"status": "dropped", "reason": reason, "seconds": round(seconds, 2), **more}


def choose_segments(
    tracking: Tracking, options: Options, face_model: FaceModel, listener: Listener | None
) -> tuple[list[Segment], list[dict[str, Any]]]:
    """Choose one face at every moment; split and measure its stretches.

    Args:
        tracking (`Tracking`): All faces of the video.
        options (`Options`): What to keep.
        face_model (`FaceModel`): Face model to fit.
        listener (`Listener`, *optional*): Compares faces with the sound.

    Returns:
        `tuple[list[Segment], list[dict]]`: Segments in order of time, with a reason if dropped; and manifest lines for
        what is no segment.

    Raises:
        ValueError: If there is no face.
    """
    # 1. Drop short runs.
    if not tracking.runs:
        raise ValueError("no face was found")
    least = round(options.min_seconds * FPS)
    short = [run for run in tracking.runs if len(run) < least]
    rows = []
    if tracking.breaks_off:
        rows.append(dropped(f"the file is damaged: nothing after {tracking.frames / FPS:.1f} s decodes", 0.0))
    if short:
        what = "a stretch" if len(short) == 1 else f"{len(short)} stretches"
        seconds = sum(map(len, short)) / FPS
        rows.append(dropped(f"{what} of less than {options.min_seconds:g} s with one unbroken face", seconds))
    long_enough = [run for run in tracking.runs if len(run) >= least]
    # 2. Choose one run at every moment: speaking faces first, then the largest.
    ranks = [run.face_px for run in long_enough]
    if listener is not None:
        size = max(tracking.height, tracking.width)
        agreements = [listener.compare(run.landmarks_px, size, run.first) for run in long_enough]
        ranks = [
            1 + agreement.strength if agreement.is_plausible else run.face_px / (2 * size)
            for run, agreement in zip(long_enough, agreements, strict=True)
        ]
    taken = _apart(long_enough, ranks)
    rows += [
        dropped("another face in the picture is the one that speaks, or larger", len(run) / FPS,
                first_frame=run.first, face_px=round(run.face_px, 1))
        for i, run in enumerate(long_enough) if i not in taken
    ]  # fmt: skip
    # 3. Split and measure.
    runs = sorted((long_enough[i] for i in taken), key=lambda run: run.first)
    return [
        _segment(part, whole, tracking, options, face_model)
        for whole, run in enumerate(runs)
        for part in _split(run, options)
    ], rows


def decide_on_speech(segments: list[Segment], tracking: Tracking, known: Known, listener: Listener | None) -> None:
    """Decide about the sound of segments by their final tracks.

    Args:
        segments (`list[Segment]`): All of the video; get their `verdict`.
        tracking (`Tracking`): The faces of the video.
        known (`Known`): Facts that need not be measured.
        listener (`Listener`, *optional*): Compares faces with the sound.
    """
    if listener is None:
        silent = Verdict(False, note="no speech, says the table" if known.speech is False else "no sound")
        for segment in segments:
            segment.verdict = silent
        return
    runs = [list(parts) for _, parts in groupby(segments, key=lambda segment: segment.whole)]
    size = max(tracking.height, tracking.width)
    agreements = []
    for parts in runs:
        landmarks = [from_crop(part.landmarks_px, part.box, part.size) for part in parts]
        agreements.append(listener.compare(np.concatenate(landmarks), size, parts[0].run.first))
    for parts, agreement in zip(runs, agreements, strict=True):
        frames = slice(parts[0].run.first, parts[-1].run.first + len(parts[-1].run))
        verdict = _verdict(agreement, pooled(agreements), known, listener.activity[frames])
        for part in parts:
            part.verdict = verdict


def _apart(runs: list[FaceRun], ranks: list[float]) -> list[int]:
    """Choose runs by rank, skipping overlaps in time; returns indices."""
    taken: list[int] = []
    for i in sorted(range(len(runs)), key=lambda i: -ranks[i]):
        run = runs[i]
        others = (runs[k] for k in taken)
        if not any(run.first < one.first + len(one) and one.first < run.first + len(run) for one in others):
            taken.append(i)
    return taken


def _verdict(own: Agreement, whole: Agreement, known: Known, activity: np.ndarray) -> Verdict:
    if known.av_offset is not None and known.speech is not False:
        measured = own.at(known.av_offset) if abs(known.av_offset) <= LAGS[-1] else None
        return Verdict(True, known.av_offset, measured)
    if known.speech:
        verdict = decide(own, whole)
        return verdict if verdict.speech else Verdict(True, 0, own.at(0))
    if activity.sum() < LEAST_SOUND * FPS:
        return Verdict(False, note="hardly any sound")
    return decide(own, whole)


def _split(run: FaceRun, options: Options) -> list[FaceRun]:
    count = -(-len(run) // round(options.max_seconds * FPS))
    parts = np.array_split(run.landmarks_px, count)
    starts = np.cumsum([0] + [len(part) for part in parts[:-1]])
    return [FaceRun(run.first + int(start), part) for start, part in zip(starts, parts, strict=True)]


def _segment(run: FaceRun, whole: int, tracking: Tracking, options: Options, face_model: FaceModel) -> Segment:
    box = crop_box(run.landmarks_px, tracking.height, tracking.width)
    size = min(box.side, CROP_SIZE) // 2 * 2
    landmarks = to_crop(run.landmarks_px, box, size)
    fit = face_model.fit_track(landmarks, size)
    turn = np.rad2deg(np.abs(fit.head_pose[:, :3])).max(1)
    reason = ""
    if run.face_px < options.min_face:
        reason = f"the face is {run.face_px:.0f} pixels high, less than --min-face {options.min_face}"
    elif (share := float((turn > options.max_turn).mean())) > 0.5:
        reason = (
            f"the face is turned or tilted by over --max-turn {options.max_turn:g} degrees in {share:.0%} of frames"
        )
    measured = {"face_px": round(run.face_px, 1), **_turn(fit), "tracks": 1}
    return Segment(run, whole, box, size, landmarks, fit, measured, reason)


def _turn(fit: FaceFit) -> dict[str, float]:
    yaw, pitch = np.rad2deg(np.abs(fit.head_pose[:, :2])).max(0)
    return {"yaw_deg": round(float(yaw), 1), "pitch_deg": round(float(pitch), 1)}


def crop_segments(
    video: Path,
    bundle: Path,
    tracking: Tracking,
    segments: list[Segment],
    options: Options,
    face_model: FaceModel,
    folder: Path,
) -> list[dict[str, Path | bytes]]:
    """Crop segments in one pass, track them again on the crop, and reject blurred ones.

    Args:
        video (`Path`): The video.
        bundle (`Path`): The face landmarker.
        tracking (`Tracking`): The faces of the video.
        segments (`list[Segment]`): In order of time; those without a reason get a second track, if the face is seen.
        options (`Options`): What to keep.
        face_model (`FaceModel`): Face model to fit.
        folder (`Path`): For the videos of the crops.

    Returns:
        `list[dict[str, Path | bytes]]`: Files of each segment by ending: the content of `jpg` and, unless it had a
        reason, the path of `mp4`.

    Raises:
        ValueError: If the video does not decode a second time.
        OSError: If the folder cannot be written.
    """
    # 1. Find the part of each frame that is needed.
    windows: dict[int, Window] = {}
    for segment in segments:
        box = segment.box
        window = (
            max(box.left, 0),
            max(box.top, 0),
            min(box.left + box.side, tracking.width),
            min(box.top + box.side, tracking.height),
        )
        windows |= dict.fromkeys(range(segment.run.first, segment.run.first + len(segment.run)), window)
    # 2. Decode once, segment by segment.
    frames = enumerate(read_frames(video, window=windows.get))
    files = []
    for number, segment in enumerate(segments):
        crops = _crops(segment, frames, windows[segment.run.first])
        files.append(_look_again(segment, crops, bundle, face_model, folder / f"{number:03d}.mp4"))
        least = options.min_sharpness
        if not segment.reason and segment.measured["sharpness"] < least:
            segment.reason = f"blurred: sharpness {segment.measured['sharpness']}, less than {least:g}"
    return files


def _crops(segment: Segment, frames: Iterator[tuple[int, np.ndarray]], window: Window) -> Iterator[np.ndarray]:
    inside = CropBox(segment.box.left - window[0], segment.box.top - window[1], segment.box.side)
    last = segment.run.first + len(segment.run) - 1
    for index, part in frames:
        if index >= segment.run.first:
            yield extract(part, inside, segment.size)
        if index == last:
            return
    raise ValueError("the video does not decode as far as it did before")


def _look_again(
    segment: Segment, crops: Iterator[np.ndarray], bundle: Path, face_model: FaceModel, path: Path
) -> dict[str, Path | bytes]:
    """Write the crops, and measure and track them."""
    size, count, first_look = segment.size, len(segment.run), segment.landmarks_px
    pictured = {int(k) for k in np.linspace(0, count - 1, 5)[1:4]}
    faced = set(_most_frontal(segment.fit.head_pose))
    strip, sharpness, chips = [], [], []
    second_look = None if segment.reason else SecondLook(bundle, first_look)
    try:
        with ExitStack() as opened:
            if second_look is not None:
                opened.enter_context(second_look)
                writer = opened.enter_context(VideoWriter(path, (size, size), FPS, crf=CRF, threads=1))
            for k, crop in enumerate(crops):
                if second_look is not None:
                    writer.write(crop)
                    second_look.add(crop)
                    if k in faced:
                        chips.append(face_chip(crop, first_look[k]))
                if k % SHARPNESS_EVERY == 0:
                    sharpness.append(sharpness_of(crop, first_look[k]))
                if k in pictured:
                    strip.append(cv2.resize(crop, (STRIP, STRIP), interpolation=cv2.INTER_AREA))
    except ValueError as error:
        if isinstance(cause := error.__cause__, OSError | av.FFmpegError):
            raise OSError(cause.errno, cause.strerror) from error
        raise
    segment.measured["sharpness"] = round(float(np.median(sharpness)), 2)
    if second_look is not None and (landmarks := second_look.landmarks_px()) is not None:
        segment.landmarks_px, segment.fit = landmarks, face_model.fit_track(landmarks, size)
        segment.measured |= {**_turn(segment.fit), "tracks": TRACKS}
    if chips:
        segment.descriptor = _identity_network().describe(np.stack(chips)).mean(0)
    picture = io.BytesIO()
    Image.fromarray(np.hstack(strip)).save(picture, "JPEG", quality=80)
    return {"jpg": picture.getvalue()} | ({} if segment.reason else {"mp4": path})


def _most_frontal(head_pose: np.ndarray) -> np.ndarray:
    """Choose frames evenly among the half that is turned least."""
    turn = (head_pose[:, :2] ** 2).sum(1)
    frontal = np.sort(np.argsort(turn, kind="stable")[: max(len(turn) // 2, 1)])
    return frontal[np.linspace(0, len(frontal) - 1, min(FACES, len(frontal))).astype(int)]


@cache
def _identity_network() -> IdentityNetwork:
    return load_identity_network()


def sharpness_of(crop: np.ndarray, landmarks_px: np.ndarray) -> float:
    """Measure face sharpness, independent of size, light and contrast.

    Variance of the Laplacian of the face at 128 pixels height, as a percentage of its grey-level variance. Good videos
    have 2 to 40.

    Args:
        crop (`np.ndarray` of shape `(size, size, 3)`): uint8.
        landmarks_px (`np.ndarray` of shape `(478, 3)`): Vertices in pixels of the crop.

    Returns:
        `float`: At least 0.
    """
    low = np.maximum(np.floor(landmarks_px[:, :2].min(0)).astype(int), 0)
    high = np.minimum(np.ceil(landmarks_px[:, :2].max(0)).astype(int), crop.shape[0])
    if (high - low).min() < 8:
        return 0.0
    face = cv2.cvtColor(np.ascontiguousarray(crop[low[1] : high[1], low[0] : high[0]]), cv2.COLOR_RGB2GRAY)
    scale = FACE_HEIGHT / (high[1] - low[1])
    width = max(round((high[0] - low[0]) * scale), 8)
    grey = cv2.resize(face, (width, FACE_HEIGHT), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    grey = grey.astype(np.float32)
    return float(100 * cv2.Laplacian(grey, cv2.CV_32F).var() / max(grey.var(), 1.0))
