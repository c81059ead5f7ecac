"""A sample of the poison matrix: `python -m scripts.poison` runs all of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    "broker",
    [
        "sqlite",
        pytest.param("redis", marks=pytest.mark.redis),
    ],
)
def test_odd_messages_are_settled_and_good_ones_run(broker: str, redis_url: str) -> None:
    command = [sys.executable, "-m", "scripts.poison", broker, "--every", "41"]
    environment = {**os.environ, "TASKQ_TEST_REDIS": redis_url}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=170
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("held\n")
