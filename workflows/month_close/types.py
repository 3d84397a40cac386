"""What passes between the month-close workflow and its activities. Standard library only."""

from dataclasses import dataclass, field

WORKFLOW = "MonthClose"
TASK_QUEUE = "schedules"
STATUS = "status"

LIST = "list_months_to_close"
CLOSE = "close_month"

WALLETS = "wallets"
BUDGETS = "budgets"
SOURCES = (WALLETS, BUDGETS)
"""Who knows of organisations: those with wallets first, then those that have budgets alone."""


@dataclass(frozen=True)
class OrgMonth:
    """A month of an organisation in a zone that has ended and that people are to be told of.

    Attributes:
        org: `orgs/{id}`.
        month: `YYYY-MM`.
    """

    org: str
    time_zone: str
    month: str


@dataclass(frozen=True)
class Ask:
    """Which page of months to close.

    Attributes:
        source: One of SOURCES.
        page_token: Empty: the first page.
        now_us: The time that decides which months are over, in microseconds since 1970.
    """

    source: str
    page_token: str
    now_us: int


@dataclass(frozen=True)
class Page:
    """Months to close, and where the next page begins; an empty token: nowhere."""

    months: list[OrgMonth] = field(default_factory=list)
    next_page_token: str = ""


@dataclass(frozen=True)
class Closed:
    """What became of a month.

    Attributes:
        told: Whether people are told, in the words of `summary`.
    """

    told: bool
    summary: str = ""
