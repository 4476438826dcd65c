"""Wrong arguments of the commands beside `generate`: refused in one sentence before anything heavy is imported."""

import json
import subprocess
import sys

import pytest

from osmnet.cli import argument_checks, main
from tests.support.dummies import PORTRAIT

HEAVY = ("torch", "diffusers", "scipy", "mediapipe", "numba", "matplotlib")
# Arguments, of which `page.md` has no marks and `file` is a file, and words of the refusal.
REFUSALS = {
    "evaluate --data set --out file": "cannot be written to",
    "evaluate --data set --out file/report": "cannot be written to",
    "evaluate --data nothing --out out": "not a prepared dataset",
    "evaluate --data set --out out --model ./nothing": "not a folder",
    "evaluate --data set --out out --model set": "has no model_index.json",
    "evaluate --data set --out out --workers 0": "at least 1",
    "evaluate --data set --out out --takes 1": "takes 2 to 20",
    "evaluate --data set --out out --syncnet nothing": "no file 'nothing'",
    "evaluate --data set --out out --inception nothing": "no file 'nothing'",
    "evaluate --data set --out out --page page.md": "has no place for this table",
    "evaluate --data set --out out --ablate --quick": "--quick has no effect",
    "evaluate --data set --out out --ablate --split-by clip": "--split-by has no effect",
    "bases --out out --portrait nobody.jpg": "no file 'nobody.jpg'",
    "bases --out out --speech nothing.wav": "no file 'nothing.wav'",
    "bases --out out --epsilon 0": "finite number above 0",
    "bases --out out --bases nod": "takes numbers",
    "bases --out out --model ~/nothing/there": "not a folder",
    "bases --out file": "cannot be written to",
    "gallery --out page.html": "ends in .md",
    "gallery --out page.md --portraits nobody.jpg": "no file 'nobody.jpg'",
    "gallery --out page.md --model set": "has no model_index.json",
    "gallery --out file/page.md": "cannot be written to",
    "push no-name": "name/model",
    "push someone/new --model nothing": "no folder 'nothing'",
    "push someone/new --model set": "has no model_index.json",
    "push someone/new --model card": "no model card",
    "verify nothing.mp4": "no file",
    "verify page.md": "no MP4",
}
CODE = """
import contextlib, io, json, sys
from osmnet.cli import main

refusals = {}
for line in json.loads(sys.argv[1]):
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        status = main(line.split())
    refusals[line] = [status, said.getvalue(), [name for name in json.loads(sys.argv[2]) if name in sys.modules]]
print(json.dumps(refusals))
"""


@pytest.fixture(scope="module")
def refused(repository, tmp_path_factory):
    """Status, stderr and heavy modules after each refusal, all in one fresh process; and the files left."""
    folder = tmp_path_factory.mktemp("checks")
    for name in ("file", "page.md", "set/dataset.json", "card/model_index.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    before = sorted(folder.rglob("*"))
    command = [sys.executable, "-c", CODE, json.dumps(list(REFUSALS)), json.dumps(HEAVY)]
    environment = {"PYTHONPATH": str(repository), "OSMNET_HOME": str(folder), "PATH": "", "HOME": str(folder)}
    run = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert sorted(folder.rglob("*")) == before
    return json.loads(run.stdout)


@pytest.mark.parametrize("arguments", REFUSALS)
def test_wrong_arguments_are_refused_at_once(refused, arguments):
    status, stderr, heavy = refused[arguments]
    assert status == 2 and heavy == []
    assert stderr.startswith("osmnet: ") and stderr.count("\n") == 1 and REFUSALS[arguments] in stderr


def test_what_is_right_passes(tmp_path, repository):
    argument_checks.check_files([PORTRAIT, None])
    argument_checks.check_output_folder(tmp_path / "new" / "folder")
    argument_checks.check_dataset("https://example.org/set")
    for model in (None, "name/model", repository / "weights_card"):
        argument_checks.check_model(model)
    assert list(tmp_path.iterdir()) == []


def test_a_number_of_a_basis_that_is_not_there_is_refused(tiny_folder, tmp_path, capsys):
    arguments = ["--model", str(tiny_folder), "--portrait", str(PORTRAIT), "--bases", "0,6"]
    assert main(["bases", "--out", str(tmp_path / "out"), *arguments]) == 2
    assert "There are 6 bases, 0 to 5" in capsys.readouterr().err and not (tmp_path / "out").exists()
