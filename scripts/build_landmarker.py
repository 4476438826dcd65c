"""Build `face_landmarker.task`, the landmark model of this package, from Apache-2.0 models inside a MediaPipe wheel.

MediaPipe's `FaceLandmarker` task needs a model bundle that no wheel contains, but the wheel `mediapipe==0.10.21`
carries the two networks it is made of. The attention network has seven outputs where the task expects one tensor of
478 points and a presence score, so a concatenation and a gather are appended to its graph. No weight is changed.

    python scripts/build_landmarker.py                                  # downloads the wheel with pip
    python scripts/build_landmarker.py --wheel mediapipe-0.10.21-….whl  # or takes one that is already here

The result is the same, byte for byte, each time: `--check` compares it with the committed file instead of writing.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import flatbuffers
import numpy as np
from mediapipe.tasks.metadata import schema_py_generated as schema

REPOSITORY = Path(__file__).resolve().parent.parent
DEFAULT_OUTPUT = REPOSITORY / "weights_card" / "face_landmarker.task"
REFINEMENT_MAP = Path(__file__).resolve().with_name("landmark_refinement.json")

REQUIREMENT = "mediapipe==0.10.21"
DETECTOR = "mediapipe/modules/face_detection/face_detection_short_range.tflite"
LANDMARKS = "mediapipe/modules/face_landmark/face_landmark_with_attention.tflite"
SHA256 = {
    DETECTOR: "bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8",
    LANDMARKS: "e06a804e0144f9929eda782122916b35d60c697c3c9344013ca2bbe76a6ce2b4",
}

NUM_VERTICES = 478  # 468 of the mesh and 5 for each iris
# The outputs in the order in which they are joined: name, number of values, key in the refinement map. The mesh has
# (x, y, z) for each vertex, the refined parts only (x, y).
PARTS = (
    ("output_mesh_identity", 1404, None),
    ("output_lips", 160, "lips"),
    ("output_left_eye", 142, "left_eye"),
    ("output_right_eye", 142, "right_eye"),
    ("output_left_iris", 10, "left_iris"),
    ("output_right_iris", 10, "right_iris"),
)
ALIGNMENT = 64
PADDING_FIELD = 0xD935  # the identifier that Android's zipalign uses for the same purpose
# An iris has no depth of its own: it takes that of the vertex in the middle of its lower lid.
IRIS_DEPTH_VERTEX = {"left_iris": 145, "right_iris": 374}


def download_wheel(folder: Path) -> Path:
    """Download the pinned MediaPipe wheel with pip; the models inside are the same for every platform.

    Args:
        folder (`Path`): Where the wheel is put.

    Returns:
        `Path`: The wheel.

    Raises:
        ValueError: If pip cannot get it.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    # 3.11 is named because this old version has no wheel for every Python that the package itself runs on.
    command += ["--python-version=3.11", f"--dest={folder}", REQUIREMENT]
    if subprocess.run(command, check=False).returncode != 0:
        raise ValueError(f"pip could not download {REQUIREMENT}; get its wheel elsewhere and name it with --wheel.")
    return next(folder.glob("mediapipe-*.whl"))


def read_models(wheel: Path) -> dict[str, bytes]:
    """Read the two networks from the wheel and verify that they are the expected ones.

    Args:
        wheel (`Path`): A wheel of mediapipe 0.10.21.

    Returns:
        `dict[str, bytes]`: The two files by their path inside the wheel.

    Raises:
        ValueError: If the file is no wheel, lacks a network, or a network has another SHA-256.
    """
    models = {}
    try:
        with zipfile.ZipFile(wheel) as archive:
            for path in SHA256:
                models[path] = archive.read(path)
    except (OSError, zipfile.BadZipFile, KeyError) as error:
        raise ValueError(f"{wheel} is no readable wheel of {REQUIREMENT} ({error}); name one with --wheel.") from error
    for path, expected in SHA256.items():
        digest = hashlib.sha256(models[path]).hexdigest()
        if digest != expected:
            raise ValueError(f"{path} in {wheel} has SHA-256 {digest}, not {expected}; take {REQUIREMENT}.")
    return models


def gather_indices(refinement: dict[str, list[int]]) -> np.ndarray:
    """Say which of the joined values is the x, y and z of each vertex.

    Args:
        refinement (`dict[str, list[int]]`): For each refined part the mesh vertices that its points replace, in order.

    Returns:
        `np.ndarray` of shape `(478, 3)`, int32: Index into the values of `PARTS` joined.
    """
    indices = np.zeros((NUM_VERTICES, 3), np.int32)
    indices[:468] = np.arange(1404).reshape(468, 3)
    offset = 0
    for _, size, key in PARTS:
        for point, vertex in enumerate(refinement[key] if key else []):
            indices[vertex, :2] = offset + 2 * point, offset + 2 * point + 1
            if key in IRIS_DEPTH_VERTEX:
                indices[vertex, 2] = 3 * IRIS_DEPTH_VERTEX[key] + 2
        offset += size
    return indices


def join_outputs(network: bytes, indices: np.ndarray) -> bytes:
    """Append a concatenation and a gather to the attention network: outputs are then 478×3 landmarks and presence.

    Args:
        network (`bytes`): `face_landmark_with_attention.tflite`.
        indices (`np.ndarray` of shape `(478, 3)`): From `gather_indices`.

    Returns:
        `bytes`: The TensorFlow Lite network with outputs of shapes `(1, 1, 1, 1434)` and `(1, 1, 1, 1)`.
    """
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(network, 0))
    graph = model.subgraphs[0]
    tensor_index = {tensor.name.decode(): index for index, tensor in enumerate(graph.tensors)}

    def add_tensor(name: str, shape: list[int], dtype: int, data: np.ndarray | None = None) -> int:
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name, np.array(shape, np.int32), dtype, 0
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(data.tobytes(), np.uint8)
            model.buffers.append(buffer)
            tensor.buffer = len(model.buffers) - 1
        graph.tensors.append(tensor)
        return len(graph.tensors) - 1

    def add_operator(builtin_code: int, options_type: int, options: object, inputs: list[int], output: int) -> None:
        code = schema.OperatorCodeT()
        # Readers of the old one-byte field see 127 for codes that do not fit into it.
        code.builtinCode, code.deprecatedBuiltinCode, code.version = builtin_code, min(builtin_code, 127), 1
        model.operatorCodes.append(code)
        operator = schema.OperatorT()
        operator.opcodeIndex = len(model.operatorCodes) - 1
        operator.inputs, operator.outputs = np.array(inputs, np.int32), np.array([output], np.int32)
        operator.builtinOptionsType, operator.builtinOptions = options_type, options
        graph.operators.append(operator)

    num_values = sum(size for _, size, _ in PARTS)
    joined = add_tensor("landmarks_concat", [1, 1, 1, num_values], schema.TensorType.FLOAT32)
    index = add_tensor("landmarks_index", [indices.size], schema.TensorType.INT32, indices.reshape(-1))
    landmarks = add_tensor("landmarks", [1, 1, 1, indices.size], schema.TensorType.FLOAT32)

    concatenation, gather = schema.ConcatenationOptionsT(), schema.GatherOptionsT()
    concatenation.axis = gather.axis = 3
    parts = [tensor_index[name] for name, _, _ in PARTS]
    operators, options = schema.BuiltinOperator, schema.BuiltinOptions
    add_operator(operators.CONCATENATION, options.ConcatenationOptions, concatenation, parts, joined)
    add_operator(operators.GATHER, options.GatherOptions, gather, [joined, index], landmarks)

    graph.outputs = np.array([landmarks, tensor_index["conv_faceflag"]], np.int32)
    model.signatureDefs = []  # they name the old outputs
    builder = flatbuffers.Builder(1 << 22)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def pack_bundle(files: dict[str, bytes]) -> bytes:
    """Zip files without compression, aligned and with a fixed date, so that equal files give an equal bundle.

    Args:
        files (`dict[str, bytes]`): Contents by name (ASCII).

    Returns:
        `bytes`: The bundle. MediaPipe uses the members where they lie in the archive, hence stored, not deflated, and
        each starts at a multiple of 64 bytes: elsewhere TensorFlow Lite warns and copies the weights.
    """
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system = 3  # else the operating system's own number would differ
            entry.external_attr = 0o644 << 16
            # A zip header has 30 bytes, the name, and extra fields: an unnamed one (4 bytes and zeros) fills the gap.
            gap = -(packed.tell() + 30 + len(name) + 4) % ALIGNMENT
            entry.extra = struct.pack("<HH", PADDING_FIELD, gap) + bytes(gap)
            archive.writestr(entry, content)
    return packed.getvalue()


def build_bundle(wheel: Path) -> bytes:
    """Build the whole `face_landmarker.task`.

    Args:
        wheel (`Path`): A wheel of mediapipe 0.10.21.

    Returns:
        `bytes`: The bundle, always the same.

    Raises:
        ValueError: If the wheel is not the expected one.
    """
    models = read_models(wheel)
    refinement = json.loads(REFINEMENT_MAP.read_text(encoding="utf-8"))
    network = join_outputs(models[LANDMARKS], gather_indices(refinement))
    return pack_bundle({"face_detector.tflite": models[DETECTOR], "face_landmarks_detector.tflite": network})


def main(argv: list[str] | None = None) -> int:
    """Build or check the bundle; returns the exit status."""
    parser = argparse.ArgumentParser(description="Build face_landmarker.task from the models in a MediaPipe wheel.")
    parser.add_argument("--wheel", type=Path, help=f"a wheel of {REQUIREMENT}; downloaded with pip when left out")
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help="the bundle (default: %(default)s)")
    parser.add_argument("--check", action="store_true", help="compare with the file that is there; write nothing")
    arguments = parser.parse_args(argv)
    try:
        with tempfile.TemporaryDirectory() as folder:
            bundle = build_bundle(arguments.wheel or download_wheel(Path(folder)))
        if arguments.check:
            if not arguments.output.is_file() or arguments.output.read_bytes() != bundle:
                raise ValueError(f"{arguments.output} is not what this script builds; run it without --check.")
        else:
            temporary = arguments.output.with_name(f".{arguments.output.name}.{os.getpid()}")
            temporary.write_bytes(bundle)
            temporary.replace(arguments.output)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"build_landmarker: {error}\n")
        return 2
    sys.stdout.write(f"{hashlib.sha256(bundle).hexdigest()}  {arguments.output}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
