"""Reconciliation and reports, as the worker runs them."""

from datetime import timedelta

from workflows.part import Part, Schedule
from workflows.reconcile import types
from workflows.reconcile.activities import ReconcileActivities
from workflows.reconcile.workflow import Reconcile, ReconcileInput, Report, ReportInput
from workflows.services import Services

_DAY = timedelta(days=1)
_HOUR = timedelta(hours=1)


def part(services: Services) -> Part:
    """The workflows, their activities and schedules."""
    activities = ReconcileActivities(services)
    return Part(
        task_queue=types.TASK_QUEUE,
        workflows=[Reconcile, Report],
        activities=[activities.list_orgs, activities.compare, activities.report],
        schedules=[
            Schedule(
                name="reconcile",
                workflow=types.RECONCILE,
                argument=ReconcileInput(),
                about="Compares Stripe, recharges, grants, the ledger, leases and usage, and tells what does not agree",
                every=_DAY,
                offset=3 * _HOUR,
                jitter=_HOUR / 2,
                timeout=12 * _HOUR,
                catch_up=6 * _HOUR,
            ),
            _report("report-expiries", _DAY, 7 * _HOUR, "Tells of money that expires soon", types.GRANT_EXPIRING),
            _report(
                "report-leases",
                6 * _HOUR,
                _HOUR,
                "Tells of leases that stand still, are idle or were taken back",
                *(types.LEASE_QUARANTINED, types.LEASE_IDLE, types.LEASE_RECLAIMED),
            ),
            _report(
                "report-recharges",
                _HOUR,
                _HOUR / 4,
                "Tells of recharges without progress, and of charges that do not fit",
                *(types.RECHARGE_STUCK, types.RECHARGE_PROBLEM),
            ),
        ],
    )


def _report(name: str, every: timedelta, offset: timedelta, about: str, *kinds: str) -> Schedule:
    return Schedule(
        name=name,
        workflow=types.REPORT,
        argument=ReportInput(list(kinds)),
        about=about,
        every=every,
        offset=offset,
        jitter=_HOUR / 4,
        timeout=2 * _HOUR,
        catch_up=_HOUR,
    )
