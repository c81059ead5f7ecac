"""Where things lie on Redis: Celery's keys and our own beside them (wire-format.md 2.1, 2.2, 2.4, 2.8)."""

from bisect import bisect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from taskq.errors import ConfigError, Refused
from taskq.seams.broker import Queue
from taskq.seams.exchanges import fits
from taskq.seams.records import Retention

STEPS: Final = (0, 3, 6, 9)
SEPARATOR: Final = "\x06\x16"


#: "For ever" as EXPIRE takes it: a century, in seconds.
FOREVER: Final = 100 * 365 * 86400


@dataclass(frozen=True, slots=True)
class Layout:
    """Key names and the transport options they depend on, with Celery's names and defaults (2.9)."""

    prefix: str
    separator: str
    steps: tuple[int, ...]
    unacked: str
    index: str
    visibility_timeout: float
    fanout: str
    fanout_patterns: bool
    body_encoding: str
    retention: Retention = field(default_factory=Retention)

    @property
    def keep_dead(self) -> int:
        """Whole seconds that dead letters are kept."""
        return round(self.retention.dead_seconds or FOREVER)

    @property
    def custody(self) -> tuple[str, str, str]:
        """The keys of every claim: hash of claims, Celery's index by time, our leases by time."""
        return self.unacked, self.index, self.own("leases")

    def own(self, name: str) -> str:
        """A key of taskq's own."""
        return f"{self.prefix}taskq:{name}"

    def step(self, priority: int) -> int:
        """The priority step a message is queued under: the largest not above it."""
        return self.steps[max(0, bisect(self.steps, priority) - 1)]

    def refuse_name(self, queue: str) -> Refused | None:
        """Why no queue may have this name: its list would be one of our own keys, or of another queue's lists."""
        if not queue or self.separator in queue:
            return Refused(f"{queue!r} cannot be the name of a queue on Redis")
        own = {key.removeprefix(self.prefix) for key in (self.unacked, self.index)}
        if queue in own or queue.startswith(("taskq:", "_kombu.binding")):
            return Refused(
                f"{queue!r} cannot be the name of a queue on Redis: it is that of a key of its own"
            )
        return None

    def key(self, queue: str, step: int) -> str:
        return f"{self.prefix}{queue}{self.separator}{step}" if step else f"{self.prefix}{queue}"

    def lists(self, queues: Iterable[str]) -> list[tuple[str, str, int]]:
        """Every list of these queues as (key, queue, step): by step first, the most urgent (0) ahead."""
        queues = list(queues)
        return [(self.key(queue, step), queue, step) for step in self.steps for queue in queues]

    def expiries(self, queues: Iterable[Queue]) -> list[tuple[str, str, int]]:
        """The commands that keep the lists of queues declared with `x-expires` for that long from now (2.1)."""
        return [
            ("PEXPIRE", self.key(queue.name, step), int(queue.arguments["x-expires"]))
            for queue in queues
            if "x-expires" in queue.arguments
            for step in self.steps
        ]

    def bindings(self, exchange: str) -> tuple[str, str]:
        """The sets that tell which queues an exchange feeds; the second keeps kombu 5.7 from sweeping the first."""
        return f"{self.prefix}_kombu.binding.{exchange}", f"{self.prefix}_kombu.binding_permanent.{exchange}"

    @property
    def deadlines(self) -> str:
        """Until when kombu 5.7 leaves the bindings of an exchange alone: exchange -> milliseconds."""
        return f"{self.prefix}_kombu.binding_deadlines"

    def binding(self, queue: Queue) -> tuple[str, str]:
        """How a queue is bound, as (exchange, member of its sets). Exchange and routing key default to its name."""
        exchange = queue.exchange or queue.name
        if queue.exchange_type == "fanout":
            return exchange, self.separator.join(("", "", queue.name))
        key = queue.routing_key or queue.name
        pattern = topic_pattern(key) if queue.exchange_type == "topic" else ""
        return exchange, self.separator.join((key, pattern, queue.name))

    def reply_binding(self, key: str, inbox: str) -> str:
        """The member that binds the inbox of a key to a direct exchange."""
        return self.separator.join((key, "", inbox))

    def matches(self, members: Iterable[bytes], routing_key: str) -> list[str]:
        """The queues among an exchange's bindings that a routing key reaches, by the rule of all our brokers.

        The pattern that kombu writes beside a topic's key is for kombu: by that `a.#` would not take `a`.
        """
        found = set()
        for member in members:
            key, pattern, queue = member.decode().split(self.separator)
            if fits(key, routing_key) if pattern else key == routing_key:
                found.add(queue)
        return sorted(found)

    def channel(self, exchange: str, routing_key: str) -> str:
        """The channel of a fanout exchange."""
        suffix = f"/{routing_key}" if routing_key and self.fanout_patterns else ""
        return f"{self.prefix}{self.fanout}{exchange}{suffix}"


def read_layout(options: Mapping[str, Any], db: int, retention: Retention | None = None) -> Layout:
    """The layout that `broker_transport_options` ask for.

    Raises:
        ConfigError: a value cannot work.
    """
    prefix = options.get("global_keyprefix", "")
    try:
        return Layout(
            prefix=prefix,
            separator=options.get("sep", SEPARATOR),
            steps=_steps(options.get("priority_steps", STEPS)),
            unacked=prefix + options.get("unacked_key", "unacked"),
            index=prefix + options.get("unacked_index_key", "unacked_index"),
            visibility_timeout=float(options.get("visibility_timeout", 3600)),
            fanout=_fanout(options.get("fanout_prefix", True), db),
            fanout_patterns=bool(options.get("fanout_patterns", True)),
            body_encoding="base64" if options.get("body_encoding") == "base64" else "auto",
            retention=retention or Retention(),
        )
    except (TypeError, ValueError) as error:
        raise ConfigError(f"broker_transport_options: {error}") from error


def _steps(values: Sequence[int]) -> tuple[int, ...]:
    steps = tuple(sorted({int(value) for value in values}))
    if not steps or steps[0] != 0:
        raise ValueError(f"priority_steps must contain 0, not {list(values)}")
    return steps


def _fanout(prefix: bool | str, db: int) -> str:  # noqa: FBT001 - Celery's option is a flag or a text
    if isinstance(prefix, str):
        return prefix.format(db=db)
    return f"/{db}." if prefix else ""


def topic_pattern(key: str) -> str:
    """The regular expression of kombu for a topic binding, to the letter: `*` is one word, `#` any text."""
    words = {"*": r"[^\.]+", "#": ".*?"}
    escaped = "".join(c if c.isalnum() or c in ".#*" else rf"\{c}" for c in key)
    return "^" + r"\.".join(words.get(word, word) for word in escaped.split(".")) + "$"
