"""Small valid inputs of every kind, made on the fly; what is mutated."""

from __future__ import annotations

import io
import json
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageCms

from tests.fuzz.kinds.shared import environment
from tests.fuzz.mutate import PNG_MAGIC, png_chunk
from tests.support.dummies import SAMPLING_RATE, portrait, speech, write_wav

FRAMES = 10
BOMB_FRAMES = 160_000  # of landmarks: 460 MB in an npz of 450 kB


def make_seeds(folder: Path) -> None:
    """Write all seeds; takes some seconds."""
    with environment(OSMNET_HOME=str(folder / "home")):
        for make in (_pictures, _sounds, _videos, _settings):
            part = folder / make.__name__.strip("_")
            part.mkdir()
            for name, content in make(part).items():
                (part / name).write_bytes(content)
        _call(folder)
        _model(folder / "model")
        _dataset(folder)
        _takes(folder)
        _checkpoint(folder / "checkpoints")


@cache
def contents(folder: Path) -> dict[str, bytes]:
    """Read the files of a folder and those below it, by relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _pictures(part: Path) -> dict[str, bytes]:
    face = Image.fromarray(portrait(128))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a picture"
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    palette = face.quantize(32)
    clear = face.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(face.size))
    small = [face.resize((32, 32)), face.resize((32, 32)).rotate(90)]
    many: dict[str, Any] = {"save_all": True, "append_images": small[1:]}
    grey16 = Image.fromarray(np.asarray(face.convert("L")).astype(np.uint16) * 257)
    kinds: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {
        "rgb.png": (face, "PNG", {"exif": exif.tobytes(), "icc_profile": icc}),
        "alpha.png": (clear, "PNG", {}),
        "palette.png": (palette, "PNG", {"transparency": 3, "bits": 8}),
        "grey16.png": (grey16, "PNG", {}),
        "bits.png": (face.convert("1"), "PNG", {}),
        "animated.png": (small[0], "PNG", many),
        "plain.jpg": (face, "JPEG", {"quality": 60, "exif": exif.tobytes(), "icc_profile": icc}),
        "progressive.jpg": (face, "JPEG", {"quality": 50, "progressive": True}),
        "cmyk.jpg": (face.convert("CMYK"), "JPEG", {"quality": 50}),
        "lossy.webp": (face, "WEBP", {"quality": 50, "exif": exif.tobytes(), "icc_profile": icc}),
        "lossless.webp": (clear.resize((48, 48)), "WEBP", {"lossless": True}),
        "animated.webp": (small[0], "WEBP", many),
        "animated.gif": (small[0].quantize(16), "GIF", {**many, "loop": 0}),
        "plain.bmp": (face.resize((40, 40)), "BMP", {}),
        "palette.bmp": (palette.resize((40, 40)), "BMP", {}),
        "deflate.tiff": (face, "TIFF", {"compression": "tiff_adobe_deflate", "exif": exif.tobytes()}),
        "lzw.tiff": (small[0], "TIFF", {**many, "compression": "tiff_lzw"}),
        "raw16.tiff": (grey16.resize((32, 32)), "TIFF", {}),
        "small.tga": (small[0], "TGA", {"compression": "tga_rle"}),
        "small.ico": (small[0], "ICO", {}),
        "small.ppm": (small[0], "PPM", {}),
        "small.jp2": (face, "JPEG2000", {"quality_mode": "rates", "quality_layers": [20]}),
        "small.avif": (face, "AVIF", {"quality": 40}),
    }
    made = {}
    for name, (image, format, options) in kinds.items():
        file = io.BytesIO()
        try:
            image.save(file, format, **options)
        except (KeyError, OSError):  # this build of PIL lacks the format
            continue
        made[name] = file.getvalue()
    return made


def giant_png(width: int, height: int, bits: int = 1, colour: int = 0) -> bytes:
    """Build a valid PNG of one colour: few bytes, many pixels."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    row = bytes(1 + -(-width * bits * channels // 8))
    packer = zlib.compressobj(1)
    packed = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([bits, colour, 0, 0, 0])
    palette = png_chunk(b"PLTE", bytes(6)) + png_chunk(b"tRNS", b"\x80") if colour == 3 else b""
    return PNG_MAGIC + png_chunk(b"IHDR", header) + palette + png_chunk(b"IDAT", packed) + png_chunk(b"IEND", b"")


def _sounds(part: Path) -> dict[str, bytes]:
    voice = speech(0.5)
    forms = {
        "pcm16.wav": ("wav", "pcm_s16le", 16000, "mono", {}),
        "float.wav": ("wav", "pcm_f32le", 8000, "stereo", {}),
        "pcm24.wav": ("wav", "pcm_s24le", 16000, "5.1", {}),
        "law.wav": ("wav", "pcm_mulaw", 8000, "mono", {}),
        "adpcm.wav": ("wav", "adpcm_ms", 16000, "mono", {}),
        "plain.w64": ("w64", "pcm_s16le", 16000, "mono", {}),
        "plain.aiff": ("aiff", "pcm_s16be", 16000, "mono", {}),
        "plain.au": ("au", "pcm_s16be", 16000, "mono", {}),
        "plain.caf": ("caf", "pcm_s16le", 16000, "mono", {}),
        "plain.flac": ("flac", "flac", 16000, "mono", {}),
        "plain.mp3": ("mp3", "libmp3lame", 16000, "mono", {}),
        "vorbis.ogg": ("ogg", "libvorbis", 16000, "mono", {}),
        "opus.ogg": ("ogg", "libopus", 48000, "mono", {}),
        "plain.m4a": ("ipod", "aac", 16000, "mono", {}),
        "plain.aac": ("adts", "aac", 16000, "mono", {}),
        "plain.ac3": ("ac3", "ac3", 48000, "mono", {}),
        "plain.wv": ("wv", "wavpack", 16000, "mono", {}),
        "plain.mka": ("matroska", "libopus", 48000, "mono", {}),
        "plain.asf": ("asf", "wmav2", 16000, "mono", {}),
    }
    return _encoded(part, forms, voice, None)


def _videos(part: Path) -> dict[str, bytes]:
    voice, face = speech(FRAMES / 25), portrait(128)
    frames = np.stack([np.roll(face, k, 1) for k in range(FRAMES)])
    forms = {
        "plain.mp4": ("mp4", "aac", 16000, "mono", {"movflags": "faststart"}),
        "pieces.mp4": ("mp4", "aac", 16000, "mono", {"movflags": "frag_keyframe+empty_moov"}),
        "plain.mov": ("mov", "pcm_s16le", 16000, "mono", {}),
        "plain.mkv": ("matroska", "libopus", 48000, "mono", {}),
        "plain.webm": ("webm", "libopus", 48000, "mono", {}),
        "plain.avi": ("avi", "libmp3lame", 16000, "mono", {}),
        "plain.ts": ("mpegts", "aac", 16000, "mono", {}),
        "plain.mpg": ("mpeg", "mp2", 16000, "mono", {}),
        "plain.flv": ("flv", "aac", 44100, "mono", {}),
        "silent.mp4": ("mp4", None, 0, "", {}),
        "plain.gif": ("gif", None, 0, "", {}),
    }
    return _encoded(part, forms, voice, frames)


_PICTURES = {"webm": "libvpx-vp9", "avi": "mpeg4", "mpeg": "mpeg2video", "gif": "gif", "flv": "flv"}


def _encoded(part: Path, forms: dict[str, tuple], voice: np.ndarray, frames: np.ndarray | None) -> dict[str, bytes]:
    made = {}
    for name, (format, codec, rate, layout, options) in forms.items():
        path = part / f"making-{name}"
        try:
            with av.open(str(path), "w", format=format, options=options) as container:
                _encode(container, format, codec, rate, layout, voice, frames)
            made[name] = path.read_bytes()
        except (av.FFmpegError, ValueError):  # this build of FFmpeg lacks the encoder
            pass
        path.unlink(missing_ok=True)
    return made


def _encode(container: Any, format: str, codec: str | None, rate: int, layout: str, voice: Any, frames: Any) -> None:
    picture = sound = None
    if frames is not None:
        picture = container.add_stream(_PICTURES.get(format, "libx264"), rate=25)
        picture.height, picture.width = frames.shape[1:3]
        picture.pix_fmt = "rgb8" if format == "gif" else "yuv420p"
    if codec is not None:
        sound = container.add_stream(codec, rate=rate, layout=layout)
    for k in range(len(frames) if picture else 0):
        frame = av.VideoFrame.from_ndarray(frames[k])
        container.mux(picture.encode(frame))
    if picture:
        container.mux(picture.encode())
    if sound:
        frame = av.AudioFrame.from_ndarray((voice[None] * 32767).astype(np.int16), format="s16", layout="mono")
        frame.sample_rate = SAMPLING_RATE
        resampler = av.AudioResampler(sound.format, sound.layout, rate, frame_size=sound.codec_context.frame_size or 0)
        for each in resampler.resample(frame) + resampler.resample(None):
            each.pts = None
            container.mux(sound.encode(each))
        container.mux(sound.encode())


def _call(folder: Path) -> None:
    """Write valid inputs of a call, whose other arguments are strange."""
    (folder / "call").mkdir()
    for name, source in (("portrait.png", "pictures/rgb.png"), ("speech.wav", "sounds/pcm16.wav"),
                         ("clip.mp4", "videos/silent.mp4")):  # fmt: skip
        (folder / "call" / name).write_bytes((folder / source).read_bytes())


def _model(folder: Path) -> None:
    from osmnet.pipelines.osm_net.pipeline_osm_net import OSMNetPipeline

    OSMNetPipeline.tiny().save_pretrained(folder)


def _dataset(folder: Path) -> None:
    from osmnet.media.video_writer import VideoWriter
    from tests.support.clips import dataset_of, mouth_curve, pose_curve, talking_landmarks

    video = folder / "clip.mp4"
    frames = np.stack([portrait(128)] * FRAMES)
    with VideoWriter(video, (128, 128), waveform=speech(FRAMES / 25)) as writer:
        writer.write(frames)
    landmarks = talking_landmarks(mouth_curve(FRAMES), pose_curve(FRAMES), 128)
    dataset_of(video, folder / "dataset", ("ann-a", "bob-a", "opentalker-face-1"), landmarks=landmarks)
    bomb = io.BytesIO()
    np.savez_compressed(bomb, landmarks=np.zeros((BOMB_FRAMES, 478, 3), np.int16))
    (folder / "bomb.npz").write_bytes(bomb.getvalue())


def _takes(folder: Path) -> None:
    from osmnet.pipelines.osm_net.pipeline_osm_net import OSMNetPipeline
    from osmnet.provenance.manifest import sign
    from osmnet.takes.unfinished import UnfinishedRun

    takes, work = folder / "takes", folder / "work"
    pipe = OSMNetPipeline.tiny()
    sound = (speech(0.5), SAMPLING_RATE)
    pipe(portrait(128), sound, seed=7, size=64, output_type="lazy").save(takes, sheet=False)
    face = Image.fromarray(portrait(48))
    for ending in ("png", "jpg", "webp", "gif"):
        face.save(takes / f"signed.{ending}")
        sign(takes / f"signed.{ending}")
    record = {
        "seed": 7, "take_seeds": [7], "frames": 13, "part_frames": 1500, "frame_size": [64, 64],
        "precision": "float32", "drawn_on": ["cpu", "libx264"], "inputs": "0" * 32, "label": True, "consent": None,
        "versions": {"osmnet": "1"},
    }  # fmt: skip
    work.mkdir()
    face.save(work / "portrait.png")
    write_wav(work / "speech.wav", speech(0.4))
    run = UnfinishedRun(work, record)
    run.begin(resume=False, replaced=[work / "portrait.png"])
    run.mark_take(0, work / "speech.wav")
    run.leave()


def _checkpoint(folder: Path) -> None:
    state = np.arange(8, dtype=np.float32).tobytes()
    for step in (2, 4):
        one = folder / f"checkpoint-{step:06d}"
        one.mkdir(parents=True)
        (one / "state.bin").write_bytes(state)
        sums = {"state.bin": [len(state), zlib.crc32(state)]}
        (one / "config.json").write_text(json.dumps({"step": step, "settings": {}, "files": sums}))


def _settings(part: Path) -> dict[str, bytes]:
    from tests.support.dummies import REPOSITORY

    made = {path.name: path.read_bytes() for path in sorted((REPOSITORY / "configs").glob("*.yaml"))}
    made["table.csv"] = b"file,speech,av_offset_frames,speaker\nclip.mp4,yes,2,ann\nother.mp4,no,,bob\n"
    return made
