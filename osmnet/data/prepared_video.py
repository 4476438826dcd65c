"""Prepare one video: a worker's job. Its record, written last, marks the video as done."""

import base64
import hashlib
import io
import json
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
import cv2
import numpy as np
import soundfile
import torch

from osmnet.data.dataset import speaker_of
from osmnet.data.manifest import check_row, is_flat
from osmnet.data.offset import LipReader, Listener
from osmnet.data.segments import Known, Options, Segment, choose_segments, crop_segments, decide_on_speech
from osmnet.data.shards import TRACKS, ShardWriter, encode_track, fingerprint
from osmnet.data.track import Tracking, track_faces
from osmnet.face.morphable import FaceModel
from osmnet.media.audio import FPS, SAMPLES_PER_FRAME, SAMPLING_RATE, load_speech
from osmnet.utils.bounded_json import parse_json
from osmnet.utils.files import why, write_whole

UNFINISHED = ".unfinished"  # folder of the records, in the dataset
MAX_RECORD = 2**27  # bytes: a line of the manifest for each clip of a video


@dataclass(frozen=True)
class Job:
    """One video to prepare.

    Attributes:
        video (`Path`): The video.
        key (`str`): Its name in the dataset.
        out (`Path`): The dataset.
        model (`Path`): Folder of the face model and, if it has one, the expression extractor.
        bundle (`Path`): The face landmarker.
        options (`Options`): What to keep.
        known (`Known`): Facts that need not be measured.
    """

    video: Path
    key: str
    out: Path
    model: Path
    bundle: Path
    options: Options = field(default_factory=Options)
    known: Known = field(default_factory=Known)

    @property
    def record(self) -> Path:
        """Record file, which marks the video as done."""
        return self.out / UNFINISHED / f"{self.key}.json"

    def stamp(self) -> dict[str, Any]:
        """Name, size and mtime, to detect changes."""
        stat = self.video.stat()
        return {
            "source": self.video.name, "video": self.key, "source_bytes": stat.st_size,
            "source_mtime": stat.st_mtime_ns,
        }  # fmt: skip

    def digest(self) -> str:
        """Hash options, face model and known facts."""
        return hashlib.sha256(json.dumps([self.prepared_with(), asdict(self.known)]).encode()).hexdigest()[:16]

    def prepared_with(self) -> dict[str, Any]:
        """Return the settings shared by the dataset."""
        return settings_of(self.options, self.model)


class CannotSave(OSError):
    """The dataset folder is not writable."""


@lru_cache(maxsize=2)
def load_face_model(model: Path) -> tuple[FaceModel, str]:
    """Load the face model and its fingerprint, cached."""
    face_model = FaceModel.from_pretrained(model / "face_model")
    return face_model, fingerprint(face_model)


def settings_of(options: Options, model: Path) -> dict[str, Any]:
    """Return what all clips of a dataset must share."""
    return options.as_dict() | {"face_model": load_face_model(model)[1], "tracks": TRACKS}


def prepare_video(job: Job) -> dict[str, Any]:
    """Prepare one video: write shards, then the record.

    Args:
        job (`Job`): The video and how to prepare it.

    Returns:
        `dict`: Numbers of `frames`, and of stretches `kept` and `dropped`.

    Raises:
        CannotSave: If the dataset cannot be written. Faults of the video become a row of its record.
    """
    cv2.setNumThreads(1)  # one job a core: more threads would only take turns
    torch.set_num_threads(1)
    frames = 0
    try:
        # 1. Find the faces, and choose whom to keep.
        tracking = track_faces(job.video, job.bundle)
        frames = tracking.frames
        sound = _sound(job)
        listener = None if sound is None else LipReader.load(job.model).listen(sound)
        segments, rows = choose_segments(tracking, job.options, load_face_model(job.model)[0], listener)
        # 2. Crop, track again, decide about the sound, and write.
        rows += _write_clips(job, tracking, segments, sound, listener)
    except CannotSave:
        raise
    except (ValueError, OSError, RuntimeError, cv2.error, av.FFmpegError) as error:
        reason = " ".join(str(error).split()).replace(str(job.video), job.video.name)  # a dataset names no folders
        rows = [{"status": "dropped", "reason": reason, "seconds": frames / FPS}]
    write_record(job, rows)
    kept = sum(row["status"] == "kept" for row in rows)
    return {"frames": frames, "kept": kept, "dropped": len(rows) - kept}


def _write_clips(
    job: Job, tracking: Tracking, segments: list[Segment], sound: np.ndarray | None, listener: Listener | None
) -> list[dict[str, Any]]:
    """Crop segments and write the kept ones to shards; returns the rows of all."""
    rows = []
    stamp, (face_model, model_print) = job.stamp(), load_face_model(job.model)
    try:
        with (
            TemporaryDirectory(prefix=".crop-", suffix=".part", dir=job.record.parent) as temporary,
            ShardWriter(job.out, job.key) as shards,
        ):
            cropped = crop_segments(
                job.video, job.bundle, tracking, segments, job.options, face_model, Path(temporary)
            )
            decide_on_speech(segments, tracking, job.known, listener)
            for number, (segment, made) in enumerate(zip(segments, cropped, strict=True)):
                row = _row(job, f"{job.key}-{number:03d}", segment)
                if segment.reason:
                    # The manifest carries the picture of a clip that is in no shard.
                    picture = base64.b64encode(made["jpg"]).decode()
                    row |= {"status": "dropped", "reason": segment.reason, "thumbnail": picture}
                else:
                    files = {"mp4": made["mp4"].read_bytes(), "jpg": made["jpg"]}
                    files["npz"] = encode_track(segment.landmarks_px, segment.fit, model_print, segment.descriptor)
                    files["json"] = json.dumps(stamp | row).encode()
                    if segment.verdict.speech and sound is not None:
                        files["wav"] = _wav(sound, segment)
                    shards.add(row, files)
                rows.append(row)
    except OSError as error:
        raise _cannot_save(job, error) from error
    return rows


def _row(job: Job, key: str, segment: Segment) -> dict[str, Any]:
    verdict = segment.verdict
    row = {
        "status": "kept", "key": key, "speaker": job.known.speaker or speaker_of(job.key),
        "first_frame": segment.run.first, "frames": len(segment.run),
        "seconds": round(len(segment.run) / FPS, 2), "size": segment.size, "crop": list(segment.box),
        "speech": verdict.speech, "av_offset": verdict.av_offset if verdict.speech else None,
        "av_correlation": None if verdict.correlation is None else round(verdict.correlation, 3),
        **segment.measured,
    }  # fmt: skip
    if verdict.note:
        row["note"] = verdict.note
    return row


def _sound(job: Job) -> np.ndarray | None:
    if job.known.speech is False:
        return None
    try:
        return load_speech(job.video)
    except ValueError:
        if job.known.speech:
            raise
        return None


def _wav(sound: np.ndarray, segment: Segment) -> bytes:
    """Encode a segment's shifted sound, padded with silence."""
    first = (segment.run.first - segment.verdict.av_offset) * SAMPLES_PER_FRAME
    stop = first + len(segment.run) * SAMPLES_PER_FRAME
    padded = np.pad(sound, (max(-first, 0), max(stop - len(sound), 0)))
    file = io.BytesIO()
    samples = padded[max(first, 0) :][: stop - first]
    soundfile.write(file, samples, SAMPLING_RATE, format="WAV", subtype="PCM_16")
    return file.getvalue()


# Records


def write_record(job: Job, rows: list[dict[str, Any]]) -> None:
    """Write the record of a video atomically.

    Args:
        job (`Job`): The video.
        rows (`list[dict]`): Its lines of the manifest.

    Raises:
        CannotSave: If it cannot be written.
    """
    stamp = job.stamp()
    record = {
        "digest": job.digest(), "prepared_with": job.prepared_with(), **stamp, "rows": [stamp | row for row in rows],
    }  # fmt: skip
    try:
        write_whole(job.record, json.dumps(record).encode())
    except ValueError as error:
        raise _cannot_save(job, error.__cause__ or error) from error


def read_records(out: Path) -> dict[str, dict[str, Any]]:
    """Read the records of an unfinished run.

    Args:
        out (`Path`): The dataset.

    Returns:
        `dict`: By the video's key: `digest`, `prepared_with`, `source_bytes`, `source_mtime` and `rows`.

    Raises:
        ValueError: If a record is damaged.
    """
    return {path.stem: _read_record(path) for path in sorted((out / UNFINISHED).glob("*.json"))}


def _read_record(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_RECORD + 1)
        record = parse_json(content, MAX_RECORD)
        stamp = ("source", "video", "source_bytes", "source_mtime")
        if not isinstance(record, dict):
            raise ValueError("it is no object")
        check_row({name: record[name] for name in stamp if name in record}, stamp)
        rows, digest = record.get("rows"), record.get("digest")
        if record["video"] != path.stem or not isinstance(digest, str) or not is_flat(record.get("prepared_with")):
            raise ValueError("it is of another video")
        if not isinstance(rows, list):
            raise ValueError("'rows' must be a list")
        for row in rows:
            check_row(row)
            if row.get("video") != path.stem:
                raise ValueError("a clip is of another video")
    except (OSError, ValueError) as error:
        raise ValueError(
            f"The record '{path}' is damaged ({str(error).rstrip('.')}); delete it, so that its video is prepared "
            "again."
        ) from error
    return record


def _cannot_save(job: Job, error: BaseException) -> CannotSave:
    return CannotSave(
        f"'{job.out}' cannot be written ({why(error)}); make room and run again, finished videos are kept."
    )
