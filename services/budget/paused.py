"""Pauses by persons: begun, ended and listed under the organisation's lock."""

from dataclasses import replace
from typing import Final

import asyncpg

from services.budget import paging
from services.budget.domain import pauses as rules
from services.budget.domain.budgets import FOREVER_US
from services.budget.domain.pauses import Pause, PauseCause
from services.budget.store import budgets, pauses
from services.kit.database import transact
from services.kit.subject import Subject

_SHOWN_MAX: Final = 100


class Paused:
    """What the pause methods do, on plain values.

    Args:
        pool: Budget's database.
    """

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def pause(self, subject: Subject, reason: str, *, by: str, validate_only: bool) -> Pause:
        """Pauses a subject until it is resumed; the same again gives the pause that is there.

        Raises:
            PurseError: No reason, or PAUSED_ALREADY for another one.
        """
        why = rules.check_reason(reason)

        async def run(connection: asyncpg.Connection) -> Pause:
            now_us = await _begin(connection, subject, validate_only=validate_only)
            there = [p for p in await pauses.of_subjects(connection, subject.org, [subject.name], now_us)
                     if p.cause is PauseCause.PERSON]  # fmt: skip
            if there:
                if refusal := rules.refuse_again(there[0], why):
                    raise refusal
                return there[0]
            number = await pauses.next_of_person(connection, subject.org, subject.name)
            made = Pause(
                subject.org, subject.name, 0, "", 0, number, PauseCause.PERSON, why, by, now_us, FOREVER_US
            )  # fmt: skip
            if not validate_only:
                await pauses.begin(connection, [made], now_us)
            return made

        return await transact(self._pool, run)

    async def resume(
        self, subject: Subject, note: str, *, by: str, validate_only: bool
    ) -> tuple[list[Pause], list[Pause], int]:
        """Ends all pauses of a subject itself; returns them, those of its ancestors that stay, and the time.

        Raises:
            PurseError: NOT_PAUSED, or the note is too long.
        """
        text = rules.check_note(note)

        async def run(connection: asyncpg.Connection) -> tuple[list[Pause], list[Pause], int]:
            now_us = await _begin(connection, subject, validate_only=validate_only)
            found = await pauses.of_subjects(connection, subject.org, list(subject.ancestors), now_us)
            own = [pause for pause in found if pause.subject == subject.name]
            above = [pause for pause in found if pause.subject != subject.name]
            if not own:
                raise rules.not_paused(subject.name, above)
            ended = [replace(pause, ended_us=now_us, ended_by=by, end_note=text) for pause in own]
            if not validate_only:
                await pauses.end(connection, ended, now_us)
            return ended[:_SHOWN_MAX], above[:_SHOWN_MAX], now_us

        return await transact(self._pool, run)

    async def list_page(
        self, subject: Subject, page_size: int, page_token: str, *, ancestors: bool, ended: bool
    ) -> tuple[list[Pause], str, int]:
        """Pauses of a subtree, those of its ancestors if asked, sorted; the next page's token; and the time.

        Raises:
            PurseError: The page's size or token is wrong.
        """
        size = paging.size_of(page_size)
        scope = f"{subject.name} {ancestors:d}{ended:d}"
        after = paging.after_of(page_token, scope, ("", -1, -1, -1))
        above = subject.ancestors[:-1] if ancestors else ()
        async with self._pool.acquire() as connection:
            now_us = await budgets.now_us(connection)
            found = await pauses.list_page(
                connection, subject.org, subject.name, above, after=after, limit=size + 1, ended=ended, at_us=now_us
            )
        if len(found) <= size:
            return found, "", now_us
        last = found[size - 1]
        token = paging.token_of(scope, (last.subject, last.budget_no, last.window_key, last.generation))
        return found[:size], token, now_us


async def _begin(connection: asyncpg.Connection, subject: Subject, *, validate_only: bool) -> int:
    """Locks the organisation for a write; a check alone locks nothing. Returns the time."""
    if validate_only:
        return await budgets.now_us(connection)
    return await budgets.begin_write(connection, subject.org)
