"""The wallet over gRPC: what callers see, and what they are told when a request is wrong."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from pursestrings.type.v1 import type_pb2
from pursestrings.wallet.v1 import wallet_pb2 as pb
from services.kit.errors import Code
from services.kit.status import from_rpc_status
from services.wallet import service
from services.wallet.store import audit as audit_store
from services.wallet.store import reads
from tests.support.databases import Database
from tests.support.wallets import Caller, Keys, dump, serving_wallet, wallet_name

WALLET = wallet_name()
OPEN, FROZEN, CLOSED = pb.WALLET_STATE_OPEN, pb.WALLET_STATE_FROZEN, pb.WALLET_STATE_CLOSED


def create(id_: str = "w1", parent: str = "orgs/acme", request_id: str = "c1", **wallet: str) -> pb.CreateWalletRequest:
    fields: dict[str, Any] = {"currency_code": "USD"} | wallet
    return pb.CreateWalletRequest(parent=parent, wallet_id=id_, wallet=pb.Wallet(**fields), request_id=request_id)


def grant(amount: int = 1_000, request_id: str = "g1", wallet: str = WALLET, **fields: Any) -> pb.CreateGrantRequest:
    money = type_pb2.Money(currency_code=fields.pop("currency", "USD"), amount_nanos=amount)
    kind = fields.pop("kind", pb.GRANT_KIND_PAID)
    return pb.CreateGrantRequest(
        wallet=wallet, grant=pb.Grant(kind=kind, amount=money, **fields), request_id=request_id
    )


def extend(n: int, need: int, **fields: Any) -> pb.ExtendLeaseRequest:
    values: dict[str, Any] = {"wallet": WALLET, "holder": "b", "n": n, "need_nanos": need} | fields
    return pb.ExtendLeaseRequest(**values)


def capture(n: int, amount: int, total: int, **fields: Any) -> pb.CaptureLeaseRequest:
    line = pb.CaptureLine(provider="openai", model="gpt", month="2026-11", amount_nanos=amount, calls=1)
    values: dict[str, Any] = {"wallet": WALLET, "holder": "b", "n": n, "captured_total_nanos": total, "lines": [line]}
    return pb.CaptureLeaseRequest(**(values | fields))


async def test_a_dollar_from_grant_to_capture(call: Caller) -> None:
    made = (await call("CreateWallet", create(display_name="Main", time_zone="Europe/Berlin"))).wallet
    assert (WALLET, "USD", OPEN, "Europe/Berlin") == (made.name, made.currency_code, made.state, made.time_zone)
    assert made == (await call("GetWallet", pb.GetWalletRequest(name=WALLET))).wallet

    gift = (await call("CreateGrant", grant(300, "g1", kind=pb.GRANT_KIND_PROMOTIONAL))).grant
    paid = (await call("CreateGrant", grant(700, "g2"))).grant
    assert [("orgs/acme/grants/g1", 50), ("orgs/acme/grants/g2", 100)] == [(g.name, g.priority) for g in (gift, paid)]

    first = await call("ExtendLease", extend(1, 400))
    assert (400, 1, 400, 600) == (
        *(first.granted_nanos, first.lease.totals.n),
        *(first.lease.totals.extended_total_nanos, first.lease.available_nanos),
    )
    assert (OPEN, 500, False) == (first.lease.wallet_state, first.lease.target_nanos, first.lease.quarantined)
    assert first == await call("ExtendLease", extend(1, 400))
    await call("CaptureLease", capture(2, 350, 350))
    await call("ReturnLease", pb.ReturnLeaseRequest(wallet=WALLET, holder="b", n=3, returned_total_nanos=20))
    line = pb.CaptureLine(provider="openai", model="gpt", month="2026-11", amount_nanos=10, calls=0)
    reversal = pb.ReverseCaptureRequest(wallet=WALLET, holder="b", n=4, reversed_total_nanos=10, lines=[line])
    last = (await call("ReverseCapture", reversal)).lease.totals
    assert (4, 400, 350, 20, 10) == (
        *(last.n, last.extended_total_nanos, last.captured_total_nanos),
        *(last.returned_total_nanos, last.reversed_total_nanos),
    )

    balance = await call("GetBalance", pb.GetBalanceRequest(name=WALLET))
    assert (660, 630, 30, 0, 340) == (
        *(balance.balance_nanos, balance.available_nanos, balance.escrow_nanos),
        *(balance.debt_nanos, balance.spent_nanos),
    )
    assert [("orgs/acme/grants/g2", 660)] == [(g.name, g.remaining_nanos) for g in balance.grants]

    trial = await call("TrialBalance", pb.TrialBalanceRequest(org="orgs/acme"))
    assert trial.balanced
    assert {"funding": (700, 0), "promotion": (300, 0), "spent": (10, 350), "available": (400, 1030)} == {
        a.account_kind: (a.debits_nanos, a.credits_nanos)
        for a in trial.accounts
        if a.account_kind in {"funding", "promotion", "spent", "available"}
    }
    audit = await call("Audit", pb.AuditRequest())
    assert [] == [check for check in audit.checks if not check.ok]
    assert {"I4", "I5", "I7", "I8"} <= {check.name.partition(".")[0] for check in audit.checks}


async def test_transactions_come_in_pages_newest_first(call: Caller) -> None:
    await call("CreateWallet", create())
    for number in range(5):
        await call("CreateGrant", grant(10 + number, f"g{number}"))
    amounts, token = [], ""
    while True:
        request = pb.ListTransactionsRequest(wallet=WALLET, page_size=2, page_token=token)
        page = await call("ListTransactions", request)
        amounts += [t.amount.amount_nanos for t in page.transfers]
        assert all((t.kind, t.from_account) == ("grant", f"{WALLET}/funding") for t in page.transfers)
        if not (token := page.next_page_token):
            break
    assert [14, 13, 12, 11, 10] == amounts


async def test_wallets_of_a_subject_and_its_descendants_come_in_pages(call: Caller) -> None:
    parents = ["orgs/acme", "orgs/acme/teams/a", "orgs/acme/teams/a/agents/x", "orgs/acme/teams/ab", "orgs/acmeb"]
    for number, parent in enumerate(parents):
        await call("CreateWallet", create("w", parent, f"c{number}"))

    async def names(parent: str) -> list[str]:
        found, token = [], ""
        while True:
            page = await call("ListWallets", pb.ListWalletsRequest(parent=parent, page_size=1, page_token=token))
            found += [wallet.name.removesuffix("/wallets/w") for wallet in page.wallets]
            if not (token := page.next_page_token):
                return found

    assert sorted(parents[:4], key=lambda p: p + "/wallets/w") == await names("orgs/acme")
    assert [parents[2], parents[1]] == await names("orgs/acme/teams/a")
    assert [parents[4]] == await names("orgs/acmeb")


async def test_directories_travel_when_they_have_changed(call: Caller) -> None:
    def sync(*cursors: tuple[str, int], leases: int = 0) -> pb.SyncLeasesRequest:
        return pb.SyncLeasesRequest(
            holder="b",
            orgs=[pb.DirectoryCursor(org=org, version=version) for org, version in cursors],
            leases=[type_pb2.LeaseTotals(wallet=WALLET, holder="b")] * leases,
        )

    assert [] == list((await call("SyncLeases", sync(("orgs/acme", 0)))).directories)
    await call("CreateWallet", create())
    await call("CreateGrant", grant(1_000))
    (known,) = (await call("SyncLeases", sync(("orgs/acme", 0), ("orgs/other", 0)))).directories
    assert ("orgs/acme", [(WALLET, OPEN)]) == (known.org, [(w.name, w.state) for w in known.wallets])

    before = await call("SyncLeases", sync(("orgs/acme", known.version), leases=1))
    assert [] == list(before.directories)
    assert [(0, 500, 1_000)] == [(x.totals.n, x.target_nanos, x.available_nanos) for x in before.leases]
    await call("ExtendLease", extend(1, 400))
    state = pb.SetWalletStateRequest(name=WALLET, state=FROZEN, reason="dispute")
    assert FROZEN == (await call("SetWalletState", state)).wallet.state
    after = await call("SyncLeases", sync(("orgs/acme", known.version), leases=1))
    assert [(1, 400, 0, FROZEN)] == [
        (x.totals.n, x.totals.extended_total_nanos, x.target_nanos, x.wallet_state) for x in after.leases
    ]
    (changed,) = after.directories
    assert changed.version > known.version
    # Setting what is set already changes nothing.
    await call("SetWalletState", state)
    assert [] == list((await call("SyncLeases", sync(("orgs/acme", changed.version)))).directories)
    # A directory from before a restore is replaced, and one of an organisation that is gone emptied.
    assert 2 == len((await call("SyncLeases", sync(("orgs/acme", 99), ("orgs/gone", 7)))).directories)


async def test_a_reclaimed_lease_begins_anew_and_the_old_holder_is_told(call: Caller) -> None:
    await call("CreateWallet", create())
    await call("CreateGrant", grant(1_000))
    await call("ExtendLease", extend(1, 400))
    reclaim = pb.ReclaimLeaseRequest(wallet=WALLET, holder="b", reason="its database is lost")
    lease = (await call("ReclaimLease", reclaim)).lease
    assert (1, 0, 0, 1_000) == (
        *(lease.totals.epoch, lease.totals.n, lease.totals.extended_total_nanos),
        lease.available_nanos,
    )
    assert lease == (await call("ReclaimLease", reclaim)).lease
    refused = await call.refusal("CaptureLease", capture(2, 10, 10))
    assert ("LEASE_EPOCH", {"epoch": "1", "last_n": "0"}) == (refused.reason, refused.metadata)
    # What was on its way harms nothing; once the new epoch has operations, it shows that two believe they hold it.
    assert 5 == (await call("ExtendLease", extend(1, 5, epoch=1))).granted_nanos
    assert "LEASE_EPOCH" == (await call.refusal("CaptureLease", capture(2, 10, 10))).reason
    assert "QUARANTINED" == (await call.refusal("ExtendLease", extend(2, 5, epoch=1))).reason
    await call("ReclaimLease", reclaim)
    assert 5 == (await call("ExtendLease", extend(1, 5, epoch=2))).granted_nanos


async def test_a_reclaim_that_names_its_epoch_is_safe_to_repeat(call: Caller) -> None:
    await call("CreateWallet", create())
    await call("CreateGrant", grant(1_000))
    await call("ExtendLease", extend(1, 400))
    reclaim = pb.ReclaimLeaseRequest(wallet=WALLET, holder="b", reason="its database is lost", expected_epoch=0)
    assert (await call("ReclaimLease", reclaim)).lease.totals.epoch == 1
    # Its successor works already when the request comes again.
    await call("ExtendLease", extend(1, 5, epoch=1))
    again = (await call("ReclaimLease", reclaim)).lease
    assert (again.totals.epoch, again.totals.n, again.totals.extended_total_nanos) == (1, 1, 5)
    reclaim.expected_epoch = 2
    refused = await call.refusal("ReclaimLease", reclaim)
    assert (refused.reason, refused.field, refused.metadata) == ("LEASE_EPOCH", "expected_epoch", {"epoch": "1"})
    reclaim.expected_epoch = 1
    assert (await call("ReclaimLease", reclaim)).lease.totals.epoch == 2


async def test_grants_expire_while_the_service_runs(call: Caller, pool: asyncpg.Pool) -> None:
    await call("CreateWallet", create())
    at = Timestamp()
    at.FromDatetime(datetime.now(UTC) + timedelta(seconds=1))
    await call("CreateGrant", grant(1_000, expire_time=at))
    async with asyncio.timeout(20):
        while not (expired := await pool.fetchval("SELECT expired_nanos FROM grants")):
            await asyncio.sleep(0.05)
    assert 1_000 == expired


async def test_the_same_request_gets_the_same_answer_and_another_is_told(call: Caller) -> None:
    first = await call("CreateWallet", create())
    assert first == await call("CreateWallet", create())
    given = await call("CreateGrant", grant())
    await call("ExtendLease", extend(1, 100))
    await call("CaptureLease", capture(2, 100, 100))
    assert given == await call("CreateGrant", grant())
    for method, request in (
        ("CreateWallet", create(display_name="other")),
        ("CreateWallet", create("w2")),
        ("CreateGrant", grant(1_001)),
    ):
        refused = await call.refusal(method, request)
        assert (Code.FAILED_PRECONDITION, "REQUEST_ID_REUSED", "request_id") == (
            refused.code,
            refused.reason,
            refused.field,
        )


BAD: list[tuple[str, Any, str, str]] = [
    ("CreateWallet", create(parent="orgs/"), "MALFORMED_SUBJECT", "parent"),
    ("CreateWallet", create(parent="orgs/a" + "/teams/t" * 8), "MALFORMED_SUBJECT", "parent"),
    ("CreateWallet", create("no/slash"), "MALFORMED_NAME", "wallet_id"),
    ("CreateWallet", create("x" * 49), "MALFORMED_NAME", "wallet_id"),
    ("CreateWallet", create("w2", request_id=""), "REQUEST_ID_REQUIRED", "request_id"),
    ("CreateWallet", create("w2", request_id="no spaces"), "MALFORMED_NAME", "request_id"),
    ("CreateWallet", create("w2", request_id="c2", currency_code="usd"), "UNKNOWN_CURRENCY", "wallet.currency_code"),
    ("CreateWallet", create("w2", request_id="c2", time_zone="Mars/Dome"), "UNKNOWN_TIME_ZONE", "wallet.time_zone"),
    ("CreateWallet", create("w2", request_id="c2", display_name="x" * 129), "INVALID_ARGUMENT", "wallet.display_name"),
    ("CreateWallet", create("w2", request_id="c2", display_name="\0"), "INVALID_ARGUMENT", "wallet.display_name"),
    ("CreateWallet", create(request_id="c2"), "WALLET_EXISTS", ""),
    ("GetWallet", pb.GetWalletRequest(name="orgs/acme/wallets"), "MALFORMED_NAME", "name"),
    ("GetWallet", pb.GetWalletRequest(name=wallet_name(9)), "WALLET_UNKNOWN", ""),
    ("GetBalance", pb.GetBalanceRequest(name=wallet_name(9)), "WALLET_UNKNOWN", ""),
    ("ListWallets", pb.ListWalletsRequest(parent="orgs/acme", page_size=1001), "INVALID_ARGUMENT", "page_size"),
    ("ListWallets", pb.ListWalletsRequest(parent="orgs/acme", page_token="??"), "INVALID_ARGUMENT", "page_token"),
    ("ListTransactions", pb.ListTransactionsRequest(wallet=wallet_name(9)), "WALLET_UNKNOWN", ""),
    ("ListTransactions", pb.ListTransactionsRequest(wallet=WALLET, page_size=-1), "INVALID_ARGUMENT", "page_size"),
    ("SetWalletState", pb.SetWalletStateRequest(name=WALLET), "INVALID_ARGUMENT", "state"),
    ("SetWalletState", pb.SetWalletStateRequest(name=WALLET, state=FROZEN), "INVALID_ARGUMENT", "reason"),
    ("CreateGrant", grant(0), "AMOUNT_OUT_OF_RANGE", "grant.amount.amount_nanos"),
    ("CreateGrant", grant(-1), "AMOUNT_OUT_OF_RANGE", "grant.amount.amount_nanos"),
    ("CreateGrant", grant(2**63 - 1), "AMOUNT_OUT_OF_RANGE", "amount"),
    ("CreateGrant", grant(currency="EUR"), "CURRENCY_MISMATCH", "grant.amount.currency_code"),
    ("CreateGrant", grant(currency="XXX"), "UNKNOWN_CURRENCY", "grant.amount.currency_code"),
    ("CreateGrant", grant(kind=pb.GRANT_KIND_UNSPECIFIED), "INVALID_ARGUMENT", "grant.kind"),
    ("CreateGrant", grant(priority=-1), "INVALID_ARGUMENT", "grant.priority"),
    ("CreateGrant", grant(expire_time=Timestamp(seconds=1)), "EXPIRY_PASSED", "grant.expire_time"),
    ("CreateGrant", grant(expire_time=Timestamp(seconds=2**60)), "INVALID_ARGUMENT", "grant.expire_time"),
    ("CreateGrant", grant(request_id=""), "REQUEST_ID_REQUIRED", "request_id"),
    ("CreateGrant", grant(wallet=wallet_name(9)), "WALLET_UNKNOWN", ""),
    ("ExtendLease", extend(0, 1), "INVALID_ARGUMENT", "n"),
    ("ExtendLease", extend(1, -1), "AMOUNT_OUT_OF_RANGE", "need_nanos"),
    ("ExtendLease", extend(1, 1, ask_nanos=-1), "AMOUNT_OUT_OF_RANGE", "ask_nanos"),
    ("ExtendLease", extend(1, 1, epoch=-1), "AMOUNT_OUT_OF_RANGE", "epoch"),
    ("ExtendLease", extend(1, 1, holder=""), "MALFORMED_NAME", "holder"),
    ("ExtendLease", extend(1, 1, wallet=wallet_name(9)), "WALLET_UNKNOWN", ""),
    ("ExtendLease", extend(2, 1), "LEASE_GAP", "n"),
    ("CaptureLease", capture(1, -1, 1), "AMOUNT_OUT_OF_RANGE", "lines[0].amount_nanos"),
    ("CaptureLease", capture(1, 1, -1), "AMOUNT_OUT_OF_RANGE", "captured_total_nanos"),
    ("CaptureLease", capture(1, 2**62, 2**62), "AMOUNT_OUT_OF_RANGE", "amount"),
    ("CaptureLease", capture(1, 1, 1, lines=[pb.CaptureLine(month="11/2026")]), "INVALID_ARGUMENT", "lines[0].month"),
    ("CaptureLease", capture(1, 1, 1, lines=[pb.CaptureLine()] * 1001), "BATCH_TOO_LARGE", "lines"),
    (
        "CaptureLease",
        capture(1, 1, 1, lines=[pb.CaptureLine(month="2026-11", amount_nanos=2**63 - 1)] * 2),
        "AMOUNT_OUT_OF_RANGE",
        "lines",
    ),
    (
        "SyncLeases",
        pb.SyncLeasesRequest(holder="b", orgs=[pb.DirectoryCursor(org="acme")]),
        "MALFORMED_SUBJECT",
        "orgs[0].org",
    ),
    (
        "SyncLeases",
        pb.SyncLeasesRequest(holder="b", orgs=[pb.DirectoryCursor(org="orgs/a")] * 10_001),
        "BATCH_TOO_LARGE",
        "orgs",
    ),
    ("ReclaimLease", pb.ReclaimLeaseRequest(wallet=WALLET, holder="b"), "INVALID_ARGUMENT", "reason"),
    ("ReclaimLease", pb.ReclaimLeaseRequest(wallet=WALLET, holder="b", reason="x"), "LEASE_UNKNOWN", "holder"),
    ("TrialBalance", pb.TrialBalanceRequest(org="acme"), "MALFORMED_SUBJECT", "org"),
]


async def test_every_wrong_request_is_told_what_is_wrong_and_changes_nothing(call: Caller, pool: asyncpg.Pool) -> None:
    await call("CreateWallet", create())
    before = await dump(pool)
    for method, request, reason, field in BAD:
        refused = await call.refusal(method, request)
        assert (reason, field) == (refused.reason, refused.field or ""), (method, refused)
        assert refused.code is not Code.INTERNAL
        assert before == await dump(pool), (method, reason)


async def test_a_closed_wallet_stays_closed_and_takes_captures_as_debt(call: Caller) -> None:
    await call("CreateWallet", create())
    await call("SetWalletState", pb.SetWalletStateRequest(name=WALLET, state=CLOSED, reason="moved"))
    opened = await call.refusal("SetWalletState", pb.SetWalletStateRequest(name=WALLET, state=OPEN))
    assert ("WALLET_CLOSED", "state") == (opened.reason, opened.field)
    assert "WALLET_CLOSED" == (await call.refusal("CreateGrant", grant())).reason
    assert 0 == (await call("ExtendLease", extend(1, 10))).granted_nanos
    await call("CaptureLease", capture(2, 10, 10))
    assert -10 == (await call("GetBalance", pb.GetBalanceRequest(name=WALLET))).balance_nanos


CREDENTIALS: list[tuple[str, str, str, object, str | None]] = [
    ("orgs/acme", "operator", "GetWallet", pb.GetWalletRequest(name=WALLET), None),
    ("orgs/beta", "operator", "GetWallet", pb.GetWalletRequest(name=WALLET), "OUT_OF_SCOPE"),
    ("orgs/acme/teams/a", "operator", "GetWallet", pb.GetWalletRequest(name=WALLET), "OUT_OF_SCOPE"),
    ("orgs/acme", "agent", "CreateGrant", grant(), "ROLE_MISSING"),
    ("orgs/acme", "service", "ExtendLease", extend(1, 1), "OUT_OF_SCOPE"),
    ("orgs/-", "operator", "ExtendLease", extend(1, 1), "ROLE_MISSING"),
    ("orgs/acme", "auditor", "TrialBalance", pb.TrialBalanceRequest(org="orgs/acme"), None),
    ("orgs/acme", "auditor", "TrialBalance", pb.TrialBalanceRequest(), "OUT_OF_SCOPE"),
    ("orgs/acme", "auditor", "Audit", pb.AuditRequest(), "OUT_OF_SCOPE"),
]


async def test_a_credential_reaches_its_own_subtree_and_role(fresh: Database, keys: Keys) -> None:
    async with serving_wallet(fresh.service_dsn, keys) as address:
        every = Caller(address, keys.token("orgs/-", "admin"))
        await every("CreateWallet", create())
        for subject, role, method, request, reason in CREDENTIALS:
            own = Caller(address, keys.token(subject, role))
            if reason is None:
                await own(method, request)
            else:
                assert reason == (await own.refusal(method, request)).reason, (subject, role, method)
            await own.close()
        await every.close()


async def test_limits_are_kept(call: Caller, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, org in enumerate(["acme", "beta", "coda"]):
        await call("CreateWallet", create(parent=f"orgs/{org}", request_id=f"c{number}"))
    # Directories that do not fit into one answer come with the next.
    monkeypatch.setattr(service, "DIRECTORY_WALLETS_MAX", 2)
    known = dict.fromkeys(["orgs/acme", "orgs/beta", "orgs/coda"], 0)
    for expected in (["orgs/acme", "orgs/beta"], ["orgs/coda"], []):
        cursors = [pb.DirectoryCursor(org=org, version=version) for org, version in known.items()]
        answer = await call("SyncLeases", pb.SyncLeasesRequest(holder="b", orgs=cursors))
        assert expected == [directory.org for directory in answer.directories]
        known |= {directory.org: directory.version for directory in answer.directories}

    monkeypatch.setattr(service, "WALLETS_MAX", 1)
    before = await dump(pool)
    assert "TOO_MANY_WALLETS" == (await call.refusal("CreateWallet", create("w2", request_id="more"))).reason
    monkeypatch.setattr(reads, "TRIAL_ROWS_MAX", 5)
    assert "TRIAL_BALANCE_TOO_LARGE" == (await call.refusal("TrialBalance", pb.TrialBalanceRequest())).reason
    await call("ExtendLease", extend(1, 0))
    monkeypatch.setattr(audit_store, "LEASES_MAX", 0)
    assert "AUDIT_TOO_LARGE" == (await call.refusal("Audit", pb.AuditRequest())).reason
    assert before["wallets"] == (await dump(pool))["wallets"]
    assert before["directories"] == (await dump(pool))["directories"]


async def test_a_batch_of_operations_is_done_in_order_and_refused_singly(call: Caller) -> None:
    await call("CreateWallet", create())
    await call("CreateGrant", grant(1_000))
    request = pb.BatchLeaseOperationsRequest(
        operations=[
            pb.LeaseOperation(extend=extend(1, 400)),
            pb.LeaseOperation(capture=capture(2, 350, 350)),
            pb.LeaseOperation(capture=capture(9, 1, 351)),
            pb.LeaseOperation(),
            pb.LeaseOperation(extend=extend(1, 5, wallet=wallet_name(2))),
            pb.LeaseOperation(give_back=pb.ReturnLeaseRequest(wallet=WALLET, holder="b", n=3, returned_total_nanos=50)),
        ]
    )
    for _ in range(2):
        results = (await call("BatchLeaseOperations", request)).results
        assert [400, 0, 0, 0, 0, 0] == [result.granted_nanos for result in results]
        assert [1, 2, 3] == [result.lease.totals.n for result in results if result.WhichOneof("result") == "lease"]
        refused = [from_rpc_status(r.error) for r in results if r.WhichOneof("result") == "error"]
        assert ["LEASE_GAP", "INVALID_ARGUMENT", "WALLET_UNKNOWN"] == [error.reason for error in refused]
        assert "operations[3]" == refused[1].field
    many = pb.BatchLeaseOperationsRequest(operations=[pb.LeaseOperation()] * 501)
    assert "BATCH_TOO_LARGE" == (await call.refusal("BatchLeaseOperations", many)).reason
    balance = await call("GetBalance", pb.GetBalanceRequest(name=WALLET))
    assert (650, 0, 350) == (balance.available_nanos, balance.escrow_nanos, balance.spent_nanos)
