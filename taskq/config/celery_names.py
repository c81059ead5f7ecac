"""Names of Celery's configuration that taskq does not use: old upper-case ones, and settings it does not have."""

from collections.abc import Collection, Mapping
from typing import NamedTuple

#: Prefixes of settings of result backends that taskq does not have.
_BACKENDS = {
    "arangodb_": "ArangoDB",
    "azureblockblob_": "Azure Block Blob",
    "cache_": "memcached",
    "cassandra_": "Cassandra",
    "cosmosdbsql_": "Cosmos DB",
    "couchbase_": "Couchbase",
    "database_": "SQLAlchemy",
    "elasticsearch_": "Elasticsearch",
    "gcs_": "Google Cloud Storage",
    "mongodb_": "MongoDB",
    "s3_": "S3",
}

#: What old upper-case names began with (`CELERYD_CONCURRENCY`), and what is in its place now.
_OLD_PREFIXES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("celerybeat_", ("beat_",)),
    ("celeryd_", ("worker_", "")),
    ("celery_", ("", "task_", "worker_")),
    ("broker_", ("broker_",)),
    ("control_", ("control_",)),
    ("enable_", ("enable_",)),
    ("result_accept_", ("result_accept_",)),
    *((backend, (backend,)) for backend in _BACKENDS),
)

#: Old names that follow no rule.
_OLD_IRREGULAR = {
    "celery_eager_propagates_exceptions": "task_eager_propagates",
    "celery_max_cached_results": "result_cache_max",
    "celery_message_compression": "task_compression",
    "celery_repr_maxlevels": "task_repr_maxlevels",
    "celery_result_db_short_lived_sessions": "database_short_lived_sessions",
    "celery_result_db_tablenames": "database_table_names",
    "celery_result_dburi": "database_url",
    "celery_result_engine_options": "database_engine_options",
    "celery_send_events": "worker_send_task_events",
    "celery_send_task_sent_event": "task_send_sent_event",
    "celery_task_result_expires": "result_expires",
    "celeryd_worker_lost_wait": "worker_lost_wait",
}


def new_name(old: str, known: Collection[str]) -> str | None:
    """The lower-case name that replaced an upper-case one, if that is what `old` is."""
    if not old.isupper():
        return None
    lower = old.lower()
    if lower in _OLD_IRREGULAR:
        return _OLD_IRREGULAR[lower]
    for prefix, replacements in _OLD_PREFIXES:
        if lower.startswith(prefix):
            for replacement in replacements:
                name = replacement + lower.removeprefix(prefix)
                if name in known or absent(name):
                    return name
    return None


#: Attributes of Celery's app that taskq's does not have, by what to do instead.
APP_ATTRIBUTES: Mapping[str, str] = {
    name: instead
    for instead, names in {
        "start it by `taskq beat`": "Beat",
        "start it by `taskq worker`": "Worker WorkController start worker_main",
        "subclass taskq.Task, and name it by @app.task(base=...)": "Task register_task",
        "it is in the environment variable TASKQ_CONFIG_MODULE": "config_from_envvar config_from_cmdline",
        "write the setting task_routes": "amqp",
        "handles look into the result store: app.AsyncResult(task_id)": "backend",
        "app.connection() is one of your own": """broker_connection connection_for_read connection_for_write
            connection_or_acquire default_connection default_producer producer_or_acquire producer_pool""",
        "use app.set_current()": "set_default",
        "workers have hooks in taskq.signals": "steps user_options",
    }.items()
    for name in names.split()
}


def no_attribute(kind: str, name: str) -> str:
    """What to say when an app is asked for an attribute it does not have."""
    if name in APP_ATTRIBUTES:
        return f"Celery's app.{name} does not exist in taskq: {APP_ATTRIBUTES[name]}"
    return f"{kind!r} object has no attribute {name!r}"


class Absent(NamedTuple):
    """A setting of Celery's that taskq does not have.

    Attributes:
        reason: why, or what is there instead.
        tunes: it tunes a part of Celery's own (beat, pools, logs, connections, other stores): without it tasks do the
            same and messages go the same way.
    """

    reason: str
    tunes: bool


#: Those that tune what taskq does in its own way, by the reason.
_TUNING = {
    "what schedulers share is in the ledger: ledger_url, app.schedules": """beat_enable_remote_control
        beat_remote_control_max_tick_age beat_schedule_filename beat_scheduler beat_sync_every""",
    "say it at the schedule: catch_up, within": "beat_cron_starting_deadline",
    "taskq reconnects by itself": """broker_channel_error_retry broker_failover_strategy
        broker_heartbeat_checkrate redis_retry_on_timeout result_backend_always_retry
        result_backend_base_sleep_between_retries_ms result_backend_max_retries
        result_backend_max_sleep_between_retries_ms worker_cancel_long_running_tasks_on_connection_loss
        worker_enable_prefetch_count_reduction""",
    "one connection carries any number of calls": """broker_pool_acquire_timeout broker_pool_limit
        redis_max_connections""",
    "use broker_connection_timeout": "redis_socket_connect_timeout",
    "a connection that is silent for too long is made anew": "redis_socket_keepalive redis_socket_timeout",
    "connections to RabbitMQ use PLAIN": "broker_login_method",
    "it follows task_default_queue_type": "broker_native_delayed_delivery_queue_type",
    "these queues have Celery's defaults": """control_queue_durable control_queue_exclusive event_queue_durable
        event_queue_exclusive result_exchange result_exchange_type result_persistent""",
    "each handle keeps its own result": "result_cache_max",
    "nothing polls for the members of a chord": "result_chord_join_timeout result_chord_retry_interval",
    "results are stored as they are": "result_compression",
    "the worker's traceback is always told": "task_remote_tracebacks",
    "a call can say it: argsrepr, kwargsrepr": "task_repr_maxlevels",
    "coroutines run on the loop, plain functions in threads or processes: run_in, worker_concurrency": """
        worker_pool worker_pool_putlocks worker_pool_restarts worker_pool_start_method
        worker_proc_alive_timeout worker_lost_wait""",
    "logs are set by --log-format and -l, or by your program: a root logger that has handlers is left alone": """
        worker_hijack_root_logger worker_log_color worker_log_datefmt worker_log_format worker_task_log_datefmt
        worker_task_log_format""",
    "standard output is never redirected": "worker_redirect_stdouts worker_redirect_stdouts_level",
    "it is about the inside of Celery's worker": """worker_agent worker_consumer worker_disable_prefetch
        worker_enable_soft_shutdown_on_idle worker_timer worker_timer_precision""",
    "there is one kind: worker_autoscale": "worker_autoscaler",
    "use worker_grace": "worker_soft_shutdown_timeout",
    "revoked ids live in the broker": "worker_state_db",
    "quorum queues are recognized without it": "worker_detect_quorum_queues",
}

#: Those without which something else would happen, by what to do instead.
_MEANT = {
    "write it into the URL": """broker_host broker_password broker_port broker_transport broker_user broker_vhost
        redis_db redis_host redis_password redis_port redis_username""",
    "set broker_url; a call goes elsewhere by its connection=": "broker_read_url broker_write_url",
    "results are read by result_serializer alone": "result_accept_content",
    "use result_expires": "result_chord_expires result_failure_expires",
    "use task_acks_on_failure_or_timeout": "task_acks_on_failure task_acks_on_timeout",
    "give the header a link_error: each member that fails calls it": "task_allow_error_cb_on_chord_header",
    "write the options at the tasks": "task_annotations",
    "a lost worker's tasks always run again, see max_deaths": "task_retry_on_worker_lost",
    "await what apply returns": "task_store_eager_result",
    "a task whose worker died may run again: let it be idempotent": "worker_deduplicate_successful_tasks",
    "give the worker a queue of its own: -Q": "worker_direct",
}

_ABSENT: Mapping[str, Absent] = {
    name: Absent(reason, tunes)
    for table, tunes in ((_TUNING, True), (_MEANT, False))
    for reason, names in table.items()
    for name in names.split()
}


def absent(name: str) -> Absent | None:
    """What there is to say of a setting of Celery's that taskq does not have, None when it is not one of those."""
    for prefix, backend in _BACKENDS.items():
        if name.startswith(prefix):
            return Absent(f"taskq has no {backend} result backend", tunes=True)
    return _ABSENT.get(name)
