"""Which token counts are unusual for a subject: robust z-scores against its own history. Pure."""

from typing import Final, NamedTuple

ROWS_MIN: Final = 10
"""With fewer rows of history nothing is called unusual."""
THRESHOLD: Final = 3.5
"""From how many robust standard deviations on a count is unusual."""
HISTORY_DAYS: Final = 7
"""How much history is looked at, at least; the asked range where that is longer."""

_TO_DEVIATION: Final = 1.4826
_SPREAD_MIN: Final = 0.05


class History(NamedTuple):
    """What a subject's rows are like: how many, the median of their tokens, and the median absolute deviation."""

    rows: int
    median: float
    mad: float


class Verdict(NamedTuple):
    """How far a count is from the usual, in robust standard deviations, and why it is unusual; '' where it is not."""

    z: float
    reason: str


def judge(tokens: int, history: History | None, what: str) -> Verdict:
    """Judges a row's token count.

    Args:
        tokens: Input and output tokens.
        history: The subject's; None where it has none.
        what: What a row is, "call" or "run".
    """
    if history is None or history.rows < ROWS_MIN:
        return Verdict(0.0, "")
    # Where nearly all rows are alike any other would be infinitely far: a twentieth of the usual is still usual.
    spread = max(_TO_DEVIATION * history.mad, _SPREAD_MIN * history.median, 1.0)
    z = (tokens - history.median) / spread
    if abs(z) < THRESHOLD:
        return Verdict(z, "")
    if history.median >= 1:
        than = f"{tokens / history.median:.1f} times the usual {history.median:,.0f}"
    else:
        than = "where it usually has none"
    return Verdict(
        z,
        f"{tokens:,} tokens, {than} of this subject's {what}s: {abs(z):.1f} robust standard deviations "
        f"{'above' if z > 0 else 'below'} the median of {history.rows:,} {what}s",
    )
