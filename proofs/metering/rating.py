"""How long rating takes: from the names and counts of a call to its cost in nanos, by the pinned price list."""

import random
import time
from typing import Final

from services.kit.rate_source import load_rate_table
from services.kit.rating import Layers, Tokens, rate

CALLS: Final = 20_000
ROUNDS: Final = 7
_AT_US: Final = 1_790_000_000_000_000
_MODELS: Final = (
    ("anthropic", "claude-sonnet-4-5"),
    ("openai", "gpt-4o"),
    ("", "gpt-4o-mini"),
    ("google", "gemini-2.5-pro"),
    ("", "anthropic/claude-haiku-4-5"),
)


def measure() -> float:
    """The fastest of several rounds, in microseconds of this process's time a call."""
    table = load_rate_table()
    layers = Layers((), table, table.version)
    dice = random.Random(5)
    calls = [
        (*dice.choice(_MODELS), (dice.randrange(1_000, 300_000), dice.randrange(1_000), 0, dice.randrange(2_000), 0))
        for _ in range(CALLS)
    ]
    return min(_round(layers, calls) for _ in range(ROUNDS)) * 1e6


def _round(layers: Layers, calls: list[tuple[str, str, tuple[int, int, int, int, int]]]) -> float:
    began_s = time.process_time()
    for provider, model, counts in calls:
        rate(layers.lookup(provider, model, _AT_US).rate, Tokens(*counts))
    return (time.process_time() - began_s) / len(calls)
