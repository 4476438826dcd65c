"""Limits of each client, fair turns in Gradio's queue, and errors in words; `gate.py` is what the network sees."""

import logging
import os
import secrets
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import fastapi
import gradio as gr
from gradio.context import LocalContext
from gradio.exceptions import InvalidPathError
from gradio_client.utils import is_http_url_like
from starlette.middleware import Middleware

from demo.gate import FAILED, Gate
from demo.uploads import NOT_UPLOADED
from demo.zero_gpu import Paint
from osmnet.serving.clients import ClientBudgets, client_address, fair_order
from osmnet.serving.inputs import RefusedInputError
from osmnet.serving.jobs import Step
from osmnet.serving.settings import Settings
from osmnet.serving.studio import Studio

log = logging.getLogger(__name__)
ADDRESS = b"x-osmnet-address"
IDLE_SECONDS = 30.0  # s
ANALYTICS_EVENTS = 16  # requests that Gradio remembers; it computes statistics of all of them after each
UNREAD_REQUESTS = 4  # results of an address that are not fetched, for each request that it may have at a time
WRONG_TYPE = "An input has the wrong type or form; 'Use via API' at the foot of the page describes all of them."

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
        self._open: dict[tuple[str, bool], int] = {}  # unanswered requests, by address and whether they read
        self._idle: WeakKeyDictionary[Any, tuple[Any, float]] = WeakKeyDictionary()  # connections: last request, time
        self._unread: dict[str, tuple[str, str, float]] = {}  # by event: its session, its address, and when it came

    def protect(self, page: gr.Blocks) -> gr.Blocks:
        """Limit the queue and the inputs of a page, and put its errors into words.

        Raises:
            ValueError: If Gradio is not as this module expects it.
        """
        check_gradio(page)
        self.page, self.queue = page, page._queue
        self.queue.ANALYTICS_MAX_EVENTS = ANALYTICS_EVENTS
        _take_turns(page._queue, self)
        for block in page.blocks.values():
            _download_nothing(block)
        _say_errors(page, self)
        return page

    def middleware(self) -> Middleware:
        """For the page's server."""
        return Middleware(Gate, self)

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

    @contextmanager
    def open_requests(self, address: str, reads: bool) -> Iterator[bool]:
        """Count a request until it is answered; gives whether its address may have one more."""
        key, most = (address, reads), self.settings.max_address_connections if reads else self.max_posts
        self._open[key] = self._open.get(key, 0) + 1
        try:
            yield self._open[key] <= most
        finally:
            self._open[key] -= 1
            if not self._open[key]:
                del self._open[key]

    def close_idle(self) -> None:
        """Close connections that have not sent a whole head of a request for a while; the server waits for ever."""
        now = time.monotonic()
        for each in list(self.page.server.server_state.connections):
            request = each.cycle
            if request is not None and not request.response_complete:
                self._idle.pop(each, None)
                continue
            if self._idle.get(each, (None,))[0] is not request or each not in self._idle:
                self._idle[each] = (request, now)
            elif now - self._idle[each][1] > IDLE_SECONDS:
                each.transport.close()

    @property
    def max_posts(self) -> int:
        """Requests with a body of an address that may be unanswered; those to the queue are answered at once."""
        return 2 * self.settings.max_address_requests

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
        self._forget_old()
        unread = sum(each == address for _, each, _ in self._unread.values()) - len(own)
        if unread >= UNREAD_REQUESTS * self.settings.max_address_requests:
            raise RefusedInputError("takes", f"{unread} results of yours were not fetched; fetch one of them first.")

    def add_unread(self, event: str, session: str, address: str) -> None:
        """Remember a request until its result is fetched: Gradio keeps it in memory as long."""
        self._unread[event] = (session, address, time.monotonic())

    def forget_unread(self, session: str, event: str) -> None:
        """Forget results of a session, or of the session of an event, whose reader is gone."""
        session = self._unread[event][0] if event in self._unread else session
        for each, (own, _, _) in list(self._unread.items()):
            running = self.queue.event_ids_to_events.get(each)
            if own == session and (running is None or not running.alive):
                self._forget(each)

    def _forget_old(self) -> None:
        oldest = time.monotonic() - self.settings.keep_seconds
        for each, (session, _, came) in list(self._unread.items()):
            is_fetched = each not in self.queue.pending_event_ids_session.get(session, ())
            if is_fetched or (came < oldest and each not in self.queue.event_ids_to_events):
                self._forget(each)

    def _forget(self, event: str) -> None:
        session, _, _ = self._unread.pop(event)
        events = self.queue.pending_event_ids_session.get(session)
        if events is not None:
            events.discard(event)
            if not events:
                del self.queue.pending_event_ids_session[session]
                if session in self.queue.pending_messages_per_session:
                    del self.queue.pending_messages_per_session[session]

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


# Gradio

INTERNALS = {
    "page": ("fns", "preprocess_data", "process_api", "blocks"),
    "queue": (
        "push", "get_events", "active_jobs", "event_queue_per_concurrency_id", "event_ids_to_events",
        "pending_event_ids_session", "pending_messages_per_session", "ANALYTICS_MAX_EVENTS",
    ),
}  # fmt: skip


def check_gradio(page: Any) -> None:
    """Check that a page has what its limits are built on.

    Raises:
        ValueError: If it has not.
    """
    for name, owner in (("page", page), ("queue", getattr(page, "_queue", None))):
        for each in INTERNALS[name]:
            if not hasattr(owner, each):
                raise ValueError(
                    f"Gradio {gr.__version__} has no '{each}' of a {name}, which the limits of this page need; "
                    "install the version that requirements.txt names."
                )


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
        answer = await push(body=body, request=request, username=username)
        if answer[0]:
            guard.add_unread(answer[1], body.session_hash, _said_address(request))
        return answer

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
        except gr.Error as error:
            if error.message == NOT_UPLOADED:
                raise
            raise gr.Error(WRONG_TYPE, print_exception=False) from None  # as of a choice that there is not
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
