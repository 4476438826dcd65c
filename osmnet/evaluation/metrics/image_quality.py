"""Image quality: SSIM, PSNR and sharpness.

Convention:
    Frames are uint8 RGB `(frames, height, width, 3)`, `real` and `fake` of one shape. Metrics use luma (ITU-R BT.601,
    0 … 255), return one float64 a frame, and raise `ValueError` for other frames.
"""

import cv2
import numpy as np
from skimage.feature import canny
from skimage.metrics import structural_similarity

from osmnet.utils.jit import compiled

PEAK = 255.0  # largest value of a pixel
WANG_SIGMA = 1.5  # px; SSIM's Gaussian window, 11 x 11
MAX_PSNR = 100.0  # dB; for equal frames, whose PSNR would be infinite

# CPBD's constants, Narvekar & Karam 2011.
BLOCK = 64  # px
EDGE_SHARE = 0.002  # of a block's pixels; a block with fewer Canny pixels is smooth and does not count
BETA = 3.6
LOW_CONTRAST = 50  # grey levels; at low contrast, blur is noticed later
JNB_WIDTHS = (5.0, 3.0)  # px; just noticeable blur at low and at high contrast
JNB_BIN = 63  # %; probability of noticing blur at the just noticeable width
_MAX_MARGIN = 100  # px that an edge is followed to either side


def ssim(real: np.ndarray, fake: np.ndarray) -> np.ndarray:
    """Compute SSIM, 1 for equal frames; at least 11 x 11 pixels.

    Source:
        Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to structural similarity",
        2004: luma, Gaussian window of 11 pixels and σ 1.5, K₁ 0.01, K₂ 0.03, means over all windows inside the frame.
    """
    _check_pair(real, fake)
    return np.array(
        [
            structural_similarity(
                _luma(a), _luma(b), data_range=PEAK, gaussian_weights=True, sigma=WANG_SIGMA,
                use_sample_covariance=False,
            )
            for a, b in zip(real, fake, strict=True)
        ]
    )  # fmt: skip


def psnr(real: np.ndarray, fake: np.ndarray) -> np.ndarray:
    """Compute PSNR in dB, 100 for equal frames."""
    _check_pair(real, fake)
    error = np.array([((_luma(a) - _luma(b)) ** 2).mean() for a, b in zip(real, fake, strict=True)])
    return 10 * np.log10(PEAK**2 / np.maximum(error, PEAK**2 * 10 ** (-MAX_PSNR / 10)))


def laplacian(frames: np.ndarray) -> np.ndarray:
    """Compute the mean square of the Laplacian: fine detail, noise included."""
    _check_frames(frames)
    return np.array([np.square(cv2.Laplacian(_luma(frame), cv2.CV_64F, ksize=1)).mean() for frame in frames])


def sharpness_ratio(real: np.ndarray, fake: np.ndarray) -> float:
    """Return the Laplacian energy over that of the real video; NaN if that is flat.

    The videos may differ in length.
    """
    energy = laplacian(real).mean()
    return float(laplacian(fake).mean() / energy) if energy > 0 else float("nan")


def cpbd(frames: np.ndarray) -> np.ndarray:
    """Compute CPBD: the share of edges too narrow for noticeable blur.

    0 without edges. Thresholds are those of `cpbd` 1.0.7 (PyPI), as in published figures; results agree exactly.

    Source:
        Narvekar, Karam, "A No-Reference Image Blur Metric Based on the Cumulative Probability of Blur Detection
        (CPBD)", IEEE Transactions on Image Processing 20(9), 2011; edge width: Marziliano et al. 2002.
    """
    _check_frames(frames)
    height, width = frames.shape[1:3]
    if min(height, width) < BLOCK:
        raise ValueError(f"CPBD needs frames of at least {BLOCK} x {BLOCK} pixels, not {width} x {height}.")
    return np.array([_cpbd_of(_luma(frame)) for frame in frames])


def _cpbd_of(luma: np.ndarray) -> float:
    # 1. Choose blocks with edges, and the width of just noticeable blur in each.
    rows, columns = (size // BLOCK * BLOCK for size in luma.shape)
    blocks = (rows // BLOCK, BLOCK, columns // BLOCK, BLOCK)
    is_edge_block = canny(luma)[:rows, :columns].reshape(blocks).sum((1, 3)) > EDGE_SHARE * BLOCK**2
    inside = luma[:rows, :columns].reshape(blocks)
    is_low = (inside.max((1, 3)) - inside.min((1, 3))).astype(int) <= LOW_CONTRAST
    jnb = np.where(is_edge_block, np.where(is_low, *JNB_WIDTHS), 0)  # 0: the block does not count
    # 2. Measure edges. One is sharp if the probability of noticing its blur is at most 63 %.
    widths = _edge_widths(luma, _vertical_edges(luma))[:rows, :columns]
    jnb = np.kron(jnb, np.ones((BLOCK, BLOCK)))
    counts = (widths > 0) & (jnb > 0)
    if not counts.any():
        return 0.0
    blur_seen = 1 - np.exp(-((widths[counts] / jnb[counts]) ** BETA))
    return float((np.round(100 * blur_seen) <= JNB_BIN).mean())


def _vertical_edges(luma: np.ndarray) -> np.ndarray:
    """Find pixels with a strong, locally largest horizontal gradient."""
    strength = (cv2.Sobel(luma, cv2.CV_64F, 1, 0, ksize=3, borderType=cv2.BORDER_REFLECT) / 8) ** 2
    strength[strength <= 2 * np.sqrt(strength.mean())] = 0
    padded = np.pad(strength, 1)
    across = (strength > padded[1:-1, :-2]) & (strength > padded[1:-1, 2:])
    along = (strength > padded[:-2, 1:-1]) & (strength > padded[2:, 1:-1])
    return across | along


@compiled()
def _edge_widths(luma: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Measure widths in pixels of edges with a horizontal gradient; 0 elsewhere."""
    height, width = luma.shape
    widths = np.zeros((height, width))
    for y in range(1, height - 1):
        for x in range(1, width - 1):
            if not edges[y, x]:
                continue
            gx = (luma[y, x + 1] - luma[y, x - 1]) / 2
            gy = (luma[y + 1, x] - luma[y - 1, x]) / 2
            # Multiples of 45 degrees; on the crest of a line, where gx is 0, the port takes the angle for 0.
            octant = np.round(np.rad2deg(np.arctan2(gy, gx)) / 45) if gx != 0 else 0.0
            if octant != 0 and abs(octant) != 4:
                continue
            rising = 1.0 if octant == 0 else -1.0  # from left to right
            total = 0
            for side in (-1, 1):  # follow the edge for as long as the luma falls or rises
                margin = 0
                while margin < _MAX_MARGIN:
                    inner = x + side * (1 + margin)
                    outer = inner + side
                    if outer < 0 or outer >= width or side * rising * (luma[y, outer] - luma[y, inner]) <= 0:
                        break
                    margin += 1
                total += margin + 1
            widths[y, x] = total
    return widths


def _luma(frame: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float64)


def _check_frames(frames: np.ndarray) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or len(frames) == 0:
        raise ValueError(
            f"Frames must be uint8 RGB (frames, height, width, 3), not {frames.dtype} of shape {frames.shape}."
        )


def _check_pair(real: np.ndarray, fake: np.ndarray) -> None:
    _check_frames(real)
    _check_frames(fake)
    if real.shape != fake.shape:
        raise ValueError(f"Frames to compare must have one shape, not {real.shape} and {fake.shape}.")
