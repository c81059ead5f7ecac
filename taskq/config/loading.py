"""Importing by name: the modules that hold tasks, and objects such as `proj.config` or `proj.routes:route_task`."""

import sys
from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from taskq.errors import ConfigError


def import_modules(names: Iterable[str]) -> list[ModuleType]:
    """Import the modules of `imports` and `include`.

    Raises:
        ConfigError: there is no such module.
        Exception: whatever a module raises when it is imported.
    """
    return [_import(name) for name in names]


def autodiscover(packages: Iterable[str], related_name: str | None = "tasks") -> list[ModuleType]:
    """Import `<package>.<related_name>` of each package that has one (None: the packages themselves).

    Raises:
        ConfigError: there is no such package.
        Exception: whatever a module raises when it is imported.
    """
    if related_name is None:
        return import_modules(packages)
    found = []
    for package in packages:
        module = _import(package)
        name = f"{package}.{related_name}"
        if hasattr(module, "__path__") and find_spec(name) is not None:
            found.append(import_module(name))
    return found


def is_missing(error: ModuleNotFoundError, name: str) -> bool:
    """Whether it is `name` itself (or a package it is in) that is missing, not something it imports."""
    return error.name is not None and f"{name}.".startswith(f"{error.name}.")


def _import(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if not is_missing(error, name):
            raise
        raise ConfigError(f"there is no module {name!r} to import tasks from: {error}") from error


def load_symbol(path: str) -> Any:
    """Import what `module`, `module:attribute` or `module.attribute` names.

    Raises:
        ModuleNotFoundError: there is no such module.
        AttributeError: the module has no such attribute.
        Exception: whatever the module raises when it is imported.
    """
    module, colon, attribute = path.partition(":")
    if not colon and not _is_module(module):
        module, _, attribute = path.rpartition(".")
    found: Any = import_module(module or path)
    for name in attribute.split(".") if attribute else ():
        found = getattr(found, name)
    return found


def _is_module(path: str) -> bool:
    """Whether a dotted path is a module; its parents are imported to find out."""
    if path in sys.modules:  # also those that have no spec, as `__main__`
        return True
    try:
        return find_spec(path) is not None
    except ModuleNotFoundError as error:
        # "a.b.c" where a.b is a plain module: then c is an attribute of it. Any other missing module is an
        # import inside the parents, and the reader must see that one.
        if error.name is not None and path.startswith(f"{error.name}."):
            return False
        if error.name == path:
            return False
        raise
