"""A small usage log of the project's own, made by rule: the same seed gives the same calls."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

SEED: Final = 7400
_OPERATIONS: Final = ("chat", "chat", "chat", "summarize", "plan")


@dataclass(frozen=True, slots=True)
class SampleCall:
    """One call: which of a team's agents makes it, what for, and how large it is."""

    agent: int
    operation: str
    input_tokens: int
    output_tokens: int
    cached_tokens: int


def sample_calls(agents: int, seed: int = SEED) -> Iterator[SampleCall]:
    """Calls without end. Most are small and a few are large, as in life; some read a prompt from the cache."""
    draw = random.Random(seed)  # noqa: S311 - a story, not a secret
    while True:
        input_tokens = min(20_000, int(draw.lognormvariate(7.6, 0.7)))
        output_tokens = min(4_000, 20 + int(draw.lognormvariate(5.8, 0.6)))
        cached = int(input_tokens * draw.choice((0.0, 0.0, 0.5)))
        yield SampleCall(draw.randrange(agents), draw.choice(_OPERATIONS), input_tokens, output_tokens, cached)
