"""Faces that are hard to find are found, and what is no upright face is still refused."""

import cv2
import numpy as np
import pytest
from PIL import Image
from skimage import data

from osmnet.face import detection
from osmnet.face.landmarker import FaceLandmarker
from osmnet.loading.packaged import packaged_landmarker
from osmnet.media.image import load_portrait

pytestmark = pytest.mark.integration

# Tilt in degrees (counterclockwise), margin around the face in its sizes, factor of its width, pixels of blur; and the
# reason for which a single look at the picture would refuse it.
HARD = {
    "wide": (0, 0.15, 1.3, 0, "upside down"),
    "wide, tight": (0, 0.0, 1.3, 0, "upside down"),
    "wide, cut": (0, 0.0, 1.5, 0, "outside the picture"),
    "blurred, tilted": (-25, 0.05, 1.0, 3, "No face"),
    "blurred, tilted, tight": (-25, 0.02, 1.0, 3, "No face"),
}


@pytest.fixture(scope="module")
def landmarker():
    with FaceLandmarker(packaged_landmarker(), num_faces=8) as landmarker:
        yield landmarker


@pytest.fixture(scope="module")
def hard_face(landmarker, repository):
    """A function that makes a picture of `HARD` of the astronaut's portrait."""
    picture = load_portrait(repository / "examples" / "portrait_astronaut.jpg")
    face = landmarker.detect(picture)[0][:, :2]
    low, high = face.min(0), face.max(0)

    def make(case: str) -> np.ndarray:
        tilt, margin, width, blur, _ = HARD[case]
        turn = cv2.getRotationMatrix2D(((low + high) / 2).tolist(), tilt, 1.0)
        size = picture.shape[1::-1]
        tilted = cv2.warpAffine(picture, turn, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        room = margin * (high - low)
        (left, top), (right, bottom) = np.round([low - room, high + room]).astype(int)
        part = Image.fromarray(tilted[top:bottom, left:right])
        part = np.array(part.resize((round(part.width * width), part.height), Image.Resampling.BICUBIC))
        return cv2.GaussianBlur(part, (0, 0), blur) if blur else part

    return make


@pytest.mark.parametrize("case", HARD)
def test_hard_face_is_found_and_upright(tiny, hard_face, case):
    source = tiny.encode_source(hard_face(case))
    assert abs(np.degrees(source.fit.head_pose[2]) + HARD[case][0]) < 15  # positive roll is clockwise


@pytest.mark.parametrize("case", HARD)
def test_hard_face_needs_a_second_look(tiny, hard_face, monkeypatch, case):
    """Otherwise the test above would show nothing."""
    monkeypatch.setattr(detection, "_is_steady", lambda *_: False)
    with pytest.raises(ValueError, match=HARD[case][-1]):
        tiny.encode_source(hard_face(case))


@pytest.mark.parametrize("case", HARD)
def test_hard_face_upside_down_is_refused(tiny, hard_face, case):
    with pytest.raises(ValueError, match="upside down|No face|outside the picture"):
        tiny.encode_source(np.ascontiguousarray(np.rot90(hard_face(case), 2)))


def test_easy_face_is_looked_at_once(tiny, repository, monkeypatch):
    """The result, and the time, of what is found at once stay as they are."""

    def never(*_):
        raise AssertionError("looked again")

    monkeypatch.setattr(detection, "_search_with_border", never)
    monkeypatch.setattr(detection, "_is_steady", never)
    for name in ("astronaut", "hopper"):
        tiny.encode_source(repository / "examples" / f"portrait_{name}.jpg")


def _textures() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    down, across = np.mgrid[:300, :300]
    coarse = [Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)) for side in (6, 12, 200)]
    pictures = {f"noise {image.width}": np.array(image.resize((300, 300))) for image in coarse}
    pictures["gradient"] = np.dstack([across, down, np.full_like(down, 99)]).astype(np.uint8)
    pictures["checks"] = np.dstack([255 * ((across // 30 + down // 30) % 2)] * 3).astype(np.uint8)
    for name in ("brick", "grass", "gravel", "coins", "text"):
        pictures[name] = np.dstack([getattr(data, name)()] * 3)
    return pictures | {"galaxies": data.hubble_deep_field()}


@pytest.mark.filterwarnings("ignore:The portrait shows")  # galaxies
def test_pictures_without_a_face_are_refused(tiny):
    for name, picture in _textures().items():
        with pytest.raises(ValueError, match="No face was found|pixels high"):
            tiny.encode_source(picture)
            pytest.fail(f"{name} is taken for a face")


def test_second_look_finds_no_face_where_there_is_none(landmarker):
    pictures = _textures() | {"cat": data.cat(), "cup": data.coffee(), "moon": np.dstack([data.moon()] * 3)}
    for name, picture in pictures.items():
        for turns in range(4):
            turned = np.ascontiguousarray(np.rot90(picture, turns))
            assert detection._search_with_border(landmarker, turned) == [], f"{name}, turned {turns} times"


def test_large_picture_is_searched_within_a_bound(landmarker, monkeypatch):
    """The border of a picture of 4,096 pixels would take 100 MB and more."""
    sizes, detect = [], FaceLandmarker.detect
    monkeypatch.setattr(FaceLandmarker, "detect", lambda self, image: sizes.append(image.shape) or detect(self, image))
    assert detection._search_with_border(landmarker, np.full((400, 4096, 3), 127, np.uint8)) == []
    assert sizes == [(100 + 2 * 256, 1024 + 2 * 256, 3), (100 + 2 * 512, 1024 + 2 * 512, 3)]
