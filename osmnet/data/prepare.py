"""`osmnet prepare`: raw videos to tracked, cropped clips.

One folder a clip: `crop.mp4` (the square around the head, 25 fps), `speech.wav` (16 kHz mono, moved so that it fits
the picture; only where the clip has speech), `track.npz` (`landmarks_px` `(frames, 478, 3)` in pixels of the crop) and
`clip.json`. A folder appears under its final name only when it is whole, so a killed run is continued by running it
again. `prepared.csv` says of each video whether it was kept, and why not.
"""

import argparse
import csv
import json
import multiprocessing
import shutil
import sys
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, as_completed
from itertools import islice
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

from osmnet.face.crop import crop_box, extract, to_crop
from osmnet.face.landmarker import FaceLandmarker
from osmnet.media.audio import FPS, SAMPLING_RATE, load_speech
from osmnet.media.video import VideoWriter, read_frames

CROP_SIZE = 384  # the largest side that is stored; smaller crops keep their own
MIN_SECONDS = 1.0
CUT = 0.25  # a face that jumps by more than this part of its own size from one frame to the next is a cut


def _track(video: Path, bundle: Path) -> tuple[list[tuple[int, np.ndarray]], tuple[int, int]]:
    """Follow the largest face: its longest unbroken run as (frame number, vertices), and the height and width."""
    shape = (0, 0)
    runs: list[list[tuple[int, np.ndarray]]] = [[]]
    with FaceLandmarker(bundle, mode="video") as landmarker:
        for index, frame in enumerate(read_frames(video, FPS)):
            shape = frame.shape[:2]
            faces = landmarker.detect(frame)
            if not faces:
                if runs[-1]:
                    runs.append([])
                continue
            face = faces[0]
            if runs[-1]:
                last = runs[-1][-1][1]
                jump = np.linalg.norm((face - last)[:, :2].mean(0)) / np.ptp(last[:, 1])
                if jump > CUT:
                    runs.append([])
            runs[-1].append((index, face))
    return max(runs, key=len), shape


def prepare_clip(video: Path, out: Path, bundle: Path, has_speech: bool | None = None, av_offset: int = 0) -> str:
    """Track and crop one video.

    Args:
        video (`Path`): Any video.
        out (`Path`): The folder to make.
        bundle (`Path`): The face landmarker.
        has_speech (`bool`, *optional*): Whether its sound is speech of the face seen; `None`: if it has sound.
        av_offset (`int`): Frames by which the picture is late (negative: early); the sound is moved to fit.

    Returns:
        `str`: One line about what was kept.

    Raises:
        ValueError: If nothing of the video can be used; says why.
    """
    run, (height, width) = _track(video, bundle)
    if len(run) < MIN_SECONDS * FPS:
        raise ValueError(f"only {len(run) / FPS:.1f} s with one unbroken face")
    first, count = run[0][0], len(run)
    landmarks = np.stack([face for _, face in run])
    box = crop_box(landmarks, height, width)
    size = min(box.side, CROP_SIZE) // 2 * 2
    sound = None if has_speech is False else _sound(video, first - av_offset, count, must=bool(has_speech))

    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        with VideoWriter(temporary / "crop.mp4", (size, size), fps=FPS, crf=14) as writer:
            for frame in islice(read_frames(video, FPS), first, first + count):
                writer.write(extract(frame, box, size))
        np.savez_compressed(temporary / "track.npz", landmarks_px=to_crop(landmarks, box, size))
        if sound is not None:
            soundfile.write(temporary / "speech.wav", sound, SAMPLING_RATE)
        info = {"source": video.name, "first_frame": first, "frames": count, "crop": list(box), "size": size}
        (temporary / "clip.json").write_text(json.dumps(info), encoding="utf-8")
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return f"{count / FPS:.1f} s at {size} px"


def _sound(video: Path, first: int, count: int, must: bool) -> np.ndarray | None:
    """The sound of `count` frames from frame `first` on (silence beyond its ends); `None` where there is none."""
    try:
        sound = load_speech(video)
    except ValueError:
        if must:
            raise
        return None
    start, stop = (frame * SAMPLING_RATE // FPS for frame in (first, first + count))
    padded = np.pad(sound, (max(-start, 0), max(stop - len(sound), 0)))
    return padded[max(start, 0) :][: stop - start]


def read_table(path: Path) -> dict[str, tuple[bool, int]]:
    """Read what is known of the videos: for each file name whether it has speech, and by how many frames it is late.

    Args:
        path (`Path`): CSV with the columns `file`, `speech` (yes or no) and `av_offset_frames` (a whole number or
            nothing); others are not read.

    Returns:
        `dict[str, tuple[bool, int]]`: `has_speech` and `av_offset` of `prepare_clip`.

    Raises:
        ValueError: If the table cannot be read or a cell is something else.
    """
    table = {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for line, row in enumerate(csv.DictReader(file), 2):
                try:
                    offset = int(row["av_offset_frames"] or 0)
                    if row["speech"] not in ("yes", "no"):
                        raise ValueError(f"speech is {row['speech']!r}, not yes or no")
                    table[row["file"]] = row["speech"] == "yes", offset
                except (KeyError, ValueError) as error:
                    what = f"there is no column {error}" if isinstance(error, KeyError) else error
                    raise ValueError(f"'{path}', line {line}: {what}; correct the table.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"The table '{path}' cannot be read ({error}); check its path.") from error
    return table


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
        other = of_name.setdefault(video.stem, video)
        if other != video:
            raise ValueError(f"'{other}' and '{video}' would both become the clip '{video.stem}'; rename one of them.")
    return list(of_name.values())


def main(argv: list[str] | None = None) -> int:
    """Command line of `osmnet prepare`."""
    parser = argparse.ArgumentParser(prog="osmnet prepare", description=__doc__.splitlines()[0])
    parser.add_argument("clips", nargs="+", type=Path, help="videos, or folders of videos")
    parser.add_argument("--out", type=Path, required=True, help="folder for the prepared clips")
    parser.add_argument("--landmarker", type=Path, help="a .task bundle (default: the one in the package)")
    parser.add_argument(
        "--table", type=Path, help="CSV with the columns file, speech (yes or no) and av_offset_frames"
    )
    parser.add_argument("--workers", type=int, default=2, help="videos at a time (default: 2)")
    args = parser.parse_args(argv)
    bundle = args.landmarker
    if bundle is None:
        from osmnet.pipeline_utils import packaged_landmarker

        bundle = packaged_landmarker()
    if args.workers < 1:
        raise ValueError(f"--workers must be at least 1, not {args.workers}.")
    table = read_table(args.table) if args.table else {}
    videos = [video for video in find_videos(args.clips) if not (args.out / video.stem / "clip.json").is_file()]
    args.out.mkdir(parents=True, exist_ok=True)
    log = args.out / "prepared.csv"
    # Spawned, not forked: OpenCV's threads do not survive a fork.
    pool = ProcessPoolExecutor(args.workers, mp_context=multiprocessing.get_context("spawn"))
    with pool, log.open("a", encoding="utf-8", newline="") as file:
        report = csv.writer(file)
        jobs = {
            pool.submit(prepare_clip, video, args.out / video.stem, bundle, *table.get(video.name, ())): video
            for video in videos
        }
        for job in tqdm(as_completed(jobs), total=len(jobs), desc="prepare", unit="clip"):
            try:
                report.writerow([jobs[job].name, "kept", job.result()])
            except BrokenExecutor as error:
                raise ValueError("A worker was killed (out of memory?); go on with fewer --workers.") from error
            except (ValueError, OSError, RuntimeError) as error:  # whatever is wrong with one video, the others go on
                report.writerow([jobs[job].name, "dropped", error])
                tqdm.write(f"{jobs[job].name}: dropped, {error}", file=sys.stderr)
            file.flush()
    if not any(args.out.glob("[!.]*/clip.json")):
        raise ValueError(f"None of the {len(videos)} videos could be prepared; '{log}' says why.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
