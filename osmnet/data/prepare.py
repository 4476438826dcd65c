"""Prepare raw videos into a dataset of tracked, cropped clips, see docs/preparing.md."""

import csv
import io
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from osmnet.data.cluster import WorkerKilled, on_processes, on_ray
from osmnet.data.manifest import DATASET_FILE, MANIFEST, MAX_OFFSET, read_about, read_manifest, write_manifest
from osmnet.data.prepared_video import UNFINISHED, Job, prepare_video, read_records, settings_of, write_record
from osmnet.data.report import write_report
from osmnet.data.segments import Known, Options, dropped
from osmnet.data.shards import CONTROL, MAX_NAME, SHARDS, TRACKS
from osmnet.data.speakers import merge_speakers, restore_names
from osmnet.utils.checks import reason, short
from osmnet.utils.files import only_run_in

MAX_TABLE = 2**24  # bytes


def read_table(path: Path) -> dict[str, Known]:
    """Read known facts about videos from a CSV table.

    Args:
        path (`Path`): CSV with the column `file` and any of `speech` (yes or no), `av_offset_frames` (whole frames by
            which the picture is late) and `speaker`; empty cells are measured, other columns ignored.

    Returns:
        `dict[str, Known]`: By file name.

    Raises:
        ValueError: If the table cannot be read, names a column or a file twice, or a cell has another value.
    """
    table: dict[str, Known] = {}
    line = 1
    try:
        with path.open("rb") as file:
            content = file.read(MAX_TABLE + 1)
        if len(content) > MAX_TABLE:
            raise ValueError(f"it has more than {MAX_TABLE} bytes")
        rows = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        columns = next(rows, [])
        if len(set(columns)) < len(columns):
            raise ValueError("it names a column twice")
        if not any(columns):
            raise ValueError("it has no columns")
        for cells in rows:
            line = rows.line_num
            if not cells:
                continue
            if len(cells) > len(columns):
                raise ValueError(f"it has {len(cells)} cells, and there are {len(columns)} columns")
            row = dict(zip(columns, cells, strict=False))
            if not (name := row.get("file")):
                raise ValueError("the column 'file' is missing or empty")
            if "\0" in name:
                raise ValueError(f"{short(name)} is no name of a file")
            if name in table:
                raise ValueError(f"the file {short(name)} is there twice")
            table[name] = _known(row)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"The table '{path}' cannot be read ({reason(error)}); check its path.") from error
    except (ValueError, csv.Error) as error:
        raise ValueError(f"'{path}', line {line}: {error}; correct the table.") from None
    return table


def _known(row: dict[str, str]) -> Known:
    speech, offset, speaker = (row.get(name, "").strip() for name in ("speech", "av_offset_frames", "speaker"))
    if speech not in ("yes", "no", ""):
        raise ValueError(f"speech is {short(speech)}, not yes or no")
    frames = int(offset) if re.fullmatch(r"[+-]?\d{1,9}", offset, re.ASCII) else None
    if offset and frames is None:
        raise ValueError(f"av_offset_frames is {short(offset)}, not a whole number")
    if frames is not None and abs(frames) > MAX_OFFSET:
        raise ValueError(f"av_offset_frames is {frames}, beyond {MAX_OFFSET} frames")
    if len(speaker) > MAX_NAME or CONTROL.search(speaker):
        raise ValueError(f"speaker is {short(speaker)}, not a name of at most {MAX_NAME} printable characters")
    return Known({"yes": True, "no": False, "": None}[speech], frames, speaker or None)


def find_videos(paths: list[Path]) -> list[Path]:
    """List videos in files and folders.

    Args:
        paths (`list[Path]`): Files and folders.

    Returns:
        `list[Path]`: At least one; in folders, names that begin with a dot are left out.

    Raises:
        ValueError: If a path is missing, there is no file, or two would become one clip.
    """
    missing = [path for path in paths if not path.exists()]
    if missing:
        raise ValueError(f"There is no file or folder '{missing[0]}'; check the path.")
    videos = []
    for path in paths:
        inside = sorted(path.iterdir()) if path.is_dir() else [path]
        videos += [file for file in inside if file.is_file() and (file == path or not file.name.startswith("."))]
    if not videos:
        raise ValueError(f"There are no files in '{paths[0]}'; give videos, or folders of videos.")
    of_name: dict[str, Path] = {}
    for video in videos:
        if "\\udc" in ascii(video.name):  # stands for a byte that is not UTF-8
            raise ValueError(f"The name of the video {video.name!r} is not valid UTF-8; rename it.")
        other = of_name.setdefault(key_of(video), video)
        if other.resolve() != video.resolve():
            raise ValueError(
                f"'{other}' and '{video}' would both become the clip '{key_of(video)}'; rename one of them."
            )
    return list(of_name.values())


def key_of(video: Path) -> str:
    """Derive the dataset key: the stem without dots, which end a WebDataset key, and what is in no file name."""
    return CONTROL.sub("_", re.sub(r"[.\\]", "_", video.stem))


def _rows_before(out: Path, options: dict[str, Any]) -> list[dict[str, Any]]:
    """Read the manifest, if any; refuse other options."""
    if not ((out / DATASET_FILE).exists() and (out / MANIFEST).exists()):
        return []
    rows = read_manifest(out)
    before = read_about(out).get("prepared_with") or {}
    if before and before.get("tracks", 1) != TRACKS:
        raise ValueError(
            f"'{out}' was prepared by another version of osmnet, which tracked faces differently; prepare its videos "
            "again, into another --out."
        )
    for name, value in options.items():
        if name in before and before[name] != value:
            raise ValueError(
                f"'{out}' was prepared with {name} {before[name]}, not {value}; give the same, or another --out."
            )
    return rows


def _jobs_to_do(
    jobs: list[Job], rows: list[dict[str, Any]], options: dict[str, Any]
) -> tuple[list[Job], list[dict[str, Any]]]:
    """Drop finished jobs; also returns the manifest rows to keep."""
    out = jobs[0].out
    records = read_records(out)
    strange = [key for key, record in records.items() if record["prepared_with"] != options]
    if strange:
        _say(f"{len(strange)} videos of an unfinished run with other options are not used; give them again.")
    of_video: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        of_video.setdefault(row.get("video", ""), []).append(row)
    todo, again = [], set(strange)
    for job in jobs:
        done, record, stamp = of_video.get(job.key), records.get(job.key), job.stamp()
        if done is not None and all(done[0].get(name) == value for name, value in stamp.items()):
            continue
        if done is not None and any(row["status"] == "kept" for row in done):
            _say(
                f"{job.video.name} is not the file that was prepared before; its old clips stay. Prepare it under "
                "another name, or into another folder."
            )
            continue
        if record is not None and job.key not in strange:
            if record["digest"] == job.digest() and all(record[name] == value for name, value in stamp.items()):
                continue
            _say(f"{job.video.name} or its options have changed since the last run; it is prepared again.")
        again.add(job.key)
        todo.append(job)
    for key in again & records.keys():
        (out / UNFINISHED / f"{key}.json").unlink()
    return todo, [row for row in rows if row.get("video") not in {job.key for job in todo}]


def _sweep(out: Path, rows: list[dict[str, Any]]) -> None:
    """Remove half-written files and orphaned shards."""
    named = {row["shard"] for row in rows if row["status"] == "kept"}
    for leftover in (path for folder in (out, out / UNFINISHED, out / SHARDS) for path in folder.glob(".*.part")):
        shutil.rmtree(leftover) if leftover.is_dir() and not leftover.is_symlink() else leftover.unlink()
    for shard in out.glob(f"{SHARDS}/*.[0-9][0-9][0-9].tar"):
        if f"{SHARDS}/{shard.name}" not in named:
            shard.unlink()


def _with_records(out: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add the rows of finished videos that are missing."""
    there = {row.get("video") for row in rows}
    rows = rows + [row for key, record in read_records(out).items() if key not in there for row in record["rows"]]
    return sorted(rows, key=lambda row: (row.get("video", ""), row.get("first_frame", -1)))


def _say(sentence: str) -> None:
    tqdm.write(f"osmnet: {sentence}", file=sys.stderr)


def _run(jobs: list[Job], workers: int, ray: str | None) -> None:
    results = on_ray(jobs, prepare_video, ray) if ray else on_processes(jobs, prepare_video, workers)
    kept = lost = frames = 0
    with tqdm(total=len(jobs), desc="prepare", unit="video", file=sys.stderr, dynamic_ncols=True) as bar:
        for job, result in results:
            if isinstance(result, WorkerKilled):
                write_record(job, [dropped(str(result), 0.0)])
                result = {"frames": 0, "kept": 0, "dropped": 1}
            kept, lost, frames = kept + result["kept"], lost + result["dropped"], frames + result["frames"]
            bar.update()
            bar.set_postfix(kept=kept, dropped=lost, fps=f"{frames / max(bar.format_dict['elapsed'], 1e-3):.0f}")


def prepare(
    videos: list[Path],
    out: Path,
    model: Path,
    bundle: Path,
    options: Options | None = None,
    table: dict[str, Known] | None = None,
    workers: int = 1,
    ray: str | None = None,
    keep_speakers: bool = False,
) -> list[dict[str, Any]]:
    """Prepare videos into a new or existing dataset.

    Args:
        videos (`list[Path]`): See `find_videos`.
        out (`Path`): The dataset.
        model (`Path`): Folder of the face model and the expression extractor.
        bundle (`Path`): The face landmarker.
        options (`Options`, *optional*): What to keep.
        table (`dict[str, Known]`, *optional*): See `read_table`.
        workers (`int`): Processes.
        ray (`str`, *optional*): Address of a Ray cluster to use instead.
        keep_speakers (`bool`): Keep speakers as they are named, also if faces say that two are one person.

    Returns:
        `list[dict]`: All rows of the manifest.

    Raises:
        ValueError: If the folder holds a dataset of another version or of other options, or cannot be written.
        CannotSave: If a worker cannot write.
    """
    options = options or Options()
    about = settings_of(options, model)
    out = out.resolve()
    jobs = [
        Job(
            video.resolve(), key_of(video), out, model.resolve(), bundle.resolve(), options,
            (table or {}).get(video.name, Known()),
        )
        for video in videos
    ]  # fmt: skip
    with only_run_in(out / UNFINISHED, out):
        # 1. Clean up after earlier runs, and prepare what is missing.
        todo, rows = _jobs_to_do(jobs, _rows_before(out, about), about)
        _sweep(out, _with_records(out, rows))
        if todo:
            _run(todo, workers, ray)
        # 2. Merge speakers, write the manifest and the report.
        rows = _with_records(out, rows)
        restore_names(rows)
        merges = [] if keep_speakers else merge_speakers(out, rows)
        for merge in merges:
            _say(f"{' and '.join(merge.names)} are one person by their faces (see report.html).")
        write_manifest(out, rows, prepared_with=about)
        write_report(out, rows, about, merges)
    shutil.rmtree(out / UNFINISHED, ignore_errors=True)
    return rows
