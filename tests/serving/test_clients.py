"""Fair shares of clients."""

import pytest

from osmnet.serving import clients
from osmnet.serving.clients import ClientBudgets, client_address, fair_order
from osmnet.serving.inputs import RefusedInputError
from osmnet.serving.settings import Settings

MB = 2**20


@pytest.mark.parametrize(
    ("peer", "forwarded", "proxies", "address"),
    [
        ("192.0.2.1", "", 0, "192.0.2.1"),
        ("192.0.2.1", "198.51.100.7", 0, "192.0.2.1"),  # nobody is believed
        ("192.0.2.1", "203.0.113.9, 198.51.100.7", 1, "198.51.100.7"),  # the first was written by the client
        ("192.0.2.1", "203.0.113.9, 198.51.100.7, 192.0.2.5", 2, "198.51.100.7"),
        ("192.0.2.1", "198.51.100.7", 2, "192.0.2.1"),
        ("192.0.2.1", "nonsense", 1, "192.0.2.1"),
        ("2001:db8:1:2:3::4", "", 0, "2001:db8:1:2::/64"),  # one subscriber has all of it
        ("::ffff:192.0.2.1", "", 0, "192.0.2.1"),
        ("testclient", "", 0, "testclient"),
    ],
)
def test_a_client_cannot_choose_its_address(peer, forwarded, proxies, address):
    assert client_address(peer, forwarded, proxies) == address


@pytest.mark.parametrize(
    ("waiting", "running", "order"),
    [
        ("a1 a1 a1 b1 a1 c1", "", "a1 b1 c1 a1 a1 a1"),
        ("a1 a1 b1", "a1", "b1 a1 a1"),
        ("a1 a2 a3 a4 b1", "", "a1 b1 a2 a3 a4"),  # many sessions make one address no faster
        ("a1 a1 a1 a2 b1", "", "a1 b1 a2 a1 a1"),
        ("", "a1", ""),
    ],
)
def test_addresses_take_turns_and_so_do_their_sessions(waiting, running, order):
    ordered = fair_order(waiting.split(), lambda each: each[0], lambda each: each, running.split())
    assert ordered == order.split()


def test_long_requests_cost_more_turns(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(clients.time, "monotonic", lambda: now[0])
    budgets = ClientBudgets(Settings())
    budgets.work("a", 7.0)

    def ordered() -> list[str]:
        waiting = ["a1", "b1", "b1", "b1", "b1", "b1"]
        return fair_order(waiting, lambda each: each[0], lambda each: each, turns_of=budgets.turns)

    assert ordered().index("a1") == 4
    now[0] = 600.0
    assert ordered().index("a1") == 1  # forgotten
    monkeypatch.setattr(clients, "MAX_ADDRESSES", 5)
    for number in range(100):
        now[0] += 1000
        budgets.work(f"address {number}", 1.0)
    assert len(budgets._worked) <= 7


def test_a_client_cannot_fill_the_disk(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(clients.time, "monotonic", lambda: now[0])
    budgets = ClientBudgets(Settings(max_address_mb=10, keep_seconds=600))
    budgets.check_storage("a", 10 * MB)
    budgets.store("a", 9 * MB)
    with pytest.raises(RefusedInputError, match="take up 10 MB here, the limit; they are deleted after 10 min"):
        budgets.check_storage("a", 2 * MB)
    budgets.check_storage("b", 10 * MB)
    budgets.store("b", 0, files=160)  # empty files cost something, too
    assert budgets.stored("b") == 10 * MB
    now[0] = 601.0
    budgets.check_storage("a", 10 * MB)
    assert budgets.stored("a") == budgets.stored("b") == 0


def test_requests_of_a_client_are_limited():
    budgets = ClientBudgets(Settings(max_session_requests=2, max_address_requests=3))
    budgets.check_requests(1, 2)
    for counts in ((2, 2), (0, 3)):
        with pytest.raises(RefusedInputError, match="requests of yours are not done yet"):
            budgets.check_requests(*counts)
