"""The asynchronous client."""

import asyncio
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final

from pursestrings._call import (
    SOURCE,
    Amount,
    AsyncCall,
    CallContext,
    OnUnavailable,
    attributes,
    new_id,
    usage_event,
)
from pursestrings._channel import Channels
from pursestrings._errors import Unavailable, Unrecorded
from pursestrings._money import Money
from pursestrings._session import Session
from pursestrings._settings import from_environment
from pursestrings._usage import check_count
from pursestrings.budget.v1 import budget_pb2
from pursestrings.metering.v1 import metering_pb2

if TYPE_CHECKING:
    from typing import Self

    from pursestrings._approvals import Urgency
    from pursestrings._stream import Events, Streamed
    from pursestrings.budget.v1 import approvals_pb2
    from pursestrings.budget.v1.budget_pb2_grpc import BudgetServiceAsyncStub
    from pursestrings.metering.v1.metering_pb2_grpc import MeteringServiceAsyncStub
    from pursestrings.wallet.v1.wallet_pb2_grpc import WalletServiceAsyncStub

TIMEOUT_S: Final = 10.0


class AsyncClient:
    """Asks before a spend and records after it; many calls at once become batch calls by themselves.

    It opens its channels at first use, in the event loop of that moment, and belongs to it. Use
    `async with AsyncClient() as client`, or `close()` it; closing waits for what is under way.

    Args:
        budget: Address of the budget service. Default: PURSE_BUDGET_ADDRESS or 127.0.0.1:7402.
        metering: Address of the metering service. Default: PURSE_METERING_ADDRESS or 127.0.0.1:7401.
        wallet: Address of the wallet service. Default: PURSE_WALLET_ADDRESS or 127.0.0.1:7403.
        token: The credential. Default: PURSE_TOKEN.
        token_file: A file with the credential, read again when it changes. Default: PURSE_TOKEN_FILE.
        ca_file: PEM roots; with it the channels use TLS. Default: PURSE_CA_FILE.
        allow_plaintext: Speak without TLS to other machines too. Default: PURSE_ALLOW_PLAINTEXT.
        timeout_s: How long one reserve, record or release may take, every try included.
        on_unavailable: What to do when nobody decides in time: "deny" raises `Unavailable`, "allow" goes on
            without a reservation and records the use all the same.
        currency_code: The currency of costs that are given without one.

    Raises:
        ValueError: A setting that cannot be.
    """

    def __init__(
        self,
        budget: str | None = None,
        metering: str | None = None,
        wallet: str | None = None,
        *,
        token: str | None = None,
        token_file: str | Path | None = None,
        ca_file: str | Path | None = None,
        allow_plaintext: bool | None = None,
        timeout_s: float = TIMEOUT_S,
        on_unavailable: OnUnavailable = "deny",
        currency_code: str = "USD",
    ) -> None:
        if timeout_s <= 0:
            raise ValueError(f"timeout_s must be positive, not {timeout_s}")
        self._settings = from_environment(
            budget=budget,
            metering=metering,
            wallet=wallet,
            token=token,
            token_file=token_file,
            ca_file=ca_file,
            allow_plaintext=allow_plaintext,
        )
        self._timeout_s = timeout_s
        self._on_unavailable = _checked(on_unavailable)
        self._currency_code = currency_code
        self._state: Session | None = None
        self._closed = False

    def reserve(
        self,
        subject: str,
        *,
        model: str = "",
        provider: str = "",
        input_tokens: int | None = None,
        max_output_tokens: int | None = None,
        cost: Amount | None = None,
        requests: int | None = None,
        operation: str = "",
        labels: Mapping[str, str] | None = None,
        ttl_s: float | None = None,
        strict: bool = False,
        session: str = "",
        run: str = "",
        effort: str = "",
        request_id: str | None = None,
        on_unavailable: OnUnavailable | None = None,
    ) -> AsyncCall:
        """A call to enter with `async with`: entering asks for the decision and holds, leaving settles.

        Args:
            subject: Who spends, `orgs/acme/teams/support/agents/bot-1`.
            model: The model to call.
            provider: Its provider; inferred where the model names one provider only.
            input_tokens: Input tokens, at the most. Unknown holds 0 on budgets that count them.
            max_output_tokens: The most output tokens.
            cost: What it costs at the most, if that is known. Default: priced from the model and the tokens.
            requests: Requests. Default: 1.
            operation: The kind of work, for budgets that select by it.
            labels: For budgets and reports that select by them.
            ttl_s: How long the hold lives, 1 s to 24 h. Default: 5 minutes.
            strict: Refuse where a budget applies whose dimension this estimate does not know.
            session: The session, for reports.
            run: The run, for reports.
            effort: The effort asked of the model, for reports.
            request_id: The reservation's id. Default: a new UUID. Asking again under it returns what it holds.
            on_unavailable: Another rule than the client's, for this call.

        Entering raises:
            Denied: The spend does not fit; nothing is held.
            Unavailable: Nobody decided in time.
            Rejected: The request is wrong.
        """
        context = CallContext(
            subject=subject,
            attributes=attributes(model, provider, operation, labels),
            session=session,
            run=run,
            effort=effort,
            currency_code=self._currency_code,
        )
        request = self._reserve_request(
            context,
            input_tokens=input_tokens,
            max_output_tokens=max_output_tokens,
            cost=cost,
            requests=requests,
            ttl_s=ttl_s,
            strict=strict,
            request_id=request_id,
        )
        rule = self._on_unavailable if on_unavailable is None else _checked(on_unavailable)
        return AsyncCall(self.open, context, request, on_unavailable=rule)

    async def check(
        self,
        subject: str,
        *,
        model: str = "",
        provider: str = "",
        input_tokens: int | None = None,
        max_output_tokens: int | None = None,
        cost: Amount | None = None,
        requests: int | None = None,
        operation: str = "",
        labels: Mapping[str, str] | None = None,
    ) -> budget_pb2.Decision:
        """Would it be allowed now? Holds nothing and stores nothing; a denial is an answer here, no error."""
        context = CallContext(
            subject=subject,
            attributes=attributes(model, provider, operation, labels),
            currency_code=self._currency_code,
        )
        request = self._reserve_request(
            context,
            input_tokens=input_tokens,
            max_output_tokens=max_output_tokens,
            cost=cost,
            requests=requests,
        )
        request.validate_only = True
        return await self.open().reserves.submit(request)

    async def record(
        self,
        subject: str,
        usage: object = None,
        *,
        model: str = "",
        provider: str = "",
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        requests: int | None = None,
        cost: Amount | None = None,
        operation: str = "",
        labels: Mapping[str, str] | None = None,
        session: str = "",
        run: str = "",
        effort: str = "",
        error: str | None = None,
        occurred_at: datetime | None = None,
        prompt_hash: bytes = b"",
        source: str = SOURCE,
        event_id: str | None = None,
    ) -> metering_pb2.RecordedUsage:
        """Records use that nothing was reserved for; durable when it returns.

        Args:
            subject: Who spent.
            usage: A usage object, as for `AsyncCall.record`.
            model: The model that answered.
            provider: Its provider; inferred where the model names one provider only.
            input_tokens: All input tokens, the cached ones included.
            output_tokens: All output tokens, the reasoning ones included.
            requests: How many requests this stands for. Default: 1.
            cost: A price that is known already; takes a credential with the role operator.
            operation: The kind of work.
            labels: For budgets and reports that select by them.
            session: The session, for reports.
            run: The run, for reports.
            effort: The effort asked of the model, for reports.
            error: The provider's status where the call failed.
            occurred_at: When it happened. Default: when it is recorded.
            prompt_hash: A hash of the prompt, up to 64 bytes, by which calls that ask the same are told.
            source: Where the event comes from.
            event_id: Its id within the source; the same id again is the same event. Default: a new UUID.

        Raises:
            Rejected: The event is wrong.
            Unrecorded: No answer in time; send it again with `record_events(error.events)`.
        """
        context = CallContext(
            subject=subject,
            attributes=attributes(model, provider, operation, labels),
            session=session,
            run=run,
            effort=effort,
            currency_code=self._currency_code,
        )
        event = usage_event(
            context,
            usage,
            source=source,
            event_id=event_id or new_id(),
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            requests=requests,
            cost=cost,
            error=error,
            occurred_at=occurred_at,
            prompt_hash=prompt_hash,
        )
        return (await self.record_events([event]))[0]

    async def record_events(self, events: Iterable[metering_pb2.UsageEvent]) -> list[metering_pb2.RecordedUsage]:
        """Records events as they are, for example those of `Unrecorded`; at most 10,000 at a time.

        Raises:
            Rejected: One of them is wrong; the others are recorded.
            Unrecorded: Some had no answer in time.
        """
        records = self.open().records
        sent = [(event, records.submit(event)) for event in events]
        if sent:
            await asyncio.wait([future for _, future in sent])
        failures = [(event, future.exception()) for event, future in sent]
        lost = [event for event, failure in failures if isinstance(failure, Unavailable)]
        for _, failure in failures:
            if failure is not None and not isinstance(failure, Unavailable):
                raise failure
        if lost:
            first = next(failure for _, failure in failures if failure is not None)
            raise Unrecorded(f"{len(lost)} of {len(sent)} usage events are not recorded: {first}", lost)
        return [future.result() for _, future in sent]

    async def record_stream(self, events: "Events") -> "Streamed":
        """Records any number of events over a stream, in batches; all that are not refused are durable when it returns.

        Args:
            events: With ids that stay the same when they are sent again. An iterable is read in a thread.

        Raises:
            Rejected: The credential or the stream as a whole is refused.
            Unavailable: Nothing was acknowledged within `timeout_s`. Send the same events again: ids make it once.
        """
        from pursestrings._stream import record_stream

        return await record_stream(self.open().channels.metering, events, self._timeout_s)

    async def request_approval(
        self,
        call: AsyncCall,
        operation: str,
        justification: str,
        *,
        urgency: "Urgency" = "medium",
        expires_s: float | None = None,
    ) -> "approvals_pb2.Approval":
        """Asks a person for a call that was denied with APPROVAL_REQUIRED; it is held while somebody decides.

        Enter `call.again()` once it is approved. It may be approved at once, where its policy lets it pass.

        Args:
            call: What `reserve` returned; it needs a cost, or a model and both token counts.
            operation: What it is, in words, at most 200 characters.
            justification: Why; whoever decides reads it.
            urgency: "low", "medium" or "high".
            expires_s: When it expires, undecided. Default: by the urgency.

        Raises:
            Denied: It does not fit, and nobody is asked.
            Rejected: The request is wrong.
            Unavailable: No answer in time; ask again with the same call.
        """
        from pursestrings import _approvals

        return await _approvals.request(
            self.budget,
            call.request,
            operation,
            justification,
            urgency=urgency,
            expires_s=expires_s,
            timeout_s=self._timeout_s,
        )

    async def wait_for_approval(self, name: str, *, timeout_s: float) -> "approvals_pb2.Approval":
        """The approval once it has ended, or as it stands after `timeout_s`; looked at ever more rarely.

        Raises:
            Rejected: There is none of this name.
            Unavailable: The service is away when the time is up.
        """
        from pursestrings import _approvals

        return await _approvals.wait(self.budget, name, wait_s=timeout_s, timeout_s=self._timeout_s)

    @property
    def budget(self) -> "BudgetServiceAsyncStub":
        """Every method of the budget service, with the credential attached; see its contract."""
        return self.open().channels.budget

    @property
    def metering(self) -> "MeteringServiceAsyncStub":
        """Every method of the metering service."""
        return self.open().channels.metering

    @property
    def wallet(self) -> "WalletServiceAsyncStub":
        """Every method of the wallet service."""
        return self.open().channels.wallet

    async def close(self) -> None:
        """Waits for what is under way, no longer than its time-outs, and closes the channels."""
        self._closed = True
        state, self._state = self._state, None
        if state is not None:
            await state.close()

    async def __aenter__(self) -> "Self":
        self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def open(self) -> Session:
        """Opens the channels in the running event loop, if that is not done yet. Entering does it too."""
        if self._closed:
            raise RuntimeError("the client is closed; make a new one")
        if self._state is None:
            self._state = Session(Channels(self._settings), self._timeout_s)
        elif self._state.loop is not asyncio.get_running_loop():
            raise RuntimeError("the client belongs to another event loop; make one for each loop")
        return self._state

    def _reserve_request(
        self,
        context: CallContext,
        *,
        input_tokens: int | None,
        max_output_tokens: int | None,
        cost: Amount | None,
        requests: int | None,
        ttl_s: float | None = None,
        strict: bool = False,
        request_id: str | None = None,
    ) -> budget_pb2.ReserveRequest:
        estimate = budget_pb2.SpendEstimate(
            input_tokens=None if input_tokens is None else check_count("input_tokens", input_tokens),
            max_output_tokens=(
                None if max_output_tokens is None else check_count("max_output_tokens", max_output_tokens)
            ),
            requests=None if requests is None else check_count("requests", requests),
        )
        if cost is not None:
            estimate.cost.CopyFrom(Money.of(cost, self._currency_code).to_proto())
        request = budget_pb2.ReserveRequest(
            subject=context.subject,
            request_id=request_id or new_id(),
            call=context.attributes,
            estimate=estimate,
            strict=strict,
        )
        if ttl_s is not None:
            request.ttl.FromNanoseconds(int(ttl_s * 1e9))
        return request


def _checked(rule: OnUnavailable) -> OnUnavailable:
    if rule not in ("deny", "allow"):
        raise ValueError(f"on_unavailable is 'deny' or 'allow', not {rule!r}")
    return rule
