"""How many slots a worker should have: the rule. Knows no clock: the caller brings `now`."""

from dataclasses import dataclass

#: The event loop is in time when it is less late than this, and overloaded when it is later than that, in seconds.
IN_TIME, LATE = 0.02, 0.1
#: Slots that were not needed for so many seconds go.
UNUSED = 30.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """The most and the fewest slots."""

    most: int
    least: int


#: What `--concurrency auto` means. The event loop sets the limit in practice; the bound is for memory.
AUTO = Bounds(1000, 10)


class Scale:
    """Twice as many slots while tasks wait for one and the loop is in time; once it was late, an eighth more or fewer.

    When all processor time is used, each slot more makes the loop later and gets no more done: so the number comes to
    rest at about what the loop can carry. (Doubling and halving to the end would swing between half and twice that.)
    """

    def __init__(self, bounds: Bounds, now: float) -> None:
        self.bounds = bounds
        self.slots = bounds.least
        self._since = now
        self._needed = 0
        self._was_late = False

    def next(self, now: float, *, busiest: int, waiting: bool, lag: float) -> int:
        """How many there should be from now on.

        Args:
            now: in seconds, from any zero.
            busiest: the most runs at the same time since the last call.
            waiting: whether all slots were taken meanwhile and more could have run.
            lag: how late the loop was meanwhile, in seconds.
        """
        self._needed = max(self._needed, busiest)
        wanted = self.slots
        if lag > LATE:
            self._was_late = True
            wanted = min(wanted, busiest)
            wanted -= max(1, wanted // 8)
        elif waiting and lag < IN_TIME:
            wanted += max(1, wanted // 8) if self._was_late else wanted
        elif now - self._since >= UNUSED:
            self._was_late = False
            wanted = min(wanted, self._needed)
            self._since, self._needed = now, busiest
        return self._set(wanted, now, busiest)

    def move(self, bounds: Bounds, now: float) -> int:
        """Other bounds; how many slots there should be within them."""
        self.bounds = bounds
        return self._set(self.slots, now, self._needed)

    def _set(self, wanted: int, now: float, busiest: int) -> int:
        wanted = max(self.bounds.least, min(self.bounds.most, wanted))
        if wanted != self.slots:
            self.slots, self._since, self._needed = wanted, now, busiest
        return wanted
