"""How sampled head motion compares with real head motion, by ε.

    python benchmarks/motion.py --data DATASET [--model FOLDER] [--takes 2]

DATASET is made by `osmnet prepare`. For every clip with speech of at least four seconds, takes are sampled for its own
sound and compared with its tracked head: spread (standard deviation of yaw, pitch and roll in stretches of four
seconds), speed and jerk (mean absolute first and third difference), each as a ratio to the real clips'; the spread
between takes; and, on five minutes of sound made of those clips, the largest angles: does a head drift away?
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

from osmnet import OSMNetPipeline
from osmnet.data.dataset import load_clips
from osmnet.media.audio import FPS, SAMPLING_RATE
from osmnet.training.motion import smooth_track

STRETCH = 4 * FPS
MINUTES = 5


def statistics(head_pose: np.ndarray) -> np.ndarray:
    """Spread [°], speed [° / frame] and jerk [° / frame³] of poses `(frames, 6)`."""
    turn = np.rad2deg(head_pose[:, :3])
    spread = [turn[i : i + STRETCH].std(0).mean() for i in range(0, len(turn) - STRETCH + 1, STRETCH)]
    return np.array([np.mean(spread), *(np.abs(np.diff(turn, n=n, axis=0)).mean() for n in (1, 3))])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", help="a folder or a Hub id (default: the weights in the package)")
    parser.add_argument("--takes", type=int, default=2)
    args = parser.parse_args()
    pipe = OSMNetPipeline.from_pretrained(args.model)
    clips = [clip for clip in load_clips(args.data, speech=True) if clip.info["frames"] >= STRETCH]
    real = np.mean([statistics(smooth_track(clip.fit(pipe.face_model).head_pose)) for clip in clips], 0)
    speeches = [pipe.encode_speech(clip.speech(), SAMPLING_RATE) for clip in clips]
    sound = np.concatenate([clip.speech() for clip in clips])
    long = pipe.encode_speech(np.resize(sound, MINUTES * 60 * SAMPLING_RATE), SAMPLING_RATE)
    sys.stdout.write(
        f"real motion of {len(clips)} clips: spread {real[0]:.2f}°, speed {real[1]:.3f}°, jerk {real[2]:.3f}°\n"
    )
    sys.stdout.write(
        "sampling  ε      spread   speed    jerk   between takes  largest yaw, pitch, roll in 5 minutes\n"
    )
    for sampling, epsilon in (
        ("span", 0.0),
        ("span", 0.25),
        ("span", 0.5),
        ("span", 1.0),
        ("span", 2.0),
        ("ball", 1.0),
    ):
        options = {"num_videos": args.takes, "epsilon": epsilon, "sampling": sampling}
        motions = [
            pipe.sample_motion(speech, generator=torch.Generator().manual_seed(i), **options).head_pose
            for i, speech in enumerate(speeches)
        ]
        ratio = np.mean([statistics(take) for motion in motions for take in motion], 0) / real
        between = np.mean([np.rad2deg(motion[..., :3]).std(0).mean() for motion in motions])
        drift = pipe.sample_motion(long, generator=torch.Generator().manual_seed(0), **options).head_pose
        largest = np.rad2deg(np.abs(drift[..., :3]).max((0, 1)))
        sys.stdout.write(
            f"{sampling:8}  {epsilon:<4}  {ratio[0]:7.2f} {ratio[1]:7.2f} {ratio[2]:7.2f}  {between:12.2f}°  "
            + ", ".join(f"{angle:.1f}°" for angle in largest)
            + "\n"
        )


if __name__ == "__main__":
    main()
