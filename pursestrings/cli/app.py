"""The root command and everything under it."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from pursestrings import __version__
from pursestrings.cli import (
    alerts,
    approvals,
    audit,
    budget,
    budget_limits,
    deliveries,
    demo,
    org,
    pauses,
    rates,
    replay,
    reports,
    reservations,
    status,
    subscriptions,
    token,
    up,
    usage,
    wallet,
)
from pursestrings.cli.connection import DEFAULT_DATA, TIMEOUT_S, Where
from pursestrings.cli.failures import INTERRUPTED, report
from pursestrings.cli.options import State

app = typer.Typer(
    name="purse",
    help="Budgets, metering and prepaid wallets for AI agents.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
)
app.command("up")(up.up)
app.command("status")(status.status)
app.command("demo")(demo.demo)
app.command("replay")(replay.replay)
app.command("audit")(audit.audit)
budget.app.command("status")(budget_limits.status)
budget.app.command("allocate")(budget_limits.allocate)
budget.app.command("override")(budget_limits.override)
budget.app.command("overrides")(budget_limits.overrides)
budget.app.command("month")(reports.month)
wallet.app.command("concerns")(reports.concerns)
app.command("pause")(pauses.pause)
app.command("resume")(pauses.resume)
app.command("paused")(pauses.paused)
app.add_typer(budget.app, name="budget")
app.add_typer(alerts.app, name="alerts")
app.add_typer(approvals.app, name="approvals")
app.add_typer(subscriptions.app, name="subscriptions")
app.add_typer(deliveries.app, name="deliveries")
app.add_typer(org.app, name="org")
app.add_typer(reservations.app, name="reservations")
app.add_typer(wallet.app, name="wallet")
app.add_typer(usage.app, name="usage")
app.add_typer(rates.app, name="rates")
app.add_typer(token.app, name="token")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"purse {__version__}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    *,
    data: Annotated[
        Path, typer.Option("--data", help="The suite's data folder, where its suite.json is.", envvar="PURSE_DATA")
    ] = DEFAULT_DATA,
    budget_address: Annotated[
        str | None, typer.Option("--budget", help="host:port of the budget service.", metavar="ADDRESS")
    ] = None,
    metering_address: Annotated[
        str | None, typer.Option("--metering", help="host:port of the metering service.", metavar="ADDRESS")
    ] = None,
    wallet_address: Annotated[
        str | None, typer.Option("--wallet", help="host:port of the wallet service.", metavar="ADDRESS")
    ] = None,
    token_file: Annotated[Path | None, typer.Option("--token-file", help="A file with the token to call with.")] = None,
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=0.1, max=3600, help="Seconds to wait for an answer, tries included.")
    ] = TIMEOUT_S,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Finds the suite: options first, then PURSE_* variables, then .purse/suite.json of the current folder."""
    del version
    context.obj.where = Where(
        data=data,
        budget=budget_address,
        metering=metering_address,
        wallet=wallet_address,
        token_file=token_file,
        timeout_s=timeout_s,
    )


def run(arguments: list[str] | None = None) -> int:
    """Runs one command; returns its exit code. Errors are told, never shown as a traceback."""
    state = State()
    try:
        app(arguments, obj=state, prog_name="purse")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(bool(ended.code))
    except (KeyboardInterrupt, asyncio.CancelledError):
        return INTERRUPTED
    except Exception as error:
        return report(error, state.output)
    return 0
