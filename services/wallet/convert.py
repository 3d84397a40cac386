"""Translates between the contract and the domain, and checks what a request holds."""

import hashlib
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from pursestrings.type.v1 import type_pb2
from pursestrings.wallet.v1 import wallet_pb2 as pb
from services.kit import money, subject, tokens, windows
from services.kit.errors import PurseError, invalid, unavailable
from services.kit.status import to_rpc_status
from services.wallet.domain import leases
from services.wallet.domain.commands import DEFAULT_PRIORITY, Move, PutGrant, RequestKey
from services.wallet.ledger import GrantAnswer, LeaseAnswer, MoveAnswer
from services.wallet.store.reads import GrantRow, TransferRow
from services.wallet.store.wallets import WalletRow

PAGE_SIZE_DEFAULT: Final = 100
PAGE_SIZE_MAX: Final = 1_000
DISPLAY_NAME_CHARS_MAX: Final = 128
REASON_CHARS_MAX: Final = 256
LINE_TEXT_CHARS_MAX: Final = 256
CALLS_MAX: Final = 10**12
"""The most calls that one line of a capture may count."""

_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_WALLET_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,47}")
_NOT_YET: Final = datetime.min.replace(tzinfo=UTC)
_MONTH: Final = re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])")
_STATES: Final = {
    "OPEN": pb.WALLET_STATE_OPEN,
    "FROZEN": pb.WALLET_STATE_FROZEN,
    "CLOSED": pb.WALLET_STATE_CLOSED,
    "CLOSING": pb.WALLET_STATE_CLOSING,
}
# A budget database needs to know of a wallet that is being closed only that it pays for nothing new.
_STATES_FOR_BUDGET: Final = {**_STATES, "CLOSING": pb.WALLET_STATE_CLOSED}
_STATE_NAMES: Final[dict[int, str]] = {_STATES[name]: name for name in ("OPEN", "FROZEN", "CLOSED")}
_KINDS: Final = {"PAID": pb.GRANT_KIND_PAID, "PROMOTIONAL": pb.GRANT_KIND_PROMOTIONAL}
_KIND_NAMES: Final[dict[int, str]] = {number: name for name, number in _KINDS.items()}


# Names and scalars.


def wallet_key(name: str, field: str) -> tuple[str, str]:
    """(org, wallet) of a wallet's resource name."""
    try:
        owner, _ = subject.parse_resource(name, "wallets")
    except subject.SubjectError as error:
        raise invalid(field, str(error), "MALFORMED_NAME") from None
    return owner.org, name


def subject_of(name: str, field: str) -> subject.Subject:
    """A parsed subject."""
    try:
        return subject.parse(name)
    except subject.SubjectError as error:
        raise invalid(field, str(error), "MALFORMED_SUBJECT") from None


def org_of(name: str, field: str) -> str:
    """The bare id of `orgs/{id}`."""
    found = subject_of(name, field)
    if found.depth > 1:
        raise invalid(field, f"{name!r} lies within an organisation; give `{found.root}`", "MALFORMED_SUBJECT")
    return found.org


def optional_org(name: str, field: str = "org") -> str | None:
    """The bare id; None for an empty field, which means every organisation."""
    return org_of(name, field) if name else None


def holder(name: str) -> str:
    """The checked id of a budget database."""
    if not _ID.fullmatch(name):
        raise invalid("holder", f"{name[:80]!r} is no id: 1 to 63 of A-Z a-z 0-9 . _ -", "MALFORMED_NAME")
    return name


def request_key(org: str, method: str, id_: str, request: Message) -> RequestKey:
    """What makes a request happen once."""
    if not id_:
        raise invalid("request_id", "is required: make one for each new request", "REQUEST_ID_REQUIRED")
    if not _ID.fullmatch(id_):
        raise invalid("request_id", f"{id_[:80]!r} is no id: 1 to 63 of A-Z a-z 0-9 . _ -", "MALFORMED_NAME")
    return RequestKey(org, method, id_, hashlib.sha256(request.SerializeToString(deterministic=True)).digest())


def page_size(size: int) -> int:
    """The page size to use."""
    if not 0 <= size <= PAGE_SIZE_MAX:
        raise invalid("page_size", f"{size} is not from 1 to {PAGE_SIZE_MAX} (0: {PAGE_SIZE_DEFAULT})")
    return size or PAGE_SIZE_DEFAULT


def to_page_token(scope: str, after: str) -> str:
    """A token for the page that follows `after`."""
    return tokens.write([scope, after])


def from_page_token(token: str, scope: str) -> str:
    """What the page follows; empty for the first page."""
    if not token:
        return ""
    try:
        made_for, after = tokens.read(token)
    except (ValueError, TypeError):
        raise invalid("page_token", "is none of this method's; send the one of the page before") from None
    if made_for != scope or not isinstance(after, str):
        raise invalid("page_token", "was made for another request; keep the rest of the request the same")
    return after


def timestamp(at: datetime) -> Timestamp:
    """An instant for the wire."""
    out = Timestamp()
    out.FromDatetime(at.astimezone(UTC))
    return out


# Wallets.


def new_wallet(request: pb.CreateWalletRequest) -> WalletRow:
    """The wallet that a request asks for; whoever stores it says when."""
    owner = subject_of(request.parent, "parent")
    if not _WALLET_ID.fullmatch(request.wallet_id):
        raise invalid(
            "wallet_id", f"{request.wallet_id[:80]!r} is no id: 1 to 48 of A-Z a-z 0-9 . _ -", "MALFORMED_NAME"
        )
    wallet = request.wallet
    if len(wallet.display_name) > DISPLAY_NAME_CHARS_MAX:
        raise invalid("wallet.display_name", f"has more than {DISPLAY_NAME_CHARS_MAX} characters")
    _check_text(wallet.display_name, "wallet.display_name")
    currency(wallet.currency_code, "wallet.currency_code")
    zone = wallet.time_zone or "UTC"
    try:
        windows.zone_info(zone)
    except windows.UnknownZoneError as error:
        raise invalid("wallet.time_zone", str(error), "UNKNOWN_TIME_ZONE") from None
    return WalletRow(
        org=owner.org,
        name=f"{owner.name}/wallets/{request.wallet_id}",
        subject=owner.name,
        display_name=wallet.display_name,
        currency=wallet.currency_code,
        state="OPEN",
        state_reason="",
        time_zone=zone,
        stripe_customer=None,
        payment_method=None,
        created_at=_NOT_YET,
    )


def currency(code: str, field: str) -> str:
    """A checked ISO 4217 code."""
    try:
        return money.currency(code).code
    except money.MoneyError as error:
        raise invalid(field, str(error), "UNKNOWN_CURRENCY") from None


def wallet_message(row: WalletRow) -> pb.Wallet:
    """A wallet for the wire."""
    return pb.Wallet(
        name=row.name,
        display_name=row.display_name,
        currency_code=row.currency,
        state=_STATES[row.state],
        time_zone=row.time_zone,
        create_time=timestamp(row.created_at),
        state_reason=row.state_reason,
        payment_method=row.payment_method or "",
    )


def directory_message(row: WalletRow) -> pb.Wallet:
    """A wallet for a budget database."""
    message = wallet_message(row)
    message.state = _STATES_FOR_BUDGET[row.state]
    return message


def state_name(number: int) -> str:
    """OPEN, FROZEN or CLOSED."""
    if number not in _STATE_NAMES:
        raise invalid("state", "say OPEN, FROZEN or CLOSED")
    return _STATE_NAMES[number]


def reason(text: str, *, required: bool, field: str = "reason") -> str:
    """A checked reason for people."""
    if required and not text.strip():
        raise invalid(field, "is required: say why")
    if len(text) > REASON_CHARS_MAX:
        raise invalid(field, f"has more than {REASON_CHARS_MAX} characters")
    _check_text(text, field)
    return text


# Grants and transfers.


def new_grant(request: pb.CreateGrantRequest) -> PutGrant:
    """The grant that a request asks for."""
    org, wallet = wallet_key(request.wallet, "wallet")
    asked = request.grant
    kind = _KIND_NAMES.get(asked.kind)
    if kind is None:
        raise invalid("grant.kind", "say PAID or PROMOTIONAL")
    if asked.amount.amount_nanos <= 0:
        raise invalid(
            "grant.amount.amount_nanos",
            f"a grant is more than nothing, not {asked.amount.amount_nanos}",
            "AMOUNT_OUT_OF_RANGE",
        )
    currency(asked.amount.currency_code, "grant.amount.currency_code")
    if not 0 <= asked.priority <= 10_000:
        raise invalid("grant.priority", f"{asked.priority} is not from 1 to 10,000 (0: the default)")
    key = request_key(org, "CreateGrant", request.request_id, request)
    return PutGrant(
        org=org,
        wallet=wallet,
        name=f"{wallet.rpartition('/wallets/')[0]}/grants/{key.id}",
        kind=kind,
        amount=asked.amount.amount_nanos,
        currency=asked.amount.currency_code,
        priority=asked.priority or DEFAULT_PRIORITY[kind],
        expires_at=_instant(asked, "expire_time", "grant"),
        reference=f"grants/{key.id}",
        key=key,
        effective_at=_instant(asked, "effective_time", "grant"),
    )


def new_move(request: pb.TransferRequest) -> Move:
    """The transfer that a request asks for."""
    org, giver = wallet_key(request.from_wallet, "from_wallet")
    to_org, taker = wallet_key(request.to_wallet, "to_wallet")
    above, below = sorted((giver.rpartition("/wallets/")[0], taker.rpartition("/wallets/")[0]), key=len)
    if giver == taker or org != to_org or not f"{below}/".startswith(f"{above}/"):
        raise invalid(
            "to_wallet",
            "money moves between two wallets of which one's subject lies above the other's, or is the same",
            "NOT_RELATED",
        )
    if request.amount.amount_nanos <= 0:
        raise invalid("amount.amount_nanos", "a transfer is more than nothing", "AMOUNT_OUT_OF_RANGE")
    currency(request.amount.currency_code, "amount.currency_code")
    key = request_key(org, "Transfer", request.request_id, request)
    return Move(org, giver, taker, request.amount.amount_nanos, request.amount.currency_code, key.id, key)


def encode(answer: GrantAnswer | MoveAnswer) -> bytes:
    """The answer to CreateGrant or Transfer, to be stored under its request id."""
    if isinstance(answer, GrantAnswer):
        return encode_grant(answer)
    grants = [_grant_row(grant, answer.moved_at, grant.amount) for grant in answer.grants]
    return pb.TransferResponse(
        grants=[grant_message(grant) for grant in grants], post_time=timestamp(answer.moved_at)
    ).SerializeToString()


def encode_grant(answer: GrantAnswer) -> bytes:
    """The answer to CreateGrant, to be stored under its request id."""
    row = _grant_row(answer.grant, answer.created_at, answer.remaining)
    return pb.CreateGrantResponse(grant=grant_message(row)).SerializeToString()


def _grant_row(grant: PutGrant, created_at: datetime, remaining: int) -> GrantRow:
    return GrantRow(
        name=grant.name,
        wallet=grant.wallet,
        kind=grant.kind,
        currency=grant.currency,
        amount=grant.amount,
        priority=grant.priority,
        expires_at=grant.expires_at,
        created_at=created_at,
        remaining=remaining,
        recharge=grant.recharge,
        effective_at=grant.effective_at,
        origin=grant.origin,
    )


def grant_message(row: GrantRow) -> pb.Grant:
    """A grant for the wire."""
    return pb.Grant(
        name=row.name,
        wallet=row.wallet,
        kind=_KINDS[row.kind],
        amount=type_pb2.Money(currency_code=row.currency, amount_nanos=row.amount),
        priority=row.priority,
        expire_time=timestamp(row.expires_at) if row.expires_at else None,
        create_time=timestamp(row.created_at),
        remaining_nanos=row.remaining,
        recharge=row.recharge or "",
        effective_time=timestamp(row.effective_at) if row.effective_at else None,
        origin=row.origin or "",
    )


def transfer_message(row: TransferRow) -> pb.Transfer:
    """A row of the ledger for the wire."""
    return pb.Transfer(
        transaction=str(row.transaction),
        sequence=row.sequence,
        kind=row.kind,
        from_account=row.from_account,
        to_account=row.to_account,
        amount=type_pb2.Money(currency_code=row.currency, amount_nanos=row.amount),
        post_time=timestamp(row.posted_at),
        reference=row.reference,
    )


# Leases.


def extend(request: pb.ExtendLeaseRequest) -> leases.Extend:
    """An extension."""
    _not_negative(request.ask_nanos, "ask_nanos")
    _not_negative(request.need_nanos, "need_nanos")
    return leases.Extend(*_lease_op(request), ask=request.ask_nanos, need=request.need_nanos)


def capture(request: pb.CaptureLeaseRequest) -> leases.Capture:
    """A capture."""
    _not_negative(request.captured_total_nanos, "captured_total_nanos")
    return leases.Capture(*_lease_op(request), request.captured_total_nanos, _lines(request.lines))


def give_back(request: pb.ReturnLeaseRequest) -> leases.Return:
    """A return."""
    _not_negative(request.returned_total_nanos, "returned_total_nanos")
    return leases.Return(*_lease_op(request), request.returned_total_nanos)


def reverse(request: pb.ReverseCaptureRequest) -> leases.Reverse:
    """A reversal."""
    _not_negative(request.reversed_total_nanos, "reversed_total_nanos")
    return leases.Reverse(*_lease_op(request), request.reversed_total_nanos, _lines(request.lines))


def operations(messages: Sequence[pb.LeaseOperation]) -> list[leases.AnyOp | PurseError]:
    """The operations of a batch, or why one is malformed, in their order.

    Raises:
        PurseError: There are too many, or too many lines.
    """
    lines = sum(len(m.capture.lines) + len(m.reverse.lines) for m in messages)
    if len(messages) > leases.BATCH_OPS_MAX or lines > leases.BATCH_LINES_MAX:
        raise invalid(
            "operations",
            f"{len(messages)} with {lines} lines; send at most {leases.BATCH_OPS_MAX} "
            f"with {leases.BATCH_LINES_MAX} lines",
            "BATCH_TOO_LARGE",
        )
    return [_operation(message, f"operations[{index}]") for index, message in enumerate(messages)]


def _operation(message: pb.LeaseOperation, where: str) -> leases.AnyOp | PurseError:
    try:
        match message.WhichOneof("operation"):
            case "extend":
                return extend(message.extend)
            case "capture":
                return capture(message.capture)
            case "give_back":
                return give_back(message.give_back)
            case "reverse":
                return reverse(message.reverse)
            case _:
                return invalid(where, "is none: say extend, capture, give_back or reverse")
    except PurseError as error:
        return error


def operation_result(op: leases.AnyOp | PurseError, answer: LeaseAnswer | Exception) -> pb.LeaseOperationResult:
    """What became of an operation, for the wire."""
    if isinstance(answer, PurseError):
        return pb.LeaseOperationResult(error=to_rpc_status(answer))
    if isinstance(answer, Exception):
        failed = unavailable("the operation failed for a reason of the wallet's own; send it again")
        return pb.LeaseOperationResult(error=to_rpc_status(failed))
    granted = answer.moved if isinstance(op, leases.Extend) else 0
    return pb.LeaseOperationResult(lease=lease_message(answer), granted_nanos=granted)


def lease_message(answer: LeaseAnswer) -> pb.LeaseStatus:
    """A lease for the wire."""
    return pb.LeaseStatus(
        totals=totals_message(answer.wallet, answer.holder, answer.totals),
        target_nanos=answer.target,
        wallet_state=_STATES_FOR_BUDGET[answer.state],
        available_nanos=answer.available,
        quarantined=answer.quarantined,
    )


def totals_message(wallet: str, holder_id: str, totals: leases.Totals) -> type_pb2.LeaseTotals:
    """A lease's totals for the wire."""
    return type_pb2.LeaseTotals(
        wallet=wallet,
        holder=holder_id,
        epoch=totals.epoch,
        n=totals.n,
        extended_total_nanos=totals.extended,
        captured_total_nanos=totals.captured,
        returned_total_nanos=totals.returned,
        reversed_total_nanos=totals.reversed,
    )


_LeaseRequest = pb.ExtendLeaseRequest | pb.CaptureLeaseRequest | pb.ReturnLeaseRequest | pb.ReverseCaptureRequest


def _lease_op(request: _LeaseRequest) -> tuple[str, str, str, int, int]:
    org, wallet = wallet_key(request.wallet, "wallet")
    _not_negative(request.epoch, "epoch")
    if request.n < 1:
        raise invalid("n", f"operations are numbered from 1, not {request.n}")
    return org, wallet, holder(request.holder), request.epoch, request.n


def _lines(messages: Sequence[pb.CaptureLine]) -> tuple[leases.Line, ...]:
    if len(messages) > leases.LINES_MAX:
        raise invalid("lines", f"{len(messages)} lines; send at most {leases.LINES_MAX}", "BATCH_TOO_LARGE")
    lines = tuple(_line(message, f"lines[{index}]") for index, message in enumerate(messages))
    total = sum(line.amount for line in lines)
    if total > money.MAX_NANOS:
        raise invalid("lines", f"they sum to {total} nanos, past the limit of int64", "AMOUNT_OUT_OF_RANGE")
    return lines


def _line(message: pb.CaptureLine, where: str) -> leases.Line:
    if not _MONTH.fullmatch(message.month):
        raise invalid(f"{where}.month", f"{message.month[:16]!r} is not written YYYY-MM")
    for name in ("provider", "model"):
        text = getattr(message, name)
        if len(text) > LINE_TEXT_CHARS_MAX:
            raise invalid(f"{where}.{name}", f"has more than {LINE_TEXT_CHARS_MAX} characters")
        _check_text(text, f"{where}.{name}")
    _not_negative(message.amount_nanos, f"{where}.amount_nanos")
    if not 0 <= message.calls <= CALLS_MAX:
        raise invalid(f"{where}.calls", f"{message.calls} is not from 0 to {CALLS_MAX}")
    return leases.Line(message.provider, message.model, message.month, message.amount_nanos, message.calls)


def _not_negative(amount: int, field: str) -> None:
    if amount < 0:
        raise invalid(field, f"{amount} is below zero", "AMOUNT_OUT_OF_RANGE")


def _check_text(text: str, field: str) -> None:
    if "\x00" in text:
        raise invalid(field, "holds a zero byte, which cannot be stored; remove it")


def _instant(message: Message, name: str, within: str = "") -> datetime | None:
    """An optional instant of a message."""
    if not message.HasField(name):
        return None
    try:
        found: datetime = getattr(message, name).ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise _bad_time(f"{within}.{name}" if within else name, error) from None
    return found


def as_of(message: Message) -> datetime | None:
    """The instant that a question is about; None: now."""
    return _instant(message, "as_of")


def _bad_time(field: str, error: Exception) -> PurseError:
    return invalid(field, f"is no instant: {error}")
