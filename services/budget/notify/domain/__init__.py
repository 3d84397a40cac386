"""The pure rules: `events` (what may be told), and how deliveries go from try to try."""
