"""The client against small services in process."""

import asyncio
import logging
import pickle
from types import SimpleNamespace

import grpc
import pytest
from google.rpc import code_pb2

from pursestrings import AsyncClient, Denied, Money, Rejected, Unavailable, Unrecorded
from pursestrings.budget.v1 import budget_pb2
from pursestrings.metering.v1 import metering_pb2
from tests.unit.client.servicer import DENIAL, Book, Served, gate, once, refusal, serve

BOT = "orgs/acme/agents/bot"
USAGE = {"prompt_tokens": 12, "completion_tokens": 3}


async def test_a_recorded_call_settles_its_reservation(client: AsyncClient, book: Book) -> None:
    async with client.reserve(
        BOT, model="gpt-4o-mini", input_tokens=20, max_output_tokens=50, labels={"env": "prod"}, run="r1", ttl_s=90
    ) as call:
        assert call.reserved
        call.record(USAGE)

    request = book.reserved[call.reservation]
    assert ("gpt-4o-mini", "prod") == (request.call.model, request.call.labels["env"])
    assert (20, 50, 90) == (
        request.estimate.input_tokens,
        request.estimate.max_output_tokens,
        request.ttl.seconds,
    )
    [event] = book.recorded.values()
    assert call.reservation == event.reservation
    assert f"{call.request_id}.0" == event.id
    assert event.final
    assert (12, 3, "r1", request.call) == (
        event.tokens.input_tokens,
        event.tokens.output_tokens,
        event.run,
        event.call,
    )
    assert [Money(12, "USD")] == call.costs
    assert [] == book.released
    assert "Bearer a-token" == book.metadata[0]["authorization"]


async def test_the_model_that_answered_replaces_the_one_reserved_for(client: AsyncClient, book: Book) -> None:
    async with client.reserve(BOT, model="gpt-4o", provider="openai", operation="chat") as call:
        call.record(USAGE, model="claude-sonnet-4-5")
    [event] = book.recorded.values()
    assert ("claude-sonnet-4-5", "", "chat") == (event.call.model, event.call.provider, event.call.operation)


async def test_leaving_without_a_record_releases(client: AsyncClient, book: Book) -> None:
    async with client.reserve(BOT) as call:
        pass
    assert [call.reservation] == book.released
    assert {} == book.recorded


async def test_an_exception_releases(client: AsyncClient, book: Book) -> None:
    with pytest.raises(ZeroDivisionError):
        async with client.reserve(BOT) as call:
            raise ZeroDivisionError
    assert [call.reservation] == book.released


async def test_an_exception_after_the_record_keeps_the_record(client: AsyncClient, book: Book) -> None:
    with pytest.raises(ZeroDivisionError):  # noqa: PT012
        async with client.reserve(BOT) as call:
            call.record(USAGE)
            raise ZeroDivisionError
    assert [] == book.released
    assert 1 == len(book.recorded)


async def test_a_stream_records_in_parts_and_the_last_one_is_final(client: AsyncClient, book: Book) -> None:
    async with client.reserve(BOT) as call:
        call.record(output_tokens=5, final=False)
        call.record(output_tokens=7, final=False)
        call.record(output_tokens=1)
    assert [False, False, True] == [event.final for event in book.recorded.values()]
    assert [f"{call.request_id}.{n}" for n in range(3)] == [id_ for _, id_ in book.recorded]
    assert [] == book.released


async def test_a_stream_without_its_last_record_releases_the_rest(client: AsyncClient, book: Book) -> None:
    async with client.reserve(BOT) as call:
        call.record(output_tokens=5, final=False)
    assert [call.reservation] == book.released
    assert 1 == len(book.recorded)


async def test_nothing_follows_the_final_record(client: AsyncClient) -> None:
    async with client.reserve(BOT) as call:
        call.record(USAGE)
        with pytest.raises(ValueError, match="final=False"):
            call.record(USAGE)


async def test_a_denial_names_the_tightest_budget(client: AsyncClient, book: Book) -> None:
    book.limit = 0
    with pytest.raises(Denied) as denied:
        async with client.reserve(BOT):
            pytest.fail("the body ran")
    assert DENIAL == denied.value.decision
    assert "BUDGET_EXCEEDED" == denied.value.reason
    assert str(denied.value) == (
        "budget orgs/acme/budgets/tight has 0.02 USD left of 10.00 USD, asked 0.05 USD; "
        "its window ends 2026-06-01 00:00 UTC; 1 more budgets have no room either"
    )
    assert [] == book.released


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        (budget_pb2.DENIED_REASON_INSUFFICIENT_FUNDS, "too little money"),
        (budget_pb2.DENIED_REASON_PAUSED, "paused"),
        (budget_pb2.DENIED_REASON_WALLET_FROZEN, "frozen"),
        (budget_pb2.DENIED_REASON_NO_WALLET, "requires a wallet"),
    ],
)
def test_a_denial_says_what_to_do(reason: budget_pb2.DeniedReason.ValueType, expected: str) -> None:
    decision = budget_pb2.Decision(outcome=budget_pb2.OUTCOME_DENY, denied_reason=reason)
    assert expected in str(Denied(decision))


async def test_approval_required_is_no_leave_to_spend(client: AsyncClient, book: Book) -> None:
    approval = budget_pb2.Decision(outcome=budget_pb2.OUTCOME_APPROVAL_REQUIRED, reservation="orgs/a/reservations/1")
    book.decide = lambda _request: budget_pb2.ReserveResult(decision=approval)  # type: ignore[method-assign]
    with pytest.raises(Denied, match="approve") as denied:
        async with client.reserve(BOT):
            pytest.fail("the body ran")
    assert "APPROVAL_REQUIRED" == denied.value.reason


async def test_a_check_holds_nothing(client: AsyncClient, book: Book) -> None:
    assert budget_pb2.OUTCOME_ALLOW == (await client.check(BOT, input_tokens=3)).outcome
    assert {} == book.reserved
    book.limit = 0
    assert budget_pb2.OUTCOME_DENY == (await client.check(BOT, input_tokens=3)).outcome


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.INTERNAL]
)
async def test_a_lost_answer_is_asked_for_again_with_the_same_ids(
    client: AsyncClient, book: Book, code: grpc.StatusCode
) -> None:
    book.after_reserve, book.after_record = once(code), once(code)
    async with client.reserve(BOT) as call:
        call.record(USAGE)
    assert [1, 1] == book.reserve_batches
    assert [call.reservation] == list(book.reserved)
    assert [1, 1] == book.record_batches
    assert 1 == len(book.recorded)
    assert 1 == book.duplicates
    assert call.usage[0].duplicate


async def test_an_item_refused_for_now_is_tried_again_alone(client: AsyncClient, book: Book) -> None:
    later = refusal(code_pb2.UNAVAILABLE, "WALLET_UNREACHABLE", "later")
    book.item_errors["orgs/poor"] = [later, later]

    async def call(subject: str) -> None:
        async with client.reserve(subject) as one:
            one.record(USAGE)

    await asyncio.gather(call("orgs/poor"), call("orgs/rich"))
    assert [2, 1, 1] == book.reserve_batches
    assert {"orgs/poor", "orgs/rich"} == {request.subject for request in book.reserved.values()}


async def test_a_refused_item_does_not_touch_the_others(client: AsyncClient, book: Book) -> None:
    book.item_errors["orgs/bad"] = [
        refusal(code_pb2.INVALID_ARGUMENT, "UNKNOWN_MODEL", "call.model: no such model", "call.model")
    ]

    async def call(subject: str) -> None:
        async with client.reserve(subject) as one:
            one.record(USAGE)

    bad, good = await asyncio.gather(call("orgs/bad"), call("orgs/good"), return_exceptions=True)
    assert good is None
    assert isinstance(bad, Rejected)
    assert ("INVALID_ARGUMENT", "UNKNOWN_MODEL", "call.model") == (bad.code, bad.reason, bad.field)
    assert "no such model" in str(bad)


async def test_a_batch_refused_as_a_whole_is_split(client: AsyncClient, book: Book) -> None:
    async def out_of_scope(request: budget_pb2.BatchReserveRequest, context: grpc.aio.ServicerContext) -> None:  # type: ignore[type-arg]
        if any(item.subject == "orgs/other" for item in request.requests):
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "out of scope")

    book.before_reserve = out_of_scope
    subjects = ["orgs/acme", "orgs/acme", "orgs/other", "orgs/acme", "orgs/acme"]

    async def call(subject: str) -> str:
        async with client.reserve(subject):
            return subject

    answers = await asyncio.gather(*map(call, subjects), return_exceptions=True)
    assert [subjects[0], subjects[1], subjects[3], subjects[4]] == [a for a in answers if isinstance(a, str)]
    assert isinstance(answers[2], Rejected)
    assert "PERMISSION_DENIED" == answers[2].code


async def test_it_fails_closed_when_nobody_answers() -> None:
    async with serve() as served:
        address = served.address
    async with AsyncClient(budget=address, metering=address, timeout_s=0.3) as client:
        with pytest.raises(Unavailable, match="budget service is unavailable"):
            async with client.reserve(BOT):
                pytest.fail("the body ran")


async def test_it_fails_closed_when_the_service_hangs(served: Served, book: Book) -> None:
    hold, arrived, let_go = gate()
    book.before_reserve = hold

    async def always(request: object, context: object) -> None:
        await hold(request, context)  # type: ignore[arg-type]
        await let_go.wait()

    book.before_reserve = always
    async with AsyncClient(budget=served.address, metering=served.address, timeout_s=0.4) as client:
        with pytest.raises(Unavailable):
            async with client.reserve(BOT):
                pytest.fail("the body ran")
        assert arrived.is_set()
        assert 2 <= len(book.reserve_batches)
    let_go.set()


async def test_allow_goes_on_and_records(caplog: pytest.LogCaptureFixture, served: Served) -> None:
    async with serve() as gone:
        address = gone.address
    async with AsyncClient(budget=address, metering=served.address, timeout_s=0.3, on_unavailable="allow") as client:
        with caplog.at_level(logging.WARNING, "pursestrings"):
            async with client.reserve(BOT) as call:
                assert not call.reserved
                call.record(USAGE)
    assert 1 == len(served.book.recorded)
    assert call.decision is None
    assert "without a reservation" in caplog.text


async def test_allow_does_not_allow_what_was_denied(client: AsyncClient, book: Book) -> None:
    book.limit = 0
    with pytest.raises(Denied):
        async with client.reserve(BOT, on_unavailable="allow"):
            pytest.fail("the body ran")


async def test_it_finds_a_service_that_restarts() -> None:
    book = Book()
    async with serve(book=book) as served:
        port = int(served.address.rpartition(":")[2])
        client = AsyncClient(budget=served.address, metering=served.address)
        async with client.reserve(BOT) as call:
            pass
    waiting = asyncio.ensure_future(client.reserve(BOT).__aenter__())
    while not client.open().reserves._resting:
        await asyncio.sleep(0)
    async with serve(port, book):
        call = await waiting
        await call.__aexit__(None, None, None)
        await client.close()
    assert call.reservation in book.released


async def test_usage_that_could_not_be_recorded_is_handed_back(client: AsyncClient, served: Served) -> None:
    async with serve() as gone:
        address = gone.address
    async with AsyncClient(budget=served.address, metering=address, timeout_s=0.3) as cut_off:
        with pytest.raises(Unrecorded) as unrecorded:
            async with cut_off.reserve(BOT) as call:
                call.record(USAGE)
    assert [call.reservation] == [event.reservation for event in unrecorded.value.events]
    await client.record_events(unrecorded.value.events)
    await client.record_events(unrecorded.value.events)
    assert 1 == len(served.book.recorded)


async def test_the_bodys_exception_is_not_masked(served: Served) -> None:
    async with serve() as gone:
        address = gone.address
    async with AsyncClient(budget=served.address, metering=address, timeout_s=0.2) as client:
        with pytest.raises(ZeroDivisionError) as raised:  # noqa: PT012
            async with client.reserve(BOT) as call:
                call.record(USAGE)
                raise ZeroDivisionError
    assert any("not recorded" in note for note in raised.value.__notes__)


async def test_a_refused_record_raises_and_leaves_the_hold(client: AsyncClient, book: Book) -> None:
    with pytest.raises(Rejected, match="agents may not"):  # noqa: PT012
        async with client.reserve(BOT) as call:
            book.item_errors[BOT] = [refusal(code_pb2.PERMISSION_DENIED, "COST_NOT_ALLOWED", "agents may not")]
            call.record(cost="0.10")
    assert [] == book.released
    assert call.usage == []


async def test_a_cancelled_wait_gives_the_reservation_back(client: AsyncClient, book: Book) -> None:
    hold, arrived, let_go = gate()
    book.after_reserve = hold
    call = client.reserve(BOT)
    task = asyncio.ensure_future(call.__aenter__())
    await arrived.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    let_go.set()
    await client.close()
    assert [call.reservation] == book.released


async def test_a_cancelled_wait_is_not_tried_again(client: AsyncClient, book: Book) -> None:
    async def away(_request: object, context: grpc.aio.ServicerContext) -> None:  # type: ignore[type-arg]
        await context.abort(grpc.StatusCode.UNAVAILABLE, "away")

    book.before_reserve = away
    task = asyncio.ensure_future(client.reserve(BOT).__aenter__())
    while not client.open().reserves._resting:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    seen = len(book.reserve_batches)
    await client.close()
    assert seen == len(book.reserve_batches)


def test_errors_travel_between_processes() -> None:
    rejected = Rejected("NOT_FOUND", "GONE", "it is gone", field="name", metadata={"a": "b"}, retry_after_s=1.5)
    copy = pickle.loads(pickle.dumps(rejected))  # noqa: S301
    assert (str(rejected), rejected.__dict__) == (str(copy), copy.__dict__)
    event = metering_pb2.UsageEvent(id="1")
    assert [event] == pickle.loads(pickle.dumps(Unrecorded("lost", [event]))).events  # noqa: S301
    assert DENIAL == pickle.loads(pickle.dumps(Denied(DENIAL))).decision  # noqa: S301


async def test_a_cancelled_body_releases(client: AsyncClient, book: Book) -> None:
    inside = asyncio.Event()

    async def body() -> None:
        async with client.reserve(BOT):
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.ensure_future(body())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert 1 == len(book.released)


async def test_a_record_survives_the_cancellation_of_its_call(client: AsyncClient, book: Book) -> None:
    hold, arrived, let_go = gate()
    book.before_record = hold

    async def body() -> None:
        async with client.reserve(BOT) as call:
            call.record(USAGE)

    task = asyncio.ensure_future(body())
    await arrived.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    let_go.set()
    await client.close()
    assert 1 == len(book.recorded)


async def test_a_record_is_durable_before_the_call_ends(client: AsyncClient, book: Book) -> None:
    hold, arrived, let_go = gate()
    book.before_record = hold

    async def body() -> None:
        async with client.reserve(BOT) as call:
            call.record(USAGE)

    task = asyncio.ensure_future(body())
    await arrived.wait()
    assert not task.done()
    let_go.set()
    await task
    assert 1 == len(book.recorded)


async def test_a_call_is_entered_once(client: AsyncClient) -> None:
    call = client.reserve(BOT)
    with pytest.raises(RuntimeError, match="inside"):
        call.record(USAGE)
    async with call:
        pass
    with pytest.raises(RuntimeError, match="once"):
        await call.__aenter__()


async def test_use_without_a_reservation_is_recorded(client: AsyncClient, book: Book) -> None:
    usage = SimpleNamespace(input_tokens=4, output_tokens=2)
    first = await client.record(BOT, usage, model="m", source="gateway", event_id="7")
    again = await client.record(BOT, usage, model="m", source="gateway", event_id="7")
    assert (False, True) == (first.duplicate, again.duplicate)
    assert "" == book.recorded["gateway", "7"].reservation
    with pytest.raises(Rejected, match="another event"):
        await client.record(BOT, model="m", input_tokens=5, source="gateway", event_id="7")


async def test_an_error_of_the_provider_is_recorded_as_one(client: AsyncClient, book: Book) -> None:
    async with client.reserve(BOT) as call:
        call.record(input_tokens=5, error="overloaded_error")
    [event] = book.recorded.values()
    assert (metering_pb2.CALL_OUTCOME_ERROR, "overloaded_error") == (event.outcome, event.status)


async def test_a_closed_client_says_so(client: AsyncClient) -> None:
    await client.close()
    with pytest.raises(RuntimeError, match="closed"):
        async with client.reserve(BOT):
            pytest.fail("the body ran")


def test_another_loop_is_refused(served: Served) -> None:
    client = AsyncClient(budget=served.address, metering=served.address)

    async def touch() -> None:
        assert client.budget is not None

    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    try:
        first.run_until_complete(touch())
        with pytest.raises(RuntimeError, match="another event loop"):
            second.run_until_complete(touch())
        first.run_until_complete(client.close())
    finally:
        first.close()
        second.close()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"timeout_s": 0}, "timeout_s"),
        ({"on_unavailable": "maybe"}, "'deny' or 'allow'"),
    ],
)
def test_impossible_settings_are_refused(arguments: dict[str, object], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        AsyncClient(**arguments)  # type: ignore[arg-type]


async def test_a_token_is_not_sent_in_the_clear_to_another_machine() -> None:
    with pytest.raises(ValueError, match="another machine"):
        async with AsyncClient(budget="budget.example:7402"):
            pass
    async with AsyncClient(budget="budget.example:7402", allow_plaintext=True):
        pass


@pytest.mark.parametrize(
    ("arguments", "kind", "expected"),
    [
        ({"input_tokens": -1}, ValueError, "input_tokens"),
        ({"max_output_tokens": 1.5}, TypeError, "max_output_tokens"),
        ({"cost": 0.1}, TypeError, "string such as"),
        ({"cost": "ten"}, ValueError, "no amount"),
    ],
)
async def test_impossible_estimates_are_refused_before_they_leave(
    client: AsyncClient, book: Book, arguments: dict[str, object], kind: type[Exception], expected: str
) -> None:
    with pytest.raises(kind, match=expected):
        client.reserve(BOT, **arguments)  # type: ignore[arg-type]
    assert [] == book.reserve_batches
