"""Datasets, records and tables of strangers: each is refused in one sentence that names the file and what to do."""

import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from osmnet.data.dataset import Dataset
from osmnet.data.manifest import MAX_FRAMES, write_manifest
from osmnet.data.prepare import find_videos, key_of, read_table
from osmnet.data.prepared_video import UNFINISHED, read_records
from osmnet.data.report import write_report
from osmnet.data.segments import Options
from osmnet.data.shards import ShardWriter, encode_track, fingerprint
from osmnet.face.morphable import FaceFit, FaceModel
from osmnet.face.pose import Similarity
from osmnet.media.video_writer import VideoWriter
from osmnet.utils.bounded_json import MAX_JSON
from tests.support.videos import ramp

FRAMES, SIZE = 4, 64
DELETE = object()
FACE = FaceModel()


def track(frames: int = FRAMES, **changes: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays of a track, with others in place of some."""
    shape = np.zeros((frames, 478, 3), np.float32)
    still = Similarity(np.ones(frames), np.zeros((frames, 3, 3)), np.zeros((frames, 3)))
    fit = FaceFit(shape, np.zeros(40), np.zeros((frames, 64)), np.zeros((frames, 6)), still)
    with np.load(io.BytesIO(encode_track(shape, fit, fingerprint(FACE)))) as arrays:
        return {**arrays, **changes}


def npz(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def wav(samples: int = 640 * FRAMES, rate: int = 16_000, channels: int = 1, **kind: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.zeros((samples, channels)), rate, **{"format": "WAV", "subtype": "PCM_16", **kind})
    return file.getvalue()


def video(folder: Path, frames: int = FRAMES, size: int = SIZE) -> bytes:
    with VideoWriter(folder / "made.mp4", (size, size)) as writer:
        writer.write(ramp(frames, size, size))
    return (folder / "made.mp4").read_bytes()


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return {"mp4": video(tmp_path_factory.mktemp("video")), "npz": npz(**track()), "wav": wav()}


def make(folder: Path, members: dict[str, bytes], **row: object) -> Path:
    """A dataset of one clip, `a`."""
    rows = [{"status": "kept", "key": "a", "speaker": "ann", "frames": FRAMES, "size": SIZE, **row}]
    with ShardWriter(folder, "a") as writer:
        writer.add(rows[0], members)
    write_manifest(folder, rows)
    return folder


def edited(name: str, value: object) -> Callable[[Path], None]:
    """Give the line of the clip another value."""

    def change(folder: Path) -> None:
        row = json.loads((folder / "manifest.jsonl").read_text())
        if value is DELETE:
            del row[name]
        else:
            row[name] = value(row[name]) if callable(value) else value
        (folder / "manifest.jsonl").write_text(json.dumps(row) + "\n")

    return change


def written(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


def link_outside(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        outside = folder.parent / "outside"
        shutil.move(folder / name, outside)
        (folder / name).symlink_to(outside)

    return change


def in_place_of(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return change


def repeat_the_line(folder: Path) -> None:
    with (folder / "manifest.jsonl").open("a") as file:
        file.write((folder / "manifest.jsonl").read_text())


def about(**changes: object) -> bytes:
    return json.dumps({"format": "osmnet-dataset", "version": 1, **changes}).encode()


SHARD = "shards/a.000.tar"
STRANGE = {
    "no object": (written("manifest.jsonl", b"[]\n"), "line 1 is damaged", "object"),
    "a blank line": (written("manifest.jsonl", b"\n"), "line 1 is damaged"),
    "deep": (written("manifest.jsonl", b'{"a":' * 5000 + b"1" + b"}" * 5000), "line 1", "deep"),
    "a giant line": (written("manifest.jsonl", b" " * (MAX_JSON + 1)), "line 1", f"more than {MAX_JSON} bytes"),
    "no UTF-8": (written("manifest.jsonl", b"\xff\n"), "line 1 is damaged"),
    "a name twice": (written("manifest.jsonl", b'{"key": "a", "key": "b"}\n'), "line 1", "the name 'key' twice"),
    "many entries": (
        written("manifest.jsonl", json.dumps(dict.fromkeys(map(str, range(100)))).encode()), "line 1", "100 entries",
    ),
    "a clip twice": (repeat_the_line, "line 2 repeats the clip 'a' of line 1"),
    "no status": (edited("status", DELETE), "'status' is missing"),
    "another status": (edited("status", "lost"), "'status' must be"),
    "a status of another type": (edited("status", []), "'status' must be"),
    "no key": (edited("key", DELETE), "'key' is missing"),
    "a key of another type": (edited("key", 5), "'key' must be"),
    "a key that is a path": (edited("key", "../../a"), "'key' must be"),
    "a key of two lines": (edited("key", "a\nb"), "'key' must be"),
    "a long key": (edited("key", "a" * 256), "'key' must be"),
    "half a character": (edited("speaker", "\ud800"), "'speaker' must be"),
    "a speaker of another type": (edited("speaker", {}), "'speaker' must be"),
    "an empty name": (edited("named", ""), "'named' must be"),
    "tracks as text": (edited("tracks", "2"), "'tracks' must be a whole number"),
    "frames as text": (edited("frames", "4"), "'frames' must be a whole number", "not '4'"),
    "frames as truth": (edited("frames", True), "'frames' must be"),
    "frames with a fraction": (edited("frames", 4.5), "'frames' must be"),
    "no frames": (edited("frames", 0), "'frames' must be"),
    "too many frames": (edited("frames", MAX_FRAMES + 1), "'frames' must be"),
    "a giant size": (edited("size", 10**6), "'size' must be"),
    "a number that is none": (edited("seconds", float("nan")), "the number 'NaN'"),
    "an infinite number": (edited("seconds", float("inf")), "the number 'Infinity'"),
    "a long number": (written("manifest.jsonl", b'{"frames": ' + b"9" * 5000 + b"}"), "a number of 5000 digits"),
    "an offset beyond all": (edited("av_offset", 10**9), "'av_offset' must be"),
    "a nested note": (edited("note", ["x"]), "'note' must be"),
    "a nested entry of another name": (edited("mine", {"x": 1}), "'mine' must be"),
    "a shard outside": (edited("shard", "../x.tar"), "'shard' must be the plain name of a .tar file in shards/"),
    "a shard above": (edited("shard", "shards/../../x.tar"), "'shard' must be"),
    "an absolute shard": (edited("shard", "/etc/passwd"), "'shard' must be"),
    "a shard elsewhere": (edited("shard", "http://localhost/a.tar"), "'shard' must be"),
    "a shard in a chain": (edited("shard", "shards/a::file.tar"), "'shard' must be"),
    "a shard of Windows": (edited("shard", "shards\\a.000.tar"), "'shard' must be"),
    "a hidden shard": (edited("shard", "shards/.a.tar"), "'shard' must be"),
    "a missing shard": (edited("shard", "shards/b.000.tar"), "shards/b.000.tar' cannot be read"),
    "files of another type": (edited("files", [1, 2]), "'files' must be"),
    "a member of another type": (edited("files", {"npz": ["512", 9]}), "'files' must be"),
    "a member before the file": (edited("files", {"npz": [0, 9]}), "'files' must be"),
    "a member between blocks": (edited("files", {"npz": [513, 9]}), "'files' must be"),
    "an empty member": (edited("files", {"npz": [512, 0]}), "'files' must be"),
    "a giant member": (edited("files", {"npz": [512, 2**40]}), "'files' must be"),
    "a large track": (edited("files", {"npz": [512, 2**29]}), "npz of 'a' has 536870912 bytes"),
    "a member beyond the file": (edited("files", {"npz": [2**20, 9]}), "shorter than its manifest says"),
    "an ending that is a path": (edited("files", {"npz": [512, 9], "/x": [512, 9]}), "'files' must be"),
    "no track": (edited("files", {"mp4": [512, 9]}), "lacks the npz"),
    "a shard that is a link outside": (link_outside(SHARD), "a.000.tar' is a link to a file outside"),
    "shards that are a link outside": (link_outside("shards"), "a.000.tar' is a link to a file outside"),
    "a manifest that is a link outside": (link_outside("manifest.jsonl"), "manifest.jsonl' is a link"),
    "a shard that is a folder": (in_place_of(SHARD, Path.mkdir), "is not a file"),
    "a shard that never ends": (in_place_of(SHARD, os.mkfifo), "is not a file"),
    "a manifest that never ends": (in_place_of("manifest.jsonl", os.mkfifo), "is not a file"),
    "a link in a circle": (in_place_of(SHARD, lambda path: path.symlink_to(path)), "cannot be read"),
    "a version as truth": (written("dataset.json", about(version=True)), "of version True"),
    "a version as fraction": (written("dataset.json", about(version=1.0)), "of version 1.0"),
    "another rate": (written("dataset.json", about(fps=30)), "dataset.json' is damaged", "fps must be 25"),
    "nested settings": (written("dataset.json", about(prepared_with={"a": [1]})), "prepared_with must hold"),
    "settings of another type": (written("dataset.json", about(prepared_with="x")), "prepared_with must hold"),
    "deep settings": (written("dataset.json", b"[" * 10**5), "dataset.json' is damaged", "deep"),
    "giant settings": (written("dataset.json", b" " * (MAX_JSON + 1)), "dataset.json' has more than"),
}  # fmt: skip


@pytest.mark.parametrize("name", STRANGE)
def test_strange_manifests_are_refused_when_opened(name: str, members: dict[str, bytes], tmp_path: Path):
    change, *words = STRANGE[name]
    change(make(tmp_path / "set", members))
    with pytest.raises(ValueError) as caught:
        Dataset.open(tmp_path / "set")
    sentence = str(caught.value)
    assert all(word in sentence for word in words) and "\n" not in sentence and len(sentence) < 500
    assert str(tmp_path) in sentence and ("again" in sentence or "put the file in its place" in sentence)


def test_the_links_of_the_hubs_cache_are_followed(members: dict[str, bytes], tmp_path: Path):
    folder = make(tmp_path / "snapshots/0123", members)
    (tmp_path / "blobs").mkdir()
    for number, name in enumerate(("dataset.json", "manifest.jsonl", SHARD)):
        shutil.move(folder / name, tmp_path / f"blobs/{number}")
        (folder / name).symlink_to(Path("../" * (name.count("/") + 2)) / f"blobs/{number}")
    assert len(Dataset.open(folder).clips()[0].landmarks_px()) == FRAMES


def replaced(name: str, content: bytes | None = None, kind: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A whole track in which a member has another content or compression."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(npz(**track()))) as old, zipfile.ZipFile(file, "w") as new:
        for info in old.infolist():
            changed = info.filename == name
            new.writestr(
                info.filename, content if changed and content else old.read(info),
                kind if changed else zipfile.ZIP_DEFLATED,
            )  # fmt: skip
    return file.getvalue()


def header(shape: tuple[int, ...], kind: str = "<i2", version: tuple[int, int] = (1, 0)) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.zeros(1, kind), version)
    text = repr({"descr": kind, "fortran_order": False, "shape": shape}) + "\n"
    return b"\x93NUMPY" + bytes(version) + len(text).to_bytes(2 if version == (1, 0) else 4, "little") + text.encode()


class Spy:
    """Something that runs code when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("unpickled",)


TRACKS = {
    "no archive": (b"x" * 100, "damaged"),
    "a pickle": (npz(**track(face_model=np.array(Spy(), dtype=object))), "face_model has shape"),
    "no landmarks": (npz(**{k: v for k, v in track().items() if k != "landmarks"}), "it holds"),
    "a surplus array": (npz(**track(), more=np.zeros(3)), "it holds"),
    "more frames": (npz(**track(FRAMES + 1)), "landmarks has shape (5, 478, 3)"),
    "fewer frames of the head": (npz(**track(head_pose=np.zeros((3, 6), np.float32))), "head_pose has shape (3, 6)"),
    "landmarks of another type": (npz(**track(landmarks=np.zeros((FRAMES, 478, 3)))), "type 'float64'"),
    "no numbers": (npz(**track(identity=np.full(40, np.nan, np.float32))), "identity is not finite"),
    "thousands of coefficients": (npz(**track(identity=np.zeros(5000, np.float32))), "identity has shape (5000,)"),
    "a short descriptor": (npz(**track(), descriptor=np.zeros(64, np.float32)), "descriptor has shape (64,)"),
    "a descriptor without numbers": (npz(**track(), descriptor=np.full(128, np.nan, np.float32)), "is not finite"),
    "other coefficients": (npz(**track(identity=np.zeros(41, np.float32))), "41 and 64 coefficients"),
    "a bomb": (replaced("landmarks.npy", header((FRAMES, 478, 3)) + bytes(2**24)), "another length"),
    "a giant shape": (replaced("landmarks.npy", header((2**40, 478, 3))), "landmarks has shape"),
    "a negative shape": (replaced("identity.npy", header((-1,), "<f4")), "identity has shape (-1,)"),
    "half an array": (replaced("landmarks.npy", header((FRAMES, 478, 3)) + bytes(9)), "another length"),
    "code in a header": (replaced("landmarks.npy", header("__import__('os')")), "damaged"),
    "another format": (replaced("landmarks.npy", header((FRAMES, 478, 3), version=(2, 0))), "format 1.0"),
    "LZMA": (replaced("landmarks.npy", kind=zipfile.ZIP_LZMA), "another way than by zlib"),
    "no characters": (
        replaced("face_model.npy", header((), "<U1") + b"\xff\xff\xff\x7f"), "damaged",
    ),
}  # fmt: skip
SOUNDS = {
    "no sound": (b"x" * 100, "it is no WAV file"),
    "a cut header": (wav()[:30], "damaged"),
    "another format": (wav(format="FLAC"), "it is no WAV file"),
    "floats": (wav(subtype="FLOAT"), "its subtype is FLOAT"),
    "another rate": (wav(rate=44_100), "its samplerate is 44100"),
    "two channels": (wav(channels=2), "its channels is 2"),
    "too short": (wav(samples=600), "its frames is 600 instead of 2560"),
    "cut off": (wav()[:-1000], "instead of 2560"),
}


def test_a_track_may_have_a_descriptor(members: dict[str, bytes], tmp_path: Path):
    described = {**members, "npz": npz(**track(), descriptor=np.arange(128, dtype=np.float32))}
    (clip,) = Dataset.open(make(tmp_path / "set", described)).clips()
    assert clip.descriptor().tolist() == list(range(128))
    (clip,) = Dataset.open(make(tmp_path / "earlier", members)).clips()
    assert clip.descriptor() is None


@pytest.mark.parametrize(("ending", "name"), [("npz", name) for name in TRACKS] + [("wav", name) for name in SOUNDS])
def test_strange_members_are_refused_before_they_are_read(
    ending: str, name: str, members: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    content, word = {"npz": TRACKS, "wav": SOUNDS}[ending][name]
    clip = Dataset.open(make(tmp_path / "set", {**members, ending: content})).clips()[0]
    with pytest.raises(ValueError) as caught:
        clip.fit(FACE) if ending == "npz" else clip.speech()
    sentence = str(caught.value)
    assert word in sentence and "of clip 'a' is damaged" in sentence and "prepare it again" in sentence
    assert "\n" not in sentence and len(sentence) < 500 and not Path("unpickled").exists()


@pytest.mark.parametrize(
    ("made", "row", "word"),
    [
        ({"frames": 3}, {}, "3 frames instead of 4"),
        ({"size": 80}, {}, "a picture of 80 x 80 pixels instead of 64"),
        ({"size": 160}, {}, "pictures of 160 x 160 pixels, and the limit is 0.0164 million"),
        (None, {}, "cannot be decoded as a video"),
    ],
)
def test_strange_videos_of_clips_are_refused(made, row, word, members, tmp_path: Path):
    content = b"x" * 100 if made is None else video(tmp_path, **made)
    clip = Dataset.open(make(tmp_path / "set", {**members, "mp4": content}, **row)).clips()[0]
    with pytest.raises(ValueError, match=f"The video of clip 'a' is damaged .*{word}.*prepare it again"):
        list(clip.read_frames())


def test_members_are_those_that_the_manifest_names(members: dict[str, bytes], tmp_path: Path):
    folder = make(tmp_path / "set", members)
    edited("files", lambda files: files | {"wav": files["npz"], "npz": files["wav"]})(folder)
    clip = Dataset.open(folder).clips()[0]
    with pytest.raises(ValueError, match="has no file 'a.npz' of .* as its manifest says"):
        clip.landmarks_px()
    with (folder / SHARD).open("r+b") as shard:  # a link in place of a file
        shard.seek(clip.info["files"]["mp4"][0] - 512 + 156)
        shard.write(b"2")
    with pytest.raises(ValueError, match="has no file 'a.mp4'"):
        list(clip.read_frames())


@pytest.mark.integration
def test_the_report_needs_no_measures(members: dict[str, bytes], tmp_path: Path):
    rows = [clip.info for clip in Dataset.open(make(tmp_path / "set", members)).clips()]
    assert "1 more" not in write_report(tmp_path / "set", rows, {}).read_text()


# What `osmnet prepare` reads


def record(**changes: object) -> bytes:
    stamp = {"source": "a.mp4", "video": "a", "source_bytes": 9, "source_mtime": 9}
    rows = [{"status": "dropped", "reason": "no face", "seconds": 1.0, **stamp}]
    return json.dumps({"digest": "0", "prepared_with": {}, **stamp, "rows": rows, **changes}).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"", b"[]", b"[" * 10**5, record(video="../../a"), record(video="b"), record(digest=1), record(rows=[1]),
        record(rows={}), record(rows=[{"status": "kept"}]), record(prepared_with=[]), record(source_bytes="9"),
        record(rows=[{"status": "dropped", "source": "a", "reason": "", "video": "b"}]),
    ],
)  # fmt: skip
def test_strange_records_are_refused(content: bytes, tmp_path: Path):
    (tmp_path / UNFINISHED).mkdir()
    (tmp_path / UNFINISHED / "a.json").write_bytes(record())
    assert set(read_records(tmp_path)) == {"a"}
    (tmp_path / UNFINISHED / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"a.json' is damaged .*; delete it") as caught:
        read_records(tmp_path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no columns"),
        (b"file\na\0.mp4\n", "line 2: 'a.x00.mp4' is no name"),
        (b"file,speech,speech\n", "line 1: it names a column twice"),
        (b"file,speech\na.mp4,yes,3\n", "line 2: it has 3 cells"),
        (b"file\na.mp4\na.mp4\n", "line 3: the file 'a.mp4' is there twice"),
        (b"file\n" + b"a" * 200_000, "line .: field larger"),
        (b'file\n"a.mp4\n', "line .: unexpected end"),
        (b"file,av_offset_frames\na.mp4,1e3\n", "line 2: av_offset_frames is '1e3'"),
        (b"file,av_offset_frames\na.mp4,99999\n", "beyond 1500 frames"),
        (b"file,av_offset_frames\na.mp4," + b"9" * 9000, "'99.*, not a whole number"),
        ("file,av_offset_frames\na.mp4,\u0663\n".encode(), "not a whole number"),
        (b"file,speaker\na.mp4,a\x1bb\n", "line 2: speaker is"),
        (b"file,speaker\na.mp4," + b"a" * 9000, "line 2: speaker is"),
        (b"file\n" + b"\n" * 2**24, "more than 16777216 bytes"),
        (b"\xff\xfe\0", "cannot be read"),
    ],
)
def test_strange_tables_are_refused(content: bytes, words: str, tmp_path: Path):
    (tmp_path / "clips.csv").write_bytes(content)
    with pytest.raises(ValueError, match=words) as caught:
        read_table(tmp_path / "clips.csv")
    assert "clips.csv" in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_names_of_videos_make_keys(tmp_path: Path):
    assert key_of(Path("a.b\\c\nd.mp4")) == "a_b_c_d"
    try:
        Path(os.fsdecode(bytes(tmp_path) + b"/\xff.mp4")).touch()
    except OSError:
        pytest.skip("this file system has UTF-8 names only")
    with pytest.raises(ValueError, match="is not valid UTF-8; rename it"):
        find_videos([tmp_path])


@pytest.mark.parametrize("seconds", [float("inf"), float("nan"), 1e9])
def test_clips_are_no_longer_than_a_dataset_may_have(seconds: float):
    with pytest.raises(ValueError, match="that at most 3600"):
        Options(max_seconds=seconds)
