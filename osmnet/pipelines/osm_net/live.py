"""Live speech: feed sound, get frames with a fixed latency."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d, maximum_filter1d

from osmnet.media.audio import FPS, MAX_RATE, MIN_RATE, SAMPLING_RATE, MonoArray
from osmnet.media.listener import BEFORE, Listener, resampling_delay
from osmnet.models.osm_net.speech_encoder import SpeechEncoder
from osmnet.pipelines.options import MotionOptions
from osmnet.pipelines.osm_net.head_motion import MAX_MOTION, PAUSE, to_camera
from osmnet.pipelines.osm_net.live_motion import LiveMotion, LiveUpperFace
from osmnet.pipelines.osm_net.upper_face import UpperFace, UpperFaceTake, on_viewer
from osmnet.provenance.label import label_for
from osmnet.structures import Source
from osmnet.utils.checks import check_flag, short
from osmnet.utils.threads import in_order

if TYPE_CHECKING:
    from osmnet.pipelines.osm_net.components import OSMNetComponents

LIVE_OPTIONS = ("epsilon", "motion_scale", "expression_scale", "still", "blink", "upper_face", "gaze")
LOOKAHEAD, BLOCK = 4, 2  # frames; measured in docs/live.md
ENCODER_CONTEXT = 25  # frames of sound before the first one that the mouth depends on
MAX_LOOKAHEAD, MAX_BLOCK, MAX_CHANNELS = 25, 25, 32


class BlockRenderer(Protocol):
    """Renderer of frames, such as `osmnet.rendering.renderer.Renderer`."""

    source: Source
    context: int
    closing: np.ndarray

    def render_chunk(self, head_pose: np.ndarray, expression: np.ndarray) -> np.ndarray:
        """Draw `(n, height, width, 3)` from n + 2 · context frames of motion."""


class LiveSession:
    """One take rendered while its speech is spoken; made by `OSMNetPipeline.live`.

    `block` frames are made once the sound of `lookahead` further frames has arrived, in constant memory and
    independently of the chunking. Feed from one thread at a time.

    Args:
        pipe (`OSMNetComponents`): The networks.
        renderer (`BlockRenderer`): Draws the frames of the portrait.
        seed (`int`): Seed of the motion of head, brows and eyes.
        options (`MotionOptions`, *optional*): Only `LIVE_OPTIONS` are used.
        lookahead (`int`): Frames of sound awaited after a frame, 0 to 25; 17 cover all that a frame depends on.
        block (`int`): Frames made at once, 1 to 25.
        sampling_rate (`int`, *optional*): Rate of the sound in Hz; may come with the first chunk instead.
        label (`bool`): Draw a small "AI-generated" into every frame.

    Attributes:
        source (`Source`): The portrait.
        seed (`int`): Makes the same take again.
        num_frames (`int`): Frames returned so far. Frame `i` belongs to second i/25 of the sound.
        head_pose (`np.ndarray` of shape `(n, 6)`): Absolute poses of the `n` frames returned last.
        expression (`np.ndarray` of shape `(n, 64)`): Their β without the motion of brows and eyes.

    Example:
        >>> session = pipe.live("portrait.jpg", seed=7, sampling_rate=48_000)
        >>> for chunk in microphone:  # arrays of shape (samples,), int16 or float
        ...     for frame in session.feed(chunk):
        ...         show(frame)
        >>> last_frames = session.finish()
    """

    def __init__(
        self,
        pipe: OSMNetComponents,
        renderer: BlockRenderer,
        *,
        seed: int,
        options: MotionOptions | None = None,
        lookahead: int = LOOKAHEAD,
        block: int = BLOCK,
        sampling_rate: int | None = None,
        label: bool = True,
    ):
        for name, value, low, high in (("lookahead", lookahead, 0, MAX_LOOKAHEAD), ("block", block, 1, MAX_BLOCK)):
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ValueError(f"{name} must be a whole number of frames from {low} to {high}, not {short(value)}.")
        check_flag("label", label)
        options = options or MotionOptions()
        self.source, self.seed = renderer.source, seed
        self.lookahead, self.block = lookahead, block
        self.num_frames = 0
        self._pipe, self._renderer = pipe, renderer
        self._expression_scale, self._motion_scale = options.expression_scale, options.motion_scale
        generator = torch.Generator().manual_seed(_motion_seed(seed))
        past = pipe.expression_extractor.context_frames + (ENCODER_CONTEXT if pipe.uses_speech_encoder else 0)
        self._listener = Listener(keep=max(past, PAUSE) + 3 + block + lookahead)
        context = renderer.context
        self._motion = None if options.still else LiveMotion(pipe, generator, options.epsilon, keep=context + block)
        space = pipe.upper_face_space
        self._upper_face = LiveUpperFace(UpperFaceTake(space, (seed,), options))
        self._face = UpperFace(space, pipe.face_model, self.source)
        self._eye_radius = None if space is None or options.gaze == "fixed" else space.habit("eye_radius")
        self._rest = pipe.rest_expression(self.source)
        self._label = label_for(self.source, _reach(self.source)) if label else None
        self._driven: deque[np.ndarray] = deque(maxlen=context)  # β with blinks of the frames before
        self._rate: float | None = None
        self._delay = 0.0
        self._finished = False
        self._feeding = Lock()
        self.head_pose = np.zeros((0, 6), np.float32)
        self.expression = np.zeros((0, len(self._rest)), np.float32)
        if sampling_rate is not None:
            self._set_rate(sampling_rate)

    @property
    def latency(self) -> float:
        """Delay of frame i after second i/25 of the sound, s.

        Includes the resampler's delay once the rate is known, but not computing time.
        """
        # Sound of block and lookahead, 7.5 ms for the last spectrum, resampling.
        return (self.block + self.lookahead) / FPS + BEFORE / SAMPLING_RATE + self._delay

    def feed(self, chunk: np.ndarray, sampling_rate: int | None = None) -> np.ndarray:
        """Add sound and return the frames it completes.

        Args:
            chunk (`np.ndarray` of shape `(samples,)` or `(samples, channels)`): Floats in [-1, 1] or integers (up to
                32 bits) that use the range of their type; any number of samples, also none.
            sampling_rate (`int`, *optional*): Of the sound in Hz, the same in all chunks; needed once.

        Returns:
            `np.ndarray` of shape `(n, height, width, 3)`: The next n frames, uint8; n may be 0.

        Raises:
            ValueError: If the session is finished, another thread is feeding it, or the chunk is invalid; the session
                is then unchanged.
        """
        with self._alone():
            self._check_open()
            if sampling_rate is not None:
                self._set_rate(sampling_rate)
            if self._rate is None:
                raise ValueError(
                    "The sound needs its rate: pass sampling_rate=..., for example 48000, with the first chunk."
                )
            self._listener.push(_mono(chunk), self._rate)
            return self._joined(self._complete())

    def finish(self) -> np.ndarray:
        """End the sound as if silence followed.

        Returns:
            `np.ndarray` of shape `(n, height, width, 3)`: The remaining frames, so that `num_frames` cover the sound;
            nothing more can be fed.

        Raises:
            ValueError: If the session is finished already, or another thread is feeding it.
        """
        with self._alone():
            self._check_open()
            self._finished = True
            total = self._listener.end()
            blocks = self._complete()
            while self._begun < total:
                self._listener.push_silence()
                blocks += self._complete()
            return self._joined(blocks, total - self.num_frames)

    @property
    def _begun(self) -> int:
        """First frame of the next block."""
        return max(self._listener.frames - self.lookahead, 0) // self.block * self.block

    def _complete(self) -> list[tuple[np.ndarray, ...]]:
        """Make the blocks whose sound has arrived."""
        due = self._due()
        first = next(due, None)
        if first is None:
            return []
        # One PyTorch thread: two frames are too little work to share, and contending threads were four times slower.
        return list(in_order(self._make, chain([first], due), workers=1, ahead=0))

    def _due(self) -> Iterator[int]:
        """Yield the first frame of each block that is due."""
        while self._listener.advance():
            begun = self._listener.frames - self.lookahead - self.block
            if begun >= 0 and begun % self.block == 0:
                yield begun

    def _joined(self, blocks: list[tuple[np.ndarray, ...]], count: int | None = None) -> np.ndarray:
        if blocks:
            frames, self.head_pose, self.expression = (
                np.concatenate(parts)[:count] for parts in zip(*blocks, strict=True)
            )
        else:
            frames = np.zeros((0, *self.source.frame_size, 3), np.uint8)
            self.head_pose, self.expression = self.head_pose[:0], self.expression[:0]
        self.num_frames += len(frames)
        return frames

    def _make(self, begin: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Make one block: frames, poses and β."""
        context, end = self._renderer.context, begin + self.block
        # 1. Motion of the block and its context.
        head_pose = self._head_pose(begin, end)  # (context + block + context, 6)
        expression = self._expression(begin, end)  # (block + at most context, 64)
        # 2. Add brows and eyes, and the frames before the block.
        ahead = np.arange(self.block + context)
        driven = expression[np.minimum(ahead, len(expression) - 1)]
        coordinates, blink = self._upper_face.frames(begin, end, self._listener.frames, self._listener.activity)
        shown = np.minimum(ahead, len(blink) - 1)
        coordinates, blink = coordinates[shown], blink[shown]
        if self._eye_radius is not None:
            coordinates = on_viewer(coordinates, head_pose[context:] - self.source.fit.head_pose, self._eye_radius)
        driven = driven + self._face.closure(coordinates, blink)[:, None] * self._renderer.closing
        driven = driven + self._face.change(coordinates)
        past = [self._driven[0] if self._driven else driven[0]] * (context - len(self._driven)) + list(self._driven)
        driving = np.concatenate([np.reshape(past, (context, -1)), driven]).astype(np.float32)  # (n, 64)
        self._driven.extend(driven[: self.block])
        # 3. Render and label.
        frames = self._renderer.render_chunk(head_pose, driving)
        if self._label is not None:
            self._label.draw(frames)
        return frames, head_pose[context : context + self.block], expression[: self.block]

    def _head_pose(self, begin: int, end: int) -> np.ndarray:
        """Return absolute poses of a block and its context."""
        context = self._renderer.context
        if self._motion is None:
            return to_camera(self.source, np.zeros((end - begin + 2 * context, 6), np.float32))
        # Poses that are not known yet repeat the last known one.
        for clip in self._motion.clips_until(end - 1):
            self._motion.add_clip(*self._sound_of(clip))
        first, known = max(begin - context, 0), min(self._motion.known, end + context)
        path = self._motion_scale * self._motion.path(first, known)
        around = np.clip(np.arange(begin - context, end + context), first, known - 1)
        return to_camera(self.source, path[around - first])

    def _sound_of(self, clip: int) -> tuple[np.ndarray, float]:
        """Return mel windows and share of speech of a clip."""
        length = self._pipe.motion_decoder.config.clip_length
        frames = np.minimum(clip * (length - 1) + np.arange(length), self._listener.frames - 1)
        windows = self._listener.mel_windows(frames[0], frames[-1] + 1)[frames - frames[0]]
        activity = self._listener.activity(frames[0])[: len(set(frames))]
        return windows, float(activity.mean())

    def _expression(self, begin: int, end: int) -> np.ndarray:
        """Return β from `begin` through available context."""
        extractor, face_model, listener = self._pipe.expression_extractor, self._pipe.face_model, self._listener
        past = extractor.context_frames
        first, stop = max(begin - past, 0), min(listener.frames, end + self._renderer.context)
        windows = listener.mel_windows(first, max(end + past, stop))
        features = self._speech_features(first) if self._pipe.uses_speech_encoder else None
        expression = extractor.extract(windows, self.source.fit.identity, begin - first, stop - first, features)
        lips = expression - face_model.upper_face(expression)
        first = max(begin - PAUSE, 0)
        talking = maximum_filter1d(listener.activity(first), PAUSE, mode="nearest")
        speaking = gaussian_filter1d(talking, 1.0, mode="nearest")[begin - first : stop - first]
        moved: np.ndarray = self._rest + self._expression_scale * speaking[:, None] * lips
        return moved.astype(np.float32)

    def _speech_features(self, first: int) -> Callable[[int, int], np.ndarray]:
        """Make an encoder of frames counted from `first`."""
        earliest = max(first - ENCODER_CONTEXT, 0)
        waveform = self._listener.waveform(earliest)
        encoder = cast(SpeechEncoder, self._pipe.speech_encoder)
        return lambda begin, stop: encoder.encode_piece(waveform, np.arange(begin, stop) + first - earliest)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Refuse a second thread: a session is one stream of sound, whose order would be lost."""
        if not self._feeding.acquire(blocking=False):
            raise ValueError("Another thread is feeding this session; feed it from one thread, or make one for each.")
        try:
            yield
        finally:
            self._feeding.release()

    def _check_open(self) -> None:
        if self._finished:
            raise ValueError("The session is finished; make another with pipe.live(...).")

    def _set_rate(self, sampling_rate: Any) -> None:
        number = isinstance(sampling_rate, int | float | np.number) and not isinstance(sampling_rate, bool)
        if not number or not MIN_RATE <= sampling_rate <= MAX_RATE:
            raise ValueError(
                f"sampling_rate must be a number of Hz from {MIN_RATE} to {MAX_RATE}, not {short(sampling_rate)}."
            )
        rate = float(sampling_rate)
        if self._rate not in (None, rate):
            raise ValueError(
                f"The sound began at {self._rate:g} Hz and cannot continue at {rate:g} Hz; keep to one rate."
            )
        if self._rate is None:
            self._rate, self._delay = rate, resampling_delay(rate)


def _reach(source: Source) -> np.ndarray:
    """Return poses `(n, 6)` up to half the limits."""
    to_sides = np.concatenate([np.zeros((1, 6)), np.eye(6), -np.eye(6)]) * MAX_MOTION / 2
    return to_camera(source, to_sides.astype(np.float32))


def _motion_seed(seed: int) -> int:
    """Derive the seed of head motion."""
    return int(torch.randint(0, 2**53, (), generator=torch.Generator().manual_seed(seed), dtype=torch.int64))


def _mono(chunk: Any) -> np.ndarray:
    if not isinstance(chunk, np.ndarray) or chunk.ndim not in (1, 2) or (chunk.ndim == 2 and chunk.shape[1] == 0):
        shape = chunk.shape if isinstance(chunk, np.ndarray) else type(chunk).__name__
        raise ValueError(f"A chunk of sound must be an array of shape (samples,) or (samples, channels), not {shape}.")
    if chunk.ndim == 2 and chunk.shape[1] > MAX_CHANNELS:
        raise ValueError(f"A chunk of shape {chunk.shape} has too many channels: give (samples, channels).")
    samples = MonoArray(chunk.reshape(-1))[:].reshape(chunk.shape)
    if not np.isfinite(samples).all():
        raise ValueError("The chunk of sound holds NaN or infinite samples; leave it out, or check the microphone.")
    return samples if samples.ndim == 1 else samples.mean(axis=1, dtype=np.float32)
