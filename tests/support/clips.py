"""A made-up speaker: the example portrait, warped to turn, nod and open its mouth in time with its sound."""

from pathlib import Path

import numpy as np

from osmnet.data.dataset import speaker_of
from osmnet.data.manifest import write_manifest
from osmnet.data.shards import ShardWriter, encode_track, fingerprint
from osmnet.face.crop import crop_box, extract, to_crop
from osmnet.face.landmarker import FaceLandmarker
from osmnet.face.morphable import FaceModel
from osmnet.face.pose import similarity_from_pose
from osmnet.face.topology import INNER_LIPS, LOWER_LIP, OUTER_LIPS, UPPER_LIP
from osmnet.face.warp import MeshWarp
from osmnet.loading.packaged import packaged_landmarker
from osmnet.media.audio import load_speech
from osmnet.media.image import load_portrait
from osmnet.media.video_reader import read_frames
from osmnet.media.video_writer import VideoWriter
from tests.support.dummies import FACE_MODEL, REPOSITORY

SIZE, SAMPLES = 320, 640  # pixels of a side, samples of sound a frame


def mouth_curve(frames: int = 50, rate: float = 2.0) -> np.ndarray:
    """How far the mouth opens, `(frames,)` head units: `rate` syllables a second."""
    return 0.22 * np.clip(np.sin(2 * np.pi * rate * np.arange(frames) / 25), 0, 1)


def pose_curve(frames: int = 50) -> np.ndarray:
    """How the head turns, `(frames, 3)` radians of yaw, pitch and roll."""
    seconds = np.arange(frames) / 25
    return np.stack([0.12 * np.sin(4.8 * seconds), 0.08 * np.sin(7 * seconds), 0.05 * np.sin(5 * seconds)], 1)


def talking_frames(opening: np.ndarray, turn: np.ndarray | None = None, portrait: str = "astronaut") -> np.ndarray:
    """Frames `(frames, 320, 320, 3)` of a portrait whose mouth opens as `opening` says and whose head turns."""
    name = {"astronaut": "portrait_astronaut.jpg", "hopper": "portrait_hopper.jpg"}[portrait]
    picture = load_portrait(REPOSITORY / "examples" / name)
    model = FaceModel.from_pretrained(FACE_MODEL)
    with FaceLandmarker(packaged_landmarker()) as landmarker:
        landmarks = landmarker.detect(picture)[0]
    box = crop_box(landmarks, *picture.shape[:2])
    crop = extract(picture, box, SIZE)
    fit = model.fit(to_crop(landmarks, box, SIZE), SIZE)
    # The jaw: everything below the lips, but not the upper lip.
    down = np.clip((fit.shape[:, 1] - fit.shape[[UPPER_LIP, LOWER_LIP], 1].mean()) / 0.12, 0, 1)
    down *= np.clip(1.6 - np.abs(fit.shape[:, 0] - fit.shape[UPPER_LIP, 0]) / 0.4, 0, 1)
    down[INNER_LIPS[1:10]] = 1
    down[[*INNER_LIPS[10:], *OUTER_LIPS[10:], INNER_LIPS[0], OUTER_LIPS[0]]] = 0
    shape = np.repeat(fit.shape[None], len(opening), 0)
    shape[..., 1] += opening[:, None] * down
    pose = np.repeat(fit.head_pose[None], len(opening), 0)
    pose[:, :3] += pose_curve(len(opening)) if turn is None else turn
    return MeshWarp(crop, fit.shape, fit.similarity)(shape, similarity_from_pose(pose, SIZE))


def voice(opening: np.ndarray, seed: int = 0) -> np.ndarray:
    """Bursts of noise as loud as the mouth is open, `(frames * 640,)` at 16 kHz."""
    noise = np.random.default_rng(seed).standard_normal(len(opening) * SAMPLES)
    return (0.3 * noise * np.repeat(opening / 0.22 + 0.01, SAMPLES)).astype(np.float32)


def talking_video(path: Path, frames: int = 50, portrait: str = "astronaut", rate: float = 2.0) -> Path:
    """Write a video of the made-up speaker with its voice."""
    opening = mouth_curve(frames, rate)
    with VideoWriter(path, (SIZE, SIZE), waveform=voice(opening)) as writer:
        writer.write(talking_frames(opening, portrait=portrait))
    return path


def talking_landmarks(opening: np.ndarray, turn: np.ndarray, size: int) -> np.ndarray:
    """Landmarks `(frames, 478, 3)`, in pixels, of the mean face with such a mouth and such angles."""
    shape = np.repeat(FaceModel.from_pretrained(FACE_MODEL).array("mean_shape")[None], len(opening), 0)
    lips = np.unique([*OUTER_LIPS, *INNER_LIPS])
    shape[:, lips[shape[0, lips, 1] > shape[0, UPPER_LIP, 1] + 0.01], 1] += opening[:, None]
    return similarity_from_pose(np.concatenate([turn, np.zeros_like(turn)], 1), size).place(shape).astype(np.float32)


def dataset_of(
    video: Path, out: Path, names: tuple[str, ...], speech: bool = True, landmarks: np.ndarray | None = None
) -> Path:
    """A prepared dataset without `osmnet prepare`: one video, whole, under several names."""
    model = FaceModel.from_pretrained(FACE_MODEL)
    frames = list(read_frames(video))
    if landmarks is None:
        with FaceLandmarker(packaged_landmarker(), mode="video") as landmarker:
            landmarks = np.stack([landmarker.detect(frame)[0] for frame in frames])
    size = frames[0].shape[0]
    waveform = load_speech(video)
    waveform = np.pad(waveform, (0, max(len(frames) * SAMPLES - len(waveform), 0)))[: len(frames) * SAMPLES]
    files = {
        "mp4": video.read_bytes(),
        "npz": encode_track(landmarks, model.fit_track(landmarks, size), fingerprint(model)),
        "json": b"{}",
    }
    if speech:
        files["wav"] = _wav(waveform)
    rows = []
    with ShardWriter(out, video.stem) as writer:
        for name in names:
            row = {"status": "kept", "key": name, "source": video.name, "speaker": speaker_of(name), "size": size,
                   "frames": len(frames), "speech": speech, "av_offset": 0}  # fmt: skip
            writer.add(row, files)
            rows.append(row)
    write_manifest(out, rows)
    return out


def _wav(waveform: np.ndarray) -> bytes:
    import io

    import soundfile

    file = io.BytesIO()
    soundfile.write(file, waveform, 16_000, format="WAV", subtype="PCM_16")
    return file.getvalue()
