"""What a replay needs before it starts: money, a card that refills it, and budgets to count on."""

from dataclasses import dataclass
from typing import Final

from pursestrings._errors import Rejected
from pursestrings._money import NANOS, Money
from pursestrings.budget.v1 import budget_pb2
from pursestrings.cli.connection import Suite
from pursestrings.metering.v1 import metering_pb2
from pursestrings.type.v1 import type_pb2
from pursestrings.wallet.v1 import wallet_pb2

WALLET_ID: Final = "replay"
TEST_CARD: Final = "pm_card_visa"
BUDGETS_MAX: Final = 500
"""The most budgets that are made."""
_ORG_LIMIT: Final = 1_000_000 * NANOS
_TEAM_LIMIT: Final = 100_000 * NANOS
_AGENT_REQUESTS: Final = 100_000_000
_MARGIN: Final = 1.25
_CHARGE_MIN: Final = 5 * NANOS
_RECHARGES_MAX: Final = 1000


@dataclass(frozen=True, slots=True)
class Need:
    """What a run will use, about."""

    calls: int
    input_tokens: int
    output_tokens: int


async def prepare(
    suite: Suite, *, org: str, subjects: list[str], model: str, need: Need, grant: str | None, run: str
) -> list[str]:
    """Makes what is missing; returns what was done, for people.

    A wallet that somebody else made is left as it is.

    Args:
        suite: The services.
        org: The organisation that gets the wallet and a budget.
        subjects: Who spends; they and those above them get budgets.
        model: What prices the calls.
        need: What the run will use.
        grant: How much to put in, in units. None: enough for the run.
        run: The run's id.

    Raises:
        Rejected: The model has no price, or the credential is not enough.
    """
    cost = await _price(suite, subjects[0], model, need)
    done = await _prepare_wallet(suite, org, cost, grant, run)
    made = 0
    for parent, budget in _budgets(org, subjects, cost.currency_code)[:BUDGETS_MAX]:
        request = budget_pb2.CreateBudgetRequest(parent=parent, budget_id="replay", budget=budget)
        made += await _unless_there(suite.budget("CreateBudget", request))
    return [*done, f"{made} budgets made"] if made else done


async def _price(suite: Suite, subject: str, model: str, need: Need) -> Money:
    mean = type_pb2.TokenCounts(
        input_tokens=-(-need.input_tokens // need.calls), output_tokens=-(-need.output_tokens // need.calls)
    )
    request = metering_pb2.EstimateRequest(subject=subject, call=type_pb2.CallAttributes(model=model), tokens=mean)
    answer = await suite.metering("Estimate", request)
    return Money(answer.cost.amount_nanos * need.calls, answer.cost.currency_code)


async def _prepare_wallet(suite: Suite, org: str, cost: Money, grant: str | None, run: str) -> list[str]:
    name = f"{org}/wallets/{WALLET_ID}"
    listed = await suite.wallet("ListWallets", wallet_pb2.ListWalletsRequest(parent=org, page_size=1000))
    others = [
        wallet.name
        for wallet in listed.wallets
        if wallet.name != name
        and wallet.currency_code == cost.currency_code
        and wallet.name.startswith(f"{org}/wallets/")
    ]
    if others:
        return [f"{others[0]} pays; it is left as it is"]
    done = []
    create = wallet_pb2.CreateWalletRequest(
        parent=org,
        wallet_id=WALLET_ID,
        wallet=wallet_pb2.Wallet(currency_code=cost.currency_code, display_name="Replay"),
        request_id=f"replay-wallet-{run}",
    )
    if await _unless_there(suite.wallet("CreateWallet", create)):
        card = wallet_pb2.SetupPaymentMethodRequest(
            wallet=name, payment_method=TEST_CARD, request_id=f"replay-card-{run}"
        )
        await suite.wallet("SetupPaymentMethod", card)
        done.append(f"made {name} with the test card {TEST_CARD}")
    before = await suite.wallet("GetBalance", wallet_pb2.GetBalanceRequest(name=name))
    wanted = Money.of(grant, cost.currency_code) if grant is not None else _missing(cost, before.balance_nanos)
    if wanted.amount_nanos > 0:
        request = wallet_pb2.CreateGrantRequest(
            wallet=name,
            grant=wallet_pb2.Grant(kind=wallet_pb2.GRANT_KIND_PAID, amount=wanted.to_proto()),
            request_id=f"replay-grant-{run}",
        )
        await suite.wallet("CreateGrant", request)
        done.append(f"granted {wanted}")
    policy = _policy(name, cost, before.balance_nanos + wanted.amount_nanos)
    await suite.wallet("SetRechargePolicy", wallet_pb2.SetRechargePolicyRequest(policy=policy, resume=True))
    done.append(f"recharges by {Money.from_proto(policy.amount)} below {Money.from_proto(policy.threshold)}")
    return done


def _missing(cost: Money, balance_nanos: int) -> Money:
    """What to put in, in whole cents, so that the run never waits for money."""
    cent = NANOS // 100
    need = int(cost.amount_nanos * _MARGIN) + NANOS
    return Money(max(0, -(-(need - balance_nanos) // cent)) * cent, cost.currency_code)


def _policy(wallet: str, cost: Money, balance_nanos: int) -> wallet_pb2.RechargePolicy:
    """Recharges once about half of the run is played, whatever the balance is."""
    cent = NANOS // 100
    half = cost.amount_nanos // 2
    threshold = max(cent, (balance_nanos - half) // cent * cent)
    charge = max(_CHARGE_MIN, -(-half // cent) * cent)
    return wallet_pb2.RechargePolicy(
        wallet=wallet,
        enabled=True,
        mode=wallet_pb2.RECHARGE_MODE_THRESHOLD,
        threshold=Money(threshold, cost.currency_code).to_proto(),
        amount=Money(charge, cost.currency_code).to_proto(),
        max_count_per_month=_RECHARGES_MAX,
    )


def _budgets(org: str, subjects: list[str], currency: str) -> list[tuple[str, budget_pb2.Budget]]:
    """Three kinds at three levels, all so wide that they count and do not stand in the way."""
    month = budget_pb2.Window(kind=budget_pb2.WINDOW_KIND_MONTH)
    day = budget_pb2.Window(kind=budget_pb2.WINDOW_KIND_DAY)
    whole = budget_pb2.Budget(
        dimension=budget_pb2.DIMENSION_COST, currency_code=currency, limit_amount=_ORG_LIMIT, window=month
    )
    team = budget_pb2.Budget(
        dimension=budget_pb2.DIMENSION_COST,
        currency_code=currency,
        limit_amount=_TEAM_LIMIT,
        window=day,
        on_exceed=budget_pb2.ON_EXCEED_WARN,
    )
    agent = budget_pb2.Budget(dimension=budget_pb2.DIMENSION_REQUESTS, limit_amount=_AGENT_REQUESTS, window=day)
    between = sorted({above for subject in subjects for above in _between(org, subject)})
    spenders = [subject for subject in subjects if subject != org]
    return [(org, whole), *((name, team) for name in between), *((name, agent) for name in spenders)]


def _between(org: str, subject: str) -> list[str]:
    """The subjects above one and below its organisation."""
    parts = subject.split("/")
    ends = range(4, len(parts), 2)
    return ["/".join(parts[:end]) for end in ends] if subject.startswith(f"{org}/") else []


async def _unless_there(call: object) -> bool:
    """Whether it was made now; False where it is there already."""
    try:
        await call  # type: ignore[misc]
    except Rejected as error:
        if error.code != "ALREADY_EXISTS":
            raise
        return False
    return True
