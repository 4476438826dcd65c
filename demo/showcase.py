"""The page's examples: takes that are there before anybody waits for them."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from demo.studio import Draft, Studio, Take, Wishes, run


@dataclass(frozen=True)
class Example:
    """A portrait and a recording that anybody may use.

    Attributes:
        title (`str`): Whose portrait it is.
        text (`str`): What is said.
        portrait (`Path`): A picture.
        speech (`Path`): A recording.
        seed (`int`): Of its takes.
    """

    title: str
    text: str
    portrait: Path
    speech: Path
    seed: int = 7


class Showcase:
    """Renders each example once, when it is first asked for; others who ask meanwhile wait for it.

    Args:
        studio (`Studio`): Who renders.
        examples (`Sequence[Example]`): What.
        num_videos (`int`): Takes of each.
    """

    def __init__(self, studio: Studio, examples: Sequence[Example], num_videos: int = 4):
        self.examples = list(examples)
        self._studio = studio
        self._num_videos = num_videos
        self._locks = [threading.Lock() for _ in self.examples]
        self._made: dict[int, tuple[Draft, list[Take]]] = {}

    def is_ready(self, index: int) -> bool:
        """Whether an example can be shown at once."""
        return index in self._made

    def show(self, index: int) -> tuple[Draft, list[Take]]:
        """The takes of an example and their draft.

        Raises:
            ValueError: If an example cannot be used.
        """
        with self._locks[index]:
            if index not in self._made:
                self._made[index] = self._make(index)
        return self._made[index]

    def prepare(self) -> threading.Thread:
        """Render all examples in the background; returns the thread."""
        thread = threading.Thread(target=self._make_all, name="examples", daemon=True)
        thread.start()
        return thread

    def _make_all(self) -> None:
        for index in range(len(self.examples)):
            self.show(index)

    def _make(self, index: int) -> tuple[Draft, list[Take]]:
        example = self.examples[index]
        wishes = Wishes(num_videos=self._num_videos, seed=example.seed)
        draft = run(self._studio.draft(str(example.portrait), str(example.speech), wishes))
        # Nobody declared anything: the portraits are in the public domain, the voices synthetic.
        # On the CPU: a GPU may be lent for visitors' calls alone, and examples have time.
        folder, pipe = self._studio.folder / f"example-{index}", self._studio.pipe
        return draft, run(self._studio.render(draft, folder, consent=None, painter=pipe))
