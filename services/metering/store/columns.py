"""The columns that sums of usage have, in one order everywhere."""

from typing import Final

SUMS: Final = (
    "input_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
    "requests",
    "operations",
    "errors",
    "cost_nanos",
)
"""What is summed. The first columns are an event's own; the last three are derived from it."""
DERIVED: Final = (
    "operations",
    "CASE WHEN failed THEN operations ELSE 0 END AS errors",
    "coalesce(cost_nanos, 0) AS cost_nanos",
)
"""The last of `SUMS` as an event gives them."""
SUM_ALL: Final = ", ".join(f"sum({column}) AS {column}" for column in SUMS)
