"""The gRPC face of exports: pieces of bounded size, each with a token to go on after it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import asyncpg
import grpc

from pursestrings.metering.v1 import export_pb2
from services.kit import tokens, windows
from services.kit.errors import invalid, too_many
from services.metering import wire
from services.metering.domain import exporting, questions, usage
from services.metering.domain.exporting import Format
from services.metering.domain.questions import Span
from services.metering.domain.usage import Usage
from services.metering.store import export as store
from services.metering.store.export import Export, Place

EXPORTS_MAX: Final = 8
"""The most exports that a process writes at once."""

_Context = grpc.aio.ServicerContext[Any, Any]
_FORMATS: Final = {
    export_pb2.EXPORT_FORMAT_CSV: Format.CSV,
    export_pb2.EXPORT_FORMAT_JSONL: Format.JSONL,
    export_pb2.EXPORT_FORMAT_PARQUET: Format.PARQUET,
}
_BEFORE_ALL: Final = -1
"""No event has this number or a lower one."""


class _State(NamedTuple):
    export: Export
    after: Place
    rows: int
    is_new: bool


class ExportPart:
    """Gives recorded events away as files; a part of the service."""

    _pool: asyncpg.Pool
    _clock: Callable[[], datetime]
    _exports: int = 0

    async def ExportUsage(
        self, request: export_pb2.ExportUsageRequest, context: _Context
    ) -> AsyncIterator[export_pb2.ExportUsageResponse]:
        """The recorded events, in pieces."""
        form = _FORMATS.get(request.format)
        if form is None:
            raise invalid("format", f"{request.format} is no format known here; use CSV, JSONL or PARQUET")
        if self._exports >= EXPORTS_MAX:
            raise too_many(f"{EXPORTS_MAX} exports are being written, which is the limit", 1.0, "BUSY")
        self._exports += 1
        try:
            state = _read_token(request) if request.resume_token else await self._begin(request)
            async for response in self._pieces(request, form, state):
                yield response
        finally:
            self._exports -= 1

    async def _begin(self, request: export_pb2.ExportUsageRequest) -> _State:
        who = usage.parse_subject(request.subject, "subject")
        start, end = questions.YEARS.start, self._clock()
        if request.HasField("start_time"):
            start = wire.datetime_of(request.start_time, "start_time")
        if request.HasField("end_time"):
            end = wire.datetime_of(request.end_time, "end_time")
        if not questions.YEARS.start <= start < end <= questions.YEARS.end:
            raise invalid("start_time", "must be before end_time, both in the years 2000 to 2998")
        export = await store.begin(
            self._pool, who.name, Span(start, end), of_all_kept=not request.HasField("start_time")
        )
        return _State(export, Place(start, _BEFORE_ALL), 0, is_new=True)

    async def _pieces(
        self, request: export_pb2.ExportUsageRequest, form: Format, state: _State
    ) -> AsyncIterator[export_pb2.ExportUsageResponse]:
        export, after, rows, first = state
        held: list[Usage] = []
        size = 0

        async def piece(*, last: bool) -> export_pb2.ExportUsageResponse:
            # In a thread: what is encoded here would be waited for by every other call.
            data = await asyncio.to_thread(exporting.piece, form, held, first=first, last=last)
            token = _token(request, _State(export, after, rows, is_new=False))
            return export_pb2.ExportUsageResponse(data=data, rows=rows, resume_token=token, done=last)

        limit = exporting.PIECE_BYTES_MAX[form]
        while True:
            page = await store.page(self._pool, export, after)
            for place, row in page.rows:
                held.append(row)
                size += exporting.size_of(row)
                after, rows = place, rows + 1
                if size >= limit:
                    yield await piece(last=False)
                    held, size, first = [], 0, False
            if page.after is None:
                yield await piece(last=True)
                return
            after = page.after


def _asked(request: export_pb2.ExportUsageRequest) -> list[Any]:
    start = [request.start_time.seconds, request.start_time.nanos] if request.HasField("start_time") else None
    end = [request.end_time.seconds, request.end_time.nanos] if request.HasField("end_time") else None
    return [request.subject, request.format, start, end]


def _token(request: export_pb2.ExportUsageRequest, state: _State) -> str:
    export, after, rows, _ = state
    times = [windows.unix_us(one) for one in (*export.span, after.at)]
    return tokens.write([_asked(request), *times, after.seq, export.cut, export.oldest, rows])


def _read_token(request: export_pb2.ExportUsageRequest) -> _State:
    wrong = invalid("resume_token", "is not one of this export's; send a piece's `resume_token`, the rest as it was")
    try:
        asked, start, end, at, seq, cut, oldest, rows = tokens.read(request.resume_token, questions.TOKEN_CHARS_MAX)
        numbers = (start, end, at, seq, cut, rows)
        if asked != _asked(request) or not isinstance(oldest, str) or not all(type(one) is int for one in numbers):
            raise wrong
        if not all(abs(one) < 2**63 for one in numbers):
            raise wrong
        who = usage.parse_subject(request.subject, "subject")
        span = Span(*(windows.from_unix_us(one).astimezone(UTC) for one in (start, end)))
        place = Place(windows.from_unix_us(at).astimezone(UTC), seq)
        return _State(Export(who.name, span, cut, oldest), place, rows, is_new=False)
    except (ValueError, TypeError, OverflowError):
        raise wrong from None
