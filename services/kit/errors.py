"""Errors that say what was wrong and what to do, free of any transport."""

from collections.abc import Mapping
from enum import IntEnum


class Code(IntEnum):
    """The numbers of `google.rpc.Code` that the suite answers with."""

    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class PurseError(Exception):
    """A refusal with a stable reason.

    Attributes:
        code: The kind of failure.
        reason: UPPER_SNAKE, stable: programs branch on it.
        message: What was wrong and what to do, for people.
        field: The request's field at fault, as a dotted path; None where no field is.
        metadata: Facts for programs, as strings.
        retry_after_s: When trying again may help, in seconds; None where it never will.
    """

    def __init__(
        self,
        code: Code,
        reason: str,
        message: str,
        *,
        field: str | None = None,
        metadata: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.field = field
        self.metadata = dict(metadata or {})
        self.retry_after_s = retry_after_s

    def __repr__(self) -> str:
        return f"PurseError({self.code.name}, {self.reason}, {self.message!r}, field={self.field!r})"


def invalid(field: str, message: str, reason: str = "INVALID_ARGUMENT", **metadata: str) -> PurseError:
    """A field of the request is wrong; the same request never succeeds."""
    return PurseError(Code.INVALID_ARGUMENT, reason, f"{field}: {message}", field=field, metadata=metadata)


def not_found(what: str, reason: str = "NOT_FOUND", **metadata: str) -> PurseError:
    """The named thing does not exist."""
    return PurseError(Code.NOT_FOUND, reason, f"{what} does not exist", metadata=metadata)


def already_exists(what: str, reason: str = "ALREADY_EXISTS", **metadata: str) -> PurseError:
    """The name is taken by something else."""
    return PurseError(Code.ALREADY_EXISTS, reason, f"{what} exists already", metadata=metadata)


def conflict(reason: str, message: str, *, field: str | None = None, **metadata: str) -> PurseError:
    """The request does not fit the present state."""
    return PurseError(Code.FAILED_PRECONDITION, reason, message, field=field, metadata=metadata)


def denied(message: str, reason: str = "PERMISSION_DENIED") -> PurseError:
    """The credential does not allow this."""
    return PurseError(Code.PERMISSION_DENIED, reason, message)


def unauthenticated(message: str, reason: str = "UNAUTHENTICATED") -> PurseError:
    """There is no valid credential."""
    return PurseError(Code.UNAUTHENTICATED, reason, message)


def too_many(message: str, retry_after_s: float, reason: str = "QUEUE_FULL") -> PurseError:
    """A limit of the server is reached; nothing was done."""
    return PurseError(Code.RESOURCE_EXHAUSTED, reason, message, retry_after_s=retry_after_s)


def unavailable(message: str, retry_after_s: float = 0.2, reason: str = "UNAVAILABLE") -> PurseError:
    """Something needed is out of reach; the same request with the same ids may be sent again."""
    return PurseError(Code.UNAVAILABLE, reason, message, retry_after_s=retry_after_s)
