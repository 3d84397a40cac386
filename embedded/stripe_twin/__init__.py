"""A Stripe of our own for development and tests: real requests, real state, faults on demand.

It answers the part of Stripe's API that Pursestrings uses, to the unmodified Stripe SDK, and keeps its
state in a file. Start it with `python -m embedded.stripe_twin`; `docs/stripe-twin.md` is its manual.
"""
