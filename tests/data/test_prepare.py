"""Preparing raw videos: the right face, the right sound, whole datasets whatever happens on the way."""

import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from osmnet.cli.prepare import main
from osmnet.data import prepare, prepared_video, shards
from osmnet.data.cluster import WorkerKilled, on_processes, on_ray
from osmnet.data.dataset import Clip, Dataset
from osmnet.data.offset import LipReader
from osmnet.data.prepared_video import UNFINISHED, CannotSave, Job, prepare_video, read_records
from osmnet.data.segments import Known, Options, sharpness_of
from osmnet.data.shards import ShardWriter
from osmnet.data.track import track_faces
from osmnet.face.crop import CropBox, to_crop
from osmnet.face.landmarker import FaceLandmarker
from osmnet.face.morphable import FaceModel
from osmnet.face.topology import mouth_opening
from osmnet.loading.packaged import packaged_landmarker, packaged_weights
from osmnet.media.audio import load_speech
from osmnet.media.video_reader import read_frames
from osmnet.media.video_writer import VideoWriter
from osmnet.utils import files
from osmnet.utils.files import only_run_in
from tests.support import worker_jobs
from tests.support.clips import SIZE, mouth_curve, talking_frames
from tests.support.dummies import REPOSITORY
from tests.support.worker_jobs import work

pytestmark = pytest.mark.integration

FRAMES = 100
LATE = 4  # frames by which the picture of shifted.mp4 is late


def job_of(video: Path, out: Path, **more: object) -> Job:
    (out / UNFINISHED).mkdir(parents=True, exist_ok=True)
    return Job(video, prepare.key_of(video), out, packaged_weights(), packaged_landmarker(), **more)


def prepared_rows(job: Job) -> list[dict]:
    return read_records(job.out)[job.key]["rows"]


def rows_of(folder: Path, status: str = "kept") -> list[dict]:
    return [row for row in prepare.read_manifest(folder) if row["status"] == status]


def write_video(path: Path, frames: np.ndarray, waveform: np.ndarray | None = None) -> Path:
    with VideoWriter(path, frames.shape[1:3], waveform=waveform) as writer:
        writer.write(frames)
    return path


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    waveform = load_speech(REPOSITORY / "examples" / "speech_1.wav")
    start = 640 * 10
    return waveform[start : start + 640 * (FRAMES + 2 * LATE)]


@pytest.fixture(scope="module")
def opening(speech: np.ndarray) -> np.ndarray:
    """How a mouth opens that says `speech`, whole length, head units."""
    import torch

    reader = LipReader.load(packaged_weights())
    heard = reader.listen(speech)
    beta = reader.extractor.extract(heard.windows, np.zeros(40, np.float32), speech=heard.features)
    with torch.inference_mode():
        curve = mouth_opening(reader.face_model(torch.zeros(40), torch.from_numpy(beta)).numpy())
    return np.clip(1.5 * (curve - np.percentile(curve, 20)), 0, 0.3)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory, speech: np.ndarray, opening: np.ndarray) -> Path:
    """Videos of all kinds, good and bad."""
    folder = tmp_path_factory.mktemp("raw")
    speaks = talking_frames(opening[LATE : LATE + FRAMES])
    # What is heard at frame k was to be seen at k - LATE: the picture is late.
    write_video(folder / "shifted.mp4", speaks, speech[2 * LATE * 640 :][: FRAMES * 640])
    # Another scene in the middle, and no sound.
    other = talking_frames(mouth_curve(28), portrait="hopper")
    write_video(folder / "silent.cut.mp4", np.concatenate([speaks[:27], other]))
    # The larger of two people listens and chews.
    chews = talking_frames(0.15 * np.abs(np.sin(np.arange(FRAMES) * 0.9)), portrait="hopper")
    small = np.stack([frame[::2, ::2] for frame in speaks])
    both = np.zeros((FRAMES, SIZE, SIZE + SIZE // 2, 3), np.uint8)
    both[:, :, :SIZE], both[:, 80 : 80 + SIZE // 2, SIZE:] = chews, small
    write_video(folder / "two.mp4", both, speech[LATE * 640 :][: FRAMES * 640])
    # Bad ones.
    (folder / "empty.mp4").touch()
    (folder / "notes <b>.txt").write_text("no video")
    write_video(folder / "faceless.mp4", np.full((30, 64, 64, 3), 127, np.uint8))
    whole = (folder / "shifted.mp4").read_bytes()
    damaged = bytearray(whole)
    half = len(damaged) // 2
    damaged[half : half + 3000] = os.urandom(3000)
    (folder / "damaged.mp4").write_bytes(damaged)
    return folder


@pytest.fixture(scope="module")
def dataset(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of them, prepared by the command."""
    out = tmp_path_factory.mktemp("prepared") / "set"
    assert main([str(raw), "--out", str(out), "--workers", "2"]) == 0
    return out


# What becomes of videos


def test_good_videos_are_kept_whole_and_bad_ones_named(dataset: Path, raw: Path):
    assert sorted(file.name for file in dataset.iterdir()) == [
        "dataset.json", "manifest.jsonl", "report.html", "shards",
    ]  # fmt: skip
    kept = {row["key"]: row for row in rows_of(dataset)}
    assert {"shifted-000", "silent_cut-000", "silent_cut-001", "two-000"} <= set(kept)
    assert kept["shifted-000"]["frames"] == FRAMES
    assert {row["source"] for row in prepare.read_manifest(dataset)} == {file.name for file in raw.iterdir()}
    why = {row["source"]: row["reason"] for row in rows_of(dataset, "dropped")}
    assert "0 bytes" in why["empty.mp4"] and why["faceless.mp4"] == "no face was found"
    assert "cannot be decoded as a video" in why["notes <b>.txt"] or "not a video" in why["notes <b>.txt"]
    assert all("\n" not in reason for reason in why.values())


def test_a_shifted_sound_is_found_and_moved_back(dataset: Path, speech: np.ndarray):
    clip = next(clip for clip in Dataset.open(dataset).clips() if clip.name == "shifted-000")
    assert abs(clip.info["av_offset"] - LATE) <= 1 and clip.info["av_correlation"] > 0.4
    found = clip.speech()
    assert len(found) == FRAMES * 640
    # What is heard now is what was said when the mouth moved.
    start = (2 * LATE - clip.info["av_offset"]) * 640
    inside = slice(10 * 640, 90 * 640)
    assert np.corrcoef(found[inside], speech[start:][: len(found)][inside])[0, 1] > 0.98


def test_the_one_who_speaks_is_taken_though_smaller(dataset: Path):
    row = next(row for row in rows_of(dataset) if row["key"] == "two-000")
    assert row["speech"] and abs(row["av_offset"]) <= 1
    left, _, side = row["crop"]
    assert left + side / 2 > SIZE  # on the right
    other = next(row for row in rows_of(dataset, "dropped") if row["source"] == "two.mp4")
    assert other["face_px"] > row["face_px"] and "speaks" in other["reason"]


def test_a_cut_parts_a_video_and_each_part_has_its_own_crop(dataset: Path, raw: Path):
    first, second = (row for row in rows_of(dataset) if row["video"] == "silent_cut")
    assert (first["first_frame"], first["frames"], second["first_frame"], second["frames"]) == (0, 27, 27, 28)
    assert not first["speech"] and first["note"] == "no sound" and "wav" not in first["files"]
    clips = {clip.name: clip for clip in Dataset.open(dataset).clips()}
    video = list(read_frames(raw / "silent.cut.mp4"))
    for row in (first, second):
        frames = list(clips[row["key"]].read_frames())
        left, top, side = row["crop"]
        assert len(frames) == row["frames"] and frames[0].shape == (row["size"], row["size"], 3)
        for k in (0, row["frames"] - 1):  # the very pixels of that frame
            expected = video[row["first_frame"] + k][top : top + side, left : left + side]
            assert np.abs(frames[k].astype(int) - expected).mean() < 4


def test_landmarks_lie_on_the_crop_and_follow_the_mouth(dataset: Path, opening: np.ndarray):
    clip = next(clip for clip in Dataset.open(dataset).clips() if clip.name == "shifted-000")
    model = FaceModel.from_pretrained(packaged_weights() / "face_model")
    landmarks = clip.landmarks_px()
    assert landmarks.shape == (FRAMES, 478, 3)
    assert landmarks[..., :2].min() > 0 and landmarks[..., :2].max() < clip.size
    assert np.corrcoef(mouth_opening(clip.fit(model).shape), opening[LATE : LATE + FRAMES])[0, 1] > 0.8


def test_clips_are_tracked_again_on_the_crop(dataset: Path, raw: Path):
    assert {row["tracks"] for row in rows_of(dataset)} == {2}
    clip = next(clip for clip in Dataset.open(dataset).clips() if clip.name == "two-000")
    (first,) = [run for run in track_faces(raw / "two.mp4", packaged_landmarker()).runs if run.face_px < SIZE / 2]
    left, top, _ = clip.info["crop"]
    apart = np.linalg.norm((first.landmarks_px - (left, top, 0) - clip.landmarks_px())[..., :2], axis=-1)
    assert 0.05 < apart.mean() < 0.03 * clip.size  # the same face, found anew


def test_a_face_lost_on_the_crop_keeps_its_first_track(tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(FaceLandmarker, "detect_twice", lambda *_: ([], []))
    job = job_of(raw / "shifted.mp4", tmp_path / "out")
    prepare_video(job)
    (row,) = prepared_rows(job)
    assert row["tracks"] == 1 and row["speech"]
    (run,) = track_faces(raw / "shifted.mp4", packaged_landmarker()).runs
    expected = to_crop(run.landmarks_px, CropBox(*row["crop"]), row["size"])
    np.testing.assert_allclose(Clip(str(job.out), row).landmarks_px(), expected, atol=1 / 32)


def test_one_face_under_several_names_is_one_speaker(
    dataset: Path, raw: Path, tmp_path: Path, here: list[str], capsys
):
    """The astronaut of the other videos is in a part of silent.cut, too."""
    rows = rows_of(dataset)
    assert {row["speaker"] for row in rows} == {"damaged"}
    assert {row.get("named", row["speaker"]) for row in rows} == {"damaged", "shifted", "silent_cut", "two"}
    page = (dataset / "report.html").read_text(encoding="utf-8")
    assert "damaged, shifted, silent_cut, two" in page and "damaged<" in page and "(named two)" in page
    for name in ("shifted", "two"):
        shutil.copy(raw / f"{name}.mp4", tmp_path)
    assert _prepare(tmp_path / "shifted.mp4", tmp_path / "set") == 0
    assert "one person" not in capsys.readouterr().err
    assert _prepare(tmp_path / "two.mp4", tmp_path / "set") == 0
    assert "osmnet: shifted and two are one person by their faces" in capsys.readouterr().err
    assert [row["speaker"] for row in rows_of(tmp_path / "set")] == ["shifted", "shifted"]
    assert _prepare(tmp_path / "two.mp4", tmp_path / "set", "--keep-speakers") == 0
    assert [row["speaker"] for row in rows_of(tmp_path / "set")] == ["shifted", "two"] and here == ["shifted", "two"]


def test_webdataset_reads_the_shards(dataset: Path):
    import webdataset

    tars = sorted(str(file) for file in (dataset / "shards").glob("*.tar"))
    samples = {sample["__key__"]: sample for sample in webdataset.WebDataset(tars, shardshuffle=False)}
    rows = {row["key"]: row for row in rows_of(dataset)}
    assert samples.keys() == rows.keys()
    for key, row in rows.items():
        written = row | {"speaker": row.get("named", row["speaker"])}  # people are recognised once all are there
        written = {k: v for k, v in written.items() if k not in ("shard", "files", "named")}
        assert json.loads(samples[key]["json"]) == written
        with (dataset / row["shard"]).open("rb") as shard:
            for ending, (start, size) in row["files"].items():
                shard.seek(start)
                assert shard.read(size) == samples[key][ending]
        assert np.load(io.BytesIO(samples[key]["npz"]))["landmarks"].shape == (row["frames"], 478, 3)
        if row["speech"]:
            sound, rate = soundfile.read(io.BytesIO(samples[key]["wav"]))
            assert rate == 16_000 and len(sound) == row["frames"] * 640


def test_report_shows_everything_and_obeys_nothing(dataset: Path):
    page = (dataset / "report.html").read_text(encoding="utf-8")
    assert "notes &lt;b&gt;.txt" in page and "notes <b>" not in page
    assert "no face was found" in page and 'src="http' not in page
    assert page.count("data:image/jpeg;base64,") >= len(rows_of(dataset))
    assert "data:image/png;base64," in page


def test_rotated_ten_bit_video_of_another_rate_is_as_good(tmp_path: Path, raw: Path):
    path, frames = tmp_path / "phone.mp4", list(read_frames(raw / "shifted.mp4"))[:50]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": "12"})
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p10le"
        stream.set_display_rotation(90, False, False)
        for k in range(60):  # two seconds
            lying = np.ascontiguousarray(np.rot90(frames[min(k * 25 // 30, 49)], -1))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(lying)))
        container.mux(stream.encode())
    job = job_of(path, tmp_path / "out")
    assert prepare_video(job)["kept"] == 1
    row = prepared_rows(job)[0]
    assert row["frames"] in (49, 50)
    left, top, side = row["crop"]
    expected = frames[0][top : top + side, left : left + side]
    assert np.abs(next(Clip(str(job.out), row).read_frames()).astype(int) - expected).mean() < 6


def test_a_large_picture_is_tracked_small_and_cropped_large(tmp_path: Path, raw: Path):
    frames = [frame.repeat(2, 0).repeat(2, 1) for frame in list(read_frames(raw / "shifted.mp4"))[:26]]
    path = write_video(tmp_path / "large.mp4", np.pad(frames, ((0, 0), (200, 600), (500, 1420), (0, 0))))
    tracking = track_faces(path, packaged_landmarker())
    assert (tracking.height, tracking.width) == (2 * SIZE + 800, 2 * SIZE + 1920)
    landmarks = tracking.runs[0].landmarks_px[..., :2]
    assert 500 < landmarks[..., 0].min() < landmarks[..., 0].max() < 500 + 2 * SIZE
    assert 200 < landmarks[..., 1].min() < landmarks[..., 1].max() < 200 + 2 * SIZE
    assert tracking.runs[0].face_px > SIZE * 0.8
    job = job_of(path, tmp_path / "out")
    assert prepare_video(job)["kept"] == 1
    assert prepared_rows(job)[0]["size"] == 384  # cut from the large picture


# Filters and decisions


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (Options(min_face=300), "pixels high, less than --min-face 300"),
        (Options(max_turn=0.01), "turned or tilted by over --max-turn 0.01 degrees in"),
        (Options(min_sharpness=99), "blurred: sharpness"),
        (Options(min_seconds=3, max_seconds=9), "2 stretches of less than 3 s"),
    ],
)
def test_filters_give_their_reason(tmp_path: Path, raw: Path, options: Options, reason: str):
    job = job_of(raw / "silent.cut.mp4", tmp_path / "out", options=options)
    assert prepare_video(job)["kept"] == 0
    rows = prepared_rows(job)
    assert rows and all(row["status"] == "dropped" and reason in row["reason"] for row in rows)


def test_long_runs_are_parted_into_equal_pieces(tmp_path: Path, raw: Path):
    job = job_of(raw / "shifted.mp4", tmp_path / "out", options=Options(max_seconds=2.5, min_seconds=1))
    prepare_video(job)
    rows = prepared_rows(job)
    assert [(row["first_frame"], row["frames"]) for row in rows] == [(0, 50), (50, 50)]
    assert rows[0]["av_offset"] == rows[1]["av_offset"]


def test_a_face_that_lies_on_its_side_is_dropped(raw: Path, tmp_path: Path):
    frames = np.stack(list(read_frames(raw / "shifted.mp4"))[:30])
    job = job_of(write_video(tmp_path / "lying.mp4", np.rot90(frames, axes=(1, 2)).copy()), tmp_path / "out")
    prepare_video(job)
    assert all(row["status"] == "dropped" for row in prepared_rows(job))
    assert any("tilted" in row["reason"] or "no face" in row["reason"] for row in prepared_rows(job))


def test_a_file_that_breaks_off_is_used_so_far_and_said(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    broken = []

    def breaks(video: Path, on_break=None, **more):
        yield from list(read_frames(video, **more))[:40]
        if on_break is not None:
            broken.append(on_break(av.InvalidDataError(1, "damaged")))

    monkeypatch.setattr("osmnet.data.track.read_frames", breaks)
    job = job_of(raw / "shifted.mp4", tmp_path / "out")
    prepare_video(job)
    rows = prepared_rows(job)
    assert [row.get("frames") for row in rows if row["status"] == "kept"] == [40] and broken
    assert rows[0]["reason"] == "the file is damaged: nothing after 1.6 s decodes"


def test_the_dataset_names_no_folder_of_ours_and_needs_one(raw: Path, tmp_path: Path):
    job = job_of(raw / "empty.mp4", tmp_path / "out")
    prepare_video(job)
    assert "'empty.mp4' is empty" in prepared_rows(job)[0]["reason"]
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cannot be made because a file is in its way"):
        main([str(raw), "--out", str(tmp_path / "file")])


def test_the_command_prints_what_it_dropped_and_why(tmp_path: Path, fewer: Path, raw: Path, here: list[str], capsys):
    shutil.copy(raw / "faceless.mp4", fewer / "other.mp4")
    shutil.copy(raw / "empty.mp4", fewer / "empty.mp4")
    assert _prepare(fewer, tmp_path / "set", "--min-seconds", "1.1") == 0
    out, err = capsys.readouterr()
    lines = err.splitlines()[err.splitlines().index("dropped  seconds  reason") :]
    assert lines == [
        "dropped  seconds  reason",
        "      2      2.4  no face was found",
        "      1      1.1  a stretch of less than N s with one unbroken face",
        "      1      0.0  '…' is empty (N bytes): copy or make the video again.",
        "a.mp4: a stretch of less than 1.1 s with one unbroken face",
        "empty.mp4: 'empty.mp4' is empty (0 bytes): copy or make the video again.",
        "faceless.mp4: no face was found",
        "other.mp4: no face was found",
    ]
    assert out.startswith("1 clip (0 with speech)")
    assert _prepare(fewer / "a.mp4", tmp_path / "all", "--min-seconds", "1") == 0
    assert "dropped  seconds" not in capsys.readouterr().err


def test_sharpness_does_not_depend_on_size_light_or_contrast(raw: Path):
    import cv2

    frame = next(read_frames(raw / "shifted.mp4"))
    landmarks = track_faces(raw / "silent.cut.mp4", packaged_landmarker()).runs[0].landmarks_px[0]
    sharp = sharpness_of(frame, landmarks)
    double = cv2.resize(frame, (2 * SIZE, 2 * SIZE), interpolation=cv2.INTER_CUBIC)
    assert sharpness_of(double, 2 * landmarks) == pytest.approx(sharp, rel=0.35)
    assert sharpness_of((frame * 0.5 + 40).astype(np.uint8), landmarks) == pytest.approx(sharp, rel=0.2)
    assert sharpness_of(cv2.GaussianBlur(frame, (0, 0), 3), landmarks) < 0.25 * sharp


def test_sound_of_somebody_else_is_no_speech(tmp_path: Path, raw: Path):
    path = tmp_path / "dubbed.mp4"
    other = load_speech(REPOSITORY / "examples" / "speech_2.wav")[: FRAMES * 640]
    write_video(path, np.stack(list(read_frames(raw / "shifted.mp4"))), other)
    job = job_of(path, tmp_path / "out")
    assert prepare_video(job)["kept"] == 1  # its motion is as good as any
    row = prepared_rows(job)[0]
    assert not row["speech"] and row["av_offset"] is None and "lips do not follow" in row["note"]
    assert "wav" not in row["files"]


def test_what_the_table_says_is_not_measured(tmp_path: Path, raw: Path):
    known = Known(speech=True, av_offset=-7, speaker="ann")
    job = job_of(raw / "shifted.mp4", tmp_path / "out", known=known)
    prepare_video(job)
    row = prepared_rows(job)[0]
    assert (row["speech"], row["av_offset"], row["speaker"]) == (True, -7, "ann")
    job = job_of(raw / "shifted.mp4", tmp_path / "out", known=Known(speech=False))
    prepare_video(job)
    row = prepared_rows(job)[0]
    assert not row["speech"] and "table" in row["note"]
    job = job_of(raw / "silent.cut.mp4", tmp_path / "out", known=Known(speech=True))
    assert prepare_video(job)["kept"] == 0 and "no sound" in prepared_rows(job)[0]["reason"]


# Runs that are stopped, repeated, added to


def _content(folder: Path) -> dict[str, bytes]:
    """All that must be the same whenever and by whomever the same videos are prepared."""
    return {name: data for name, data in _snapshot(folder).items() if name != "report.html"}


def _snapshot(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def fewer(tmp_path: Path, raw: Path) -> Path:
    folder = tmp_path / "fewer"
    folder.mkdir()
    shutil.copy(raw / "silent.cut.mp4", folder / "a.mp4")
    shutil.copy(raw / "faceless.mp4", folder)
    return folder


@pytest.fixture(scope="module")
def stoppable(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """Two videos, and what an uninterrupted run makes of them."""
    folder = tmp_path_factory.mktemp("stoppable")
    (folder / "clips").mkdir()
    shutil.copy(raw / "silent.cut.mp4", folder / "clips" / "a.mp4")
    shutil.copy(raw / "faceless.mp4", folder / "clips")
    assert _prepare(folder / "clips", folder / "whole", "--workers", "1") == 0
    return folder / "clips", _content(folder / "whole")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let the jobs run in this process; which ran."""
    ran: list[str] = []

    def in_place(jobs, function, workers):
        for job in jobs:
            ran.append(job.key)
            yield job, function(job)

    monkeypatch.setattr(prepare, "on_processes", in_place)
    return ran


def _prepare(clips: Path, out: Path, *more: str) -> int:
    return main([str(clips), "--out", str(out), *more])


def test_run_again_does_nothing_and_new_videos_are_added(
    tmp_path: Path, fewer: Path, here: list[str], raw: Path, capsys
):
    out = tmp_path / "set"
    assert _prepare(fewer, out) == 0
    before = _snapshot(out)
    assert _prepare(fewer, out) == 0 and sorted(here) == ["a", "faceless"]
    assert _snapshot(out).keys() == before.keys()
    assert (out / "manifest.jsonl").read_bytes() == before["manifest.jsonl"]
    shutil.copy(fewer / "a.mp4", fewer / "b.mp4")
    assert _prepare(fewer, out) == 0 and sorted(here) == ["a", "b", "faceless"]
    assert [clip.name for clip in Dataset.open(out).clips()] == ["a-000", "a-001", "b-000", "b-001"]
    assert (out / "shards/a.000.tar").read_bytes() == before["shards/a.000.tar"]

    # A dropped video that was fixed is prepared; a kept one that changed is named.
    shutil.copy(raw / "silent.cut.mp4", fewer / "faceless.mp4")
    with (fewer / "a.mp4").open("ab") as file:
        file.write(b"\0")
    capsys.readouterr()
    assert _prepare(fewer, out) == 0
    assert "a.mp4 is not the file that was prepared before" in capsys.readouterr().err
    assert [row["key"] for row in rows_of(out) if row["video"] == "faceless"] == ["faceless-000", "faceless-001"]
    assert not [row for row in rows_of(out, "dropped") if row["video"] == "faceless"]


def test_other_options_and_versions_are_refused(tmp_path: Path, fewer: Path, here: list[str]):
    out = tmp_path / "set"
    _prepare(fewer, out)
    before = _snapshot(out)
    with pytest.raises(ValueError, match="prepared with max_seconds 20.0, not 5.0; give the same"):
        _prepare(fewer, out, "--max-seconds", "5")
    assert {name: data for name, data in _snapshot(out).items() if "lock" not in name} == before
    about = json.loads((out / "dataset.json").read_text())
    earlier = {name: value for name, value in about["prepared_with"].items() if name != "tracks"}
    (out / "dataset.json").write_text(json.dumps(about | {"prepared_with": earlier}))
    with pytest.raises(ValueError, match="tracked faces differently; prepare its videos again, into another --out"):
        _prepare(fewer, out)
    assert len(Dataset.open(out).clips()) == 2  # it is read as before
    (out / "dataset.json").write_text(json.dumps(about | {"version": 99}))
    with pytest.raises(ValueError, match="dataset of version 99"):
        _prepare(fewer, out)


@pytest.mark.parametrize(
    ("owner", "where", "call", "again"),
    [
        (ShardWriter, "add", 2, ["a", "faceless"]),  # in the middle of a video
        (shards, "put_in_place", 1, ["a", "faceless"]),
        (prepared_video, "write_record", 1, ["a", "faceless"]),
        (prepared_video, "write_record", 2, ["faceless"]),
        (prepare, "write_manifest", 1, None),
        (prepare, "write_report", 1, None),
    ],
    ids=["clip", "shard", "first record", "second record", "manifest", "report"],
)
def test_a_run_that_is_stopped_anywhere_is_resumed_to_the_same_dataset(
    tmp_path: Path, stoppable, here: list[str], monkeypatch: pytest.MonkeyPatch, owner, where: str, call: int, again
):
    clips, whole = stoppable
    out, real, calls = tmp_path / "set", getattr(owner, where), []

    def stop(*args, **more):
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return real(*args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(owner, where, stop)
        assert _prepare(clips, out) == 130
    assert not (out / "shards").exists() or not list((out / "shards").glob(".*"))
    here.clear()
    if owner is prepare:  # a later run of other videos finishes this one, and does so once
        shutil.copy(clips / "faceless.mp4", tmp_path / "b.mp4")
        assert _prepare(tmp_path / "b.mp4", out) == 0 and here == ["b"]
        assert [clip.name for clip in Dataset.open(out).clips()] == ["a-000", "a-001"]
        assert [row["source"] for row in rows_of(out, "dropped")] == ["b.mp4", "faceless.mp4"]
        return
    assert _prepare(clips, out) == 0
    assert here == again  # what was finished is not prepared again
    assert _content(out) == whole


def test_a_run_that_was_killed_is_resumed(tmp_path: Path, raw: Path, subprocess_environment: dict[str, str]):
    clips = tmp_path / "clips"
    clips.mkdir()
    for name in "abcd":
        shutil.copy(raw / "silent.cut.mp4", clips / f"{name}.mp4")
    out = tmp_path / "set"
    command = [sys.executable, "-m", "osmnet", "prepare", str(clips), "--out", str(out), "--workers", "1"]
    run = subprocess.Popen(command, env=subprocess_environment, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        while not list((out / UNFINISHED).glob("*.json")):
            assert run.poll() is None
            time.sleep(0.02)
    finally:
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
    done = {record.stem for record in (out / UNFINISHED).glob("*.json")}
    assert done and done != set("abcd") and not (out / "manifest.jsonl").exists()
    before = {shard.name: shard.stat().st_mtime_ns for shard in out.glob("shards/*.tar")}
    for _ in range(200):  # the orphaned worker sees that it is one and leaves
        if not _holds(out):
            break
        time.sleep(0.05)
    (out / UNFINISHED / ".x.json.0.part").write_bytes(b"half")
    (out / "shards" / "d.007.tar").write_bytes(b"of a video without a record")
    ran: list[str] = []

    def in_place(jobs, function, workers):
        assert {shard.name: shard.stat().st_mtime_ns for shard in out.glob("shards/*.tar")} == {
            name: before[name] for name in before if name.partition(".")[0] in done
        }
        for job in jobs:
            ran.append(job.key)
            yield job, function(job)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "on_processes", in_place)
        assert _prepare(clips, out) == 0
    assert set(ran) == set("abcd") - done
    assert [clip.name for clip in Dataset.open(out).clips()] == [f"{n}-{k:03d}" for n in "abcd" for k in (0, 1)]
    assert sorted(file.name for file in out.iterdir()) == ["dataset.json", "manifest.jsonl", "report.html", "shards"]
    assert sorted(file.name for file in (out / "shards").iterdir()) == [f"{name}.000.tar" for name in "abcd"]
    for clip in Dataset.open(out).clips():
        assert sum(1 for _ in clip.read_frames()) == clip.frames


def test_sigterm_stops_at_once_with_a_sentence(
    tmp_path: Path, raw: Path, subprocess_environment: dict[str, str], here: list[str]
):
    clips, out = tmp_path / "clips", tmp_path / "set"
    clips.mkdir()
    for name in "ab":
        shutil.copy(raw / "silent.cut.mp4", clips / f"{name}.mp4")
    command = [sys.executable, "-m", "osmnet", "prepare", str(clips), "--out", str(out), "--workers", "1"]
    run = subprocess.Popen(command, env=subprocess_environment, stderr=subprocess.PIPE, text=True)
    try:
        while not list((out / UNFINISHED).glob("*.json")):
            assert run.poll() is None
            time.sleep(0.02)
        run.terminate()  # this process alone, not its workers
        _, stderr = run.communicate(timeout=60)
    finally:
        run.kill()
    assert run.returncode == 130 and "Traceback" not in stderr
    last = stderr.replace("\r", "\n").strip().splitlines()[-1]
    assert last == "osmnet: stopped; finished videos are kept, the same command resumes."
    assert [path.stem for path in (out / UNFINISHED).glob("*.json")] == ["a"] and not _holds(out)
    assert _prepare(clips, out) == 0 and here == ["b"]
    assert [clip.name for clip in Dataset.open(out).clips()] == ["a-000", "a-001", "b-000", "b-001"]


def _holds(folder: Path) -> bool:
    """Whether some process still has a file in a folder open."""
    return any(
        str(folder) in os.readlink(link)
        for link in Path("/proc").glob("[0-9]*/fd/*")
        if os.access(link, os.R_OK) and link.is_symlink()
    )


def test_full_disk_stops_with_one_sentence_and_leaves_nothing_half_written(
    tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch, here: list[str]
):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    clips, out = tmp_path / "clips", tmp_path / "set"
    clips.mkdir()
    for name in "ab":
        shutil.copy(raw / "silent.cut.mp4", clips / f"{name}.mp4")
    assert _prepare(clips / "a.mp4", out) == 0
    before = _snapshot(out)
    for owner, name in (
        (VideoWriter, "_encode_picture"), (tarfile.TarFile, "addfile"), (tarfile.TarFile, "close"),
        (shards, "put_in_place"), (files, "put_in_place"),
    ):  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, full)
            with pytest.raises(CannotSave, match="cannot be written .No space left on device.; make room"):
                _prepare(clips, out)
        left = {path for path in out.rglob("*") if path.is_file()} - {out / name for name in before}
        assert left <= {out / UNFINISHED / ".lock", out / "shards" / "b.000.tar"}
    assert _prepare(clips, out) == 0 and here == ["a"] + ["b"] * 6
    assert [clip.name for clip in Dataset.open(out).clips()] == ["a-000", "a-001", "b-000", "b-001"]


def test_a_dataset_of_an_earlier_version_is_read_and_added_to(tmp_path: Path, dataset: Path, fewer: Path, here):
    """Its shards were numbered, with clips of several videos in each."""
    out, name = tmp_path / "set", "shards/shard-00000.tar"
    (out / "shards").mkdir(parents=True)
    rows, contents = prepare.read_manifest(dataset), {}
    for clip in Dataset.open(dataset).clips():
        contents |= {f"{clip.name}.{ending}": clip._read(ending) for ending in clip.info["files"]}
    with tarfile.open(out / name, "w", format=tarfile.GNU_FORMAT) as tar:
        for member, content in contents.items():
            info = tarfile.TarInfo(member)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    with tarfile.open(out / name) as tar:
        places = {member.name: [member.offset_data, member.size] for member in tar}
    for row in rows:
        if row["status"] == "kept":
            row |= {"shard": name, "files": {ending: places[f"{row['key']}.{ending}"] for ending in row["files"]}}
    prepare.write_manifest(out, rows)
    before = (out / name).read_bytes()
    assert _prepare(fewer / "a.mp4", out) == 0
    clips, old = Dataset.open(out).clips(), {clip.name: clip for clip in Dataset.open(dataset).clips()}
    assert {clip.name for clip in clips} == {"a-000", "a-001", *old}
    assert (out / name).read_bytes() == before
    for clip in clips:
        if clip.name in old:
            assert all(clip._read(ending) == old[clip.name]._read(ending) for ending in clip.info["files"])


# Many workers


def test_a_killed_worker_takes_only_its_job_with_it(tmp_path: Path):
    jobs = [(kind, tmp_path) for kind in ("a", "dies", "bb", "dies once", "ccc")]
    results = {job[0]: result for job, result in on_processes(jobs, work, 2)}
    assert isinstance(results.pop("dies"), WorkerKilled)
    assert results == {"a": {"letters": 1}, "bb": {"letters": 2}, "ccc": {"letters": 3}, "dies once": {"letters": 9}}


def test_a_video_that_kills_its_worker_is_dropped_with_a_reason(
    tmp_path: Path, fewer: Path, monkeypatch: pytest.MonkeyPatch
):
    def killed(jobs, function, workers):
        for job in jobs:
            yield job, WorkerKilled("the worker was killed") if job.key == "faceless" else function(job)

    monkeypatch.setattr(prepare, "on_processes", killed)
    assert _prepare(fewer, tmp_path / "set") == 0
    assert [row["reason"] for row in rows_of(tmp_path / "set", "dropped")] == ["the worker was killed"]


def test_ray_cluster_of_two_workers_does_the_same(tmp_path: Path, fewer: Path, monkeypatch: pytest.MonkeyPatch):
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(worker_jobs)  # workers know osmnet, not the tests
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        assert _prepare(fewer, tmp_path / "ray", "--ray", cluster.address) == 0
        jobs = [("a", tmp_path), ("dies", tmp_path), ("dies once", tmp_path)]
        results = {job[0]: result for job, result in on_ray(jobs, work, cluster.address)}
        assert isinstance(results["dies"], WorkerKilled) and results["dies once"] == {"letters": 9}
        with pytest.raises(OSError, match="no room"):
            list(on_ray([("full", tmp_path)], work, cluster.address))
    finally:
        cluster.shutdown()
    monkeypatch.setattr(prepare, "on_processes", lambda jobs, function, workers: ((j, function(j)) for j in jobs))
    assert _prepare(fewer, tmp_path / "local") == 0
    there, local = (prepare.read_manifest(tmp_path / name) for name in ("ray", "local"))
    assert [row | {"files": None} for row in there] == [row | {"files": None} for row in local]


def test_no_ray_is_said_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match="extra 'scale'"):
        list(on_ray([("a", tmp_path)], work, "auto"))


def test_nothing_to_keep_is_an_error_that_names_the_report(tmp_path: Path, raw: Path, here: list[str]):
    with pytest.raises(ValueError, match="No clip could be made .1 video given.; .*report.html' says why"):
        _prepare(raw / "faceless.mp4", tmp_path / "set")
    assert "no face was found" in (tmp_path / "set" / "report.html").read_text()


def test_two_runs_do_not_work_in_one_folder(tmp_path: Path, fewer: Path, here: list[str]):
    with only_run_in(tmp_path / "set" / UNFINISHED), pytest.raises(ValueError, match="Another run is at work"):
        _prepare(fewer, tmp_path / "set")
