"""SyncNet as published, for LSE-D, LSE-C and the AV offset.

Network, inputs, pooling and state names are those of `syncnet_python`. Its weights (`syncnet_v2.model`) are not part
of osmnet.

Source: Chung, Zisserman, "Out of time: automated lip sync in the wild", 2016; LSE-D and LSE-C: Prajwal et al. 2020.
"""

from pathlib import Path
from pickle import UnpicklingError

import cv2
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from scipy.fft import dct
from scipy.signal import medfilt
from torch import nn

from osmnet.evaluation.metrics.sync import SyncScore, score, shifted_distances
from osmnet.face.topology import OVAL
from osmnet.media.audio import SAMPLES_PER_FRAME, SAMPLING_RATE
from osmnet.media.features import STEPS_PER_FRAME

LIP_FRAMES = 5  # receptive field of the lip branch
IMAGE_SIZE = 224  # px
MFCC_STEPS, NUM_CEPSTRA = 20, 13  # 200 ms of sound
EMBEDDING_DIM = 1024
BATCH = 16  # frames; bounds the memory

# The crop of the released run_pipeline.py: s is half the longer side of the face's box.
CROP_MARGIN = 0.4  # the square is 2 (1 + 0.4) s wide
BEYOND = 110  # grey level outside the picture
MEDIAN_FRAMES = 13  # window of the median that steadies the box

# MFCC as python_speech_features computes them by default.
_WINDOW, _HOP, _N_FFT = 400, 160, 512  # samples: 25 ms every 10 ms
_NUM_FILTERS = 26
_PRE_EMPHASIS = 0.97
_LIFTER = 22


class SyncNet(nn.Module):
    """Embeds 0.2 s of sound and 5 frames of a face, close together when in sync."""

    def __init__(self) -> None:
        super().__init__()
        self.netcnnaud = nn.Sequential(
            *_block(nn.Conv2d(1, 64, 3, padding=1)),
            nn.MaxPool2d(1, 1),
            *_block(nn.Conv2d(64, 192, 3, padding=1)),
            nn.MaxPool2d(3, (1, 2)),
            *_block(nn.Conv2d(192, 384, 3, padding=1)),
            *_block(nn.Conv2d(384, 256, 3, padding=1)),
            *_block(nn.Conv2d(256, 256, 3, padding=1)),
            nn.MaxPool2d(3, 2),
            *_block(nn.Conv2d(256, 512, (5, 4))),
        )
        self.netfcaud = _head()
        self.netfclip = _head()
        self.netcnnlip = nn.Sequential(
            *_block(nn.Conv3d(3, 96, (LIP_FRAMES, 7, 7), (1, 2, 2))),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *_block(nn.Conv3d(96, 256, (1, 5, 5), (1, 2, 2), (0, 1, 1))),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
            *_block(nn.Conv3d(256, 256, (1, 3, 3), padding=(0, 1, 1))),
            *_block(nn.Conv3d(256, 256, (1, 3, 3), padding=(0, 1, 1))),
            *_block(nn.Conv3d(256, 256, (1, 3, 3), padding=(0, 1, 1))),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *_block(nn.Conv3d(256, 512, (1, 6, 6))),
        )

    def embed_sound(self, mfcc: torch.Tensor) -> torch.Tensor:
        """Map cepstra `(batch, 1, 13, 20)` to `(batch, 1024)`."""
        return self.netfcaud(self.netcnnaud(mfcc).flatten(1))

    def embed_lips(self, images: torch.Tensor) -> torch.Tensor:
        """Map consecutive images `(3, frames, 224, 224)`, BGR in [0, 255], to `(frames - 4, 1024)`."""
        # Only the first convolution spans several frames, so one pass equals passes over windows of 5.
        maps = self.netcnnlip(images[None])  # (1, 512, frames - 4, 1, 1)
        return self.netfclip(maps[0, :, :, 0, 0].T)


def _block(conv: nn.Conv2d | nn.Conv3d) -> tuple[nn.Module, ...]:
    norm = nn.BatchNorm2d if isinstance(conv, nn.Conv2d) else nn.BatchNorm3d
    return conv, norm(conv.out_channels), nn.ReLU(inplace=True)


def _head() -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, EMBEDDING_DIM))


def load_syncnet(path: str | Path) -> SyncNet:
    """Load `syncnet_v2.model`, or its tensors as safetensors, without running code.

    Raises:
        ValueError: If the file is missing or is no state dict, or a tensor is missing, surplus or of another shape.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"There are no SyncNet weights '{path}'; give the file syncnet_v2.model, or leave it out.")
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, OSError, EOFError, ValueError, KeyError, UnpicklingError) as error:
        raise ValueError(f"'{path}' cannot be read as a state dict; download syncnet_v2.model again.") from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"'{path}' holds no state dict; give syncnet_v2.model as released.")
    network = SyncNet().eval()
    # Files from before PyTorch 0.4.1 lack these counters, which evaluation does not use.
    wanted = {name: value for name, value in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    found = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    odd = [
        name
        for name in sorted(wanted.keys() | found.keys())
        if name not in wanted or name not in found or wanted[name].shape != found[name].shape
    ]
    if odd:
        raise ValueError(
            f"'{path}' does not fit SyncNet: the tensor {odd[0]} is missing, surplus or of another shape "
            f"({len(odd)} in all); give syncnet_v2.model as released."
        )
    network.load_state_dict(found, strict=False)
    return network


def syncnet_crops(frames: np.ndarray, landmarks_px: np.ndarray) -> np.ndarray:
    """Crop the face as SyncNet's released pipeline does.

    Args:
        frames (`np.ndarray` of shape `(frames, height, width, 3)`): uint8 RGB.
        landmarks_px (`np.ndarray` of shape `(frames, 478, 3)`): Vertices in pixels.

    Returns:
        `np.ndarray` of shape `(frames, 224, 224, 3)`: uint8 **BGR**, as the released weights expect.
    """
    # 1. Find the box: the face oval's, where the released pipeline takes S3FD's (forehead to chin).
    oval = landmarks_px[:, OVAL, :2]
    low, high = oval.min(1), oval.max(1)
    boxes = np.column_stack([(high - low).max(1) / 2, (low + high) / 2])  # (frames, 3): s, centre x, y
    boxes = np.stack([medfilt(column, MEDIAN_FRAMES) for column in np.pad(boxes, ((6, 6), (0, 0)), "edge").T], 1)[6:-6]
    # 2. Crop 1.4 s to either side, s above and 1.8 s below its centre.
    crops = []
    for frame, (half, x, y) in zip(frames, boxes, strict=True):
        pad = int(half * (1 + 2 * CROP_MARGIN))
        padded = cv2.copyMakeBorder(frame, pad, pad, pad, pad, cv2.BORDER_CONSTANT, value=(BEYOND,) * 3)
        x, y = x + pad, y + pad
        reach = half * (1 + CROP_MARGIN)
        face = padded[int(y - half) : int(y + half * (1 + 2 * CROP_MARGIN)), int(x - reach) : int(x + reach)]
        crops.append(cv2.resize(face, (IMAGE_SIZE, IMAGE_SIZE))[..., ::-1])
    return np.stack(crops)


def mfcc(waveform: np.ndarray) -> np.ndarray:
    """Compute cepstra of 16 kHz speech as `python_speech_features.mfcc` does by default.

    Returns:
        `np.ndarray` of shape `(steps, 13)`: float64; step `j` starts at sample `160 j`.
    """
    # 1. Quantise to 16 bits and pre-emphasise.
    samples = np.clip(np.round(waveform.astype(np.float64) * 32768), -32768, 32767)
    emphasised = np.append(samples[:1], samples[1:] - _PRE_EMPHASIS * samples[:-1])
    steps = 1 + max(-(-(len(samples) - _WINDOW) // _HOP), 0)
    emphasised = np.pad(emphasised, (0, (steps - 1) * _HOP + _WINDOW - len(emphasised)))
    # 2. Compute the power spectrum of rectangular windows.
    windows = np.lib.stride_tricks.sliding_window_view(emphasised, _WINDOW)[::_HOP]
    power = np.abs(np.fft.rfft(windows, _N_FFT)) ** 2 / _N_FFT  # (steps, 257)
    # 3. Apply mel filters, logarithm, DCT and lifter; the logarithm of the energy replaces the first cepstrum.
    smallest = np.finfo(float).eps
    energy, bands = power.sum(1), power @ _mel_filters().T
    cepstra = dct(np.log(np.where(bands == 0, smallest, bands)), type=2, norm="ortho")[:, :NUM_CEPSTRA]
    cepstra *= 1 + _LIFTER / 2 * np.sin(np.pi * np.arange(NUM_CEPSTRA) / _LIFTER)
    cepstra[:, 0] = np.log(np.where(energy == 0, smallest, energy))
    return cepstra


def _mel_filters() -> np.ndarray:
    # Triangles from 0 to 8000 Hz on HTK's mel scale, with edges on whole bins.
    top = 2595 * np.log10(1 + SAMPLING_RATE / 2 / 700)
    corners_hz = 700 * (10 ** (np.linspace(0, top, _NUM_FILTERS + 2) / 2595) - 1)
    corners = np.floor((_N_FFT + 1) * corners_hz / SAMPLING_RATE)
    low, middle, high = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    bins = np.arange(_N_FFT // 2 + 1)
    rising, falling = (bins - low) / (middle - low), (high - bins) / (high - middle)
    return np.where(bins < middle, np.maximum(rising, 0), np.maximum(falling, 0))  # (26, 257)


@torch.inference_mode()
def syncnet_score(network: SyncNet, frames: np.ndarray, landmarks_px: np.ndarray, waveform: np.ndarray) -> SyncScore:
    """Compute LSE-D (`distance`), LSE-C (`confidence`) and AV offset.

    Args:
        network (`SyncNet`): With the published weights, which alone give the published scale.
        frames (`np.ndarray` of shape `(frames, height, width, 3)`): uint8 RGB, 25 fps.
        landmarks_px (`np.ndarray` of shape `(frames, 478, 3)`): Vertices in pixels.
        waveform (`np.ndarray` of shape `(samples,)`): 16 kHz mono.

    Raises:
        ValueError: If there are fewer than 6 frames with sound.
    """
    count = min(len(frames), len(waveform) // SAMPLES_PER_FRAME) - LIP_FRAMES  # the released program drops one more
    if count < 1:
        raise ValueError(f"SyncNet needs at least {LIP_FRAMES + 1} frames with sound, not {count + LIP_FRAMES}.")
    network.eval()
    crops = syncnet_crops(frames, landmarks_px)
    cepstra = torch.from_numpy(mfcc(waveform)).float()
    lips, sound = [], []
    for start in range(0, count, BATCH):
        stop = min(start + BATCH, count)
        images = torch.from_numpy(crops[start : stop + LIP_FRAMES - 1].transpose(3, 0, 1, 2)).float()
        lips.append(network.embed_lips(images))
        steps = STEPS_PER_FRAME * torch.arange(start, stop)[:, None] + torch.arange(MFCC_STEPS)
        sound.append(network.embed_sound(cepstra[steps].transpose(1, 2)[:, None]))
    # The released program pads the sound with zeros.
    return score(shifted_distances(torch.cat(lips).numpy(), torch.cat(sound).numpy(), beyond=0.0))
