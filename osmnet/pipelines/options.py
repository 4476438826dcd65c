"""Options of a pipeline in all its interfaces.

Imports nothing heavy: the command line builds its parser from the fields.
"""

from __future__ import annotations

import difflib
import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from osmnet.utils.checks import check_flag, check_path, check_range, short

if TYPE_CHECKING:
    import numpy as np

    HeadTurn = float | Sequence[float] | np.ndarray

Options = TypeVar("Options")

NUM_VIDEOS = 4  # takes on the command line and the page, where people compare them; one in Python
MAX_VIDEOS, MAX_EPSILON = 100, 100.0
MIN_SIZE, MAX_SIZE = 64, 2048  # px, side of the square around the head
DEFAULT_SIZE = 256  # px
MAX_SCALE = 10  # factor of movement or expression
MAX_UPPER_FACE = 2.0  # factor of the brows' movement; skin tears beyond
MAX_OFFSET_DEG = 60.0  # degrees; limit of added turns and of the portrait's own
MAX_SEED = 2**63 - 1  # what `torch.Generator` and the JSON files hold
MAX_NEAR = 64  # seeds: each "more like this" adds one


def option(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    whole: bool = False,
    choices: Sequence[str] | None = None,
    metavar: str | None = None,
) -> Any:
    """Declare a field of an options class."""
    metadata = {"help": help, "low": low, "high": high, "whole": whole, "choices": choices, "metavar": metavar}
    return field(default=default, metadata=metadata)


def documented(cls: type[Options]) -> type[Options]:
    """Append the fields to the docstring of an options class."""
    lines = ["", "", "    Attributes:"]
    for each in fields(cls):  # type: ignore[arg-type]
        lines.append(f"        {each.name} (`{each.type}`): {describe(each)}")
    cls.__doc__ = (cls.__doc__ or "").rstrip() + "\n".join(lines) + "\n"
    return cls


def describe(each: Field[Any]) -> str:
    """Describe a field: text, range, default."""
    low, high = each.metadata["low"], each.metadata["high"]
    text: str = each.metadata["help"]
    if low is not None:
        text += f"; {low:g} to {high:g}"
    if each.default not in (None, (), MISSING):
        text += f" (default: {str(each.default).lower() if isinstance(each.default, bool) else each.default})"
    return text + "."


class _Checked:
    """Base class that checks the declared ranges and choices."""

    def __post_init__(self) -> None:
        for each in fields(self):  # type: ignore[arg-type]
            value, choices, low = getattr(self, each.name), each.metadata["choices"], each.metadata["low"]
            if isinstance(each.default, bool):
                check_flag(each.name, value)
            if choices is not None and not (isinstance(value, str) and value in choices):
                allowed = " or ".join(map(repr, choices))
                raise ValueError(f"{each.name} must be {allowed}, not {short(value)}.")
            left_out = value is None and each.default is None
            if low is not None and not left_out and each.name not in ("yaw", "pitch", "roll"):
                check_range(each.name, value, low, each.metadata["high"], each.metadata["whole"])
                if not isinstance(value, int | float):  # NumPy's, fractions: JSON and NumPy take Python's own
                    object.__setattr__(self, each.name, int(value) if each.metadata["whole"] else float(value))


@documented
@dataclass(frozen=True)
class MotionOptions(_Checked):
    """How head and face move; angles in degrees.

    Raises:
        ValueError: If a value is out of its range, or two options exclude each other.
    """

    num_videos: int = option(1, "number of takes", low=1, high=MAX_VIDEOS, whole=True, metavar="N")
    epsilon: float = option(
        1.0, "radius ε around the most likely motion: 0 makes all heads move alike", low=0, high=MAX_EPSILON,
        metavar="RADIUS",
    )  # fmt: skip
    sampling: Literal["span", "ball"] = option(
        "span", "span samples towards other learned motions, ball in any direction of the feature space",
        choices=("span", "ball"),
    )  # fmt: skip
    motion_scale: float = option(1.0, "factor of the head's movement", low=0, high=MAX_SCALE, metavar="X")
    expression_scale: float = option(1.0, "factor of the mouth's movement", low=0, high=MAX_SCALE, metavar="X")
    still: bool = option(False, "keep the head still; lips and lids move")
    blink: bool = option(True, "blink")
    upper_face: float = option(
        1.0, "factor of the brows' and lids' movement: 0 leaves them as in the portrait", low=0, high=MAX_UPPER_FACE,
        metavar="X",
    )  # fmt: skip
    gaze: Literal["viewer", "free", "fixed"] = option(
        "viewer", "viewer: eyes on the viewer, with glances away; free: looking around; fixed: turning with the head",
        choices=("viewer", "free", "fixed"),
    )  # fmt: skip
    yaw: HeadTurn = option(
        0.0, "turn the head, for the whole video or frame by frame, in degrees", low=-MAX_OFFSET_DEG,
        high=MAX_OFFSET_DEG, metavar="DEGREES",
    )  # fmt: skip
    pitch: HeadTurn = option(
        0.0, "raise or lower the chin likewise", low=-MAX_OFFSET_DEG, high=MAX_OFFSET_DEG, metavar="DEGREES"
    )
    roll: HeadTurn = option(0.0, "tilt the head likewise", low=-MAX_OFFSET_DEG, high=MAX_OFFSET_DEG, metavar="DEGREES")
    head_motion: str | os.PathLike[str] | None = option(
        None, "take the head's movement from this video instead of sampling it", metavar="VIDEO"
    )
    near: Sequence[int] = option(
        (), "sample near a take: the seeds in its own `near`, then its `take_seed`", metavar="SEED"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "near", _checked_near(self.near))
        if self.head_motion is not None:
            check_path("head_motion", self.head_motion)
        if self.still and self.head_motion is not None:
            raise ValueError("still and head_motion exclude each other; leave one out.")
        if self.near and (self.still or self.head_motion is not None):
            raise ValueError("near is for sampled motion; leave out still and head_motion, or near.")

    def turns(self, frames: int) -> np.ndarray:
        """Return yaw, pitch and roll of every frame, `(frames, 3)` float32 radians."""
        import numpy as np

        return np.stack([_turn(name, getattr(self, name), frames) for name in ("yaw", "pitch", "roll")], -1)


@documented
@dataclass(frozen=True)
class PictureOptions(_Checked):
    """Rendered part and size of the portrait.

    Raises:
        ValueError: If a value is out of its range, or a size is given for a whole picture.
    """

    full_frame: bool | None = option(
        None, "render the whole picture (scaled down to 1280² pixels) instead of the square around the head; true "
        "unless a size is given"
    )  # fmt: skip
    size: int | None = option(
        None, f"side of the square around the head in pixels ({DEFAULT_SIZE} if not given)", low=MIN_SIZE,
        high=MAX_SIZE, whole=True, metavar="PIXELS",
    )  # fmt: skip
    face: int | None = option(None, "which face of several: 0 is the largest", low=0, high=100, whole=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.full_frame is not None and not isinstance(self.full_frame, bool):
            raise ValueError(f"full_frame must be True, False or None, not {short(self.full_frame)}.")
        if self.full_frame and self.size is not None:
            raise ValueError("size is the side of the square around the head; leave it out, or give full_frame=False.")

    @property
    def whole_picture(self) -> bool:
        """Whether frames are whole pictures."""
        return self.size is None if self.full_frame is None else bool(self.full_frame)


def build_options(
    owner: str, given: Mapping[str, Any], *classes: type[Options], also: Iterable[str] = ()
) -> list[Any]:
    """Build one instance of each options class.

    Args:
        owner (`str`): Name of the called function, for messages.
        given (`Mapping`): The keyword arguments.
        *classes: Options classes, whose fields have different names.
        also (iterable of `str`): Names of the function's other arguments, for suggestions.

    Raises:
        TypeError: If a keyword is unknown; the message suggests the nearest one.
        ValueError: If a value is out of its range.
    """
    names = {cls: [each.name for each in fields(cls)] for cls in classes}  # type: ignore[arg-type]
    known = [name for each in names.values() for name in each]
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, [*known, *also], n=1) or _SYNONYMS.get(name, [])
            hint = f"did you mean {close[0]!r}?" if close else f"it takes {', '.join([*known, *also])}."
            raise TypeError(f"{owner} has no option {name!r}; {hint}")
    return [cls(**{name: given[name] for name in names[cls] if name in given}) for cls in classes]


# Names from other libraries and the command line.
_SYNONYMS = {
    "n": ["num_videos"],
    "num_images_per_prompt": ["num_videos"],
    "num_takes": ["num_videos"],
    "crop": ["full_frame"],
    "whole_picture": ["full_frame"],
    "eps": ["epsilon"],
    "radius": ["epsilon"],
    "resolution": ["size"],
    "height": ["size"],
    "width": ["size"],
    "sample_rate": ["sampling_rate"],
    "sr": ["sampling_rate"],
    "image": ["portrait"],
    "audio": ["speech"],
}


def as_settings(options: MotionOptions | PictureOptions) -> dict[str, Any]:
    """Return options for a JSON record, without per-frame curves."""
    record = asdict(options)
    for name in ("yaw", "pitch", "roll"):
        if name in record and not isinstance(record[name], int | float):
            record[name] = "one a frame" if hasattr(record[name], "__len__") else round(float(record[name]), 3)
    return {key: os.fspath(value) if isinstance(value, os.PathLike) else value for key, value in record.items()}


def _checked_near(near: Any) -> tuple[int, ...]:
    try:
        seeds = (near,) if isinstance(near, str | bytes) else tuple(islice(near, MAX_NEAR + 1))
    except TypeError:  # not iterable, as an array without dimensions
        seeds = (near,)
    if not all(is_seed(seed) for seed in seeds):
        raise ValueError(
            f"near must be a take's own near, then its seed, whole numbers of at least 0; not {short(near)}."
        )
    if len(seeds) > MAX_NEAR:
        raise ValueError(f"near has more than {MAX_NEAR} seeds; begin from another take.")
    return tuple(int(seed) for seed in seeds)


def is_seed(seed: Any) -> bool:
    """Whether a value is a whole number from 0 to `MAX_SEED`."""
    try:
        return not isinstance(seed, bool) and 0 <= operator.index(seed) <= MAX_SEED
    except TypeError:
        return False


def _turn(name: str, turn: HeadTurn, frames: int) -> np.ndarray:
    """Convert a constant or curve in degrees to radians, `(frames,)` float32."""
    import numpy as np

    expected = f"{name} must be a finite number of degrees or {frames} of them, one a frame"
    try:
        curve = np.asarray(turn, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{expected}, not {short(turn)}.") from error
    if curve.shape not in ((), (frames,)):
        raise ValueError(f"{expected}, not of shape {curve.shape}.")
    if not np.isfinite(curve).all():
        raise ValueError(f"{expected}; there is NaN or infinity in it.")
    if np.abs(curve).max(initial=0) > MAX_OFFSET_DEG:
        raise ValueError(f"{name} must stay within ±{MAX_OFFSET_DEG:.0f} degrees.")
    return np.broadcast_to(np.radians(curve).astype(np.float32), (frames,))
