"""Names and keys."""

import uuid

from services.wallet.recharge import names


def test_names_and_keys_read_as_written_down() -> None:
    name = names.recharge_name("orgs/acme/teams/a/wallets/main", "2026-11", 3)
    assert name == "orgs/acme/teams/a/recharges/main-2026-11-3"
    assert names.create_key("i1", name, 2) == f"recharge/i1/{name}/pi2"
    assert names.confirm_key("i1", name, 2, 7) == f"recharge/i1/{name}/pi2/7"
    assert names.customer_key("i1", "orgs/acme/wallets/main") == "customer/i1/orgs/acme/wallets/main"


def test_long_names_still_make_keys_that_stripe_takes() -> None:
    wallet = "/".join(["orgs", "o" * 63, *(["teams", "t" * 63] * 7), "wallets", "w" * 48])
    one, two = (names.recharge_name(wallet, "2026-11", n) for n in (1, 2))
    installation = str(uuid.UUID(int=0))
    keys = {names.confirm_key(installation, name, 1, attempt) for name in (one, two) for attempt in (1, 15)}
    assert len(keys) == 4
    assert max(map(len, keys)) <= 255
    assert len(names.confirm_key(installation, "r" * 180, 99, 15)) <= 255
    assert max(len(one.rpartition("/")[2]), *map(len, names.grant_ids(one))) <= 63
