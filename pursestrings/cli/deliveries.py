"""`purse deliveries`: what was sent to a subscription, what waits, and what was given up."""

from typing import Annotated

import typer

from pursestrings.budget.v1 import deliveries_pb2
from pursestrings.cli.budget import enum_value
from pursestrings.cli.connection import Suite, pages, with_suite
from pursestrings.cli.failures import CliError
from pursestrings.cli.options import Json, Limit, begin, split_name
from pursestrings.cli.output import to_plain, when

app = typer.Typer(help="Events on their way to subscriptions.", no_args_is_help=True)


@app.command("list")
def list_(
    context: typer.Context,
    *,
    subscription: Annotated[str, typer.Argument(help="For example orgs/acme/subscriptions/ops.")],
    state: Annotated[str | None, typer.Option("--state", help="pending, delivered or dead.")] = None,
    channel: Annotated[str | None, typer.Option("--channel", help="webhook or mail.")] = None,
    limit: Limit = 100,
    as_json: Json = False,
) -> None:
    """List deliveries: webhooks before mails, each the newest first."""
    where, output = begin(context, as_json=as_json)
    split_name(subscription, "subscriptions")
    request = deliveries_pb2.ListDeliveriesRequest(parent=subscription)
    if state is not None:
        request.state = enum_value(deliveries_pb2.DeliveryState, "DELIVERY_STATE_", state, "--state")
    if channel is not None:
        request.channel = enum_value(deliveries_pb2.DeliveryChannel, "DELIVERY_CHANNEL_", channel, "--channel")

    async def work(suite: Suite) -> list[deliveries_pb2.Delivery]:
        return await pages(
            lambda page: suite.budget("ListDeliveries", page), request, lambda page: page.deliveries, limit
        )

    found = with_suite(where, work)
    if output.as_json:
        output.object({"deliveries": [to_plain(one) for one in found]})
        return
    output.table(
        ("delivery", "written", "event", "about", "state", "tries", "next try", "last error"),
        [_row(one) for one in found],
        right=("tries",),
    )


@app.command()
def redeliver(
    context: typer.Context,
    *,
    subscription: Annotated[str, typer.Argument(help="For example orgs/acme/subscriptions/ops.")],
    deliveries: Annotated[
        list[str] | None, typer.Argument(help="Which ones, as `list` names them or by their ids: webhook-12.")
    ] = None,
    all_dead: Annotated[bool, typer.Option("--all-dead", help="All that were given up, the oldest 10,000.")] = False,
    as_json: Json = False,
) -> None:
    """Send deliveries again, dead or delivered; a pending one is tried at once."""
    where, output = begin(context, as_json=as_json)
    split_name(subscription, "subscriptions")
    if bool(deliveries) == all_dead:
        raise CliError("nothing says which deliveries", "name some, or give --all-dead")
    prefix = f"{subscription}/deliveries/"
    request = deliveries_pb2.RedeliverDeliveriesRequest(
        subscription=subscription,
        deliveries=[one if "/" in one else f"{prefix}{one}" for one in deliveries or []],
        all_dead=all_dead,
    )
    answer = with_suite(where, lambda suite: suite.budget("RedeliverDeliveries", request))
    output.object(answer) if output.as_json else output.say(f"{answer.count} are sent again")


def _row(one: deliveries_pb2.Delivery) -> tuple[str, ...]:
    return (
        one.name.rpartition("/")[2],
        when(one.create_time),
        one.type,
        one.subject,
        deliveries_pb2.DeliveryState.Name(one.state).removeprefix("DELIVERY_STATE_").lower(),
        str(one.tries),
        when(one.next_try_time) if one.HasField("next_try_time") else "",
        one.last_error,
    )
