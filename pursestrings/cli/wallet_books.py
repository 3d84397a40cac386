"""`purse wallet …`: money that moves, goes back, and is accounted for."""

import uuid
from pathlib import Path
from typing import Annotated

import typer

from pursestrings._money import format_nanos
from pursestrings.cli.connection import with_suite
from pursestrings.cli.failures import CHECK_FAILED, CliError
from pursestrings.cli.options import Json, RequestId, amount, begin, instant
from pursestrings.cli.output import money, when
from pursestrings.wallet.v1 import refunds_pb2, statements_pb2, wallet_pb2

Name = Annotated[str, typer.Argument(help="The wallet, for example orgs/acme/wallets/main.")]
_FORMATS = ("csv", "html")


def add_to(app: typer.Typer) -> None:
    """Adds the commands to `purse wallet`."""
    for command in (transfer, close, refund, refunds, disputes, statement, reconcile):
        app.command()(command)


def transfer(
    context: typer.Context,
    *,
    from_wallet: Annotated[str, typer.Argument(help="The wallet that gives.")],
    to_wallet: Annotated[str, typer.Argument(help="The wallet that gets, above or below it on the tree.")],
    how_much: Annotated[str, typer.Argument(metavar="AMOUNT", help="How much: 25, or '25 EUR'.")],
    request_id: RequestId = None,
    as_json: Json = False,
) -> None:
    """Move free money between a parent's wallet and a child's."""
    where, output = begin(context, as_json=as_json)
    request = wallet_pb2.TransferRequest(
        from_wallet=from_wallet,
        to_wallet=to_wallet,
        amount=amount(how_much).to_proto(),
        request_id=request_id or str(uuid.uuid4()),
    )
    moved = with_suite(where, lambda suite: suite.wallet("Transfer", request))
    output.object(moved) if output.as_json else output.say(f"moved {money(request.amount)} to {to_wallet}")


def close(
    context: typer.Context,
    *,
    name: Name,
    reason: Annotated[str, typer.Option("--reason", help="Why, for people.")],
    as_json: Json = False,
) -> None:
    """Close a wallet for good: what is leased settles first, what is left moves to the wallet above."""
    where, output = begin(context, as_json=as_json)
    request = wallet_pb2.SetWalletStateRequest(name=name, state=wallet_pb2.WALLET_STATE_CLOSED, reason=reason)
    wallet = with_suite(where, lambda suite: suite.wallet("SetWalletState", request)).wallet
    state = wallet_pb2.WalletState.Name(wallet.state).removeprefix("WALLET_STATE_").lower()
    output.object(wallet) if output.as_json else output.say(f"{name} is {state}")


def refund(
    context: typer.Context,
    *,
    source: Annotated[str, typer.Argument(help="The recharge or top-up whose charge goes back.")],
    reason: Annotated[str, typer.Option("--reason", help="Why, for people.")],
    how_much: Annotated[str, typer.Option("--amount", help="A part: 5, or '5 EUR'. Default: all.")] = "",
    request_id: RequestId = None,
    as_json: Json = False,
) -> None:
    """Give money of a charge back to its payment method; the wallet is debited first."""
    where, output = begin(context, as_json=as_json)
    request = refunds_pb2.RefundRequest(source=source, reason=reason, request_id=request_id or str(uuid.uuid4()))
    if how_much:
        request.amount.CopyFrom(amount(how_much).to_proto())
    made = with_suite(where, lambda suite: suite.wallet("Refund", request)).refund
    output.object(made) if output.as_json else output.say(f"{made.name}: {money(made.amount)}, {_refund_state(made)}")


def refunds(context: typer.Context, name: Name, as_json: Json = False) -> None:
    """List the refunds of a wallet, newest first."""
    where, output = begin(context, as_json=as_json)
    request = refunds_pb2.ListRefundsRequest(wallet=name, page_size=1000)
    found = with_suite(where, lambda suite: suite.wallet("ListRefunds", request))
    if output.as_json:
        output.object(found)
        return
    output.table(
        ("refund", "of", "amount", "state", "asked", "why it failed"),
        [
            (r.name, r.source, money(r.amount), _refund_state(r), when(r.create_time), r.failure_reason)
            for r in found.refunds
        ],
    )


def disputes(context: typer.Context, name: Name, as_json: Json = False) -> None:
    """List the disputes about charges of a wallet, newest first."""
    where, output = begin(context, as_json=as_json)
    found = with_suite(where, lambda suite: suite.wallet("ListDisputes", refunds_pb2.ListDisputesRequest(wallet=name)))
    if output.as_json:
        output.object(found)
        return
    output.table(
        ("dispute", "about", "amount", "status", "freezes", "opened"),
        [
            (d.id, d.source, money(d.amount), d.status, str(d.freezes).lower(), when(d.open_time))
            for d in found.disputes
        ],
    )


def statement(
    context: typer.Context,
    *,
    name: Name,
    month: Annotated[str, typer.Argument(help="YYYY-MM in the wallet's zone. Default: the month that runs.")] = "",
    form: Annotated[str, typer.Option("--format", help="csv or html: the statement as a file's text.")] = "",
    to: Annotated[Path | None, typer.Option("--output", help="Write the text there.")] = None,
    as_json: Json = False,
) -> None:
    """Show a month: what came in, what was spent on which model, what went out."""
    where, output = begin(context, as_json=as_json)
    if to is not None and form not in _FORMATS:
        raise CliError("--output needs a format", "say --format csv or --format html")
    request = statements_pb2.GetStatementRequest(wallet=name, month=month, format=form)
    found = with_suite(where, lambda suite: suite.wallet("GetStatement", request))
    if to is not None:
        to.write_text(found.text)
        output.say(f"wrote {to}")
        return
    if output.as_json:
        output.object(found.statement)
        return
    if form:
        output.say(found.text.rstrip())
        return
    month_of = found.statement
    rows = [
        (field.name.removesuffix("_nanos").replace("_", " "), f"{format_nanos(value)} {month_of.currency_code}")
        for field, value in month_of.ListFields()
        if field.name.endswith("_nanos")
    ]
    output.table((f"{month_of.month} {month_of.time_zone}", "amount"), rows)
    output.table(
        ("provider", "model", "month of use", "calls", "amount"),
        [
            (x.provider, x.model, x.use_month, str(x.calls), f"{format_nanos(x.amount_nanos)} {month_of.currency_code}")
            for x in month_of.spend
        ],
    )


def reconcile(
    context: typer.Context,
    *,
    org: Annotated[str, typer.Argument(help="orgs/{id}, or one wallet.")],
    since: Annotated[str, typer.Option("--since", help="Charges from then on. Default: the last 30 days.")] = "",
    as_json: Json = False,
) -> None:
    """Compare Stripe, charges, grants, the ledger and captures; exits with an error where they differ."""
    where, output = begin(context, as_json=as_json)
    one = "/wallets/" in org
    request = statements_pb2.ReconcileRequest(wallet=org if one else "", org="" if one else org)
    if since:
        request.from_time.CopyFrom(instant(since))
    found = with_suite(where, lambda suite: suite.wallet("Reconcile", request))
    if output.as_json:
        output.object(found)
    else:
        output.table(
            ("difference", "about", "what each side says"), [(d.kind, d.subject, d.detail) for d in found.differences]
        )
        output.say(
            f"{found.charges} charges, {found.grants} grants, {found.refunds} refunds, {found.disputes} disputes: "
            + (f"{len(found.differences)} differences" if found.differences else "all agree")
        )
    if found.differences:
        raise typer.Exit(CHECK_FAILED)


def _refund_state(found: refunds_pb2.Refund) -> str:
    return refunds_pb2.RefundState.Name(found.state).removeprefix("REFUND_STATE_").lower()
