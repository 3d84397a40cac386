"""`purse wallet`: cards, top-ups and the links on which people pay; Stripe's events that could not be processed."""

import uuid
from typing import Annotated, Final

import typer

from pursestrings.cli.connection import Suite, pages, with_suite
from pursestrings.cli.failures import CHECK_FAILED
from pursestrings.cli.options import Json, Limit, RequestId, amount, begin
from pursestrings.cli.output import Output, money, to_plain, when
from pursestrings.wallet.v1 import payments_pb2, wallet_pb2

_STATES: Final = {
    "parked": payments_pb2.STRIPE_EVENT_STATE_PARKED,
    "waiting": payments_pb2.STRIPE_EVENT_STATE_WAITING,
    "done": payments_pb2.STRIPE_EVENT_STATE_DONE,
}

Name = Annotated[str, typer.Argument(help="The wallet, for example orgs/acme/wallets/main.")]
Back = Annotated[str, typer.Option("--return-url", help="Where the page goes on to afterwards.")]


def card(
    context: typer.Context,
    *,
    name: Name,
    payment_method: Annotated[
        str, typer.Argument(help="As Stripe names it; pm_card_visa is a test card. Nothing: a page to enter one on.")
    ] = "",
    return_url: Back = "",
    request_id: RequestId = None,
    as_json: Json = False,
) -> None:
    """Put a payment method on file and make it the default; without one, print a link to enter a card on."""
    where, output = begin(context, as_json=as_json)
    request = wallet_pb2.SetupPaymentMethodRequest(
        wallet=name,
        payment_method=payment_method,
        request_id=request_id or str(uuid.uuid4()),
        success_url=return_url,
        cancel_url=return_url,
    )
    answer = with_suite(where, lambda suite: suite.wallet("SetupPaymentMethod", request))
    if output.as_json:
        output.object(answer)
    elif answer.url:
        output.say(f"enter the card here, within a day: {answer.url}")
    else:
        output.say(f"{answer.wallet.payment_method} is on file for {name}")


def cards(context: typer.Context, name: Name, as_json: Json = False) -> None:
    """List the payment methods on file."""
    where, output = begin(context, as_json=as_json)
    request = payments_pb2.ListPaymentMethodsRequest(wallet=name)
    found = with_suite(where, lambda suite: suite.wallet("ListPaymentMethods", request))
    if output.as_json:
        output.object(found)
        return
    output.table(
        ("card", "brand", "ends in", "expires", "default"),
        [
            (
                one.payment_method,
                one.brand,
                one.last4,
                f"{one.exp_year}-{one.exp_month:02d}",
                "yes" if one.is_default else "",
            )
            for one in found.payment_methods
        ],
    )


def detach(
    context: typer.Context,
    *,
    name: Name,
    payment_method: Annotated[str, typer.Argument(help="As Stripe names it; `purse wallet cards` lists them.")],
    as_json: Json = False,
) -> None:
    """Take a payment method off file, for good."""
    where, output = begin(context, as_json=as_json)
    request = payments_pb2.DetachPaymentMethodRequest(wallet=name, payment_method=payment_method)
    answer = with_suite(where, lambda suite: suite.wallet("DetachPaymentMethod", request))
    if output.as_json:
        output.object(answer)
        return
    left = answer.default_payment_method or "none: recharges wait for a card"
    output.say(f"{payment_method} is off file; the default is {left}")


def top_up(
    context: typer.Context,
    *,
    name: Name,
    put_in: Annotated[str, typer.Argument(metavar="AMOUNT", help="How much: 25, or '25 EUR'.")],
    charge: Annotated[bool, typer.Option("--charge", help="Charge the card on file instead of giving a link.")] = False,
    return_url: Back = "",
    request_id: RequestId = None,
    as_json: Json = False,
) -> None:
    """Put money in by one payment: print a link to pay on, or charge the card on file; ends with 1 where that fails."""
    where, output = begin(context, as_json=as_json)

    async def work(suite: Suite) -> payments_pb2.TopUp:
        wallet = (await suite.wallet("GetWallet", wallet_pb2.GetWalletRequest(name=name))).wallet
        request = payments_pb2.TopUpRequest(
            wallet=name,
            amount=amount(put_in, wallet.currency_code).to_proto(),
            on_session=not charge,
            request_id=request_id or str(uuid.uuid4()),
            success_url=return_url,
            cancel_url=return_url,
        )
        answer: payments_pb2.TopUpResponse = await suite.wallet("TopUp", request)
        return answer.top_up

    _show(output, with_suite(where, work))


def cancel_top_up(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The top-up, for example orgs/acme/topUps/0123.")],
    as_json: Json = False,
) -> None:
    """Give up a top-up that was not paid; one that was paid meanwhile has succeeded."""
    where, output = begin(context, as_json=as_json)
    request = payments_pb2.CancelTopUpRequest(name=name)
    one = with_suite(where, lambda suite: suite.wallet("CancelTopUp", request)).top_up
    output.object(one) if output.as_json else output.say(f"{one.name} has {_state(one)}")


def top_ups(context: typer.Context, name: Name, limit: Limit = 100, as_json: Json = False) -> None:
    """List a wallet's top-ups, newest first."""
    where, output = begin(context, as_json=as_json)
    request = payments_pb2.ListTopUpsRequest(wallet=name)

    async def work(suite: Suite) -> list[payments_pb2.TopUp]:
        return await pages(lambda page: suite.wallet("ListTopUps", page), request, lambda page: page.top_ups, limit)

    found = with_suite(where, work)
    if output.as_json:
        output.object({"topUps": [to_plain(one) for one in found]})
        return
    output.table(
        ("top-up", "state", "amount", "payment intent", "why", "created"),
        [
            (
                one.name,
                _state(one),
                money(one.amount),
                one.payment_intent_status,
                one.failure_reason or one.decline_code,
                when(one.create_time),
            )
            for one in found
        ],
        right=("amount",),
    )


def authenticate(
    context: typer.Context,
    *,
    name: Annotated[str, typer.Argument(help="A recharge or a top-up that waits for its cardholder.")],
    return_url: Back = "",
    as_json: Json = False,
) -> None:
    """Print the link on which the cardholder authenticates a payment."""
    where, output = begin(context, as_json=as_json)
    request = payments_pb2.AuthenticatePaymentRequest(name=name, return_url=return_url)
    answer = with_suite(where, lambda suite: suite.wallet("AuthenticatePayment", request))
    if output.as_json:
        output.object(answer)
    else:
        output.say(f"authenticate it here: {answer.url}" if answer.url else f"{name} went through without it")


def events(
    context: typer.Context,
    *,
    state: Annotated[str, typer.Option("--state", help="parked, waiting or done.")] = "parked",
    requeue: Annotated[bool, typer.Option("--requeue", help="Process parked events again (role operator).")] = False,
    event: Annotated[str, typer.Option("--event", help="With --requeue: this event alone.")] = "",
    limit: Limit = 100,
    as_json: Json = False,
) -> None:
    """List Stripe's events in the inbox: those that were put aside because processing them fails, unless told else."""
    where, output = begin(context, as_json=as_json)
    if state not in _STATES:
        raise typer.BadParameter(f"{state!r} is none of {', '.join(_STATES)}", param_hint="--state")
    if requeue:
        asked = payments_pb2.RequeueStripeEventsRequest(event=event)
        answer = with_suite(where, lambda suite: suite.wallet("RequeueStripeEvents", asked))
        output.object(answer) if output.as_json else output.say(f"{answer.requeued} events are processed again")
        return
    request = payments_pb2.ListStripeEventsRequest(state=_STATES[state])

    async def work(suite: Suite) -> list[payments_pb2.StripeEvent]:
        return await pages(
            lambda page: suite.wallet("ListStripeEvents", page), request, lambda page: page.events, limit
        )

    found = with_suite(where, work)
    if output.as_json:
        output.object({"events": [to_plain(one) for one in found]})
        return
    output.table(
        ("event", "type", "organisation", "failures", "outcome", "received"),
        [(one.event, one.type, one.org, str(one.failures), one.outcome, when(one.receive_time)) for one in found],
        right=("failures",),
    )


def add_to(app: typer.Typer) -> None:
    """Makes these commands of `purse wallet`."""
    for command in (card, cards, detach, top_up, top_ups, cancel_top_up, authenticate, events):
        app.command(command.__name__.replace("_", "-"))(command)


def _state(one: payments_pb2.TopUp) -> str:
    return payments_pb2.TopUpState.Name(one.state).removeprefix("TOP_UP_STATE_").lower()


def _show(output: Output, one: payments_pb2.TopUp) -> None:
    if output.as_json:
        output.object(one)
    elif one.url:
        output.say(f"pay {money(one.amount)} here, within a day: {one.url}")
    elif one.state == payments_pb2.TOP_UP_STATE_SUCCEEDED:
        output.say(f"paid {money(one.amount)} as {one.grant}")
    elif one.decline_code == "authentication_required":
        output.say(f"the bank wants the cardholder: purse wallet authenticate {one.name}")
    else:
        output.say(f"{one.name} is {_state(one)}: {one.failure_reason or 'the bank has not answered yet'}")
    if one.state == payments_pb2.TOP_UP_STATE_FAILED:
        raise typer.Exit(CHECK_FAILED)
