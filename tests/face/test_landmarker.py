"""MediaPipe's landmarker behind our conventions, with the bundle in the weights folder."""

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from osmnet.face.crop import crop_box, extract
from osmnet.face.landmarker import SETTLING, FaceLandmarker
from osmnet.face.topology import CHIN, FOREHEAD, LEFT_OUTER_CORNER, NOSE, RIGHT_OUTER_CORNER
from osmnet.media.image import load_portrait

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def bundle(repository):
    return repository / "weights_card" / "face_landmarker.task"


@pytest.fixture(scope="module")
def landmarker(bundle):
    with FaceLandmarker(bundle, num_faces=3) as landmarker:
        yield landmarker


@pytest.fixture(scope="module")
def astronaut(repository):
    return load_portrait(repository / "examples" / "portrait_astronaut.jpg")


@pytest.mark.parametrize("name", ["portrait_astronaut.jpg", "portrait_hopper.jpg"])
def test_finds_the_face_of_a_portrait(landmarker, repository, name):
    image = load_portrait(repository / "examples" / name)
    faces = landmarker.detect(image)
    assert len(faces) == 1
    face = faces[0]
    assert face.shape == (478, 3) and face.dtype == np.float32 and np.isfinite(face).all()
    assert (face[:, :2] > 0).all() and (face[:, :2] < image.shape[1::-1]).all()
    # The person's right eye is on the left of the picture, the forehead above the chin, the nose nearest.
    assert face[RIGHT_OUTER_CORNER, 0] < face[NOSE, 0].mean() < face[LEFT_OUTER_CORNER, 0]
    assert face[FOREHEAD, 1] < face[NOSE, 1].mean() < face[CHIN, 1]
    assert face[NOSE, 2].mean() < face[[FOREHEAD, CHIN], 2].min()


def test_vertices_are_in_pixels_of_pictures_that_are_not_square(landmarker, astronaut):
    face = landmarker.detect(astronaut)[0]
    wide = np.pad(astronaut, ((0, 0), (256, 128), (0, 0)), mode="edge")
    shifted = landmarker.detect(wide)[0]
    away = np.abs(shifted[:, :2] - face[:, :2] - (256, 0))
    assert away.mean() < 3 and away.max() < 12  # the finder's square differs a little; by shares it would be 100
    np.testing.assert_allclose(np.ptp(shifted[:, 2]), np.ptp(face[:, 2]), rtol=0.15)  # z is no share of the width


def test_no_face_in_noise_or_in_nothing(landmarker):
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    assert landmarker.detect(noise) == []
    assert landmarker.detect(np.zeros((64, 64, 3), np.uint8)) == []


def test_largest_face_comes_first(landmarker, astronaut):
    large = astronaut[:240, 120:360]
    small = np.asarray(Image.fromarray(large).resize((170, 170)))
    for flip in (False, True):
        canvas = np.full((240, 410, 3), 128, np.uint8)
        canvas[35:205, :170] = small
        canvas[:, 170:] = large
        faces = landmarker.detect(canvas[:, ::-1] if flip else canvas)
        assert len(faces) == 2
        widths = [np.ptp(face[:, 0]) for face in faces]
        assert widths[0] > 1.2 * widths[1] and (faces[0][:, 0].mean() < 240) == flip


def test_image_mode_remembers_nothing(landmarker, astronaut):
    first = landmarker.detect(astronaut)[0]
    landmarker.detect(np.roll(astronaut, 60, axis=1))
    np.testing.assert_array_equal(landmarker.detect(astronaut)[0], first)


def test_pictures_may_be_views(landmarker, astronaut):
    mirrored = astronaut[:, ::-1]
    np.testing.assert_array_equal(landmarker.detect(mirrored)[0], landmarker.detect(mirrored.copy())[0])


def test_video_mode_follows_a_moving_face_and_notices_when_it_goes(bundle, astronaut):
    small = np.ascontiguousarray(astronaut[::2, ::2])
    with FaceLandmarker(bundle, mode="video") as tracker:
        tracks = [tracker.detect(np.roll(small, 3 * step, axis=1)) for step in range(6)]
        assert all(len(faces) == 1 for faces in tracks)
        centres = np.stack([faces[0][:, :2].mean(0) for faces in tracks])
        np.testing.assert_allclose(np.diff(centres[1:], axis=0), [[3, 0]] * 4, atol=0.7)
        assert tracker.detect(np.zeros_like(small)) == []


def test_mediapipe_still_tracks_two_copies_as_the_second_look_needs(bundle, repository):
    """What `detect_twice` is built on is documented nowhere: a new MediaPipe may do otherwise."""
    picture = load_portrait(repository / "examples" / "portrait_hopper.jpg")
    with FaceLandmarker(bundle, num_faces=4) as image, FaceLandmarker(bundle, mode="video", num_faces=4) as four:
        crop = extract(picture, crop_box(image.detect(picture)[0], *picture.shape[:2]), 256)
        alone, copy = image.detect(crop)[0], image.detect_twice(crop)[0][0]
        for _ in range(3):  # fewer faces than asked for: the detector places every window anew
            np.testing.assert_array_equal(four.detect(crop)[0], alone)
    moved = np.roll(crop, 6, axis=1)
    with FaceLandmarker(bundle, mode="video", num_faces=2) as two, FaceLandmarker(bundle, mode="video") as one:
        first = two.detect_twice(crop)[0][0]
        np.testing.assert_array_equal(first, copy)
        shown = [first, *(two.detect_twice(crop)[0][0] for _ in range(SETTLING))]
        changes = np.abs(np.diff(shown, axis=0)[..., :2]).mean((1, 2))
        # The window follows the last landmarks, so the answer wanders from the detector's and settles.
        assert changes[0] > 0.3 and changes[-3:].max() < 0.3 * changes[0]
        (left,), (right,) = two.detect_twice(crop)
        assert np.abs(left - right)[:, :2].mean() < 0.2  # both copies in pixels of the picture
        for _ in range(SETTLING):
            still = one.detect(crop)[0]
        # A single face is filtered and lags; two are not.
        assert (two.detect_twice(moved)[0][0] - left)[:, 0].mean() > 5.5
        assert (one.detect(moved)[0] - still)[:, 0].mean() < 5.3


def test_missing_bundle_is_refused(tmp_path):
    with pytest.raises(ValueError, match="No face landmarker at .*absent.task"):
        FaceLandmarker(tmp_path / "absent.task")


@pytest.mark.parametrize("content", ["text", "truncated", "empty"])
def test_broken_bundle_is_refused_and_stderr_restored(tmp_path, bundle, content, capfd):
    broken = tmp_path / "broken.task"
    broken.write_bytes({"text": b"no zip", "truncated": bundle.read_bytes()[:100_000], "empty": b""}[content])
    with pytest.raises(ValueError, match="broken.task' is not a MediaPipe face landmarker bundle"):
        FaceLandmarker(broken)
    os.write(2, b"still there")
    assert capfd.readouterr().err == "still there"


def test_nothing_is_written_to_stderr_but_what_others_write(subprocess_environment, bundle, repository):
    # Never closed: the end of the process must be quiet, too.
    code = (
        "import os, sys\n"
        "from osmnet.face.landmarker import FaceLandmarker\n"
        "from osmnet.media.image import load_portrait\n"
        "picture = load_portrait(sys.argv[2])\n"
        "kept = [FaceLandmarker(sys.argv[1], mode=mode) for mode in ('image', 'video')]\n"
        "print([len(landmarker.detect(picture)) for _ in range(2) for landmarker in kept])\n"
        "os.write(2, b'ours')\n"
    )
    portrait = repository / "examples" / "portrait_astronaut.jpg"
    command = [sys.executable, "-P", "-c", code, str(bundle), str(portrait)]
    done = subprocess.run(command, env=subprocess_environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[1, 1, 1, 1]"
    assert done.stderr == "ours"


def test_closing_twice_does_no_harm(bundle):
    landmarker = FaceLandmarker(bundle)
    landmarker.close()
    landmarker.close()
