"""Where settings are written outside the program: pyproject.toml and the environment."""

import os
import tomllib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from taskq.config.layers import Layered, Source
from taskq.errors import ConfigError
from taskq.near import near_match

#: Celery's own variables serve where ours are not set: a container is switched by changing its command alone.
_FALLBACKS = {"CELERY_BROKER_URL": "broker_url", "CELERY_RESULT_BACKEND": "result_backend"}
#: Empty, it is a secret that was not filled in: without it messages of anybody would be run.
_NEVER_EMPTY = "TASKQ_SECURITY_SECRETS"
#: TASKQ_* variables that are no settings.
_NOT_SETTINGS = frozenset(("TASKQ_APP", "TASKQ_CONFIG_MODULE"))


def read_pyproject(folder: Path) -> tuple[Path | None, dict[str, Any]]:
    """The nearest `pyproject.toml` in or above a folder, and its table `[tool.taskq]` (empty without one).

    One above counts only where it belongs to us or to root: in a folder that all can write to, such as /tmp, anybody can
    leave one for those who work below.

    Raises:
        ConfigError: the file is not valid TOML.
    """
    for parent in (folder, *folder.parents):
        path = parent / "pyproject.toml"
        if path.is_file() and (parent == folder or _is_ours(path)):
            try:
                data = tomllib.loads(path.read_text("utf-8"))
            except ValueError as error:
                raise ConfigError(f"{path} cannot be read: {error}") from error
            table: dict[str, Any] = data.get("tool", {}).get("taskq", {})
            return path, table
    return None, {}


def default_file(module: str | None, folder: Path) -> Path:
    """Where the file is that serves as broker where nothing is set: the same for every process of a program.

    It lies beside the nearest `pyproject.toml` in or above the folder of the app's module, whatever the current folder,
    else beside the module; without a module (at a prompt) both are looked for from the current folder.
    """
    start = Path(module).resolve().parent if module else folder
    nearest = next((one for one in (start, *start.parents) if (one / "pyproject.toml").is_file()), start)
    return nearest / ".taskq" / "taskq.db"


def _is_ours(path: Path) -> bool:
    if path.stat().st_uid in {0, os.geteuid()}:
        return True
    warnings.warn(f"{path} is passed over: it belongs to another user", stacklevel=2)
    return False


def load_pyproject(settings: Layered, folder: Path) -> None:
    """Set what `[tool.taskq]` says; its key `app` tells where the app is and is no setting."""
    path, table = read_pyproject(folder)
    values = {name: value for name, value in table.items() if name != "app"}
    settings.set_from(values, Source.PYPROJECT, str(path))


def load_environment(settings: Layered, environ: Mapping[str, str]) -> None:
    """Set what `TASKQ_*` variables say; an empty one counts as not set."""
    for variable in ("TASKQ_CONFIG_MODULE", "CELERY_CONFIG_MODULE"):
        if module := environ.get(variable):
            settings.from_object(module, label=f"{module} (environment {variable})")
            break
    for variable, name in _setting_variables(environ, settings.names()):
        settings.set_text(name, environ[variable], Source.ENVIRONMENT, f"environment {variable}")


def _setting_variables(environ: Mapping[str, str], known: list[str]) -> list[tuple[str, str]]:
    """Variables that are settings and the names of these, fall-backs first so that ours win."""
    pairs = [(variable, name) for variable, name in _FALLBACKS.items() if environ.get(variable)]
    for variable, text in environ.items():
        if not variable.startswith("TASKQ_") or variable in _NOT_SETTINGS:
            continue
        if not text and variable != _NEVER_EMPTY:
            continue
        name = variable.removeprefix("TASKQ_").lower()
        if name in known:
            pairs.append((variable, name))
        elif near := near_match(name, known):
            # Others are not ours to judge: Kubernetes sets TASKQ_SERVICE_HOST for a service called taskq.
            raise ConfigError(f"environment variable {variable} is no setting.{near}")
    return pairs
