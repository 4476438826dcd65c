"""Load portraits as RGB arrays, within a budget of pixels."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from osmnet.media.isolated import IsolatedDecoder, decoder_for
from osmnet.utils.checks import check_path, check_range, reason

MAX_MEGAPIXELS = 64.0  # by default, millions of pixels
LARGEST_MEGAPIXELS = 178.0  # that can be asked for: PIL refuses more
MAX_SIDE = 2048  # px
LARGEST_SIDE = 2**16  # px, that can be asked for

# Formats of cameras, phones and browsers; not EPS and the like, for which PIL starts other programs.
_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "JPEG2000", "PPM", "TGA")
_ORIENTATION = 0x0112  # EXIF tag
_TILE = 322, 323  # width and height of a TIFF's tiles
_BAND = 2**20  # pixels that are converted at a time

# Transposes to upright, by EXIF orientation.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def load_portrait(
    portrait: str | os.PathLike[str] | Image.Image | np.ndarray,
    max_side: int = MAX_SIDE,
    *,
    max_megapixels: float = MAX_MEGAPIXELS,
    isolated: IsolatedDecoder | bool | None = None,
) -> np.ndarray:
    """Load a picture as upright 8-bit RGB.

    Applies EXIF orientation, composites transparency onto white, converts any colour mode, takes an animation's first
    frame and downscales large pictures.

    Args:
        portrait (`str`, `os.PathLike`, `PIL.Image.Image` or `np.ndarray`): A file, an opened picture, or an array of
            shape `(H, W)`, `(H, W, 1)`, `(H, W, 3)` (RGB) or `(H, W, 4)` (RGBA): uint8, uint16, other integers within
            one of these ranges, bool, or floats in [0, 1]. It is not modified.
        max_side (`int`): Longest side of the result in pixels.
        max_megapixels (`float`): Largest picture, millions of pixels, at most 178; checked before it is decoded, which
            takes 8 to 20 bytes a pixel. An array may be larger.
        isolated (`IsolatedDecoder` or `bool`, *optional*): Decode a file in a limited child process, see
            `osmnet.media.isolated.decoder_for`.

    Returns:
        `np.ndarray` of shape `(H, W, 3)`: uint8 RGB.

    Raises:
        ValueError: If the file is missing, empty, damaged or not a picture, has more pixels, or the array has another
            shape, type or range.
    """
    check_range("max_side", max_side, 1, LARGEST_SIDE, whole=True)
    check_range("max_megapixels", max_megapixels, 0, LARGEST_MEGAPIXELS)
    if isinstance(portrait, str) and not portrait:
        raise ValueError("There is no portrait: its path is empty.")
    if isinstance(portrait, str | os.PathLike):
        path, decoder = check_path("portrait", portrait), decoder_for(isolated)
        if decoder:
            return decoder.picture(path, max_side, max_megapixels)
        return _load_file(path, max_side, max_megapixels)
    if isinstance(portrait, Image.Image):
        _check_pixels(portrait.size, "The given picture", max_megapixels)
        return _decode(portrait, max_side, "The given picture")
    if isinstance(portrait, np.ndarray):
        if portrait.size > 4e6 * LARGEST_MEGAPIXELS:  # before copies are made
            raise ValueError(_too_large("The given array", LARGEST_MEGAPIXELS))
        return _scaled(_to_rgb(_from_array(portrait)), max_side)
    raise ValueError(f"A portrait must be a file, a PIL image or a numpy array, not {type(portrait).__name__}.")


def _load_file(path: Path, max_side: int, max_megapixels: float) -> np.ndarray:
    try:
        if path.is_dir():
            raise ValueError(f"'{path}' is a folder: give the path of one picture.")
        if not path.is_file():
            raise ValueError(f"There is no file '{path}': check the path of the portrait.")
        if path.stat().st_size == 0:
            raise ValueError(f"'{path}' is empty (0 bytes): copy or save the picture again.")
        with path.open("rb") as file:
            return decode_picture(file, max_side, f"'{path}'", max_megapixels)
    except OSError as error:
        raise ValueError(f"'{path}' cannot be read ({error.strerror}): check the path of the portrait.") from error


def decode_picture(file: BinaryIO, max_side: int, name: str, max_megapixels: float = MAX_MEGAPIXELS) -> np.ndarray:
    """Decode an open file, which is closed, as `load_portrait` does.

    Args:
        file (`BinaryIO`): The picture.
        max_side (`int`): See `load_portrait`.
        name (`str`): Its name in messages.
        max_megapixels (`float`): See `load_portrait`.

    Returns:
        `np.ndarray` of shape `(H, W, 3)`: uint8 RGB.

    Raises:
        ValueError: As `load_portrait`.
    """
    # 1. Read the header: which format, and how many pixels it would take to decode.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is checked below
            Image.init()  # fills Image.OPEN, which knows the formats of this build of PIL
            image = Image.open(file, formats=[format for format in _FORMATS if format in Image.OPEN])
        # Tiles of a TIFF are decoded whole, also where they reach beyond it.
        tile = tuple(image.getexif().get(tag) for tag in _TILE) if image.format == "TIFF" else ()
    except Image.DecompressionBombError as error:
        raise ValueError(_too_large(name, max_megapixels)) from error
    except UnidentifiedImageError as error:
        raise ValueError(f"{name} is not a picture that can be read: give a JPEG, PNG or WebP file.") from error
    except MemoryError:
        raise
    except Exception as error:  # PIL's readers raise almost anything on damaged data
        raise ValueError(_damaged(name, error)) from error
    _check_pixels(image.size, name, max_megapixels)
    match tile:
        case (int(width), int(height)) if width > 0 and height > 0:
            _check_pixels((width, height), name, max_megapixels)
    # 2. Decode. PIL decodes JPEG faster at 1/2, 1/4 or 1/8 size; twice the wanted size keeps the quality.
    scale = 2 * max_side / max(image.size)
    if scale < 1 and image.format in ("JPEG", "MPO"):
        image.draft(None, (max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    return _decode(image, max_side, name, is_ours=True)


def _decode(image: Image.Image, max_side: int, name: str, is_ours: bool = False) -> np.ndarray:
    """Convert an opened picture; one of ours is closed as soon as its pixels have been copied."""
    try:
        image.load()
        turn = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
        rgb = _to_rgb(image)
    except MemoryError:
        raise
    except Exception as error:  # as above
        raise ValueError(_damaged(name, error)) from error
    if is_ours and rgb is not image:
        image.close()
    if turn is not None:
        rgb = rgb.transpose(turn)
    return _scaled(rgb, max_side)


def _damaged(name: str, error: Exception) -> str:
    return f"{name} is damaged ({reason(error)}): copy or save the picture again."


def _too_large(name: str, max_megapixels: float) -> str:
    return (
        f"{name} has more than {LARGEST_MEGAPIXELS:g} million pixels, and the limit is {max_megapixels:g} million; "
        "scale it down first."
    )


def _check_pixels(size: Sequence[int], name: str, max_megapixels: float) -> None:
    pixels = size[0] * size[1] / 1e6
    if pixels > max_megapixels:
        raise ValueError(
            f"{name} has {pixels:.0f} million pixels, and the limit is {max_megapixels:g} million; scale it down "
            "first."
        )
    if min(size) < 1:
        raise ValueError(f"{name} has no pixels: give a whole picture.")


def _scaled(rgb: Image.Image, max_side: int) -> np.ndarray:
    scale = max_side / max(rgb.size)
    if scale < 1:
        size = (max(1, round(rgb.width * scale)), max(1, round(rgb.height * scale)))
        rgb = rgb.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    return np.array(rgb)


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert to RGB band by band, so that what is needed between takes no memory."""
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    is_deep = image.mode.startswith("I")  # PIL would cut 16-bit grey off at 255
    rgb, rows = Image.new("RGB", image.size), max(1, _BAND // image.width)
    bands = [(0, top, image.width, min(top + rows, image.height)) for top in range(0, image.height, rows)]
    is_16_bit = is_deep and (image.mode != "I" or any(np.asarray(image.crop(band)).max() > 255 for band in bands))
    for band in bands:
        part = image.crop(band)
        if is_deep:
            part = Image.fromarray(_of_bits(np.asarray(part), is_16_bit))
        elif part.has_transparency_data:
            rgba = part.convert("RGBA")
            part = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        rgb.paste(part.convert("RGB"), band)
    return rgb


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))) or array.size == 0:
        raise ValueError(f"A portrait array must have shape (H, W, 3), not {array.shape}.")
    return Image.fromarray(_to_uint8(array))


def _to_uint8(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype == bool:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype.kind == "f":
        if not np.isfinite(array).all() or array.min() < -1e-3 or array.max() > 1 + 1e-3:
            raise ValueError("A portrait array of floats must lie in [0, 1]: divide by 255, or convert it to uint8.")
        scaled: np.ndarray = np.round(np.clip(array, 0, 1) * 255)
        return scaled.astype(np.uint8)
    if array.dtype.kind in "iu":
        return _of_bits(array, array.dtype == np.uint16 or array.max() > 255)
    raise ValueError(f"A portrait array must be uint8, uint16 or floats in [0, 1], not {array.dtype}.")


def _of_bits(array: np.ndarray, is_16_bit: bool) -> np.ndarray:
    """Convert integers of 8 or 16 bits to uint8."""
    if array.min() < 0 or array.max() > 65535:
        raise ValueError(
            f"A portrait array must be uint8, uint16 or floats in [0, 1], not {array.dtype} of this range."
        )
    return np.round(array / (257 if is_16_bit else 1)).astype(np.uint8)  # 16 bits: 65535 / 255 = 257
