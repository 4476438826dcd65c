"""Fuzzing of our own parsers guided by coverage, with atheris; see `tests/fuzz/__main__.py`."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from tests.fuzz.case import Case
from tests.fuzz.kinds import datasets, models, settings, takes
from tests.fuzz.kinds.shared import environment
from tests.fuzz.runner import REPOSITORY, Report, run_jobs
from tests.fuzz.worker import is_refusal

# Each parser: a case whose only file is what atheris makes, and the seed that it starts from.
PARSERS = {
    "index": (
        Case("models", "family", {"model_index.json": b""}, "model", {"component": "''"}),
        "model/model_index.json",
    ),
    "config": (
        Case("models", "component", {"motion_space/config.json": b""}, "model", {"component": "'motion_space'"}),
        "model/motion_space/config.json",
    ),
    "weights": (
        Case("models", "component", {f"motion_space/{models.WEIGHTS}": b""}, "model", {"component": "'motion_space'"}),
        f"model/motion_space/{models.WEIGHTS}",
    ),
    "dataset": (Case("datasets", "open", {"dataset.json": b""}, "dataset"), "dataset/dataset.json"),
    "manifest": (Case("datasets", "open", {"manifest.jsonl": b""}, "dataset"), "dataset/manifest.jsonl"),
    "settings": (
        Case("settings", "config", {"tiny.yaml": b""}, arguments={"stage": "'motion'", "overrides": "[]"}),
        "settings/tiny.yaml",
    ),
    "ablation": (Case("settings", "ablation", {"ablation.yaml": b""}), "settings/ablation.yaml"),
    "table": (Case("settings", "table", {"table.csv": b""}), "settings/table.csv"),
    "checkpoint": (
        Case("takes", "checkpoint", {"checkpoint-000004/config.json": b""}, "checkpoints"),
        "checkpoints/checkpoint-000004/config.json",
    ),
    "verify": (Case("takes", "verify", {"signed.png": b""}), "takes/signed.png"),
    "key": (Case("takes", "own_key", {takes.KEY: b""}), takes.KEY),
}
KINDS = {"models": models, "datasets": datasets, "settings": settings, "takes": takes}
INSTRUMENTED = (
    "osmnet.loading",
    "osmnet.data",
    "osmnet.training",
    "osmnet.takes",
    "osmnet.provenance",
    "osmnet.utils",
)


def fuzz_parsers(seeds: Path, out: Path, seconds: float, seed: int) -> Report:
    """Fuzz each parser in a process of its own.

    Args:
        seeds (`Path`): From `runner.seeds_made`.
        out (`Path`): Folder for the inputs that fail.
        seconds (`float`): Time for each parser.
        seed (`int`): Seed of atheris.

    Returns:
        `Report`: Of the inputs that failed, run again without atheris.

    Raises:
        ValueError: If atheris is not installed.
    """
    if importlib.util.find_spec("atheris") is None:
        raise ValueError("--coverage needs the package 'atheris' (Linux, Python 3.11 or 3.12): pip install atheris.")
    report = Report()
    for name, (case, start) in PARSERS.items():
        found = seeds.parent / f"found-{name}"
        corpus = seeds.parent / f"corpus-{name}"
        for folder in (found, corpus):
            folder.mkdir()
        (corpus / "seed").write_bytes((seeds / start).read_bytes())
        sys.stdout.write(f"{name}: {seconds:g} s\n")
        sys.stdout.flush()
        code = f"from tests.fuzz.coverage import child; child({name!r}, {str(seeds)!r})"
        options = [f"-max_total_time={seconds:g}", f"-seed={seed + 1}", f"-artifact_prefix={found}/", "-max_len=20000",
                   "-rss_limit_mb=4096", "-timeout=20", "-print_final_stats=1"]  # fmt: skip
        path = os.pathsep.join([str(REPOSITORY), *filter(None, sys.path)])
        with environment(PYTHONPATH=path, OSMNET_FUZZ_SEEDS=str(seeds), OSMNET_HOME=str(seeds / "home")):
            done = subprocess.run([sys.executable, "-c", code, *options, str(corpus)], capture_output=True, text=True)
        runs = [line for line in done.stderr.splitlines() if "number_of_executed_units" in line]
        sys.stdout.write(f"  {' '.join(runs) or done.stderr[-2000:]}\n")
        (place,) = case.files
        inputs = [path.read_bytes() for path in sorted(found.iterdir())] or [(seeds / start).read_bytes()]
        jobs = [Case(case.kind, case.target, {place: data}, case.base, case.arguments).dump() for data in inputs]
        report.update(run_jobs(jobs, seeds, keep=out))
    return report


def child(name: str, seeds: str) -> None:
    """Run atheris in this process."""
    import tempfile

    import atheris

    with atheris.instrument_imports(include=list(INSTRUMENTED)):
        import osmnet.data.dataset
        import osmnet.pipelines.talking_head
        import osmnet.provenance.key
        import osmnet.training.osm_net.ablation
        import osmnet.training.stages  # noqa: F401
    case, _ = PARSERS[name]
    (place,) = case.files
    target = KINDS[case.kind].TARGETS[case.target]
    given = {each: eval(text) for each, text in case.arguments.items()}
    folder = Path(tempfile.mkdtemp(prefix="coverage-", dir=Path(seeds).parent))
    case.lay_out(folder, Path(seeds))

    def once(data: bytes) -> None:
        (folder / place).write_bytes(data)
        try:
            target(folder, **given)
        except Exception as error:
            if not is_refusal(error):
                raise

    atheris.Setup([name, *sys.argv[1:]], once)
    atheris.Fuzz()
