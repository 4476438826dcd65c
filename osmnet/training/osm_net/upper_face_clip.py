"""Brows, lids and gaze of a clip, and the habits of eyes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import gaussian_filter1d, median_filter

from osmnet.data.dataset import Clip
from osmnet.face.morphable import FaceModel
from osmnet.face.upper_face import EXPRESSION, EYES, LIDS, awake, find_blinks, measure
from osmnet.media.audio import FPS
from osmnet.media.features import speech_activity
from osmnet.pipelines.osm_net.upper_face import HOLD
from osmnet.training.osm_net.pose_clip import unbroken_starts

SMOOTHING = 1.2  # frames; brows jitter more than heads
STRETCH = 4 * FPS  # frames
GLANCE = 0.015  # head units from the usual gaze, about 8°; beyond it somebody looks away
SHORTEST, LONGEST = 5, 3 * FPS  # frames of a glance: shorter is noise, longer is somebody who looks elsewhere
NOISY_GAZE = 0.004  # head units; clips with more noise of the irises tell nothing of saccades
BEFORE, AFTER = 5, 9  # frames around the bottom of a blink


class UpperFaceClip:
    """Upper face of a clip, in stretches without a cut.

    Args:
        clip (`Clip`): A prepared clip.
        face_model (`FaceModel`): The linear face model.
        length (`int`): Frames of a stretch.
    """

    def __init__(self, clip: Clip, face_model: FaceModel, length: int):
        fit = clip.fit(face_model)
        self.name, self.speaker, self.length = clip.name, clip.speaker, length
        self.head_pose = fit.head_pose
        coordinates = measure(fit.shape)
        self.lids = 1 - coordinates[:, LIDS]  # with blinks; 1 is open
        self.awake = awake(self.lids)
        self.seconds = len(coordinates) / FPS
        # Brows and gaze jump when eyes close, and blinks are drawn on their own.
        steady = coordinates.copy()
        if self.awake.any():
            frames = np.arange(len(steady))
            for column in steady.T:
                column[:] = np.interp(frames, frames[self.awake], column[self.awake])
        self.gaze = median_filter(steady[:, EYES], (3, 1))
        self.gaze_noise = float(np.median(np.abs(np.diff(steady[:, EYES.start], 2))) / 0.6745 / np.sqrt(6))
        self.track = gaussian_filter1d(steady[:, : len(EXPRESSION)], SMOOTHING, axis=0, mode="nearest")
        self.activity = speech_activity(clip.speech())[: len(self.track)] if clip.has_speech else None
        self.starts = unbroken_starts(self.head_pose, length) if self.awake.mean() > 0.5 else np.zeros(0, int)

    def clips(self, index: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Return stretches relative to their first frame, `(clips, length, 6)` float32."""
        clips = self.track[self.starts[index][:, None] + np.arange(self.length)]
        return (clips - clips[:, :1]).astype(np.float32)

    def spread(self) -> np.ndarray:
        """Return the standard deviation of brows and lids in stretches of four seconds, `(n, 6)`."""
        count = len(self.track) // STRETCH
        return self.track[: count * STRETCH].reshape(count, STRETCH, len(EXPRESSION)).std(1)


def measure_habits(clips: Sequence[UpperFaceClip]) -> dict[str, float]:
    """Measure how eyes blink, fixate and glance; see `EYES` of the upper-face space.

    Args:
        clips (sequence of `UpperFaceClip`): Clips of many people.

    Returns:
        `dict[str, float]`: What the clips tell; few of them tell nothing.
    """
    clear = [clip for clip in clips if clip.gaze_noise < NOISY_GAZE and clip.awake.sum() > STRETCH // 2]
    return _blinks(clips) | (_glances(clear) if len(clear) > 2 else {})


def _blinks(clips: Sequence[UpperFaceClip]) -> dict[str, float]:
    counts: dict[str, list[float]] = {}
    pauses, courses = [], []
    for clip in clips:
        found = find_blinks(clip.lids)
        count = counts.setdefault(clip.speaker, [0.0, 0.0])
        count[0], count[1] = count[0] + len(found), count[1] + clip.seconds
        pauses += np.diff(found).tolist()
        courses += [
            clip.lids[at - BEFORE : at + AFTER]
            for at in found
            if at >= BEFORE and at + AFTER <= len(clip.lids) and clip.lids[at] < 0.35
        ]
    known = [(number, seconds) for number, seconds in counts.values() if seconds >= 8]
    if len(courses) < 8 or len(known) < 4:
        return {}
    # Half a blink more, so that people without one have a rate.
    rates = np.array([(number + 0.5) / seconds for number, seconds in known])
    counting = np.mean([1 / (number + 0.5) for number, _ in known])  # variance of a counted logarithm
    course = np.median(courses, 0)
    closed = (course.max() - course) / np.ptp(course)
    # Where half is shut; the curves of `_Blinks` are there at 0.5 and 0.242 of their durations. The deepest frame
    # comes half a frame after the lids meet, on average.
    closing = BEFORE - 0.5 - float(np.interp(0.5, closed[: BEFORE + 1], np.arange(BEFORE + 1)))
    opening = float(np.interp(-0.5, -np.minimum.accumulate(closed[BEFORE:]), np.arange(AFTER))) - HOLD / 2
    return {
        "blink_rate": float(np.sum([n for n, _ in known]) / np.sum([s for _, s in known])),
        "blink_rate_spread": float(np.clip(np.sqrt(max(np.log(rates).var() - counting, 0)), 0.2, 0.5)),
        "blink_spread": float(np.std(np.log(pauses))) if len(pauses) > 8 else 0.6,
        "blink_closing": float(np.clip(closing / 0.5, 1.5, 4)) / FPS,
        "blink_opening": float(np.clip(opening / 0.242, 4, 12)) / FPS,
    }


def _glances(clips: Sequence[UpperFaceClip]) -> dict[str, float]:
    places, durations, reaches, seconds = [], [], [], 0.0
    for clip in clips:
        # Without what goes with the head: people differ in how far their eyes make its turns good.
        turns = np.column_stack([np.sin(clip.head_pose[:, :2]), np.ones(len(clip.gaze))])
        shares = np.linalg.lstsq(turns[clip.awake], clip.gaze[clip.awake], rcond=None)[0]
        place = clip.gaze - turns @ shares
        place = place - np.median(place[clip.awake], 0)
        away = (np.linalg.norm(place, axis=1) > GLANCE) & clip.awake
        edges = np.diff(np.concatenate([[0], away, [0]]).astype(int))
        for start, stop in zip(np.flatnonzero(edges == 1), np.flatnonzero(edges == -1), strict=True):
            if SHORTEST <= stop - start <= LONGEST:
                durations.append((stop - start) / FPS)
                reaches.append(np.linalg.norm(place[start:stop], axis=1).mean())
        places.append(place[clip.awake & ~away])
        seconds += clip.awake.sum() / FPS
    # From the median distance, because the distribution has long tails.
    right, down = np.median(np.abs(np.concatenate(places)), 0) / 0.6745
    habits = {"fixation_right": float(right), "fixation_down": float(down)}
    if len(durations) >= 8:
        habits |= {
            "glance_rate": float(len(durations) / seconds),
            "glance": float(np.median(durations)),
            "glance_spread": float(np.clip(np.std(np.log(durations)), 0.2, 0.8)),
            "glance_reach": float(np.median(reaches)),
            "glance_reach_spread": float(np.clip(np.std(np.log(reaches)), 0.1, 0.5)),
        }
    return habits
