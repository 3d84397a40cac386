"""The pure rules of refunds and disputes: no I/O, no clock, no Stripe."""
