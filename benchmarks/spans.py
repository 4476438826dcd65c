"""The profile of one request, span by span, and its ratio to an earlier run.

    python benchmarks/spans.py [--size 512] [--takes 4] [--json after.json] [--before before.json]

The table of `osmnet generate --profile`, without loading and with everything compiled, and each span in units of the
fixed kernel of benchmarks/calibration.py: two runs compare by their kernels, however busy the machine was.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import torch
from calibration import Kernel

from osmnet.pipelines.osm_net.pipeline_osm_net import OSMNetPipeline
from osmnet.utils.profiling import Profile

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder or Hub id (default: the weights in the package)")
    parser.add_argument("--portrait", type=Path, default=EXAMPLES / "portrait_astronaut.jpg")
    parser.add_argument("--speech", type=Path, default=EXAMPLES / "speech_1.wav")
    parser.add_argument("--size", type=int, default=256, help="side of the square, 0 for the whole picture")
    parser.add_argument("--takes", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3, help="the quickest counts (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="chunks rendered side by side (default: PyTorch's own)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--before", type=Path, help="such a file of an earlier run: print ratios to it")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    before = json.loads(args.before.read_text(encoding="utf-8")) if args.before else None

    kernel = Kernel()
    pipe = OSMNetPipeline.from_pretrained(args.model, device=args.device)
    profiles, kernels = [], [kernel.seconds()]
    for _ in range(args.repeats + 1):  # the first compiles what is compiled on first use
        with Profile() as profile, tempfile.TemporaryDirectory() as folder:
            takes = pipe(
                args.portrait,
                args.speech,
                num_videos=args.takes,
                full_frame=args.size == 0,
                size=args.size or None,
                generator=torch.Generator().manual_seed(7),
                output_type="lazy",
            )
            takes.save(folder, sheet=False)
        profiles.append(profile)
        kernels.append(kernel.seconds())
    frames = takes.head_pose.shape[0] * takes.head_pose.shape[1]
    best = min(profiles[1:], key=lambda profile: profile.seconds)
    unit = 1000 * statistics.median(kernels)  # ms
    result = best.as_dict(frames) | {"kernel_ms": unit, "size": args.size, "takes": args.takes}
    print(best.table(frames))
    print(f"kernel: {unit:.2f} ms")
    print(f"\n{'span':<18}{'kernels/frame':>15}" + (f"{'before':>10}{'ratio':>8}" if before else ""))
    for name, row in result["spans"].items():
        own = row["cpu_ms_per_frame"] / unit
        line = f"{name:<18}{own:>15.4f}"
        if before and name in before["spans"]:
            earlier = before["spans"][name]["cpu_ms_per_frame"] / before["kernel_ms"]
            line += f"{earlier:>10.4f}{own / max(earlier, 1e-9):>8.2f}"
        print(line)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
