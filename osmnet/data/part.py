"""One video to clips: what a worker of `osmnet prepare` does, on this machine or on another.

What becomes of a video is its part: a tar with `rows.json` (the lines of the manifest, kept and dropped) and the files
of its clips. It appears under its name only when it is whole: a run that was killed goes on with the videos that have
none.
"""

import base64
import hashlib
import io
import json
import secrets
import tarfile
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import soundfile
import torch

from osmnet.data.dataset import speaker_of
from osmnet.data.offset import LipReader
from osmnet.data.segments import Known, Options, Segment, choose_segments, crop_segments
from osmnet.data.shards import encode_track, fingerprint
from osmnet.data.track import track_faces
from osmnet.face.morphable import FaceModel
from osmnet.media.audio import FPS, SAMPLES_PER_FRAME, SAMPLING_RATE, load_speech

ROWS = "rows.json"


@dataclass(frozen=True)
class Job:
    """One video to prepare.

    Attributes:
        video (`Path`): The video.
        key (`str`): Its name in the dataset.
        part (`Path`): The file to make.
        model (`Path`): Folder of the face model and, if it has one, the expression extractor.
        bundle (`Path`): The face landmarker.
        options (`Options`): What is kept.
        known (`Known`): What is known of it.
    """

    video: Path
    key: str
    part: Path
    model: Path
    bundle: Path
    options: Options = field(default_factory=Options)
    known: Known = field(default_factory=Known)

    def stamp(self) -> dict[str, Any]:
        """What tells a changed video from the one that was prepared."""
        stat = self.video.stat()
        return {
            "source": self.video.name, "video": self.key, "source_bytes": stat.st_size,
            "source_mtime": stat.st_mtime_ns,
        }  # fmt: skip

    def digest(self) -> str:
        """What else decides about the result: the options, the face model and what is known."""
        return hashlib.sha256(json.dumps([self.prepared_with(), asdict(self.known)]).encode()).hexdigest()[:16]

    def prepared_with(self) -> dict[str, Any]:
        """What all videos of a dataset share."""
        return self.options.as_dict() | {"face_model": load_face_model(self.model)[1]}


class CannotSave(OSError):
    """The dataset's folder cannot be written: no fault of the video."""


@lru_cache(maxsize=2)
def load_face_model(model: Path) -> tuple[FaceModel, str]:
    """Load the face model of a folder once a process, and its fingerprint."""
    face_model = FaceModel.from_pretrained(model / "face_model")
    return face_model, fingerprint(face_model)


def prepare_video(job: Job) -> dict[str, Any]:
    """Prepare one video and write its part.

    Args:
        job (`Job`): The video and what to do with it.

    Returns:
        `dict`: Numbers of `frames`, and of stretches `kept` and `dropped`; a `reason` if the whole video was dropped.

    Raises:
        CannotSave: If the part cannot be written. Whatever is wrong with the video itself is a row of the part.
    """
    cv2.setNumThreads(1)  # one job a core: more threads inside a job would only take turns
    torch.set_num_threads(1)
    stamp = job.stamp()
    frames, reason = 0, ""
    files: dict[str, dict[str, bytes]] = {}
    try:
        tracking = track_faces(job.video, job.bundle)
        frames = tracking.frames
        sound = _sound(job)
        face_model, model_print = load_face_model(job.model)
        segments, rows = choose_segments(
            tracking, sound, job.options, job.known, face_model, lambda: LipReader.load(job.model)
        )
        try:
            crop_segments(job.video, tracking, segments, job.options, job.part.parent)
        except OSError as error:
            raise _cannot_save(job.part.parent, error) from error
        for number, segment in enumerate(segments):
            key = f"{job.key}-{number:03d}"
            row = _row(job, key, segment)
            if row["status"] == "kept":
                files[key] = segment.files | {
                    "npz": encode_track(segment.landmarks_px, segment.fit, model_print),
                    "json": json.dumps(stamp | row).encode(),
                }
                if segment.verdict.speech and sound is not None:
                    files[key]["wav"] = _wav(sound, segment)
            rows.append(row)
    except CannotSave:
        raise
    except (ValueError, OSError, RuntimeError, cv2.error, av.FFmpegError) as error:  # the other videos go on
        reason = " ".join(str(error).split()).replace(str(job.video), job.video.name)  # a dataset tells no folders
        rows, files = [{"status": "dropped", "reason": reason, "seconds": frames / FPS}], {}
    write_part(job, [stamp | row for row in rows], files)
    kept = sum(row["status"] == "kept" for row in rows)
    return {"frames": frames, "kept": kept, "dropped": len(rows) - kept, "reason": reason}


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
    if segment.reason:
        # The manifest carries the picture of what is in no shard.
        picture = base64.b64encode(segment.files["jpg"]).decode()
        row |= {"status": "dropped", "reason": segment.reason, "thumbnail": picture}
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
    """The sound of a segment, moved so that it fits the picture; silence beyond its ends."""
    first = (segment.run.first - segment.verdict.av_offset) * SAMPLES_PER_FRAME
    stop = first + len(segment.run) * SAMPLES_PER_FRAME
    padded = np.pad(sound, (max(-first, 0), max(stop - len(sound), 0)))
    file = io.BytesIO()
    samples = padded[max(first, 0) :][: stop - first]
    soundfile.write(file, samples, SAMPLING_RATE, format="WAV", subtype="PCM_16")
    return file.getvalue()


# The part's file


def write_part(job: Job, rows: list[dict[str, Any]], files: dict[str, dict[str, bytes]]) -> None:
    """Write a part under its name when it is whole.

    Args:
        job (`Job`): Of which it is.
        rows (`list[dict]`): Lines of the manifest.
        files (`dict`): For each clip that is kept its contents by ending.

    Raises:
        CannotSave: If it cannot be written.
    """
    temporary = job.part.with_name(f".{job.part.name}.{secrets.token_hex(4)}.tmp")
    about = {"digest": job.digest(), "prepared_with": job.prepared_with(), **job.stamp(), "rows": rows}
    members = {ROWS: json.dumps(about).encode()}
    members |= {f"{key}.{ending}": content for key in files for ending, content in files[key].items()}
    try:
        with temporary.open("wb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        temporary.replace(job.part)
    except OSError as error:
        raise _cannot_save(job.part.parent, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def part_head(path: Path) -> dict[str, Any]:
    """Read what a part says of its video: `digest`, `source_bytes`, `source_mtime`, `rows`."""
    with tarfile.open(path) as tar:
        return json.loads(_content(tar, ROWS))


def _content(tar: tarfile.TarFile, member: str | tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    return file.read() if file is not None else b""


def part_files(path: Path) -> dict[str, dict[str, bytes]]:
    """Read the files of a part: for each clip its contents by ending."""
    files: dict[str, dict[str, bytes]] = {}
    with tarfile.open(path) as tar:
        for member in tar:
            if member.name != ROWS:
                key, _, ending = member.name.rpartition(".")
                files.setdefault(key, {})[ending] = _content(tar, member)
    return files


def _cannot_save(folder: Path, error: Exception) -> CannotSave:
    reason = getattr(error, "strerror", None) or str(error)
    return CannotSave(f"'{folder}' cannot be written ({reason}); make room and run again, finished videos are kept.")
