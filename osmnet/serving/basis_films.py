"""Films of the motion bases (paper Fig. 6, 7)."""

from pathlib import Path

import numpy as np
from PIL import Image

from osmnet.evaluation.figures.bases_figure import write_film
from osmnet.evaluation.figures.basis_motion import Basis, decode_bases, rotate
from osmnet.pipelines.options import PictureOptions
from osmnet.provenance.label import label_for
from osmnet.provenance.manifest import sign
from osmnet.rendering.select import renderer_for
from osmnet.serving.inputs import RefusedInputError
from osmnet.serving.studio import Studio
from osmnet.structures import Source

SQUARE = PictureOptions(full_frame=False)
TURNS = (("left", "Left"), ("frontal", "Front"), ("right", "Right"))


class BasisFilms:
    """Films of a studio's motion bases.

    Args:
        studio (`Studio`): Provider of the weights.
        example (`Path`): Default portrait, which needs no consent.

    Attributes:
        bases (`list[Basis]`): All bases.
    """

    def __init__(self, studio: Studio, example: Path):
        self.studio = studio
        self.example = example
        self.bases: list[Basis] = decode_bases(studio.pipe)

    def film(self, portrait: str | None, index: int, path: Path, has_agreed: bool) -> Path:
        """Film a basis, held and swung.

        Args:
            portrait (`str`, *optional*): A picture; the example if not given.
            index (`int`): The basis.
            path (`Path`): MP4 file to write.
            has_agreed (`bool`): Whether the person in the picture has agreed.

        Returns:
            `Path`: The film; do not change that of the example, which is shared.

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
        """Film the example once."""
        with self.studio.at_work() as folder:
            path = folder / f"example-basis-{index}.mp4"
            if not path.exists():
                self._film(self._source(None, False)[0], index, path, None)
        return path

    def turn(self, portrait: str | None, folder: Path, has_agreed: bool) -> tuple[list[tuple[Path, str]], str]:
        """Turn a head left, front and right.

        Args:
            portrait (`str`, *optional*): A picture; the example if not given.
            folder (`Path`): Folder for the pictures.
            has_agreed (`bool`): Whether the person in the picture has agreed.

        Returns:
            `tuple`: The pictures, each with its title, and a sentence that names the bases.

        Raises:
            RefusedInputError: If the portrait cannot be used.
        """
        source, consent = self._source(portrait, has_agreed)
        turned = rotate(self.studio.pipe, source)
        head_pose = np.stack([turned[name].head_pose for name, _ in TURNS])[:, None]  # (3, 1, 6)
        frames = self._draw(source, head_pose)  # (3, 1, height, width, 3)
        label_for(source, head_pose).draw(frames)
        pictures, mixtures = [], []
        for (name, title), frame in zip(TURNS, frames[:, 0], strict=True):
            path = folder / f"{name}.png"
            Image.fromarray(frame).save(path)
            sign(path, consent=consent)
            mixture = " + ".join(f"{amount:g} × basis {basis}" for basis, amount in turned[name].bases.items())
            pictures.append((path, title))
            mixtures.append(f"**{title}**: {mixture or 'none'}")
        return pictures, ". ".join(mixtures) + "."

    def _source(self, portrait: str | None, has_agreed: bool) -> tuple[Source, bool | None]:
        """Return encoded portrait and declared consent."""
        if not portrait:
            return self.studio.inputs.portrait(str(self.example), SQUARE)[0], None
        if has_agreed is not True:
            raise RefusedInputError("consent", "Say first that the person in the picture has agreed.")
        return self.studio.inputs.portrait(portrait, SQUARE)[0], True

    def _film(self, source: Source, index: int, path: Path, consent: bool | None) -> None:
        self.studio.disk.check()
        basis = self.bases[index]
        head_pose = source.fit.head_pose + np.stack([basis.held, basis.swung])  # (2, frames, 6)
        write_film(path, source, head_pose, self._draw(source, head_pose), consent=consent)

    def _draw(self, source: Source, head_pose: np.ndarray) -> np.ndarray:
        """Render `(n, frames, height, width, 3)` in silence."""
        pipe = self.studio.pipe
        renderer = renderer_for(source, pipe.face_model, pipe.video_generator, pipe.precision)
        expression = np.repeat(source.fit.expression[None], head_pose.shape[1], 0)  # (frames, 64)
        return np.concatenate(list(renderer(head_pose, expression)), 1)
