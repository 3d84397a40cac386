"""`purse wallet …`: more recharges than the caps allow, and the reviews that wait for somebody to say so."""

import uuid
from typing import Annotated

import typer

from pursestrings.cli.connection import Suite, pages, with_suite
from pursestrings.cli.failures import CliError
from pursestrings.cli.options import Json, Limit, RequestId, amount, begin, instant
from pursestrings.cli.output import Output, money, to_plain, when
from pursestrings.wallet.v1 import caps_pb2, wallet_pb2

reviews = typer.Typer(help="What a cap stopped, and whether more is allowed.", no_args_is_help=True)

More = Annotated[int, typer.Option("--count", min=0, max=1000, help="Recharges more.")]
MoreMoney = Annotated[str | None, typer.Option("--amount", help="Money more: 50.")]
Until = Annotated[str | None, typer.Option("--until", help="Only recharges begun before. Default: the month's end.")]
Reason = Annotated[str, typer.Option("--reason", help="Why, for people.")]


def add_to(app: typer.Typer) -> None:
    """Adds the commands to `purse wallet`."""
    app.command("allow-recharges")(allow_recharges)
    app.add_typer(reviews, name="reviews")


def allow_recharges(
    context: typer.Context,
    *,
    name: Annotated[str, typer.Argument(help="The wallet, for example orgs/acme/wallets/main.")],
    reason: Reason,
    count: More = 0,
    more_money: MoreMoney = None,
    until: Until = None,
    request_id: RequestId = None,
    as_json: Json = False,
) -> None:
    """Let more recharges in than the caps of the month allow."""
    where, output = begin(context, as_json=as_json)
    request = caps_pb2.AllowRechargesRequest(
        wallet=name,
        extra_count=count,
        until_time=instant(until) if until else None,
        reason=reason,
        request_id=request_id or str(uuid.uuid4()),
    )

    async def work(suite: Suite) -> caps_pb2.AllowRechargesResponse:
        if more_money:
            wallet = (await suite.wallet("GetWallet", wallet_pb2.GetWalletRequest(name=name))).wallet
            request.extra_amount.CopyFrom(amount(more_money, wallet.currency_code).to_proto())
        answer: caps_pb2.AllowRechargesResponse = await suite.wallet("AllowRecharges", request)
        return answer

    answer = with_suite(where, work)
    if output.as_json:
        output.object(answer)
    else:
        output.say(f"{answer.extra.name} until {when(answer.extra.until_time)}; {text_of(answer.caps)}")


@reviews.command("list")
def list_(
    context: typer.Context,
    *,
    subject: Annotated[str, typer.Argument(help="Of its wallets, those below it included.")],
    everything: Annotated[bool, typer.Option("--all", help="Those that have ended too.")] = False,
    limit: Limit = 100,
    as_json: Json = False,
) -> None:
    """List reviews that wait for a decision, newest first."""
    where, output = begin(context, as_json=as_json)
    request = caps_pb2.ListRechargeReviewsRequest(parent=subject, only_open=not everything)

    async def work(suite: Suite) -> list[caps_pb2.RechargeReview]:
        return await pages(
            lambda page: suite.wallet("ListRechargeReviews", page), request, lambda page: page.reviews, limit
        )

    found = with_suite(where, work)
    if output.as_json:
        output.object({"reviews": [to_plain(one) for one in found]})
        return
    output.table(
        ("review", "state", "cap", "stopped", "since", "ends", "by", "why"),
        [
            (
                one.name,
                _state(one),
                one.cap.removesuffix("_CAP").lower(),
                money(one.charge),
                when(one.create_time),
                when(one.end_time if one.HasField("end_time") else one.month_end_time),
                one.decided_by,
                one.reason,
            )
            for one in found
        ],
        right=("stopped",),
    )


@reviews.command()
def show(
    context: typer.Context,
    *,
    name: Annotated[str, typer.Argument(help="The review, for example orgs/acme/rechargeReviews/main-2026-11-1.")],
    as_json: Json = False,
) -> None:
    """Show a review with what was recharged and spent so far."""
    where, output = begin(context, as_json=as_json)
    request = caps_pb2.GetRechargeReviewRequest(name=name)
    _say(output, with_suite(where, lambda suite: suite.wallet("GetRechargeReview", request)).review)


@reviews.command()
def decide(
    context: typer.Context,
    *,
    name: Annotated[str, typer.Argument(help="The review, for example orgs/acme/rechargeReviews/main-2026-11-1.")],
    reason: Reason,
    count: More = 0,
    more_money: MoreMoney = None,
    until: Until = None,
    keep_paused: Annotated[bool, typer.Option("--keep-paused", help="Nothing more until the month ends.")] = False,
    request_id: RequestId = None,
    as_json: Json = False,
) -> None:
    """Allow more, or keep the caps as they are until the month ends."""
    if keep_paused == bool(count or more_money):
        raise CliError("say either what is allowed or that nothing is", "--count 2, --amount 50 or --keep-paused")
    where, output = begin(context, as_json=as_json)
    request = caps_pb2.DecideRechargeReviewRequest(
        name=name,
        keep_paused=keep_paused,
        extra_count=count,
        until_time=instant(until) if until else None,
        reason=reason,
        request_id=request_id or str(uuid.uuid4()),
    )

    async def work(suite: Suite) -> caps_pb2.RechargeReview:
        if more_money:
            seen = (await suite.wallet("GetRechargeReview", caps_pb2.GetRechargeReviewRequest(name=name))).review
            request.extra_amount.CopyFrom(amount(more_money, seen.charge.currency_code).to_proto())
        review: caps_pb2.RechargeReview = (await suite.wallet("DecideRechargeReview", request)).review
        return review

    _say(output, with_suite(where, work))


def text_of(caps: caps_pb2.RechargeCaps) -> str:
    """A month's caps and what counts against them, in words."""
    extra = f" + {caps.extra_count}" if caps.extra_count else ""
    text = f"{caps.count} of {caps.max_count}{extra} recharges, {money(caps.amount)}"
    if caps.HasField("max_amount"):
        text += f" of {money(caps.max_amount)}"
        text += f" + {money(caps.extra_amount)}" if caps.HasField("extra_amount") else ""
    return text


def _say(output: Output, review: caps_pb2.RechargeReview) -> None:
    if output.as_json:
        output.object(review)
        return
    output.pairs(
        {
            "review": review.name,
            "state": _state(review),
            "stopped": f"{money(review.charge)} by the {review.cap.removesuffix('_CAP').lower()} cap of {review.month}",
            review.caps.month: text_of(review.caps),
            "ends": when(review.end_time if review.HasField("end_time") else review.month_end_time),
            "decided by": review.decided_by or "nobody",
            "why": review.reason or "",
        }
    )


def _state(review: caps_pb2.RechargeReview) -> str:
    return caps_pb2.RechargeReviewState.Name(review.state).removeprefix("RECHARGE_REVIEW_STATE_").lower()
