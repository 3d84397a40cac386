"""`purse reservations`: what is held, by whom and until when."""

import uuid
from typing import Annotated

import typer

from pursestrings._errors import Denied
from pursestrings.budget.v1 import budget_pb2
from pursestrings.cli.connection import Suite, pages, with_suite
from pursestrings.cli.failures import CliError
from pursestrings.cli.options import Json, Limit, RequestId, begin, seconds
from pursestrings.cli.output import money, to_plain, when

app = typer.Typer(help="What is held for calls that are under way, and what became of it.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The reservation, for example orgs/acme/agents/bot/reservations/3f1c….")]


@app.command("list")
def list_(
    context: typer.Context,
    *,
    subject: Annotated[str, typer.Argument(help="Whose reservations.")],
    descendants: Annotated[bool, typer.Option("--descendants/--no-descendants", help="Those below it too.")] = True,
    state: Annotated[
        list[str] | None, typer.Option("--state", help="open, settled, released, expired or charged; may be repeated.")
    ] = None,
    unsettled: Annotated[
        bool, typer.Option("--unsettled", help="Only those that no usage has settled; with --state expired: lost ones.")
    ] = False,
    limit: Limit = 100,
    as_json: Json = False,
) -> None:
    """List the reservations of a subject and of those below it."""
    where, output = begin(context, as_json=as_json)
    request = budget_pb2.ListReservationsRequest(
        parent=subject,
        include_descendants=descendants,
        states=[_state(text) for text in state or ()],
        unsettled_only=unsettled,
    )

    async def work(suite: Suite) -> list[budget_pb2.Reservation]:
        return await pages(
            lambda page: suite.budget("ListReservations", page), request, lambda page: page.reservations, limit
        )

    found = with_suite(where, work)
    if output.as_json:
        output.object({"reservations": [to_plain(one) for one in found]})
        return
    output.table(
        ("reservation", "state", "cost", "settled by", "made", "until"),
        [
            (
                one.name,
                _state_text(one),
                _cost(one),
                f"{one.settled_events} events",
                when(one.create_time),
                when(one.close_time if one.HasField("close_time") else one.expire_time),
            )
            for one in found
        ],
        right=("cost", "settled by"),
    )


@app.command()
def show(context: typer.Context, name: Name, as_json: Json = False) -> None:
    """Show a reservation and what it holds."""
    where, output = begin(context, as_json=as_json)
    request = budget_pb2.GetReservationRequest(name=name)
    found = with_suite(where, lambda suite: suite.budget("GetReservation", request)).reservation
    if output.as_json:
        output.object(found)
        return
    output.pairs(
        {
            "name": found.name,
            "state": _state_text(found),
            "cost": _cost(found),
            "settled by": f"{found.settled_events} events",
            "wallet": found.wallet or "none",
            "made": when(found.create_time),
            "until": when(found.expire_time),
        }
    )
    output.table(
        ("budget", "window", "placed", "held"),
        [(hold.budget, hold.window, f"{hold.placed_amount:,}", f"{hold.held_amount:,}") for hold in found.holds],
        right=("placed", "held"),
    )


@app.command()
def release(context: typer.Context, name: Name, as_json: Json = False) -> None:
    """Give back what a reservation still holds."""
    where, output = begin(context, as_json=as_json)
    request = budget_pb2.ReleaseRequest(name=name)
    found = with_suite(where, lambda suite: suite.budget("Release", request)).reservation
    output.object(found) if output.as_json else output.say(f"{found.name} is {_state_text(found)}")


@app.command()
def extend(
    context: typer.Context,
    *,
    name: Name,
    ttl: Annotated[str, typer.Option("--for", help="How long from now on: 90s, 15m, 12h; at most 24h.")] = "5m",
    request_id: RequestId = None,
    as_json: Json = False,
) -> None:
    """Let a reservation live longer, as a new decision in the windows of now."""
    where, output = begin(context, as_json=as_json)
    request = budget_pb2.ExtendReservationRequest(name=name, request_id=request_id or str(uuid.uuid4()))
    request.ttl.seconds = seconds(ttl)
    decision = with_suite(where, lambda suite: suite.budget("ExtendReservation", request)).decision
    if decision.outcome != budget_pb2.OUTCOME_ALLOW:
        raise Denied(decision)
    output.object(decision) if output.as_json else output.say(f"{name} holds until {when(decision.expire_time)}")


def _state(text: str) -> budget_pb2.ReservationState.ValueType:
    known = [name.removeprefix("RESERVATION_STATE_").lower() for name in budget_pb2.ReservationState.keys()[1:]]
    if text.lower() not in known:
        raise CliError(f"--state {text!r} is not known", f"choose some of {', '.join(known)}")
    return budget_pb2.ReservationState.Value(f"RESERVATION_STATE_{text.upper()}")


def _state_text(one: budget_pb2.Reservation) -> str:
    return budget_pb2.ReservationState.Name(one.state).removeprefix("RESERVATION_STATE_").lower()


def _cost(one: budget_pb2.Reservation) -> str:
    return money(one.cost) if one.HasField("cost") else "unknown"
