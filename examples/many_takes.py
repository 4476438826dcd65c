"""Many takes from one encoding: how far heads move grows with epsilon, and every take moves differently.

Sampling costs next to nothing beside rendering, so look at the motion of many takes and render the ones you want.

python examples/many_takes.py
"""

from pathlib import Path

import numpy as np

from osmnet import OSMNetPipeline

EXAMPLES = Path(__file__).resolve().parent
NUM_TAKES = 8

pipe = OSMNetPipeline.from_pretrained()
source = pipe.encode_source(EXAMPLES / "portrait_hopper.jpg", full_frame=False)
speech = pipe.encode_speech(EXAMPLES / "speech_2.wav")

for epsilon in (0.0, 0.5, 1.0):
    motion = pipe.sample_motion(speech, num_videos=NUM_TAKES, epsilon=epsilon, seed=7)
    angles = np.degrees(motion.head_pose[..., :3])  # (takes, frames, 3)
    yaw, pitch, roll = angles.std(axis=1).mean(axis=0)
    between = angles.std(axis=0).mean()
    print(
        f"epsilon {epsilon:.1f}: yaw, pitch and roll spread by {yaw:.1f}°, {pitch:.1f}° and {roll:.1f}° within a take"
    )
    print(f"             and by {between:.1f}° between the {NUM_TAKES} takes")

# Render the take that turns the most.
liveliest = int(np.ptp(motion.head_pose[..., 0], axis=1).argmax())
for path in pipe.takes(source, motion.take([liveliest])).save("out/liveliest.mp4", overwrite=True):
    print(path)
