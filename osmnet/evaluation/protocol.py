"""The papers' protocol: animate a clip's first frame with its sound and compare every frame.

Four videos of a clip, at 256 px: `ours` (ε = 0, no blinks), `static` (the first frame), `oracle` (true pose and
expression, our renderer) and `real`. How far the tracker that judges them is from itself is measured on
two more (`FLOORS`): the real frames compressed, and mirrored.
"""

import tempfile
from dataclasses import dataclass
from itertools import chain, islice, repeat
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from osmnet.data.dataset import Clip
from osmnet.evaluation.metrics import image_quality as image
from osmnet.evaluation.metrics import lips
from osmnet.evaluation.metrics.fid import inception_features, load_inception
from osmnet.evaluation.metrics.flicker import flicker, outside_head
from osmnet.evaluation.metrics.identity import identity_distance, neutral_shape
from osmnet.evaluation.metrics.motion_statistics import diversity_deg
from osmnet.evaluation.metrics.sync import JUDGE_FOLDER, SyncJudge, judge_score, load_sync_judge
from osmnet.evaluation.metrics.syncnet import SyncNet, load_syncnet, syncnet_score
from osmnet.face.crop import CropBox, extract
from osmnet.face.landmarker import SETTLING, FaceLandmarker
from osmnet.face.morphable import FaceFit, FaceModel
from osmnet.face.topology import OVAL, mouth_opening, mouth_width
from osmnet.loading.packaged import packaged_weights
from osmnet.media.audio import FPS, SAMPLES_PER_FRAME, SAMPLING_RATE
from osmnet.media.features import speech_activity
from osmnet.media.video_reader import read_frames
from osmnet.media.video_writer import VideoWriter
from osmnet.rendering.select import renderer_for
from osmnet.structures import Source

if TYPE_CHECKING:
    from osmnet.pipelines.osm_net.pipeline_osm_net import OSMNetPipeline
from osmnet.structures import Speech

MILLI = 1000  # reports give head units in thousandths
SIZE = 256  # px; the paper's
METHODS = ("ours", "static", "oracle", "real")
FLOORS = ("compressed", "mirrored")  # of real frames: how far the tracker is from itself
FLOOR_CRF = 28  # of x264
MAX_SECONDS = 60.0  # s; four videos of a clip are held in memory
SILENCE_SECONDS, SILENCE_DB = 3.0, -50.0
STRIP_COLUMNS, STRIP_SIDE = 6, 160  # frames, px
INCEPTION_STEP = NEUTRAL_STEP = 5  # frames; neighbours are nearly equal


@dataclass(frozen=True)
class MetricNetworks:
    """Networks of some metrics; `None` if not available.

    Attributes:
        sync (`SyncJudge`, *optional*): The sync judge in the package.
        syncnet (`SyncNet`, *optional*): Published weights, for LSE-C, LSE-D and AV offset.
        inception (`torch.jit.ScriptModule`, *optional*): Published weights, for FID.
    """

    sync: SyncJudge | None
    syncnet: SyncNet | None
    inception: torch.jit.ScriptModule | None

    @classmethod
    def load(cls, syncnet: str | Path | None = None, inception: str | Path | None = None) -> "MetricNetworks":
        """Load the sync judge in the package, and published networks from files.

        Raises:
            ValueError: If one of these files cannot be used.
        """
        # A package without a sync judge is reported; a damaged one is a broken installation.
        judge = load_sync_judge() if (packaged_weights() / JUDGE_FOLDER).is_dir() else None
        return cls(judge, load_syncnet(syncnet) if syncnet else None, load_inception(inception) if inception else None)


@dataclass(frozen=True)
class Track:
    """Tracked face of a video.

    Attributes:
        landmarks_px (`np.ndarray` of shape `(frames, 478, 3)`): Frames without a face repeat the frame before.
        found (`np.ndarray` of shape `(frames,)`): bool, frames in which a face is found.
        fit (`FaceFit`): Pose and shape of every frame.
    """

    landmarks_px: np.ndarray
    found: np.ndarray
    fit: FaceFit

    def __getitem__(self, frames: slice | list[int]) -> "Track":
        fit, pose = self.fit, self.fit.similarity
        similarity = type(pose)(*(part[frames] for part in pose))
        part = FaceFit(fit.shape[frames], fit.identity, fit.expression[frames], fit.head_pose[frames], similarity)
        return Track(self.landmarks_px[frames], self.found[frames], part)


@dataclass
class ClipResult:
    """Figures and pictures of one clip.

    Attributes:
        name (`str`): Name of the clip.
        seconds (`float`): Length that was evaluated.
        metrics (`dict[str, dict[str, float]]`): Figures by method and metric; undefined ones are NaN or missing.
        curves (`dict[str, np.ndarray]`): Mouth opening in head units by method; NaN without a face.
        strips (`dict[str, np.ndarray]`): Frames `(6, 160, 160, 3)` by method.
        features (`dict[str, np.ndarray]`): Inception features by method; empty without the weights.
    """

    name: str
    seconds: float
    metrics: dict[str, dict[str, float]]
    curves: dict[str, np.ndarray]
    strips: dict[str, np.ndarray]
    features: dict[str, np.ndarray]


def track(frames: np.ndarray, bundle: Path, face_model: FaceModel) -> Track | None:
    """Track the face in a video; `None` if no frame has one.

    Args:
        frames (`np.ndarray` of shape `(frames, size, size, 3)`): The video, uint8 RGB.
        bundle (`Path`): The face landmarker.
        face_model (`FaceModel`): The linear face model.
    """
    # The first answer depends on the detector; after some copies of the first frame it has settled.
    found: list[np.ndarray | None] = []
    with FaceLandmarker(bundle, mode="video") as landmarker:
        for frame in chain(repeat(frames[0], SETTLING), frames):
            faces = landmarker.detect(frame)
            found.append(faces[0] if faces else None)
    found = found[SETTLING:]
    last = next((face for face in found if face is not None), None)
    if last is None:
        return None
    filled = [last := (face if face is not None else last) for face in found]
    landmarks = np.stack(filled)
    seen = np.array([face is not None for face in found])
    return Track(landmarks, seen, face_model.fit_track(landmarks, frames.shape[1]))


def compressed(frames: np.ndarray) -> np.ndarray:
    """Compress a video `(frames, size, size, 3)` as a poor web video, and decode it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "compressed.mp4"
        with VideoWriter(path, frames.shape[1:3], FPS, crf=FLOOR_CRF, threads=1) as writer:
            writer.write(frames)
        return np.stack(list(read_frames(path)))


def track_mirrored(frames: np.ndarray, bundle: Path, face_model: FaceModel) -> Track | None:
    """Track the mirror image of a video, and mirror the track back."""
    found = track(frames[:, :, ::-1], bundle, face_model)
    if found is None:
        return None
    size = frames.shape[1]
    landmarks = found.landmarks_px[:, face_model.array("mirror").astype(int)] * np.float32([-1, 1, 1])
    landmarks[..., 0] += size
    return Track(landmarks, found.found, face_model.fit_track(landmarks, size))


def source_of(clip: Clip, first: np.ndarray, face_model: FaceModel) -> Source:
    """Make the first frame `(256, 256, 3)` the portrait, uncropped."""
    landmarks = clip.landmarks_px()[0] * (SIZE / clip.size)
    return Source(first, first, CropBox(0, 0, SIZE), face_model.fit(landmarks, SIZE), full_frame=False)


def render_ours(pipe: "OSMNetPipeline", source: Source, speech: "Speech") -> np.ndarray:
    """Render the centre motion without blinks, `(frames, 256, 256, 3)`."""
    motion = pipe.sample_motion(speech, epsilon=0.0, blink=False)
    return np.concatenate([chunk[0] for chunk in pipe.render(source, motion)])


def render_oracle(pipe: "OSMNetPipeline", source: Source, fit: FaceFit, frames: int) -> np.ndarray:
    """Render the clip's own pose and change of expression, `(frames, 256, 256, 3)`."""
    expression = source.fit.expression + fit.expression[:frames] - fit.expression[0]
    renderer = renderer_for(source, pipe.face_model, pipe.video_generator)
    chunks = renderer(fit.head_pose[None, :frames], expression.astype(np.float32))
    return np.concatenate([chunk[0] for chunk in chunks])


def face_boxes(landmarks_px: np.ndarray, size: int) -> np.ndarray:
    """Return boxes around faces `(frames, 478, 3)`, at least 16 px wide and high.

    `(frames, 4)` whole pixels: left, top, right, bottom.
    """
    oval = landmarks_px[:, OVAL, :2]
    low = np.clip(np.floor(oval.min(1)), 0, size - 16).astype(int)
    return np.concatenate([low, np.clip(np.ceil(oval.max(1)).astype(int), low + 16, size)], 1)


def room_noise(seconds: float = SILENCE_SECONDS, level_db: float = SILENCE_DB) -> np.ndarray:
    """Make a silent recording `(samples,)` of faint noise; digital silence is refused."""
    noise = np.random.default_rng(0).standard_normal(round(seconds * SAMPLING_RATE))
    return (10 ** (level_db / 20) * noise).astype(np.float32)


def evaluate_clip(
    pipe: "OSMNetPipeline",
    clip: Clip,
    networks: MetricNetworks,
    max_seconds: float = MAX_SECONDS,
    with_floors: bool = True,
) -> ClipResult:
    """Render and track a clip by every method, and compute all metrics.

    Args:
        pipe (`OSMNetPipeline`): The model.
        clip (`Clip`): A clip with speech.
        networks (`MetricNetworks`): Networks of some metrics.
        max_seconds (`float`): Longest part of the clip, from its beginning.
        with_floors (`bool`): Whether to measure `FLOORS`.

    Returns:
        `ClipResult`: Figures as in docs/evaluation.md, and pictures.

    Raises:
        ValueError: If the clip cannot be read, or has no face or no sound.
    """
    # 1. Read the clip.
    count = min(clip.frames, int(max_seconds * FPS))
    real = np.stack([extract(frame, CropBox(0, 0, clip.size), SIZE) for frame in islice(clip.read_frames(), count)])
    waveform = clip.speech()[: len(real) * SAMPLES_PER_FRAME]
    speech = pipe.encode_speech(waveform, SAMPLING_RATE)
    count = min(len(real), speech.num_frames)
    if count < 2 * lips.MAX_LAG + 3:
        raise ValueError(f"it is only {count} frames long.")
    real = real[:count]

    # 2. Render and track every method.
    source = source_of(clip, real[0], pipe.face_model)
    videos = {
        "ours": render_ours(pipe, source, speech)[:count],
        "static": np.broadcast_to(real[:1], real.shape),
        "oracle": render_oracle(pipe, source, clip.fit(pipe.face_model), count),
        "real": real,
    }
    tracks = {
        method: track(frames, pipe._bundle(), pipe.face_model)
        for method, frames in videos.items() if method != "static"
    }  # fmt: skip
    real_track = tracks["real"]
    if real_track is None:
        raise ValueError("no face is found in the clip itself, at 256 pixels.")
    tracks["static"] = real_track[[0] * count]

    # 3. Measure.
    activity = speech_activity(waveform)[:count]
    # One outside for all methods: a head that covers less must not be measured on other pixels.
    heads = np.concatenate([each.landmarks_px for each in tracks.values() if each is not None])
    outside = outside_head(heads, SIZE, SIZE)
    neutral = neutral_shape(real_track.landmarks_px[:1], pipe.face_model)
    metrics: dict[str, dict[str, float]] = {}
    curves = {method: np.full(count, np.nan, np.float32) for method in METHODS}
    for method in METHODS:
        frames, found = videos[method], tracks[method]
        metrics[method] = _pictures(frames, real, real_track.landmarks_px, method)
        metrics[method] |= {"flicker": flicker(frames, outside), "faces_found": 0.0}
        if found is None:  # picture metrics still count: a model must not gain by destroying a face
            continue
        curves[method] = mouth_opening(found.fit.shape).astype(np.float32)
        shape = neutral_shape(found.landmarks_px[::NEUTRAL_STEP], pipe.face_model)
        metrics[method] |= (
            _landmarks(found, real_track, activity, method)
            | {"identity": MILLI * identity_distance(shape, neutral)}
            | _sync(frames, found, waveform, networks, method)
        )
    if with_floors:
        for floor, found in _floors(real, pipe).items():
            metrics[floor] = {} if found is None else _landmarks(found, real_track, activity, floor)
    metrics["ours"]["silent_recording_motion"] = _motion_without_speech(pipe, source)
    metrics["static"]["silent_recording_motion"] = 0.0
    features = {}
    if networks.inception is not None:
        features = {
            method: inception_features(networks.inception, frames[::INCEPTION_STEP])
            for method, frames in videos.items()
        }
    strips = {method: _strip(frames) for method, frames in videos.items()}
    return ClipResult(clip.name, count / FPS, metrics, curves, strips, features)


def _floors(real: np.ndarray, pipe: "OSMNetPipeline") -> dict[str, Track | None]:
    bundle, face_model = pipe._bundle(), pipe.face_model
    return {
        "compressed": track(compressed(real), bundle, face_model),
        "mirrored": track_mirrored(real, bundle, face_model),
    }


def _motion_without_speech(pipe: "OSMNetPipeline", source: Source) -> float:
    silence = pipe.encode_speech(room_noise(), SAMPLING_RATE)
    still = track(render_ours(pipe, source, silence), pipe._bundle(), pipe.face_model)
    return float("nan") if still is None else MILLI * float(np.abs(np.diff(mouth_opening(still.fit.shape))).mean())


def _pictures(frames: np.ndarray, real: np.ndarray, landmarks_px: np.ndarray, method: str) -> dict[str, float]:
    figures = {"cpbd": float(image.cpbd(frames[:1] if method == "static" else frames).mean())}
    if method == "real":
        return figures
    faces = [  # of one frame each, since their sizes differ
        (real[i : i + 1, y0:y1, x0:x1], frames[i : i + 1, y0:y1, x0:x1])
        for i, (x0, y0, x1, y1) in enumerate(face_boxes(landmarks_px, SIZE))
    ]
    return figures | {
        "ssim": float(image.ssim(real, frames).mean()),
        "psnr": float(image.psnr(real, frames).mean()),
        "ssim_face": float(np.mean([image.ssim(*pair) for pair in faces])),
        "psnr_face": float(np.mean([image.psnr(*pair) for pair in faces])),
        "sharpness": image.sharpness_ratio(real, frames[:1] if method == "static" else frames),
    }


def _landmarks(fake: Track, real: Track, activity: np.ndarray, method: str) -> dict[str, float]:
    opening, width = mouth_opening(fake.fit.shape), mouth_width(fake.fit.shape)
    figures = {
        "silence_motion": MILLI * lips.change_in_silence(opening, activity),
        "diversity": diversity_deg(fake.fit.head_pose),
        "faces_found": float(fake.found.mean()),
    }
    if method == "real":
        return figures
    true_opening, true_width = mouth_opening(real.fit.shape), mouth_width(real.fit.shape)
    correlation, lag = lips.best_correlation(opening, true_opening)
    moves = not np.isnan(correlation)
    scale = lips.eye_distance(real.landmarks_px)
    mouth_px = lips.landmark_distance(fake.landmarks_px, real.landmarks_px, lips.LIPS)
    face_px = lips.landmark_distance(fake.landmarks_px, real.landmarks_px)
    return figures | {
        "lmd_mouth_px": mouth_px,
        "lmd_face_px": face_px,
        "lmd_mouth": mouth_px / scale,
        "lmd_face": face_px / scale,
        "lmd_lips": MILLI * lips.landmark_distance(fake.fit.shape, real.fit.shape, lips.LIPS),
        "opening_correlation": correlation,
        "opening_lag": float(lag) if moves else float("nan"),
        "width_correlation": lips.best_correlation(width, true_width)[0],
        "amplitude": lips.amplitude_ratio(opening, true_opening),
    }


def _sync(
    frames: np.ndarray, fake: Track, waveform: np.ndarray, networks: MetricNetworks, method: str
) -> dict[str, float]:
    figures: dict[str, float] = {}
    if networks.sync is not None:
        score = judge_score(networks.sync, fake.landmarks_px, waveform)
        figures |= dict(zip(("judge_distance", "judge_confidence", "judge_offset"), map(float, score), strict=True))
    if networks.syncnet is not None:
        score = syncnet_score(networks.syncnet, frames, fake.landmarks_px, waveform)
        figures |= dict(zip(("lse_d", "lse_c", "av_offset"), map(float, score), strict=True))
    if method == "static":  # a face that never moves has no offset
        figures |= {name: float("nan") for name in ("judge_offset", "av_offset") if name in figures}
    return figures


def _strip(frames: np.ndarray) -> np.ndarray:
    columns = np.linspace(0, len(frames) - 1, STRIP_COLUMNS).astype(int)
    return np.stack([extract(frames[i], CropBox(0, 0, SIZE), STRIP_SIDE) for i in columns])  # (6, 160, 160, 3)
