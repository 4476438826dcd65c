"""`OSMNetPipeline`: a portrait and speech in, as many different talking-head videos as you ask for out."""

import hashlib
import json
import math
import os
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter1d, maximum_filter1d
from tqdm import tqdm

from osmnet.face.crop import CropBox, crop_box, extract, to_crop
from osmnet.face.detection import DETECTION_SIZE, check_upright, choose_face, find_faces, fit_frame, refine_landmarks
from osmnet.face.landmarker import FaceLandmarker
from osmnet.face.morphable import FaceModel
from osmnet.face.motion_track import head_motion_of
from osmnet.face.pose import similarity_from_pose
from osmnet.loading.pipeline import PipelineLoader
from osmnet.media.features import cut_windows, speech_features
from osmnet.media.image import load_portrait
from osmnet.media.recording import Recording
from osmnet.models.osm_net.expression import ExpressionExtractor
from osmnet.models.osm_net.motion_codec import (
    AudioMotionEncoder,
    MotionDecoder,
    MotionEncoder,
    clip_frames,
    compose_clips,
)
from osmnet.models.osm_net.motion_space import MotionSpace
from osmnet.models.osm_net.speech_encoder import CELL as HEARD_AT_ONCE
from osmnet.models.osm_net.speech_encoder import SpeechEncoder
from osmnet.models.osm_net.video_generator import VideoGenerator
from osmnet.pipelines.limits import MAX_EPSILON, MAX_OFFSET_DEG, MAX_SCALE, MAX_SIZE, MAX_VIDEOS, MIN_SIZE
from osmnet.pipelines.osm_net.head_motion import (
    MAX_MOTION,
    PAUSE,
    PULL,
    SMOOTHING,
    absolute_pose,
    blink_curve,
    clip_activity,
)
from osmnet.pipelines.osm_net.live import BLOCK, LOOKAHEAD, LiveSession
from osmnet.pipelines.validation import HeadTurn, checked_seeds, curve, known_seed, take_seeds
from osmnet.rendering.decoders.precision import resolve_precision
from osmnet.rendering.renderer import Renderer
from osmnet.rendering.select import renderer_for
from osmnet.structures import Motion, Source, Speech, StreamChunk
from osmnet.takes.output import OSMNetPipelineOutput
from osmnet.utils.checks import check_kind, check_range
from osmnet.utils.lazy_rows import LazyRows
from osmnet.utils.profiling import span
from osmnet.utils.threads import in_order

DEFAULT_SIZE = 256  # of the square, where the whole picture is not asked for
MAX_PICTURE = 4096  # longest side that is looked at: small faces in large pictures need it
SMILE_KEPT = 0.5  # of the portrait's own expression around the mouth; all of it would talk through a grin
CLIPS_AT_ONCE = 256  # of speech that a thread works on: bounds the memory on an hour of it
# Frames of expression that are made at once. The first frames wait for them, and those around them, to be heard.
FRAMES_AT_ONCE = HEARD_AT_ONCE - 20


class OSMNetPipeline(PipelineLoader):
    """One-to-many talking heads (OSM-Net, arXiv 2309.16148).

    Example:
        >>> pipe = OSMNetPipeline.from_pretrained()
        >>> out = pipe("portrait.jpg", "speech.wav", num_videos=4, generator=torch.Generator().manual_seed(7))
        >>> out.save("out/")
    """

    # Of the video generator while it renders: "float32", "bfloat16" or "float16"; "auto" takes what is fast here and
    # as good (docs/performance.md). Other machines may take another one.
    precision: str = "auto"

    components_classes: ClassVar[dict[str, str]] = {
        "face_model": "osmnet.face.morphable:FaceModel",
        "motion_encoder": "osmnet.models.osm_net.motion_codec:MotionEncoder",
        "motion_space": "osmnet.models.osm_net.motion_space:MotionSpace",
        "audio_motion_encoder": "osmnet.models.osm_net.motion_codec:AudioMotionEncoder",
        "motion_decoder": "osmnet.models.osm_net.motion_codec:MotionDecoder",
        "speech_encoder": "osmnet.models.osm_net.speech_encoder:SpeechEncoder",
        "expression_extractor": "osmnet.models.osm_net.expression:ExpressionExtractor",
        "video_generator": "osmnet.models.osm_net.video_generator:VideoGenerator",
    }
    # An expression extractor may hear mel windows alone, as the paper's does.
    optional_components: ClassVar[frozenset[str]] = frozenset({"speech_encoder"})

    face_model: FaceModel
    motion_encoder: MotionEncoder
    motion_space: MotionSpace
    audio_motion_encoder: AudioMotionEncoder
    motion_decoder: MotionDecoder
    speech_encoder: SpeechEncoder | None
    expression_extractor: ExpressionExtractor
    video_generator: VideoGenerator

    def __init__(self, **components: Any) -> None:
        """Put networks together, see `PipelineLoader`.

        Raises:
            ValueError: If a component is missing, unknown or of another class, or if the expression extractor needs
                another speech encoder.
        """
        super().__init__(**components)
        wanted = self.expression_extractor.config.speech_dim
        found = self.speech_encoder.config.hidden_dim if self.speech_encoder is not None else 0
        if wanted not in (0, found):
            raise ValueError(
                f"The expression extractor hears {wanted} numbers a frame from a speech encoder, but "
                + (f"this one gives {found}" if found else "there is none")
                + "; take the speech_encoder of the model that it comes from."
            )

    @property
    def hears_words(self) -> bool:
        """Whether the expression extractor listens to the speech encoder, too."""
        return self.expression_extractor.config.speech_dim > 0

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
            check_range("size", size, MIN_SIZE, MAX_SIZE, whole=True)
            if full_frame:
                raise ValueError("size is the side of the square; leave it out, or give full_frame=False.")
        with span("read portrait"):
            picture = load_portrait(portrait, max_side=MAX_PICTURE)
        with span("landmarks"), FaceLandmarker(self._bundle(), num_faces=8) as landmarker:
            faces = find_faces(landmarker, picture)
            landmarks = choose_face(faces, face, picture.shape[:2])
            box = crop_box(landmarks, *picture.shape[:2])
            if full_frame:
                width = picture.shape[1]
                picture, box = fit_frame(picture, box)
                landmarks = landmarks * (picture.shape[1] / width)
            square = extract(picture, box, DETECTION_SIZE)
            landmarks = refine_landmarks(landmarker, square, box, landmarks)
            check_upright(landmarker, square, self.face_model, landmarks)
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
        self, speech: str | os.PathLike[str] | np.ndarray | tuple | Recording, sampling_rate: int | None = None
    ) -> Speech:
        """Encode speech: its spectrogram, activity, and the weights of every clip's centre (Eq. 4, 5).

        Args:
            speech (`str`, `os.PathLike`, `np.ndarray`, `tuple` or `Recording`): A file with sound, an array, array and
                rate, or a recording opened before.
            sampling_rate (`int`, *optional*): Rate of an array in Hz.

        Returns:
            `Speech`: Use it for any number of takes and portraits.

        Raises:
            ValueError: If there is no usable sound; one sentence says why.
        """
        with span("read speech"):
            recording = speech if isinstance(speech, Recording) else Recording.open(speech, sampling_rate)
        with span("features"):
            mel, activity = speech_features(recording)
        clips = clip_frames(len(activity), self.motion_decoder.config.clip_length)

        @torch.inference_mode()
        def weights(part: np.ndarray) -> torch.Tensor:  # (n, T) frames to (n, S)
            windows = cut_windows(mel, part[0, 0], part[-1, -1] + 1)[part - part[0, 0]]  # (n, T, 16, 16)
            with span("motion"):
                return self.audio_motion_encoder(torch.from_numpy(windows).to(self.device)).exp().float().cpu()

        parts = (clips[start : start + CLIPS_AT_ONCE] for start in range(0, len(clips), CLIPS_AT_ONCE))
        said = None
        if self.hears_words:
            encoder = cast(SpeechEncoder, self.speech_encoder)

            def hear(start: int, stop: int) -> np.ndarray:
                with span("speech"):
                    return encoder.encode(recording, start, stop)

            said = LazyRows((len(activity), encoder.config.hidden_dim), HEARD_AT_ONCE, hear)
        return Speech(recording, mel, activity, torch.cat(list(in_order(weights, parts))), said)

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
        near: Sequence[int] = (),
    ) -> Motion:
        """Sample head motion for some takes: features within ε of the centre, decoded and composed (Eq. 5).

        Args:
            speech (`Speech`): From `encode_speech`.
            num_videos (`int`): Number of takes, 1 to 100.
            epsilon (`float`): Radius ε, 0 to 100: 0 is the most likely motion, the same in every take (but for
                blinks); 1 holds 95 % of real motion.
            generator (`torch.Generator` or a list of them, *optional*): Source of randomness: one for all takes, of
                which a seed for each is drawn (`Motion.seeds`, `take_seed` in the JSON files); or a list of one for
                each, of which only the seed that it was given counts: `[torch.Generator().manual_seed(take_seed)]`
                makes one take again.
            sampling (`"span" | "ball"`): Towards other learned motions, or in any direction of the feature space.
            motion_scale (`float`): Factor of the sampled movement, 0 to 10.
            still (`bool`): Keep the head still; lips and lids move.
            blink (`bool`): Blink as people do: sound does not tell when.
            yaw (`float` or array of shape `(frames,)`): Added to the head's yaw, radians.
            pitch (`float` or array of shape `(frames,)`): Added to the head's pitch, radians.
            roll (`float` or array of shape `(frames,)`): Added to the head's roll, radians.
            head_motion (`str` or `os.PathLike`, *optional*): A video whose head motion all takes make, instead of
                sampled motion; a shorter one is played back and forth.
            near (sequence of `int`): Sample near a take: its own `near`, then its seed. Such takes are about a third
                as far from it as any two are apart.

        Returns:
            `Motion`: Poses and blinks.

        Raises:
            ValueError: If an argument is out of its range.
        """
        check_kind("speech", speech, Speech, "encode_speech")
        check_range("num_videos", num_videos, 1, MAX_VIDEOS, whole=True)
        check_range("epsilon", epsilon, 0, MAX_EPSILON)
        check_range("motion_scale", motion_scale, 0, MAX_SCALE)
        if sampling not in ("span", "ball"):
            raise ValueError(f"sampling must be 'span' or 'ball', not {sampling!r}.")
        if still and head_motion is not None:
            raise ValueError("still and head_motion exclude each other; leave one out.")
        near = checked_seeds(near)
        if near and (still or head_motion is not None):
            raise ValueError("near is for sampled motion; leave out still and head_motion, or near.")
        frames = speech.num_frames
        turns = {"yaw": yaw, "pitch": pitch, "roll": roll}
        offset = np.stack([curve(name, turn, frames) for name, turn in turns.items()], -1)
        seeds = take_seeds(generator, num_videos)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        if head_motion is not None:
            with span("motion"):
                how, path = "video", head_motion_of(head_motion, self._bundle(), self.face_model, frames)
            path = np.broadcast_to(path, (num_videos, frames, 6))
        elif still:
            how, path = "still", np.zeros((num_videos, frames, 6), np.float32)
        else:
            how, path = sampling, self._sample_path(speech, epsilon, generators, sampling, near)
        head_pose = (motion_scale * path).astype(np.float32)
        head_pose[..., :3] += offset
        lids = np.stack([blink_curve(frames, each) if blink else np.zeros(frames, np.float32) for each in generators])
        settings = {"motion_scale": motion_scale, "blink": blink} | {
            f"{name}_degrees": round(math.degrees(float(cast(Any, turn))), 3) if np.ndim(turn) == 0 else "one a frame"
            for name, turn in turns.items()
        }
        return Motion(head_pose, lids, speech, seeds, float(epsilon), how, near, settings)

    def _sample_path(
        self,
        speech: Speech,
        epsilon: float,
        generators: list[torch.Generator],
        sampling: str,
        near: tuple[int, ...],
    ) -> np.ndarray:
        # The centre decodes to a slight nod on average; composed over seconds, the head would sink.
        steady = self._decode(map(self.motion_space.reconstruct, speech.weights.to(self.device).split(1024))).mean(0)
        activity = clip_activity(speech.activity, self.motion_decoder.config.clip_length)
        limits = torch.tensor(MAX_MOTION)

        @torch.inference_mode()
        def path(generator: torch.Generator) -> np.ndarray:  # of one take, which depends on no other
            features = self.motion_space.sample_chunks(
                speech.weights, float(epsilon), generator, sampling=sampling, activity=activity,
                near=[torch.Generator().manual_seed(seed) for seed in near],
            )  # fmt: skip
            with span("motion"):
                composed = compose_clips((self._decode(features) - steady)[None], PULL, SMOOTHING)
                return (limits * torch.tanh(composed[0, : speech.num_frames] / limits)).numpy()

        return np.stack(list(in_order(path, generators)))

    @torch.inference_mode()
    def _decode(self, features: Iterable[torch.Tensor]) -> torch.Tensor:
        """Decode motion features, some clips at a time, to poses `(clips, T, 6)` on the CPU."""
        return torch.cat([self.motion_decoder(part.to(self.device)).float().cpu() for part in features])

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
        return np.asarray(self._expression(source, speech, expression_scale))

    def _expression(self, source: Source, speech: Speech, expression_scale: float) -> LazyRows:
        """`extract_expression`, as far as it is looked at: rendering begins before an hour of speech is heard."""
        check_kind("source", source, Source, "encode_source")
        check_kind("speech", speech, Speech, "encode_speech")
        check_range("expression_scale", expression_scale, 0, MAX_SCALE)
        if self.hears_words and speech.said is None:
            raise ValueError("The speech was encoded by another pipeline; encode it with this one's encode_speech.")
        windows = speech.mel_windows
        # Lips come to rest in pauses, not in the short gaps between words.
        speaking = gaussian_filter1d(maximum_filter1d(speech.activity, PAUSE), 1.0)
        rest = self.rest_expression(source)
        context = self.expression_extractor.context_frames

        def extract(start: int, stop: int) -> np.ndarray:
            said = None
            if speech.said is not None:
                first = max(start - context, 0)
                around = speech.said[first : stop + context]  # before the span: spans do not nest
                said = lambda begin, end: around[begin - first : end - first]  # noqa: E731
            with span("expression"), torch.inference_mode():
                heard = self.expression_extractor.extract(windows, source.fit.identity, start, stop, said)
                lips = heard - self.face_model.upper_face(heard)
                return rest + lips * (expression_scale * speaking[start:stop, None])

        return LazyRows((speech.num_frames, self.face_model.config.expression_dim), FRAMES_AT_ONCE, extract)

    def rest_expression(self, source: Source) -> np.ndarray:
        """β `(64,)` of the portrait's face when it is silent: its eyes, brows and some of its smile, lips together."""
        fit = source.fit
        upper = self.face_model.upper_face(fit.expression)
        rest = upper + SMILE_KEPT * (fit.expression - upper)
        return rest + self.face_model.close_lips(self.face_model.move(fit.shape, (rest - fit.expression)[None])[0])

    def render(
        self,
        source: Source,
        motion: Motion,
        *,
        expression: np.ndarray | LazyRows | None = None,
        chunks: Sequence[tuple[int, int]] | None = None,
    ) -> Generator[np.ndarray]:
        """Render takes, a few frames of each at a time, so that memory does not grow with the length of the speech.

        Chunks are rendered side by side, by as many threads as PyTorch would use (at most 8), a few chunks ahead of
        whoever takes them. Closing the generator drops what has not begun.

        Args:
            source (`Source`): From `encode_source`.
            motion (`Motion`): From `sample_motion`.
            expression (`np.ndarray` of shape `(frames, 64)`, *optional*): β; from `extract_expression` if not given.
            chunks (sequence of `(int, int)`, *optional*): First frame of each chunk and the one behind its last. Not
                given: all frames, 16 a chunk or fewer of large ones, and 4 in the first, so that it comes soon.

        Yields:
            `np.ndarray` of shape `(num_videos, chunk, height, width, 3)`: uint8 frames in order.

        Raises:
            ValueError: When the first chunk is asked for, if `expression` has another shape.
        """
        check_kind("source", source, Source, "encode_source")
        check_kind("motion", motion, Motion, "sample_motion")
        if expression is None:
            expression = self._expression(source, motion.speech, 1.0)
        expected = (motion.head_pose.shape[1], self.face_model.config.expression_dim)
        if np.shape(expression) != expected:
            raise ValueError(f"expression must have shape {expected}, not {np.shape(expression)}.")
        for start, stop in chunks or ():
            if not 0 <= start < stop <= expected[0]:
                raise ValueError(f"A chunk must lie within the {expected[0]} frames, not from {start} to {stop}.")
        renderer = self._renderer(source)
        yield from renderer(absolute_pose(source, motion), expression, motion.blink, chunks)

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
        near: Sequence[int] = (),
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
            num_videos (`int`): See `sample_motion`, as for all up to `near`.
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
            near (sequence of `int`): Seeds of a take to stay near to.
            full_frame (`bool`): Whole pictures instead of the square around the head.
            size (`int`, *optional*): Side of the square.
            face (`int`, *optional*): Which face of several.
            sampling_rate (`int`, *optional*): Rate of `speech` if it is an array.
            output_type (`"np" | "pil" | "lazy"`): Arrays, PIL images, or nothing yet: `save` then renders while it
                writes, in constant memory. Arrays and images are bare, without a label: `save` and `stream` draw it.
            progress (`bool`): Show a progress bar while rendering.

        Returns:
            `OSMNetPipelineOutput`: Frames, poses, expression; `save(folder)` writes videos.

        Raises:
            ValueError: If an input cannot be used; one sentence says what, where and what to do.
        """
        if output_type not in ("np", "pil", "lazy"):
            raise ValueError(f"output_type must be 'np', 'pil' or 'lazy', not {output_type!r}.")
        # 1. Encode the portrait: self.face_model.
        source = self._source(portrait, full_frame, size, face)
        # 2. Encode the speech: self.audio_motion_encoder, self.motion_space.
        if not isinstance(speech, Speech):
            speech = self.encode_speech(speech, sampling_rate)
        # 3. Sample motion: self.motion_space, self.motion_decoder.
        seed = known_seed(generator)
        motion = self.sample_motion(
            speech, num_videos=num_videos, epsilon=epsilon, generator=generator, sampling=sampling,
            motion_scale=motion_scale, still=still, blink=blink, yaw=yaw, pitch=pitch, roll=roll,
            head_motion=head_motion, near=near,
        )  # fmt: skip
        # 4. Predict the mouth and render: self.expression_extractor, self.video_generator.
        output = self.takes(source, motion, expression_scale=expression_scale, seed=seed)
        expression = output.expression
        if output_type == "lazy":
            return output
        output.frames = np.empty((motion.num_videos, speech.num_frames, *source.frame_size, 3), np.uint8)
        done = 0
        with tqdm(total=speech.num_frames, desc="rendering", unit="frame", disable=not progress) as bar:
            for chunk in self.render(source, motion, expression=expression):  # (N, chunk, H, W, 3)
                output.frames[:, done : done + chunk.shape[1]] = chunk
                done += chunk.shape[1]
                bar.update(chunk.shape[1])
        output.expression = np.asarray(expression)
        if output_type == "pil":
            output.frames = [[Image.fromarray(frame) for frame in take] for take in output.frames]
        return output

    def takes(
        self, source: Source, motion: Motion, *, expression_scale: float = 1.0, seed: int | None = None
    ) -> OSMNetPipelineOutput:
        """Takes of motion that was sampled before, so that it can be looked at and chosen from (`motion.take`) first.

        Args:
            source (`Source`): From `encode_source`.
            motion (`Motion`): From `sample_motion`.
            expression_scale (`float`): Factor of the mouth's movement, 0 to 10.
            seed (`int`, *optional*): Of the generator that the motion was sampled with, for the records.

        Returns:
            `OSMNetPipelineOutput`: Without frames: `save` and `stream` render.

        Raises:
            ValueError: If `expression_scale` is out of its range.
        """
        check_kind("motion", motion, Motion, "sample_motion")
        expression = self._expression(source, motion.speech, expression_scale)
        precision = str(resolve_precision(self.video_generator, self.precision)).removeprefix("torch.")
        return OSMNetPipelineOutput(
            frames=None, head_pose=absolute_pose(source, motion), expression=expression, motion=motion, source=source,
            model=self.name, seed=seed, expression_scale=expression_scale,
            _render=lambda takes, chunks: self.render(source, takes, expression=expression, chunks=chunks),
            _digest=self._digest, _device=self.device.type, _precision=precision,
        )  # fmt: skip

    def stream(
        self,
        portrait: str | os.PathLike[str] | Image.Image | np.ndarray | Source,
        speech: str | os.PathLike[str] | np.ndarray | tuple | Speech,
        *,
        label: bool = True,
        **options: Any,
    ) -> Generator[StreamChunk]:
        """Make talking-head videos and yield their frames as they are made: the first within a moment.

        Args:
            portrait (`str`, `os.PathLike`, `PIL.Image.Image`, `np.ndarray` or `Source`): See `encode_source`.
            speech (`str`, `os.PathLike`, `np.ndarray`, `tuple` or `Speech`): See `encode_speech`.
            label (`bool`): Write a small "AI-generated" into every frame, as `save` does.
            **options: Those of `__call__`, but for `output_type`.

        Returns:
            Iterator of `StreamChunk`: Some frames of all takes with their sound. What comes later is rendered while
            a chunk is used, a few chunks ahead; closing the iterator stops it.

        Raises:
            ValueError: If an input cannot be used; at the call, not only when the first chunk is asked for.

        Example:
            >>> for chunk in pipe.stream("portrait.jpg", "speech.wav"):
            ...     play(chunk.frames[0], chunk.waveform)
        """
        if "output_type" in options:
            raise ValueError("A stream has no output_type: it yields arrays; leave it out.")
        return self(portrait, speech, **options, output_type="lazy").stream(label)

    def warm_up(self) -> None:
        """Do once what the first request would wait for: compile what is compiled on first use, and draw a few frames.

        Some seconds where osmnet runs for the first time, half a second later. Worth it before a page or a service
        takes its first request.
        """
        size = DEFAULT_SIZE
        at_rest = similarity_from_pose(np.zeros(6), size)
        fit = self.face_model.fit(at_rest.place(self.face_model.array("mean_shape")), size)
        grey = np.full((size, size, 3), 127, np.uint8)
        renderer = self._renderer(Source(grey, grey, CropBox(0, 0, size), fit, full_frame=False))
        for _ in renderer(np.repeat(fit.head_pose[None, None], 8, 1), np.repeat(fit.expression[None], 8, 0)):
            pass

    def _digest(self) -> str:
        """A number that changes with the weights that rendering depends on."""
        digest = hashlib.blake2b(digest_size=16)
        for network in (self.face_model, self.video_generator):
            digest.update(json.dumps(dict(network.config), sort_keys=True, default=str).encode())
            for tensor in network.state_dict().values():
                digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
        return digest.hexdigest()

    def live(
        self,
        portrait: str | os.PathLike[str] | Image.Image | np.ndarray | Source,
        *,
        epsilon: float = 1.0,
        generator: torch.Generator | None = None,
        lookahead: int = LOOKAHEAD,
        block: int = BLOCK,
        motion_scale: float = 1.0,
        expression_scale: float = 1.0,
        still: bool = False,
        blink: bool = True,
        full_frame: bool = False,
        size: int | None = None,
        face: int | None = None,
        sampling_rate: int | None = None,
        label: bool = True,
    ) -> LiveSession:
        """Begin a take that talks while the speech is being spoken: `session.feed(chunk)` returns frames.

        Args:
            portrait (`str`, `os.PathLike`, `PIL.Image.Image`, `np.ndarray` or `Source`): See `encode_source`.
            epsilon (`float`): See `sample_motion`, as for `motion_scale`, `still` and `blink`.
            generator (`torch.Generator`, *optional*): The same seed gives the same frames on the same device, in
                whatever chunks the sound comes.
            lookahead (`int`): How many frames' sound after a frame is waited for, 0 to 25: less is sooner, more is
                nearer to what a whole recording gives.
            block (`int`): How many frames are made at once, 1 to 25: fewer are sooner, more cost less each.
            motion_scale (`float`): Factor of the head's movement.
            expression_scale (`float`): Factor of the mouth's movement, 0 to 10.
            still (`bool`): Keep the head still.
            blink (`bool`): Blink.
            full_frame (`bool`): Whole pictures instead of the square around the head.
            size (`int`, *optional*): Side of the square.
            face (`int`, *optional*): Which face of several.
            sampling_rate (`int`, *optional*): Rate of the sound in Hz; or give it with the first chunk.
            label (`bool`): Write a small "AI-generated" into every frame, as `save` does.

        Returns:
            `LiveSession`: Its `latency` says how much later than its own moment a frame is returned.

        Raises:
            ValueError: If an input cannot be used; one sentence says what, where and what to do.
        """
        check_range("epsilon", epsilon, 0, MAX_EPSILON)
        check_range("motion_scale", motion_scale, 0, MAX_SCALE)
        check_range("expression_scale", expression_scale, 0, MAX_SCALE)
        (seed,) = take_seeds(generator, 1)
        source = self._source(portrait, full_frame, size, face)
        return LiveSession(
            self, self._renderer(source), seed=seed, epsilon=epsilon, lookahead=lookahead, block=block,
            motion_scale=motion_scale, expression_scale=expression_scale,
            still=still, blink=blink, sampling_rate=sampling_rate, label=label,
        )  # fmt: skip

    def _source(self, portrait: Any, full_frame: bool, size: int | None, face: int | None) -> Source:
        """What was given as a portrait, encoded."""
        if not isinstance(portrait, Source):
            return self.encode_source(portrait, full_frame=full_frame, size=size, face=face)
        if (full_frame and not portrait.full_frame) or size not in (None, portrait.size) or face is not None:
            raise ValueError("The portrait is encoded already: give full_frame, size and face to encode_source.")
        return portrait

    def _renderer(self, source: Source) -> Renderer:
        return renderer_for(source, self.face_model, self.video_generator, self.precision)

    @property
    def name(self) -> str:
        """Which weights these are, for records."""
        return self.name_or_path or "unnamed"

    def _bundle(self) -> Path:
        if self.face_landmarker_path is None:
            raise ValueError("This pipeline has no face landmarker; give face_landmarker= the path of a .task file.")
        return self.face_landmarker_path
