"""What a selector may be: written as calls are, and able to match one."""

from dataclasses import replace
from fnmatch import translate
from typing import Final

from services.budget.domain.budgets import Selector
from services.budget.domain.plan import glob
from services.kit.errors import PurseError, invalid
from services.kit.rating import RateTable, UnknownModelError

ENTRIES_MAX: Final = 16
"""The most entries of one list."""
_NAME_CHARS_MAX: Final = 256
_OPERATION_CHARS_MAX: Final = 63
_LABEL_KEY_CHARS_MAX: Final = 63
_LABEL_VALUE_CHARS_MAX: Final = 255
_GLOB: Final = frozenset("*?[")
_NEVER: Final = "SELECTOR_NEVER_MATCHES"


def checked(selector: Selector | None) -> Selector | None:
    """The selector with names in lower case, sorted, each once; None where it selects every call.

    Raises:
        PurseError: The list at fault: too long, or with an entry that no call can have.
    """
    if selector is None or selector == Selector():
        return None
    for name in ("providers", "models", "operations", "labels"):
        values = getattr(selector, name)
        if len(values) > ENTRIES_MAX:
            raise invalid(f"budget.selector.{name}", f"are {len(values)}; at most {ENTRIES_MAX} are kept")
    for value in selector.providers:
        _check_name("providers", value, _NAME_CHARS_MAX)
        _check_exact("providers", value)
    for value in selector.models:
        _check_name("models", value, _NAME_CHARS_MAX)
        _check_glob(value)
    for value in selector.operations:
        _check_name("operations", value, _OPERATION_CHARS_MAX)
        _check_exact("operations", value)
    for key, value in selector.labels:
        if not 0 < len(key) <= _LABEL_KEY_CHARS_MAX or len(value) > _LABEL_VALUE_CHARS_MAX:
            raise invalid(
                "budget.selector.labels",
                f"{key[:80]!r}: a key is 1 to {_LABEL_KEY_CHARS_MAX} characters, "
                f"a value at most {_LABEL_VALUE_CHARS_MAX}",
            )
    return replace(
        selector,
        providers=tuple(sorted({value.lower() for value in selector.providers})),
        models=tuple(sorted({value.lower() for value in selector.models})),
        operations=tuple(sorted(set(selector.operations))),
        labels=tuple(sorted(selector.labels)),
    )


def _check_name(field: str, value: str, chars_max: int) -> None:
    if not 0 < len(value) <= chars_max:
        raise invalid(f"budget.selector.{field}", f"each must be 1 to {chars_max} characters")
    if value != value.strip():
        raise _never(field, f"{value!r} has spaces at its ends, which no call has; remove them")


def _check_exact(field: str, value: str) -> None:
    if _GLOB & set(value):
        raise _never(field, f"{value!r} holds one of * ? [, and only models may be globs; write the whole name")


def _check_glob(value: str) -> None:
    # What cannot be a set of characters is taken as itself, and no model is called so; an empty range matches nothing.
    pattern = translate(value)
    if r"\[" in pattern or "(?!)" in pattern:
        raise _never("models", f"{value!r} is no glob that a model's name can match; use * ? and sets such as [0-9]")


def _never(field: str, words: str) -> PurseError:
    return invalid(f"budget.selector.{field}", words, _NEVER)


def resolved(selector: Selector | None, table: RateTable | None) -> Selector | None:
    """The selector with other names of known providers and models made those that calls are recorded under.

    Args:
        selector: As `checked` returns it.
        table: Who sells what; None: not known, nothing is resolved.

    Raises:
        PurseError: SELECTOR_NEVER_MATCHES: none of its providers sells any of its models.
    """
    if selector is None or table is None or not (selector.providers or selector.models):
        return selector
    ids = {provider.id for provider in table.providers}
    providers = tuple(sorted({table.provider_id(name) or name for name in selector.providers}))
    models: set[str] = set()
    for model in selector.models:
        models |= {model} if _GLOB & set(model) else _names_of(table, providers, model)
    if providers and models and ids.issuperset(providers):
        _check_sold(table, providers, selector.models)
    if len(models) > ENTRIES_MAX:
        raise invalid(
            "budget.selector.models",
            f"are {len(models)} with the names of their calls' records; at most {ENTRIES_MAX} are kept: use globs",
        )
    return replace(selector, providers=providers, models=tuple(sorted(models)))


def _names_of(table: RateTable, providers: tuple[str, ...], model: str) -> set[str]:
    """What a call of this model is recorded as, at any of the providers; as written where it is not known."""
    found = {model}
    for provider in providers or ("",):
        try:
            found.add(table.resolve(provider, model).model.lower())
        except UnknownModelError:
            continue
    return found


def _check_sold(table: RateTable, providers: tuple[str, ...], models: tuple[str, ...]) -> None:
    sellers: set[str] = set()
    for model in models:
        found = _sellers(table, model)
        # Nobody sells it yet, or one of these does: it can match.
        if not found or not found.isdisjoint(providers):
            return
        sellers |= found
    raise _never(
        "models",
        f"none of {', '.join(models[:5])} is a model of {', '.join(providers)}; "
        f"known at {', '.join(sorted(sellers)[:8])}: name one of those, or leave the providers out",
    )


def _sellers(table: RateTable, model: str) -> set[str]:
    """Who sells models of this name or glob."""
    if _GLOB & set(model):
        return {ref.provider for ref, _ in table.models() if glob(model).match(ref.model.lower())}
    found = set()
    for provider in table.providers:
        try:
            found.add(table.resolve(provider.id, model).provider)
        except UnknownModelError:
            continue
    return found
