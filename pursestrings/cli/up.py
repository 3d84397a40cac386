"""`purse up`: the whole suite in the foreground."""

from pathlib import Path
from typing import Annotated

import typer

from pursestrings.cli.bridge import suite_module
from pursestrings.cli.options import state_of


def up(
    context: typer.Context,
    data: Annotated[
        Path | None, typer.Option("--data", help="Where everything is kept. Default: .purse of the current folder.")
    ] = None,
    free_ports: Annotated[
        bool, typer.Option("--free-ports", help="Take ports that are free instead of 7400 to 7414.")
    ] = False,
) -> None:
    """Start the whole suite and stay in the foreground; Ctrl-C stops all of it."""
    folder = data or state_of(context).where.data
    raise typer.Exit(suite_module().run_foreground(folder, free_ports))
