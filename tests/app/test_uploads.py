"""Raw JSON to every event of the page: it reads uploads and the examples, and no other file of the server."""

import base64
import json
import uuid
from pathlib import Path

import pytest
from PIL import Image

from osmnet.serving.settings import Settings
from osmnet.serving.showcase import Example, Showcase
from osmnet.serving.studio import Studio
from tests.support.dummies import REPOSITORY, portrait, speech, write_wav

httpx = pytest.importorskip("httpx", reason="needs the extra 'demo'")
pytest.importorskip("gradio", reason="needs the extra 'demo'")

pytestmark = pytest.mark.integration
PATIENCE = 60  # s
META = {"_type": "gradio.FileData"}
NOT_UPLOADED = "Only files that were uploaded here can be used"
READS = {"image", "audio", "video", "file", "gallery", "uploadbutton", "downloadbutton"}  # widgets that take files


@pytest.fixture(scope="module")
def secret(tmp_path_factory) -> Path:
    """A folder that no visitor was given; its face and its voice could be used."""
    folder = tmp_path_factory.mktemp("secret")
    Image.fromarray(portrait()).save(folder / "face.png")
    write_wav(folder / "voice.wav", speech(0.6))
    (folder / "link.png").symlink_to(folder / "face.png")
    return folder


@pytest.fixture(scope="module")
def server(tiny, secret, tmp_path_factory):
    """Address of the page's API, and Gradio's folder of uploads."""
    from tests.support.pages import serve

    cache = tmp_path_factory.mktemp("cache")
    (cache / "link.png").symlink_to(secret / "face.png")
    studio = Studio(Settings(size=64, max_seconds=10), tiny)
    example = Example("Somebody", "", REPOSITORY / "examples/portrait_hopper.jpg", REPOSITORY / "none.wav")
    with serve(studio, Showcase(studio, [example]), cache) as address:
        yield f"{address}gradio_api", cache
    studio.close()


def upload(url: str, path: Path) -> str:
    with path.open("rb") as file:
        return httpx.post(f"{url}/upload", files={"files": file}).json()[0]


def call(url: str, endpoint: str, data: list) -> tuple[str, str]:
    """What a program gets that knows no more than HTTP: the name of the last event and its data."""
    event = httpx.post(f"{url}/call/{endpoint}", json={"data": data}).json()["event_id"]
    lines = httpx.get(f"{url}/call/{endpoint}/{event}", timeout=PATIENCE).text.split("\n")
    lines = [line for line in lines if line.strip()]
    return lines[-2].removeprefix("event: "), lines[-1].removeprefix("data: ")


def trigger(url: str, index: int, data: list) -> list:
    """What a visitor is told by an event of the page, by its number: named endpoints, and those of the widgets."""
    session = uuid.uuid4().hex
    body = {"data": data, "fn_index": index, "session_hash": session, "event_data": {"takes": [0], "take": 0}}
    httpx.post(f"{url}/queue/join", json=body).raise_for_status()
    told = []
    with httpx.stream("GET", f"{url}/queue/data", params={"session_hash": session}, timeout=PATIENCE) as answer:
        for line in answer.iter_lines():
            message = json.loads(line.removeprefix("data: ")) if line.strip() else {}
            if message.get("msg") in ("process_generating", "process_completed"):
                output = message["output"]
                told.append((message["msg"], message["success"], output.get("data"), output.get("error")))
            if message.get("msg") == "process_completed":
                return told
    raise AssertionError("The server closed the connection.")


def ways_to_name(path: Path) -> list[dict]:
    return [
        {"path": str(path)},
        {"path": str(path), "meta": META},
        {"path": str(path), "meta": {}},
        {"path": str(path), "url": f"/gradio_api/file={path}", "orig_name": "face.png"},
        {"path": str(path), "is_stream": True},
        {"path": str(path), "is_stream": True, "meta": META},
        {"path": f"{path.parent}/../{path.parent.name}/{path.name}"},
    ]


def events_that_take_files(url: str) -> list[tuple[int, list, list[int]]]:
    """Number, data and the places of files in it, of every event of the page."""
    config = httpx.get(url.removesuffix("gradio_api") + "config").json()
    widgets = {each["id"]: each for each in config["components"]}
    found = []
    for each in config["dependencies"]:
        given = [widgets[number] for number in each["inputs"]]
        places = [place for place, widget in enumerate(given) if widget["type"] in READS]
        if places and each["backend_fn"]:
            data = [widget["props"].get("value") for widget in given]
            found.append((each["id"], [True if value is False else value for value in data], places))
    return found


def test_every_event_reads_uploads_only_and_tells_nothing_about_other_files(server, secret):
    url, cache = server
    mine = {"image": upload(url, secret / "face.png"), "audio": upload(url, secret / "voice.wav")}
    events = events_that_take_files(url)
    assert len(events) >= 8  # three endpoints, and what the widgets of both tabs do
    for index, data, places in events:
        for place in places:
            for there, missing in zip(
                ways_to_name(secret / "face.png")[:2], ways_to_name(secret / "none.png")[:2], strict=True
            ):
                told = []
                for form in (there, missing):
                    filled = list(data)
                    for other, kind in zip(places, ("image", "audio"), strict=False):
                        filled[other] = {"path": mine[kind], "meta": META}
                    filled[place] = form
                    told.append(trigger(url, index, filled))
                assert told[0] == told[1], (index, there)
                assert [success for _, success, _, _ in told[0]] == [False], (index, there)


@pytest.mark.parametrize("endpoint", ["preview", "generate", "bases"])
def test_a_portrait_of_the_server_is_refused_in_a_sentence(server, secret, endpoint):
    url, cache = server
    voice = {"path": upload(url, secret / "voice.wav"), "meta": META}
    rest = {
        "preview": [voice, 1, 1, 7, 1, False, 0, 0, 0],
        "generate": [voice, 1, 1, 7, 1, 1, False, True, False, 0, 0, 0, 1, "viewer", True],
        "bases": [0, True],
    }[endpoint]
    for path in (secret / "face.png", secret / "link.png", cache / "link.png", cache / ".." / "secret0" / "face.png",
                 "/etc/passwd", "face.png", "\0"):  # fmt: skip
        event, data = call(url, endpoint, [{"path": str(path)}, *rest])
        assert event == "error" and NOT_UPLOADED in data, path
    uploaded = {"path": upload(url, secret / "face.png")}
    example = {"path": str(REPOSITORY / "examples" / "portrait_hopper.jpg"), "meta": META}
    for portrait_data in (uploaded, {**uploaded, "meta": META}, example):
        assert call(url, endpoint, [portrait_data, *rest])[0] == "complete"


@pytest.mark.parametrize("endpoint", ["preview", "generate"])
def test_a_recording_of_the_server_is_refused(server, secret, endpoint):
    url, _ = server
    face = {"path": upload(url, secret / "face.png"), "meta": META}
    rest = {
        "preview": [1, 1, 7, 1, False, 0, 0, 0],
        "generate": [1, 1, 7, 1, 1, False, True, False, 0, 0, 0, 1, "viewer", True],
    }[endpoint]
    for there, missing in zip(ways_to_name(secret / "voice.wav"), ways_to_name(secret / "none.wav"), strict=True):
        refused = call(url, endpoint, [face, there, *rest])
        assert refused[0] == "error"
        assert call(url, endpoint, [face, missing, *rest]) == refused


def test_a_tool_of_the_mcp_server_reads_no_file_of_the_server(server, secret):
    url, _ = server

    def use(portrait_data) -> dict:
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call",
                   "params": {"name": "bases", "arguments": {"portrait": portrait_data, "consent": True}}}  # fmt: skip
        headers = {"Accept": "application/json, text/event-stream"}
        answer = httpx.post(f"{url}/mcp/", json=message, headers=headers, timeout=PATIENCE, follow_redirects=True)
        return json.loads(answer.text.split("data: ", 1)[1])["result"]

    for name in ("face.png", "none.png"):
        for portrait_data in (str(secret / name), *ways_to_name(secret / name)):
            assert use(portrait_data)["isError"] is True
    content = base64.b64encode((secret / "face.png").read_bytes()).decode()
    assert use(f"data:image/png;base64,{content}")["isError"] is False
