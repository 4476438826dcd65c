"""Whether a stretch has speech, and at which offset."""

import numpy as np

from osmnet.data.offset import LAGS, Agreement, decide, pooled


def _agreement(peak: float, at: int, frames: int, elsewhere: float = 0.05) -> Agreement:
    curve = np.full(len(LAGS), elsewhere)
    curve[np.abs(LAGS - at) <= 1] = 0.8 * peak
    curve[at - LAGS[0]] = peak
    return Agreement(frames, curve)


def test_the_verdict_weighs_a_stretch_against_its_video():
    sure, weak = _agreement(0.6, -3, 200), _agreement(0.2, 5, 60)
    assert decide(sure, sure).av_offset == -3
    video = pooled([sure, weak])
    assert video.offset == -3 and video.frames == 260
    assert decide(weak, video).speech and decide(weak, video).av_offset == -3  # too short to say otherwise
    dubbed = Agreement(200, np.full(len(LAGS), -0.02))
    assert not decide(dubbed, pooled([sure, sure, sure, dubbed])).speech  # long enough
    assert not decide(dubbed, dubbed).speech and "(dubbed" in decide(dubbed, dubbed).note
    short = Agreement(50, np.full(len(LAGS), -0.02))
    assert not decide(short, short).speech and "too short to tell" in decide(short, short).note
    assert decide(_agreement(0.5, 2, 200), _agreement(0.6, -3, 400)).av_offset == 2  # edited with two offsets
    assert not _agreement(0.5, 0, 200, elsewhere=0.45).is_decisive  # a plain is no peak
    short = _agreement(0.5, 0, 40)
    assert not short.is_decisive and decide(short, short).speech and decide(short, short).av_offset == 0
    assert not decide(_agreement(0.5, 6, 40), _agreement(0.5, 6, 40)).speech
