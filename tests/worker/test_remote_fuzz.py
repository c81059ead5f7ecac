"""Control messages of any content: the worker answers or passes over them, and goes on."""

import random
from typing import Any

import orjson
import pytest

from taskq.remote.control import Mailbox
from taskq.wire.message import Message
from taskq.worker.remote.panel import COMMANDS
from tests.harness import Place, running

NODE = "w@test"
SEEDS = range(8)
ROUNDS = 120


def anything(chance: random.Random, depth: int = 0) -> Any:
    """A value of JSON; near to what commands expect, and far."""
    plain: list[Any] = [
        *(None, True, -1, 0, 2**40, 1e308, "", "x", "celery", "10/m", "SIGTERM", "proj.add", NODE),
        *("(", "*", "\x00", "é" * 50, [], {}, [None], {"": None}),
    ]
    if depth < 3 and chance.random() < 0.4:
        if chance.random() < 0.5:
            return [anything(chance, depth + 1) for _ in range(chance.randrange(4))]
        names = ["task_id", "n", "queue", "headers", "rate_limit", "exchange_type", "x"]
        return {chance.choice(names): anything(chance, depth + 1) for _ in range(chance.randrange(4))}
    return chance.choice(plain)


ARGUMENTS = (
    *("task_id", "signal", "terminate", "task_name", "rate_limit", "hard", "soft", "queue", "exchange"),
    *("exchange_type", "routing_key", "n", "ids", "taskinfoitems", "headers", "from_node", "revoked", "self"),
)


def request(chance: random.Random) -> Any:
    known = [name for name in COMMANDS if name != "shutdown"]
    method = chance.choice(known) if chance.random() < 0.9 else anything(chance)
    body: dict[str, Any] = {"method": method}
    body["arguments"] = (
        {name: anything(chance) for name in chance.sample(ARGUMENTS, chance.randrange(5))}
        if chance.random() < 0.9
        else anything(chance)
    )
    for name in ("destination", "pattern", "matcher", "ticket", "reply_to"):
        if chance.random() < 0.3:
            body[name] = anything(chance)
    if chance.random() < 0.3:
        body["reply_to"] = {"exchange": anything(chance), "routing_key": anything(chance)}
    return body if chance.random() < 0.95 else anything(chance)


@pytest.mark.parametrize("seed", SEEDS)
async def test_the_worker_survives_every_control_message(place: Place, seed: int) -> None:
    chance = random.Random(seed)
    requests = Mailbox().requests
    async with place.app() as app, place.app() as caller, running(app, hostname=NODE):
        bus = (await caller.open_broker()).bus
        for _ in range(ROUNDS):
            raw = orjson.dumps(request(chance))
            if chance.random() < 0.1:
                raw = raw[: chance.randrange(len(raw))]
            kind = chance.choice(["application/json"] * 9 + ["application/x-python-serialize"])
            headers = {"clock": anything(chance), "expires": anything(chance)}
            await bus.announce(requests, [Message(headers, raw, kind, exchange=requests.name)])
        [reply] = await caller.control.broadcast("ping", reply=True, timeout=20, limit=1) or [{}]
        assert reply == {NODE: {"ok": "pong"}}
