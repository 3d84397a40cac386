"""The suite starts from its manifests: their commands, environment, mounted files, probes and pauses."""

import subprocess
import sys

import pytest

from scripts.k8s.code import CHECKOUT

_UNSHARE = ["unshare", "--mount", "--net"]
_TIMEOUT_S = 240


def may_unshare() -> bool:
    return subprocess.run([*_UNSHARE, "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not may_unshare(), reason="this machine gives no namespaces of one's own")
@pytest.mark.parametrize("overlay", ["dev", "production"])
def test_it_starts_as_a_cluster_would_start_it(overlay: str) -> None:
    done = subprocess.run(
        [*_UNSHARE, sys.executable, "-m", "tests.support.cluster", overlay],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"{overlay}: allowed a spend, and everything ended in its grace" in done.stdout
