"""Which queue a call goes to: `task_queues` and `task_routes` in all of Celery's forms (wire-format.md 10.3)."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import translate
from typing import Any, NamedTuple, TypeAlias, cast

from taskq.config.loading import load_symbol
from taskq.config.settings import Settings
from taskq.errors import ConfigError
from taskq.near import near_match
from taskq.seams.broker import Queue

#: Options of a call that decide where it goes.
_DECIDING = frozenset(("queue", "exchange", "routing_key", "priority"))
_NOTHING: Mapping[str, Any] = {}

#: Asked for each call: (name, args, kwargs, options, task) -> a queue's name, options, or None for "not mine".
RouteFunction: TypeAlias = Callable[..., "str | Mapping[str, Any] | None"]


class Route(NamedTuple):
    """Where one call goes.

    `exchange` and `routing_key` are for the message: "" and the queue's name for direct queues, so that it
    goes straight there (wire-format.md 2.4, 3.3). `options` are further options that the route gives and
    the call does not: they hold for it as if it had named them.
    """

    queue: str
    exchange: str
    routing_key: str
    priority: int | None = None
    options: Mapping[str, Any] = _NOTHING


class Router:
    """Decides the route of each call, and how queues are declared; follows the settings when they change."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._changes = -1
        self._queues: dict[str, Queue] = {}
        self._routes: list[RouteFunction] = []
        self._default: Route | None = None

    def route(
        self,
        name: str,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] = _NOTHING,
        task: Any = None,
    ) -> Route:
        """The route of a call of task `name`; what its `options` say wins over `task_routes`.

        Raises:
            ConfigError: the queue is not in `task_queues` and may not be made, or a route is no route.
        """
        if self._changes != self._settings.changes:
            self._read_settings()
        # The price of every call, so the common case comes first: no routes, and options that decide nothing.
        if not self._routes and _DECIDING.isdisjoint(options):
            if self._default is None:
                self._default = self._destination(_NOTHING, _NOTHING)
            return self._default
        found = self._lookup(name, args, kwargs or {}, options, task)
        given = {key: value for key, value in options.items() if key in _DECIDING and value is not None}
        extra = {
            key: value for key, value in found.items() if key not in _DECIDING and options.get(key) is None
        }
        return self._destination({**found, **given}, extra)

    def queue(self, name: str) -> Queue:
        """The declaration of a queue, all its fields filled in.

        Raises:
            ConfigError: it is not in `task_queues` and `task_create_missing_queues` is off.
        """
        known = self.queues
        found = known.get(name)
        if found is None:
            if not self._settings.task_create_missing_queues:
                raise ConfigError(f"no queue {name!r} in task_queues.{near_match(name, known)}")
            found = self._queues[name] = _made(name, self._settings)
        return found

    def declare(self, name: str, options: Mapping[str, Any]) -> Queue:
        """The declaration of a queue, with these options (as in `task_queues`) if it is not known yet.

        Raises:
            ConfigError: an option is unknown.
        """
        known = self.queues.get(name)
        if known is not None:
            return known
        made = _made(name, self._settings)
        if options:
            made = _filled(_from_mapping(name, {"exchange": name, **options}), self._settings)
        self._queues[name] = made
        return made

    @property
    def queues(self) -> Mapping[str, Queue]:
        """The queues known by now: those of `task_queues`, else the default one, and those named since."""
        if self._changes != self._settings.changes:
            self._read_settings()
        return self._queues

    def _read_settings(self) -> None:
        settings = self._settings
        self._changes = settings.changes
        self._queues = dict(_declared(settings))
        self._routes = [_route_function(router) for router in _as_routers(settings.task_routes)]
        self._default = None

    def _lookup(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any], task: Any
    ) -> Mapping[str, Any]:
        for router in self._routes:
            found = router(name, args, kwargs, options, task=task)
            if found is not None:
                return _as_options(found)
        return _NOTHING

    def _destination(self, chosen: Mapping[str, Any], extra: Mapping[str, Any]) -> Route:
        settings = self._settings
        queue = self._queue_of(chosen.get("queue"))
        exchange, key = chosen.get("exchange"), chosen.get("routing_key")
        priority = chosen.get("priority", settings.task_default_priority)
        # As Celery does it: to a direct queue goes everything but what names both exchange and key.
        if queue.exchange_type == "direct" and not (exchange and key):
            return Route(queue.name, "", queue.name, priority, extra)
        return Route(queue.name, exchange or queue.exchange, key or queue.routing_key, priority, extra)

    def _queue_of(self, queue: Any) -> Queue:
        if queue is None:
            queue = self._settings.task_default_queue
        if isinstance(queue, str):
            return self.queue(queue)
        declared = _declaration(queue, self._settings)
        return self._queues.setdefault(declared.name, declared)


# --- routes -------------------------------------------------------------------------------------------------


def _as_routers(routes: Any) -> list[Any]:
    if routes is None:
        return []
    return list(routes) if isinstance(routes, list | tuple) else [routes]


def _route_function(router: Any) -> RouteFunction:
    if isinstance(router, str):
        return _named(router)
    if isinstance(router, Mapping):
        return _by_pattern(router.items())
    if isinstance(router, list | tuple):
        return _by_pattern([router] if _is_pair(router) else router)
    if callable(router):
        return cast("RouteFunction", router)
    raise ConfigError(f"task_routes: {router!r} is neither a mapping, pairs, a function nor the path of one")


def _is_pair(router: Sequence[Any]) -> bool:
    return len(router) == 2 and isinstance(router[0], str | re.Pattern)


def _named(path: str) -> RouteFunction:
    """The function at a dotted path, imported at the first call: its module may import the app's own."""
    loaded: list[RouteFunction] = []

    def route(*args: Any, **kwargs: Any) -> Any:
        if not loaded:
            loaded.append(_route_function(load_symbol(path)))
        return loaded[0](*args, **kwargs)

    return route


def _by_pattern(pairs: Iterable[Any]) -> RouteFunction:
    exact: dict[str, Any] = {}
    patterns: list[tuple[re.Pattern[str], Any]] = []
    for pattern, target in pairs:
        if isinstance(pattern, re.Pattern):
            patterns.append((pattern, target))
        elif "*" in pattern:
            patterns.append((re.compile(translate(pattern)), target))
        else:
            exact[pattern] = target

    def route(name: str, *_: Any, **__: Any) -> Any:
        if name in exact:
            return exact[name]
        return next((target for pattern, target in patterns if pattern.match(name)), None)

    return route


def _as_options(found: Any) -> Mapping[str, Any]:
    if isinstance(found, str):
        return {"queue": found}
    if isinstance(found, Mapping):
        return {key: value for key, value in found.items() if value is not None}
    raise ConfigError(f"task_routes: a route is a queue's name or a mapping of options, not {found!r}")


# --- queues -------------------------------------------------------------------------------------------------


def _declared(settings: Settings) -> Iterable[tuple[str, Queue]]:
    """The queues of `task_queues` by the name callers use, or the default one alone."""
    declared = settings.task_queues
    if not declared:
        yield settings.task_default_queue, _default(settings)
    elif isinstance(declared, Mapping):
        for name, options in declared.items():
            yield name, _declaration(_from_mapping(name, options), settings)
    else:
        for item in declared:
            queue = _declaration(item, settings)
            # kombu's Broadcast: callers use the alias, the queue's own name is another in every process.
            yield getattr(item, "alias", None) or queue.name, queue


def _default(settings: Settings) -> Queue:
    arguments = {"x-queue-type": "quorum"} if settings.task_default_queue_type == "quorum" else {}
    return _filled(Queue(settings.task_default_queue, arguments=arguments), settings)


def _made(name: str, settings: Settings) -> Queue:
    """A queue that is in no declaration: its exchange and routing key have its name (3.2)."""
    arguments = {"x-queue-type": "quorum"} if settings.task_create_missing_queue_type == "quorum" else {}
    kind = settings.task_create_missing_queue_exchange_type or "direct"
    return _filled(Queue(name, name, kind, name, arguments), settings)


def _declaration(item: Any, settings: Settings) -> Queue:
    if isinstance(item, str):
        return _made(item, settings)
    if isinstance(item, Queue):
        return _filled(item, settings)
    if isinstance(item, Mapping):
        if not isinstance(item.get("name"), str):
            raise ConfigError(f"task_queues: no name in {item!r}")
        return _filled(_from_mapping(item["name"], item), settings)
    if hasattr(item, "name") and hasattr(item, "exchange"):
        return _filled(_from_kombu(item), settings)
    raise ConfigError(f"task_queues: {item!r} is neither a Queue, a name nor a mapping")


def _filled(queue: Queue, settings: Settings) -> Queue:
    """What a declaration leaves open, by the settings (3.2)."""
    exchange, kind = queue.exchange, queue.exchange_type
    if not exchange:
        exchange = settings.task_default_exchange or settings.task_default_queue
        kind = settings.task_default_exchange_type if kind == "direct" else kind
    key = queue.routing_key or settings.task_default_routing_key or settings.task_default_queue
    arguments = dict(queue.arguments)
    if settings.task_queue_max_priority is not None:
        arguments.setdefault("x-max-priority", settings.task_queue_max_priority)
    return Queue(queue.name, exchange, kind, key, arguments, queue.durable)


_QUEUE_OPTIONS = frozenset(
    ("name", "exchange", "exchange_type", "routing_key", "binding_key", "queue_arguments", "durable")
)


def _from_mapping(name: str, options: Mapping[str, Any] | None) -> Queue:
    options = options or {}
    arguments = dict(options.get("queue_arguments") or {})
    for key, value in options.items():
        if key in _LIMITS:
            _add_limit(arguments, key, value)
        elif key not in _QUEUE_OPTIONS:
            raise ConfigError(
                f"task_queues: unknown option {key!r} of queue {name!r}."
                f"{near_match(key, [*_QUEUE_OPTIONS, *_LIMITS])}"
            )
    return Queue(
        name,
        options.get("exchange") or "",
        options.get("exchange_type") or "direct",
        options.get("routing_key") or options.get("binding_key") or name,
        arguments,
        options.get("durable", True),
    )


def _from_kombu(item: Any) -> Queue:
    exchange = item.exchange
    arguments = dict(getattr(item, "queue_arguments", None) or {})
    for option in _LIMITS:
        _add_limit(arguments, option, getattr(item, option, None))
    return Queue(
        item.name,
        getattr(exchange, "name", exchange) or "",
        getattr(exchange, "type", None) or "direct",
        getattr(item, "routing_key", None) or "",
        arguments,
        bool(getattr(item, "durable", True)),
    )


#: kombu's options of a queue -> RabbitMQ's argument, and the factor from kombu's seconds to its milliseconds.
_LIMITS = {
    "expires": ("x-expires", 1000),
    "message_ttl": ("x-message-ttl", 1000),
    "max_length": ("x-max-length", 1),
    "max_length_bytes": ("x-max-length-bytes", 1),
    "max_priority": ("x-max-priority", 1),
}


def _add_limit(arguments: dict[str, Any], option: str, value: float | None) -> None:
    if value is not None:
        name, factor = _LIMITS[option]
        arguments[name] = int(value * factor)
