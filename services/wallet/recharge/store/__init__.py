"""SQL of recharges. The ledger's transactions call these, under the wallets' locks and after their own writes."""

from services.wallet.recharge.store.policies import evaluate_low
from services.wallet.recharge.store.recharges import wake_pending_of

__all__ = ["evaluate_low", "wake_pending_of"]
