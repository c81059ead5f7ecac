"""The settings: Celery's lower-case names, and taskq's own. One entry is its name, type, default and meaning.

docs/settings.md is made from this file by `make docs`.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, Self

from taskq.config.coerce import Amount, Count, Names, Range, Seconds, Secrets, Url
from taskq.config.layers import Layered, Source
from taskq.config.sources import default_file, load_environment, load_pyproject

#: What has a meaning of its own in a URL: with one of these in its path, the default file is looked for from the current folder.
_NO_PATH: Final = frozenset("?#;%")


class Settings(Layered):
    """An app's settings, as typed attributes: `app.conf.task_serializer`.

    Sources, weakest first: defaults, `pyproject.toml [tool.taskq]`, `config_from_object`, keyword arguments and
    `app.conf`, environment `TASKQ_*`, command line. `source_of` tells where a value was written.
    """

    # --- Broker ---

    broker_url: Url = "sqlite:///.taskq/taskq.db"
    """The broker: `sqlite:///path`, `memory://name`, `redis://`, `amqp://`, ... Several are tried in turn. The default is a file beside the nearest `pyproject.toml` above the app's module, or beside the module, whatever the current folder."""
    broker_connection_timeout: Seconds = 4.0
    """How long connecting to the broker may take, in seconds."""
    broker_connection_retry: bool = True
    """Whether a worker that lost its broker connects again, rather than stops."""
    broker_connection_retry_on_startup: bool | None = None
    """The same when a worker starts; None: as `broker_connection_retry`."""
    broker_connection_max_retries: Amount | None = None
    """How often a worker tries to connect again before it gives up; None or 0: for ever."""
    broker_heartbeat: Seconds = 15.0
    """Interval of AMQP heartbeats in seconds, by which a silent connection is found dead; 0: none."""
    broker_transport_options: dict[str, Any] = {}  # noqa: RUF012 - copied for each instance
    """Options of the broker's adapter, for example `visibility_timeout` and `global_keyprefix` on Redis."""
    broker_use_ssl: bool | dict[str, Any] = False
    """TLS: true for the system's authorities, or options (`ca_certs`, `certfile`, `keyfile`, `cert_reqs`)."""

    ledger_url: Url | None = None
    """Where what periodic tasks must agree on is kept: `sqlite:///path`, `memory://name` or `redis://`. None: where the broker is or, with RabbitMQ, where results are."""

    # --- Results ---

    result_backend: Url | None = None
    """Where results go; `disabled://`: nowhere. None: to where the broker is, from RabbitMQ straight to the caller (`rpc://`). (Celery's default is nowhere.)"""
    result_backend_transport_options: dict[str, Any] = {}  # noqa: RUF012 - as above
    """Options of the result store's adapter, for example `global_keyprefix` and `master_name` on Redis."""
    redis_backend_use_ssl: dict[str, Any] | None = None
    """TLS options of a Redis result store."""
    result_expires: Seconds | None = 86400.0
    """How long a result is kept, in seconds; None or 0: for ever."""
    result_serializer: str = "json"
    """Serializer of results."""
    result_extended: bool = False
    """Whether a result also tells the task's name, arguments, worker, queue and retries."""

    # --- Messages ---

    task_serializer: str = "json"
    """Serializer of calls that name none: `json`, `msgpack`, `yaml`, `pickle` or a registered one."""
    accept_content: Names = ("json",)
    """Content types (or serializer names) that a worker reads; it refuses others, since pickle and yaml can run code."""
    task_compression: str | None = None
    """Compression of calls that name none: `gzip`, `zlib`, `bzip2`, `lzma`, `brotli`, `zstd`."""
    task_protocol: Literal[2] = 2
    """Version of the message protocol that is written. Version 1 is read, too."""
    enable_utc: Literal[True] = True
    """Times in messages are UTC."""
    max_message_bytes: Count = 16 * 1024 * 1024
    """The largest message that is sent or read, in bytes: its headers and its body."""
    max_inflated_bytes: Count = 64 * 1024 * 1024
    """The largest a compressed message may grow to when it is read, in bytes."""

    max_message_values: Count = 1_000_000
    """The most values (numbers, texts, arrays, objects and keys) that the body of a message or a stored result may hold. They are counted before any is built: 58 kB of gzip can hold millions."""

    max_sent_messages: Count = 10_000
    """The most messages that may follow one run: callbacks, the next step of a chain, errbacks, the body of a chord, a replacement. A run with more of them fails before they are built; what a task sends by its own calls is not counted."""
    max_sent_bytes: Count = 128 * 1024 * 1024
    """The most bytes that the bodies of these messages may come to."""

    # --- Publishing ---

    task_publish_retry: bool = True
    """Whether a call that could not reach the broker tries again."""
    task_publish_retry_policy: dict[str, Any] = {  # noqa: RUF012 - as above
        "max_retries": 3,
        "interval_start": 0,
        "interval_step": 0.2,
        "interval_max": 1,
        "timeout": 5.0,
    }
    """How it tries: `max_retries` (None: as often as there is time for), the pauses `interval_start`, `interval_step`, `interval_max`, and `timeout`, the time for all tries and pauses together, in seconds each. (Celery: no limit.)"""
    task_default_delivery_mode: Literal[2, 1, "persistent", "transient"] = 2
    """Whether RabbitMQ writes messages to disk (2 or `persistent`) or may lose them in a restart."""
    task_default_priority: Amount | None = None
    """Priority of calls for which neither the call nor its route names one."""
    task_inherit_parent_priority: bool = False
    """Whether calls made by a task get that task's priority."""

    # --- Queues and routes ---

    task_default_queue: str = "celery"
    """The queue of calls that are not routed elsewhere."""
    task_default_queue_type: Literal["classic", "quorum"] = "classic"
    """Type of the default queue on RabbitMQ."""
    task_default_exchange: str | None = None
    """Exchange of queues that name none; None: the name of the default queue."""
    task_default_exchange_type: str = "direct"
    """Type of that exchange: `direct`, `topic` or `fanout`."""
    task_default_routing_key: str | None = None
    """Routing key of queues that name none; None: the name of the default queue."""
    task_queues: Any = None
    """The queues: a list of `Queue` (kombu's serve, too), of names or of mappings, or a mapping of name to options. A worker without `-Q` reads them all."""
    task_queue_max_priority: Count | None = None
    """`x-max-priority` of queues that set none (RabbitMQ)."""
    task_create_missing_queues: bool = True
    """Whether a queue that is not in `task_queues` is made when it is named; else that is an error."""
    task_create_missing_queue_type: Literal["classic", "quorum"] = "classic"
    """Type of queues so made (RabbitMQ)."""
    task_create_missing_queue_exchange_type: str | None = None
    """Exchange type of queues so made; None: `direct`."""
    task_routes: Any = None
    """Which task goes where: a mapping of pattern to queue or options, a list of pairs, a function, the dotted path of one, or a list of these."""

    # --- Tasks ---

    imports: Names = ()
    """Modules that a worker imports when it starts, for the tasks in them."""
    include: Names = ()
    """More such modules."""
    task_acks_late: bool = True
    """True: a task is acknowledged when its outcome is stored, so that a crash runs it again. False: before it runs, so that a crash loses it. (Celery: false.)"""
    task_acks_on_failure_or_timeout: bool = True
    """False: a task that failed is not acknowledged but refused to the dead letters."""
    task_reject_on_worker_lost: Literal[True] = True
    """Tasks of a lost worker go to another one, at most `max_deaths` times. (Celery: false.)"""
    task_ignore_result: bool = False
    """Whether results of tasks that do not say are dropped."""
    task_store_errors_even_if_ignored: bool = False
    """Whether failures are stored even so."""
    task_track_started: bool = False
    """Whether the state STARTED is stored when a task begins."""
    task_time_limit: Seconds | None = None
    """Hard limit of a task's run in seconds, after which it is ended."""
    task_soft_time_limit: Seconds | None = None
    """Soft limit in seconds, after which `SoftTimeLimitExceeded` is raised inside the task."""
    task_default_rate_limit: str | float | None = None
    """How often a worker may start a task that says nothing itself: `10/s`, `100/m`, `5/h`, or a number per second."""
    task_always_eager: bool = False
    """Whether calls run here and now, without a broker, for tests."""
    task_eager_propagates: bool = False
    """Whether an eager task's exception reaches the caller at once."""
    timezone: str | None = None
    """The time zone of schedules that name none, as Europe/Berlin; None: UTC. Times in messages are UTC whatever it says."""

    # --- Periodic tasks ---

    beat_schedule: dict[str, Any] = {}  # noqa: RUF012 - as above
    """What `taskq beat` sends when, by name: mappings of `task`, `schedule`, `args`, `kwargs` and `options`."""
    beat_max_loop_interval: Seconds = 0
    """How long a scheduler waits at most before it looks at the clock again, in seconds; 0: 300."""
    beat_max_lateness: Seconds = 60.0
    """After so many seconds an instant that was not sent is late: whether it is sent at all says the entry's `catch_up`."""

    # --- Worker ---

    worker_concurrency: Count | Literal["auto"] = 100
    """How many tasks run at once, async and plain ones together; `auto`: from 10 to 1000, as many as are needed and the event loop can carry. (Celery: the number of processors.)"""
    worker_autoscale: Range | None = None
    """The most and the fewest tasks that run at once, `MAX,MIN`: the number follows the load between them; `worker_concurrency` does not count then."""
    worker_threads: Count = 16
    """How many plain (not async) tasks run at once, each in a thread."""
    worker_run_in: Literal["thread", "process"] = "thread"
    """Where plain tasks run that do not say themselves (`run_in`); those that another process cannot find run in threads."""
    worker_pool_processes: Count | None = None
    """How many plain tasks run at once in processes of their own (`run_in="process"`, or with a hard time limit); None: one for each processor."""
    worker_max_tasks_per_child: Count | None = None
    """Such a process is replaced after so many tasks; None: never."""
    worker_max_memory_per_child: Count | None = None
    """Such a process is replaced after a task when it has used more than so many kB of memory; None: never."""
    worker_prefetch_multiplier: Amount = 4
    """A worker holds up to this times `worker_concurrency` messages; 0: no limit."""
    worker_held_bytes: Count = 256 * 1024 * 1024
    """A worker takes no more messages while the bodies of those it holds, running ones included, come to so many bytes. A message that is larger by itself is still run."""
    worker_grace: Seconds = 25.0
    """How long running tasks may still take when the worker is told to stop, in seconds; then they go back to their queues."""
    http_bind: str | None = None
    """Where a worker answers probes and shows metrics over HTTP: `host:port`, or a port alone on the loopback address; None: nowhere. Process n of `--processes` takes the n-th port from there on."""
    heartbeat_file: str | None = None
    """A file whose time of change a worker renews every second while it is alive and consuming, for probes without HTTP. Process n of `--processes` appends `.n`."""
    health_patience: Seconds = 60.0
    """After so many seconds of a blocked event loop, or of leaving waiting messages alone while it has room, a worker counts as not alive."""
    eta_horizon: Seconds = 60.0
    """Tasks due within this many seconds wait in the worker, later ones in the broker."""
    worker_eta_task_limit: Count = 1_000
    """The most tasks that wait in one worker's memory (about 5 kB each); more wait in the broker. (Celery: no limit.)"""

    worker_send_task_events: bool = False
    """Whether a worker sends events of its tasks, for monitors (`taskq worker -E`)."""
    worker_enable_remote_control: bool = True
    """Whether a worker obeys remote control (`taskq inspect`, `taskq control`, Flower)."""
    worker_pcre_matchers: bool = False
    """Whether commands may name workers by a regular expression (`matcher="pcre"`), too. Such an expression can keep a worker busy for hours: leave it off where others can write to the broker. Globs serve always. (Celery: on.)"""
    worker_disable_rate_limits: bool = False
    """Whether rate limits of tasks are passed over."""

    # --- Remote control and events ---

    task_send_sent_event: bool = False
    """Whether each task that is sent is told of by an event `task-sent`: by callers, and by workers of what follows a run."""
    control_exchange: str = "celery"
    """What the names of remote control's exchanges and queues begin with."""
    control_queue_ttl: Seconds = 300.0
    """How long a command or reply waits for its reader, in seconds."""
    control_queue_expires: Seconds = 10.0
    """How long the queue of a reader that vanished is kept, in seconds."""
    event_exchange: str = "celeryev"
    """Name of the exchange of events."""
    event_queue_prefix: str = "celeryev"
    """What the names of event receivers' queues begin with."""
    event_queue_ttl: Seconds = 5.0
    """How long an event waits for its receiver, in seconds."""
    event_queue_expires: Seconds = 60.0
    """How long the queue of a receiver that vanished is kept, in seconds."""
    event_serializer: str = "json"
    """Serializer of events."""

    # --- Safety ---

    security_secrets: Secrets = ()
    """Secrets shared by all callers and workers: messages are signed with the first (HMAC-SHA256 over headers and body), and a worker refuses those that none of them has signed. To change one, add the new one behind, then move it to the front, then remove the old one, everywhere each time."""
    security_key: str | None = None
    """File of the private key (PEM, RSA) for the serializer `auth`, see `app.setup_security`."""
    security_key_password: str | None = None
    """Password of that file."""
    security_certificate: str | None = None
    """File of our own certificate (PEM) for the serializer `auth`."""
    security_cert_store: str | None = None
    """Files of the certificates (PEM) whose owners may send messages, as a pattern: `/etc/certs/*.pem`."""
    security_digest: str = "sha256"
    """Digest of signatures of the serializer `auth`."""
    lease_seconds: Seconds = 30.0
    """How long a worker that went silent keeps its tasks, in seconds, before others get them."""
    worker_blocked_warning: Seconds = 5.0
    """After so many seconds in which a task lets nothing else run, its stack is logged."""
    max_deaths: Count = 3
    """After so many workers died holding a task, it goes to the dead letters."""
    dead_retention: Seconds | None = 604_800.0
    """How long dead letters are kept, in seconds; None: for ever."""
    dead_limit: Count = 10_000
    """The most dead letters that are kept; the oldest make room."""
    revoked_limit: Count = 50_000
    """The most revoked ids that are remembered for workers that start later; those that end first make room."""
    announced_limit: Count = 20_000
    """The most remote commands, replies and events that are kept for a listener that is slow; the oldest make room."""

    @classmethod
    def load(
        cls,
        values: Mapping[str, Any] | None = None,
        *,
        folder: Path | None = None,
        module: str | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> Self:
        """Settings from all sources there are outside the command line.

        Args:
            values: an app's keyword arguments.
            module: the file of the app's module, beside which the default broker's file may lie.
            folder: where to look for `pyproject.toml`, upwards; default the current folder.
            environ: the environment.

        Raises:
            ConfigError: a setting is unknown or of a wrong type; all of one source are named together.
            ImportError: the module of `TASKQ_CONFIG_MODULE` or `CELERY_CONFIG_MODULE` cannot be imported.
        """
        settings = cls()
        path = default_file(module, folder or Path.cwd())
        if _NO_PATH.isdisjoint(str(path)):
            settings.set_from({"broker_url": f"sqlite:///{path}"}, Source.DEFAULT, "default")
        load_pyproject(settings, folder or Path.cwd())
        load_environment(settings, environ)
        settings.set_from(values or {}, Source.APP, "TaskQ(...)")
        return settings
