"""SQL of recharges. The ledger's transactions call `evaluate`, under the wallets' locks and after their own writes."""

from services.wallet.recharge.store.policies import evaluate
from services.wallet.recharge.store.recharges import wake_pending

__all__ = ["evaluate", "wake_pending"]
