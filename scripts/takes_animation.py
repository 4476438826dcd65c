"""Draw the animation at the top of README.md: four takes of one portrait and one recording, side by side.

python scripts/takes_animation.py --output docs/takes.webp
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from osmnet import OSMNetPipeline
from osmnet.provenance.label import label_for
from osmnet.provenance.manifest import sign

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
FRAME_MS = 40  # ms; 25 frames a second
QUALITY = 65  # of WebP; 1.1 MB for four seconds of four takes


def build_parser() -> argparse.ArgumentParser:
    """Build the command line's parser."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--portrait", type=Path, default=EXAMPLES / "portrait_astronaut.jpg")
    parser.add_argument("--speech", type=Path, default=EXAMPLES / "speech_1.wav")
    parser.add_argument("--model", help="folder or Hub id; default: the weights in the package")
    parser.add_argument("--takes", type=int, default=4)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--size", type=int, default=200, help="side of each take in pixels")
    parser.add_argument("--frames", type=int, nargs=2, default=(92, 192), metavar=("FIRST", "END"))
    parser.add_argument("--output", type=Path, default=Path("takes.webp"))
    return parser


def main(argv: list[str] | None = None) -> int:
    """Render the takes and write the animation, labelled and signed."""
    arguments = build_parser().parse_args(argv)
    pipe = OSMNetPipeline.from_pretrained(arguments.model)
    source = pipe.encode_source(arguments.portrait, full_frame=False, size=arguments.size)
    speech = pipe.encode_speech(arguments.speech)
    generator = torch.Generator().manual_seed(arguments.seed)
    motion = pipe.sample_motion(speech, num_videos=arguments.takes, generator=generator)
    first, end = arguments.frames
    takes = np.concatenate(list(pipe.render(source, motion, chunks=[(first, end)])), axis=1)  # (N, n, H, W, 3)
    label_for(source, pipe.takes(source, motion).head_pose).draw(takes)
    strips = [Image.fromarray(np.concatenate(list(frames), axis=1)) for frames in takes.swapaxes(0, 1)]
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    strips[0].save(
        arguments.output, save_all=True, append_images=strips[1:], duration=FRAME_MS, loop=0,
        quality=QUALITY, method=6,
    )  # fmt: skip
    sign(arguments.output)
    sys.stdout.write(f"{arguments.output}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
