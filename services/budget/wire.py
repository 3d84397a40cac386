"""Between the contract's messages and the domain's values: the hot path. What cannot be read is refused by field."""

import hashlib
import re
import time
from datetime import date, timedelta
from functools import lru_cache
from typing import Any, Final

from pursestrings.budget.v1 import approvals_pb2, budget_pb2, pauses_pb2
from services.budget.domain.budgets import AMOUNT_MAX, Budget, Dimension, key_text
from services.budget.domain.model import (
    Applied,
    ApplyItem,
    Call,
    Decision,
    DeniedReason,
    ExtendItem,
    Reservation,
    ReserveItem,
    Use,
)
from services.budget.domain.pauses import Pause
from services.budget.rates import Rates
from services.kit.errors import Code, PurseError, invalid
from services.kit.money import CURRENCIES
from services.kit.outbox import HELD_BACK_MAX
from services.kit.rating import MAX_COUNT, Rate, Tokens
from services.kit.subject import Subject, SubjectError, parse, parse_resource
from services.kit.windows import LIFETIME_END_US, MAX_UNIX_US, MIN_UNIX_US

_US: Final = 1_000_000
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}").fullmatch
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]").search
_TTL_DEFAULT_US: Final = 300 * _US
_TTL_MIN_US: Final = _US
_TTL_MAX_US: Final = 86_400 * _US
_NAME_CHARS_MAX: Final = 256
_OPERATION_CHARS_MAX: Final = 63
_LABELS_MAX: Final = 16
_LABEL_VALUE_CHARS_MAX: Final = 255
_KEY_CHARS_MAX: Final = 128
_LINE_CHARS_MAX: Final = 256
_USES_MAX: Final = 50_000
_NO_CALL: Final = Call()
_COST, _TOKENS, _INPUT, _OUTPUT = (
    1 << d for d in (Dimension.COST, Dimension.TOKENS, Dimension.INPUT_TOKENS, Dimension.OUTPUT_TOKENS)
)


def now_us() -> int:
    """This machine's clock, in microseconds since 1970; only what prices are in force depends on it."""
    return time.time_ns() // 1000


def digest(message: Any) -> bytes:
    """What tells a request sent again from another under the same id."""
    return hashlib.blake2b(message.SerializeToString(deterministic=True), digest_size=16).digest()


def subject_of(name: str, field: str = "subject") -> Subject:
    """Parses a subject; MALFORMED_SUBJECT names the field."""
    try:
        return parse(name)
    except SubjectError as error:
        raise invalid(field, str(error), "MALFORMED_SUBJECT") from None


def resource_of(name: str, collection: str, field: str = "name") -> tuple[Subject, str]:
    """Parses a resource's name; MALFORMED_NAME names the field."""
    try:
        return parse_resource(name, collection)
    except SubjectError as error:
        raise invalid(field, str(error), "MALFORMED_NAME") from None


def reserve_item(request: budget_pb2.ReserveRequest, rates: Rates, at_us: int) -> ReserveItem:
    """What a request asks for, priced.

    Raises:
        PurseError: The field at fault.
    """
    subject = subject_of(request.subject)
    request_id = request.request_id
    validate_only = request.validate_only
    if not _ID(request_id) and (request_id or not validate_only):
        raise _bad_request_id(request_id)
    call, unpriced = _call(request.call, rates, subject.org, at_us) if request.HasField("call") else (_NO_CALL, None)
    input_tokens = output_tokens = None
    cost: int | None = None
    price: Rate | None = None
    currency = rate_version = ""
    requests = 1
    if request.HasField("estimate"):
        estimate = request.estimate
        if estimate.HasField("input_tokens"):
            input_tokens = _count(estimate.input_tokens, "estimate.input_tokens")
        if estimate.HasField("max_output_tokens"):
            output_tokens = _count(estimate.max_output_tokens, "estimate.max_output_tokens")
        if estimate.HasField("requests"):
            requests = _count(estimate.requests, "estimate.requests")
        if estimate.HasField("cost"):
            cost, currency = _cost(estimate.cost)
    if cost is None and call.model and (unpriced is None or unpriced.code is not Code.INVALID_ARGUMENT):
        tokens = Tokens(input_tokens or 0, 0, 0, output_tokens or 0, 0, requests)
        cost, currency, rate_version, price = rates.price(
            call.provider, call.model, tokens, at_us, org=subject.org, service_tier=request.call.service_tier
        )
        if input_tokens is None or output_tokens is None:
            cost, currency, price = None, "", None
    unknown = 0
    if cost is None or input_tokens is None or output_tokens is None:
        unknown = (
            (_COST if cost is None else 0)
            | (_INPUT if input_tokens is None else 0)
            | (_OUTPUT if output_tokens is None else 0)
            | (_TOKENS if input_tokens is None or output_tokens is None else 0)
        )
    made, used = output_tokens or 0, input_tokens or 0
    both = 0 if unknown & _TOKENS else used + made
    return ReserveItem(
        subject.org,
        request_id,
        subject,
        digest(request),
        call,
        currency,
        (0, cost or 0, both, used, made, requests),
        unknown,
        cost,
        _ttl_us(request) if request.HasField("ttl") else _TTL_DEFAULT_US,
        validate_only,
        request.strict,
        rate_version,
        output_tokens is not None,
        price,
        unpriced,
    )


def check_request_id(request_id: str) -> None:
    """Refuses what is no id of a request."""
    if not _ID(request_id):
        raise _bad_request_id(request_id)


def _bad_request_id(request_id: str) -> Exception:
    if not request_id:
        return invalid(
            "request_id", "is required; make one for each request, a UUID for example", "REQUEST_ID_REQUIRED"
        )
    return invalid("request_id", f"{request_id[:80]!r} is no id: 1 to 63 of A-Z a-z 0-9 . _ -, the first no sign")


def extend_item(request: budget_pb2.ExtendReservationRequest) -> ExtendItem:
    """What a request asks for.

    Raises:
        PurseError: The field at fault.
    """
    subject, id_ = resource_of(request.name, "reservations")
    if not _ID(request.request_id):
        raise _bad_request_id(request.request_id)
    ttl_us = _ttl_us(request) if request.HasField("ttl") else _TTL_DEFAULT_US
    return ExtendItem(subject.org, id_, subject, request.request_id, digest(request), ttl_us)


def _ttl_us(request: budget_pb2.ReserveRequest | budget_pb2.ExtendReservationRequest) -> int:
    ttl_us = request.ttl.seconds * _US + request.ttl.nanos // 1000
    if not _TTL_MIN_US <= ttl_us <= _TTL_MAX_US:
        raise invalid("ttl", f"is {ttl_us / _US:g} s; a hold lives 1 s to 24 h")
    return ttl_us


def _count(count: int, field: str) -> int:
    if 0 <= count <= MAX_COUNT:
        return count
    raise invalid(field, f"is {count}; it must be 0 to {MAX_COUNT}", "AMOUNT_OUT_OF_RANGE")


def _cost(money: Any) -> tuple[int, str]:
    currency: str = money.currency_code
    nanos: int = money.amount_nanos
    if currency not in CURRENCIES:
        raise invalid(
            "estimate.cost.currency_code",
            f"{currency[:16]!r} is no currency known here; use an ISO 4217 code such as 'USD'",
            "UNKNOWN_CURRENCY",
        )
    if nanos < 0:
        raise invalid("estimate.cost.amount_nanos", f"is {nanos}; it must be 0 to {AMOUNT_MAX}", "AMOUNT_OUT_OF_RANGE")
    return nanos, currency


def _call(call: Any, rates: Rates, org: str, at_us: int) -> tuple[Call, PurseError | None]:
    """The call, and why its model has no price, if it has none."""
    labels = _labels(call) if call.labels else ()
    operation = call.operation
    if len(operation) > _OPERATION_CHARS_MAX:
        raise invalid("call.operation", f"is {len(operation)} characters long; the limit is {_OPERATION_CHARS_MAX}")
    check_text(operation, "call.operation")
    provider, model = call.provider, call.model
    if len(provider) > _NAME_CHARS_MAX or len(model) > _NAME_CHARS_MAX:
        field = "call.provider" if len(provider) > _NAME_CHARS_MAX else "call.model"
        raise invalid(field, f"is longer than {_NAME_CHARS_MAX} characters")
    if provider or model:
        check_text(provider, "call.provider")
        check_text(model, "call.model")
        # Selectors are in lower case, and so is the usage that will settle this.
        provider, model, unpriced = rates.name(provider, model, org, at_us)
        return Call(provider.lower(), model.lower(), operation, labels), unpriced
    return Call(provider, model, operation, labels), None


def check_text(text: str, field: str) -> None:
    """Refuses control characters: a zero byte cannot be stored, and the others are in no name."""
    if not text.isprintable() and _CONTROL(text):
        raise invalid(field, "holds control characters; remove them")


def _labels(call: Any) -> tuple[tuple[str, str], ...]:
    labels = tuple(sorted(call.labels.items()))
    if len(labels) > _LABELS_MAX:
        raise invalid("call.labels", f"are {len(labels)}; at most {_LABELS_MAX} are kept")
    for key, value in labels:
        if not 0 < len(key) <= _OPERATION_CHARS_MAX or len(value) > _LABEL_VALUE_CHARS_MAX:
            raise invalid(
                "call.labels",
                f"{key[:80]!r}: a key is 1 to {_OPERATION_CHARS_MAX} characters, "
                f"a value at most {_LABEL_VALUE_CHARS_MAX}",
            )
        check_text(key, "call.labels")
        check_text(value, f"call.labels.{key}")
    return labels


def apply_item(item: budget_pb2.UsageItem) -> ApplyItem:
    """What a relayed event says.

    Raises:
        PurseError: The field at fault.
    """
    subject = subject_of(item.subject)
    if not 0 < len(item.source) <= _KEY_CHARS_MAX or not 0 < len(item.id) <= _KEY_CHARS_MAX:
        field = "id" if 0 < len(item.source) <= _KEY_CHARS_MAX else "source"
        raise invalid(field, f"must be 1 to {_KEY_CHARS_MAX} characters")
    check_text(item.source, "source")
    check_text(item.id, "id")
    call = item.call
    # The statements of wallets have room for so much; what is longer was never a name. Selectors are in lower case.
    provider, model = (name.strip().lower()[:_LINE_CHARS_MAX] for name in (call.provider, call.model))
    check_text(provider, "call.provider")
    check_text(model, "call.model")
    labels = tuple(sorted(call.labels.items())) if call.labels else ()
    corrects = _corrects(item) if item.HasField("corrects") else None
    count = _count if corrects is None else _difference
    input_tokens = count(item.tokens.input_tokens, "tokens.input_tokens")
    output_tokens = count(item.tokens.output_tokens, "tokens.output_tokens")
    requests = int(item.final and corrects is None)
    if item.HasField("requests"):
        requests = count(item.requests, "requests")
    rated = item.HasField("cost")
    cost, currency = (item.cost.amount_nanos, item.cost.currency_code) if rated else (0, "")
    check_text(currency, "cost.currency_code")
    occurred_us = _occurred_us(item)
    reservation = reservation_subject = ""
    if item.reservation:
        reservation_subject, reservation = _reservation(item.reservation, subject.org)
    return ApplyItem(
        subject.org,
        item.source,
        item.id,
        subject,
        digest(item),
        Call(provider, model, call.operation, labels),
        (0, cost, input_tokens + output_tokens, input_tokens, output_tokens, requests),
        rated,
        currency,
        occurred_us,
        _month(occurred_us // (86_400 * _US)),
        reservation,
        reservation_subject,
        item.final,
        corrects=corrects,
    )


def _corrects(item: budget_pb2.UsageItem) -> tuple[str, str]:
    """Source and id of the event that an item adjusts."""
    source, id_ = item.corrects.source, item.corrects.id
    if not 0 < len(source) <= _KEY_CHARS_MAX or not 0 < len(id_) <= _KEY_CHARS_MAX:
        raise invalid("corrects", f"names an event by its source and id, each 1 to {_KEY_CHARS_MAX} characters")
    check_text(source, "corrects.source")
    check_text(id_, "corrects.id")
    if (source, id_) == (item.source, item.id):
        raise invalid("corrects", "is the item itself; a correction needs an id of its own")
    return source, id_


def _difference(count: int, field: str) -> int:
    if -MAX_COUNT <= count <= MAX_COUNT:
        return count
    raise invalid(field, f"is {count}; it must be -{MAX_COUNT} to {MAX_COUNT}", "AMOUNT_OUT_OF_RANGE")


def _reservation(name: str, org: str) -> tuple[str, str]:
    """Subject and id of the reservation; empty where it cannot be one of this organisation: usage counts anyway."""
    try:
        subject, id_ = parse_resource(name, "reservations")
    except SubjectError:
        return "", ""
    return (subject.name, id_) if subject.org == org else ("", "")


def held_back(request: budget_pb2.ApplyUsageRequest) -> dict[str, int]:
    """Bare ids of organisations with usage that was not delivered, and up to when theirs was, in microseconds.

    Raises:
        PurseError: The field at fault.
    """
    if len(request.held_back) > HELD_BACK_MAX:
        raise invalid("held_back", f"are {len(request.held_back)}; at most {HELD_BACK_MAX} are held back singly")
    if request.held_back and not request.HasField("delivered_through"):
        raise invalid("delivered_through", "is required with held_back")
    return {subject_of(one.org, "held_back.org").org: time_us(one.delivered_through) for one in request.held_back}


def time_us(timestamp: Any) -> int:
    """A timestamp in microseconds since 1970."""
    us: int = timestamp.seconds * _US + timestamp.nanos // 1000
    return us


def _occurred_us(item: budget_pb2.UsageItem) -> int:
    if not item.HasField("occurred_at"):
        raise invalid("occurred_at", "is required; it says which windows count the event")
    at_us = item.occurred_at.seconds * _US + item.occurred_at.nanos // 1000
    if not MIN_UNIX_US <= at_us < MAX_UNIX_US:
        raise invalid("occurred_at", "must lie in the years 1900 to 2999")
    return at_us


@lru_cache(maxsize=1024)
def _month(day: int) -> str:
    """`YYYY-MM` in UTC of a day since 1970."""
    return (date(1970, 1, 1) + timedelta(days=day)).isoformat()[:7]


def set_decision(target: budget_pb2.Decision, decision: Decision) -> None:
    """Fills in the answer. Fields are set one by one: half the time of keywords."""
    if decision.denied is DeniedReason.NONE:
        target.outcome = budget_pb2.OUTCOME_ALLOW
    elif decision.denied is DeniedReason.APPROVAL_REQUIRED:
        target.outcome = budget_pb2.OUTCOME_APPROVAL_REQUIRED
    else:
        target.outcome = budget_pb2.OUTCOME_DENY
        target.denied_reason = decision.denied.value  # type: ignore[assignment]
    if decision.reservation:
        target.reservation = decision.reservation
        set_time(target.expire_time, decision.expires_us)
    if decision.cost is not None:
        target.cost.currency_code = decision.currency
        target.cost.amount_nanos = decision.cost
    if decision.wallet:
        target.wallet = decision.wallet
    if decision.tightest is not None:
        set_use(target.tightest, decision.tightest)
    for use in decision.warnings:
        set_use(target.warnings.add(), use)
    if decision.unchecked:
        target.unchecked_budgets.extend(decision.unchecked)
    if decision.rate_version:
        target.rate_card_version = decision.rate_version
    if decision.denied is not DeniedReason.NONE:
        _set_why_not(target, decision)


def _set_why_not(target: budget_pb2.Decision, decision: Decision) -> None:
    for use in decision.violations:
        set_use(target.violations.add(), use)
    if decision.fit is not None:
        target.fitting_output_tokens = decision.fit.output_tokens
    for pause in decision.pauses:
        target.pauses.append(pause_message(pause, None))
    if decision.need is not None:
        _set_need(target.approval, decision)


def _set_need(target: approvals_pb2.ApprovalNeed, decision: Decision) -> None:
    need = decision.need
    assert need is not None
    if need.approval is not None:
        target.approval = need.approval.name
        target.state = need.approval.state.value  # type: ignore[assignment]
        target.decided_by = need.approval.decided_by
        target.reason = need.approval.reason
    target.policy_subject = need.subject
    if need.above >= 0:
        target.approval_above.currency_code = decision.currency
        target.approval_above.amount_nanos = need.above


def pause_message(pause: Pause, at_us: int | None) -> pauses_pb2.Pause:
    """A pause as the contract has it; `at_us` says whether it is active, None: it is."""
    message = pauses_pb2.Pause(
        name=pause.name,
        subject=pause.subject,
        cause=pause.cause.value,  # type: ignore[arg-type]
        reason=pause.reason,
        paused_by=pause.paused_by,
        budget=pause.budget,
        window=key_text(pause.window_key) if pause.budget_no else "",
        ended_by=pause.ended_by,
        end_note=pause.end_note,
        active=at_us is None or pause.is_active(at_us),
    )
    set_time(message.pause_time, pause.paused_us)
    if pause.until_us < LIFETIME_END_US:
        set_time(message.until_time, pause.until_us)
    if pause.ended_us is not None:
        set_time(message.end_time, pause.ended_us)
    return message


_uses: dict[tuple[Budget, int], budget_pb2.BudgetUse] = {}
"""What every message of one budget's window has alike, by definition and window; bounded, a memo of values."""


def set_use(target: budget_pb2.BudgetUse, use: Use) -> None:
    """Fills in one budget window."""
    budget = use.budget
    key = (budget, use.key)
    alike = _uses.get(key)
    if alike is None:
        if len(_uses) >= _USES_MAX:
            _uses.clear()
        alike = _uses[key] = _alike(use)
    target.CopyFrom(alike)
    target.spent_amount = use.spent
    target.reserved_amount = use.reserved
    target.asked_amount = use.asked
    target.remaining_amount = use.remaining
    if use.overage:
        target.overage_amount = use.overage


def _alike(use: Use) -> budget_pb2.BudgetUse:
    budget = use.budget
    message = budget_pb2.BudgetUse(
        budget=budget.name,
        window=key_text(use.key),
        limit_amount=budget.limit,
        dimension=budget.dimension.value,  # type: ignore[arg-type]
        currency_code=budget.currency,
    )
    if use.end_us < LIFETIME_END_US:
        set_time(message.window_end_time, use.end_us)
    return message


def set_time(target: Any, at_us: int) -> None:
    """Fills in a timestamp."""
    seconds, rest = divmod(at_us, _US)
    target.seconds = seconds
    target.nanos = rest * 1000


def set_applied(target: budget_pb2.AppliedUsage, applied: Applied) -> None:
    """Fills in what became of an event."""
    target.duplicate = applied.duplicate
    target.drawn_nanos = applied.drawn
    target.unfunded = applied.unfunded
    target.unreserved = applied.unreserved


def set_reservation(target: budget_pb2.Reservation, found: Reservation, names: dict[int, str]) -> None:
    """Fills in a reservation; `names` are those of the budgets it holds on."""
    target.name = found.name
    target.state = found.state.value  # type: ignore[assignment]
    for at in range(0, len(found.holds), 4):
        no, key, placed, held = found.holds[at : at + 4]
        target.holds.add(budget=names.get(no, ""), window=key_text(key), placed_amount=placed, held_amount=held)
    target.wallet = found.wallet or ""
    if found.cost is not None:
        target.cost.currency_code = found.currency
        target.cost.amount_nanos = found.cost
    target.funding_held_nanos = found.funding_held
    target.settled_nanos = found.settled
    set_time(target.create_time, found.created_us)
    set_time(target.expire_time, found.expires_us)
    target.rate_card_version = found.rate_version
    target.settled_events = found.events
    if found.closed_us:
        set_time(target.close_time, found.closed_us)
