"""Head poses that drive training frames: measured or decoded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from osmnet.data.dataset import Clip
from osmnet.models.osm_net.motion_codec import (
    AudioMotionEncoder,
    MotionDecoder,
    MotionEncoder,
    clip_frames,
    compose_clips,
)
from osmnet.models.osm_net.motion_space import MotionSpace
from osmnet.pipelines.osm_net.head_motion import PULL, SMOOTHING
from osmnet.training.osm_net.pose_clip import smooth_track
from osmnet.training.osm_net.trained_components import load_component

KINDS = ("measured", "motion", "center")


class Driving:
    """Pose tracks of clips, one for each kind.

    Args:
        kinds (sequence of `str`): `"measured"`, from the landmarks; `"motion"`, the head's own motion through the
            motion space (F̃_m of Eq. 1-2); `"center"`, from the clip's own sound (F_c), as in the pipeline.
        model (`Path`): Folder with the networks of stage `motion`, unless all poses are measured.

    Raises:
        ValueError: If a kind is unknown, or the networks are missing.
    """

    def __init__(self, kinds: tuple[str, ...], model: Path):
        for kind in kinds:
            if kind not in KINDS:
                raise ValueError(f"driving must be of {', '.join(KINDS)}, not '{kind}'.")
        if not kinds or len(set(kinds)) != len(kinds):
            raise ValueError(f"driving must name each kind once, and at least one of {', '.join(KINDS)}.")
        self.kinds = kinds
        if set(kinds) != {"measured"}:
            self.space = load_component(MotionSpace, model, "motion_space")
            self.decoder = load_component(MotionDecoder, model, "motion_decoder")
        if "motion" in kinds:
            self.encoder = load_component(MotionEncoder, model, "motion_encoder")
        if "center" in kinds:
            self.audio = load_component(AudioMotionEncoder, model, "audio_motion_encoder")

    @property
    def needs_speech(self) -> bool:
        """Whether clips must have speech."""
        return "center" in self.kinds

    @torch.no_grad()
    def tracks(self, clip: Clip, head_pose: np.ndarray) -> np.ndarray:
        """Compute the pose tracks of a clip.

        Args:
            clip (`Clip`): The clip.
            head_pose (`np.ndarray` of shape `(frames, 6)`): Its measured poses.

        Returns:
            `np.ndarray` of shape `(kinds, frames, 6)`: float32; all begin with the first measured pose.
        """
        tracks = []
        for kind in self.kinds:
            if kind == "measured":
                tracks.append(head_pose)
                continue
            index = clip_frames(len(head_pose), self.decoder.config.clip_length)
            if kind == "motion":
                poses = smooth_track(head_pose)[index]
                feature, _ = self.space(self.encoder(torch.from_numpy(poses - poses[:, :1])))
                path = compose_clips(self.decoder(feature)[None], 0, 0)
            else:
                weights = self.audio(torch.from_numpy(clip.mel_windows()[index])).exp()
                decoded = self.decoder(self.space.reconstruct(weights))
                path = compose_clips((decoded - decoded.mean(0))[None], PULL, SMOOTHING)
            tracks.append(head_pose[0] + path[0, : len(head_pose)].numpy())
        return np.stack(tracks).astype(np.float32)


def window(tracks: np.ndarray, expression: np.ndarray, source: int, target: int, context: int) -> np.ndarray:
    """Cut relative poses and expression around a frame.

    Args:
        tracks (`np.ndarray` of shape `(kinds, frames, 6)`): From `Driving`.
        expression (`np.ndarray` of shape `(frames, 64)`): β.
        source (`int`): Source frame.
        target (`int`): Target frame.
        context (`int`): Frames on either side.

    Returns:
        `np.ndarray` of shape `(kinds, 2 * context + 1, 70)`: float32; the clip's ends are repeated.
    """
    around = np.clip(np.arange(target - context, target + context + 1), 0, len(expression) - 1)
    pose = tracks[:, around] - tracks[:, source : source + 1]
    beta = np.broadcast_to(expression[around], (len(tracks), len(around), expression.shape[1]))
    return np.concatenate([pose, beta], -1).astype(np.float32)
