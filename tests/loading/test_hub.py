"""The Hub on loopback and the real client: interrupted, damaged and offline downloads, and sending a model."""

import json

import pytest

from osmnet.loading.model import WEIGHTS_NAME
from osmnet.loading.packaged import INDEX_NAME, packaged_landmarker
from tests.support.dummies import read_json, tiny_pipeline
from tests.support.hub_server import Hub, run_client
from tests.support.loadable import REPO_ID, TinyPipeline, digest, loadable_pipeline

pytestmark = [pytest.mark.hub, pytest.mark.integration]

COMMITS = {"main": "a" * 40, "v1": "b" * 40, "other": "c" * 40}
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
import contextlib, io, json, os, socket, sys, time, urllib.request
from pathlib import Path
from huggingface_hub import constants
from osmnet.cli import main
from osmnet.loading.model import WEIGHTS_NAME
from osmnet.models.osm_net.motion_space import MotionSpace
from osmnet.pipelines.osm_net.pipeline_osm_net import OSMNetPipeline
from tests.support.loadable import REPO_ID, AnyPipeline, TinyPipeline, digest

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

results = {
    "by its index": attempt(REPO_ID, AnyPipeline),
    "unknown class": attempt(REPO_ID, AnyPipeline, revision="other"),
    "main": attempt(REPO_ID),
    "v1": attempt(REPO_ID, revision="v1"),
    "commit": attempt(REPO_ID, revision="b" * 40),
    "again offline": attempt(REPO_ID, local_files_only=True),
    "fp16": attempt(REPO_ID, variant="fp16"),
    "unknown id": attempt("someone/else"),
    "invalid id": attempt("some/one/else"),
    "unknown revision": attempt(REPO_ID, revision="v9"),
    "never seen offline": attempt("someone/other", local_files_only=True),
    "one component": MotionSpace.from_pretrained(REPO_ID, subfolder="motion_space").motion_bases.sum().item(),
}
try:
    MotionSpace.from_pretrained(REPO_ID, subfolder="motion_shape")
except ValueError as error:
    results["unknown component"] = str(error)

results |= {name: attempt(f"someone/{name}") for name in ("cut", "broken", "flipped", "wrong")}
results["broken, again"] = attempt("someone/broken")

[cached] = Path(constants.HF_HUB_CACHE).glob("models--someone--cut/snapshots/*")
flip(cached / "motion_space" / WEIGHTS_NAME)
results["rotten, offline"] = attempt("someone/cut", local_files_only=True)
results["rotten"] = attempt("someone/cut")
flip(cached / "motion_space" / WEIGHTS_NAME)
MotionSpace.from_pretrained("someone/cut", subfolder="motion_space")
results["rotten, restored by its component"] = attempt("someone/cut", local_files_only=True)

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

urllib.request.urlopen(os.environ["HF_ENDPOINT"] + "/stop").read()
port = int(os.environ["HF_ENDPOINT"].rsplit(":", 1)[1])
while True:  # until nobody answers any more
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)):
            break
    time.sleep(0.05)
results["cached, Hub gone"] = attempt(REPO_ID)
results["Hub gone"] = attempt("someone/absent")
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
    """Results and stderr of the client, the server, and the digests of all models."""
    folder, own = model
    root = tmp_path_factory.mktemp("hub")
    revisions, digests = {}, {}
    for seed, (revision, commit) in enumerate(COMMITS.items()):
        pipeline = loadable_pipeline(packaged_landmarker(), seed)
        pipeline.save_pretrained(root / revision)
        (root / revision / "motion_space" / "pytorch_model.bin").write_bytes(b"a pickle")
        (root / revision / "README.md").write_text("a card")
        (root / revision / "code.py").write_text("raise SystemExit('code from the Hub ran')")
        revisions[revision], digests[revision] = (commit, root / revision), digest(pipeline)
    index = read_json(root / "other" / INDEX_NAME) | {"_class_name": "OtherPipeline"}
    (root / "other" / INDEX_NAME).write_text(json.dumps(index))
    served = loadable_pipeline(packaged_landmarker(), seed=9)
    served.save_pretrained(root / "served")
    names = ("cut", "broken", "flipped", "wrong", "no-links")
    models = {f"someone/{name}": {"main": (str(i) * 40, root / "served")} for i, name in enumerate(names, 1)}
    server = Hub(models | {REPO_ID: revisions}, root, {key: list(faults) for key, faults in FAULTS.items()})
    results, stderr = run_client(CLIENT, server, root, folder)
    space_sum = loadable_pipeline(packaged_landmarker(), 0).motion_space.motion_bases.sum().item()
    return results | {
        "server": server, "stderr": stderr, "digests": digests, "space_sum": space_sum, "own": digest(served),
        "sent model": own,
    }  # fmt: skip


def downloads(hub, name, file=WEIGHTS):
    sent = hub["server"].sent
    return [(first, fault) for repo_id, path, first, fault in sent if (repo_id, path) == (f"someone/{name}", file)]


def test_hub_and_folder_give_the_same_bits(hub):
    assert hub["main"] == hub["digests"]["main"] == hub["again offline"] == hub["cached, Hub gone"]
    assert hub["v1"] == hub["digests"]["v1"] == hub["commit"]
    assert hub["v1"] != hub["main"]
    assert hub["one component"] == hub["space_sum"]


def test_only_what_is_read_is_downloaded(hub):
    downloads = [entry for entry in hub["server"].log if "/resolve/" in entry]
    assert downloads and all(entry.endswith((".json", ".safetensors", ".task")) for entry in downloads)


def test_a_base_downloads_nothing_twice_and_only_the_index_of_an_unknown_class(hub):
    assert hub["by its index"] == hub["main"]
    names = [name for repo_id, name, *_ in hub["server"].sent if repo_id == REPO_ID]
    assert names[0] == INDEX_NAME
    of_main, rest = names[:8], names[8:]
    assert len(set(of_main)) == 8 and rest[0] == INDEX_NAME  # index, landmarker, two files a component
    assert sorted(rest[1:]) == [f"{name}/{WEIGHTS_NAME}" for name in sorted(TinyPipeline.components_classes)]  # of v1


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("unknown class", ["OtherPipeline", "knows TinyPipeline, SpacePipeline"]),
        ("unknown id", ["'someone/else'", "no model"]),
        ("invalid id", ["'some/one/else'", "check the id"]),
        ("unknown revision", ["'v9'", "no revision"]),
        ("fp16", ["diffusion_pytorch_model.fp16.safetensors"]),
        ("never seen offline", ["'someone/other'", "connection"]),
        ("Hub gone", ["'someone/absent'", "connection"]),
        ("unknown component", ["config.json", "someone/tiny"]),
    ],
)
def test_hub_errors_are_one_clear_sentence(hub, case, words):
    assert all(word in hub[case] for word in words), hub[case]
    assert "\n" not in hub[case]


def test_an_interrupted_download_resumes(hub):
    assert hub["cut"] == hub["own"]
    (begin, _), (went_on, _), *later = downloads(hub, "cut")
    assert begin == 0 < went_on and not later


def test_a_download_that_failed_fetches_only_what_is_missing_the_next_time(hub):
    assert "The Hub answered 500" in hub["broken"] and "\n" not in hub["broken"]
    assert hub["broken, again"] == hub["own"]
    assert downloads(hub, "broken") == [(0, "broken"), (0, None)]
    others = [path for repo_id, path, *_ in hub["server"].sent if repo_id == "someone/broken" and path != WEIGHTS]
    assert len(others) == len(set(others)) == 7


def test_progress_is_shown(hub):
    assert "Fetching" in hub["stderr"] and "100%" in hub["stderr"]


def test_what_arrives_damaged_is_fetched_again_and_never_loaded(hub):
    assert hub["flipped"] == hub["own"]  # a large file, with SHA-256, and a small one, with git's SHA-1
    assert [fault for _, fault in downloads(hub, "flipped")] == ["flipped", None]
    assert WEIGHTS in hub["wrong"] and "checksum" in hub["wrong"] and "\n" not in hub["wrong"]


def test_a_cache_without_links_is_checked_by_asking_the_hub(hub):
    assert hub["has links"] is False
    assert hub["no links"] == hub["own"]
    assert any("paths-info" in entry for entry in hub["server"].log)


def test_a_file_that_rots_in_the_cache_is_noticed_and_fetched_again(hub):
    assert hub["rotten, offline"].startswith("ValueError") and "\n" not in hub["rotten, offline"]
    assert hub["rotten"] == hub["rotten, restored by its component"] == hub["own"]


def test_offline(hub):
    assert hub["offline"] == hub["own"]
    assert all(word in hub["offline, unknown"] for word in ("HF_HUB_OFFLINE", "'someone/other'"))


def test_a_dry_run_says_what_would_be_sent_and_sends_nothing(hub):
    status, said, told = hub["dry"]
    assert status == 0 and "Nothing was sent" in told and "a model that everybody can see" in told
    assert WEIGHTS in said and "README.md" in said and " kB" in said
    assert "Stays here: motion_space/optimizer.pt, notes.txt" in said and "token" not in said
    posts = [entry for entry in hub["server"].log if entry.startswith("POST api/repos/create")]
    assert len(posts) == 3  # without a token, with one, and the one that was there


def test_a_model_that_was_sent_is_the_same_when_it_is_loaded(hub):
    status, said, _ = hub["sent"]
    assert status == 0 and "/someone/new/commit/" in said
    assert hub["sent, loaded"] == hub["sent model"]
    assert "someone/new" in hub["server"].private
    _, folder = hub["server"].models["someone/new"]["main"]
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"README.md", "model_index.json", "face_landmarker.task", WEIGHTS} <= files
    assert not {"notes.txt", ".token", "motion_space/optimizer.pt"} & files


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
