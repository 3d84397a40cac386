"""The one-command default: PostgreSQL, Temporal and the Stripe twin as child processes."""
