"""Figures of the motion bases, and of portraits turned by them."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from osmnet.evaluation.figures.basis_motion import MAX_TURN_DEG, Basis, rotate
from osmnet.evaluation.figures.page import CURVES, GRID, MUTED, Page, encoded, scaled
from osmnet.media.audio import FPS, SAMPLING_RATE, load_speech
from osmnet.media.video_writer import VideoWriter
from osmnet.provenance.label import label_for
from osmnet.provenance.manifest import sign
from osmnet.rendering.select import renderer_for
from osmnet.utils.files import make_folder, write_whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from osmnet.pipelines.osm_net.pipeline_osm_net import OSMNetPipeline
    from osmnet.structures import Source

NUM_FRAMES = 5
COMMENT = "AI-generated, made with osmnet"
THUMBNAIL, ROW, CURVE_WIDTH, NAME_WIDTH, HEADER, MARGIN = 112, 126, 190, 150, 78, 24
ROWS_A_COLUMN = 24
PORTRAIT = 224  # px


def draw_bases(
    pipe: OSMNetPipeline, bases: Sequence[Basis], source: Source, out: Path, speech: Path | None = None,
    video: bool = False, epsilon: float = 1.0, kind: str = "png",
) -> list[Path]:  # fmt: skip
    """Draw bases, one row each: curves held and swung, and frames while held; Fig. 6.

    Args:
        pipe (`OSMNetPipeline`): The pipeline of the bases.
        bases (`Sequence[Basis]`): From `decode_bases`, at least one.
        source (`Source`): The portrait.
        out (`Path`): Folder; receives `bases.png` (or `.jpg`), `bases.json` and, with `video`, `basis-04.mp4` …
        speech (`Path`, *optional*): A recording that moves the lips; a short one is repeated.
        video (`bool`): Also write videos: held on the left, swung on the right.
        epsilon (`float`): Radius that the bases were decoded with, for the records.
        kind (`"png"` or `"jpg"`): Format of the picture.

    Returns:
        `list[Path]`: The files.

    Raises:
        ValueError: If there is no usable sound in `speech` or the folder cannot be written.
    """
    frames = len(bases[0].held)
    expression, waveform = np.repeat(source.fit.expression[None], frames, 0), None
    if speech is not None:
        waveform = np.resize(load_speech(speech), frames * SAMPLING_RATE // FPS)
        expression = pipe.extract_expression(source, pipe.encode_speech(waveform, SAMPLING_RATE))
    make_folder(out)
    renderer = renderer_for(source, pipe.face_model, pipe.video_generator)
    moments = np.linspace(0, frames - 1, NUM_FRAMES).round().astype(int)
    rows, paths = [], []
    for basis in tqdm(bases, desc="bases", unit="basis", leave=False):
        shown = [basis.held, basis.swung] if video else [basis.held]
        head_pose = source.fit.head_pose + np.stack(shown)
        drawn = np.concatenate(list(renderer(head_pose, expression)), 1)  # (1 or 2, frames, H, W, 3)
        rows.append([scaled(drawn[0, moment], THUMBNAIL) for moment in moments])
        if video:
            paths.append(out / f"basis-{basis.index:02d}.mp4")
            write_film(paths[-1], source, head_pose, drawn, waveform)
    figure = out / f"bases.{kind}"
    sheet = _bases_sheet(bases, rows, moments, f"{len(bases)} motion bases of {pipe.name}", epsilon)
    write_whole(figure, encoded(sheet, kind))
    record = out / "bases.json"
    write_whole(record, _json({"model": pipe.name, "epsilon": epsilon, "fps": FPS, "bases": [_row(b) for b in bases]}))
    return [figure, record, *paths]


def draw_rotation(pipe: OSMNetPipeline, portraits: Sequence[Path], out: Path, kind: str = "png") -> list[Path]:
    """Draw portraits unchanged, turned right, left and to the front; Fig. 7.

    As `draw_bases`; the files are `rotation.png` (or `.jpg`) and `rotation.json`.
    """
    make_folder(out)
    titles = ("source", "right", "left", "frontal")
    rows, records, captions = [], [], []
    for portrait in tqdm(portraits, desc="portraits", unit="face", leave=False):
        source = pipe.encode_source(portrait, full_frame=False)
        renderer = renderer_for(source, pipe.face_model, pipe.video_generator)
        turned = rotate(pipe, source)
        poses = [source.fit.head_pose, *(turned[name].head_pose for name in titles[1:])]
        drawn = next(renderer(np.stack(poses[1:])[:, None], source.fit.expression[None]))  # (poses, 1, H, W, 3)
        pictures = [source.crop, *drawn[:, 0]]
        rows.append([scaled(picture, PORTRAIT) for picture in pictures])
        degrees = [np.rad2deg(pose[:3]) for pose in poses]
        used = ["", *(" + ".join(f"{w:g}·b{i}" for i, w in turned[name].bases.items()) for name in titles[1:])]
        captions.append([f"{_angles(d)}\n{text}" for d, text in zip(degrees, used, strict=True)])
        record: dict[str, Any] = {"portrait": portrait.name, "source_deg": _rounded(degrees[0])}
        for name, angle in zip(titles[1:], degrees[1:], strict=True):
            record[name] = {"bases": turned[name].bases, "head_pose_deg": _rounded(angle)}
        records.append(record)
    figure, record_path = out / f"rotation.{kind}", out / "rotation.json"
    write_whole(figure, encoded(_rotation_sheet(rows, titles, captions), kind))
    note = f"yaw, pitch, roll in degrees, absolute, at most {MAX_TURN_DEG:g}; bases: index and distance in ε"
    write_whole(record_path, _json({"model": pipe.name, "note": note, "portraits": records}))
    return [figure, record_path]


def write_film(
    path: Path, source: Source, head_pose: np.ndarray, frames: np.ndarray, waveform: np.ndarray | None = None,
    consent: bool | None = None,
) -> None:  # fmt: skip
    """Write takes side by side as one labelled and signed video.

    Args:
        path (`Path`): An MP4 file.
        source (`Source`): The portrait.
        head_pose (`np.ndarray` of shape `(takes, frames, 6)`): Absolute poses, which the label avoids.
        frames (`np.ndarray` of shape `(takes, frames, height, width, 3)`): uint8; the label is drawn into them.
        waveform (`np.ndarray` of shape `(samples,)`, *optional*): Sound at 16 kHz.
        consent (`bool`, *optional*): See `OSMNetPipelineOutput.save`.

    Raises:
        ValueError: If the file cannot be written.
    """
    label_for(source, head_pose).draw(frames)
    both = np.concatenate([*frames], 2)
    seal = partial(sign, consent=consent)
    with VideoWriter(path, both.shape[1:3], FPS, waveform, comment=COMMENT, seal=seal) as writer:
        writer.write(both)


def _bases_sheet(
    bases: Sequence[Basis], rows: list[list[np.ndarray]], moments: np.ndarray, title: str, epsilon: float
) -> Image.Image:
    columns = -(-len(bases) // ROWS_A_COLUMN)
    height = -(-len(bases) // columns)
    thumb_height = rows[0][0].shape[0]
    column_width = NAME_WIDTH + 2 * (CURVE_WIDTH + 44) + NUM_FRAMES * (THUMBNAIL + 4) + MARGIN
    page = Page(MARGIN + columns * column_width, HEADER + height * ROW + MARGIN)
    page.text(MARGIN, 26, title, size=15, weight="bold")
    note = (
        f"Held: the motion stays at the basis (ε = {epsilon:g} from the centre). Swung: to the basis and its mirror "
        "image in turn.\nFrames: while held, from 0 s to the end. Right and left are those of the picture."
    )
    for index, (name, colour) in enumerate(CURVES):
        page.text(MARGIN + 70 * index, 54, f"\u2014 {name}", size=11, color=colour, weight="bold")
    page.text(MARGIN + 70 * len(CURVES) + 10, 54, note, size=9, color=MUTED)
    limits = [  # one scale for all bases; a swing is a fraction of what a held basis does
        max(3.0, 1.08 * max(float(np.rad2deg(np.abs(path[:, :3]).max())) for path in paths))
        for paths in ([basis.held for basis in bases], [basis.swung for basis in bases])
    ]
    for number, (basis, pictures) in enumerate(zip(bases, rows, strict=True)):
        left = MARGIN + number // height * column_width
        top = HEADER + number % height * ROW
        page.text(left, top + 22, f"{basis.index}", size=15, weight="bold")
        page.text(left, top + 48, basis.name.replace(", ", ",\n"), size=10, va="top")
        page.text(left, top + 108, f"swung: {basis.swing}", size=8.5, color=MUTED)
        for index, (kind, path) in enumerate((("held", basis.held), ("swung", basis.swung))):
            x = left + NAME_WIDTH + index * (CURVE_WIDTH + 44) + 30
            limit = limits[index]
            axes = page.axes(x, top + 8, CURVE_WIDTH, ROW - 40)
            seconds = np.arange(len(path)) / FPS
            axes.set(xlim=(0, seconds[-1]), ylim=(-limit, limit))
            axes.axhline(0, color=GRID, linewidth=1)
            for angle, (_, colour) in enumerate(CURVES):
                axes.plot(seconds, np.rad2deg(path[:, angle]), color=colour, linewidth=1.5)
            if kind == "held":
                axes.plot(seconds[moments], np.full(len(moments), -limit), "|", color=MUTED, markersize=6)
            axes.set_title(kind, fontsize=8, color=MUTED, pad=2, loc="right")
            axes.tick_params(colors=MUTED, labelsize=8, length=0, pad=2)
            axes.yaxis.set_major_formatter("{x:g}\u00b0")
            axes.xaxis.set_major_formatter("{x:g} s")
            axes.spines[:].set_color(GRID)
        for index, picture in enumerate(pictures):
            x = left + NAME_WIDTH + 2 * (CURVE_WIDTH + 44) + index * (THUMBNAIL + 4)
            page.image(x, top, picture, THUMBNAIL, thumb_height)
    return page.picture()


def _rotation_sheet(rows: list[list[np.ndarray]], titles: Sequence[str], captions: list[list[str]]) -> Image.Image:
    gap, caption = 16, 52
    page = Page(2 * MARGIN + len(titles) * (PORTRAIT + gap) - gap, 44 + len(rows) * (PORTRAIT + caption) + MARGIN)
    for column, title in enumerate(titles):
        x = MARGIN + column * (PORTRAIT + gap)
        page.text(x, 26, title, size=13, weight="bold")
        for row, pictures in enumerate(rows):
            top = 44 + row * (PORTRAIT + caption)
            page.image(x, top, pictures[column], PORTRAIT, PORTRAIT)
            page.text(x, top + PORTRAIT + 6, captions[row][column], size=8.5, color=MUTED, va="top")
    page.text(
        MARGIN,
        page.height - MARGIN / 2,
        "Below each: the angles, and what did it: 0.3·b16 is basis 16, 0.3 of the way to ε = 1; "
        "right and left are the picture's",
        size=8.5,
        color=MUTED,
    )
    return page.picture()


def _row(basis: Basis) -> dict[str, Any]:
    curves = {name: np.rad2deg(path[:, :3]) for name, path in (("held", basis.held), ("swung", basis.swung))}
    return {
        "basis": basis.index,
        "name": basis.name,
        "swing": basis.swing,
        "clip": [[round(float(number), 5) for number in pose] for pose in basis.clip],
        "amplitude_deg": {name: _rounded(np.ptp(curve, axis=0)) for name, curve in curves.items()},
        "end_deg": _rounded(curves["held"][-1]),
        **{f"{name}_deg": [_rounded(row) for row in curve] for name, curve in curves.items()},
    }


def _angles(degrees: np.ndarray) -> str:
    return ", ".join(f"{name} {round(angle):+d}\u00b0" for (name, _), angle in zip(CURVES, degrees, strict=True))


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 2) for value in values]


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, ensure_ascii=False) + "\n").encode()
