"""The page's endpoints, called by Gradio's client, on a tiny model."""

import math
from pathlib import Path

import pytest

from osmnet.media.audio import FPS
from osmnet.provenance.verify import verify
from osmnet.serving.settings import Settings
from osmnet.serving.showcase import Showcase
from osmnet.serving.studio import Studio
from tests.support.dummies import becomes_empty

gradio_client = pytest.importorskip("gradio_client", reason="needs the extra 'demo'")
httpx = pytest.importorskip("httpx", reason="needs the extra 'demo'")

pytestmark = pytest.mark.integration
SETTINGS = Settings(size=64, max_seconds=4, max_mb=1)


@pytest.fixture(scope="module")
def studio(tiny):
    made = Studio(SETTINGS, tiny)
    yield made
    made.close()
    assert not made.folder.exists()


@pytest.fixture(scope="module")
def url(studio, tmp_path_factory):
    from tests.support.pages import serve

    with serve(studio, Showcase(studio, []), tmp_path_factory.mktemp("cache")) as address:
        yield address


@pytest.fixture(scope="module")
def client(url, tmp_path_factory):
    return gradio_client.Client(url, verbose=False, download_files=tmp_path_factory.mktemp("downloads"))


def files(inputs, *names: str) -> list:
    return [gradio_client.handle_file(inputs[name]) for name in names]


def test_endpoints_are_named_typed_and_described(url, client):
    api = client.view_api(return_format="dict")["named_endpoints"]
    assert set(api) == {"/generate", "/preview", "/bases"}
    parameters = {each["parameter_name"]: each for each in api["/generate"]["parameters"]}
    defaults = {name: each["parameter_default"] for name, each in parameters.items() if each["parameter_has_default"]}
    assert defaults == {
        "num_videos": 4, "epsilon": 1, "seed": 7, "motion_scale": 1, "expression_scale": 1, "still": False,
        "blink": True, "full_frame": True, "yaw": 0, "pitch": 0, "roll": 0, "upper_face": 1, "gaze": "viewer",
        "consent": False,
    }  # fmt: skip
    tools = httpx.get(f"{url}gradio_api/mcp/schema").json()
    assert any("talking-head videos" in tool["description"] for tool in tools)


def test_generated_files_verify(studio, client, inputs):
    paths, takes = client.predict(*files(inputs, "face", "speech"), num_videos=2, consent=True, api_name="/generate")
    assert [Path(path).suffix for path in paths] == [".mp4", ".json"] * 2
    verdicts = [verify(path) for path in paths[::2]]
    assert all(verdict.state == "valid" and verdict.consent is True for verdict in verdicts)
    previewed = client.predict(*files(inputs, "face", "speech"), num_videos=2, api_name="/preview")
    assert [take["take_seed"] for take in previewed["takes"]] == [take["take_seed"] for take in takes]
    assert len(previewed["takes"][0]["turn"]) == 3 * math.ceil(previewed["seconds"] * FPS / 2)
    assert becomes_empty(studio.folder)


def test_null_stands_for_the_default(client, inputs):
    face, voice = files(inputs, "face", "speech")
    every = dict.fromkeys(("num_videos", "epsilon", "motion_scale", "still", "yaw", "pitch", "roll"))
    assert client.predict(face, voice, api_name="/preview") == client.predict(
        face, voice, **every, api_name="/preview"
    )


def test_bases_are_filmed_and_listed(studio, client):
    film, names = client.predict(basis=3, api_name="/bases")
    assert verify(film).state == "valid"
    assert [each["basis"] for each in names] == list(range(studio.pipe.motion_space.config.num_bases))


@pytest.mark.parametrize(
    ("face", "voice", "options", "sentence"),
    [
        ("face", "speech", {"consent": False}, "Set consent to true"),
        ("empty", "speech", {}, "No face was found"),
        ("text", "speech", {}, "The upload is not a picture"),
        ("face", "text", {}, "(?i)the upload"),
        ("face", "long", {}, "use its first 4 s"),
        ("face", "speech", {"num_videos": 7}, "from 1 to 6 takes"),
        ("face", "speech", {"epsilon": -1}, "epsilon must be"),
        ("face", "speech", {"yaw": 90}, "yaw must stay within"),
        ("face", "speech", {"seed": -1}, "seed must be"),
    ],
)
def test_refusals_are_a_sentence_that_names_no_file_of_the_server(client, inputs, face, voice, options, sentence):
    with pytest.raises(Exception, match=sentence) as refused:
        client.predict(*files(inputs, face, voice), **{"consent": True, **options}, api_name="/generate")
    assert "cache" not in str(refused.value) and "/tmp" not in str(refused.value)


def test_a_cancelled_request_makes_room_for_the_next(studio, client, inputs):
    first = client.submit(*files(inputs, "face", "speech"), num_videos=6, consent=True, api_name="/generate")
    first.cancel()
    paths, _ = client.predict(*files(inputs, "face", "speech"), num_videos=1, consent=True, api_name="/generate")
    assert verify(paths[0]).state == "valid"
    assert becomes_empty(studio.folder)


def test_no_file_of_the_server_can_be_fetched(url, repository):
    for path in ("/etc/passwd", repository / "pyproject.toml", repository / "app.py"):
        assert httpx.get(f"{url}gradio_api/file={path}").status_code in (403, 404)


def test_files_that_are_too_large_are_refused(client, inputs, tmp_path):
    large = tmp_path / "large.wav"
    large.write_bytes(bytes(2**20 + 1))
    with pytest.raises(Exception, match="(?i)size"):
        client.predict(*files(inputs, "face"), gradio_client.handle_file(large), api_name="/preview")
