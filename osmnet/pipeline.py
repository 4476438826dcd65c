"""`OSMNetPipeline`: a portrait and speech in, as many different talking-head videos as you ask for out."""

import json
import math
import os
import platform
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter1d, maximum_filter1d
from tqdm import tqdm

import osmnet
from osmnet.face.crop import CropBox, crop_box, extract, to_crop
from osmnet.face.landmarker import FaceLandmarker
from osmnet.face.morphable import FaceModel
from osmnet.face.motion_track import head_motion_of
from osmnet.face.topology import OVAL, eye_opening
from osmnet.limits import MAX_EPSILON, MAX_OFFSET_DEG, MAX_SCALE, MAX_SIZE, MAX_VIDEOS, MIN_SIZE
from osmnet.media.audio import FPS, load_speech, mel_windows, speech_activity
from osmnet.media.image import load_portrait
from osmnet.media.sheet import MAX_TAKES, contact_sheet
from osmnet.media.video import VideoWriter
from osmnet.models.expression import ExpressionExtractor
from osmnet.models.motion import (
    AudioMotionEncoder,
    MotionDecoder,
    MotionEncoder,
    MotionSpace,
    clip_frames,
    compose_clips,
)
from osmnet.models.video_generator import VideoGenerator
from osmnet.pipeline_utils import PipelineLoader
from osmnet.renderer import CHUNK, Renderer, Source

DEFAULT_SIZE = 256  # of the square, where the whole picture is not asked for
MAX_CROP = 768  # largest square rendered within a whole picture; larger pictures are scaled down
MAX_FRAME = 1280  # of a whole picture: no more pixels than a square of this side
MAX_PICTURE = 4096  # longest side that is looked at: small faces in large pictures need it
DETECTION_SIZE = 512  # the second, finer look at the face
MIN_FACE_PX = 48
MAX_OUTSIDE = 0.2  # share of the face's outline that may lie outside the picture
SURE_FIT = 0.04  # head units; upright faces misfit the mean face by 0.01 to 0.04, those on their head by 0.04 to 0.08
# How sampled clips become a path (measured against real motion in docs/experiments.md).
CLIP_CORRELATION, PULL, SMOOTHING = 0.8, 0.085, 1.2
PAUSE = 9  # frames; shorter silences do not close the mouth
SMILE_KEPT = 0.5  # of the portrait's own expression around the mouth; all of it would talk through a grin
LIDS_MEET = 0.95  # lids move on a curve: a straight way of their whole distance carries the upper past the lower
# Sampled motion stays below these turns [rad] and translations [head units]: further than people move while they speak
# to a camera, and further than the square around the head leaves room for.
MAX_MOTION = (*3 * (math.radians(30),), 0.45, 0.35, 1.2)
MAX_TURN_DEG = 45.0  # of a head in all, where it began nearer: past it the warp has nothing left to show
SHEET_COLUMNS, SHEET_SIDE = 8, 192
TAKES_AT_ONCE = 4  # encoders that run side by side
COMMENT = "AI-generated talking head, made with osmnet {version}"

HeadTurn = float | Sequence[float] | np.ndarray


@dataclass(frozen=True)
class Speech:
    """Speech, encoded once.

    Attributes:
        waveform (`np.ndarray` of shape `(samples,)`): Mono, 16 kHz.
        mel_windows (`np.ndarray` of shape `(frames, 16, 16)`): Log-mel window of each video frame.
        activity (`np.ndarray` of shape `(frames,)`): 0 in silence, 1 in speech.
        center (`torch.Tensor` of shape `(clips, motion_dim)`): F_c of every clip.
    """

    waveform: np.ndarray
    mel_windows: np.ndarray
    activity: np.ndarray
    center: torch.Tensor

    @property
    def num_frames(self) -> int:
        """Frames of video at 25 fps."""
        return len(self.mel_windows)


@dataclass(frozen=True)
class Motion:
    """Sampled head motion of some takes, before any picture is made.

    Attributes:
        head_pose (`np.ndarray` of shape `(num_videos, frames, 6)`): Poses relative to the portrait's: yaw, pitch, roll
            [rad], tx, ty, tz [head units]; float32.
        blink (`np.ndarray` of shape `(num_videos, frames)`): How far the lids are closed, 0 to 1.
        speech (`Speech`): What is said.
        seeds (`tuple[int, ...]`): For each take the seed that makes it again on its own.
        epsilon (`float`): Radius ε.
        sampling (`str`): `"span"`, `"ball"`, `"still"` or `"video"`.
    """

    head_pose: np.ndarray
    blink: np.ndarray
    speech: Speech
    seeds: tuple[int, ...]
    epsilon: float
    sampling: str

    @property
    def num_videos(self) -> int:
        """Number of takes."""
        return len(self.head_pose)

    def take(self, takes: slice) -> "Motion":
        """Some of the takes."""
        return replace(self, head_pose=self.head_pose[takes], blink=self.blink[takes], seeds=self.seeds[takes])


@dataclass
class OSMNetPipelineOutput:
    """What the pipeline returns.

    Attributes:
        frames (`np.ndarray` of shape `(num_videos, frames, height, width, 3)`): uint8; a list of lists of PIL images
            with `output_type="pil"`, `None` with `"lazy"`: then `save` renders while it writes.
        head_pose (`np.ndarray` of shape `(num_videos, frames, 6)`): Yaw, pitch, roll [rad], tx, ty, tz [head units],
            absolute in the source camera (docs/conventions.md); float32.
        expression (`np.ndarray` of shape `(frames, 64)`): β of every frame without blinks; float32.
        motion (`Motion`): What was sampled.
        source (`Source`): The encoded portrait.
        model (`str`): Which weights were used.
        seed (`int`, *optional*): Seed of the generator given; `None` if it had been drawn from before, for then its
            seed alone does not make these takes again (`motion.seeds` do).
    """

    frames: Any
    head_pose: np.ndarray
    expression: np.ndarray
    motion: Motion
    source: Source
    model: str
    seed: int | None
    _render: Callable[[Motion], Iterator[np.ndarray]] = field(repr=False)

    def save(
        self,
        folder: str | os.PathLike[str],
        sheet: bool = True,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Path]:
        """Write `take-1.mp4` … `take-N.mp4` with `take-i.json` beside each, and `sheet.png`.

        Every file appears under its name only when it is whole.

        Args:
            folder (`str` or `os.PathLike`): Made if it is not there.
            sheet (`bool`): Also draw a contact sheet of all takes with their pose curves.
            progress (`Callable`, *optional*): Called with the frames done and the frames in all.

        Returns:
            `list[Path]`: The files, in the order above.

        Raises:
            ValueError: If the folder cannot be written.
        """
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"The folder '{folder}' cannot be made ({error.strerror}); choose another.") from error
        count, frames = self.head_pose.shape[:2]
        columns = np.unique(np.linspace(0, frames - 1, SHEET_COLUMNS + 2).astype(int)[1:-1])
        seen: list[list[np.ndarray]] = [[] for _ in range(count)]
        paths: list[Path] = []
        done = 0
        for first in range(0, count, TAKES_AT_ONCE):
            takes = range(first, min(first + TAKES_AT_ONCE, count))
            videos = [folder / f"take-{take + 1}.mp4" for take in takes]
            with ExitStack() as stack:
                writers = [stack.enter_context(self._writer(path)) for path in videos]
                position = 0
                for chunk in self._chunks(takes):  # (takes, chunk, H, W, 3)
                    for take, writer, images in zip(takes, writers, chunk, strict=True):
                        writer.write(images)
                        for column in columns[(columns >= position) & (columns < position + len(images))]:
                            if take < MAX_TAKES:
                                seen[take].append(_thumbnail(images[column - position]))
                    position += chunk.shape[1]
                    done += chunk.shape[0] * chunk.shape[1]
                    if progress:
                        progress(done, count * frames)
            for take, video in zip(takes, videos, strict=True):
                paths += [video, self._write_json(video.with_suffix(".json"), take)]
        if sheet:
            path = folder / "sheet.png"
            shown = min(count, MAX_TAKES)
            title = f"{count} take{'s' * (count > 1)}, ε = {self.motion.epsilon:g}" + (
                f", seed {self.seed}" if self.seed is not None else ""
            )
            contact_sheet([np.stack(s) for s in seen[:shown]], (columns + 0.5) / FPS, self.head_pose, path, title)
            paths.append(path)
        return paths

    def _chunks(self, takes: range) -> Iterator[np.ndarray]:
        if self.frames is None:
            return self._render(self.motion.take(slice(takes.start, takes.stop)))
        count = self.head_pose.shape[1]
        parts = (slice(start, start + CHUNK) for start in range(0, count, CHUNK))
        return (
            np.stack([[np.asarray(image) for image in self.frames[take][part]] for take in takes]) for part in parts
        )

    def _writer(self, path: Path) -> VideoWriter:
        comment = COMMENT.format(version=osmnet.__version__)
        return VideoWriter(path, self.source.frame_size, FPS, self.motion.speech.waveform, comment=comment)

    def _write_json(self, path: Path, take: int) -> Path:
        pose = self.head_pose[take]
        content = {
            "ai_generated": True,
            "take": take + 1,
            "seed": self.seed,
            "take_seed": self.motion.seeds[take],
            "epsilon": self.motion.epsilon,
            "sampling": self.motion.sampling,
            "model": self.model,
            "fps": FPS,
            "frames": len(pose),
            "head_pose_columns": ["yaw [rad]", "pitch [rad]", "roll [rad]", "tx", "ty", "tz [head units]"],
            "head_pose": [[round(float(value), 5) for value in row] for row in pose],
            "versions": {
                "osmnet": osmnet.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
            "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        temporary = path.with_name(f".{path.name}.part")
        try:
            temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            temporary.replace(path)
        except OSError as error:
            raise ValueError(f"'{path}' cannot be written ({error.strerror}); choose another folder.") from error
        finally:
            temporary.unlink(missing_ok=True)
        return path


class OSMNetPipeline(PipelineLoader):
    """One-to-many talking heads (OSM-Net, arXiv 2309.16148).

    Example:
        >>> pipe = OSMNetPipeline.from_pretrained()
        >>> out = pipe("portrait.jpg", "speech.wav", num_videos=4, generator=torch.Generator().manual_seed(7))
        >>> out.save("out/")
    """

    components_classes: ClassVar[dict[str, str]] = {
        "face_model": "osmnet.face.morphable:FaceModel",
        "motion_encoder": "osmnet.models.motion:MotionEncoder",
        "motion_space": "osmnet.models.motion:MotionSpace",
        "audio_motion_encoder": "osmnet.models.motion:AudioMotionEncoder",
        "motion_decoder": "osmnet.models.motion:MotionDecoder",
        "expression_extractor": "osmnet.models.expression:ExpressionExtractor",
        "video_generator": "osmnet.models.video_generator:VideoGenerator",
    }

    face_model: FaceModel
    motion_encoder: MotionEncoder
    motion_space: MotionSpace
    audio_motion_encoder: AudioMotionEncoder
    motion_decoder: MotionDecoder
    expression_extractor: ExpressionExtractor
    video_generator: VideoGenerator

    def encode_source(
        self,
        portrait: str | os.PathLike[str] | Image.Image | np.ndarray,
        *,
        full_frame: bool = False,
        size: int | None = None,
        face: int | None = None,
    ) -> Source:
        """Find the head in a portrait and fit the face model to it.

        Args:
            portrait (`str`, `os.PathLike`, `PIL.Image.Image` or `np.ndarray`): A picture with a face.
            full_frame (`bool`): Render the whole picture (scaled to at most 1280 × 1280 pixels in all) instead of the
                square around the head.
            size (`int`, *optional*): Side of that square in pixels, 64 to 2048; 256 if not given. Not with
                `full_frame`.
            face (`int`, *optional*): Which face of several, 0 is the largest. Not given: the largest, with a warning
                that says how many there are.

        Returns:
            `Source`: Use it for any number of renderings.

        Raises:
            ValueError: If the picture cannot be used; one sentence says why.
        """
        if size is not None:
            _check_range("size", size, MIN_SIZE, MAX_SIZE, whole=True)
            if full_frame:
                raise ValueError("size is the side of the square; leave it out, or give full_frame=False.")
        picture = load_portrait(portrait, max_side=MAX_PICTURE)
        with FaceLandmarker(self._bundle(), num_faces=8) as landmarker:
            faces = _find_faces(landmarker, picture)
            landmarks = _choose_face(faces, face, picture.shape[:2])
            box = crop_box(landmarks, *picture.shape[:2])
            if full_frame:
                width = picture.shape[1]
                picture, box = _fit_frame(picture, box)
                landmarks = landmarks * (picture.shape[1] / width)
            square = extract(picture, box, DETECTION_SIZE)
            landmarks = _look_again(landmarker, square, box, landmarks)
            _check_upright(landmarker, square, self.face_model, landmarks)
        side = box.side if full_frame else (size or DEFAULT_SIZE)
        fit = self.face_model.fit(to_crop(landmarks, box, side), side)
        for turn, where in zip(np.degrees(np.abs(fit.head_pose[:2])), ("to the side", "up or down"), strict=True):
            if turn > MAX_OFFSET_DEG:
                raise ValueError(
                    f"The face is turned {turn:.0f}° {where}, and past {MAX_OFFSET_DEG:.0f}° too little of it shows; "
                    "use a picture that is nearer to frontal."
                )
        return Source(picture, extract(picture, box, side), box, fit, full_frame, len(faces))

    @torch.inference_mode()
    def encode_speech(
        self, speech: str | os.PathLike[str] | np.ndarray | tuple, sampling_rate: int | None = None
    ) -> Speech:
        """Encode speech: mel windows, activity, and the centre motion feature of every clip (Eq. 4, 5).

        Args:
            speech (`str`, `os.PathLike`, `np.ndarray` or `tuple`): A file with sound, an array, or array and rate.
            sampling_rate (`int`, *optional*): Rate of an array in Hz.

        Returns:
            `Speech`: Use it for any number of takes and portraits.

        Raises:
            ValueError: If there is no usable sound; one sentence says why.
        """
        waveform = load_speech(speech, sampling_rate)
        mel = mel_windows(waveform)
        windows = torch.from_numpy(mel[clip_frames(len(mel), self.motion_decoder.config.clip_length)])
        weights = torch.cat([self.audio_motion_encoder(part.to(self.device)).exp() for part in windows.split(1024)])
        return Speech(waveform, mel, speech_activity(waveform), self.motion_space.reconstruct(weights).float().cpu())

    @torch.inference_mode()
    def sample_motion(
        self,
        speech: Speech,
        *,
        num_videos: int = 1,
        epsilon: float = 1.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        sampling: Literal["span", "ball"] = "span",
        motion_scale: float = 1.0,
        still: bool = False,
        blink: bool = True,
        yaw: HeadTurn = 0.0,
        pitch: HeadTurn = 0.0,
        roll: HeadTurn = 0.0,
        head_motion: str | os.PathLike[str] | None = None,
    ) -> Motion:
        """Sample head motion for some takes: features within ε of the centre, decoded and composed (Eq. 5).

        Args:
            speech (`Speech`): From `encode_speech`.
            num_videos (`int`): Number of takes, 1 to 100.
            epsilon (`float`): Radius ε, 0 to 100: 0 is the most likely motion, the same in every take; 1 holds 95 % of
                real motion.
            generator (`torch.Generator` or a list of them, *optional*): Source of randomness: one for all takes, or
                one for each.
            sampling (`"span" | "ball"`): Towards other learned motions, or in any direction of the feature space.
            motion_scale (`float`): Factor of the sampled movement, 0 to 10.
            still (`bool`): Keep the head still; lips and lids move.
            blink (`bool`): Blink as people do: sound does not tell when.
            yaw (`float` or array of shape `(frames,)`): Added to the head's yaw, radians.
            pitch (`float` or array of shape `(frames,)`): Added to the head's pitch, radians.
            roll (`float` or array of shape `(frames,)`): Added to the head's roll, radians.
            head_motion (`str` or `os.PathLike`, *optional*): A video whose head motion all takes make, instead of
                sampled motion; a shorter one is played back and forth.

        Returns:
            `Motion`: Poses and blinks.

        Raises:
            ValueError: If an argument is out of its range.
        """
        _check_range("num_videos", num_videos, 1, MAX_VIDEOS, whole=True)
        _check_range("epsilon", epsilon, 0, MAX_EPSILON)
        _check_range("motion_scale", motion_scale, 0, MAX_SCALE)
        if sampling not in ("span", "ball"):
            raise ValueError(f"sampling must be 'span' or 'ball', not {sampling!r}.")
        if still and head_motion is not None:
            raise ValueError("still and head_motion exclude each other; leave one out.")
        frames = speech.num_frames
        turns = {"yaw": yaw, "pitch": pitch, "roll": roll}
        offset = np.stack([_curve(name, turn, frames) for name, turn in turns.items()], -1)
        seeds = _take_seeds(generator, num_videos)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        if head_motion is not None:
            how, path = "video", head_motion_of(head_motion, self._bundle(), self.face_model, frames)
            path = np.broadcast_to(path, (num_videos, frames, 6))
        elif still:
            how, path = "still", np.zeros((num_videos, frames, 6), np.float32)
        else:
            how, path = sampling, self._sample_path(speech, epsilon, generators, sampling)
        head_pose = (motion_scale * path).astype(np.float32)
        head_pose[..., :3] += offset
        lids = np.stack([blink_curve(frames, each) if blink else np.zeros(frames, np.float32) for each in generators])
        return Motion(head_pose, lids, speech, seeds, float(epsilon), how)

    def _sample_path(
        self, speech: Speech, epsilon: float, generators: list[torch.Generator], sampling: str
    ) -> np.ndarray:
        decoded = []
        for generator in generators:  # one take at a time: an hour's features of one are 50 MB
            features = self.motion_space.sample(
                speech.center, float(epsilon), generator, sampling=sampling, correlation=CLIP_CORRELATION
            )  # (1, clips, C)
            decoded.append(self.motion_decoder(features[0].to(self.device)).float().cpu())  # (clips, T, 6)
        # The centre decodes to a slight nod on average; composed over seconds, the head would sink.
        steady = self.motion_decoder(speech.center.to(self.device)).float().cpu().mean(0)  # (T, 6)
        path = compose_clips(torch.stack(decoded) - steady, PULL, SMOOTHING)[:, : speech.num_frames]
        limits = torch.tensor(MAX_MOTION)
        return (limits * torch.tanh(path / limits)).numpy()

    @torch.inference_mode()
    def extract_expression(self, source: Source, speech: Speech, expression_scale: float = 1.0) -> np.ndarray:
        """Expression of every frame: the mouth from the speech, eyes and brows as in the portrait.

        Args:
            source (`Source`): From `encode_source`.
            speech (`Speech`): From `encode_speech`.
            expression_scale (`float`): Factor of what the speech does, 0 to 10.

        Returns:
            `np.ndarray` of shape `(frames, 64)`: β; in silence the mouth rests.

        Raises:
            ValueError: If `expression_scale` is out of its range.
        """
        _check_range("expression_scale", expression_scale, 0, MAX_SCALE)
        expression = self.expression_extractor.extract(speech.mel_windows, source.fit.identity)
        lips = expression - self.face_model.upper_face(expression)
        # Lips come to rest in pauses, not in the short gaps between words.
        speaking = gaussian_filter1d(maximum_filter1d(speech.activity, PAUSE), 1.0)
        lips *= expression_scale * speaking[:, None]
        return (self._rest(source) + lips).astype(np.float32)

    def _rest(self, source: Source) -> np.ndarray:
        """β `(64,)` of the portrait's face when it is silent: its eyes, brows and some of its smile, lips together."""
        fit = source.fit
        upper = self.face_model.upper_face(fit.expression)
        rest = upper + SMILE_KEPT * (fit.expression - upper)
        return rest + self.face_model.close_lips(self.face_model.move(fit.shape, (rest - fit.expression)[None])[0])

    def render(self, source: Source, motion: Motion, *, expression: np.ndarray | None = None) -> Iterator[np.ndarray]:
        """Render takes, a few frames of each at a time, so that memory does not grow with the length of the speech.

        Args:
            source (`Source`): From `encode_source`.
            motion (`Motion`): From `sample_motion`.
            expression (`np.ndarray` of shape `(frames, 64)`, *optional*): β; from `extract_expression` if not given.

        Yields:
            `np.ndarray` of shape `(num_videos, chunk, height, width, 3)`: uint8 frames in order; 16 a chunk, or
            fewer of large ones.

        Raises:
            ValueError: When the first chunk is asked for, if `expression` has another shape.
        """
        if expression is None:
            expression = self.extract_expression(source, motion.speech)
        expected = (motion.head_pose.shape[1], self.face_model.config.expression_dim)
        if np.shape(expression) != expected:
            raise ValueError(f"expression must have shape {expected}, not {np.shape(expression)}.")
        renderer = Renderer(source, self.face_model, self.video_generator)
        closing = LIDS_MEET * float(eye_opening(source.fit.shape)) * self.face_model.array("blink")
        pose = absolute_pose(source, motion)
        takes = [renderer(p, expression + lids[:, None] * closing) for p, lids in zip(pose, motion.blink, strict=True)]
        for chunks in zip(*takes, strict=True):
            yield np.stack(chunks)

    def __call__(
        self,
        portrait: str | os.PathLike[str] | Image.Image | np.ndarray | Source,
        speech: str | os.PathLike[str] | np.ndarray | tuple | Speech,
        *,
        num_videos: int = 1,
        epsilon: float = 1.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        sampling: Literal["span", "ball"] = "span",
        motion_scale: float = 1.0,
        expression_scale: float = 1.0,
        still: bool = False,
        blink: bool = True,
        yaw: HeadTurn = 0.0,
        pitch: HeadTurn = 0.0,
        roll: HeadTurn = 0.0,
        head_motion: str | os.PathLike[str] | None = None,
        full_frame: bool = False,
        size: int | None = None,
        face: int | None = None,
        sampling_rate: int | None = None,
        output_type: Literal["np", "pil", "lazy"] = "np",
        progress: bool = False,
    ) -> OSMNetPipelineOutput:
        """Make talking-head videos: the four public steps in order.

        Args:
            portrait (`str`, `os.PathLike`, `PIL.Image.Image`, `np.ndarray` or `Source`): See `encode_source`.
            speech (`str`, `os.PathLike`, `np.ndarray`, `tuple` or `Speech`): See `encode_speech`.
            num_videos (`int`): See `sample_motion`, as for all up to `head_motion`.
            epsilon (`float`): Radius ε of the motion around the most likely one.
            generator (`torch.Generator` or a list of them, *optional*): The same seed gives the same frames on the
                same device.
            sampling (`"span" | "ball"`): How the ball is sampled.
            motion_scale (`float`): Factor of the head's movement.
            expression_scale (`float`): Factor of the mouth's movement.
            still (`bool`): Keep the head still.
            blink (`bool`): Blink.
            yaw (`float` or array of shape `(frames,)`): Added, radians.
            pitch (`float` or array of shape `(frames,)`): Added, radians.
            roll (`float` or array of shape `(frames,)`): Added, radians.
            head_motion (`str` or `os.PathLike`, *optional*): A video to take the head's movement from.
            full_frame (`bool`): Whole pictures instead of the square around the head.
            size (`int`, *optional*): Side of the square.
            face (`int`, *optional*): Which face of several.
            sampling_rate (`int`, *optional*): Rate of `speech` if it is an array.
            output_type (`"np" | "pil" | "lazy"`): Arrays, PIL images, or nothing yet: `save` then renders while it
                writes, in constant memory.
            progress (`bool`): Show a progress bar while rendering.

        Returns:
            `OSMNetPipelineOutput`: Frames, poses, expression; `save(folder)` writes videos.

        Raises:
            ValueError: If an input cannot be used; one sentence says what, where and what to do.
        """
        if output_type not in ("np", "pil", "lazy"):
            raise ValueError(f"output_type must be 'np', 'pil' or 'lazy', not {output_type!r}.")
        # 1. Encode the portrait: self.face_model.
        if isinstance(portrait, Source):
            if (full_frame and not portrait.full_frame) or size not in (None, portrait.size) or face is not None:
                raise ValueError("The portrait is encoded already: give full_frame, size and face to encode_source.")
            source = portrait
        else:
            source = self.encode_source(portrait, full_frame=full_frame, size=size, face=face)
        # 2. Encode the speech: self.audio_motion_encoder, self.motion_space.
        if not isinstance(speech, Speech):
            speech = self.encode_speech(speech, sampling_rate)
        # 3. Sample motion: self.motion_space, self.motion_decoder.
        seed = _known_seed(generator)
        motion = self.sample_motion(
            speech, num_videos=num_videos, epsilon=epsilon, generator=generator, sampling=sampling,
            motion_scale=motion_scale, still=still, blink=blink, yaw=yaw, pitch=pitch, roll=roll,
            head_motion=head_motion,
        )  # fmt: skip
        # 4. Predict the mouth and render: self.expression_extractor, self.video_generator.
        expression = self.extract_expression(source, speech, expression_scale)
        output = OSMNetPipelineOutput(
            frames=None, head_pose=absolute_pose(source, motion), expression=expression, motion=motion, source=source,
            model=self.name, seed=seed,
            _render=lambda takes: self.render(source, takes, expression=expression),
        )  # fmt: skip
        if output_type == "lazy":
            return output
        output.frames = np.empty((motion.num_videos, speech.num_frames, *source.frame_size, 3), np.uint8)
        done = 0
        with tqdm(total=speech.num_frames, desc="rendering", unit="frame", disable=not progress) as bar:
            for chunk in self.render(source, motion, expression=expression):  # (N, chunk, H, W, 3)
                output.frames[:, done : done + chunk.shape[1]] = chunk
                done += chunk.shape[1]
                bar.update(chunk.shape[1])
        if output_type == "pil":
            output.frames = [[Image.fromarray(frame) for frame in take] for take in output.frames]
        return output

    @property
    def name(self) -> str:
        """Which weights these are, for records."""
        return self.name_or_path or "unnamed"

    def _bundle(self) -> Path:
        if self.face_landmarker_path is None:
            raise ValueError("This pipeline has no face landmarker; give face_landmarker= the path of a .task file.")
        return self.face_landmarker_path


def absolute_pose(source: Source, motion: Motion) -> np.ndarray:
    """Poses in the source's camera: those of the portrait plus the motion, `(num_videos, frames, 6)`, within 45°."""
    own = source.fit.head_pose
    limit = np.maximum(np.abs(own[:3]), math.radians(MAX_TURN_DEG))
    pose = own + motion.head_pose
    pose[..., :3] = np.clip(pose[..., :3], -limit, limit)
    return pose


def blink_curve(frames: int, generator: torch.Generator) -> np.ndarray:
    """Natural blinks: how far the lids are closed in every frame.

    Pauses between blinks are log-normal with a median of 3.2 s (people who speak blink some 15 to 25 times a minute);
    lids close in about 0.1 s and open in about 0.2 s.

    Args:
        frames (`int`): Length at 25 fps.
        generator (`torch.Generator`): Source of randomness.

    Returns:
        `np.ndarray` of shape `(frames,)`: float32, 0 open to 1 closed.
    """
    curve = np.zeros(frames, np.float32)
    shape = np.array([0.25, 0.8, 1.0, 0.9, 0.6, 0.3, 0.1], np.float32)
    draw = torch.randn(frames // 8 + 4, 2, generator=generator).numpy()
    at = FPS * float(np.exp(0.3 + 0.5 * draw[0, 0]))
    for pause, strength in draw[1:]:
        start = int(at)
        if start >= frames:
            break
        part = curve[start : start + len(shape)]
        part[:] = np.maximum(part, (shape * min(1.0, 0.97 + 0.05 * strength))[: len(part)])
        at += len(shape) + FPS * float(np.exp(np.log(2.9) + 0.55 * pause))
    return curve


def _check_range(name: str, value: float, low: float, high: float, whole: bool = False) -> None:
    number = isinstance(value, int | np.integer) if whole else isinstance(value, int | float | np.number)
    if isinstance(value, bool) or not number or not low <= value <= high:
        kind = "whole" if whole else "finite"
        raise ValueError(f"{name} must be a {kind} number from {low} to {high}, not {value!r}.")


def _curve(name: str, turn: HeadTurn, frames: int) -> np.ndarray:
    """A constant or a curve as `(frames,)` float32."""
    expected = f"{name} must be a finite number or {frames} of them, one a frame"
    try:
        curve = np.asarray(turn, np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{expected}, not {turn!r}.") from error
    if curve.shape not in ((), (frames,)):
        raise ValueError(f"{expected}, not of shape {curve.shape}.")
    if not np.isfinite(curve).all():
        raise ValueError(f"{expected}; there is NaN or infinity in it.")
    if np.abs(curve).max(initial=0) > math.radians(MAX_OFFSET_DEG):
        raise ValueError(f"{name} must stay within ±{MAX_OFFSET_DEG:.0f}° ({math.radians(MAX_OFFSET_DEG):.2f} rad).")
    return np.broadcast_to(curve, (frames,))


def _take_seeds(generator: torch.Generator | list[torch.Generator] | None, count: int) -> tuple[int, ...]:
    """One seed a take, so that each take can be made again alone and take i does not depend on how many there are."""
    if isinstance(generator, list | tuple):
        if len(generator) != count:
            raise ValueError(f"{len(generator)} generators were given for {count} videos; give one, or one for each.")
        return tuple(each.initial_seed() for each in generator)
    if not isinstance(generator, torch.Generator | None):
        raise ValueError(f"generator must be a torch.Generator or a list of them, not {type(generator).__name__}.")
    device = generator.device if generator is not None else "cpu"
    # 53 bits: every reader of the JSON files holds them exactly.
    draws = [torch.randint(0, 2**53, (), generator=generator, device=device, dtype=torch.int64) for _ in range(count)]
    return tuple(int(draw) for draw in draws)


def _known_seed(generator: Any) -> int | None:
    """The seed of a generator that nothing has been drawn from yet."""
    if not isinstance(generator, torch.Generator):
        return None
    seed = generator.initial_seed()
    fresh = torch.Generator(generator.device).manual_seed(seed)
    return seed if torch.equal(fresh.get_state(), generator.get_state()) else None


def _find_faces(landmarker: FaceLandmarker, picture: np.ndarray) -> list[np.ndarray]:
    """All faces of a picture, largest first; small ones are looked for in overlapping parts of it."""
    faces = landmarker.detect(picture)
    smallest = MIN_FACE_PX if faces else 0  # beside a face that is there, only one that could be chosen counts
    height, width = picture.shape[:2]
    side = min(height, width, max(height, width) // 2 + 1)
    for part in (side, side // 2):
        # The larger parts always: beside a large face the look at the whole misses the small ones.
        if part < 2 * MIN_FACE_PX or (faces and part < side):
            break
        found = []
        tops, lefts = ({*range(0, length - part, part // 2), length - part} for length in (height, width))
        for top in sorted(tops):
            for left in sorted(lefts):
                seen = landmarker.detect(picture[top : top + part, left : left + part])
                found += [face + np.array([left, top, 0], np.float32) for face in seen]
        for face in sorted(found, key=_face_area, reverse=True):  # parts overlap and cut faces: what is new counts
            new = all(_face_distance(face, other) > 0.5 for other in faces)
            if new and np.ptp(face[:, 1]) >= smallest:
                faces.append(face)
    return sorted(faces, key=_face_area, reverse=True)


def _face_area(face: np.ndarray) -> float:
    return float(np.prod(np.ptp(face[:, :2], axis=0)))


def _face_distance(face: np.ndarray, other: np.ndarray) -> float:
    """Distance between the middles of two faces, in heights of the larger."""
    apart = np.linalg.norm((face - other)[:, :2].mean(0))
    return float(apart / max(np.ptp(face[:, 1]), np.ptp(other[:, 1])))


def _choose_face(faces: list[np.ndarray], face: int | None, size: tuple[int, int]) -> np.ndarray:
    if not faces:
        raise ValueError("No face was found in the portrait; use a picture in which a face is clearly seen.")
    if face is not None:
        _check_range("face", face, 0, 100, whole=True)
    if face is not None and face >= len(faces):
        raise ValueError(f"The portrait shows {len(faces)} face{'s' * (len(faces) > 1)}; choose one of them.")
    if face is None and len(faces) > 1:
        message = f"The portrait shows {len(faces)} faces; the largest is taken (choose with face=)."
        warnings.warn(message, stacklevel=3)
    landmarks = faces[face or 0]
    height = np.ptp(landmarks[:, 1])
    if height < MIN_FACE_PX:
        raise ValueError(
            f"The face is only {height:.0f} pixels high, and at least {MIN_FACE_PX} are needed; use a larger picture."
        )
    oval, (height, width) = landmarks[OVAL, :2], size
    outside = np.mean((oval < 0).any(1) | (oval[:, 0] > width) | (oval[:, 1] > height))
    if outside > MAX_OUTSIDE:
        raise ValueError(
            f"{100 * outside:.0f} % of the face's outline lies outside the picture; use one that shows the whole face."
        )
    return landmarks


def _check_upright(
    landmarker: FaceLandmarker, square: np.ndarray, face_model: FaceModel, landmarks: np.ndarray
) -> None:
    """Refuse a face that stands on its head: the landmarker fits it the wrong way up, with the mouth on the eyes."""
    misfit = face_model.misfit(landmarks)
    if misfit < SURE_FIT:
        return
    turned = landmarker.detect(np.ascontiguousarray(np.rot90(square, 2)))
    if turned and face_model.misfit(turned[0]) < 0.75 * misfit:
        raise ValueError("The face stands on its head; turn the picture round.")


def _look_again(landmarker: FaceLandmarker, square: np.ndarray, box: CropBox, landmarks: np.ndarray) -> np.ndarray:
    """Look at the square alone, which is more exact than at the whole picture: vertices in pixels of the picture."""
    scale = box.side / DETECTION_SIZE
    found = [face * scale + (box.left, box.top, 0) for face in landmarker.detect(square)]

    def distance(face: np.ndarray) -> float:
        return float(np.linalg.norm((face - landmarks)[:, :2].mean(0)))

    nearest = min(found, key=distance, default=landmarks)
    # The square may show a neighbour, too: only the face that was chosen will do.
    return nearest if distance(nearest) < 0.3 * np.ptp(landmarks[:, 1]) else landmarks


def _fit_frame(picture: np.ndarray, box: CropBox) -> tuple[np.ndarray, CropBox]:
    """Scale a whole picture so that neither it nor the square in it is too large to render."""
    factor = min(1.0, MAX_CROP / box.side, MAX_FRAME / math.sqrt(picture.shape[0] * picture.shape[1]))
    if factor < 1:
        height, width = (max(round(length * factor), 2) for length in picture.shape[:2])
        picture = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS))
        box = CropBox(round(box.left * factor), round(box.top * factor), round(box.side * factor))
    return picture, box


def _thumbnail(image: np.ndarray) -> np.ndarray:
    picture = Image.fromarray(image)
    factor = SHEET_SIDE / max(picture.size)
    size = max(round(picture.width * factor), 1), max(round(picture.height * factor), 1)
    return np.asarray(picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0))
