"""Fréchet inception distance (FID).

The weights (`inception-2015-12-05.pt`, as in StyleGAN2 and 3) are not part of osmnet; they reproduce published scores.
"""

import warnings
from pathlib import Path

import numpy as np
import torch

from osmnet.evaluation.metrics.frechet import sample_frechet_distance

FEATURE_DIM = 2048
BATCH = 16


def load_inception(path: str | Path) -> torch.jit.ScriptModule:
    """Load the Inception network. TorchScript can run code: trust the source.

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
    """Compute Inception features `(frames, 2048)`, float64, of uint8 RGB frames of any size.

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
    """Compute FID of real and generated `inception_features`; see `few_samples`.

    Source:
        Heusel, Ramsauer, Unterthiner, Nessler, Hochreiter, "GANs Trained by a Two Time-Scale Update Rule Converge to a
        Local Nash Equilibrium", 2017.
    """
    return sample_frechet_distance(real, fake)
