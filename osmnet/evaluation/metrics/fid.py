"""Fréchet inception distance (FID), with Inception weights from a file.

The weights are not part of osmnet. The file is the one that StyleGAN2 and 3 use, a TorchScript module of the Inception
network (`inception-2015-12-05.pt`): it has the original weights and resizing, so results compare with published ones.
"""

import warnings
from pathlib import Path

import numpy as np
import torch

from osmnet.evaluation.metrics.frechet import sample_frechet_distance

FEATURE_DIM = 2048
BATCH = 16


def load_inception(path: str | Path) -> torch.jit.ScriptModule:
    """Load the Inception network.

    Args:
        path (`str` or `Path`): The TorchScript file. It can run code, so take it from a source you trust.

    Returns:
        `torch.jit.ScriptModule`: The network, in evaluation mode.

    Raises:
        ValueError: If the file is missing, is no TorchScript module, or has no argument `return_features`.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"There are no Inception weights '{path}', so FID is left out; give inception-2015-12-05.pt.")
    try:
        with warnings.catch_warnings():
            # PyTorch deprecates TorchScript, but the published weights exist in no other form.
            warnings.simplefilter("ignore", DeprecationWarning)
            network = torch.jit.load(str(path), map_location="cpu").eval()
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"'{path}' is no TorchScript module, so FID is left out; give inception-2015-12-05.pt, whole."
        ) from error
    names = [argument.name for argument in network.forward.schema.arguments]
    if "return_features" not in names:
        raise ValueError(
            f"'{path}' has no argument return_features (it has {', '.join(names)}), so it is not FID's network; "
            "give inception-2015-12-05.pt."
        )
    return network


@torch.inference_mode()
def inception_features(network: torch.jit.ScriptModule, frames: np.ndarray) -> np.ndarray:
    """Inception features of frames, before the last layer.

    Args:
        network (`torch.jit.ScriptModule`): From `load_inception`.
        frames (`np.ndarray` of shape `(frames, height, width, 3)`): uint8 RGB; the network resizes them.

    Returns:
        `np.ndarray` of shape `(frames, 2048)`: float64.

    Raises:
        ValueError: If the frames are not uint8 RGB, or the network returns something else.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or len(frames) == 0:
        raise ValueError(f"Frames must be uint8 RGB (frames, height, width, 3), not {frames.dtype} {frames.shape}.")
    features = []
    for start in range(0, len(frames), BATCH):
        images = torch.from_numpy(np.ascontiguousarray(frames[start : start + BATCH].transpose(0, 3, 1, 2)))
        features.append(network(images, return_features=True).double().numpy())
    if features[0].shape[1:] != (FEATURE_DIM,):
        raise ValueError(f"The network returns {features[0].shape[1:]} numbers a frame, not ({FEATURE_DIM},).")
    return np.concatenate(features)


def fid(real: np.ndarray, fake: np.ndarray) -> float:
    """Fréchet inception distance of two sets of frames.

    Papers use tens of thousands of frames; `frechet.few_samples` warns of too few.

    Args:
        real (`np.ndarray` of shape `(frames, 2048)`): `inception_features` of the real frames.
        fake (`np.ndarray` of shape `(other frames, 2048)`): Those of the generated frames.

    Returns:
        `float`: At least 0, lower is better.

    Raises:
        ValueError: If a set has fewer than 2 frames.

    Source:
        Heusel, Ramsauer, Unterthiner, Nessler, Hochreiter, "GANs Trained by a Two Time-Scale Update Rule Converge to a
        Local Nash Equilibrium", 2017.
    """
    return sample_frechet_distance(real, fake)
