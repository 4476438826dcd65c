"""Fair shares: how many requests and how much disk space each client of a service may use.

A client is an IP address; within it, sessions share alike. A session alone is no client: anybody can begin a thousand.
"""

import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from ipaddress import IPv6Address, ip_address, ip_network
from typing import TypeVar

from osmnet.serving.inputs import RefusedInputError
from osmnet.serving.settings import Settings

IPV6_PREFIX = 64  # bits; a network of this size belongs to one subscriber
SECONDS_PER_TURN = 2.0  # s of work
HALF_LIFE = 60.0  # s
MAX_ADDRESSES = 10_000  # whose work is remembered
FILE_KB = 64  # least that a file counts, so that a million empty ones are not free
Item = TypeVar("Item")


def client_address(peer: str, forwarded: str, proxies: int) -> str:
    """The address to count a request for.

    Args:
        peer (`str`): Address at the other end of the connection.
        forwarded (`str`): The header `X-Forwarded-For`; each proxy appends the address that it sees.
        proxies (`int`): Proxies of our own. Entries before theirs were written by the client and are not believed.

    Returns:
        `str`: The address; of IPv6, its /64 network.
    """
    seen = [each.strip() for each in forwarded.split(",") if each.strip()]
    address = seen[-proxies] if 0 < proxies <= len(seen) else peer
    try:
        parsed = ip_address(address)
    except ValueError:
        return peer
    if not isinstance(parsed, IPv6Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ip_network((parsed, IPV6_PREFIX), strict=False))


def fair_order(
    waiting: Sequence[Item],
    address_of: Callable[[Item], Hashable],
    session_of: Callable[[Item], Hashable],
    running: Iterable[Item] = (),
    turns_of: Callable[[Hashable], float] = lambda address: 0,
) -> list[Item]:
    """Order requests so that addresses take turns, and in each address its sessions.

    Args:
        waiting (sequence): Requests in order of arrival.
        address_of (`Callable`): Address of a request.
        session_of (`Callable`): Session of a request.
        running (iterable): Requests that are being served; they count as turns taken.
        turns_of (`Callable`): Turns that an address has taken before.

    Returns:
        `list`: The waiting requests, next one first.
    """
    running = list(running)

    def in_turns(
        items: Sequence[Item], key: Callable[[Item], Hashable], turns_of: Callable[[Hashable], float]
    ) -> list[Item]:
        taken = Counter(map(key, running))
        turns = []
        for item in items:
            turns.append(taken[key(item)] + turns_of(key(item)))
            taken[key(item)] += 1
        return [items[index] for index in sorted(range(len(items)), key=lambda index: turns[index])]

    return in_turns(in_turns(waiting, session_of, lambda session: 0), address_of, turns_of)


class ClientBudgets:
    """Limits of each address; several threads may use it.

    Args:
        settings (`Settings`): The limits.
    """

    def __init__(self, settings: Settings):
        self.settings = settings
        self._stored: defaultdict[str, deque[tuple[float, int]]] = defaultdict(deque)
        self._worked: dict[Hashable, tuple[float, float]] = {}  # by address: when it was counted, and turns then
        self._lock = threading.Lock()

    def check_requests(self, of_session: int, of_address: int) -> None:
        """Refuse a further request if others of its client wait or run.

        Args:
            of_session (`int`): Requests of its session that wait or run.
            of_address (`int`): Requests of its address that wait or run.

        Raises:
            RefusedInputError: With a sentence for the user.
        """
        for count, most in (
            (of_session, self.settings.max_session_requests),
            (of_address, self.settings.max_address_requests),
        ):
            if count >= most:
                raise RefusedInputError("takes", f"{count} requests of yours are not done yet; wait for one of them.")

    def work(self, address: str, seconds: float) -> None:
        """Count time that a request of an address took, s."""
        with self._lock:
            now = time.monotonic()
            if len(self._worked) > MAX_ADDRESSES:
                self._worked = {each: (then, turns) for each, (then, turns) in self._worked.items()
                                if now - then < 10 * HALF_LIFE}  # fmt: skip
            self._worked[address] = (now, self._turns(address, now) + seconds / SECONDS_PER_TURN)

    def turns(self, address: Hashable) -> float:
        """Turns that an address has taken lately, by the time of its requests; half of them are forgotten a minute."""
        with self._lock:
            return self._turns(address, time.monotonic())

    def _turns(self, address: Hashable, now: float) -> float:
        then, turns = self._worked.get(address, (now, 0.0))
        return float(turns * 0.5 ** ((now - then) / HALF_LIFE))

    def stored(self, address: str) -> int:
        """Bytes that an address has stored within `keep_seconds`."""
        oldest = time.monotonic() - self.settings.keep_seconds
        with self._lock:
            entries = self._stored[address]
            while entries and entries[0][0] < oldest:
                entries.popleft()
            if not entries:
                del self._stored[address]
            return sum(size for _, size in entries)

    def store(self, address: str, size: int, files: int = 1) -> None:
        """Count what an address stores.

        Args:
            address (`str`): Of the client.
            size (`int`): Bytes of all files together.
            files (`int`): Number of files.
        """
        with self._lock:
            self._stored[address].append((time.monotonic(), max(size, files * FILE_KB * 1024)))

    def check_storage(self, address: str, size: int = 0) -> None:
        """Refuse to store more than `max_address_mb`.

        Args:
            address (`str`): Of the client.
            size (`int`): Bytes that it wants to store.

        Raises:
            RefusedInputError: With a sentence for the user.
        """
        if self.stored(address) + size > self.settings.max_address_mb * 2**20:
            raise RefusedInputError(
                "takes",
                f"Your uploads and results take up {self.settings.max_address_mb} MB here, the limit; they are "
                f"deleted after {self.settings.keep_seconds // 60} min.",
            )
