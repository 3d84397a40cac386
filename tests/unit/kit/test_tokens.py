"""Tokens come back as they were given, and whatever else comes is refused as no token."""

import base64

import pytest

from services.kit import tokens


def test_what_is_written_is_read() -> None:
    content = ["orgs/ä", 1, ["a", -5], ""]
    assert tokens.read(tokens.write(content)) == content


@pytest.mark.parametrize(
    "token",
    [
        *("x", "§", "%%%%", "e30", base64.urlsafe_b64encode(b"{").decode(), base64.urlsafe_b64encode(b"\xff").decode()),
        base64.urlsafe_b64encode(b"[" * 2_000).decode(),
        tokens.write(["a" * tokens.CHARS_MAX]),
    ],
)
def test_what_is_no_token_is_refused(token: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the caller has the words
        tokens.read(token)


def test_a_method_may_have_a_limit_of_its_own() -> None:
    token = tokens.write(["a" * tokens.CHARS_MAX])
    assert tokens.read(token, 2 * tokens.CHARS_MAX) == ["a" * tokens.CHARS_MAX]
