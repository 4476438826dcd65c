"""Choose and crop segments: stretches of one face with its sound."""

import io
import tempfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from PIL import Image

from osmnet.data.offset import LAGS, Agreement, LipReader, Verdict, decide, pooled
from osmnet.data.track import FaceRun, Tracking
from osmnet.face.crop import CropBox, crop_box, extract, to_crop
from osmnet.face.morphable import FaceFit, FaceModel
from osmnet.media.audio import FPS
from osmnet.media.features import mel_windows, speech_activity
from osmnet.media.video_reader import Window, read_frames
from osmnet.media.video_writer import VideoWriter

CROP_SIZE = 384  # px, largest side that is stored; smaller crops keep theirs
CRF = 14  # of x264
FACE_HEIGHT = 128  # px at which sharpness is measured
SHARPNESS_EVERY = 5  # frames
LEAST_SOUND = 0.5  # s of speech activity needed to compare lips and sound
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
        run (`FaceRun`): Its landmarks.
        box (`CropBox`): The square around the head, in pixels of the video.
        size (`int`): Side of the stored crop in pixels.
        verdict (`Verdict`): Decision about its sound.
        fit (`FaceFit`): Fit of the face model, in pixels of the stored crop.
        measured (`dict`): Sharpness, size and turn, for the manifest.
        reason (`str`): Why it is dropped; empty if it is kept.
    """

    run: FaceRun
    box: CropBox
    size: int
    verdict: Verdict
    fit: FaceFit
    measured: dict[str, Any]
    reason: str = ""

    @property
    def landmarks_px(self) -> np.ndarray:
        """Vertices `(frames, 478, 3)` in crop pixels."""
        return to_crop(self.run.landmarks_px, self.box, self.size)


def dropped(reason: str, seconds: float, **more: Any) -> dict[str, Any]:
    """Make a manifest row for something dropped."""
    return {"status": "dropped", "reason": reason, "seconds": round(seconds, 2), **more}


def choose_segments(
    tracking: Tracking,
    sound: np.ndarray | None,
    options: Options,
    known: Known,
    face_model: FaceModel,
    lip_reader: Callable[[], LipReader],
) -> tuple[list[Segment], list[dict[str, Any]]]:
    """Choose one face at every moment; split and measure its stretches.

    Args:
        tracking (`Tracking`): All faces of the video.
        sound (`np.ndarray` of shape `(samples,)`, *optional*): At 16 kHz.
        options (`Options`): What to keep.
        known (`Known`): Facts that need not be measured.
        face_model (`FaceModel`): Face model to fit.
        lip_reader (`Callable`): Loads the `LipReader`; called only if there is sound.

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
    # 2. Choose one run at every moment.
    agreements: list[Agreement] = []
    if sound is not None and long_enough:
        size = max(tracking.height, tracking.width)
        windows, activity = mel_windows(sound), speech_activity(sound)
        reader = lip_reader()
        features = reader.speech_features(sound)
        agreements = [reader.compare(run.landmarks_px, size, windows, features, run.first) for run in long_enough]
        # Speaking faces first, then the largest.
        ranks = [
            1 + agreement.strength if agreement.is_plausible else run.face_px / (2 * size)
            for run, agreement in zip(long_enough, agreements, strict=True)
        ]
    else:
        ranks = [run.face_px for run in long_enough]
    taken = _apart(long_enough, ranks)
    whole = pooled([agreements[i] for i in taken]) if agreements else None
    rows += [
        dropped("another face in the picture is the one that speaks, or larger", len(run) / FPS,
                first_frame=run.first, face_px=round(run.face_px, 1))
        for i, run in enumerate(long_enough) if i not in taken
    ]  # fmt: skip
    # 3. Decide about the sound, split and measure.
    segments = []
    for i in sorted(taken, key=lambda i: long_enough[i].first):
        run = long_enough[i]
        if whole is None:
            verdict = Verdict(False, note="no speech, says the table" if known.speech is False else "no sound")
        else:
            verdict = _verdict(agreements[i], whole, known, activity[run.first : run.first + len(run)])
        segments += [_segment(part, tracking, verdict, options, face_model) for part in _split(run, options)]
    return segments, rows


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


def _segment(run: FaceRun, tracking: Tracking, verdict: Verdict, options: Options, face_model: FaceModel) -> Segment:
    box = crop_box(run.landmarks_px, tracking.height, tracking.width)
    size = min(box.side, CROP_SIZE) // 2 * 2
    fit = face_model.fit_track(to_crop(run.landmarks_px, box, size), size)
    turn = np.rad2deg(np.abs(fit.head_pose[:, :3]))
    measured = {
        "face_px": round(run.face_px, 1), "yaw_deg": round(float(turn[:, 0].max()), 1),
        "pitch_deg": round(float(turn[:, 1].max()), 1),
    }  # fmt: skip
    reason = ""
    if run.face_px < options.min_face:
        reason = f"the face is {run.face_px:.0f} pixels high, less than --min-face {options.min_face}"
    elif (share := float((turn.max(1) > options.max_turn).mean())) > 0.5:
        reason = (
            f"the face is turned or tilted by over --max-turn {options.max_turn:g} degrees in {share:.0%} of frames"
        )
    return Segment(run, box, size, verdict, fit, measured, reason)


def crop_segments(
    video: Path, tracking: Tracking, segments: list[Segment], options: Options, folder: Path
) -> Iterator[tuple[Segment, dict[str, bytes]]]:
    """Crop segments in one pass and reject blurred ones.

    Args:
        video (`Path`): The video.
        tracking (`Tracking`): Its faces.
        segments (`list[Segment]`): In order of time.
        options (`Options`): What to keep.
        folder (`Path`): For temporary files.

    Yields:
        `tuple[Segment, dict[str, bytes]]`: Each segment, and its files by ending: `jpg`, and `mp4` unless it had a
        reason.

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
    with tempfile.TemporaryDirectory(prefix=".crop-", suffix=".part", dir=folder) as temporary:
        for segment in segments:
            files = _crop_segment(segment, frames, windows[segment.run.first], Path(temporary) / "crop.mp4")
            least = options.min_sharpness
            if not segment.reason and segment.measured["sharpness"] < least:
                segment.reason = f"blurred: sharpness {segment.measured['sharpness']}, less than {least:g}"
            yield segment, files


def _crop_segment(
    segment: Segment, frames: Iterator[tuple[int, np.ndarray]], window: Window, path: Path
) -> dict[str, bytes]:
    size, count, landmarks = segment.size, len(segment.run), segment.landmarks_px
    inside = CropBox(segment.box.left - window[0], segment.box.top - window[1], segment.box.side)
    pictured = {int(k) for k in np.linspace(0, count - 1, 5)[1:4]}
    strip, sharpness = [], []
    try:
        with nullcontext() if segment.reason else VideoWriter(path, (size, size), FPS, crf=CRF, threads=1) as writer:
            for index, part in frames:
                k = index - segment.run.first
                if k < 0:
                    continue
                crop = extract(part, inside, size)
                if writer is not None:
                    writer.write(crop)
                if k % SHARPNESS_EVERY == 0:
                    sharpness.append(sharpness_of(crop, landmarks[k]))
                if k in pictured:
                    strip.append(cv2.resize(crop, (STRIP, STRIP), interpolation=cv2.INTER_AREA))
                if k == count - 1:
                    break
            else:
                raise ValueError("the video does not decode as far as it did before")
    except ValueError as error:
        if isinstance(cause := error.__cause__, OSError | av.FFmpegError):
            raise OSError(cause.errno, cause.strerror) from error
        raise
    segment.measured["sharpness"] = round(float(np.median(sharpness)), 2)
    picture = io.BytesIO()
    Image.fromarray(np.hstack(strip)).save(picture, "JPEG", quality=80)
    return {"jpg": picture.getvalue()} | ({} if segment.reason else {"mp4": path.read_bytes()})


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
