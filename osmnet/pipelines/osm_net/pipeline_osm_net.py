"""`OSMNetPipeline`: many talking-head videos from one portrait and one recording."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d, maximum_filter1d

from osmnet.face.crop import CropBox, crop_box, extract, to_crop
from osmnet.face.detection import DETECTION_SIZE, check_upright, choose_face, find_faces, fit_frame, refine_landmarks
from osmnet.face.landmarker import FaceLandmarker
from osmnet.face.motion_track import head_motion_of
from osmnet.face.pose import similarity_from_pose
from osmnet.media.features import cut_windows, mel_filters, speech_features
from osmnet.media.image import load_portrait
from osmnet.media.recording import Recording
from osmnet.models.osm_net.motion_codec import clip_frames
from osmnet.models.osm_net.speech_encoder import CELL as ENCODED_AT_ONCE
from osmnet.models.osm_net.speech_encoder import SpeechEncoder
from osmnet.pipelines.options import (
    DEFAULT_SIZE,
    MAX_OFFSET_DEG,
    MAX_SCALE,
    MAX_SEED,
    MotionOptions,
    PictureOptions,
    as_settings,
    build_options,
    is_seed,
)
from osmnet.pipelines.osm_net.components import OSMNetComponents
from osmnet.pipelines.osm_net.head_motion import PAUSE, absolute_pose, sample_path
from osmnet.pipelines.osm_net.live import BLOCK, LIVE_OPTIONS, LOOKAHEAD, LiveSession
from osmnet.pipelines.osm_net.upper_face import UpperFace, UpperFaceTake, on_viewer
from osmnet.pipelines.seeds import as_generator, draw_seeds
from osmnet.pipelines.talking_head import Portrait, Randomness, Sound, takes_options
from osmnet.rendering.chunks import Chunk, check_chunks
from osmnet.rendering.decoders.precision import resolve_precision
from osmnet.rendering.renderer import Renderer
from osmnet.rendering.select import renderer_for
from osmnet.structures import Motion, Source, Speech
from osmnet.takes.output import TalkingHeadOutput
from osmnet.utils.checks import check_flag, check_kind, check_range, short
from osmnet.utils.lazy_rows import LazyRows
from osmnet.utils.profiling import span
from osmnet.utils.threads import in_order

MAX_PICTURE = 4096  # px, longest side that is searched: small faces in large pictures need it
CLIPS_AT_ONCE = 256  # clips of speech a thread encodes: bounds the memory for an hour
# Frames of expression computed at once; the first video frame waits for them and for the speech around them.
FRAMES_AT_ONCE = ENCODED_AT_ONCE - 20


@dataclass(repr=False, eq=False)
class OSMNetPipelineOutput(TalkingHeadOutput):
    """Takes of `OSMNetPipeline`; see `TalkingHeadOutput`.

    Attributes:
        expression (`np.ndarray` or `LazyRows` of shape `(frames, 64)`): β of every frame without the motion of brows
            and eyes, the same in all takes; float32. `LazyRows` is indexed like an array and computes rows when read.
    """

    expression: np.ndarray | LazyRows = field(kw_only=True)

    def render(self, output_type: Any = "np", progress: bool = False) -> Self:
        """Render all frames; see `TalkingHeadOutput.render`."""
        super().render(output_type, progress)
        self.expression = np.asarray(self.expression)
        return self


@dataclass(frozen=True)
class _Takes:
    pipe: OSMNetPipeline
    source: Source
    expression: LazyRows
    device: str
    precision: str

    def render(self, motion: Motion, chunks: Sequence[Chunk]) -> Generator[np.ndarray]:
        return self.pipe.render(self.source, motion, expression=self.expression, chunks=chunks)

    def digest(self) -> str:
        digest = hashlib.blake2b(np.ascontiguousarray(self.expression).data, digest_size=16)
        for network in (self.pipe.face_model, self.pipe.video_generator):
            digest.update(json.dumps(dict(network.config), sort_keys=True, default=str).encode())
            for tensor in network.state_dict().values():
                digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
        return digest.hexdigest()


class OSMNetPipeline(OSMNetComponents):
    """One-to-many talking heads (OSM-Net, arXiv 2309.16148).

    Example:
        >>> pipe = OSMNetPipeline.from_pretrained()
        >>> out = pipe("portrait.jpg", "speech.wav", num_videos=4, seed=7)
        >>> out.save("out/")
    """

    @classmethod
    def tiny(cls, *, seed: int = 0, geometry: str = "mesh", speech_encoder: bool = False) -> OSMNetPipeline:
        """Build a pipeline of tiny random networks, for tests.

        The face model and landmarker are real.

        Args:
            seed (`int`): Seed of the random weights.
            geometry (`"mesh" | "none"`): See `VideoGenerator`.
            speech_encoder (`bool`): Include a speech encoder.
        """
        from osmnet.pipelines.osm_net.tiny import tiny_components

        if not is_seed(seed):
            raise ValueError(f"seed must be a whole number from 0 to {MAX_SEED}, not {short(seed)}.")
        check_flag("speech_encoder", speech_encoder)
        pipe = cls(**tiny_components(seed, geometry, speech_encoder))
        pipe.name_or_path = "tiny random networks"
        return pipe

    @takes_options(PictureOptions)
    def encode_source(self, portrait: Portrait, **options: Any) -> Source:
        """Find the head in a portrait and fit the face model to it.

        Args:
            portrait (`str`, `os.PathLike`, `PIL.Image.Image` or `np.ndarray`): A picture with a face.
            **options: Fields of `PictureOptions`. Without `face`, the largest face is taken, with a warning that says
                how many there are.

        Returns:
            `Source`: For any number of renderings.

        Raises:
            ValueError: If the picture cannot be used; one sentence says why.
            TypeError: If an option is unknown.
        """
        (picture_options,) = build_options("encode_source", options, PictureOptions)
        full_frame = picture_options.whole_picture
        with span("read portrait"):
            picture = load_portrait(portrait, max_side=MAX_PICTURE)
        with span("landmarks"), FaceLandmarker(self._bundle(), num_faces=8) as landmarker:
            faces = find_faces(landmarker, picture)
            landmarks = choose_face(faces, picture_options.face, picture.shape[:2])
            box = crop_box(landmarks, *picture.shape[:2])
            if full_frame:
                width = picture.shape[1]
                picture, box = fit_frame(picture, box)
                landmarks = landmarks * (picture.shape[1] / width)
            square = extract(picture, box, DETECTION_SIZE)
            landmarks = refine_landmarks(landmarker, square, box, landmarks)
            check_upright(landmarker, square, box, self.face_model, landmarks)
        side = box.side if full_frame else (picture_options.size or DEFAULT_SIZE)
        fit = self.face_model.fit(to_crop(landmarks, box, side), side)
        for turn, where in zip(np.degrees(np.abs(fit.head_pose[:2])), ("to the side", "up or down"), strict=True):
            if turn > MAX_OFFSET_DEG:
                raise ValueError(
                    f"The face is turned {turn:.0f}° {where}, and past {MAX_OFFSET_DEG:.0f}° too little of it shows; "
                    "use a picture that is nearer to frontal."
                )
        return Source(picture, extract(picture, box, side), box, fit, full_frame, len(faces))

    @torch.inference_mode()
    def encode_speech(self, speech: Sound, sampling_rate: int | None = None) -> Speech:
        """Encode speech: spectrogram, activity and centre weights (Eq. 4, 5).

        Args:
            speech (`str`, `os.PathLike`, `np.ndarray`, `tuple` or `Recording`): A file with sound, an array, array and
                rate, or an open recording.
            sampling_rate (`int`, *optional*): Rate of an array in Hz.

        Returns:
            `Speech`: For any number of takes and portraits.

        Raises:
            ValueError: If there is no usable sound.
        """
        with span("read speech"):
            recording = speech if isinstance(speech, Recording) else Recording.open(speech, sampling_rate)
        with span("features"):
            mel, activity = speech_features(recording)  # (4 * frames, 16), (frames,)
        # 1. Mix the centre of every clip.
        clips = clip_frames(len(activity), self.motion_decoder.config.clip_length)  # (clips, T)

        @torch.inference_mode()
        def weights(part: np.ndarray) -> torch.Tensor:  # (n, T) frames to (n, S)
            windows = cut_windows(mel, part[0, 0], part[-1, -1] + 1)[part - part[0, 0]]  # (n, T, 16, 16)
            with span("motion"):
                log_weights: torch.Tensor = self.audio_motion_encoder(torch.from_numpy(windows).to(self.device))
                return log_weights.exp().float().cpu()

        parts = (clips[start : start + CLIPS_AT_ONCE] for start in range(0, len(clips), CLIPS_AT_ONCE))
        # 2. Encode features, when they are read.
        features = None
        if self.uses_speech_encoder:
            encoder = cast(SpeechEncoder, self.speech_encoder)

            def encode(start: int, stop: int) -> np.ndarray:
                with span("speech"):
                    return encoder.encode(recording, start, stop)

            features = LazyRows((len(activity), encoder.config.hidden_dim), ENCODED_AT_ONCE, encode)
        return Speech(recording, mel, activity, torch.cat(list(in_order(weights, parts))), features)

    @takes_options(MotionOptions)
    def sample_motion(
        self,
        speech: Speech,
        *,
        seed: int | Sequence[int] | None = None,
        generator: Randomness = None,
        **options: Any,
    ) -> Motion:
        """Sample the motion of head, brows and eyes within ε of the centre (Eq. 5).

        Args:
            speech (`Speech`): From `encode_speech`.
            seed (`int` or sequence of `int`, *optional*): One seed, from which each take's own is drawn
                (`Motion.seeds`, `take_seed` in the JSON files), or a list of the takes' own seeds;
                `seed=[take_seed]` reproduces one take.
            generator (`torch.Generator` or a list of them, *optional*): Instead of `seed`; only the initial seed
                of those in a list is used.
            **options: Fields of `MotionOptions`.

        Returns:
            `Motion`: Poses, brows, gaze and blinks.

        Raises:
            ValueError: If an option is out of its range.
            TypeError: If an option is unknown.
        """
        check_kind("speech", speech, Speech, "encode_speech")
        (motion_options,) = build_options("sample_motion", options, MotionOptions, also=("seed", "generator"))
        return self._sample_motion(speech, motion_options, as_generator(seed, generator))

    def _sample(self, source: Source, speech: Speech, options: MotionOptions, generator: Randomness) -> Motion:
        return self._sample_motion(speech, options, generator)

    @torch.inference_mode()
    def _sample_motion(self, speech: Speech, options: MotionOptions, generator: Randomness) -> Motion:
        frames, count = speech.num_frames, options.num_videos
        turns = options.turns(frames)  # (frames, 3) radians
        # 1. One generator a take: take i does not depend on how many there are.
        seeds = draw_seeds(generator, count)
        generators = [torch.Generator().manual_seed(each) for each in seeds]
        # 2. Paths relative to the portrait's pose, (num_videos, frames, 6).
        if options.head_motion is not None:
            with span("motion"):
                sampling = "video"
                path = head_motion_of(options.head_motion, self._bundle(), self.face_model, frames)
            path = np.broadcast_to(path, (count, frames, 6))
        elif options.still:
            sampling, path = "still", np.zeros((count, frames, 6), np.float32)
        else:
            sampling = options.sampling
            path = sample_path(self, speech, options.epsilon, generators, sampling, options.near)
        head_pose = (options.motion_scale * path).astype(np.float32)
        head_pose[..., :3] += turns
        # 3. Brows, lids and eyes.
        upper_face, blink = self._sample_upper_face(speech, head_pose, seeds, options)
        settings = as_settings(options)
        for name in ("num_videos", "epsilon", "sampling", "near", "still", "head_motion"):
            del settings[name]  # attributes of their own, or of all takes together
        return Motion(
            head_pose, blink, speech, seeds, float(options.epsilon), sampling, tuple(options.near), settings,
            upper_face,
        )  # fmt: skip

    def _sample_upper_face(
        self, speech: Speech, head_pose: np.ndarray, seeds: Sequence[int], options: MotionOptions
    ) -> tuple[np.ndarray | None, np.ndarray]:
        """Sample coordinates `(num_videos, frames, 8)`, if any are to move, and blinks `(num_videos, frames)`."""
        space = self.upper_face_space
        takes = [UpperFaceTake(space, (*options.near, seed), options) for seed in seeds]
        coordinates, blink = zip(*(take.add(speech.activity) for take in takes), strict=True)
        if space is None or (options.upper_face == 0 and options.gaze == "fixed"):
            return None, np.stack(blink)
        upper_face = np.stack(coordinates)
        if options.gaze != "fixed":
            upper_face = on_viewer(upper_face, head_pose, space.habit("eye_radius"))
        return upper_face, np.stack(blink)

    def extract_expression(self, source: Source, speech: Speech, expression_scale: float = 1.0) -> np.ndarray:
        """Predict the mouth's expression from speech; the upper face is the portrait's.

        Args:
            source (`Source`): From `encode_source`.
            speech (`Speech`): From `encode_speech`.
            expression_scale (`float`): Factor of the mouth's movement, 0 to 10.

        Returns:
            `np.ndarray` of shape `(frames, 64)`: β; in silence the mouth rests.

        Raises:
            ValueError: If `expression_scale` is out of its range.
        """
        return np.asarray(self._expression(source, speech, expression_scale))

    def _expression(self, source: Source, speech: Speech, expression_scale: float) -> LazyRows:
        """Compute expression rows when read, so that rendering starts early."""
        check_kind("source", source, Source, "encode_source")
        check_kind("speech", speech, Speech, "encode_speech")
        check_range("expression_scale", expression_scale, 0, MAX_SCALE)
        if self.uses_speech_encoder and speech.features is None:
            raise ValueError("The speech was encoded by another pipeline; encode it with this one's encode_speech.")
        windows = speech.mel_windows
        # Lips come to rest in pauses, not in the short gaps between words.
        speaking = gaussian_filter1d(maximum_filter1d(speech.activity, PAUSE), 1.0)
        rest = self.rest_expression(source)
        context = self.expression_extractor.context_frames

        def extract(start: int, stop: int) -> np.ndarray:
            features = None
            if speech.features is not None:
                first = max(start - context, 0)
                around = speech.features[first : stop + context]  # before the span: spans are not nested
                features = lambda begin, end: around[begin - first : end - first]  # noqa: E731
            with span("expression"), torch.inference_mode():
                predicted = self.expression_extractor.extract(windows, source.fit.identity, start, stop, features)
                lips = predicted - self.face_model.upper_face(predicted)
                moved: np.ndarray = rest + lips * (float(expression_scale) * speaking[start:stop, None])
                return moved

        return LazyRows((speech.num_frames, self.face_model.config.expression_dim), FRAMES_AT_ONCE, extract)

    def render(
        self,
        source: Source,
        motion: Motion,
        *,
        expression: np.ndarray | LazyRows | None = None,
        chunks: Sequence[tuple[int, int]] | None = None,
    ) -> Generator[np.ndarray]:
        """Render takes chunk by chunk in constant memory.

        Up to 8 threads render a few chunks ahead. Closing the generator cancels the rest.

        Args:
            source (`Source`): From `encode_source`.
            motion (`Motion`): From `sample_motion`.
            expression (`np.ndarray` of shape `(frames, 64)`, *optional*): β; `extract_expression` by default.
            chunks (sequence of `(int, int)`, *optional*): Start and stop frame of each chunk. By default all
                frames: 4 in the first chunk, so that it comes soon, then up to 16, fewer if frames are large.

        Yields:
            `np.ndarray` of shape `(num_videos, chunk, height, width, 3)`: uint8 frames in order.

        Raises:
            ValueError: At the first chunk, if `expression` has another shape.
        """
        check_kind("source", source, Source, "encode_source")
        check_kind("motion", motion, Motion, "sample_motion")
        if expression is None:
            expression = self._expression(source, motion.speech, motion.expression_scale)
        expected = (motion.head_pose.shape[1], self.face_model.config.expression_dim)
        is_numbers = (
            isinstance(expression, LazyRows) or getattr(getattr(expression, "dtype", None), "kind", "") in "fiu"
        )
        if not isinstance(expression, np.ndarray | LazyRows) or not is_numbers or expression.shape != expected:
            shape = getattr(expression, "shape", type(expression).__name__)
            raise ValueError(f"expression must have shape {expected}, not {shape}.")
        for start, stop in check_chunks(chunks):
            if not 0 <= start < stop <= expected[0]:
                raise ValueError(f"A chunk must lie within the {expected[0]} frames, not from {start} to {stop}.")
        renderer = self._renderer(source)
        closure, change = UpperFace(self.upper_face_space, self.face_model, source).of(motion)
        yield from renderer(absolute_pose(source, motion), expression, closure, chunks, change)

    def takes(self, source: Source, motion: Motion, *, seed: int | None = None) -> OSMNetPipelineOutput:
        """Return takes of sampled motion without rendering them.

        Args:
            source (`Source`): From `encode_source`.
            motion (`Motion`): From `sample_motion`.
            seed (`int`, *optional*): Seed that the motion was sampled with, for the records.

        Returns:
            `OSMNetPipelineOutput`: Without frames: `save`, `stream` and `videos` render.
        """
        check_kind("source", source, Source, "encode_source")
        check_kind("motion", motion, Motion, "sample_motion")
        expression = self._expression(source, motion.speech, motion.expression_scale)
        precision = str(resolve_precision(self.video_generator, self.precision)).removeprefix("torch.")
        renderer = _Takes(self, source, expression, self.device.type, precision)
        return OSMNetPipelineOutput(
            None, absolute_pose(source, motion), motion, source, self.name, seed, renderer, expression=expression
        )

    def warm_up(self) -> None:
        """Compile kernels, choose the precision, and render a few frames.

        Takes some seconds on first use, half a second later.
        """
        mel_filters()  # imports librosa
        size = DEFAULT_SIZE
        at_rest = similarity_from_pose(np.zeros(6), size)
        fit = self.face_model.fit(at_rest.place(self.face_model.array("mean_shape")), size)
        grey = np.full((size, size, 3), 127, np.uint8)
        renderer = self._renderer(Source(grey, grey, CropBox(0, 0, size), fit, full_frame=False))
        for _ in renderer(np.repeat(fit.head_pose[None, None], 8, 1), np.repeat(fit.expression[None], 8, 0)):
            pass

    @takes_options(MotionOptions, PictureOptions)
    def live(
        self,
        portrait: Portrait | Source,
        *,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        lookahead: int = LOOKAHEAD,
        block: int = BLOCK,
        sampling_rate: int | None = None,
        label: bool = True,
        **options: Any,
    ) -> LiveSession:
        """Start a take that is rendered while speech is spoken.

        Args:
            portrait (`str`, `os.PathLike`, `PIL.Image.Image`, `np.ndarray` or `Source`): See `encode_source`.
            seed (`int`, *optional*): The same seed gives the same frames on the same device, however the sound is
                chunked.
            generator (`torch.Generator`, *optional*): Instead of `seed`.
            lookahead (`int`): Frames of sound awaited after a frame, 0 to 25; fewer lower the latency, more come
                closer to the offline result.
            block (`int`): Frames made at once, 1 to 25; fewer lower the latency, more cost less each.
            sampling_rate (`int`, *optional*): Rate of the sound in Hz; may come with the first chunk instead.
            label (`bool`): Draw a small "AI-generated" into every frame, as `save` does.
            **options: `epsilon`, `motion_scale`, `expression_scale`, `still`, `blink`, `upper_face` and `gaze` of
                `MotionOptions`; fields of `PictureOptions`.

        Returns:
            `LiveSession`: Session to feed with sound; see `latency`.

        Raises:
            ValueError: If an input cannot be used.
            TypeError: If an option is unknown.
        """
        also = ("seed", "generator", "lookahead", "block", "sampling_rate", "label")
        motion_options, picture = build_options("live", options, MotionOptions, PictureOptions, also=also)
        for name in options:
            if hasattr(motion_options, name) and name not in LIVE_OPTIONS:
                raise ValueError(
                    f"A live session cannot use {name}; of the motion it takes {', '.join(LIVE_OPTIONS)}."
                )
        (take_seed,) = draw_seeds(as_generator(seed, generator), 1)
        source = self._source(portrait, picture)
        return LiveSession(
            self, self._renderer(source), seed=take_seed, options=motion_options, lookahead=lookahead, block=block,
            sampling_rate=sampling_rate, label=label,
        )  # fmt: skip

    def _renderer(self, source: Source) -> Renderer:
        return renderer_for(source, self.face_model, self.video_generator, self.precision)

    def _bundle(self) -> Path:
        if self.face_landmarker_path is None:
            raise ValueError("This pipeline has no face landmarker; give face_landmarker= the path of a .task file.")
        return self.face_landmarker_path
