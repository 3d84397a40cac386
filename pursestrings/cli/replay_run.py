"""Plays calls through the whole path: reserve, record, and wait until every book has them."""

import asyncio
import time
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from pursestrings._client import AsyncClient
from pursestrings._errors import Error, Rejected
from pursestrings.budget.v1 import budget_pb2
from pursestrings.cli.connection import Suite
from pursestrings.metering.v1 import metering_pb2
from pursestrings.type.v1 import type_pb2
from pursestrings.wallet.v1 import wallet_pb2

BATCH: Final = 250
"""Calls that travel together."""
WORKERS: Final = 6
"""Batches at once: some reserve while others record. Bounds what a crash of this process leaves behind."""
HOLD_TTL_S: Final = 900
"""How long a hold lives: longer than a service is tried for, so that no hold expires under a live replay."""
DRAIN_POLL_S: Final = 0.25
LAST: Final = 20
"""How many reservations tell whether the last use is applied."""
AUDIT_TIMEOUT_S: Final = 30.0
_PACE_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Planned:
    """One call to play; `due_s` is when, in seconds after the start."""

    number: int
    subject: str
    input_tokens: int
    output_tokens: int
    due_s: float


@dataclass(slots=True)
class Tally:
    """What happened so far. `allowed` + `denied` + `failed` = calls that are done."""

    allowed: int = 0
    denied: int = 0
    failed: int = 0
    cost_nanos: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    unrated: int = 0
    denied_reasons: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def done(self) -> int:
        """Calls that are done."""
        return self.allowed + self.denied + self.failed


class Player:
    """Plays calls of one run.

    Args:
        client: Its time-out says how long a call is tried while services are away.
        run: The run's id; makes every request's id, so that a repeated request is done once.
        source: The source of the usage.
        model: The model that all calls are priced as.
    """

    def __init__(self, client: AsyncClient, *, run: str, source: str, model: str) -> None:
        self._session = client.open()
        self._run = run
        self._source = source
        self._call = type_pb2.CallAttributes(model=model, operation="replay")
        self.tally = Tally()
        self.last: deque[str] = deque(maxlen=LAST)
        """The reservations that were recorded last."""

    async def play(self, calls: Iterator[Planned], after_batch: Callable[[], None]) -> None:
        """Plays all calls, each at its time; `after_batch` is called whenever some are done."""
        begun_s = time.monotonic()

        async def worker() -> None:
            while batch := await self._next_batch(calls, begun_s):
                await self._play_batch(batch)
                after_batch()

        async with asyncio.TaskGroup() as group:
            for _ in range(WORKERS):
                group.create_task(worker())

    async def _next_batch(self, calls: Iterator[Planned], begun_s: float) -> list[Planned]:
        batch: list[Planned] = []
        for call in calls:
            batch.append(call)
            wait_s = call.due_s - (time.monotonic() - begun_s)
            if wait_s > _PACE_S:
                await asyncio.sleep(wait_s)
                break
            if len(batch) == BATCH:
                break
        return batch

    async def _play_batch(self, batch: list[Planned]) -> None:
        decided = [self._session.reserves.submit(self._reserve(call)) for call in batch]
        await asyncio.wait(decided)
        allowed = []
        for call, future in zip(batch, decided, strict=True):
            if self._note_failure(future):
                continue
            decision = future.result()
            if decision.outcome == budget_pb2.OUTCOME_ALLOW:
                allowed.append((call, decision.reservation))
                continue
            self.tally.denied += 1
            reason = budget_pb2.DeniedReason.Name(decision.denied_reason).removeprefix("DENIED_REASON_")
            self.tally.denied_reasons[reason] += 1
        recorded = [self._session.records.submit(self._event(call, name)) for call, name in allowed]
        if recorded:
            await asyncio.wait(recorded)
        for (_, name), done in zip(allowed, recorded, strict=True):
            if not self._note_failure(done):
                self._note_recorded(done.result())
                self.last.append(name)

    def _note_recorded(self, usage: metering_pb2.RecordedUsage) -> None:
        self.tally.allowed += 1
        if usage.HasField("cost"):
            self.tally.cost_nanos[usage.cost.currency_code] += usage.cost.amount_nanos
        else:
            self.tally.unrated += 1

    def _note_failure(self, future: "asyncio.Future[Any]") -> bool:
        error = future.exception()
        if error is None:
            return False
        if not isinstance(error, Error):
            raise error
        self.tally.failed += 1
        self.tally.failures[error.message if isinstance(error, Rejected) else str(error)] += 1
        return True

    def _reserve(self, call: Planned) -> budget_pb2.ReserveRequest:
        request = budget_pb2.ReserveRequest(
            subject=call.subject,
            request_id=f"{self._run}-{call.number}",
            call=self._call,
            estimate=budget_pb2.SpendEstimate(input_tokens=call.input_tokens, max_output_tokens=call.output_tokens),
        )
        request.ttl.seconds = HOLD_TTL_S
        return request

    def _event(self, call: Planned, reservation: str) -> metering_pb2.UsageEvent:
        # Without a time of its own: it happens when it is played, by the service's clock.
        return metering_pb2.UsageEvent(
            subject=call.subject,
            source=self._source,
            id=str(call.number),
            call=self._call,
            tokens=type_pb2.TokenCounts(input_tokens=call.input_tokens, output_tokens=call.output_tokens),
            run=self._run,
            reservation=reservation,
        )


async def drained(suite: Suite, org: str, wait_s: float, last: Iterable[str] = ()) -> bool:
    """Waits until all that was recorded is applied and captured; False where `wait_s` was not enough.

    Args:
        suite: The services.
        org: Whose books.
        wait_s: How long to wait, in seconds.
        last: Reservations recorded last: while they are open, asking for a whole audit would be in vain.
    """
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + wait_s
    names = list(last)

    async def is_settled(suite: Suite, _org: str) -> bool:
        return await _are_settled(suite, names)

    for settled in (is_settled, _is_applied, _is_captured):
        asked_s = loop.time()
        while not await settled(suite, org):
            now_s = loop.time()
            if now_s >= deadline_s:
                return False
            # An audit that takes long is not asked for again at once: it slows down what it waits for.
            await asyncio.sleep(max(DRAIN_POLL_S, now_s - asked_s))
            asked_s = loop.time()
    return True


async def _are_settled(suite: Suite, names: list[str]) -> bool:
    requests = [budget_pb2.GetReservationRequest(name=name) for name in names]
    answers = await asyncio.gather(*(suite.budget("GetReservation", request) for request in requests))
    return all(answer.reservation.state != budget_pb2.RESERVATION_STATE_OPEN for answer in answers)


async def _is_applied(suite: Suite, org: str) -> bool:
    answer = await suite.metering("Audit", metering_pb2.AuditRequest(org=org), AUDIT_TIMEOUT_S)
    return not any(totals.pending_events for totals in answer.totals)


async def _is_captured(suite: Suite, org: str) -> bool:
    budget = await suite.budget("Audit", budget_pb2.AuditRequest(org=org), AUDIT_TIMEOUT_S)
    if any(totals.cost_nanos for totals in budget.uncaptured):
        return False
    wallet = await suite.wallet("Audit", wallet_pb2.AuditRequest(org=org), AUDIT_TIMEOUT_S)
    written = {lease.wallet: lease.captured_total_nanos for lease in budget.leases}
    posted = {lease.wallet: lease.captured_total_nanos for lease in wallet.leases if lease.holder == budget.holder}
    return all(posted.get(name, 0) >= nanos for name, nanos in written.items())


async def recharges(suite: Suite, org: str, *, settle_s: float = 0.0) -> set[str]:
    """The names of the succeeded recharges of an organisation; waits a while for those that are pending."""
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + settle_s
    while True:
        found = await _all_recharges(suite, org)
        pending = any(one.state == wallet_pb2.RECHARGE_STATE_PENDING for one in found)
        if not pending or loop.time() >= deadline_s:
            return {one.name for one in found if one.state == wallet_pb2.RECHARGE_STATE_SUCCEEDED}
        await asyncio.sleep(DRAIN_POLL_S)


async def _all_recharges(suite: Suite, org: str) -> list[wallet_pb2.Recharge]:
    wallets = await suite.wallet("ListWallets", wallet_pb2.ListWalletsRequest(parent=org, page_size=100))
    calls: list[Awaitable[wallet_pb2.ListRechargesResponse]] = [
        suite.wallet("ListRecharges", wallet_pb2.ListRechargesRequest(wallet=wallet.name, page_size=1000))
        for wallet in wallets.wallets
    ]
    return [recharge for answer in await asyncio.gather(*calls) for recharge in answer.recharges]
