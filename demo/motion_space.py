"""The page's tab of the motion space: what each basis does, and a face turned by bases (the paper's Fig. 6 and 7)."""

from pathlib import Path

import numpy as np
from PIL import Image

from demo.studio import RefusedInputError, Studio
from osmnet.evaluation.figures.bases_figure import write_film
from osmnet.evaluation.figures.basis_motion import Basis, decode_bases, rotate
from osmnet.provenance.label import label_for
from osmnet.provenance.manifest import sign
from osmnet.rendering.select import renderer_for
from osmnet.structures import Source

TURNS = (("left", "Left"), ("frontal", "Front"), ("right", "Right"))


class MotionSpace:
    """Shows the bases of a studio's weights.

    Args:
        studio (`Studio`): With the weights.
        example (`Path`): Portrait where none is given; anybody may use it, so nobody has to agree.

    Attributes:
        bases (`list[Basis]`): All of them.
    """

    def __init__(self, studio: Studio, example: Path):
        self.studio = studio
        self.example = example
        self.bases: list[Basis] = decode_bases(studio.pipe)

    def film(self, portrait: str | None, index: int, path: Path, has_agreed: bool) -> Path:
        """Film what a basis does: held on the left, swung on the right.

        Args:
            portrait (`str`, *optional*): A picture; the example's if not given.
            index (`int`): Which basis.
            path (`Path`): Where the film goes, an MP4 file.
            has_agreed (`bool`): Whether the person in the picture has agreed.

        Returns:
            `Path`: Of the film; of the example there is one for all, which must not be changed.

        Raises:
            RefusedInputError: If the portrait cannot be used or there is no such basis.
        """
        if not 0 <= index < len(self.bases):
            raise RefusedInputError("basis", f"There are {len(self.bases)} bases, counted from 0; choose one of them.")
        if not portrait:
            return self.example_film(index)
        source, consent = self._source(portrait, has_agreed)
        self._film(source, index, path, consent)
        return path

    def example_film(self, index: int) -> Path:
        """`film` of the example, which is made once and kept."""
        path = self.studio.folder / f"example-basis-{index}.mp4"
        if not path.exists():
            self._film(self._source(None, False)[0], index, path, None)
        return path

    def turn(self, portrait: str | None, folder: Path, has_agreed: bool) -> tuple[list[tuple[Path, str]], str]:
        """Turn a portrait's head left, to the front and right by bases.

        Args:
            portrait (`str`, *optional*): A picture; the example's if not given.
            folder (`Path`): Where the pictures go.
            has_agreed (`bool`): Whether the person in the picture has agreed.

        Returns:
            `tuple`: The pictures, each with its title, and a sentence that says which bases did it.

        Raises:
            RefusedInputError: If the portrait cannot be used.
        """
        source, consent = self._source(portrait, has_agreed)
        turned = rotate(self.studio.pipe, source)
        head_pose = np.stack([turned[name].head_pose for name, _ in TURNS])[:, None]  # (3, 1, 6)
        pictures, mixtures = [], []
        drawn = self._draw(source, head_pose)
        label_for(source, head_pose).draw(drawn)
        for (name, title), frame in zip(TURNS, drawn[:, 0], strict=True):
            path = folder / f"{name}.png"
            Image.fromarray(frame).save(path)
            sign(path, consent=consent)
            mixture = " + ".join(f"{amount:g} × basis {basis}" for basis, amount in turned[name].bases.items())
            pictures.append((path, title))
            mixtures.append(f"**{title}**: {mixture or 'none'}")
        return pictures, ". ".join(mixtures) + "."

    def _source(self, portrait: str | None, has_agreed: bool) -> tuple[Source, bool | None]:
        """The portrait, and what is declared about it."""
        if not portrait:
            return self.studio.look(str(self.example))[0], None
        if has_agreed is not True:
            raise RefusedInputError("consent", "Say first that the person in the picture has agreed.")
        return self.studio.look(portrait)[0], True

    def _film(self, source: Source, index: int, path: Path, consent: bool | None) -> None:
        basis = self.bases[index]
        head_pose = source.fit.head_pose + np.stack([basis.held, basis.swung])  # (2, frames, 6)
        path.parent.mkdir(exist_ok=True)
        write_film(path, source, head_pose, self._draw(source, head_pose), consent=consent)

    def _draw(self, source: Source, head_pose: np.ndarray) -> np.ndarray:
        """Frames `(n, frames, height, width, 3)` of a face that is silent."""
        pipe = self.studio.pipe
        renderer = renderer_for(source, pipe.face_model, pipe.video_generator, pipe.precision)
        expression = np.repeat(source.fit.expression[None], head_pose.shape[1], 0)
        return np.concatenate(list(renderer(head_pose, expression)), 1)
