"""Recharges by forecast, as the worker runs them."""

from datetime import timedelta
from typing import Final

from workflows.part import Part, Schedule
from workflows.predictive import types
from workflows.predictive.activities import PredictiveActivities
from workflows.predictive.types import SweepInput
from workflows.predictive.workflow import PredictiveSweep
from workflows.services import Services

SHARDS: Final = 4
"""Into how many parts wallets are divided, each with a schedule of its own; another number is another revision."""
EVERY: Final = timedelta(minutes=5)
"""How often each wallet is looked at."""


def part(services: Services) -> Part:
    """The workflow, its activity and its schedules, bound to the wallet service and metering."""
    activities = PredictiveActivities(services.wallet, services.metering)
    return Part(
        task_queue=types.TASK_QUEUE,
        workflows=[PredictiveSweep],
        activities=[activities.sweep_page],
        schedules=schedules(),
    )


def schedules() -> list[Schedule]:
    """One for each part of the wallets, spread over a round."""
    return [_schedule(shard) for shard in range(SHARDS)]


def _schedule(shard: int) -> Schedule:
    return Schedule(
        name=f"predictive-sweep-{shard}",
        workflow=types.WORKFLOW,
        argument=SweepInput(shard, SHARDS),
        about=f"Recharges wallets whose forecast reaches the balance: part {shard + 1} of {SHARDS}",
        every=EVERY,
        timeout=timedelta(minutes=30),
        offset=shard * EVERY / SHARDS,
        jitter=EVERY / SHARDS / 2,
        # A look that was missed is not made up for: the next one sees the same.
        catch_up=timedelta(minutes=1),
    )
