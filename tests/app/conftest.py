"""Files that visitors of the page send."""

import pytest
from PIL import Image

from tests.support.dummies import portrait, speech, write_wav


@pytest.fixture(scope="package")
def inputs(tmp_path_factory) -> dict[str, str]:
    """A portrait, 0.6 s of speech, speech that is too long, a picture without a face, and a text."""
    folder = tmp_path_factory.mktemp("inputs")
    Image.fromarray(portrait(320)).save(folder / "face.png")
    Image.new("RGB", (200, 200), "white").save(folder / "empty.png")
    (folder / "text.png").write_text("no picture")
    write_wav(folder / "speech.wav", speech(0.6))
    write_wav(folder / "long.wav", speech(4.5))
    return {path.stem: str(path) for path in folder.iterdir()}
