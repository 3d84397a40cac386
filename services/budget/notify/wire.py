"""Between the contract's messages and plain values: deliveries."""

from typing import Any, Final

from pursestrings.budget.v1 import deliveries_pb2
from services.budget import wire
from services.budget.domain.subscriptions import EventKind
from services.budget.notify.carrying import Report, Taken
from services.budget.notify.domain import lanes
from services.budget.notify.domain.lanes import Channel, Outcome, State
from services.budget.notify.store.lanes import DeliveryRow
from services.kit.errors import invalid, not_found
from services.kit.subject import Subject

HOLDER_CHARS_MAX: Final = 128


def channel_of(number: int) -> Channel:
    """A channel; INVALID_ARGUMENT."""
    try:
        return Channel(number)
    except ValueError:
        raise invalid("channel", f"{number} is none of WEBHOOK and MAIL") from None


def state_of(number: int) -> int:
    """A state, 0 for all; INVALID_ARGUMENT."""
    if number and number not in {int(one) for one in State}:
        raise invalid("state", f"{number} is none of PENDING, DELIVERED and DEAD")
    return number


def holder_of(text: str) -> str:
    """Who delivers; INVALID_ARGUMENT."""
    if not 1 <= len(text) <= HOLDER_CHARS_MAX or not text.isprintable():
        raise invalid("holder", f"must be 1 to {HOLDER_CHARS_MAX} printable characters")
    return text


def numbers_of(names: Any, subject: Subject, id_: str) -> list[tuple[Channel, int]]:
    """Channels and numbers of deliveries that are named in full.

    Raises:
        PurseError: One is no name of a delivery of this subscription.
    """
    prefix = f"{subject.name}/subscriptions/{id_}/deliveries/"
    found = []
    for name in names:
        place = lanes.parse_delivery_id(name.removeprefix(prefix)) if name.startswith(prefix) else None
        if place is None:
            raise not_found(f"delivery {name[:200]!r} of {subject.name}/subscriptions/{id_}", "DELIVERY_UNKNOWN")
        found.append(place)
    return found


def report_of(message: deliveries_pb2.DeliveryReport) -> Report:
    """A try; INVALID_ARGUMENT."""
    try:
        outcome = Outcome(message.outcome)
    except ValueError:
        raise invalid("reports.outcome", f"{message.outcome} is no outcome") from None
    # A zero byte cannot be stored, and an error from the network may hold anything.
    error = "".join(c if c.isprintable() else " " for c in message.error)
    return Report(message.number, outcome, error, max(0, message.retry_after_s))


def delivery_message(subscription: str, row: DeliveryRow) -> deliveries_pb2.Delivery:
    """A delivery as the contract has it."""
    message = deliveries_pb2.Delivery(
        name=f"{subscription}/deliveries/{lanes.delivery_id(row.channel, row.number)}",
        channel=row.channel.value,  # type: ignore[arg-type]
        number=row.number,
        message_id=row.message_id,
        event=EventKind(row.event).value,  # type: ignore[arg-type]
        type=row.type,
        subject=row.subject,
        key=row.key,
        state=row.state.value,  # type: ignore[arg-type]
        tries=row.tries,
        last_error=row.last_error,
    )
    wire.set_time(message.create_time, row.created_us)
    if row.first_try_us is not None:
        wire.set_time(message.first_try_time, row.first_try_us)
    if row.state is State.PENDING:
        wire.set_time(message.next_try_time, row.next_try_us)
    if row.closed_us is not None:
        wire.set_time(message.close_time, row.closed_us)
    return message


def taken_message(taken: Taken) -> deliveries_pb2.TakeDeliveriesResponse:
    """What is to be sent, as the contract has it. Secrets only go with something to sign."""
    to = taken.to
    message = deliveries_pb2.TakeDeliveriesResponse(
        webhook_url=to.webhook_url,
        email=to.email,
        payload=to.payload.value,  # type: ignore[arg-type]
        waiting_count=taken.waiting,
        reason=taken.reason,
    )
    for row in taken.rows:
        one = message.deliveries.add(
            number=row.number, message_id=row.message_id, tries=row.tries, payload=row.payload.decode()
        )
        wire.set_time(one.create_time, row.created_us)
    if taken.rows:
        message.secrets.extend(taken.secrets)
    if taken.hold_us:
        message.hold.FromMicroseconds(taken.hold_us)
    if taken.rest_us is not None:
        message.rest.FromMicroseconds(taken.rest_us)
    return message
