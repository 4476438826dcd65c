"""The page of `osmnet gallery`: sheets of frames with their commands."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from osmnet.evaluation.figures.gallery_sheet import Line, draw_sheet
from osmnet.evaluation.figures.page import encoded
from osmnet.face.mouth import DROP, cut_window, window_affine
from osmnet.face.pose import Similarity, similarity_from_pose
from osmnet.face.topology import LEFT_EYE, RIGHT_EYE, mouth_opening
from osmnet.loading.fingerprint import weights_fingerprint
from osmnet.media.audio import FPS
from osmnet.utils.files import make_folder, write_whole

if TYPE_CHECKING:
    from osmnet.pipelines.osm_net.pipeline_osm_net import OSMNetPipeline, OSMNetPipelineOutput
    from osmnet.structures import Source, Speech

SIZE = 320  # px; side of the rendered square
COLUMNS = 8  # frames in a line
TAKES = 4
EPSILONS = (0.0, 0.5, 1.0, 2.0)
CLOSE, CLOSE_LINES = 9, 3  # frames in a line of close-ups, and lines
EYES_WIDTH = 1.7  # head units
TURNS = (
    ("yaw", -30),
    ("yaw", -15),
    ("yaw", 15),
    ("yaw", 30),
    ("pitch", -15),
    ("pitch", 15),
    ("roll", -20),
    ("roll", 20),
)
FINGERPRINT = "Weights: `{}`"
HEAD = """# Gallery

What the shipped weights do, frame by frame. Made by

```bash
{command}
```

which draws every picture and writes this page. Under a picture stands the command that makes its videos. The people in
the pictures never said these words: **all of this is synthetic**. {weights}.

In the curves, yaw, pitch and roll are degrees, and the shaded parts are where speech is heard.
"""


class Sheet(NamedTuple):
    """A picture of the gallery with its text and commands."""

    name: str
    title: str
    text: str
    commands: list[str]
    lines: list[Line]
    largest: int = 118


@dataclass(frozen=True)
class Setting:
    """One portrait and one recording.

    Attributes:
        pipe (`OSMNetPipeline`): The model.
        portrait (`Path`): A picture with a face.
        source (`Source`): The portrait, encoded as the square around the head.
        recording (`Path`): A recording of speech.
        speech (`Speech`): The recording, encoded.
        seed (`int`): Seed of all takes.
        model (`str`, *optional*): `--model` of the commands.
    """

    pipe: OSMNetPipeline
    portrait: Path
    source: Source
    recording: Path
    speech: Speech
    seed: int
    model: str | None = None

    def takes(self, count: int = 1, source: Source | None = None, **options: Any) -> OSMNetPipelineOutput:
        """Sample takes with the gallery's seed, without rendering."""
        generator = torch.Generator().manual_seed(self.seed)
        return self.pipe(
            source or self.source, self.speech, num_videos=count, generator=generator, output_type="lazy", **options
        )

    def command(self, options: str, count: int = 1, crop: bool = True) -> str:
        """Return the command for a sheet's videos."""
        files = f"{shlex.quote(shown_path(self.portrait))} {shlex.quote(shown_path(self.recording))}"
        square = f" --crop --size {SIZE}" if crop else ""
        model = f" --model {shlex.quote(self.model)}" if self.model else ""
        return f"osmnet generate {files}{model}{square} --seed {self.seed} --num-videos {count} {options}".rstrip()

    def frames(self, output: OSMNetPipelineOutput, frames: Sequence[int], take: int = 0) -> list[np.ndarray]:
        """Render some frames of a take."""
        chunks = [(frame, frame + 1) for frame in frames]
        motion = output.motion.take([take])
        drawn = self.pipe.render(output.source, motion, expression=output.expression, chunks=chunks)
        return [chunk[0, 0] for chunk in drawn]

    def opening(self, output: OSMNetPipelineOutput) -> np.ndarray:
        """Return the mouth's opening by frame, head units."""
        fit = output.source.fit
        return mouth_opening(self.pipe.face_model.move(fit.shape, output.expression - fit.expression))

    def evenly(self) -> list[int]:
        """Return evenly spaced frames."""
        return np.unique(np.linspace(0, self.speech.num_frames - 1, COLUMNS + 2).astype(int)[1:-1]).tolist()

    def line(self, label: str, output: OSMNetPipelineOutput, frames: Sequence[int], take: int = 0) -> Line:
        """Make a line of frames above the head's curves."""
        turns, heard = np.rad2deg(output.motion.head_pose[take, :, :3]), self.speech.activity
        return Line(label, self.frames(output, frames, take), _times(frames), frames, degrees=turns, heard=heard)

    def close_ups(
        self, output: OSMNetPipelineOutput, frames: Sequence[int], anchor: np.ndarray, width: float | None = None
    ) -> list[np.ndarray]:
        """Crop frames around a point of the head `(3,)`, head units."""
        where = similarity_from_pose(output.head_pose[0, frames], output.source.size)
        options = {} if width is None else {"width": width}
        affine = window_affine(anchor, Similarity(*where), 192, **options)
        return [cut_window(p, a, 192) for p, a in zip(self.frames(output, frames), affine, strict=True)]


def speaking_moments(opening: np.ndarray, count: int) -> list[int]:
    """Choose `count` frames with the mouth `(frames,)` widest and most closed in turn."""
    parts = [part for part in np.array_split(np.arange(len(opening)), count) if len(part)]
    return [int(part[opening[part].argmin() if number % 2 else opening[part].argmax()])
            for number, part in enumerate(parts)]  # fmt: skip


def liveliest_stretch(opening: np.ndarray, length: int) -> int:
    """Return the start of the `length` frames with most mouth motion."""
    change = np.abs(np.diff(opening))
    length = min(length, len(opening))
    return int(np.convolve(change, np.ones(max(length - 1, 1)), "valid").argmax()) if length > 1 else 0


def longest_pause(activity: np.ndarray, length: int) -> int:
    """Return the start of `length` frames around the longest pause, else of the quietest ones."""
    length = min(length, len(activity))
    quiet = np.flatnonzero(np.diff(np.concatenate([[0], activity < 0.5, [0]])))
    pauses = [(a, b) for a, b in zip(quiet[::2], quiet[1::2], strict=True) if a > 0 and b < len(activity)]
    if pauses:
        begin, end = max(pauses, key=lambda pause: pause[1] - pause[0])
        middle = (begin + end) // 2
    else:
        middle = int(np.convolve(activity, np.ones(length), "valid").argmin()) + length // 2
    return int(np.clip(middle - length // 2, 0, len(activity) - length))


def first_blink(lids: np.ndarray, length: int) -> int | None:
    """Return the start of `length` frames around the first blink, if any."""
    shut = np.flatnonzero(lids > 0.9)
    return int(np.clip(shut[0] - 3, 0, max(len(lids) - length, 0))) if len(shut) else None


def _takes(setting: Setting) -> Sheet:
    output = setting.takes(TAKES)
    opening = setting.opening(output)
    frames = speaking_moments(opening, COLUMNS)
    lines = [Line("mouth,\nin all takes", [], [], frames, opening=opening, heard=setting.speech.activity)]
    lines += [setting.line(f"take {take + 1}", output, frames, take) for take in range(TAKES)]
    return Sheet(
        "takes", "One recording, several motions",
        "Fig. 1 of the paper. In every column the mouth is the same, open and shut in turn, and the head is not.",
        [setting.command("", TAKES)], lines,
    )  # fmt: skip


def _epsilon(setting: Setting) -> Sheet:
    lines = [
        setting.line(f"ε = {epsilon:g}", setting.takes(epsilon=epsilon), setting.evenly()) for epsilon in EPSILONS
    ]
    return Sheet(
        "epsilon", "How far from the most likely motion",
        "One seed at several radii: ε = 0 is the centre, 1 holds 95 % of real motion, 2 is wilder than people are.",
        [setting.command(f"--epsilon {epsilon:g}") for epsilon in EPSILONS], lines,
    )  # fmt: skip


def _mouth(setting: Setting) -> Sheet:
    output = setting.takes()
    opening, count = setting.opening(output), setting.speech.num_frames
    anchor = setting.pipe.face_model.mouth_anchor(output.source.fit.identity)
    first, pause = liveliest_stretch(opening, CLOSE * CLOSE_LINES), longest_pause(setting.speech.activity, CLOSE)
    starts = [("speech", first + CLOSE * number) for number in range(CLOSE_LINES)] + [("a pause", pause)]
    shown, lines = [], []
    for label, start in starts:
        frames = list(range(start, min(start + CLOSE, count)))
        if frames:
            shown += frames
            lines.append(Line(label, setting.close_ups(output, frames, anchor), _times(frames)))
    curve = Line("mouth", [], [], shown, opening=opening, heard=setting.speech.activity)
    return Sheet(
        "mouth", "The mouth, frame by frame",
        "Neighbouring frames, a 25th of a second apart: where the mouth moves the most, and around the longest pause. "
        "The thin lines say where in the recording that is.",
        [setting.command("")], [curve, *lines], largest=104,
    )  # fmt: skip


def _strength(setting: Setting) -> Sheet:
    lines, commands = [], []
    opening = setting.opening(setting.takes(still=True))
    frames = speaking_moments(opening, COLUMNS)
    for scale in (0.5, 1.0, 1.5):
        output = setting.takes(expression_scale=scale, still=True)
        anchor = setting.pipe.face_model.mouth_anchor(output.source.fit.identity)
        lines.append(
            Line(
                f"expression\n× {scale:g}", setting.close_ups(output, frames, anchor), _times(frames), frames,
                opening=setting.opening(output), heard=setting.speech.activity,
            )
        )  # fmt: skip
        commands.append(setting.command(f"--still --expression-scale {scale:g}"))
    for scale in (0.5, 2.0):
        output = setting.takes(motion_scale=scale)
        lines.append(setting.line(f"motion\n× {scale:g}", output, setting.evenly()))
        commands.append(setting.command(f"--motion-scale {scale:g}"))
    return Sheet(
        "strength", "Strength",
        "`--expression-scale` is for the face (the curve is the opening of the mouth), `--motion-scale` for the head.",
        commands, lines,
    )  # fmt: skip


def _blinks(setting: Setting) -> Sheet | None:
    output = setting.takes()
    lids = output.motion.blink[0]
    start = first_blink(lids, CLOSE)
    if start is None:
        return None
    frames = list(range(start, min(start + CLOSE, len(lids))))
    shape = output.source.fit.shape
    anchor = shape[[*RIGHT_EYE, *LEFT_EYE]].mean(0) - (0, DROP, 0)
    windows = [each[48:144] for each in setting.close_ups(output, frames, anchor, EYES_WIDTH)]
    count = int(((lids[1:] > 0.9) & (lids[:-1] <= 0.9)).sum())
    return Sheet(
        "blinks", "Blinks",
        f"The first of {count} blink{'s' * (count != 1)} in {len(lids) / FPS:.1f} s; the curve is how far the lids "
        "are shut. `--no-blink` leaves them out.",
        [setting.command("")],
        [Line("", windows, _times(frames)), Line("lids", [], [], frames, opening=lids)], largest=104,
    )  # fmt: skip


def _turns(setting: Setting) -> Sheet:
    frame = speaking_moments(setting.opening(setting.takes(still=True)), 2)[0]
    pictures, captions = [], []
    for name, degrees in TURNS:
        turn: dict[str, Any] = {name: degrees}
        output = setting.takes(still=True, blink=False, **turn)
        pictures += setting.frames(output, [frame])
        captions.append(f"{name} {degrees:+d}°")
    return Sheet(
        "turns", "Wide turns",
        "The head turned, nodded and tilted by a constant. What the portrait does not show is stretched.",
        [setting.command("--still --no-blink --yaw 30") + "  # likewise --pitch, --roll"],
        [Line("", pictures, captions)],
    )  # fmt: skip


def _still(setting: Setting) -> Sheet:
    output = setting.takes(still=True)
    opening = setting.opening(output)
    line = setting.line("still", output, speaking_moments(opening, COLUMNS))
    curve = Line("mouth", [], [], line.frames, opening=opening, heard=setting.speech.activity)
    return Sheet("still", "Still", "Lips and lids alone.", [setting.command("--still")], [line, curve])


def _whole(setting: Setting) -> Sheet:
    output = setting.takes(source=_encoded(setting.pipe, setting.portrait, full_frame=True), epsilon=2.0)
    turned = np.abs(output.motion.head_pose[0, :, :3]).max(-1)
    frames = sorted(
        {int(part[turned[part].argmax()]) for part in np.array_split(np.arange(len(turned)), 3) if len(part)}
    )
    return Sheet(
        "whole", "The whole picture",
        "The portrait, and the frames of a lively take in which the head is farthest from it: no seam should show.",
        [setting.command("--epsilon 2", crop=False)],
        [Line("", [output.source.picture, *setting.frames(output, frames)], ["portrait", *_times(frames)])],
        largest=236,
    )  # fmt: skip


SHEETS: tuple[Callable[[Setting], Sheet | None], ...] = (
    _takes, _epsilon, _mouth, _strength, _blinks, _turns, _still, _whole,
)  # fmt: skip


def make_gallery(
    pipe: OSMNetPipeline, portraits: Sequence[Path], recordings: Sequence[Path], page: Path, *, seed: int = 7,
    command: str = "osmnet gallery", model: str | None = None,
) -> list[Path]:  # fmt: skip
    """Draw all sheets of some portraits and write their page.

    Args:
        pipe (`OSMNetPipeline`): The model.
        portraits (`Sequence[Path]`): Pictures with a face; the page gives the reason if one cannot be used.
        recordings (`Sequence[Path]`): Recordings of speech, assigned to the portraits in turn.
        page (`Path`): The Markdown file; the pictures go into a folder of the same name beside it.
        seed (`int`): Seed of all takes.
        command (`str`): The command shown on the page.
        model (`str`, *optional*): `--model` of the commands on the page.

    Returns:
        `list[Path]`: The page and the pictures.

    Raises:
        ValueError: If a recording or every portrait cannot be used, or something cannot be written.
    """
    folder = page.with_suffix("")
    if page.suffix != ".md":
        raise ValueError(f"The page '{page}' must be a Markdown file; give it a name that ends in .md.")
    speeches = {recording: pipe.encode_speech(recording) for recording in recordings}
    make_folder(folder)
    fingerprint = FINGERPRINT.format(weights_fingerprint(pipe.components))
    parts, paths, reason = [HEAD.format(command=command, weights=fingerprint)], [], ""
    for number, portrait in enumerate(tqdm(portraits, desc="portraits", unit="face", leave=False)):
        recording = recordings[number % len(recordings)]
        parts.append(f"\n## `{portrait.name}` speaks `{recording.name}`\n")
        try:
            source = _encoded(pipe, portrait, size=SIZE)
            setting = Setting(pipe, portrait, source, recording, speeches[recording], seed, model)
            sheets = [sheet for make in SHEETS if (sheet := make(setting)) is not None]
        except ValueError as error:
            reason = str(error)
            parts.append(f"\nNot usable: {reason}\n")
            continue
        for sheet in sheets:
            path = folder / f"{_slug(portrait.stem)}-{sheet.name}.jpg"
            write_whole(path, encoded(draw_sheet(sheet.lines, sheet.largest), "jpg"))
            paths.append(path)
            commands = "\n".join(sheet.commands)
            link = f"![{sheet.title}: {portrait.name}]({folder.name}/{path.name})"
            parts.append(f"\n### {sheet.title}\n\n{sheet.text}\n\n{link}\n\n```bash\n{commands}\n```\n")
    if not paths:
        raise ValueError(f"No portrait can be used; {portraits[-1].name}: {reason}")
    write_whole(page, "".join(parts).encode())
    return [page, *paths]


def _encoded(pipe: OSMNetPipeline, portrait: Path, **options: Any) -> Source:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # several faces: the largest is meant
        return pipe.encode_source(portrait, **({"full_frame": False} | options))


def _times(frames: Sequence[int]) -> list[str]:
    return [f"{frame / FPS:.2f} s" for frame in frames]


def _slug(stem: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in stem)


def shown_path(path: Path) -> str:
    """Return a path relative to the working folder, or a name elsewhere."""
    absolute = path.resolve()
    here = Path().resolve()
    return str(absolute.relative_to(here)) if absolute.is_relative_to(here) else path.name
