"""`purse token`: credentials."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from pursestrings.cli.bridge import credentials_module
from pursestrings.cli.failures import CliError
from pursestrings.cli.options import Json, begin, seconds

app = typer.Typer(help="Credentials.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Credentials."""


@app.command()
def mint(
    context: typer.Context,
    *,
    subject: Annotated[str, typer.Argument(help="What it covers, with all below; orgs/- is every organisation.")],
    role: Annotated[
        list[str], typer.Option("--role", help="agent, operator, approver, auditor, admin or service; may be repeated.")
    ] = ["agent"],  # noqa: B006 - read only, and what typer wants
    ttl: Annotated[str, typer.Option("--ttl", help="How long it is valid: 15m, 12h, 30d.")] = "12h",
    holder: Annotated[
        str, typer.Option("--holder", help="Whom it is for, a mail address for example; decisions are kept under it.")
    ] = "",
    keys: Annotated[
        Path | None, typer.Option("--keys", help="The folder with the suite's signing key. Default: DATA/keys.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Mint a token, signed with the suite's own key, and print it."""
    where, output = begin(context, as_json=as_json)
    folder = keys or where.data / "keys"
    ttl_s = seconds(ttl)
    module = credentials_module()
    try:
        token = module.Credentials(folder).mint(subject, role, ttl_s, holder=holder)
    except FileNotFoundError:
        raise CliError(
            f"{folder} has no signing key", "start the suite once with `purse up`, or name its folder with --keys"
        ) from None
    except ValueError as error:
        raise CliError(str(error)) from None
    if output.as_json:
        output.object({"token": token, "subject": subject, "roles": sorted(set(role)), "ttl_s": ttl_s})
    else:
        sys.stdout.write(token + "\n")


@app.command("keys")
def make_keys(
    context: typer.Context,
    *,
    folder: Annotated[Path, typer.Argument(help="Where; made if it is not there, readable by you alone.")],
    as_json: Json = False,
) -> None:
    """Make the pair of keys of a suite that runs elsewhere: signing.pem signs tokens, public.pem verifies them."""
    _, output = begin(context, as_json=as_json)
    credentials = credentials_module().Credentials(folder)
    credentials.ensure_keys()
    if output.as_json:
        output.object({"signing_key": str(folder / "signing.pem"), "public_key": str(credentials.public_key)})
    else:
        sys.stdout.write(f"{folder / 'signing.pem'}: keep it; who has it can mint any token\n")
        sys.stdout.write(f"{credentials.public_key}: for the services\n")
