"""What every workflow has in common: what a person sees of it in Temporal's UI, and how long it rests after failures.

For workflows: standard library and Temporal alone.
"""

from collections.abc import Iterable

from temporalio import workflow
from temporalio.common import SearchAttributeKey

_STATE = SearchAttributeKey.for_keyword("State")
_DOUBLINGS_MAX = 16


class Shown:
    """The state that a workflow is found by, its current details, and the answer to the query `status`.

    Args:
        text: The details before anything is shown.
    """

    def __init__(self, text: str = "") -> None:
        self.text = text
        self._state = ""

    def status(self) -> dict[str, str]:
        """Where it stands, for people and tests."""
        return {"state": self._state, "details": self.text}

    def write(self, text: str) -> None:
        """Sets the current details (Markdown)."""
        self.text = text
        workflow.set_current_details(text)

    def show(self, state: str, text: str) -> None:
        """Sets the details, and the search attribute `State` where it is another now."""
        self.write(text)
        if state != self._state:
            self._state = state
            workflow.upsert_search_attributes([_STATE.value_set(state)])


def facts(rows: Iterable[tuple[str, object]]) -> str:
    """Named values as a list in Markdown; what is empty is left out."""
    return "\n".join(f"- {name}: {value}" for name, value in rows if value)


def back_off_s(times: int, first_s: float, most_s: float) -> float:
    """How long to rest after so many failures in a row, in seconds: twice as long each time, up to the most."""
    return min(most_s, first_s * 2.0 ** min(times, _DOUBLINGS_MAX))
