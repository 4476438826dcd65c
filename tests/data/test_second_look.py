"""The second track of a clip: which face it follows, and what it does where the face is lost."""

import numpy as np
import pytest

from osmnet.data import second_look
from osmnet.data.second_look import SecondLook
from osmnet.face.landmarker import SETTLING

FRAMES = 8
FACE = np.random.default_rng(0).uniform((60, 60, -20), (140, 140, 20), (478, 3)).astype(np.float32)
CROP = np.zeros((200, 200, 3), np.uint8)
FIRST_LOOK = FACE + np.arange(FRAMES, dtype=np.float32)[:, None, None]


class Landmarker:
    """Says what it was told to, one answer a frame."""

    def __init__(self, answers: list):
        self.answers, self.shown = answers, 0

    def detect_twice(self, crop: np.ndarray) -> tuple[list, list]:
        self.shown += 1
        return self.answers[max(self.shown - SETTLING - 1, 0)]

    def close(self) -> None:
        self.closed = True


def tracked(answers: list, monkeypatch: pytest.MonkeyPatch) -> np.ndarray | None:
    landmarker = Landmarker(answers)
    monkeypatch.setattr(second_look, "SMOOTHING", 0.01)  # none, so that every frame is its own
    monkeypatch.setattr(second_look, "FaceLandmarker", lambda *_, **__: landmarker)
    with SecondLook("bundle", FIRST_LOOK) as look:
        for _ in range(FRAMES):
            look.add(CROP)
    assert landmarker.closed and landmarker.shown == FRAMES + SETTLING
    return look.landmarks_px()


def test_the_mean_of_both_copies_is_taken_and_other_faces_are_not(monkeypatch):
    stranger = FACE + np.float32([60, 0, 0])
    answers = [([stranger, face + 1], [face + 3]) for face in FIRST_LOOK]
    np.testing.assert_allclose(tracked(answers, monkeypatch), FIRST_LOOK + 2, atol=1e-4)
    answers = [([face + 1], [stranger]) for face in FIRST_LOOK]
    np.testing.assert_allclose(tracked(answers, monkeypatch), FIRST_LOOK + 1, atol=1e-4)


def test_where_the_face_is_lost_the_first_look_moves_with_what_is_around_it(monkeypatch):
    away = np.array([0, 0, 0, 3, 0, 0, 6, 6], np.float32)  # of the second look, where it sees the face
    answers = [([FIRST_LOOK[k] + away[k]], []) if k in (3, 6) or k < 2 else ([], []) for k in range(FRAMES)]
    expected = np.array([0, 0, 1.5, 3, 4, 5, 6, 6], np.float32)[:, None, None]
    np.testing.assert_allclose(tracked(answers, monkeypatch), FIRST_LOOK + expected, atol=1e-4)


def test_a_face_lost_in_most_frames_has_no_second_track(monkeypatch):
    answers = [([face], [face]) if k < 3 else ([], []) for k, face in enumerate(FIRST_LOOK)]
    assert tracked(answers, monkeypatch) is None
