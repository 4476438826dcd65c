"""Takes as numbers that a browser draws.

Six takes of a minute are about 150 kB; they share the face's motion.
"""

from typing import Any

import numpy as np

from osmnet import OSMNetPipeline
from osmnet.face.topology import FACE_TRIANGLES, INNER_LIPS, LEFT_EYE, NUM_VERTICES, OUTER_LIPS, OVAL, RIGHT_EYE
from osmnet.media.audio import FPS
from osmnet.pipelines.osm_net.head_motion import absolute_pose
from osmnet.pipelines.osm_net.upper_face import UpperFace
from osmnet.rendering.renderer import lid_closing
from osmnet.structures import Motion, Source

STEP = 2  # frames between two numbers; the browser interpolates
NUM_DIRECTIONS = 4  # principal directions of the face; they hold nearly all of its motion in speech
RIGHT_BROW, LEFT_BROW = (  # vertices along the upper edge to the bridge of the nose, and back along the lower
    np.array([70, 63, 105, 66, 107, 55, 65, 52, 53, 46]),
    np.array([300, 293, 334, 296, 336, 285, 295, 282, 283, 276]),
)
LOOPS = {"oval": OVAL, "right_eye": RIGHT_EYE, "left_eye": LEFT_EYE, "lips": OUTER_LIPS, "mouth": INNER_LIPS,
         "right_brow": RIGHT_BROW, "left_brow": LEFT_BROW}  # fmt: skip
UNIT = 1000  # per head unit: lengths are whole thousandths, angles whole tenths of a degree


def sketch(pipe: OSMNetPipeline, source: Source, motion: Motion, expression: np.ndarray) -> dict[str, Any]:
    """Describe takes for a browser as JSON.

    Args:
        pipe (`OSMNetPipeline`): Provides the face model.
        source (`Source`): The portrait.
        motion (`Motion`): The takes.
        expression (`np.ndarray` of shape `(frames, 64)`): β from `extract_expression`.

    Returns:
        `dict`: `fps` of the numbers below, `seconds`, `face` and `takes`; lists are flat. Face: `triangles`, `loops`,
        `rest` `(478, 3)`, `directions` `(n, 478, 3)`, of which the last closes the lids, and `weights`
        `(frames, n − 1)` of the others in percent. Each take: `seed`; `turn` `(frames, 3)`, yaw, pitch and roll in
        tenths of a degree; `shift` `(frames, 3)` in thousandths of a head unit, absolute in the portrait's camera;
        `lids` `(frames,)`, 0 to 100.
    """
    model = pipe.face_model
    change = expression[::STEP] - source.fit.expression
    mean = change.mean(0)
    weights, directions = _principal(change - mean)
    rest = model.move(source.fit.shape, mean[None])[0]
    moved = [model.move(source.fit.shape, (mean + direction)[None])[0] - rest for direction in directions]
    moved.append(model.move(source.fit.shape, (mean + lid_closing(source, model))[None])[0] - rest)
    head_pose = absolute_pose(source, motion)[:, ::STEP]
    closure, _ = UpperFace(pipe.upper_face_space, model, source).of(motion)
    return {
        "fps": FPS / STEP,
        "seconds": motion.speech.num_frames / FPS,
        "face": {
            "triangles": FACE_TRIANGLES.ravel().tolist(),
            "loops": {name: loop.tolist() for name, loop in LOOPS.items()},
            "rest": _whole(UNIT * rest[:NUM_VERTICES]),
            "directions": [_whole(UNIT * each[:NUM_VERTICES]) for each in moved],
            "weights": _whole(100 * weights),
        },
        "takes": [
            {
                "seed": str(seed),
                "turn": _whole(10 * np.degrees(pose[:, :3])),
                "shift": _whole(UNIT * pose[:, 3:]),
                "lids": _whole(100 * lids),
            }
            for seed, pose, lids in zip(motion.seeds, head_pose, closure.clip(0, 1)[:, ::STEP], strict=True)
        ],
    }


def curves(motion: Motion, source: Source) -> list[list[int]]:
    """Return yaw, pitch and roll of takes, as in `sketch`."""
    return [_whole(10 * np.degrees(pose[:, :3])) for pose in absolute_pose(source, motion)[:, ::STEP]]


def _principal(change: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Factor `change` into weights `(frames, n)`, directions `(n, 64)`."""
    left, strength, right = np.linalg.svd(change.astype(float), full_matrices=False)
    count = min(NUM_DIRECTIONS, len(strength))
    spread = np.sqrt(len(change))
    return left[:, :count] * spread, (strength[:count, None] * right[:count] / spread).astype(np.float32)


def _whole(values: np.ndarray) -> list[int]:
    whole: list[int] = np.rint(values).astype(int).ravel().tolist()
    return whole
