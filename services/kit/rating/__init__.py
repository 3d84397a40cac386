"""Rating: integer prices, the exact cost of a call, and the versioned table of who charges what, when.

Pure: no clock, no I/O. ``services.kit.rate_source`` compiles the pinned public price list into a table.
"""

from services.kit.rating.cards import (
    INSTALLATION,
    Card,
    Found,
    Layers,
    Markup,
    PriceCards,
    PublishedCard,
)
from services.kit.rating.clauses import Clause, equals
from services.kit.rating.cost import (
    MAX_COST_NANOS,
    MAX_COUNT,
    Rate,
    RateError,
    Tier,
    Tokens,
    TokensError,
    check_tokens,
    largest_output,
    rate,
)
from services.kit.rating.entries import ModelRates, Period, ProviderRates, RateTableError
from services.kit.rating.kinds import CORE_KINDS, KINDS, Kind
from services.kit.rating.table import ModelRef, Priced, RateTable, UnknownModelError

__all__ = [
    "CORE_KINDS",
    "INSTALLATION",
    "KINDS",
    "MAX_COST_NANOS",
    "MAX_COUNT",
    "Card",
    "Clause",
    "Found",
    "Kind",
    "Layers",
    "Markup",
    "ModelRates",
    "ModelRef",
    "Period",
    "PriceCards",
    "Priced",
    "ProviderRates",
    "PublishedCard",
    "Rate",
    "RateError",
    "RateTable",
    "RateTableError",
    "Tier",
    "Tokens",
    "TokensError",
    "UnknownModelError",
    "check_tokens",
    "equals",
    "largest_output",
    "rate",
]
