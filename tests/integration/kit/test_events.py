"""What services tell people reaches the budget service once, and what cannot be read keeps nothing back."""

import json
from pathlib import Path
from typing import Any

import asyncpg

from pursestrings.budget.v1 import budget_pb2_grpc
from services.kit import outbox
from services.kit.events import events_relay
from services.kit.outbox import OutboxMessage, OutboxRow
from services.metering.telling import to_event as of_metering
from services.wallet.telling import to_event as of_wallet
from tests.support.budget import alerts, rows, running_budget

ROWS = "SELECT key, tries, parked_at FROM outbox WHERE topic = 'tell' ORDER BY id"


def to_event(message: OutboxMessage) -> Any:
    return of_metering(message) if message.key == "UNRATED" else of_wallet(message)


async def test_rows_become_events_once(database: Any, tmp_path: Path) -> None:
    async with (
        running_budget(database("budget"), tmp_path) as budget,
        asyncpg.create_pool(budget.database.service_dsn, min_size=1, max_size=2) as pool,
    ):
        stub: budget_pb2_grpc.BudgetServiceAsyncStub = budget.stub_for("orgs/-", "service")
        wallet = "orgs/acme/teams/a/wallets/main"
        capped = {"kind": "RECHARGE_CAP_REACHED", "wallet": wallet, "charge_nanos": 2**62, "count": 3}
        quarantined = {"kind": "LEASE_QUARANTINED", "subject": "orgs/acme", "wallet": wallet, "sent_n": 4}
        unrated = {"org": "acme", "provider": "p", "model": "m", "first_seen_at": "2026-11-22T08:00:00Z"}
        async with pool.acquire() as connection:
            said = [("w", capped), ("w", quarantined), ("UNRATED", unrated), ("odd", {"kind": "X"}), ("w", {"kind": 1})]
            written = [OutboxRow("acme", "tell", key, json.dumps(one).encode()) for key, one in said]
            await outbox.put(connection, written)
            kept = await connection.fetch("SELECT * FROM outbox WHERE topic = 'tell' AND key = 'w' ORDER BY id LIMIT 1")
        relay = events_relay(pool, "tell", stub, "wallet", to_event)
        await relay.step()
        told = {one["type"]: one for one in await alerts(budget.database)}
        assert set(told) == {"recharge.cap_reached", "lease.quarantined", "usage.unrated"}
        cap = told["recharge.cap_reached"]
        assert (cap["event"], cap["subject"], cap["charge_nanos"]) == ("RECHARGE", "orgs/acme/teams/a", str(2**62))
        assert (told["lease.quarantined"]["event"], told["lease.quarantined"]["subject"]) == ("NOTICE", "orgs/acme")
        assert told["usage.unrated"]["model"] == "m"
        assert [(row["key"], row["tries"]) for row in await rows(budget.database, ROWS)] == [("odd", 1), ("w", 1)]
        # The answer was lost: the same row is told again.
        await rows(
            budget.database,
            "INSERT INTO outbox (org, id, topic, key, payload, created_at) OVERRIDING SYSTEM VALUE "
            "VALUES ('acme', $1, 'tell', 'w', $2, $3)",
            kept[0]["id"], kept[0]["payload"], kept[0]["created_at"],
        )  # fmt: skip
        await relay.step()
        assert len(await alerts(budget.database)) == 3
        assert len(await rows(budget.database, ROWS)) == 2
