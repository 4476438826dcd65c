"""The speech encoder: features of a frame, wherever it lies in a recording."""

import numpy as np
import pytest
import torch

from osmnet.media.recording import Recording
from osmnet.models.osm_net.speech_encoder import CELL, MARGIN, RECEPTIVE_FIELD, STRIDE, SpeechEncoder
from tests.support.dummies import FACE_MODEL, PORTRAIT, SAMPLING_RATE, speech, tiny_pipeline

SIZES = {"hidden_dim": 16, "num_layers": 2, "num_heads": 2, "rotary_dim": 4, "mlp_dim": 24}


@pytest.fixture(scope="module")
def tiny() -> SpeechEncoder:
    torch.manual_seed(0)
    return SpeechEncoder(**SIZES).eval()


@pytest.fixture(scope="module")
def shipped() -> SpeechEncoder:
    return SpeechEncoder.from_pretrained(FACE_MODEL.parent / "speech_encoder")


def test_steps_are_as_many_as_the_convolutions_give(tiny):
    for samples in (RECEPTIVE_FIELD, RECEPTIVE_FIELD + STRIDE - 1, RECEPTIVE_FIELD + STRIDE, 16_000):
        steps = tiny(torch.zeros(2, samples))
        assert steps.shape == (2, (samples - RECEPTIVE_FIELD) // STRIDE + 1, 16)


def test_a_step_depends_on_sound_before_and_after_it(tiny):
    sound = torch.from_numpy(speech(2.0))[None]
    plain = tiny(sound)
    for where in (2_000, 30_000):
        changed = sound.clone()
        changed[0, where : where + 400] += 0.3
        assert (tiny(changed) - plain).abs().amax(-1).min() > 1e-6


def test_order_matters(tiny):
    """Attention without positions would give a turned recording the same steps, turned."""
    steps = torch.randn(1, 12, 16)
    turned = steps.flip(1)
    rotation = tiny._rotation(12, steps)
    layer = tiny.layers[0]
    assert not torch.allclose(layer(steps, rotation).flip(1), layer(turned, rotation), atol=1e-3)
    still = torch.stack([torch.ones_like(rotation[0]), torch.zeros_like(rotation[1])])
    assert torch.allclose(layer(steps, still).flip(1), layer(turned, still), atol=1e-5)


def test_only_distance_matters(tiny):
    """Rotary positions: moved as a whole, a stretch attends to itself as before."""
    steps = torch.randn(1, 8, 16)
    rotation = tiny._rotation(40, steps)
    attention = tiny.layers[0].self_attn
    assert torch.allclose(attention(steps, rotation[:, :8]), attention(steps, rotation[:, 30:38]), atol=1e-5)


def test_features_do_not_depend_on_how_many_frames_are_encoded(tiny):
    sound = speech(15.3)
    frames = 383
    whole = tiny.encode(sound, 0, frames)
    assert whole.shape == (frames, 16) and np.isfinite(whole).all()
    parts = np.concatenate([tiny.encode(sound, a, b) for a, b in ((0, 7), (7, 160), (160, 383))])
    assert np.array_equal(parts, whole)
    assert np.array_equal(tiny.encode(Recording.open(sound, SAMPLING_RATE), 100, 300), whole[100:300])
    # More sound after a cell and its margin changes nothing in it.
    assert np.array_equal(tiny.encode(sound[: (CELL + MARGIN) * 640], 0, CELL), whole[:CELL])


@pytest.mark.integration
def test_frames_are_read_where_they_are(shipped):
    """The same sound half a second later has the same features half a second later: not a frame off."""
    sound = speech(3.0, seed=3)
    later = np.concatenate([0.01 * np.random.default_rng(0).standard_normal(8_000).astype(np.float32), sound])
    plain, moved = (shipped.encode_piece(each, np.arange(87)) for each in (sound, later))

    def agreement(shift: int) -> float:
        return float(np.corrcoef(plain[10:60].ravel(), moved[10 + shift : 60 + shift].ravel())[0, 1])

    # 8,000 samples are 12.5 frames.
    assert min(agreement(12), agreement(13)) > max(agreement(11), agreement(14)) > agreement(9)
    half = shipped.encode_piece(later, np.arange(87) + 12.5)
    assert np.corrcoef(plain[10:60].ravel(), half[10:60].ravel())[0, 1] > agreement(12)


def test_short_and_empty_sound(tiny):
    for samples in (0, 1, 640, 2_000):
        assert tiny.encode(np.zeros(samples, np.float32), 0, 3).shape == (3, 16)


@pytest.mark.integration
def test_the_shipped_one_tells_vowels_apart_better_than_loudness(shipped):
    """Two vowels of one loudness differ by more than one vowel does from itself at another loudness."""
    time = np.arange(16_000) / SAMPLING_RATE

    def vowel(formants, gain):
        voice = sum(
            np.sin(2 * np.pi * 120 * k * time) * sum(np.exp(-(((120 * k - f) / 120) ** 2)) for f in formants)
            for k in range(1, 30)
        )
        return (gain * voice / np.abs(voice).max()).astype(np.float32)

    open_, open_soft, spread = (
        shipped.encode_piece(vowel(*each), np.arange(8, 17)).mean(0)
        for each in (((750, 1200), 0.5), ((750, 1200), 0.2), ((300, 2300), 0.5))
    )
    assert np.linalg.norm(open_ - spread) > 2 * np.linalg.norm(open_ - open_soft)


@pytest.mark.integration
def test_a_pipeline_uses_it(tmp_path):
    pipe = tiny_pipeline(words=True)
    sound = speech(2.0)
    with_words = pipe.encode_speech(sound, SAMPLING_RATE)
    source = pipe.encode_source(PORTRAIT, size=64)
    before = pipe.extract_expression(source, with_words)
    for parameter in pipe.speech_encoder.parameters():
        parameter.data.add_(0.1)
    with_words = pipe.encode_speech(sound, SAMPLING_RATE)  # features computed before are kept
    assert not np.allclose(before, pipe.extract_expression(source, with_words))

    pipe.save_pretrained(tmp_path)
    again = type(pipe).from_pretrained(tmp_path)
    assert again.uses_speech_encoder
    assert np.array_equal(again.extract_expression(source, with_words), pipe.extract_expression(source, with_words))


def test_a_pipeline_without_it_says_what_is_missing():
    components = tiny_pipeline(words=True).components
    landmarker = FACE_MODEL.parent / "face_landmarker.task"
    del components["speech_encoder"]
    with pytest.raises(ValueError, match="takes 16 speech features a frame, but there is no"):
        type(tiny_pipeline())(**components, face_landmarker=landmarker)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_heads": 3}, "num_heads must divide hidden_dim, 16, not be 3"),
        ({"num_heads": 0}, "num_heads must be a positive number"),
        ({"rotary_dim": 3}, "rotary_dim must be an even number from 0 to 8, the size of a head, not 3"),
        ({"rotary_dim": 10}, "rotary_dim must be an even number from 0 to 8"),
        ({"rotary_dim": -2}, "rotary_dim must be an even number"),
        ({"num_layers": 0}, "num_layers must be a positive number"),
    ],
)
def test_senseless_sizes_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        SpeechEncoder(**SIZES | change)
