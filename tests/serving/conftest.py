"""A studio on a tiny model, and files for it."""

import pytest
from PIL import Image

from osmnet.serving.settings import Settings
from osmnet.serving.studio import Studio
from tests.support.dummies import portrait, speech, write_wav


@pytest.fixture(scope="package")
def inputs(tmp_path_factory) -> dict[str, str]:
    """A portrait, 0.6 s of speech, speech that is too long, a picture without a face, a large one, and a text."""
    folder = tmp_path_factory.mktemp("inputs")
    Image.fromarray(portrait()).save(folder / "face.png")
    Image.new("RGB", (200, 200), "white").save(folder / "empty.png")
    Image.new("1", (2000, 1100)).save(folder / "large.png")
    (folder / "text.png").write_text("no picture")
    write_wav(folder / "speech.wav", speech(0.6))
    write_wav(folder / "long.wav", speech(2.5))
    return {path.stem: str(path) for path in folder.iterdir()}


@pytest.fixture(scope="package")
def studio(tiny):
    made = Studio(Settings(size=64, max_seconds=2, max_megapixels=2), tiny)
    yield made
    made.close()
    assert not made.folder.exists() and len(made.inputs.cache) == 0
