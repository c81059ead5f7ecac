"""Importing the modules that hold tasks."""

from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

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
