"""The options of `taskq worker`: our own, Celery's that have a meaning here, and those of Celery's that have none."""

from collections.abc import Callable, Mapping
from typing import Any

import click

from taskq.app import TaskQ
from taskq.cli.params import duration, names
from taskq.config.coerce import Range, parse
from taskq.config.layers import Source
from taskq.worker.process.supervisor import Seat, available_processors

LEVELS = ("debug", "info", "warning", "error", "critical")

#: Celery's name of a pool -> the one we go by.
_POOLS = {"threads": "threads", "solo": "solo", "prefork": "prefork", "processes": "prefork"}
#: Options that are settings of other names than `worker_<option>`.
_SETTINGS = {
    "time_limit": "task_time_limit",
    "soft_time_limit": "task_soft_time_limit",
    "http": "http_bind",
    "heartbeat_file": "heartbeat_file",
}


def _number_or_auto(text: str) -> int | str:
    if text == "auto":
        return text
    if not text.isdecimal() or not int(text):
        raise click.BadParameter("a number from 1 on, or auto")
    return int(text)


def _processes(text: str) -> int:
    number = _number_or_auto(text)
    return available_processors() if isinstance(number, str) else number


def _autoscale(text: str) -> tuple[int, int]:
    try:
        found: tuple[int, int] = parse(Range, text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not MAX,MIN, as in 10,3") from None
    return found


def _pool(text: str) -> str:
    if text in {"eventlet", "gevent"}:
        raise click.BadParameter(
            f"there is no {text} here: async def tasks run on the loop, -c of them at once"
        )
    if text not in _POOLS:
        raise click.BadParameter(f"{text!r} is none of {', '.join(sorted(_POOLS))}")
    return _POOLS[text]


_FILE = click.Path(dir_okay=False)
_OPTIONS = (
    click.option(
        "-Q",
        "--queues",
        type=names,
        metavar="NAMES",
        help="queues to take from, by comma; default: all of the app",
    ),
    click.option("-X", "--exclude-queues", type=names, metavar="NAMES", help="but not from these"),
    click.option(
        "-c",
        "--concurrency",
        type=_number_or_auto,
        metavar="N|auto",
        help="tasks that run at once (100); auto: as many as are needed and the event loop can carry",
    ),
    click.option(
        "--autoscale",
        type=_autoscale,
        metavar="MAX,MIN",
        help="instead: between MIN and MAX tasks at once, by load",
    ),
    click.option(
        "--threads", type=click.IntRange(1), metavar="N", help="of these, plain (not async) ones (16)"
    ),
    click.option(
        "-P",
        "--pool",
        type=_pool,
        metavar="POOL",
        help="where plain tasks run: threads (default), prefork (processes), solo (one at a time)",
    ),
    click.option(
        "--max-tasks-per-child",
        type=click.IntRange(1),
        metavar="N",
        help="replace a task's process after N runs",
    ),
    click.option(
        "--max-memory-per-child",
        type=click.IntRange(1),
        metavar="KB",
        help="replace it when it has used more",
    ),
    click.option(
        "--prefetch-multiplier",
        type=click.IntRange(0),
        metavar="N",
        help="hold up to N times as many as run (4)",
    ),
    click.option("--time-limit", type=duration, metavar="TIME", help="of tasks that have none of their own"),
    click.option("--soft-time-limit", type=duration, metavar="TIME", help="the same for the soft limit"),
    click.option("-I", "--include", type=names, metavar="MODULES", help="import these, too, for their tasks"),
    click.option(
        "-E",
        "--task-events",
        "send_task_events",
        is_flag=True,
        default=None,
        help="send events of tasks, for monitors",
    ),
    click.option(
        "-B", "--beat", is_flag=True, default=None, help="send periodic tasks, too; safe on every worker"
    ),
    click.option(
        "-n", "--hostname", metavar="NAME", help="node name: name@%h; %h host, %n its first part, %d the rest"
    ),
    click.option(
        "--grace", type=duration, metavar="TIME", help="time running tasks have when told to stop (25s)"
    ),
    click.option(
        "-l",
        "--loglevel",
        type=click.Choice(LEVELS, case_sensitive=False),
        default="info",
        show_default=True,
        help="least level to log",
    ),
    click.option(
        "--log-format",
        type=click.Choice(("text", "json")),
        default="text",
        show_default=True,
        help="lines for people or for machines",
    ),
    click.option(
        "-f", "--logfile", type=_FILE, metavar="PATH", help="log there instead of to standard error"
    ),
    click.option(
        "--pidfile",
        type=_FILE,
        metavar="PATH",
        help="write the process id there; start only if none lives there",
    ),
    click.option(
        "--processes",
        type=_processes,
        default="1",
        metavar="N|auto",
        help="worker processes, each with all of the above; auto: one per processor (1)",
    ),
    click.option(
        "--http",
        metavar="[HOST:]PORT",
        help="answer probes and show metrics there: /live /ready /metrics /status",
    ),
    click.option("--heartbeat-file", type=_FILE, metavar="PATH", help="touched every second while alive"),
    click.option("--seat", type=Seat.parse, hidden=True),
)

#: Options that tune what Celery alone has, and why they do nothing here.
_TUNING: Mapping[tuple[str, ...], str] = {
    ("--without-gossip",): "workers do not talk to each other",
    ("--without-mingle",): "revoked ids live in the broker",
    ("--without-heartbeat",): "there are events of life only with -E",
    ("--heartbeat-interval",): "there are events of life only with -E, every two seconds",
    ("-O", "--optimization"): "a free slot takes the next task, as with -Ofair",
    ("-S", "--statedb"): "revoked ids live in the broker",
    ("-s", "--schedule-filename"): "what schedulers share is in the ledger: the setting ledger_url",
    ("--disable-prefetch",): "a worker holds few messages with --prefetch-multiplier 1",
}
#: Options without which something else would happen than what was asked for, and what to do instead.
_ELSEWHERE: Mapping[tuple[str, ...], str] = {
    ("--uid",): "start the worker as that user (User= of systemd, docker run --user)",
    ("--gid",): "start the worker in that group (Group= of systemd, docker run --user)",
    ("--umask",): "set it where the worker is started (UMask= of systemd)",
    ("-D", "--detach"): "systemd or a container runs it in the background",
    ("--purge", "--discard"): "call taskq purge before",
}
#: Those of both that take no value.
_FLAGS = frozenset(
    [
        "--without-gossip",
        "--without-mingle",
        "--without-heartbeat",
        "--disable-prefetch",
        "--detach",
        "--discard",
    ]
)


def _foreign(words: tuple[str, ...], callback: Callable[..., None]) -> Callable[..., Any]:
    is_flag = words[-1] in _FLAGS
    return click.option(*words, is_flag=is_flag, hidden=True, expose_value=False, callback=callback)


def _tell(_ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value:
        click.echo(f"{param.opts[-1]} does nothing here: {_TUNING[tuple(param.opts)]}", err=True)


def _refuse(_ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value:
        raise click.UsageError(f"{param.opts[-1]} is Celery's alone: {_ELSEWHERE[tuple(param.opts)]}")


def worker_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """All of them; those that become settings are left to `override`."""
    options = [
        *_OPTIONS,
        *(_foreign(words, _tell) for words in _TUNING),
        *(_foreign(words, _refuse) for words in _ELSEWHERE),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def override(app: TaskQ, options: Mapping[str, Any], pool: str | None) -> None:
    """Options that are settings become settings, so that the whole program sees them."""
    if options["concurrency"] is not None or pool == "solo":  # they win over a range from elsewhere
        _set(app, "worker_autoscale", None, "concurrency")
    for setting, value in _of_pool(pool, options["concurrency"]).items():
        _set(app, setting, value, "pool")
    for option, value in options.items():
        if value is not None:
            _set(app, _SETTINGS.get(option, f"worker_{option}"), value, option)


def _of_pool(pool: str | None, concurrency: int | str | None) -> dict[str, Any]:
    """What a pool of Celery's means here. There `-c` is the number of its threads or processes."""
    known = isinstance(concurrency, int)
    if pool == "solo":
        return {"worker_concurrency": 1, "worker_threads": 1}
    if pool == "prefork":
        return {"worker_run_in": "process", **({"worker_pool_processes": concurrency} if known else {})}
    return {"worker_threads": concurrency} if pool == "threads" and known else {}


def _set(app: TaskQ, setting: str, value: Any, option: str) -> None:
    app.conf.set_from({setting: value}, Source.COMMAND_LINE, f"option --{option.replace('_', '-')}")
