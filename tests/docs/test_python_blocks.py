"""Python blocks in the pages run: with the shipped weights, on one second of speech."""

import shutil
from pathlib import Path
from unittest.mock import create_autospec

import numpy as np
import pytest
import soundfile

from osmnet import OSMNetPipeline
from osmnet.provenance.verify import verify
from tests.support.markdown import REPOSITORY, blocks

pytestmark = pytest.mark.integration
SECONDS = 1.0


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty working folder with the files that the pages name."""
    examples = tmp_path / "examples"
    examples.mkdir()
    portrait = REPOSITORY / "examples" / "portrait_astronaut.jpg"
    waveform, rate = soundfile.read(REPOSITORY / "examples" / "speech_1.wav")
    for path in (tmp_path / "portrait.jpg", examples / portrait.name):
        shutil.copy(portrait, path)
    for path in (tmp_path / "speech.wav", examples / "speech_1.wav"):
        soundfile.write(path, waveform[: round(SECONDS * rate)], rate)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def pipe():
    return OSMNetPipeline.from_pretrained()


def run_blocks(page: str, namespace: dict | None = None) -> dict:
    """Run the page's Python blocks one after the other, as a reader does, and return their variables."""
    namespace = {"__name__": "__main__"} | (namespace or {})
    found = blocks(REPOSITORY / page, "python")
    assert found, f"{page} has no Python block"
    for block in found:  # lines as in the page, for tracebacks
        exec(compile("\n" * block.line + block.text, page, "exec"), namespace)
    return namespace


def test_readme(folder):
    names = run_blocks("README.md")
    assert sorted(path.name for path in (folder / "takes").glob("*.mp4")) == [f"take-{i}.mp4" for i in (1, 2, 3, 4)]
    assert {verify(path).state for path in (folder / "takes").glob("*.mp4")} == {"valid"}
    assert len(names["out"]) == 2 and names["out"].videos[0].shape == (25, 256, 256, 3)
    assert (folder / "first.mp4").is_file() and not (folder / "first.json").exists()
    assert names["motion"].head_pose.shape == (100, 25, 6)
    assert len(list((folder / "chosen").glob("*.mp4"))) == 2
    assert names["chunk"].frames.shape[0] == 2 and names["chunk"].frames.shape[2:] == (512, 512, 3)


def test_model_card(folder):
    run_blocks("weights_card/README.md")
    assert len(list((folder / "takes").glob("*.mp4"))) == 4


def test_live(folder, pipe):
    rng = np.random.default_rng(0)
    microphone = [(3000 * rng.standard_normal((4800, 2))).astype(np.int16) for _ in range(10)]  # stereo, 48 kHz
    shown = []
    names = run_blocks("docs/live.md", {"pipe": pipe, "microphone": microphone, "show": shown.append})
    assert len(shown) + len(names["last"]) == 25
    assert {frame.shape for frame in shown} == {(512, 512, 3)}


def test_paper_figures(folder, capsys):
    names = run_blocks("docs/paper_figures.md")
    assert len(capsys.readouterr().out.splitlines()) == 48  # bases
    assert names["frontal"].shape[-1] == 6


def test_provenance(folder, pipe):
    out = pipe("portrait.jpg", "speech.wav", seed=1, size=128)
    out.save("film.mp4", label=False)
    frames = out.videos[0]
    before = frames.copy()
    run_blocks("docs/provenance.md", {"source": out.source, "head_pose": out.head_pose, "frames": frames})
    assert (frames != before).any()  # the label
    assert verify(folder / "film.mp4").state == "valid"


def test_hub():
    stand_in = create_autospec(OSMNetPipeline)  # refuses arguments that the real one does not take
    run_blocks("docs/hub.md", {"OSMNetPipeline": stand_in})
    assert stand_in.from_pretrained.call_count == 1


def test_page(folder, pipe, monkeypatch):
    gradio_client = pytest.importorskip("gradio_client", reason="needs the extra 'demo'")
    from osmnet.serving.settings import Settings
    from osmnet.serving.showcase import Showcase
    from osmnet.serving.studio import Studio
    from tests.support.pages import serve

    studio, real = Studio(Settings(size=64), pipe), gradio_client.Client
    with serve(studio, Showcase(studio, []), folder / "cache") as address:

        def connect(url: str):
            assert url == "http://127.0.0.1:7860"  # the page's usual address; this one is at another
            return real(address, verbose=False, download_files=str(folder / "downloads"))

        monkeypatch.setattr(gradio_client, "Client", connect)
        names = run_blocks("docs/page.md")
    studio.close()
    assert [Path(file).suffix for file in names["files"]] == [".mp4", ".json"] * 4
    assert len(names["poses"]["takes"]) == 4 and Path(names["film"]).suffix == ".mp4"


def test_training(monkeypatch):
    """The call is checked, not the training: tests/training does that."""
    from osmnet.data.dataset import Dataset
    from osmnet.training.osm_net import expression_stage

    monkeypatch.setattr(Dataset, "open", create_autospec(Dataset.open))
    train = create_autospec(expression_stage.train)
    monkeypatch.setattr(expression_stage, "train", train)
    run_blocks("docs/training.md")
    assert train.call_count == 1
    assert isinstance(train.call_args.args[2], expression_stage.ExpressionConfig)
