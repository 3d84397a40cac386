"""What a policy of approvals may say."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from services.budget.domain.approvals import ApprovalPolicy
from services.budget.domain.budgets import AMOUNT_MAX
from services.kit.approvals import DEFAULT_TIMES, LONGEST_US, SHORTEST_US, Times, Urgency, is_ordered
from services.kit.errors import PurseError, conflict, invalid
from services.kit.money import CURRENCIES

CURRENCIES_MAX: Final = 10
POLICIES_MAX: Final = 1_000
"""The most subjects of an organisation with a policy."""


@dataclass(frozen=True, slots=True)
class PolicyDraft:
    """A policy as a caller wrote it: amounts by currency in nano-units, and times by the urgency's number."""

    above: tuple[tuple[str, int], ...]
    held: tuple[tuple[str, int], ...]
    times: tuple[tuple[int, Times], ...]
    etag: str


def define(draft: PolicyDraft, seen: ApprovalPolicy, now_us: int, by: str) -> ApprovalPolicy:
    """The policy that takes the place of the one that is there.

    Raises:
        PurseError: The field at fault, or ETAG_MISMATCH.
    """
    if draft.etag and draft.etag != seen.etag:
        raise conflict(
            "ETAG_MISMATCH",
            f"etag: the policy of {seen.subject} has changed since; read it again and decide anew",
            field="policy.etag",
            etag=seen.etag,
        )
    times: dict[Urgency, Times] = {}
    for number, of in draft.times:
        if number not in set(Urgency) or Urgency(number) in times:
            raise invalid("policy.times.urgency", "is LOW, MEDIUM or HIGH, each once")
        if not is_ordered(of):
            raise invalid(
                "policy.times",
                f"are {SHORTEST_US // 1_000_000} s to {LONGEST_US // 86_400_000_000} days, and remind_after is shorter "
                "than escalate_after, which is shorter than expire_after",
            )
        times[Urgency(number)] = of
    return ApprovalPolicy(
        seen.org,
        seen.subject,
        _amounts(draft.above, "policy.approval_above"),
        _amounts(draft.held, "policy.held_max"),
        times,
        seen.revision + 1,
        now_us,
        by,
    )


def _amounts(amounts: tuple[tuple[str, int], ...], field: str) -> dict[str, int]:
    if len(amounts) > CURRENCIES_MAX:
        raise invalid(field, f"are {len(amounts)} amounts; at most {CURRENCIES_MAX}")
    found: dict[str, int] = {}
    for currency, nanos in amounts:
        if currency not in CURRENCIES:
            raise invalid(
                f"{field}.currency_code",
                f"{currency[:16]!r} is no currency known here; use an ISO 4217 code such as 'USD'",
                "UNKNOWN_CURRENCY",
            )
        if currency in found:
            raise invalid(f"{field}.currency_code", f"{currency} is named twice; say it once")
        if not 0 <= nanos <= AMOUNT_MAX:
            raise invalid(f"{field}.amount_nanos", f"is {nanos}; it must be 0 to {AMOUNT_MAX}", "AMOUNT_OUT_OF_RANGE")
        found[currency] = nanos
    return found


def refuse_more(count: int) -> PurseError | None:
    """Why an organisation with so many policies gets no other one."""
    if count < POLICIES_MAX:
        return None
    return conflict(
        "TOO_MANY_APPROVAL_POLICIES",
        f"{count} subjects have a policy of approvals, which is the limit; one of a subject above serves many",
    )


def in_force(policies: list[ApprovalPolicy], org: str, subject: str) -> ApprovalPolicy:
    """What holds for a subject: the strictest of the policies on its way, in order from the organisation down.

    What may be held is limited at every level by itself; the lowest is shown.
    """
    above = strictest([policy.above for policy in policies])
    held = strictest([policy.held for policy in policies])
    return ApprovalPolicy(org, subject, above, held, {urgency: times_of(policies, urgency) for urgency in Urgency})


def strictest(amounts: list[Mapping[str, int]]) -> dict[str, int]:
    """The lowest amount by currency."""
    found: dict[str, int] = {}
    for one in amounts:
        for currency, nanos in one.items():
            found[currency] = min(nanos, found.get(currency, nanos))
    return found


def times_of(policies: list[ApprovalPolicy], urgency: Urgency) -> Times:
    """The times of an urgency: of the nearest policy that sets them, else the defaults."""
    for policy in reversed(policies):
        if urgency in policy.times:
            return policy.times[urgency]
    return DEFAULT_TIMES[urgency]
