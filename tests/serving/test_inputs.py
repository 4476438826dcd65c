"""Portraits and recordings that users send."""

import pickle
from dataclasses import replace

import pytest

from osmnet.media.audio import FPS
from osmnet.pipelines.options import PictureOptions
from osmnet.serving.inputs import RefusedInputError

SQUARE = PictureOptions(full_frame=False)


@pytest.mark.parametrize(
    ("field", "name", "sentence"),
    [
        ("portrait", None, "There is no portrait yet"),
        ("portrait", "empty", "No face was found"),
        ("portrait", "text", "The upload is not a picture"),
        ("portrait", "large", "The upload has 2 million pixels, and the limit is 2 million; scale it down"),
        ("speech", None, "There is no speech yet"),
        ("speech", "text", "(?i)the upload"),
        ("speech", "long", "lasts 2.5 s, and the limit is 2 s; use its first 2 s"),
    ],
)
def test_refusals_name_the_input_and_no_file(studio, inputs, field, name, sentence):
    with pytest.raises(RefusedInputError, match=sentence) as refused:
        getattr(studio.inputs, field)(inputs.get(name))
    assert refused.value.field == field
    assert "/" not in str(refused.value)


def test_a_missing_file_is_refused(studio, tmp_path):
    for field in ("portrait", "speech"):
        with pytest.raises(RefusedInputError, match="the upload"):
            getattr(studio.inputs, field)(str(tmp_path / "none.png"))


def test_a_refusal_can_come_from_another_process():
    error = pickle.loads(pickle.dumps(RefusedInputError("takes", "Choose fewer.")))
    assert (error.field, str(error)) == ("takes", "Choose fewer.")


def test_inputs_are_encoded_once(studio, inputs):
    whole, square = studio.inputs.portrait(inputs["face"])[0], studio.inputs.portrait(inputs["face"], SQUARE)[0]
    assert whole.full_frame and not square.full_frame and square.size == 64
    assert studio.inputs.portrait(inputs["face"])[0] is whole
    assert studio.inputs.portrait(inputs["face"], SQUARE)[0] is square
    assert studio.inputs.portrait(inputs["face"], PictureOptions(size=80))[0].size == 80
    assert studio.inputs.speech(inputs["speech"])[0] is studio.inputs.speech(inputs["speech"])[0]


def test_notes_tell_what_a_user_should_know(studio, inputs, monkeypatch):
    assert studio.inputs.portrait(inputs["face"])[1] == studio.inputs.speech(inputs["speech"])[1] == []
    source, speech = studio.inputs.portrait(inputs["face"])[0], studio.inputs.speech(inputs["speech"])[0]
    object.__setattr__(source, "num_faces", 3)
    monkeypatch.setattr("osmnet.serving.inputs.SURE_SPEECH", 1.1)
    try:
        assert "shows 3 faces" in studio.inputs.portrait(inputs["face"])[1][0]
        assert "No speech was found" in studio.inputs.speech(inputs["speech"])[1][0]
    finally:
        object.__setattr__(source, "num_faces", 1)
    assert speech.num_frames == 0.6 * FPS


def test_the_first_seconds_of_a_recording_can_be_used(studio, inputs, tmp_path):
    first = studio.inputs.first_seconds(inputs["long"], tmp_path / "first.wav")
    assert studio.inputs.speech(str(first))[0].num_frames == 2 * FPS


@pytest.mark.integration
def test_files_are_decoded_in_a_child_process_within_the_settings(studio, inputs, monkeypatch):
    limits = studio.inputs.decoder.limits
    settings = studio.settings
    assert (limits.content_mb, limits.memory_mb) == (settings.max_mb, settings.max_decode_mb)
    assert (limits.seconds, limits.megapixels) == (settings.max_decode_seconds, settings.max_megapixels)
    studio.inputs.cache.clear()
    plain = studio.inputs.portrait(inputs["face"])[0].picture, studio.inputs.speech(inputs["speech"])[0].mel
    monkeypatch.setattr(studio.inputs, "decoder", None)
    studio.inputs.cache.clear()
    assert (studio.inputs.portrait(inputs["face"])[0].picture == plain[0]).all()
    assert (studio.inputs.speech(inputs["speech"])[0].mel == plain[1]).all()


def test_decoding_of_a_recording_stops(studio, inputs, monkeypatch):
    monkeypatch.setattr(studio.inputs, "settings", replace(studio.settings, max_seconds=1, max_decoded_seconds=2))
    with pytest.raises(RefusedInputError, match="lasts at least 2 s, and the limit is 1 s; use its first 1 s"):
        studio.inputs.speech(inputs["long"])
