"""Every subject that the grammar can write parses to its own parts; nothing else parses."""

import re

from hypothesis import given
from hypothesis import strategies as st

from services.kit.subject import MAX_PAIRS, SubjectError, parse, parse_resource, resource_name

IDS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", fullmatch=True)
GRAMMAR = re.compile(
    r"orgs/ID(/workspaces/ID)?(/teams/ID)*(/agents/ID)*".replace("ID", r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
)


@st.composite
def subjects(draw: st.DrawFn) -> list[tuple[str, str]]:
    collections = ["orgs"]
    if draw(st.booleans()):
        collections.append("workspaces")
    teams = draw(st.integers(0, MAX_PAIRS - len(collections)))
    agents = draw(st.integers(0, MAX_PAIRS - len(collections) - teams))
    collections += ["teams"] * teams + ["agents"] * agents
    return [(collection, draw(IDS)) for collection in collections]


def join(pairs: list[tuple[str, str]]) -> str:
    return "/".join(f"{collection}/{id_}" for collection, id_ in pairs)


@given(subjects())
def test_what_the_grammar_writes_is_parsed_into_its_ancestors(pairs: list[tuple[str, str]]) -> None:
    subject = parse(join(pairs))
    assert subject.name == join(pairs)
    assert subject.org == pairs[0][1]
    assert subject.ancestors == tuple(join(pairs[: n + 1]) for n in range(len(pairs)))
    assert all(subject.is_within(ancestor) for ancestor in subject.ancestors)
    assert all(parse(ancestor).ancestors == subject.ancestors[: n + 1] for n, ancestor in enumerate(subject.ancestors))


@given(subjects(), IDS)
def test_resource_names_round_trip(pairs: list[tuple[str, str]], id_: str) -> None:
    subject = parse(join(pairs))
    assert parse_resource(resource_name(subject, "budgets", id_), "budgets") == (subject, id_)


PIECES = st.sampled_from(["orgs", "workspaces", "teams", "agents", "a", "B-1", "-", "", "x.y", "é", "a\n", "/"])


@given(st.lists(PIECES, max_size=2 * MAX_PAIRS + 2).map("/".join))
def test_exactly_the_grammar_is_taken(text: str) -> None:
    expected = GRAMMAR.fullmatch(text) is not None and text.count("/") < 2 * MAX_PAIRS
    try:
        parse(text)
    except SubjectError:
        assert not expected
    else:
        assert expected
