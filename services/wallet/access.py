"""Who may call what."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from services.kit.auth import Rule, any_org, by_field, by_name, by_org, rule

_SERVICE: Final = "/pursestrings.wallet.v1.WalletService"
_READERS: Final = ("agent", "operator", "approver", "auditor", "service")
_BOOKKEEPERS: Final = ("operator", "auditor", "service")
_DECIDERS: Final = ("operator", "approver", "service")


def _by_payment(request: Any) -> Iterable[str]:
    """The field `name` holds a recharge's or a top-up's name."""
    return by_name("name", "topUps" if "/topUps/" in request.name else "recharges")(request)


def _both_wallets(request: Any) -> Iterable[str]:
    return (*by_name("from_wallet", "wallets")(request), *by_name("to_wallet", "wallets")(request))


def _charged(request: Any) -> Iterable[str]:
    return by_name("source", "topUps" if "/topUps/" in request.source else "recharges")(request)


def _wallet_or_org(request: Any) -> Iterable[str]:
    return by_name("wallet", "wallets")(request) if request.wallet else by_org("org")(request)


ACCESS: Final[Mapping[str, Rule]] = {
    f"{_SERVICE}/CreateWallet": rule(by_field("parent"), "operator"),
    f"{_SERVICE}/GetWallet": rule(by_name("name", "wallets"), *_READERS),
    f"{_SERVICE}/ListWallets": rule(by_field("parent"), *_READERS),
    f"{_SERVICE}/SetWalletState": rule(by_name("name", "wallets"), "operator"),
    f"{_SERVICE}/GetBalance": rule(by_name("name", "wallets"), *_READERS),
    f"{_SERVICE}/CreateGrant": rule(by_name("wallet", "wallets"), "operator"),
    f"{_SERVICE}/Transfer": rule(_both_wallets, "operator"),
    f"{_SERVICE}/Refund": rule(_charged, "operator"),
    f"{_SERVICE}/GetRefund": rule(by_name("name", "refunds"), *_BOOKKEEPERS),
    f"{_SERVICE}/ListRefunds": rule(by_name("wallet", "wallets"), *_BOOKKEEPERS),
    f"{_SERVICE}/ListDisputes": rule(by_name("wallet", "wallets"), *_BOOKKEEPERS),
    f"{_SERVICE}/GetStatement": rule(by_name("wallet", "wallets"), *_BOOKKEEPERS),
    f"{_SERVICE}/Reconcile": rule(_wallet_or_org, *_BOOKKEEPERS),
    f"{_SERVICE}/ListStrayOrgs": rule(any_org(), "service"),
    f"{_SERVICE}/ListMonthZones": rule(any_org(), "service"),
    f"{_SERVICE}/ListConcerns": rule(by_org("org"), *_BOOKKEEPERS),
    f"{_SERVICE}/ListTransactions": rule(by_name("wallet", "wallets"), *_BOOKKEEPERS),
    f"{_SERVICE}/TrialBalance": rule(by_org("org"), *_BOOKKEEPERS),
    # A lease is between services: it moves money that calls of any subject may spend.
    f"{_SERVICE}/ExtendLease": rule(any_org(), "service"),
    f"{_SERVICE}/CaptureLease": rule(any_org(), "service"),
    f"{_SERVICE}/ReturnLease": rule(any_org(), "service"),
    f"{_SERVICE}/ReverseCapture": rule(any_org(), "service"),
    f"{_SERVICE}/BatchLeaseOperations": rule(any_org(), "service"),
    f"{_SERVICE}/SyncLeases": rule(any_org(), "service"),
    # What a living budget database still holds would be sold twice, so no organisation reclaims by itself.
    f"{_SERVICE}/ReclaimLease": rule(any_org(), "operator"),
    f"{_SERVICE}/SetupPaymentMethod": rule(by_name("wallet", "wallets"), "operator"),
    f"{_SERVICE}/ListPaymentMethods": rule(by_name("wallet", "wallets"), *_BOOKKEEPERS),
    f"{_SERVICE}/DetachPaymentMethod": rule(by_name("wallet", "wallets"), "operator"),
    f"{_SERVICE}/TopUp": rule(by_name("wallet", "wallets"), "operator"),
    f"{_SERVICE}/GetTopUp": rule(by_name("name", "topUps"), *_BOOKKEEPERS),
    f"{_SERVICE}/ListTopUps": rule(by_name("wallet", "wallets"), *_BOOKKEEPERS),
    f"{_SERVICE}/CancelTopUp": rule(by_name("name", "topUps"), "operator"),
    f"{_SERVICE}/AuthenticatePayment": rule(_by_payment, "operator"),
    f"{_SERVICE}/SetRechargePolicy": rule(by_name("policy.wallet", "wallets"), "operator"),
    f"{_SERVICE}/GetRechargePolicy": rule(by_name("wallet", "wallets"), *_READERS),
    f"{_SERVICE}/AllowRecharges": rule(by_name("wallet", "wallets"), *_DECIDERS),
    f"{_SERVICE}/GetRechargeReview": rule(by_name("name", "rechargeReviews"), *_DECIDERS, "auditor"),
    f"{_SERVICE}/ListRechargeReviews": rule(by_field("parent"), *_DECIDERS, "auditor"),
    f"{_SERVICE}/DecideRechargeReview": rule(by_name("name", "rechargeReviews"), *_DECIDERS),
    f"{_SERVICE}/StartPredictiveRecharge": rule(by_name("wallet", "wallets"), "service"),
    f"{_SERVICE}/ListPredictiveWallets": rule(by_org("org"), *_BOOKKEEPERS),
    f"{_SERVICE}/GetRecharge": rule(by_name("name", "recharges"), *_READERS),
    f"{_SERVICE}/ListRecharges": rule(by_name("wallet", "wallets"), *_READERS),
    f"{_SERVICE}/AuthorizeAttempt": rule(any_org(), "service"),
    f"{_SERVICE}/ReportAttempt": rule(any_org(), "service"),
    f"{_SERVICE}/FailRecharge": rule(any_org(), "operator", "service"),
    f"{_SERVICE}/IngestStripeEvent": rule(any_org(), "service"),
    # Events of all organisations share one inbox.
    f"{_SERVICE}/ListStripeEvents": rule(any_org(), "operator", "auditor", "service"),
    f"{_SERVICE}/RequeueStripeEvents": rule(any_org(), "operator"),
    f"{_SERVICE}/Audit": rule(by_org("org"), *_BOOKKEEPERS),
}
"""One row a method; a method without a row is refused."""
