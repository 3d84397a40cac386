"""What one item of a batch failed by, as its answer says it."""

import secrets

from google.rpc import status_pb2

from services.kit.database import is_connection_lost
from services.kit.errors import Code, PurseError, unavailable
from services.kit.status import to_rpc_status
from services.kit.telemetry import get_logger

_log = get_logger(__name__)


def status_of(error: Exception) -> status_pb2.Status:
    """Why an item was refused. What nobody foresaw is logged, and told by a number that the log knows."""
    if isinstance(error, PurseError):
        return to_rpc_status(error)
    if is_connection_lost(error):
        return to_rpc_status(unavailable("the database is out of reach; send again with the same id"))
    incident = secrets.token_hex(4)
    _log.error("unforeseen failure of an item", incident=incident, exc_info=error)
    return to_rpc_status(
        PurseError(Code.INTERNAL, "INTERNAL", f"unforeseen failure {incident}; the server's log tells more")
    )
