"""Many takes from one encoding: how far the head moves grows with epsilon, and every take moves differently.

The portrait and the speech are encoded once; sampling motion costs next to nothing, so look at many before you render.
"""

from pathlib import Path

import numpy as np
import torch

from osmnet import OSMNetPipeline

EXAMPLES = Path(__file__).resolve().parent
NUM_TAKES = 8

pipe = OSMNetPipeline.from_pretrained()
source = pipe.encode_source(EXAMPLES / "portrait_hopper.jpg", full_frame=False)
speech = pipe.encode_speech(EXAMPLES / "speech_2.wav")

for epsilon in (0.0, 0.5, 1.0):
    generator = torch.Generator().manual_seed(7)
    motion = pipe.sample_motion(speech, num_videos=NUM_TAKES, epsilon=epsilon, generator=generator)
    head_pose = np.asarray(motion.head_pose)  # (takes, frames, 6): yaw, pitch, roll in radians, then translation
    yaw, pitch, roll = np.degrees(head_pose[..., :3]).std(axis=1).mean(axis=0)
    between = np.degrees(head_pose[..., :3]).std(axis=0).mean()
    print(
        f"epsilon {epsilon:.1f}: spread within a take: yaw {yaw:.1f}°, pitch {pitch:.1f}°, roll {roll:.1f}°; ", end=""
    )
    print(f"between the {NUM_TAKES} takes: {between:.1f}°")

# Render the first chunk of the last motion, as a preview would.
frames = next(iter(pipe.render(source, motion)))
print("first chunk of frames:", tuple(frames.shape))
