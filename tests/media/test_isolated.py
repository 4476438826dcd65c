"""Files of strangers, decoded in limited child processes."""

import os
import platform
import signal
import socket
import struct
import subprocess
import sys
import types
import wave
import zlib
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from osmnet.media.audio import load_speech
from osmnet.media.image import load_portrait
from osmnet.media.isolated import DecodeLimits, IsolatedDecoder
from osmnet.media.recording import Recording
from tests.support.dummies import PORTRAIT, portrait, speech, write_wav

pytestmark = pytest.mark.integration
LIMITS = DecodeLimits(content_mb=20, memory_mb=512, seconds=10, megapixels=20)


@pytest.fixture(scope="module")
def decoder():
    with IsolatedDecoder(LIMITS, workers=1) as made:
        yield made


def processes(decoder: IsolatedDecoder) -> set[int]:
    """Process ids of the children that are idle."""
    return {worker.process.pid for worker in decoder._idle.queue if worker is not None}


def encode(path: Path, codec: str, with_picture: bool = False) -> Path:
    """Half a second of speech in a container of the path's kind."""
    samples = (speech(0.5) * 32767).astype(np.int16)
    with av.open(str(path), "w") as container:
        sound = container.add_stream(codec, rate=48000)
        video = container.add_stream("mpeg4", rate=25) if with_picture else None
        if video is not None:
            video.width = video.height = 64
            for _ in range(12):
                picture = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8))
                container.mux(video.encode(picture))
            container.mux(video.encode())
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate = 16000
        resampler = av.AudioResampler(format=sound.codec_context.format, layout="mono", rate=48000)
        fifo = av.AudioFifo()
        for resampled in [*resampler.resample(frame), *resampler.resample(None)]:
            resampled.pts = None
            fifo.write(resampled)
        size = sound.codec_context.frame_size or 1024
        while (piece := fifo.read(size)) is not None:
            container.mux(sound.encode(piece))
        container.mux(sound.encode())
    return path


def bomb(path: Path, width: int, height: int) -> Path:
    """A small PNG of very many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack("!I", len(data)) + kind + data + struct.pack("!I", zlib.crc32(kind + data))

    rows = zlib.compressobj(9)
    data = b"".join(rows.compress(bytes(1 + 4 * width)) for _ in range(height)) + rows.flush()
    header = struct.pack("!IIBBBBB", width, height, 8, 6, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "TGA"])
def test_pixels_are_the_same(decoder, tmp_path, format):
    path = tmp_path / f"face.{format.lower()}"
    exif = Image.Exif()
    exif[0x0112] = 6  # a camera that was held upright
    options = {"exif": exif} if format in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF") else {}
    Image.fromarray(portrait(200)).save(path, format, **options)
    for side in (80, 2048):
        np.testing.assert_array_equal(load_portrait(path, side, isolated=decoder), load_portrait(path, side))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16"])
def test_pixels_of_every_mode_are_the_same(decoder, tmp_path, mode):
    path = tmp_path / "face.png"
    grey = Image.fromarray(portrait(64)).convert("L")
    if mode == "I;16":
        Image.fromarray(np.asarray(grey).astype(np.uint16) * 257).save(path)
    else:
        grey.convert("RGBA").convert(mode).save(path)
    np.testing.assert_array_equal(load_portrait(path, isolated=decoder), load_portrait(path))


@pytest.mark.parametrize(
    ("name", "codec", "with_picture"),
    [
        ("a.wav", "pcm_s16le", False), ("a.flac", "flac", False), ("a.ogg", "libopus", False),
        ("a.mp3", "libmp3lame", False), ("a.m4a", "aac", False), ("a.aac", "aac", False),
        ("a.ac3", "ac3", False), ("a.webm", "libopus", False), ("a.aiff", "pcm_s16be", False),
        ("a.mp4", "aac", True), ("a.mkv", "flac", True), ("a.ts", "aac", True), ("a.avi", "pcm_s16le", True),
    ],
)  # fmt: skip
def test_samples_are_the_same(decoder, tmp_path, name, codec, with_picture):
    path = encode(tmp_path / name, codec, with_picture)
    plain = load_speech(path)
    assert len(plain) > 6000
    np.testing.assert_array_equal(load_speech(path, isolated=decoder), plain)
    np.testing.assert_array_equal(Recording.open(path, isolated=decoder, max_seconds=0.3)[:], plain[:4800])


def test_refusals_are_the_same_and_cost_no_child(decoder, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "cut.png").write_bytes(PORTRAIT.read_bytes()[:2000])
    (tmp_path / "text.wav").write_text("no sound")
    (tmp_path / "list.m3u8").write_text(f"#EXTM3U\n#EXTINF:1,\n{write_wav(tmp_path / 'a.wav', speech(0.6))}\n")
    write_wav(tmp_path / "silent.wav", np.zeros(8000))
    before = processes(decoder)
    for name in ("text.png", "cut.png", "none.png"):
        assert refusal(load_portrait, tmp_path / name, decoder) == refusal(load_portrait, tmp_path / name, False)
    for name in ("text.wav", "list.m3u8", "silent.wav", "none.wav"):
        assert refusal(load_speech, tmp_path / name, decoder) == refusal(load_speech, tmp_path / name, False)
    assert processes(decoder) == before


def refusal(load, path: Path, isolated) -> str:
    with pytest.raises(ValueError) as refused:
        load(path, isolated=isolated)
    return str(refused.value)


def test_a_bomb_is_refused_before_and_while_it_is_decoded(decoder, tmp_path):
    before = processes(decoder)
    assert "64 million pixels, and the limit is 20 million" in refusal(
        load_portrait, bomb(tmp_path / "a.png", 8000, 8000), decoder
    )
    with IsolatedDecoder(DecodeLimits(memory_mb=64), workers=1) as small:
        path = bomb(tmp_path / "b.png", 5000, 5000)
        assert refusal(load_portrait, path, small) == f"'{path}' takes more than 64 MB to decode: give a smaller file."
        assert load_portrait(PORTRAIT, isolated=small).ndim == 3
    assert processes(decoder) == before


def test_a_file_that_is_too_large_is_not_even_sent(tmp_path):
    (tmp_path / "large.wav").write_bytes(bytes(2**20 + 1))
    with IsolatedDecoder(DecodeLimits(content_mb=1), workers=1) as small:
        assert "has more than 1 MB" in refusal(load_speech, tmp_path / "large.wav", small)


def test_a_decoder_that_takes_too_long_is_ended_and_replaced(tmp_path):
    with wave.open(str(tmp_path / "long.wav"), "wb") as file:
        file.setparams((1, 1, 768_000, 0, "NONE", ""))
        file.writeframes(np.random.default_rng(0).bytes(90 * 2**20))
    with IsolatedDecoder(DecodeLimits(seconds=0.2), workers=1) as hasty:
        load_portrait(PORTRAIT, isolated=hasty)
        before = processes(hasty)
        assert "more than 0.2 s" in refusal(load_speech, tmp_path / "long.wav", hasty)
        assert not processes(hasty) & before


def test_a_decoder_that_crashes_is_a_sentence_and_is_replaced(tmp_path):
    path = write_wav(tmp_path / "a.wav", speech(60.0))
    with IsolatedDecoder(LIMITS, workers=1) as frail:
        (pid,) = processes(frail)
        pieces = frail.sound(path, None)
        next(pieces)
        os.kill(pid, signal.SIGSEGV)
        with pytest.raises(ValueError, match="'.*a.wav' cannot be used .the decoder ended unexpectedly"):
            for _ in pieces:
                pass
        assert processes(frail) and pid not in processes(frail)
        assert len(load_speech(path, isolated=frail)) == 60 * 16000
        # One that ended while it waited costs its successor nothing.
        (pid,) = processes(frail)
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert len(load_speech(path, isolated=frail)) == 60 * 16000


def test_children_are_replaced_after_some_files():
    with IsolatedDecoder(LIMITS, workers=1, requests=2) as decoder:
        seen = []
        for _ in range(4):
            seen.append(*processes(decoder))
            load_portrait(PORTRAIT, isolated=decoder)
        assert seen[0] == seen[1] != seen[2] == seen[3]


def test_a_forked_process_has_a_child_of_its_own(decoder):
    load_portrait(PORTRAIT, isolated=decoder)
    reading, writing = os.pipe()
    if (fork := os.fork()) == 0:
        os.write(writing, str(load_portrait(PORTRAIT, 64, isolated=decoder).shape).encode())
        os._exit(0)
    os.waitpid(fork, 0)
    assert os.read(reading, 100) == b"(64, 64, 3)"
    assert load_portrait(PORTRAIT, 64, isolated=decoder).shape == (64, 64, 3)


SEALED = """
import errno, os, resource, socket, sys
sys.argv = ["", "512", "20", "10"]
from osmnet.media import isolated_worker as worker
worker.prepare()
base = worker.address_space()
worker.seal(base + 2**29)
worker.limit_next(base + 2**28, 10)
for attempt in (
    lambda: open("/etc/hostname"),
    lambda: os.open("/dev/null", os.O_RDONLY),
    lambda: socket.socket(),
    lambda: os.pipe(),
    lambda: os.dup(0),
):
    try:
        attempt()
    except OSError as error:
        assert error.errno in (errno.EMFILE, errno.EPERM), error
    else:
        sys.exit("opened")
try:
    bytearray(2**28 + 2**24)
except MemoryError:
    print("sealed")
"""


def test_a_child_can_open_nothing_and_take_no_more_memory(subprocess_environment):
    done = subprocess.run(
        [sys.executable, "-c", SEALED], env=subprocess_environment, stdin=subprocess.DEVNULL, capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.stdout == "sealed\n", done.stderr


def test_a_child_has_nothing_of_the_environment_and_no_inherited_file(monkeypatch):
    monkeypatch.setenv("OSMNET_TEST_TOKEN", "secret")
    with open(PORTRAIT, "rb") as file:
        os.set_inheritable(file.fileno(), True)
        with IsolatedDecoder(LIMITS, workers=1) as decoder:
            load_portrait(PORTRAIT, isolated=decoder)
            (pid,) = processes(decoder)
            assert b"OSMNET_TEST_TOKEN" not in Path(f"/proc/{pid}/environ").read_bytes()
            assert {int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir()} == {0, 1, 2}


CALLS = """
import os, signal, socket, sys, threading
sys.argv = ["", "512", "20", "10"]
from osmnet.media import isolated_worker as worker
worker.prepare()
worker.seal(worker.address_space() + 2**29)
done = []
thread = threading.Thread(target=lambda: done.append(sum(bytearray(2**20))))
thread.start()
thread.join()
assert done == [0]
ours = os.getpid()
for name, attempt in {
    "open": lambda: open("/etc/passwd"),
    "open after close": lambda: (os.close(2), os.open("/etc/passwd", os.O_RDONLY)),
    "socket": socket.socket,
    "fork": os.fork,
    "execve": lambda: os.execv(sys.executable, ["python", "-c", "pass"]),
    "kill": lambda: os.kill(ours, 0),
    "kill another": lambda: os.kill(1, 0),
    "unlink": lambda: os.unlink("/tmp/none"),
    "mkdir": lambda: os.mkdir("/tmp/none-osmnet"),
    "chmod": lambda: os.chmod("/tmp/none", 0o600),
    "stat": lambda: os.stat("/etc/passwd"),
    "limits of another": lambda: __import__("resource").prlimit(1, 7),
}.items():
    try:
        attempt()
    except PermissionError:
        continue
    except OSError as error:
        sys.exit(f"{name}: {error!r}")
    sys.exit(f"{name} is possible")
print("sealed")
"""


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"), reason="system calls are not limited"
)
def test_a_child_can_call_nothing_that_touches_another_process_or_a_file(subprocess_environment):
    done = subprocess.run(
        [sys.executable, "-c", CALLS], env=subprocess_environment, stdin=subprocess.DEVNULL, capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.stdout == "sealed\n", (done.stdout, done.stderr, done.returncode)


def test_a_kernel_that_refuses_a_filter_is_no_error(monkeypatch):
    from osmnet.media import seccomp

    monkeypatch.setattr(seccomp.platform, "machine", lambda: "riscv64")
    assert seccomp.limit_calls() is False
    if sys.platform == "linux":
        monkeypatch.setattr(seccomp.platform, "machine", lambda: "x86_64")
        refusing = types.SimpleNamespace(prctl=lambda *_: 0, syscall=lambda *_: -1)
        monkeypatch.setattr(seccomp.ctypes, "CDLL", lambda *_, **__: refusing)
        assert seccomp.limit_calls() is False


@pytest.mark.parametrize(
    "said",
    [
        struct.pack("!cQ", b"P", 2**40),
        struct.pack("!cQQQ", b"P", 16, 2**40, 1),
        struct.pack("!cQQQ", b"P", 17, 0, 1) + b"1",
        struct.pack("!cQ", b"D", 0),
        struct.pack("!cQ", b"S", 4) + bytes(4),
        b"?" * 9,
    ],
)
def test_what_a_child_says_is_not_trusted(tmp_path, said):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with IsolatedDecoder(LIMITS, workers=1) as decoder:
        (worker,) = decoder._idle.queue
        worker.is_ready, (worker.socket, child) = True, socket.socketpair()
        child.sendall(said)
        assert "ended unexpectedly" in refusal(load_portrait, tmp_path / "a.png", decoder)
        child.close()


def test_the_environment_variable_isolates(monkeypatch, tmp_path):
    from osmnet.media import isolated

    monkeypatch.setattr(isolated, "shared_decoder", lambda: pytest.fail("isolated"))
    load_portrait(PORTRAIT)
    monkeypatch.setenv("OSMNET_ISOLATE", "1")
    for load, path in ((load_portrait, PORTRAIT), (load_speech, tmp_path / "none.wav"), (Recording.open, "none.wav")):
        with pytest.raises(pytest.fail.Exception, match="isolated"):
            load(path)
    assert load_portrait(PORTRAIT, isolated=False).ndim == 3


def test_a_closed_decoder_leaves_no_child():
    decoder = IsolatedDecoder(LIMITS, workers=2)
    decoder.start()
    (first, second) = (worker.process for worker in decoder._idle.queue)
    decoder.close()
    assert first.returncode == second.returncode == -signal.SIGKILL
    assert load_portrait(PORTRAIT, isolated=decoder).ndim == 3
    assert processes(decoder) == set()
