"""Dead letters: which one is meant, sending them again, dropping them."""

from collections.abc import Sequence
from dataclasses import replace

import click

from taskq.app import TaskQ
from taskq.errors import DecodeError, OperationalError, PublishErrors, Refused
from taskq.wire.message import DeadLetter, Message
from taskq.wire.signing import sign, verify

#: More letters than any broker keeps.
_ALL = 1_000_000
#: Letters sent in one batch.
_BATCH = 500


async def all_letters(app: TaskQ) -> Sequence[DeadLetter]:
    """The dead letters, newest first. Raises OperationalError."""
    return await (await app.open_broker()).dead(_ALL)


def task_id_of(letter: DeadLetter) -> str:
    """The id of the task it is about, "" if it cannot be read."""
    return str(letter.message.headers.get("id") or "") if letter.message else ""


def name_of(letter: DeadLetter) -> str:
    """The name of the task it is about."""
    return str(letter.message.headers.get("task") or "?") if letter.message else "(unreadable)"


def chosen(letters: Sequence[DeadLetter], ids: Sequence[str]) -> list[DeadLetter]:
    """The letters that ids mean: of a letter or of a task, whole or how it begins if that is enough.

    Raises:
        click.ClickException: an id means none, or several.
    """
    found = {letter.id: letter for id_ in ids for letter in _meant(letters, id_)}
    return list(found.values())


def _meant(letters: Sequence[DeadLetter], id_: str) -> list[DeadLetter]:
    for matches in (
        [letter for letter in letters if letter.id == id_],
        [letter for letter in letters if task_id_of(letter) == id_],
    ):
        if matches:
            return matches
    matches = [
        letter for letter in letters if letter.id.startswith(id_) or task_id_of(letter).startswith(id_)
    ]
    if len({task_id_of(letter) or letter.id for letter in matches}) == 1:
        return matches
    if not matches:
        raise click.ClickException(f"no dead letter {id_!r}: taskq dead ls lists them")
    raise click.ClickException(f"{id_!r} may be any of {len(matches)} dead letters: give more of it")


async def send_again(app: TaskQ, letters: Sequence[DeadLetter]) -> dict[str, str]:
    """Publish letters to the queues they were in, then remove them: a crash between may run a task twice, and loses none.

    Returns why letters were not sent, by their id.

    Raises:
        OperationalError: the broker could not be reached; what was not sent is still there.
    """
    broker = await app.open_broker()
    failures: dict[str, str] = {}
    for start in range(0, len(letters), _BATCH):
        batch = letters[start : start + _BATCH]
        readable: list[tuple[str, Message]] = []
        for letter in batch:
            try:
                readable.append((letter.id, _again(letter, app.conf.security_secrets)))
            except DecodeError as error:
                failures[letter.id] = f"{error}: it can only be removed"
        refused: dict[int, OperationalError | Refused] = {}
        try:
            await broker.publish([message for _, message in readable])
        except PublishErrors as errors:
            refused = dict(errors.failures)
        failures |= {readable[index][0]: str(error) for index, error in refused.items()}
        await broker.revive([id_ for index, (id_, _) in enumerate(readable) if index not in refused])
    return failures


def _again(letter: DeadLetter, secrets: Sequence[str]) -> Message:
    """Straight to its queue: an exchange may have several, and only this one's copy died. Its retries begin anew.

    Raises:
        DecodeError: it cannot be read, or nobody we trust has signed it: then we do not, either.
    """
    if letter.message is None:
        raise DecodeError("it cannot be read")
    verify(letter.message, secrets)
    headers = {**letter.message.headers, "retries": 0}
    message = replace(letter.message, headers=headers, exchange="", routing_key=letter.queue, due=None)
    sign([message], secrets)
    return message


async def drop(app: TaskQ, letters: Sequence[DeadLetter]) -> int:
    """Remove letters; how many were still there. Raises OperationalError."""
    broker = await app.open_broker()
    return len(await broker.revive([letter.id for letter in letters]))
