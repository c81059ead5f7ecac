"""Virtual hosts of one's own on the RabbitMQ of the tests, and what its operator can do to it.

Each call of rabbitmqctl starts an Erlang of its own, for a second: what can be done in one call is.
"""

import asyncio
import json
import os
import re
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
#: The most virtual hosts that are made at a time. Each takes seven file handles of the about 900 that a server may
#: have with the usual limit, and with none left it answers nobody.
MOST = 4

#: Remove virtual hosts, make others, and give the names of all there are.
CHANGE = """
    [catch rabbit_vhost:delete(Name, <<"tests">>) || Name <- REMOVED],
    [begin
        rabbit_vhost:add(Name, <<"tests">>),
        rabbit_auth_backend_internal:set_permissions(USER, Name, <<".*">>, <<".*">>, <<".*">>, <<"tests">>)
    end || Name <- ADDED],
    rabbit_vhost:list_names().
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

_unused: list[str] = []
_in_use: list[str] = []
_used: set[str] = set()


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
        change_vhosts(min(MOST, 1 + len(_in_use) + len(_used)), URL(amqp_url).user or "guest")
    name = _unused.pop()
    _in_use.append(name)
    try:
        own = str(URL(amqp_url).with_path(f"/{name}"))
        yield own if asyncio.run(reachable(own)) else amqp_url
    finally:
        _in_use.remove(name)
        _used.add(name)


def change_vhosts(count: int, user: str = "guest") -> None:
    """Make so many, and remove those that were used. The names tell whose they are: what a killed session left goes, too."""
    names = [f"taskq-test-{os.getpid()}-{uuid.uuid4().hex[:12]}" for _ in range(count)]
    said = evaluate(CHANGE, ADDED=names, REMOVED=sorted(_used), USER=user)
    _unused.extend(names)
    _used.clear()
    _used.update(f"taskq-test-{pid}-{rest}" for pid, rest in OWNED.findall(said) if not is_alive(int(pid)))


def remove_vhosts() -> None:
    """At the end of the session, all that are left."""
    _used.update(_unused)
    _unused.clear()
    if _used:
        change_vhosts(0)


#: A name of ours in what Erlang prints: the process that made it, and the rest.
OWNED = re.compile(r'<<"taskq-test-(\d+)-(\w+)">>')


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


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
