"""Whether the lips of a face say what is heard, and how late or early the picture is.

The lips that are seen are compared with those that a trained expression extractor expects from the sound, at every
shift of some frames. Where they belong together the correlation has one sharp peak, at the shift.
"""

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
from osmnet.models.osm_net.expression import ExpressionExtractor
from osmnet.models.osm_net.speech_encoder import SpeechEncoder

MAX_OFFSET = 8  # frames; a larger offset is not looked for
LAGS = np.arange(-MAX_OFFSET - 4, MAX_OFFSET + 5)  # some more, so that a peak is seen from both sides
MEASURES = np.array([0.5, 0.25, 0.25])  # weights of the opening of the mouth, its width, and the jaw
DRIFT = 8.0  # frames: what changes slower is a pose or a mood, not a syllable
# How high the peak must be, times the square root of the frames compared. Of 1,500 pairs of a clip with another clip's
# sound (1.6 to 12 s) three in a hundred reach 4, whatever their length.
LEAST_PEAK = 4.5
PEAK_WIDTH = 3  # frames to either side that belong to the peak
LEAST_CONTRAST = 0.65  # the correlation away from the peak is at most this part of it
LEAST_IN_PLACE = 2.5  # as LEAST_PEAK, but for a peak at no offset, which is the commonest
LEAST_HERE = 1.0  # as LEAST_PEAK, for one stretch of a video whose stretches agree as a whole
LONG = 75  # frames: a stretch this long has to agree by itself


@dataclass(frozen=True)
class Agreement:
    """How sound and lips go together.

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
        """Frames by which the picture is late (negative: early), if the two belong together."""
        inner = slice(4, len(LAGS) - 4)
        return int(LAGS[inner][np.argmax(self.curve[inner])])

    @property
    def peak(self) -> float:
        """The correlation at that offset."""
        return self.at(self.offset)

    @property
    def is_decisive(self) -> bool:
        """Whether the peak is one: high for the length of the clip, and well above what lies around it."""
        away = np.abs(LAGS - self.offset) > PEAK_WIDTH
        stands_out = float(self.curve[away].max()) < LEAST_CONTRAST * self.peak
        return self.strength >= LEAST_PEAK and stands_out

    @property
    def is_plausible(self) -> bool:
        """Whether it is decisive, or less but with a peak where most have it: at no offset."""
        return self.is_decisive or (abs(self.offset) <= 1 and self.strength >= LEAST_IN_PLACE)

    @property
    def strength(self) -> float:
        """The peak, times the square root of the frames: comparable between clips of different length."""
        return self.peak * float(np.sqrt(self.frames))

    def at(self, offset: int) -> float:
        """The correlation at an offset."""
        return float(self.curve[offset - LAGS[0]])


@dataclass(frozen=True)
class Verdict:
    """What becomes of the sound of a stretch.

    Attributes:
        speech (`bool`): Whether the lips seen speak it.
        av_offset (`int`): Frames by which the picture is late; the sound is moved by them.
        correlation (`float`, *optional*): Of lips and sound, so moved.
        note (`str`): Why there is no speech.
    """

    speech: bool
    av_offset: int = 0
    correlation: float | None = None
    note: str = ""


def judge(own: Agreement, whole: Agreement) -> Verdict:
    """Decide about one stretch of a video.

    The video's own offset is taken, unless this stretch is decisive by itself and differs. Where neither is decisive
    (too short, too few words), lips and sound are taken to fit as they are if the video's peak lies within a frame of
    that.

    Args:
        own (`Agreement`): Of this stretch.
        whole (`Agreement`): Of all stretches, see `pooled`.

    Returns:
        `Verdict`: With a note if it is no.
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
    """What several stretches of one recording say together, by their lengths."""
    frames = [each.frames for each in agreements]
    return Agreement(sum(frames), np.average([each.curve for each in agreements], axis=0, weights=frames))


class LipReader:
    """Compares lips with sound.

    Args:
        face_model (`FaceModel`): The linear face model that `extractor` was trained with.
        extractor (`ExpressionExtractor`): Says what lips do from sound.
        speech_encoder (`SpeechEncoder`, *optional*): What it listens to, if it does.
    """

    def __init__(
        self, face_model: FaceModel, extractor: ExpressionExtractor, speech_encoder: SpeechEncoder | None = None
    ):
        self.face_model, self.extractor, self.speech_encoder = face_model, extractor, speech_encoder

    @classmethod
    @lru_cache(maxsize=1)
    def load(cls, model: Path) -> "LipReader":
        """Load from a model folder, or from the package if the folder has no expression extractor yet."""
        if not (model / "expression_extractor").is_dir():
            model = packaged_weights()
        face_model = FaceModel.from_pretrained(model / "face_model")
        extractor = ExpressionExtractor.from_pretrained(model / "expression_extractor")
        encoder = SpeechEncoder.from_pretrained(model / "speech_encoder") if extractor.config.speech_dim else None
        return cls(face_model, extractor, encoder)

    def words_of(self, sound: np.ndarray) -> Callable[[int, int], np.ndarray] | None:
        """What is said in a recording `(samples,)` from one frame to before another; None if it is not listened to."""
        return None if self.speech_encoder is None else partial(self.speech_encoder.encode, sound)

    def compare(
        self,
        landmarks_px: np.ndarray,
        size: int,
        mel_windows: np.ndarray,
        words: Callable[[int, int], np.ndarray] | None,
        first: int,
    ) -> Agreement:
        """Compare the lips of a run with the sound of its video at every lag.

        Args:
            landmarks_px (`np.ndarray` of shape `(frames, 478, 3)`): Vertices in pixels.
            size (`int`): Side of the picture in pixels.
            mel_windows (`np.ndarray` of shape `(all_frames, 16, 16)`): Sound of the whole video.
            words (`Callable`, *optional*): `words_of` that sound.
            first (`int`): The run's first frame in the video.

        Returns:
            `Agreement`: Correlations of what is seen with what the sound lets expect.
        """
        fit = self.face_model.fit_track(landmarks_px, size)
        begin, end = max(first + LAGS[0], 0), min(first + len(landmarks_px) + LAGS[-1], len(mel_windows))
        curve = np.zeros(len(LAGS))
        if end - begin < 2:
            return Agreement(len(landmarks_px), curve)
        expression = self.extractor.extract(mel_windows, fit.identity, begin, end, words)
        offset = self.face_model.expression_offset(torch.from_numpy(expression)).numpy()
        seen, expected = _lip_motion(fit.shape), _lip_motion(fit.shape.mean(0) + offset)
        for k, lag in enumerate(LAGS):
            index = first + np.arange(len(seen)) - lag - begin
            inside = (index >= 0) & (index < len(expected))
            if inside.sum() > len(seen) // 2:
                curve[k] = _correlation(seen[inside], expected[index[inside]]) @ MEASURES
        return Agreement(len(seen), curve)


def _lip_motion(shape: np.ndarray) -> np.ndarray:
    """Opening and width of the mouth and height of the jaw without slow drift: `(frames, 478, 3)` to `(frames, 3)`."""
    jaw = np.linalg.norm(shape[:, CHIN] - shape[:, NOSE].mean(1), axis=-1)
    motion = np.stack([mouth_opening(shape), mouth_width(shape), jaw], axis=1)
    return motion - gaussian_filter1d(motion, DRIFT, axis=0, mode="nearest")


def _correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a - a.mean(0), b - b.mean(0)
    return (a * b).sum(0) / np.sqrt((a * a).sum(0) * (b * b).sum(0) + 1e-12)
