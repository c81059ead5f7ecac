"""Names of Celery's configuration that taskq does not use: old upper-case ones, and settings it does not have."""

from collections.abc import Collection, Mapping

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
                if name in known or why_absent(name):
                    return name
    return None


_IN_URL = "write it into the URL"
_OWN_RECONNECT = "taskq reconnects by itself"
_ONE_CONNECTION = "one connection carries any number of calls"
_OWN_WORKER = "it configures Celery's worker process, which taskq replaces"
_NOT_HERE = "taskq does not have what it configures"

#: Celery's settings that taskq does not have, by the reason.
_ABSENT: Mapping[str, str] = {
    name: reason
    for reason, names in {
        _IN_URL: """broker_host broker_password broker_port broker_transport broker_user broker_vhost
            redis_db redis_host redis_password redis_port redis_username""",
        _OWN_RECONNECT: """broker_channel_error_retry broker_failover_strategy broker_heartbeat_checkrate
            redis_retry_on_timeout result_backend_always_retry result_backend_max_retries
            result_backend_base_sleep_between_retries_ms result_backend_max_sleep_between_retries_ms
            worker_cancel_long_running_tasks_on_connection_loss worker_enable_prefetch_count_reduction""",
        _ONE_CONNECTION: "broker_pool_acquire_timeout broker_pool_limit redis_max_connections",
        _OWN_WORKER: """worker_agent worker_autoscaler worker_consumer worker_disable_prefetch
            worker_enable_soft_shutdown_on_idle worker_lost_wait worker_pool worker_pool_putlocks
            worker_pool_restarts worker_pool_start_method worker_proc_alive_timeout worker_timer
            worker_timer_precision worker_hijack_root_logger worker_log_color worker_log_datefmt
            worker_log_format worker_redirect_stdouts worker_redirect_stdouts_level worker_task_log_datefmt
            worker_task_log_format""",
        "use worker_grace": "worker_soft_shutdown_timeout",
        "revoked ids live in the broker": "worker_state_db",
        "results are read by result_serializer alone": "result_accept_content",
        "await what apply returns": "task_store_eager_result",
        "use task_acks_on_failure_or_timeout": "task_acks_on_failure task_acks_on_timeout",
        "a lost worker's tasks always run again, see max_deaths": "task_retry_on_worker_lost",
        _NOT_HERE: """beat_cron_starting_deadline beat_enable_remote_control beat_max_loop_interval
            beat_remote_control_max_tick_age beat_schedule beat_schedule_filename beat_scheduler beat_sync_every
            broker_login_method broker_native_delayed_delivery_queue_type broker_read_url broker_write_url
            control_queue_durable control_queue_exclusive event_queue_durable event_queue_exclusive redis_socket_connect_timeout
            redis_socket_keepalive redis_socket_timeout result_cache_max result_chord_expires
            result_chord_join_timeout result_chord_retry_interval result_compression result_exchange
            result_exchange_type result_failure_expires result_persistent                         task_allow_error_cb_on_chord_header task_annotations task_remote_tracebacks
            task_repr_maxlevels worker_deduplicate_successful_tasks
            worker_detect_quorum_queues worker_direct""",
    }.items()
    for name in names.split()
}


def why_absent(name: str) -> str:
    """Why taskq does not have this setting of Celery's, or "" when it is not one of those."""
    for prefix, backend in _BACKENDS.items():
        if name.startswith(prefix):
            return f"taskq has no {backend} result backend"
    return _ABSENT.get(name, "")
