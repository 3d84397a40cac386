"""Stripe's form encoding, and the checks that a request passes before anything is executed.

What fails here is a 400 that is not kept under an idempotency key, as at Stripe: execution had not begun.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from embedded.stripe_twin.errors import ApiError, invalid, missing_param

Params = dict[str, Any]
Check = Callable[[str, Any], Any]

MAX_FIELDS = 500
MAX_DEPTH = 5
MAX_TEXT = 5_000
METADATA_KEYS = 50
METADATA_KEY_LENGTH = 40
METADATA_VALUE_LENGTH = 500
LIST_LIMIT_DEFAULT = 10
LIST_LIMIT_MAX = 100

_KEY = re.compile(r"^[^\[\]]+(\[[^\[\]]*\])*$")


def decode(form: str) -> Params:
    """`a[b]=1&c[0]=2` → `{"a": {"b": "1"}, "c": ["2"]}`; raises ApiError when it is not such a form."""
    try:
        pairs = parse_qsl(form, keep_blank_values=True, max_num_fields=MAX_FIELDS, strict_parsing=bool(form))
    except ValueError as error:
        raise invalid(f"Invalid request body or query: {error}. Send a form of at most {MAX_FIELDS} fields.") from error
    tree: Params = {}
    for key, value in pairs:
        if not _KEY.match(key):
            raise invalid(f"Invalid parameter name: {key}", param=key, code="parameter_unknown")
        _place(tree, key, value)
    return {name: _lists(value) for name, value in tree.items()}


def _place(tree: Params, key: str, value: str) -> None:
    head, *rest = key.split("[")
    path = [head, *(part.removesuffix("]") for part in rest)]
    if len(path) > MAX_DEPTH:
        raise invalid(f"Invalid parameter, nested too deeply: {key}", param=key)
    node = tree
    for part in path[:-1]:
        child = node.setdefault(part, {})
        if not isinstance(child, dict):
            raise invalid(f"Invalid object: {key} is given both as a value and as an object", param=key)
        node = child
    last = path[-1] or str(len(node))
    if isinstance(node.get(last), dict):
        raise invalid(f"Invalid object: {key} is given both as a value and as an object", param=key)
    node[last] = value


def _lists(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if value and all(name.isdigit() for name in value):
        return [_lists(value[name]) for name in sorted(value, key=int)]
    return {name: _lists(inner) for name, inner in value.items()}


@dataclass(frozen=True, slots=True)
class Spec:
    """The parameters that an endpoint takes; any other is refused as unknown."""

    fields: Mapping[str, Check]
    required: tuple[str, ...] = ()

    def validate(self, params: Params) -> Params:
        """The parameters with their types, or ApiError for the first that is wrong."""
        for name in params:
            if name not in self.fields:
                raise invalid(f"Received unknown parameter: {name}", param=name, code="parameter_unknown")
        for name in self.required:
            if name not in params:
                raise missing_param(name)
            if params[name] == "":
                raise invalid(
                    f"You passed an empty string for '{name}'. We assume empty values are an attempt to unset a "
                    f"parameter; however '{name}' cannot be unset. You should remove '{name}' from your request "
                    "or supply a non-empty value.",
                    param=name,
                    code="parameter_invalid_empty",
                )
        return {name: self.fields[name](name, value) for name, value in params.items()}


def text(name: str, value: Any) -> str:
    """A string of at most 5,000 characters."""
    if not isinstance(value, str):
        raise invalid(f"Invalid string: {name}", param=name)
    if len(value) > MAX_TEXT:
        raise invalid(
            f"Invalid string: {name} must be at most {MAX_TEXT} characters", param=name, code="parameter_invalid_string"
        )
    return value


def integer(name: str, value: Any) -> int:
    """A whole number within int64."""
    if not isinstance(value, str) or not re.fullmatch(r"-?\d{1,18}", value):
        raise invalid(f"Invalid integer: {value}", param=name, code="parameter_invalid_integer")
    return int(value)


def boolean(name: str, value: Any) -> bool:
    """`true` or `false`."""
    if value not in ("true", "false"):
        raise invalid(f"Invalid boolean: {value}", param=name)
    return bool(value == "true")


def off_session(name: str, value: Any) -> bool:
    """A boolean, or one of the older words that mean true."""
    return True if value in ("one_off", "recurring") else boolean(name, value)


def choice(*allowed: str) -> Check:
    """One of the given words."""

    def check(name: str, value: Any) -> str:
        if value not in allowed:
            raise invalid(f"Invalid {name}: must be one of {', '.join(allowed)}", param=name)
        return str(value)

    return check


def strings(name: str, value: Any) -> list[str]:
    """A list of strings."""
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise invalid(f"Invalid array: {name}", param=name)
    return list(value)


def cards_only(name: str, value: Any) -> list[str]:
    """A list of payment method types in which `card` is, since the twin takes nothing else."""
    if "card" not in strings(name, value):
        raise invalid("The twin takes cards only: allowed_payment_method_types must have 'card'.", param=name)
    return ["card"]


def no_longer_supported(name: str, _value: Any) -> None:
    """A parameter that this version of the API refuses in so many words."""
    raise invalid(
        f"The parameter `{name}` is no longer supported. Use `allowed_payment_method_types`, or manage payment methods "
        "in the Dashboard.",
        param=name,
        code="payment_method_types_no_longer_supported",
    )


def one_way_to_choose(params: Params) -> None:
    """Raises ApiError where a request both lists the types allowed and lets them be chosen for it."""
    if "allowed_payment_method_types" in params and "automatic_payment_methods" in params:
        raise invalid(
            "You may only specify one of these parameters: allowed_payment_method_types, automatic_payment_methods.",
            param="allowed_payment_method_types",
        )


def mappings(name: str, value: Any) -> list[Params]:
    """A list of objects, their members unchecked."""
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise invalid(f"Invalid array: {name}", param=name)
    return list(value)


def mapping(name: str, value: Any) -> Params:
    """An object, its members unchecked."""
    if not isinstance(value, dict):
        raise invalid(f"Invalid object: {name}", param=name)
    return value


def metadata(name: str, value: Any) -> dict[str, str] | None:
    """Up to 50 pairs; an empty value removes its key, None (from an empty string) removes all."""
    if value == "":
        return None
    pairs = mapping(name, value)
    if len(pairs) > METADATA_KEYS:
        raise invalid(f"Metadata can have at most {METADATA_KEYS} keys", param=name)
    for key, item in pairs.items():
        if not isinstance(item, str) or len(item) > METADATA_VALUE_LENGTH:
            raise _bad_metadata(key, f"values must be strings of up to {METADATA_VALUE_LENGTH} characters")
        if len(key) > METADATA_KEY_LENGTH:
            raise _bad_metadata(key, f"keys must be up to {METADATA_KEY_LENGTH} characters")
    return pairs


def _bad_metadata(key: str, rule: str) -> ApiError:
    return invalid(f"Invalid metadata: {rule}, which '{key[:METADATA_KEY_LENGTH]}' is not", param=f"metadata[{key}]")


def merge_metadata(current: Mapping[str, str], update: dict[str, str] | None) -> dict[str, str]:
    """`current` after an update as `metadata` returns it; raises ApiError past 50 keys."""
    if update is None:
        return {}
    merged = {key: value for key, value in ({**current, **update}).items() if value != ""}
    if len(merged) > METADATA_KEYS:
        raise invalid(f"Metadata can have at most {METADATA_KEYS} keys", param="metadata")
    return merged


@dataclass(frozen=True, slots=True)
class Window:
    """Which creation times (seconds) a list asks for, both ends included."""

    first: int = 0
    last: int = 2**62


def created(name: str, value: Any) -> Window:
    """`created=T`, or `created[gt|gte|lt|lte]=T`."""
    if isinstance(value, str):
        instant = integer(name, value)
        return Window(instant, instant)
    first, last = 0, 2**62
    for bound, number in mapping(name, value).items():
        instant = integer(f"{name}[{bound}]", number)
        match bound:
            case "gt":
                first = max(first, instant + 1)
            case "gte":
                first = max(first, instant)
            case "lt":
                last = min(last, instant - 1)
            case "lte":
                last = min(last, instant)
            case _:
                raise invalid(f"Received unknown parameter: {name}[{bound}]", param=name, code="parameter_unknown")
    return Window(first, last)


def limit(name: str, value: Any) -> int:
    """A page size of 1 to 100."""
    number = integer(name, value)
    if not 1 <= number <= LIST_LIMIT_MAX:
        bound = "greater than or equal to 1" if number < 1 else f"less than or equal to {LIST_LIMIT_MAX}"
        raise invalid(f"This value must be {bound}.", param=name, code="parameter_invalid_integer")
    return number


EXPANDABLE = frozenset(
    (
        "customer",
        "data",
        "default_payment_method",
        "invoice_settings",
        "charge",
        "latest_charge",
        "payment_intent",
        "payment_method",
        "setup_intent",
    )
)
EXPAND_PATHS = 10
EXPAND_DEPTH = 4


def expand(name: str, value: Any) -> list[str]:
    """Up to 10 paths of references to answer in full, such as `data.latest_charge`."""
    paths = strings(name, value)
    if len(paths) > EXPAND_PATHS:
        raise invalid(f"You may expand at most {EXPAND_PATHS} properties.", param=name)
    for path in paths:
        parts = path.split(".")
        if len(parts) > EXPAND_DEPTH or not EXPANDABLE.issuperset(parts):
            raise invalid(f"This property cannot be expanded ({path}).", param=name)
    return paths


EXPAND: dict[str, Check] = {"expand": expand}
METHOD_TYPES: dict[str, Check] = {
    "allowed_payment_method_types": cards_only,
    "payment_method_types": no_longer_supported,
}
PAGE: dict[str, Check] = {
    "limit": limit,
    "starting_after": text,
    "ending_before": text,
    "created": created,
    **EXPAND,
}
