"""The keys and tokens of a suite on one machine, made on first use.

`signing.pem` signs tokens and `public.pem` verifies them. `service.token` is what the services call each
other with, `dev.token` what a developer calls them with; both are minted anew at every start. They live for
a year: the key that signs them lies beside them under the same protection, so a shorter life would protect
nothing.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from embedded import files

_TTL_S = 365 * 86_400
_SERVICE_ROLES = ("service",)
_DEVELOPER_ROLES = ("admin", "agent", "approver", "auditor", "operator")


class Credentials:
    """The files of one keys directory. `ensure` comes before everything else."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._signing_key = directory / "signing.pem"
        self.public_key = directory / "public.pem"
        self.service_token = directory / "service.token"
        self.dev_token = directory / "dev.token"

    def ensure(self, now: datetime) -> None:
        """Make the key pair where there is none, and mint both tokens; `now` is aware."""
        from services.kit import auth

        self.ensure_keys()
        for path, roles in ((self.service_token, _SERVICE_ROLES), (self.dev_token, _DEVELOPER_ROLES)):
            files.write_private(path, self.mint(auth.ANY_ORG, roles, _TTL_S, now).encode() + b"\n")

    def ensure_keys(self) -> None:
        """Make the key pair where there is none."""
        from services.kit import auth

        files.make_private_directory(self._directory)
        if not (self._signing_key.exists() and self.public_key.exists()):
            private, public = auth.generate_key()
            files.write_private(self._signing_key, private)
            files.write_private(self.public_key, public)

    def mint(
        self, subject: str, roles: Sequence[str], ttl_s: int, now: datetime | None = None, *, holder: str = ""
    ) -> str:
        """A token for `subject` and everything below it; `holder` says whom it is for."""
        from services.kit import auth

        return auth.mint(self._signing_key.read_bytes(), subject, roles, ttl_s, now or datetime.now(UTC), holder=holder)
