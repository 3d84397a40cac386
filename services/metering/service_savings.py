"""The gRPC face of savings: routing rules, and what usage would have cost by them."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import asyncpg
import grpc

from pursestrings.metering.v1 import savings_pb2
from services.kit import money
from services.kit.auth import identity
from services.kit.errors import Code, PurseError, invalid
from services.metering import wire
from services.metering.domain import questions, savings
from services.metering.domain.questions import EVENTS_RANGE_MAX, Span, share_bps
from services.metering.domain.savings import Rule, RuleSum, Saved, Savings
from services.metering.domain.usage import parse_subject
from services.metering.prices import Prices
from services.metering.store import reports
from services.metering.store import savings as store

RANGE_DEFAULT: Final = timedelta(days=7)
_Context = grpc.aio.ServicerContext[Any, Any]


class SavingsPart:
    """Answers about what could be saved; a part of the service.

    Attributes:
        _pool: The database.
        _prices: The rate cards.
        _clock: The time, aware.
    """

    _pool: asyncpg.Pool
    _prices: Prices
    _clock: Callable[[], datetime]

    async def SetRoutingRules(
        self, request: savings_pb2.SetRoutingRulesRequest, context: _Context
    ) -> savings_pb2.SetRoutingRulesResponse:
        """Replaces an organisation's rules."""
        who = parse_subject(request.org, "org")
        rules = [_rule_of(rule) for rule in request.rules]
        savings.check_rules(rules)
        if request.etag and not (request.etag.isascii() and request.etag.isdecimal() and len(request.etag) < 19):
            raise invalid("etag", "is none of this method's; give back `etag` as it was")
        stored = await store.set_rules(
            self._pool,
            who.org,
            rules,
            expected=int(request.etag) if request.etag else None,
            now=self._clock(),
            by=identity().subject,
        )
        return savings_pb2.SetRoutingRulesResponse(rules=_rules_message(who.org, stored))

    async def GetRoutingRules(
        self, request: savings_pb2.GetRoutingRulesRequest, context: _Context
    ) -> savings_pb2.GetRoutingRulesResponse:
        """An organisation's rules."""
        who = parse_subject(request.org, "org")
        return savings_pb2.GetRoutingRulesResponse(
            rules=_rules_message(who.org, await store.rules_of(self._pool, who.org))
        )

    async def GetSavings(
        self, request: savings_pb2.GetSavingsRequest, context: _Context
    ) -> savings_pb2.GetSavingsResponse:
        """What could have been saved."""
        who, now = parse_subject(request.subject, "subject"), self._clock()
        span = _span_of(request, now)
        cards = self._prices.cards
        currency = request.currency_code or cards.at(now).table.currency_code
        try:
            money.currency(currency)
        except money.MoneyError as error:
            raise invalid("currency_code", str(error)) from None
        async with reports.snapshot(self._pool) as connection:
            stored = await store.rules_of(connection, who.org)
            found = Savings(who.org, stored.rules, currency, cards, now)
            async for calls in store.calls_of(connection, who.org, who.name, span):
                if found.calls + found.left_out + len(calls) > savings.CALLS_MAX:
                    raise PurseError(
                        Code.RESOURCE_EXHAUSTED,
                        "QUESTION_TOO_LARGE",
                        f"there are more than {savings.CALLS_MAX:,} calls, each to be priced anew; "
                        "ask about a shorter range or a smaller part of the whole",
                    )
                # Arithmetic, away from the loop that answers everyone.
                await asyncio.to_thread(found.add, calls)
        return _savings_message(found, span, currency)


def _span_of(request: savings_pb2.GetSavingsRequest, now: datetime) -> Span:
    end = wire.datetime_of(request.end_time, "end_time") if request.HasField("end_time") else now
    start = end - RANGE_DEFAULT
    if request.HasField("start_time"):
        start = wire.datetime_of(request.start_time, "start_time")
    span = questions.check_span(Span(start, end))
    if span.end - span.start > EVENTS_RANGE_MAX:
        raise invalid("start_time", f"the range is longer than {EVENTS_RANGE_MAX.days} days; ask in parts")
    return span


def _rule_of(rule: savings_pb2.RoutingRule) -> Rule:
    return Rule(
        rule.id,
        tuple(rule.operations),
        tuple(rule.efforts),
        tuple(sorted(rule.labels.items())),
        tuple(rule.from_models),
        tuple(rule.candidate_models),
        rule.batchable,
    )


def _rules_message(org: str, stored: store.StoredRules) -> savings_pb2.RoutingRules:
    message = savings_pb2.RoutingRules(
        org=f"orgs/{org}",
        rules=[
            savings_pb2.RoutingRule(
                id=rule.id,
                operations=rule.operations,
                efforts=rule.efforts,
                labels=dict(rule.labels),
                from_models=rule.from_models,
                candidate_models=rule.candidates,
                batchable=rule.batchable,
            )
            for rule in stored.rules
        ],
        etag=str(stored.revision),
        updated_by=stored.updated_by,
    )
    if stored.updated_at is not None:
        message.update_time.CopyFrom(wire.timestamp_of(stored.updated_at))
    return message


def _savings_message(found: Savings, span: Span, currency: str) -> savings_pb2.GetSavingsResponse:
    length = span.end - span.start
    questions.Totals(costs={currency: found.cost_nanos}).check()
    return savings_pb2.GetSavingsResponse(
        rules=[_rule_message(sums, found.calls, currency, length) for sums in found.rules],
        total=_total_message(found.rules, found.calls, currency, length),
        caching=_other_message(
            found.caching, found.calls, "asked what was asked before; a cache saves", currency, length
        ),
        batching=_other_message(found.batching, found.calls, "could have waited for batch prices", currency, length),
        currency_code=currency,
        calls=found.calls,
        cost_nanos=found.cost_nanos,
        left_out_calls=found.left_out,
        start_time=wire.timestamp_of(span.start),
        end_time=wire.timestamp_of(span.end),
    )


def _rule_message(sums: RuleSum, calls: int, currency: str, length: timedelta) -> savings_pb2.RuleSavings:
    best = sums.best
    return savings_pb2.RuleSavings(
        rule=sums.rule,
        calls=sums.calls,
        calls_share_bps=share_bps(sums.calls, calls),
        cost_nanos=sums.cost_nanos,
        candidate_cost_nanos=sums.cost_nanos - sums.saved_nanos,
        savings_nanos=sums.saved_nanos,
        savings_per_day_nanos=savings.per_day(sums.saved_nanos, length),
        candidate_model=best.model if best else "",
        candidates=[
            savings_pb2.CandidateCost(
                model=one.model,
                cost_nanos=min(one.cost_nanos, money.MAX_NANOS),
                savings_nanos=max(sums.cost_nanos - one.cost_nanos, -money.MAX_NANOS),
                unpriced_calls=one.unpriced,
            )
            for one in sums.candidates
        ],
        sentence=savings.rule_sentence(sums, calls, currency, length),
    )


def _total_message(rules: Sequence[RuleSum], calls: int, currency: str, length: timedelta) -> savings_pb2.RuleSavings:
    matched = sum(sums.calls for sums in rules)
    cost_nanos, saved_nanos = sum(sums.cost_nanos for sums in rules), sum(sums.saved_nanos for sums in rules)
    return savings_pb2.RuleSavings(
        calls=matched,
        calls_share_bps=share_bps(matched, calls),
        cost_nanos=cost_nanos,
        candidate_cost_nanos=cost_nanos - saved_nanos,
        savings_nanos=saved_nanos,
        savings_per_day_nanos=savings.per_day(saved_nanos, length),
        sentence=savings.total_sentence(rules, calls, currency, length),
    )


def _other_message(saved: Saved, calls: int, what: str, currency: str, length: timedelta) -> savings_pb2.OtherSavings:
    return savings_pb2.OtherSavings(
        calls=saved.calls,
        cost_nanos=saved.cost_nanos,
        savings_nanos=saved.saved_nanos,
        savings_per_day_nanos=savings.per_day(saved.saved_nanos, length),
        sentence=savings.other_sentence(saved, calls, what, currency, length),
    )
