"""Model folders by strangers: configurations, weights and JSON that are refused before they cost anything."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from osmnet.evaluation.metrics.sync import SyncJudge
from osmnet.face.morphable import FaceModel
from osmnet.loading.model import MAX_HEADER, WEIGHTS_NAME, OSMNetModel
from osmnet.models.osm_net.motion_codec import MotionDecoder
from osmnet.models.osm_net.motion_space import MotionSpace
from osmnet.models.osm_net.video_generator import VideoGenerator
from osmnet.utils.bounded_json import MAX_JSON

SMALL = {
    MotionSpace: {"num_bases": 3, "motion_dim": 8},
    MotionDecoder: {"motion_dim": 8, "hidden_dim": 4},
    FaceModel: {"identity_dim": 2, "expression_dim": 2},
    SyncJudge: {"hidden_dim": 4, "embedding_dim": 4},
    VideoGenerator: {
        "image_size": 16, "driving_dim": 4, "window": 3, "base_channels": 2, "num_residual": 1, "vector_dim": 4,
    },
}  # fmt: skip


class LargestTensor(TorchDispatchMode):
    """Bytes of the largest tensor that takes memory."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, torch.Tensor) and not leaf.is_meta:
                self.bytes = max(self.bytes, leaf.nbytes)
        return made


@pytest.fixture
def saved(tmp_path):
    def save(network=MotionSpace, **changes):
        network(**SMALL[network]).save_pretrained(tmp_path)
        config = tmp_path / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | changes))
        return tmp_path

    return save


def refused(folder, *words, network=MotionSpace):
    with LargestTensor() as largest, pytest.raises(ValueError) as caught:
        network.from_pretrained(folder)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert message.isprintable() and len(message) < 800 + len(str(folder)), message
    return largest.bytes


@pytest.mark.parametrize(
    ("network", "changes", "word"),
    [
        (MotionDecoder, {"hidden_dim": 2048}, "wrong shape"),
        (FaceModel, {"expression_dim": 16000}, "wrong shape"),
        (SyncJudge, {"context_layers": 16000}, "more tensors"),
        (VideoGenerator, {"window": 15999}, "more tensors"),
        (VideoGenerator, {"num_residual": 16000}, "more tensors"),
        (MotionSpace, {"num_bases": 10**9}, "limit"),
        (MotionSpace, {"motion_dim": 10**19}, "limit"),
        (MotionSpace, {"kappa": -1e300}, "limit"),
    ],
)
def test_a_config_of_a_giant_network_is_refused_before_it_is_built(saved, network, changes, word):
    folder = saved(network, **changes)
    before = torch.random.get_rng_state()
    assert refused(folder, word, network=network) < 2**20
    assert torch.is_grad_enabled() and torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_bases": 3.0}, ["num_bases", "no int"]),
        ({"num_bases": True}, ["num_bases", "no int"]),
        ({"num_bases": None}, ["num_bases", "no int"]),
        ({"kappa": "x" * 5000}, ["kappa", "no float"]),
        ({"kappa": [[1]]}, ["kappa", "no float"]),
        ({"a\nb" * 500: 1}, ["unknown argument"]),
        ({"_class_name": "Some\nthing" * 500}, ["describes a"]),
        ({"_class_name": ["MotionSpace"]}, ["describes a"]),
        ({"_use_default_values": 7, "_anything": {}, "motion_dim": 9}, ["wrong shape"]),
    ],
)
def test_values_of_another_kind_are_refused(saved, changes, words):
    refused(saved(**changes), *words)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"[" * 100_000, "not readable JSON"),
        (b'{"a": ' * 5000 + b"1" + b"}" * 5000, "not readable JSON"),
        (b"[" * 40 + b"]" * 40, "deep"),
        (b'{"num_bases": ' + b"9" * 5000 + b"}", "a number of 5000 digits"),
        (b'{"kappa": 1e999}', "the number '1e999'"),
        (b'{"kappa": 1, "kappa": 1}', "the name 'kappa' twice"),
        (b'{"kappa": NaN}', "the number 'NaN'"),
        (b'{"kappa": -Infinity}', "the number '-Infinity'"),
        (b" " * (MAX_JSON + 1), "bytes"),
        (b"\xff\xfe", "not readable JSON"),
    ],
)
def test_strange_json_is_one_sentence(saved, content, word):
    folder = saved()
    (folder / "config.json").write_bytes(content)
    refused(folder, word, "config.json")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_refused_by_name(saved, value):
    folder = saved()
    state = load_file(folder / WEIGHTS_NAME)
    state["prior_axes"][1, 2] = value
    save_file(state, folder / WEIGHTS_NAME)
    refused(folder, "prior_axes", "NaN or infinite", WEIGHTS_NAME)


def test_weights_beyond_the_dtype_are_refused(saved):
    folder = saved(MotionDecoder)
    state = load_file(folder / WEIGHTS_NAME)
    state["linear_in.bias"][0] = 1e6
    save_file(state, folder / WEIGHTS_NAME)
    with pytest.raises(ValueError, match=r"linear_in.bias .* infinite as torch.float16"):
        MotionDecoder.from_pretrained(folder, dtype=torch.float16)
    assert MotionDecoder.from_pretrained(folder, dtype=torch.bfloat16).linear_in.bias[0] > 9e5


def with_header(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "not a whole safetensors file"),
        ((2**62).to_bytes(8, "little"), "not a whole safetensors file"),
        (with_header(b" " * (MAX_HEADER + 1)), f"{MAX_HEADER + 1} bytes"),
        (with_header(b"[" * 100_000), "not a whole safetensors file"),
        (with_header({"motion_bases": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 4]}}, bytes(4)), "whole"),
        (
            with_header({"a\n\x1b[31m" * 500: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
            "lacks",
        ),
    ],
)
def test_strange_safetensors_are_one_sentence(saved, content, word):
    folder = saved()
    (folder / WEIGHTS_NAME).write_bytes(content)
    assert refused(folder, word) < 2**20


def test_names_in_the_weights_are_quoted(saved):
    folder = saved()
    save_file(load_file(folder / WEIGHTS_NAME) | {"a\n\x1b[31m": torch.zeros(1)}, folder / WEIGHTS_NAME)
    refused(folder, r"surplus tensor 'a\n\x1b[31m'")


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64, torch.float8_e4m3fn])
def test_weights_of_another_kind_are_refused(saved, dtype):
    folder = saved()
    state = load_file(folder / WEIGHTS_NAME)
    save_file(state | {"motion_bases": state["motion_bases"].to(dtype)}, folder / WEIGHTS_NAME)
    refused(folder, "wrong dtype for tensor motion_bases")


class ComputedBuffers(OSMNetModel):
    """Has a tensor that no file holds, computed by the constructor."""

    def __init__(self, size=3):
        super().__init__()
        self.register_to_config(size=size)
        self.weight = torch.nn.Parameter(torch.zeros(size))
        self.register_buffer("grid", torch.linspace(-1, 1, size), persistent=False)


def test_buffers_that_constructors_compute_are_loaded_bit_for_bit(tmp_path):
    network = ComputedBuffers(5)
    network.save_pretrained(tmp_path)
    before = torch.random.get_rng_state()
    loaded = ComputedBuffers.from_pretrained(tmp_path)
    assert torch.equal(loaded.grid, network.grid) and loaded.config.size == 5
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("network", SMALL)
def test_what_was_saved_still_loads_and_saves_the_same(tmp_path, network):
    first, second = tmp_path / "first", tmp_path / "second"
    network(**SMALL[network]).save_pretrained(first)
    network.from_pretrained(first).save_pretrained(second)
    for name in ("config.json", WEIGHTS_NAME):
        assert (first / name).read_bytes() == (second / name).read_bytes()
