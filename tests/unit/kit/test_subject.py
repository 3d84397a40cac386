"""Subjects: the grammar, ancestry, resource names and what a credential covers."""

import pytest

from services.kit.subject import SubjectError, covers, parse, parse_resource, resource_name

DEEP = "orgs/acme/workspaces/main/teams/support/agents/bot-1"


def test_a_subject_carries_its_ancestry() -> None:
    subject = parse(DEEP)
    assert subject.org == "acme"
    assert subject.root == "orgs/acme"
    assert subject.depth == 4
    assert subject.parent == "orgs/acme/workspaces/main/teams/support"
    assert subject.ancestors == (
        "orgs/acme",
        "orgs/acme/workspaces/main",
        "orgs/acme/workspaces/main/teams/support",
        DEEP,
    )
    assert parse("orgs/acme").parent is None


def test_teams_and_agents_nest_in_themselves() -> None:
    assert parse("orgs/a/teams/b/teams/c/agents/d/agents/e").depth == 5


def test_equal_names_are_equal_subjects() -> None:
    assert parse(DEEP) == parse(DEEP)
    assert parse("orgs/a") != parse("orgs/A")
    assert len({parse("orgs/a"), parse("orgs/a")}) == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("orgs", "pairs"),
        ("orgs/", "no id"),
        ("/orgs/acme", "pairs"),
        ("orgs/acme/", "pairs"),
        ("teams/x", "does not begin with orgs/"),
        ("users/x", "no collection"),
        ("Orgs/x", "no collection"),
        ("orgs/-", "no id"),
        ("orgs/.a", "no id"),
        ("orgs/a b", "no id"),
        ("orgs/a\n", "no id"),
        ("orgs/é", "no id"),
        ("orgs/" + "a" * 64, "no id"),
        ("orgs/a/orgs/b", "out of order"),
        ("orgs/a/workspaces/b/workspaces/c", "out of order"),
        ("orgs/a/agents/b/teams/c", "out of order"),
        ("orgs/a/teams/b/workspaces/c", "out of order"),
        ("orgs/a" + "/agents/b" * 8, "at most 8"),
        ("orgs/" + "a/" * 400, "limit is 600"),
    ],
)
def test_a_malformed_subject_is_refused_with_the_reason(text: str, says: str) -> None:
    with pytest.raises(SubjectError, match=says):
        parse(text)


def test_an_error_shows_only_a_short_piece_of_what_was_sent() -> None:
    with pytest.raises(SubjectError) as caught:
        parse("x" * 10_000)
    assert len(str(caught.value)) < 300


def test_the_longest_subject_the_grammar_can_write_is_taken() -> None:
    id_ = "a" * 63
    text = f"orgs/{id_}/workspaces/{id_}" + f"/agents/{id_}" * 6
    assert parse(text).depth == 8


def test_within_counts_itself_and_whole_ids_only() -> None:
    subject = parse("orgs/acme/teams/support")
    assert subject.is_within("orgs/acme")
    assert subject.is_within(subject)
    assert not subject.is_within("orgs/acme/teams/sup")
    assert not subject.is_within("orgs/acm")
    assert not parse("orgs/acme").is_within(subject)


def test_a_credential_covers_its_subtree_or_every_org() -> None:
    subject = parse(DEEP)
    assert covers("orgs/-", subject)
    assert covers("orgs/acme", subject)
    assert covers(DEEP, subject)
    assert not covers("orgs/other", subject)
    assert not covers("orgs/acme/teams/support", subject)
    assert not covers("", subject)


def test_resource_names_split_into_what_they_were_made_of() -> None:
    subject = parse("orgs/acme/teams/support")
    name = resource_name(subject, "budgets", "monthly")
    assert name == "orgs/acme/teams/support/budgets/monthly"
    assert parse_resource(name, "budgets") == (subject, "monthly")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "empty"),
        ("budgets/b", "no resource name"),
        ("orgs/a/wallets/w", "'budgets' is expected"),
        ("orgs/a/budgets/", "no id"),
        ("orgs/a/budgets/b/c", "'budgets' is expected"),
        ("orgs/-/budgets/b", "no id"),
        ("orgs/a/" + "x" * 800, "limit is 700"),
    ],
)
def test_a_malformed_resource_name_is_refused_with_the_reason(name: str, says: str) -> None:
    with pytest.raises(SubjectError, match=says):
        parse_resource(name, "budgets")


@pytest.mark.parametrize(("collection", "id_"), [("agents", "x"), ("Bad", "x"), ("budgets", ""), ("budgets", "a/b")])
def test_a_resource_cannot_be_named_so_that_it_reads_as_something_else(collection: str, id_: str) -> None:
    with pytest.raises(SubjectError):
        resource_name(parse("orgs/a"), collection, id_)
