"""`purse replay`: plays a usage log through the whole suite."""

import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pursestrings._client import AsyncClient
from pursestrings._money import format_nanos
from pursestrings.cli import replay_run, replay_setup
from pursestrings.cli.connection import Suite, Where, settings, with_suite
from pursestrings.cli.failures import CHECK_FAILED, CliError
from pursestrings.cli.options import Json, begin, seconds
from pursestrings.cli.output import Output
from pursestrings.cli.replay_log import Log, read_log, subjects
from pursestrings.cli.replay_run import Planned, Player, Tally

_FAILURES_SHOWN = 5
_RECHARGE_SETTLE_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to play, and how."""

    log: Log
    run: str
    org: str
    subjects: list[str]
    model: str
    factor: float | None
    loops: int
    setup: bool
    grant: str | None
    retry_for_s: float
    drain_for_s: float

    @property
    def source(self) -> str:
        """The source of the usage: which file, which run."""
        return f"replay:{self.log.digest[:16]}:{self.run}"

    @property
    def count(self) -> int:
        """How many calls there are to play."""
        return len(self.log) * self.loops


@dataclass(frozen=True, slots=True)
class Played:
    """What came of it."""

    tally: Tally
    elapsed_s: float
    drained: bool
    recharges: int


def replay(
    context: typer.Context,
    *,
    file: Annotated[Path, typer.Argument(help="A CSV file: TIMESTAMP, ContextTokens, GeneratedTokens.")],
    spread: Annotated[
        str, typer.Option("--subjects", help="So many agents, or a pattern: orgs/a/teams/{a..d}/agents/{1..5}.")
    ] = "20",
    org: Annotated[str | None, typer.Option("--org", help="The organisation. Default: orgs/replay.")] = None,
    model: Annotated[str, typer.Option("--model", help="The model that prices the calls.")] = "gpt-4o-mini",
    speed: Annotated[str, typer.Option("--speed", help="max, or a factor: 1x plays as fast as it happened.")] = "max",
    loop: Annotated[int, typer.Option("--loop", min=1, max=100_000, help="Play it so many times.")] = 1,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only the first so many calls.")] = None,
    wallet_grant: Annotated[str, typer.Option("--wallet-grant", help="What to put in first, or auto.")] = "auto",
    no_setup: Annotated[bool, typer.Option("--no-setup", help="Make no wallet and no budgets.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Play nothing if a row cannot be read.")] = False,
    retry_for: Annotated[str, typer.Option("--retry-for", help="How long to try while services are away.")] = "2m",
    drain_for: Annotated[str, typer.Option("--drain-for", help="How long to wait until all books agree.")] = "2m",
    as_json: Json = False,
) -> None:
    """Play a usage log through the whole suite: reserve, record, apply, capture; then a summary.

    Times are those of now. Ends with 1 where a call failed or the books did not drain in time.
    """
    where, output = begin(context, as_json=as_json)
    log = read_log(file, limit)
    _tell_bad_rows(output, file, log)
    if strict and log.bad_count:
        rows = ", ".join(f"line {row.line}: {row.problem}" for row in log.bad_rows[:_FAILURES_SHOWN])
        raise CliError(f"{log.bad_count} rows of {file} cannot be read: {rows}", "nothing was played", CHECK_FAILED)
    names = subjects(spread, org or "orgs/replay")
    plan = Plan(
        log=log,
        run=secrets.token_hex(6),
        org=org or "/".join(names[0].split("/")[:2]),
        subjects=names,
        model=model,
        factor=_factor(speed),
        loops=loop,
        setup=not no_setup,
        grant=None if wallet_grant == "auto" else wallet_grant,
        retry_for_s=float(seconds(retry_for)),
        drain_for_s=float(seconds(drain_for)),
    )
    played = with_suite(where, lambda suite: _run(suite, where, plan, output))
    _summarize(output, plan, played)
    if played.tally.failed or not played.drained:
        raise typer.Exit(CHECK_FAILED)


async def _run(suite: Suite, where: Where, plan: Plan, output: Output) -> Played:
    if plan.setup:
        need = replay_setup.Need(
            plan.count, sum(plan.log.input_tokens) * plan.loops, sum(plan.log.output_tokens) * plan.loops
        )
        done = await replay_setup.prepare(
            suite,
            org=plan.org,
            subjects=plan.subjects,
            model=plan.model,
            need=need,
            grant=plan.grant,
            run=plan.run,
        )
        for line in done:
            output.note(line)
    # It answered: from here on it may be away for a while.
    suite = Suite(suite.client, plan.retry_for_s)
    before = await replay_run.recharges(suite, plan.org)
    begun_s = time.monotonic()
    async with AsyncClient(**{**settings(where), "timeout_s": plan.retry_for_s}) as client:
        player = Player(client, run=plan.run, source=plan.source, model=plan.model)
        with _progress(output) as progress:
            task = progress.add_task("playing", total=plan.count, spent="")

            def show() -> None:
                spent = ", ".join(f"{format_nanos(n)} {code}" for code, n in player.tally.cost_nanos.items())
                words = f"{player.tally.denied} denied, {player.tally.failed} failed, {spent}"
                progress.update(task, completed=player.tally.done, spent=words)

            await player.play(_calls(plan), show)
            progress.update(task, description="draining")
            is_drained = await replay_run.drained(suite, plan.org, plan.drain_for_s, player.last)
            elapsed_s = time.monotonic() - begun_s
    after = await replay_run.recharges(suite, plan.org, settle_s=_RECHARGE_SETTLE_S)
    return Played(player.tally, elapsed_s, is_drained, len(after - before))


def _calls(plan: Plan) -> Iterator[Planned]:
    log, names = plan.log, plan.subjects
    # One loop takes as long as the log, plus as much as its mean step, so that loops do not overlap.
    length_us = max(log.offsets_us) * (len(log) + 1) // len(log)
    number = 0
    for loop in range(plan.loops):
        for row in range(len(log)):
            due_s = 0.0
            if plan.factor is not None:
                due_s = (loop * length_us + log.offsets_us[row]) / 1e6 / plan.factor
            yield Planned(number, names[number % len(names)], log.input_tokens[row], log.output_tokens[row], due_s)
            number += 1


def _factor(text: str) -> float | None:
    if text == "max":
        return None
    try:
        factor = float(text.removesuffix("x"))
    except ValueError:
        factor = 0.0
    if not 0 < factor <= 1e6:
        raise CliError(f"--speed {text!r} is no speed", "write max, 1x, 10x or 0.5x")
    return factor


def _tell_bad_rows(output: Output, file: Path, log: Log) -> None:
    for row in log.bad_rows:
        output.note(f"{file}, line {row.line}: {row.problem}; left out")
    if log.bad_count > len(log.bad_rows):
        output.note(f"… and {log.bad_count - len(log.bad_rows)} more rows that cannot be read")


def _progress(output: Output) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[spent]}"),
        TimeElapsedColumn(),
        console=output.notes,
        disable=output.as_json,
        transient=True,
    )


def _summarize(output: Output, plan: Plan, played: Played) -> None:
    tally = played.tally
    rate = tally.done / played.elapsed_s if played.elapsed_s else 0.0
    if output.as_json:
        output.object(_as_object(plan, played, rate))
        return
    spent = ", ".join(f"{format_nanos(nanos)} {code}" for code, nanos in tally.cost_nanos.items()) or "0"
    pairs = {
        "calls": f"{tally.done:,} in {played.elapsed_s:.1f} s: {rate:,.0f} a second through the whole path",
        "allowed": f"{tally.allowed:,}",
        "denied": _with_counts(tally.denied, tally.denied_reasons),
        "failed": _with_counts(tally.failed, tally.failures),
        "cost": spent + (f", and {tally.unrated:,} calls without a price" if tally.unrated else ""),
        "recharges": str(played.recharges),
        "unreadable rows": str(plan.log.bad_count),
        "drained": "yes" if played.drained else f"NO, not within {plan.drain_for_s:.0f} s",
        "source": plan.source,
    }
    output.pairs(pairs)


def _with_counts(total: int, by_reason: Any) -> str:
    reasons = "; ".join(f"{count:,} {reason}" for reason, count in by_reason.most_common(_FAILURES_SHOWN))
    return f"{total:,}" + (f" ({reasons})" if reasons else "")


def _as_object(plan: Plan, played: Played, rate: float) -> dict[str, Any]:
    tally = played.tally
    return {
        "calls": tally.done,
        "allowed": tally.allowed,
        "denied": tally.denied,
        "failed": tally.failed,
        # One currency in all but odd cases; then the sum means little and the map below tells.
        "cost_nanos": sum(tally.cost_nanos.values()),
        "calls_per_s": round(rate, 1),
        "recharges": played.recharges,
        "cost_nanos_by_currency": dict(tally.cost_nanos),
        "unrated": tally.unrated,
        "denied_reasons": dict(tally.denied_reasons),
        "failures": dict(tally.failures.most_common(_FAILURES_SHOWN)),
        "bad_rows": plan.log.bad_count,
        "bad_row_lines": [{"line": row.line, "problem": row.problem} for row in plan.log.bad_rows],
        "elapsed_s": round(played.elapsed_s, 3),
        "drained": played.drained,
        "run": plan.run,
        "source": plan.source,
        "org": plan.org,
        "subjects": len(plan.subjects),
        "model": plan.model,
    }
