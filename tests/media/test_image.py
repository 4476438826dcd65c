"""Portraits: every way a picture can be stored gives the same RGB; everything else one clear sentence."""

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from osmnet.media.image import load_portrait


@pytest.fixture
def picture() -> np.ndarray:
    """Four flat quarters, red and green over blue and white, 40 x 60 pixels."""
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:20, :30, 0] = pixels[:20, 30:, 1] = pixels[20:, :30, 2] = 255
    pixels[20:, 30:] = 255
    return pixels


def save(pixels, path, **options):
    Image.fromarray(pixels).save(path, **options)
    return path


def test_lossless_files_arrays_and_images_agree(picture, tmp_path):
    path = save(picture, tmp_path / "portrait.png")
    for portrait in (path, str(path), Image.open(path), picture, picture / 255.0, picture.astype(np.float32) / 255):
        loaded = load_portrait(portrait)
        assert loaded.dtype == np.uint8
        np.testing.assert_array_equal(loaded, picture)
    np.testing.assert_array_equal(load_portrait(picture.astype(np.uint16) * 257), picture)


def test_input_is_not_modified(picture, tmp_path):
    path = save(picture, tmp_path / "portrait.png")
    before, copy = path.read_bytes(), picture.copy()
    loaded = load_portrait(picture)
    loaded[:] = 7
    load_portrait(path)
    assert path.read_bytes() == before
    np.testing.assert_array_equal(picture, copy)
    large = Image.new("RGB", (900, 600))
    large.save(tmp_path / "large.jpg")
    with Image.open(tmp_path / "large.jpg") as image:
        load_portrait(image, max_side=64)
        assert image.size == (900, 600)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_carried_out(picture, tmp_path, orientation):
    """Store the picture the way a camera held in that orientation would: loading gives it back upright."""
    stored = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
        8: lambda a: np.rot90(a, -1),
    }[orientation](picture)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(np.ascontiguousarray(stored), tmp_path / "camera.png", exif=exif)
    np.testing.assert_array_equal(load_portrait(path), picture)
    np.testing.assert_array_equal(load_portrait(Image.open(path)), picture)
    for name in ("grey.png", "grey.tif"):
        path = save(np.ascontiguousarray(stored[..., 1]), tmp_path / name, exif=exif)
        np.testing.assert_array_equal(load_portrait(path), picture[..., 1:2].repeat(3, axis=2))


def test_transparency_is_laid_on_white(picture, tmp_path):
    alpha = np.full((40, 60, 1), 255, np.uint8)
    alpha[:10] = 0
    alpha[10:20] = 128
    path = save(np.concatenate([picture, alpha], axis=2), tmp_path / "cutout.png")
    loaded = load_portrait(path)
    assert (loaded[:10] == 255).all()
    np.testing.assert_allclose(loaded[15, 5], (255, 127, 127), atol=1)  # red half covered
    np.testing.assert_array_equal(loaded[20:], picture[20:])

    palette = Image.fromarray(picture).quantize(8)
    palette.save(tmp_path / "palette.png", transparency=palette.getpixel((5, 5)))
    loaded = load_portrait(tmp_path / "palette.png")
    assert (loaded[:20, :30] == 255).all()
    np.testing.assert_array_equal(loaded[20:, :30], picture[20:, :30])


def test_other_modes_become_rgb(picture, tmp_path):
    Image.fromarray(picture).convert("CMYK").save(tmp_path / "print.tif")
    np.testing.assert_array_equal(load_portrait(tmp_path / "print.tif"), picture)

    grey = np.linspace(0, 255, 60).round().astype(np.uint8)[None].repeat(40, axis=0)
    for name, pixels in (("grey.png", grey), ("deep.png", grey.astype(np.uint16) * 257)):
        loaded = load_portrait(save(pixels, tmp_path / name))
        np.testing.assert_array_equal(loaded, grey[..., None].repeat(3, axis=2))
    np.testing.assert_array_equal(load_portrait(grey), load_portrait(grey[..., None]))
    assert set(np.unique(load_portrait(grey > 128))) == {0, 255}


def test_animation_gives_its_first_frame(picture, tmp_path):
    first, second = Image.fromarray(picture), Image.fromarray(255 - picture)
    first.save(tmp_path / "moving.webp", save_all=True, append_images=[second], duration=40, lossless=True)
    np.testing.assert_array_equal(load_portrait(tmp_path / "moving.webp"), picture)


def test_large_pictures_are_scaled_down_small_ones_are_not(picture, tmp_path):
    assert load_portrait(picture, max_side=60).shape == (40, 60, 3)
    assert load_portrait(picture, max_side=30).shape == (20, 30, 3)
    large = picture.repeat(40, axis=0).repeat(40, axis=1)
    for name in ("large.jpg", "large.png"):
        loaded = load_portrait(save(large, tmp_path / name), max_side=60)
        assert loaded.shape == (40, 60, 3)
        # away from the joints of the four quarters the colours stay
        np.testing.assert_allclose(loaded[5:15, 5:25].astype(int), picture[5:15, 5:25], atol=4)
        np.testing.assert_allclose(loaded[25:35, 35:55].astype(int), picture[25:35, 35:55], atol=4)
    assert load_portrait(np.zeros((1, 5000, 3), np.uint8), max_side=100).shape == (1, 100, 3)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, kind: int = 2, bits: int = 8, rows: int | None = None, extra: bytes = b"") -> bytes:
    """A black PNG, of which `rows` are there."""
    channels = {0: 1, 2: 3, 3: 1, 6: 4}[kind]
    packer, row = zlib.compressobj(1), bytes(1 + width * channels * bits // 8)
    packed = b"".join(packer.compress(row) for _ in range(height if rows is None else rows)) + packer.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def tiff(width: int, height: int, tile: int) -> bytes:
    """A grey TIFF of one large tile, compressed by zlib."""
    data = zlib.compress(bytes(2**20))
    tags = {256: width, 257: height, 258: 8, 259: 8, 262: 1, 277: 1, 322: tile, 323: tile, 324: 8, 325: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


def gif(width: int, height: int) -> bytes:
    """A GIF whose frame is larger than its screen."""
    file = io.BytesIO()
    Image.new("P", (16, 16)).save(file, "GIF")
    content = bytearray(file.getvalue())
    frame = content.index(b",\0\0\0\0\x10\0\x10\0")
    content[frame + 5 : frame + 9] = struct.pack("<HH", width, height)
    return bytes(content)


def moving(format: str) -> bytes:
    file = io.BytesIO()
    frames = [Image.new("1", (9000, 8000), k) for k in range(2)]
    frames[0].save(file, format, save_all=True, append_images=frames[1:])
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda: png(20_000, 20_000, rows=1), "more than 178 million pixels, and the limit is 64 million"),
        (lambda: png(9000, 8000, rows=1), "72 million pixels, and the limit is 64 million; scale it down first"),
        (lambda: gif(9000, 8000), "72 million pixels"),
        (lambda: moving("TIFF"), "72 million pixels"),
        (lambda: tiff(100, 100, 16_384), "268 million pixels"),
        # Chunks of 1 GB, and many of 1 MB.
        (lambda: png(9, 9, extra=chunk(b"iCCP", b"a\0\0" + PACKED)), "damaged .*too large"),
        (lambda: png(9, 9, extra=chunk(b"zTXt", b"Raw profile type exif\0\0" + PACKED)), "damaged .*too large"),
        (lambda: png(9, 9, extra=100 * chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**20 - 9)))), "Too much memory"),
    ],
)  # fmt: skip
def test_bombs_are_refused_from_their_headers(tmp_path, content, words, monkeypatch):
    monkeypatch.setattr(Image.Image, "resize", lambda *_: pytest.fail("it was decoded"))
    (tmp_path / "bomb").write_bytes(content())
    with pytest.raises(ValueError, match=f"bomb' .*{words}"):
        load_portrait(tmp_path / "bomb", max_side=4)


PACKED = zlib.compress(bytes(2**25))


def test_the_budget_of_pixels_can_be_changed(picture, tmp_path):
    path = save(picture, tmp_path / "portrait.png")
    assert load_portrait(path, max_megapixels=0.0024).shape == (40, 60, 3)
    for portrait in (path, Image.open(path)):
        with pytest.raises(ValueError, match="and the limit is 0.001 million; scale it down first"):
            load_portrait(portrait, max_megapixels=0.001)
    for wrong in (-1, 179, float("nan"), "64", True):
        with pytest.raises(ValueError, match="max_megapixels must be a finite number from 0 to 178"):
            load_portrait(path, max_megapixels=wrong)


PEAK = """
import sys
from pathlib import Path
from osmnet.media.image import load_portrait
assert max(load_portrait(sys.argv[1], 4096).shape) == 4096
print(next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line))
"""
TURNED = chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0")


@pytest.mark.integration
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells the peak of memory")
@pytest.mark.parametrize("kind", ["rgb", "16 bits", "grey, 16 bits", "RGBA, turned", "palette", "CMYK", "progressive"])
def test_50_megapixels_take_less_than_a_gigabyte(tmp_path, kind):
    path, size = tmp_path / "large", (8000, 6250)
    if kind in ("CMYK", "progressive"):
        mode = "CMYK" if kind == "CMYK" else "RGB"
        Image.new(mode, size).save(path, "JPEG", progressive=kind == "progressive", subsampling=0)
    else:
        path.write_bytes({
            "rgb": lambda: png(*size), "16 bits": lambda: png(*size, bits=16),
            "grey, 16 bits": lambda: png(*size, kind=0, bits=16), "RGBA, turned": lambda: png(*size, 6, extra=TURNED),
            "palette": lambda: png(*size, 3, extra=chunk(b"PLTE", bytes(6)) + chunk(b"tRNS", b"\0")),
        }[kind]())  # fmt: skip
    peak = subprocess.run([sys.executable, "-c", PEAK, path], capture_output=True, text=True, check=True).stdout
    assert int(peak) < 2**20  # KB


def test_bad_files_are_named_in_one_sentence(picture, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    whole = save(noise, tmp_path / "whole.jpg").read_bytes()
    cut = save(noise, tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "cut.png").write_bytes(cut[: len(cut) // 2])
    (tmp_path / "text.jpg").write_text("no picture at all")
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    for name, reason in {
        "cut.jpg": "damaged",
        "cut.png": "damaged",
        "text.jpg": "not a picture",
        "empty.png": "is empty",
        "folder.png": "is a folder",
        "missing.png": "no file",
    }.items():
        with pytest.raises(ValueError, match=reason) as error:
            load_portrait(tmp_path / name)
        assert name in str(error.value)
        assert "\n" not in str(error.value)


def test_postscript_is_never_handed_to_another_program(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "portrait.eps")
    with pytest.raises(ValueError, match="not a picture that can be read"):
        load_portrait(tmp_path / "portrait.eps")


@pytest.mark.parametrize(
    "portrait",
    [
        np.full((4, 4, 3), 200.0),
        np.full((4, 4, 3), np.nan),
        np.zeros((4, 4, 5), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((2, 4, 4, 3), np.uint8),
        np.full((4, 4, 3), -3),
        None,
        b"bytes",
    ],
)
def test_bad_arrays_and_types_are_refused(portrait):
    with pytest.raises(ValueError, match="portrait"):
        load_portrait(portrait)
