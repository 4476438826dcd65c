"""Features stand where the video frames are, whatever the length of the sound and however it is kept."""

import hashlib
import subprocess
import sys
import wave

import numpy as np
import pytest

from osmnet.media import features
from osmnet.media.audio import SAMPLING_RATE, num_frames
from osmnet.media.features import (
    HOP,
    cut_windows,
    mel_filters,
    mel_spectrogram,
    mel_windows,
    speech_activity,
    speech_features,
)
from osmnet.media.recording import Recording, SampleFile


def tone(seconds=1.0, rate=SAMPLING_RATE, frequency=440.0, amplitude=0.5):
    return amplitude * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)


def speechlike(seconds=2.0, seed=0):
    """Noise in bursts of about four a second, like syllables."""
    samples = round(seconds * SAMPLING_RATE)
    rng = np.random.default_rng(seed)
    envelope = np.clip(np.sin(2 * np.pi * 4 * np.arange(samples) / SAMPLING_RATE), 0, 1)
    return (0.2 * envelope * rng.normal(size=samples) + 1e-3 * rng.normal(size=samples)).astype(np.float32)


def test_num_frames_covers_every_sample():
    assert [num_frames(n) for n in (0, 1, 640, 641, 16_000)] == [0, 1, 1, 2, 25]


@pytest.mark.parametrize(("pitch", "digest"), [(1.0, "da4a0cb8dfd631eb"), (0.8, "47289a83a9841f8f")])
def test_mel_filters_are_those_that_the_networks_were_trained_with(pitch, digest):
    filters = mel_filters(pitch)
    assert filters.shape == (16, 257) and filters.dtype == np.float32
    assert hashlib.sha256(np.abs(filters).tobytes()).hexdigest()[:16] == digest


def test_mel_finds_the_band_of_a_tone_and_the_moment_of_a_click():
    low, high = mel_spectrogram(tone(frequency=200)), mel_spectrogram(tone(frequency=6000))
    assert low.shape == high.shape == (100, 16)
    assert (low[5:-5].argmax(axis=1) <= 1).all()
    assert (high[5:-5].argmax(axis=1) >= 13).all()

    click = np.zeros(SAMPLING_RATE, np.float32)
    click[50 * HOP + 80] = 1  # the centre of step 50
    power = mel_spectrogram(click).sum(axis=1)
    assert power.argmax() == 50
    np.testing.assert_allclose(power[49], power[51], rtol=1e-4)


@pytest.mark.parametrize("gain", [0.1, 0.01, 5.0])
def test_features_do_not_depend_on_the_gain(gain):
    waveform = speechlike()
    np.testing.assert_allclose(mel_windows(gain * waveform), mel_windows(waveform), atol=1e-4)
    np.testing.assert_allclose(speech_activity(gain * waveform), speech_activity(waveform), atol=1e-3)


def test_mel_range():
    mel = mel_spectrogram(np.concatenate([speechlike(), np.zeros(8_000, np.float32)]))
    assert mel.min() == -1 and 0.5 < mel.max() < 1.6
    assert (mel_spectrogram(np.zeros(SAMPLING_RATE)) == -1).all()
    assert mel.dtype == np.float32


@pytest.mark.parametrize("samples", [1, 640, 16_000, 16_001])
def test_windows_are_the_steps_around_each_frame(samples):
    waveform = speechlike()[:samples]
    mel, windows = mel_spectrogram(waveform), mel_windows(waveform)
    frames = num_frames(samples)
    assert mel.shape == (4 * frames, 16) and windows.shape == (frames, 16, 16)
    assert windows.dtype == np.float32 and windows.flags.c_contiguous
    for frame in range(frames):
        for row, step in enumerate(range(4 * frame - 6, 4 * frame + 10)):
            expected = mel[step] if 0 <= step < len(mel) else -1
            np.testing.assert_array_equal(windows[frame, row], expected)


def test_window_is_centred_on_its_frame():
    """An impulse in the very middle of frame 10 gives a window that is the same forwards and backwards."""
    waveform = np.zeros(SAMPLING_RATE, np.float32)
    waveform[10 * 640 + 320] = 1
    window = mel_windows(waveform)[10]
    np.testing.assert_allclose(window, window[::-1], atol=0.02)
    assert window.sum(axis=1).argmax() in (7, 8)


def test_long_recordings_are_transformed_in_chunks_without_a_seam():
    waveform = np.tile(speechlike(1.0), 90)  # 9000 steps: five chunks
    mel = mel_spectrogram(waveform)
    np.testing.assert_allclose(mel[200:300], mel[8_100:8_200], atol=1e-3)
    np.testing.assert_allclose(mel[8_150:8_250], mel[150:250], atol=1e-3)


def test_activity_is_one_in_speech_and_zero_in_silence():
    waveform = np.concatenate([np.zeros(16_000), speechlike(3.0), np.zeros(16_000)])
    activity = speech_activity(waveform)
    assert activity.shape == (125,) and activity.dtype == np.float32
    assert activity.min() >= 0 and activity.max() <= 1
    assert (activity[:24] == 0).all() and (activity[103:] == 0).all()
    assert activity[27:100].max() == 1
    assert (speech_activity(np.zeros(16_000)) == 0).all()


@pytest.mark.parametrize("level", [1e-4, 0.01, 0.3])
def test_steady_noise_is_no_speech(level):
    noise = level * np.random.default_rng(0).normal(size=5 * SAMPLING_RATE)
    assert (speech_activity(noise) == 0).all()


def test_speech_is_found_in_noise_and_held_briefly():
    rng = np.random.default_rng(1)
    noise = 0.01 * rng.normal(size=4 * SAMPLING_RATE)
    noise[SAMPLING_RATE : 2 * SAMPLING_RATE] += 0.3 * rng.normal(size=SAMPLING_RATE)
    activity = speech_activity(noise)
    assert (activity[26:50] > 0.99).all()
    assert activity[50] > 0.5  # the hold of 80 ms
    assert (activity[54:] == 0).all() and (activity[:23] == 0).all()


@pytest.mark.parametrize("function", [mel_spectrogram, mel_windows, speech_activity])
@pytest.mark.parametrize("waveform", [np.zeros(0), np.zeros((2, 16_000)), np.full(16_000, np.inf)])
def test_features_refuse_what_is_no_waveform(function, waveform):
    with pytest.raises(ValueError, match="waveform"):
        function(waveform)


def in_a_file(waveform):
    """The same sound as a recording that lies in a file."""
    samples = SampleFile()
    for start in range(0, len(waveform), 30_011):
        samples.append(waveform[start : start + 30_011])
    return Recording(samples)


@pytest.mark.parametrize("samples", [3_201, 16_000, 327_679, 327_680, 327_681, 700_123])
def test_features_of_a_recording_are_those_of_the_array(samples):
    """Also where the end lies at, before and behind the end of a chunk of 2048 steps."""
    waveform = speechlike(45.0)[:samples]
    recording = in_a_file(waveform)
    mel, activity = speech_features(recording)
    assert len(mel) == 4 * len(activity) == 4 * num_frames(samples)
    np.testing.assert_array_equal(mel, mel_spectrogram(waveform))
    np.testing.assert_array_equal(activity, speech_activity(waveform))
    np.testing.assert_array_equal(mel_windows(recording), mel_windows(waveform))


def test_chunks_do_not_show(monkeypatch):
    waveform = speechlike(5.0)
    mel, activity = speech_features(waveform)
    monkeypatch.setattr(features, "_CHUNK_STEPS", 37)
    again = speech_features(waveform)
    np.testing.assert_allclose(again[0], mel, atol=1e-6)
    np.testing.assert_allclose(again[1], activity, atol=1e-5)


def test_windows_are_cut_where_they_are_wanted_without_a_copy():
    mel = mel_spectrogram(speechlike())
    whole = cut_windows(mel)
    for begin, end in ((0, 1), (0, 50), (3, 20), (48, 50), (49, 50)):
        np.testing.assert_array_equal(cut_windows(mel, begin, end), whole[begin:end])
    assert np.shares_memory(cut_windows(mel, 2, 48), mel)


def test_nan_deep_inside_an_array_is_found():
    waveform = speechlike(30.0)
    waveform[400_000] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        speech_features(waveform)


GROWTH = """
import resource, sys
from osmnet.media.features import speech_features
from osmnet.media.recording import Recording, SampleFile

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)

def hear(path):
    recording = Recording.open(path)
    return len(recording), speech_features(recording), peak()

short, long = sys.argv[1:]
before = hear(short)
after = hear(long)
assert after[0] == 20 * before[0], (before[0], after[0])
print(after[2] - before[2])
"""


@pytest.mark.integration
def test_ten_minutes_take_little_more_memory_than_half_a_minute(tmp_path, subprocess_environment):
    pytest.importorskip("resource")
    sound = (np.tile(speechlike(6.0), 5) * 32767).astype(np.int16)
    for name, times in (("short", 1), ("long", 20)):
        with wave.open(str(tmp_path / f"{name}.wav"), "wb") as file:
            file.setparams((1, 2, SAMPLING_RATE, 0, "NONE", ""))
            for _ in range(times):
                file.writeframes(sound.tobytes())
    command = [sys.executable, "-c", GROWTH, str(tmp_path / "short.wav"), str(tmp_path / "long.wav")]
    run = subprocess.run(command, env=subprocess_environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    # The waveform alone would be 38 MB, and its windows 15; the spectrogram is 4. Up to two minutes stay in memory.
    assert float(run.stdout) < 30
