"""Run cases in child processes, count what becomes of them, and keep those that fail."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import Pipe
from pathlib import Path

from tqdm import tqdm

from tests.fuzz.case import Case
from tests.fuzz.seeds import make_seeds
from tests.fuzz.worker import BAD, GOOD, Result, make_case

REPOSITORY = Path(__file__).resolve().parents[2]
START_SECONDS = 180.0  # until a child has imported its modules
CASES_A_CHILD = 1000  # then a fresh one
KEPT = 3  # failing inputs kept of each signature
Job = tuple[str, int, int] | str  # kind, seed and number; or the text of a case


@dataclass
class Report:
    """What became of all cases."""

    counts: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    slowest: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    peak_mb: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    signatures: Counter[str] = field(default_factory=Counter)
    results: list[tuple[Job, Result]] = field(default_factory=list)

    def add(self, kind: str, job: Job, result: Result) -> bool:
        """Count a result; whether its input is to be kept."""
        self.results.append((job, result))
        self.counts[kind][result.outcome] += 1
        self.slowest[kind] = max(self.slowest[kind], result.seconds)
        self.peak_mb[kind] = max(self.peak_mb[kind], result.peak_mb)
        if result.outcome in GOOD:
            return False
        self.signatures[result.signature] += 1
        return self.signatures[result.signature] <= KEPT

    def update(self, other: Report) -> None:
        """Add the counts of another report."""
        for kind, counts in other.counts.items():
            self.counts[kind] += counts
            self.slowest[kind] = max(self.slowest[kind], other.slowest[kind])
            self.peak_mb[kind] = max(self.peak_mb[kind], other.peak_mb[kind])
        self.results += other.results
        self.signatures += other.signatures

    @property
    def bad(self) -> int:
        """Number of failures."""
        return len(self.failures())

    def failures(self) -> list[tuple[Job, Result]]:
        """List the cases that failed."""
        return [(job, result) for job, result in self.results if result.outcome in BAD]

    def table(self) -> str:
        """Format the counts by kind."""
        columns = (*GOOD, *BAD)
        lines = [
            f"{'kind':<10} {'cases':>6} " + " ".join(f"{each:>9}" for each in columns) + f" {'slowest':>9} {'peak':>8}"
        ]
        total: Counter[str] = Counter()
        for kind, counts in self.counts.items():
            total += counts
            lines.append(self._line(kind, counts, self.slowest[kind], self.peak_mb[kind]))
        lines.append(self._line("all", total, max(self.slowest.values()), max(self.peak_mb.values())))
        lines += [f"{count:>6} × {signature}" for signature, count in self.signatures.most_common()]
        return "\n".join(lines)

    @staticmethod
    def _line(kind: str, counts: Counter[str], seconds: float, peak: float) -> str:
        cells = " ".join(f"{counts[each]:>9}" for each in (*GOOD, *BAD))
        return f"{kind:<10} {sum(counts.values()):>6} {cells} {seconds:>7.1f} s {peak:>5.0f} MB"


@contextlib.contextmanager
def seeds_made() -> Iterator[Path]:
    """Make the seeds in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="osmnet-fuzz-") as folder:
        seeds = Path(folder, "seeds")
        seeds.mkdir()
        make_seeds(seeds)
        yield seeds


def jobs_of(kinds: Sequence[str], cases: int, seed: int) -> list[Job]:
    """List the jobs, a kind after the other in turn."""
    return [(kinds[k % len(kinds)], seed, k // len(kinds)) for k in range(cases)]


def run_jobs(
    jobs: Sequence[Job],
    seeds: Path,
    *,
    workers: int = 1,
    seconds: float = 20.0,
    memory_mb: float = 2048.0,
    keep: Path | None = None,
    warm: bool = True,
    progress: bool = False,
) -> Report:
    """Run cases; one that hangs or crashes costs its child only.

    Args:
        jobs (sequence): Numbers or texts of cases.
        seeds (`Path`): From `seeds_made`.
        workers (`int`): Children.
        seconds (`float`): Time after which a case hangs.
        memory_mb (`float`): Memory that a case must stay below.
        keep (`Path`, *optional*): Folder for the inputs that fail.
        warm (`bool`): Build the tiny pipeline before the first case.
        progress (`bool`): Show a progress bar.

    Returns:
        `Report`: The counts.
    """
    report, lock, waiting = Report(), threading.Lock(), queue.SimpleQueue[Job]()
    for job in jobs:
        waiting.put(job)
    errors: list[BaseException] = []
    with tqdm(total=len(jobs), desc="fuzz", unit="case", disable=not progress, dynamic_ncols=True) as bar:

        def work() -> None:
            child = _Child(seeds, seconds, memory_mb, warm)
            try:
                while not errors:
                    job = waiting.get_nowait()
                    result = child.run(job)
                    if isinstance(result, str):
                        raise RuntimeError(f"The harness failed at {job}:\n{result}")
                    case = Case.load(job) if isinstance(job, str) else None
                    kind = case.kind if case else job[0]
                    with lock:
                        is_kept = report.add(kind, job, result)
                        bar.update()
                        bar.set_postfix(bad=report.bad)
                    if is_kept and keep is not None:
                        _keep(keep, case or make_case(*job, seeds), job, result)
            except queue.Empty:
                pass
            except BaseException as error:
                errors.append(error)
            finally:
                child.close()

        threads = [threading.Thread(target=work) for _ in range(workers)]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except KeyboardInterrupt as stop:
            errors.append(stop)
            raise
    if errors:
        raise errors[0]
    return report


def _keep(folder: Path, case: Case, job: Job, result: Result) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    name = "-".join(map(str, job)) if isinstance(job, tuple) else f"replay-{abs(hash(job)) % 10**6}"
    about = {"outcome": result.outcome, "seconds": round(result.seconds, 1), "peak_mb": round(result.peak_mb),
             "detail": result.detail.splitlines()}  # fmt: skip
    (folder / f"{result.outcome}-{name}.json").write_text(case.dump(**about), encoding="utf-8")


class _Child:
    """A child process, replaced when it is lost."""

    def __init__(self, seeds: Path, seconds: float, memory_mb: float, warm: bool):
        self.seeds, self.seconds, self.memory_mb, self.warm = seeds, seconds, memory_mb, warm
        self.folder = Path(tempfile.mkdtemp(prefix="child-", dir=seeds.parent))
        self.process: subprocess.Popen[bytes] | None = None
        self.served = 0

    def run(self, job: Job) -> Result | str:
        if self.process is None or self.served >= CASES_A_CHILD:
            self._start()
        self.served += 1
        begin = time.perf_counter()
        try:
            self.connection.send(job)
            if self.connection.poll(self.seconds):
                return self.connection.recv()
            self.process.send_signal(signal.SIGABRT)  # whose handler prints where every thread is
            self.process.wait(10)
            outcome = "hang"
        except (EOFError, OSError, subprocess.TimeoutExpired) as error:
            outcome = "hang" if isinstance(error, subprocess.TimeoutExpired) else "crash"
        seconds = time.perf_counter() - begin
        self.close()
        status = self.process.returncode
        what = f"signal {-status}" if status < 0 else f"exit status {status}"
        detail = self._log()[-6000:] + f"\n{what if outcome == 'crash' else f'more than {self.seconds:g} s'}"
        self.process = None
        return Result(outcome, detail, seconds)

    def _start(self) -> None:
        self.close()
        self.served = 0
        self._log_path.unlink(missing_ok=True)
        self.connection, theirs = Pipe()
        environment = {
            **os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *filter(None, sys.path)]),
            "TMPDIR": str(self.folder), "OSMNET_HOME": str(self.seeds / "home"), "OSMNET_CACHE": os.devnull,
            "OSMNET_FUZZ_SEEDS": str(self.seeds), "OMP_NUM_THREADS": "1", "TQDM_MININTERVAL": "60",
            "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HOME": str(self.folder / "hub"),
        }  # fmt: skip
        environment.pop("OSMNET_ISOLATE", None)
        arguments = [str(theirs.fileno()), str(self.seeds), str(self.memory_mb), str(self._log_path)]
        arguments.append("warm" if self.warm else "cold")
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", "from tests.fuzz.worker import main; main()", *arguments],
                env=environment, cwd=self.folder, pass_fds=[theirs.fileno()], start_new_session=True,
            )  # fmt: skip
        if not self.connection.poll(START_SECONDS) or not self._is_ready():
            self.close()
            raise RuntimeError(f"A worker did not start:\n{self._log()}")

    def _is_ready(self) -> bool:
        with contextlib.suppress(EOFError, OSError):
            return bool(self.connection.recv() == "ready")
        return False

    @property
    def _log_path(self) -> Path:
        return self.folder / "log"

    def _log(self) -> str:
        with contextlib.suppress(OSError):
            return self._log_path.read_text(encoding="utf-8", errors="replace")
        return ""

    def close(self) -> None:
        if self.process is None:
            return
        self.connection.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # and the children of the case
        self.process.wait()
