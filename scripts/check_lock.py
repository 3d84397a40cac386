"""Checks that the lock files carry hashes for every package and no address of any registry."""

import re
import sys
from pathlib import Path

IMAGE_LOCK = "scripts/requirements-image.lock"
LOCKS = ("requirements.lock", "scripts/requirements-gen.lock", "scripts/requirements-floor.lock", IMAGE_LOCK)


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


def differences() -> list[str]:
    """What the image would install otherwise than what was tested."""
    tested = set(re.findall(r"^\S+==\S+", Path("requirements.lock").read_text(), re.MULTILINE))
    image = re.findall(r"^\S+==\S+", Path(IMAGE_LOCK).read_text(), re.MULTILINE)
    return [
        f"{IMAGE_LOCK}: {one} is not what requirements.lock has: run make lock" for one in image if one not in tested
    ]


def main() -> int:
    """Prints each problem; returns 1 where there is one."""
    found = [problem for lock in LOCKS for problem in problems(Path(lock))] + differences()
    for problem in found:
        print(problem)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
