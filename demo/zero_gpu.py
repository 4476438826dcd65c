"""Rendering on Hugging Face's ZeroGPU Spaces, which lend a GPU for the length of a call; elsewhere a plain call."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from osmnet.media.audio import FPS

if TYPE_CHECKING:
    from osmnet.serving.drafts import Draft
    from osmnet.serving.studio import Studio

Paint = Callable[[Any, Path, bool | None], Generator[Any]]
LENT = os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "true")
# Exists on these Spaces only; must be imported before anything asks for a GPU.
SPACES: Any = importlib.import_module("spaces") if LENT else None
READY_SECONDS = 12  # s until a lent GPU renders
GPU_SHARE = 0.15  # s of GPU per second of video


def gpu_seconds(draft: Draft, folder: Path, consent: bool | None) -> int:
    """Longest time that a draft needs the GPU, s; shorter calls wait less."""
    return round(READY_SECONDS + GPU_SHARE * draft.motion.num_videos * draft.motion.speech.num_frames / FPS)


def make_paint(studio: Studio) -> Paint:
    """Make the function that renders a draft into a folder, on a lent GPU if there is one.

    Args:
        studio (`Studio`): Renders.

    Returns:
        `Callable`: Called with a draft, a folder and the declaration of consent; yields `Step`s, and at last the list
        of takes.
    """

    def paint(draft: Draft, folder: Path, consent: bool | None) -> Generator[Any]:
        with studio.render(draft, folder, consent) as job:
            yield from job
            yield job.result()

    return paint if SPACES is None else SPACES.GPU(duration=gpu_seconds)(paint)
