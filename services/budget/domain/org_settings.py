"""What holds for a whole organisation, and what a change of it does."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final

from services.budget.domain.budgets import OnExceed
from services.budget.domain.pauses import ResumeMode
from services.kit.errors import conflict, invalid

DEFAULT_THRESHOLDS: Final = (50, 80, 95, 100)
FIELDS: Final = (
    "default_on_exceed",
    "default_resume",
    "default_thresholds_percent",
    "deny_unbudgeted",
    "require_wallet",
    "expired_hold",
    "unrated_model",
)
"""The fields that an update may name."""
_THRESHOLDS_MAX: Final = 16
_THRESHOLD_MAX: Final = 1000


class ExpiredHold(IntEnum):
    """What becomes of a hold that expires unsettled; the numbers of the contract."""

    RELEASE = 1
    CHARGE_ESTIMATE = 2


class UnratedModel(IntEnum):
    """Whether a model without a price may be used; the numbers of the contract."""

    ALLOW = 1
    BLOCK = 2


@dataclass(slots=True, frozen=True)
class OrgSettings:
    """The settings in force.

    Attributes:
        default_on_exceed: Of budgets that do not say one when they are written.
        default_resume: Likewise.
        default_thresholds: Likewise.
        deny_unbudgeted: Whether spends that no budget counts are denied.
        require_wallet: Whether spends without a wallet are denied.
        expired_hold: What becomes of holds that expire unsettled.
        unrated_model: Whether models without a price may be used.
        revision: Grows with every change; the etag.
        updated_by: Who changed them last.
        updated_us: When.
    """

    default_on_exceed: OnExceed = OnExceed.BLOCK
    default_resume: ResumeMode = ResumeMode.MANUAL
    default_thresholds: tuple[int, ...] = DEFAULT_THRESHOLDS
    deny_unbudgeted: bool = False
    require_wallet: bool = False
    expired_hold: ExpiredHold = ExpiredHold.RELEASE
    unrated_model: UnratedModel = UnratedModel.ALLOW
    revision: int = 0
    updated_by: str = ""
    updated_us: int = 0

    @property
    def etag(self) -> str:
        """What an update must give back to change only what its author has seen."""
        return f"s.{self.revision}"


NO_SETTINGS: Final = OrgSettings()
"""Those of an organisation that has set nothing."""


@dataclass(slots=True, frozen=True)
class SettingsDraft:
    """Settings as a caller wrote them; the numbers are the contract's, 0 and empty are not said."""

    default_on_exceed: int
    default_resume: int
    default_thresholds: tuple[int, ...]
    deny_unbudgeted: bool
    require_wallet: bool
    expired_hold: int
    unrated_model: int


def change(
    seen: OrgSettings, draft: SettingsDraft, mask: Sequence[str], etag: str, *, by: str, now_us: int
) -> OrgSettings:
    """The settings with the fields in the mask changed; what is not said takes its default.

    Raises:
        PurseError: The field at fault, or ETAG_MISMATCH.
    """
    wanted = _check_mask(mask)
    if etag and etag != seen.etag:
        raise conflict(
            "ETAG_MISMATCH",
            "etag: the settings have changed since; read them again and decide anew",
            field="settings.etag",
            etag=seen.etag,
        )
    values: dict[str, object] = {
        "default_on_exceed": on_exceed(draft.default_on_exceed, OnExceed.BLOCK, "settings.default_on_exceed"),
        "default_resume": resume_mode(draft.default_resume, ResumeMode.MANUAL, "settings.default_resume"),
        "default_thresholds": thresholds(
            draft.default_thresholds, DEFAULT_THRESHOLDS, "settings.default_thresholds_percent"
        ),
        "deny_unbudgeted": draft.deny_unbudgeted,
        "require_wallet": draft.require_wallet,
        "expired_hold": _one_of(ExpiredHold, draft.expired_hold, "settings.expired_hold"),
        "unrated_model": _one_of(UnratedModel, draft.unrated_model, "settings.unrated_model"),
    }
    chosen = {name.removesuffix("_percent"): values[name.removesuffix("_percent")] for name in wanted}
    made: OrgSettings = replace(
        seen,
        **chosen,  # type: ignore[arg-type]
        revision=seen.revision + 1,
        updated_by=by,
        updated_us=now_us,
    )
    return made


def _check_mask(paths: Sequence[str]) -> frozenset[str]:
    if not paths:
        raise invalid("update_mask", f"name the fields to change: some of {', '.join(FIELDS)}")
    for path in paths:
        if path not in FIELDS:
            raise invalid("update_mask", f"{path[:80]!r} cannot be changed; name some of {', '.join(FIELDS)}")
    return frozenset(paths)


def _one_of(kind: type[IntEnum], number: int, field: str) -> IntEnum:
    try:
        return kind(number or 1)
    except ValueError:
        raise invalid(field, f"{number} is none of {', '.join(one.name for one in kind)}") from None


def on_exceed(number: int, default: OnExceed, field: str) -> OnExceed:
    """The reaction of this number; 0: the default."""
    try:
        return OnExceed(number or default)
    except ValueError:
        raise invalid(field, f"{number} is none of {', '.join(one.name for one in OnExceed)}") from None


def resume_mode(number: int, default: ResumeMode, field: str) -> ResumeMode:
    """The way of this number in which a pause ends; 0: the default."""
    try:
        return ResumeMode(number or default)
    except ValueError:
        raise invalid(field, f"{number} is none of {', '.join(one.name for one in ResumeMode)}") from None


def thresholds(percents: tuple[int, ...], default: tuple[int, ...], field: str) -> tuple[int, ...]:
    """Percentages of a limit; none: the default."""
    if not percents:
        return default
    if len(percents) > _THRESHOLDS_MAX:
        raise invalid(field, f"are {len(percents)}; at most {_THRESHOLDS_MAX} are kept")
    if any(not 1 <= percent <= _THRESHOLD_MAX for percent in percents):
        raise invalid(field, f"are percentages from 1 to {_THRESHOLD_MAX}; got {list(percents)}")
    if list(percents) != sorted(set(percents)):
        raise invalid(field, f"must ascend, each once; got {list(percents)}")
    return percents
