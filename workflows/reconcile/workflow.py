"""The Reconcile and Report workflows. They look and tell; what can be repaired, the services' own sweeps repair."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from workflows.reconcile import types
    from workflows.reconcile.types import Compare, Compared, Orgs, Reported, ReportPage
    from workflows.sweep import Board, Tally, call, each

# Each comparison has three services add up their books.
_AT_ONCE = 2
_PAGE_PATIENCE = timedelta(minutes=2)
_COMPARE_PATIENCE = timedelta(minutes=10)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class ReconcileInput:
    """What a run is started with: nothing. The rest is handed on where a long history is cut.

    Attributes:
        now_us: The time that the run goes by, in microseconds since 1970; 0: when it starts.
    """

    now_us: int = 0
    page_token: str = ""
    tally: Tally = field(default_factory=Tally)


@workflow.defn(name=types.RECONCILE)
class Reconcile:
    """Compares the books of every organisation that any of the services or Stripe knows."""

    @workflow.init
    def __init__(self, given: ReconcileInput) -> None:
        self._board = Board("organisations", given.tally)
        self._now_us = given.now_us or (workflow.now() - _EPOCH) // timedelta(microseconds=1)

    @workflow.run
    async def run(self, given: ReconcileInput) -> Tally:
        """Goes through all; returns how much was found."""
        page_token = given.page_token
        while True:
            try:
                page = await call(types.LIST_ORGS, page_token, Orgs, "Organisations to compare", _PAGE_PATIENCE)
            except ActivityError as error:
                self._board.failed("the list of organisations", error)
                page = Orgs()
            self._board.found(len(page.orgs))
            await each(page.orgs, _AT_ONCE, self._compare)
            page_token = page.next_page_token
            if not page_token:
                return self._board.end()
            if workflow.info().is_continue_as_new_suggested():
                workflow.continue_as_new(ReconcileInput(self._now_us, page_token, self._board.tally))

    @workflow.query(name=types.STATUS)
    def status(self) -> dict[str, str]:
        """Where it stands, for people and tests."""
        return self._board.status()

    async def _compare(self, org: str) -> None:
        try:
            compared = await call(
                types.COMPARE, Compare(org, self._now_us), Compared, f"Compare the books of {org}", _COMPARE_PATIENCE
            )
        except ActivityError as error:
            self._board.failed(org, error)
        else:
            self._board.done(compared.told)


@dataclass(frozen=True)
class ReportInput:
    """What to report.

    Attributes:
        kinds: Names of `ConcernKind`.
        now_us: The time that the run goes by, in microseconds since 1970; 0: when it starts.
    """

    kinds: list[str]
    now_us: int = 0
    page_token: str = ""
    tally: Tally = field(default_factory=Tally)


@workflow.defn(name=types.REPORT)
class Report:
    """Tells of every concern of some kinds."""

    @workflow.init
    def __init__(self, given: ReportInput) -> None:
        self._board = Board("concerns", given.tally)
        self._now_us = given.now_us or (workflow.now() - _EPOCH) // timedelta(microseconds=1)

    @workflow.run
    async def run(self, given: ReportInput) -> Tally:
        """Goes through all; returns how many people are told of."""
        page_token = given.page_token
        for index, kind in enumerate(given.kinds):
            while True:
                ask = ReportPage(kind, page_token, self._now_us)
                try:
                    page = await call(types.REPORT_PAGE, ask, Reported, f"Tell of {kind}", _PAGE_PATIENCE)
                except ActivityError as error:
                    self._board.failed(kind, error)
                    page = Reported()
                self._board.went(page.concerns, page.told)
                page_token = page.next_page_token
                if not page_token:
                    break
                if workflow.info().is_continue_as_new_suggested():
                    rest = list(given.kinds[index:])
                    workflow.continue_as_new(ReportInput(rest, self._now_us, page_token, self._board.tally))
        return self._board.end()

    @workflow.query(name=types.STATUS)
    def status(self) -> dict[str, str]:
        """Where it stands, for people and tests."""
        return self._board.status()
