"""The synchronous client: the asynchronous one in a thread of its own."""

import asyncio
import atexit
import contextlib
import threading
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import Future
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from pursestrings._call import SOURCE, Amount, AsyncCall, OnUnavailable
from pursestrings._client import TIMEOUT_S, AsyncClient
from pursestrings._money import Money
from pursestrings.budget.v1 import budget_pb2
from pursestrings.metering.v1 import metering_pb2

if TYPE_CHECKING:
    from typing import Self

    from pursestrings._approvals import Urgency
    from pursestrings._stream import Events, Streamed
    from pursestrings.budget.v1 import approvals_pb2

T = TypeVar("T")


class _LoopThread:
    """An event loop in a daemon thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(_report)
        self._thread = threading.Thread(target=self._run, name="pursestrings", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine that runs there; an interrupt here cancels it there."""
        if threading.current_thread() is self._thread:
            work.close()
            raise RuntimeError("the synchronous client would wait for itself; use AsyncClient in asynchronous code")
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def stop(self) -> None:
        """Ends the loop and its thread."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    # All loops of a process that use grpc.aio are woken by one pipe of grpc's; the one that finds it empty
    # again gets this. It means nothing.
    if not isinstance(context.get("exception"), BlockingIOError):
        loop.default_exception_handler(context)


class Call:
    """A call that is reserved on entering and settled or released on leaving `with`; see `AsyncCall`."""

    def __init__(self, thread: _LoopThread, call: AsyncCall) -> None:
        self._thread = thread
        self._call = call

    @property
    def subject(self) -> str:
        """Who spends."""
        return self._call.subject

    @property
    def request_id(self) -> str:
        """The reservation's id."""
        return self._call.request_id

    @property
    def reservation(self) -> str:
        """The reservation's name."""
        return self._call.reservation

    @property
    def unwrapped(self) -> AsyncCall:
        """The asynchronous call behind this one; it belongs to the client's own thread."""
        return self._call

    def again(self) -> "Call":
        """The same call to enter anew; see `AsyncCall.again`."""
        return Call(self._thread, self._call.again())

    @property
    def reserved(self) -> bool:
        """Whether anything is held; False only under `on_unavailable="allow"`."""
        return self._call.reserved

    @property
    def decision(self) -> budget_pb2.Decision | None:
        """The answer to the reservation; None where no service answered."""
        return self._call.decision

    @property
    def warnings(self) -> Sequence[budget_pb2.BudgetUse]:
        """Budgets that only warn and that this call exceeds."""
        return self._call.warnings

    @property
    def usage(self) -> list[metering_pb2.RecordedUsage]:
        """What was recorded, once `with` has ended."""
        return self._call.usage

    @property
    def costs(self) -> list[Money]:
        """What it cost by currency, once `with` has ended."""
        return self._call.costs

    def record(
        self,
        usage: object = None,
        *,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        cache_read_tokens: int | None = None,
        cache_write_tokens: int | None = None,
        reasoning_tokens: int | None = None,
        requests: int | None = None,
        cost: Amount | None = None,
        model: str | None = None,
        provider: str | None = None,
        error: str | None = None,
        occurred_at: datetime | None = None,
        prompt_hash: bytes = b"",
        final: bool = True,
    ) -> None:
        """Notes what the call used, durable before `with` ends; the arguments are those of `AsyncCall.record`."""

        async def record() -> None:
            self._call.record(
                usage,
                input_tokens=input_tokens,
                output_tokens=output_tokens,
                cache_read_tokens=cache_read_tokens,
                cache_write_tokens=cache_write_tokens,
                reasoning_tokens=reasoning_tokens,
                requests=requests,
                cost=cost,
                model=model,
                provider=provider,
                error=error,
                occurred_at=occurred_at,
                prompt_hash=prompt_hash,
                final=final,
            )

        self._thread.run(record())

    def extend(self, ttl_s: float | None = None) -> budget_pb2.Decision:
        """Lets the reservation live longer from now on; see `AsyncCall.extend`."""
        return self._thread.run(self._call.extend(ttl_s))

    def __enter__(self) -> "Self":
        self._thread.run(self._call.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.run(self._call.__aexit__(kind, error, trace))


class Client:
    """`AsyncClient` for synchronous code, with the same arguments. Any number of threads may share one.

    It runs in a thread of its own, and calls of many threads at once become batch calls. Close it, or use
    `with Client() as client`; a process that ends closes it. Make it after a fork, not before.
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
        self._client = AsyncClient(
            budget,
            metering,
            wallet,
            token=token,
            token_file=token_file,
            ca_file=ca_file,
            allow_plaintext=allow_plaintext,
            timeout_s=timeout_s,
            on_unavailable=on_unavailable,
            currency_code=currency_code,
        )
        self._thread = _LoopThread()
        self._closed = False
        atexit.register(self.close)

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
    ) -> Call:
        """A call to enter with `with`; the arguments and errors are those of `AsyncClient.reserve`."""
        call = self._client.reserve(
            subject,
            model=model,
            provider=provider,
            input_tokens=input_tokens,
            max_output_tokens=max_output_tokens,
            cost=cost,
            requests=requests,
            operation=operation,
            labels=labels,
            ttl_s=ttl_s,
            strict=strict,
            session=session,
            run=run,
            effort=effort,
            request_id=request_id,
            on_unavailable=on_unavailable,
        )
        return Call(self._running(), call)

    def check(
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
        """Would it be allowed now? Holds and stores nothing."""
        return self._running().run(
            self._client.check(
                subject,
                model=model,
                provider=provider,
                input_tokens=input_tokens,
                max_output_tokens=max_output_tokens,
                cost=cost,
                requests=requests,
                operation=operation,
                labels=labels,
            )
        )

    def record(
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
        """Records use that nothing was reserved for; as `AsyncClient.record`."""
        return self._running().run(
            self._client.record(
                subject,
                usage,
                model=model,
                provider=provider,
                input_tokens=input_tokens,
                output_tokens=output_tokens,
                requests=requests,
                cost=cost,
                operation=operation,
                labels=labels,
                session=session,
                run=run,
                effort=effort,
                error=error,
                occurred_at=occurred_at,
                prompt_hash=prompt_hash,
                source=source,
                event_id=event_id,
            )
        )

    def record_events(self, events: Iterable[metering_pb2.UsageEvent]) -> list[metering_pb2.RecordedUsage]:
        """Records events as they are, for example those of `Unrecorded`."""
        return self._running().run(self._client.record_events(list(events)))

    def record_stream(self, events: "Events") -> "Streamed":
        """Records any number of events over a stream; as `AsyncClient.record_stream`."""
        return self._running().run(self._client.record_stream(events))

    def request_approval(
        self,
        call: Call,
        operation: str,
        justification: str,
        *,
        urgency: "Urgency" = "medium",
        expires_s: float | None = None,
    ) -> "approvals_pb2.Approval":
        """Asks a person for a call; as `AsyncClient.request_approval`."""
        asked = self._client.request_approval(
            call.unwrapped, operation, justification, urgency=urgency, expires_s=expires_s
        )
        return self._running().run(asked)

    def wait_for_approval(self, name: str, *, timeout_s: float) -> "approvals_pb2.Approval":
        """The approval once it has ended, or when the time is up; as `AsyncClient.wait_for_approval`."""
        return self._running().run(self._client.wait_for_approval(name, timeout_s=timeout_s))

    def close(self) -> None:
        """Waits for what is under way, no longer than its time-outs, and ends the thread."""
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        # A loop that has ended already has nothing left to wait for.
        with contextlib.suppress(RuntimeError):
            self._thread.run(self._client.close())
            self._thread.stop()

    def __enter__(self) -> "Self":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _running(self) -> _LoopThread:
        if self._closed:
            raise RuntimeError("the client is closed; make a new one")
        return self._thread
