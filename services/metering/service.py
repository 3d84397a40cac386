"""The gRPC face of metering: translate, call, answer."""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import asyncpg
import grpc

from pursestrings.metering.v1 import metering_pb2, metering_pb2_grpc
from pursestrings.type.v1 import type_pb2
from services.kit.auth import identity
from services.kit.errors import invalid
from services.kit.rating import Tokens
from services.kit.windows import WindowKind
from services.metering import wire
from services.metering.desk import Batches, Desk
from services.metering.domain import questions, usage
from services.metering.prices import Prices
from services.metering.service_analysis import AnalysisPart
from services.metering.service_corrections import CorrectionsPart
from services.metering.service_export import ExportPart
from services.metering.service_rates import RatesPart
from services.metering.service_savings import SavingsPart
from services.metering.store import audit, deep_audit, parked, reports
from services.metering.store.current import CurrentTotals
from services.metering.store.sessions import SessionCounts
from services.metering.streaming import in_order

_Context = grpc.aio.ServicerContext[Any, Any]


class MeteringService(
    AnalysisPart, RatesPart, CorrectionsPart, ExportPart, SavingsPart, metering_pb2_grpc.MeteringServiceServicer
):
    """Records usage and answers questions about it.

    Args:
        pool: The database, for reading.
        desk: Records single events.
        batches: Records batches of them.
        prices: The rate cards.
        recorded: Called after usage was committed.
        clock: The time, aware.
    """

    def __init__(
        self,
        pool: asyncpg.Pool,
        desk: Desk,
        batches: Batches,
        prices: Prices,
        *,
        recorded: Callable[[], None],
        clock: Callable[[], datetime],
    ) -> None:
        self._pool = pool
        self._desk = desk
        self._batches = batches
        self._prices = prices
        self._recorded = recorded
        self._clock = clock
        self._sessions = SessionCounts()
        self._current = CurrentTotals(self._sessions)

    async def RecordUsage(
        self, request: metering_pb2.RecordUsageRequest, context: _Context
    ) -> metering_pb2.RecordUsageResponse:
        """Records one call."""
        recorded = await self._desk.record(request.event, identity())
        self._recorded()
        response = metering_pb2.RecordUsageResponse()
        wire.set_recorded(response.usage, recorded)
        return response

    async def BatchRecordUsage(
        self, request: metering_pb2.BatchRecordUsageRequest, context: _Context
    ) -> metering_pb2.BatchRecordUsageResponse:
        """Records calls, each on its own."""
        return await self._record(request)

    async def StreamUsage(
        self, request_iterator: AsyncIterator[metering_pb2.StreamUsageRequest], context: _Context
    ) -> AsyncIterator[metering_pb2.StreamUsageResponse]:
        """Records calls as they come, and acknowledges each batch once it is durable."""

        def handle(request: metering_pb2.StreamUsageRequest) -> Awaitable[metering_pb2.BatchRecordUsageResponse]:
            return self._record(metering_pb2.BatchRecordUsageRequest(events=request.events, errors_only=True))

        batch = 0
        async for answer in in_order(request_iterator, handle):
            batch += 1
            yield metering_pb2.StreamUsageResponse(
                batch=batch, recorded=answer.recorded, duplicates=answer.duplicates, errors=answer.errors
            )

    async def _record(self, request: metering_pb2.BatchRecordUsageRequest) -> metering_pb2.BatchRecordUsageResponse:
        response = await self._batches.record_batch(request, identity())
        self._recorded()
        return response

    async def Estimate(self, request: metering_pb2.EstimateRequest, context: _Context) -> metering_pb2.EstimateResponse:
        """Prices a call that has not happened."""
        priced = usage.estimate(
            request.subject,
            request.call.provider,
            request.call.model,
            Tokens(*wire.tokens_of(request.tokens), extra=wire.extra_of(request.tokens)),
            now=self._clock(),
            cards=self._prices.cards,
            service_tier=request.call.service_tier,
        )
        assert priced.cost_nanos is not None, "an estimate without a price is refused"
        return metering_pb2.EstimateResponse(
            cost=wire.money_message(priced.currency, priced.cost_nanos),
            provider=priced.provider,
            model=priced.model,
            rate_card_version=priced.rate_card_version,
        )

    async def GetUsage(self, request: metering_pb2.GetUsageRequest, context: _Context) -> metering_pb2.GetUsageResponse:
        """Today and this month."""
        who = usage.parse_subject(request.subject, "subject")
        zone, now = questions.check_zone(request.time_zone), self._clock()
        today = questions.window_span(WindowKind.DAY, zone, now)
        month = questions.window_span(WindowKind.MONTH, zone, now)
        spans = (today,) if request.today_only else (today, month)
        of_today, *of_month = await self._current.totals_of(self._pool, who.name, spans)
        response = metering_pb2.GetUsageResponse(
            today=wire.totals_message(of_today), today_start_time=wire.timestamp_of(today.start)
        )
        if of_month:
            response.month.CopyFrom(wire.totals_message(of_month[0]))
            response.month_start_time.CopyFrom(wire.timestamp_of(month.start))
        return response

    async def QueryUsage(
        self, request: metering_pb2.QueryUsageRequest, context: _Context
    ) -> metering_pb2.QueryUsageResponse:
        """Usage of a range, grouped."""
        question = questions.ask(
            usage.parse_subject(request.subject, "subject").name,
            start=wire.datetime_of(request.start_time, "start_time") if request.HasField("start_time") else None,
            end=wire.datetime_of(request.end_time, "end_time") if request.HasField("end_time") else None,
            group_by=wire.group_by_of(request),
            zone=request.time_zone,
            page_size=request.page_size,
            page_token=request.page_token,
            now=self._clock(),
            wanted=wire.filter_of(request.filter),
            label_key=request.label_key,
            fill_zeros=request.fill_zeros,
            count_sessions=request.count_sessions,
        )
        page = await reports.answer(self._pool, question, self._sessions)
        return metering_pb2.QueryUsageResponse(
            groups=[_group(group, page.totals) for group in page.groups],
            totals=wire.totals_message(page.totals),
            next_page_token=question.next_token(page.groups[-1].keys) if page.more else "",
        )

    async def Audit(self, request: metering_pb2.AuditRequest, context: _Context) -> metering_pb2.AuditResponse:
        """Verifies the books in one snapshot, or a part of them against every event."""
        org = _org_of(request.org)
        if request.deep:
            return await _deep_audit(self._pool, org, request.page_token)
        if request.page_token:
            raise invalid("page_token", "only a deep audit has parts; ask for `deep`")
        async with audit.snapshot(self._pool, org) as snapshot:
            return await _audit(snapshot)

    async def ListParkedUsage(
        self, request: metering_pb2.ListParkedUsageRequest, context: _Context
    ) -> metering_pb2.ListParkedUsageResponse:
        """A page of what the budget service refused for good."""
        org = _org_of(request.org)
        size = wire.page_size_of(request.page_size)
        found = await parked.page(self._pool, org, wire.parked_after(request.page_token), size + 1)
        response = metering_pb2.ListParkedUsageResponse(usage=[wire.parked_message(one) for one in found[:size]])
        if len(found) > size:
            response.next_page_token = wire.parked_token(found[size - 1])
        return response

    async def RequeueParkedUsage(
        self, request: metering_pb2.RequeueParkedUsageRequest, context: _Context
    ) -> metering_pb2.RequeueParkedUsageResponse:
        """Sends parked usage again."""
        requeued = await parked.requeue(self._pool, _org_of(request.org))
        self._recorded()
        return metering_pb2.RequeueParkedUsageResponse(requeued=requeued)


def _org_of(name: str) -> str | None:
    """The organisation's bare id; None where none is named, which is all of them."""
    if not name:
        return None
    who = usage.parse_subject(name, "org")
    if who.depth != 1:
        # Totals are an organisation's: a part of it may not read them by naming itself.
        raise invalid("org", f"{name} is no organisation; name it as orgs/{who.org}", "MALFORMED_SUBJECT")
    return who.org


def _group(group: reports.Group, whole: questions.Totals) -> metering_pb2.UsageGroup:
    return metering_pb2.UsageGroup(
        keys=group.keys,
        totals=wire.totals_message(group.totals),
        cost_share_bps=[
            questions.share_bps(nanos, whole.costs[code]) for code, nanos in sorted(group.totals.costs.items())
        ],
    )


async def _audit(snapshot: audit.Snapshot) -> metering_pb2.AuditResponse:
    totals = {(total.org, total.currency): total for total in await snapshot.totals()}
    if len(totals) > audit.TOTALS_MAX:
        raise invalid("org", f"there are more than {audit.TOTALS_MAX} totals; audit one organisation at a time")
    rows = sum(total.rows for total in totals.values())
    checks = [
        _check("I2.events_have_keys", "events of the hours that are not sealed", await snapshot.events_without_key()),
        _check("I2.keys_have_events", "keys since then", await snapshot.keys_without_event()),
        _check("I2.rollups_equal_events", f"{rows} events", await snapshot.rollups_that_differ()),
        _check("I2.kinds_equal_events", "sums of further kinds of use", await snapshot.kinds_that_differ()),
        _check("I2.sessions_equal_events", "sessions by name", await snapshot.sessions_that_differ()),
        *(_check(*check) for check in await snapshot.folds_that_differ()),
        _check("I2.nothing_parked", "usage that the budget service refused", await snapshot.parked()),
    ]
    pending = await snapshot.pending()
    astray = sorted(f"{org} {currency}" for org, currency in pending.keys() - totals.keys())
    checks.append(
        _check(
            "I2.pending_is_recorded",
            "usage to be told",
            audit.Offenders(len(astray), astray[: audit.SHOWN_MAX]),
        )
    )
    return metering_pb2.AuditResponse(
        checks=checks,
        totals=[
            type_pb2.CostTotals(
                org=f"orgs/{total.org}",
                currency_code=total.currency,
                events=total.events,
                cost_nanos=total.cost_nanos,
                pending_events=pending.get(key, (0, 0, 0))[0],
                pending_cost_nanos=pending.get(key, (0, 0, 0))[1],
                unrated_events=0 if total.currency else total.events,
                credit_nanos=total.credit_nanos,
                pending_credit_nanos=pending.get(key, (0, 0, 0))[2],
            )
            for key, total in totals.items()
        ],
        snapshot_time=wire.timestamp_of(snapshot.at),
    )


async def _deep_audit(pool: asyncpg.Pool, org: str | None, token: str) -> metering_pb2.AuditResponse:
    try:
        after = datetime.fromtimestamp(int(token or 0), UTC)
    except (ValueError, OverflowError, OSError):
        raise invalid("page_token", "is no token of a deep audit; use `next_page_token` as it was given") from None
    part = await deep_audit.part(pool, org, after)
    read = f"events from {part.start:%Y-%m-%d %H:%M}Z to {part.end:%Y-%m-%d %H:%M}Z"
    return metering_pb2.AuditResponse(
        checks=[_check(name, read, offenders) for name, offenders in part.found.items()],
        next_page_token="" if part.is_last else str(int(part.end.timestamp())),
    )


def _check(name: str, compared: str, offenders: audit.Offenders) -> type_pb2.AuditCheck:
    detail = f"{compared}; {offenders.count} do not hold"
    if offenders.names:
        detail += f": {', '.join(offenders.names)}"
    return type_pb2.AuditCheck(name=name, ok=offenders.count == 0, detail=detail)
