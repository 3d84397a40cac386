"""The Recharge workflow: charge, wait for Stripe or ask it, try again or give up. The wallet's row is the truth."""
