"""Who may call what."""

from collections.abc import Mapping
from typing import Final

from services.kit.auth import ROLES, Rule, by_field, by_org, rule

_SERVICE: Final = "/pursestrings.metering.v1.MeteringService"
_WRITERS: Final = ("agent", "operator", "service")
_READERS: Final = ("agent", "operator", "approver", "auditor", "service")

ACCESS: Final[Mapping[str, Rule]] = {
    f"{_SERVICE}/RecordUsage": rule(by_field("event.subject"), *_WRITERS),
    # An event outside the credential is refused by itself, and the others are recorded: the desk
    # holds each event's subject against the credential before it looks at anything else of it.
    f"{_SERVICE}/BatchRecordUsage": rule(lambda _request: (), *_WRITERS),
    f"{_SERVICE}/StreamUsage": rule(lambda _request: (), *_WRITERS),
    f"{_SERVICE}/Estimate": rule(by_field("subject"), *_READERS),
    f"{_SERVICE}/GetUsage": rule(by_field("subject"), *_READERS),
    f"{_SERVICE}/QueryUsage": rule(by_field("subject"), *_READERS),
    f"{_SERVICE}/ListUsage": rule(by_field("subject"), *_READERS),
    f"{_SERVICE}/ExportUsage": rule(by_field("subject"), *_READERS),
    f"{_SERVICE}/GetBurnRate": rule(by_field("subject"), *_READERS),
    f"{_SERVICE}/Forecast": rule(by_field("subject"), *_READERS),
    # Likewise, each request's subject is held against the credential by itself.
    f"{_SERVICE}/BatchForecast": rule(lambda _request: (), *_READERS),
    f"{_SERVICE}/GetSavings": rule(by_field("subject"), *_READERS),
    f"{_SERVICE}/SetRoutingRules": rule(by_org("org"), "operator"),
    f"{_SERVICE}/GetRoutingRules": rule(by_org("org"), *_READERS),
    # The price list is no secret of any subject; organisations' own cards are told to services of all alone.
    f"{_SERVICE}/GetRateTable": rule(lambda _request: (), *ROLES),
    f"{_SERVICE}/PublishRateCard": rule(by_org("org"), "operator"),
    f"{_SERVICE}/ImportRateCard": rule(by_org("org"), "operator"),
    f"{_SERVICE}/ListRateCards": rule(by_org("org"), "operator", "auditor", "service"),
    f"{_SERVICE}/GetRateCard": rule(by_org("org"), "operator", "auditor", "service"),
    f"{_SERVICE}/GetRate": rule(by_field("subject"), *_READERS),
    f"{_SERVICE}/CorrectUsage": rule(by_org("org"), "operator"),
    f"{_SERVICE}/ListCorrections": rule(by_org("org"), "operator", "auditor", "service"),
    f"{_SERVICE}/ListUnratedUsage": rule(by_org("org"), "operator", "auditor", "service"),
    f"{_SERVICE}/ListParkedUsage": rule(by_org("org"), "operator"),
    f"{_SERVICE}/RequeueParkedUsage": rule(by_org("org"), "operator"),
    f"{_SERVICE}/Audit": rule(by_org("org"), "auditor", "operator", "service"),
}
