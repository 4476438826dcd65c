"""`TalkingHeadPipeline`: steps and options shared by all model families."""

from __future__ import annotations

import inspect
import os
from abc import abstractmethod
from collections.abc import Callable, Generator, Sequence
from dataclasses import fields
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from PIL import Image

from osmnet.loading.pipeline import PipelineLoader
from osmnet.media.recording import Recording
from osmnet.pipelines.options import MotionOptions, PictureOptions, build_options
from osmnet.pipelines.seeds import as_generator, known_seed
from osmnet.structures import Motion, Source, Speech, StreamChunk
from osmnet.takes.output import TalkingHeadOutput, check_memory
from osmnet.utils.checks import short
from osmnet.utils.lazy_rows import LazyRows

Portrait = str | os.PathLike[str] | Image.Image | np.ndarray
Sound = str | os.PathLike[str] | np.ndarray | tuple[Any, ...] | Recording
Randomness = torch.Generator | list[torch.Generator] | None
OUTPUT_TYPES = ("np", "pil", "lazy")


def takes_options(*classes: type[Any]) -> Callable[[Any], Any]:
    """Replace `**options` in a signature by the fields of options classes."""

    def decorate(function: Any) -> Any:
        signature = inspect.signature(function)
        own = [each for each in signature.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
        added = [
            inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=each.default, annotation=each.type)
            for cls in classes
            for each in fields(cls)
        ]
        function.__signature__ = signature.replace(parameters=[*own, *added])
        return function

    return decorate


class TalkingHeadPipeline(PipelineLoader):
    """Base of talking-head pipelines; `from_pretrained` returns the class named in `model_index.json`.

    A family implements the abstract methods (docs/architecture.md).

    Example:
        >>> pipe = TalkingHeadPipeline.from_pretrained("folder")
        >>> pipe("portrait.jpg", "speech.wav", num_videos=4, seed=7).save("out/")
    """

    pipeline_classes: ClassVar[dict[str, str]] = {
        "OSMNetPipeline": "osmnet.pipelines.osm_net.pipeline_osm_net:OSMNetPipeline",
    }

    # Of the video generator: "float32", "bfloat16" or "float16"; "auto" takes the fastest on this machine that changes
    # no pixel by more than one grey level (docs/performance.md).
    precision: str = "auto"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name}, {self.device}, {str(self.dtype).removeprefix('torch.')})"

    @property
    def name(self) -> str:
        """Name of the weights."""
        return self.name_or_path or "unnamed"

    @abstractmethod
    def encode_source(self, portrait: Portrait, **options: Any) -> Source:
        """Encode a portrait for reuse across takes."""

    @abstractmethod
    def encode_speech(self, speech: Sound, sampling_rate: int | None = None) -> Speech:
        """Encode speech for reuse across takes."""

    @abstractmethod
    def takes(self, source: Source, motion: Motion, *, seed: int | None = None) -> TalkingHeadOutput:
        """Return takes of sampled motion without rendering them."""

    @abstractmethod
    def render(
        self,
        source: Source,
        motion: Motion,
        *,
        expression: np.ndarray | LazyRows | None = None,
        chunks: Sequence[tuple[int, int]] | None = None,
    ) -> Generator[np.ndarray]:
        """Render takes chunk by chunk."""

    @abstractmethod
    def _sample(self, source: Source, speech: Speech, options: MotionOptions, generator: Randomness) -> Motion:
        """Sample motion."""

    @takes_options(MotionOptions, PictureOptions)
    def __call__(
        self,
        portrait: Portrait | Source,
        speech: Sound | Speech,
        *,
        seed: int | Sequence[int] | None = None,
        generator: Randomness = None,
        sampling_rate: int | None = None,
        output_type: Literal["np", "pil", "lazy"] = "np",
        progress: bool = False,
        **options: Any,
    ) -> Any:
        """Make talking-head videos.

        Args:
            portrait (`str`, `os.PathLike`, `PIL.Image.Image`, `np.ndarray` or `Source`): A picture with a face.
            speech (`str`, `os.PathLike`, `np.ndarray`, `tuple` or `Speech`): A file with sound, an array, or array
                and rate.
            seed (`int` or sequence of `int`, *optional*): The same seed gives the same frames on the same device. A
                list holds one `take_seed` a take (from `motion.seeds` or a take's JSON file).
            generator (`torch.Generator` or a list of them, *optional*): Instead of `seed`.
            sampling_rate (`int`, *optional*): Rate of `speech` in Hz, if it is an array.
            output_type (`"np" | "pil" | "lazy"`): Arrays, PIL images, or nothing until `save` or `stream` renders in
                constant memory. Arrays and images carry no label; `save` and `stream` draw it.
            progress (`bool`): Show a progress bar while rendering.
            **options: Fields of `MotionOptions` and `PictureOptions`.

        Returns:
            `TalkingHeadOutput`: The takes; `save(folder)` writes videos.

        Raises:
            ValueError: If an input cannot be used.
            TypeError: If an option is unknown; the message suggests one.
        """
        also = ("seed", "generator", "sampling_rate", "output_type", "progress")
        motion_options, picture = build_options(type(self).__name__, options, MotionOptions, PictureOptions, also=also)
        if not (isinstance(output_type, str) and output_type in OUTPUT_TYPES):
            raise ValueError(f"output_type must be 'np', 'pil' or 'lazy', not {short(output_type)}.")
        generator = as_generator(seed, generator)
        # 1. Encode the portrait.
        source = self._source(portrait, picture)
        # 2. Encode the speech.
        if not isinstance(speech, Speech):
            speech = self.encode_speech(speech, sampling_rate)
        if output_type != "lazy":  # refuse before the work, not after it
            check_memory(motion_options.num_videos, speech.num_frames, source.frame_size, output_type)
        # 3. Sample motion.
        known = known_seed(generator)
        motion = self._sample(source, speech, motion_options, generator)
        # 4. Render, now or while the output is saved.
        output = self.takes(source, motion, seed=known)
        return output if output_type == "lazy" else output.render(output_type, progress)

    def stream(
        self, portrait: Portrait | Source, speech: Sound | Speech, *, label: bool = True, **options: Any
    ) -> Generator[StreamChunk]:
        """Make videos and yield frames as they are rendered.

        Args:
            portrait (`str`, `os.PathLike`, `PIL.Image.Image`, `np.ndarray` or `Source`): As in `__call__`.
            speech (`str`, `os.PathLike`, `np.ndarray`, `tuple` or `Speech`): As in `__call__`.
            label (`bool`): Draw a small "AI-generated" into every frame, as `save` does.
            **options: Those of `__call__` without `output_type`.

        Returns:
            Iterator of `StreamChunk`: Some frames of all takes with their sound. Later chunks are rendered in the
            background, a few ahead; closing the iterator stops it.

        Raises:
            ValueError: If an input cannot be used; at the call, not at the first chunk.

        Example:
            >>> for chunk in pipe.stream("portrait.jpg", "speech.wav"):
            ...     play(chunk.frames[0], chunk.waveform)
        """
        if "output_type" in options:
            raise ValueError("A stream has no output_type: it yields arrays; leave it out.")
        output: TalkingHeadOutput = self(portrait, speech, **options, output_type="lazy")
        return output.stream(label)

    def _source(self, portrait: Any, picture: PictureOptions) -> Source:
        """Encode the portrait unless it is a `Source`."""
        if not isinstance(portrait, Source):
            return self.encode_source(portrait, full_frame=picture.full_frame, size=picture.size, face=picture.face)
        if (
            picture.full_frame not in (None, portrait.full_frame)
            or picture.size not in (None, portrait.size)
            or picture.face is not None
        ):
            raise ValueError("The portrait is encoded already: give full_frame, size and face to encode_source.")
        return portrait
