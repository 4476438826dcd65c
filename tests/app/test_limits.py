"""Limits of a request and of a client, by raw HTTP: what no client of Gradio's would send."""

import io
import json
import socket
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from osmnet.serving.inputs import Inputs
from osmnet.serving.settings import Settings
from osmnet.serving.showcase import Showcase
from osmnet.serving.studio import Studio
from tests.support.dummies import portrait, speech, write_wav

httpx = pytest.importorskip("httpx", reason="needs the extra 'demo'")
pytest.importorskip("gradio", reason="needs the extra 'demo'")

pytestmark = pytest.mark.integration
PATIENCE = 60  # s
META = {"_type": "gradio.FileData"}
SETTINGS = Settings(
    size=64, max_seconds=2, max_takes=2, max_megapixels=2, max_mb=1, max_request_kb=64, max_waiting=4,
    max_session_requests=2, max_address_requests=3, max_address_mb=40, max_address_connections=8,
    max_decoded_seconds=4,
)  # fmt: skip
REST = {
    "preview": [1, 1, 7, 1, False, 0, 0, 0],
    "generate": [1, 1, 7, 1, 1, False, True, False, 0, 0, 0, 1, "viewer", True],
}


class Page:
    """A page of its own, and a visitor at an address of the loopback network."""

    def __init__(self, url: str, studio: Studio, guard, queue):
        self.url, self.studio, self.guard, self.queue = f"{url}gradio_api", studio, guard, queue
        self.clients: dict[str, httpx.Client] = {}

    def at(self, address: str = "127.0.0.1"):
        if address not in self.clients:
            transport = httpx.HTTPTransport(local_address=address)
            self.clients[address] = httpx.Client(transport=transport, timeout=PATIENCE)
        return self.clients[address]

    def upload(self, content: bytes, name: str = "a.png", address: str = "127.0.0.1"):
        return self.at(address).post(f"{self.url}/upload", files={"files": (name, content)})

    def file(self, path: Path) -> dict:
        return {"path": self.upload(path.read_bytes(), path.name).json()[0], "meta": META}

    def call(self, endpoint: str, data: list) -> tuple[str, str]:
        """The name of the last event, and its data."""
        answer = self.at().post(f"{self.url}/call/{endpoint}", json={"data": data})
        if answer.status_code != 200:
            return str(answer.status_code), answer.text
        event = answer.json()["event_id"]
        lines = self.at().get(f"{self.url}/call/{endpoint}/{event}").text.split("\n")
        lines = [line for line in lines if line.strip()]
        return lines[-2].removeprefix("event: "), lines[-1].removeprefix("data: ")


@pytest.fixture(scope="module")
def page(tiny, tmp_path_factory):
    import app
    from tests.support.pages import serve

    studio = Studio(SETTINGS, tiny)
    with pytest.MonkeyPatch.context() as patch:
        guards, pages = [], []
        make, protect = app.Guard, app.Guard.protect
        patch.setattr(app, "Guard", lambda studio: guards.append(make(studio)) or guards[-1])
        patch.setattr(make, "protect", lambda guard, page: pages.append(page) or protect(guard, page))
        with serve(studio, Showcase(studio, []), tmp_path_factory.mktemp("cache")) as url:
            yield Page(url, studio, guards[0], pages[0]._queue)
    studio.close()


@pytest.fixture
def fresh(page, monkeypatch):
    """The page, idle and with nothing counted yet."""
    wait_until(lambda: len(page.queue) + page.queue.get_active_worker_count() == 0)
    from osmnet.serving.clients import ClientBudgets

    monkeypatch.setattr(page.guard, "budgets", ClientBudgets(SETTINGS))
    return page


@pytest.fixture(scope="module")
def sent(page, inputs, tmp_path_factory) -> dict[str, dict]:
    """Uploads by name."""
    folder = tmp_path_factory.mktemp("hostile")
    Image.new("1", (2000, 1100)).save(folder / "bomb.png")
    write_wav(folder / "endless.wav", np.tile(speech(1.0), 8))
    (folder / "garbage.png").write_bytes(np.random.default_rng(0).bytes(20_000))
    files = {path.stem: page.file(path) for path in folder.iterdir()}
    return files | {name: page.file(Path(inputs[name])) for name in ("face", "speech")}


# A request


def test_bytes_of_a_request_are_limited(fresh):
    url = fresh.url
    assert fresh.upload(bytes(2**21)).status_code == 413
    body = {"data": ["x" * 100_000]}
    for path in ("call/preview", "queue/join", "run/predict", "cancel"):
        assert fresh.at().post(f"{url}/{path}", json=body).status_code == 413
    assert fresh.at().post(f"{url}/mcp/", content=bytes(2**22)).status_code == 413
    for path in ("upload", "call/preview"):  # chunks, of which nobody knows how many will come
        assert fresh.at().post(f"{url}/{path}", content=iter([b"{}"])).status_code == 411
    assert fresh.guard.budgets.stored("127.0.0.1") == 0


@pytest.mark.parametrize(
    ("face", "voice", "sentence"),
    [
        ("bomb", "speech", "2 million pixels, and the limit is 2 million; scale it down"),
        ("garbage", "speech", "The upload is not a picture"),
        ("face", "endless", "lasts at least 4 s, and the limit is 2 s"),
        ("face", "garbage", "cannot be decoded as a recording"),
    ],
)
def test_pixels_and_seconds_are_limited(fresh, sent, face, voice, sentence):
    for endpoint, rest in REST.items():
        event, data = fresh.call(endpoint, [sent[face], sent[voice], *rest])
        assert event == "error" and sentence in data and "/tmp" not in data


@pytest.mark.parametrize(
    ("limit", "sentence"),
    [
        ({"max_decode_mb": 1}, "takes more than 1 MB to decode"),
        ({"max_decode_seconds": 0.001}, "took more than 0.001 s"),
    ],
)
def test_memory_and_time_of_decoding_are_limited(fresh, sent, tmp_path, monkeypatch, limit, sentence):
    inputs = Inputs(replace(SETTINGS, **limit), fresh.studio.pipe)
    monkeypatch.setattr(fresh.studio, "inputs", inputs)
    rng = np.random.default_rng(1)
    Image.fromarray(rng.integers(0, 2, (1000, 1500), np.uint8) * 255).convert("RGBA").save(tmp_path / "a.png")
    event, data = fresh.call("preview", [fresh.file(tmp_path / "a.png"), sent["speech"], *REST["preview"]])
    inputs.decoder.close()
    assert event == "error" and sentence in data


def test_time_of_rendering_is_limited(fresh, sent, monkeypatch):
    monkeypatch.setattr(fresh.studio, "settings", replace(SETTINGS, max_request_seconds=0))
    event, data = fresh.call("generate", [sent["face"], sent["speech"], *REST["generate"]])
    assert event == "error" and "more than 0 s, the limit of a request" in data


def test_a_wrong_type_is_a_sentence(fresh, sent):
    wrong = ["x", [], {}, [[1]], {"path": 3}, {"path": "a", "meta": META}, 1e400, -1, None, True, "\0", 10**30]
    refused = 0
    for endpoint, rest in REST.items():
        right = [sent["face"], sent["speech"], *rest]
        for place in range(len(right)):
            for value in wrong:
                data = [*right[:place], value, *right[place + 1 :]]
                body = json.dumps({"data": data}).replace("Infinity", "1e400")
                if (endpoint, place) != ("preview", 2) and value not in ("x", [], {}, 1e400):
                    continue  # all of them in one place, the oddest in all
                form = {"content-type": "application/json"}
                event = fresh.at().post(f"{fresh.url}/call/{endpoint}", content=body, headers=form)
                number = event.json()["event_id"]
                text = fresh.at().get(f"{fresh.url}/call/{endpoint}/{number}").text
                if "event: error" in text:
                    told = json.loads(text.rpartition("data: ")[2])
                    assert isinstance(told["error"], str) and told["error"][-1] == ".", (endpoint, place, value, told)
                    assert "went wrong" not in told["error"], (endpoint, place, value)
                    refused += 1
    assert refused > 50
    for data in ([], [None] * 3, [None] * 40):
        event, told = fresh.call("preview", data)
        assert event == "error" and isinstance(json.loads(told)["error"], str)


# A client


def blocked(page, monkeypatch) -> threading.Event:
    """Lets previews wait until the event is set."""
    release = threading.Event()
    draft = page.studio.draft

    def wait(*args, **options):
        release.wait(PATIENCE)
        return draft(*args, **options)

    monkeypatch.setattr(page.studio, "draft", wait)
    return release


def join(page, address: str, session: str, sent) -> "httpx.Response":
    """Send a preview by the event of the page itself, which has sessions."""
    config = page.at(address).get(page.url.removesuffix("gradio_api") + "config").json()
    index = next(each["id"] for each in config["dependencies"] if each["api_name"] == "preview")
    body = {"data": [sent["face"], sent["speech"], *REST["preview"]], "fn_index": index, "session_hash": session}
    return page.at(address).post(f"{page.url}/queue/join", json=body)


def test_places_of_a_session_an_address_and_all_are_limited(fresh, sent, monkeypatch):
    release = blocked(fresh, monkeypatch)
    try:
        told = [join(fresh, "127.0.0.2", "mine", sent) for _ in range(3)]
        assert [each.status_code for each in told] == [200, 200, 429]
        assert told[-1].json()["detail"] == "2 requests of yours are not done yet; wait for one of them."
        told = [join(fresh, "127.0.0.2", uuid.uuid4().hex, sent) for _ in range(2)]  # a new session is no new client
        assert [each.status_code for each in told] == [200, 429]
        forwarded = {"x-forwarded-for": "192.0.2.9", "x-osmnet-address": "0 192.0.2.9"}
        fresh.at("127.0.0.2").headers.update(forwarded)  # nor is who says so
        assert join(fresh, "127.0.0.2", "other", sent).status_code == 429
        # Two run, one waits; three more may.
        told = [join(fresh, f"127.0.0.{3 + each}", "s", sent) for each in range(4)]
        assert [each.status_code for each in told] == [200, 200, 200, 429]
        assert "The page is busy" in told[-1].json()["detail"]
    finally:
        release.set()


def wait_until(is_so) -> None:
    end = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_clients_take_turns(fresh, sent, monkeypatch):
    release, order = blocked(fresh, monkeypatch), []
    from demo import guard

    push = fresh.studio.draft

    def remember(*args, **options):
        order.append(guard.current_address())
        return push(*args, **options)

    monkeypatch.setattr(fresh.studio, "draft", remember)
    try:
        for number in range(3):
            assert join(fresh, "127.0.0.6", f"first{number}", sent).status_code == 200
        wait_until(lambda: len(order) == 2)
        assert join(fresh, "127.0.0.7", "second", sent).status_code == 200
        assert join(fresh, "127.0.0.8", "third", sent).status_code == 200
    finally:
        release.set()
        wait_until(lambda: len(order) == 5)
    wait_until(lambda: fresh.guard.budgets.turns("127.0.0.6") > 0)  # its time counts, too
    assert order[:2] == ["127.0.0.6"] * 2 and sorted(order[2:4]) == ["127.0.0.7", "127.0.0.8"]


def test_requests_past_the_queue_are_not_possible(fresh, sent):
    data = [sent["face"], sent["speech"], *REST["preview"]]
    for path in ("run/preview", "api/preview"):
        assert fresh.at().post(f"{fresh.url}/{path}", json={"data": data}).status_code == 404


def test_uploads_and_results_of_a_client_are_counted_together(fresh, sent):
    budgets, address = fresh.guard.budgets, "127.0.0.9"
    for _ in range(20):
        answer = fresh.upload(bytes(2**20 - 1000), address=address)
        if answer.status_code != 200:
            break
    assert budgets.stored(address) > 20 * 2**20 - 30_000
    many = [("files", (f"{number}.png", b"x")) for number in range(400)]  # as good as 25 MB
    assert fresh.at(address).post(f"{fresh.url}/upload", files=many).status_code == 200
    answer = fresh.upload(b"x", address=address)
    assert answer.status_code == 507 and "take up 40 MB here, the limit" in answer.json()["detail"]
    assert fresh.upload(b"x", address="127.0.0.10").status_code == 200
    before = budgets.stored("127.0.0.1")
    assert fresh.call("generate", [sent["face"], sent["speech"], *REST["generate"]])[0] == "complete"
    assert budgets.stored("127.0.0.1") - before >= 2 * 64 * 1024  # a video and its details
    budgets.store("127.0.0.1", 40 * 2**20)
    event, data = fresh.call("generate", [sent["face"], sent["speech"], *REST["generate"]])
    assert event == "error" and "Your uploads and results take up" in data


def test_a_full_disk_refuses_uploads_and_results(fresh, sent, monkeypatch):
    monkeypatch.setattr(fresh.studio.disk, "max_mb", 0)
    answer = fresh.upload(b"x")
    assert answer.status_code == 507 and "no room for more results" in answer.json()["detail"]
    event, data = fresh.call("generate", [sent["face"], sent["speech"], *REST["generate"]])
    assert event == "error" and "no room for more results" in data


def test_unanswered_requests_of_an_address_are_limited(fresh):
    """Uploads that never end hold no more than their share."""
    port = int(fresh.url.split(":")[2].split("/")[0])
    head = "POST /gradio_api/upload HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    sockets = []
    for _ in range(2 * SETTINGS.max_address_requests):
        sockets.append(socket.create_connection(("127.0.0.1", port), source_address=("127.0.0.11", 0)))
        sockets[-1].sendall(f"{head}Content-Length: 1000\r\n\r\n--x\r\n".encode())
    wait_until(lambda: fresh.guard._open.get(("127.0.0.11", False), 0) == len(sockets))
    assert fresh.upload(b"x", address="127.0.0.11").status_code == 429
    for each in sockets:
        each.close()
    wait_until(lambda: ("127.0.0.11", False) not in fresh.guard._open)
    assert fresh.upload(b"x", address="127.0.0.11").status_code == 200


def test_the_number_of_takes_is_limited(fresh, sent):
    for endpoint, rest in REST.items():
        event, data = fresh.call(endpoint, [sent["face"], sent["speech"], SETTINGS.max_takes + 1, *rest[1:]])
        assert event == "error" and "Choose from 1 to 2 takes." in data


def test_memory_for_encoded_inputs_is_limited(fresh, sent, monkeypatch):
    inputs = Inputs(replace(SETTINGS, max_cache_mb=1), fresh.studio.pipe)
    monkeypatch.setattr(fresh.studio, "inputs", inputs)
    for shade in range(4):  # as pictures, 0.4 MB each
        picture = io.BytesIO()
        Image.fromarray(portrait(320) // 8 * 8 + np.uint8(shade)).save(picture, "PNG")
        face = {"path": fresh.upload(picture.getvalue()).json()[0], "meta": META}
        assert fresh.call("preview", [face, sent["speech"], *REST["preview"]])[0] == "complete"
        assert sum(each.size for each in inputs.cache._entries.values()) <= 2**20
    inputs.decoder.close()
    assert 0 < len(inputs.cache) < 5


@pytest.mark.parametrize(("proxies", "counted"), [(0, "127.0.0.16"), (1, "192.0.2.8"), (2, "192.0.2.7")])
def test_only_addresses_of_own_proxies_are_believed(fresh, monkeypatch, proxies, counted):
    monkeypatch.setattr(fresh.guard, "settings", replace(SETTINGS, proxies=proxies))
    forwarded = {"x-forwarded-for": "192.0.2.6, 192.0.2.7, 192.0.2.8"}
    files = {"files": ("a.png", b"x")}
    assert fresh.at("127.0.0.16").post(f"{fresh.url}/upload", files=files, headers=forwarded).status_code == 200
    assert {address for address in fresh.guard.budgets._stored} == {counted}


def test_each_setting_has_a_test_here():
    tests = {
        "max_seconds": test_pixels_and_seconds_are_limited,
        "max_decoded_seconds": test_pixels_and_seconds_are_limited,
        "max_megapixels": test_pixels_and_seconds_are_limited,
        "max_takes": test_the_number_of_takes_is_limited,
        "max_mb": test_bytes_of_a_request_are_limited,
        "max_request_kb": test_bytes_of_a_request_are_limited,
        "max_decode_mb": test_memory_and_time_of_decoding_are_limited,
        "max_decode_seconds": test_memory_and_time_of_decoding_are_limited,
        "max_request_seconds": test_time_of_rendering_is_limited,
        "max_waiting": test_places_of_a_session_an_address_and_all_are_limited,
        "max_session_requests": test_places_of_a_session_an_address_and_all_are_limited,
        "max_address_requests": test_places_of_a_session_an_address_and_all_are_limited,
        "max_address_connections": test_open_and_idle_connections_are_limited,
        "max_address_mb": test_uploads_and_results_of_a_client_are_counted_together,
        "max_disk_mb": test_a_full_disk_refuses_uploads_and_results,
        "max_cache_mb": test_memory_for_encoded_inputs_is_limited,
        "keep_seconds": test_results_are_forgotten_with_their_reader_or_their_files,
        "proxies": test_only_addresses_of_own_proxies_are_believed,
    }
    assert tests.keys() | {"model", "size"} == {field.name for field in fields(Settings)}


# Routes


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "process_recording"), ("POST", "vibe-edit"), ("POST", "component_server"), ("POST", "stream/x"),
        ("POST", "run-history/connect"), ("PUT", "upload"), ("DELETE", "upload"), ("GET", "deep_link?session_hash=x"),
        ("GET", "file=http://example.org/"), ("GET", "file=HTTPS://example.org/"), ("GET", "proxy=https://example.org/"),
        ("POST", "../login"), ("POST", "call"), ("GET", "../monitoring"), ("GET", "../monitoring/summary"),
        ("GET", "../?deep_link=x"), ("GET", "custom_component/a/client/b/c"),
        ("GET", "stream/a/b/1/playlist-file"), ("GET", "token"), ("GET", "heartbeat/" + "x" * 65),
        ("GET", "dev/reload"),
    ],
)  # fmt: skip
def test_what_the_page_does_not_need_is_not_there(fresh, method, path):
    assert fresh.at().request(method, f"{fresh.url}/{path}").status_code == 404


PREVIEW = {"fn_index": -2, "session_hash": "mine", "data": []}  # -2 stands for the number of `preview`


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("queue/join", "[" * 30_000, 400),
        ("queue/join", {**PREVIEW, "data": json.loads("[" * 300 + "]" * 300)}, 400),
        ("queue/join", '{"data": ["\\ud800"], "fn_index": -2, "session_hash": "mine"}', 400),
        ("queue/join", b"\xff", 400),
        ("queue/join", "", 400),
        ("queue/join", "3", 400),
        ("queue/join", {**PREVIEW, "data": {"a": 1}}, 400),
        ("queue/join", {**PREVIEW, "session_hash": ""}, 400),
        ("queue/join", {**PREVIEW, "session_hash": "x" * 65}, 400),
        ("queue/join", {**PREVIEW, "session_hash": None}, 400),
        ("queue/join", {**PREVIEW, "fn_index": -1}, 404),
        ("queue/join", {**PREVIEW, "fn_index": 10**30}, 404),
        ("queue/join", {**PREVIEW, "fn_index": True}, 400),
        ("queue/join", '{"data": [], "fn_index": NaN, "session_hash": "mine"}', 400),
        ("queue/join", {**PREVIEW, "trigger_id": 10**12}, 400),
        ("queue/join", {**PREVIEW, "event_data": True}, 200),
        ("queue/join", {**PREVIEW, "batched": True, "request": {}, "username": "root"}, 200),  # which it does not see
        ("run/predict", PREVIEW, 404),  # past the queue
        ("run/preview", PREVIEW, 404),
        ("cancel", {"session_hash": "mine", "fn_index": float("nan"), "event_id": "a"}, 400),
        ("cancel", {"session_hash": "other", "fn_index": -2, "event_id": uuid.uuid4().hex}, 200),
        ("reset", {"event_id": ["a"]}, 400),
        ("call/none", {"data": []}, 404),
        ("call/preview", {"data": None}, 400),
        ("call/v2/none", {}, 404),
        ("call/v2/preview", {"nothing": 1}, 400),
        ("upload", b'--x\r\nContent-Disposition: form-data; name="files"\r\n\r\nx\r\n--x--\r\n', 400),
    ],
)  # fmt: skip
def test_what_is_no_request_of_the_page_is_refused_in_a_sentence(fresh, path, body, status):
    number = next(each for each, fn in fresh.guard.page.fns.items() if fn.api_name == "preview")
    text = body if isinstance(body, str | bytes) else json.dumps(body)
    content = text if isinstance(text, bytes) else text.replace('"fn_index": -2', f'"fn_index": {number}').encode()
    kind = "multipart/form-data; boundary=x" if path == "upload" else "application/json"
    answer = fresh.at().post(f"{fresh.url}/{path}", content=content, headers={"content-type": kind})
    assert answer.status_code == status
    if status != 200:
        assert answer.json()["detail"].endswith(".")


def test_a_name_of_a_file_leads_nowhere(fresh):
    cache = Path(fresh.upload(b"x").json()[0]).parents[1]
    for name in ("../../a.png", "/etc/a.png", "a\\..\\b.png", "a" * 3000 + ".png", "%2e%2e%2fa.png"):
        (path,) = fresh.upload(b"x", name).json()
        assert Path(path).parents[1] == cache and len(Path(path).name) < 256
    for name in ("..", "a" * 10_000):
        assert fresh.upload(b"x", name).status_code in (400, 413)


def test_nothing_of_a_request_is_remembered_that_nobody_asks_for(fresh, sent):
    """Names of sessions, uploads and hosts; results that are not fetched."""
    from gradio import routes

    assert (
        fresh.at().get(f"{fresh.url}/upload_progress", params={"upload_id": "y"}).text == 'data: {"msg": "done"}\n\n'
    )
    fresh.at().post(f"{fresh.url}/upload", params={"upload_id": "z"}, files={"files": ("a.png", b"x")})
    assert not {"y", "z"} & (
        routes.file_upload_statuses._signals.keys() | routes.file_upload_statuses._statuses.keys()
    )
    assert "evil.example" in fresh.at().get(f"{fresh.url}/info", headers={"host": "evil.example"}).text
    assert "evil.example" not in fresh.at().get(f"{fresh.url}/info").text
    for _ in range(100):
        session = uuid.uuid4().hex
        answer = join(fresh, "127.0.0.12", session, sent)
        if answer.status_code != 200:
            break
        wait_until(lambda: len(fresh.queue) + fresh.queue.get_active_worker_count() == 0)
    assert answer.status_code == 429 and "were not fetched; fetch one of them first" in answer.json()["detail"]
    assert len(fresh.queue.event_analytics) <= 16
    mine = [each for each, (_, address, _) in fresh.guard._unread.items() if address == "127.0.0.12"]
    assert len(mine) == 4 * SETTINGS.max_address_requests
    fetched = fresh.guard._unread[mine[0]][0]
    lines = fresh.at().get(f"{fresh.url}/queue/data", params={"session_hash": fetched}).text
    assert "process_completed" in lines
    assert join(fresh, "127.0.0.12", uuid.uuid4().hex, sent).status_code == 200


def test_results_are_forgotten_with_their_reader_or_their_files(fresh, sent, monkeypatch):
    event = join(fresh, "127.0.0.13", "left", sent).json()["event_id"]
    wait_until(lambda: event not in fresh.queue.event_ids_to_events)
    fresh.guard.forget_unread("left", "")  # as the stream ends
    assert "left" not in fresh.queue.pending_messages_per_session and event not in fresh.guard._unread
    event = join(fresh, "127.0.0.13", "old", sent).json()["event_id"]
    wait_until(lambda: event not in fresh.queue.event_ids_to_events)
    monkeypatch.setattr(fresh.guard, "settings", replace(SETTINGS, keep_seconds=0))
    assert join(fresh, "127.0.0.13", "new", sent).status_code == 200
    assert "old" not in fresh.queue.pending_messages_per_session and event not in fresh.guard._unread


def test_open_and_idle_connections_are_limited(fresh, monkeypatch):
    port = int(fresh.url.split(":")[2].split("/")[0])

    def connect(head: bytes) -> socket.socket:
        opened = socket.create_connection(("127.0.0.1", port), source_address=("127.0.0.14", 0))
        opened.settimeout(PATIENCE)
        opened.sendall(head)
        return opened

    heart = b"GET /gradio_api/heartbeat/mine HTTP/1.1\r\nHost: localhost\r\n\r\n"
    sockets = [connect(heart) for _ in range(SETTINGS.max_address_connections)]
    assert all(b" 200 " in each.recv(100) for each in sockets)
    assert fresh.at("127.0.0.14").get(f"{fresh.url}/queue/status").status_code == 429
    assert fresh.at("127.0.0.15").get(f"{fresh.url}/queue/status").status_code == 200
    for each in sockets:
        each.close()
    idle = connect(heart[:20])  # a head that never ends
    monkeypatch.setattr("demo.guard.IDLE_SECONDS", 0.1)
    wait_until(lambda: fresh.at().get(f"{fresh.url}/queue/status").status_code == 200 and len(fresh.guard._idle) > 0)
    wait_until(lambda: fresh.at().get(f"{fresh.url}/queue/status").status_code == 200 and len(fresh.guard._idle) == 0)
    assert idle.recv(100) == b""


def test_a_body_that_stalls_is_given_up(fresh, monkeypatch):
    monkeypatch.setattr("demo.gate.STALL_SECONDS", 0.2)
    port = int(fresh.url.split(":")[2].split("/")[0])
    for path, kind in (("upload", "multipart/form-data; boundary=x"), ("queue/join", "application/json")):
        with socket.create_connection(("127.0.0.1", port)) as opened:
            opened.settimeout(PATIENCE)
            head = f"POST /gradio_api/{path} HTTP/1.1\r\nHost: a\r\nContent-Type: {kind}\r\nContent-Length: 99\r\n\r\n"
            opened.sendall(head.encode() + b"--x")
            assert b" 408 " in opened.recv(1000)


def test_gradio_without_an_internal_is_refused(fresh):
    from demo.guard import check_gradio

    class Other:
        fns = blocks = preprocess_data = process_api = None
        _queue = None

    check_gradio(fresh.guard.page)
    with pytest.raises(ValueError, match="has no 'push' of a queue, which the limits of this page need"):
        check_gradio(Other())


def test_addresses_are_not_downloaded(fresh, sent):
    """Neither for a picture nor for any other input; a server here would be asked."""
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.5)
        url = f"http://localhost:{server.getsockname()[1]}/face.png"
        given = {"path": url, "url": url, "meta": META}
        for data in (
            [given, sent["speech"], *REST["preview"]],
            [sent["face"], sent["speech"], given, *REST["preview"][1:]],
        ):
            event, told = fresh.call("preview", data)
            assert event == "error" and "Only files that were uploaded here" in told
        with suppress(TimeoutError):
            asked.append(server.accept())
    assert not asked
