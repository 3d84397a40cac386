"""Decides spends: through the shared transactions, and with more money from the wallet where the lease is short."""

import asyncio
from collections.abc import Sequence
from typing import Final

from prometheus_client import Counter

from services.budget.domain.decide import deny_for_funds
from services.budget.domain.fit import stretched
from services.budget.domain.model import Answer, Decision, Item, ReserveItem, Short
from services.budget.funding import Funding
from services.kit.errors import PurseError, unavailable
from services.kit.groupcommit import GroupCommit

DECISIONS: Final = Counter("purse_decisions", "Decisions, by outcome: NONE is an ALLOW, else the reason.", ["outcome"])
_ROUNDS_MAX: Final = 50


class Decisions:
    """What Reserve and BatchReserve do, on plain values.

    Args:
        commit: The shared transactions.
        funding: Covers leases that are short.
    """

    def __init__(self, commit: GroupCommit[Item, Answer], funding: Funding) -> None:
        self._commit = commit
        self._funding = funding

    async def decide(self, items: Sequence[ReserveItem], wait_s: float) -> list[Decision | Exception]:
        """One decision or error an item, in order.

        An item whose budgets allow it and whose lease is short leaves the batch, waits for the wallet, and is decided
        again in a later one.

        Args:
            items: Of one call.
            wait_s: How long the call can wait for a wallet, in seconds.
        """
        deadline_s = asyncio.get_running_loop().time() + wait_s
        await self._funding.know(list({item.org for item in items}))
        answers: list[Answer | Exception] = list(await self._commit.submit_many(items))
        await self._look(items, answers, deadline_s)
        for _ in range(_ROUNDS_MAX):
            short = [index for index, answer in enumerate(answers) if isinstance(answer, Short)]
            if not short:
                break
            again = await self._cover(items, answers, short, deadline_s)
            if again:
                for index, answer in zip(again, await self._submit([items[index] for index in again]), strict=True):
                    answers[index] = answer
        await self._fit(items, answers, deadline_s)
        return _finished(answers)

    async def _look(self, items: Sequence[ReserveItem], answers: list[Answer | Exception], deadline_s: float) -> None:
        """Answers short spends that hold nothing: by what their wallets have now, without moving it.

        An ALLOW says that the lease and what the wallet has available cover the spend; others may take it before the
        spend is asked for in earnest.
        """
        short = {
            index: answer
            for index, answer in enumerate(answers)
            if isinstance(answer, Short) and answer.allowed is not None
        }
        if not short:
            return
        wallets = sorted({answer.wallet for answer in short.values()})
        left_s = max(0.001, deadline_s - asyncio.get_running_loop().time())
        looks = (self._funding.available(wallet, left_s) for wallet in wallets)
        found = dict(zip(wallets, await asyncio.gather(*looks, return_exceptions=True), strict=True))
        for index, answer in short.items():
            available = found[answer.wallet]
            if isinstance(available, Exception):
                answers[index] = available
            elif isinstance(available, int) and answer.allowed is not None and answer.cost <= answer.free + available:
                answers[index] = answer.allowed
            else:
                assert isinstance(available, int)
                answers[index] = deny_for_funds(items[index], answer.wallet, answer.free + available)

    async def _fit(self, items: Sequence[ReserveItem], answers: list[Answer | Exception], deadline_s: float) -> None:
        """Tells denied spends how much of what their budgets would allow the wallet could pay, where the lease cannot.

        The wallet is not asked within a second of an answer, and what it does not answer is as the lease has it.
        """
        short = [
            (item, answer.fit)
            for item, answer in zip(items, answers, strict=True)
            if isinstance(answer, Decision) and answer.fit is not None and answer.fit.wallet
        ]
        if not short:
            return
        wallets = sorted({fit.wallet for _, fit in short})
        left_s = max(0.001, deadline_s - asyncio.get_running_loop().time())
        looks = (self._funding.lately_available(wallet, left_s) for wallet in wallets)
        found = dict(zip(wallets, await asyncio.gather(*looks, return_exceptions=True), strict=True))
        for item, fit in short:
            available = found[fit.wallet]
            if isinstance(available, int):
                fit.output_tokens = stretched(item, fit, available)

    async def _submit(self, items: Sequence[ReserveItem]) -> Sequence[Answer | Exception]:
        """Decides again; a full queue is the answer of these items only, since others of their call may be held."""
        try:
            return await self._commit.submit_many(items)
        except PurseError as error:
            return [error] * len(items)

    async def _cover(
        self, items: Sequence[ReserveItem], answers: list[Answer | Exception], short: list[int], deadline_s: float
    ) -> list[int]:
        """Denies what an empty wallet cannot pay, waits for the others, and returns those to decide again."""
        by_wallet: dict[str, list[int]] = {}
        for index in short:
            answer = answers[index]
            assert isinstance(answer, Short)
            by_wallet.setdefault(answer.wallet, []).append(index)
        waiting: dict[str, list[int]] = {}
        for wallet, indexes in by_wallet.items():
            if self._funding.is_empty(wallet):
                for index in indexes:
                    short_of = answers[index]
                    assert isinstance(short_of, Short)
                    answers[index] = deny_for_funds(items[index], wallet, short_of.free)
            else:
                waiting[wallet] = indexes
        left_s = max(0.001, deadline_s - asyncio.get_running_loop().time())
        covered = await asyncio.gather(
            *(
                self._funding.cover([answers[index] for index in indexes], left_s)  # type: ignore[misc]
                for indexes in waiting.values()
            ),
            return_exceptions=True,
        )
        again = []
        for indexes, outcome in zip(waiting.values(), covered, strict=True):
            if isinstance(outcome, Exception):
                for index in indexes:
                    answers[index] = outcome
            else:
                again += indexes
        return sorted(again)


def _finished(answers: Sequence[Answer | Exception]) -> list[Decision | Exception]:
    """The answers to give out, counted for the metrics."""
    finished: list[Decision | Exception] = []
    outcomes: dict[str, int] = {}
    for answer in answers:
        if isinstance(answer, Decision):
            outcome = answer.denied.name
            finished.append(answer)
        else:
            error = _error_of(answer)
            outcome = error.reason if isinstance(error, PurseError) else "ERROR"
            finished.append(error)
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    for outcome, count in outcomes.items():
        DECISIONS.labels(outcome).inc(count)
    return finished


def _error_of(answer: Answer | Exception) -> Exception:
    if isinstance(answer, Short):
        return unavailable(f"{answer.wallet} was short again and again; send again with the same ids")
    if not isinstance(answer, Exception):
        raise TypeError(f"{answer!r} answers no spend")
    return answer
