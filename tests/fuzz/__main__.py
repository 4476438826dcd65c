"""Fuzz every kind of input that strangers send: `python -m tests.fuzz --cases 10000 --seed 0`.

Valid small files are made on the fly and mutated by a seeded generator; so are the arguments of calls and commands.
Child processes run the cases. Each becomes

- success or refusal: an exception derived from `ValueError` or `OSError` whose message is one printable sentence of
  our own;
- unclear: such an exception with another message; traceback: any other exception;
- hang: more than `--seconds`; crash: the process ended; memory: a peak above `--memory-mb`.

A case that hangs or crashes is lost alone. At the end come a table and a line for each cause; the exit status is 1 if
any case was bad. Inputs that failed are kept in `--out` (three of each cause), as JSON files that hold all that the
case needs:

    python -m tests.fuzz --replay out/fuzz/crash-sounds-0-17.json

prints what becomes of one, or of all in a folder, such as the corpus of what was found (`tests/fuzz/corpus/`, which
`tests/fuzz/test_fuzz.py` runs with 500 new cases). To add to it: `--replay FILE --keep NAME "What went wrong."`.

`--coverage` fuzzes our own parsers (JSON, YAML, manifests, records, keys, headers) guided by coverage, with atheris
where it is installed (`pip install atheris`), each for `--seconds`.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from tests.fuzz.case import Case
from tests.fuzz.coverage import fuzz_parsers
from tests.fuzz.kinds import NAMES
from tests.fuzz.runner import Report, jobs_of, run_jobs, seeds_made

CORPUS = Path(__file__).with_name("corpus")


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--cases", type=int, default=10_000, help="all kinds together (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="other seeds give other cases (default: %(default)s)")
    parser.add_argument("--kinds", nargs="+", choices=NAMES, default=NAMES, metavar="KIND", help=", ".join(NAMES))
    parser.add_argument("--workers", type=int, default=1, help="processes (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=20.0, help="limit of a case (default: %(default)s)")
    parser.add_argument("--memory-mb", type=float, default=2048.0, help="limit of a case (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("out/fuzz"), help="inputs that failed (default: %(default)s)")
    parser.add_argument("--replay", type=Path, help="a kept case, or a folder of them, instead of new ones")
    parser.add_argument("--keep", nargs=2, metavar=("NAME", "STORY"), help="put the replayed case into the corpus")
    parser.add_argument("--coverage", action="store_true", help="fuzz our parsers guided by coverage (atheris)")
    args = parser.parse_args(argv)
    with seeds_made() as seeds:
        limits = {"workers": args.workers, "seconds": args.seconds, "memory_mb": args.memory_mb}
        if args.coverage:
            try:
                report = fuzz_parsers(seeds, args.out, args.seconds, args.seed)
            except ValueError as error:
                parser.error(str(error))
        elif args.replay:
            report = _replay(args.replay, args.keep, seeds, limits)
        else:
            jobs = jobs_of(args.kinds, args.cases, args.seed)
            report = run_jobs(jobs, seeds, keep=args.out, progress=True, **limits)
    sys.stdout.write(report.table() + "\n")
    if report.bad and not args.replay:
        sys.stdout.write(f"The inputs that failed are in '{args.out}'.\n")
    return 1 if report.bad else 0


def _replay(path: Path, keep: list[str] | None, seeds: Path, limits: dict) -> Report:
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    texts = [file.read_text(encoding="utf-8") for file in files]
    report = run_jobs(texts, seeds, **{**limits, "workers": 1})  # in this order
    for file, (text, result) in zip(files, report.results, strict=True):
        sys.stdout.write(f"{file.name}: {result.outcome}\n{result.detail.strip()}\n\n")
        if keep:
            case = replace(Case.load(text), story=keep[1])
            (CORPUS / f"{keep[0]}.json").write_text(case.dump(), encoding="utf-8")
    return report


if __name__ == "__main__":
    sys.exit(main())
