"""Pictures of the motion stage."""

from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch

from osmnet.media.audio import FPS
from osmnet.models.osm_net.motion_codec import MotionDecoder, MotionEncoder, compose_clips
from osmnet.models.osm_net.motion_space import MotionSpace
from osmnet.training.osm_net.lip_amplitude import as_picture
from osmnet.training.osm_net.pose_clip import PoseClip

ANGLES = ("yaw", "pitch", "roll")
NUM_CLIPS = 3
SECONDS = 10


@torch.no_grad()
def plot_tracks(
    clips: Sequence[PoseClip], motion_encoder: MotionEncoder, motion_space: MotionSpace, motion_decoder: MotionDecoder
) -> np.ndarray:
    """Plot angles of real and decoded tracks.

    Args:
        clips (sequence of `PoseClip`): The longest few without a cut are plotted.
        motion_encoder (`MotionEncoder`): E_m.
        motion_space (`MotionSpace`): F to F̃.
        motion_decoder (`MotionDecoder`): Decodes both.

    Returns:
        `np.ndarray` of shape `(height, width, 3)`: uint8.
    """
    device, length = motion_space.motion_bases.device, motion_encoder.config.clip_length
    whole = [clip for clip in clips if len(clip.starts) == len(clip.track) - length + 1] or list(clips)
    chosen = sorted(whole, key=lambda clip: -len(clip.track))[:NUM_CLIPS]
    figure, axes = plt.subplots(len(chosen), 3, figsize=(14, 2.4 * len(chosen)), squeeze=False, layout="constrained")
    for row, clip in zip(axes, chosen, strict=True):
        first = int(clip.starts[0])
        count = min(len(clip.track) - first, SECONDS * FPS)
        starts = np.arange(0, count - length + 1, length - 1)
        stretches = clip.track[first + starts[:, None] + np.arange(length)]
        feature = motion_encoder(torch.from_numpy(stretches - stretches[:, :1]).to(device))
        for name, each in (("real", None), ("decoded from F", feature), ("from F̃", motion_space(feature)[0])):
            path = clip.track[first : first + (length - 1) * len(starts) + 1]
            if each is not None:
                path = compose_clips(motion_decoder(each)[None], pull=0, smoothing=0)[0].cpu().numpy()
            turn = np.rad2deg(path[:, :3] - path[0, :3])
            for axis, angle, curve in zip(row, ANGLES, turn.T, strict=True):
                style = {"color": "0.6", "linewidth": 3} if each is None else {}
                axis.plot(np.arange(len(curve)) / FPS, curve, label=name, **style)
                axis.set_title(f"{clip.name}: {angle} [°] over seconds", fontsize=8)
    axes[0, 0].legend(fontsize=8)
    return as_picture(figure)


def plot_weights(name: str, from_motion: np.ndarray, from_sound: np.ndarray) -> np.ndarray:
    """Plot weights `(stretches, bases)` from motion (w_m) and sound (w_a).

    Returns:
        `np.ndarray` of shape `(height, width, 3)`: uint8.
    """
    figure, axes = plt.subplots(2, 1, figsize=(12, 6), sharex=True, layout="constrained")
    rows = (from_motion, "w_m, from its motion"), (from_sound, "w_a, from its sound")
    for axis, (weights, what) in zip(axes, rows, strict=True):
        image = axis.imshow(weights.T, aspect="auto", interpolation="nearest", vmin=0, vmax=float(weights.max()))
        axis.set_ylabel("basis")
        axis.set_title(f"{name}: {what}", fontsize=9)
        figure.colorbar(image, ax=axis)
    axes[-1].set_xlabel("first frame of the stretch")
    return as_picture(figure)
