"""Stripe's error answers, as one exception and the constructors that fill it."""

from __future__ import annotations

from typing import Any

DOCS = "https://stripe.com/docs/error-codes/"


class ApiError(Exception):
    """A request that is answered with an error and changes nothing.

    `status` is the HTTP status, `error` the members of the answer's `error` object. `headers` are sent
    along. A declined payment is not an ApiError: it does change things (see `domain.Declined`).
    """

    def __init__(self, status: int, error: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        super().__init__(str(error.get("message", "")))
        self.status = status
        self.error = error
        self.headers = headers or {}

    @property
    def body(self) -> dict[str, Any]:
        """The answer's JSON body."""
        return {"error": self.error}


def invalid(
    message: str,
    *,
    param: str | None = None,
    code: str | None = None,
    status: int = 400,
) -> ApiError:
    """An `invalid_request_error`; absent members are left out, as Stripe does."""
    error: dict[str, Any] = {"message": message, "type": "invalid_request_error"}
    if code is not None:
        error |= {"code": code, "doc_url": DOCS + code.replace("_", "-")}
    if param is not None:
        error["param"] = param
    return ApiError(status, error)


def missing_param(name: str) -> ApiError:
    """A required parameter that was not sent."""
    return invalid(f"Missing required param: {name}.", param=name, code="parameter_missing")


def no_such(kind: str, object_id: str, *, param: str, status: int = 400) -> ApiError:
    """An id that names nothing: 404 when the id stood in the path, 400 when it was a parameter."""
    return invalid(f"No such {kind}: '{object_id}'", param=param, code="resource_missing", status=status)


def unauthorized(message: str) -> ApiError:
    """A request without a key that this account accepts."""
    return ApiError(
        401,
        {"message": message, "type": "invalid_request_error"},
        {"WWW-Authenticate": 'Basic realm="Stripe"'},
    )


def idempotency_mismatch(message: str) -> ApiError:
    """An idempotency key that came back with another request."""
    return ApiError(400, {"message": message, "type": "idempotency_error"})


def idempotency_in_use(key: str) -> ApiError:
    """An idempotency key whose first request has not been answered yet."""
    return invalid(
        "There is currently another in-progress request using this Idempotent Key (that probably means you "
        f"submitted twice, and the other request is still going through): {key}. Please try again later.",
        code="idempotency_key_in_use",
        status=409,
    )


def rate_limited() -> ApiError:
    """Too many requests."""
    return invalid(
        "Request rate limit exceeded. Learn more about rate limits at https://stripe.com/docs/rate-limits.",
        code="rate_limit",
        status=429,
    )


def internal() -> ApiError:
    """Stripe's own failure; what happened is not known from the answer."""
    return ApiError(500, {"message": "An unknown error occurred", "type": "api_error"})
