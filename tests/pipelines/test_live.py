"""Live speech: the same frames in whatever chunks the sound comes, as soon as stated, in constant memory."""

import re
import threading
from collections import deque

import numpy as np
import pytest
import soxr
import torch

from osmnet.face.topology import mouth_opening
from osmnet.media.audio import load_speech
from osmnet.media.features import mel_windows, speech_activity
from osmnet.media.listener import Listener, resampling_delay
from osmnet.models.osm_net.motion_codec import compose_clips
from osmnet.pipelines.options import MotionOptions
from osmnet.pipelines.osm_net.head_motion import MAX_MOTION, PULL, SMOOTHING
from osmnet.pipelines.osm_net.live import LiveSession
from osmnet.pipelines.osm_net.live_motion import LiveMotion, LiveUpperFace
from osmnet.pipelines.osm_net.pipeline_osm_net import OSMNetPipeline
from osmnet.pipelines.osm_net.upper_face import UpperFaceTake
from tests.support.dummies import SAMPLING_RATE, SEED, portrait, speech

SIDE = 64


def seeded(seed=SEED):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def source(tiny):
    return tiny.encode_source(portrait(), size=SIDE)


class NoPictures:
    """Draws grey frames: what is fed may be long."""

    context = 2

    def __init__(self, source):
        self.source = source
        self.closing = np.zeros(64, np.float32)

    def render_chunk(self, head_pose, expression):
        assert len(head_pose) == len(expression)
        return np.full((len(head_pose) - 2 * self.context, *self.source.frame_size, 3), 90, np.uint8)


def fed(session, sound, size, sampling_rate=SAMPLING_RATE):
    """All frames, poses and expressions of a sound that comes in chunks of one size."""
    chunks = [sound[start : start + size] for start in range(0, len(sound), size)]
    results = []
    for chunk in [*chunks, None]:
        frames = session.finish() if chunk is None else session.feed(chunk, sampling_rate)
        results.append((frames, session.head_pose, session.expression))
        assert len(session.head_pose) == len(session.expression) == len(frames)
    return [np.concatenate(part) for part in zip(*results, strict=True)]


# Chunks and moments


@pytest.mark.integration
def test_the_chunks_do_not_matter(tiny, source):
    sound = speech(0.6)
    whole = fed(tiny.live(source, generator=seeded()), sound, len(sound))
    assert whole[0].shape == (15, SIDE, SIDE, 3) and whole[0].dtype == np.uint8
    assert (whole[0][3] != whole[0][12]).any()
    for size in (1, 1600):
        for some, all_ in zip(fed(tiny.live(source, generator=seeded()), sound, size), whole, strict=True):
            np.testing.assert_array_equal(some, all_)
    other = fed(tiny.live(source, generator=seeded(8)), sound, 1600)
    assert (other[1][10] != whole[1][10]).all()


@pytest.mark.parametrize(("rate", "block", "lookahead"), [(16_000, 2, 4), (16_000, 3, 0), (48_000, 1, 5)])
def test_a_frame_comes_when_the_latency_is_over_and_no_later(tiny, source, rate, block, lookahead):
    session = LiveSession(tiny, NoPictures(source), seed=SEED, block=block, lookahead=lookahead, sampling_rate=rate)
    assert session.latency == pytest.approx((block + lookahead) / 25 + 0.0075 + resampling_delay(rate))
    sound, step, waits = soxr.resample(speech(1.5), SAMPLING_RATE, rate), rate // 1000, []
    for given in range(step, len(sound), step):
        before = session.num_frames
        session.feed(sound[given - step : given])
        waits += [given / rate - frame / 25 for frame in range(before, session.num_frames)]
    # The first frame of each block waits longest: as long as stated, but for the 1 ms chunks and the resampler's own
    # blocks, which are not always full.
    assert max(waits) <= session.latency + 1e-3
    assert max(waits) > session.latency - 2e-3 - resampling_delay(rate)
    assert session.num_frames == len(waits) > 25


@pytest.mark.integration
def test_any_rate_and_type_and_channels(tiny, source):
    sound = speech(1.0)
    [_, _, expected] = fed(LiveSession(tiny, NoPictures(source), seed=SEED), sound, 999)
    faster = soxr.resample(sound, SAMPLING_RATE, 44_100)
    stereo = np.stack([faster, faster], 1)
    for array in (faster, stereo, (faster * 32767).astype(np.int16), (stereo * 2**31).astype(np.int32)):
        [frames, _, expression] = fed(LiveSession(tiny, NoPictures(source), seed=SEED), array, 999, 44_100)
        assert len(frames) == 25
        np.testing.assert_allclose(expression, expected, atol=0.05)


def test_frames_cover_the_sound_and_none_come_without(tiny, source):
    for seconds, frames in ((0.0, 0), (0.01, 1), (0.2, 5), (0.21, 6)):
        session = LiveSession(tiny, NoPictures(source), seed=SEED, sampling_rate=SAMPLING_RATE)
        got = len(session.feed(speech(1.0)[: round(seconds * SAMPLING_RATE)])) + len(session.finish())
        assert got == session.num_frames == frames


# What the face does


@pytest.fixture(scope="module")
def trained():
    return OSMNetPipeline.from_pretrained()


@pytest.fixture(scope="module")
def shown(trained):
    return trained.encode_source(portrait(), size=SIDE)


def opening(trained, shown, expression):
    return mouth_opening(trained.face_model.move(shown.fit.shape, expression - shown.fit.expression))


@pytest.mark.integration
def test_the_mouth_moves_as_with_the_whole_recording(trained, shown, repository):
    sound = load_speech(repository / "examples" / "speech_1.wav")
    whole = opening(trained, shown, trained.extract_expression(shown, trained.encode_speech(sound, SAMPLING_RATE)))
    [_, _, expression] = fed(LiveSession(trained, NoPictures(shown), seed=SEED), sound, 1600)
    live = opening(trained, shown, expression)
    assert len(live) == len(whole)
    assert np.corrcoef(live, whole)[0, 1] > 0.95
    assert 0.8 < live.std() / whole.std() < 1.25
    # The first words move the lips already, from a microphone that is 30 dB quieter as well.
    quiet = opening(
        trained, shown, fed(LiveSession(trained, NoPictures(shown), seed=SEED), 0.03 * sound[:32_000], 1600)[2]
    )
    for start in (live[:50], quiet[:50]):
        assert np.corrcoef(start, whole[:50])[0, 1] > 0.75
        assert 0.5 < start.std() / whole[:50].std() < 1.5


@pytest.mark.integration
def test_silence_and_the_noise_of_a_room_leave_the_mouth_shut(trained, shown, repository):
    sound = load_speech(repository / "examples" / "speech_1.wav")[:48_000]
    noise = 0.003 * np.random.default_rng(0).standard_normal(32_000).astype(np.float32)
    for pause in (0 * noise, noise):
        heard = np.concatenate([pause, sound, pause])
        heard = heard + np.resize(pause, len(heard))
        [_, _, expression] = fed(LiveSession(trained, NoPictures(shown), seed=SEED), heard, 1600)
        mouth = opening(trained, shown, expression)
        before, talking, after = mouth[5:40], mouth[50:125], mouth[-30:]
        assert talking.max() > 4 * max(before.max(), after.max())
        assert talking.std() > 4 * max(before.std(), after.std())


@pytest.mark.integration
def test_the_head_moves_as_much_as_offline(trained, shown):
    sound = speech(6.0)
    offline = trained.sample_motion(trained.encode_speech(sound, SAMPLING_RATE), num_videos=24, generator=seeded())
    takes = [fed(LiveSession(trained, NoPictures(shown), seed=seed, block=15), sound, 8000)[1] for seed in range(6)]
    live = np.stack(takes) - shown.fit.head_pose
    assert (live[:, 0] == 0).all()
    for statistic in (np.std, lambda pose, axis: np.abs(np.diff(pose, axis=axis)).mean(axis)):
        ratio = statistic(live, axis=1).mean(0) / statistic(offline.head_pose, axis=1).mean(0)
        assert (ratio > 0.5).all() and (ratio < 2).all()


def test_still_and_scale(tiny, source):
    def session(**options):
        return LiveSession(tiny, NoPictures(source), seed=SEED, options=MotionOptions(**options))

    sound = speech(1.0)
    [_, still, _] = fed(
        LiveSession(tiny, NoPictures(source), seed=SEED, options=MotionOptions(still=True)), sound, 4000
    )
    np.testing.assert_array_equal(still, np.tile(source.fit.head_pose, (25, 1)))
    [_, once, _] = fed(
        LiveSession(tiny, NoPictures(source), seed=SEED, options=MotionOptions(motion_scale=0.5)), sound, 4000
    )
    [_, twice, _] = fed(
        LiveSession(tiny, NoPictures(source), seed=SEED, options=MotionOptions(motion_scale=1.0)), sound, 4000
    )
    np.testing.assert_allclose(2 * (once - source.fit.head_pose), twice - source.fit.head_pose, atol=1e-5)
    [_, _, silent] = fed(
        LiveSession(tiny, NoPictures(source), seed=SEED, options=MotionOptions(expression_scale=0.0)), sound, 4000
    )
    assert np.ptp(silent, axis=0).max() < 1e-5


@pytest.mark.parametrize("lookahead", [0, 3, 8])
def test_the_upper_face_is_that_of_the_recording(tiny, lookahead):
    activity = (np.arange(120) % 50 < 35).astype(np.float32)
    coordinates, blink = UpperFaceTake(tiny.upper_face_space, (SEED,), MotionOptions()).add(activity)
    live, rows = LiveUpperFace(UpperFaceTake(tiny.upper_face_space, (SEED,), MotionOptions())), []
    for begin in range(0, 110, 2):
        known = begin + 2 + lookahead
        shown, lids = live.frames(begin, begin + 2, known, lambda frame, known=known: activity[frame:known])
        rows.append((shown[:2], lids[:2]))
    shown, lids = (np.concatenate(part) for part in zip(*rows, strict=True))
    np.testing.assert_array_equal(lids, blink[:110])
    # Without lookahead a clip of four frames is sampled before all of its sound is there.
    same = 110 if lookahead else 32
    np.testing.assert_allclose(shown[:same], coordinates[:same], atol=1e-6)


def test_brows_and_gaze_move_in_a_live_take(tiny, source):
    def session(**options):
        live = LiveSession(tiny, NoPictures(source), seed=SEED, options=MotionOptions(blink=False, **options))
        driven, draw = [], live._renderer.render_chunk
        live._renderer.render_chunk = lambda pose, beta: driven.append(beta[2:4]) or draw(pose, beta)
        fed(live, speech(2.0), 4000)
        return np.concatenate(driven)

    plain = session(upper_face=0.0, gaze="fixed")
    for options in ({"upper_face": 1.0, "gaze": "fixed"}, {"upper_face": 0.0, "gaze": "viewer"}):
        assert np.abs(session(**options) - plain).max() > 0.05


# The parts


def test_features_equal_those_of_the_recording_but_for_loudness():
    sound = speech(8.0)
    listener = Listener(keep=40)
    listener.push(np.concatenate([sound, np.zeros(640, np.float32)]), SAMPLING_RATE)
    while listener.advance():
        pass
    assert listener.frames == 200
    live, whole = listener.mel_windows(165, 198), mel_windows(sound)[165:198]
    loud = whole > -0.5  # the floor stays where it is
    shift = (live - whole)[loud]
    assert np.ptp(shift) < 0.01 and abs(shift.mean()) < 0.1  # 3 dB
    np.testing.assert_allclose(listener.activity(165)[:33], speech_activity(sound)[165:198], atol=0.1)


def test_the_path_is_that_of_the_composed_clips(tiny):
    """Incremental composition against the whole, without what is steady in the centre."""
    motion = LiveMotion(tiny, seeded(), epsilon=1.0, keep=100)
    clips, windows = [], np.full((5, 16, 16), -1.0, np.float32)

    def remember(clip, activity):
        return np.zeros_like(clip)

    motion._steady.update = remember
    decode = tiny.motion_decoder.forward
    tiny.motion_decoder.forward = lambda feature: clips.append(decode(feature)) or clips[-1]
    try:
        path = []
        for frame in range(40):
            for _ in motion.clips_until(frame):
                motion.add_clip(windows, 0.0)
            path.append(motion.path(frame, frame + 1)[0])
    finally:
        del tiny.motion_decoder.forward
    whole = compose_clips(torch.stack([both[0] for both in clips])[None], PULL, SMOOTHING)[0, :40].numpy()
    limit = np.array(MAX_MOTION)
    np.testing.assert_allclose(np.stack(path), limit * np.tanh(whole / limit), atol=1e-5)


def held(thing):
    """Bytes of all numbers that an object of the session keeps."""
    if isinstance(thing, np.ndarray):
        return thing.nbytes if thing.base is None else held(thing.base)
    if isinstance(thing, torch.Tensor):
        return thing.numel() * thing.element_size()
    if isinstance(thing, deque | list | tuple):
        return sum(held(each) for each in thing)
    if type(thing).__module__.startswith(("osmnet.pipelines.osm_net.live", "osmnet.media.listener")):
        return sum(held(value) for value in vars(thing).values())
    return 0


@pytest.mark.integration
def test_memory_does_not_grow(tiny, source):
    session = LiveSession(tiny, NoPictures(source), seed=SEED, block=25, sampling_rate=SAMPLING_RATE)
    sound, sizes = speech(10.0), []
    for _ in range(18):  # three minutes; nothing looks back further than one
        session.feed(sound)
        sizes.append(held(session))
    assert session.num_frames == 4_475
    assert 100_000 < max(sizes[:6]) < 2_000_000  # the sound that was fed last, and little else
    assert max(sizes) < 1.05 * max(sizes[:6])


# What cannot be used


@pytest.mark.parametrize(
    ("chunk", "message"),
    [
        (np.array([0.1, np.nan], np.float32), "NaN"),
        (np.zeros((2, 2, 2), np.float32), "(samples,)"),
        (np.zeros((5, 0), np.float32), "(samples,)"),
        ([0.0, 0.1], "list"),
        (np.zeros(5, np.complex64), "complex64"),
    ],
)
def test_a_chunk_that_cannot_be_used_is_refused_and_nothing_of_it_heard(tiny, source, chunk, message):
    session = LiveSession(tiny, NoPictures(source), seed=SEED, sampling_rate=SAMPLING_RATE)
    with pytest.raises(ValueError, match=re.escape(message)):
        session.feed(chunk)
    assert len(session.feed(speech(1.0))) == 20


def test_rates_ends_and_ranges(tiny, source):
    session = tiny.live(source)
    with pytest.raises(ValueError, match="sampling_rate="):
        session.feed(speech(0.1))
    with pytest.raises(ValueError, match="from 1000 to"):
        session.feed(speech(0.1), 10)
    session.feed(speech(0.1), SAMPLING_RATE)
    with pytest.raises(ValueError, match="16000 Hz and cannot continue at 48000 Hz"):
        session.feed(speech(0.1), 48_000)
    session.finish()
    for after in (session.finish, lambda: session.feed(speech(0.1))):
        with pytest.raises(ValueError, match="finished"):
            after()
    for argument in ({"lookahead": -1}, {"lookahead": 2.5}, {"block": 0}, {"epsilon": -1}, {"motion_scale": 11}):
        with pytest.raises(ValueError, match=next(iter(argument))):
            tiny.live(source, **argument)
    with pytest.raises(ValueError, match="encoded already"):
        tiny.live(source, size=128)


@pytest.mark.parametrize("second", ["feed", "finish"])
def test_a_second_thread_is_refused_and_the_first_goes_on(tiny, source, monkeypatch, second):
    sound = speech(1.0)
    (alone, *_) = fed(tiny.live(source, seed=SEED), sound, 4000)
    session = tiny.live(source, seed=SEED)
    inside, leave, push = threading.Event(), threading.Event(), Listener.push

    def slow(self, *arguments):
        inside.set()
        assert leave.wait(20)
        push(self, *arguments)

    made = []
    with monkeypatch.context() as patch:
        patch.setattr(Listener, "push", slow)
        first = threading.Thread(target=lambda: made.append(session.feed(sound[:4000], SAMPLING_RATE)))
        first.start()
        assert inside.wait(20)
        with pytest.raises(ValueError, match="Another thread is feeding this session; feed it from one thread"):
            session.feed(sound[:4000], SAMPLING_RATE) if second == "feed" else session.finish()
        leave.set()
        first.join(20)
    made += fed(session, sound[4000:], 4000)[:1]
    assert np.array_equal(np.concatenate(made), alone)
