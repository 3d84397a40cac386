"""The synchronous client."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from pursestrings import Client, Denied, Unavailable
from tests.unit.client.servicer import Book, Served, serve

BOT = "orgs/acme/agents/bot"


@pytest.fixture
def served() -> Iterator[Served]:
    """The services in a loop and thread of their own: a synchronous caller blocks the one it is in."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    context = serve()
    yield asyncio.run_coroutine_threadsafe(context.__aenter__(), loop).result()
    asyncio.run_coroutine_threadsafe(context.__aexit__(None, None, None), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture
def client(served: Served) -> Iterator[Client]:
    with Client(budget=served.address, metering=served.address, timeout_s=5) as opened:
        yield opened


@pytest.fixture
def book(served: Served) -> Book:
    return served.book


def test_a_recorded_call_settles(client: Client, book: Book) -> None:
    with client.reserve(BOT, model="gpt-4o-mini", input_tokens=5) as call:
        assert call.reserved
        call.record({"prompt_tokens": 5, "completion_tokens": 1})
    assert [call.reservation] == [event.reservation for event in book.recorded.values()]
    assert 5 == call.costs[0].amount_nanos
    assert [] == book.released


def test_leaving_without_a_record_and_by_an_exception_release(client: Client, book: Book) -> None:
    with client.reserve(BOT) as first:
        pass
    second = client.reserve(BOT)
    with pytest.raises(ZeroDivisionError), second:
        raise ZeroDivisionError
    assert [first.reservation, second.reservation] == book.released


def test_a_denial_raises(client: Client, book: Book) -> None:
    book.limit = 0
    with pytest.raises(Denied), client.reserve(BOT):
        pytest.fail("the body ran")


def test_it_fails_closed(served: Served) -> None:
    with Client(budget="127.0.0.1:1", timeout_s=0.2) as client, pytest.raises(Unavailable):  # noqa: SIM117
        with client.reserve(BOT):
            pytest.fail("the body ran")


def test_threads_share_one_client(client: Client, book: Book) -> None:
    def one(_: int) -> None:
        with client.reserve(BOT) as call:
            call.record(input_tokens=1)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(one, range(200)))
    assert 200 == len(book.recorded)
    assert sum(book.reserve_batches) == 200 > len(book.reserve_batches)


def test_wrong_usage_raises_where_it_is_given(client: Client, book: Book) -> None:
    with pytest.raises(TypeError, match="OpenAI"), client.reserve(BOT) as call:
        call.record("nonsense")
    assert [call.reservation] == book.released


def test_the_rest_of_the_client(client: Client, book: Book) -> None:
    assert client.check(BOT).outcome
    recorded = client.record(BOT, input_tokens=5, source="s", event_id="1")
    assert not recorded.duplicate
    assert client.record_events(book.recorded.values())[0].duplicate
    client.close()
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.reserve(BOT)


def test_a_forgotten_client_does_not_hold_up_the_end_of_a_process(served: Served) -> None:
    code = (
        "from pursestrings import Client\n"
        f"client = Client(budget={served.address!r}, metering={served.address!r})\n"
        f"with client.reserve({BOT!r}) as call: call.record(input_tokens=1)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60)
    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)
    assert 1 == len(served.book.recorded)


def test_a_hold_is_extended_or_stands_as_it_was(client: Client, book: Book) -> None:
    with client.reserve(BOT) as call:
        assert 2_000_000_000 == call.extend(90).expire_time.seconds
        assert 2_000_000_000 == call.decision.expire_time.seconds  # type: ignore[union-attr]
        book.limit = 0
        with pytest.raises(Denied):
            call.extend()
    assert [(call.reservation, 90), (call.reservation, 0)] == [(one.name, one.ttl.seconds) for one in book.extended]
    assert 2 == len({one.request_id for one in book.extended})
    with pytest.raises(RuntimeError, match="inside"):
        client.reserve(BOT).extend()
