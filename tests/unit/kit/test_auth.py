"""I13: a credential reads and writes nothing outside its subtree and role."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from services.kit import auth
from services.kit.errors import Code, PurseError

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
PRIVATE, PUBLIC = auth.generate_key()
METHOD = "/pursestrings.budget.v1.BudgetService/Reserve"
TABLE = {
    METHOD: auth.rule(auth.by_field("subject"), "agent", "service"),
    "/x/Get": auth.rule(auth.by_name("name", "budgets"), "auditor"),
    "/x/Batch": auth.rule(auth.by_items("requests", "subject"), "agent"),
    "/x/Audit": auth.rule(auth.by_org("org"), "auditor"),
    "/x/Apply": auth.rule(auth.any_org(), "service"),
}


def verify(token: str, *, at: datetime = NOW) -> auth.Identity:
    return auth.Verifier(PUBLIC).verify(token, at.timestamp())


def caller(subject: str, *roles: str) -> auth.Identity:
    return verify(auth.mint(PRIVATE, subject, roles, 3600, NOW))


def reason_of(method: str, request: object, who: auth.Identity) -> str:
    with pytest.raises(PurseError) as raised:
        auth.authorize(TABLE, method, request, who)
    return raised.value.reason


def test_a_token_says_who_holds_it() -> None:
    who = caller("orgs/acme/teams/support", "agent", "auditor")

    assert ("orgs/acme/teams/support", frozenset({"agent", "auditor"})) == (who.subject, who.roles)


def test_a_token_ends() -> None:
    token = auth.mint(PRIVATE, "orgs/acme", ["agent"], 60, NOW)
    verifier = auth.Verifier(PUBLIC)
    verifier.verify(token, NOW.timestamp())

    with pytest.raises(PurseError) as raised:
        verifier.verify(token, (NOW + timedelta(minutes=5)).timestamp())

    assert (Code.UNAUTHENTICATED, "TOKEN_EXPIRED") == (raised.value.code, raised.value.reason)


def test_a_token_of_another_key_is_refused_and_not_shown() -> None:
    foreign, _ = auth.generate_key()
    token = auth.mint(foreign, "orgs/acme", ["admin"], 60, NOW)

    with pytest.raises(PurseError) as raised:
        verify(token)

    assert raised.value.reason == "TOKEN_INVALID"
    assert token not in str(raised.value)


def test_a_changed_token_is_refused() -> None:
    head, body, signature = auth.mint(PRIVATE, "orgs/acme", ["agent"], 60, NOW).split(".")
    other_body = auth.mint(PRIVATE, "orgs/other", ["admin"], 60, NOW).split(".")[1]

    assert body != other_body
    with pytest.raises(PurseError):
        verify(f"{head}.{other_body}.{signature}")


@pytest.mark.parametrize("garbage", ["", "a", "a.b.c", "e30.e30.e30", "\u00e9"])
def test_garbage_is_refused(garbage: str) -> None:
    with pytest.raises(PurseError) as raised:
        verify(garbage)

    assert raised.value.code is Code.UNAUTHENTICATED


def test_a_token_from_the_future_is_refused() -> None:
    token = auth.mint(PRIVATE, "orgs/acme", ["agent"], 3600, NOW + timedelta(minutes=10))

    with pytest.raises(PurseError):
        verify(token)


def test_its_own_subtree_is_open() -> None:
    request = SimpleNamespace(subject="orgs/acme/teams/support/agents/bot")

    auth.authorize(TABLE, METHOD, request, caller("orgs/acme/teams/support", "agent"))


@pytest.mark.parametrize("name", ["orgs/acme", "orgs/acme/teams/support2", "orgs/acme/teams/sales", "orgs/other"])
def test_everything_beside_and_above_is_closed(name: str) -> None:
    request = SimpleNamespace(subject=name)

    assert reason_of(METHOD, request, caller("orgs/acme/teams/support", "agent")) == "OUT_OF_SCOPE"


def test_another_role_is_not_enough() -> None:
    request = SimpleNamespace(subject="orgs/acme")

    assert reason_of(METHOD, request, caller("orgs/acme", "auditor")) == "ROLE_MISSING"


def test_an_admin_has_every_role_in_its_subtree_only() -> None:
    who = caller("orgs/acme", "admin")

    auth.authorize(TABLE, METHOD, SimpleNamespace(subject="orgs/acme"), who)
    assert reason_of(METHOD, SimpleNamespace(subject="orgs/other"), who) == "OUT_OF_SCOPE"
    assert reason_of("/x/Apply", SimpleNamespace(), who) == "OUT_OF_SCOPE"


def test_a_method_without_a_row_is_closed_even_to_an_admin_of_everything() -> None:
    assert reason_of("/x/Unlisted", SimpleNamespace(), caller("orgs/-", "admin")) == "METHOD_NOT_LISTED"


def test_one_foreign_item_closes_the_batch() -> None:
    items = [SimpleNamespace(subject="orgs/acme"), SimpleNamespace(subject="orgs/other")]

    assert reason_of("/x/Batch", SimpleNamespace(requests=items), caller("orgs/acme", "agent")) == "OUT_OF_SCOPE"


def test_a_malformed_item_is_left_to_its_own_answer() -> None:
    items = [SimpleNamespace(subject="orgs/acme"), SimpleNamespace(subject="nonsense")]

    auth.authorize(TABLE, "/x/Batch", SimpleNamespace(requests=items), caller("orgs/acme", "agent"))


def test_every_organisation_at_once_takes_a_credential_for_all() -> None:
    assert reason_of("/x/Audit", SimpleNamespace(org=""), caller("orgs/acme", "auditor")) == "OUT_OF_SCOPE"
    auth.authorize(TABLE, "/x/Audit", SimpleNamespace(org="orgs/acme"), caller("orgs/acme", "auditor"))
    auth.authorize(TABLE, "/x/Audit", SimpleNamespace(org=""), caller("orgs/-", "auditor"))


def test_a_malformed_name_is_named() -> None:
    with pytest.raises(PurseError) as raised:
        auth.authorize(TABLE, "/x/Get", SimpleNamespace(name="orgs/acme/wallets/w"), caller("orgs/acme", "auditor"))

    assert ("name", "MALFORMED_NAME") == (raised.value.field, raised.value.reason)


@pytest.mark.parametrize(("roles", "ttl_s"), [([], 60), (["root"], 60), (["agent"], 0), (["agent"], -1)])
def test_a_senseless_token_is_not_minted(roles: list[str], ttl_s: int) -> None:
    with pytest.raises(ValueError, match="must be"):
        auth.mint(PRIVATE, "orgs/acme", roles, ttl_s, NOW)


def test_the_bearer_is_found() -> None:
    assert auth.bearer([("user-agent", "x"), ("authorization", "Bearer abc")]) == "abc"
    with pytest.raises(PurseError):
        auth.bearer([("authorization", "Basic abc")])


def test_a_team_does_not_stand_for_its_organisation() -> None:
    """An audit is of a whole organisation, so a team's auditor must not ask for one under its own name."""
    request = SimpleNamespace(org="orgs/acme/teams/support")

    assert reason_of("/x/Audit", request, caller("orgs/acme/teams/support", "auditor")) == "NOT_AN_ORG"
