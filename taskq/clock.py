"""Time, as a parameter: what decides by the clock is handed one."""

import time
from collections.abc import Callable

#: Wall clock in Unix seconds. Due times and leases use it, because other machines must agree on them.
Now = Callable[[], float]

now: Now = time.time
