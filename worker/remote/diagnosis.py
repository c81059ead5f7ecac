"""The commands that help to find what is wrong: versions, settings, memory (wire-format.md 8.4)."""

import os
import platform
from collections import deque
from pathlib import Path
from typing import Any

from taskq.seams.urls import mask
from taskq.version import VERSION
from taskq.worker.remote.inspection import Data, conf
from taskq.worker.remote.panel import Panel, command

#: What `memsample` has seen, for `memdump`.
_samples: deque[str] = deque(maxlen=1000)


@command("inspect")
def report(panel: Panel, **_: Any) -> Data:
    """Versions and settings, for a bug report."""
    settings = panel.app.conf
    lines = [
        f"software -> taskq:{VERSION} py:{platform.python_version()}",
        f"platform -> system:{platform.system()} arch:{platform.machine()} release:{platform.release()}",
        f"broker -> {mask(settings.broker_url)}",
        f"results -> {mask(panel.app.store_config().url)}",
        "",
        *(f"{name}: {value!r}" for name, value in conf(panel).items()),
    ]
    return {"ok": "\n".join(lines)}


@command("inspect")
def memsample(_panel: Panel, **_: Any) -> str | None:
    """Memory in use."""
    used = _resident()
    if used is not None:
        _samples.append(used)
    return used


@command("inspect", arguments="samples?")
def memdump(_panel: Panel, samples: int = 10, **_: Any) -> str:
    """What `memsample` has seen, at most so many of it evenly spread, and memory in use now."""
    used = _resident()
    if used is None:
        return "- rss: (not known on this system).\n"
    seen = list(_samples)[:: -(-len(_samples) // max(1, samples)) or 1]
    lines = ["- rss (sample):", *(f"-    > {one}," for one in seen)] if seen else []
    return "\n".join([*lines, f"- rss (end): {used}.", ""])


@command("inspect", arguments="type? num? max_depth?")
def objgraph(_panel: Panel, **_: Any) -> None:
    """Not here: it would hold up the event loop. USR1 shows what runs, `--http` the memory over time."""
    raise ValueError("Object graphs not enabled")


def _resident() -> str | None:
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:  # not Linux
        return None
    return f"{pages * os.sysconf('SC_PAGE_SIZE') / 2**20:.2f}MB"
