"""What the sweep asks about a wallet, and whether by the answer a recharge is due. Pure; the rule is the kit's."""

from dataclasses import dataclass
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from pursestrings.metering.v1 import analysis_pb2
from pursestrings.wallet.v1 import predictive_pb2
from services.kit import prediction
from services.kit.money import MAX_NANOS

_SPEND: Final = {50: "p50_nanos", 90: "p90_nanos", 99: "p99_nanos"}
_DEPLETION: Final = {50: "p50_time", 90: "p90_time", 99: "p99_time"}


@dataclass(frozen=True, slots=True)
class Found:
    """A wallet, and what was forecast for it."""

    wallet: predictive_pb2.PredictiveWallet
    forecast: analysis_pb2.ForecastResponse

    def is_due(self) -> bool:
        """Whether a recharge is due by what is known; the wallet decides by what it knows then."""
        wallet, settings = self.wallet, self.wallet.settings
        cover = prediction.to_cover(_spend(self), self.forecast.peak_nanos)
        leave = prediction.to_leave(settings.floor.amount_nanos, wallet.charge_nanos, self.forecast.history_hours)
        return wallet.balance_nanos <= prediction.due_at(leave, cover)

    def reason(self, depletion: analysis_pb2.Depletion | None) -> predictive_pb2.RechargeForecast:
        """The forecast as the wallet takes it.

        Args:
            depletion: When the balance is used up; None: nobody knows.
        """
        percent = self.wallet.settings.quantile_percent
        return predictive_pb2.RechargeForecast(
            spend_nanos=_spend(self),
            quantile_percent=percent,
            hours_ahead=self.forecast.horizon_hours,
            depletion_time=_time(depletion, _DEPLETION[percent]),
            as_of_time=self.forecast.as_of_time,
            history_hours=self.forecast.history_hours,
            peak_nanos=min(self.forecast.peak_nanos, MAX_NANOS // 2),
        )


def question(wallet: predictive_pb2.PredictiveWallet) -> analysis_pb2.ForecastRequest:
    """What metering is asked about a wallet: the spend of its subject, less what wallets below pay for."""
    settings = wallet.settings
    delay_s = wallet.recharge_delay_p99_s if settings.lead_time else None
    return analysis_pb2.ForecastRequest(
        subject=wallet.wallet.rpartition("/wallets/")[0],
        currency_code=wallet.currency_code,
        horizon_hours=prediction.hours_to_cover(settings.predict_hours_ahead, delay_s),
        time_zone=wallet.time_zone,
        excluded_subjects=wallet.excluded_subjects,
        peak_hours=0 if delay_s is None else min(prediction.peak_hours(delay_s), settings.predict_hours_ahead),
    )


def depletion_question(wallet: predictive_pb2.PredictiveWallet) -> analysis_pb2.ForecastRequest:
    """As `question`, and when the balance is used up, which costs metering much more."""
    asked = question(wallet)
    asked.amount_nanos = max(0, wallet.balance_nanos)
    return asked


def _spend(found: Found) -> int:
    nanos: int = getattr(found.forecast.spend, _SPEND[found.wallet.settings.quantile_percent])
    return nanos


def _time(depletion: analysis_pb2.Depletion | None, field: str) -> Timestamp | None:
    if depletion is None or not depletion.HasField(field):  # type: ignore[arg-type]
        return None
    time: Timestamp = getattr(depletion, field)
    return time
