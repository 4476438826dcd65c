"""Cost of the marks: the label by size of frames, signing and verifying by size of file.

    python benchmarks/provenance.py [--megabytes 1 10 140]

Processor time of the fastest of some runs; memory is the peak of the process until then. The signing key is temporary.
"""

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from osmnet.media.video_writer import VideoWriter
from osmnet.provenance.key import HOME
from osmnet.provenance.label import Label
from osmnet.provenance.manifest import sign
from osmnet.provenance.verify import verify

SIDES = (256, 512, 1024)
REPEATS = 5


def quickest(work: Callable[[], object], prepare: Callable[[], object] = lambda: None) -> float:
    """Return seconds of processor time of the fastest run, without its preparation."""
    times = []
    for _ in range(REPEATS):
        prepare()
        begun = time.process_time()
        work()
        times.append(time.process_time() - begun)
    return min(times)


def noise_video(path: Path, megabytes: int) -> None:
    """Write an incompressible video of about so many megabytes."""
    frames = np.random.default_rng(0).integers(0, 255, (8, 512, 512, 3), dtype=np.uint8)
    with VideoWriter(path, (512, 512), preset="ultrafast", crf=8) as writer:
        written = 0
        while written < max(megabytes * 2.7, 1):  # a frame is some 0.37 MB
            writer.write(frames[written % 8])
            written += 1


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[1, 10, 140])
    args = parser.parse_args()
    for side in SIDES:
        label, frames = Label((side, side)), np.zeros((16, side, side, 3), np.uint8)
        took = quickest(lambda label=label, frames=frames: [label.draw(frames) for _ in range(20)])
        print(f"label, {side} px: {took / 320 * 1e6:.0f} µs a frame")
    with tempfile.TemporaryDirectory() as folder:
        os.environ[HOME] = folder
        path, copy = Path(folder) / "noise.mp4", Path(folder) / "signed.mp4"
        for megabytes in sorted(args.megabytes):
            noise_video(path, megabytes)
            size, before = path.stat().st_size, _peak()
            signing = quickest(lambda: sign(copy), lambda: shutil.copy(path, copy))
            verifying = quickest(lambda: verify(copy))
            assert verify(copy).state == "valid"
            print(
                f"{size / 1e6:.1f} MB: sign {1e3 * signing:.0f} ms, verify {1e3 * verifying:.0f} ms, manifest "
                f"{(copy.stat().st_size - size) / 1e3:.1f} kB, memory {before:.0f} -> {_peak():.0f} MB"
            )
    return 0


def _peak() -> float:
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


if __name__ == "__main__":
    raise SystemExit(main())
