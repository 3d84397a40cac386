"""Decisions: budgets, counters, reservations and the funding leases they spend from."""
