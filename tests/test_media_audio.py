"""Speech: every file and array becomes the same 16 kHz mono, and features stand where the video frames are."""

import wave

import av
import numpy as np
import pytest

from osmnet.media.audio import (
    HOP,
    SAMPLING_RATE,
    load_speech,
    mel_spectrogram,
    mel_windows,
    num_frames,
    speech_activity,
)


def tone(seconds=1.0, rate=SAMPLING_RATE, frequency=440.0, amplitude=0.5):
    return amplitude * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)


def speechlike(seconds=2.0, seed=0):
    """Noise in bursts of about four a second, like syllables."""
    samples = round(seconds * SAMPLING_RATE)
    rng = np.random.default_rng(seed)
    envelope = np.clip(np.sin(2 * np.pi * 4 * np.arange(samples) / SAMPLING_RATE), 0, 1)
    return (0.2 * envelope * rng.normal(size=samples) + 1e-3 * rng.normal(size=samples)).astype(np.float32)


def write_wav(path, samples, rate):
    """Write floats `(samples,)` or `(samples, channels)` as 16-bit PCM."""
    samples = samples.reshape(len(samples), -1)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).round().astype("<i2").tobytes())
    return path


def write_movie(path, waveform=None, frames=25, sound_after=0.0):
    """Write a film of grey frames at 25 fps whose AAC sound begins `sound_after` seconds after the picture."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.width = video.height = 32
        video.pix_fmt = "yuv420p"
        if waveform is not None:
            audio = container.add_stream("aac", rate=SAMPLING_RATE, layout="mono")
            audio.bit_rate = 96_000
        for _ in range(frames):
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.full((32, 32, 3), 90, np.uint8))))
        container.mux(video.encode())
        if waveform is not None:
            frame = av.AudioFrame.from_ndarray(waveform[None].astype(np.float32), format="fltp", layout="mono")
            frame.sample_rate = SAMPLING_RATE
            frame.pts = round(sound_after * SAMPLING_RATE)
            container.mux(audio.encode(frame))
            container.mux(audio.encode())
    return path


# load_speech


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 48_000])
def test_file_is_resampled_to_16_khz(tmp_path, rate):
    loaded = load_speech(write_wav(tmp_path / "tone.wav", tone(rate=rate), rate))
    assert loaded.dtype == np.float32
    assert abs(len(loaded) - SAMPLING_RATE) <= 2
    middle = slice(1_000, 15_000)  # away from the filter's edges
    np.testing.assert_allclose(loaded[middle], tone()[middle], atol=2e-3)


def test_file_and_array_agree_and_stereo_is_mixed(tmp_path):
    stereo = np.stack([tone(), tone(frequency=1000.0)], axis=1)
    mixed = stereo.mean(axis=1)
    integers = (stereo * 32767).round().astype(np.int16)
    for speech in (
        write_wav(tmp_path / "stereo.wav", stereo, SAMPLING_RATE),
        (stereo, SAMPLING_RATE),
        (SAMPLING_RATE, stereo.T),
        (integers, SAMPLING_RATE),
        (SAMPLING_RATE, integers.T.astype(np.int32) * 65536),
    ):
        np.testing.assert_allclose(load_speech(speech), mixed, atol=1e-4)
    np.testing.assert_allclose(load_speech(stereo, sampling_rate=SAMPLING_RATE), mixed, atol=1e-6)
    unsigned = ((tone() + 1) * 127.5).round().astype(np.uint8)
    np.testing.assert_allclose(load_speech(unsigned, SAMPLING_RATE), tone(), atol=0.01)


def test_array_is_not_modified_and_too_loud_is_scaled_not_clipped():
    loud = tone(amplitude=3.0)
    before = loud.copy()
    loaded = load_speech(loud, SAMPLING_RATE)
    np.testing.assert_array_equal(loud, before)
    np.testing.assert_allclose(loaded, loud / np.abs(loud).max(), atol=1e-6)
    assert np.abs(loaded).max() <= 1


def test_sound_of_a_film_starts_with_its_picture(tmp_path):
    signal = np.zeros(SAMPLING_RATE)
    signal[4_000:8_000] = tone(0.25)
    together = load_speech(write_movie(tmp_path / "together.mp4", signal))
    later = load_speech(write_movie(tmp_path / "later.mp4", signal, sound_after=0.2))
    assert abs(int(np.argmax(np.abs(together) > 0.1)) - 4_000) < 80
    assert abs(int(np.argmax(np.abs(later) > 0.1)) - 7_200) < 80


def test_name_with_a_colon_is_a_file_not_a_protocol(tmp_path, monkeypatch):
    write_wav(tmp_path / "take:1.wav", tone(), SAMPLING_RATE)
    monkeypatch.chdir(tmp_path)
    assert len(load_speech("take:1.wav")) == SAMPLING_RATE


def test_cut_file_gives_what_there_is(tmp_path):
    data = write_wav(tmp_path / "whole.wav", tone(2.0), SAMPLING_RATE).read_bytes()
    (tmp_path / "cut.wav").write_bytes(data[: len(data) // 2])
    loaded = load_speech(tmp_path / "cut.wav")
    assert abs(len(loaded) - SAMPLING_RATE) < 100
    np.testing.assert_allclose(loaded, tone()[: len(loaded)], atol=1e-3)


def test_bad_files_are_named_in_one_sentence(tmp_path):
    (tmp_path / "empty.wav").touch()
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "text.mp3").write_text("this is no sound " * 50)
    (tmp_path / "noise.m4a").write_bytes(np.random.default_rng(0).bytes(5_000))
    write_movie(tmp_path / "silent_film.mp4")
    write_wav(tmp_path / "short.wav", tone(0.1), SAMPLING_RATE)
    write_wav(tmp_path / "silence.wav", np.zeros(SAMPLING_RATE), SAMPLING_RATE)
    write_wav(tmp_path / "offset.wav", np.full(SAMPLING_RATE, 0.4), SAMPLING_RATE)
    for name, reason in {
        "empty.wav": "is empty",
        "folder.wav": "is a folder",
        "missing.wav": "no file",
        "text.mp3": "cannot be decoded",
        "noise.m4a": "cannot be decoded",
        "silent_film.mp4": "has no sound",
        "short.wav": "0.10 s long",
        "silence.wav": "silent throughout",
        "offset.wav": "silent throughout",
    }.items():
        with pytest.raises(ValueError, match=reason) as error:
            load_speech(tmp_path / name)
        assert name in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("speech", "rate", "reason"),
    [
        (tone(), None, "needs its rate"),
        (tone(), 0, "sampling_rate"),
        (tone(), float("nan"), "sampling_rate"),
        (tone(), "fast", "sampling_rate"),
        ((tone(), tone()), None, "sampling_rate"),
        ((16_000, 16_000), None, "pair"),
        (np.full(16_000, np.nan), 16_000, "NaN"),
        (np.zeros((2, 3, 4)), 16_000, "shape"),
        (np.zeros(0), 16_000, "long"),
        (np.zeros((0, 16_000)), 16_000, "long"),
        (np.zeros(16_000, np.int64), 16_000, "64-bit"),
        (np.zeros(16_000, complex), 16_000, "floats"),
        (3.5, 16_000, "numpy array"),
    ],
)
def test_bad_arrays_are_refused(speech, rate, reason):
    with pytest.raises(ValueError, match=reason):
        load_speech(speech, rate)


# Features


def test_num_frames_covers_every_sample():
    assert [num_frames(n) for n in (0, 1, 640, 641, 16_000)] == [0, 1, 1, 2, 25]


def test_mel_filters_are_librosas():
    from librosa.filters import mel as librosa_mel

    from osmnet.media.audio import mel_filters

    expected = librosa_mel(sr=SAMPLING_RATE, n_fft=512, n_mels=16, fmin=50, fmax=8000, norm=None)
    np.testing.assert_allclose(mel_filters(), expected, atol=1e-5)


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
    waveform = np.tile(speechlike(1.0), 90)  # 9000 steps: two chunks
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
