"""The client on both ends of what it promises to run on."""

import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[3]
FLOOR = CHECKOUT / ".purse" / "floor" / "bin" / "python"


def run_with(python: Path | str) -> str:
    done = subprocess.run(
        [python, "-W", "error::UserWarning", "scripts/client_floor.py"],
        check=False,
        capture_output=True,
        cwd=CHECKOUT,
        env={"PYTHONPATH": str(CHECKOUT)},
        text=True,
        timeout=120,
    )
    assert 0 == done.returncode, done.stderr
    return done.stdout


def test_it_runs_on_what_is_installed_here() -> None:
    assert "modules run on grpcio" in run_with(sys.executable)


@pytest.mark.skipif(not FLOOR.exists(), reason="scripts/check_client_floor.sh makes the environment")
def test_it_runs_on_the_oldest_parts() -> None:
    assert "grpcio 1.71.2, protobuf 5.29.1" in run_with(FLOOR)
