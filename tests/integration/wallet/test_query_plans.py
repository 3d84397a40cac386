"""The statements of every shared transaction find their rows by index, whatever else the tables hold."""

# ruff: noqa: S608 - statements are constants

import re

import asyncpg

from services.wallet.store import books, reads, wallets
from tests.support.databases import Database

WALLETS = 1_000
HOT = {
    "lock": books._LOCK,
    "accounts": books._ACCOUNTS,
    "leases": books._LEASES,
    "tags": books._TAGS,
    "spent tags": books._SPENT_TAGS,
    "lots": books._LOTS,
    "lots by name": books._LOTS_BY_NAME,
    "operations": books._OPS,
    "save accounts": books._SAVE_ACCOUNTS,
    "save lots": books._SAVE_LOTS,
    "save tags": books._SAVE_TAGS,
    "delete tags": books._DELETE_TAGS,
    "save leases": books._SAVE_LEASES,
    "keys": wallets._FIND_KEYS,
    "balance": wallets._BALANCE,
    "wallets of a subject": wallets._LIST,
    "transfers": reads._TRANSFERS,
    "sync": reads._LEASES,
}

FILL = f"""
INSERT INTO wallets (org, name, subject, display_name, currency, created_at)
SELECT 'o' || i % 100, 'orgs/o' || i % 100 || '/wallets/w' || i, 'orgs/o' || i % 100, '', 'USD', now()
FROM generate_series(1, {WALLETS}) AS i;
INSERT INTO accounts (org, id, wallet, kind, currency)
SELECT org, name || '/' || kind, name, kind, 'USD' FROM wallets,
       unnest(ARRAY['funding', 'available', 'spent', 'debt', 'expired']) AS k(kind);
INSERT INTO grants
SELECT org, subject || '/grants/' || id || '-' || i, name, 'PAID', 'USD', 10, 100, NULL, '', NULL, now(),
       CASE i WHEN 1 THEN 10 ELSE 0 END, 0, CASE i WHEN 1 THEN 0 ELSE 10 END, 0
FROM (SELECT *, right(name, 6) AS id FROM wallets) AS w, generate_series(1, 5) AS i;
INSERT INTO tags
SELECT org, wallet, right(name, 1)::bigint, 'b', name, 0, spent_nanos FROM grants WHERE spent_nanos > 0;
INSERT INTO leases SELECT org, name, 'b', 0, 5, 0, 0, 0, 0, NULL, 0, 0, now() FROM wallets;
INSERT INTO lease_ops
SELECT org, wallet, 'b', 0, i, 'extend', decode(repeat('00', 32), 'hex'), 0, 0, 0, 0, 0, now()
FROM leases, generate_series(1, 5) AS i;
INSERT INTO transfers
(org, transaction_id, wallet, kind, from_account, to_account, amount_nanos, currency, posted_at, reference)
SELECT org, gen_random_uuid(), name, 'grant', name || '/funding', name || '/available', 10, 'USD', now(), ''
FROM wallets, generate_series(1, 5);
INSERT INTO request_keys
SELECT org, 'CreateGrant', name, decode(repeat('00', 32), 'hex'), '', now() FROM grants;
ANALYZE;
"""


async def test_hot_statements_use_indexes(fresh: Database) -> None:
    owner = await asyncpg.connect(fresh.owner_dsn)
    try:
        await owner.execute(FILL)
        # As the service plans: once, whatever the arguments.
        await owner.execute("SET plan_cache_mode = force_generic_plan")
        for number, (name, statement) in enumerate(HOT.items()):
            await owner.execute(f"PREPARE hot_{number} AS {statement}")
            arguments = ", ".join(["NULL"] * len(set(re.findall(r"\$\d+", statement))))
            rows = await owner.fetch(f"EXPLAIN EXECUTE hot_{number}({arguments})")
            plan = "\n".join(row[0] for row in rows)
            assert "Seq Scan" not in plan, f"{name}:\n{plan}"
    finally:
        await owner.close()
