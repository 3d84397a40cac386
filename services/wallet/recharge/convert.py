"""Translates recharges between the contract and the domain."""

from datetime import UTC, datetime, timedelta
from typing import Final

from google.protobuf.duration_pb2 import Duration

from pursestrings.type.v1 import type_pb2
from pursestrings.wallet.v1 import predictive_pb2
from pursestrings.wallet.v1 import wallet_pb2 as pb
from services.kit import subject as subjects
from services.kit.errors import invalid
from services.kit.money import MAX_NANOS
from services.wallet.convert import from_page_token, timestamp, to_page_token
from services.wallet.recharge.domain import attempts as steps
from services.wallet.recharge.domain import policy as rules
from services.wallet.recharge.domain.policy import (
    Amount,
    CurrencyError,
    Draft,
    Forecast,
    Policy,
    PolicyError,
    Predictive,
)
from services.wallet.recharge.observe import Authorized
from services.wallet.recharge.store.policies import Facts
from services.wallet.recharge.store.recharges import RechargeRow

_STATES: Final = {
    steps.State.PENDING: pb.RECHARGE_STATE_PENDING,
    steps.State.SUCCEEDED: pb.RECHARGE_STATE_SUCCEEDED,
    steps.State.FAILED: pb.RECHARGE_STATE_FAILED,
}

_HOURS_AHEAD: Final = 24
_QUANTILE_PERCENT: Final = 90
_LEAD_TIME_QUANTILE_PERCENT: Final = 99


def recharge_key(name: str, field: str) -> tuple[str, str]:
    """(org, name) of a recharge's resource name."""
    try:
        return subjects.parse_resource(name, "recharges")[0].org, name
    except subjects.SubjectError as error:
        raise invalid(field, str(error), "MALFORMED_NAME") from None


def page_after(token: str, wallet: str) -> tuple[datetime, str] | None:
    """The (creation time, name) that a page follows; None for the first page."""
    after = from_page_token(token, wallet)
    if not after:
        return None
    instant, _, name = after.partition(" ")
    try:
        return datetime.fromisoformat(instant).astimezone(UTC), name
    except ValueError:
        raise invalid("page_token", "is none of this method's; send the one of the page before") from None


def next_page(row: RechargeRow) -> str:
    """The token of the page that follows a recharge."""
    return to_page_token(row.wallet, f"{row.created_at.isoformat()} {row.name}")


def checked_policy(message: pb.RechargePolicy, currency: str) -> Policy:
    """The policy that a message asks for, or the refusal that names the field at fault."""
    cooldown = message.cooldown.ToTimedelta() if message.HasField("cooldown") else timedelta(0)
    predictive = None
    threshold = _amount(message, "threshold")
    if message.mode == pb.RECHARGE_MODE_PREDICTIVE:
        if threshold is not None:
            raise invalid(
                "policy.threshold", "leave it out under PREDICTIVE; say predictive.floor", "BAD_RECHARGE_POLICY"
            )
        asked = message.predictive
        threshold = _amount(asked, "floor")
        usual = _LEAD_TIME_QUANTILE_PERCENT if asked.lead_time else _QUANTILE_PERCENT
        predictive = Predictive(
            asked.predict_hours_ahead or _HOURS_AHEAD, asked.quantile_percent or usual, asked.lead_time
        )
    elif message.HasField("predictive"):
        raise invalid("policy.predictive", "set mode to PREDICTIVE, or leave it out", "BAD_RECHARGE_POLICY")
    draft = Draft(
        enabled=message.enabled,
        threshold=threshold,
        amount=_amount(message, "amount"),
        max_count=message.max_count_per_month,
        max_amount=_amount(message, "max_amount_per_month"),
        cooldown=cooldown,
        paused_reason=message.paused_reason,
        target=_amount(message, "target"),
        least=_amount(message, "min_amount"),
        most=_amount(message, "max_amount"),
        predictive=predictive,
    )
    try:
        return rules.check(draft, currency)
    except CurrencyError as error:
        raise invalid(f"policy.{error.field}", str(error), "CURRENCY_MISMATCH") from None
    except PolicyError as error:
        raise invalid(f"policy.{error.field}", str(error), "BAD_RECHARGE_POLICY") from None


def _amount(message: pb.RechargePolicy | predictive_pb2.PredictiveSettings, field: str) -> Amount | None:
    if not message.HasField(field):  # type: ignore[arg-type]
        return None
    money: type_pb2.Money = getattr(message, field)
    return Amount(money.currency_code, money.amount_nanos)


def _money(nanos: int, currency: str) -> type_pb2.Money:
    return type_pb2.Money(currency_code=currency, amount_nanos=nanos)


def policy_message(known: Facts) -> pb.RechargePolicy:
    """A policy for the wire."""
    policy = known.policy
    assert policy is not None, "asked for a wallet with a policy"
    message = pb.RechargePolicy(
        wallet=known.wallet,
        enabled=policy.enabled,
        mode=pb.RECHARGE_MODE_THRESHOLD,
        max_count_per_month=policy.max_count,
        paused_reason=policy.paused_reason,
        paused_by=known.paused_by,
        pause_time=timestamp(known.paused_at) if known.paused_at else None,
    )
    amounts = {
        "amount": policy.amount_nanos,
        "target": policy.target_nanos,
        "min_amount": policy.min_nanos or None,
        "max_amount": policy.max_nanos,
        "max_amount_per_month": policy.max_amount_nanos,
    }
    if policy.predictive is None:
        amounts["threshold"] = policy.threshold_nanos
    else:
        message.mode = pb.RECHARGE_MODE_PREDICTIVE
        message.predictive.CopyFrom(settings_message(policy, known.currency))
    for field, nanos in amounts.items():
        if nanos is not None:
            getattr(message, field).CopyFrom(_money(nanos, known.currency))
    if policy.cooldown:
        message.cooldown.CopyFrom(_duration(policy.cooldown))
    return message


def settings_message(policy: Policy, currency: str) -> predictive_pb2.PredictiveSettings:
    """What a policy by forecast goes by, for the wire."""
    predictive, floor_nanos = policy.predictive, policy.threshold_nanos
    assert predictive is not None, "asked of a policy by forecast"
    return predictive_pb2.PredictiveSettings(
        predict_hours_ahead=predictive.hours_ahead,
        quantile_percent=predictive.quantile_percent,
        lead_time=predictive.lead_time,
        floor=_money(floor_nanos, currency) if floor_nanos else None,
    )


def asked_forecast(message: predictive_pb2.RechargeForecast) -> Forecast:
    """The forecast that a message brings, or the refusal that names the field at fault."""
    if not message.HasField("as_of_time"):
        raise invalid("forecast.as_of_time", "is required: from when on the forecast is")
    if not 0 <= message.spend_nanos <= MAX_NANOS:
        raise invalid("forecast.spend_nanos", "must be 0 or more: what is spent over the hours ahead")
    if message.quantile_percent not in rules.QUANTILES:
        raise invalid("forecast.quantile_percent", f"is {message.quantile_percent}; say 50, 90 or 99")
    if not 1 <= message.hours_ahead <= rules.MAX_HOURS_AHEAD:
        raise invalid("forecast.hours_ahead", f"is {message.hours_ahead}; say 1 to {rules.MAX_HOURS_AHEAD}")
    if not 0 <= message.peak_nanos <= MAX_NANOS // 2:
        raise invalid(
            "forecast.peak_nanos", f"must be 0 to {MAX_NANOS // 2}: the most that was spent in a row of hours"
        )
    if message.history_hours < 0:
        raise invalid("forecast.history_hours", "must be 0 or more: how many hours the forecast goes by")
    depletes_at = message.depletion_time.ToDatetime(tzinfo=UTC) if message.HasField("depletion_time") else None
    return Forecast(
        message.spend_nanos,
        message.quantile_percent,
        message.hours_ahead,
        message.as_of_time.ToDatetime(tzinfo=UTC),
        depletes_at,
        peak_nanos=message.peak_nanos,
    )


def _forecast_message(forecast: Forecast) -> predictive_pb2.RechargeForecast:
    return predictive_pb2.RechargeForecast(
        spend_nanos=forecast.spend_nanos,
        quantile_percent=forecast.quantile_percent,
        hours_ahead=forecast.hours_ahead,
        depletion_time=timestamp(forecast.depletes_at) if forecast.depletes_at else None,
        as_of_time=timestamp(forecast.as_of),
        balance_nanos=forecast.balance_nanos,
        peak_nanos=forecast.peak_nanos,
        floor_nanos=forecast.floor_nanos,
    )


def recharge_message(row: RechargeRow) -> pb.Recharge:
    """A recharge for the wire; its amount is what was received once it succeeded."""
    intent, attempt = row.intent, row.attempt
    message = pb.Recharge(
        name=row.name,
        wallet=row.wallet,
        state=_STATES[row.state],
        amount=_money(row.received_nanos or row.amount_nanos, row.currency),
        month=row.month,
        number=row.number,
        attempts=len(row.attempts),
        payment_intent=(intent.payment_intent or "") if intent else "",
        payment_intent_status=intent.status if intent else "",
        decline_code=attempt.decline_code if attempt else "",
        reason=row.reason,
        failure_reason=row.failure_reason or row.problem,
        grant=row.grant_name or "",
        create_time=timestamp(row.created_at),
    )
    if row.ended_at is not None:
        message.end_time.CopyFrom(timestamp(row.ended_at))
    if row.forecast is not None:
        message.forecast.CopyFrom(_forecast_message(row.forecast))
    return message


def authorized_message(decided: Authorized) -> pb.AuthorizeAttemptResponse:
    """What to do next, for the wire."""
    row, step = decided.row, decided.step
    answer = pb.AuthorizeAttemptResponse(recharge=recharge_message(row))
    match step:
        case steps.Charge():
            _fill_charge(answer, row)
            answer.installation = decided.installation
        case steps.Observe(reason, retry_after_s):
            answer.verdict = pb.ATTEMPT_VERDICT_OBSERVE
            answer.reason = reason
            answer.retry_after.CopyFrom(_duration(timedelta(seconds=retry_after_s)))
        case steps.Wait(reason, retry_after_s, by_itself=by_itself):
            answer.verdict = pb.ATTEMPT_VERDICT_WAIT
            answer.reason = reason
            answer.needs_person = not by_itself
            answer.retry_after.CopyFrom(_duration(timedelta(seconds=retry_after_s)))
        case steps.GiveUp(reason):
            answer.verdict = pb.ATTEMPT_VERDICT_GIVE_UP
            answer.reason = reason
        case steps.Ended():
            answer.verdict = pb.ATTEMPT_VERDICT_ENDED
            answer.reason = f"it has {row.state.value.lower()}"
    return answer


def _fill_charge(answer: pb.AuthorizeAttemptResponse, row: RechargeRow) -> None:
    attempt = row.open_attempt
    assert attempt is not None, "a charge stores its attempt first"
    intent = next(one for one in row.intents if one.number == attempt.intent_number)
    answer.verdict = pb.ATTEMPT_VERDICT_CHARGE
    answer.reason = f"attempt {attempt.number}"
    answer.attempt = attempt.number
    answer.payment_intent_number = intent.number
    answer.create_key = intent.create_key
    answer.confirm_key = attempt.confirm_key
    answer.payment_intent = intent.payment_intent or ""
    answer.customer = intent.customer
    answer.payment_method = attempt.payment_method
    answer.amount_minor = row.amount_minor
    answer.currency = row.currency.lower()


def _duration(length: timedelta) -> Duration:
    message = Duration()
    message.FromTimedelta(length)
    return message
