"""`Showcase`: examples rendered in advance."""

import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osmnet.pipelines.options import NUM_VIDEOS
from osmnet.serving.drafts import Draft, RenderedTake
from osmnet.serving.studio import Studio, StudioClosedError


@dataclass(frozen=True)
class Example:
    """A portrait and recording anybody may use.

    Attributes:
        title (`str`): Name of the person.
        text (`str`): Description of the recording.
        portrait (`Path`): A picture.
        speech (`Path`): A recording.
        seed (`int`): Seed of its takes.
    """

    title: str
    text: str
    portrait: Path
    speech: Path
    seed: int = 7


class Showcase:
    """Renders each example once.

    Args:
        studio (`Studio`): Studio that renders.
        examples (sequence of `Example`): The examples.
        **options: Fields of `MotionOptions` and `PictureOptions`; four takes if not given.
    """

    def __init__(self, studio: Studio, examples: Sequence[Example], **options: Any):
        self.examples = list(examples)
        self._options = {"num_videos": NUM_VIDEOS, **options}
        self._studio = studio
        self._locks = [threading.Lock() for _ in self.examples]
        self._made: dict[int, tuple[Draft, list[RenderedTake]]] = {}

    def is_ready(self, index: int) -> bool:
        """Whether an example is rendered."""
        return index in self._made

    def show(self, index: int) -> tuple[Draft, list[RenderedTake]]:
        """Return an example's draft and takes, rendered once.

        Raises:
            ValueError: If the example cannot be used.
        """
        with self._locks[index]:
            if index not in self._made:
                self._made[index] = self._make(index)
        return self._made[index]

    def prepare(self) -> threading.Thread:
        """Start rendering all examples in a thread."""
        thread = threading.Thread(target=self._make_all, name="examples", daemon=True)
        thread.start()
        return thread

    def _make_all(self) -> None:
        with suppress(StudioClosedError):
            for index in range(len(self.examples)):
                self.show(index)

    def _make(self, index: int) -> tuple[Draft, list[RenderedTake]]:
        example = self.examples[index]
        portrait, speech = str(example.portrait), str(example.speech)
        draft = self._studio.draft(portrait, speech, seed=example.seed, **self._options).result()
        # Without a declaration of consent: the portraits are in the public domain, the voices synthetic.
        # On the CPU: a GPU may be lent for visitors' calls only, and examples have time.
        folder = self._studio.folder / f"example-{index}"
        return draft, self._studio.render(draft, folder, pipe=self._studio.pipe).result()
