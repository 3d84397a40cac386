"""Names and keys."""

from services.wallet.recharge import names


def test_names_and_keys_read_as_written_down() -> None:
    name = names.recharge_name("orgs/acme/teams/a/wallets/main", "2026-11", 3)
    assert name == "orgs/acme/teams/a/recharges/main-2026-11-3"
    assert names.create_key(name, 2) == f"recharge/{name}/pi2"
    assert names.confirm_key(name, 2, 7) == f"recharge/{name}/pi2/7"


def test_long_names_still_make_keys_that_stripe_takes() -> None:
    wallet = "/".join(["orgs", "o" * 63, *(["teams", "t" * 63] * 7), "wallets", "w" * 48])
    one, two = (names.recharge_name(wallet, "2026-11", n) for n in (1, 2))
    keys = {names.confirm_key(name, 1, attempt) for name in (one, two) for attempt in (1, 15)}
    assert len(keys) == 4
    assert max(map(len, keys)) <= 255
    assert max(len(one.rpartition("/")[2]), *map(len, names.grant_ids(one))) <= 63
