"""The way from the command line to the suite's own code, which is there in a checkout and not in the wheel."""

from typing import TYPE_CHECKING

from pursestrings.cli.failures import CliError

if TYPE_CHECKING:
    from types import ModuleType

_MISSING = "the suite's own code is not here"
_HINT = "run this in a checkout of Pursestrings, where `make up` has installed what it needs"


def suite_module() -> "ModuleType":
    """`embedded.suite`.

    Raises:
        CliError: The suite or something it needs is not installed.
    """
    try:
        from embedded import suite
    except ImportError as error:
        raise CliError(f"{_MISSING} ({error})", _HINT) from error
    return suite


def credentials_module() -> "ModuleType":
    """`embedded.credentials`, which mints tokens.

    Raises:
        CliError: The suite or something it needs is not installed.
    """
    try:
        from embedded import credentials
        from services.kit import auth  # noqa: F401 - what minting needs, asked for before anything else
    except ImportError as error:
        raise CliError(f"{_MISSING} ({error})", _HINT) from error
    return credentials
