"""Writes docs/settings.md from taskq/config/settings.py, so that the manual cannot say what the code does not."""

import ast
import inspect
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from taskq.config import settings
from taskq.config.coerce import describe

PAGE = Path(__file__).parent.parent / "docs" / "settings.md"

HEAD = """# Settings

<!-- Made by `make docs` from taskq/config/settings.py: change it there. -->

Names and meanings are Celery's; where a default is another, the text says so. Set them in any of these ways; where
two disagree, the later one in this list wins:

1. the default, below;
2. `pyproject.toml`, the nearest one upwards from the current folder:

   ```toml
   [tool.taskq]
   broker_url = "redis://localhost"
   task_routes = { "reports.*" = "slow" }
   ```

3. `app.config_from_object("proj.config")`: a module, `module:object` or an object; with `namespace="CELERY"` only its
   names that begin so, in capitals (Django). The environment variable `TASKQ_CONFIG_MODULE` (or
   `CELERY_CONFIG_MODULE`) names a module to be read likewise;
4. in the program: `TaskQ("proj", task_serializer="msgpack")`, `app.conf.update(...)`, `app.conf.task_serializer = ...`;
5. the environment: `TASKQ_` and the name in capitals, such as `TASKQ_BROKER_URL`. Booleans are `1 true yes on` or
   `0 false no off`, lists are separated by commas, mappings are JSON, and times take units: `500ms 10s 5m 2h 1d`.
   `CELERY_BROKER_URL` and `CELERY_RESULT_BACKEND` serve where ours are not set;
6. options of the command line.

An unknown name is an error that proposes the near one, a wrong type an error that says what is expected. Celery's
old names in capitals (`CELERY_TASK_SERIALIZER`) work with a warning that tells the new one. Settings of result
backends and worker parts that taskq does not have are refused, with the reason.

An environment variable set to nothing counts as not set. `taskq conf` shows the values in effect and where each was
written.
"""

SECTION = re.compile(r"^    # --- (.+?) -*$")


class Entry(NamedTuple):
    section: str
    name: str
    takes: str
    default: str
    text: str


def entries() -> Iterator[Entry]:
    """Every setting as it stands in the class: section, name, type, default and the text below it."""
    source = inspect.getsource(settings)
    sections = {
        number: match[1]
        for number, line in enumerate(source.splitlines(), 1)
        if (match := SECTION.match(line))
    }
    body = next(node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)).body
    for node, after in itertools.pairwise(body):
        if isinstance(node, ast.AnnAssign):
            name = ast.unparse(node.target)
            text = ast.literal_eval(after.value) if isinstance(after, ast.Expr) else ""
            section = sections[max(number for number in sections if number < node.lineno)]
            kind = describe(settings.Settings.__annotations__[name])
            yield Entry(section, name, kind, shown(getattr(settings.Settings, name)), text)


def shown(default: object) -> str:
    """The default as it is written in Python."""
    if isinstance(default, int) and not isinstance(default, bool):
        return f"{default:_}" if default >= 10_000 else str(default)
    return "`None`" if default is None else f"`{default!r}`"


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    section = ""
    for entry in entries():
        if entry.section != section:
            section = entry.section
            parts.append(f"\n## {section}\n")
        parts.append(
            f"\n### `{entry.name}`\n\n{entry.text}\n\nDefault: {entry.default}. Takes {entry.takes}.\n"
        )
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
    print(f"wrote {PAGE}")
