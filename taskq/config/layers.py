"""Settings in layers: a value replaces another only when its source is at least as strong."""

import warnings
from collections.abc import Iterable, Mapping
from enum import IntEnum
from types import ModuleType
from typing import Any, ClassVar

from taskq.config.celery_names import absent, new_name
from taskq.config.coerce import coerce, describe, parse
from taskq.config.loading import load_symbol
from taskq.errors import ConfigError
from taskq.near import near_match
from taskq.seams.urls import mask_value


class Source(IntEnum):
    """Where a value comes from, weakest first."""

    DEFAULT = 0
    PYPROJECT = 1
    OBJECT = 2
    APP = 3
    ENVIRONMENT = 4
    COMMAND_LINE = 5


class Layered:
    """Typed settings: subclasses write them as annotated class attributes, and this checks what is set.

    Reading is a plain attribute. Setting one by attribute is the layer `Source.APP`.
    """

    _types: ClassVar[Mapping[str, Any]] = {}
    _sources: dict[str, tuple[Source, str]]

    #: How often anything was set: whoever keeps something made from settings sees that it is stale.
    changes: int

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._types = cls.__annotations__

    def __init__(self) -> None:
        own = {name: dict(value) for name in self._types if isinstance(value := getattr(self, name), dict)}
        self.__dict__.update(own, _sources={}, changes=0)

    # --- setting --------------------------------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        self._load([(name, value)], Source.APP, f"app.conf.{name}")

    def update(self, values: Mapping[str, Any] | None = None, /, **more: Any) -> None:
        """Set several, as `app.conf.update(task_serializer="msgpack")`.

        Raises:
            ConfigError: names every setting that is unknown or of a wrong type; the others are set.
        """
        self.set_from({**(values or {}), **more}, Source.APP, "app.conf.update")

    def set_from(self, values: Mapping[str, Any], source: Source, label: str) -> None:
        """Set several from a source; `label` says in words where they were written.

        Raises:
            ConfigError: as for `update`.
        """
        self._load(values.items(), source, label)

    def set_text(self, name: str, text: str, source: Source, label: str) -> None:
        """Set one from text: an environment variable, an option of the command line.

        Numbers, booleans (`1 true yes on`), lists by comma, durations (`10s 5m 2h`), JSON for mappings.

        Raises:
            ConfigError: the name is unknown or the text is not of its type.
        """
        name = self._resolve(name, label)
        try:
            value = parse(self._types[name], text)
        except ValueError:
            raise ConfigError(self._wrong_type(name, text, label)) from None
        self._store(name, value, source, label)

    def from_object(self, obj: Any, namespace: str = "", *, label: str = "") -> None:
        """Set what a mapping, a module or any object has, or what the text `module` or `module:attribute` names.

        With `namespace="CELERY"` only names like `CELERY_TASK_SERIALIZER` count. Without one, every public
        name that holds plain data does (numbers, text, lists, ...); modules, classes and functions do not,
        nor do upper-case constants of the reader's own.

        Celery may read the same object: what tunes parts of Celery's own (beat, pools, logs) is left out, and one
        warning names it.

        Raises:
            ConfigError: as for `update`.
            ImportError: the named module cannot be imported.
        """
        if isinstance(obj, str):
            label = label or f"config_from_object({obj!r})"
            obj = load_symbol(obj)
        label = label or f"config_from_object({_name_of(obj)})"
        pairs = _settings_of(obj, namespace, self._types)
        left = {name: reason for name, _ in pairs if (reason := self._left_to_celery(name))}
        if left:
            _warn_of(left, label)
        self._load([pair for pair in pairs if pair[0] not in left], Source.OBJECT, label)

    def _load(self, pairs: Iterable[tuple[str, Any]], source: Source, label: str) -> None:
        problems = []
        for written, value in pairs:
            try:
                name = self._resolve(written, label)
                self._store(name, self._coerced(name, value, label), source, label)
            except ConfigError as error:
                problems.append(str(error))
        if problems:
            raise ConfigError("\n".join(problems))

    def _store(self, name: str, value: Any, source: Source, label: str) -> None:
        if source >= self._sources.get(name, (Source.DEFAULT, ""))[0]:
            self.__dict__[name] = value
            self._sources[name] = (source, label)
            self.__dict__["changes"] += 1

    def _coerced(self, name: str, value: Any, label: str) -> Any:
        try:
            return coerce(self._types[name], value)
        except ValueError:
            raise ConfigError(self._wrong_type(name, value, label)) from None

    def _wrong_type(self, name: str, value: Any, label: str) -> str:
        return (
            f"setting {name} = {mask_value(name, value)!r} ({label}): expected {describe(self._types[name])}"
        )

    def _resolve(self, name: str, label: str) -> str:
        if name in self._types:
            return name
        new = new_name(name, self._types)
        if new is not None and new in self._types:
            _deprecated(name, new, label)
            return new
        if missing := absent(new or name):
            raise ConfigError(f"Celery's setting {name} does not exist in taskq: {missing.reason}")
        raise ConfigError(f"unknown setting {name!r} ({label}).{near_match(name, self._types)}")

    def _left_to_celery(self, name: str) -> str:
        """Why a setting of an object that Celery may read, too, is none of ours; "" if it is."""
        missing = None if name in self._types else absent(new_name(name, self._types) or name)
        return missing.reason if missing and missing.tunes else ""

    # --- showing --------------------------------------------------------------------------------------------

    def source_of(self, name: str) -> str:
        """Where the value was written, in words: "default", "environment TASKQ_BROKER_URL", ..."""
        return self._sources.get(name, (Source.DEFAULT, "default"))[1]

    def set_by(self, source: Source) -> dict[str, Any]:
        """The settings that have their value from this source."""
        return {name: getattr(self, name) for name, (by, _) in self._sources.items() if by is source}

    def names(self) -> list[str]:
        """The names of all settings, in the order of the manual."""
        return list(self._types)

    def items(self) -> list[tuple[str, Any]]:
        """Every setting and its value, in the order of the manual. May hold secrets: see `masked`."""
        return [(name, getattr(self, name)) for name in self._types]

    def masked(self) -> dict[str, Any]:
        """Every setting and its value with passwords hidden, fit to be shown."""
        return {name: mask_value(name, value) for name, value in self.items()}

    def __repr__(self) -> str:
        shown = self.masked()
        return f"{type(self).__name__}({', '.join(f'{name}={shown[name]!r}' for name in self._sources)})"


def _deprecated(old: str, new: str, label: str) -> None:
    # Attributed to the place where it was written, in the user's own program: a DeprecationWarning that
    # points into a library is hidden by default.
    message = f"setting {old}: its name is now {new}"
    warnings.warn_explicit(message, DeprecationWarning, filename=label, lineno=1, module="__main__")


def _warn_of(left: Mapping[str, str], label: str) -> None:
    lines = [f"  {name}: {reason}" for name, reason in left.items()]
    message = "\n".join(["settings that taskq does not have are left to Celery:", *lines])
    warnings.warn_explicit(message, UserWarning, filename=label, lineno=1, module="__main__")


def _settings_of(obj: Any, namespace: str, known: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The names and values of an object that are meant as settings."""
    if isinstance(obj, Mapping):
        names, get = list(obj), obj.__getitem__
    else:
        names, get = [name for name in dir(obj) if not name.startswith("_")], lambda name: getattr(obj, name)
    if namespace:
        prefix = f"{namespace.upper().rstrip('_')}_"
        return [
            (_without(prefix, name, known), get(name)) for name in names if name.upper().startswith(prefix)
        ]
    pairs = [(name, get(name)) for name in names]
    if isinstance(obj, Mapping):
        return pairs
    return [pair for pair in pairs if _is_meant(*pair, known)]


def _without(prefix: str, name: str, known: Mapping[str, Any]) -> str:
    """`CELERY_TASK_SERIALIZER` -> `task_serializer`, and `CELERY_ALWAYS_EAGER` stays: it is an old name."""
    short = name[len(prefix) :].lower()
    return name if short not in known and new_name(name, known) else short


_PLAIN_DATA = (str, bytes, int, float, list, tuple, set, frozenset, dict, type(None))


def _is_meant(name: str, value: Any, known: Mapping[str, Any]) -> bool:
    """Whether an unknown name of a module is a mistyped setting rather than a helper of its own."""
    if name in known:
        return not isinstance(value, ModuleType)
    if name.isupper():
        return new_name(name, known) in known or name.startswith(("CELERY", "BROKER_"))
    return isinstance(value, _PLAIN_DATA)


def _name_of(obj: Any) -> str:
    return getattr(obj, "__name__", None) or type(obj).__name__
