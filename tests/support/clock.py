"""A clock that is turned by hand."""


class ManualClock:
    """Time passes when `advance` says so; `jump` is what an administrator or NTP does to the wall clock alone."""

    def __init__(self, wall: float = 1_795_000_000.0, monotonic: float = 1_000.0) -> None:
        self._wall = wall
        self._monotonic = monotonic

    def wall(self) -> float:
        return self._wall

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        self._wall += seconds
        self._monotonic += seconds

    def jump(self, seconds: float) -> None:
        self._wall += seconds
