"""`taskq dead`: the letters that could not be delivered."""

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any

import click

from taskq.app import TaskQ
from taskq.cli.apps import app_or_settings, connected
from taskq.cli.letters import all_letters, chosen, drop, name_of, send_again, task_id_of
from taskq.cli.output import counted, iso, json_option, print_json, print_table, span, to_json
from taskq.cli.state import Group, confirm, get_state
from taskq.clock import now
from taskq.printable import printable
from taskq.wire.message import DeadLetter


@click.group(cls=Group)
def dead() -> None:
    """Tasks that could not be run, kept with the reason. IDs are those of letters or tasks, or how they begin."""


def _choice(function: Callable[..., Any]) -> Callable[..., Any]:
    """How letters are chosen to be acted on."""
    options = (
        click.argument("ids", nargs=-1, metavar="[IDS]..."),
        click.option("--all", "everything", is_flag=True, help="all of them"),
        click.option("-Q", "--queue", metavar="NAME", help="of --all, those of this queue"),
        click.option("--dry-run", is_flag=True, help="only tell which"),
    )
    for option in reversed(options):
        function = option(function)
    return function


@dead.command()
@click.option("-Q", "--queue", metavar="NAME", help="only those of this queue")
@click.option(
    "--limit", type=click.IntRange(1), default=100, show_default=True, help="at most so many, newest first"
)
@json_option
def ls(*, queue: str | None, limit: int, as_json: bool) -> None:
    """List them, the newest first."""
    state = get_state()
    letters = [
        letter
        for letter in connected(app_or_settings(state), all_letters)
        if queue is None or letter.queue == queue
    ][:limit]
    if as_json:
        for letter in letters:
            print_json(_as_data(letter))
    elif letters:
        print_table(_rows(letters), ("ID", "TASK", "QUEUE", "AGE", "REASON"))
    else:
        state.say("no dead letters")


@dead.command()
@click.argument("letter_id", metavar="ID")
@json_option
def show(*, letter_id: str, as_json: bool) -> None:
    """Show all there is of one."""
    for letter in chosen(connected(app_or_settings(get_state()), all_letters), [letter_id]):
        data = _as_data(letter) | _content(letter)
        if as_json:
            print_json(data)
        else:
            for name, value in data.items():
                click.echo(f"{name:<12} {printable(value) if isinstance(value, str) else to_json(value)}")


@dead.command()
@_choice
def retry(*, ids: tuple[str, ...], everything: bool, queue: str | None, dry_run: bool) -> int:
    """Send them again, to the queues they were in. Their retries are counted anew."""
    app = app_or_settings(get_state())
    letters = _choose(app, ids, everything=everything, queue=queue)
    if dry_run:
        _tell_choice("send", letters)
        return 0
    failures = connected(app, lambda app: send_again(app, letters))
    for letter in letters:
        if letter.id in failures:
            click.echo(printable(f"{letter.id}: {failures[letter.id]}"), err=True)
    click.echo(f"sent {counted(len(letters) - len(failures), 'task')} again")
    return 1 if failures else 0


@dead.command()
@_choice
@click.option("-f", "--force", is_flag=True, help="do not ask")
def purge(*, ids: tuple[str, ...], everything: bool, queue: str | None, dry_run: bool, force: bool) -> None:
    """Remove them. There is no undo."""
    app = app_or_settings(get_state())
    letters = _choose(app, ids, everything=everything, queue=queue)
    if dry_run:
        _tell_choice("remove", letters)
        return
    if not force:
        confirm(f"Remove {counted(len(letters), 'dead letter')}?")
    removed = connected(app, lambda app: drop(app, letters))
    click.echo(f"removed {counted(removed, 'dead letter')}")


def _choose(app: TaskQ, ids: Sequence[str], *, everything: bool, queue: str | None) -> list[DeadLetter]:
    if bool(ids) is everything:
        raise click.UsageError("say which: IDs, or --all")
    letters = connected(app, all_letters)
    if ids:
        return chosen(letters, ids)
    return [letter for letter in letters if queue is None or letter.queue == queue]


def _tell_choice(verb: str, letters: Sequence[DeadLetter]) -> None:
    click.echo(f"would {verb} {counted(len(letters), 'dead letter')}")
    for row in _rows(letters):
        click.echo(printable("  ".join(row)))


def _rows(letters: Sequence[DeadLetter]) -> Iterator[tuple[str, str, str, str, str]]:
    """What a person is shown of each; ids are as long as they must be to differ."""
    length = next(n for n in count(8) if len({letter.id[:n] for letter in letters}) == len(letters))
    for letter in letters:
        task_id = task_id_of(letter)
        task = f"{name_of(letter)}[{task_id[:8]}]" if task_id else name_of(letter)
        yield letter.id[:length], task, letter.queue, span(now() - letter.at), letter.reason


def _as_data(letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": letter.id,
        "task_id": task_id_of(letter) or None,
        "task": name_of(letter),
        "queue": letter.queue,
        "at": iso(letter.at),
        "reason": letter.reason,
    }


def _content(letter: DeadLetter) -> dict[str, Any]:
    message = letter.message
    if message is None:
        return {"raw": letter.raw.decode("utf-8", "backslashreplace")}
    return {
        "content_type": message.content_type,
        "headers": message.headers,
        "body": message.body.decode("utf-8", "backslashreplace"),
    }
