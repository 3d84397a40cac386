"""Further kinds of use as they are stored."""

import json


def extra_json(extra: tuple[tuple[str, int], ...]) -> str | None:
    """Further kinds as they are stored; None where there are none."""
    return json.dumps(dict(extra)) if extra else None


def extra_of(text: str | None) -> tuple[tuple[str, int], ...]:
    """Further kinds as `extra_json` wrote them, sorted by name."""
    return tuple(sorted(json.loads(text).items())) if text else ()
