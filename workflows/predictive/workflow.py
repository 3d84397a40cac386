"""The PredictiveSweep workflow: page by page through one part of the wallets that recharge by forecast.

It remembers nothing from one run to the next: a sweep that is lost, or runs twice, loses and repeats nothing.
"""

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy

with workflow.unsafe.imports_passed_through():
    from workflows.predictive import types
    from workflows.predictive.types import Page, SweepInput, SweptPage, Tally
    from workflows.shown import Shown

_ACTIVITY_TIMEOUT = timedelta(minutes=2)
# Longer is the next sweep's.
_ACTIVITY_PATIENCE = timedelta(minutes=10)
_HEARTBEAT_TIMEOUT = timedelta(seconds=8)
_RETRY = RetryPolicy(
    initial_interval=timedelta(seconds=1), backoff_coefficient=2.0, maximum_interval=timedelta(seconds=60)
)


@workflow.defn(name=types.WORKFLOW)
class PredictiveSweep:
    """One look at all wallets of a part."""

    @workflow.init
    def __init__(self, given: SweepInput) -> None:
        self._tally = given.tally
        self._token = given.page_token
        self._shown = Shown()

    @workflow.run
    async def run(self, given: SweepInput) -> Tally:
        """Looks at every wallet of the part once; returns what it came to."""
        part = f"part {given.shard + 1} of {given.shards}"
        while True:
            self._show("SWEEPING", f"Looking at wallets of {part}; so far it {self._tally.words()}.")
            first = self._tally.looked + 1
            swept: SweptPage = await workflow.execute_activity(
                types.SWEEP_PAGE,
                Page(given.shard, given.shards, self._token),
                result_type=SweptPage,
                start_to_close_timeout=_ACTIVITY_TIMEOUT,
                schedule_to_close_timeout=_ACTIVITY_PATIENCE,
                heartbeat_timeout=_HEARTBEAT_TIMEOUT,
                retry_policy=_RETRY,
                summary=f"Forecast wallets from number {first:,} on, and recharge those that are due",
            )
            self._tally = self._tally.plus(swept.tally)
            self._token = swept.next_page_token
            if not self._token:
                self._show("DONE", f"Of {part} it {self._tally.words()}.")
                return self._tally
            if workflow.info().is_continue_as_new_suggested():
                await workflow.wait_condition(workflow.all_handlers_finished)
                workflow.continue_as_new(SweepInput(given.shard, given.shards, self._token, self._tally))

    @workflow.query(name=types.STATUS)
    def status(self) -> dict[str, str]:
        """Where it stands, for people and tests."""
        return self._shown.status()

    def _show(self, state: str, text: str) -> None:
        """Keeps what a person sees in Temporal's UI true."""
        lines = [f"**{state}** · {text}", *(f"- Started: {name}" for name in self._tally.names)]
        if self._tally.failure:
            lines.append(f"- Could not look at {self._tally.failure}")
        self._shown.show(state, "\n".join(lines))
