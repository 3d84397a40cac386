"""Which months are over and may be closed. Pure."""

from typing import Final

from services.kit import windows
from services.kit.windows import WindowKind, WindowSpec

GRACE_US: Final = 3_600_000_000
"""A month is closed an hour after its end, so that what was on its way has arrived."""
MONTHS_BACK: Final = 3
"""How many months a run looks back. One that was not closed by then, since nothing ran, is never told of."""


def due_months(zone: str, since_us: int, now_us: int) -> list[str]:
    """The months of a zone to be closed now, as `YYYY-MM`, the oldest first.

    Args:
        zone: An IANA zone.
        since_us: When something began to count there; a month that ended before is nobody's.
        now_us: The time.

    Raises:
        UnknownZoneError: The zone is unknown.
    """
    spec = WindowSpec(WindowKind.MONTH, zone)
    window = windows.window_at(spec, now_us - GRACE_US)
    found = []
    for _ in range(MONTHS_BACK):
        window = windows.window_at(spec, window.start_us - 1)
        if window.end_us <= since_us:
            break
        found.append(window.key[:7])
    return found[::-1]
