"""What a subscription may be: where to deliver, signed with what, and which events."""

import base64
import binascii
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final
from urllib.parse import SplitResult, urlsplit

from services.kit.errors import PurseError, conflict, invalid
from services.kit.public_address import is_public_host, is_this_machine

SUBSCRIPTIONS_MAX: Final = 20
"""The most of one subject."""
FIELDS: Final = ("display_name", "webhook_url", "secret", "email", "events", "disabled", "payload")
"""The fields that an update may name."""
SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - no secret
SECRET_BYTES_MIN: Final = 24
SECRET_BYTES_MAX: Final = 64
OLD_SECRET_US: Final = 86_400_000_000
"""For how long the secret from before a rotation signs too."""
_URL_CHARS_MAX: Final = 2_048
_EMAIL_CHARS_MAX: Final = 254
_DISPLAY_CHARS_MAX: Final = 128
_HINT_CHARS: Final = 4
_EMAIL: Final = re.compile(
    r"[^\s\x00-\x1f\x7f@<>,;:\"()\[\]\\]{1,64}@(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z0-9-]{2,63}"
).fullmatch


class EventKind(IntEnum):
    """What can be told; the numbers of the contract."""

    WARNING = 1
    CRITICAL = 2
    EXCEEDED = 3
    PAUSED = 4
    RESUMED = 5
    NOTICE = 6
    APPROVAL = 7
    RECHARGE = 8
    STATEMENT = 9


class PayloadShape(IntEnum):
    """What a webhook's body looks like; the numbers of the contract."""

    EVENT = 1
    WARNING = 2


@dataclass(slots=True, frozen=True)
class Subscription:
    """Where a subject's events, and those of the subjects below it, are sent.

    Attributes:
        secret: Signs deliveries; empty without a webhook. It is in no text of this object.
        events: Sorted; empty: all.
        revision: Grows with every change; the etag.
        old_secret: Signs beside the secret until `old_secret_until_us`.
        no: Its number in the database; 0: it is not there yet.
        webhook_off: Why nothing is sent to the webhook; empty: it is on.
        email_off: Why nothing is mailed; empty: it is on.
    """

    org: str
    subject: str
    id: str
    display_name: str
    webhook_url: str
    secret: str
    email: str
    events: tuple[int, ...]
    disabled: bool
    revision: int
    created_us: int
    updated_us: int
    payload: PayloadShape = PayloadShape.EVENT
    old_secret: str = ""
    old_secret_until_us: int = 0
    no: int = 0
    webhook_off: str = ""
    email_off: str = ""

    def __repr__(self) -> str:
        return f"Subscription({self.name!r})"

    @property
    def name(self) -> str:
        """`{subject}/subscriptions/{id}`."""
        return f"{self.subject}/subscriptions/{self.id}"

    @property
    def etag(self) -> str:
        """What an update must give back to change only what its author has seen."""
        return f"n.{self.created_us}.{self.revision}"

    @property
    def secret_hint(self) -> str:
        """The secret's last characters; empty without one."""
        return f"…{self.secret[-_HINT_CHARS:]}" if self.secret else ""

    def secrets(self, now_us: int) -> list[str]:
        """What signs a delivery: the secret, and for a while the one before it."""
        if not self.secret:
            return []
        return (
            [self.secret, self.old_secret] if self.old_secret and now_us < self.old_secret_until_us else [self.secret]
        )

    def wants(self, event: EventKind) -> bool:
        """Whether it is told of this event."""
        return not self.disabled and (not self.events or int(event) in self.events)


@dataclass(slots=True, frozen=True)
class SubscriptionDraft:
    """A subscription as a caller wrote it."""

    display_name: str
    webhook_url: str
    secret: str
    email: str
    events: tuple[int, ...]
    disabled: bool
    payload: int = 0

    def __repr__(self) -> str:
        return "SubscriptionDraft()"


MakeSecret = Callable[[], str]


def define(
    draft: SubscriptionDraft,
    place: tuple[str, str, str],
    now_us: int,
    *,
    make_secret: MakeSecret,
    loopback: bool,
) -> Subscription:
    """A new subscription.

    Args:
        draft: As the caller wrote it.
        place: Organisation, subject and id.
        now_us: The time.
        make_secret: Makes a secret where a webhook has none.
        loopback: Whether http to this machine is allowed.

    Raises:
        PurseError: The field at fault.
    """
    made = Subscription(
        *place,
        _display_name(draft.display_name),
        _url(draft.webhook_url, loopback=loopback),
        _secret(draft.secret),
        _email(draft.email),
        _events(draft.events),
        draft.disabled,
        1,
        now_us,
        now_us,
        _payload(draft.payload),
    )
    return _whole(made, make_secret)


def change(
    seen: Subscription,
    draft: SubscriptionDraft,
    mask: Sequence[str],
    now_us: int,
    *,
    make_secret: MakeSecret,
    loopback: bool,
) -> Subscription:
    """What becomes of a subscription; `secret` in the mask and empty makes a new one.

    Raises:
        PurseError: The field at fault.
    """
    if not mask:
        raise invalid("update_mask", f"name the fields to change: some of {', '.join(FIELDS)}")
    for path in mask:
        if path not in FIELDS:
            raise invalid("update_mask", f"{path[:80]!r} cannot be changed; name some of {', '.join(FIELDS)}")
    made = replace(
        seen,
        display_name=_display_name(draft.display_name) if "display_name" in mask else seen.display_name,
        webhook_url=_url(draft.webhook_url, loopback=loopback) if "webhook_url" in mask else seen.webhook_url,
        secret=_secret(draft.secret) if "secret" in mask else seen.secret,
        email=_email(draft.email) if "email" in mask else seen.email,
        events=_events(draft.events) if "events" in mask else seen.events,
        disabled=draft.disabled if "disabled" in mask else seen.disabled,
        payload=_payload(draft.payload) if "payload" in mask else seen.payload,
        revision=seen.revision + 1,
        updated_us=now_us,
        # What is mended is tried: whoever names the address, or switches the subscription on, means it.
        webhook_off="" if {"webhook_url", "disabled"} & set(mask) else seen.webhook_off,
        email_off="" if {"email", "disabled"} & set(mask) else seen.email_off,
    )
    return _rotated(seen, _whole(made, make_secret), now_us)


def check_etag(seen: Subscription, given: str, field: str) -> None:
    """Refuses an etag that is not the current one; an empty one passes."""
    if given and given != seen.etag:
        raise conflict(
            "ETAG_MISMATCH",
            f"etag: {seen.name} has changed since; read it again and decide anew",
            field=field,
            etag=seen.etag,
        )


def refuse_more(count: int) -> PurseError | None:
    """Why a subject with so many subscriptions gets no other one."""
    if count < SUBSCRIPTIONS_MAX:
        return None
    return conflict(
        "TOO_MANY_SUBSCRIPTIONS", f"the subject has {count} subscriptions, which is the limit; delete one first"
    )


def _whole(made: Subscription, make_secret: MakeSecret) -> Subscription:
    if not made.webhook_url and not made.email:
        raise invalid("subscription.webhook_url", "give a webhook, an email, or both")
    if not made.webhook_url:
        return replace(made, secret="")
    return made if made.secret else replace(made, secret=make_secret())


def _rotated(seen: Subscription, made: Subscription, now_us: int) -> Subscription:
    """With the old secret kept for a while, where there is a new one."""
    if made.secret == seen.secret:
        return made
    if not seen.secret or not made.secret:
        return replace(made, old_secret="", old_secret_until_us=0)
    return replace(made, old_secret=seen.secret, old_secret_until_us=now_us + OLD_SECRET_US)


def _payload(number: int) -> PayloadShape:
    try:
        return PayloadShape(number or PayloadShape.EVENT)
    except ValueError:
        raise invalid("subscription.payload", f"{number} is none of EVENT and WARNING") from None


def _display_name(name: str) -> str:
    if len(name) > _DISPLAY_CHARS_MAX:
        raise invalid("subscription.display_name", f"is {len(name)} characters long; the limit is {_DISPLAY_CHARS_MAX}")
    return name


def _url(url: str, *, loopback: bool) -> str:
    """A webhook's address: https, or http to this machine where allowed. What it resolves to is for delivery."""
    if not url:
        return ""
    field = "subscription.webhook_url"
    if len(url) > _URL_CHARS_MAX:
        raise invalid(field, f"is {len(url)} characters long; the limit is {_URL_CHARS_MAX}")
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise invalid(field, "holds characters that no address has; write it percent-encoded")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise invalid(field, "is no address; write for example https://example.com/hooks/budget") from None
    if port == 0:
        raise invalid(field, "has the port 0, on which nothing answers")
    if parts.scheme not in {"https", "http"} or not host:
        raise invalid(field, "must be https; write for example https://example.com/hooks/budget", "INSECURE_URL")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise invalid(field, "must have neither a user nor a fragment; deliveries are signed with the secret")
    return _check_host(url, parts, host, loopback=loopback)


def _check_host(url: str, parts: SplitResult, host: str, *, loopback: bool) -> str:
    field = "subscription.webhook_url"
    if loopback and is_this_machine(host):
        return url
    if parts.scheme == "http":
        raise invalid(field, "must be https; http is for this machine only, if allowed", "INSECURE_URL")
    if not is_public_host(host):
        raise invalid(field, f"{host[:80]} is no public host; deliveries go to public ones", "PRIVATE_URL")
    return url


def _secret(secret: str) -> str:
    """A secret as Standard Webhooks writes it. The error never shows it."""
    if not secret:
        return ""
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX).encode(), validate=True)
    except (binascii.Error, UnicodeEncodeError, ValueError):
        key = b""
    if not secret.startswith(SECRET_PREFIX) or not SECRET_BYTES_MIN <= len(key) <= SECRET_BYTES_MAX:
        raise invalid(
            "subscription.secret",
            f"must be {SECRET_PREFIX!r} and base64 of {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} bytes; "
            "leave it out to have one made",
        )
    return secret


def _email(email: str) -> str:
    # What readers of headers take for an encoded word could hold anything, line ends too.
    is_plain = email.isascii() and email.isprintable() and "=?" not in email
    if email and (len(email) > _EMAIL_CHARS_MAX or not is_plain or not _EMAIL(email)):
        raise invalid("subscription.email", f"{email[:80]!r} is no mail address; write for example ops@example.com")
    return email


def _events(numbers: tuple[int, ...]) -> tuple[int, ...]:
    known = {int(kind) for kind in EventKind}
    for number in numbers:
        if number not in known:
            raise invalid("subscription.events", f"{number} is none of {', '.join(kind.name for kind in EventKind)}")
    return tuple(sorted(set(numbers)))
