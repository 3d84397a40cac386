"""Between the contract's messages and the domain's values: alerts and organisations' settings."""

from typing import Any

from pursestrings.budget.v1 import budget_pb2
from services.budget import wire
from services.budget.domain import alerts
from services.budget.domain.budgets import countable, key_text
from services.budget.domain.org_settings import OrgSettings, SettingsDraft
from services.budget.store.alerts import AlertRow
from services.kit.auth import identity


def caller() -> str:
    """Who calls, for the history: the subject of the credential and the token's id."""
    who = identity()
    return f"{who.subject}#{who.token_id}"


def alert_message(row: AlertRow) -> budget_pb2.Alert:
    """An alert as the contract has it."""
    level = alerts.severity(row.threshold)
    message = budget_pb2.Alert(
        name=row.name,
        subject=row.subject,
        budget=row.budget,
        dimension=row.dimension.value,  # type: ignore[arg-type]
        currency_code=row.currency,
        limit_amount=row.limit,
        spent_amount=row.spent,
        reserved_amount=row.reserved,
        asked_amount=row.asked,
        remaining_amount=countable(row.limit - row.spent),
        percent=alerts.percent(row.limit, row.spent),
        threshold_percent=row.threshold,
        window=key_text(row.key),
        severity=level.value,  # type: ignore[arg-type]
        cause=row.cause.value,  # type: ignore[arg-type]
        recommended_action=alerts.recommended_action(level, row.on_exceed, row.cause),
        on_exceed=row.on_exceed.value,  # type: ignore[arg-type]
        generation=row.generation,
        state=budget_pb2.ALERT_STATE_OPEN if row.acknowledged_us is None else budget_pb2.ALERT_STATE_ACKNOWLEDGED,
        acknowledged_by=row.acknowledged_by,
        note=row.note,
    )
    wire.set_time(message.raise_time, row.raised_us)
    for target, at_us in (
        (message.window_start_time, row.window_start_us),
        (message.window_end_time, row.window_end_us),
        (message.acknowledge_time, row.acknowledged_us),
    ):
        if at_us is not None:
            wire.set_time(target, at_us)
    return message


def settings_message(org: str, settings: OrgSettings) -> budget_pb2.OrgSettings:
    """Settings as the contract has them; `org` is the bare id."""
    message = budget_pb2.OrgSettings(
        org=f"orgs/{org}",
        default_on_exceed=settings.default_on_exceed.value,  # type: ignore[arg-type]
        default_resume=settings.default_resume.value,  # type: ignore[arg-type]
        default_thresholds_percent=settings.default_thresholds,
        deny_unbudgeted=settings.deny_unbudgeted,
        require_wallet=settings.require_wallet,
        expired_hold=settings.expired_hold.value,  # type: ignore[arg-type]
        unrated_model=settings.unrated_model.value,  # type: ignore[arg-type]
        etag=settings.etag,
        updated_by=settings.updated_by,
    )
    if settings.updated_us:
        wire.set_time(message.update_time, settings.updated_us)
    return message


def settings_draft(message: Any) -> SettingsDraft:
    """Settings as a caller wrote them."""
    return SettingsDraft(
        message.default_on_exceed,
        message.default_resume,
        tuple(message.default_thresholds_percent),
        message.deny_unbudgeted,
        message.require_wallet,
        message.expired_hold,
        message.unrated_model,
    )
