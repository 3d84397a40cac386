from itertools import pairwise
from pathlib import Path

import pytest

from embedded.supervisor import PAUSE_MAX_S, PAUSE_MIN_S, Supervisor, TaskSpec, pause_s


async def nothing() -> None:
    pass


def test_the_pause_doubles_up_to_its_cap() -> None:
    pauses = [pause_s(failures) for failures in range(1, 12)]
    assert PAUSE_MIN_S == pauses[0]
    assert all(later == min(PAUSE_MAX_S, 2 * earlier) for earlier, later in pairwise(pauses))
    assert PAUSE_MAX_S == pauses[-1] == pause_s(10**9)


def test_a_node_may_only_need_earlier_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'a' needs \\['b'\\]"):
        Supervisor([TaskSpec(name="a", run=nothing, after=("b",)), TaskSpec(name="b", run=nothing)], log_dir=tmp_path)


def test_names_are_unique(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="two nodes are named 'a'"):
        Supervisor([TaskSpec(name="a", run=nothing), TaskSpec(name="a", run=nothing)], log_dir=tmp_path)
