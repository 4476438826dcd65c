"""A run that the tests of the training loop share."""

from pathlib import Path

import pytest

from tests.support.toy_stage import ToyConfig, run


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    """An uninterrupted run of 40 steps, and its report."""
    folder = tmp_path_factory.mktemp("plain")
    return folder, run(folder, ToyConfig(steps=40))
