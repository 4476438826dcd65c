"""Fuzzing in the tests: some new cases of every kind, and all that was found before; see `tests/fuzz/__main__.py`."""

import json
from pathlib import Path

import pytest

from tests.fuzz import runner
from tests.fuzz.case import Case
from tests.fuzz.kinds import NAMES
from tests.fuzz.worker import MB, Result, fault_of, make_case

CORPUS = sorted(Path(__file__).with_name("corpus").glob("*.json"))
CASES, SECONDS = 500, 90.0  # s, generous: other tests run beside these


@pytest.fixture(scope="module")
def seeds():
    with runner.seeds_made() as folder:
        yield folder


@pytest.mark.integration
def test_new_cases_and_those_of_the_corpus_are_refused_cleanly_or_succeed(seeds, tmp_path):
    jobs = [*(path.read_text(encoding="utf-8") for path in CORPUS), *runner.jobs_of(NAMES, CASES, seed=0)]
    report = runner.run_jobs(jobs, seeds, seconds=SECONDS, keep=tmp_path)
    kept = "\n\n".join("\n".join(json.loads(path.read_text())["detail"]) for path in sorted(tmp_path.iterdir())[:5])
    assert report.bad == 0, f"{report.table()}\n{kept}"
    assert set(report.counts) == set(NAMES)
    assert all(counts["success"] and counts["refusal"] for counts in report.counts.values()), report.table()


@pytest.mark.integration
def test_a_case_that_hangs_or_crashes_is_lost_alone(tmp_path):
    outcomes = ["hang", "crash", "memory", "unclear", "traceback", "refusal", "success"]
    jobs = [Case("faults", "fail", {"a": b"x"}, arguments={"how": repr(outcome)}).dump() for outcome in outcomes]
    report = runner.run_jobs(jobs, tmp_path, seconds=8.0, keep=tmp_path / "kept", warm=False)
    assert report.counts["faults"] == dict.fromkeys(outcomes, 1)
    assert [result.outcome for _, result in report.failures()] == outcomes[:5]
    kept = {path.name.split("-")[0]: Case.load(path.read_text()) for path in (tmp_path / "kept").iterdir()}
    assert {outcome: case.arguments["how"] for outcome, case in kept.items()} == {
        outcome: repr(outcome) for outcome in outcomes[:5]
    }


def test_a_case_survives_its_file():
    case = Case("sounds", "load", {"a/b.wav": bytes(range(256)), "c": None}, "base", {"fps": "10**400"}, "A story.")
    assert Case.load(case.dump(outcome="crash")) == case


def test_a_number_makes_the_same_case_again(tmp_path):
    (tmp_path / "sounds").mkdir()
    (tmp_path / "sounds" / "plain.wav").write_bytes(bytes(range(200)))
    cases = [make_case("sounds", 3, number, tmp_path) for number in (5, 5, 6)]
    assert cases[0] == cases[1] != cases[2]


@pytest.mark.parametrize(
    ("message", "is_clean"),
    [
        ("'a.wav' is empty (0 bytes): copy the recording again.", True),
        ("", False),
        ("two\nlines", False),
        ("\x1b[31mred", False),
        ("x" * 5000, False),
        ("'a' cannot be read ([Errno 2] No such file or directory); check it.", False),
        ("'a' is damaged ('NoneType' object is not subscriptable).", False),
        ("failed in UntrackedPointer", False),
    ],
)
def test_what_counts_as_a_clean_message(message, is_clean):
    assert (fault_of(ValueError(message)) is None) == is_clean


def test_failures_of_one_cause_have_one_signature():
    detail = "File \"/x/osmnet/media/image.py\", line {}, in load\nKeyError: '{}'"
    first, second = (Result("traceback", detail.format(7, each)).signature for each in ("a", "b"))
    assert first == second == "traceback: KeyError: … osmnet/media/image.py:7"


def test_the_corpus_is_small_and_tells_stories():
    for path in CORPUS:
        case = Case.load(path.read_text(encoding="utf-8"))
        assert path.stat().st_size <= 20_000, path.name
        assert case.story.endswith(".") and "\n" not in case.story, path.name
        assert sum(len(content or b"") for content in case.files.values()) < 2 * MB, path.name
