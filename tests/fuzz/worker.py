"""The child of `tests.fuzz.runner`: runs cases until its parent ends."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import re
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.case import Case

MB = 2**20
HEADROOM_MB = 8192  # address space beyond that of the modules: allocating more raises MemoryError
GOOD = ("success", "refusal")
BAD = ("unclear", "traceback", "hang", "crash", "memory")
MAX_MESSAGE = 700  # characters of a clean refusal
QUOTED = 77  # characters of a value in a message, see `osmnet.utils.checks.short`
# Texts of Python and other libraries, which help nobody who reads a refusal.
FOREIGN = re.compile(
    r"Traceback|\[Errno|object at 0x|0x[0-9a-f]{6}|<_io\.|<class|NoneType|not subscriptable|unsupported operand|"
    r"(list|string|tuple) index out of range|has no attribute|unexpected keyword|positional argument|not iterable|"
    r"codec can't|"
    r"unhashable|UntrackedPointer|site-packages|\.py\b|\.cc:|\.cpp|size mismatch|RuntimeError|TypeError|KeyError|"
    r"ValueError|torch\.Size|numpy\.|ufunc|inhomogeneous|libav|expected str, bytes|cannot convert|must be real number"
)


@dataclass(frozen=True)
class Result:
    """What became of a case.

    Attributes:
        outcome (`str`): One of `GOOD` or `BAD`.
        detail (`str`): Message or traceback.
        seconds (`float`): Time.
        peak_mb (`float`): Largest memory of the process meanwhile, MB.
    """

    outcome: str
    detail: str = ""
    seconds: float = 0.0
    peak_mb: float = 0.0

    @property
    def signature(self) -> str:
        """What failed, alike for failures of the same cause."""
        places = re.findall(r'File "[^"]*?/((?:osmnet|tests/fuzz)/[^"]+)", line (\d+)', self.detail)
        last = self.detail.strip().splitlines()[-1:] or [""]
        what = re.sub(r"'[^']*'|\d+", "…", last[0])[:100]
        return f"{self.outcome}: {what} {':'.join(places[-1]) if places else ''}".strip()


def make_case(kind: str, seed: int, number: int, seeds: Path) -> Case:
    """Make a case again, from its number."""
    return import_module(f"tests.fuzz.kinds.{kind}").make(Random(f"{seed} {kind} {number}"), seeds)


def fault_of(error: Exception, given: Iterable[Any] = ()) -> str | None:
    """Return why a refusal is not a clean one: a sentence of ours for whoever gave the input.

    The message may quote values that were `given`.
    """
    message = str(error)
    if not message:
        return "no message"
    if not message.isprintable():
        return "line breaks or control characters"
    if len(message) > MAX_MESSAGE:
        return f"{len(message)} characters"
    for value in given:
        with contextlib.suppress(ValueError):  # an integer of more digits than Python prints
            message = message.replace(repr(value)[:QUOTED], "")
    if found := FOREIGN.search(message):
        return f"foreign text {found[0]!r}"
    return None


def is_refusal(error: Exception) -> bool:
    """Whether an error is of a documented class."""
    unknown_option = isinstance(error, TypeError) and " has no option " in str(error)
    return isinstance(error, ValueError | OSError) and not isinstance(error, UnicodeError) or unknown_option


def run_case(case: Case, seeds: Path, limit_mb: float) -> Result:
    """Run a case in this process."""
    module = import_module(f"tests.fuzz.kinds.{case.kind}")
    folder = Path(tempfile.mkdtemp(prefix="case-"))
    with contextlib.suppress(OSError):  # not Linux: the peak is then that of all cases so far
        Path("/proc/self/clear_refs").write_text("5")
    case.lay_out(folder, seeds)
    names = import_module("tests.fuzz.kinds.arguments").names() | {"folder": folder}
    given = {name: eval(text, names) for name, text in case.arguments.items()}
    begin = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module.TARGETS[case.target](folder, **given)
        outcome, detail = "success", ""
    except MemoryError:
        outcome, detail = "memory", traceback.format_exc()
    except Exception as error:
        fault = fault_of(error, given.values()) if is_refusal(error) else None
        outcome = ("unclear" if fault else "refusal") if is_refusal(error) else "traceback"
        detail = str(error) if outcome == "refusal" else f"{fault or ''}\n{traceback.format_exc()}"
    seconds, peak = time.perf_counter() - begin, _peak_mb()
    if outcome != "memory" and peak > limit_mb:
        outcome, detail = "memory", f"{peak:.0f} MB\n{detail}"
    shutil.rmtree(folder, ignore_errors=True)
    return Result(outcome, detail.replace(str(folder), "FOLDER"), seconds, peak)


def _peak_mb() -> float:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (MB if sys.platform == "darwin" else 1024)


def main() -> None:
    """Run what the parent sends: `(kind, seed, number)`, or the text of a case."""
    connection, seeds, limit_mb = Connection(int(sys.argv[1])), Path(sys.argv[2]), float(sys.argv[3])
    # What the libraries print, and where a crash happened; ours go through the connection.
    log = os.open(sys.argv[4], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    faulthandler.enable()
    import_module("tests.fuzz.kinds.arguments").names()
    if sys.argv[5] == "warm":
        import_module("tests.fuzz.kinds.shared").pipe()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + HEADROOM_MB * MB,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    connection.send("ready")
    while True:
        try:
            job: Any = connection.recv()
        except EOFError:
            return
        try:
            case = Case.load(job) if isinstance(job, str) else make_case(*job, seeds)
            connection.send(run_case(case, seeds, limit_mb))
        except Exception:  # of the harness itself
            connection.send(traceback.format_exc())
