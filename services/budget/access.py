"""Who may call what."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from services.kit.auth import Rule, any_org, by_field, by_items, by_name, by_org, rule

_SERVICE: Final = "/pursestrings.budget.v1.BudgetService"
_SPENDERS: Final = ("agent", "operator", "service")
_READERS: Final = ("agent", "operator", "approver", "auditor", "service")
_OPERATORS: Final = ("operator",)


def _usage_subjects(request: Any) -> Iterable[str]:
    """The items' subjects; a report of what was delivered concerns everyone, so it takes a credential for all."""
    if request.HasField("delivered_through") or request.held_back:
        return ("orgs/-",)
    return by_items("items", "subject")(request)


def _asked_subjects(request: Any) -> Iterable[str]:
    """For whom an approval is asked, and whose budget or wallet it is about."""
    kind = request.WhichOneof("kind")
    found: set[str] = set()
    if kind == "budget_raise":
        found.update(by_name("budget_raise.budget", "budgets")(request))
    elif kind == "recharges":
        found.update(by_name("recharges.wallet", "wallets")(request))
    elif kind == "operation" and request.operation.spend.subject:
        found.update(by_field("operation.spend.subject")(request))
    if request.subject or not found:
        found.update(by_field("subject")(request))
    return found


ACCESS: Final[Mapping[str, Rule]] = {
    f"{_SERVICE}/Reserve": rule(by_field("subject"), *_SPENDERS),
    f"{_SERVICE}/BatchReserve": rule(by_items("requests", "subject"), *_SPENDERS),
    f"{_SERVICE}/Release": rule(by_name("name", "reservations"), *_SPENDERS),
    f"{_SERVICE}/GetReservation": rule(by_name("name", "reservations"), *_READERS),
    f"{_SERVICE}/ExtendReservation": rule(by_name("name", "reservations"), *_SPENDERS),
    f"{_SERVICE}/ListReservations": rule(by_field("parent"), *_READERS),
    f"{_SERVICE}/ApplyUsage": rule(_usage_subjects, "service"),
    f"{_SERVICE}/CreateBudget": rule(by_field("parent"), *_OPERATORS),
    f"{_SERVICE}/GetBudget": rule(by_name("name", "budgets"), *_READERS),
    f"{_SERVICE}/ListBudgets": rule(by_field("parent"), *_READERS),
    f"{_SERVICE}/UpdateBudget": rule(by_name("budget.name", "budgets"), *_OPERATORS),
    f"{_SERVICE}/DeleteBudget": rule(by_name("name", "budgets"), *_OPERATORS),
    f"{_SERVICE}/GetBudgetStatus": rule(by_name("name", "budgets"), *_READERS),
    f"{_SERVICE}/ListBudgetStatuses": rule(by_field("parent"), *_READERS),
    f"{_SERVICE}/Allocate": rule(by_name("budget", "budgets"), *_OPERATORS),
    f"{_SERVICE}/GrantOverride": rule(by_name("budget", "budgets"), "operator", "approver"),
    f"{_SERVICE}/ListOverrides": rule(by_name("budget", "budgets"), *_READERS),
    f"{_SERVICE}/RequestApproval": rule(_asked_subjects, *_SPENDERS),
    f"{_SERVICE}/GetApproval": rule(by_name("name", "approvals"), *_READERS),
    f"{_SERVICE}/ListApprovals": rule(by_field("parent"), *_READERS),
    f"{_SERVICE}/DecideApproval": rule(by_name("name", "approvals"), "operator", "approver", "service"),
    f"{_SERVICE}/CancelApproval": rule(by_name("name", "approvals"), *_SPENDERS),
    f"{_SERVICE}/AdvanceApproval": rule(by_name("name", "approvals"), "service"),
    f"{_SERVICE}/CompleteApproval": rule(by_name("name", "approvals"), "service"),
    f"{_SERVICE}/GetApprovalPolicy": rule(by_field("subject"), *_READERS),
    f"{_SERVICE}/SetApprovalPolicy": rule(by_field("policy.subject"), *_OPERATORS),
    f"{_SERVICE}/Pause": rule(by_field("subject"), *_OPERATORS),
    f"{_SERVICE}/Resume": rule(by_field("subject"), *_OPERATORS),
    f"{_SERVICE}/ListPauses": rule(by_field("parent"), *_READERS),
    f"{_SERVICE}/ListAlerts": rule(by_field("parent"), *_READERS),
    f"{_SERVICE}/AcknowledgeAlert": rule(by_name("name", "alerts"), "operator", "approver"),
    f"{_SERVICE}/CreateSubscription": rule(by_field("parent"), *_OPERATORS),
    f"{_SERVICE}/GetSubscription": rule(by_name("name", "subscriptions"), "operator", "auditor"),
    f"{_SERVICE}/ListSubscriptions": rule(by_field("parent"), "operator", "auditor"),
    f"{_SERVICE}/UpdateSubscription": rule(by_name("subscription.name", "subscriptions"), *_OPERATORS),
    f"{_SERVICE}/DeleteSubscription": rule(by_name("name", "subscriptions"), *_OPERATORS),
    f"{_SERVICE}/MatchSubscriptions": rule(by_field("subject"), "service"),
    f"{_SERVICE}/TestSubscription": rule(by_name("name", "subscriptions"), *_OPERATORS),
    f"{_SERVICE}/PublishEvents": rule(by_items("events", "subject"), "service"),
    f"{_SERVICE}/ListDeliveries": rule(by_name("parent", "subscriptions"), "operator", "auditor"),
    f"{_SERVICE}/RedeliverDeliveries": rule(by_name("subscription", "subscriptions"), *_OPERATORS),
    f"{_SERVICE}/TakeDeliveries": rule(by_name("subscription", "subscriptions"), "service"),
    f"{_SERVICE}/ReportDeliveries": rule(by_name("subscription", "subscriptions"), "service"),
    f"{_SERVICE}/GetOrgSettings": rule(by_org(), *_READERS),
    f"{_SERVICE}/UpdateOrgSettings": rule(by_org("settings.org"), *_OPERATORS),
    f"{_SERVICE}/ListMonthZones": rule(any_org(), "service"),
    f"{_SERVICE}/ListOpenMonths": rule(any_org(), "service"),
    f"{_SERVICE}/GetMonthReport": rule(by_org(), *_READERS),
    f"{_SERVICE}/CloseMonth": rule(by_org("month.org"), "service"),
    f"{_SERVICE}/Audit": rule(by_org(), "auditor", "service"),
}
"""A method without a row is refused."""
