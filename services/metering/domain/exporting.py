"""Usage as files: the columns, and how a piece of each form is written."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from services.metering.domain.usage import Usage

COLUMNS: Final = (
    "occurred_at", "subject", "source", "id", "provider", "model", "operation", "service_tier", "effort", "session",
    "run", "labels", "input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens",
    "extra", "requests", "cost_nanos", "currency", "rate_card_version", "failed", "status", "reservation", "final",
    "operations", "corrects_source", "corrects_id", "given_provider", "given_model", "prompt_hash", "recorded_at",
)  # fmt: skip
"""What a row says, in every form. Rows that adjust others name them in `corrects_…`; their numbers are differences."""
_FIXED_BYTES: Final = 200
_INTEGERS: Final = frozenset({name for name in COLUMNS if name.endswith("_tokens")} | {"requests", "operations"})
_TIMES: Final = frozenset({"occurred_at", "recorded_at"})
_FLAGS: Final = frozenset({"failed", "final"})


class Format(StrEnum):
    """The form of an export."""

    CSV = "CSV"
    JSONL = "JSONL"
    PARQUET = "PARQUET"


PIECE_BYTES_MAX: Final = {Format.CSV: 1024 * 1024, Format.JSONL: 1024 * 1024, Format.PARQUET: 3 * 1024 * 1024}
"""About how much text a piece holds, one row more at most. A part of a Parquet data set should not be too small."""


def size_of(row: Usage) -> int:
    """About how many bytes a row has as text."""
    return _FIXED_BYTES + sum(_bytes_of(value) for value in row if isinstance(value, str))


def _bytes_of(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def piece(form: Format, rows: Sequence[Usage], *, first: bool, last: bool) -> bytes:
    """Rows in a form. CSV begins with the columns' names; an export without rows still has them, and so has Parquet.

    Args:
        form: The form.
        rows: In their order.
        first: Whether nothing of the export was written before.
        last: Whether nothing comes after.
    """
    if form is Format.PARQUET and not rows and not (first and last):
        return b""
    return _WRITERS[form](rows, first)


def _csv(rows: Sequence[Usage], first: bool) -> bytes:  # noqa: FBT001 - one of the writers
    text = io.StringIO()
    writer = csv.writer(text)
    if first:
        writer.writerow(COLUMNS)
    writer.writerows([_cell(getattr(row, name)) for name in COLUMNS] for row in rows)
    return text.getvalue().encode()


def _cell(value: object) -> object:
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case datetime():
            return _time(value)
        case bytes():
            return value.hex()
    return value


def _jsonl(rows: Sequence[Usage], first: bool) -> bytes:  # noqa: ARG001, FBT001 - one of the writers
    lines = []
    for row in rows:
        said: dict[str, Any] = {name: getattr(row, name) for name in COLUMNS}
        said["labels"] = json.loads(row.labels)
        said["extra"] = json.loads(row.extra) if row.extra else {}
        said["prompt_hash"] = row.prompt_hash.hex() if row.prompt_hash else None
        for name in _TIMES:
            said[name] = _time(said[name])
        lines.append(json.dumps(said, ensure_ascii=False, separators=(",", ":")) + "\n")
    return "".join(lines).encode()


def _parquet(rows: Sequence[Usage], first: bool) -> bytes:  # noqa: ARG001, FBT001 - one of the writers
    # Large, and nobody else needs it.
    import pyarrow as pa  # type: ignore[import-untyped]
    from pyarrow import parquet

    def type_of(name: str) -> Any:
        if name in _TIMES:
            return pa.timestamp("us", tz="UTC")
        if name in _FLAGS:
            return pa.bool_()
        if name in _INTEGERS or name == "cost_nanos":
            return pa.int64()
        if name == "labels":
            return pa.map_(pa.string(), pa.string())
        if name == "extra":
            return pa.map_(pa.string(), pa.int64())
        return pa.string()

    def values(name: str) -> list[Any]:
        if name in ("labels", "extra"):
            return [list(json.loads(getattr(row, name) or "{}").items()) for row in rows]
        if name == "prompt_hash":
            return [row.prompt_hash.hex() if row.prompt_hash else None for row in rows]
        return [getattr(row, name) for row in rows]

    schema = pa.schema([pa.field(name, type_of(name)) for name in COLUMNS])
    arrays = [pa.array(values(field.name), type=field.type) for field in schema]
    target = pa.BufferOutputStream()
    parquet.write_table(pa.Table.from_arrays(arrays, schema=schema), target, compression="zstd")
    content: bytes = target.getvalue().to_pybytes()
    return content


def _time(at: datetime) -> str:
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z")


_WRITERS: Final[dict[Format, Callable[[Sequence[Usage], bool], bytes]]] = {
    Format.CSV: _csv,
    Format.JSONL: _jsonl,
    Format.PARQUET: _parquet,
}
