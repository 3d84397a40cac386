"""Errors survive the wire with every detail."""

import grpc
import pytest
from google.rpc import status_pb2

from services.kit.errors import Code, PurseError, conflict, invalid, not_found, too_many, unavailable
from services.kit.status import from_rpc_error, from_rpc_status, to_rpc_status, trailing_metadata


@pytest.mark.parametrize(
    "error",
    [
        invalid("budget.limit_amount", "must not be negative", "AMOUNT_OUT_OF_RANGE", got="-1"),
        not_found("orgs/a/budgets/b"),
        conflict("ETAG_MISMATCH", "the budget has changed; read it again", field="budget.etag"),
        too_many("20000 items wait", 0.5),
        unavailable("wallet is out of reach", 1.25),
    ],
)
def test_an_error_comes_back_as_it_went(error: PurseError) -> None:
    back = from_rpc_status(to_rpc_status(error))

    assert vars(error) == vars(back)


def test_a_field_error_names_its_field_in_bad_request_too() -> None:
    status = to_rpc_status(invalid("subject", "is too deep"))

    assert ["google.rpc.ErrorInfo", "google.rpc.BadRequest"] == [d.TypeName() for d in status.details]
    assert status.message == "subject: is too deep"


def test_a_raised_call_error_carries_the_details() -> None:
    sent = invalid("request_id", "is required", "REQUEST_ID_REQUIRED")
    raised = grpc.aio.AioRpcError(
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.aio.Metadata(),
        grpc.aio.Metadata(*trailing_metadata(to_rpc_status(sent))),
        details=sent.message,
    )

    assert vars(sent) == vars(from_rpc_error(raised))


def test_a_foreign_error_keeps_its_code_and_text() -> None:
    raised = grpc.aio.AioRpcError(
        grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), details="connection refused"
    )

    back = from_rpc_error(raised)

    assert (Code.UNAVAILABLE, "UNAVAILABLE", "connection refused") == (back.code, back.reason, back.message)


def test_an_unknown_code_becomes_unknown() -> None:
    assert from_rpc_status(status_pb2.Status(code=99, message="?")).code is Code.UNKNOWN
