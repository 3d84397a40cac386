"""The story that `purse demo` plays: one organisation, two teams, ten agents, one wallet."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from pursestrings._client import AsyncClient
from pursestrings._errors import Denied, amount_of
from pursestrings._money import NANOS, Money
from pursestrings.budget.v1 import budget_pb2
from pursestrings.cli.connection import Suite
from pursestrings.cli.replay_run import drained
from pursestrings.cli.sample_log import SampleCall, sample_calls
from pursestrings.wallet.v1 import wallet_pb2

MODEL: Final = "gpt-4o"
AGENTS: Final = 5
RECHARGES_MAX: Final = 2
STORY_TIMEOUT_S: Final = 45.0
"""How long the acts may take in all."""
_GRANT: Final = Money(8 * NANOS)
_THRESHOLD: Final = Money(2 * NANOS)
_CHARGE: Final = Money(5 * NANOS)
_RESEARCH_LIMIT: Final = 2 * NANOS
_SUPPORT_LIMIT: Final = 3 * NANOS
_TOGETHER: Final = 20
_POLL_S: Final = 0.2
_DRAIN_S: Final = 15.0


@dataclass(slots=True)
class Story:
    """What has happened."""

    warned: str = ""
    blocked: str = ""
    recharges: int = 0
    capped: bool = False
    calls: int = 0
    denied: int = 0
    spent_nanos: int = 0
    empty: bool = False
    acts: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every act happened."""
        return bool(self.warned and self.blocked and self.recharges == RECHARGES_MAX and self.capped)


class Stage:
    """Plays the story.

    Args:
        client: Asks and records, as an agent would.
        suite: Everything else.
        org: `orgs/ID`, new.
        tell: Says a line to whoever watches.
    """

    def __init__(self, client: AsyncClient, suite: Suite, org: str, tell: Callable[[str], None]) -> None:
        self._client = client
        self._suite = suite
        self._org = org
        self._tell = tell
        self._wallet = f"{org}/wallets/main"
        self._log = sample_calls(AGENTS)
        self.story = Story()

    async def play(self) -> Story:
        """All acts, as far as they come within `STORY_TIMEOUT_S`."""
        try:
            async with asyncio.timeout(STORY_TIMEOUT_S):
                await self._prepare()
                await self._act_warn()
                await self._act_block()
                await self._act_recharge()
                await self._act_cap()
        except TimeoutError:
            self._tell(f"the story did not end within {STORY_TIMEOUT_S:.0f} s")
        return self.story

    async def _prepare(self) -> None:
        self._tell(f"The cast: {self._org} with the teams research and support, {AGENTS} agents each.")
        wallet = wallet_pb2.Wallet(currency_code="USD", display_name="Demo")
        await self._suite.wallet(
            "CreateWallet",
            wallet_pb2.CreateWalletRequest(parent=self._org, wallet_id="main", wallet=wallet, request_id=_new_id()),
        )
        await self._suite.wallet(
            "SetupPaymentMethod",
            wallet_pb2.SetupPaymentMethodRequest(
                wallet=self._wallet, payment_method="pm_card_visa", request_id=_new_id()
            ),
        )
        grant = wallet_pb2.Grant(kind=wallet_pb2.GRANT_KIND_PAID, amount=_GRANT.to_proto())
        await self._suite.wallet(
            "CreateGrant",
            wallet_pb2.CreateGrantRequest(wallet=self._wallet, grant=grant, request_id=_new_id()),
        )
        policy = wallet_pb2.RechargePolicy(
            wallet=self._wallet,
            enabled=True,
            mode=wallet_pb2.RECHARGE_MODE_THRESHOLD,
            threshold=_THRESHOLD.to_proto(),
            amount=_CHARGE.to_proto(),
            max_count_per_month=RECHARGES_MAX,
        )
        await self._suite.wallet("SetRechargePolicy", wallet_pb2.SetRechargePolicyRequest(policy=policy))
        self._tell(
            f"The wallet has {_GRANT} and a test card. Below {_THRESHOLD} it charges {_CHARGE}, "
            f"at most {RECHARGES_MAX} times a month."
        )
        await self._budget("research", _RESEARCH_LIMIT, budget_pb2.ON_EXCEED_WARN)
        await self._budget("support", _SUPPORT_LIMIT, budget_pb2.ON_EXCEED_BLOCK)
        self._tell(
            f"research may spend {Money(_RESEARCH_LIMIT)} a day and is warned; "
            f"support may spend {Money(_SUPPORT_LIMIT)} a day and is stopped."
        )

    async def _budget(self, team: str, limit: int, on_exceed: budget_pb2.OnExceed.ValueType) -> None:
        budget = budget_pb2.Budget(
            dimension=budget_pb2.DIMENSION_COST,
            currency_code="USD",
            limit_amount=limit,
            window=budget_pb2.Window(kind=budget_pb2.WINDOW_KIND_DAY),
            on_exceed=on_exceed,
        )
        request = budget_pb2.CreateBudgetRequest(parent=f"{self._org}/teams/{team}", budget_id="daily", budget=budget)
        await self._suite.budget("CreateBudget", request)

    async def _act_warn(self) -> None:
        self._tell("\nAct 1. research works until its budget warns.")
        await self._spend("research", lambda: _true(self.story.warned))
        self._tell(f"  after {self.story.calls} calls: {self.story.warned}. The calls go on: this budget only warns.")

    async def _act_block(self) -> None:
        self._tell("\nAct 2. support works until its budget blocks.")
        await self._spend("support", lambda: _true(self.story.blocked))
        self._tell(f"  denied before it was spent: {self.story.blocked}.")

    async def _act_recharge(self) -> None:
        self._tell("\nAct 3. research goes on until the wallet runs low and refills itself.")
        await self._spend("research", lambda: self._recharged(1))
        self._tell(f"  the card was charged {_CHARGE} and the wallet credited, once.")

    async def _act_cap(self) -> None:
        self._tell(
            f"\nAct 4. research goes on; the wallet may refill itself {RECHARGES_MAX} times a month and no more."
        )
        await self._spend("research", lambda: self._recharged(2))
        self._tell(f"  recharge {RECHARGES_MAX} of {RECHARGES_MAX}.")
        self.story.empty = False
        await self._spend("research", self._is_capped)
        self._tell("  the wallet is empty, the cap holds, and the next call is denied: INSUFFICIENT_FUNDS.")

    async def _spend(self, team: str, until: Callable[[], Awaitable[bool]]) -> None:
        while not await until():
            await asyncio.gather(*(self._call(team, next(self._log)) for _ in range(_TOGETHER)))
            if self.story.empty:
                # No money now: a recharge may be on its way, and hammering would not hasten it.
                await asyncio.sleep(_POLL_S)

    async def _call(self, team: str, sample: SampleCall) -> None:
        story = self.story
        reserved = self._client.reserve(
            f"{self._org}/teams/{team}/agents/bot-{sample.agent + 1}",
            model=MODEL,
            input_tokens=sample.input_tokens,
            max_output_tokens=sample.output_tokens,
            operation=sample.operation,
        )
        try:
            async with reserved as call:
                if call.warnings and not story.warned:
                    story.warned = _describe(call.warnings[0])
                call.record(_usage(sample))
        except Denied as denied:
            story.denied += 1
            if denied.reason == "BUDGET_EXCEEDED":
                story.blocked = story.blocked or str(denied)
            story.empty = story.empty or denied.reason == "INSUFFICIENT_FUNDS"
            return
        story.calls += 1
        story.spent_nanos += sum(cost.amount_nanos for cost in call.costs)

    async def _recharged(self, count: int) -> bool:
        request = wallet_pb2.ListRechargesRequest(wallet=self._wallet)
        found = (await self._suite.wallet("ListRecharges", request)).recharges
        states = [one.state for one in found]
        self.story.recharges = states.count(wallet_pb2.RECHARGE_STATE_SUCCEEDED)
        if self.story.recharges >= count:
            self.story.empty = False
            return True
        if wallet_pb2.RECHARGE_STATE_PENDING in states:
            # Let it arrive before more is spent, so that each act is one thing.
            await asyncio.sleep(_POLL_S)
        return False

    async def _is_capped(self) -> bool:
        """Empty, below the threshold, everything captured, and still no more recharges than the cap allows."""
        if not self.story.empty:
            return False
        balance = await self._suite.wallet("GetBalance", wallet_pb2.GetBalanceRequest(name=self._wallet))
        if balance.balance_nanos >= _THRESHOLD.amount_nanos:
            self.story.empty = False
            return False
        await drained(self._suite, self._org, _DRAIN_S)
        request = wallet_pb2.ListRechargesRequest(wallet=self._wallet)
        found = (await self._suite.wallet("ListRecharges", request)).recharges
        self.story.recharges = len(found)
        self.story.capped = len(found) == RECHARGES_MAX
        return True


def _usage(sample: SampleCall) -> dict[str, Any]:
    """What the model's provider would have said."""
    return {
        "prompt_tokens": sample.input_tokens,
        "completion_tokens": sample.output_tokens,
        "prompt_tokens_details": {"cached_tokens": sample.cached_tokens},
    }


def _describe(use: budget_pb2.BudgetUse) -> str:
    over = amount_of(use, use.limit_amount - use.remaining_amount)
    return f"{use.budget} reaches {over} of {amount_of(use, use.limit_amount)}"


async def _true(value: object) -> bool:
    return bool(value)


def _new_id() -> str:
    return str(uuid.uuid4())
