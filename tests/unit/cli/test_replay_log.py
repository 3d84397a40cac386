"""Usage logs and the subjects they are spread over."""

from pathlib import Path

import pytest

from pursestrings.cli.failures import CliError
from pursestrings.cli.replay_log import BadRow, read_log, subjects

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


def write(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "log.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_rows_become_offsets_and_counts(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        HEADER
        + "2023-11-16 18:17:03.9799600,4808,10\n"
        + "2023-11-16 18:17:04.0319600,3180,8\n"
        + "2023-11-16T18:17:05Z,1,0\n",
    )
    log = read_log(path)
    assert [0, 52_000, 1_020_040] == list(log.offsets_us)
    assert [4808, 3180, 1] == list(log.input_tokens)
    assert [10, 8, 0] == list(log.output_tokens)
    assert (0, 3) == (log.bad_count, len(log))
    assert 64 == len(log.digest)


def test_columns_are_found_by_name(tmp_path: Path) -> None:
    path = write(tmp_path, "﻿GeneratedTokens,Extra,TIMESTAMP, ContextTokens\r\n7,x,2023-11-16 00:00:00,9\r\n\r\n")
    log = read_log(path)
    assert ([9], [7]) == (list(log.input_tokens), list(log.output_tokens))
    assert 0 == log.bad_count


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("yesterday,1,2", "TIMESTAMP 'yesterday' is no time"),
        ("2023-11-16 00:00:00,many,2", "ContextTokens 'many' is no count of tokens"),
        ("2023-11-16 00:00:00,1,-2", "GeneratedTokens '-2' is no count of tokens"),
        ("2023-11-16 00:00:00,1,1.5", "GeneratedTokens '1.5' is no count of tokens"),
        ("2023-11-16 00:00:00,1,", "GeneratedTokens '' is no count of tokens"),
        ("2023-11-16 00:00:00,1", "GeneratedTokens is missing"),
        ("2023-11-16 00:00:00,1000000001,1", "ContextTokens '1000000001' is more than 1,000,000,000"),
        (f"2023-11-16 00:00:00,{'9' * 5000},1", f"ContextTokens '{'9' * 37}...' is more than 1,000,000,000"),
        ("2023-11-16 00:00:00,٣,1", "ContextTokens '٣' is no count of tokens"),
        ("\x00,\xff,1", "TIMESTAMP '\\x00' is no time"),
    ],
)
def test_a_row_that_cannot_be_read_is_told_by_its_line(tmp_path: Path, row: str, problem: str) -> None:
    path = write(tmp_path, f"{HEADER}2023-11-16 00:00:00,1,1\n{row}\n2023-11-16 00:00:01,1,1\n")
    log = read_log(path)
    assert [BadRow(3, problem)] == log.bad_rows
    assert (1, 2) == (log.bad_count, len(log))


def test_all_bad_rows_are_counted_and_some_are_told(tmp_path: Path) -> None:
    log = read_log(write(tmp_path, HEADER + "2023-11-16 00:00:00,1,1\n" + "x,y,z\n" * 250))
    assert (250, 100) == (log.bad_count, len(log.bad_rows))


def test_earlier_rows_are_not_before_the_first(tmp_path: Path) -> None:
    log = read_log(write(tmp_path, HEADER + "2023-11-16 00:00:05,1,1\n2023-11-16 00:00:01,1,1\n"))
    assert [0, 0] == list(log.offsets_us)


def test_a_limit_reads_no_further(tmp_path: Path) -> None:
    log = read_log(write(tmp_path, HEADER + "2023-11-16 00:00:00,1,1\n" * 5), limit=2)
    assert 2 == len(log)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "no column TIMESTAMP, ContextTokens, GeneratedTokens"),
        ("TIMESTAMP,Tokens\n", "no column ContextTokens, GeneratedTokens"),
        (HEADER, "no call"),
        (HEADER + "a,b,c\n", "no call"),
    ],
)
def test_a_log_that_is_none_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(CliError, match=expected):
        read_log(write(tmp_path, text))


def test_the_digest_is_of_the_file(tmp_path: Path) -> None:
    one = read_log(write(tmp_path, HEADER + "2023-11-16 00:00:00,1,1\n")).digest
    two = read_log(write(tmp_path, HEADER + "2023-11-16 00:00:00,1,2\n")).digest
    assert one != two


def test_a_number_of_subjects_makes_teams_of_five() -> None:
    found = subjects("12", "orgs/x")
    assert 12 == len(set(found))
    assert "orgs/x/teams/a/agents/bot-1" == found[0]
    assert "orgs/x/teams/b/agents/bot-1" == found[5]
    assert "orgs/x/teams/c/agents/bot-2" == found[11]
    assert "orgs/x/teams/aa/agents/bot-1" == subjects("131", "orgs/x")[130]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("orgs/a", ["orgs/a"]),
        ("orgs/a/agents/{x,y}", ["orgs/a/agents/x", "orgs/a/agents/y"]),
        ("orgs/a/agents/b{9..11}", ["orgs/a/agents/b9", "orgs/a/agents/b10", "orgs/a/agents/b11"]),
        (
            "orgs/a/teams/{a..b}/agents/{1..2}",
            [f"orgs/a/teams/{team}/agents/{agent}" for team in "ab" for agent in "12"],
        ),
    ],
)
def test_patterns(pattern: str, expected: list[str]) -> None:
    assert expected == subjects(pattern, "orgs/ignored")


@pytest.mark.parametrize(
    "wrong", ["0", "10001", "teams/a", "-3", "orgs/{a..}", "orgs/{5..1}", "orgs/a/agents/{1..200}/agents/{1..200}"]
)
def test_impossible_spreads_are_refused(wrong: str) -> None:
    with pytest.raises(CliError):
        subjects(wrong, "orgs/x")
