"""`purse demo`: the whole story on temporary data."""

import asyncio
import contextlib
import secrets
import signal
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from pursestrings._errors import Error
from pursestrings._money import format_nanos
from pursestrings.cli import demo_acts
from pursestrings.cli.asking import run_audit
from pursestrings.cli.books import Check
from pursestrings.cli.bridge import suite_module
from pursestrings.cli.connection import Suite, Where, connected
from pursestrings.cli.demo_acts import Story
from pursestrings.cli.failures import CHECK_FAILED
from pursestrings.cli.options import Json, begin
from pursestrings.cli.output import Output
from pursestrings.cli.replay_run import drained

_DRAIN_S = 15.0
_START_TIMEOUT_S = 30.0


class StartError(Exception):
    """The demo's own suite did not start."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it."""

    story: Story
    checks: list[Check]
    problem: str


def demo(
    context: typer.Context,
    attach: Annotated[
        bool, typer.Option("--attach", help="Play on the running suite, in a new organisation that stays there.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Play the whole story: a budget warns, one blocks, the wallet refills itself, and its cap holds.

    Starts a suite of its own on free ports and temporary data, and leaves nothing behind. The last line is
    one JSON object. Ends with 1 where an act did not happen or the books do not agree.
    """
    where, output = begin(context, as_json=as_json)
    begun_s = time.monotonic()
    outcome = asyncio.run(_run(where, output, attach=attach))
    ok = outcome.story.complete and not outcome.problem and all(check.ok for check in outcome.checks)
    story = outcome.story
    output.object(
        {
            "ok": ok,
            "warned": bool(story.warned),
            "blocked": bool(story.blocked),
            "recharges": story.recharges,
            "capped": story.capped,
            "calls": story.calls,
            "denied": story.denied,
            "spent_nanos": story.spent_nanos,
            "audit_ok": bool(outcome.checks) and all(check.ok for check in outcome.checks),
            "elapsed_s": round(time.monotonic() - begun_s, 1),
            "problem": outcome.problem or None,
        }
    )
    if not ok:
        raise typer.Exit(CHECK_FAILED)


async def _run(where: Where, output: Output, *, attach: bool) -> Outcome:
    task = asyncio.current_task()
    assert task is not None
    # As Ctrl-C: everything that was started is stopped and removed.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    if attach:
        async with connected(where) as suite:
            return await _play(suite, f"orgs/demo-{secrets.token_hex(4)}", output)
    try:
        async with _own_suite(output) as own, connected(own) as suite:
            return await _play(suite, "orgs/demo", output)
    except StartError as error:
        _tell(output, str(error))
        return Outcome(Story(), [], str(error))


@asynccontextmanager
async def _own_suite(output: Output) -> AsyncIterator[Where]:
    module = suite_module()
    begun_s = time.monotonic()
    _tell(output, "Starting a suite of its own: PostgreSQL, Temporal, a Stripe twin, the services.")
    with tempfile.TemporaryDirectory(prefix="purse-demo-") as directory:
        try:
            async with module.Suite(Path(directory), free_ports=True) as running:
                _tell(output, f"Ready after {time.monotonic() - begun_s:.1f} s.\n")
                yield Where(
                    data=Path(directory),
                    budget=running.address("budget"),
                    metering=running.address("metering"),
                    wallet=running.address("wallet"),
                    token_file=running.token_file,
                    # A suite that has just started may still be learning its prices.
                    timeout_s=_START_TIMEOUT_S,
                )
                _tell(output, "Stopping; nothing is left behind.")
        except module.START_ERRORS as error:
            raise StartError(f"The suite does not start: {error}") from error


async def _play(suite: Suite, org: str, output: Output) -> Outcome:
    stage = demo_acts.Stage(suite.client, suite, org, lambda text: _tell(output, text))
    try:
        story = await stage.play()
        await drained(suite, org, _DRAIN_S)
        checks = await run_audit(suite, org)
    except Error as error:
        return Outcome(stage.story, [], str(error))
    failed = [check for check in checks if not check.ok]
    _tell(
        output,
        f"\nThe books: {story.calls} calls, {format_nanos(story.spent_nanos)} USD to the nano; "
        f"{len(checks) - len(failed)} of {len(checks)} checks hold.",
    )
    for check in failed:
        _tell(output, f"  {check.name} does NOT hold: {check.detail}")
    return Outcome(story, checks, "")


def _tell(output: Output, text: str) -> None:
    if not output.as_json:
        with contextlib.suppress(BrokenPipeError):
            output.say(text)
