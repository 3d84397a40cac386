"""The gRPC face: translate, call, answer."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import asyncpg
import grpc

from pursestrings.budget.v1 import budget_pb2
from services.budget import wire, wire_alerts, wire_budgets
from services.budget.alerted import Alerted
from services.budget.approvals.requests import Approvals
from services.budget.approvals.service import ApprovalMethods
from services.budget.audit import Audit
from services.budget.decisions import Decisions
from services.budget.definitions import Definitions
from services.budget.domain import policy
from services.budget.domain.model import Answer, Applied, ApplyItem, Item
from services.budget.funding import Funding
from services.budget.months.service import MonthMethods
from services.budget.notify.parts import Notify
from services.budget.notify.service import NotifyMethods
from services.budget.paused import Paused
from services.budget.rates import Rates
from services.budget.service_limits import LimitMethods
from services.budget.service_policy import PolicyMethods
from services.budget.service_reservations import ReservationMethods
from services.budget.settings_of_orgs import SettingsOfOrgs
from services.budget.store import reservations
from services.budget.subscriptions import Subscriptions
from services.kit.errors import Code, PurseError, invalid
from services.kit.groupcommit import GroupCommit
from services.kit.status import to_rpc_status

BATCH_MAX: Final = 1_000
"""The most items of one BatchReserve or ApplyUsage."""
_WAIT_MARGIN_S: Final = 0.05
_RELAY_CHARS_MAX: Final = 63

Context = grpc.aio.ServicerContext[Any, Any]


class BudgetService(ApprovalMethods, LimitMethods, MonthMethods, ReservationMethods, PolicyMethods, NotifyMethods):
    """Every method of the contract.

    Args:
        pool: Budget's database.
        commit: The shared transactions.
        decisions: Decides spends.
        definitions: Budgets.
        funding: Knows the wallets.
        rates: Prices estimates.
        approvals: Asks people.
        audit: Verifies the books.
        subscriptions: Who is told what.
        notify: Tells them.
        funding_wait_s: How long a spend may wait for its wallet, in seconds.
    """

    def __init__(
        self,
        pool: asyncpg.Pool,
        commit: GroupCommit[Item, Answer],
        *,
        decisions: Decisions,
        definitions: Definitions,
        funding: Funding,
        rates: Rates,
        audit: Audit,
        subscriptions: Subscriptions,
        notify: Notify,
        approvals: Approvals,
        funding_wait_s: float,
    ) -> None:
        LimitMethods.__init__(self, pool)
        MonthMethods.__init__(self, pool)
        ReservationMethods.__init__(self, pool, commit)
        self._decisions = decisions
        self._definitions = definitions
        self._funding = funding
        self._rates = rates
        self._audit = audit
        self._subscriptions = subscriptions
        self._approvals = approvals
        self._paused = Paused(pool)
        self._alerted = Alerted(pool)
        self._notify = notify
        self._settings_of_orgs = SettingsOfOrgs(pool)
        self._funding_wait_s = funding_wait_s

    async def Reserve(self, request: budget_pb2.ReserveRequest, context: Context) -> budget_pb2.ReserveResponse:
        """Decides one spend."""
        item = wire.reserve_item(request, self._rates, wire.now_us())
        (answer,) = await self._decisions.decide([item], self._wait_s(context))
        if isinstance(answer, Exception):
            raise answer
        response = budget_pb2.ReserveResponse()
        wire.set_decision(response.decision, answer)
        return response

    async def BatchReserve(
        self, request: budget_pb2.BatchReserveRequest, context: Context
    ) -> budget_pb2.BatchReserveResponse:
        """Decides up to 1,000 spends."""
        _check_size(request.requests, "requests", least=1)
        at_us = wire.now_us()
        items, refused = _read(request.requests, lambda one: wire.reserve_item(one, self._rates, at_us))
        answers = iter(await self._decisions.decide(items, self._wait_s(context)) if items else [])
        response = budget_pb2.BatchReserveResponse()
        for index in range(len(request.requests)):
            result = response.results.add()
            answer = refused.get(index) or next(answers)
            if isinstance(answer, Exception):
                result.error.CopyFrom(_status(answer))
            else:
                wire.set_decision(result.decision, answer)
        return response

    async def ApplyUsage(
        self, request: budget_pb2.ApplyUsageRequest, context: Context
    ) -> budget_pb2.ApplyUsageResponse:
        """Applies metered usage, each event once."""
        _check_size(request.items, "items", least=0)
        if not 0 < len(request.relay) <= _RELAY_CHARS_MAX:
            raise invalid(
                "relay", f"must be 1 to {_RELAY_CHARS_MAX} characters: which metering database this comes from"
            )
        wire.check_text(request.relay, "relay")
        held_back = wire.held_back(request)
        response = budget_pb2.ApplyUsageResponse()
        items, refused = _read(request.items, wire.apply_item)
        answers = iter(await self._apply(items))
        for index in range(len(request.items)):
            result = response.results.add()
            answer = refused.get(index) or next(answers)
            if isinstance(answer, Applied):
                wire.set_applied(result.applied, answer)
            else:
                assert isinstance(answer, Exception)
                result.error.CopyFrom(_status(answer))
        if request.HasField("delivered_through"):
            async with self._pool.acquire() as connection, connection.transaction():
                await reservations.set_delivered(
                    connection, request.relay, wire.time_us(request.delivered_through), held_back
                )
        return response

    async def CreateBudget(
        self, request: budget_pb2.CreateBudgetRequest, context: Context
    ) -> budget_pb2.CreateBudgetResponse:
        """Adds a budget."""
        subject = wire.subject_of(request.parent, "parent")
        wire.resource_of(f"{subject.name}/budgets/{request.budget_id}", "budgets", "budget_id")
        created = await self._definitions.create(
            subject,
            request.budget_id,
            wire_budgets.draft_of(request.budget, self._rates.table),
            validate_only=request.validate_only,
        )
        return budget_pb2.CreateBudgetResponse(budget=wire_budgets.budget_message(created))

    async def GetBudget(self, request: budget_pb2.GetBudgetRequest, context: Context) -> budget_pb2.GetBudgetResponse:
        """A definition."""
        found = await self._definitions.get(*wire.resource_of(request.name, "budgets"))
        return budget_pb2.GetBudgetResponse(budget=wire_budgets.budget_message(found))

    async def ListBudgets(
        self, request: budget_pb2.ListBudgetsRequest, context: Context
    ) -> budget_pb2.ListBudgetsResponse:
        """A page of definitions."""
        found, token = await self._definitions.list_page(
            wire.subject_of(request.parent, "parent"),
            request.page_size,
            request.page_token,
            descendants=request.include_descendants,
        )
        return budget_pb2.ListBudgetsResponse(
            budgets=[wire_budgets.budget_message(budget) for budget in found], next_page_token=token
        )

    async def UpdateBudget(
        self, request: budget_pb2.UpdateBudgetRequest, context: Context
    ) -> budget_pb2.UpdateBudgetResponse:
        """Changes a definition."""
        changed = await self._definitions.update(
            *wire.resource_of(request.budget.name, "budgets", "budget.name"),
            wire_budgets.draft_of(request.budget, self._rates.table),
            policy.check_mask(request.update_mask.paths),
            request.budget.etag,
            validate_only=request.validate_only,
            by=wire_alerts.caller(),
        )
        return budget_pb2.UpdateBudgetResponse(budget=wire_budgets.budget_message(changed))

    async def DeleteBudget(
        self, request: budget_pb2.DeleteBudgetRequest, context: Context
    ) -> budget_pb2.DeleteBudgetResponse:
        """Ends a budget."""
        await self._definitions.delete(
            *wire.resource_of(request.name, "budgets"), request.etag, by=wire_alerts.caller()
        )
        return budget_pb2.DeleteBudgetResponse()

    async def Audit(self, request: budget_pb2.AuditRequest, context: Context) -> budget_pb2.AuditResponse:
        """Verifies the books."""
        return await self._audit.run(request)

    async def _apply(self, items: Sequence[ApplyItem]) -> list[Answer | Exception]:
        if not items:
            return []
        await self._funding.know(list({item.org for item in items}))
        # Corrections after what they correct, which may be beside them.
        calls = iter(await self._commit.submit_many([item for item in items if item.corrects is None]))
        corrections = iter(await self._commit.submit_many([item for item in items if item.corrects is not None]))
        return [next(calls if item.corrects is None else corrections) for item in items]

    def _wait_s(self, context: Context) -> float:
        """How long the call may wait for a wallet: within its deadline, with time left to answer."""
        left_s = context.time_remaining()
        return self._funding_wait_s if left_s is None else min(self._funding_wait_s, left_s - _WAIT_MARGIN_S)


def _read(messages: Sequence[Any], read: Callable[[Any], Any]) -> tuple[list[Any], dict[int, PurseError]]:
    """The items that can be read, in order, and why the others cannot, by place."""
    items = []
    refused = {}
    for index, message in enumerate(messages):
        try:
            items.append(read(message))
        except PurseError as error:
            refused[index] = error
    return items, refused


def _check_size(messages: Sequence[object], field: str, *, least: int) -> None:
    if not least <= len(messages) <= BATCH_MAX:
        raise invalid(field, f"are {len(messages)}; send {least} to {BATCH_MAX} at once", "BATCH_TOO_LARGE")


def _status(error: Exception) -> Any:
    if isinstance(error, PurseError):
        return to_rpc_status(error)
    return to_rpc_status(PurseError(Code.INTERNAL, "INTERNAL", "unforeseen failure; the server's log tells more"))
