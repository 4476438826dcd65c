"""Brows, gaze and blinks of takes: as various as ε allows, the same for a seed, within what a portrait bears."""

from dataclasses import replace

import numpy as np
import pytest

from osmnet.face.topology import LEFT_IRIS, RIGHT_IRIS
from osmnet.face.upper_face import BROWS, COORDINATES, EYES, LIDS
from osmnet.pipelines.options import MotionOptions
from osmnet.pipelines.osm_net.pipeline_osm_net import OSMNetPipeline
from osmnet.pipelines.osm_net.upper_face import FULL_BLINK, UpperFace, UpperFaceTake, on_viewer
from tests.support.dummies import SAMPLING_RATE, SEED, portrait, speech

MINUTES = 4
TALK = (np.arange(25 * 60 * MINUTES) % 100 < 80).astype(np.float32)  # with a pause every four seconds


@pytest.fixture(scope="module")
def source(tiny):
    return tiny.encode_source(portrait(), size=64)


@pytest.fixture(scope="module")
def voice(tiny):
    return tiny.encode_speech(np.tile(speech(2.0), 3), SAMPLING_RATE)


def take(tiny, seed=SEED, near=(), **options):
    return UpperFaceTake(tiny.upper_face_space, (*near, seed), MotionOptions(**options))


def blinks(closure):
    """Starts of blinks."""
    return np.flatnonzero((closure[1:] > 0.5) & (closure[:-1] <= 0.5))


def test_a_seed_makes_the_same_upper_face_however_many_takes_there_are(tiny, voice):
    one, three = (tiny.sample_motion(voice, seed=SEED, num_videos=count) for count in (1, 3))
    assert one.upper_face.shape == (1, voice.num_frames, len(COORDINATES)) and one.upper_face.dtype == np.float32
    assert np.array_equal(one.upper_face[0], three.upper_face[0]) and np.array_equal(one.blink[0], three.blink[0])
    again = tiny.sample_motion(voice, seed=[three.seeds[2]])
    assert np.array_equal(again.upper_face[0], three.upper_face[2])
    assert np.array_equal(three.take([2]).upper_face, three.upper_face[2:])
    for part in (BROWS, slice(LIDS, LIDS + 1), EYES):
        assert (three.upper_face[0, 10:, part] != three.upper_face[1, 10:, part]).any()


def test_takes_are_alike_without_epsilon(tiny, voice):
    motion = tiny.sample_motion(voice, seed=SEED, num_videos=2, epsilon=0.0)
    assert np.array_equal(*motion.upper_face) and np.array_equal(*motion.blink) and motion.blink.max() > 0.9
    assert np.abs(motion.upper_face[..., : LIDS + 1]).max() < 1e-6


def test_brows_grow_with_epsilon_and_strength(tiny):
    spread = [
        take(tiny, **options).add(TALK)[0][:, BROWS].std()
        for options in ({"epsilon": 0.5}, {}, {"upper_face": 0.5}, {"upper_face": 0.0})
    ]
    assert spread[3] == 0 and 0.3 < spread[0] / spread[1] < 0.7 and spread[2] == pytest.approx(spread[1] / 2)


def test_takes_near_one_have_eyebrows_near_its_own(tiny):
    first, near, other = (
        take(tiny, seed, before).add(TALK)[0][:, BROWS] for seed, before in ((1, ()), (2, (1,)), (2, ()))
    )
    assert np.abs(near - first).mean() < 0.7 * np.abs(other - first).mean()


def test_parts_do_not_depend_on_how_they_are_asked_for(tiny):
    whole = take(tiny).add(TALK[:400])
    parts = take(tiny)
    pieces = [parts.add(TALK[start:stop]) for start, stop in ((0, 4), (4, 160), (160, 400))]
    for some, all_ in zip(map(np.concatenate, zip(*pieces, strict=True)), whole, strict=True):
        np.testing.assert_allclose(some, all_, atol=1e-6)


def test_people_blink_as_they_do_and_shut_their_eyes(tiny):
    rates = []
    for seed in range(8):
        closure = take(tiny, seed).add(TALK)[1]
        starts = blinks(closure)
        rates.append(len(starts) / MINUTES)
        for start in starts[:-1]:
            course = closure[max(start - 3, 0) : start + 12]
            deepest = course.argmax()
            assert course.max() >= FULL_BLINK
            # They close faster than they open.
            assert (course[:deepest] > 0.2).sum() < (course[deepest:] > 0.2).sum()
    assert 10 < np.median(rates) < 30 and np.std(rates) > 2
    assert np.ptp(np.diff(blinks(take(tiny, epsilon=0.0).add(TALK)[1]))) <= 1
    assert not take(tiny, blink=False).add(TALK)[1].any()


def test_eyes_fixate_jump_and_glance_away_where_somebody_pauses(tiny):
    gaze = np.concatenate([take(tiny, seed).add(TALK)[0][:, EYES] for seed in range(6)])
    speed = np.linalg.norm(np.diff(gaze, axis=0), axis=1)
    assert np.median(speed) < 1e-4 < 3e-3 < np.quantile(speed, 0.98)  # still most of the time
    away = np.linalg.norm(gaze, axis=1) > 0.012
    assert 0.01 < away.mean() < 0.2
    pause = (np.tile(TALK, 6) == 0) & (np.arange(len(away)) % 100 < 92)
    assert away[pause].mean() > 1.5 * away[np.arange(len(away)) % 100 < 80].mean()
    free = take(tiny, gaze="free").add(TALK)[0][:, EYES]
    assert free.std() > 2 * gaze.std() and not take(tiny, gaze="fixed").add(TALK)[0][:, EYES].any()


def test_eyes_stay_on_the_viewer_when_the_head_turns(tiny, source):
    yaw, pitch = np.radians(8), np.radians(6)
    pose = np.zeros((2, 6), np.float32)
    pose[1, :2] = yaw, pitch
    turned = on_viewer(np.zeros((2, len(COORDINATES)), np.float32), pose, 0.1)
    np.testing.assert_allclose(turned[1, EYES], [-0.1 * np.sin(yaw), 0.1 * np.sin(pitch)], atol=1e-6)
    # In the picture the irises stay behind: the nose goes to the right and up, the pupils do so less.
    face = UpperFace(tiny.upper_face_space, tiny.face_model, source)
    shape = tiny.face_model.move(source.fit.shape, face.change(turned))
    moved = (shape[1] - shape[0])[[RIGHT_IRIS, LEFT_IRIS]].mean(0)
    assert moved[0] < -0.008 and moved[1] > 0.006


def test_irises_stay_in_the_eyes_and_brows_off_the_lids(tiny, source):
    face = UpperFace(tiny.upper_face_space, tiny.face_model, source)
    wild = np.zeros((4, len(COORDINATES)), np.float32)
    wild[0, EYES], wild[1, EYES] = (0.5, 0.5), (-0.5, -0.5)
    wild[2, BROWS], wild[3, BROWS] = -0.5, 0.5
    assert np.abs(face.gaze(wild)).max() < 0.15
    assert np.abs(tiny.face_model.move(source.fit.shape, face.change(wild)) - source.fit.shape).max() < 0.2
    lids = np.zeros((3, len(COORDINATES)), np.float32)
    lids[:, LIDS] = 0.3, -5, 5
    closure = face.closure(lids, np.array([1.0, 0, 0], np.float32))
    assert closure[0] == 1 and -0.2 <= closure[1] < 0 and 0.3 < closure[2] < 0.5


def test_off_is_as_the_portrait(tiny, source, voice):
    off = tiny.sample_motion(voice, seed=SEED, upper_face=0, gaze="fixed", blink=False)
    assert off.upper_face is None and not off.blink.any()
    zeros = replace(off, upper_face=np.zeros((1, voice.num_frames, len(COORDINATES)), np.float32))
    chunks = [(0, 4)]
    still, same = (next(tiny.render(source, motion, chunks=chunks)) for motion in (off, zeros))
    assert np.array_equal(still, same)
    on = tiny.sample_motion(voice, seed=SEED)
    assert np.array_equal(on.head_pose, off.head_pose)
    moved = [next(tiny.render(source, motion, chunks=[(60, 64)])) for motion in (off, on)]
    assert (moved[0] != moved[1]).any()


def test_models_without_the_space_load_and_blink(tiny_folder, tmp_path, voice):
    pipe = OSMNetPipeline.from_pretrained(tiny_folder)
    pipe.upper_face_space = None
    pipe.save_pretrained(tmp_path / "old")
    assert not (tmp_path / "old" / "upper_face_space").exists()
    old = OSMNetPipeline.from_pretrained(tmp_path / "old")
    motion = old.sample_motion(voice, seed=SEED, upper_face=1.0)
    assert motion.upper_face is None and motion.blink.max() > FULL_BLINK - 0.01
