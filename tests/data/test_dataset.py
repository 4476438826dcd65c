"""Shards, the manifest, clips read from them, splits, and the pool that training draws from."""

import functools
import http.server
import json
import re
import shutil
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest

from osmnet.data.dataset import Clip, Dataset, is_held_out, speaker_of
from osmnet.data.manifest import read_manifest, write_manifest
from osmnet.data.pool import ClipPool
from osmnet.data.shards import ShardWriter, fingerprint, shard_name
from osmnet.face.morphable import FaceModel
from osmnet.face.topology import mouth_opening
from osmnet.media.video_writer import VideoWriter
from tests.support.clips import dataset_of, mouth_curve, pose_curve, talking_landmarks, voice
from tests.support.dummies import FACE_MODEL
from tests.support.videos import ramp


@pytest.fixture(scope="module")
def shipped() -> FaceModel:
    return FaceModel.from_pretrained(FACE_MODEL)


@pytest.fixture(scope="module")
def dataset_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of voice, grey frames and a face that talks, as a dataset of three speakers; leave it as it is."""
    folder = tmp_path_factory.mktemp("data")
    with VideoWriter(folder / "grey.mp4", (256, 256), waveform=voice(mouth_curve())) as writer:
        writer.write(ramp(50, 256, 256))
    landmarks = talking_landmarks(mouth_curve(), pose_curve(), 256)
    names = ("ann-voice", "bob-voice", "opentalker-face-1")
    return dataset_of(folder / "grey.mp4", folder / "set", names, landmarks=landmarks)


def _clips(count: int, frames: int = 10) -> list[Clip]:
    return [Clip("nowhere", {"key": f"clip-{i:03d}", "speaker": f"s{i}", "frames": frames}) for i in range(count)]


def test_clip_has_picture_track_and_sound_that_belong_together(dataset_folder: Path, shipped: FaceModel):
    clip = Dataset.open(dataset_folder).clips()[0]
    frames = list(clip.read_frames())
    assert len(frames) == clip.frames == 50 and frames[0].shape == (clip.size, clip.size, 3)
    assert np.array_equal(list(clip.read_frames(7, 9)), frames[7:9])
    assert clip.speech().shape == (50 * 640,) and clip.mel_windows().shape == (50, 16, 16)
    fit = clip.fit(shipped)
    assert np.corrcoef(mouth_opening(fit.shape), mouth_curve())[0, 1] > 0.8
    assert np.corrcoef(fit.head_pose[:, 0], pose_curve()[:, 0])[0, 1] > 0.8


def test_stored_fit_is_used_only_for_the_face_model_it_belongs_to(dataset_folder: Path, shipped: FaceModel):
    clip = Dataset.open(dataset_folder).clips()[0]
    stored, anew = clip.fit(shipped), shipped.fit_track(clip.landmarks_px(), clip.size)
    assert np.allclose(stored.expression, anew.expression, atol=0.1)  # rounding of the landmarks
    other = FaceModel.from_pretrained(FACE_MODEL)
    other.geometry["expression_basis"].data.mul_(2)
    assert fingerprint(other) != fingerprint(shipped)
    assert np.allclose(clip.fit(other).expression, anew.expression / 2, atol=0.05)


def test_webdataset_reads_the_shards(dataset_folder: Path):
    import webdataset

    shards = [str(file) for file in sorted((dataset_folder / "shards").glob("*.tar"))]
    samples = list(webdataset.WebDataset(shards, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == ["ann-voice", "bob-voice", "opentalker-face-1"]
    clip = Dataset.open(dataset_folder).clips()[1]
    for ending in ("mp4", "wav", "npz"):
        assert samples[1][ending] == clip._read(ending)


def test_clips_are_fetched_over_http_without_the_rest_of_the_shard(dataset_folder: Path):
    class Handler(http.server.SimpleHTTPRequestHandler):
        served: list[tuple[str, int]] = []

        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self._answer(body=False)

        def do_GET(self):
            self._answer(body=True)

        def _answer(self, body: bool):
            content = (dataset_folder / self.path.lstrip("/")).read_bytes()
            wanted = self.headers.get("Range")
            part = content
            if wanted:
                first, last = (int(n) for n in wanted.removeprefix("bytes=").split("-"))
                part = content[first : last + 1]
            self.send_response(206 if wanted else 200)
            self.send_header("Accept-Ranges", "bytes")
            if wanted:
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
            self.send_header("Content-Length", str(len(part)))
            self.end_headers()
            if body:
                Handler.served.append((self.path, len(part)))  # first: the client may look as soon as it has it
                self.wfile.write(part)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        remote = Dataset.open(f"http://127.0.0.1:{server.server_port}/")
        local = Dataset.open(dataset_folder)
        Handler.served.clear()
        assert np.array_equal(remote.clips()[1].speech(), local.clips()[1].speech())
        info = local.clips()[1].info
        assert Handler.served == [(f"/{info['shard']}", 512 + info["files"]["wav"][1])]  # with its header
    finally:
        server.shutdown()


def test_shards_are_bounded_and_appear_whole_or_not_at_all(tmp_path: Path):
    rows = [{"key": f"clip-{i}"} for i in range(5)]
    with ShardWriter(tmp_path, "ann", max_bytes=3000) as writer:
        for i, row in enumerate(rows):
            writer.add(row, {"mp4": bytes([i]) * 1500, "json": b"{}"})
        assert not list((tmp_path / "shards").glob("*.tar"))
    assert [row["shard"][-7:-4] for row in rows] == ["000", "000", "001", "001", "002"]
    for i, row in enumerate(rows):
        start, size = row["files"]["mp4"]
        assert (tmp_path / row["shard"]).read_bytes()[start : start + size] == bytes([i]) * 1500
    with pytest.raises(RuntimeError), ShardWriter(tmp_path, "bob") as broken:
        broken.add({"key": "clip-10"}, {"mp4": b"x"})
        raise RuntimeError
    with ShardWriter(tmp_path, "empty"):
        pass
    assert sorted(file.name for file in (tmp_path / "shards").iterdir()) == [f"ann.00{i}.tar" for i in range(3)]
    for name in ("a.b", "a/b", ""):
        with pytest.raises(ValueError, match="cannot be called"), ShardWriter(tmp_path, "bob") as writer:
            writer.add({"key": name}, {"mp4": b""})


def test_shards_of_the_same_clips_are_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for seconds, folder in enumerate((tmp_path / "a", tmp_path / "b")):
        monkeypatch.setattr("time.time", lambda seconds=seconds: 1e9 + seconds)
        with ShardWriter(folder, "ann") as writer:
            writer.add({"key": "ann-000"}, {"mp4": b"picture"})
    assert (tmp_path / "a/shards/ann.000.tar").read_bytes() == (tmp_path / "b/shards/ann.000.tar").read_bytes()


def test_any_name_of_a_video_gives_a_shard_that_any_address_can_name(tmp_path: Path):
    names = ["ann-1", "a b?#%20", "a b?#%21", "ä" * 120, "{0..9}"]
    made = [shard_name(name) for name in names]
    assert made[0] == "ann-1" and len(set(made)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,110}", name) for name in made)


def test_long_names_keep_their_place(tmp_path: Path):
    name = "very-" * 40 + "long"
    row = {"key": name}
    with ShardWriter(tmp_path, name) as writer:
        writer.add(row, {"mp4": b"picture", "wav": b"sound"})
    with tarfile.open(tmp_path / row["shard"]) as tar:
        assert tar.getnames() == [f"{name}.mp4", f"{name}.wav"]
    start, size = row["files"]["wav"]
    assert (tmp_path / row["shard"]).read_bytes()[start : start + size] == b"sound"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "dataset.json").unlink(), "is not a prepared dataset"),
        (lambda folder: (folder / "manifest.jsonl").unlink(), "is not a prepared dataset"),
        (lambda folder: _edit(folder, "dataset.json", '"version": 1', '"version": 7'), "of version 7, and this"),
        (lambda folder: (folder / "dataset.json").write_text("[]"), "of version None"),
        (lambda folder: _edit(folder, "manifest.jsonl", '"frames"', '"fram'), "line 1 is damaged"),
        (lambda folder: (folder / "manifest.jsonl").write_text("3\n"), "line 1 is damaged"),
    ],
)
def test_other_and_damaged_datasets_are_refused_in_one_sentence(dataset_folder, tmp_path, change, message):
    shutil.copytree(dataset_folder, tmp_path / "set")
    change(tmp_path / "set")
    with pytest.raises(ValueError, match=message) as caught:
        Dataset.open(tmp_path / "set")
    assert str(caught.value).count("\n") == 0


def _edit(folder: Path, name: str, old: str, new: str) -> None:
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new))


def test_missing_and_cut_off_shards_are_refused(dataset_folder: Path, tmp_path: Path):
    shutil.copytree(dataset_folder, tmp_path / "set")
    clip = Dataset.open(tmp_path / "set").clips()[-1]
    shard = tmp_path / "set" / clip.info["shard"]
    shard.write_bytes(shard.read_bytes()[: clip.info["files"]["wav"][0] + 10])
    with pytest.raises(ValueError, match="shorter than its manifest says"):
        clip.speech()
    shard.unlink()
    with pytest.raises(ValueError, match="cannot be read"):
        clip.landmarks_px()


@pytest.mark.parametrize(("ending", "place"), [("npz", 0), ("npz", 0.5), ("npz", -1), ("wav", 0)])
def test_damaged_members_are_refused_in_one_sentence(dataset_folder: Path, tmp_path: Path, ending: str, place: float):
    """Whatever library notices: all that reads clips counts on ValueError to leave one out and go on."""
    folder = shutil.copytree(dataset_folder, tmp_path / "set")
    clip = Dataset.open(folder).clips()[0]
    start, size = clip.info["files"][ending]
    with open(folder / clip.info["shard"], "r+b") as file:
        file.seek(start + (size - 100 if place < 0 else int(place * size)))
        file.write(b"\xa5" * 100)
    with pytest.raises(ValueError, match=f"{clip.name}' is damaged"):
        clip.landmarks_px() if ending == "npz" else clip.speech()


def test_manifest_keeps_what_was_dropped_but_clips_leave_it_out(tmp_path: Path):
    kept = {"status": "kept", "key": "a", "speaker": "a", "frames": 5, "size": 9}
    dropped = {"status": "dropped", "source": "b\u2028.mp4", "reason": "no face"}  # which `str.splitlines` would split
    with ShardWriter(tmp_path, "a") as writer:
        writer.add(kept, {"npz": b"track"})
    write_manifest(tmp_path, [kept, dropped], options={"max_seconds": 20})
    assert read_manifest(tmp_path) == [kept, dropped]
    assert json.loads((tmp_path / "dataset.json").read_text())["options"] == {"max_seconds": 20}
    dataset = Dataset.open(tmp_path)
    assert [clip.name for clip in dataset.clips()] == ["a"]
    with pytest.raises(ValueError, match="has no clips with speech"):
        dataset.clips(speech=True)
    with pytest.raises(ValueError, match="crop of 250 pixels"):
        dataset.clips(min_size=250)
    with pytest.raises(ValueError, match="has no mp4"):
        list(dataset.clips()[0].read_frames())


def test_split_by_speaker_never_shares_a_speaker():
    rows = [row.info | {"status": "kept", "files": {"mp4": [0, 0]}, "shard": "", "size": 256} for row in _clips(60)]
    training, held_out = Dataset("nowhere", rows).split()
    assert training and held_out and len(training) + len(held_out) == 60
    assert not any(is_held_out(clip.speaker) for clip in training)
    assert all(is_held_out(clip.speaker) for clip in held_out)
    one = [row | {"speaker": "bob"} for row in rows]
    training, held_out = Dataset("nowhere", one).split()
    assert training == held_out and len(training) == 60
    name = next(clip.speaker for clip in Dataset("nowhere", rows).clips() if is_held_out(clip.speaker))
    with pytest.raises(ValueError, match="all speakers"):
        Dataset("nowhere", [row | {"speaker": name} for row in rows]).split()


@pytest.mark.parametrize("count", [2, 4, 5, 23])
def test_split_by_clip_holds_out_a_fifth(count: int):
    rows = [row.info | {"status": "kept", "files": {"mp4": [0, 0]}, "shard": "", "size": 256} for row in _clips(count)]
    training, held_out = Dataset("nowhere", rows).split(by="clip")
    assert len(held_out) == max(count // 5, 1) and len(training) + len(held_out) == count
    assert not {clip.name for clip in training} & {clip.name for clip in held_out}
    with pytest.raises(ValueError, match="single clip"):
        Dataset("nowhere", rows[:1]).split(by="clip")
    with pytest.raises(ValueError, match="'speaker' or 'clip'"):
        Dataset("nowhere", rows).split(by="person")


def test_names_tell_speakers():
    assert speaker_of("ann-clip1") == speaker_of("ann-clip2") == "ann"
    assert speaker_of("x-clip-m030-front-angry-1") == speaker_of("x-clip-m030-front-sad-2") == "x-clip-m030"
    assert speaker_of("12") == "12"


def test_small_datasets_are_held_whole_and_made_once():
    made = []
    pool = ClipPool(_clips(6), lambda clip: made.append(clip.name) or clip.name, capacity=6, turnover=1)
    assert pool.at(0) == pool.at(1000) == [f"clip-{i:03d}" for i in range(6)]
    assert len(made) == 6


def test_pool_of_a_large_dataset_moves_on_and_visits_everything():
    made = []
    pool = ClipPool(_clips(20), lambda clip: made.append(clip.name) or clip.name, capacity=5, turnover=10)
    before, seen = set(), set()
    for step in range(400):
        items = pool.at(step)
        assert len(items) <= 5
        seen |= set(items)
        if step % 10 == 0 and step:
            assert len(set(items) ^ before) <= 2  # one leaves, one comes
        before = set(items)
    assert seen == {f"clip-{i:03d}" for i in range(20)}
    assert len(made) < 60


def test_pool_at_a_step_does_not_depend_on_what_was_asked_before():
    clips = _clips(20)
    walked = ClipPool(clips, lambda clip: clip.name, capacity=4, turnover=3, seed=5)
    path = [walked.at(step) for step in range(50)]
    assert ClipPool(clips, lambda clip: clip.name, capacity=4, turnover=3, seed=5).at(37) == path[37]
    assert any(
        ClipPool(clips, lambda clip: clip.name, capacity=4, turnover=3, seed=6).at(s) != path[s] for s in (0, 9)
    )


def test_processes_share_the_clips_and_unusable_ones_are_left_out():
    parts = [ClipPool(_clips(7), lambda clip: clip.name, rank=rank, world=3).at(0) for rank in range(3)]
    assert sorted(sum(parts, [])) == [f"clip-{i:03d}" for i in range(7)]
    assert ClipPool(_clips(2), lambda clip: clip.name, rank=2, world=3).at(0) == ["clip-000", "clip-001"]
    even = ClipPool(_clips(6), lambda clip: None if int(clip.name[-1]) % 2 else clip.name)
    assert even.at(0) == ["clip-000", "clip-002", "clip-004"]
    with pytest.raises(ValueError, match="None of the 6 clips"):
        ClipPool(_clips(6), lambda clip: None).at(0)
