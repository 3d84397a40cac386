"""The part of the gRPC face that people use: pauses, alerts, subscriptions and organisations' settings."""

from typing import Any, Final

import grpc

from pursestrings.budget.v1 import budget_pb2, budget_pb2_grpc, pauses_pb2, subscriptions_pb2
from services.budget import wire, wire_alerts
from services.budget.alerted import Alerted
from services.budget.domain.subscriptions import EventKind, Subscription, SubscriptionDraft
from services.budget.paused import Paused
from services.budget.settings_of_orgs import SettingsOfOrgs
from services.budget.store.alerts import AlertFilter
from services.budget.subscriptions import Subscriptions
from services.budget.wire_alerts import caller
from services.kit.errors import invalid
from services.kit.subject import Subject

_FOREVER_US: Final = 2**62
_SEVERITY_FROM: Final = {0: 0, 1: 0, 2: 95, 3: 100}

Context = grpc.aio.ServicerContext[Any, Any]


class PolicyMethods(budget_pb2_grpc.BudgetServiceServicer):
    """Methods that concern what is allowed and who is told, rather than single spends."""

    _paused: Paused
    _alerted: Alerted
    _subscriptions: Subscriptions
    _settings_of_orgs: SettingsOfOrgs

    async def Pause(self, request: pauses_pb2.PauseRequest, context: Context) -> pauses_pb2.PauseResponse:
        """Pauses a subject."""
        wire.check_text(request.reason, "reason")
        pause = await self._paused.pause(
            wire.subject_of(request.subject), request.reason, by=caller(), validate_only=request.validate_only
        )
        return pauses_pb2.PauseResponse(pause=wire.pause_message(pause, None))

    async def Resume(self, request: pauses_pb2.ResumeRequest, context: Context) -> pauses_pb2.ResumeResponse:
        """Ends a subject's own pauses."""
        wire.check_text(request.note, "note")
        ended, remaining, now_us = await self._paused.resume(
            wire.subject_of(request.subject), request.note, by=caller(), validate_only=request.validate_only
        )
        return pauses_pb2.ResumeResponse(
            ended=[wire.pause_message(pause, now_us) for pause in ended],
            remaining=[wire.pause_message(pause, now_us) for pause in remaining],
        )

    async def ListPauses(
        self, request: pauses_pb2.ListPausesRequest, context: Context
    ) -> pauses_pb2.ListPausesResponse:
        """A page of pauses."""
        found, token, now_us = await self._paused.list_page(
            wire.subject_of(request.parent, "parent"),
            request.page_size,
            request.page_token,
            ancestors=request.include_ancestors,
            ended=request.include_ended,
        )
        return pauses_pb2.ListPausesResponse(
            pauses=[wire.pause_message(pause, now_us) for pause in found], next_page_token=token
        )

    async def ListAlerts(
        self, request: budget_pb2.ListAlertsRequest, context: Context
    ) -> budget_pb2.ListAlertsResponse:
        """A page of alerts."""
        found, token = await self._alerted.list_page(
            wire.subject_of(request.parent, "parent"), _filter(request), request.page_size, request.page_token
        )
        return budget_pb2.ListAlertsResponse(
            alerts=[wire_alerts.alert_message(row) for row in found], next_page_token=token
        )

    async def AcknowledgeAlert(
        self, request: budget_pb2.AcknowledgeAlertRequest, context: Context
    ) -> budget_pb2.AcknowledgeAlertResponse:
        """Notes who has seen an alert."""
        wire.check_text(request.note, "note")
        subject, id_ = wire.resource_of(request.name, "alerts")
        found = await self._alerted.acknowledge(subject, id_, request.note, by=caller())
        return budget_pb2.AcknowledgeAlertResponse(alert=wire_alerts.alert_message(found))

    async def CreateSubscription(
        self, request: subscriptions_pb2.CreateSubscriptionRequest, context: Context
    ) -> subscriptions_pb2.CreateSubscriptionResponse:
        """Adds a subscription; its secret is shown this once."""
        subject = wire.subject_of(request.parent, "parent")
        wire.resource_of(f"{subject.name}/subscriptions/{request.subscription_id}", "subscriptions", "subscription_id")
        made = await self._subscriptions.create(
            subject, request.subscription_id, _draft(request.subscription), validate_only=request.validate_only
        )
        secret = "" if request.validate_only else made.secret
        return subscriptions_pb2.CreateSubscriptionResponse(subscription=_message(made), secret=secret)

    async def GetSubscription(
        self, request: subscriptions_pb2.GetSubscriptionRequest, context: Context
    ) -> subscriptions_pb2.GetSubscriptionResponse:
        """A subscription."""
        found = await self._subscriptions.get(*wire.resource_of(request.name, "subscriptions"))
        return subscriptions_pb2.GetSubscriptionResponse(subscription=_message(found))

    async def ListSubscriptions(
        self, request: subscriptions_pb2.ListSubscriptionsRequest, context: Context
    ) -> subscriptions_pb2.ListSubscriptionsResponse:
        """A page of subscriptions."""
        found, token = await self._subscriptions.list_page(
            wire.subject_of(request.parent, "parent"),
            request.page_size,
            request.page_token,
            descendants=request.include_descendants,
        )
        return subscriptions_pb2.ListSubscriptionsResponse(
            subscriptions=[_message(one) for one in found], next_page_token=token
        )

    async def UpdateSubscription(
        self, request: subscriptions_pb2.UpdateSubscriptionRequest, context: Context
    ) -> subscriptions_pb2.UpdateSubscriptionResponse:
        """Changes a subscription; a new secret is shown this once."""
        wanted = request.subscription
        made, is_new = await self._subscriptions.update(
            *wire.resource_of(wanted.name, "subscriptions", "subscription.name"),
            _draft(wanted),
            request.update_mask.paths,
            wanted.etag,
            validate_only=request.validate_only,
        )
        secret = made.secret if is_new and not request.validate_only else ""
        return subscriptions_pb2.UpdateSubscriptionResponse(subscription=_message(made), secret=secret)

    async def DeleteSubscription(
        self, request: subscriptions_pb2.DeleteSubscriptionRequest, context: Context
    ) -> subscriptions_pb2.DeleteSubscriptionResponse:
        """Deletes a subscription."""
        await self._subscriptions.delete(*wire.resource_of(request.name, "subscriptions"), request.etag)
        return subscriptions_pb2.DeleteSubscriptionResponse()

    async def MatchSubscriptions(
        self, request: subscriptions_pb2.MatchSubscriptionsRequest, context: Context
    ) -> subscriptions_pb2.MatchSubscriptionsResponse:
        """Who is told of an event, with the secrets."""
        subject = wire.subject_of(request.subject)
        try:
            event = EventKind(request.event)
        except ValueError:
            raise invalid("event", f"{request.event} is no event; name one of EventKind") from None
        found = await self._subscriptions.match(subject, event)
        return subscriptions_pb2.MatchSubscriptionsResponse(
            targets=[
                subscriptions_pb2.DeliveryTarget(
                    subscription=one.name, webhook_url=one.webhook_url, secret=one.secret, email=one.email
                )
                for one in found
            ]
        )

    async def GetOrgSettings(
        self, request: budget_pb2.GetOrgSettingsRequest, context: Context
    ) -> budget_pb2.GetOrgSettingsResponse:
        """An organisation's settings."""
        org = _org(request.org, "org").org
        found = await self._settings_of_orgs.get(org)
        return budget_pb2.GetOrgSettingsResponse(settings=wire_alerts.settings_message(org, found))

    async def UpdateOrgSettings(
        self, request: budget_pb2.UpdateOrgSettingsRequest, context: Context
    ) -> budget_pb2.UpdateOrgSettingsResponse:
        """Changes an organisation's settings."""
        org = _org(request.settings.org, "settings.org").org
        made = await self._settings_of_orgs.update(
            org,
            wire_alerts.settings_draft(request.settings),
            request.update_mask.paths,
            request.settings.etag,
            by=caller(),
            validate_only=request.validate_only,
        )
        return budget_pb2.UpdateOrgSettingsResponse(settings=wire_alerts.settings_message(org, made))


def _org(name: str, field: str) -> Subject:
    subject = wire.subject_of(name, field)
    if subject.depth != 1:
        raise invalid(field, f"names an organisation, such as {subject.root}, not a subject below it", "NOT_AN_ORG")
    return subject


def _filter(request: budget_pb2.ListAlertsRequest) -> AlertFilter:
    if request.state not in budget_pb2.AlertState.values():
        raise invalid("state", f"{request.state} is no state; name OPEN or ACKNOWLEDGED")
    if request.severity_min not in _SEVERITY_FROM:
        raise invalid("severity_min", f"{request.severity_min} is none of WARNING, CRITICAL and EXCEEDED")
    if request.budget:
        wire.resource_of(request.budget, "budgets", "budget")
    from_us = wire.time_us(request.start_time) if request.HasField("start_time") else -_FOREVER_US
    until_us = wire.time_us(request.end_time) if request.HasField("end_time") else _FOREVER_US
    for field, at_us in (("start_time", from_us), ("end_time", until_us)):
        if abs(at_us) > _FOREVER_US:
            raise invalid(field, "is no instant")
    return AlertFilter(request.state, _SEVERITY_FROM[request.severity_min], request.budget, from_us, until_us)


def _draft(message: subscriptions_pb2.Subscription) -> SubscriptionDraft:
    wire.check_text(message.display_name, "subscription.display_name")
    return SubscriptionDraft(
        message.display_name,
        message.webhook_url,
        message.secret,
        message.email,
        tuple(message.events),
        message.disabled,
        message.payload,
    )


def _message(found: Subscription) -> subscriptions_pb2.Subscription:
    message = subscriptions_pb2.Subscription(
        name=found.name,
        display_name=found.display_name,
        webhook_url=found.webhook_url,
        secret_hint=found.secret_hint,
        email=found.email,
        events=found.events,  # type: ignore[arg-type]
        disabled=found.disabled,
        etag=found.etag,
        payload=found.payload.value,  # type: ignore[arg-type]
        webhook_off_reason=found.webhook_off,
        email_off_reason=found.email_off,
    )
    wire.set_time(message.create_time, found.created_us)
    wire.set_time(message.update_time, found.updated_us)
    return message
