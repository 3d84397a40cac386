"""Checks that the lock files carry hashes for every package and no address of any registry."""

import re
import sys
from pathlib import Path

LOCKS = ("requirements.lock", "scripts/requirements-gen.lock", "scripts/requirements-floor.lock")


def problems(path: Path) -> list[str]:
    """What is wrong with one lock file."""
    text = path.read_text()
    found = [
        f"{path}:{number}: a lock file names no address: {line.strip()}"
        for number, line in enumerate(text.splitlines(), 1)
        if "://" in line or line.lstrip().startswith(("--index", "--extra-index", "--find-links"))
    ]
    return found + [
        f"{path}: {match.group(1)} has no hash"
        for match in re.finditer(r"^(\S+==\S+)(.*)(?:\n {4}--hash=sha256:[0-9a-f]{64}.*)*", text, re.MULTILINE)
        if "--hash=sha256:" not in match.group(0)
    ]


def main() -> int:
    """Prints each problem; returns 1 where there is one."""
    found = [problem for lock in LOCKS for problem in problems(Path(lock))]
    for problem in found:
        print(problem)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
