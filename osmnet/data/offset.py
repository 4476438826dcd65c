"""Measure audio-video offset: correlate tracked lips with lips predicted from sound."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d

from osmnet.face.morphable import FaceModel
from osmnet.face.topology import CHIN, NOSE, mouth_opening, mouth_width
from osmnet.loading.packaged import packaged_weights
from osmnet.media.features import mel_windows, speech_activity
from osmnet.models.osm_net.expression import ExpressionExtractor
from osmnet.models.osm_net.speech_encoder import SpeechEncoder

MAX_OFFSET = 8  # frames; larger offsets are not searched
LAGS = np.arange(-MAX_OFFSET - 4, MAX_OFFSET + 5)  # frames; beyond the offsets, to see both sides of a peak
MEASURES = np.array([0.5, 0.25, 0.25])  # weights of the opening of the mouth, its width, and the jaw
DRIFT = 8.0  # frames; slower changes are not syllables
# Correlation × √frames. Of 1,500 clips paired with another clip's sound (1.6 to 12 s) 3 % reach 4, at any length.
LEAST_PEAK = 4.5
PEAK_WIDTH = 3  # frames to either side that belong to the peak
LEAST_CONTRAST = 0.65  # of the peak: largest correlation away from it
LEAST_IN_PLACE = 2.5  # as LEAST_PEAK, for a peak at no offset, the most frequent one
LEAST_HERE = 1.0  # as LEAST_PEAK, for one stretch of a video whose stretches agree as a whole
LONG = 75  # frames; a stretch of this length has to agree by itself


@dataclass(frozen=True)
class Agreement:
    """Correlation of lips and sound by lag.

    Attributes:
        frames (`int`): Frames compared.
        curve (`np.ndarray` of shape `(25,)`): Correlation at each of `LAGS`.
    """

    frames: int
    curve: np.ndarray

    def __len__(self) -> int:
        return self.frames

    @property
    def offset(self) -> int:
        """Frames by which the picture is late (negative: early)."""
        inner = slice(4, len(LAGS) - 4)
        return int(LAGS[inner][np.argmax(self.curve[inner])])

    @property
    def peak(self) -> float:
        """Correlation at the offset."""
        return self.at(self.offset)

    @property
    def is_decisive(self) -> bool:
        """Whether the peak is high for this length, and sharp."""
        away = np.abs(LAGS - self.offset) > PEAK_WIDTH
        stands_out = float(self.curve[away].max()) < LEAST_CONTRAST * self.peak
        return self.strength >= LEAST_PEAK and stands_out

    @property
    def is_plausible(self) -> bool:
        """Whether it is decisive, or has a lower peak near zero lag."""
        return self.is_decisive or (abs(self.offset) <= 1 and self.strength >= LEAST_IN_PLACE)

    @property
    def strength(self) -> float:
        """Peak times √frames, comparable across lengths."""
        return self.peak * float(np.sqrt(self.frames))

    def at(self, offset: int) -> float:
        """Return the correlation at an offset."""
        return float(self.curve[offset - LAGS[0]])


@dataclass(frozen=True)
class Verdict:
    """Whether a stretch has speech, and its offset.

    Attributes:
        speech (`bool`): Whether the lips follow it.
        av_offset (`int`): Frames by which the picture is late; the sound is shifted by them.
        correlation (`float`, *optional*): Of lips and shifted sound.
        note (`str`): Reason if there is no speech.
    """

    speech: bool
    av_offset: int = 0
    correlation: float | None = None
    note: str = ""


def decide(own: Agreement, whole: Agreement) -> Verdict:
    """Decide whether a stretch has speech, and at which offset.

    A decisive offset of its own wins over the video's. If neither is decisive, a peak of the video near zero counts as
    zero offset.

    Args:
        own (`Agreement`): Of this stretch.
        whole (`Agreement`): Of all stretches, see `pooled`.

    Returns:
        `Verdict`: With a note if there is no speech.
    """
    if own.is_decisive and (not whole.is_decisive or abs(own.offset - whole.offset) > 1):
        return Verdict(True, own.offset, own.peak)
    if whole.is_decisive:
        near = max(own.at(whole.offset + k) for k in (-1, 0, 1))
        if len(own) < LONG or near * np.sqrt(len(own)) >= LEAST_HERE:
            return Verdict(True, whole.offset, own.at(whole.offset))
        return Verdict(False, 0, own.at(whole.offset), "here the lips do not follow the sound (another speaker?)")
    if whole.is_plausible:
        return Verdict(True, 0, own.at(0))
    reason = "too short to tell; or dubbed" if len(whole) < LONG else "dubbed"
    return Verdict(False, 0, own.at(0), f"the lips do not follow the sound ({reason}, or another speaker)")


def pooled(agreements: Sequence[Agreement]) -> Agreement:
    """Average agreements, weighted by length."""
    frames = [each.frames for each in agreements]
    return Agreement(sum(frames), np.average([each.curve for each in agreements], axis=0, weights=frames))


class LipReader:
    """Compares the lips of a video with its sound.

    Args:
        face_model (`FaceModel`): The linear face model that `extractor` was trained with.
        extractor (`ExpressionExtractor`): Predicts lips from sound.
        speech_encoder (`SpeechEncoder`, *optional*): Encodes the speech for an extractor that uses one.
    """

    def __init__(
        self, face_model: FaceModel, extractor: ExpressionExtractor, speech_encoder: SpeechEncoder | None = None
    ):
        self.face_model, self.extractor, self.speech_encoder = face_model, extractor, speech_encoder

    @classmethod
    @lru_cache(maxsize=1)
    def load(cls, model: Path) -> "LipReader":
        """Load from a model folder; the packaged weights replace a missing extractor."""
        if not (model / "expression_extractor").is_dir():
            model = packaged_weights()
        face_model = FaceModel.from_pretrained(model / "face_model")
        extractor = ExpressionExtractor.from_pretrained(model / "expression_extractor")
        encoder = SpeechEncoder.from_pretrained(model / "speech_encoder") if extractor.config.speech_dim else None
        return cls(face_model, extractor, encoder)

    def listen(self, waveform: np.ndarray) -> "Listener":
        """Prepare the sound of a whole video, `(samples,)`, 16 kHz mono."""
        features = None if self.speech_encoder is None else partial(self.speech_encoder.encode, waveform)
        return Listener(self, mel_windows(waveform), speech_activity(waveform), features)


@dataclass(frozen=True)
class Listener:
    """Compares the faces of a video with its sound.

    Attributes:
        reader (`LipReader`): Predicts the lips.
        windows (`np.ndarray` of shape `(frames, 16, 16)`): Mel windows of the sound.
        activity (`np.ndarray` of shape `(frames,)`): Its `speech_activity`.
        features (`Callable`, *optional*): Reads speech features of a range of frames.
    """

    reader: LipReader
    windows: np.ndarray
    activity: np.ndarray
    features: Callable[[int, int], np.ndarray] | None

    def compare(self, landmarks_px: np.ndarray, size: int, first: int) -> Agreement:
        """Correlate lips and sound at every lag.

        Args:
            landmarks_px (`np.ndarray` of shape `(frames, 478, 3)`): Vertices in pixels.
            size (`int`): Side of the picture in pixels.
            first (`int`): First of these frames.

        Returns:
            `Agreement`: Correlations of the lips with those predicted.
        """
        # 1. Fit the face, and take the frames that any lag needs.
        face_model, extractor = self.reader.face_model, self.reader.extractor
        fit = face_model.fit_track(landmarks_px, size)
        begin, end = max(first + LAGS[0], 0), min(first + len(landmarks_px) + LAGS[-1], len(self.windows))
        curve = np.zeros(len(LAGS))
        if end - begin < 2:
            return Agreement(len(landmarks_px), curve)
        # 2. Predict the lips from the sound.
        expression = extractor.extract(self.windows, fit.identity, begin, end, self.features)
        offset = face_model.expression_offset(torch.from_numpy(expression)).numpy()
        seen, predicted = _lip_motion(fit.shape), _lip_motion(fit.shape.mean(0) + offset)  # (frames, 3)
        # 3. Correlate at each lag.
        for k, lag in enumerate(LAGS):
            index = first + np.arange(len(seen)) - lag - begin
            inside = (index >= 0) & (index < len(predicted))
            if inside.sum() > len(seen) // 2:
                curve[k] = _correlation(seen[inside], predicted[index[inside]]) @ MEASURES
        return Agreement(len(seen), curve)


def _lip_motion(shape: np.ndarray) -> np.ndarray:
    """Measure mouth opening, mouth width and jaw height, `(frames, 3)`, without drift."""
    jaw = np.linalg.norm(shape[:, CHIN] - shape[:, NOSE].mean(1), axis=-1)
    motion = np.stack([mouth_opening(shape), mouth_width(shape), jaw], axis=1)
    return motion - gaussian_filter1d(motion, DRIFT, axis=0, mode="nearest")


def _correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a - a.mean(0), b - b.mean(0)
    return (a * b).sum(0) / np.sqrt((a * a).sum(0) * (b * b).sum(0) + 1e-12)
