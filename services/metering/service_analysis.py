"""The gRPC face of what is made of usage: run log, burn rate, forecasts."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import asyncpg
import grpc
import numpy as np

from pursestrings.metering.v1 import analysis_pb2
from services.kit import money, tokens, windows
from services.kit.auth import Identity, identity
from services.kit.errors import PurseError, denied, invalid
from services.metering import wire
from services.metering.domain import questions, unusual, usage
from services.metering.domain.forecast import HISTORY_HOURS_MAX, HORIZON_HOURS_MAX, SHORT_HOURS, Forecaster
from services.metering.domain.questions import Filter, Span
from services.metering.failures import status_of
from services.metering.store import hourly, reports, runlog

BATCH_MAX: Final = 500
"""The most forecasts a batch."""
EXCLUDED_MAX: Final = 100
"""The most subjects whose spend a forecast leaves out."""
LOG_RANGE_MAX: Final = questions.EVENTS_RANGE_MAX

_Context = grpc.aio.ServicerContext[Any, Any]
_HOUR: Final = timedelta(hours=1)
_ORDERS: Final = {
    analysis_pb2.USAGE_ORDER_UNSPECIFIED: "TIME",
    analysis_pb2.USAGE_ORDER_TIME: "TIME",
    analysis_pb2.USAGE_ORDER_COST: "COST",
    analysis_pb2.USAGE_ORDER_TOKENS: "TOKENS",
}
_RUNS: Final = {
    analysis_pb2.USAGE_VIEW_UNSPECIFIED: False,
    analysis_pb2.USAGE_VIEW_CALLS: False,
    analysis_pb2.USAGE_VIEW_RUNS: True,
}


class AnalysisPart:
    """Answers about spend over time; a part of the service.

    Attributes:
        _pool: The database, for reading.
        _clock: The time, aware.
    """

    _pool: asyncpg.Pool
    _clock: Callable[[], datetime]

    async def ListUsage(
        self, request: analysis_pb2.ListUsageRequest, context: _Context
    ) -> analysis_pb2.ListUsageResponse:
        """A page of the run log."""
        question = _log_question(request, self._clock())
        async with reports.snapshot(self._pool) as connection:
            rows, more = await runlog.page(connection, question)
            subjects = sorted({row.subject for row in rows})
            known = await runlog.histories(connection, question, subjects) if subjects else {}
        response = analysis_pb2.ListUsageResponse()
        what = "run" if question.runs else "call"
        for row in rows:
            verdict = unusual.judge(row.tokens, known.get(row.subject), what)
            if verdict.reason or not request.unusual_only:
                response.rows.append(_row_message(row, verdict))
        if more:
            response.next_page_token = _token(request, question, rows[-1])
        return response

    async def GetBurnRate(
        self, request: analysis_pb2.GetBurnRateRequest, context: _Context
    ) -> analysis_pb2.GetBurnRateResponse:
        """How fast is spent."""
        who, now = usage.parse_subject(request.subject, "subject"), self._clock()
        lengths = (_HOUR, timedelta(days=1), timedelta(days=7))
        async with reports.snapshot(self._pool) as connection:
            sums = [await reports.costs_of(connection, who.name, Span(now - length, now)) for length in lengths]
            week = Span(_whole_hour(now - lengths[2]), _whole_hour(now))
            spent = await hourly.spend(connection, who.org, [who.name], week)
        response = analysis_pb2.GetBurnRateResponse(as_of_time=wire.timestamp_of(now))
        for code in sorted(sums[2]):
            hour, day, whole = (one.get(code, 0) for one in sums)
            began = min(spent.get((who.name, code), {}), default=_whole_hour(now))
            alive = max((now - began) / _HOUR, 1.0)
            response.rates.add(
                currency_code=code,
                last_hour_nanos=hour,
                last_day_nanos=day,
                last_week_nanos=whole,
                per_hour_nanos=round(day / min(24.0, alive)),
                per_day_nanos=round(whole / min(168.0, alive) * 24),
            )
        return response

    async def Forecast(self, request: analysis_pb2.ForecastRequest, context: _Context) -> analysis_pb2.ForecastResponse:
        """What will be spent, and how long an amount lasts."""
        (answer,) = await self._forecasts([request])
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def BatchForecast(
        self, request: analysis_pb2.BatchForecastRequest, context: _Context
    ) -> analysis_pb2.BatchForecastResponse:
        """Several forecasts, each on its own."""
        count = len(request.requests)
        if not 1 <= count <= BATCH_MAX:
            raise invalid("requests", f"there are {count}; a batch has 1 to {BATCH_MAX}", "BATCH_TOO_LARGE")
        response = analysis_pb2.BatchForecastResponse()
        for answer in await self._forecasts(request.requests):
            result = response.results.add()
            if isinstance(answer, Exception):
                result.error.CopyFrom(status_of(answer))
            else:
                result.forecast.CopyFrom(answer)
        return response

    async def _forecasts(
        self, requests: Sequence[analysis_pb2.ForecastRequest]
    ) -> list[analysis_pb2.ForecastResponse | Exception]:
        now, who = self._clock(), identity()
        checked = [_checked(request, who) for request in requests]
        by_org: dict[str, set[str]] = {}
        for org, request in zip(checked, requests, strict=True):
            if isinstance(org, str):
                by_org.setdefault(org, set()).update((request.subject, *request.excluded_subjects))
        span = Span(_whole_hour(now) - HISTORY_HOURS_MAX * _HOUR, _whole_hour(now))
        spent: hourly.Spent = {}
        async with reports.snapshot(self._pool) as connection:
            for org, subjects in sorted(by_org.items()):
                spent |= await hourly.spend(connection, org, sorted(subjects), span)
        # Some milliseconds of arithmetic each, away from the loop that answers everyone.
        return await asyncio.to_thread(
            lambda: [
                error if isinstance(error, PurseError) else _forecast_or_failure(request, spent, span, now)
                for error, request in zip(checked, requests, strict=True)
            ]
        )


def _checked(request: analysis_pb2.ForecastRequest, caller: Identity) -> str | PurseError:
    """The organisation of a request, or why it is refused."""
    try:
        who = usage.parse_subject(request.subject, "subject")
        if not caller.covers(who.name):
            raise denied(f"the credential covers {caller.subject}, not {who.name}", "OUT_OF_SCOPE")
        _check_excluded(who.name, request.excluded_subjects)
        if not 0 <= request.peak_hours <= HORIZON_HOURS_MAX:
            raise invalid("peak_hours", f"is {request.peak_hours}; use 1 to {HORIZON_HOURS_MAX}, or 0 not to ask")
        questions.check_zone(request.time_zone)
        if not 0 <= request.horizon_hours <= HORIZON_HOURS_MAX:
            raise invalid("horizon_hours", f"is {request.horizon_hours}; use 1 to {HORIZON_HOURS_MAX}, or 0 for 24")
        if request.HasField("amount_nanos") and request.amount_nanos < 0:
            raise invalid("amount_nanos", f"is {request.amount_nanos}; an amount is zero or more")
        if request.currency_code:
            try:
                money.currency(request.currency_code)
            except money.MoneyError as error:
                raise invalid("currency_code", str(error)) from None
    except PurseError as error:
        return error
    return who.org


def _check_excluded(subject: str, excluded: Sequence[str]) -> None:
    if len(excluded) > EXCLUDED_MAX:
        raise invalid("excluded_subjects", f"there are {len(excluded)}; use at most {EXCLUDED_MAX}")
    for name in excluded:
        if not usage.parse_subject(name, "excluded_subjects").name.startswith(f"{subject}/"):
            raise invalid("excluded_subjects", f"{name} is not below {subject}")
    # Else the spend of the lower one would be left out twice.
    names = set(excluded)
    for name in excluded:
        parts = name.split("/")
        if len(names) < len(excluded) or any("/".join(parts[:end]) in names for end in range(2, len(parts), 2)):
            raise invalid("excluded_subjects", "name each once, and none below another")


def _forecast_or_failure(
    request: analysis_pb2.ForecastRequest, spent: hourly.Spent, span: Span, now: datetime
) -> analysis_pb2.ForecastResponse | Exception:
    try:
        return _forecast(request, spent, span, now)
    except Exception as error:  # what nobody foresaw is this request's alone
        return error


def _forecast(
    request: analysis_pb2.ForecastRequest, spent: hourly.Spent, span: Span, now: datetime
) -> analysis_pb2.ForecastResponse:
    currency = request.currency_code or _main_currency(request.subject, spent, span.end)
    history = np.zeros(HISTORY_HOURS_MAX)
    for sign, name in ((1, request.subject), *((-1, below) for below in request.excluded_subjects)):
        for hour, nanos in spent.get((name, currency), {}).items():
            history[(hour - span.start) // _HOUR] += sign * nanos
    zone = windows.zone_info(questions.check_zone(request.time_zone))
    local = span.end.astimezone(zone)
    # Counted back from now, in the zone's present offset: the season is about now.
    first_hour = (local.weekday() * 24 + local.hour - HISTORY_HOURS_MAX) % 168
    forecaster = Forecaster(history, first_hour)
    horizon = request.horizon_hours or 24
    found = forecaster.spend(horizon)
    if not forecaster.hours:
        basis = analysis_pb2.FORECAST_BASIS_NOTHING
    elif forecaster.hours < SHORT_HOURS:
        basis = analysis_pb2.FORECAST_BASIS_SHORT
    else:
        basis = analysis_pb2.FORECAST_BASIS_SEASON
    response = analysis_pb2.ForecastResponse(
        subject=request.subject,
        currency_code=currency,
        horizon_hours=horizon,
        spend=analysis_pb2.SpendQuantiles(
            p50_nanos=_nanos(found.p50), p90_nanos=_nanos(found.p90), p99_nanos=_nanos(found.p99)
        ),
        history_hours=forecaster.hours,
        basis=basis,
        as_of_time=wire.timestamp_of(now),
        peak_nanos=_nanos(forecaster.peak(request.peak_hours)) if request.peak_hours else 0,
    )
    if request.HasField("amount_nanos"):
        response.depletion.SetInParent()
        for field, quantile in (("p50_time", 0.5), ("p90_time", 0.9), ("p99_time", 0.99)):
            until = forecaster.hours_until(request.amount_nanos, quantile)
            if until is not None:
                getattr(response.depletion, field).CopyFrom(wire.timestamp_of(now + until * _HOUR))
    return response


def _main_currency(subject: str, spent: hourly.Spent, end: datetime) -> str:
    last_week = {
        currency: sum(nanos for hour, nanos in hours.items() if hour >= end - timedelta(days=7))
        for (name, currency), hours in spent.items()
        if name == subject
    }
    return max(sorted(last_week), key=lambda code: last_week[code], default="USD")


def _nanos(value: float) -> int:
    return min(round(value), money.MAX_NANOS)


def _whole_hour(at: datetime) -> datetime:
    return at.replace(minute=0, second=0, microsecond=0)


def _log_question(request: analysis_pb2.ListUsageRequest, now: datetime) -> runlog.LogQuestion:
    who = usage.parse_subject(request.subject, "subject")
    if request.view not in _RUNS:
        raise invalid("view", f"{request.view} is no view known here; use CALLS or RUNS")
    if request.order not in _ORDERS:
        raise invalid("order", f"{request.order} is no order known here; use TIME, COST or TOKENS")
    span, after = _read_token(request) if request.page_token else (None, None)
    if span is None:
        end = wire.datetime_of(request.end_time, "end_time") if request.HasField("end_time") else now
        start = end - timedelta(days=1)
        if request.HasField("start_time"):
            start = wire.datetime_of(request.start_time, "start_time")
        span = questions.check_span(Span(start, end))
    if span.end - span.start > LOG_RANGE_MAX:
        raise invalid("start_time", f"the range is longer than {LOG_RANGE_MAX.days} days; ask in parts")
    wanted = Filter(
        models=(request.model,) if request.model else (),
        sessions=(request.session,) if request.session else (),
        runs=(request.run,) if request.run else (),
    )
    questions.check_filter(wanted)
    return runlog.LogQuestion(
        who.name,
        span,
        _RUNS[request.view],
        _ORDERS[request.order],
        wanted,
        wire.page_size_of(request.page_size),
        after,
    )


def _asked(request: analysis_pb2.ListUsageRequest) -> list[Any]:
    return [request.subject, request.view, request.order, request.run, request.session, request.model]


def _token(request: analysis_pb2.ListUsageRequest, question: runlog.LogQuestion, last: runlog.LogRow) -> str:
    value, at, name = last.place
    times = [windows.unix_us(one) for one in (*question.span, at)]
    return tokens.write([_asked(request), *times, str(value), name])


def _read_token(request: analysis_pb2.ListUsageRequest) -> tuple[Span, tuple[int, datetime, str]]:
    wrong = invalid("page_token", "is not one of this question's; send the `next_page_token` of the page before")
    try:
        asked, start, end, at, value, name = tokens.read(request.page_token, questions.TOKEN_CHARS_MAX)
        if asked != _asked(request) or not isinstance(name, str) or not name.isprintable():
            raise wrong
        span = Span(windows.from_unix_us(start), windows.from_unix_us(end))
        return questions.check_span(span), (int(value), windows.from_unix_us(at).astimezone(UTC), name)
    except (ValueError, TypeError, OverflowError):
        raise wrong from None


def _row_message(row: runlog.LogRow, verdict: unusual.Verdict) -> analysis_pb2.UsageRow:
    return analysis_pb2.UsageRow(
        subject=row.subject,
        source=row.source,
        id=row.id,
        start_time=wire.timestamp_of(row.first_at),
        end_time=wire.timestamp_of(row.last_at),
        run=row.run,
        session=row.session,
        models=row.models,
        operation=row.operation,
        calls=row.calls,
        errors=row.errors,
        tokens=wire.counts_message(row.counts, row.extra),
        total_tokens=row.tokens,
        costs=[wire.money_message(code, nanos) for code, nanos in sorted(row.costs.items())],
        unusual=bool(verdict.reason),
        unusual_reason=verdict.reason,
        deviation_percent=round(verdict.z * 100),
    )
