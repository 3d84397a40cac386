"""One reserved call: what it holds, what it used, and how it ends."""

import asyncio
import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from types import TracebackType
from typing import TYPE_CHECKING, Final, Literal

from pursestrings._answers import Answer, Chunks
from pursestrings._errors import Denied, Unavailable, Unrecorded
from pursestrings._money import Money
from pursestrings._session import Session
from pursestrings._usage import check_count, check_hash, read_usage, token_counts
from pursestrings.budget.v1 import budget_pb2
from pursestrings.metering.v1 import metering_pb2
from pursestrings.type.v1 import type_pb2

if TYPE_CHECKING:
    from typing import Self

SOURCE: Final = "pursestrings-client"
"""The source of the usage that this client records; with the event's id it makes the record happen once."""
_log = logging.getLogger("pursestrings")

OnUnavailable = Literal["deny", "allow"]
Amount = Money | Decimal | str


@dataclass(frozen=True, slots=True, kw_only=True)
class CallContext:
    """What travels with a call from the reservation to the record of its use."""

    subject: str
    attributes: type_pb2.CallAttributes
    session: str = ""
    run: str = ""
    effort: str = ""
    currency_code: str = "USD"


@dataclass(slots=True)
class _Record:
    event: metering_pb2.UsageEvent
    future: "asyncio.Future[metering_pb2.RecordedUsage]"


@dataclass(slots=True)
class _Progress:
    records: list[_Record] = field(default_factory=list)
    final: bool = False


def attributes(model: str, provider: str, operation: str, labels: Mapping[str, str] | None) -> type_pb2.CallAttributes:
    """The attributes of a call as a message."""
    return type_pb2.CallAttributes(model=model, provider=provider, operation=operation, labels=labels or {})


def usage_event(
    context: CallContext,
    usage: object = None,
    *,
    source: str,
    event_id: str,
    input_tokens: int | None = None,
    output_tokens: int | None = None,
    cache_read_tokens: int | None = None,
    cache_write_tokens: int | None = None,
    reasoning_tokens: int | None = None,
    requests: int | None = None,
    cost: Amount | None = None,
    model: str | None = None,
    provider: str | None = None,
    error: str | None = None,
    occurred_at: datetime | None = None,
    prompt_hash: bytes = b"",
    reservation: str = "",
    final: bool = True,
) -> metering_pb2.UsageEvent:
    """A checked usage event; see `AsyncCall.record` for the arguments."""
    counts = {
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
        "cache_read_tokens": cache_read_tokens,
        "cache_write_tokens": cache_write_tokens,
        "reasoning_tokens": reasoning_tokens,
    }
    given = {name: count for name, count in counts.items() if count is not None}
    if usage is not None and given:
        raise TypeError(f"record takes a usage object or counts by name, not both: {', '.join(given)}")
    if usage is None and not given and cost is None and requests is None:
        raise TypeError("record needs a usage object, token counts, requests or a cost")
    call = context.attributes
    if model is not None or provider is not None:
        call = type_pb2.CallAttributes()
        call.CopyFrom(context.attributes)
        # Another model may come from another provider; it is inferred where it is not said.
        call.provider = provider if provider is not None else ""
        call.model = model if model is not None else context.attributes.model
    is_answer = isinstance(usage, Answer | Chunks)
    event = metering_pb2.UsageEvent(
        subject=context.subject,
        source=source,
        id=event_id,
        call=call,
        tokens=None if is_answer else read_usage(usage) if usage is not None else token_counts(**given),
        provider_response=usage.to_proto() if isinstance(usage, Answer | Chunks) else None,
        requests=None if requests is None else check_count("requests", requests),
        session=context.session,
        run=context.run,
        effort=context.effort,
        outcome=metering_pb2.CALL_OUTCOME_SUCCESS if error is None else metering_pb2.CALL_OUTCOME_ERROR,
        status=error or "",
        reservation=reservation,
        final=final,
        prompt_hash=check_hash(prompt_hash),
    )
    if cost is not None:
        event.cost.CopyFrom(Money.of(cost, context.currency_code).to_proto())
    if occurred_at is not None:
        if occurred_at.tzinfo is None:
            raise ValueError("occurred_at needs a time zone")
        event.occurred_at.FromDatetime(occurred_at)
    return event


class AsyncCall:
    """A call that is reserved on entering and settled or released on leaving `async with`.

    Leaving without a final `record` releases what is held; so does an exception in the body. What was
    recorded before is durable before `async with` ends.

    Attributes:
        subject: Who spends.
        request_id: The reservation's id, made by the client unless given.
        reservation: The reservation's name, `{subject}/reservations/{request_id}`.
        decision: The answer to the reservation; None before it and where no service answered.
        usage: What was recorded, once `async with` has ended.
    """

    def __init__(
        self,
        open_session: Callable[[], Session],
        context: CallContext,
        request: budget_pb2.ReserveRequest,
        *,
        on_unavailable: OnUnavailable,
    ) -> None:
        self._open_session = open_session
        self._session: Session | None = None
        self._context = context
        self._request = request
        self._on_unavailable = on_unavailable
        self._progress = _Progress()
        self.subject = context.subject
        self.request_id = request.request_id
        self.reservation = f"{context.subject}/reservations/{request.request_id}"
        self.decision: budget_pb2.Decision | None = None
        self.usage: list[metering_pb2.RecordedUsage] = []

    @property
    def request(self) -> budget_pb2.ReserveRequest:
        """What entering asks for."""
        return self._request

    def again(self) -> "AsyncCall":
        """The same call to enter anew, with the same id: it goes on with what was approved meanwhile."""
        return AsyncCall(self._open_session, self._context, self._request, on_unavailable=self._on_unavailable)

    @property
    def reserved(self) -> bool:
        """Whether anything is held for this call; False only under `on_unavailable="allow"`."""
        return self.decision is not None

    @property
    def warnings(self) -> Sequence[budget_pb2.BudgetUse]:
        """Budgets that only warn and that this call exceeds."""
        return () if self.decision is None else self.decision.warnings

    @property
    def costs(self) -> list[Money]:
        """What it cost by currency, once `async with` has ended. Empty: nothing was recorded, or it is unrated."""
        sums: dict[str, int] = {}
        for usage in self.usage:
            if usage.HasField("cost"):
                code = usage.cost.currency_code
                sums[code] = sums.get(code, 0) + usage.cost.amount_nanos
        return [Money(nanos, code) for code, nanos in sorted(sums.items())]

    def record(
        self,
        usage: object = None,
        *,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        cache_read_tokens: int | None = None,
        cache_write_tokens: int | None = None,
        reasoning_tokens: int | None = None,
        requests: int | None = None,
        cost: Amount | None = None,
        model: str | None = None,
        provider: str | None = None,
        error: str | None = None,
        occurred_at: datetime | None = None,
        prompt_hash: bytes = b"",
        final: bool = True,
    ) -> None:
        """Notes what the call used. It leaves at once, and is durable before `async with` ends.

        Args:
            usage: A usage object, or a response that carries one, of OpenAI (chat, responses) or Anthropic; or an
                `Answer` or `Chunks`, which the service reads.
            input_tokens: All input tokens, the cached ones included.
            output_tokens: All output tokens, the reasoning ones included.
            cache_read_tokens: The part of the input that came from the provider's cache.
            cache_write_tokens: The part of the input that went into it.
            reasoning_tokens: The part of the output spent on reasoning.
            requests: How many requests this stands for. Default: 1 on the final record.
            cost: A price that is known already; takes a credential with the role operator.
            model: The model that really answered, where it is not the one reserved for.
            provider: Its provider.
            error: The provider's status where the call failed; what it used is charged all the same.
            occurred_at: When it happened. Default: when it is recorded.
            prompt_hash: A hash of the prompt, up to 64 bytes, by which calls that ask the same are told.
            final: False for all but the last record of a stream: the rest of the hold stays.

        Raises:
            TypeError: Nothing to record, or a usage object of no known shape.
            ValueError: Impossible counts, or a record after the final one.
        """
        self._submit(
            self._event(
                usage,
                input_tokens=input_tokens,
                output_tokens=output_tokens,
                cache_read_tokens=cache_read_tokens,
                cache_write_tokens=cache_write_tokens,
                reasoning_tokens=reasoning_tokens,
                requests=requests,
                cost=cost,
                model=model,
                provider=provider,
                error=error,
                occurred_at=occurred_at,
                prompt_hash=prompt_hash,
                final=final,
            )
        )

    def _event(self, usage: object, **fields: object) -> metering_pb2.UsageEvent:
        return usage_event(
            self._context,
            usage,
            source=SOURCE,
            event_id=self.request_id,
            # Named even where no service answered: if the reservation was made after all, this settles it.
            reservation=self.reservation,
            **fields,  # type: ignore[arg-type]
        )

    def _submit(self, event: metering_pb2.UsageEvent) -> None:
        session = self._session
        if session is None:
            raise RuntimeError("record inside of `async with`: nothing is reserved yet")
        if self._progress.final:
            raise ValueError("the final record was made already; pass final=False to those before the last")
        # Numbered within the reservation: the same record has the same id however often it is sent.
        event.id = f"{self.request_id}.{len(self._progress.records)}"
        self._progress.final = event.final
        self._progress.records.append(_Record(event, session.records.submit(event)))

    async def extend(self, ttl_s: float | None = None) -> budget_pb2.Decision:
        """Lets the reservation live longer from now on; inside of `async with`, for calls that outlast it.

        What is left of it is placed in the windows of now, as a new decision. Denied, it holds on as it was.
        Without a reservation, under `on_unavailable="allow"`, there is nothing to extend and nothing is done.

        Args:
            ttl_s: How long, 1 s to 24 h. Default: 5 minutes. A life is never shortened.

        Returns:
            The decision, with the new `expire_time`.

        Raises:
            Denied: Not beyond `expire_time` of the decision before.
            Rejected: It is closed already, or its time has run out.
            Unavailable: No answer in time; extend again.
        """
        if self._session is None:
            raise RuntimeError("extend inside of `async with`: nothing is reserved yet")
        if self.decision is None:
            return budget_pb2.Decision(outcome=budget_pb2.OUTCOME_ALLOW)
        request = budget_pb2.ExtendReservationRequest(name=self.reservation, request_id=new_id())
        if ttl_s is not None:
            request.ttl.FromNanoseconds(int(ttl_s * 1e9))
        decision = await self._session.extend(request)
        if decision.outcome != budget_pb2.OUTCOME_ALLOW:
            raise Denied(decision)
        self.decision.expire_time.CopyFrom(decision.expire_time)
        return decision

    async def __aenter__(self) -> "Self":
        await self._reserve()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._finish(error)

    async def _reserve(self) -> None:
        if self._session is not None:
            raise RuntimeError("a call is entered once; reserve() makes a new one")
        self._session = self._open_session()
        future = self._session.reserves.submit(self._request)
        try:
            decision = await asyncio.shield(future)
        except asyncio.CancelledError:
            # It may have left already: whatever is held by it, nobody will use.
            future.add_done_callback(self._abandon)
            self._session.reserves.abandon(future)
            raise
        except Unavailable as error:
            if self._on_unavailable == "deny":
                raise
            _log.warning("going on without a reservation: %s", error)
            return
        if decision.outcome != budget_pb2.OUTCOME_ALLOW:
            raise Denied(decision)
        self.decision = decision

    def _abandon(self, future: "asyncio.Future[budget_pb2.Decision]") -> None:
        failed = future.cancelled() or future.exception() is not None
        if not failed and future.result().outcome == budget_pb2.OUTCOME_ALLOW:
            assert self._session is not None
            self._session.release(self.reservation)

    async def _finish(self, error: BaseException | None) -> None:
        progress, session = self._progress, self._session
        assert session is not None, "entered before"
        if progress.records:
            # Not gather: if this task is cancelled, the records go on.
            await asyncio.wait([record.future for record in progress.records])
        problem = self._collect()
        if self.reserved and not progress.final:
            await asyncio.shield(session.release(self.reservation))
        if problem is None:
            return
        if error is None:
            raise problem
        error.add_note(f"pursestrings: {problem}")
        _log.error("usage of %s was not recorded: %s", self.reservation, problem)

    def _collect(self) -> Exception | None:
        lost: list[metering_pb2.UsageEvent] = []
        problem: Exception | None = None
        for record in self._progress.records:
            failure = record.future.exception()
            if failure is None:
                self.usage.append(record.future.result())
            elif isinstance(failure, Unavailable):
                lost.append(record.event)
                problem = problem or failure
            elif isinstance(failure, Exception):
                problem = failure
        if lost and isinstance(problem, Unavailable):
            return Unrecorded(f"usage of {self.reservation} is not recorded: {problem}", lost)
        return problem


def new_id() -> str:
    """An id that nobody else has."""
    return str(uuid.uuid4())
