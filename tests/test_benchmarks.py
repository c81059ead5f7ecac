"""The benchmarks run: every scenario once with few tasks, ours alone (peers need an environment of their own)."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def bench(broker: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--only", "taskq", "--broker", broker],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "left out" not in done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("broker", "rows"),
    [
        pytest.param("memory", 5, id="memory"),
        pytest.param("sqlite", 16, id="sqlite"),
        pytest.param("redis", 19, id="redis", marks=pytest.mark.redis),
        pytest.param("amqp", 19, id="amqp", marks=pytest.mark.rabbitmq),
    ],
)
def test_it_measures_every_scenario(broker: str, rows: int) -> None:
    table = bench(broker)

    assert len([line for line in table.splitlines() if "us/task" in line or "tasks/s" in line]) == rows
    assert "drain: worker CPU, us/task" in table


@pytest.mark.slow
@pytest.mark.parametrize(
    "broker",
    [
        "sqlite",
        pytest.param("redis", marks=pytest.mark.redis),
        pytest.param("amqp", marks=pytest.mark.rabbitmq),
    ],
)
def test_it_measures_what_a_second_process_brings(broker: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.processes", "--quick", "--broker", broker],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split(" | ") for line in done.stdout.splitlines()]
    assert [row[0] for row in rows[2:]] == ["| plain Python, no queue", "| 2 ms of Python", "| no-op"]
    assert all(float(row[1]) > 0 for row in rows[3:])
