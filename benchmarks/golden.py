"""Digest the frames of fixed inputs and seeds, to show that a change of the code changes no pixel.

Run it on the commit before and on the commit after, on the same machine (kinds of CPU round differently), each twice:
code that Numba has just compiled may round differently from the same code out of its cache.

    python benchmarks/golden.py --out before.json     # in a checkout of the commit before
    python benchmarks/golden.py --check before.json   # in this one

It uses what every version has: `from_pretrained`, `__call__`, `live`. Precision is float32.
"""

import argparse
import hashlib
import json
import sys
from itertools import product
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import osmnet
from osmnet import OSMNetPipeline, load_speech

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SEED, NUM_VIDEOS = 7, 2


def digest(array: np.ndarray) -> str:
    """Hash an array's bytes and shape."""
    content = repr(array.shape).encode() + np.ascontiguousarray(array).tobytes()
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def golden_digests() -> dict[str, str]:
    """Render every case and return its digest."""
    pipe = OSMNetPipeline.from_pretrained()
    pipe.precision = "float32"
    hopper = Image.open(EXAMPLES / "portrait_hopper.jpg").convert("RGB")
    portraits = {
        "astronaut": Image.open(EXAMPLES / "portrait_astronaut.jpg").convert("RGB"),
        "hopper": hopper,
        "hopper mirrored, half size": hopper.transpose(Image.Transpose.FLIP_LEFT_RIGHT).reduce(2),
    }
    recordings = {name: load_speech(EXAMPLES / f"{name}.wav") for name in ("speech_1", "speech_2")}
    digests = {}
    for (portrait, picture), (speech, waveform) in product(portraits.items(), recordings.items()):
        for frame in ("square", "whole picture"):
            out = pipe(
                picture,
                waveform[: 16_000 * 4],
                sampling_rate=16_000,
                num_videos=NUM_VIDEOS,
                generator=torch.Generator().manual_seed(SEED),
                full_frame=frame == "whole picture",
                output_type="np",
            )
            for name in ("frames", "head_pose", "expression"):
                digests[f"{portrait}, {speech}, {frame}: {name}"] = digest(getattr(out, name))
        session = pipe.live(
            picture, generator=torch.Generator().manual_seed(SEED), sampling_rate=16_000, full_frame=False
        )
        frames = [session.feed(waveform[begin : begin + 1600]) for begin in range(0, 32_000, 1600)]
        digests[f"{portrait}, {speech}, live: frames"] = digest(np.concatenate([*frames, session.finish()]))
    return digests


def main() -> int:
    """Write the digests, or compare with those of another commit; exit status 1 if any differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the digests to this file")
    parser.add_argument("--check", type=Path, help="compare with this file")
    arguments = parser.parse_args()
    digests = golden_digests()
    print(f"{len(digests)} digests by osmnet {osmnet.__version__} in {Path(osmnet.__file__).parents[1]}")
    if arguments.out:
        arguments.out.write_text(json.dumps(digests, indent=1) + "\n")
    if not arguments.check:
        return 0
    before = json.loads(arguments.check.read_text())
    changed = [name for name in before | digests if before.get(name) != digests.get(name)]
    for name in changed:
        print(f"differs: {name}")
    print(f"{len(digests) - len(changed)} of {len(digests)} equal")
    return int(bool(changed))


if __name__ == "__main__":
    sys.exit(main())
