"""About 2 ms of pure Python, and how much of it this machine does in one process and in two."""

import subprocess
import sys
import time
from contextlib import ExitStack
from subprocess import PIPE

from benchmarks.harness import ROOT

ROUNDS = 18_000


def spin() -> int:
    found = 1
    for number in range(ROUNDS):
        found = (found * 31 + number) & 0xFFFF
    return found


def machine_rate(processes: int, n: int) -> float:
    """Have so many plain Python processes that know nothing of each other share n calls of `spin`; calls a second."""
    command = [sys.executable, "-m", "benchmarks.spin", str(n // processes)]
    with ExitStack() as stack:
        running = [
            stack.enter_context(subprocess.Popen(command, cwd=ROOT, stdin=PIPE, stdout=PIPE, bufsize=0))
            for _ in range(processes)
        ]
        for process in running:
            assert process.stdout is not None
            process.stdout.readline()
        began = time.monotonic()
        for process in running:
            assert process.stdin is not None
            process.stdin.write(b"go\n")
        for process in running:
            process.wait()
        return n / (time.monotonic() - began)


if __name__ == "__main__":
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(int(sys.argv[1])):
        spin()
