"""The programs, the notebook and the script in examples/, as a newcomer runs them."""

import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import soundfile
from nbclient import NotebookClient

from osmnet.media.video_reader import read_frames
from osmnet.provenance.verify import verify
from tests.support.dummies import read_json


@pytest.fixture
def run_example(repository, tmp_path, monkeypatch):
    """Run a program in an empty folder, in this process."""

    def run(name: str, *arguments: str) -> Path:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(repository / "examples" / name), run_name="__main__")
        return tmp_path / "out"

    return run


@pytest.fixture
def notebook(repository):
    return nbformat.read(repository / "examples" / "osmnet.ipynb", as_version=4)


@pytest.mark.integration
def test_generate_writes_one_file(run_example, capsys):
    out = run_example("generate.py")
    assert capsys.readouterr().out.splitlines() == ["out/generate.mp4"]
    assert [path.name for path in out.iterdir()] == ["generate.mp4"]
    assert verify(out / "generate.mp4").state == "valid"
    assert len(list(read_frames(out / "generate.mp4"))) == 196  # 7.8 s


@pytest.mark.integration
def test_many_takes_spread_with_epsilon(run_example, capsys):
    out = run_example("many_takes.py")
    lines = [line for line in capsys.readouterr().out.splitlines() if "between" in line]
    between = [float(line.split(" by ")[1].split("°")[0]) for line in lines]
    assert len(between) == 3 and between[0] == 0 < between[1] < between[2]
    assert (out / "liveliest.mp4").is_file()


@pytest.mark.integration
def test_live_writes_all_frames(run_example, repository, tmp_path):
    waveform, rate = soundfile.read(repository / "examples" / "speech_1.wav")
    soundfile.write(tmp_path / "short.wav", waveform[: 2 * rate], rate)
    out = run_example("live.py", "--fast", "--speech", str(tmp_path / "short.wav"))
    frames = list(read_frames(out / "live.mp4"))
    assert len(frames) == 50 and np.shape(frames[0]) == (256, 256, 3)
    assert verify(out / "live.mp4").state == "valid"


@pytest.mark.integration
def test_notebook_shows_takes_that_play(notebook, repository, tmp_path, subprocess_environment, monkeypatch):
    for name in ("portrait_astronaut.jpg", "speech_1.wav"):
        shutil.copy(repository / "examples" / name, tmp_path)
    waveform, rate = soundfile.read(tmp_path / "speech_1.wav")
    soundfile.write(tmp_path / "short.wav", waveform[:rate], rate)
    for name, value in subprocess_environment.items():
        monkeypatch.setenv(name, value)  # the kernel imports the same osmnet
    (parameters,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
    parameters.source += '\nSPEECH = "short.wav"\nSIZE = 64'
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    html = [
        output.data["text/html"]
        for cell in notebook.cells if cell.cell_type == "code"
        for output in cell.outputs if output.output_type == "execute_result" and "text/html" in output.data
    ]  # fmt: skip
    assert len(html) == 2  # the first takes, and more like one
    assert all(each.count("<video") == 2 and "data:video/mp4;base64," in each for each in html)
    assert len(list((tmp_path / "takes").glob("take-*.mp4"))) == 2


def test_notebook_is_stored_without_outputs(notebook):
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None
    assert set(notebook.metadata) == {"kernelspec", "language_info"}


@pytest.mark.integration
def test_train_tiny_goes_from_raw_videos_to_measured_weights(repository, subprocess_environment, tmp_path):
    bash = shutil.which("bash")
    assert bash, "the script needs bash"
    environment = subprocess_environment | {"OSMNET": f"{sys.executable} -m osmnet"}
    run = subprocess.run(
        [bash, repository / "examples" / "train_tiny.sh", "", tmp_path / "run"],
        env=environment, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    out: Path = tmp_path / "run"
    assert (out / "data" / "report.html").is_file()
    assert (out / "weights" / "model_index.json").is_file()
    frames = [list(read_frames(out / "video" / f"take-{take}.mp4")) for take in (1, 2)]
    assert len(frames[0]) == len(frames[1]) > 180  # the whole speech
    report = read_json(out / "report" / "report.json")
    means = report["mean_by_length"]
    assert means["oracle"]["ssim"] > means["static"]["ssim"]
