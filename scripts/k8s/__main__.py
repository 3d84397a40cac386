"""Checks every overlay and prints what is wrong; 1 where something is."""

import sys

from scripts.k8s.code import CHECKOUT
from scripts.k8s.manifests import example_secrets, render
from scripts.k8s.rules import VERSIONS, problems


def main(arguments: list[str]) -> int:
    """Checks the overlays named, or all."""
    known = {path.name: path for path in sorted((CHECKOUT / "k8s/overlays").iterdir())}
    if strange := sorted(set(arguments) - known.keys()):
        print(f"k8s: no overlay {', '.join(strange)}; there are {', '.join(known)}")
        return 1
    overlays = [known[name] for name in arguments or known]
    secrets = example_secrets()
    wrong = 0
    for overlay in overlays:
        found = problems(render(overlay), secrets)
        for problem in found:
            print(f"k8s {overlay.name}: {problem}")
        wrong += len(found)
    if not wrong:
        names = ", ".join(overlay.name for overlay in overlays)
        print(f"k8s: {names} fit the code and Kubernetes {', '.join(VERSIONS)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
