"""What stands between the network and Gradio: whose request it is, and no route or JSON that this page does not use.

Gradio serves more than this page needs, for example a route that runs FFmpeg on any video.
"""

import asyncio
import json
import logging
import re
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from anyio.to_thread import run_sync
from starlette.responses import JSONResponse, Response

from osmnet.serving.inputs import RefusedInputError

if TYPE_CHECKING:
    from demo.guard import Guard

log = logging.getLogger(__name__)
MB = 2**20
API = "/gradio_api"
NAME = r"[\w-]{1,64}"  # of a session, an event or an endpoint; Gradio keeps them, however long they are
READ = re.compile(
    rf"/|/(config|theme\.css|favicon\.ico|robots\.txt|manifest\.json)/?|/(static|assets|svelte|pwa_icon)/.*"
    rf"|{API}/((info|openapi\.json|startup-events|app_id|theme\.css)/?|queue/(data|status)|heartbeat/{NAME}"
    rf"|call/(v2/)?{NAME}/{NAME}|file=(?!https?:/).+|mcp(/.*)?)",
    re.IGNORECASE | re.DOTALL,
)
INFO = re.compile(rf"{API}/info/?")
PROGRESS = re.compile(rf"{API}/upload_progress/?")
UPLOAD = re.compile(rf"{API}/upload/?")
MCP = re.compile(rf"{API}/mcp(/.*)?")
JSON = re.compile(
    rf"{API}/(queue/join|run/predict|cancel|reset|call/(v2/)?{NAME})/?"
)  # "run" takes events that do not queue
STREAM = re.compile(rf"{API}/(queue/data|call/(?:v2/)?{NAME}/({NAME}))")
BASE64_GROWTH = 4 / 3
FORM_BYTES = 64 * 1024  # of an upload beside the file
LIST_BYTES = MB  # of the answer to an upload
MAX_DEPTH = 32  # of JSON
STALL_SECONDS = 30.0  # s that a body may pause
NOT_WHOLE = "The request was not sent to its end."
TOO_MANY = "Too many requests of yours are not answered yet; wait for one of them."
DONE = 'data: {"msg": "done"}\n\n'
NOTHING = "There is nothing here."
NOT_JSON = "The request is not JSON of the form that 'Use via API' at the foot of the page describes."
NO_FORM = "An upload is a form whose files are named 'files'."
FAILED = "Something went wrong here that should not; the page's log says what."
Refusal = tuple[int, str]
# Members of the JSON of a request: type and test. Gradio fails on some others.
MEMBERS: dict[str, tuple[type, Callable[[Any], Any]]] = {
    "data": (list, lambda value: True),
    "fn_index": (int, lambda value: True),
    "session_hash": (str, re.compile(NAME).fullmatch),
    "event_id": (str, re.compile(NAME).fullmatch),
    "event_data": (object, lambda value: True),
    "trigger_id": (int, lambda value: 0 <= value < 2**31),
}
NEEDED = {
    "join": ("session_hash", "fn_index", "data"),
    "predict": ("session_hash", "fn_index", "data"),
    "cancel": ("session_hash", "fn_index", "event_id"),
    "reset": ("event_id",),
}


class Gate:
    """ASGI middleware: refuses requests before anything reads them.

    Args:
        app (`Callable`): What serves the others.
        guard (`Guard`): Has the limits.
    """

    def __init__(self, app: Any, guard: "Guard"):
        self.app, self.guard = app, guard

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return  # no WebSockets
        guard, headers = self.guard, dict(scope["headers"])
        address = guard.address_of(headers, (scope.get("client") or ("",))[0])
        scope = {**scope, "headers": guard.marked(scope["headers"], address)}
        guard.close_idle()
        reads = scope["method"] in ("GET", "HEAD", "OPTIONS")
        with guard.open_requests(address, reads) as is_allowed:
            if not is_allowed:
                refusal: Refusal | None = (
                    429,
                    "Too many requests of yours are not answered yet; wait for one of them.",
                )
            elif reads:
                refusal = self._check_read(scope)
            else:
                refusal = await self._check_body(scope["method"], scope["path"], headers, address)
            if refusal is None and JSON.fullmatch(scope["path"]) and not reads:
                receive, refusal = await self._checked_json(scope, receive)
            if reads and PROGRESS.fullmatch(scope["path"]):  # Gradio would remember every name that it is asked for
                await Response(DONE, media_type="text/event-stream")(scope, receive, send)
            elif refusal is not None:
                await _answer(refusal)(scope, receive, send)
            else:
                await self._serve(scope, receive, send, address)

    def _check_read(self, scope: Any) -> Refusal | None:
        # A link would show what somebody else wrote as this page's own.
        if not READ.fullmatch(scope["path"]) or b"deep_link" in scope["query_string"]:
            return 404, NOTHING
        return None

    async def _check_body(self, method: str, path: str, headers: dict[bytes, bytes], address: str) -> Refusal | None:
        guard, settings = self.guard, self.guard.settings
        limits = (
            (UPLOAD, settings.max_mb * MB + FORM_BYTES),
            (MCP, round(BASE64_GROWTH * 2 * settings.max_mb * MB) + settings.max_request_kb * 1024),  # two files
            (JSON, settings.max_request_kb * 1024),
        )
        limit = next((limit for pattern, limit in limits if pattern.fullmatch(path)), None)
        if method == "DELETE" and MCP.fullmatch(path):  # the end of a session
            return None
        if method != "POST" or limit is None:
            return 404, NOTHING
        length = headers.get(b"content-length", b"").decode("latin-1")
        if not (length.isascii() and length.isdecimal()) or b"transfer-encoding" in headers:
            return 411, "A request must say its length (Content-Length)."
        if len(length) > 19 or int(length) > limit:
            return 413, f"This request exceeds the maximum allowed size of {limit / MB:.1f} MB."
        if int(length) > FORM_BYTES or UPLOAD.fullmatch(path):
            try:
                await run_sync(guard.studio.disk.check)
                guard.budgets.check_storage(address, int(length))
            except RefusedInputError as error:
                return 507, str(error)
            guard.budgets.store(address, int(length))
        return None

    async def _checked_json(self, scope: Any, receive: Any) -> tuple[Any, Refusal | None]:
        """Read a small body; gives `receive` for what Gradio may see of it."""
        content, more = bytearray(), True
        while more:
            message = await _in_time(receive)
            if message["type"] == "http.disconnect":
                return receive, (408, NOT_WHOLE)
            content += message.get("body", b"")
            more = message.get("more_body", False)
        try:
            value = self._known(scope["path"].rstrip("/"), json.loads(content))
            body = json.dumps(value, ensure_ascii=False).encode()  # fails if it is no text
        except LookupError:
            return receive, (404, NOTHING)
        except (ValueError, RecursionError):
            return receive, (400, NOT_JSON)
        length = [(b"content-length", str(len(body)).encode()), (b"content-type", b"application/json")]
        scope["headers"] = [each for each in scope["headers"] if each[0] not in dict(length)] + length
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Any:
            return messages.pop() if messages else await receive()

        return replay, None

    def _known(self, path: str, value: Any) -> dict[str, Any]:
        """Members of a request that the page knows; Gradio fails on wrong values of some others.

        Raises:
            ValueError: If one has a wrong type.
            LookupError: If the page does not have the function.
        """
        if not isinstance(value, dict) or not _is_flat(value):
            raise ValueError
        parent, _, name = path.rpartition("/")
        if "/call" in parent and name not in {each.api_name for each in self.guard.page.fns.values()}:
            raise LookupError
        if parent.endswith("/v2"):
            return value
        known = {each: value[each] for each in MEMBERS if value.get(each) is not None}
        for each, (kind, is_right) in MEMBERS.items():
            if each in known and (kind not in (object, type(known[each])) or not is_right(known[each])):
                raise ValueError
        if any(each not in known for each in NEEDED.get(name, ("data",))):
            raise ValueError
        if "fn_index" in known and known["fn_index"] not in self.guard.page.fns:
            raise LookupError
        return known

    async def _serve(self, scope: Any, receive: Any, send: Any, address: str) -> None:
        if INFO.fullmatch(scope["path"]):
            self.guard.page.app.api_info = None  # has the host that the last visitor named
        started, is_whole, stalled = False, scope["method"] != "POST", False
        if not is_whole and UPLOAD.fullmatch(scope["path"]):
            scope["query_string"] = b""  # Gradio would remember the progress of uploads that nobody asks for
            send = self._counting(send, address)

        async def watched_send(message: Any) -> None:
            nonlocal started
            started = True
            await send(message)

        async def watched_receive() -> Any:
            nonlocal is_whole, stalled
            if is_whole:
                return await receive()
            message = await _in_time(receive)
            stalled = message["type"] == "http.disconnect"
            is_whole = not message.get("more_body", False)
            return message

        try:
            await self.app(scope, watched_receive, watched_send)
        except Exception as error:
            if started:  # a stream of events that are not there
                log.debug("An answer ended early.", exc_info=True)
                with suppress(Exception):  # nobody may be there any more
                    await send({"type": "http.response.body", "body": b""})
                return
            refusal = (408, NOT_WHOLE) if stalled else (500, FAILED)
            if scope["method"] == "POST" and UPLOAD.fullmatch(scope["path"]):
                refusal = refusal if stalled else (400, NO_FORM)
            elif "/call/v2/" in scope["path"]:  # its arguments are named, and these have other names
                refusal = (400, NOT_JSON)
            elif not stalled:
                log.error("%s %.200r failed: %.500r", scope["method"], scope["path"], error)
            await _answer(refusal)(scope, receive, send)
        finally:
            if scope["method"] == "GET" and (stream := STREAM.fullmatch(scope["path"])):
                session = parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [""])[0]
                self.guard.forget_unread(session, stream[2] or "")

    def _counting(self, send: Any, address: str) -> Any:
        """`send` that counts the files of an upload: one request may hold a thousand."""
        answer = bytearray()

        async def counting(message: Any) -> None:
            if message["type"] == "http.response.body":
                answer.extend(message.get("body", b"")[:LIST_BYTES])
                if not message.get("more_body"):
                    try:
                        files = len(json.loads(answer))
                    except ValueError:
                        files = 0
                    if files > 1:
                        self.guard.budgets.store(address, 0, files - 1)
            await send(message)

        return counting


def _is_flat(value: Any, depth: int = MAX_DEPTH) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return depth > 0 and all(_is_flat(each, depth - 1) for each in inner)


async def _in_time(receive: Any) -> Any:
    """The next part of a body; one that does not come is the end of the connection."""
    try:
        return await asyncio.wait_for(receive(), STALL_SECONDS)
    except TimeoutError:
        return {"type": "http.disconnect"}


def _answer(refusal: Refusal) -> JSONResponse:
    status, sentence = refusal
    return JSONResponse({"detail": sentence, "error": sentence}, status)
