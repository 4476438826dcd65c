"""Build `identity_network/`, the network that tells people apart, from the npm package face-api.

The package `@vladmandic/face-api@1.7.15` (MIT) carries dlib's face recognition ResNet (CC0) in 8 bits. The weights are
turned into 16 bits and named as in `osmnet.models.identity_network`. Nothing is trained.

    python scripts/build_identity_network.py                                        # downloads the package with npm
    python scripts/build_identity_network.py --package vladmandic-face-api-1.7.15.tgz   # or takes one that is here

`--check` compares with the files that are there instead of writing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import torch

from osmnet.models.identity_network import IdentityNetwork

REPOSITORY = Path(__file__).resolve().parent.parent
DEFAULT_OUTPUT = REPOSITORY / "weights_card" / "identity_network"
REQUIREMENT = "@vladmandic/face-api@1.7.15"
MODEL = "package/model/face_recognition_model"
SHA256 = {
    f"{MODEL}-weights_manifest.json": "cbaffa501b0b9275a12b63357a6843e7e30c054e1c9151e1a5f879b26e32986b",
    f"{MODEL}.bin": "b413e420d6840b2775fba32008db6f3cddb07d485967fb42cfcf379c16a8c589",
}


def main(argv: list[str] | None = None) -> int:
    """Build or check the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", type=Path, help="the package, if it is here already")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUTPUT)
    parser.add_argument("--check", action="store_true", help="compare with the folder instead of writing it")
    args = parser.parse_args(argv)
    contents = []
    with tempfile.TemporaryDirectory() as temporary:
        package = args.package or _download(Path(temporary))
        with tarfile.open(package) as archive:
            for name, expected in SHA256.items():
                content = archive.extractfile(name).read()
                digest = hashlib.sha256(content).hexdigest()
                if digest != expected:
                    sys.stderr.write(
                        f"{name} in {package} has SHA-256 {digest}, not {expected}; give {REQUIREMENT}.\n"
                    )
                    return 1
                contents.append(content)
    network = IdentityNetwork()
    network.load_state_dict(tensors(*contents))
    network.half()
    if args.check:
        found = IdentityNetwork.from_pretrained(args.out).half().state_dict()
        same = all(torch.equal(found[name], tensor) for name, tensor in network.state_dict().items())
        sys.stdout.write("the same\n" if same else "different\n")
        return 0 if same else 1
    network.save_pretrained(args.out)
    sys.stdout.write(f"{args.out}\n")
    return 0


def _download(folder: Path) -> Path:
    subprocess.run(["npm", "pack", REQUIREMENT, "--pack-destination", str(folder)], check=True)
    return next(folder.glob("*.tgz"))


def tensors(manifest: bytes, values: bytes) -> dict[str, torch.Tensor]:
    """Read the weights, named as ours are, float32."""
    found, at = {}, 0
    for weight in (weight for group in json.loads(manifest) for weight in group["weights"]):
        count, eight_bits = int(np.prod(weight["shape"])), weight.get("quantization")
        kind = np.dtype(eight_bits["dtype"] if eight_bits else weight["dtype"])
        array = np.frombuffer(values, kind, count, at).astype(np.float32).reshape(weight["shape"])
        at += count * kind.itemsize
        if eight_bits:
            array = array * np.float32(eight_bits["scale"]) + np.float32(eight_bits["min"])
        if array.ndim == 4:
            array = array.transpose(3, 2, 0, 1)  # height, width, in, out
        found[weight["name"]] = torch.from_numpy(np.ascontiguousarray(array))
    blocks = list(dict.fromkeys(name.split("/")[0] for name in found if "/conv1/" in name))  # in their order
    named = {"head.weight": found["fc"].T.contiguous()}
    places = {"conv32_down": ("stem", "affine")}
    for number, block in enumerate(blocks):
        for k in (1, 2):
            places[f"{block}/conv{k}"] = (f"layers.{number}.conv{k}", f"layers.{number}.affine{k}")
    for place, (convolution, affine) in places.items():
        named[f"{convolution}.weight"] = found[f"{place}/conv/filters"]
        named[f"{convolution}.bias"] = found[f"{place}/conv/bias"]
        named[f"{affine}.weight"] = found[f"{place}/scale/weights"]
        named[f"{affine}.bias"] = found[f"{place}/scale/biases"]
    return named


if __name__ == "__main__":
    sys.exit(main())
