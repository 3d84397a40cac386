"""The wallet service, as budget calls it."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import grpc

from pursestrings.type.v1 import type_pb2
from pursestrings.wallet.v1 import wallet_pb2, wallet_pb2_grpc
from services.budget.domain.lease import Line
from services.budget.domain.model import WalletState
from services.budget.domain.plan import Directory, WalletRef
from services.budget.store.leases import LeaseRow, Op, Status
from services.kit.errors import PurseError
from services.kit.status import from_rpc_error, from_rpc_status
from services.kit.subject import parse_resource

_ORG: Final = "orgs/"


class Wallets:
    """Translates lease operations to calls and answers back.

    Args:
        channel: To the wallet service.
        holder: What this database calls itself.
        timeout_s: How long one call may take, in seconds.
    """

    def __init__(self, channel: grpc.aio.Channel, holder: str, timeout_s: float) -> None:
        self._stub: Any = wallet_pb2_grpc.WalletServiceStub(channel)
        self._holder = holder
        self._timeout_s = timeout_s

    async def send(self, ops: Sequence[Op]) -> list[tuple[int, Status] | PurseError]:
        """Sends operations of different leases.

        Returns:
            Of each what it granted (0 but for extensions) and where its lease stands, or the wallet's refusal.

        Raises:
            PurseError: The wallet is out of reach; what became of them is not known.
        """
        request = wallet_pb2.BatchLeaseOperationsRequest(operations=[self._operation(op) for op in ops])
        answer = await self._call("BatchLeaseOperations", request)
        return [
            from_rpc_status(result.error)
            if result.WhichOneof("result") == "error"
            else (result.granted_nanos, _status_of(result.lease))
            for result in answer.results
        ]

    async def sync(
        self, leases: Sequence[LeaseRow], versions: Mapping[str, int]
    ) -> tuple[list[Status], list[Directory]]:
        """Where leases stand, and the directories that differ from these versions.

        Raises:
            PurseError: The wallet's refusal, or that it is out of reach.
        """
        request = wallet_pb2.SyncLeasesRequest(
            holder=self._holder,
            leases=[
                type_pb2.LeaseTotals(wallet=x.wallet, holder=self._holder, epoch=x.epoch, n=x.last_n) for x in leases
            ],
            orgs=[wallet_pb2.DirectoryCursor(org=_ORG + org, version=version) for org, version in versions.items()],
        )
        answer = await self._call("SyncLeases", request)
        return [_status_of(lease) for lease in answer.leases], [_directory_of(d) for d in answer.directories]

    async def available(self, wallet: str) -> int:
        """What a wallet could lease now, in nano-units.

        Raises:
            PurseError: The wallet's refusal, or that it is out of reach.
        """
        answer = await self._call("GetBalance", wallet_pb2.GetBalanceRequest(name=wallet))
        return int(answer.available_nanos)

    async def _call(self, method: str, request: object) -> Any:
        try:
            return await getattr(self._stub, method)(request, timeout=self._timeout_s)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error

    def _operation(self, op: Op) -> wallet_pb2.LeaseOperation:
        key: dict[str, Any] = {"wallet": op.wallet, "holder": self._holder, "epoch": op.epoch, "n": op.n}
        if op.kind == "EXTEND":
            extend = wallet_pb2.ExtendLeaseRequest(**key, ask_nanos=op.ask, need_nanos=op.need)
            return wallet_pb2.LeaseOperation(extend=extend)
        if op.kind == "RETURN":
            give_back = wallet_pb2.ReturnLeaseRequest(**key, returned_total_nanos=op.returned)
            return wallet_pb2.LeaseOperation(give_back=give_back)
        lines = [_line(line) for line in op.lines]
        if op.kind == "REVERSE":
            reverse = wallet_pb2.ReverseCaptureRequest(**key, reversed_total_nanos=op.reversed, lines=lines)
            return wallet_pb2.LeaseOperation(reverse=reverse)
        capture = wallet_pb2.CaptureLeaseRequest(**key, captured_total_nanos=op.captured, lines=lines)
        return wallet_pb2.LeaseOperation(capture=capture)


def _line(line: Line) -> wallet_pb2.CaptureLine:
    return wallet_pb2.CaptureLine(
        provider=line.provider, model=line.model, month=line.month, amount_nanos=line.amount, calls=line.calls
    )


def _status_of(lease: Any) -> Status:
    totals = lease.totals
    return Status(
        totals.wallet,
        totals.epoch,
        totals.n,
        totals.extended_total_nanos,
        lease.target_nanos,
        WalletState(lease.wallet_state),
        lease.quarantined,
    )


def _directory_of(directory: Any) -> Directory:
    wallets = tuple(
        WalletRef(w.name, parse_resource(w.name, "wallets")[0].name, w.currency_code, WalletState(w.state))
        for w in directory.wallets
    )
    return Directory(directory.org.removeprefix(_ORG), directory.version, wallets)
