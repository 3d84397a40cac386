"""The access table is whole."""

from pursestrings.wallet.v1 import wallet_pb2
from services.kit.auth import ANY_ORG
from services.wallet.access import ACCESS

SERVICE = wallet_pb2.DESCRIPTOR.services_by_name["WalletService"]


def test_every_method_has_a_row_and_every_row_a_method() -> None:
    assert {f"/{SERVICE.full_name}/{method.name}" for method in SERVICE.methods} == set(ACCESS)


def test_what_moves_leases_or_recharges_takes_a_credential_of_a_service_for_every_organisation() -> None:
    names = (
        "ExtendLease CaptureLease ReturnLease ReverseCapture SyncLeases "
        "AuthorizeAttempt ReportAttempt FailRecharge IngestStripeEvent"
    )
    for name in names.split():
        row = ACCESS[f"/{SERVICE.full_name}/{name}"]
        # Giving a recharge up is also what a person does about one that is stuck.
        assert {"service"} | ({"operator"} if name == "FailRecharge" else set()) == row.roles
        request = getattr(wallet_pb2, f"{name}Request")()
        assert (ANY_ORG,) == tuple(row.subjects(request))


def test_an_agent_reads_balances_and_changes_nothing() -> None:
    allowed = {method.rpartition("/")[2] for method, row in ACCESS.items() if "agent" in row.roles}
    assert {"GetWallet", "ListWallets", "GetBalance", "GetRechargePolicy", "GetRecharge", "ListRecharges"} == allowed
