"""Who has failed to show the admin token, and how often of late: guessing is given ten tries a minute."""

from collections import deque

from proxy.clock import Clock

MOST_FAILURES = 10
WINDOW_SECONDS = 60.0
MOST_CLIENTS = 4096


class Attempts:
    """A bounded table: of too many clients the one whose last failure is the oldest is forgotten."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failures: dict[str, deque[float]] = {}
        """Monotonic times of each client's last failures; clients in the order of their last one."""

    def wait_seconds(self, client: str) -> float:
        """How long nothing that this client sends is looked at; 0 if it may try."""
        failures = self._failures.get(client)
        if failures is None or len(failures) < MOST_FAILURES:
            return 0
        return max(0.0, failures[0] + WINDOW_SECONDS - self._clock.monotonic())

    def failed(self, client: str) -> None:
        failures = self._failures.pop(client, None) or deque(maxlen=MOST_FAILURES)
        failures.append(self._clock.monotonic())
        self._failures[client] = failures
        if len(self._failures) > MOST_CLIENTS:
            del self._failures[next(iter(self._failures))]
