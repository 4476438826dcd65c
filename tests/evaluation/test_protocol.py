"""Parts of the protocol that need no rendering: clips, boxes, silence, and the expected time."""

import itertools

import numpy as np
import pytest

from osmnet.data.dataset import Clip, Dataset, speaker_of
from osmnet.evaluation import protocol
from osmnet.evaluation.evaluate import choose_clips, clock, with_progress
from osmnet.evaluation.protocol import METHODS, ClipResult, face_boxes, room_noise, source_of
from osmnet.face.landmarker import SETTLING
from osmnet.face.pose import similarity_from_pose
from osmnet.face.topology import OVAL
from osmnet.media.features import speech_activity

HELD_OUT = ("opentalker-face-1", "opentalker-face-2")  # by name


def clip(name: str, frames: int = 50) -> Clip:
    row = {"status": "kept", "key": name, "speaker": speaker_of(name), "speech": True, "frames": frames, "size": 256}
    return Clip("nowhere", row | {"shard": "none.tar", "files": {"wav": [0, 0]}})


def test_which_clips():
    everybody = ["ann-voice", "bob-voice", *HELD_OUT]
    dataset = Dataset("nowhere", [clip(name).info for name in everybody])
    names = lambda *arguments: [each.name for each in choose_clips(dataset, *arguments)[0]]  # noqa: E731
    assert names("all", "speaker") == everybody and names("train", "speaker") == everybody[:2]
    assert names("held-out", "speaker") == list(HELD_OUT)
    assert names("all", "speaker", 2) == [everybody[0], everybody[3]]
    held, training = names("held-out", "clip"), names("train", "clip")
    assert held and sorted(held + training) == everybody
    known = Dataset("nowhere", [clip(name).info for name in everybody[:2]])
    clips, (note,) = choose_clips(known, "held-out", "speaker")
    assert len(clips) == 2 and "may have been trained" in note
    with pytest.raises(ValueError, match="split must be"):
        choose_clips(dataset, "half", "speaker")


def test_the_source_is_the_whole_first_frame(dataset_folder, tiny):
    first = np.zeros((256, 256, 3), np.uint8)
    talking = Dataset.open(dataset_folder).clips()[0]
    source = source_of(talking, first, tiny.face_model)
    np.testing.assert_allclose(source.fit.head_pose, talking.fit(tiny.face_model).head_pose[0], atol=1e-3)
    assert source.frame_size == (256, 256) and source.crop is first


def test_a_silent_recording_is_not_speech_yet_not_refused(tiny):
    noise = room_noise(2.0)
    assert 20 * np.log10(noise.std()) == pytest.approx(-50, abs=0.5)
    assert speech_activity(noise).max() < 0.05
    assert tiny.encode_speech(noise, 16_000).num_frames == 50


def test_face_boxes_hold_the_face_and_stay_within_the_picture():
    landmarks = np.zeros((2, 478, 3))
    landmarks[:, OVAL, :2] = np.random.default_rng(0).uniform((40, 50), (200, 220), (len(OVAL), 2))
    landmarks[1] += (150, -300, 0)
    (x0, y0, x1, y1), (_, top, right, bottom) = face_boxes(landmarks, 256)
    oval = landmarks[0, OVAL, :2]
    assert x0 <= oval[:, 0].min() < x0 + 1 and x1 - 1 < oval[:, 0].max() <= x1
    assert y0 <= oval[:, 1].min() < y0 + 1 and y1 - 1 < oval[:, 1].max() <= y1
    assert (top, bottom, right) == (0, 16, 256)


def outcome(number: int, seconds: int, works: bool = True) -> tuple[Clip, ClipResult | Exception]:
    result = ClipResult("", seconds, {method: {} for method in METHODS}, {}, {}, {})
    return clip(f"clip-{number}", 25 * seconds), result if works else ValueError("damaged")


@pytest.mark.parametrize(("workers", "said"), [(1, "about 6 min 40 s"), (2, "about 3 min 20 s")])
def test_the_first_clip_that_works_shows_how_long_all_take(workers, said, monkeypatch, capsys):
    outcomes = [outcome(0, 30, works=False), outcome(1, 10), outcome(2, 60), outcome(3, 100)]
    ticks = itertools.count(step=20)  # two seconds for each of the second clip's ten
    monkeypatch.setattr("osmnet.evaluation.evaluate.time.monotonic", lambda: next(ticks))
    lengths = {each.name: each.frames / 25 for each, _ in outcomes}
    assert list(with_progress(iter(outcomes), lengths, workers, shown=True)) == outcomes
    stderr = capsys.readouterr().err
    assert "Evaluating 4 clips, 3 min 20 s of video" in stderr
    assert stderr.count("about") == 1 and said in stderr and "clips 4/4: 100%" in stderr
    assert list(with_progress(iter(outcomes), lengths, workers, shown=False)) == outcomes
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.2, "1 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (3600 + 300, "1 h 5 min")]
)
def test_durations_are_written_as_people_say_them(seconds, said):
    assert clock(seconds) == said


def test_the_judge_sees_the_first_frame_until_it_has_settled(monkeypatch, tiny):
    shown = []

    class Landmarker:
        def __init__(self, *_, **__):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def detect(self, frame):
            shown.append(int(frame[0, 0, 0]))
            face = tiny.face_model.array("mean_shape") * 70 + (128, 128, 0)
            return [face + len(shown)] if frame[0, 0, 0] != 2 else []  # every answer is another one

    monkeypatch.setattr(protocol, "FaceLandmarker", Landmarker)
    frames = np.arange(4, dtype=np.uint8)[:, None, None, None] * np.ones((256, 256, 3), np.uint8)
    found = protocol.track(frames, "bundle", tiny.face_model)
    assert shown == [0] * SETTLING + [0, 1, 2, 3]
    assert found.found.tolist() == [True, True, False, True]
    np.testing.assert_allclose(np.diff(found.landmarks_px[:, 0, 0]), [1, 0, 2], atol=1e-4)


def test_a_mirrored_track_is_mirrored_back(monkeypatch, tiny):
    model = tiny.face_model
    pose = np.array([[0.3, 0.1, 0.2, 0.1, 0, 0], [0.2, 0, 0.1, 0, 0, 0]])
    face = similarity_from_pose(pose, 256).place(np.repeat(model.array("mean_shape")[None], 2, 0)).astype(np.float32)
    mirrored = face[:, model.array("mirror").astype(int)] * np.float32([-1, 1, 1]) + np.float32([256, 0, 0])

    def track(frames, *_):
        assert frames[0, 0, 0, 0] == 7  # the last column comes first
        return protocol.Track(mirrored, np.array([True, False]), model.fit_track(mirrored, 256))

    monkeypatch.setattr(protocol, "track", track)
    frames = np.zeros((2, 256, 256, 3), np.uint8)
    frames[:, :, -1] = 7
    found = protocol.track_mirrored(frames, "bundle", model)
    np.testing.assert_allclose(found.landmarks_px, face, atol=1e-3)
    np.testing.assert_allclose(found.fit.head_pose, model.fit_track(face, 256).head_pose, atol=1e-4)
    assert found.found.tolist() == [True, False]
