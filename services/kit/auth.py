"""Who may call what: Ed25519 tokens, verified offline, and one table from method to role and subject."""

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from services.kit import subject as subjects
from services.kit.errors import denied, invalid, unauthenticated

ALGORITHM = "Ed25519"
ANY_ORG = "orgs/-"
ROLES = frozenset({"agent", "operator", "approver", "auditor", "service", "admin"})
HOLDER_CHARS_MAX = 128
_ISSUER = "pursestrings"
_CLOCK_SKEW_S = 30
_CACHE_MAX = 4096


@dataclass(frozen=True, slots=True)
class Identity:
    """Who is calling.

    Attributes:
        subject: The subtree that the credential covers; `orgs/-` covers every organisation.
        roles: What it may do there.
        token_id: The token's `jti`.
        expires_at_s: Unix seconds.
        holder: Whom the token was minted for; empty: nobody said.
    """

    subject: str
    roles: frozenset[str]
    token_id: str
    expires_at_s: int
    holder: str = ""

    @property
    def principal(self) -> str:
        """Who this is, as decisions are kept: the holder's name or, without one, the credential itself."""
        return self.holder or f"{self.subject}#{self.token_id}"

    def has(self, *roles: str) -> bool:
        """Whether it has one of the roles; `admin` has them all."""
        return "admin" in self.roles or not self.roles.isdisjoint(roles)

    def covers(self, name: str) -> bool:
        """Whether the subject `name` lies in the credential's subtree."""
        return subjects.covers(self.subject, subjects.parse(name))


_current: ContextVar[Identity] = ContextVar("identity")


def identity() -> Identity:
    """The caller of the running RPC.

    Raises:
        LookupError: Outside of an RPC.
    """
    return _current.get()


def set_identity(who: Identity) -> None:
    """Says who the running RPC's caller is; the interceptor does this."""
    _current.set(who)


@dataclass(frozen=True, slots=True)
class Rule:
    """One method's row in the access table.

    Attributes:
        roles: Any of these may call it.
        subjects: The subjects that a request touches; each must lie in the credential's subtree.
    """

    roles: frozenset[str]
    subjects: Callable[[Any], Iterable[str]]


def rule(subjects_of: Callable[[Any], Iterable[str]], *roles: str) -> Rule:
    """A row; the roles are checked against the known ones."""
    unknown = set(roles) - ROLES
    if unknown:
        raise ValueError(f"unknown roles {sorted(unknown)}")
    return Rule(frozenset(roles), subjects_of)


def by_field(path: str) -> Callable[[Any], Iterable[str]]:
    """The subject stands in this field (a dotted path)."""
    get = attrgetter(path)

    def subjects_of(request: object) -> Iterable[str]:
        name = get(request)
        try:
            subjects.parse(name)
        except subjects.SubjectError as error:
            raise invalid(path, str(error), "MALFORMED_SUBJECT") from None
        return (name,)

    return subjects_of


def by_name(path: str, collection: str) -> Callable[[Any], Iterable[str]]:
    """The field holds a resource name `{subject}/{collection}/{id}`."""
    get = attrgetter(path)

    def subjects_of(request: object) -> Iterable[str]:
        try:
            return (subjects.parse_resource(get(request), collection)[0].name,)
        except subjects.SubjectError as error:
            raise invalid(path, str(error), "MALFORMED_NAME") from None

    return subjects_of


def by_items(items: str, field: str) -> Callable[[Any], Iterable[str]]:
    """Each item of a batch has a subject. Malformed ones are the item's own error, so they pass here."""
    get_items, get_field = attrgetter(items), attrgetter(field)

    def subjects_of(request: object) -> Iterable[str]:
        return {name for item in get_items(request) if _well_formed(name := get_field(item))}

    return subjects_of


def by_org(path: str = "org") -> Callable[[Any], Iterable[str]]:
    """The field holds `orgs/{id}`, no deeper; empty means all organisations, which takes a credential for all."""
    get = attrgetter(path)

    def subjects_of(request: object) -> Iterable[str]:
        name = get(request)
        if not name:
            return (ANY_ORG,)
        try:
            found = subjects.parse(name)
        except subjects.SubjectError as error:
            raise invalid(path, str(error), "MALFORMED_SUBJECT") from None
        if found.depth != 1:
            # An organisation's books are not a team's to read, so a deeper subject must not stand for its root.
            raise invalid(path, f"names an organisation, such as {found.root}, not a subject below it", "NOT_AN_ORG")
        return (name,)

    return subjects_of


def any_org() -> Callable[[Any], Iterable[str]]:
    """Only a credential for every organisation will do."""
    return lambda _request: (ANY_ORG,)


def _well_formed(name: str) -> bool:
    try:
        subjects.parse(name)
    except subjects.SubjectError:
        return False
    return True


def authorize(table: Mapping[str, Rule], method: str, request: object, who: Identity) -> None:
    """Checks one call.

    Raises:
        PurseError: PERMISSION_DENIED, or INVALID_ARGUMENT where the subject is malformed.
    """
    row = table.get(method)
    if row is None:
        raise denied(f"{method} has no row in the access table, so nobody may call it", "METHOD_NOT_LISTED")
    if not who.has(*row.roles):
        raise denied(
            f"this needs one of the roles {', '.join(sorted(row.roles))}; "
            f"the credential has {', '.join(sorted(who.roles))}",
            "ROLE_MISSING",
        )
    for name in row.subjects(request):
        if who.subject != ANY_ORG and (name == ANY_ORG or not who.covers(name)):
            raise denied(f"the credential covers {who.subject}, not {name}", "OUT_OF_SCOPE")


def generate_key() -> tuple[bytes, bytes]:
    """A new Ed25519 pair as (private PEM, public PEM)."""
    key = OKPKey.generate_key("Ed25519")
    return key.as_pem(private=True), key.as_pem(private=False)


def mint(
    private_key_pem: bytes, subject: str, roles: Sequence[str], ttl_s: int, now: datetime, *, holder: str = ""
) -> str:
    """A token for `subject` and below.

    Args:
        private_key_pem: The signing key.
        subject: The subtree; `orgs/-` for every organisation.
        roles: From `ROLES`, at least one.
        ttl_s: How long it is valid, in seconds.
        now: When it starts.
        holder: Whom it is for, a person's address for example; at most 128 printable characters without "#".

    Raises:
        ValueError: An unknown role, none, a time to live that is not positive, or a holder that is none.
        SubjectError: A malformed subject.
    """
    if not roles or set(roles) - ROLES:
        raise ValueError(f"roles must be some of {', '.join(sorted(ROLES))}; got {', '.join(roles) or 'none'}")
    if ttl_s <= 0:
        raise ValueError("ttl_s must be positive")
    if len(holder) > HOLDER_CHARS_MAX or "#" in holder or not holder.isprintable() or holder != holder.strip():
        raise ValueError(
            f"a holder is at most {HOLDER_CHARS_MAX} printable characters, without '#' and space around it"
        )
    if subject != ANY_ORG:
        subjects.parse(subject)
    claims: dict[str, Any] = {
        "iss": _ISSUER,
        "sub": subject,
        "roles": sorted(set(roles)),
        "iat": int(now.timestamp()),
        "exp": int((now + timedelta(seconds=ttl_s)).timestamp()),
        "jti": secrets.token_hex(12),
    }
    if holder:
        claims["holder"] = holder
    key = OKPKey.import_key(private_key_pem)
    return jwt.encode({"alg": ALGORITHM}, claims, key, algorithms=[ALGORITHM])


class Verifier:
    """Verifies tokens offline. Remembers the verified ones, so that a repeated token costs a look-up."""

    def __init__(self, public_key_pem: bytes) -> None:
        self._key = OKPKey.import_key(public_key_pem)
        self._seen: dict[str, Identity] = {}

    def verify(self, token: str, now_s: float) -> Identity:
        """Who holds this token.

        Raises:
            PurseError: UNAUTHENTICATED; the message says what is wrong with the token, never the token.
        """
        known = self._seen.get(token)
        if known is None:
            known = self._verify(token, now_s)
            if len(self._seen) >= _CACHE_MAX:
                self._seen.clear()
            self._seen[token] = known
        if known.expires_at_s + _CLOCK_SKEW_S < now_s:
            raise unauthenticated("the token has expired; mint a new one", "TOKEN_EXPIRED")
        return known

    def _verify(self, token: str, now_s: float) -> Identity:
        try:
            claims = jwt.decode(token, self._key, algorithms=[ALGORITHM]).claims
            roles = frozenset(claims["roles"])
            holder = str(claims.get("holder", ""))
            who = Identity(str(claims["sub"]), roles, str(claims["jti"]), int(claims["exp"]), holder)
            issued_at_s = int(claims["iat"])
        except (JoseError, ValueError, KeyError, TypeError) as error:
            raise unauthenticated("the token is not one of this suite's, or is damaged", "TOKEN_INVALID") from error
        if claims.get("iss") != _ISSUER or not roles or roles - ROLES or issued_at_s > now_s + _CLOCK_SKEW_S:
            raise unauthenticated("the token's claims are not valid here", "TOKEN_INVALID")
        return who


def bearer(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """The token of a call's metadata.

    Raises:
        PurseError: UNAUTHENTICATED where there is none.
    """
    for key, value in metadata:
        if key == "authorization" and isinstance(value, str) and value.startswith("Bearer "):
            return value[7:]
    raise unauthenticated("send the metadata `authorization: Bearer <token>`", "TOKEN_MISSING")
