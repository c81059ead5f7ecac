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


def machine_rate(processes: int, seconds: float) -> float:
    """Calls of `spin` a second by so many plain Python processes that know nothing of each other, together."""
    command = [sys.executable, "-m", "benchmarks.spin", str(seconds)]
    with ExitStack() as stack:
        running = [
            stack.enter_context(subprocess.Popen(command, cwd=ROOT, stdin=PIPE, stdout=PIPE, bufsize=0))
            for _ in range(processes)
        ]
        pipes = [(process.stdin, process.stdout) for process in running]
        for _, answers in pipes:
            assert answers is not None
            answers.readline()
        for orders, _ in pipes:
            assert orders is not None
            orders.write(b"go\n")
        return sum(int(answers.readline()) for _, answers in pipes if answers is not None) / seconds


def main(seconds: float) -> None:
    print("ready", flush=True)
    sys.stdin.readline()
    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        spin()
        count += 1
    print(count)


if __name__ == "__main__":
    main(float(sys.argv[1]))
