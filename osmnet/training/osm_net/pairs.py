"""Pairs of frames: disk cache, augmentation, batches."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import torch

from osmnet.data.dataset import Clip
from osmnet.face.morphable import FaceModel
from osmnet.training.osm_net.driving import Driving
from osmnet.training.osm_net.pose_clip import MIRROR
from osmnet.utils.files import discard, put_in_place, temporary_path, why

Pair = dict[str, np.ndarray]
PICTURES = ("source", "target", "warped")  # the entries of a pair that are pictures
PALE = 0.2  # share of the pairs that are desaturated
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
MAX_SHIFT, MAX_ZOOM = 0.04, 0.08  # of the side
AS_IT_IS = np.array([[1.0, 0, 0], [0, 1, 0]])  # an affine map of pixels


def frames_on_disk(
    owner: object, folder: Path, name: str, frames: Iterable[np.ndarray], count: int, size: int
) -> np.ndarray:
    """Cache the pictures of a clip in a memory-mapped file.

    Args:
        owner (`object`): Its garbage collection deletes the file; the end of the process does not, for a resumed run.
        folder (`Path`): Created if necessary.
        name (`str`): File name. An existing file is used.
        frames (iterable of `np.ndarray`): Pictures `(size, size, 3)`, uint8; not iterated if the file exists.
        count (`int`): Number of pictures.
        size (`int`): Side, pixels.

    Returns:
        `np.ndarray` of shape `(count, size, size, 3)`: uint8, read-only.

    Raises:
        ValueError: If there are fewer frames, or the disk is full.
    """
    path = folder / f"{name}.npy"
    try:
        mapped = np.load(path, mmap_mode="r")
        if mapped.shape != (count, size, size, 3) or mapped.dtype != np.uint8:
            raise ValueError(f"'{path}' holds other pictures.")
    except (OSError, ValueError):  # not there, or of something else
        mapped = _written(path, frames, count, size)
    weakref.finalize(owner, discard, path).atexit = False
    return mapped


def _written(path: Path, frames: Iterable[np.ndarray], count: int, size: int) -> np.ndarray:
    part, done = temporary_path(path), 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": (count, size, size, 3)}
            np.lib.format.write_array_header_1_0(file, header)
            for frame in frames:
                file.write(np.ascontiguousarray(frame).data)
                done += 1
        if done != count:
            raise ValueError(f"The video of '{path.stem}' has {done} frames, its track {count}; prepare it again.")
        # Mapped before it is renamed: another process may delete the named file at any time, but not this mapping.
        mapped = np.load(part, mmap_mode="r")
        put_in_place(part, path)  # synced: a resumed run trusts the file
        return mapped
    except OSError as error:
        raise ValueError(
            f"Cannot keep frames in '{path.parent}' ({why(error)}); free some space, set pool_clips to fewer, or give "
            "another folder with --work."
        ) from error
    finally:
        discard(part)


def random_view(size: int, rng: np.random.Generator, zoom_out: bool = True) -> np.ndarray:
    """Draw a shift or zoom, as an affine map `(2, 3)` of pixels.

    Args:
        size (`int`): Side of the picture.
        rng (`np.random.Generator`): Random numbers.
        zoom_out (`bool`): Whether the view may exceed the picture; otherwise each shift has a sufficient zoom.
    """
    # Half are unchanged; of the others half are shifted by whole pixels, which does not blur.
    changed, zoomed = rng.random(2) < 0.5
    shift = rng.uniform(-MAX_SHIFT, MAX_SHIFT, 2) * size
    zoom = 1 + rng.uniform(-MAX_ZOOM if zoom_out else 0, MAX_ZOOM)
    if not changed:
        return AS_IT_IS.copy()
    if not zoomed:
        zoom, shift = 1.0, np.round(shift)
    if not zoom_out:
        zoom = max(zoom, 1 + 2 * np.abs(shift).max() / size)
    return np.array([[zoom, 0, size / 2 * (1 - zoom) + shift[0]], [0, zoom, size / 2 * (1 - zoom) + shift[1]]])


def view(picture: np.ndarray, affine: np.ndarray, size: int) -> np.ndarray:
    """Cut `(size, size, 3)` by an affine map; the first pixel's centre is 0.5."""
    offset = affine[:, 2]
    if np.array_equal(affine[:, :2], np.eye(2)) and np.array_equal(offset, np.round(offset)):
        left, top = (-offset).astype(int)
        if min(left, top) >= 0 and max(left, top) + size <= len(picture):
            return picture[top : top + size, left : left + size]
    moved = affine.copy()
    moved[:, 2] += 0.5 * moved[:, :2].sum(1) - 0.5  # OpenCV's pixel centres are at integers
    return cv2.warpAffine(picture, moved, (size, size), flags=cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REPLICATE)


def joined(after: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Compose affine maps: `before` `(..., 2, 3)`, then `after` `(2, 3)`."""
    linear = after[:, :2] @ before[..., :2]
    return np.concatenate([linear, (before[..., 2] @ after[:, :2].T + after[:, 2])[..., None]], -1)


def flipped(pair: Pair, mirror: np.ndarray) -> Pair:
    """Mirror a pair.

    Args:
        pair (`dict[str, np.ndarray]`): Pictures `(H, W, 3)`, `guide` `(channels, H, W)` and `driving`
            `(kinds, window, 70)`.
        mirror (`np.ndarray` of shape `(64, 64)`): `FaceModel.mirror_expression`.
    """
    driving = pair["driving"].copy()
    driving[..., :6] *= MIRROR
    driving[..., 6:] = driving[..., 6:] @ mirror
    pictures = {key: np.ascontiguousarray(pair[key][:, ::-1]) for key in PICTURES if key in pair}
    return {**pictures, "guide": np.ascontiguousarray(pair["guide"][:, :, ::-1]), "driving": driving}


def tinted(pair: Pair, rng: np.random.Generator) -> Pair:
    """Change light and colour of a pair, to floats in [-1, 1]."""
    gain = rng.uniform(0.75, 1.2) * rng.uniform(0.93, 1.07, 3).astype(np.float32)
    gamma = rng.uniform(0.8, 1.25)
    table = 2 * np.clip((np.arange(256)[:, None] / 255) ** gamma * gain, 0, 1).astype(np.float32) - 1
    pictures = {key: np.stack([table[pair[key][..., c], c] for c in range(3)], -1) for key in PICTURES if key in pair}
    if rng.random() < PALE:  # as of paintings, statues, black and white photographs
        left = np.float32(rng.random() ** 2)
        pictures = {key: left * seen + (1 - left) * (seen @ LUMA)[..., None] for key, seen in pictures.items()}
    return {**pair, **pictures}


def plain(pair: Pair) -> Pair:
    """Convert pictures to floats in [-1, 1]."""
    return {**pair, **{key: pair[key] / np.float32(127.5) - 1 for key in PICTURES if key in pair}}


def stacked(pairs: Sequence[Mapping[str, np.ndarray]]) -> dict[str, torch.Tensor]:
    """Stack pairs to a batch; pictures become `(size, 3, H, W)`."""
    batch = {key: torch.from_numpy(np.stack([pair[key] for pair in pairs])) for key in pairs[0]}
    for key in PICTURES:
        if key in batch:
            batch[key] = batch[key].permute(0, 3, 1, 2).contiguous()
    return batch


class Pairs(ABC):
    """Sampler of pairs of frames of the same clip.

    Args:
        face_model (`FaceModel`): The linear face model.
        driving (`Driving`): Driving poses.
        size (`int`): Side of the network's pictures, pixels.
        context (`int`): Frames of driving numbers on either side.
        folder (`Path`): Cache of the pictures.
    """

    zoom_out: ClassVar[bool] = True  # whether a view may exceed the picture

    def __init__(self, face_model: FaceModel, driving: Driving, size: int, context: int, folder: Path):
        self.face_model, self.driving, self.folder = face_model, driving, folder
        self.size, self.context = size, context
        self.mirror = face_model.mirror_expression().astype(np.float32)

    @abstractmethod
    def make(self, clip: Clip) -> Any:
        """Prepare a clip: an object with a length and `pair(source, target, context, affine)`."""

    @abstractmethod
    def share(self, clip: Any) -> float:
        """Weight a clip in drawing."""

    @abstractmethod
    def draw(self, clip: Any, rng: np.random.Generator) -> tuple[int, int]:
        """Draw a source and a target frame."""

    def batch(
        self, clips: Sequence[Any], size: int, rng: np.random.Generator, augment: bool = True
    ) -> dict[str, torch.Tensor]:
        """Draw a batch.

        Args:
            clips (sequence): From `make`.
            size (`int`): Number of pairs.
            rng (`np.random.Generator`): Random numbers.
            augment (`bool`): Whether to shift, zoom, mirror and tint them.

        Returns:
            `dict[str, torch.Tensor]`: `source`, `target` and, of mouths, `warped` `(size, 3, H, W)` in [-1, 1];
            `guide` `(size, channels, H, W)`; `driving` `(size, kinds, 2 * context + 1, 70)`.
        """
        share = np.array([self.share(clip) for clip in clips])
        pairs = []
        for index in rng.choice(len(clips), size, p=share / share.sum()):
            source, target = self.draw(clips[index], rng)
            affine = random_view(self.size, rng, self.zoom_out) if augment else AS_IT_IS
            pair = clips[index].pair(source, target, self.context, affine)
            if augment and rng.random() < 0.5:
                pair = flipped(pair, self.mirror)
            pairs.append(tinted(pair, rng) if augment else plain(pair))
        return stacked(pairs)
