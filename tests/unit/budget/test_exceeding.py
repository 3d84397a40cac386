"""Pauses, first denials, subscriptions, settings and pages, without a database."""

from typing import Any

import pytest

from services.budget import paging
from services.budget.domain import alerts, org_settings
from services.budget.domain import subscriptions as rules
from services.budget.domain.budgets import FOREVER_US, OnExceed
from services.budget.domain.decide import Batch, decide
from services.budget.domain.exceed import is_lifted, note_use
from services.budget.domain.model import Binding, Call, Counter, Decision, DeniedReason, ReserveItem
from services.budget.domain.org_settings import NO_SETTINGS, OrgSettings, SettingsDraft
from services.budget.domain.pauses import Pause, PauseCause, ResumeMode
from services.budget.domain.plan import Policy
from services.budget.domain.subscriptions import EventKind, SubscriptionDraft
from services.kit.errors import PurseError
from services.kit.subject import parse
from tests.unit.budget.test_rules import BOT, NOW_US, budget

SECRET = "whsec_" + "A" * 32


def counter(spent: int = 0, **fields: Any) -> Counter:
    found = Counter("acme", 1, 20261122)
    found.define(budget(1, on_exceed=OnExceed.PAUSE, **fields))
    found.load(spent, 0)
    found.window_end_us = NOW_US + 10
    return found


def item(asked: int, binding: Binding, *, validate_only: bool = False, unknown: int = 0) -> ReserveItem:
    asks = (0, asked, 0, 0, 0, 0)
    return ReserveItem(
        "acme", str(asked), BOT, b"", Call(), "USD", asks, unknown, asked, 1, validate_only, False, "", binding=binding
    )


def decided(batch: Batch, asked: int, binding: Binding, **fields: Any) -> Decision:
    answer = decide(batch, item(asked, binding, **fields))
    assert isinstance(answer, Decision)
    return answer


def test_the_first_denial_of_what_would_fit_pauses_in_order_and_once() -> None:
    batch, window = Batch(NOW_US), counter(60)
    binding = Binding((window,), pausing=(1,), guarded=True)
    assert decided(batch, 101, binding).denied is DeniedReason.BUDGET_EXCEEDED
    assert decided(batch, 50, binding, validate_only=True).denied is DeniedReason.BUDGET_EXCEEDED
    assert (batch.begun, batch.crossings, batch.marked) == ([], [], {})
    assert decided(batch, 40, binding).denied is DeniedReason.NONE
    window.reserved = 0
    first = decided(batch, 50, binding)
    assert (first.denied, [p.cause for p in first.pauses]) == (DeniedReason.BUDGET_EXCEEDED, [PauseCause.DENIAL])
    assert decided(batch, 1, binding).denied is DeniedReason.PAUSED
    (crossing,) = batch.crossings
    assert (crossing.threshold, crossing.cause, crossing.asked) == (100, alerts.AlertCause.DENIAL, 50)
    # Marked for the generation: after a person has resumed it, nothing happens again.
    batch.pauses.clear()
    assert decided(batch, 50, binding).pauses == []
    assert len(batch.crossings) == len(batch.begun) == 1


def test_a_limit_of_zero_fits_nothing_so_its_denials_tell_nothing() -> None:
    batch = Batch(NOW_US)
    binding = Binding((counter(limit=0),), pausing=(1,), guarded=True)
    assert decided(batch, 1, binding).denied is DeniedReason.BUDGET_EXCEEDED
    assert decided(batch, 0, binding, unknown=2).denied is DeniedReason.BUDGET_EXCEEDED
    assert (batch.begun, batch.crossings) == ([], [])


@pytest.mark.parametrize(
    ("resume", "until_us"), [(ResumeMode.MANUAL, FOREVER_US), (ResumeMode.WINDOW_END, NOW_US + 10)]
)
def test_use_at_the_limit_pauses_until_what_resume_says(resume: ResumeMode, until_us: int) -> None:
    batch, window = Batch(NOW_US), counter(99, resume=resume)
    note_use(batch, window)
    assert batch.begun == []
    for spent in (100, 20, 120):
        window.spent = spent
        note_use(batch, window)
    (pause,) = batch.begun
    assert (pause.cause, pause.until_us, pause.limit) == (PauseCause.USE, until_us, 100)
    assert pause.is_active(NOW_US)
    # The window's end, and not a job, ends it: the instant itself belongs to the next window.
    assert pause.is_active(until_us - 1)
    assert not pause.is_active(until_us)


@pytest.mark.parametrize(
    ("before", "limit", "used", "lifted"),
    [(100, 101, 100, True), (100, 101, 101, False), (100, 100, 5, False), (100, 99, 5, False), (10, 15, 11, True)],
)
def test_only_a_raise_above_use_lifts_a_pause(before: int, limit: int, used: int, lifted: bool) -> None:
    assert is_lifted(before, limit, used) is lifted


def test_pauses_reach_descendants_whatever_they_call() -> None:
    team = Pause("acme", "orgs/acme/teams/support", 0, "", 0, 1, PauseCause.PERSON, "why", "who", NOW_US, FOREVER_US)
    policy = Policy("acme", 1, [budget(1), budget(2, BOT.name, on_exceed=OnExceed.PAUSE)], pauses=[team])
    assert (policy.paused(BOT), policy.pausing(BOT)) == ((team,), (2,))
    other = parse("orgs/acme/teams/support2")
    assert (policy.paused(other), policy.pausing(other)) == ((), ())
    assert team.name == "orgs/acme/teams/support/pauses/person.1"


@pytest.mark.parametrize("threshold", [1, 94, 95, 99, 100, 1000])
@pytest.mark.parametrize("on_exceed", list(OnExceed))
@pytest.mark.parametrize("cause", list(alerts.AlertCause))
def test_every_alert_recommends_something(threshold: int, on_exceed: OnExceed, cause: alerts.AlertCause) -> None:
    level = alerts.severity(threshold)
    assert level == (1 if threshold < 95 else 2 if threshold < 100 else 3)
    assert alerts.recommended_action(level, on_exceed, cause)


@pytest.mark.parametrize("text", ["", "b1.2.3", "1.2.3.4", "b01.2.3.4", "b1.2.3.-4", "b1.2.3.x", f"b{10**19}.2.3.4"])
def test_what_is_no_alerts_id(text: str) -> None:
    assert alerts.parse_alert_id(text) is None
    assert alerts.parse_alert_id(alerts.alert_id(1, 0, 100, 2)) == (1, 0, 100, 2)


def draft(**fields: Any) -> SubscriptionDraft:
    values: dict[str, Any] = {
        "display_name": "", "webhook_url": "https://example.com/x", "secret": "", "email": "", "events": (),
        "disabled": False,
    }  # fmt: skip
    return SubscriptionDraft(**(values | fields))


def made(loopback: bool = False, **fields: Any) -> rules.Subscription:
    return rules.define(draft(**fields), ("acme", "orgs/acme", "s"), 1, make_secret=lambda: SECRET, loopback=loopback)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"webhook_url": "http://example.com"}, "webhook_url"),
        ({"webhook_url": "ftp://example.com"}, "webhook_url"),
        ({"webhook_url": "https://"}, "webhook_url"),
        ({"webhook_url": "https://user:pw@example.com"}, "webhook_url"),
        ({"webhook_url": "https://example.com/#x"}, "webhook_url"),
        ({"webhook_url": "https://example.com:99999"}, "webhook_url"),
        ({"webhook_url": "https://exa mple.com"}, "webhook_url"),
        ({"webhook_url": "https://10.0.0.1/x"}, "webhook_url"),
        ({"webhook_url": "https://169.254.169.254/x"}, "webhook_url"),
        ({"webhook_url": "https://[::1]/x"}, "webhook_url"),
        ({"webhook_url": "http://127.0.0.1/x"}, "webhook_url"),
        ({"webhook_url": "https://example.com/" + "x" * 2048}, "webhook_url"),
        ({"webhook_url": ""}, "webhook_url"),
        ({"email": "nobody"}, "email"),
        ({"email": "a@b@example.com"}, "email"),
        ({"email": "=?utf-8?q?a=0d=0aBcc=3ab?=@example.com"}, "email"),
        ({"secret": "short"}, "secret"),
        ({"secret": "whsec_" + "A" * 28}, "secret"),
        ({"events": (10,)}, "events"),
        ({"display_name": "x" * 129}, "display_name"),
    ],
)
def test_a_wrong_subscription_names_its_field_and_never_its_secret(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(PurseError) as caught:
        made(**fields)
    assert caught.value.field == f"subscription.{field}"
    assert "short" not in str(caught.value)


def test_a_subscription_keeps_its_secret_to_itself() -> None:
    one = made(events=(3, 1, 3))
    assert (one.secret, one.secret_hint, one.events) == (SECRET, "…AAAA", (1, 3))
    assert SECRET not in repr(one)
    assert "whsec" not in repr(draft(secret=SECRET))
    assert [kind.name for kind in EventKind if one.wants(kind)] == ["WARNING", "EXCEEDED"]
    assert made(webhook_url="", email="a@example.com").secret == ""
    assert made(loopback=True, webhook_url="http://localhost:8080/x").webhook_url


def changed(mask: list[str], etag: str = "", **fields: Any) -> OrgSettings:
    values: dict[str, Any] = {
        "default_on_exceed": 0, "default_resume": 0, "default_thresholds": (), "deny_unbudgeted": False,
        "require_wallet": False, "expired_hold": 0, "unrated_model": 0,
    }  # fmt: skip
    return org_settings.change(NO_SETTINGS, SettingsDraft(**(values | fields)), mask, etag, by="me", now_us=7)


def test_settings_change_what_the_mask_names() -> None:
    found = changed(["deny_unbudgeted", "default_resume"], deny_unbudgeted=True, require_wallet=True, default_resume=2)
    assert (found.deny_unbudgeted, found.require_wallet, found.default_resume) == (True, False, 2)
    assert (found.etag, found.updated_by, found.updated_us) == ("s.1", "me", 7)


@pytest.mark.parametrize(
    ("mask", "fields", "field"),
    [
        ([], {}, "update_mask"),
        (["org"], {}, "update_mask"),
        (["default_on_exceed"], {"default_on_exceed": 9}, "settings.default_on_exceed"),
        (["default_resume"], {"default_resume": 9}, "settings.default_resume"),
        (["unrated_model"], {"unrated_model": 9}, "settings.unrated_model"),
        (["expired_hold"], {"expired_hold": 9}, "settings.expired_hold"),
        (["default_thresholds_percent"], {"default_thresholds": (2, 1)}, "settings.default_thresholds_percent"),
        (["default_thresholds_percent"], {"default_thresholds": (1, 1)}, "settings.default_thresholds_percent"),
        (["default_thresholds_percent"], {"default_thresholds": (1001,)}, "settings.default_thresholds_percent"),
        (["deny_unbudgeted"], {"etag": "s.9"}, "settings.etag"),
    ],
)
def test_wrong_settings_name_their_field(mask: list[str], fields: dict[str, Any], field: str) -> None:
    with pytest.raises(PurseError) as caught:
        changed(mask, **fields)
    assert caught.value.field == field


@pytest.mark.parametrize("token", ["x", "W10=", paging.token_of("other", ("a", 1)), paging.token_of("s", ("a", "b"))])
def test_a_page_token_of_another_list_is_refused(token: str) -> None:
    assert paging.after_of(paging.token_of("s", ("a", 1)), "s", ("", 0)) == ("a", 1)
    with pytest.raises(PurseError) as caught:
        paging.after_of(token, "s", ("", 0))
    assert caught.value.field == "page_token"
