"""What became of a task, told by its handle."""

import click

from taskq import states
from taskq.cli.output import print_json, print_value, to_json
from taskq.results.handles import AsyncResult
from taskq.seams.store import TaskResult


def tell(handle: AsyncResult[object], *, as_json: bool, traceback: bool) -> int:
    """Print the value on standard output, or on standard error why there is none; the exit code."""
    seen = handle.seen or TaskResult(handle.id, states.PENDING)
    if as_json:
        print_json(seen.payload())
    elif seen.state == states.SUCCESS:
        print_value(seen.value)
    elif seen.state in states.EXCEPTION:
        _tell_failure(handle, traceback=traceback)
    else:
        meta = "" if seen.value is None else f" {to_json(seen.value)}"
        unknown = " (or unknown)" if seen.state == states.PENDING else ""
        click.echo(f"{seen.state}{unknown}{meta}", err=True)
    return 0 if seen.state == states.SUCCESS else 1


def _tell_failure(handle: AsyncResult[object], *, traceback: bool) -> None:
    if traceback and handle.traceback:
        click.echo(handle.traceback.rstrip(), err=True)
    error = handle.result
    text = f"{type(error).__name__}: {error}".removesuffix(": ")
    click.echo(f"{click.style(f'{handle.state}:', fg='red')} {text}", err=True)
