"""Dramatiq on Redis or RabbitMQ, results on Redis; one worker process of 8 threads: its default, and cheaper than one."""

import logging

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from benchmarks.peers.given import BROKER, RESULTS, tally

logging.basicConfig(level=logging.WARNING)
broker = RabbitmqBroker(url=BROKER) if BROKER.startswith("amqp") else RedisBroker(url=BROKER)
# Without what it measures and watches besides.
broker.middleware = [m for m in broker.middleware if type(m).__name__ not in {"Prometheus", "AgeLimit"}]
if RESULTS:
    broker.add_middleware(Results(backend=RedisBackend(url=RESULTS), store_results=True))
dramatiq.set_broker(broker)


@dramatiq.actor
def noop(i):
    tally.hit()
    return i


def worker():
    return ["-m", "dramatiq", "benchmarks.peers.dramatiq_app", "-p", "1", "-t", "8"]


async def start():
    pass


async def stop():
    broker.close()


async def call(i):
    return noop.send(i)


async def call_many(n):
    return [noop.send(i) for i in range(n)]


async def round_trip(i):
    handle = await call(i)
    return handle.get_result(block=True)


async def awaited(n):
    handles = await call_many(n)
    for handle in handles:
        handle.get_result(block=True)
