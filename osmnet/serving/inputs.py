"""`Inputs`: checked and encoded uploads."""

import os
import warnings
import wave
from pathlib import Path
from typing import Any

import numpy as np

from osmnet import OSMNetPipeline
from osmnet.media.audio import SAMPLING_RATE
from osmnet.media.image import LARGEST_MEGAPIXELS, load_portrait
from osmnet.media.isolated import DecodeLimits, IsolatedDecoder
from osmnet.media.recording import Recording
from osmnet.pipelines.options import PictureOptions
from osmnet.pipelines.osm_net.pipeline_osm_net import MAX_PICTURE
from osmnet.serving.cache import EncodedCache, file_digest
from osmnet.serving.settings import Settings
from osmnet.structures import Source, Speech

SURE_SPEECH = 0.5  # of the speech activity's maximum; below it, the recording probably holds no speech
FLOAT_BYTES = 4
DECODERS = 3  # files decoded side by side


class RefusedInputError(ValueError):
    """An unusable input; the message is one sentence.

    Attributes:
        field (`str`): Which input: `"portrait"`, `"speech"`, `"consent"`, `"takes"` or `"basis"`.
    """

    def __init__(self, field: str, sentence: str):
        super().__init__(sentence)
        self.field = field

    def __reduce__(self) -> tuple[Any, ...]:  # may come from a rendering process
        return type(self), (self.field, str(self))


class Inputs:
    """Checks and encodes uploads; messages name no local files.

    Args:
        settings (`Settings`): The limits.
        pipe (`OSMNetPipeline`): Encoder of portraits and speech.

    Attributes:
        cache (`EncodedCache`): Recently encoded portraits and speech.
        decoder (`IsolatedDecoder`, *optional*): Decodes files; not on Windows.
    """

    def __init__(self, settings: Settings, pipe: OSMNetPipeline):
        self.settings = settings
        self.pipe = pipe
        self.cache = EncodedCache(settings.max_cache_mb * 2**20, settings.keep_seconds)
        limits = DecodeLimits(
            settings.max_mb, settings.max_decode_mb, settings.max_decode_seconds, settings.max_megapixels
        )
        self.decoder = IsolatedDecoder(limits, DECODERS) if os.name == "posix" else None

    def portrait(
        self,
        path: str | None,
        picture: PictureOptions = PictureOptions(),  # noqa: B008 (frozen)
    ) -> tuple[Source, list[str]]:
        """Encode a portrait.

        Args:
            path (`str`, *optional*): The picture.
            picture (`PictureOptions`): Picture options; `size` defaults to that of the settings.

        Returns:
            `tuple`: The portrait and notes about it for the user.

        Raises:
            RefusedInputError: If it is missing or cannot be used.
        """
        if not path:
            raise RefusedInputError("portrait", "There is no portrait yet; add a picture or take an example.")
        size = None if picture.whole_picture else picture.size or self.settings.size

        def encode() -> Source:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the number of faces becomes a note
                pixels = load_portrait(
                    path,
                    MAX_PICTURE,
                    max_megapixels=min(self.settings.max_megapixels, LARGEST_MEGAPIXELS),
                    isolated=self.decoder or False,
                )
                source: Source = self.pipe.encode_source(
                    pixels, full_frame=picture.whole_picture, size=size, face=picture.face
                )
                return source

        digest = file_digest(path)
        try:
            source = self.cache.get(digest and ("portrait", digest, size, picture.face), encode, _source_bytes)
        except RefusedInputError:
            raise
        except ValueError as error:
            raise RefusedInputError("portrait", _without_path(error, path)) from error
        if source.num_faces > 1 and picture.face is None:
            return source, [f"The picture shows {source.num_faces} faces; the largest one talks."]
        return source, []

    def speech(self, path: str | None) -> tuple[Speech, list[str]]:
        """Encode a recording.

        Args:
            path (`str`, *optional*): The recording.

        Returns:
            `tuple`: The speech and notes about it for the user.

        Raises:
            RefusedInputError: If it is missing, too long or cannot be used.
        """

        def encode() -> Speech:
            recording = self.recording(path)
            if self.is_too_long(recording):
                raise RefusedInputError("speech", self.too_long(recording))
            return self.pipe.encode_speech(recording)

        digest = file_digest(path) if path else None
        speech = self.cache.get(digest and ("speech", digest), encode, _speech_bytes)
        if speech.activity.max() < SURE_SPEECH:
            return speech, ["No speech was found in the recording (steady noise?); the mouth will stay at rest."]
        return speech, []

    def recording(self, path: str | None) -> Recording:
        """Open a recording of any length.

        Raises:
            RefusedInputError: If it is missing or cannot be used.
        """
        if not path:
            raise RefusedInputError("speech", "There is no speech yet; add a recording or take an example.")
        try:
            return Recording.open(path, max_seconds=self.settings.max_decoded_seconds, isolated=self.decoder or False)
        except ValueError as error:
            raise RefusedInputError("speech", _without_path(error, path)) from error

    def is_too_long(self, recording: Recording) -> bool:
        """Whether a recording exceeds `max_seconds`."""
        return len(recording) > self.settings.max_seconds * SAMPLING_RATE

    def too_long(self, recording: Recording) -> str:
        """Return the message for a too-long recording."""
        limit = _duration(self.settings.max_seconds)
        is_cut = len(recording) >= self.settings.max_decoded_seconds * SAMPLING_RATE
        lasts = "at least " * is_cut + _duration(len(recording) / SAMPLING_RATE)
        return f"The recording lasts {lasts}, and the limit is {limit}; use its first {limit}, or a shorter one."

    def first_seconds(self, path: str | None, out: Path) -> Path:
        """Write the first `max_seconds` as WAV.

        Raises:
            RefusedInputError: If the recording is missing or cannot be used.
        """
        samples = self.recording(path)[: self.settings.max_seconds * SAMPLING_RATE]
        with wave.open(str(out), "wb") as file:
            file.setparams((1, 2, SAMPLING_RATE, 0, "NONE", ""))
            file.writeframes(np.rint(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
        return out


def _source_bytes(source: Source) -> int:
    return source.picture.nbytes + source.crop.nbytes


def _speech_bytes(speech: Speech) -> int:
    features = np.prod(speech.features.shape) if speech.features is not None else 0
    return int(FLOAT_BYTES * (len(speech.recording) + speech.mel.size + features))


def _without_path(error: ValueError, path: str) -> str:
    """Format an error without the upload's path."""
    sentence = " ".join(str(error).split()).replace(f"'{path}'", "the upload").replace(path, "the upload")
    return sentence[:1].upper() + sentence[1:]


def _duration(seconds: float) -> str:
    if round(seconds) <= 60:
        return f"{round(seconds, 1):g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if rest else f"{minutes} min"
