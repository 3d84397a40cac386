"""An event as budget writes it."""

from typing import Any

CROSSING: dict[str, Any] = {
    "version": 1, "type": "budget.threshold_reached", "event": "WARNING", "subject": "orgs/acme/agents/bot",
    "alert": "orgs/acme/alerts/b1.1.80.1", "budget": "orgs/acme/budgets/b", "budget_display_name": "",
    "limit_type": "COST", "currency": "USD", "limit": "500000000000", "spent": "400000000001", "reserved": "0",
    "asked": "0", "remaining": "99999999999", "percent": 80, "threshold_percent": 80, "severity": "WARNING",
    "cause": "USE", "on_exceed": "BLOCK", "recommended_action": "Look at it", "generation": 1, "period": "MONTH",
    "time_zone": "UTC", "window": "20261101", "window_start": "2026-11-01T00:00:00Z",
    "window_end": "2026-12-01T00:00:00Z", "raised_at": "2026-11-22T08:00:00Z",
}  # fmt: skip
"""A budget of 500 USD a month, of which 80 % are used."""
