"""Image quality: each measure against its definition written out, a hand-made case, or the published program."""

import cv2
import numpy as np
import pytest

from osmnet.evaluation.metrics.image_quality import cpbd, laplacian, psnr, sharpness_ratio, ssim

# CPBD of `scene(seed)` and of the same blurred once, by the package cpbd 1.0.7 (PyPI; its imread, which SciPy has
# dropped, is not used).
CPBD_PACKAGE = {0: (0.4523076923076923, 0.3403614457831325), 1: (0.5565476190476191, 0.375),
                2: (0.648936170212766, 0.49100257069408737)}  # fmt: skip


def as_frames(luma):
    """Grey frames `(1, height, width, 3)`."""
    return np.repeat(luma.astype(np.uint8)[None, ..., None], 3, -1)


def scene(seed):
    """Shaded discs and diamonds `(200, 260)`, not a whole number of blocks."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:200, :260]
    image = np.full((200, 260), 120)
    for i in range(40):
        cx, cy, radius, value = (rng.integers(low, high) for low, high in ((0, 260), (0, 200), (5, 40), (0, 256)))
        distance = np.abs(x - cx) + np.abs(y - cy) if i % 2 else np.hypot(x - cx, y - cy)
        shaded = np.clip(value + (radius - distance) * rng.integers(0, 4), 0, 255)
        image = np.where(distance < radius, shaded, image)
    return image.astype(np.uint8)


def blurred(image):
    """A small blur in whole numbers, the same everywhere."""
    for axis in (1, 0):
        padded = np.pad(image.astype(int), [(1, 1) if i == axis else (0, 0) for i in range(2)], mode="edge")
        parts = [np.take(padded, range(i, i + image.shape[axis]), axis) for i in range(3)]
        image = (parts[0] + 2 * parts[1] + parts[2]) // 4
    return image.astype(np.uint8)


def edge(increments, low, high):
    """One vertical edge `(64, 128)` whose steps are in these proportions."""
    rise = np.cumsum(increments) / np.sum(increments)
    row = np.full(128, low)
    row[60 : 60 + len(rise)] = np.round(low + (high - low) * rise)
    row[60 + len(rise) :] = high
    return np.tile(row, (64, 1))


def test_ssim_is_the_mean_of_wangs_formula_over_all_windows():
    rng = np.random.default_rng(0)
    real = cv2.GaussianBlur(rng.integers(0, 256, (24, 30)).astype(np.uint8), (0, 0), 1)
    fake = np.clip(real + rng.normal(0, 12, real.shape), 0, 255).astype(np.uint8)
    taps = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    weights = np.outer(taps, taps) / taps.sum() ** 2
    windows = [np.lib.stride_tricks.sliding_window_view(image.astype(float), (11, 11)) for image in (real, fake)]
    mean_x, mean_y = ((window * weights).sum((2, 3)) for window in windows)
    spread_x, spread_y = ((window**2 * weights).sum((2, 3)) for window in windows)
    both = (windows[0] * windows[1] * weights).sum((2, 3)) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    formula = (2 * mean_x * mean_y + c1) * (2 * both + c2)
    formula /= (mean_x**2 + mean_y**2 + c1) * (spread_x - mean_x**2 + spread_y - mean_y**2 + c2)
    assert ssim(as_frames(real), as_frames(fake)) == pytest.approx([formula.mean()], abs=1e-9)


def test_ssim_and_psnr_are_given_for_each_frame_by_itself():
    real = np.concatenate([as_frames(scene(0)), as_frames(scene(1))])
    fake = np.concatenate([real[:1], as_frames(blurred(scene(1)))])
    assert ssim(real, fake)[0] == pytest.approx(1) and ssim(real, fake)[1] < 0.99
    assert psnr(real, fake)[0] == 100 and psnr(real, fake)[1] < 50


def test_psnr_of_a_constant_error():
    real = as_frames(np.full((16, 16), 100))
    assert psnr(real, real + 5) == pytest.approx([10 * np.log10(255**2 / 25)])


def test_colours_count_by_their_luma():
    real = np.full((1, 16, 16, 3), 100, np.uint8)
    green, blue = real.copy(), real.copy()
    green[..., 1] += 50
    blue[..., 2] += 50
    assert psnr(real, green)[0] < psnr(real, blue)[0] - 10


def test_laplacian_energy_of_a_single_bright_pixel():
    luma = np.zeros((10, 12))
    luma[5, 5] = 9
    assert laplacian(as_frames(luma)) == pytest.approx([(36**2 + 4 * 9**2) / 120])


def test_sharpness_ratio_falls_with_blur_and_rises_with_noise():
    sharp = as_frames(scene(0))
    noisy = np.clip(sharp + np.random.default_rng(0).normal(0, 8, sharp.shape), 0, 255).astype(np.uint8)
    assert sharpness_ratio(sharp, sharp) == pytest.approx(1)
    assert sharpness_ratio(sharp, as_frames(blurred(scene(0)))) < 0.5
    assert sharpness_ratio(sharp, noisy) > 1.1
    assert np.isnan(sharpness_ratio(np.zeros_like(sharp), sharp))


@pytest.mark.parametrize("seed", CPBD_PACKAGE)
def test_cpbd_agrees_with_the_published_package(seed):
    found = cpbd(np.concatenate([as_frames(scene(seed)), as_frames(blurred(scene(seed)))]))
    assert found == pytest.approx(CPBD_PACKAGE[seed], abs=1e-12)


@pytest.mark.parametrize(
    ("increments", "at_high_contrast", "at_low_contrast"),
    [((1, 1), 1, 1), ((1, 3, 2), 1, 1), ((1, 2, 2, 1), 0, 1), ((1, 2, 4, 3, 1), 0, 1), ((1, 2, 3, 3, 2, 1), 0, 0)],
)
def test_cpbd_of_one_edge_turns_at_the_just_noticeable_width(increments, at_high_contrast, at_low_contrast):
    # 3 pixels where the block's contrast is above 50, else 5; both ways round.
    for flip in (slice(None), slice(None, None, -1)):
        assert cpbd(as_frames(edge(increments, 20, 220)[:, flip])) == [at_high_contrast]
        assert cpbd(as_frames(edge(increments, 100, 140)[:, flip])) == [at_low_contrast]


def test_cpbd_falls_with_every_blur():
    images = [scene(2)]
    for _ in range(3):
        images.append(blurred(images[-1]))
    found = cpbd(np.concatenate([as_frames(image) for image in images]))
    assert (np.diff(found) < 0).all()


def test_cpbd_of_a_flat_frame_is_zero():
    assert cpbd(as_frames(np.full((64, 64), 80))) == [0]


def test_frames_of_another_kind_are_refused():
    frames = as_frames(scene(0))
    with pytest.raises(ValueError, match="uint8 RGB.*float64"):
        cpbd(frames.astype(float))
    with pytest.raises(ValueError, match="one shape"):
        ssim(frames, frames[:, :100])
    with pytest.raises(ValueError, match="64 x 64"):
        cpbd(frames[:, :60])
    with pytest.raises(ValueError, match=r"shape \(200, 260, 3\)"):
        psnr(frames[0], frames[0])
