"""The MonthClose workflow: goes through all organisations and closes the months that are over.

It decides nothing. Which months are over is a rule over zones, which of them are closed is a row of budget's, and
closing twice tells once. One organisation that fails keeps no other waiting, and is tried again by the next run.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from workflows.month_close import types
    from workflows.month_close.types import Ask, Closed, OrgMonth, Page, WalletsOf
    from workflows.sweep import Board, Tally, call, each

_AT_ONCE = 8
_LIST_PATIENCE = timedelta(minutes=2)
_CLOSE_PATIENCE = timedelta(minutes=15)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class MonthCloseInput:
    """What a run is started with: nothing. The rest is handed on where a long history is cut.

    Attributes:
        now_us: The time that the run goes by, in microseconds since 1970; 0: when it starts.
        source: Where it goes on, and `page_token` within that.
    """

    now_us: int = 0
    source: int = 0
    page_token: str = ""
    tally: Tally = field(default_factory=Tally)


@workflow.defn(name=types.WORKFLOW)
class MonthClose:
    """One look at all organisations."""

    @workflow.init
    def __init__(self, given: MonthCloseInput) -> None:
        self._board = Board("months", given.tally)

    @workflow.run
    async def run(self, given: MonthCloseInput) -> Tally:
        """Closes what is over; returns how much that was."""
        now_us = given.now_us or (workflow.now() - _EPOCH) // timedelta(microseconds=1)
        page_token = given.page_token
        for source in range(given.source, len(types.SOURCES)):
            while True:
                ask = Ask(types.SOURCES[source], page_token, now_us)
                try:
                    page = await call(types.LIST, ask, Page, f"Months to close, by {ask.source}", _LIST_PATIENCE)
                except ActivityError as error:
                    self._board.failed(f"the list of months, by {ask.source}", error)
                    page = Page()
                self._board.found(len(page.months))
                await each(page.months, _AT_ONCE, self._close)
                page_token = page.next_page_token
                if not page_token:
                    break
                if workflow.info().is_continue_as_new_suggested():
                    workflow.continue_as_new(MonthCloseInput(now_us, source, page_token, self._board.tally))
        return self._board.end()

    @workflow.query(name=types.STATUS)
    def status(self) -> dict[str, str]:
        """Where it stands, for people and tests."""
        return self._board.status()

    async def _close(self, month: OrgMonth) -> None:
        what = f"{month.month} of {month.org} ({month.time_zone})"
        rest: WalletsOf | None = WalletsOf(month.org, month.time_zone, month.month)
        try:
            while rest:
                so_far = f", {rest.moved} wallets so far" if rest.page_token else ""
                closed = await call(types.CLOSE, rest, Closed, f"Close {what}{so_far}", _CLOSE_PATIENCE)
                rest = closed.rest
        except ActivityError as error:
            self._board.failed(what, error)
        else:
            self._board.done(told=int(closed.told))
