"""Alerts as people see them, subscriptions, and organisations' settings."""

from pathlib import Path
from typing import Any

import asyncpg
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from pursestrings.budget.v1 import budget_pb2, pauses_pb2, subscriptions_pb2
from tests.support.budget import BOT, ORG, TEAM, alerts, refusal_of, rows, running_budget, usage

ALLOW = budget_pb2.OUTCOME_ALLOW
URL = "https://example.com/hook"


async def test_alerts_are_listed_filtered_paged_and_acknowledged_once(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        day = budget_pb2.Window(kind=budget_pb2.WINDOW_KIND_DAY)
        await budget.create(TEAM, "team", limit_amount=100, thresholds_percent=[50, 95, 100, 120], window=day)
        await budget.create(BOT, "bot", limit_amount=1_000, thresholds_percent=[12])
        await budget.apply(usage(cost=120))

        async def listed(parent: str = ORG, **fields: Any) -> list[budget_pb2.Alert]:
            request = budget_pb2.ListAlertsRequest(parent=parent, page_size=2, **fields)
            found = []
            while True:
                page = await budget.admin.ListAlerts(request)
                found += page.alerts
                if not page.next_page_token:
                    return found
                request.page_token = page.next_page_token

        everything = await listed()
        assert sorted(a.threshold_percent for a in everything) == [12, 50, 95, 100, 120]
        one = next(a for a in everything if a.threshold_percent == 95)
        assert (one.budget, one.subject, one.limit_amount, one.spent_amount) == (f"{TEAM}/budgets/team", TEAM, 100, 120)
        assert (one.remaining_amount, one.percent, one.severity) == (-20, 120, budget_pb2.SEVERITY_CRITICAL)
        assert (one.dimension, one.currency_code, one.cause) == (1, "USD", budget_pb2.ALERT_CAUSE_USE)
        assert one.window_end_time.seconds - one.window_start_time.seconds == 86_400
        assert one.recommended_action
        assert [a.threshold_percent for a in await listed(BOT)] == [12]
        severe = await listed(severity_min=budget_pb2.SEVERITY_EXCEEDED)
        assert sorted(a.threshold_percent for a in severe) == [100, 120]
        assert [a.threshold_percent for a in await listed(budget=f"{BOT}/budgets/bot")] == [12]
        assert await listed(end_time=one.raise_time) == []
        assert len(await listed(start_time=one.raise_time)) == 5
        operator = budget.stub_for(TEAM, "operator")
        request = budget_pb2.AcknowledgeAlertRequest(name=one.name, note="known")
        first = (await operator.AcknowledgeAlert(request)).alert
        assert (first.acknowledged_by.split("#")[0], first.note) == (TEAM, "known")
        request.note = "again"
        assert (await budget.admin.AcknowledgeAlert(request)).alert == first
        assert [a.name for a in await listed(state=budget_pb2.ALERT_STATE_ACKNOWLEDGED)] == [one.name]
        assert len(await listed(state=budget_pb2.ALERT_STATE_OPEN)) == 4
        for name in (f"{ORG}/alerts/{one.name.rsplit('/', 1)[1]}", f"{TEAM}/alerts/b1.1.1.1", f"{TEAM}/alerts/x"):
            call = budget.admin.AcknowledgeAlert(budget_pb2.AcknowledgeAlertRequest(name=name))
            assert (await refusal_of(call)).reason == "ALERT_UNKNOWN"
        wrong = budget_pb2.ListAlertsRequest(parent=ORG, severity_min=9)  # type: ignore[arg-type]
        assert (await refusal_of(budget.admin.ListAlerts(wrong))).field == "severity_min"


async def test_a_subscription_shows_its_secret_once_and_matches_below(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        admin, worker = budget.admin, budget.stub_for("orgs/-", "service")

        def creation(parent: str = TEAM, id_: str = "ops", **fields: Any) -> Any:
            wanted = subscriptions_pb2.Subscription(**({"webhook_url": URL} | fields))
            return subscriptions_pb2.CreateSubscriptionRequest(parent=parent, subscription_id=id_, subscription=wanted)

        exceeded = subscriptions_pb2.EVENT_KIND_EXCEEDED
        made = await admin.CreateSubscription(creation(events=[exceeded]))
        assert made.secret.startswith("whsec_")
        assert (made.subscription.secret, made.subscription.secret_hint) == ("", f"…{made.secret[-4:]}")
        await admin.CreateSubscription(creation(ORG, "mail", webhook_url="", email="ops@example.com"))
        assert (await refusal_of(admin.CreateSubscription(creation()))).reason == "ALREADY_EXISTS"
        name = made.subscription.name
        got = (await admin.GetSubscription(subscriptions_pb2.GetSubscriptionRequest(name=name))).subscription
        assert (got, made.secret in str(got)) == (made.subscription, False)
        listing = subscriptions_pb2.ListSubscriptionsRequest(parent=ORG, include_descendants=True)
        assert len((await admin.ListSubscriptions(listing)).subscriptions) == 2

        async def matched(subject: str, event: Any) -> dict[str, str]:
            request = subscriptions_pb2.MatchSubscriptionsRequest(subject=subject, event=event)
            return {t.subscription: t.secret for t in (await worker.MatchSubscriptions(request)).targets}

        mail = f"{ORG}/subscriptions/mail"
        assert await matched(BOT, exceeded) == {mail: "", name: made.secret}
        assert await matched(BOT, subscriptions_pb2.EVENT_KIND_PAUSED) == {mail: ""}
        assert await matched(f"{ORG}/agents/x", exceeded) == {mail: ""}
        wanted = subscriptions_pb2.Subscription(name=name, etag=got.etag)
        change = subscriptions_pb2.UpdateSubscriptionRequest(
            subscription=wanted, update_mask=FieldMask(paths=["secret"])
        )
        rotated = await admin.UpdateSubscription(change)
        assert rotated.secret not in {"", made.secret}
        assert (await matched(BOT, exceeded))[name] == rotated.secret
        assert (await refusal_of(admin.UpdateSubscription(change))).reason == "ETAG_MISMATCH"
        for bad, field in (({"webhook_url": "http://example.com"}, "webhook_url"), ({"secret": "x"}, "secret")):
            refusal = await refusal_of(admin.CreateSubscription(creation(id_="bad", **bad)))
            assert refusal.field == f"subscription.{field}"
        request = subscriptions_pb2.MatchSubscriptionsRequest(subject=ORG, event=exceeded)
        call = budget.stub_for(ORG, "operator").MatchSubscriptions(request)
        assert (await refusal_of(call)).code.name == "PERMISSION_DENIED"
        for number in range(19):
            await admin.CreateSubscription(creation(id_=f"s{number}"))
        assert (await refusal_of(admin.CreateSubscription(creation(id_="over")))).reason == "TOO_MANY_SUBSCRIPTIONS"
        await admin.DeleteSubscription(subscriptions_pb2.DeleteSubscriptionRequest(name=name))
        assert name not in await matched(BOT, exceeded)


async def test_an_organisation_sets_defaults_and_denies_what_no_budget_counts(database: Any, tmp_path: Path) -> None:
    base = database("budget")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with running_budget(base, tmp_path / "a") as budget, running_budget(base, tmp_path / "b") as other:
        get = budget_pb2.GetOrgSettingsRequest(org=ORG)
        seen = (await budget.admin.GetOrgSettings(get)).settings
        assert (seen.default_on_exceed, seen.deny_unbudgeted) == (budget_pb2.ON_EXCEED_BLOCK, False)
        assert (await other.reserve()).outcome == ALLOW
        wanted = budget_pb2.OrgSettings(
            org=ORG,
            default_on_exceed=budget_pb2.ON_EXCEED_PAUSE,
            default_resume=pauses_pb2.RESUME_MODE_WINDOW_END,
            default_thresholds_percent=[70],
            deny_unbudgeted=True,
            etag=seen.etag,
        )
        paths = ["default_on_exceed", "default_resume", "default_thresholds_percent", "deny_unbudgeted"]
        request = budget_pb2.UpdateOrgSettingsRequest(settings=wanted, update_mask=FieldMask(paths=paths))
        operator = budget.stub_for(ORG, "operator")
        changed = (await operator.UpdateOrgSettings(request)).settings
        assert (changed.updated_by.split("#")[0], list(changed.default_thresholds_percent)) == (ORG, [70])
        assert (await refusal_of(operator.UpdateOrgSettings(request))).reason == "ETAG_MISMATCH"
        # The other server decides by it at once.
        denied = await other.reserve()
        assert denied.denied_reason == budget_pb2.DENIED_REASON_UNBUDGETED
        made = await budget.create(TEAM, "b")
        assert (made.on_exceed, list(made.thresholds_percent)) == (budget_pb2.ON_EXCEED_PAUSE, [70])
        assert made.resume == pauses_pb2.RESUME_MODE_WINDOW_END
        assert (await other.reserve()).outcome == ALLOW
        assert (await other.reserve(subject=ORG)).denied_reason == budget_pb2.DENIED_REASON_UNBUDGETED
        request.settings.ClearField("etag")
        request.settings.default_thresholds_percent[:] = [80, 50]
        refusal = await refusal_of(operator.UpdateOrgSettings(request))
        assert refusal.field == "settings.default_thresholds_percent"
        request.settings.org = TEAM
        assert (await refusal_of(operator.UpdateOrgSettings(request))).reason == "NOT_AN_ORG"
        assert (await budget.admin.GetOrgSettings(get)).settings == changed
        call = budget.stub_for(TEAM, "operator").GetOrgSettings(get)
        assert (await refusal_of(call)).code.name == "PERMISSION_DENIED"
        assert await alerts(base) == []
        assert await rows(base, "SELECT FROM pauses") == []


async def test_history_is_not_the_services_to_change(database: Any) -> None:
    connection = await asyncpg.connect(database("budget").service_dsn)
    try:
        for statement in (
            "UPDATE pauses SET reason = ''",
            "DELETE FROM pauses",
            "UPDATE crossings SET spent_amount = 0",
            "DELETE FROM crossings",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
    finally:
        await connection.close()
