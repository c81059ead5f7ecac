import os
import runpy
import sys
import warnings
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from celery.app import defaults

from taskq.config.layers import Source
from taskq.config.settings import Settings
from taskq.config.sources import read_pyproject
from taskq.errors import ConfigError


def load(folder: Path, values: Mapping[str, Any] | None = None, **environ: str) -> Settings:
    return Settings.load(values, folder=folder, environ=environ)


def write(folder: Path, text: str) -> Path:
    path = folder / "pyproject.toml"
    path.write_text(text, "utf-8")
    return path


@pytest.fixture
def config() -> Iterator[ModuleType]:
    module = ModuleType("made_up_config")
    sys.modules[module.__name__] = module
    yield module
    del sys.modules[module.__name__]


# --- defaults ---


#: Where DESIGN decides otherwise than Celery.
OURS = {
    "broker_url": "sqlite:///.taskq/taskq.db",
    "broker_connection_max_retries": None,
    "broker_heartbeat": 15.0,
    "task_acks_late": True,
    "task_publish_retry_policy": {
        "max_retries": 3,
        "interval_start": 0,
        "interval_step": 0.2,
        "interval_max": 1,
        "timeout": 5.0,
    },
    "task_reject_on_worker_lost": True,
    "worker_concurrency": 100,
    "worker_eta_task_limit": 1_000,
}


def test_defaults_are_celerys_but_for_a_few() -> None:
    settings = Settings()
    celerys = {name: option.default for name, option in defaults.flatten(defaults.NAMESPACES)}
    for name, value in settings.items():
        if name in OURS:
            assert value == OURS[name]
        elif name in celerys:
            theirs = celerys[name]
            theirs = theirs.total_seconds() if isinstance(theirs, timedelta) else theirs
            assert value == (tuple(theirs) if isinstance(theirs, list) else theirs), name


def test_mappings_of_one_app_are_not_those_of_another() -> None:
    one, other = Settings(), Settings()
    one.broker_transport_options["visibility_timeout"] = 10
    assert other.broker_transport_options == {}


# --- attributes and update ---


def test_an_attribute_sets_the_value_and_tells_its_source() -> None:
    settings = Settings()
    settings.result_expires = 60
    assert settings.result_expires == 60
    assert settings.source_of("result_expires") == "app.conf.result_expires"
    assert settings.source_of("task_serializer") == "default"


def test_update_takes_a_mapping_and_keywords() -> None:
    settings = Settings()
    settings.update({"task_serializer": "msgpack"}, task_track_started=True)
    assert (settings.task_serializer, settings.task_track_started) == ("msgpack", True)


def test_an_unknown_name_is_refused_with_the_near_one() -> None:
    settings = Settings()
    with pytest.raises(
        ConfigError, match=r"unknown setting 'task_serialiser' .*Did you mean 'task_serializer'\?"
    ):
        settings.task_serialiser = "json"
    with pytest.raises(ConfigError, match=r"unknown setting 'zebra' \(app.conf.update\)\.$"):
        settings.update(zebra=1)


def test_a_wrong_type_names_setting_value_place_and_what_is_expected() -> None:
    with pytest.raises(
        ConfigError,
        match=r"^setting worker_concurrency = '8' \(app.conf.update\): expected a whole number of at least 1 or 'auto'$",
    ):
        Settings().update(worker_concurrency="8")


def test_a_wrong_value_does_not_show_its_secrets() -> None:
    with pytest.raises(ConfigError) as caught:
        Settings().update(broker_transport_options=["redis://:canary@h"])
    assert "canary" not in str(caught.value)


def test_all_problems_are_told_at_once_and_the_rest_is_set() -> None:
    settings = Settings()
    with pytest.raises(ConfigError, match=r"(?s)unknown setting 'zebra'.*\n.*task_track_started = 3"):
        settings.update(zebra=1, task_track_started=3, task_serializer="yaml")
    assert settings.task_serializer == "yaml"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("s3_bucket", "taskq has no S3 result backend"),
        ("CASSANDRA_TABLE", "taskq has no Cassandra result backend"),
        ("broker_pool_limit", "one connection carries any number of calls"),
        ("CELERYD_POOL", "coroutines run on the loop, plain functions in threads or processes"),
        ("beat_scheduler", "what schedulers share is in the ledger"),
        ("task_annotations", "write the options at the tasks"),
    ],
)
def test_celerys_settings_that_taskq_has_not_are_refused_with_the_reason(name: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=f"Celery's setting {name} does not exist in taskq: {reason}"):
        Settings().update({name: 1})


def test_an_object_that_celery_reads_too_may_have_what_tunes_celery_alone() -> None:
    shared = {
        "CELERY_TASK_TRACK_STARTED": True,
        "CELERY_BEAT_SCHEDULER": "django",
        "CELERYD_POOL": "prefork",
        "CELERY_BROKER_POOL_LIMIT": 3,
        "CELERY_CACHE_BACKEND": "default",
    }
    settings = Settings()
    with pytest.warns(UserWarning, match="are left to Celery") as seen:
        settings.from_object(shared, namespace="CELERY")
    [told] = [str(warning.message) for warning in seen]
    assert [line.partition(":")[0].strip() for line in told.splitlines()[1:]] == [
        "CELERY_BEAT_SCHEDULER",
        "CELERY_BROKER_POOL_LIMIT",
        "CELERY_CACHE_BACKEND",
    ]
    assert settings.task_track_started is True
    with pytest.warns(UserWarning, match="CELERYD_POOL: coroutines run on the loop"):
        settings.from_object({"CELERYD_POOL": "prefork"})


@pytest.mark.parametrize("name", ["TASK_ANNOTATIONS", "BROKER_READ_URL", "TASK_TRAK_STARTED"])
def test_what_would_change_what_tasks_do_is_an_error_there_too(name: str) -> None:
    with pytest.raises(ConfigError):
        Settings().from_object({f"CELERY_{name}": {}}, namespace="CELERY")


def test_an_old_name_works_with_a_warning() -> None:
    settings = Settings()
    with pytest.warns(
        DeprecationWarning, match="setting CELERY_TASK_SERIALIZER: its name is now task_serializer"
    ):
        settings.update(CELERY_TASK_SERIALIZER="yaml")
    assert settings.task_serializer == "yaml"


def test_the_warning_of_an_old_name_is_shown_by_default() -> None:
    with warnings.catch_warnings(record=True) as seen:
        # As in a fresh interpreter (the last one added comes first).
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("default", category=DeprecationWarning, module="__main__")
        Settings().update(CELERY_ACKS_LATE=False)
    assert [str(warning.message) for warning in seen] == [
        "setting CELERY_ACKS_LATE: its name is now task_acks_late"
    ]


def test_changes_are_counted() -> None:
    settings = Settings()
    before = settings.changes
    settings.task_serializer = "yaml"
    assert settings.changes == before + 1


def test_repr_and_masked_hide_passwords() -> None:
    settings = Settings()
    settings.update(broker_url="redis://:canary@h", broker_transport_options={"password": "canary"})
    assert (
        repr(settings) == "Settings(broker_url='redis://:**@h', broker_transport_options={'password': '**'})"
    )
    assert "canary" not in str(settings.masked())
    assert dict(settings.items())["broker_url"] == "redis://:canary@h"


# --- sources ---


def test_the_stronger_source_wins_whatever_comes_first(tmp_path: Path, config: ModuleType) -> None:
    write(
        tmp_path,
        """
        [tool.taskq]
        app = "proj:app"
        worker_threads = 1
        worker_concurrency = 1
        max_deaths = 1
        worker_grace = "1m"
        lease_seconds = 1
        """,
    )
    settings = load(tmp_path, {"worker_concurrency": 4, "max_deaths": 4}, TASKQ_MAX_DEATHS="5")
    config.worker_threads, config.worker_concurrency, config.max_deaths = 3, 3, 3  # type: ignore[attr-defined]  # a made-up module
    settings.from_object(config.__name__)
    settings.max_deaths = 6
    settings.set_text("lease_seconds", "7", Source.COMMAND_LINE, "--lease")
    settings.lease_seconds = 8
    assert (
        settings.worker_grace,
        settings.worker_threads,
        settings.worker_concurrency,
        settings.max_deaths,
        settings.lease_seconds,
    ) == (60, 3, 4, 5, 7)
    assert settings.source_of("worker_grace") == str(tmp_path / "pyproject.toml")
    assert settings.source_of("worker_threads") == "config_from_object('made_up_config')"
    assert settings.source_of("worker_concurrency") == "TaskQ(...)"
    assert settings.source_of("max_deaths") == "environment TASKQ_MAX_DEATHS"
    assert settings.source_of("lease_seconds") == "--lease"


def test_the_nearest_pyproject_upwards_is_read(tmp_path: Path) -> None:
    write(tmp_path, "[tool.taskq]\nmax_deaths = 9")
    inner = tmp_path / "src" / "proj"
    inner.mkdir(parents=True)
    assert load(inner).max_deaths == 9
    write(inner, "[project]\nname = 'x'")
    assert load(inner).max_deaths == 3


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_the_pyproject_of_another_user_above_is_passed_over(tmp_path: Path) -> None:
    inner = tmp_path / "work"
    inner.mkdir()
    os.chown(write(tmp_path, "[tool.taskq]\nmax_deaths = 9"), 12345, 12345)
    with pytest.warns(UserWarning, match="belongs to another user"):
        assert load(inner).max_deaths == 3
    assert load(tmp_path).max_deaths == 9


def test_no_pyproject_at_all_is_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "is_file", lambda _: False)
    assert read_pyproject(tmp_path) == (None, {})


def test_a_broken_pyproject_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, "[tool.taskq\n")
    with pytest.raises(ConfigError, match=f"{path} cannot be read: "):
        load(tmp_path)


def test_an_unknown_name_in_pyproject_names_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "[tool.taskq]\nmax_death = 9")
    with pytest.raises(
        ConfigError, match=rf"unknown setting 'max_death' \({path}\)\. Did you mean 'max_deaths'"
    ):
        load(tmp_path)


def test_the_current_folder_and_environment_are_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "[tool.taskq]\nmax_deaths = 9")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TASKQ_WORKER_THREADS", "2")
    settings = Settings.load()
    assert (settings.max_deaths, settings.worker_threads) == (9, 2)


def test_the_environment_is_read_by_type(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        TASKQ_TASK_TRACK_STARTED="yes",
        TASKQ_ACCEPT_CONTENT="json,msgpack",
        TASKQ_RESULT_EXPIRES="2h",
        TASKQ_TASK_ROUTES='{"a.*": "q"}',
        TASKQ_TASK_COMPRESSION="",
        TASKQ_BROKER_URL="",
    )
    assert settings.task_track_started is True
    assert settings.accept_content == ("json", "msgpack")
    assert settings.result_expires == 7200
    assert settings.task_routes == {"a.*": "q"}
    assert settings.source_of("task_compression") == settings.source_of("broker_url") == "default"


def test_a_wrong_variable_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"setting max_deaths = 'many' \(environment TASKQ_MAX_DEATHS\): expected"
    ):
        load(tmp_path, TASKQ_MAX_DEATHS="many")


def test_a_mistyped_variable_is_named_and_foreign_ones_are_left_alone(tmp_path: Path) -> None:
    load(
        tmp_path,
        TASKQ_APP="proj:app",
        TASKQ_TEST_REDIS="redis://h",
        TASKQ_TEST_AMQP="amqp://h",
        TASKQ_SERVICE_HOST="10.0.0.1",
        TASKQ_PORT_6379_TCP_ADDR="10.0.0.1",
    )
    with pytest.raises(
        ConfigError, match=r"environment variable TASKQ_BROKER_ULR is no setting. Did you mean 'broker_u"
    ):
        load(tmp_path, TASKQ_BROKER_ULR="redis://h")


def test_celerys_variables_serve_where_ours_are_not_set(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        CELERY_BROKER_URL="redis://c",
        CELERY_RESULT_BACKEND="redis://r",
        TASKQ_BROKER_URL="redis://t",
    )
    assert settings.broker_url == "redis://t"
    assert settings.result_backend == "redis://r"
    assert settings.source_of("result_backend") == "environment CELERY_RESULT_BACKEND"


@pytest.mark.parametrize("variable", ["TASKQ_CONFIG_MODULE", "CELERY_CONFIG_MODULE"])
def test_a_config_module_is_named_by_variable(tmp_path: Path, config: ModuleType, variable: str) -> None:
    config.max_deaths = 7  # type: ignore[attr-defined]  # a made-up module
    settings = Settings.load(folder=tmp_path, environ={variable: config.__name__})
    assert settings.max_deaths == 7
    assert settings.source_of("max_deaths") == f"made_up_config (environment {variable})"


# --- config objects ---


def test_a_module_gives_its_settings_and_keeps_its_helpers(config: ModuleType) -> None:
    config.__dict__.update(
        task_serializer="yaml",
        _helper="x",
        sys=sys,
        Path=Path,
        REDIS_HOST="h",
        default_exchange=SimpleNamespace(name="x"),
        imports=["proj.tasks"],
    )
    settings = Settings()
    settings.from_object(config)
    assert (settings.task_serializer, settings.imports) == ("yaml", ("proj.tasks",))
    assert settings.source_of("imports") == "config_from_object(made_up_config)"


def test_an_imported_module_is_never_a_setting(config: ModuleType) -> None:
    config.timezone = ModuleType("timezone")  # type: ignore[attr-defined]  # a made-up module
    settings = Settings()
    settings.from_object(config)
    assert settings.timezone is None


@pytest.mark.parametrize(("name", "value"), [("task_serialiser", "json"), ("CELERY_RESULT_EXPIRE", 5)])
def test_a_mistyped_setting_of_a_module_is_refused(config: ModuleType, name: str, value: Any) -> None:
    config.__dict__[name] = value
    with pytest.raises(ConfigError, match=f"unknown setting '{name}'"):
        Settings().from_object(config)


def test_old_names_of_a_module_work(config: ModuleType) -> None:
    config.__dict__.update(CELERYD_CONCURRENCY=2)
    settings = Settings()
    with pytest.warns(DeprecationWarning, match="CELERYD_CONCURRENCY: its name is now worker_concurrency"):
        settings.from_object(config)
    assert settings.worker_concurrency == 2


def test_a_namespace_takes_its_own_names_alone() -> None:
    class Django:
        CELERY_TASK_SERIALIZER = "yaml"
        CELERY_broker_url = "redis://h"
        DEBUG = True
        task_track_started = True

    settings = Settings()
    settings.from_object(Django(), namespace="CELERY")
    assert (settings.task_serializer, settings.broker_url, settings.task_track_started) == (
        "yaml",
        "redis://h",
        False,
    )
    assert settings.source_of("broker_url") == "config_from_object(Django)"
    with pytest.raises(ConfigError, match="unknown setting 'task_serialiser'"):
        settings.from_object({"CELERY_TASK_SERIALISER": "yaml"}, namespace="CELERY_")
    with pytest.warns(DeprecationWarning, match="CELERY_ALWAYS_EAGER"):
        settings.from_object({"CELERY_ALWAYS_EAGER": True}, namespace="celery")
    assert settings.task_always_eager is True


def test_a_mapping_is_taken_whole() -> None:
    settings = Settings()
    settings.from_object({"task_serializer": "yaml"})
    assert settings.task_serializer == "yaml"
    with pytest.raises(ConfigError, match="unknown setting 'DEBUG'"):
        settings.from_object({"DEBUG": True})


def test_a_missing_config_module_is_an_import_error() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_config"):
        Settings().from_object("no_such_config")


GOOD = "0123456789abcdef"


@pytest.mark.parametrize("secrets", ["", "short", f"{GOOD},", f"{GOOD},,{GOOD}", f"{GOOD},short"])
def test_an_empty_or_short_secret_is_an_error(tmp_path: Path, secrets: str) -> None:
    """An empty one would have switched signing off, and nobody would have noticed."""
    with pytest.raises(ConfigError, match="expected secrets of at least 16 characters each") as caught:
        load(tmp_path, TASKQ_SECURITY_SECRETS=secrets)
    assert "short" not in str(caught.value)
    with pytest.raises(ConfigError, match="at least 16 characters"):
        load(tmp_path, {"security_secrets": secrets.split(",")})


def test_secrets_are_texts_by_comma_or_a_list(tmp_path: Path) -> None:
    assert load(tmp_path, TASKQ_SECURITY_SECRETS=f"{GOOD}, {GOOD}2").security_secrets == (GOOD, f"{GOOD}2")
    assert load(tmp_path, {"security_secrets": [GOOD]}).security_secrets == (GOOD,)
    assert load(tmp_path, {"security_secrets": ()}).security_secrets == ()


# --- the default file ---


def test_the_default_file_is_beside_the_nearest_project_whatever_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "shop" / "src" / "shop"
    package.mkdir(parents=True)
    (tmp_path / "shop" / "pyproject.toml").write_text("")
    (package / "tasks.py").write_text("from taskq import TaskQ\napp = TaskQ('shop')\n")
    urls = set()
    for current in (tmp_path, package, tmp_path / "shop"):
        monkeypatch.chdir(current)
        space = runpy.run_path(str(package / "tasks.py"))
        urls.add(space["app"].conf.broker_url)
        assert space["app"].conf.source_of("broker_url") == "default"
    assert urls == {f"sqlite:///{tmp_path}/shop/.taskq/taskq.db"}


def test_without_a_project_it_is_beside_the_module_and_at_a_prompt_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "tasks.py").write_text("from taskq import TaskQ\napp = TaskQ('shop')\n")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    space = runpy.run_path(str(tmp_path / "there" / "tasks.py"))
    assert space["app"].conf.broker_url == f"sqlite:///{tmp_path}/there/.taskq/taskq.db"
    prompt: dict[str, Any] = {"__name__": "__main__"}
    exec("from taskq import TaskQ\napp = TaskQ()", prompt)
    assert prompt["app"].conf.broker_url == f"sqlite:///{tmp_path}/here/.taskq/taskq.db"


def test_what_is_written_wins_over_the_default_file(tmp_path: Path) -> None:
    write(tmp_path, '[tool.taskq]\nbroker_url = "memory://x"')
    assert Settings.load(folder=tmp_path, environ={}).broker_url == "memory://x"
