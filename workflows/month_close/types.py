"""What passes between the month-close workflow and its activities. Standard library only."""

from dataclasses import dataclass, field

WORKFLOW = "MonthClose"
TASK_QUEUE = "schedules"
STATUS = "status"

LIST = "list_months_to_close"
CLOSE = "close_month"

WALLETS = "wallets"
BUDGETS = "budgets"
NAMED_MAX = 20
"""The most wallets that are named to people; the rest are counted."""
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
class WalletsOf:
    """A month to close, and how many of its organisation's wallets were looked at for it.

    Attributes:
        page_token: Where the next page of wallets begins. Empty: the first page.
        moved: How many wallets on the pages before have money or moved some.
        named: The first of these, `{subject}/wallets/{id}`, at most `NAMED_MAX`.
    """

    org: str
    time_zone: str
    month: str
    page_token: str = ""
    moved: int = 0
    named: list[str] = field(default_factory=list)


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
        rest: Pages of wallets are left: ask again with this. None: the month is closed.
    """

    told: bool
    summary: str = ""
    rest: WalletsOf | None = None
