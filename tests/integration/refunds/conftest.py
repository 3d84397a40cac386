"""A wallet service with the twin as its Stripe, on a fresh database."""

from tests.integration.recharge.conftest import org, rig

__all__ = ["org", "rig"]
