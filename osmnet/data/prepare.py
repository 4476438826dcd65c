"""`osmnet prepare`: raw videos to tracked, cropped clips.

One folder a clip: `crop.mp4` (the square around the head, 25 fps), `speech.wav` (16 kHz mono, moved so that it fits the
picture; only where the clip has speech), `track.npz` (`landmarks_px` `(frames, 478, 3)` in pixels of the crop) and
`clip.json`. A folder appears under its final name only when it is whole, so a killed run is continued by running it again.
"""

import argparse
import csv
import json
import shutil
from concurrent.futures import ProcessPoolExecutor, as_completed
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


def _track(video: Path, bundle: Path) -> list[tuple[int, np.ndarray]]:
    """Follow the largest face; returns its longest unbroken run as (frame number, vertices)."""
    runs: list[list[tuple[int, np.ndarray]]] = [[]]
    with FaceLandmarker(bundle, mode="video") as landmarker:
        for index, frame in enumerate(read_frames(video, FPS)):
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
    return max(runs, key=len)


def prepare_clip(video: Path, out: Path, bundle: Path, has_speech: bool | None, av_offset: int) -> str:
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
    run = _track(video, bundle)
    if len(run) < MIN_SECONDS * FPS:
        raise ValueError(f"only {len(run) / FPS:.1f} s with one unbroken face")
    first = run[0][0]
    frames = {index: i for i, (index, _) in enumerate(run)}
    landmarks = np.stack([face for _, face in run])
    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    writer = box = None
    for index, frame in enumerate(read_frames(video, FPS)):
        if index not in frames:
            continue
        if writer is None:
            box = crop_box(landmarks, *frame.shape[:2])
            size = min(box.side, CROP_SIZE) // 2 * 2
            writer = VideoWriter(temporary / "crop.mp4", (size, size), fps=FPS, crf=14)
            writer.__enter__()
        writer.write(extract(frame, box, size))
    writer.__exit__(None, None, None)
    np.savez_compressed(temporary / "track.npz", landmarks_px=to_crop(landmarks, box, size))
    if has_speech is not False:
        try:
            sound = load_speech(video)
        except ValueError:
            if has_speech:
                raise
            sound = None
        if sound is not None:
            # The picture of frame i belongs to the sound of frame i - offset.
            start = round((first - av_offset) * SAMPLING_RATE / FPS)
            count = len(run) * SAMPLING_RATE // FPS
            padded = np.pad(sound, (max(-start, 0), max(start + count - len(sound), 0)))
            soundfile.write(temporary / "speech.wav", padded[max(start, 0) :][:count], SAMPLING_RATE)
    info = {"source": video.name, "first_frame": first, "frames": len(run), "crop": list(box), "size": size}
    (temporary / "clip.json").write_text(json.dumps(info), encoding="utf-8")
    temporary.rename(out)
    return f"{len(run) / FPS:.1f} s at {size} px"


def main(argv: list[str] | None = None) -> int:
    """Command line of `osmnet prepare`."""
    parser = argparse.ArgumentParser(prog="osmnet prepare", description=__doc__.splitlines()[0])
    parser.add_argument("clips", nargs="+", type=Path, help="videos, or folders of videos")
    parser.add_argument("--out", type=Path, required=True, help="folder for the prepared clips")
    parser.add_argument("--landmarker", type=Path, help="a .task bundle (default: the one in the package)")
    parser.add_argument(
        "--table", type=Path, help="CSV with columns file, speech (yes/no) and av_offset_frames, as measured for the clips"
    )
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args(argv)
    bundle = args.landmarker
    if bundle is None:
        from osmnet.pipeline_utils import packaged_landmarker

        bundle = packaged_landmarker()
    table: dict[str, dict[str, str]] = {}
    if args.table:
        with args.table.open(encoding="utf-8") as file:
            table = {row["file"]: row for row in csv.DictReader(file)}
    videos = [v for p in args.clips for v in (sorted(f for f in p.iterdir() if f.is_file()) if p.is_dir() else [p])]
    args.out.mkdir(parents=True, exist_ok=True)
    log = args.out / "prepared.csv"
    with ProcessPoolExecutor(args.workers) as pool, log.open("a", encoding="utf-8", newline="") as file:
        report = csv.writer(file)
        jobs = {}
        for video in videos:
            out = args.out / video.stem
            if (out / "clip.json").is_file():
                continue
            row = table.get(video.name)
            speech = None if row is None else row["speech"] == "yes"
            offset = int(row["av_offset_frames"] or 0) if row else 0
            jobs[pool.submit(prepare_clip, video, out, bundle, speech, offset)] = video
        for job in tqdm(as_completed(jobs), total=len(jobs), desc="prepare", unit="clip"):
            try:
                report.writerow([jobs[job].name, "kept", job.result()])
            except ValueError as error:
                report.writerow([jobs[job].name, "dropped", error])
                tqdm.write(f"{jobs[job].name}: dropped, {error}")
            file.flush()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
