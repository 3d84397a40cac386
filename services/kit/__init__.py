"""What every service shares: server, database, group commit, outbox, auth, settings, telemetry."""
