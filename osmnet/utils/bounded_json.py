"""JSON of strangers, bounded in size, depth and numbers."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from osmnet.utils.checks import reason, short

# Those of the package stay far below.
MAX_JSON = 2**20  # bytes
MAX_DEPTH = 16  # of nesting
MAX_DIGITS = 20  # of a whole number


def parse_json(content: bytes, most: int = MAX_JSON, finite: bool = True) -> Any:
    """Parse JSON of at most `most` bytes.

    Raises:
        ValueError: If it is not JSON, too large or too deep, repeats a name, or has a number of more than 20 digits
            or, unless `finite` is false, one that is not finite.
    """
    number = _number if finite else float
    if len(content) > most:
        raise ValueError(f"more than {most} bytes")
    try:
        value = json.loads(
            content.decode("utf-8"), parse_int=_whole_number, parse_float=number, parse_constant=number,
            object_pairs_hook=_object,
        )  # fmt: skip
    except UnicodeDecodeError as error:
        raise ValueError(reason(error)) from error
    except RecursionError as error:
        raise ValueError(f"nested more than {MAX_DEPTH} deep") from error
    if any(depth > MAX_DEPTH for _, depth in leaves(value)):
        raise ValueError(f"nested more than {MAX_DEPTH} deep")
    return value


def read_json(path: Path, advice: str = "restore it or download it again") -> Any:
    """Read a file as `parse_json` does.

    Raises:
        ValueError: As `parse_json`, or if it cannot be read; names the file and ends with `advice`.
    """
    try:
        with open(path, "rb") as file:
            return parse_json(file.read(MAX_JSON + 1))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not readable JSON ({reason(error)}); {advice}.") from error


def leaves(value: Any) -> Iterator[tuple[Any, int]]:
    """Yield what a JSON value consists of, with its depth, down to just beyond `MAX_DEPTH`."""
    stack = [(value, 0)]
    while stack:
        value, depth = stack.pop()
        children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
        if children is None or depth > MAX_DEPTH:
            yield value, depth
        else:
            stack.extend((child, depth + 1) for child in children)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the name {short(name)} twice")
        found[name] = value
    return found


def _whole_number(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _number(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"the number {short(text)}")
    return number
