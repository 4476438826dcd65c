"""Recordings: the samples of `load_speech`, whether they lie in memory or in a file, and nothing left behind."""

import errno
import gc
import os
import pickle
import tempfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile

from osmnet.media import recording as recording_module
from osmnet.media.audio import SAMPLING_RATE, load_speech
from osmnet.media.recording import Recording, SampleFile


def noise(samples, seed=0):
    return np.random.default_rng(seed).normal(scale=0.1, size=samples).astype(np.float32)


def write(path, samples, rate=SAMPLING_RATE, subtype="FLOAT"):
    soundfile.write(path, samples, rate, subtype=subtype)
    return path


@pytest.fixture
def brief(monkeypatch):
    """What is longer than half a second counts as long."""
    monkeypatch.setattr(recording_module, "MEMORY_SECONDS", 0.5)


@pytest.fixture
def files(monkeypatch):
    """Every temporary file that was opened."""
    opened = []

    def remember(*args, **kwargs):
        opened.append(temporary_file(*args, **kwargs))
        return opened[-1]

    temporary_file = tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", remember)
    return opened


@pytest.mark.parametrize("samples", [3_201, 7_999, 8_000, 8_001, 100_003])
def test_samples_are_those_of_load_speech(tmp_path, brief, files, samples):
    path = write(tmp_path / "sound.wav", noise(samples))
    recording, whole = Recording.open(path), load_speech(path)
    assert len(recording) == len(whole) == samples
    assert len(files) == (samples > 8_000)  # in a file only what is longer than in memory
    np.testing.assert_array_equal(recording.waveform, whole)
    for where in (slice(0, 10), slice(samples - 3, samples + 10), slice(samples + 1, samples + 9), slice(5, 5),
                  slice(9, 2), slice(-7, None), slice(None), slice(1_000, 3_000)):  # fmt: skip
        part = recording[where]
        assert part.dtype == np.float32
        np.testing.assert_array_equal(part, whole[where])


@pytest.mark.parametrize("rate", [8_000, 44_100])
def test_other_rates_and_channels_are_those_of_load_speech(tmp_path, brief, files, rate):
    stereo = noise(3 * rate * 2).reshape(-1, 2)
    path = write(tmp_path / "sound.flac", stereo, rate, "PCM_16")
    for speech in (path, (stereo, rate), (stereo.T, rate)):
        np.testing.assert_array_equal(Recording.open(speech).waveform, load_speech(speech))
    assert len(files) == 3


def test_loud_end_scales_the_beginning(tmp_path, brief, files):
    loud = noise(200_000)
    loud[-100] = -2.5
    path = write(tmp_path / "loud.wav", loud)
    for recording in (Recording.open(path), Recording.open(loud, SAMPLING_RATE)):
        np.testing.assert_array_equal(recording[:50_000], loud[:50_000] / np.float32(2.5))
        np.testing.assert_array_equal(recording.waveform, load_speech(path))
    assert len(files) == 1 and loud[-100] == -2.5


def test_array_is_neither_copied_nor_changed():
    sound = noise(500_000)
    recording = Recording.open(sound, SAMPLING_RATE)
    assert np.shares_memory(recording[:], sound)
    integers = (sound * 32767).astype(np.int16).reshape(-1, 2)
    recording = Recording.open((integers, SAMPLING_RATE))
    np.testing.assert_array_equal(recording.waveform, load_speech(integers, SAMPLING_RATE))
    np.testing.assert_array_equal(recording[70_000:80_000], load_speech(integers, SAMPLING_RATE)[70_000:80_000])


@pytest.mark.parametrize(
    ("sound", "reason"),
    [
        (np.concatenate([noise(150_000), [np.nan], noise(50_000)]), "NaN"),
        (np.concatenate([noise(150_000), [np.inf]]), "NaN"),
        (np.zeros(150_000), "silent throughout"),
        (noise(3_100), "0.19 s long"),
    ],
)
def test_faults_are_told_as_by_load_speech_and_leave_nothing_open(tmp_path, brief, files, sound, reason):
    path = write(tmp_path / "sound.wav", sound.astype(np.float32))
    for speech, rate in ((path, None), (sound, SAMPLING_RATE), (np.repeat(sound, 2), 2 * SAMPLING_RATE)):
        with pytest.raises(ValueError, match=reason) as expected:
            load_speech(speech, rate)
        with pytest.raises(ValueError) as error:
            Recording.open(speech, rate)
        assert str(error.value) == str(expected.value)
    del error
    gc.collect()
    assert all(file.closed for file in files)


def test_damaged_and_cut_files_give_what_there_is(tmp_path, brief, files):
    data = write(tmp_path / "whole.mp3", noise(800_000), subtype="MPEG_LAYER_III").read_bytes()
    third = len(data) // 3
    (tmp_path / "cut.mp3").write_bytes(data[: 2 * third])
    (tmp_path / "damaged.mp3").write_bytes(data[:third] + bytes(20_000) + data[third + 20_000 :])
    for name, least in (("cut.mp3", 500_000), ("damaged.mp3", 600_000)):
        recording = Recording.open(tmp_path / name)
        assert least < len(recording) <= 810_000
        np.testing.assert_array_equal(recording.waveform, load_speech(tmp_path / name))
    assert len(files) == 2


def test_pickled_it_has_the_same_samples(tmp_path, brief):
    loud = 4 * noise(100_000)
    integers = (loud / np.abs(loud).max() * 32767).astype(np.int16)
    for speech, rate in ((write(tmp_path / "loud.wav", loud), None), (loud, SAMPLING_RATE), (integers, SAMPLING_RATE)):
        recording = Recording.open(speech, rate)
        copy = pickle.loads(pickle.dumps(recording))
        assert len(copy) == 100_000
        np.testing.assert_array_equal(copy[70_000:80_000], recording[70_000:80_000])


def test_file_goes_with_the_recording(tmp_path, brief, files):
    recording = Recording.open(write(tmp_path / "sound.wav", noise(100_000)))
    assert [file.closed for file in files] == [False]
    assert os.listdir(tmp_path) == ["sound.wav"]
    del recording
    gc.collect()
    assert files[0].closed


@pytest.mark.parametrize("at", ["open", "write"])
def test_full_disk_is_told_in_one_sentence(tmp_path, brief, monkeypatch, at):
    path = write(tmp_path / "sound.wav", noise(100_000))

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    target = (tempfile, "TemporaryFile") if at == "open" else (SampleFile, "append")
    monkeypatch.setattr(*target, full)
    with pytest.raises(ValueError, match=r"sound\.wav.*temporary folder.*TMPDIR") as error:
        Recording.open(path)
    assert os.strerror(errno.ENOSPC) in str(error.value) and "\n" not in str(error.value)


def test_progress_says_how_much_is_decoded(tmp_path, brief):
    path = write(tmp_path / "sound.wav", noise(400_000))
    seen = []
    recording = Recording.open(path, progress=seen.append)
    assert len(seen) > 4 and seen == sorted(seen) and seen[-1] == len(recording) / SAMPLING_RATE


def test_threads_read_at_once(tmp_path, brief):
    path = write(tmp_path / "sound.wav", noise(300_000))
    recording, whole = Recording.open(path), load_speech(path)

    def same(start):
        return np.array_equal(recording[start : start + 20_000], whole[start : start + 20_000])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(same, np.random.default_rng(0).integers(0, 300_000, 400).tolist()))


@pytest.mark.parametrize("where", [0, slice(0, 10, 2), slice(10, 0, -1)])
def test_only_slices_are_read(where):
    recording = Recording.open(noise(16_000), SAMPLING_RATE)
    with pytest.raises(TypeError, match="slices of step 1"):
        recording[where]
