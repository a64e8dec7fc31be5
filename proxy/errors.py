"""The error tree: whose fault, which status, which code, and whether to try again.

    ImagegateError
    ├── RequestError                     the caller's: 4xx, nothing was sent upstream
    │   ├── InvalidRequest               400  shape, type, range or enumeration
    │   ├── UnsupportedByModel           400  a rule of the model (image_generation_user_error)
    │   ├── Unauthenticated              401
    │   ├── Forbidden                    403
    │   ├── NotAllowedByKey              403  the caller's key may not ask for this
    │   ├── NotFound                     404
    │   ├── MethodNotAllowed             405
    │   ├── RequestTimeout               408
    │   ├── LinkExpired                  410
    │   ├── PayloadTooLarge              413
    │   ├── UnsupportedMediaType         415
    │   ├── IdempotencyMismatch          422
    │   ├── TooManyAttempts              429  somebody at this address guesses the admin token
    │   └── HeadersTooLarge              431
    ├── NotCached                        504  `only-if-cached` and there is no entry
    ├── PayerRefusal                     who would pay may not: nothing was sent upstream, and somebody else may pay
    │   ├── RateLimited                  429  a limit in time, or of places, of the key
    │   ├── BudgetExceeded               429  no room in the budget of the key or its team
    │   ├── BudgetReserved               429  the room is taken by calls in flight
    │   ├── Unpriced                     403  a money budget, and nobody knows what this costs
    │   └── KeyWithdrawn                 401  blocked, revoked or expired since the call came in
    ├── Unavailable                      ours: nothing was sent upstream, trying again may help
    │   ├── Draining                     503  this process is on its way out
    │   ├── DatabaseUnavailable          503  the database is locked, full, damaged or gone
    │   ├── CacheUnavailable             503  the cache directory cannot be looked into (admin API)
    │   ├── NoRoomForUpload              503  the disk is full, and so is what memory may hold of uploads
    │   └── QueueFull                    429  the upstream's connection limit, and its queue, are full
    ├── UpstreamError                    the upstream's
    │   ├── UpstreamRefusal              its own status and body, passed on as they came
    │   ├── UpstreamUnreachable          502  no connection: certainly not billed
    │   ├── UpstreamTimeout              504  the total deadline passed: may have been billed
    │   ├── UpstreamConnectionLost       502  ended before its announced length: may have been billed
    │   ├── UpstreamStreamFailure             an error among the events of a stream, passed on as it came
    │   └── UpstreamInvalidResponse      502  complete, but not an image reply: may have been billed
    ├── InternalError                    500  a defect of ours
    │   ├── ReplyLost                    500  received, perhaps billed, and lost here
    │   └── StatementRefused             500  the database refused what it was asked
    ├── StoreError                       the disk's: degrades to a miss, never reaches a caller
    └── ConfigurationError               the operator's: refuses to start

Every leaf that reaches a caller is rendered once, at the edge, in OpenAI's shape
`{"error": {"message", "type", "param", "code"}}` (OpenAI API reference, "Error").
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, ClassVar


class ImagegateError(Exception):
    """The root. `status`, `type` and `code` are the class's; `message` and `param` the instance's."""

    status: int = 500
    type: str = "server_error"
    code: str | None = None
    param: str | None = None
    should_retry: ClassVar[bool | None] = None
    """Sent as `x-should-retry`, which overrides the SDKs' own rule; None leaves it to them."""
    billed: bool = False
    """Whether the upstream may have charged for this call."""
    told_cost: Decimal | None = None
    """USD that the upstream says it charged all the same."""
    concerns_payer_only: ClassVar[bool] = False
    """A refusal of who would pay (a budget, a limit), which says nothing about the request itself."""

    def __init__(self, message: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.headers: dict[str, str] = dict(headers or {})

    def again(self) -> "ImagegateError":
        """A fresh exception of equal content: one exception raised in N tasks would grow N tracebacks."""
        twin = type(self).__new__(type(self), *self.args)
        twin.__dict__.update(self.__dict__)
        return twin

    def body(self) -> dict[str, Any]:
        """The error object of OpenAI's API; all four keys are always there."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


class RequestError(ImagegateError):
    """The caller's fault; nothing was sent upstream."""

    status = 400
    type = "invalid_request_error"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, headers=headers)
        if param is not None:
            self.param = param
        if code is not None:
            self.code = code


class InvalidRequest(RequestError):
    """Shape, type, range or enumeration: `invalid_request_error`."""


class UnsupportedByModel(RequestError):
    """A rule of the model itself: `image_generation_user_error`."""

    type = "image_generation_user_error"


class Unauthenticated(RequestError):
    status = 401
    code = "invalid_api_key"


class Forbidden(RequestError):
    status = 403
    code = "forbidden"


class NotAllowedByKey(RequestError):
    status = 403
    code = "not_allowed_by_key"


class NotFound(RequestError):
    status = 404
    code = "not_found"


class MethodNotAllowed(RequestError):
    status = 405
    code = "method_not_allowed"


class RequestTimeout(RequestError):
    status = 408
    code = "request_timeout"
    should_retry = False


class LinkExpired(RequestError):
    status = 410
    code = "link_expired"


class PayloadTooLarge(RequestError):
    status = 413
    code = "request_too_large"


class UnsupportedMediaType(RequestError):
    status = 415
    code = "unsupported_media_type"


class IdempotencyMismatch(RequestError):
    """The caller's `Idempotency-Key` stands for another request."""

    status = 422
    code = "idempotency_key_in_use"
    should_retry = False


class TooManyAttempts(RequestError):
    status = 429
    code = "too_many_attempts"


class HeadersTooLarge(RequestError):
    status = 431
    code = "headers_too_large"


class NotCached(ImagegateError):
    """`Cache-Control: only-if-cached` and no usable entry (RFC 9111 §5.2.1.7)."""

    status = 504
    type = "invalid_request_error"
    code = "not_cached"
    should_retry = False


class PayerRefusal(ImagegateError):
    """Who would pay may not. It says nothing about the request: another who waits for the same image may pay."""

    status = 429
    concerns_payer_only = True
    scope: str = "key"
    """Whose limit or budget it is: `key` or `team`."""


class RateLimited(PayerRefusal):
    """`kind` names the limit, which OpenAI says in `type`: `requests`, `images`."""

    type = "requests"
    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, kind: str = "requests", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message, headers=headers)
        self.type = kind


class BudgetExceeded(PayerRefusal):
    """In the shape of OpenAI's own `insufficient_quota`, which the SDKs know."""

    type = "insufficient_quota"
    code = "budget_exceeded"
    should_retry = False


class BudgetReserved(PayerRefusal):
    type = "insufficient_quota"
    code = "budget_reserved"


class Unpriced(PayerRefusal):
    status = 403
    type = "invalid_request_error"
    code = "model_unpriced"
    param = "model"


class KeyWithdrawn(PayerRefusal):
    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"


class Unavailable(ImagegateError):
    """Ours: nothing was sent upstream, and trying again may help."""

    status = 503


class Draining(Unavailable):
    code = "draining"


class DatabaseUnavailable(Unavailable):
    """`reason` is the database's own word, for the operator alone."""

    code = "database_unavailable"
    RETRY_AFTER_SECONDS: ClassVar[int] = 5

    def __init__(self, reason: str) -> None:
        message = "The database cannot be used right now. Please try again."
        super().__init__(message, headers={"retry-after": str(self.RETRY_AFTER_SECONDS)})
        self.reason = reason


class CacheUnavailable(Unavailable):
    code = "cache_unavailable"


class NoRoomForUpload(Unavailable):
    code = "no_room_for_upload"


class QueueFull(Unavailable):
    status = 429
    type = "rate_limit_error"
    code = "upstream_queue_full"


class UpstreamError(ImagegateError):
    """The upstream's fault."""

    status = 502


class UpstreamRefusal(UpstreamError):
    """The upstream said no, with a status that is not 200: passed on as it came.

    `content` is the reply's body, `media_type` its content type, `headers` those that may be passed on.
    """

    def __init__(self, status: int, content: bytes, media_type: str, headers: Mapping[str, str]) -> None:
        super().__init__(f"the upstream answered {status}", headers=headers)
        self.status = status
        self.content = content
        self.media_type = media_type


class UpstreamUnreachable(UpstreamError):
    code = "upstream_unreachable"


class UpstreamTimeout(UpstreamError):
    status = 504
    code = "upstream_timeout"
    should_retry = False
    billed = True


class UpstreamConnectionLost(UpstreamError):
    code = "upstream_connection_lost"
    should_retry = False
    billed = True


class UpstreamStreamFailure(UpstreamError):
    """The upstream said no among the events of a stream, whose status had been 200: its own words, as they came."""

    should_retry = False
    billed = True
    _STATUSES: ClassVar[Mapping[str, int]] = {
        "invalid_request_error": 400,
        "image_generation_user_error": 400,
        "insufficient_quota": 429,
        "rate_limit_error": 429,
    }

    def __init__(
        self, error: Mapping[str, Any], *, billed: bool = True, headers: Mapping[str, str] | None = None
    ) -> None:
        """`billed` is false for one that came before any picture: that is a refusal like another."""
        super().__init__(str(error.get("message") or "The upstream's stream ended with an error."), headers=headers)
        self.error = dict(error)
        self.billed = billed
        self.type = str(error.get("type") or self.type)
        self.code = error.get("code")
        self.status = self._STATUSES.get(self.type, self.status)

    def body(self) -> dict[str, Any]:
        standard = {"message": self.message, "type": self.type, "param": None, "code": None}
        return {"error": {**standard, **self.error}}


class UpstreamInvalidResponse(UpstreamError):
    code = "upstream_invalid_response"
    should_retry = False
    billed = True


class InternalError(ImagegateError):
    """A defect of ours; the request id is all a caller needs to report it."""

    code = "internal_error"
    should_retry = False


class ReplyLost(InternalError):
    billed = True


class StatementRefused(InternalError):
    """The database works. `reason` names no values."""

    def __init__(self, reason: str) -> None:
        super().__init__("The database refused what it was asked. This is a defect of imagegate.")
        self.reason = reason


class StoreError(ImagegateError):
    """The disk's: the caller of the store degrades to a miss."""


class ConfigurationError(ImagegateError):
    """The operator's. `problems` lists every one found, each prefixed with its path."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


def forget_frames(error: BaseException) -> None:
    """Once it has been told: an error and the frames that it passed through know each other, and such a circle would
    keep a caller's pictures on disk until a garbage collection that may be hours away."""
    seen: set[int] = set()
    following: list[BaseException | None] = [error]
    while following:
        current = following.pop()
        if current is not None and id(current) not in seen:
            seen.add(id(current))
            current.__traceback__ = None
            following += (current.__cause__, current.__context__)
