"""The gRPC face of the wallet: translate, call, answer."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import asyncpg
import grpc

from pursestrings.wallet.v1 import wallet_pb2 as pb
from pursestrings.wallet.v1 import wallet_pb2_grpc
from services.kit.database import transact
from services.kit.errors import Code, PurseError, already_exists, conflict, invalid
from services.kit.groupcommit import GroupCommit
from services.kit.money import MAX_NANOS
from services.wallet import convert
from services.wallet.audit import MoreChecks, audit
from services.wallet.domain import leases, sizing
from services.wallet.domain.commands import Command, Reclaim, RequestKey, SetState
from services.wallet.ledger import Answer, GrantAnswer, LeaseAnswer, MoveAnswer, Replayed, request_id_reused
from services.wallet.recharge.service import RechargeMethods
from services.wallet.recharge.stripe import Stripe
from services.wallet.refunds.disputes import Disputes
from services.wallet.refunds.refunds import Refunds
from services.wallet.refunds.service import RefundMethods
from services.wallet.refunds.stripe import MoneyBack
from services.wallet.reports.service import ReportMethods
from services.wallet.statements.service import StatementMethods
from services.wallet.store import reads, wallets
from services.wallet.store.wallets import WalletRow

WALLETS_MAX: Final = 10_000
"""The most wallets of one organisation, closed ones included."""
SYNC_MAX: Final = 10_000
"""The most leases, and the most organisations, of one SyncLeases."""
DIRECTORY_WALLETS_MAX: Final = 15_000
"""After so many wallets an answer of SyncLeases takes no further directory; the next call brings it."""

Context = grpc.aio.ServicerContext[Any, Any]
Commits = GroupCommit[Command, Answer]


class _AnsweredBefore(Exception):  # noqa: N818 - rolls back, and carries the answer
    def __init__(self, answer: bytes) -> None:
        super().__init__("this request was answered before")
        self.answer = answer


class LedgerMethods:
    """The methods on wallets, the ledger and leases of `pursestrings.wallet.v1.WalletService`.

    Args:
        pool: The wallet's database.
        commits: Runs commands in shared transactions.
        more_checks: What an audit checks beside the books.
        wake: Called after something was written that a relay may send.
        lease_floor: What a lease without history may hold, in nano-units.
    """

    def __init__(
        self,
        pool: asyncpg.Pool,
        commits: Commits,
        more_checks: MoreChecks,
        *,
        wake: Callable[[], None] = lambda: None,
        lease_floor: int = sizing.FLOOR_NANOS,
    ) -> None:
        self._pool = pool
        self._commits = commits
        self._more_checks = more_checks
        self._wake = wake
        self._lease_floor = lease_floor

    # Wallets.

    async def CreateWallet(self, request: pb.CreateWalletRequest, _context: Context) -> pb.CreateWalletResponse:
        """Creates a wallet with its accounts."""
        wallet = convert.new_wallet(request)
        key = convert.request_key(wallet.org, "CreateWallet", request.request_id, request)
        try:
            return await transact(self._pool, lambda conn: _create_wallet(conn, key, wallet))
        except _AnsweredBefore as before:
            return pb.CreateWalletResponse.FromString(before.answer)

    async def GetWallet(self, request: pb.GetWalletRequest, _context: Context) -> pb.GetWalletResponse:
        """One wallet."""
        return pb.GetWalletResponse(wallet=convert.wallet_message(await self._wallet(request.name, "name")))

    async def ListWallets(self, request: pb.ListWalletsRequest, _context: Context) -> pb.ListWalletsResponse:
        """Wallets of a subject and its descendants."""
        parent = convert.subject_of(request.parent, "parent")
        size = convert.page_size(request.page_size)
        after = convert.from_page_token(request.page_token, parent.name)
        async with self._pool.acquire() as conn:
            rows = await wallets.list_wallets(conn, parent.org, parent.name, after, size + 1)
        more = len(rows) > size
        return pb.ListWalletsResponse(
            wallets=[convert.wallet_message(row) for row in rows[:size]],
            next_page_token=convert.to_page_token(parent.name, rows[size - 1].name) if more else "",
        )

    async def SetWalletState(self, request: pb.SetWalletStateRequest, _context: Context) -> pb.SetWalletStateResponse:
        """Opens, freezes or closes a wallet."""
        org, name = convert.wallet_key(request.name, "name")
        state = convert.state_name(request.state)
        why = convert.reason(request.reason, required=state != "OPEN")
        await self._commits.submit(SetState(org, name, state, why))
        self._wake()
        return pb.SetWalletStateResponse(wallet=convert.wallet_message(await self._wallet(request.name, "name")))

    # Money.

    async def GetBalance(self, request: pb.GetBalanceRequest, _context: Context) -> pb.GetBalanceResponse:
        """What a wallet has, in one snapshot."""
        org, name = convert.wallet_key(request.name, "name")
        at = convert.as_of(request)
        async with self._pool.acquire() as conn, conn.transaction(isolation="repeatable_read", readonly=True):
            wallet = await wallets.get_wallet(conn, org, name)
            if at is None:
                balance = await wallets.wallet_balance(conn, org, name)
                grants = await reads.list_grants(conn, org, name)
            else:
                balance, grants = await reads.balance_as_of(conn, org, name, at), []
        return pb.GetBalanceResponse(
            name=name,
            currency_code=wallet.currency,
            balance_nanos=balance.balance,
            available_nanos=balance.available,
            escrow_nanos=balance.escrow,
            debt_nanos=balance.debt,
            spent_nanos=balance.spent,
            grants=[convert.grant_message(grant) for grant in grants],
        )

    async def CreateGrant(self, request: pb.CreateGrantRequest, _context: Context) -> pb.CreateGrantResponse:
        """Puts money into a wallet."""
        answer = await self._commits.submit(convert.new_grant(request))
        self._wake()
        if isinstance(answer, Replayed):
            return pb.CreateGrantResponse.FromString(answer.answer)
        assert isinstance(answer, GrantAnswer)
        return pb.CreateGrantResponse.FromString(convert.encode_grant(answer))

    async def Transfer(self, request: pb.TransferRequest, _context: Context) -> pb.TransferResponse:
        """Moves free money between wallets."""
        answer = await self._commits.submit(convert.new_move(request))
        self._wake()
        if isinstance(answer, Replayed):
            return pb.TransferResponse.FromString(answer.answer)
        assert isinstance(answer, MoveAnswer)
        return pb.TransferResponse.FromString(convert.encode(answer))

    async def ListTransactions(
        self, request: pb.ListTransactionsRequest, _context: Context
    ) -> pb.ListTransactionsResponse:
        """A wallet's transfers, newest first."""
        org, name = convert.wallet_key(request.wallet, "wallet")
        size = convert.page_size(request.page_size)
        after = convert.from_page_token(request.page_token, name)
        if after and not after.isdecimal():
            raise invalid("page_token", "is none of this method's; send the one of the page before")
        async with self._pool.acquire() as conn:
            await wallets.get_wallet(conn, org, name)
            rows = await reads.list_transfers(conn, org, name, int(after) if after else None, size + 1)
        more = len(rows) > size
        return pb.ListTransactionsResponse(
            transfers=[convert.transfer_message(row) for row in rows[:size]],
            next_page_token=convert.to_page_token(name, str(rows[size - 1].sequence)) if more else "",
        )

    async def TrialBalance(self, request: pb.TrialBalanceRequest, _context: Context) -> pb.TrialBalanceResponse:
        """The sums of all accounts."""
        org = convert.optional_org(request.org)
        at = convert.as_of(request)
        if at is not None and org is None:
            raise invalid("org", "name one organisation: a past time is added up from the ledger")
        async with self._pool.acquire() as conn:
            if at is None or org is None:
                rows = await reads.trial_balance(conn, org)
            else:
                rows = await reads.trial_balance_as_of(conn, org, at)
        if len(rows) > reads.TRIAL_ROWS_MAX or any(max(row.debits, row.credits) > MAX_NANOS for row in rows):
            raise PurseError(
                Code.OUT_OF_RANGE,
                "TRIAL_BALANCE_TOO_LARGE",
                f"there are more than {reads.TRIAL_ROWS_MAX} sums, or one passes int64; "
                "ask for one organisation, or for the balances of its wallets",
                field="org",
            )
        return _trial_balance(rows)

    # Leases.

    async def ExtendLease(self, request: pb.ExtendLeaseRequest, _context: Context) -> pb.ExtendLeaseResponse:
        """Moves available money into escrow."""
        answer = await self._lease_op(convert.extend(request))
        if answer.moved < max(1, request.need_nanos):
            self._wake()
        return pb.ExtendLeaseResponse(granted_nanos=answer.moved, lease=convert.lease_message(answer))

    async def CaptureLease(self, request: pb.CaptureLeaseRequest, _context: Context) -> pb.CaptureLeaseResponse:
        """Posts what was spent."""
        answer = await self._lease_op(convert.capture(request))
        self._wake()
        return pb.CaptureLeaseResponse(lease=convert.lease_message(answer))

    async def ReturnLease(self, request: pb.ReturnLeaseRequest, _context: Context) -> pb.ReturnLeaseResponse:
        """Moves unspent escrow back."""
        return pb.ReturnLeaseResponse(lease=convert.lease_message(await self._lease_op(convert.give_back(request))))

    async def ReverseCapture(self, request: pb.ReverseCaptureRequest, _context: Context) -> pb.ReverseCaptureResponse:
        """Gives captured money back."""
        return pb.ReverseCaptureResponse(lease=convert.lease_message(await self._lease_op(convert.reverse(request))))

    async def BatchLeaseOperations(
        self, request: pb.BatchLeaseOperationsRequest, _context: Context
    ) -> pb.BatchLeaseOperationsResponse:
        """Many operations of leases in few transactions."""
        asked = convert.operations(request.operations)
        commands: list[Command] = [op for op in asked if not isinstance(op, PurseError)]
        done = iter(await self._commits.submit_many(commands))
        results = []
        for op in asked:
            answer = op if isinstance(op, PurseError) else next(done)
            assert isinstance(answer, LeaseAnswer | Exception)
            results.append(convert.operation_result(op, answer))
        self._wake()
        return pb.BatchLeaseOperationsResponse(results=results)

    async def SyncLeases(self, request: pb.SyncLeasesRequest, _context: Context) -> pb.SyncLeasesResponse:
        """The leases asked for, and the directories that have changed."""
        holder = convert.holder(request.holder)
        for field, count in (("leases", len(request.leases)), ("orgs", len(request.orgs))):
            if count > SYNC_MAX:
                raise invalid(field, f"{count} of them; send at most {SYNC_MAX}", "BATCH_TOO_LARGE")
        asked = [convert.wallet_key(lease.wallet, f"leases[{i}].wallet") for i, lease in enumerate(request.leases)]
        known = [(convert.org_of(c.org, f"orgs[{i}].org"), c.version) for i, c in enumerate(request.orgs)]
        async with self._pool.acquire() as conn, conn.transaction(isolation="repeatable_read", readonly=True):
            views = await reads.lease_views(conn, holder, asked)
            directories = await _directories(conn, known)
        return pb.SyncLeasesResponse(
            leases=[convert.lease_message(self._lease_answer(holder, view)) for view in views],
            directories=directories,
        )

    async def ReclaimLease(self, request: pb.ReclaimLeaseRequest, _context: Context) -> pb.ReclaimLeaseResponse:
        """Ends a lease's epoch by force."""
        org, wallet = convert.wallet_key(request.wallet, "wallet")
        why = convert.reason(request.reason, required=True)
        epoch = request.expected_epoch if request.HasField("expected_epoch") else None
        if epoch is not None and epoch < 0:
            raise invalid("expected_epoch", "is the number of an epoch, from 0")
        answer = await self._commits.submit(Reclaim(org, wallet, convert.holder(request.holder), why, epoch))
        assert isinstance(answer, LeaseAnswer)
        self._wake()
        return pb.ReclaimLeaseResponse(lease=convert.lease_message(answer))

    async def Audit(self, request: pb.AuditRequest, _context: Context) -> pb.AuditResponse:
        """Verifies the books in one snapshot."""
        return await audit(self._pool, convert.optional_org(request.org), self._more_checks)

    async def _wallet(self, name: str, field: str) -> WalletRow:
        org, wallet = convert.wallet_key(name, field)
        async with self._pool.acquire() as conn:
            return await wallets.get_wallet(conn, org, wallet)

    async def _lease_op(self, op: leases.AnyOp) -> LeaseAnswer:
        answer = await self._commits.submit(op)
        assert isinstance(answer, LeaseAnswer)
        return answer

    def _lease_answer(self, holder: str, view: reads.LeaseView) -> LeaseAnswer:
        lease = view.lease
        return LeaseAnswer(
            wallet=view.wallet,
            holder=holder,
            moved=0,
            totals=leases.totals_of(lease) if lease else leases.Totals(0, 0, 0, 0, 0, 0),
            target=leases.target_of(view.state, view.available, lease, view.now, self._lease_floor),
            state=view.state,
            available=view.available,
            quarantined=lease is not None and lease.quarantine is not None,
        )


class WalletService(
    LedgerMethods,
    RechargeMethods,
    RefundMethods,
    ReportMethods,
    StatementMethods,
    wallet_pb2_grpc.WalletServiceServicer,
):
    """The whole `pursestrings.wallet.v1.WalletService`.

    Args:
        pool: The wallet's database.
        commits: Runs commands in shared transactions.
        stripe: The payment provider.
        more_checks: What an audit checks beside the books.
        refunds: Moves refunds.
        disputes: Moves disputes.
        wake: Called after something was written that a relay or a loop should look at.
        lease_floor: What a lease without history may hold, in nano-units.
    """

    def __init__(
        self,
        pool: asyncpg.Pool,
        commits: Commits,
        stripe: Stripe,
        more_checks: MoreChecks,
        *,
        refunds: Refunds | None = None,
        disputes: Disputes | None = None,
        wake: Callable[[], None] = lambda: None,
        lease_floor: int = sizing.FLOOR_NANOS,
    ) -> None:
        LedgerMethods.__init__(self, pool, commits, more_checks, wake=wake, lease_floor=lease_floor)
        RechargeMethods.__init__(self, pool, stripe, wake=wake)
        back = MoneyBack(stripe)
        RefundMethods.__init__(self, pool, refunds or Refunds(pool, back), disputes or Disputes(pool, back), wake=wake)
        StatementMethods.__init__(self, pool, back)


async def _create_wallet(conn: asyncpg.Connection, key: RequestKey, wallet: WalletRow) -> pb.CreateWalletResponse:
    # The directory's lock makes creations of one organisation wait for each other, so the look for the key is sure.
    count = await wallets.count_wallet(conn, key.org)
    before = (await wallets.find_keys(conn, [key])).get((key.org, key.method, key.id))
    if before is not None:
        if before.payload != key.payload:
            raise request_id_reused(key)
        raise _AnsweredBefore(before.answer)
    now = await wallets.clock(conn)
    wallet = replace(wallet, created_at=now)
    if count > WALLETS_MAX:
        raise conflict("TOO_MANY_WALLETS", f"orgs/{key.org} has {WALLETS_MAX} wallets, which is the limit")
    if not await wallets.insert_wallet(conn, wallet):
        raise already_exists(wallet.name, "WALLET_EXISTS", wallet=wallet.name)
    answer = pb.CreateWalletResponse(wallet=convert.wallet_message(wallet))
    await wallets.insert_keys(conn, [(key, answer.SerializeToString())], now)
    return answer


async def _directories(conn: asyncpg.Connection, known: Sequence[tuple[str, int]]) -> list[pb.OrgDirectory]:
    fitting: list[reads.ChangedDirectory] = []
    total = 0
    for changed in await reads.changed_directories(conn, known):
        total += changed.wallets
        if fitting and total > DIRECTORY_WALLETS_MAX:
            break
        fitting.append(changed)
    directories = {c.org: pb.OrgDirectory(org=f"orgs/{c.org}", version=c.version) for c in fitting}
    for wallet in await wallets.directory_wallets(conn, list(directories)) if directories else []:
        directories[wallet.org].wallets.append(convert.directory_message(wallet))
    return list(directories.values())


def _trial_balance(rows: Sequence[reads.TrialRow]) -> pb.TrialBalanceResponse:
    difference: dict[tuple[str, str], int] = {}
    for row in rows:
        key = (row.org, row.currency)
        difference[key] = difference.get(key, 0) + row.debits - row.credits
    return pb.TrialBalanceResponse(
        accounts=[
            pb.AccountTotal(
                org=f"orgs/{row.org}",
                account_kind=row.kind,
                currency_code=row.currency,
                debits_nanos=row.debits,
                credits_nanos=row.credits,
            )
            for row in rows
        ],
        balanced=not any(difference.values()),
    )
