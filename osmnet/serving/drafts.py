"""`Draft`: takes sampled but not rendered."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from osmnet.pipelines.options import MotionOptions
from osmnet.serving.inputs import RefusedInputError
from osmnet.structures import Motion, Source


@dataclass(frozen=True)
class Draft:
    """Takes before they are rendered.

    Attributes:
        source (`Source`): The portrait, encoded.
        motion (`Motion`): The takes.
        options (`MotionOptions`): Sampling options.
        seed (`int`): Sampling seed.
        numbers (`tuple[int, ...]`): Number of each take, from 1.
        notes (`tuple[str, ...]`): Notes about the inputs for the user.
        recording (`str`): Path of the speech.
    """

    source: Source
    motion: Motion
    options: MotionOptions
    seed: int
    numbers: tuple[int, ...]
    notes: tuple[str, ...] = ()
    recording: str = ""

    def take(self, takes: Sequence[int]) -> "Draft":
        """Return some takes, by index.

        Raises:
            RefusedInputError: If none of them exists.
        """
        chosen = sorted({take for take in takes if 0 <= take < self.motion.num_videos})
        if not chosen:
            raise RefusedInputError("takes", "No take is picked; tick at least one of them.")
        return replace(self, motion=self.motion.take(chosen), numbers=tuple(self.numbers[take] for take in chosen))


@dataclass(frozen=True)
class RenderedTake:
    """Files of a take.

    Attributes:
        number (`int`): Number in the draft.
        seed (`int`): Seed that reproduces this take alone.
        video (`Path`): Signed MP4.
        details (`Path`): JSON: settings and head poses.
        turn (`list[int]`): Curves; see `osmnet.serving.sketch.curves`.
    """

    number: int
    seed: int
    video: Path
    details: Path
    turn: list[int] = field(repr=False)
