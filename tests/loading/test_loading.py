"""Loading and saving in a folder: what fits loads bit for bit, the rest is refused."""

import hashlib
import json
import pickle
import sys

import pytest
import torch
from accelerate import PartialState
from safetensors.torch import load_file, save_file

import osmnet.loading.packaged
from osmnet.loading.model import WEIGHTS_NAME, OSMNetModel
from osmnet.loading.packaged import INDEX_NAME, KNOWN_LANDMARKERS, LANDMARKER_NAME, MAX_LANDMARKER, packaged_landmarker
from osmnet.loading.pipeline import resolve_device
from osmnet.models.osm_net.motion_space import MotionSpace
from tests.support.loadable import AnyPipeline, SpacePipeline, TinyPipeline, digest, loadable_pipeline


@pytest.fixture(scope="module")
def landmarker():
    return packaged_landmarker()


@pytest.fixture
def pipeline(landmarker):
    return loadable_pipeline(landmarker)


@pytest.fixture
def folder(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def edit_json(path, **changes):
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def edit_tensors(folder, change, component="motion_space"):
    path = folder / component / WEIGHTS_NAME
    state = load_file(path)
    change(state)
    save_file(state, path)


def refused(source, *words, **arguments):
    with pytest.raises(ValueError) as caught:
        TinyPipeline.from_pretrained(source, **arguments)
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message


def test_round_trip_is_bit_exact_and_complete(pipeline, folder, tmp_path):
    loaded = TinyPipeline.from_pretrained(folder)
    assert digest(loaded) == digest(pipeline)
    assert all(not network.training for network in loaded.components.values())
    assert dict(loaded.video_generator.config)["window"] == 3
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {INDEX_NAME, LANDMARKER_NAME} | {
        f"{name}/{file}" for name in pipeline.components for file in ("config.json", WEIGHTS_NAME)
    }
    assert not [path for path in folder.rglob(".saving*")]
    index = json.loads((folder / INDEX_NAME).read_text())
    assert index["_class_name"] == "TinyPipeline" and index["motion_space"] == ["osmnet", "MotionSpace"]
    loaded.save_pretrained(folder)  # onto itself
    assert digest(TinyPipeline.from_pretrained(str(folder))) == digest(pipeline)


def test_loaded_networks_compute_the_same(pipeline, folder):
    loaded = TinyPipeline.from_pretrained(folder)
    feature = torch.randn(2, 8)
    assert torch.equal(loaded.motion_decoder(feature), pipeline.motion_decoder.eval()(feature))


def test_a_failed_save_leaves_the_folder_as_it_was(pipeline, folder, tmp_path):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    other = loadable_pipeline(tmp_path / "missing.task", seed=1)
    with pytest.raises(ValueError, match="Cannot save"):
        other.save_pretrained(folder)
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="Cannot save in '.*file' .File exists.; free space or choose another"):
        pipeline.save_pretrained(tmp_path / "file")


def test_variant_and_dtype(pipeline, folder):
    bases = pipeline.motion_space.motion_bases.detach().clone()
    pipeline.to(torch.float16).save_pretrained(folder, variant="fp16")
    half = TinyPipeline.from_pretrained(folder, variant="fp16", dtype=torch.float16)
    assert digest(half) == digest(pipeline)
    assert half.dtype == torch.float16 and half.video_generator.conv_out.weight.dtype == torch.float16
    assert torch.equal(half.motion_space.motion_bases, bases)
    assert TinyPipeline.from_pretrained(folder, variant="fp16").dtype == torch.float32  # float32 unless asked
    brain = TinyPipeline.from_pretrained(folder, dtype=torch.bfloat16)
    assert brain.dtype == torch.bfloat16 and torch.equal(brain.motion_space.motion_bases, bases)
    refused(folder, "diffusion_pytorch_model.fp8.safetensors", variant="fp8")
    refused(folder, "dtype", dtype=torch.int8)
    refused(folder, "dtype", dtype="float16")


def test_devices(pipeline, folder):
    best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert resolve_device(None, "auto").type == resolve_device("auto").type == best
    assert resolve_device(None).type == resolve_device(None, {"": "cpu"}).type == "cpu"
    loaded = TinyPipeline.from_pretrained(folder, device_map="cpu")
    assert loaded.device == torch.device("cpu")
    assert loaded.to("cpu", dtype=torch.bfloat16) is loaded and loaded.dtype == torch.bfloat16
    refused(folder, "not both", device="cpu", device_map="auto")
    refused(folder, "not a device", device="gpu")
    refused(folder, "one device", device_map={"a": "cpu", "b": "cuda"})
    refused(folder, "cuda:99", device="cuda:99")


@pytest.fixture
def accelerate_state(monkeypatch):
    """Accelerate as in a process that has not asked it for a device yet; afterwards as it was."""
    monkeypatch.setattr(PartialState, "_shared_state", {})
    for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "ACCELERATE_USE_CPU"):
        monkeypatch.delenv(name, raising=False)


def test_auto_is_the_device_that_accelerate_gives(accelerate_state, monkeypatch):
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", "meta")
    assert resolve_device("auto") == resolve_device(None, {"": "balanced"}) == torch.device("meta")
    assert resolve_device("cpu") == resolve_device(None) == torch.device("cpu")  # what is named, is taken


def test_each_process_of_accelerate_launch_has_a_gpu_of_its_own(accelerate_state, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr("accelerate.state.check_cuda_p2p_ib_support", lambda: True)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend, **kwargs: None)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 4)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    assert resolve_device("auto") == torch.device("cuda:1")


def test_a_launch_that_cannot_be_set_up_is_one_sentence(accelerate_state, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")  # without its like
    for _ in range(2):
        with pytest.raises(ValueError, match="Accelerate cannot place this process") as error:
            resolve_device(None, "auto")
        assert "\n" not in str(error.value)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.delenv("LOCAL_RANK")
    assert resolve_device("auto") == torch.device("cpu")


def test_tensors_must_fit(folder):
    edit_tensors(folder, lambda state: state.pop("motion_bases"))
    refused(folder, "lacks tensor motion_bases", str(folder / "motion_space"))
    edit_tensors(folder, lambda state: state.update(motion_bases=torch.zeros(3, 8), old_bases=torch.zeros(1)))
    refused(folder, "surplus tensor old_bases", str(folder / "motion_space"))
    edit_tensors(folder, lambda state: (state.pop("old_bases"), state.update(motion_bases=torch.zeros(4, 8))))
    refused(folder, "motion_bases", "(4, 8) instead of (3, 8)", str(folder / "motion_space"))
    with pytest.raises(ValueError, match="motion_bases"):
        MotionSpace.from_pretrained(folder, subfolder="motion_space")


class Canary:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "weights.pt", "model.ckpt"])
def test_a_pickle_is_named_and_never_loaded(folder, tmp_path, name):
    (folder / "motion_space" / WEIGHTS_NAME).unlink()
    (folder / "motion_space" / name).write_bytes(pickle.dumps(Canary(tmp_path / "ran")))
    refused(folder, name, "never loaded")
    assert not (tmp_path / "ran").exists()


def test_a_pickle_under_a_false_name_is_not_loaded(folder, tmp_path):
    path = folder / "motion_space" / WEIGHTS_NAME
    path.write_bytes(pickle.dumps({"motion_bases": Canary(tmp_path / "ran")}))
    refused(folder, str(path), "not a whole safetensors file")
    assert not (tmp_path / "ran").exists()
    with pytest.raises(ValueError, match="safetensors"):
        MotionSpace().save_pretrained(tmp_path / "new", safe_serialization=False)


def test_a_truncated_file_is_refused(folder):
    path = folder / "video_generator" / WEIGHTS_NAME
    path.write_bytes(path.read_bytes()[:-100])
    refused(folder, str(path), "not a whole safetensors file")


def test_configurations_are_checked(folder):
    config = folder / "motion_space" / "config.json"
    original = config.read_text()
    for change, word in (
        ({"_class_name": "MotionDecoder"}, "describes a MotionDecoder"),
        ({"temperature": 1.0}, "'temperature'"),
        ({"num_bases": "many"}, "num_bases"),
        ({"num_bases": -1}, "num_bases"),
    ):
        edit_json(config, **change)
        refused(folder, word)
        config.write_text(original)
    config.write_text("{")
    refused(folder, "not readable JSON", str(config))
    config.unlink()
    refused(folder, "has no config.json")


def test_the_index_is_checked(folder):
    index = folder / INDEX_NAME
    original = index.read_text()
    for change, word in (
        ({"_class_name": "OtherPipeline"}, "describes a OtherPipeline"),
        ({"format_version": 2}, "format version 2"),
        ({"format_version": None}, "format version None"),
        ({"vocoder": ["osmnet", "Vocoder"]}, "unknown component 'vocoder'"),
        ({"motion_space": None}, "lacks the component 'motion_space'"),
        ({"motion_space": ["antigravity", "MotionSpace"]}, "antigravity"),
        ({"motion_space": ["osmnet", "MotionDecoder"]}, "MotionDecoder"),
    ):
        edit_json(index, **change)
        refused(folder, word, str(index))
        index.write_text(original)
    assert "antigravity" not in sys.modules
    long = "a\nb" * 10_000
    for change in ({"_class_name": long}, {"format_version": long}, {long: 1}, {"motion_space": [long]}):
        edit_json(index, **change)
        with pytest.raises(ValueError) as caught:
            TinyPipeline.from_pretrained(folder)
        assert str(caught.value).isprintable() and len(str(caught.value)) < 600
        index.write_text(original)
    index.write_text("[]")
    refused(folder, "describes a list")
    index.unlink()
    refused(folder, "no model_index.json")


def test_a_base_loads_the_class_that_the_index_names(pipeline, folder, landmarker, tmp_path, monkeypatch):
    SpacePipeline(motion_space=pipeline.motion_space, face_landmarker=landmarker).save_pretrained(tmp_path / "space")
    loaded = AnyPipeline.from_pretrained(folder, dtype=torch.float16)
    assert type(loaded) is TinyPipeline and loaded.dtype == torch.float16
    other = AnyPipeline.from_pretrained(tmp_path / "space", torch_dtype=torch.bfloat16, face_landmarker=landmarker)
    assert type(other) is SpacePipeline and other.face_landmarker_path == landmarker
    assert torch.equal(other.motion_space.motion_bases, pipeline.motion_space.motion_bases)
    monkeypatch.setattr("osmnet.loading.pipeline.packaged_weights", lambda: tmp_path / "space")
    assert type(AnyPipeline.from_pretrained()) is SpacePipeline
    refused(tmp_path / "space", "describes a SpacePipeline, not a TinyPipeline")  # a concrete class stays itself


@pytest.mark.parametrize("name", ["OtherPipeline", "AnyPipeline", "antigravity:Any", None, ["TinyPipeline"]])
def test_a_base_refuses_classes_that_are_not_in_its_table(folder, name):
    edit_json(folder / INDEX_NAME, _class_name=name)
    with pytest.raises(ValueError, match="knows TinyPipeline, SpacePipeline; update osmnet") as error:
        AnyPipeline.from_pretrained(folder)
    assert "\n" not in str(error.value) and "antigravity" not in sys.modules


def test_the_landmarker_comes_along_or_is_given(folder, tmp_path):
    own = tmp_path / "mine.task"
    refused(folder, str(own), face_landmarker=own)
    own.write_bytes(b"mine")
    assert TinyPipeline.from_pretrained(folder, face_landmarker=own).face_landmarker_path == own
    (folder / LANDMARKER_NAME).unlink()
    refused(folder, LANDMARKER_NAME)
    assert TinyPipeline.from_pretrained(folder, face_landmarker=own).face_landmarker_path == own


@pytest.mark.parametrize("base", [TinyPipeline, AnyPipeline])
def test_a_landmarker_of_a_stranger_must_be_named(folder, base):
    inside = folder / LANDMARKER_NAME
    assert hashlib.sha256(inside.read_bytes()).hexdigest() in KNOWN_LANDMARKERS
    content = bytearray(inside.read_bytes())
    content[len(content) // 2] ^= 1
    inside.write_bytes(content)
    with pytest.raises(ValueError, match="another face landmarker than the package's.* face_landmarker=") as error:
        base.from_pretrained(folder)
    assert "\n" not in str(error.value)
    pipeline = base.from_pretrained(folder, face_landmarker=inside)
    assert pipeline.face_landmarker_path == inside
    pipeline.save_pretrained(folder / "again")
    assert (folder / "again" / LANDMARKER_NAME).read_bytes() == content
    with open(inside, "r+b") as file:
        file.truncate(MAX_LANDMARKER + 1)
    refused(folder, "another face landmarker")


@pytest.mark.parametrize("cls", [SpacePipeline, AnyPipeline])
def test_a_class_decides_whether_it_needs_a_landmarker(cls, pipeline, landmarker, tmp_path):
    folder, bases = tmp_path / "space", pipeline.motion_space.motion_bases
    SpacePipeline(motion_space=pipeline.motion_space).save_pretrained(folder)
    assert not (folder / LANDMARKER_NAME).exists()
    bare = cls.from_pretrained(folder)
    assert bare.face_landmarker_path is None and torch.equal(bare.motion_space.motion_bases, bases)
    with pytest.raises(ValueError, match="no face landmarker file"):  # one that is given must exist all the same
        cls.from_pretrained(folder, face_landmarker=tmp_path / "missing.task")
    cls.from_pretrained(folder, face_landmarker=landmarker).save_pretrained(folder)
    kept = cls.from_pretrained(folder).face_landmarker_path
    assert kept == folder / LANDMARKER_NAME and kept.read_bytes() == landmarker.read_bytes()


def test_sources_that_are_no_folder(folder, tmp_path):
    for source in (tmp_path / "nowhere", str(tmp_path / "nowhere"), "./nowhere", folder / INDEX_NAME):
        refused(source, str(source), "not a folder")


def test_weights_in_the_package_and_beside_it(folder, tmp_path, monkeypatch):
    package = tmp_path / "site" / "osmnet"
    package.mkdir(parents=True)
    monkeypatch.setattr(osmnet.loading.packaged, "__file__", str(package / "loading" / "packaged.py"))
    refused(None, "no weights")
    beside = package.parent / "weights_card"
    folder.rename(beside)
    expected = digest(TinyPipeline.from_pretrained(beside))
    assert digest(TinyPipeline.from_pretrained()) == expected
    beside.rename(package / "weights_card")
    assert digest(TinyPipeline.from_pretrained()) == expected


def test_components_must_be_the_ones_of_the_table(pipeline):
    components = pipeline.components
    with pytest.raises(ValueError, match="no component 'extra'"):
        TinyPipeline(**components, extra=components["motion_space"])
    with pytest.raises(ValueError, match="motion_space must be a MotionSpace, not a MotionDecoder"):
        TinyPipeline(**components | {"motion_space": components["motion_decoder"]})
    del components["motion_space"]
    with pytest.raises(ValueError, match="lacks its component 'motion_space'"):
        TinyPipeline(**components)


def test_every_network_is_loaded_strictly():
    import osmnet

    networks = {getattr(osmnet, name) for name in osmnet.__all__ if name not in ("OSMNetPipeline", "__version__")}
    strict = {entry for entry in networks if isinstance(entry, type) and issubclass(entry, OSMNetModel)}
    assert {"MotionSpace", "MotionEncoder", "MotionDecoder", "AudioMotionEncoder", "VideoGenerator"} <= {
        entry.__name__ for entry in strict
    }
    assert all(entry.from_pretrained.__func__ is OSMNetModel.from_pretrained.__func__ for entry in strict)
