"""Finding the app for the command line: what `-A proj`, `-A proj:app` and no `-A` at all mean."""

import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from taskq.app import TaskQ
from taskq.config.loading import is_missing
from taskq.config.sources import read_pyproject
from taskq.errors import ConfigError, TaskqError
from taskq.near import near_match

#: Attributes of a module that may hold the app, best first; after them any TaskQ does.
_ATTRIBUTES = ("app", "taskq", "celery")
#: Modules of a package where the app may be.
_SUBMODULES = ("celery", "taskq", "app", "tasks")
#: Files looked at when no app is named.
_GUESSES = ("tasks.py", "app.py", "main.py")
_MAKES_AN_APP = re.compile(r"^\s*\w+(\s*:[^=]+)?\s*=\s*(\w+\.)?TaskQ\(", re.MULTILINE)


class NoAppNamed(ConfigError):
    """Nobody named an app, and there is none where one is usually found."""


class FoundApp(NamedTuple):
    """An app, the text that names it (`tasks:app`), and what told so (`-A`, `environment TASKQ_APP`, ...)."""

    app: TaskQ
    target: str
    told_by: str


def find_app(
    name: str | None = None, folder: Path | None = None, environ: Mapping[str, str] = os.environ
) -> FoundApp:
    """The app that a text names, or the one that is plainly meant when there is none.

    Args:
        name: `module`, `package`, `module:attribute` or `module.attribute`. None: what `TASKQ_APP` says,
            else `app` in `[tool.taskq]` of pyproject.toml, else an app made in `tasks.py`, `app.py`, `main.py`
            or `<package>/tasks.py`.
        folder: goes to the front of `sys.path`; default the current folder.
        environ: the environment.

    Raises:
        ConfigError: there is none; says what was tried and what would work. Or importing it failed; has the
            traceback of the module.
    """
    folder = folder or Path.cwd()
    put_first_on_path(folder)
    path, table = read_pyproject(folder)
    told = (
        (name, "-A"),
        (environ.get("TASKQ_APP"), "environment TASKQ_APP"),
        (table.get("app"), str(path)),
    )
    for target, told_by in told:
        if target:
            return _named(target, told_by, folder)
    for target in _guesses(folder):
        return _named(target, "guessed", folder)
    raise NoAppNamed(
        f"no taskq app named, and none found in {_shown(folder)}\n"
        f"  tried: {', '.join(_GUESSES)} and <package>/tasks.py\n"
        "  name it with -A module:app or TASKQ_APP"
    )


def put_first_on_path(folder: Path) -> None:
    """Make modules of a folder importable, before any others of the same name."""
    text = str(folder)
    if sys.path[:1] != [text]:
        sys.path.insert(0, text)


def _named(target: str, told_by: str, folder: Path) -> FoundApp:
    tried: list[str] = []
    found = _search(target, tried)
    if found is not None:
        return FoundApp(found[0], found[1], told_by)
    lines = [f'no taskq app at "{target}"' + ("" if told_by == "-A" else f" ({told_by})")]
    lines += [f"  tried: {attempt}" for attempt in tried]
    lines.append(f"  in:    {_shown(folder)}")
    lines += [
        f"  found: {_file_of(other)} has an app: try  -A {other}"
        for other in _guesses(folder)
        if other != target
    ]
    raise ConfigError("\n".join(lines))


def _search(target: str, tried: list[str]) -> tuple[TaskQ, str] | None:
    module_name, colon, attribute = target.partition(":")
    module = _import(module_name, tried)
    if module is None and not colon and "." in target:
        module_name, _, attribute = target.rpartition(".")
        module = _import(module_name, tried)
    if module is None:
        return None
    return _attribute(module, attribute, tried) if attribute else _in_module(module, tried)


def _attribute(module: ModuleType, attribute: str, tried: list[str]) -> tuple[TaskQ, str] | None:
    value = getattr(module, attribute, None)
    where = f"{module.__name__}:{attribute}"
    if isinstance(value, TaskQ):
        return value, where
    if isinstance(value, ModuleType):
        return _in_module(value, tried)
    if value is None:
        tried.append(_attempt(where, f"no such attribute.{near_match(attribute, vars(module))}"))
    else:
        tried.append(_attempt(where, f"not a TaskQ but of type {type(value).__name__}"))
    return None


def _in_module(module: ModuleType, tried: list[str]) -> tuple[TaskQ, str] | None:
    """The app of a module: by the usual names, then in a package's usual modules, then any there is."""
    apps = {name: value for name, value in vars(module).items() if isinstance(value, TaskQ)}
    for name in _ATTRIBUTES:
        if isinstance(app := getattr(module, name, None), TaskQ):
            if any(other is not app for other in apps.values()):
                warnings.warn(f"{_several(module, apps)}: {name} is taken", RuntimeWarning, stacklevel=2)
            return app, f"{module.__name__}:{name}"
    for name in _SUBMODULES if hasattr(module, "__path__") else ():
        full = f"{module.__name__}.{name}"
        if find_spec(full) is not None:
            submodule = _import(full, tried)
            if submodule is not None and (found := _in_module(submodule, tried)):
                return found
    return _only(module, apps, tried)


def _only(module: ModuleType, apps: Mapping[str, TaskQ], tried: list[str]) -> tuple[TaskQ, str] | None:
    if len({id(app) for app in apps.values()}) > 1:
        raise ConfigError(_several(module, apps))
    for name, app in apps.items():
        return app, f"{module.__name__}:{name}"
    tried.append(_attempt(f"import {module.__name__}", "there is no TaskQ in it"))
    return None


def _several(module: ModuleType, apps: Mapping[str, TaskQ]) -> str:
    named = " or ".join(f"-A {module.__name__}:{name}" for name in apps)
    return f"{module.__name__} has several apps, of which a worker runs one: name it with {named}"


def _import(name: str, tried: list[str]) -> ModuleType | None:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if not is_missing(error, name):
            raise ConfigError(_failed(name, error)) from error
        tried.append(_attempt(f"import {name}", f"{type(error).__name__}: {error}"))
        return None
    except Exception as error:
        raise ConfigError(_failed(name, error)) from error


def _attempt(what: str, outcome: str) -> str:
    return f"{what:<28} -> {outcome}"


def _failed(name: str, error: Exception) -> str:
    """The module's own traceback: without the frames of the import machinery, nor those of taskq for its own errors."""
    left_out = (
        "importlib",
        str(Path(__file__).parent.parent if isinstance(error, TaskqError) else Path(__file__)),
    )
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not any(text in frame.filename for text in left_out)
    ]
    shown = "".join([*traceback.format_list(frames), *traceback.format_exception_only(error)])
    return f"{name} failed when it was imported:\n{shown.rstrip()}"


def _guesses(folder: Path) -> Iterator[str]:
    """Modules whose source makes an app, in the order of their likelihood. Nothing is imported."""
    files = [folder / name for name in _GUESSES] + sorted(folder.glob("*/tasks.py"))
    for file in files:
        if file.is_file() and _MAKES_AN_APP.search(file.read_text("utf-8", errors="replace")):
            package = file.parent.relative_to(folder).parts
            yield ".".join([*package, file.stem])


def _file_of(module: str) -> str:
    return f"{module.replace('.', '/')}.py"


def _shown(folder: Path) -> str:
    return f"{folder.name or folder} (current directory)" if folder == Path.cwd() else str(folder)
