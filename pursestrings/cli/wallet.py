"""`purse wallet`: money, where it is, and how it refills."""

import uuid
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from pursestrings._errors import Rejected
from pursestrings._money import Money, format_nanos
from pursestrings.cli import payments, wallet_books, wallet_caps
from pursestrings.cli.connection import Suite, pages, with_suite
from pursestrings.cli.failures import CHECK_FAILED, CliError
from pursestrings.cli.options import Json, Limit, RequestId, amount, begin, instant, seconds, split_name
from pursestrings.cli.output import Output, money, to_plain, when
from pursestrings.wallet.v1 import wallet_pb2

app = typer.Typer(help="Prepaid money, its ledger, and how it refills.", no_args_is_help=True)
payments.add_to(app)
wallet_books.add_to(app)
wallet_caps.add_to(app)

Name = Annotated[str, typer.Argument(help="The wallet, for example orgs/acme/wallets/main.")]


@app.command()
def create(
    context: typer.Context,
    *,
    name: Name,
    currency: Annotated[str, typer.Option("--currency", help="ISO 4217 code; it never changes.")] = "USD",
    time_zone: Annotated[str, typer.Option("--time-zone", help="IANA zone of its months.")] = "",
    display_name: Annotated[str, typer.Option("--display-name", help="For people.")] = "",
    request_id: RequestId = None,
    as_json: Json = False,
) -> None:
    """Create an empty wallet."""
    where, output = begin(context, as_json=as_json)
    parent, wallet_id = split_name(name, "wallets")
    request = wallet_pb2.CreateWalletRequest(
        parent=parent,
        wallet_id=wallet_id,
        wallet=wallet_pb2.Wallet(currency_code=currency.upper(), time_zone=time_zone, display_name=display_name),
        request_id=request_id or str(uuid.uuid4()),
    )
    wallet = with_suite(where, lambda suite: suite.wallet("CreateWallet", request)).wallet
    output.object(wallet) if output.as_json else output.say(f"created {wallet.name} in {wallet.currency_code}")


@app.command("list")
def list_(
    context: typer.Context,
    *,
    subject: Annotated[str, typer.Argument(help="Whose wallets, those below it included.")],
    limit: Limit = 1000,
    as_json: Json = False,
) -> None:
    """List wallets."""
    where, output = begin(context, as_json=as_json)
    request = wallet_pb2.ListWalletsRequest(parent=subject)

    async def work(suite: Suite) -> list[wallet_pb2.Wallet]:
        return await pages(lambda page: suite.wallet("ListWallets", page), request, lambda page: page.wallets, limit)

    found = with_suite(where, work)
    if output.as_json:
        output.object({"wallets": [to_plain(wallet) for wallet in found]})
        return
    output.table(
        ("wallet", "currency", "state", "card", "created"),
        [(w.name, w.currency_code, _state(w), w.payment_method, when(w.create_time)) for w in found],
    )


@app.command()
def balance(
    context: typer.Context,
    *,
    name: Name,
    as_of: Annotated[str | None, typer.Option("--as-of", help="A date or an instant that has passed.")] = None,
    as_json: Json = False,
) -> None:
    """Show what a wallet has, or had, and where it is."""
    where, output = begin(context, as_json=as_json)
    request = wallet_pb2.GetBalanceRequest(name=name)
    if as_of is not None:
        request.as_of.CopyFrom(instant(as_of))
    found = with_suite(where, lambda suite: suite.wallet("GetBalance", request))
    if output.as_json:
        output.object(found)
        return
    code = found.currency_code
    output.pairs(
        {
            "balance": str(Money(found.balance_nanos, code)),
            "available": str(Money(found.available_nanos, code)),
            "leased": str(Money(found.escrow_nanos, code)),
            "debt": str(Money(found.debt_nanos, code)),
            "spent": str(Money(found.spent_nanos, code)),
        }
    )
    output.say("")
    output.table(
        ("grant", "kind", "priority", "left", "of", "expires"),
        [
            (
                grant.name,
                wallet_pb2.GrantKind.Name(grant.kind).removeprefix("GRANT_KIND_").lower(),
                str(grant.priority),
                format_nanos(grant.remaining_nanos),
                money(grant.amount),
                when(grant.expire_time) or "never",
            )
            for grant in found.grants
        ],
        right=("priority", "left", "of"),
    )


@app.command()
def grant(
    context: typer.Context,
    *,
    name: Name,
    put_in: Annotated[str, typer.Argument(metavar="AMOUNT", help="How much: 25, or '25 EUR'.")],
    promotional: Annotated[bool, typer.Option("--promotional", help="Given away, not paid for; burns first.")] = False,
    priority: Annotated[int, typer.Option("--priority", help="Lower burns first. 0: the kind's own.")] = 0,
    expires: Annotated[str | None, typer.Option("--expires", help="What is left then is gone.")] = None,
    request_id: RequestId = None,
    as_json: Json = False,
) -> None:
    """Put money into a wallet."""
    where, output = begin(context, as_json=as_json)

    async def work(suite: Suite) -> wallet_pb2.Grant:
        wallet = (await suite.wallet("GetWallet", wallet_pb2.GetWalletRequest(name=name))).wallet
        kind = wallet_pb2.GRANT_KIND_PROMOTIONAL if promotional else wallet_pb2.GRANT_KIND_PAID
        wanted = wallet_pb2.Grant(kind=kind, amount=amount(put_in, wallet.currency_code).to_proto(), priority=priority)
        if expires is not None:
            wanted.expire_time.CopyFrom(instant(expires))
        request = wallet_pb2.CreateGrantRequest(wallet=name, grant=wanted, request_id=request_id or str(uuid.uuid4()))
        answer: wallet_pb2.CreateGrantResponse = await suite.wallet("CreateGrant", request)
        return answer.grant

    granted = with_suite(where, work)
    output.object(granted) if output.as_json else output.say(f"granted {money(granted.amount)} as {granted.name}")


@app.command()
def policy(
    context: typer.Context,
    *,
    name: Name,
    threshold: Annotated[str | None, typer.Option("--threshold", help="Recharge when the balance is below.")] = None,
    charge: Annotated[str | None, typer.Option("--amount", help="How much to charge.")] = None,
    target: Annotated[str | None, typer.Option("--target", help="Charge up to this balance instead.")] = None,
    least: Annotated[str | None, typer.Option("--min-each", help="The least that one recharge charges.")] = None,
    most: Annotated[str | None, typer.Option("--max-each", help="The most that one recharge charges.")] = None,
    ahead: Annotated[
        int | None, typer.Option("--hours-ahead", min=0, max=720, help="By forecast of so many hours; 0: by threshold.")
    ] = None,
    quantile: Annotated[int | None, typer.Option("--quantile", help="Of the forecast: 50, 90 or 99.")] = None,
    lead_time: Annotated[
        bool | None, typer.Option("--lead-time/--whole-horizon", help="Look only as far ahead as a recharge takes.")
    ] = None,
    floor: Annotated[str | None, typer.Option("--floor", help="By forecast: what must be left.")] = None,
    pause: Annotated[str | None, typer.Option("--pause", help="Pause it, with the reason.")] = None,
    max_count: Annotated[int | None, typer.Option("--max-count", min=1, max=1000, help="Recharges a month.")] = None,
    max_amount: Annotated[str | None, typer.Option("--max-amount", help="Money a month.")] = None,
    cooldown: Annotated[str | None, typer.Option("--cooldown", help="Shortest time between two: 15m.")] = None,
    enabled: Annotated[bool | None, typer.Option("--enable/--disable", help="Whether it is in force.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="End a pause.")] = False,
    as_json: Json = False,
) -> None:
    """Show the recharge policy; with options, change what they name."""
    where, output = begin(context, as_json=as_json)
    given = (threshold, charge, target, least, most, ahead, quantile, lead_time, floor, pause, max_count, max_amount)
    change = resume or any(one is not None for one in (*given, cooldown, enabled))

    async def work(suite: Suite) -> wallet_pb2.GetRechargePolicyResponse:
        wallet = (await suite.wallet("GetWallet", wallet_pb2.GetWalletRequest(name=name))).wallet
        seen = await _policy_of(suite, name)
        if not change:
            return seen
        wanted = seen.policy
        _change_policy(
            wanted,
            wallet.currency_code,
            {
                "threshold": threshold,
                "amount": charge,
                "target": target,
                "min_amount": least,
                "max_amount": most,
                "max_amount_per_month": max_amount,
            },
            ahead=ahead,
            quantile=quantile,
            lead_time=lead_time,
            floor=floor,
            max_count=max_count,
            cooldown=cooldown,
        )
        # A pause that is there already keeps who made it, and when.
        wanted.paused_reason = pause or ("" if resume else wanted.paused_reason)
        # A policy that is set is meant to work, unless it is said that it is not.
        wanted.enabled = True if enabled is None else enabled
        wanted.wallet = name
        await suite.wallet("SetRechargePolicy", wallet_pb2.SetRechargePolicyRequest(policy=wanted, resume=resume))
        return await _policy_of(suite, name)

    found = with_suite(where, work)
    output.object(found) if output.as_json else _show_policy(output, found)


@app.command()
def recharges(context: typer.Context, name: Name, limit: Limit = 100, as_json: Json = False) -> None:
    """List a wallet's recharges, newest first."""
    where, output = begin(context, as_json=as_json)
    request = wallet_pb2.ListRechargesRequest(wallet=name)

    async def work(suite: Suite) -> list[wallet_pb2.Recharge]:
        return await pages(
            lambda page: suite.wallet("ListRecharges", page), request, lambda page: page.recharges, limit
        )

    found = with_suite(where, work)
    if output.as_json:
        output.object({"recharges": [to_plain(one) for one in found]})
        return
    output.table(
        ("recharge", "state", "amount", "attempts", "payment intent", "why", "created"),
        [
            (
                one.name.rpartition("/")[2],
                wallet_pb2.RechargeState.Name(one.state).removeprefix("RECHARGE_STATE_").lower(),
                money(one.amount),
                str(one.attempts),
                one.payment_intent_status,
                one.failure_reason or one.decline_code or one.reason,
                when(one.create_time),
            )
            for one in found
        ],
        right=("amount", "attempts"),
    )


@app.command()
def freeze(
    context: typer.Context,
    *,
    name: Name,
    reason: Annotated[str, typer.Option("--reason", help="Why, for people.")],
    as_json: Json = False,
) -> None:
    """Freeze a wallet: it pays for nothing new; what is held settles."""
    _set_state(context, name, wallet_pb2.WALLET_STATE_FROZEN, reason, as_json=as_json)


@app.command("open")
def open_(context: typer.Context, name: Name, as_json: Json = False) -> None:
    """Open a frozen wallet."""
    _set_state(context, name, wallet_pb2.WALLET_STATE_OPEN, "", as_json=as_json)


@app.command()
def transactions(context: typer.Context, name: Name, limit: Limit = 50, as_json: Json = False) -> None:
    """List the ledger's transfers of a wallet, newest first."""
    where, output = begin(context, as_json=as_json)
    request = wallet_pb2.ListTransactionsRequest(wallet=name)

    async def work(suite: Suite) -> list[wallet_pb2.Transfer]:
        return await pages(
            lambda page: suite.wallet("ListTransactions", page), request, lambda page: page.transfers, limit
        )

    found = with_suite(where, work)
    if output.as_json:
        output.object({"transfers": [to_plain(one) for one in found]})
        return
    output.table(
        ("number", "kind", "amount", "from", "to", "for", "posted"),
        [
            (
                str(one.sequence),
                one.kind,
                money(one.amount),
                one.from_account,
                one.to_account,
                one.reference,
                when(one.post_time),
            )
            for one in found
        ],
        right=("number", "amount"),
    )


@app.command("trial-balance")
def trial_balance(
    context: typer.Context,
    *,
    org: Annotated[str, typer.Argument(help="orgs/ID. Nothing: every organisation.")] = "",
    as_json: Json = False,
) -> None:
    """Show the sums of all accounts; ends with 1 where debits and credits differ."""
    where, output = begin(context, as_json=as_json)
    request = wallet_pb2.TrialBalanceRequest(org=org)
    found = with_suite(where, lambda suite: suite.wallet("TrialBalance", request))
    if output.as_json:
        output.object(found)
    else:
        output.table(
            ("organisation", "account", "debits", "credits", "currency"),
            [
                (a.org, a.account_kind, format_nanos(a.debits_nanos), format_nanos(a.credits_nanos), a.currency_code)
                for a in found.accounts
            ],
            right=("debits", "credits"),
        )
        output.say("balanced" if found.balanced else "NOT BALANCED")
    if not found.balanced:
        raise typer.Exit(CHECK_FAILED)


def _set_state(
    context: typer.Context, name: str, state: wallet_pb2.WalletState.ValueType, reason: str, *, as_json: bool
) -> None:
    where, output = begin(context, as_json=as_json)
    request = wallet_pb2.SetWalletStateRequest(name=name, state=state, reason=reason)
    wallet = with_suite(where, lambda suite: suite.wallet("SetWalletState", request)).wallet
    output.object(wallet) if output.as_json else output.say(f"{wallet.name} is {_state(wallet)}")


def _state(wallet: wallet_pb2.Wallet) -> str:
    return wallet_pb2.WalletState.Name(wallet.state).removeprefix("WALLET_STATE_").lower()


async def _policy_of(suite: Suite, name: str) -> wallet_pb2.GetRechargePolicyResponse:
    """The policy of a wallet that exists; an empty one where it has none."""
    try:
        answer: wallet_pb2.GetRechargePolicyResponse = await suite.wallet(
            "GetRechargePolicy", wallet_pb2.GetRechargePolicyRequest(wallet=name)
        )
    except Rejected as error:
        if error.code != "NOT_FOUND":
            raise
        return wallet_pb2.GetRechargePolicyResponse()
    return answer


def _change_policy(
    policy: wallet_pb2.RechargePolicy,
    currency: str,
    amounts: Mapping[str, str | None],
    *,
    ahead: int | None,
    quantile: int | None,
    lead_time: bool | None,
    floor: str | None,
    max_count: int | None,
    cooldown: str | None,
) -> None:
    for field, other in (("amount", "target"), ("target", "amount")):
        if amounts[field] is not None:
            policy.ClearField(other)  # type: ignore[arg-type]
    for field, text in amounts.items():
        if text is not None:
            getattr(policy, field).CopyFrom(amount(text, currency).to_proto())
    if max_count is not None:
        policy.max_count_per_month = max_count
    if cooldown is not None:
        policy.cooldown.FromSeconds(seconds(cooldown))
    if ahead == 0 or amounts["threshold"] is not None:
        policy.mode = wallet_pb2.RECHARGE_MODE_THRESHOLD
        policy.ClearField("predictive")
    elif any(one is not None for one in (ahead, quantile, lead_time, floor)):
        policy.mode = wallet_pb2.RECHARGE_MODE_PREDICTIVE
        policy.ClearField("threshold")
        settings = policy.predictive
        settings.SetInParent()
        settings.predict_hours_ahead = ahead or settings.predict_hours_ahead
        settings.quantile_percent = quantile or settings.quantile_percent
        settings.lead_time = settings.lead_time if lead_time is None else lead_time
        if floor is not None:
            settings.floor.CopyFrom(amount(floor, currency).to_proto())
    missing: dict[str, Any] = {
        "--threshold or --hours-ahead": policy.HasField("threshold") or policy.HasField("predictive"),
        "--amount or --target": policy.HasField("amount") or policy.HasField("target"),
        "--max-count": policy.max_count_per_month,
    }
    absent = [option for option, there in missing.items() if not there]
    if absent:
        raise CliError(f"a new policy needs {', '.join(absent)}", "for example --threshold 5 --amount 20 --max-count 4")


def _show_policy(output: Output, found: wallet_pb2.GetRechargePolicyResponse) -> None:
    policy = found.policy
    if not policy.max_count_per_month:
        output.say("no recharge policy: this wallet does not refill itself")
        return
    cap = f" and {money(policy.max_amount_per_month)}" if policy.HasField("max_amount_per_month") else ""
    by = money(policy.amount) if policy.HasField("amount") else f"what is missing to {money(policy.target)}"
    if policy.HasField("min_amount"):
        by += f", at least {money(policy.min_amount)}"
    if policy.HasField("max_amount"):
        by += f", at most {money(policy.max_amount)}"
    paused = f"{policy.paused_reason} ({policy.paused_by})" if policy.paused_reason else "no"
    output.pairs(
        {
            "in force": "yes" if policy.enabled else "no",
            "recharge": _when(policy),
            "by": by,
            "at most": f"{policy.max_count_per_month} a month{cap}",
            "this month": wallet_caps.text_of(found.caps),
            "cooldown": f"{policy.cooldown.ToTimedelta()}" if policy.HasField("cooldown") else "none",
            "paused": paused,
        }
    )


def _when(policy: wallet_pb2.RechargePolicy) -> str:
    if policy.mode != wallet_pb2.RECHARGE_MODE_PREDICTIVE:
        return f"below {money(policy.threshold)}"
    settings = policy.predictive
    left = f" less {money(settings.floor)}" if settings.HasField("floor") else ""
    ahead = f"{settings.predict_hours_ahead} h" if not settings.lead_time else "the lead time"
    return f"when the p{settings.quantile_percent} forecast of {ahead} reaches the balance{left}"
