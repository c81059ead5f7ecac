"""Workflows that Celery and taskq write alike: each is built with either's `chain`, `group` and `chord`.

Run as a program it is the Celery side: `worker`, or `client`, which prints what comes of each workflow as JSON.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Words(NamedTuple):
    """One library's words; `s` makes a signature by name, `si` an immutable one."""

    chain: Callable[..., Any]
    group: Callable[..., Any]
    chord: Callable[..., Any]
    s: Callable[..., Any]
    si: Callable[..., Any]


def add(w: Words, *args: int) -> Any:
    return w.s("interop.add", *args)


def xsum(w: Words) -> Any:
    return w.s("interop.xsum")


#: Name -> the workflow, and what comes of it: a value, or the name of the error.
CASES: Mapping[str, tuple[Callable[[Words], Any], Any]] = {
    "chain": (lambda w: w.chain(add(w, 2, 2), add(w, 4), add(w, 8)), 16),
    "pipes": (lambda w: add(w, 2, 2) | w.si("interop.add", 1, 1) | add(w, 8), 10),
    "group": (lambda w: w.group(add(w, i, i) for i in range(5)), [0, 2, 4, 6, 8]),
    "chord": (lambda w: w.chord([add(w, i, i) for i in range(10)], xsum(w)), 90),
    "group then task": (lambda w: w.group(add(w, 1, 1), add(w, 2, 2)) | xsum(w), 6),
    "body chain": (lambda w: w.chord([add(w, 1, 1), add(w, 2, 2)], xsum(w) | add(w, 5)), 11),
    "chain, group, task": (lambda w: add(w, 1, 1) | w.group(add(w, 1), add(w, 2)) | xsum(w), 7),
    "chain after group": (
        lambda w: add(w, 1, 1) | w.group(add(w, 1), add(w, 2)) | xsum(w) | add(w, 3) | add(w, 4),
        14,
    ),
    "two groups": (
        lambda w: (
            add(w, 1, 1) | w.group(add(w, 1), add(w, 2)) | xsum(w) | w.group(add(w, 1), add(w, 2)) | xsum(w)
        ),
        17,
    ),
    "chain ends in group": (lambda w: add(w, 1, 1) | w.group(add(w, 1), add(w, 2)), [3, 4]),
    "group of chains": (lambda w: w.group(add(w, 1, 1) | add(w, 10), add(w, 2, 2) | add(w, 20)), [12, 24]),
    "chain in header": (lambda w: w.chord([add(w, 1, 1) | add(w, 1), add(w, 2, 2)], xsum(w)), 7),
    "group in header": (lambda w: w.chord([w.group(add(w, 1, 1), add(w, 2, 2)), add(w, 3, 3)], xsum(w)), 12),
    "chord in header": (
        lambda w: w.chord([w.chord([add(w, 1, 1), add(w, 2, 2)], xsum(w)), add(w, 2, 2)], xsum(w)),
        10,
    ),
    "chain that ends in a group in header": (
        lambda w: w.chord([add(w, 1, 1) | w.group(add(w, 1), add(w, 2)), add(w, 2, 2)], w.s("interop.flat")),
        [3, 4, 4],
    ),
    "group as body": (
        lambda w: w.chord([add(w, 1, 1), add(w, 2, 2)], w.group(xsum(w), w.s("interop.flat"))),
        [6, [2, 4]],
    ),
    "empty header": (lambda w: w.chord([], xsum(w)), 0),
    "replaced in a chain": (lambda w: w.s("interop.replace", 1) | add(w, 5), 106),
    "replaced in a header": (lambda w: w.chord([w.s("interop.replace", 1), add(w, 1, 1)], xsum(w)), 103),
    "retried in a header": (lambda w: w.chord([w.s("interop.retry", 1), add(w, 1, 1)], xsum(w)), 4),
    "failed chain": (lambda w: add(w, 1, 1) | w.s("interop.fail") | add(w, 1), "ValueError"),
    "failed header": (
        lambda w: w.chord([add(w, 1, 1), w.si("interop.fail", 0), add(w, 2, 2)], xsum(w)),
        "ChordError",
    ),
    "failed chain in header": (
        lambda w: w.chord([w.si("interop.fail", 0) | add(w, 1), add(w, 2, 2)], xsum(w)),
        "ChordError",
    ),
    "failed chord in header": (
        lambda w: w.chord([w.chord([w.si("interop.fail", 0)], xsum(w)), add(w, 2, 2)], xsum(w)),
        "ChordError",
    ),
}


def celery_app() -> Any:
    from celery import Celery  # noqa: PLC0415 - the other side only

    app = Celery("interop")
    app.conf.update(
        **json.loads(os.environ["INTEROP_SETTINGS"]),
        worker_prefetch_multiplier=1,
        task_acks_late=True,
        broker_connection_retry_on_startup=True,
    )
    return app


def plain_add(x: int, y: int) -> int:
    return x + y


def plain_xsum(numbers: list[int]) -> int:
    return sum(numbers)


def plain_flat(parts: list[Any]) -> list[int]:
    return [item for part in parts for item in (part if isinstance(part, list) else [part])]


def plain_fail(value: int) -> None:
    raise ValueError(value)


def plain_where(n: int) -> str:
    return "celery"


def with_tasks(app: Any) -> Any:
    def replaced(self: Any, x: int) -> Any:
        return self.replace(app.signature("interop.add", (x, 100)))

    def retried(self: Any, x: int) -> int:
        if self.request.retries < 1:
            raise self.retry(countdown=0)
        return x + int(self.request.retries)

    def count(places: list[str]) -> list[str]:
        app.backend.client.incr(os.environ["INTEROP_NOTES"] + ":bodies")
        return places

    for function in (plain_add, plain_xsum, plain_flat, plain_fail, plain_where):
        app.task(name=function.__name__.replace("plain_", "interop."))(function)
    app.task(name="interop.count")(count)
    app.task(name="interop.replace", bind=True)(replaced)
    app.task(name="interop.retry", bind=True)(retried)
    return app


def celery_words(app: Any) -> Words:
    from celery import chain, chord, group  # noqa: PLC0415 - the other side only

    return Words(
        chain,
        group,
        chord,
        lambda name, *args: app.signature(name, args=args),
        lambda name, *args: app.signature(name, args=args, immutable=True),
    )


def outcome(result: Any) -> Any:
    try:
        return result.get(timeout=30)
    except Exception as error:  # noqa: BLE001 - shown to the test
        return type(error).__name__


def call_all(app: Any, times: int) -> dict[str, Any]:
    words = celery_words(app)
    results = {name: make(words).apply_async() for name, (make, _) in CASES.items()}
    chords = [
        app.signature("interop.where", args=(0,))
        and words.chord(
            [app.signature("interop.where", args=(n,)) for n in range(6)], app.signature("interop.count")
        ).apply_async()
        for _ in range(times)
    ]
    told = {name: outcome(result) for name, result in results.items()}
    told["spread"] = [outcome(result) for result in chords]
    return told


def main() -> None:
    app = with_tasks(celery_app())
    if sys.argv[1] == "worker":
        options = ["--pool", "solo", "--without-gossip", "--without-mingle", "-l", "WARNING"]
        app.worker_main(["worker", *options, "-n", f"{os.getpid()}@here"])
    else:
        sys.stdout.write(json.dumps(call_all(app, int(sys.argv[2]))))


if __name__ == "__main__":
    main()
