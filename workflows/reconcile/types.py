"""What passes between the reconcile and report workflows and their activities. Standard library only."""

from dataclasses import dataclass, field

RECONCILE = "Reconcile"
REPORT = "Report"
TASK_QUEUE = "schedules"
STATUS = "status"

LIST_ORGS = "list_orgs_with_wallets"
COMPARE = "compare_books"
REPORT_PAGE = "report_concerns"

WALLETS = "wallets"
BUDGETS = "budgets"
CHARGES = "charges"
SOURCES = (WALLETS, BUDGETS, CHARGES)
"""Who knows of organisations: those that have wallets, then those without that budget knows, then those at Stripe."""

GRANT_EXPIRING = "GRANT_EXPIRING"
LEASE_QUARANTINED = "LEASE_QUARANTINED"
LEASE_IDLE = "LEASE_IDLE"
LEASE_RECLAIMED = "LEASE_RECLAIMED"
RECHARGE_STUCK = "RECHARGE_STUCK"
RECHARGE_PROBLEM = "RECHARGE_PROBLEM"


@dataclass(frozen=True)
class Orgs:
    """A page of organisations, `orgs/{id}`, and where the next one begins.

    Attributes:
        orgs: There may be none though another page follows.
        next_page_token: One of SOURCES, `:` and that source's token. Empty: there is no further page.
    """

    orgs: list[str] = field(default_factory=list)
    next_page_token: str = ""


@dataclass(frozen=True)
class Compare:
    """Whose books to compare.

    Attributes:
        org: `orgs/{id}`.
        now_us: When the run began, in microseconds since 1970: a difference is told once a day of this.
    """

    org: str
    now_us: int


@dataclass(frozen=True)
class Compared:
    """What was found.

    Attributes:
        differences: Between Stripe, what is stored and granted, the ledger and captures.
        broken: Names of checks across the services that do not hold.
        told: How many of them people are told of, that were not told today.
    """

    differences: int = 0
    broken: list[str] = field(default_factory=list)
    told: int = 0


@dataclass(frozen=True)
class ReportPage:
    """Which concerns to tell of.

    Attributes:
        kind: One of the names of `ConcernKind`.
        page_token: Empty: the first page.
        now_us: When the run began, in microseconds since 1970.
    """

    kind: str
    page_token: str
    now_us: int


@dataclass(frozen=True)
class Reported:
    """How many concerns a page had, of how many people are told now, and where the next page begins."""

    concerns: int = 0
    told: int = 0
    next_page_token: str = ""
