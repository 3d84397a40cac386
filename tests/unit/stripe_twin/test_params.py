"""Form decoding and parameter checks."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stripe._encode import _api_encode

from embedded.stripe_twin import params as p
from embedded.stripe_twin.errors import ApiError

NAMES = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=8)
VALUES = st.text(max_size=20)
FORMS = st.dictionaries(
    NAMES,
    st.one_of(
        VALUES,
        st.dictionaries(NAMES, st.one_of(VALUES, st.dictionaries(NAMES, VALUES, min_size=1)), min_size=1, max_size=4),
        st.lists(VALUES, min_size=1, max_size=12),
    ),
    max_size=6,
)


@given(FORMS)
def test_what_the_sdk_encodes_is_decoded(form: dict[str, Any]) -> None:
    encoded = urlencode(list(_api_encode(form)))
    assert form == p.decode(encoded)


def test_arrays_may_leave_out_their_indices() -> None:
    assert p.decode("expand[]=a&expand[]=b") == {"expand": ["a", "b"]}


@pytest.mark.parametrize(
    "form",
    ["a[b][c][d][e][f]=1", "[x]=1", "a=1&a[b]=2", "a[b]=2&a=1", "noequals", "&".join(f"k{i}=1" for i in range(501))],
)
def test_what_is_no_such_form_is_refused(form: str) -> None:
    with pytest.raises(ApiError) as refused:
        p.decode(form)
    assert refused.value.status == 400


SPEC = p.Spec({"amount": p.integer, "on": p.boolean, "kind": p.choice("a", "b"), "metadata": p.metadata}, ("amount",))


@pytest.mark.parametrize(
    ("form", "code", "param"),
    [
        ({}, "parameter_missing", "amount"),
        ({"amount": ""}, "parameter_invalid_empty", "amount"),
        ({"amount": "1.5"}, "parameter_invalid_integer", "amount"),
        ({"amount": "9" * 19}, "parameter_invalid_integer", "amount"),
        ({"amount": ["1"]}, "parameter_invalid_integer", "amount"),
        ({"amount": "1", "other": "2"}, "parameter_unknown", "other"),
        ({"amount": "1", "on": "yes"}, None, "on"),
        ({"amount": "1", "kind": "c"}, None, "kind"),
        ({"amount": "1", "metadata": {"k" * 41: "v"}}, None, f"metadata[{'k' * 41}]"),
        ({"amount": "1", "metadata": {"k": "v" * 501}}, None, "metadata[k]"),
        ({"amount": "1", "metadata": {f"k{i}": "v" for i in range(51)}}, None, "metadata"),
    ],
)
def test_a_wrong_parameter_is_named(form: dict[str, Any], code: str | None, param: str) -> None:
    with pytest.raises(ApiError) as refused:
        SPEC.validate(form)
    assert refused.value.status == 400
    assert (refused.value.error.get("code"), refused.value.error["param"]) == (code, param)


def test_right_parameters_get_their_types() -> None:
    form = {"amount": "-12", "on": "true", "kind": "b", "metadata": {"k": "v"}}
    assert SPEC.validate(form) == {"amount": -12, "on": True, "kind": "b", "metadata": {"k": "v"}}


def test_metadata_is_merged_and_emptied() -> None:
    assert p.merge_metadata({"a": "1", "b": "2"}, {"b": "", "c": "3"}) == {"a": "1", "c": "3"}
    assert p.merge_metadata({"a": "1"}, p.metadata("metadata", "")) == {}
    full = {f"k{i}": "v" for i in range(50)}
    with pytest.raises(ApiError):
        p.merge_metadata(full, {"one_more": "v"})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("100", p.Window(100, 100)),
        ({"gt": "100"}, p.Window(101)),
        ({"gte": "100", "lt": "200"}, p.Window(100, 199)),
        ({"lte": "200"}, p.Window(0, 200)),
    ],
)
def test_creation_times(value: Any, expected: p.Window) -> None:
    assert expected == p.created("created", value)


@pytest.mark.parametrize("paths", [["amount"], ["data.data.data.data.customer"], ["customer"] * 11, "customer"])
def test_only_references_are_expanded(paths: Any) -> None:
    with pytest.raises(ApiError):
        p.expand("expand", paths)


@pytest.mark.parametrize("limit", ["0", "101", "-1", "ten"])
def test_a_page_has_one_to_a_hundred(limit: str) -> None:
    with pytest.raises(ApiError):
        p.limit("limit", limit)
