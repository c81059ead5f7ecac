"""A worker as a process: connecting at start, signals, exit codes."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Collection, Coroutine, Iterator
from types import FrameType
from typing import Any

from taskq.errors import OperationalError, StoreError
from taskq.seams.broker import open_broker
from taskq.seams.store import open_store
from taskq.worker.health.stacks import describe_stacks
from taskq.worker.process.deadline import Deadline
from taskq.worker.process.outage import BROKER, OUTAGES
from taskq.worker.process.pulse import PULSE
from taskq.worker.run.job import Job
from taskq.worker.worker import Stop, Worker

logger = logging.getLogger("taskq.worker")

#: Seconds after the grace period at which a process that was told to stop is over, whatever it waits for.
LAST = 1.0

EXIT_OK, EXIT_UNCLEAN, EXIT_INTERRUPTED = 0, 1, 130

#: Pauses between two tries to connect at start, in seconds: growing by the first, up to the second.
RETRY_STEP, RETRY_MAX = 1.0, 10.0

#: While something is away: seconds between two looks whether it is back, and for each of them.
PROBE, PROBE_TIMEOUT = 1.0, 5.0

_STACK_SIGNALS = (signal.SIGUSR1, signal.SIGTTIN)
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)


class WorkerProcess:
    """Runs a worker until a signal ends it: `exit_code = await WorkerProcess(worker).run()`.

    TERM: running tasks have the grace period. INT: likewise; the second time they are cancelled and given back, the
    third time the process leaves at once. QUIT: cancelled and given back now. HUP: as TERM, and `restart` is true
    afterwards. USR1, TTIN: stacks of all threads and coroutines to standard error. REMAP_SIGTERM=SIGQUIT makes TERM
    a QUIT.

    Args:
        worker: not yet running.
        deadline: begins when it is told to stop, unless it is to begin anew.

    Attributes:
        restart: whether the process is to begin anew.
    """

    def __init__(self, worker: Worker, deadline: Deadline | None = None) -> None:
        self.worker = worker
        self._deadline = deadline
        if deadline is not None:
            deadline.left = self._left
        self.restart = False
        self._interrupts = 0
        self._told = False
        self._stopping = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    async def run(self) -> int:
        """Work until told to stop; the exit code.

        Raises:
            OperationalError, StoreError: broker or result store could not be reached, and the settings say to give up.
        """
        conf = self.worker.app.conf
        OUTAGES.one_server = conf.result_backend in {None, conf.broker_url}
        watching = asyncio.create_task(self._tell_ends_of_outages(), name="taskq-outages")
        try:
            with self._signals(), PULSE.beating():
                await self._work()
        finally:
            watching.cancel()
        if self._interrupts > 1:
            return EXIT_INTERRUPTED
        return EXIT_OK if self.worker.clean else EXIT_UNCLEAN

    # --- connecting -----------------------------------------------------------------------------------------

    async def _work(self) -> None:
        """Connect and work; a start that fails is made again, for as long as the settings say."""
        tries = 0
        while (error := await self._try()) is not None:
            tries += 1
            if self.worker.begun or not self._may_retry(tries):
                raise error
            pause = min(tries * RETRY_STEP, RETRY_MAX)
            logger.error("%s; trying again in %.0fs", error, pause)
            await self._unless_stopped(asyncio.sleep(pause))

    async def _try(self) -> OperationalError | StoreError | None:
        """Work until told to stop, or until what this gives back prevents it."""
        if self._stopping.is_set():
            return None
        try:
            if await self._unless_stopped(self._open()):
                await self.worker.run()
        except (OperationalError, StoreError) as error:
            return error
        return None

    async def _open(self) -> None:
        connection = self.worker.app.shared_connection()
        await connection.open_broker()
        await connection.open_store()

    def _may_retry(self, tries: int) -> bool:
        conf = self.worker.app.conf
        at_start = conf.broker_connection_retry_on_startup
        limit = conf.broker_connection_max_retries
        wanted = conf.broker_connection_retry if at_start is None else at_start
        return wanted and (not limit or tries <= limit)

    async def _unless_stopped(self, work: Coroutine[Any, Any, None]) -> bool:
        """Do it; False if told to stop before it is done."""
        doing = asyncio.ensure_future(work)
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait([doing, stopping], return_when=asyncio.FIRST_COMPLETED)
            if doing.done():
                doing.result()
            return doing.done()
        finally:
            for task in (doing, stopping):
                task.cancel()
            await asyncio.wait([doing, stopping])

    # --- outages --------------------------------------------------------------------------------------------

    async def _tell_ends_of_outages(self) -> None:
        """By connections of our own: what met the outage may be silent about its end."""
        while True:
            await asyncio.sleep(PROBE)
            for what in OUTAGES.away:
                if await self._answers(what):
                    if (seconds := OUTAGES.over(what)) is not None:
                        logger.warning("the %s is back after %.0f s", what, seconds)
                elif OUTAGES.lasts(what):
                    logger.warning("the %s is away again", what)

    async def _answers(self, what: str) -> bool:
        app = self.worker.app
        server = open_broker(app.broker_config()) if what == BROKER else open_store(app.store_config())
        try:
            async with asyncio.timeout(PROBE_TIMEOUT):
                await server.open()
        except (OperationalError, StoreError, TimeoutError):
            return False
        else:
            return True
        finally:
            with contextlib.suppress(OperationalError, StoreError, TimeoutError):
                async with asyncio.timeout(PROBE_TIMEOUT):
                    await server.close()

    # --- signals --------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Handlers of Python, not of the loop: they run also while a task blocks the loop."""
        handlers = {
            **dict.fromkeys(_STOP_SIGNALS, self._told_to_stop),
            **dict.fromkeys(_STACK_SIGNALS, self._show_stacks),
        }
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _told_to_stop(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > 2:
                os._exit(EXIT_INTERRUPTED)
        if self._deadline is not None and not self._told and number != signal.SIGHUP:
            self._told = True
            self._deadline.begin()
        self._loop.call_soon_threadsafe(self._stop, number)

    def _stop(self, number: int) -> None:
        if number == signal.SIGTERM and os.environ.get("REMAP_SIGTERM") == "SIGQUIT":
            number = signal.SIGQUIT
        # With the terminal gone nobody would see a worker that begins anew.
        self.restart = number == signal.SIGHUP and not sys.stderr.isatty()
        cold = number == signal.SIGQUIT or self._interrupts > 1
        self._announce(number, cold=cold)
        self._stopping.set()
        self.worker.stop(Stop.COLD if cold else Stop.WARM)

    def _announce(self, number: int, *, cold: bool) -> None:
        again = ""
        if number == signal.SIGINT:
            again = "; Ctrl-C again to " + ("leave at once" if cold else "cancel them")
        running = self.worker.running
        if not running:
            logger.warning("stopping (%s)", signal.Signals(number).name)
        elif cold:
            logger.warning(
                "cancelling %s and giving them back%s", describe(running, self._loop.time()), again
            )
        else:
            what = describe(running, self._loop.time())
            logger.warning("waiting up to %gs for %s%s", self.worker.grace, what, again)

    def _left(self) -> str:
        """For the deadline's thread."""
        running, held = self.worker.running.copy(), self.worker.held
        ran = f" and {describe(running, self._loop.time())} did not end" if running else ""
        if not held:
            return f"{ran}: a connection could not be closed"
        return f"{ran}; messages not settled: {held}, they are run again when their leases end"

    def _show_stacks(self, _number: int, _frame: FrameType | None) -> None:
        # Not through sys.stderr: the signal may have come while something was being written there.
        os.write(2, describe_stacks(self._loop, self.worker.running).encode("utf-8", "backslashreplace"))


def describe(running: Collection[Job], now: float, shown: int = 5) -> str:
    """What runs and for how long: `2 tasks (report 12s, mail 1s)`, the longest first."""
    jobs = sorted(running, key=lambda job: job.started)
    names = [f"{job.request.name.rpartition('.')[2]} {now - job.started:.0f}s" for job in jobs[:shown]]
    if len(jobs) > shown:
        names.append(f"{len(jobs) - shown} more")
    return f"{len(jobs)} task{'' if len(jobs) == 1 else 's'} ({', '.join(names)})"


def begin_anew(folder: str) -> None:
    """Replace this process by the same command, in the folder it was started in: the process id stays."""
    os.chdir(folder)
    logging.shutdown()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - our own command line
