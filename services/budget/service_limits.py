"""The gRPC face of what moves limits: allocations and overrides, and of the status of many budgets."""

from typing import Any

import asyncpg
import grpc

from pursestrings.budget.v1 import budget_pb2
from services.budget import definitions, paging, wire, wire_budgets, wire_limits
from services.budget.allocations import Allocations, Request, Wanted
from services.budget.overrides import Overrides
from services.budget.statuses import Statuses
from services.kit import auth

Context = grpc.aio.ServicerContext[Any, Any]


class LimitMethods:
    """A part of the service.

    Args:
        pool: Budget's database.
    """

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._allocations = Allocations(pool)
        self._overrides = Overrides(pool)
        self._statuses = Statuses(pool)

    async def Allocate(self, request: budget_pb2.AllocateRequest, context: Context) -> budget_pb2.AllocateResponse:
        """Carves budgets out of a budget."""
        named = wire.resource_of(request.budget, "budgets", "budget")
        wanted = None
        if not request.validate_only:
            wire.check_request_id(request.request_id)
            wanted = Request(
                request.request_id,
                wire.digest(request),
                lambda done: wire_limits.allocate_response(done).SerializeToString(),
            )
        done = await self._allocations.allocate(Wanted(*named, wire_limits.shares_of(request), request.etag), wanted)
        if isinstance(done, bytes):
            return budget_pb2.AllocateResponse.FromString(done)
        return wire_limits.allocate_response(done)

    async def GrantOverride(
        self, request: budget_pb2.GrantOverrideRequest, context: Context
    ) -> budget_pb2.GrantOverrideResponse:
        """Raises a limit for a time."""
        named = wire.resource_of(request.budget, "budgets", "budget")
        grant = wire_limits.grant_of(request, auth.identity())
        shown = await self._overrides.grant(*named, grant, validate_only=request.validate_only)
        return budget_pb2.GrantOverrideResponse(override=wire_limits.override_message(shown))

    async def ListOverrides(
        self, request: budget_pb2.ListOverridesRequest, context: Context
    ) -> budget_pb2.ListOverridesResponse:
        """A page of a budget's raises."""
        found, before = await self._overrides.list_page(
            *wire.resource_of(request.budget, "budgets", "budget"),
            wire_limits.before_of(request.page_token),
            paging.size_of(request.page_size),
        )
        return budget_pb2.ListOverridesResponse(
            overrides=[wire_limits.override_message(one) for one in found],
            next_page_token=wire_limits.before_token(before),
        )

    async def GetBudgetStatus(
        self, request: budget_pb2.GetBudgetStatusRequest, context: Context
    ) -> budget_pb2.GetBudgetStatusResponse:
        """What the running window has used."""
        found = await self._statuses.get(*wire.resource_of(request.name, "budgets"))
        return budget_pb2.GetBudgetStatusResponse(status=wire_budgets.status_message(found))

    async def ListBudgetStatuses(
        self, request: budget_pb2.ListBudgetStatusesRequest, context: Context
    ) -> budget_pb2.ListBudgetStatusesResponse:
        """A page of what a subtree's budgets have used, with totals on the first one if asked."""
        subject = wire.subject_of(request.parent, "parent")
        if request.allocated_from:
            wire.resource_of(request.allocated_from, "budgets", "allocated_from")
        found, behind, totals = await self._statuses.list_page(
            subject,
            request.allocated_from,
            definitions.after_token(request.page_token, subject),
            paging.size_of(request.page_size),
            with_totals=request.with_totals,
        )
        return budget_pb2.ListBudgetStatusesResponse(
            statuses=[wire_budgets.status_message(one) for one in found],
            next_page_token=definitions.token_of(behind),
            totals=wire_limits.totals_messages(totals) if totals is not None else (),
        )
