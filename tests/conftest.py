"""Options and fixtures that all tests share."""

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

if importlib.util.find_spec("osmnet") is None:  # not installed: test the checkout
    sys.path.insert(0, str(REPOSITORY))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if any("gpu" in item.keywords for item in items):
        import torch

        if not torch.cuda.is_available():
            for item in items:
                if "gpu" in item.keywords:
                    item.add_marker(pytest.mark.skip(reason="gpu: there is no CUDA device"))


@pytest.fixture(scope="session", autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of the key that signs what tests save, in this process and its children: not the user's own.

    And no cache: nothing is timed, so that the precision of renderings depends on the machine alone.
    """
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OSMNET_HOME", str(folder))
        patch.setenv("OSMNET_CACHE", os.devnull)
        yield folder


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout that holds these tests."""
    return REPOSITORY


@pytest.fixture(scope="session")
def tiny():
    """A tiny pipeline with a mesh, see `dummies.py`; tests leave it as it is."""
    from tests.support.dummies import tiny_pipeline

    return tiny_pipeline()


@pytest.fixture(scope="session")
def tiny_folder(tiny, tmp_path_factory) -> Path:
    """The folder of the tiny pipeline, saved; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny.save_pretrained(folder)
    return folder


@pytest.fixture
def subprocess_environment() -> dict[str, str]:
    """Environment for a child process that imports the same osmnet as this process, whatever its working folder."""
    package = Path(importlib.util.find_spec("osmnet").origin).parent
    path = os.pathsep.join(filter(None, [str(package.parent), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def talking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of a made-up speaker, see `clips.py`; tests leave the file as it is."""
    from tests.support.clips import talking_video

    return talking_video(tmp_path_factory.mktemp("raw") / "talking.mp4")


@pytest.fixture(scope="session")
def dataset_folder(talking: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Those two seconds as a dataset of two speakers to train on and one who is held out by name."""
    from tests.support.clips import dataset_of

    names = ("ann-voice", "bob-voice", "opentalker-face-1")
    return dataset_of(talking, tmp_path_factory.mktemp("data") / "set", names)
