"""Translates errors to and from `google.rpc.Status`."""

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2, status_pb2

from services.kit.errors import Code, PurseError

DOMAIN = "pursestrings"
_DETAILS_KEY = "grpc-status-details-bin"


def to_rpc_status(error: PurseError) -> status_pb2.Status:
    """The error with its ErrorInfo, the field at fault and the retry delay as details."""
    status = status_pb2.Status(code=int(error.code), message=error.message)
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata)
    status.details.add().Pack(info)
    if error.field is not None:
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=error.message)
        status.details.add().Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    if error.retry_after_s is not None:
        delay = Duration()
        delay.FromNanoseconds(int(error.retry_after_s * 1e9))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return status


def from_rpc_status(status: status_pb2.Status) -> PurseError:
    """The inverse of `to_rpc_status`; what is missing in a foreign status is filled with its code's name."""
    code = Code(status.code) if status.code in Code._value2member_map_ else Code.UNKNOWN
    reason, field, metadata, retry_after_s = code_pb2.Code.Name(int(code)), None, {}, None
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        bad = error_details_pb2.BadRequest()
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            reason, metadata = info.reason, dict(info.metadata)
        elif detail.Unpack(bad) and bad.field_violations:
            field = bad.field_violations[0].field
        elif detail.Unpack(retry):
            retry_after_s = retry.retry_delay.ToNanoseconds() / 1e9
    return PurseError(code, reason, status.message, field=field, metadata=metadata, retry_after_s=retry_after_s)


def from_rpc_error(error: grpc.aio.AioRpcError) -> PurseError:
    """The error that a call raised, with the details that the server attached."""
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            return from_rpc_status(status_pb2.Status.FromString(value))
    number = error.code().value[0]
    bare = status_pb2.Status(code=number, message=error.details() or error.code().name)
    return from_rpc_status(bare)


def trailing_metadata(status: status_pb2.Status) -> tuple[tuple[str, bytes], ...]:
    """What carries the details of a refused call over the wire."""
    return ((_DETAILS_KEY, status.SerializeToString()),)
