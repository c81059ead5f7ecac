"""Tasks that run in processes of their own; imported there by this name."""

import logging
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

from taskq import TaskQ
from taskq.errors import SoftTimeLimitExceeded

app = TaskQ("heavy", broker="memory://heavy", backend="memory://heavy", worker_pool_processes=2)


class Picky(Exception):
    """Cannot be built from its `args`, as many people's exceptions."""

    def __init__(self, code: int, *, why: str) -> None:
        super().__init__(f"{code}: {why}")


@app.task(run_in="process")
def pid() -> int:
    return os.getpid()


@app.task(bind=True, run_in="process")
def told(self: Any) -> dict[str, Any]:
    self.update_state("HALFWAY", {"pid": os.getpid()})
    self.progress(1, 2)
    logging.getLogger("heavy.told").info("in %s", "a child")
    return {"id": self.request.id, "args": list(self.request.args), "hostname": self.request.hostname}


@app.task(bind=True, run_in="process")
def tells(self: Any, what: str) -> str:
    """Hands over something that its worker cannot read."""
    if what == "log":
        logging.getLogger("heavy.told").error("it broke", extra={"why": Picky(3, why="no"), "part": 7})
    elif what == "foreign log":
        logging.getLogger("heavy.told").error("it broke", extra={"why": _foreign()})
    elif what == "state":
        self.update_state("BROKEN", {"why": Picky(3, why="no")})
    else:
        self.update_state("BROKEN", {"why": _foreign()})
    return "done"


def _foreign() -> Any:
    """Of a class that exists in this process alone, yet comes out of its pickle here."""
    module = types.ModuleType("heavy_foreign")
    exec("class Thing: pass", module.__dict__)
    sys.modules[module.__name__] = module
    return module.Thing()


@app.task(run_in="process")
def waits(begun: str, release: str) -> str:
    Path(begun).touch()
    while not Path(release).exists():
        time.sleep(0.01)
    return "done"


@app.task(run_in="process", autoretry_for=(KeyError,), max_retries=1, default_retry_delay=0)
def fails(kind: str) -> None:
    if kind == "picky":
        raise Picky(3, why="no")
    if kind == "exit":
        sys.exit(4)
    raise KeyError(kind)


@app.task(run_in="process")
def unpicklable() -> Any:
    return lambda: None


@app.task(run_in="process", soft_time_limit=0.3)
def soft(*, catches: bool) -> str:
    try:
        while True:
            sum(range(1000))
    except SoftTimeLimitExceeded:
        if catches:
            return "cleaned up"
        raise


@app.task(time_limit=0.5)
def endless(path: str) -> None:
    """Goes to a process by its hard limit alone; so does what it starts."""
    helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(path).write_text(f"{os.getpid()} {helper.pid}")
    time.sleep(600)


@app.task(run_in="process")
def sleeps(path: str) -> None:
    Path(path).write_text(str(os.getpid()))
    time.sleep(600)


@app.task(run_in="process")
def dies(path: str, times: int) -> int:
    with Path(path).open("a") as log:
        log.write("x")
    if len(Path(path).read_text()) <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return times


@app.task(run_in="process", acks_late=False)
def dies_early() -> None:
    os._exit(9)


@app.task(run_in="process")
def greedy(megabytes: int) -> int:
    return len(bytearray(megabytes * 1024 * 1024)) and os.getpid()
