"""Load portraits as RGB arrays by imageio."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any, BinaryIO

import imageio.v3 as iio
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from osmnet.media.isolated import IsolatedDecoder, decoder_for
from osmnet.utils.checks import check_path, check_range

MAX_PIXELS = 179_000_000  # more is a decompression bomb, not a portrait; twice the limit at which PIL warns
MAX_SIDE = 2048  # px
LARGEST_SIDE = 2**16  # px, that can be asked for

# Formats of cameras, phones and browsers; not EPS and the like, for which PIL starts other programs.
_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "JPEG2000", "PPM", "TGA", "ICO")

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
        isolated (`IsolatedDecoder` or `bool`, *optional*): Decode a file in a limited child process, see
            `osmnet.media.isolated.decoder_for`.

    Returns:
        `np.ndarray` of shape `(H, W, 3)`: uint8 RGB.

    Raises:
        ValueError: If the file is missing, empty, damaged or not a picture, has more than 179 million pixels, or the
            array has another shape, type or range.
    """
    check_range("max_side", max_side, 1, LARGEST_SIDE, whole=True)
    if isinstance(portrait, str) and not portrait:
        raise ValueError("There is no portrait: its path is empty.")
    if isinstance(portrait, str | os.PathLike):
        path, decoder = check_path("portrait", portrait), decoder_for(isolated)
        return decoder.picture(path, max_side) if decoder else _load_file(path, max_side)
    if isinstance(portrait, Image.Image):
        _check_pixels(portrait.size, "The given picture")
        return _decode(portrait, max_side, "The given picture")
    if isinstance(portrait, np.ndarray):
        if portrait.size > 4 * MAX_PIXELS:  # before copies are made
            raise ValueError(_too_large("The given array"))
        return _to_rgb_array(_from_array(portrait), max_side)
    raise ValueError(f"A portrait must be a file, a PIL image or a numpy array, not {type(portrait).__name__}.")


def _load_file(path: Path, max_side: int) -> np.ndarray:
    try:
        if path.is_dir():
            raise ValueError(f"'{path}' is a folder: give the path of one picture.")
        if not path.is_file():
            raise ValueError(f"There is no file '{path}': check the path of the portrait.")
        if path.stat().st_size == 0:
            raise ValueError(f"'{path}' is empty (0 bytes): copy or save the picture again.")
        with path.open("rb") as file:
            return decode_picture(file, max_side, f"'{path}'")
    except OSError as error:
        raise ValueError(f"'{path}' cannot be read ({error.strerror}): check the path of the portrait.") from error


def decode_picture(file: BinaryIO, max_side: int, name: str, megapixels: float | None = None) -> np.ndarray:
    """Decode an open file as `load_portrait` does.

    Args:
        file (`BinaryIO`): The picture.
        max_side (`int`): See `load_portrait`.
        name (`str`): Its name in messages.
        megapixels (`float`, *optional*): A lower limit of its size, millions of pixels.

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
    except Image.DecompressionBombError as error:
        raise ValueError(_too_large(name)) from error
    except UnidentifiedImageError as error:
        raise ValueError(f"{name} is not a picture that can be read: give a JPEG, PNG or WebP file.") from error
    except MemoryError:
        raise
    except Exception as error:  # PIL's readers raise almost anything on damaged data
        raise ValueError(_damaged(name, error)) from error
    _check_pixels(image.size, name, megapixels)
    # 2. Decode. PIL decodes JPEG faster at 1/2, 1/4 or 1/8 size; twice the wanted size keeps the quality.
    scale = 2 * max_side / max(image.size)
    if scale < 1 and image.format == "JPEG":
        image.draft(None, (round(image.width * scale), round(image.height * scale)))
        return _decode(image, max_side, name)
    mode = None if image.mode.startswith("I") else "RGBA" if image.has_transparency_data else "RGB"
    try:
        file.seek(0)
        opened: Any = iio.imopen(file, "r", plugin="pillow")  # whose own arguments the base class does not know
        with opened as picture:
            pixels = picture.read(index=0, mode=mode, writeable_output=False)
            orientation = picture.metadata(index=0, exclude_applied=False).get("Orientation")
    except MemoryError:
        raise
    except Exception as error:  # as above
        raise ValueError(_damaged(name, error)) from error
    # 3. Turn it upright; imageio would rotate grey and palette pictures along wrong axes.
    upright = _from_array(pixels)
    if orientation in _UPRIGHT:
        upright = upright.transpose(_UPRIGHT[orientation])
    return _to_rgb_array(upright, max_side)


def _decode(image: Image.Image, max_side: int, name: str) -> np.ndarray:
    try:
        image.load()
        image = ImageOps.exif_transpose(image)
    except MemoryError:
        raise
    except Exception as error:  # as above
        raise ValueError(_damaged(name, error)) from error
    return _to_rgb_array(image, max_side)


def _damaged(name: str, error: Exception) -> str:
    return f"{name} is damaged ({error}): copy or save the picture again."


def _check_pixels(size: tuple[int, int], name: str, megapixels: float | None = None) -> None:
    if size[0] * size[1] > MAX_PIXELS:
        raise ValueError(_too_large(name))
    pixels = size[0] * size[1] / 1e6
    if megapixels is not None and pixels > megapixels:
        raise ValueError(
            f"{name} has {pixels:.0f} million pixels, and the limit is {megapixels:g} million; scale it down first."
        )
    if min(size) < 1:
        raise ValueError(f"{name} has no pixels: give a whole picture.")


def _too_large(name: str) -> str:
    return f"{name} has more than {MAX_PIXELS // 1_000_000} million pixels: scale the portrait down first."


def _to_rgb_array(image: Image.Image, max_side: int) -> np.ndarray:
    rgb = _to_rgb(image)
    scale = max_side / max(rgb.size)
    if scale < 1:
        size = (max(1, round(rgb.width * scale)), max(1, round(rgb.height * scale)))
        rgb = rgb.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    return np.array(rgb)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # PIL would cut 16-bit grey off at 255
        return _from_array(np.asarray(image)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


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
    if array.dtype.kind in "iu" and array.min() >= 0 and array.max() <= 65535:
        if array.dtype != np.uint16 and array.max() <= 255:
            return array.astype(np.uint8)
        return np.round(array / 257).astype(np.uint8)  # 16 bits: 65535 / 255 = 257
    raise ValueError(f"A portrait array must be uint8, uint16 or floats in [0, 1], not {array.dtype} of this range.")
