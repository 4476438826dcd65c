"""Speech: every file and array becomes the same 16 kHz mono."""

import subprocess
import sys
import wave

import av
import numpy as np
import pytest

from osmnet.media import audio
from osmnet.media.audio import SAMPLING_RATE, load_speech
from osmnet.media.recording import Recording


def tone(seconds=1.0, rate=SAMPLING_RATE, frequency=440.0, amplitude=0.5):
    return amplitude * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)


def write_wav(path, samples, rate):
    """Write floats `(samples,)` or `(samples, channels)` as 16-bit PCM."""
    samples = samples.reshape(len(samples), -1)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).round().astype("<i2").tobytes())
    return path


def write_movie(path, waveform=None, frames=25, sound_after=0.0, channels=1):
    """Write a film of grey frames whose sound (AAC or PCM) begins `sound_after` seconds after the picture."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.width = video.height = 32
        video.pix_fmt = "yuv420p"
        if waveform is not None:
            layout = "mono" if channels == 1 else f"{channels} channels"
            sound = container.add_stream("aac" if channels == 1 else "pcm_f32le", rate=SAMPLING_RATE, layout=layout)
        for _ in range(frames):
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.full((32, 32, 3), 90, np.uint8))))
        container.mux(video.encode())
        if waveform is not None:
            packed = waveform.reshape(1, -1).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(packed, format="fltp" if channels == 1 else "flt", layout=layout)
            frame.sample_rate = SAMPLING_RATE
            frame.pts = round(sound_after * SAMPLING_RATE)
            container.mux(sound.encode(frame))
            container.mux(sound.encode())
    return path


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


CHANNELS = """
import sys
import numpy as np
from osmnet.media.audio import load_speech
for path in sys.argv[1:]:
    np.save(path + ".npy", load_speech(path))
"""


@pytest.mark.integration
def test_any_number_of_channels_is_mixed(tmp_path, subprocess_environment):
    """In a process of its own: a mistake in the planes of more than eight channels kills it."""
    rng = np.random.default_rng(0)
    samples = {count: rng.uniform(-0.5, 0.5, (4_000, count)) for count in (1, 2, 6, 8, 9, 16, 64)}
    paths = {n: write_wav(tmp_path / f"{n}.wav", samples[n], SAMPLING_RATE) for n in samples}
    paths["film"] = write_movie(tmp_path / "film.mkv", samples[16], channels=16)
    run = subprocess.run(
        [sys.executable, "-c", CHANNELS, *map(str, paths.values())], env=subprocess_environment, capture_output=True
    )
    assert run.returncode == 0, run.stderr
    for name, path in paths.items():
        expected = samples[16 if name == "film" else name].mean(axis=1)
        np.testing.assert_allclose(np.load(f"{path}.npy"), expected, atol=1e-4)
    with pytest.raises(ValueError, match="65.wav' has 65 channels: give a recording of at most 64"):
        load_speech(write_wav(tmp_path / "65.wav", rng.uniform(-0.5, 0.5, (4_000, 65)), SAMPLING_RATE))


@pytest.mark.parametrize("rate", [1, 999, 768_001, 4_000_000])
def test_rates_of_files_and_arrays_have_limits(tmp_path, rate):
    path = write_wav(tmp_path / "odd.wav", tone(), rate)
    with pytest.raises(ValueError, match=f"odd.wav' has a sampling rate of {rate} Hz: give a recording of 1000 to"):
        load_speech(path)
    with pytest.raises(ValueError, match="sampling_rate must lie between 1000 and 768000 Hz"):
        load_speech(tone(), rate)


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_decoding_stops_at_the_limit(tmp_path, monkeypatch, rate):
    sound = tone(60, rate)
    path = write_wav(tmp_path / "long.wav", sound, rate)
    whole = load_speech(path)
    for speech, its_rate in ((path, None), (sound, rate)):
        np.testing.assert_allclose(load_speech(speech, its_rate, max_seconds=2.5), whole[:40_000], atol=1e-3)
    assert len(load_speech(path, max_seconds=100)) == len(whole)
    decoded = []
    frames = audio._decodable_frames
    monkeypatch.setattr(
        audio, "_decodable_frames", lambda *arguments: (decoded.append(f.samples) or f for f in frames(*arguments))
    )
    assert len(Recording.open(path, max_seconds=2.5)) == 40_000
    assert sum(decoded) < 10 * rate


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
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\noffset.wav\n#EXT-X-ENDLIST\n")
    (tmp_path / "noise.m4a").write_bytes(np.random.default_rng(0).bytes(5_000))
    write_movie(tmp_path / "silent_film.mp4")
    write_wav(tmp_path / "short.wav", tone(0.1), SAMPLING_RATE)
    write_wav(tmp_path / "silence.wav", np.zeros(SAMPLING_RATE), SAMPLING_RATE)
    write_wav(tmp_path / "offset.wav", np.full(SAMPLING_RATE, 0.4), SAMPLING_RATE)
    for name, reason in {
        "empty.wav": "is empty",
        "folder.wav": "is a folder",
        "missing.wav": "no file",
        "text.mp3": "cannot be decoded as a recording",
        "noise.m4a": "cannot be decoded as a recording",
        "list.m3u8": "cannot be decoded as a recording .its format is not supported",
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
