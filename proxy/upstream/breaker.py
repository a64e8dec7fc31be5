"""The circuit breaker: an upstream that keeps failing rests, while another can take its requests."""

from proxy.clock import Clock

FAILURES_TO_REST = 5
REST_SECONDS = 30.0


class Breaker:
    """Counts failures in a row of one upstream. What counts is the router's business."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failures = 0
        self._rests_until = 0.0

    def failed(self) -> None:
        self._failures += 1
        if self._failures >= FAILURES_TO_REST:
            self._rests_until = self._clock.monotonic() + REST_SECONDS

    def succeeded(self) -> None:
        self._failures = 0
        self._rests_until = 0.0

    @property
    def rests(self) -> bool:
        """While it rests; after that the next call is let through, and one more failure lets it rest again."""
        return self._failures >= FAILURES_TO_REST and self._clock.monotonic() < self._rests_until
