"""`osmnet prepare`: raw videos to a dataset of tracked, cropped clips.

Every video is prepared by itself (`osmnet.data.part`), on processes or on a Ray cluster; when all are done, their
parts are packed into shards, and the manifest is written. See docs/preparing.md.
"""

import contextlib
import csv
import json
import shutil
import sys
import tarfile
from pathlib import Path
from typing import Any

from tqdm import tqdm

from osmnet.data.cluster import WorkerKilled, on_processes, on_ray
from osmnet.data.part import Job, load_face_model, part_files, part_head, prepare_video, write_part
from osmnet.data.report import write_report
from osmnet.data.segments import Known, Options, dropped
from osmnet.data.shards import DATASET_FILE, MANIFEST, SHARDS, ShardWriter, read_manifest, write_manifest
from osmnet.utils.files import only_run_in

PARTS = ".parts"


def read_table(path: Path) -> dict[str, Known]:
    """Read what is known of the videos.

    Args:
        path (`Path`): CSV with the column `file` and any of `speech` (yes or no), `av_offset_frames` (by how many
            frames the picture is late, a whole number) and `speaker`; others are not read, and empty cells are found
            out.

    Returns:
        `dict[str, Known]`: By file name.

    Raises:
        ValueError: If the table cannot be read or a cell is something else.
    """
    table = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for line, row in enumerate(csv.DictReader(file), 2):
                try:
                    if not row.get("file"):
                        raise ValueError("the column 'file' is missing or empty")
                    table[row["file"]] = _known(row)
                except ValueError as error:
                    raise ValueError(f"'{path}', line {line}: {error}; correct the table.") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            f"The table '{path}' cannot be read ({getattr(error, 'strerror', None) or error}); check its path."
        ) from error
    return table


def _known(row: dict[str, str | None]) -> Known:
    speech, offset, speaker = ((row.get(name) or "").strip() for name in ("speech", "av_offset_frames", "speaker"))
    if speech not in ("yes", "no", ""):
        raise ValueError(f"speech is {speech!r}, not yes or no")
    try:
        frames = int(offset) if offset else None
    except ValueError:
        raise ValueError(f"av_offset_frames is {offset!r}, not a whole number") from None
    return Known({"yes": True, "no": False, "": None}[speech], frames, speaker or None)


def find_videos(paths: list[Path]) -> list[Path]:
    """List videos, and the files of folders by name.

    Args:
        paths (`list[Path]`): Files and folders.

    Returns:
        `list[Path]`: At least one file; files in folders whose names begin with a dot are left out.

    Raises:
        ValueError: If a path is not there, there is no file, or two files would become one clip.
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
        other = of_name.setdefault(key_of(video), video)
        if other.resolve() != video.resolve():
            raise ValueError(
                f"'{other}' and '{video}' would both become the clip '{key_of(video)}'; rename one of them."
            )
    return list(of_name.values())


def key_of(video: Path) -> str:
    """The name of a video in the dataset: without its ending, and without dots, which end a key in WebDataset."""
    return video.stem.replace(".", "_")


def _manifest_of(out: Path, options: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows that are there, after a look at the options; and nothing left of a run that was killed."""
    for leftover in (*out.glob(f"{PARTS}/.*.tmp"), *out.glob(".*.part"), *out.glob(f"{SHARDS}/.*.part")):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    rows = []
    if (out / DATASET_FILE).exists() and (out / MANIFEST).exists():
        rows = read_manifest(out)
        before = json.loads((out / DATASET_FILE).read_text(encoding="utf-8")).get("prepared_with") or {}
        for name, value in options.items():
            if name in before and before[name] != value:
                raise ValueError(
                    f"'{out}' was prepared with {name} {before[name]}, not {value}; give the same, or another --out."
                )
    named = {row["shard"] for row in rows if row["status"] == "kept"}
    for shard in out.glob(f"{SHARDS}/shard-*.tar"):
        if f"{SHARDS}/{shard.name}" not in named:  # of a run that was killed before it could name them
            shard.unlink()
    return rows


def _drop_strange_parts(parts: Path, options: dict[str, Any]) -> None:
    """Remove the parts that an unfinished run with other options left."""
    strange = 0
    for part in parts.glob("*.tar"):
        with contextlib.suppress(tarfile.TarError, KeyError, ValueError):
            if part_head(part)["prepared_with"] == options:
                continue
        part.unlink()
        strange += 1
    if strange:
        _say(f"{strange} videos of an unfinished run with other options are not used; give them again.")


def _jobs_to_do(jobs: list[Job], rows: list[dict[str, Any]]) -> tuple[list[Job], list[dict[str, Any]]]:
    """Leave out what is done; drop the rows of what is done again because its file has changed."""
    of_video: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        of_video.setdefault(row.get("video", ""), []).append(row)
    todo = []
    for job in jobs:
        done = of_video.get(job.key)
        stamp = job.stamp()
        if done is not None:
            if all(done[0].get(name) == value for name, value in stamp.items()):
                job.part.unlink(missing_ok=True)  # packed already
                continue
            if any(row["status"] == "kept" for row in done):
                _say(
                    f"{job.video.name} is not the file that was prepared before; its old clips stay. Prepare it under "
                    "another name, or into another folder."
                )
                continue
            rows = [row for row in rows if row.get("video") != job.key]
        if job.part.exists():
            with contextlib.suppress(tarfile.TarError, KeyError, ValueError):
                head = part_head(job.part)
                if head["digest"] == job.digest() and all(head[name] == value for name, value in stamp.items()):
                    continue
            _say(f"{job.video.name} or its options have changed since the last run; it is prepared again.")
            job.part.unlink()
        todo.append(job)
    return todo, rows


def _say(sentence: str) -> None:
    tqdm.write(f"osmnet: {sentence}", file=sys.stderr)


def _run(jobs: list[Job], workers: int, ray: str | None) -> None:
    results = on_ray(jobs, prepare_video, ray) if ray else on_processes(jobs, prepare_video, workers)
    kept = lost = 0
    frames = 0
    with tqdm(total=len(jobs), desc="prepare", unit="video", file=sys.stderr, dynamic_ncols=True) as bar:
        for job, result in results:
            if isinstance(result, WorkerKilled):
                write_part(job, [job.stamp() | dropped(str(result), 0.0)], {})
                result = {"frames": 0, "kept": 0, "dropped": 1, "reason": str(result)}
            kept, lost, frames = kept + result["kept"], lost + result["dropped"], frames + result["frames"]
            if result["reason"]:
                _say(f"{job.video.name}: dropped, {result['reason']}")
            bar.update()
            bar.set_postfix(kept=kept, dropped=lost, fps=f"{frames / max(bar.format_dict['elapsed'], 1e-3):.0f}")


def _pack(out: Path, rows: list[dict[str, Any]], options: dict[str, Any]) -> list[dict[str, Any]]:
    """Pack the parts, by name, into shards; then write the manifest; then remove the parts.

    Killed before the manifest is there, the parts are packed again; after it, they are known to be done.
    """
    parts = sorted((out / PARTS).glob("*.tar"))
    rows = list(rows)
    with ShardWriter(out) as writer:
        for part in tqdm(parts, desc="pack", unit="video", file=sys.stderr, dynamic_ncols=True, leave=False):
            files = part_files(part)
            for row in part_head(part)["rows"]:
                rows.append(row | writer.add(row["key"], files[row["key"]]) if row["status"] == "kept" else row)
    rows.sort(key=lambda row: (row.get("video", ""), row.get("first_frame", -1)))
    write_manifest(out, rows, prepared_with=options)
    for part in parts:
        part.unlink()
    return rows


def prepare(
    videos: list[Path],
    out: Path,
    model: Path,
    bundle: Path,
    options: Options | None = None,
    table: dict[str, Known] | None = None,
    workers: int = 1,
    ray: str | None = None,
) -> list[dict[str, Any]]:
    """Prepare videos into a dataset, or add them to one.

    Args:
        videos (`list[Path]`): See `find_videos`.
        out (`Path`): The dataset.
        model (`Path`): Folder of the face model and the expression extractor.
        bundle (`Path`): The face landmarker.
        options (`Options`, *optional*): What is kept.
        table (`dict[str, Known]`, *optional*): What is known, by file name.
        workers (`int`): Processes.
        ray (`str`, *optional*): Address of a Ray cluster to be used in their place.

    Returns:
        `list[dict]`: All rows of the manifest.

    Raises:
        ValueError: If the folder holds a dataset of another version or of other options.
        OSError: If it cannot be written; finished videos are kept for the next run.
    """
    options = options or Options()
    about = options.as_dict() | {"face_model": load_face_model(model)[1]}
    parts = out.resolve() / PARTS
    with only_run_in(parts, out.resolve()):
        rows = _manifest_of(out, about)
        _drop_strange_parts(parts, about)
        jobs = [
            Job(video.resolve(), key_of(video), parts / f"{key_of(video)}.tar", model.resolve(), bundle.resolve(),
                options, (table or {}).get(video.name, Known()))
            for video in videos
        ]  # fmt: skip
        todo, rows = _jobs_to_do(jobs, rows)
        if todo:
            _run(todo, workers, ray)
        rows = _pack(out, rows, about)
        write_report(out, rows, about)
    shutil.rmtree(parts, ignore_errors=True)
    return rows
