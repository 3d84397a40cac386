"""What people are told of differences and concerns. Pure."""

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from pursestrings.budget.v1 import deliveries_pb2, subscriptions_pb2
from pursestrings.wallet.v1 import reports_pb2, statements_pb2
from services.kit import money

_KIND_PREFIX: Final = "CONCERN_KIND_"
_WALLETS: Final = "/wallets/"
_DETAIL_CHARS_MAX: Final = 1_000
_ONCE: Final = frozenset({"GRANT_EXPIRING", "LEASE_RECLAIMED"})
_WORDS: Final[Mapping[str, str]] = {
    "GRANT_EXPIRING": "{amount} of {reference} expire on {at}",
    "LEASE_QUARANTINED": "the lease of {wallet} to {reference} stands still until an operator has looked: {detail}",
    "LEASE_IDLE": "{reference} holds {amount} of {wallet} and has moved nothing since {at}",
    "LEASE_RECLAIMED": "{amount} were taken back by force from {reference} on {at}: {detail}",
    "RECHARGE_STUCK": "{reference} of {amount} has been pending since {at}: {detail}",
    "RECHARGE_PROBLEM": "{reference} was charged and does not fit, so nothing is granted: {detail}",
}


def of_difference(org: str, one: statements_pb2.Difference, day: str) -> deliveries_pb2.Event:
    """The notice of a difference; told once a day as long as it is there.

    Args:
        org: `orgs/{id}`, for what belongs to no wallet.
        one: The difference.
        day: `YYYY-MM-DD`.
    """
    return _notice(
        f"reconcile/{day}/{one.kind}/{_short(f'{one.wallet} {one.subject}')}",
        one.wallet.partition(_WALLETS)[0] or org,
        f"reconcile.{one.kind.lower()}",
        {
            "reference": one.subject,
            "wallet": one.wallet,
            "detail": one.detail,
            "difference_nanos": str(one.difference_nanos),
        },
    )


def of_more(org: str, more: int, day: str) -> deliveries_pb2.Event:
    """The notice that there are more differences than are told singly."""
    detail = f"{more} more differences were found; `purse wallet reconcile {org}` names them"
    return _notice(f"reconcile/{day}/more", org, "reconcile.more", {"reference": org, "detail": detail})


def of_check(org: str, name: str, detail: str, day: str) -> deliveries_pb2.Event:
    """The notice of a check across the services that does not hold."""
    return _notice(
        f"audit/{day}/{name}", org, "reconcile.check_failed", {"reference": name, "detail": detail, "check": name}
    )


def of_concern(one: reports_pb2.Concern, day: str) -> deliveries_pb2.Event:
    """The notice of a concern: once where it is about one moment, else once a day as long as it lasts."""
    kind = reports_pb2.ConcernKind.Name(one.kind).removeprefix(_KIND_PREFIX)
    at = one.concern_time.ToDatetime(tzinfo=UTC)
    when = at.date().isoformat() if kind in _ONCE else day
    facts = {
        "reference": one.reference,
        "wallet": one.wallet,
        "amount_nanos": str(one.amount.amount_nanos),
        "currency_code": one.amount.currency_code,
        "at": at.isoformat().replace("+00:00", "Z"),
        "detail": _WORDS[kind].format(
            amount=money.format_nanos(one.amount.amount_nanos, one.amount.currency_code),
            reference=one.reference,
            wallet=one.wallet,
            at=f"{at:%Y-%m-%d %H:%M} UTC",
            detail=one.detail,
        ),
    }
    key = f"report/{kind}/{when}/{_short(f'{one.wallet} {one.reference}')}"
    return _notice(key, one.wallet.partition(_WALLETS)[0], f"wallet.{kind.lower()}", facts)


def day_of(now_us: int) -> str:
    """The date in UTC, `YYYY-MM-DD`."""
    return datetime.fromtimestamp(now_us // 1_000_000, UTC).date().isoformat()


def _notice(key: str, subject: str, kind: str, facts: dict[str, str]) -> deliveries_pb2.Event:
    facts["detail"] = facts["detail"][:_DETAIL_CHARS_MAX]
    return deliveries_pb2.Event(
        key=key,
        subject=subject,
        event=subscriptions_pb2.EVENT_KIND_NOTICE,
        type=kind,
        data=json.dumps(facts, separators=(",", ":"), sort_keys=True),
    )


def _short(name: str) -> str:
    """Names may be longer than a key."""
    return hashlib.sha256(name.encode()).hexdigest()[:24]
