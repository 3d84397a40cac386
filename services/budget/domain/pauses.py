"""What a pause is: a subject that may not spend, since when, why, and how it ends."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from services.kit.errors import PurseError, conflict, invalid

SHOWN_MAX: Final = 20
"""The most pauses that one decision names."""
REASON_CHARS_MAX: Final = 500


class ResumeMode(IntEnum):
    """How a pause that a budget made ends; the numbers of the contract."""

    MANUAL = 1
    WINDOW_END = 2


class PauseCause(IntEnum):
    """What paused a subject; the numbers of the contract."""

    PERSON = 1
    USE = 2
    DENIAL = 3


@dataclass(slots=True, frozen=True)
class Pause:
    """One pause of a subject and those below it.

    Attributes:
        budget_no: The budget that did it; 0: a person.
        budget: Its name; empty: a person.
        window_key: The window that was exceeded; 0 for a person's.
        generation: Of the limit then; of a person's, the how manieth of the subject.
        until_us: When it ends by itself.
        ended_us: When it was ended; None: nobody has.
        limit: The limit in force that was exceeded; 0 for a person's.
    """

    org: str
    subject: str
    budget_no: int
    budget: str
    window_key: int
    generation: int
    cause: PauseCause
    reason: str
    paused_by: str
    paused_us: int
    until_us: int
    ended_us: int | None = None
    ended_by: str = ""
    end_note: str = ""
    limit: int = 0

    @property
    def name(self) -> str:
        """`{subject}/pauses/{id}`."""
        if not self.budget_no:
            return f"{self.subject}/pauses/person.{self.generation}"
        return f"{self.subject}/pauses/b{self.budget_no}.{self.window_key}.{self.generation}"

    def is_active(self, at_us: int) -> bool:
        """Whether it denies spends."""
        return self.ended_us is None and at_us < self.until_us


def check_reason(reason: str) -> str:
    """A person's reason, without the space around it; refused where it is empty or too long."""
    text = reason.strip()
    if not 0 < len(text) <= REASON_CHARS_MAX:
        raise invalid("reason", f"say why in 1 to {REASON_CHARS_MAX} characters; whoever is denied reads it")
    return text


def check_note(note: str) -> str:
    """A note for the history, which may be empty."""
    text = note.strip()
    if len(text) > REASON_CHARS_MAX:
        raise invalid("note", f"is {len(text)} characters long; the limit is {REASON_CHARS_MAX}")
    return text


def refuse_again(there: Pause, reason: str) -> PurseError | None:
    """Why a paused subject is not paused anew; None for the same reason, which is the same request again."""
    if there.reason == reason:
        return None
    return conflict(
        "PAUSED_ALREADY",
        f"{there.subject} is paused already ({there.reason}); resume it first to give another reason",
        field="subject",
        pause=there.name,
    )


def not_paused(subject: str, above: list[Pause]) -> PurseError:
    """Why nothing is resumed."""
    if above:
        return conflict(
            "NOT_PAUSED",
            f"{subject} itself is not paused; {above[0].subject} above it is: resume that one",
            field="subject",
            paused=above[0].subject,
        )
    return conflict("NOT_PAUSED", f"{subject} is not paused", field="subject")
