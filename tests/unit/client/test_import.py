"""What importing costs and brings along."""

import subprocess
import sys
from pathlib import Path

import pytest

import pursestrings


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60)
    assert (0, "") == (done.returncode, done.stderr)
    return done.stdout.strip()


def test_importing_the_package_imports_no_grpc() -> None:
    assert "False" == run("import sys, pursestrings; print('grpc' in sys.modules)")


def test_the_client_brings_nothing_of_the_suite_or_the_command_line() -> None:
    code = (
        "import sys, pursestrings\n"
        "[getattr(pursestrings, name) for name in pursestrings.__all__]\n"
        "print({name.partition('.')[0] for name in sys.modules} "
        "& {'services', 'workflows', 'embedded', 'typer', 'rich', 'pydantic', 'joserfc'})"
    )
    assert "set()" == run(code)


def test_every_public_name_exists_and_is_listed() -> None:
    assert set(pursestrings.__all__) <= set(dir(pursestrings))
    for name in pursestrings.__all__:
        assert name == getattr(pursestrings, name).__name__
    with pytest.raises(AttributeError, match="nothing"):
        pursestrings.nothing  # noqa: B018


def test_the_package_is_typed() -> None:
    assert (Path(pursestrings.__file__).parent / "py.typed").exists()
