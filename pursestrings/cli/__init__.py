"""The `purse` command: starts the suite, looks after budgets and wallets, replays, audits, demonstrates.

Exit codes: 0 done, 1 a check does not hold, 2 the command or request is wrong, 3 a service is out of reach,
4 denied, 130 interrupted.
"""

import sys


def main() -> None:
    """Runs `purse` and ends the process with its exit code."""
    try:
        from pursestrings.cli.app import run
    except ModuleNotFoundError as error:
        if error.name not in {"typer", "rich"}:
            raise
        sys.stderr.write("error: the command line needs typer and rich: pip install 'pursestrings[cli]'\n")
        sys.exit(2)
    sys.exit(run())
