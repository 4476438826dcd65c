"""Perceptual and style losses on VGG-19 (OSM-Net, Eq. 13 and 14)."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from osmnet.loading.hub import HUB_ERRORS
from osmnet.utils.checks import reason

# torchvision's `vgg19().features`: convolutions by index with their channels; max pooling before those of POOLED.
CONVOLUTIONS = {0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256), 12: (256, 256), 14: (256, 256),
                16: (256, 256), 19: (256, 512), 21: (512, 512), 23: (512, 512), 25: (512, 512), 28: (512, 512),
                30: (512, 512)}  # fmt: skip
POOLED = (5, 10, 19, 28)
NAMES = {0: "relu1_1", 2: "relu1_2", 5: "relu2_1", 7: "relu2_2", 10: "relu3_1", 12: "relu3_2", 14: "relu3_3",
         16: "relu3_4", 19: "relu4_1", 21: "relu4_2", 23: "relu4_3", 25: "relu4_4", 28: "relu5_1",
         30: "relu5_2"}  # fmt: skip
PERCEPTUAL_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
STYLE_LAYERS = ("relu2_2", "relu3_4", "relu4_4", "relu5_2")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, of colours in [0, 1]
SMALLEST = 16  # px; four poolings leave one
HUB_ID, HUB_FILE = "timm/vgg19.tv_in1k", "model.safetensors"  # torchvision's weights, by the same names


class VGG19(nn.Module):
    """Frozen convolutions of VGG-19 up to relu5_2, named as in torchvision."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self) -> None:
        """Build with random weights."""
        super().__init__()
        self.features = nn.ModuleDict(
            {str(index): nn.Conv2d(*channels, 3, padding=1) for index, channels in CONVOLUTIONS.items()}
        )
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)
        self.requires_grad_(False)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute activation maps.

        Args:
            images (`torch.Tensor` of shape `(batch, 3, H, W)`): In [-1, 1], at least 16 pixels high and wide.

        Returns:
            `dict[str, torch.Tensor]`: `relu1_1` to `relu5_2`, `(batch, channels, h, w)`.

        Raises:
            ValueError: If the shape is wrong.
        """
        if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < SMALLEST:
            raise ValueError(
                f"images must have shape (batch, 3, height, width) of at least {SMALLEST} × {SMALLEST} pixels, not "
                f"{tuple(images.shape)}."
            )
        x = ((images + 1) / 2 - self.mean) / self.std
        maps = {}
        for index, name in NAMES.items():
            if index in POOLED:
                x = F.max_pool2d(x, 2)
            x = F.relu(self.features[str(index)](x))
            maps[name] = x
        return maps


def gram(features: torch.Tensor) -> torch.Tensor:
    """Compute Gram matrices `(batch, C, C)` in float32, divided by C·h·w."""
    # The paper gives no divisor; with this common one, which removes the picture's size, λ_style = 1000 is usual.
    batch, channels, height, width = features.shape
    flat = features.float().flatten(2)  # (B, C, h·w)
    with torch.autocast(
        features.device.type, enabled=False
    ):  # sums of thousands of squares overflow in half precision
        return flat @ flat.transpose(1, 2) / (channels * height * width)


def perceptual_losses(vgg: VGG19, sample: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
    """Compare generated with true pictures through VGG-19.

    Args:
        vgg (`VGG19`): With pretrained weights.
        sample (`torch.Tensor` of shape `(batch, 3, H, W)`): Generated, in [-1, 1].
        target (`torch.Tensor` of the same shape): The truth.

    Returns:
        `dict[str, torch.Tensor]`: `per`, the mean L1 distances of `PERCEPTUAL_LAYERS`, summed; and `style`, those of
        the Gram matrices of `STYLE_LAYERS`, summed.

    Source:
        arXiv 2309.16148, Eq. 13 and 14, one of their two terms. The paper does not name the layers.
    """
    with torch.no_grad():
        wanted = vgg(target)
    maps = vgg(sample)
    return {
        "per": torch.stack([F.l1_loss(maps[name], wanted[name]) for name in PERCEPTUAL_LAYERS]).sum(),
        "style": torch.stack([F.l1_loss(gram(maps[name]), gram(wanted[name])) for name in STYLE_LAYERS]).sum(),
    }


def find_vgg(source: str) -> Path:
    """Return the local file of VGG-19's weights.

    Args:
        source (`str`): A file (`.safetensors` or `.pth`), a Hub id, or `ID:FILE`; `"auto"` is the Hub id of
            torchvision's weights.

    Raises:
        ValueError: If there is no such file, or the Hub does not have it.
    """
    if Path(source).is_file():
        return Path(source)
    repository, _, file = source.partition(":")
    if source == "auto":
        repository, file = HUB_ID, HUB_FILE
    elif Path(source).is_absolute() or source.startswith((".", "~")) or "/" not in repository:
        raise ValueError(f"There is no file '{source}' with the weights of VGG-19; check vgg.")
    file = file or HUB_FILE
    try:
        return Path(hf_hub_download(repository, file))
    except HUB_ERRORS as error:
        raise ValueError(
            f"Cannot get {file} of {repository} from the Hub ({reason(error)}); set vgg to a file with VGG-19's "
            "weights, or to nothing."
        ) from error


def load_vgg(path: Path) -> VGG19:
    """Load VGG-19.

    Args:
        path (`Path`): `.safetensors`, or a pickle of tensors only, as torchvision's `.pth`. Layers after relu5_2 are
            ignored.

    Returns:
        `VGG19`: In float32 and evaluation mode.

    Raises:
        ValueError: If the file is damaged, or lacks a tensor or has one of another shape.
    """
    try:
        if path.suffix == ".safetensors":
            found = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"'{path}' is not a file of tensors ({reason(error)}); give torchvision's vgg19 weights."
        ) from error
    with torch.random.fork_rng(devices=[]):
        vgg = VGG19()
    wanted = vgg.state_dict()
    for name, tensor in wanted.items():
        other = found.get(name) if isinstance(found, dict) else None
        if not isinstance(other, torch.Tensor) or other.shape != tensor.shape:
            shape = f"it has shape {tuple(other.shape)}" if isinstance(other, torch.Tensor) else "it is missing"
            raise ValueError(
                f"'{path}' is no VGG-19: its {name} should have shape {tuple(tensor.shape)}, and {shape}; give "
                "torchvision's vgg19 weights."
            )
    vgg.load_state_dict({name: found[name].float() for name in wanted})
    return vgg.eval()
