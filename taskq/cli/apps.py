"""From the shared options to an app, and to its connections."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

from taskq.app import TaskQ
from taskq.cli.state import CliState
from taskq.config.finder import FoundApp, NoAppNamed, find_app, put_first_on_path
from taskq.config.layers import Source
from taskq.config.loading import import_modules

T = TypeVar("T")


def named_app(state: CliState, include: Sequence[str] = ()) -> FoundApp:
    """The app that is named, or plainly meant, with all its tasks; those of the modules `include`, too.

    Raises:
        ConfigError: there is none, or one of its modules is not there.
    """
    _change_folder(state)
    found = find_app(state.app)
    _prepare(found.app, state)
    import_modules(include)
    return found


def app_or_settings(state: CliState) -> TaskQ:
    """For commands that need a broker and not an app: the app, or one of the settings alone if there is none.

    Raises:
        ConfigError: an app is named and cannot be had.
    """
    _change_folder(state)
    try:
        app = find_app(state.app).app
    except NoAppNamed:
        app = TaskQ("taskq")
    _prepare(app, state)
    return app


def app_to_reach(state: CliState) -> TaskQ:
    """For commands to running workers: settings that name a broker are enough, and tasks are not imported.

    Raises:
        ConfigError: an app is named and cannot be had.
    """
    _change_folder(state)
    app = TaskQ("taskq")
    _apply(app, state)
    if state.app is None and app.conf.source_of("broker_url") != "default":
        return app
    try:
        app = find_app(state.app).app
    except NoAppNamed:
        return app
    _apply(app, state)
    return app


def connected(app: TaskQ, work: Callable[[TaskQ], Awaitable[T]]) -> T:
    """Run a coroutine function with the app, and close the connections it opened."""

    async def run() -> T:
        async with app:
            return await work(app)

    return asyncio.run(run())


def own_tasks(app: TaskQ) -> list[str]:
    """Names of the app's tasks, without those built in for canvases (`celery.chord`, ...)."""
    return sorted(name for name in app.tasks if not name.startswith("celery."))


def _change_folder(state: CliState) -> None:
    if state.workdir is not None:
        os.chdir(state.workdir)


def _prepare(app: TaskQ, state: CliState) -> None:
    _apply(app, state)
    import_modules([*app.conf.imports, *app.conf.include])


def _apply(app: TaskQ, state: CliState) -> None:
    """The settings of the command line are the strongest; those of --config as strong as `config_from_object`."""
    if state.config is not None:
        put_first_on_path(Path.cwd())
        app.conf.from_object(state.config, label=f"{state.config} (--config)")
    for name, option, url in (
        ("broker_url", "--broker", state.broker),
        ("result_backend", "--result-backend", state.result_backend),
    ):
        if url is not None:
            app.conf.set_text(name, url, Source.COMMAND_LINE, f"option {option}")
