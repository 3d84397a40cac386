"""What a client has while it is open: channels, batches under way, releases under way."""

import asyncio
import logging
from collections.abc import Sequence

from pursestrings._channel import Channels
from pursestrings._coalesce import Coalescer
from pursestrings._errors import Error, Rejected, from_status
from pursestrings._rpc import invoke
from pursestrings.budget.v1 import budget_pb2
from pursestrings.metering.v1 import metering_pb2

_log = logging.getLogger("pursestrings")


class Session:
    """One open client, bound to the event loop it is made in.

    Attributes:
        loop: That loop.
        channels: The services.
        reserves: Decisions asked for.
        records: Usage on its way.
    """

    def __init__(self, channels: Channels, timeout_s: float) -> None:
        self.loop = asyncio.get_running_loop()
        self.channels = channels
        self.reserves: Coalescer[budget_pb2.ReserveRequest, budget_pb2.Decision] = Coalescer(
            "the budget service", self._send_reserves, timeout_s=timeout_s
        )
        self.records: Coalescer[metering_pb2.UsageEvent, metering_pb2.RecordedUsage] = Coalescer(
            "the metering service", self._send_events, timeout_s=timeout_s
        )
        self._timeout_s = timeout_s
        self._releases: set[asyncio.Task[None]] = set()

    def release(self, name: str) -> asyncio.Task[None]:
        """Gives a reservation back, in a task of its own: a caller that is cancelled leaves no hold behind."""
        task = self.loop.create_task(self._release(name))
        self._releases.add(task)
        task.add_done_callback(self._releases.discard)
        return task

    async def extend(self, request: budget_pb2.ExtendReservationRequest) -> budget_pb2.Decision:
        """The decision on a longer life; its request id makes it happen once however often it is sent."""
        extend = self.channels.budget.ExtendReservation
        response = await invoke(extend, request, timeout_s=self._timeout_s, what="the budget service")
        return response.decision

    async def close(self) -> None:
        """Waits for what is under way, within its time-outs, and closes the channels."""
        await self.reserves.drain()
        await self.records.drain()
        while self._releases:
            await asyncio.wait(self._releases)
        await self.reserves.close()
        await self.records.close()
        await self.channels.close()

    async def _release(self, name: str) -> None:
        release = self.channels.budget.Release
        request = budget_pb2.ReleaseRequest(name=name)
        try:
            await invoke(release, request, timeout_s=self._timeout_s, what="the budget service")
        except Error as error:
            _log.warning("%s was not released and holds until it expires: %s", name, error)

    async def _send_reserves(
        self, requests: list[budget_pb2.ReserveRequest], deadline_s: float
    ) -> Sequence[budget_pb2.Decision | Rejected]:
        message = budget_pb2.BatchReserveRequest(requests=requests)
        response = await self.channels.budget.BatchReserve(message, timeout=deadline_s)
        return [
            result.decision if result.HasField("decision") else from_status(result.error) for result in response.results
        ]

    async def _send_events(
        self, events: list[metering_pb2.UsageEvent], deadline_s: float
    ) -> Sequence[metering_pb2.RecordedUsage | Rejected]:
        message = metering_pb2.BatchRecordUsageRequest(events=events)
        response = await self.channels.metering.BatchRecordUsage(message, timeout=deadline_s)
        return [result.usage if result.HasField("usage") else from_status(result.error) for result in response.results]
