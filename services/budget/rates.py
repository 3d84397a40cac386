"""Budget's own copy of metering's rate table, stored so that estimates are priced while metering is away."""

from typing import Any

import asyncpg
import grpc

from pursestrings.metering.v1 import metering_pb2
from services.budget.store import rates as store
from services.kit.errors import PurseError, invalid, unavailable
from services.kit.rating import Rate, RateTable, Tokens, TokensError, UnknownModelError, rate
from services.kit.status import from_rpc_error
from services.kit.telemetry import get_logger

_log = get_logger(__name__)


class Rates:
    """The rate table in force, as far as budget knows.

    Args:
        pool: Budget's database.
        metering: A stub of the metering service.
        timeout_s: How long one call may take, in seconds.
    """

    def __init__(self, pool: asyncpg.Pool, metering: Any, *, timeout_s: float = 5.0) -> None:
        self._pool = pool
        self._metering = metering
        self._timeout_s = timeout_s
        self._table: RateTable | None = None
        self._version = ""

    async def load(self) -> None:
        """Takes the stored table."""
        stored = await store.load(self._pool)
        if stored is not None:
            self._version = stored[0]
            self._table = RateTable.from_bytes(stored[1])

    async def refresh(self) -> bool:
        """Asks metering for a newer table and stores it."""
        request = metering_pb2.GetRateTableRequest(have_version=self._version)
        try:
            answer = await self._metering.GetRateTable(request, timeout=self._timeout_s)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error
        if answer.content and answer.version != self._version:
            table = RateTable.from_bytes(answer.content)
            await store.save(self._pool, answer.version, answer.content)
            self._table, self._version = table, answer.version
            _log.info("rate table", version=answer.version)
        return False

    def name(self, provider: str, model: str) -> tuple[str, str]:
        """The canonical names; as given, in lower case, where they are not known."""
        if self._table is not None and model:
            try:
                return self._table.resolve(provider, model)
            except UnknownModelError:
                pass
        return provider.strip().lower(), model.strip().lower()

    @property
    def table(self) -> RateTable | None:
        """The table; None: none is known yet."""
        return self._table

    def price(self, provider: str, model: str, tokens: Tokens, at_us: int) -> tuple[int, str, str, Rate]:
        """The cost in nano-units, its currency, the table's version, and the rate that priced it.

        Raises:
            PurseError: UNKNOWN_MODEL; UNAVAILABLE while no table is known; a count out of range.
        """
        if self._table is None:
            raise unavailable("no rate table is known yet; send again, or give the cost")
        try:
            price = self._table.lookup(provider, model, at_us).rate
            cost = rate(price, tokens)
        except UnknownModelError as error:
            raise _unknown_model(error) from None
        except TokensError as error:
            raise invalid(f"estimate.{error.field}", str(error), "AMOUNT_OUT_OF_RANGE") from None
        return cost, self._table.currency_code, self._version, price


def _unknown_model(error: UnknownModelError) -> PurseError:
    # The field of the request is the call's, whether the provider or the model is at fault.
    return invalid(
        f"call.{error.field}",
        f"{error}; or give estimate.cost",
        "UNKNOWN_MODEL",
        suggestions=",".join(error.suggestions),
    )
