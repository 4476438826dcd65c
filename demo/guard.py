"""What stands between the page and the network: limits of each client, fair turns, and no route that we do not use.

Gradio serves more than this page needs, for example a route that runs FFmpeg on any video.
"""

import json
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import fastapi
import gradio as gr
from anyio.to_thread import run_sync
from gradio.context import LocalContext
from gradio.exceptions import InvalidPathError
from gradio_client.utils import is_http_url_like
from starlette.middleware import Middleware
from starlette.responses import JSONResponse

from demo.uploads import NOT_UPLOADED
from demo.zero_gpu import Paint
from osmnet.serving.clients import ClientBudgets, client_address, fair_order
from osmnet.serving.inputs import RefusedInputError
from osmnet.serving.jobs import Step
from osmnet.serving.settings import Settings
from osmnet.serving.studio import Studio

log = logging.getLogger(__name__)
MB = 2**20
API = "/gradio_api"
UPLOAD = re.compile(rf"{API}/upload/?")
MCP = re.compile(rf"{API}/mcp(/.*)?")
JSON = re.compile(rf"{API}/(queue/join|cancel|reset|run/[^/]+|api/[^/]+|call/.+)/?")
CLOSED = re.compile(rf"{API}/(file=https?:/.*|proxy=.*|deep_link.*)", re.IGNORECASE)  # of those that are only read
BASE64_GROWTH = 4 / 3
FORM_BYTES = 64 * 1024  # of an upload beside the file
LIST_BYTES = MB  # of the answer to an upload
ADDRESS = b"x-osmnet-address"
WRONG_TYPE = "An input has the wrong type or form; 'Use via API' at the foot of the page describes all of them."
FAILED = "Something went wrong here that should not; the page's log says what."

# The server would believe `X-Forwarded-For` of any program on this machine; `Settings.proxies` says whom to believe.
os.environ.setdefault("FORWARDED_ALLOW_IPS", "")


class Guard:
    """Limits of the clients of a page.

    Args:
        studio (`Studio`): Has the settings and the disk budget.

    Attributes:
        budgets (`ClientBudgets`): What each address uses.
    """

    def __init__(self, studio: Studio):
        self.studio = studio
        self.settings: Settings = studio.settings
        self.budgets = ClientBudgets(self.settings)
        self._secret = secrets.token_hex()  # the MCP server calls this page with the headers of its own caller
        self._posts: dict[str, int] = {}  # unanswered, by address

    def protect(self, page: gr.Blocks) -> gr.Blocks:
        """Limit the queue and the inputs of a page, and put its errors into words."""
        _take_turns(page._queue, self)
        for block in page.blocks.values():
            _download_nothing(block)
        _say_errors(page, self)
        return page

    def middleware(self) -> Middleware:
        """For the page's server."""
        return Middleware(_Gate, self)

    # 1. Whose request it is.

    def address_of(self, headers: dict[bytes, bytes], peer: str) -> str:
        """Address of a request, from its connection and headers as they came."""
        secret, _, address = headers.get(ADDRESS, b"").decode("latin-1").partition(" ")
        if address and secrets.compare_digest(secret.encode("latin-1"), self._secret.encode()):
            return address
        forwarded = headers.get(b"x-forwarded-for", b"").decode("latin-1")
        return client_address(peer, forwarded, self.settings.proxies)

    def marked(self, headers: list[tuple[bytes, bytes]], address: str) -> list[tuple[bytes, bytes]]:
        """Headers that say an address to `event_address`, and nothing that the client said about it."""
        others = [each for each in headers if each[0] != ADDRESS]
        return [*others, (ADDRESS, f"{self._secret} {address}".encode("latin-1"))]

    # 2. What it may use.

    def check_join(self, session: str | None, address: str, queue: Any) -> None:
        """Refuse a request to the queue.

        Raises:
            RefusedInputError: With a sentence for the visitor.
        """
        waiting = len(_waiting(queue))
        if waiting >= self.settings.max_waiting:
            raise RefusedInputError("takes", f"The page is busy: {waiting} requests wait; try again in a minute.")
        own = [each for each in (*_waiting(queue), *_running(queue)) if event_address(each) == address]
        self.budgets.check_requests(sum(each.session_hash == session for each in own), len(own))

    def counted(self, paint: Paint) -> Paint:
        """`paint` that counts the results for the visitor whose request it is, and refuses if there are too many."""

        def paint_within(draft: Any, folder: Path, consent: bool | None) -> Generator[Any]:
            address = current_address()
            self.budgets.check_storage(address)
            for made in paint(draft, folder, consent):
                if not isinstance(made, Step):
                    files = [path for take in made for path in (take.video, take.details)]
                    self.budgets.store(address, sum(path.stat().st_size for path in files), len(files))
                yield made

        return paint_within


def event_address(event: Any) -> str:
    """Address of an event in Gradio's queue."""
    return _said_address(event.request)


def current_address() -> str:
    """Address of the request that is being served; empty if there is none."""
    return _said_address(LocalContext.request.get(None))


def _said_address(request: Any) -> str:
    return "" if request is None else str(request.headers.get(ADDRESS.decode(), "")).partition(" ")[2]


# The network


class _Gate:
    """ASGI middleware: refuses requests before anything reads them."""

    def __init__(self, app: Any, guard: Guard):
        self.app, self.guard = app, guard

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return  # no WebSockets
        guard, headers = self.guard, dict(scope["headers"])
        address = guard.address_of(headers, (scope.get("client") or ("",))[0])
        scope = {**scope, "headers": guard.marked(scope["headers"], address)}
        path, method = scope["path"], scope["method"]
        if method in ("GET", "HEAD", "OPTIONS"):
            refusal = (404, "There is nothing here.") if CLOSED.fullmatch(path) else None
        else:
            refusal = await self._refusal(method, path, headers, address)
        if refusal is not None:
            status, sentence = refusal
            await JSONResponse({"detail": sentence, "error": sentence}, status)(scope, receive, send)
        elif method == "POST":
            await self._post(scope, receive, send, address)
        else:
            await self.app(scope, receive, send)

    async def _refusal(
        self, method: str, path: str, headers: dict[bytes, bytes], address: str
    ) -> tuple[int, str] | None:
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
            return 404, "There is nothing here."
        length = headers.get(b"content-length", b"").decode("latin-1")
        if not (length.isascii() and length.isdecimal()):
            return 411, "A request must say its length (Content-Length)."
        if int(length) > limit:
            return 413, f"This request exceeds the maximum allowed size of {limit / MB:.1f} MB."
        if guard._posts.get(address, 0) >= 2 * settings.max_address_requests:
            return 429, "Too many requests of yours are not answered yet; wait for one of them."
        if int(length) > FORM_BYTES or UPLOAD.fullmatch(path):
            try:
                await run_sync(guard.studio.disk.check)
                guard.budgets.check_storage(address, int(length))
            except RefusedInputError as error:
                return 507, str(error)
            guard.budgets.store(address, int(length))
        return None

    async def _post(self, scope: Any, receive: Any, send: Any, address: str) -> None:
        posts = self.guard._posts
        posts[address] = posts.get(address, 0) + 1
        try:
            if UPLOAD.fullmatch(scope["path"]):
                await self.app(scope, receive, self._counting(send, address))
            else:
                await self.app(scope, receive, send)
        finally:
            posts[address] -= 1
            if not posts[address]:
                del posts[address]

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


# The queue


def _waiting(queue: Any) -> list[Any]:
    return [event for each in queue.event_queue_per_concurrency_id.values() for event in each.queue]


def _running(queue: Any) -> list[Any]:
    return [event for job in queue.active_jobs if job is not None for event in job]


def _take_turns(queue: Any, guard: Guard) -> None:
    """Let Gradio's queue refuse clients that have enough requests in it, and let clients take turns."""
    push, get_events = queue.push, queue.get_events

    async def fair_push(body: Any, request: fastapi.Request, username: str | None) -> Any:
        try:
            guard.check_join(body.session_hash, _said_address(request), queue)
        except RefusedInputError as error:
            raise fastapi.HTTPException(429, str(error)) from None
        return await push(body=body, request=request, username=username)

    def fair_events() -> Any:
        running = _running(queue)
        for each in queue.event_queue_per_concurrency_id.values():
            if len(each.queue) > 1:
                each.queue[:] = fair_order(
                    each.queue, event_address, lambda event: event.session_hash, running, guard.budgets.turns
                )
        return get_events()

    queue.push, queue.get_events = fair_push, fair_events


# Inputs


def _download_nothing(block: Any) -> None:
    """Refuse addresses in place of a file, which Gradio would download, however large."""
    move: Callable[[Any], Any] | None = getattr(block, "async_move_resource_to_block_cache", None)
    if move is None:
        return

    async def move_file(path: Any) -> Any:
        if is_http_url_like(str(path)):
            raise gr.Error(NOT_UPLOADED, print_exception=False)
        return await move(path)

    block.async_move_resource_to_block_cache = move_file


def _say_errors(page: Any, guard: Guard) -> None:
    """Answer every request with a sentence, and count its time; Gradio says `null` about errors it did not expect."""
    preprocess, process = page.preprocess_data, page.process_api

    async def checked_inputs(*args: Any, **options: Any) -> Any:
        try:
            return await preprocess(*args, **options)
        except gr.Error:
            raise
        except InvalidPathError:
            raise gr.Error(NOT_UPLOADED, print_exception=False) from None
        except Exception:  # Gradio's widgets raise almost anything
            raise gr.Error(WRONG_TYPE, print_exception=False) from None

    async def said(*args: Any, **options: Any) -> Any:
        began = time.monotonic()
        try:
            return await process(*args, **options)
        except gr.Error:
            raise
        except Exception as error:
            log.exception("A request failed.")
            raise gr.Error(FAILED, print_exception=False) from error
        finally:
            guard.budgets.work(_said_address(options.get("request")), time.monotonic() - began)

    page.preprocess_data, page.process_api = checked_inputs, said
