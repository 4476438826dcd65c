"""How well rendered lips follow the voice on speakers that were held out of training.

    python benchmarks/lips.py --data DATASET [--model FOLDER] [--json FILE]

DATASET is made by `osmnet prepare`. For every held-out clip with speech the first frame is the portrait and the clip's
own sound drives it (ε = 0, no blinks); the rendered frames are tracked again and compared with the tracked clip:
correlation of the opening and the width of the mouth at the best lag within ±3 frames, amplitude of the opening over
the real one's, and the distance of the lips (LMD, head removed) over that of a face that never moves.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from osmnet import OSMNetPipeline
from osmnet.data.dataset import Clip, is_held_out, load_clips
from osmnet.face.landmarker import FaceLandmarker
from osmnet.face.topology import INNER_LIPS, OUTER_LIPS, mouth_opening, mouth_width
from osmnet.media.video import read_frames

MAX_LAG = 3
LIPS = np.concatenate([INNER_LIPS, OUTER_LIPS])


def best_correlation(a: np.ndarray, b: np.ndarray) -> tuple[float, int]:
    """Largest correlation of two signals of one length within ±3 frames, and its lag."""
    scores = {}
    for lag in range(-MAX_LAG, MAX_LAG + 1):
        x, y = a[max(lag, 0) : len(a) + min(lag, 0)], b[max(-lag, 0) : len(b) + min(-lag, 0)]
        scores[lag] = float(np.nan_to_num(np.corrcoef(x, y)[0, 1]))
    lag = max(scores, key=scores.__getitem__)
    return scores[lag], lag


def measure(pipe: OSMNetPipeline, clip: Clip) -> dict[str, float]:
    """The figures of one clip."""
    source = pipe.encode_source(next(iter(read_frames(clip.video))), size=256)
    speech = pipe.encode_speech(clip.speech(), 16_000)
    motion = pipe.sample_motion(speech, epsilon=0.0, blink=False)
    found = []
    with FaceLandmarker(pipe.face_landmarker_path, mode="video") as landmarker:
        for chunk in pipe.render(source, motion):
            for frame in chunk[0]:
                faces = landmarker.detect(frame)
                found.append(faces[0] if faces else None)
    seen = [face is not None for face in found]
    last = next(face for face in found if face is not None)
    for i, face in enumerate(found):
        last = found[i] = face if face is not None else last
    rendered = pipe.face_model.fit_track(np.stack(found), source.size).shape
    real = clip.fit(pipe.face_model).shape
    count = min(len(rendered), len(real))
    rendered, real = rendered[:count], real[:count]
    opening, lag = best_correlation(mouth_opening(rendered), mouth_opening(real))
    lips = lambda shape: float(np.linalg.norm((shape - real)[:, LIPS], axis=-1).mean())  # noqa: E731
    return {
        "frames": count,
        "opening": opening,
        "lag": lag,
        "width": best_correlation(mouth_width(rendered), mouth_width(real))[0],
        "amplitude": float(mouth_opening(rendered).std() / mouth_opening(real).std()),
        "lmd_over_static": lips(rendered) / lips(np.repeat(real[:1], count, 0)),
        "faces_found": float(np.mean(seen)),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", help="a folder or a Hub id (default: the weights in the package)")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    pipe = OSMNetPipeline.from_pretrained(args.model)
    rows = {clip.name: measure(pipe, clip) for clip in load_clips(args.data, speech=True) if is_held_out(clip.speaker)}
    names = list(next(iter(rows.values())))
    weights = [row["frames"] for row in rows.values()]
    rows["mean, by length"] = {
        name: float(np.average([r[name] for r in rows.values()], weights=weights)) for name in names
    }
    width = max(map(len, rows))
    sys.stdout.write(f"{'':{width}} " + " ".join(f"{name:>15}" for name in names) + "\n")
    for clip, row in rows.items():
        sys.stdout.write(f"{clip:{width}} " + " ".join(f"{row[name]:15.2f}" for name in names) + "\n")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
