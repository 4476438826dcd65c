"""The way through the Hub: interrupted, damaged and offline downloads, and models that are sent there."""

import json

import pytest

from osmnet.cli import main, push
from osmnet.pipelines.osm_net.pipeline_osm_net import OSMNetPipeline
from tests.loading import test_loading
from tests.loading.test_loading import digest
from tests.support.dummies import tiny_pipeline
from tests.support.hub_server import Hub, run_client

WEIGHTS = "video_generator/diffusion_pytorch_model.safetensors"
CONFIG = "motion_space/config.json"
CARD = "---\nlicense: mit\n---\n# A model of a test\n"
FAULTS = {
    ("someone/cut", WEIGHTS): ["cut"],
    ("someone/broken", WEIGHTS): ["broken"],
    ("someone/flipped", WEIGHTS): ["flipped"],
    ("someone/flipped", CONFIG): ["flipped"],
    ("someone/wrong", WEIGHTS): ["flipped"] * 4,
    ("someone/no-links", WEIGHTS): ["flipped"],
    ("someone/no-links", CONFIG): ["flipped"],
}

CLIENT = """
import contextlib, io, json, os, shutil, sys
from pathlib import Path
from huggingface_hub import constants
from osmnet.cli import main
from osmnet.loading.model import WEIGHTS_NAME
from osmnet.models.osm_net.motion_space import MotionSpace
from osmnet.pipelines.osm_net.pipeline_osm_net import OSMNetPipeline
from tests.loading.test_loading import TinyPipeline, digest

constants.DOWNLOAD_CHUNK_SIZE = 4096  # the files of this test are small

def attempt(id, pipeline=TinyPipeline, **arguments):
    try:
        return digest(pipeline.from_pretrained(id, **arguments))
    except ValueError as error:
        return f"ValueError: {error}"

def command(*arguments):
    said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said[0]), contextlib.redirect_stderr(said[1]):
        status = main(["push", *arguments])
    return [status, *(text.getvalue() for text in said)]

def flip(path):
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

results = {name: attempt(f"someone/{name}") for name in ("cut", "broken", "flipped", "wrong")}
results["broken, again"] = attempt("someone/broken")

[cached] = Path(constants.HF_HUB_CACHE).glob("models--someone--cut/snapshots/*")
flip(cached / "motion_space" / WEIGHTS_NAME)
results["rotten, offline"] = attempt("someone/cut", local_files_only=True)
results["rotten"] = attempt("someone/cut")
flip(cached / "motion_space" / WEIGHTS_NAME)
MotionSpace.from_pretrained("someone/cut", subfolder="motion_space")
results["rotten, mended by its component"] = attempt("someone/cut", local_files_only=True)

# Without a token, then with one.
folder = sys.argv[1]
results["dry"] = command("someone/new", "--model", folder)
results["no token"] = command("someone/new", "--model", folder, "--yes")
os.environ["HF_TOKEN"] = "hf_a_token_of_a_test"
results["sent"] = command("someone/new", "--model", folder, "--yes", "--private")
results["sent, loaded"] = attempt("someone/new", OSMNetPipeline)
results["public already"] = command("someone/cut", "--model", folder, "--yes", "--private")
results["not loadable"] = command("someone/new", "--model", str(Path(folder, "motion_space")), "--yes")

constants.HF_HUB_OFFLINE = True
results["offline"] = attempt("someone/flipped")
results["offline, unknown"] = attempt("someone/other")
constants.HF_HUB_OFFLINE = False

# A cache without links, as on Windows.
from huggingface_hub import file_download
file_download.are_symlinks_supported = lambda *_: False
results["no links"] = attempt("someone/no-links")
[cached] = Path(constants.HF_HUB_CACHE).glob("models--someone--no-links/snapshots/*")
results["has links"] = any(path.is_symlink() for path in cached.rglob("*"))
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "tiny"
    pipeline = tiny_pipeline()
    pipeline.save_pretrained(folder)
    (folder / "README.md").write_text(CARD)
    (folder / "motion_space" / "optimizer.pt").write_bytes(b"a pickle")
    (folder / "notes.txt").write_text("mine")
    (folder / ".token").write_text("secret")
    return folder, digest(pipeline)


@pytest.fixture(scope="module")
def hub(model, tmp_path_factory):
    """What the real client got: its results and stderr, the server, and the digests of both models."""
    folder, own = model
    root = tmp_path_factory.mktemp("hub")
    (root / "a.task").write_bytes(b"a landmarker")
    served = test_loading.tiny_pipeline(root / "a.task")
    served.save_pretrained(root / "served")
    names = ("cut", "broken", "flipped", "wrong", "no-links")
    models = {f"someone/{name}": {"main": (str(i) * 40, root / "served")} for i, name in enumerate(names, 1)}
    server = Hub(models, root, {key: list(faults) for key, faults in FAULTS.items()})
    code = f"import sys; sys.argv[1:] = [{str(folder)!r}]\n{CLIENT}"
    results, stderr = run_client(code, server, root)
    return results | {"server": server, "stderr": stderr, "own": digest(served), "sent model": own}


def downloads(hub, name, file=WEIGHTS):
    sent = hub["server"].sent
    return [(first, fault) for repo_id, path, first, fault in sent if (repo_id, path) == (f"someone/{name}", file)]


@pytest.mark.hub
def test_a_download_that_breaks_off_goes_on_where_it_was(hub):
    assert hub["cut"] == hub["own"]
    (begin, _), (went_on, _), *later = downloads(hub, "cut")
    assert begin == 0 < went_on and not later


@pytest.mark.hub
def test_a_download_that_failed_fetches_only_what_is_missing_the_next_time(hub):
    assert "The Hub answered 500" in hub["broken"] and "\n" not in hub["broken"]
    assert hub["broken, again"] == hub["own"]
    assert downloads(hub, "broken") == [(0, "broken"), (0, None)]
    others = [path for repo_id, path, *_ in hub["server"].sent if repo_id == "someone/broken" and path != WEIGHTS]
    assert len(others) == len(set(others)) == 7


@pytest.mark.hub
def test_progress_is_shown(hub):
    assert "Fetching" in hub["stderr"] and "100%" in hub["stderr"]


@pytest.mark.hub
def test_what_arrives_damaged_is_fetched_again_and_never_loaded(hub):
    assert hub["flipped"] == hub["own"]  # a large file, with SHA-256, and a small one, with git's SHA-1
    assert [fault for _, fault in downloads(hub, "flipped")] == ["flipped", None]
    assert WEIGHTS in hub["wrong"] and "checksum" in hub["wrong"] and "\n" not in hub["wrong"]


@pytest.mark.hub
def test_a_cache_without_links_is_checked_by_asking_the_hub(hub):
    assert hub["has links"] is False
    assert hub["no links"] == hub["own"]
    assert any("paths-info" in entry for entry in hub["server"].log)


@pytest.mark.hub
def test_a_file_that_rots_in_the_cache_is_noticed_and_mended(hub):
    assert hub["rotten, offline"].startswith("ValueError") and "\n" not in hub["rotten, offline"]
    assert hub["rotten"] == hub["rotten, mended by its component"] == hub["own"]


@pytest.mark.hub
def test_offline(hub):
    assert hub["offline"] == hub["own"]
    assert all(word in hub["offline, unknown"] for word in ("HF_HUB_OFFLINE", "'someone/other'"))


@pytest.mark.hub
def test_a_dry_run_says_what_would_be_sent_and_sends_nothing(hub):
    status, said, told = hub["dry"]
    assert status == 0 and "Nothing was sent" in told and "a model that everybody can see" in told
    assert WEIGHTS in said and "README.md" in said and " kB" in said
    assert "Stays here: motion_space/optimizer.pt, notes.txt" in said and "token" not in said
    posts = [entry for entry in hub["server"].log if entry.startswith("POST api/repos/create")]
    assert len(posts) == 3  # without a token, with one, and the one that was there


@pytest.mark.hub
def test_a_model_that_was_sent_is_the_same_when_it_is_loaded(hub):
    status, said, _ = hub["sent"]
    assert status == 0 and "/someone/new/commit/" in said
    assert hub["sent, loaded"] == hub["sent model"]
    assert "someone/new" in hub["server"].private
    _, folder = hub["server"].models["someone/new"]["main"]
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"README.md", "model_index.json", "face_landmarker.task", WEIGHTS} <= files
    assert not {"notes.txt", ".token", "motion_space/optimizer.pt"} & files


@pytest.mark.hub
@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("no token", ["log in"]),
        ("public already", ["'someone/cut'", "already and public"]),
        ("not loadable", ["model_index.json"]),
    ],
)
def test_what_cannot_be_sent_is_one_sentence(hub, case, words):
    status, said, told = hub[case]
    assert status == 2 and all(word in told for word in words), told
    assert told.startswith("osmnet: ") and told.count("\n") == 1 and "Traceback" not in told


def test_a_model_needs_a_card_with_a_licence(model, tmp_path, capsys):
    folder, _ = model
    for path in folder.rglob("*"):
        if path.is_file():
            copy = tmp_path / path.relative_to(folder)
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(path.read_bytes())
    card = tmp_path / "README.md"
    for text, words in (
        ("# No head", "names a license"),
        ("---\nlicense: other\n---\n", "as LICENSE"),
        ("---\nlicense: [\n---\n", "not YAML"),
    ):
        card.write_text(text)
        assert main(["push", "someone/new", "--model", str(tmp_path)]) == 2
        assert words in capsys.readouterr().err
    card.unlink()
    assert main(["push", "someone/new", "--model", str(tmp_path)]) == 2
    assert "no model card" in capsys.readouterr().err
    assert main(["push", "no-name", "--model", str(tmp_path)]) == 2
    assert "name/model" in capsys.readouterr().err


def test_what_is_no_part_of_the_model_stays(tmp_path):
    """Whatever else lies in the folder: a run's checkpoints, and pictures that the card does not show."""
    mine = ("video_generator/config.json", "video_generator/model.safetensors", "figures/a b.png", "one.jpg")
    others = ("checkpoints/1.safetensors", "optimizer/config.json", "somebody.png", "video_generator/a.pt", "x.task")
    for name in (*mine, *others, "README.md", ".env"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('![A](figures/a b.png) <img src="./one.jpg">' if name == "README.md" else "x")
    sent, kept = push.choose_files(tmp_path)
    assert {file.as_posix() for file in sent} == {*mine, "README.md"}
    assert {file.as_posix() for file in kept} == {*others}


def test_the_weights_of_the_package_can_be_sent(repository, capsys):
    folder = repository / "weights_card"
    push.check_card(folder)
    OSMNetPipeline.from_pretrained(folder)
    sent, kept = push.choose_files(folder)
    assert kept == []
    index = json.loads((folder / "model_index.json").read_text())
    parts = [name for name in index if not name.startswith("_") and name != "format_version"]
    names = {file.as_posix() for file in sent}
    assert {f"{name}/config.json" for name in parts} | {"README.md", "LICENSE", "NOTICE"} <= names
