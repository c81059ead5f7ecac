"""`make soak`, as short as it makes sense."""

import json
import subprocess
import sys

import pytest

from tests.commands import ROOT, environment


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "broker",
    [
        "sqlite",
        pytest.param("redis", marks=pytest.mark.redis),
        pytest.param("amqp", marks=pytest.mark.rabbitmq),
    ],
)
def test_nothing_is_lost_in_half_a_minute_of_faults(broker: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scripts.soak", "--broker", broker, "--seconds", "30", "--seed", "7"],
        cwd=ROOT,
        env=environment(),
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout.partition("\n")[2])
    assert figures["lost"] == 0
    assert figures["confirmed"] > 100
    assert figures["answered"] > 1
    assert sum(figures["faults"].values()) > 1
