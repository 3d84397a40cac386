"""Translates cards, top-ups and the inbox between the contract and the store."""

from typing import Final

from pursestrings.type.v1 import type_pb2
from pursestrings.wallet.v1 import payments_pb2 as payments
from services.kit import subject as subjects
from services.kit.errors import invalid
from services.wallet.convert import from_page_token, timestamp, to_page_token
from services.wallet.recharge.domain.top_up import State
from services.wallet.recharge.pages import Card
from services.wallet.recharge.store import inbox
from services.wallet.recharge.store.inbox import ListedEvent
from services.wallet.recharge.store.top_ups import TopUpRow

_STATES: Final = {
    State.PENDING: payments.TOP_UP_STATE_PENDING,
    State.SUCCEEDED: payments.TOP_UP_STATE_SUCCEEDED,
    State.FAILED: payments.TOP_UP_STATE_FAILED,
}
_EVENT_STATES: Final = {
    payments.STRIPE_EVENT_STATE_UNSPECIFIED: "PARKED",
    payments.STRIPE_EVENT_STATE_PARKED: "PARKED",
    payments.STRIPE_EVENT_STATE_WAITING: "WAITING",
    payments.STRIPE_EVENT_STATE_DONE: "DONE",
}


def top_up_key(name: str, field: str) -> str:
    """The bare id of the organisation that a top-up's name begins with."""
    try:
        return subjects.parse_resource(name, "topUps")[0].org
    except subjects.SubjectError as error:
        raise invalid(field, str(error), "MALFORMED_NAME") from None


def next_page(row: TopUpRow) -> str:
    """The token of the page that follows a top-up."""
    return to_page_token(row.wallet, f"{row.created_at.isoformat()} {row.name}")


def top_up_message(row: TopUpRow) -> payments.TopUp:
    """A top-up for the wire; its amount is what was received once it succeeded."""
    message = payments.TopUp(
        name=row.name,
        wallet=row.wallet,
        state=_STATES[row.state],
        amount=type_pb2.Money(currency_code=row.currency, amount_nanos=row.received_nanos or row.amount_nanos),
        on_session=row.on_session,
        url=row.url,
        payment_intent=row.payment_intent or "",
        payment_intent_status=row.intent_status,
        decline_code=row.decline_code,
        failure_reason=row.failure_reason or row.problem,
        grant=row.grant_name or "",
        create_time=timestamp(row.created_at),
    )
    if row.state is State.PENDING:
        message.expire_time.CopyFrom(timestamp(row.expires_at))
    if row.ended_at is not None:
        message.end_time.CopyFrom(timestamp(row.ended_at))
    return message


def card_message(card: Card, default: str | None) -> payments.PaymentMethod:
    """A card for the wire."""
    return payments.PaymentMethod(
        payment_method=card.payment_method,
        brand=card.brand,
        last4=card.last4,
        exp_month=card.exp_month,
        exp_year=card.exp_year,
        is_default=card.payment_method == default,
    )


def event_state(state: "payments.StripeEventState.ValueType") -> str:
    """As the inbox calls it."""
    if state not in _EVENT_STATES:
        raise invalid("state", f"{state} is none of PARKED, WAITING, DONE")
    return _EVENT_STATES[state]


def event_page_after(token: str, state: str) -> tuple[str, str]:
    """(organisation, id) that a page follows; empty for the first page."""
    org, _, event_id = from_page_token(token, state).partition(" ")
    return org, event_id


def next_event_page(event: ListedEvent) -> str:
    """The token of the page that follows an event."""
    return to_page_token(event.state, f"{event.org} {event.id}")


def event_message(event: ListedEvent) -> payments.StripeEvent:
    """An event for the wire."""
    return payments.StripeEvent(
        event=event.id,
        type=event.type,
        org="" if event.org == inbox.NO_ORG else f"orgs/{event.org}",
        state=payments.StripeEventState.Value(f"STRIPE_EVENT_STATE_{event.state}"),
        outcome=event.outcome,
        failures=event.failures,
        receive_time=timestamp(event.received_at),
    )
