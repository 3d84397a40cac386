"""What a command that fails says, and the code it ends with."""

import os
import sys
import traceback
from typing import Any, Final

from pursestrings._errors import Denied, Rejected, Unavailable, is_retryable
from pursestrings.cli.output import Output, to_plain

OK: Final = 0
CHECK_FAILED: Final = 1
"""A check did not hold, or something unforeseen happened."""
USAGE: Final = 2
"""The command or the request is wrong; the same again never succeeds."""
UNAVAILABLE: Final = 3
"""A service could not be reached in time."""
DENIED: Final = 4
"""A budget, the wallet or the credential does not allow it."""
INTERRUPTED: Final = 130
"""Ctrl-C."""
_FORBIDDEN: Final = frozenset({"PERMISSION_DENIED", "UNAUTHENTICATED"})


class CliError(Exception):
    """What was wrong, and what to do.

    Attributes:
        message: What was wrong.
        hint: What to do; may be empty.
        code: What the command ends with.
    """

    def __init__(self, message: str, hint: str = "", code: int = USAGE) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code


def report(error: Exception, output: Output) -> int:
    """Prints an error, as an object `{"error": …}` for programs, and returns the command's code."""
    code, told = explain(error)
    if os.environ.get("PURSE_DEBUG"):
        traceback.print_exception(error, file=sys.stderr)
    if output.as_json:
        output.object({"error": told})
        return code
    output.notes.print(f"error: {told['message']}", style="red", markup=False, soft_wrap=True)
    if told.get("hint"):
        output.notes.print(str(told["hint"]), markup=False, soft_wrap=True)
    return code


def explain(error: Exception) -> tuple[int, dict[str, Any]]:
    """The code and the facts of an error."""
    facts: dict[str, Any]
    match error:
        case CliError():
            return error.code, {"reason": "CLI", "message": error.message, "hint": error.hint}
        case Denied():
            facts = {"reason": error.reason, "message": str(error), "decision": to_plain(error.decision)}
            return DENIED, facts
        case Rejected():
            facts = {"reason": error.reason, "message": error.message, "field": error.field, "hint": _hint(error)}
            return _rejected_code(error), facts
        case Unavailable():
            hint = "is the suite running? `purse status` tells, `purse up` starts it"
            return UNAVAILABLE, {"reason": "UNAVAILABLE", "message": str(error), "hint": hint}
        case OSError():
            return USAGE, {"reason": "FILE", "message": _os_error(error)}
        case _:
            hint = "this is a defect; PURSE_DEBUG=1 shows where it happened"
            told = f"unforeseen {type(error).__name__}: {error}"
            return CHECK_FAILED, {"reason": "UNFORESEEN", "message": told, "hint": hint}


def _rejected_code(error: Rejected) -> int:
    if error.code in _FORBIDDEN:
        return DENIED
    return UNAVAILABLE if is_retryable(error) else USAGE


def _hint(error: Rejected) -> str:
    if error.code == "UNAUTHENTICATED":
        return "give a token: --token-file, PURSE_TOKEN_FILE, or run where .purse/suite.json is"
    if error.code == "PERMISSION_DENIED":
        return "this token is not enough: `purse token mint` makes another where the suite's key is"
    return ""


def _os_error(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}" if error.filename else str(error)
