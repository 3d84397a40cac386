"""`purse usage export`: recorded events as files. An export that was cut goes on with the same command."""

import asyncio
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Final

import grpc
import typer

from pursestrings._errors import Rejected, Unavailable, from_rpc_error, is_retryable
from pursestrings._rpc import pause
from pursestrings.cli.connection import Suite, with_suite
from pursestrings.cli.failures import CliError
from pursestrings.cli.options import Json, begin, instant
from pursestrings.metering.v1 import export_pb2

_FORMATS: Final = {
    "csv": export_pb2.EXPORT_FORMAT_CSV,
    "jsonl": export_pb2.EXPORT_FORMAT_JSONL,
    "parquet": export_pb2.EXPORT_FORMAT_PARQUET,
}


@dataclass(slots=True)
class Progress:
    """How far an export has come; kept beside its file.

    Attributes:
        asked: What was asked for: the same command goes on, another is refused.
        token: Where the service goes on.
        size: Bytes that are whole; of Parquet, parts.
        rows: Rows in them.
    """

    asked: list[str]
    token: str = ""
    size: int = 0
    rows: int = 0


class Target:
    """A file, or of Parquet a folder of parts, that takes its name only when it is whole.

    Args:
        out: Its name in the end.
        asked: What is asked for.
        in_parts: Whether every piece is a file of its own.
    """

    def __init__(self, out: Path, asked: list[str], *, in_parts: bool) -> None:
        self.out = out
        self._in_parts = in_parts
        self._growing = out.with_name(out.name + ".part")
        self._state = out.with_name(out.name + ".resume")
        self.progress = self._read() or Progress(asked)
        if self.progress.asked != asked:
            raise CliError(
                f"{self._state} is of another export: {' '.join(filter(None, self.progress.asked))}",
                "give its arguments to go on with it, or remove that file to begin anew",
            )
        if out.exists():
            raise CliError(f"{out} is there already", "remove it, or name another file")
        self._trim()

    def add(self, piece: export_pb2.ExportUsageResponse) -> None:
        """Keeps a piece, and then the place after it: cut in between, the piece is asked for again."""
        progress = self.progress
        if piece.data:
            if self._in_parts:
                _write(self._part(progress.size), piece.data)
                progress.size += 1
            else:
                with self._growing.open("ab") as file:
                    file.write(piece.data)
                    file.flush()
                    os.fsync(file.fileno())
                progress.size += len(piece.data)
        progress.token, progress.rows = piece.resume_token, piece.rows
        fresh = self._state.with_name(self._state.name + ".new")
        _write(fresh, json.dumps(asdict(progress)).encode())
        fresh.replace(self._state)

    def finish(self) -> None:
        """Gives the file its name."""
        self._growing.replace(self.out)
        self._state.unlink()

    def _read(self) -> Progress | None:
        try:
            content = json.loads(self._state.read_text())
            return Progress(**{field.name: content[field.name] for field in fields(Progress)})
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            raise CliError(f"{self._state} cannot be read", "remove it to begin anew") from None

    def _trim(self) -> None:
        """Forgets what was written after the place that is kept."""
        if self._in_parts:
            if not self.progress.token and self._growing.exists():
                shutil.rmtree(self._growing)
            self._growing.mkdir(parents=True, exist_ok=True)
            return
        self.out.parent.mkdir(parents=True, exist_ok=True)
        with self._growing.open("ab") as file:
            if file.tell() < self.progress.size:
                raise CliError(f"{self._growing} lacks what was written", f"remove {self._state} to begin anew")
            file.truncate(self.progress.size)

    def _part(self, number: int) -> Path:
        return self._growing / f"part-{number + 1:06}.parquet"


def export(
    context: typer.Context,
    *,
    subject: Annotated[str, typer.Option("--subject", help="Whose, those below it included.")],
    out: Annotated[Path, typer.Option("--out", help="The file to write; of parquet, a folder of parts.")],
    form: Annotated[str, typer.Option("--format", help="csv, jsonl or parquet.")] = "csv",
    start: Annotated[str | None, typer.Option("--from", help="From this day or instant. Default: all.")] = None,
    end: Annotated[str | None, typer.Option("--to", help="To this day or instant, not included. Default: now.")] = None,
    as_json: Json = False,
) -> None:
    """Write recorded usage to a file. If it is cut, the same command goes on where it was."""
    where, output = begin(context, as_json=as_json)
    if form not in _FORMATS:
        raise CliError(f"--format {form} is not known", f"choose from {', '.join(_FORMATS)}")
    request = export_pb2.ExportUsageRequest(subject=subject, format=_FORMATS[form])
    if start is not None:
        request.start_time.CopyFrom(instant(start))
    if end is not None:
        request.end_time.CopyFrom(instant(end))
    target = Target(out, [subject, form, start or "", end or ""], in_parts=form == "parquet")
    if target.progress.token:
        output.note(f"going on after {target.progress.rows:,} rows")
    with_suite(where, lambda suite: _fetch(suite, request, target, output.note))
    rows = target.progress.rows
    target.finish()
    if output.as_json:
        output.object({"file": str(out), "rows": rows})
        return
    output.say(f"{rows:,} rows in {out}")


async def _fetch(
    suite: Suite, request: export_pb2.ExportUsageRequest, target: Target, note: Callable[[str], None]
) -> None:
    """Takes all pieces; where the stream breaks, goes on after what is kept until time without any is up."""
    tries = 0
    loop = asyncio.get_running_loop()
    waited_since_s = loop.time()
    while True:
        request.resume_token = target.progress.token
        refusal: Rejected | None = None
        call: Any = suite.client.metering.ExportUsage(request)
        try:
            async for piece in call:
                target.add(piece)
                tries, waited_since_s = 0, loop.time()
                if piece.done:
                    return
        except grpc.aio.AioRpcError as error:
            refusal = from_rpc_error(error)
            if not is_retryable(refusal):
                raise refusal from None
        pause_s = pause(tries, refusal)
        tries += 1
        if loop.time() + pause_s >= waited_since_s + suite.timeout_s:
            told = refusal.message if refusal else "the stream ended early"
            raise Unavailable(f"the metering service is unavailable: {told}; the same command goes on") from refusal
        note(f"cut after {target.progress.rows:,} rows, going on")
        await asyncio.sleep(pause_s)


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
