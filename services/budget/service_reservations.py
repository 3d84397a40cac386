"""The part of the gRPC face that reads, ends and extends reservations."""

from typing import Any

import asyncpg
import grpc

from pursestrings.budget.v1 import budget_pb2
from services.budget import paging, wire
from services.budget.domain.model import Answer, Decision, Item, ReleaseItem, Reservation
from services.budget.store import budgets, reservations
from services.kit.errors import invalid, not_found
from services.kit.groupcommit import GroupCommit

Context = grpc.aio.ServicerContext[Any, Any]


class ReservationMethods:
    """Get, List, Release and Extend.

    Args:
        pool: Budget's database.
        commit: The shared transactions.
    """

    def __init__(self, pool: asyncpg.Pool, commit: GroupCommit[Item, Answer]) -> None:
        self._pool = pool
        self._commit = commit

    async def Release(self, request: budget_pb2.ReleaseRequest, context: Context) -> budget_pb2.ReleaseResponse:
        """Gives a reservation back."""
        subject, id_ = wire.resource_of(request.name, "reservations")
        found = await self._commit.submit(ReleaseItem(subject.org, id_, subject.name))
        assert isinstance(found, Reservation)
        (message,) = await self._messages(found)
        return budget_pb2.ReleaseResponse(reservation=message)

    async def GetReservation(
        self, request: budget_pb2.GetReservationRequest, context: Context
    ) -> budget_pb2.GetReservationResponse:
        """A reservation as it stands."""
        subject, id_ = wire.resource_of(request.name, "reservations")
        async with self._pool.acquire() as connection:
            found = await reservations.get(connection, subject.org, id_)
        if found is None or found.subject != subject.name:
            raise not_found(f"reservation {request.name}", "RESERVATION_UNKNOWN")
        (message,) = await self._messages(found)
        return budget_pb2.GetReservationResponse(reservation=message)

    async def ExtendReservation(
        self, request: budget_pb2.ExtendReservationRequest, context: Context
    ) -> budget_pb2.ExtendReservationResponse:
        """Lets a reservation live longer."""
        decision = await self._commit.submit(wire.extend_item(request))
        assert isinstance(decision, Decision)
        response = budget_pb2.ExtendReservationResponse()
        wire.set_decision(response.decision, decision)
        return response

    async def ListReservations(
        self, request: budget_pb2.ListReservationsRequest, context: Context
    ) -> budget_pb2.ListReservationsResponse:
        """A page of reservations."""
        subject = wire.subject_of(request.parent, "parent")
        size = paging.size_of(request.page_size)
        states = budget_pb2.ReservationState.values()
        if len(request.states) >= len(states) or not all(state and state in states for state in request.states):
            raise invalid("states", "are some of OPEN, SETTLED, RELEASED, EXPIRED and CHARGED, each once")
        wire.check_text(request.page_token, "page_token")
        query = reservations.Query(
            subject.org, subject.name, request.include_descendants, tuple(request.states), request.unsettled_only
        )
        async with self._pool.acquire() as connection:
            found, token = await reservations.list_page(connection, query, request.page_token, size)
        return budget_pb2.ListReservationsResponse(reservations=await self._messages(*found), next_page_token=token)

    async def _messages(self, *found: Reservation) -> list[budget_pb2.Reservation]:
        """Reservations of one organisation, with the names of the budgets that they hold on."""
        if not found:
            return []
        async with self._pool.acquire() as connection:
            numbers = sorted({no for one in found for no in one.holds[::4]})
            names = await budgets.names(connection, found[0].org, numbers)
        messages = []
        for one in found:
            message = budget_pb2.Reservation()
            wire.set_reservation(message, one, names)
            messages.append(message)
        return messages
