"""Celery's own command for many questions: imported once, then each command line runs in a fork of its own.

Reads one JSON object a line, `{"folder": ..., "arguments": [...], "output": ..., "errors": ...}`, the last two files to
write, and answers each with a line that has the exit code. Ends with its input.
"""

import json
import os
import sys

import celery.__main__
import celery.app.amqp
import celery.app.control
import celery.bin.celery
import kombu.transport.pyamqp
import kombu.transport.redis  # noqa: F401 - what each would import


def run(folder: str, arguments: list[str], output: str, errors: str) -> None:
    """As `python -m celery` in the folder would."""
    for number, path in ((1, output), (2, errors)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.chdir(folder)
    sys.path.insert(0, folder)
    sys.argv = ["celery", *arguments]
    celery.__main__.main()


def main() -> None:
    for line in sys.stdin:
        if not (child := os.fork()):
            run(**json.loads(line))
            sys.exit()
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
