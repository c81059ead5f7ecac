"""What outcomes do to the result store: parts return to their chords, states are stored."""

import logging
from collections.abc import Callable, Mapping, Sequence

from taskq.app import TaskQ
from taskq.errors import EncodeError, Refused, SaveErrors, StoreError
from taskq.run.decide import decide_joined, decide_unjoined
from taskq.run.outcome import ChordPart, Further, Outcome
from taskq.run.seals import Seals
from taskq.run.stored import failure_of
from taskq.seams.retry import retry_until_done
from taskq.seams.store import Claimed, Joined, ResultStore
from taskq.states import READY
from taskq.wire.result import TaskResult
from taskq.worker.effects.entries import Record

logger = logging.getLogger("taskq.worker")

#: Outcomes whose result the store will never take, and why.
Unwritten = Mapping[Outcome, Exception]


class Storing:
    """The store's side of outcomes. A result that it refuses for good becomes a failure with a short error instead."""

    def __init__(self, store: ResultStore, app: TaskQ, now: Callable[[], float]) -> None:
        self._store = store
        self._app = app
        self._now = now
        self._seals = Seals(app.store_config().serializer, app.conf.security_secrets)

    # --- parts ----------------------------------------------------------------------------------------------

    async def join(self, batch: Sequence[Outcome]) -> tuple[list[Outcome], Unwritten]:
        """Have all parts return at once; whoever brings the last one gets what follows it.

        Tells which outcomes have parts that cannot return now, and those whose result can never be stored.
        """
        asked = [(outcome, part) for outcome in batch for part in outcome.parts]
        answers = await self._answers([part for _, part in asked])
        kept: dict[Outcome, list[ChordPart]] = {}
        unwritten: dict[Outcome, Exception] = {}
        for outcome in batch:
            outcome.parts = ()
        for (outcome, part), answer in zip(asked, answers, strict=True):
            if isinstance(answer, StoreError | Claimed):
                kept.setdefault(outcome, []).append(part)
            elif isinstance(answer, EncodeError | Refused) and _is_success(outcome):
                unwritten[outcome] = answer
            elif answer is not None:
                self._ended(outcome, part, answer)
        for outcome, parts in kept.items():
            outcome.parts = [*parts, *outcome.parts]
        return list(kept), unwritten

    async def _answers(self, parts: Sequence[ChordPart]) -> Sequence[Joined]:
        answers: list[Joined] = [None] * len(parts)
        sealed: dict[int, TaskResult] = {}
        for number, part in enumerate(parts):
            try:
                sealed[number] = self._seals.seal(part.result)
            except EncodeError as error:
                answers[number] = error
        try:
            joined = await self._store.join_many(
                [(result, parts[number].index) for number, result in sealed.items()]
            )
        except StoreError as error:
            joined = [error] * len(sealed)
        for number, answer in zip(sealed, joined, strict=True):
            answers[number] = answer
        for text in {str(answer) for answer in answers if isinstance(answer, StoreError)}:
            logger.warning("could not join a chord, trying again: %s", text)
        return answers

    def _ended(self, outcome: Outcome, part: ChordPart, answer: Sequence[TaskResult] | Exception) -> None:
        """A chord has come to its end."""
        try:
            outcome.add(self._further(outcome, part, answer))
        except Exception:
            logger.exception("could not end the chord %s", part.result.group_id)

    def _further(
        self, outcome: Outcome, part: ChordPart, answer: Sequence[TaskResult] | Exception
    ) -> Further:
        if isinstance(answer, Exception):
            logger.error("%s can never return to its chord: %s", part.result.task_id, answer)
            return decide_unjoined(self._app, part, answer)
        opened = self._seals.opened(answer, str(part.result.group_id))
        further = decide_joined(self._app, part, opened)
        if further.child and any(result is part.result for result in outcome.results):
            part.result.children = [*(part.result.children or ()), further.child]
        return further

    # --- states ---------------------------------------------------------------------------------------------

    async def keep(self, items: Sequence[Outcome | Record]) -> Unwritten:
        """Store all their states, in order; tells which outcomes have a SUCCESS that can never be stored."""
        results = [result for item in items for result in item.results]
        failures = await self._written(results) if results else {}
        if not failures:
            return {}
        owners = [item for item in items for _ in item.results]
        unwritten: dict[Outcome, Exception] = {}
        for index, error in failures.items():
            owner = owners[index]
            if isinstance(owner, Outcome) and _is_success(owner):
                unwritten[owner] = error
            else:
                await self._save_instead(results[index], error)
        return unwritten

    async def _written(self, results: Sequence[TaskResult]) -> Mapping[int, Exception]:
        """Store them; those that can never be stored, by their index."""
        return await retry_until_done("store results", lambda: self._write(results), StoreError)

    async def _write(self, results: Sequence[TaskResult]) -> Mapping[int, Exception]:
        try:
            await self._store.save(results)
        except SaveErrors as errors:
            return errors.failures
        except (EncodeError, Refused) as error:
            if len(results) == 1:
                return {0: error}
            alone = [await self._written([result]) for result in results]
            return {index: failures[0] for index, failures in enumerate(alone) if failures}
        return {}

    async def _save_instead(self, result: TaskResult, error: Exception) -> None:
        """A short failure in place of a final state; a state in between is dropped, and its task goes on."""
        logger.error("the state %s of %s cannot be stored: %s", result.state, result.task_id, error)
        if result.state in READY:
            failure = failure_of(result.task_id, error, now=self._now(), like=result)
            for refusal in (await self._written([failure])).values():
                logger.error("nor can its failure: %s", refusal)


def _is_success(outcome: Outcome) -> bool:
    """Whether it tells of a value, and of no failure yet."""
    return outcome.news is not None and outcome.news.event == "succeeded"
