"""`purse subscriptions`: who is told what, and where."""

from typing import Annotated

import typer

from pursestrings.budget.v1 import deliveries_pb2, subscriptions_pb2
from pursestrings.cli.budget import enum_value
from pursestrings.cli.connection import Suite, pages, with_suite
from pursestrings.cli.options import Json, Limit, begin, split_name
from pursestrings.cli.output import to_plain

app = typer.Typer(help="Where alerts and pauses are sent.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The subscription, for example orgs/acme/subscriptions/ops.")]


@app.command()
def create(
    context: typer.Context,
    *,
    name: Name,
    webhook: Annotated[str, typer.Option("--webhook", help="https address to POST to.")] = "",
    email: Annotated[str, typer.Option("--email", help="Address to mail to.")] = "",
    event: Annotated[
        list[str] | None,
        typer.Option(
            "--event",
            help="warning, critical, exceeded, paused, resumed, notice, approval, recharge, statement; repeatable.",
        ),
    ] = None,
    payload: Annotated[
        str, typer.Option("--payload", help="The shape of a webhook's body: event, or warning for agents.")
    ] = "event",
    display_name: Annotated[str, typer.Option("--display-name", help="For people.")] = "",
    as_json: Json = False,
) -> None:
    """Subscribe to a subject's events and those below it. The secret is shown this once."""
    where, output = begin(context, as_json=as_json)
    parent, subscription_id = split_name(name, "subscriptions")
    events = [enum_value(subscriptions_pb2.EventKind, "EVENT_KIND_", one, "--event") for one in event or []]
    wanted = subscriptions_pb2.Subscription(
        webhook_url=webhook,
        email=email,
        events=events,
        display_name=display_name,
        payload=enum_value(subscriptions_pb2.PayloadShape, "PAYLOAD_SHAPE_", payload, "--payload"),
    )
    request = subscriptions_pb2.CreateSubscriptionRequest(
        parent=parent, subscription_id=subscription_id, subscription=wanted
    )
    made = with_suite(where, lambda suite: suite.budget("CreateSubscription", request))
    if output.as_json:
        output.object(made)
        return
    output.say(f"created {made.subscription.name}")
    if made.secret:
        output.say(f"secret, shown this once: {made.secret}")


@app.command("list")
def list_(
    context: typer.Context,
    *,
    subject: Annotated[str, typer.Argument(help="Whose subscriptions; those below it too.")],
    limit: Limit = 1000,
    as_json: Json = False,
) -> None:
    """List subscriptions."""
    where, output = begin(context, as_json=as_json)
    request = subscriptions_pb2.ListSubscriptionsRequest(parent=subject, include_descendants=True)

    async def work(suite: Suite) -> list[subscriptions_pb2.Subscription]:
        return await pages(
            lambda page: suite.budget("ListSubscriptions", page), request, lambda page: page.subscriptions, limit
        )

    found = with_suite(where, work)
    if output.as_json:
        output.object({"subscriptions": [to_plain(one) for one in found]})
        return
    output.table(
        ("subscription", "webhook", "secret", "email", "events", "state"),
        [(s.name, s.webhook_url, s.secret_hint, s.email, _events(s), _state(s)) for s in found],
    )


@app.command()
def rotate(context: typer.Context, *, name: Name, as_json: Json = False) -> None:
    """Make a new secret; it is shown this once."""
    where, output = begin(context, as_json=as_json)
    request = subscriptions_pb2.UpdateSubscriptionRequest(subscription=subscriptions_pb2.Subscription(name=name))
    request.update_mask.paths.append("secret")
    answer = with_suite(where, lambda suite: suite.budget("UpdateSubscription", request))
    output.object(answer) if output.as_json else output.say(f"secret, shown this once: {answer.secret}")


@app.command()
def enable(context: typer.Context, *, name: Name, as_json: Json = False) -> None:
    """Send again: after `disable`, or where a channel was switched off because it failed."""
    _switch(context, name, disabled=False, as_json=as_json)


@app.command()
def disable(context: typer.Context, *, name: Name, as_json: Json = False) -> None:
    """Send nothing until `enable`; what waits is kept for 30 days, what happens meanwhile is not told."""
    _switch(context, name, disabled=True, as_json=as_json)


@app.command("test")
def try_out(context: typer.Context, *, name: Name, as_json: Json = False) -> None:
    """Send a test event to this subscription alone."""
    where, output = begin(context, as_json=as_json)
    request = deliveries_pb2.TestSubscriptionRequest(name=name)
    answer = with_suite(where, lambda suite: suite.budget("TestSubscription", request))
    if output.as_json:
        output.object(answer)
        return
    for one in answer.deliveries:
        output.say(f"on its way: {one.name}")


@app.command()
def delete(context: typer.Context, *, name: Name, as_json: Json = False) -> None:
    """Delete a subscription."""
    where, output = begin(context, as_json=as_json)
    request = subscriptions_pb2.DeleteSubscriptionRequest(name=name)
    with_suite(where, lambda suite: suite.budget("DeleteSubscription", request))
    output.object({"deleted": name}) if output.as_json else output.say(f"deleted {name}")


def _switch(context: typer.Context, name: str, *, disabled: bool, as_json: bool) -> None:
    where, output = begin(context, as_json=as_json)
    wanted = subscriptions_pb2.Subscription(name=name, disabled=disabled)
    request = subscriptions_pb2.UpdateSubscriptionRequest(subscription=wanted)
    request.update_mask.paths.append("disabled")
    answer = with_suite(where, lambda suite: suite.budget("UpdateSubscription", request))
    word = "disabled" if disabled else "enabled"
    output.object(answer.subscription) if output.as_json else output.say(f"{word} {name}")


def _state(found: subscriptions_pb2.Subscription) -> str:
    if found.disabled:
        return "disabled"
    off = {"webhook": found.webhook_off_reason, "mail": found.email_off_reason}
    return "; ".join(f"{channel} off: {why}" for channel, why in off.items() if why) or "on"


def _events(found: subscriptions_pb2.Subscription) -> str:
    names = [subscriptions_pb2.EventKind.Name(event).removeprefix("EVENT_KIND_").lower() for event in found.events]
    return ", ".join(names) or "all"
