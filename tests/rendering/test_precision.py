"""`precision="auto"`: measured once per machine and network, kept in a file, and never changed within a process."""

import json
import os

import pytest
import torch

from osmnet.models.osm_net.video_generator import VideoGenerator
from osmnet.rendering.decoders import precision as precision_module
from osmnet.rendering.decoders.precision import chunk_seconds, fastest_precision, has_bfloat16, resolve_precision
from osmnet.rendering.decoders.runtimes import make_decoder

SLOWER, FASTER, HARDLY = ({"float32": 1.0, "bfloat16": seconds} for seconds in (1.5, 0.5, 0.95))


def build(**arguments):
    small = {"image_size": 32, "driving_dim": 9, "window": 3, "base_channels": 4, "num_down": 1, "num_residual": 1}
    return VideoGenerator(**(small | {"vector_dim": 8, "guide_channels": 2} | arguments)).eval()


@pytest.fixture
def capabilities(monkeypatch):
    """Instruction sets that PyTorch finds: those of a processor with bfloat16 and without AMX."""
    found = {"avx2": True, "avx512_bf16": True, "amx_bf16": False, "num_logical_cores": 2}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    return found


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder that does not exist yet."""
    monkeypatch.setenv("OSMNET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def new_process(monkeypatch):
    """Forget the answers of this process; call it to begin another one."""

    def forget():
        monkeypatch.setattr(precision_module, "_decided", {})

    forget()
    return forget


class Timer:
    """Stands in for `chunk_seconds` and counts its calls."""

    def __init__(self, seconds):
        self.seconds, self.calls = seconds, 0

    def __call__(self, network):
        self.calls += 1
        return self.seconds


def never(network):
    pytest.fail("timed again")


@pytest.mark.parametrize(
    ("seconds", "dtype"), [(SLOWER, torch.float32), (FASTER, torch.bfloat16), (HARDLY, torch.float32)]
)
def test_the_faster_is_taken_and_float32_where_it_hardly_matters(capabilities, cache, new_process, seconds, dtype):
    network, timer = build(), Timer(seconds)
    assert fastest_precision(network, timer) == fastest_precision(network, timer) == dtype
    assert timer.calls == 1
    new_process()
    assert fastest_precision(build(), never) == dtype  # from the file
    (path,) = cache.iterdir()
    assert json.loads(path.read_text())["seconds"] == seconds


def test_another_machine_torch_or_network_is_timed_anew(capabilities, cache, monkeypatch):
    fastest_precision(build(), Timer(FASTER))
    for change in (
        lambda: build(base_channels=8),
        lambda: build(image_size=64),
        lambda: capabilities.update(amx_bf16=True) or build(),
        lambda: monkeypatch.setattr(torch, "__version__", "9.0") or build(),
        lambda: monkeypatch.setattr(precision_module, "_cpu_model", lambda: "Another CPU") or build(),
    ):
        timer = Timer(SLOWER)
        assert fastest_precision(change(), timer) == torch.float32 and timer.calls == 1
    assert len(list(cache.iterdir())) == 6
    capabilities["num_logical_cores"] = 64  # the same machine, in a larger container
    assert fastest_precision(build(), never) == torch.float32


@pytest.mark.parametrize("content", [b"", b"\xff{", b"[1]", b'{"precision": "bfloat16"}', "foreign", "float64"])
def test_a_file_that_does_not_fit_is_replaced(capabilities, cache, new_process, content):
    fastest_precision(build(), Timer(FASTER))
    (path,) = cache.iterdir()
    record = json.loads(path.read_text())
    if content == "foreign":
        record["machine"]["cpu"] = "Another CPU"
    elif content == "float64":
        record["precision"] = "float64"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(record).encode())
    new_process()
    timer = Timer(SLOWER)
    assert fastest_precision(build(), timer) == torch.float32 and timer.calls == 1
    new_process()
    assert fastest_precision(build(), never) == torch.float32
    assert [entry.name for entry in cache.iterdir()] == [path.name]


def test_a_process_keeps_its_answer_when_the_file_goes_or_changes(capabilities, cache):
    assert fastest_precision(build(), Timer(FASTER)) == torch.bfloat16
    (path,) = cache.iterdir()
    path.write_text(path.read_text().replace('"precision": "bfloat16"', '"precision": "float32"'))
    assert fastest_precision(build(), never) == torch.bfloat16
    path.unlink()
    assert fastest_precision(build(), never) == torch.bfloat16 and not path.exists()


def test_of_two_processes_at_a_time_both_take_the_answer_of_the_first(capabilities, cache, new_process):
    fastest_precision(build(), Timer(FASTER))
    (path,) = cache.iterdir()
    answer = path.read_bytes()
    path.unlink()
    new_process()
    assert fastest_precision(build(), lambda _: path.write_bytes(answer) and SLOWER) == torch.bfloat16


@pytest.mark.parametrize("amx", [True, False])
def test_where_nothing_can_be_kept_nothing_is_timed(capabilities, monkeypatch, amx):
    capabilities["amx_bf16"] = amx
    monkeypatch.setenv("OSMNET_CACHE", os.devnull)
    assert fastest_precision(build(), never) == (torch.bfloat16 if amx else torch.float32)


def test_without_instructions_for_bfloat16_it_is_float32(capabilities, cache):
    capabilities["avx512_bf16"] = False
    assert not has_bfloat16() and fastest_precision(build(), never) == torch.float32
    assert not cache.exists()


@pytest.mark.parametrize("seconds", [SLOWER, FASTER])
def test_auto_is_the_fastest_and_a_named_precision_is_not_timed(capabilities, cache, monkeypatch, seconds):
    timer = Timer(seconds)
    monkeypatch.setattr(precision_module, "chunk_seconds", timer)
    source, network = torch.zeros(1, 3, 32, 32), build()
    assert make_decoder(network, source, precision="float32").dtype == torch.float32
    # Weights that were loaded in half precision: there is no fused form of that, and on a CPU it would be slow.
    assert make_decoder(build().half(), source).dtype == torch.float32
    assert timer.calls == 0
    expected = torch.bfloat16 if seconds is FASTER else torch.float32
    assert make_decoder(network, source).dtype == resolve_precision(network) == expected
    plain = build(geometry="none", guide_channels=0)
    assert make_decoder(plain, source).network.dtype == expected and timer.calls == 2


@pytest.mark.parametrize("arguments", [{}, {"guide_channels": 0}, {"geometry": "none", "guide_channels": 0}])
def test_timing_leaves_the_global_seed_and_the_threads_alone(arguments):
    network = build(**arguments)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    seconds = chunk_seconds(network)
    assert set(seconds) == {"float32", "bfloat16"} and min(seconds.values()) > 0
    assert torch.equal(torch.get_rng_state(), state) and torch.get_num_threads() == threads
