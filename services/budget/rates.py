"""Budget's own copy of metering's rate table, stored so that estimates are priced while metering is away."""

from collections.abc import Sequence
from datetime import UTC
from typing import Any

import asyncpg
import grpc

from pursestrings.metering.v1 import metering_pb2
from services.budget.store import rates as store
from services.kit.errors import PurseError, invalid, unavailable
from services.kit.rating import (
    Card,
    PriceCards,
    PublishedCard,
    Rate,
    RateTable,
    Tokens,
    TokensError,
    UnknownModelError,
    rate,
)
from services.kit.status import from_rpc_error
from services.kit.telemetry import get_logger
from services.kit.windows import unix_us

_log = get_logger(__name__)


class Rates:
    """The rate table in force and the price cards laid over it, as far as budget knows.

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
        self._cards: list[PublishedCard] = []
        self._own = PriceCards()

    async def load(self) -> None:
        """Takes the stored table."""
        stored = await store.load(self._pool)
        if stored is not None:
            self._version = stored[0]
            self._table = RateTable.from_bytes(stored[1])
        self._take(await store.load_own(self._pool))

    async def refresh(self) -> bool:
        """Asks metering for a newer table and newer price cards and stores them; returns whether there are more."""
        revision = self._cards[-1].revision if self._cards else 0
        request = metering_pb2.GetRateTableRequest(have_version=self._version, have_revision=revision)
        try:
            answer = await self._metering.GetRateTable(request, timeout=self._timeout_s)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error
        if answer.content and answer.version != self._version:
            table = RateTable.from_bytes(answer.content)
            await store.save(self._pool, answer.version, answer.content)
            self._table, self._version = table, answer.version
            _log.info("rate table", version=answer.version)
        if answer.own_cards:
            own = [
                store.OwnRates(
                    one.org,
                    one.revision,
                    one.version,
                    one.effective_time.ToDatetime(UTC),
                    one.usable_time.ToDatetime(UTC),
                    one.content,
                )
                for one in answer.own_cards
            ]
            await store.save_own(self._pool, own)
            self._take(own)
            _log.info("price cards", newest=own[-1].revision)
        return bool(answer.more_own_cards)

    def _take(self, own: Sequence[store.OwnRates]) -> None:
        self._cards += [
            PublishedCard(
                one.org,
                one.version,
                one.revision,
                unix_us(one.effective_from),
                unix_us(one.usable_from),
                Card.from_bytes(one.content),
            )
            for one in own
        ]
        self._own = PriceCards(self._cards)

    def name(self, provider: str, model: str, org: str, at_us: int) -> tuple[str, str, PurseError | None]:
        """The canonical names; where they are not known those given, in lower case, and why.

        That is UNKNOWN_MODEL, and UNAVAILABLE while no table is known.
        """
        unknown = None
        if model and self._table is None:
            unknown = _no_table()
        elif model and self._table is not None:
            try:
                found = self._own.layers(org, self._table, self._version, at_us, at_us).resolve(provider, model)
            except UnknownModelError as error:
                unknown = _unknown_model(error)
            else:
                return found.provider, found.model, None
        return provider.strip().lower(), model.strip().lower(), unknown

    @property
    def table(self) -> RateTable | None:
        """The table; None: none is known yet."""
        return self._table

    def price(
        self, provider: str, model: str, tokens: Tokens, at_us: int, *, org: str, service_tier: str = ""
    ) -> tuple[int, str, str, Rate]:
        """The cost in nano-units, its currency, the version of the prices, and the rate that priced it.

        Raises:
            PurseError: UNKNOWN_MODEL; UNAVAILABLE while no table is known; a count out of range.
        """
        if self._table is None:
            raise _no_table()
        try:
            layers = self._own.layers(org, self._table, self._version, at_us, at_us)
            found = layers.lookup(provider, model, at_us, service_tier)
            cost = rate(found.rate, tokens)
        except UnknownModelError as error:
            raise _unknown_model(error) from None
        except TokensError as error:
            raise invalid(f"estimate.{error.field}", str(error), "AMOUNT_OUT_OF_RANGE") from None
        return cost, found.currency_code, found.version, found.rate


def _no_table() -> PurseError:
    return unavailable("no rate table is known yet; send again, or give the cost")


def _unknown_model(error: UnknownModelError) -> PurseError:
    # The field of the request is the call's, whether the provider or the model is at fault.
    return invalid(
        f"call.{error.field}",
        f"{error}; or give estimate.cost",
        "UNKNOWN_MODEL",
        suggestions=",".join(error.suggestions),
    )
