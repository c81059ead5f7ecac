"""Virtual hosts of one's own on the RabbitMQ of the tests, and what its operator can do to it.

Each call of rabbitmqctl starts an Erlang of its own, for a second: what can be done in one call is.
"""

import asyncio
import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import aio_pika
from yarl import URL

#: What `scripts/servers.py` says of the private server it has started: the environment that reaches it.
_PRIVATE = json.loads(os.environ.get("TASKQ_TEST_RABBITMQCTL", "null"))
#: The one on PATH changes to the user of the system's server, whose cookie is another one.
CONTROL = "/usr/lib/rabbitmq/bin/rabbitmqctl" if _PRIVATE else shutil.which("rabbitmqctl")
#: How many virtual hosts are made at a time.
BATCH = 8

ADD = """
    [begin
        rabbit_vhost:add(Name, <<"tests">>),
        rabbit_auth_backend_internal:set_permissions(USER, Name, <<".*">>, <<".*">>, <<".*">>, <<"tests">>)
    end || Name <- NAMES].
"""
REMOVE = """
    [catch rabbit_vhost:delete(Name, <<"tests">>) || Name <- NAMES].
"""
#: Close the connections of a vhost whose name has a part, each when the one before is back, and give their number.
CLOSE = """
    Named = fun(Info) ->
        case lists:keyfind(<<"connection_name">>, 1, proplists:get_value(client_properties, Info)) of
            {_, _, Name} -> string:find(Name, PART) =/= nomatch;
            false -> PART == <<>>
        end
    end,
    Pids = fun() ->
        Infos = rabbit_networking:connection_info_all([pid, vhost, client_properties]),
        [proplists:get_value(pid, Info) || Info <- Infos, proplists:get_value(vhost, Info) == VHOST, Named(Info)]
    end,
    All = Pids(),
    Back = fun
        Wait(_, 0) -> late;
        Wait(Count, Tries) when Tries > 0 ->
            case length(Pids() -- All) of
                Enough when Enough >= Count -> back;
                _ -> timer:sleep(10), Wait(Count, Tries - 1)
            end
    end,
    [begin
        rabbit_networking:close_connection(Pid, "test"),
        Back(Count, 1000)
    end || {Count, Pid} <- lists:zip(lists:seq(1, length(All)), All)],
    length(All).
"""

_made: list[str] = []
_unused: list[str] = []


def rabbitmqctl(*arguments: str) -> str:
    """Run rabbitmqctl, and return what it prints."""
    assert CONTROL is not None
    done = subprocess.run(
        [CONTROL, "--quiet", *arguments],
        env=os.environ | (_PRIVATE or {}),
        check=True,
        capture_output=True,
        text=True,
        timeout=180,
    )
    return done.stdout


@contextmanager
def rabbit_vhost(amqp_url: str) -> Iterator[str]:
    """The URL of a fresh vhost; the given one where rabbitmqctl is missing or speaks to another server."""
    if CONTROL is None:
        yield amqp_url
        return
    if not _unused:
        add_vhosts(URL(amqp_url).user or "guest")
    own = str(URL(amqp_url).with_path(f"/{_unused.pop()}"))
    yield own if asyncio.run(reachable(own)) else amqp_url


def add_vhosts(user: str) -> None:
    names = [f"taskq-test-{uuid.uuid4().hex[:12]}" for _ in range(BATCH)]
    _made.extend(names)
    evaluate(ADD, NAMES=names, USER=user)
    _unused.extend(names)


def remove_vhosts() -> None:
    """At the end of the session, all that were made."""
    if _made:
        evaluate(REMOVE, NAMES=_made)
        _made.clear()
        _unused.clear()


def evaluate(program: str, **words: str | list[str]) -> str:
    """Run lines of Erlang in the server, with binaries in place of the words; what the last one gives."""
    for word, value in words.items():
        program = program.replace(word, erlang(value))
    return rabbitmqctl("eval", program)


def erlang(value: str | list[str]) -> str:
    return f"<<{json.dumps(value)}>>" if isinstance(value, str) else f"[{','.join(map(erlang, value))}]"


async def reachable(url: str) -> bool:
    try:
        await (await aio_pika.connect(url, timeout=5)).close()
    except (aio_pika.exceptions.AMQPError, OSError):
        return False
    return True


def is_own(url: str) -> bool:
    """Whether `rabbit_vhost` could make a vhost: then rabbitmqctl may be used on it."""
    return URL(url).path.startswith("/taskq-test-")


async def close_connections(vhost_url: str, name_part: str = "") -> int:
    """As an operator closes them; returns how many there were."""
    vhost = URL(vhost_url).path.removeprefix("/")
    return int(await asyncio.to_thread(evaluate, CLOSE, VHOST=vhost, PART=name_part))
