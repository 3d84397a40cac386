"""Why a command on a wallet is refused."""


class Refusal(Exception):  # noqa: N818 - a decision, not a failure
    """A command that does not fit; the books are as they were.

    Attributes:
        reason: UPPER_SNAKE, stable.
        message: What was wrong and what to do.
        field: The request's field at fault, where one is.
        facts: For programs, as strings.
        quarantine: Set where the numbers show that the two sides of a lease have lost each other: the lease stops
            until an operator has looked.
    """

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        field: str | None = None,
        facts: dict[str, str] | None = None,
        quarantine: bool = False,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.field = field
        self.facts = facts or {}
        self.quarantine = quarantine
