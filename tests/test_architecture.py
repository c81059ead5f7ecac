"""The house's rules (DESIGN.md) as assertions over the source.

The tables come first: a change of the architecture is a change of one line there.
"""

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from inspect import getdoc, isclass, isroutine
from pathlib import Path
from typing import Final

import pytest

import taskq

ROOT: Final = Path(__file__).parent.parent

MODULE_LINES: Final = 400
SMALLEST_MODULE: Final = 40
FUNCTION_LINES: Final = 40
FOLDER_FILES: Final = 22
CONSTRUCTOR_PARAMETERS: Final = 8

# -- who may reach whom: through any number of imports, those for type checkers included

#: Rule 1: what everybody may import.
LEAVES: Final = (
    *("taskq.errors", "taskq.states", "taskq.options"),
    *("taskq.version", "taskq.clock", "taskq.near", "taskq.printable"),
)
#: Rule 2.
WIRE: Final = (*LEAVES, "taskq.wire.*")
SEAMS: Final = (*WIRE, "taskq.seams.*")
CANVAS: Final = (*WIRE, "taskq.canvas.*", "taskq.seams.app", "taskq.registry")
RUN: Final = (*CANVAS, "taskq.run.*")
#: Rule 4: the library, without its floors.
MIDDLE: Final = (*RUN, *SEAMS, "taskq.results.*", "taskq.config.*", "taskq.remote.*", "taskq.signals")
LIBRARY: Final = (
    *(*MIDDLE, "taskq.app", "taskq.builtins", "taskq.calls", "taskq.logs", "taskq.streamed", "taskq.sync"),
    *("taskq.task", "taskq.tracing"),
)

#: (who, what it may reach of our own modules). `{folder}` is that of the importing file, so that an adapter may be
#: spread over many files and still know nothing of the others.
MAY_REACH: Final = (
    *((leaf, LEAVES) for leaf in LEAVES),
    ("taskq.wire.*", WIRE),
    ("taskq.seams.*", SEAMS),
    ("taskq.registry", (*WIRE, "taskq.seams.app")),
    ("taskq.canvas.*", CANVAS),
    ("taskq.run.followups", RUN),
    ("taskq.run.chords", RUN),
    ("taskq.run.outcome", RUN),
    ("taskq.broker_adapters.*", (*SEAMS, "{folder}.*")),
    ("taskq.results.*", MIDDLE),
    ("taskq.config.*", MIDDLE),
    ("taskq.remote.*", MIDDLE),
    ("taskq.run.*", LIBRARY),
    *((module, LIBRARY) for module in LIBRARY if module.count(".") == 1),
    ("taskq.worker*", (*LIBRARY, "taskq.worker*")),
    ("taskq.schedules.*", (*LIBRARY, "taskq.schedules.*")),
    ("taskq.testing", (*LIBRARY, "taskq.worker*")),
    ("taskq.cli*", (*LIBRARY, "taskq.worker*", "taskq.schedules.*", "taskq.cli*")),
)

#: (who, whom it imports all the same, why): the way on from there is not followed.
NOT_FOLLOWED: Final = (
    ("taskq.seams.app", "taskq.clock", "names its type: nothing of it is imported to run"),
    ("taskq.seams.app", "taskq.config.settings", "names its type"),
    ("taskq.seams.app", "taskq.seams.broker", "names its type"),
    ("taskq.seams.app", "taskq.seams.connection", "names its type"),
    ("taskq.seams.app", "taskq.seams.store", "names its type"),
    ("taskq.canvas.signature", "taskq.results.handles", "names the type of what `delay` gives"),
    ("taskq.canvas.signature", "taskq.sync", "names the type of what `sync` gives"),
    ("taskq.canvas.shapes", "taskq.results.handles", "names the type of what `delay` gives"),
    ("taskq.canvas.shapes", "taskq.sync", "names the type of what `sync` gives"),
    ("taskq.config.finder", "taskq.app", "finds apps"),
    ("taskq.app", "taskq.schedules.api", "a floor: loaded when `app.schedules` is used"),
    ("taskq.app", "taskq.schedules.entries", "a floor: loaded when `add_periodic_task` is used"),
    ("taskq.app", "taskq.schedules.convert", "a floor: loaded when a task has a schedule"),
    ("taskq.seams.publisher", "taskq.config.settings", "still reads its policy there"),
    ("taskq.seams.publisher", "taskq.signals", "still announces there"),
)

#: (who, may never import of our own modules, why)
MAY_NOT_IMPORT: Final = (
    ("taskq.*", ("taskq", "taskq.public"), "inside, import from where a name is defined"),
)

#: third-party package -> the only modules that may import it
HOMES: Final[Mapping[str, Sequence[str]]] = {
    "sqlite3": ("taskq.broker_adapters.sqlite.*",),
    "redis": ("taskq.broker_adapters.redis.*",),
    "hiredis": ("taskq.broker_adapters.redis.*",),
    "aio_pika": ("taskq.broker_adapters.amqp.*",),
    "aiormq": ("taskq.broker_adapters.amqp.*",),
    "pamqp": ("taskq.broker_adapters.amqp.*",),
    "click": ("taskq.cli*",),
    "rich": ("taskq.cli*",),
    "cryptography": ("taskq.wire.auth",),
    "opentelemetry": ("taskq.tracing",),
    "prometheus_client": ("taskq.worker.health.exposition",),
    "uvloop": ("taskq.cli*", "taskq.worker*"),
    "cronsim": ("taskq.schedules.cronlines",),
    "ephem": ("taskq.schedules.sun",),
    "celery": (),
    "kombu": (),
}

#: The pure core: decided by arguments alone. Nothing it reaches has a loop, a thread, a socket, a log or a clock.
PURE: Final = (
    *("taskq.states", "taskq.errors", "taskq.options", "taskq.near", "taskq.seams.app", "taskq.seams.urls"),
    *("taskq.registry", "taskq.wire.*", "taskq.canvas.*"),
    *("taskq.run.decide", "taskq.run.ends", "taskq.run.outcome", "taskq.run.stored", "taskq.run.retries"),
    *("taskq.run.followups", "taskq.run.chords"),
    *("taskq.config.coerce", "taskq.config.celery_names", "taskq.config.layers", "taskq.config.routing"),
    "taskq.worker.intake.timers",
    *(
        "taskq.schedules.walltime",
        "taskq.schedules.base",
        "taskq.schedules.crontabs",
    ),
    *(
        "taskq.schedules.cronlines",
        "taskq.schedules.intervals",
        "taskq.schedules.sun",
        "taskq.schedules.convert",
    ),
)
IMPURE: Final = frozenset(
    (
        *("asyncio", "concurrent", "logging", "multiprocessing", "sched", "selectors", "signal", "socket"),
        *("subprocess", "threading", "time", "taskq.clock"),
    )
)
#: (who, what it imports all the same, why)
IMPURE_HERE: Final = (
    ("taskq.config.routing", "taskq.seams.broker", "the value Queue stands beside the broker's protocols"),
)
#: Pure modules that an outside library makes otherwise when they are imported, and which.
IMPURE_BY_LIBRARY: Final = {
    "taskq.wire.auth": "cryptography's backend has locks",
    "taskq.config.routing": "seams.broker has asyncio and, for entry points, sockets",
}

#: What changes broker or result store, and the only modules of the worker that may do it: the completer's stages, and the
#: intake, which parks.
EFFECTS: Final[Mapping[str, Sequence[str]]] = {
    "save": ("taskq.worker.effects.storing",),
    "join_many": ("taskq.worker.effects.storing",),
    "begin_chords": ("taskq.worker.effects.sending",),
    "end_chords": ("taskq.worker.effects.sending",),
    "publish": (),
    "failures_of": ("taskq.worker.effects.sending",),
    "bury": ("taskq.worker.effects.sending",),
    # Leases: what came too late is let go of before anybody knows of it.
    "settle": ("taskq.worker.effects.completer", "taskq.worker.intake.leases"),
    "park": ("taskq.worker.intake.intake",),
}

#: (modules that are smaller than SMALLEST_MODULE, why)
SMALL: Final = (
    ("taskq.__main__", "what Python runs"),
    ("taskq.builtins", "tasks, made by the app: canvases cannot import Task"),
    ("taskq.canvas.drawing", "apart from graph.py, which handles draw with without canvases"),
    ("taskq.clock", "a leaf"),
    ("taskq.cli.*", "a command a file, and what several use: loaded when asked for"),
    ("taskq.logs", "a leaf that users import"),
    ("taskq.near", "a leaf"),
    ("taskq.printable", "a leaf"),
    ("taskq.public", "the one list of public names"),
    ("taskq.registry", "what is one to a process: below all that asks for it"),
    ("taskq.schedules.cronlines", "alone in importing cronsim"),
    ("taskq.schedules.intervals", "a kind of schedule a file"),
    ("taskq.states", "a leaf that users import"),
    ("taskq.version", "a leaf, read by the build"),
    ("taskq.wire.arguments", "a value of the app seam: below tasks"),
    ("taskq.wire.message", "a leaf: what travels"),
    ("taskq.run.retries", "below tasks, which ask for retries, and decisions, which find them"),
    ("taskq.seams.retry", "to be judged by those who rebuild the seams"),
    ("taskq.broker_adapters.*", "to be judged by those who rebuild the adapters"),
    ("taskq.worker.*", "to be judged by those who rebuild the worker"),
)

#: (folders of more than FOLDER_FILES, why)
LARGE_FOLDERS: Final = (
    ("taskq.broker_adapters.amqp", "to be judged by those who rebuild the adapters"),
    (
        "taskq.broker_adapters.redis",
        "a session, a broker, a store and a ledger, each spread over small files",
    ),
)

#: (modules whose constructors take more than CONSTRUCTOR_PARAMETERS, why)
MANY_PARAMETERS: Final[Sequence[tuple[str, str]]] = ()

#: What no row of MAY_REACH speaks of: packages as such.
FACES: Final = (
    "taskq",
    "taskq.public",
    "taskq.__main__",
    *(
        f"taskq.{name}"
        for name in (
            "canvas",
            "config",
            "remote",
            "results",
            "run",
            "seams",
            "wire",
            "broker_adapters",
            "schedules",
        )
    ),
)

#: (module, what it imports, why not at the top)
IMPORTS_INSIDE: Final = (
    ("taskq.cli*", "*", "taskq --help stays under 0.3 s"),
    ("taskq.wire.serializers", "yaml", "an optional extra"),
    ("taskq.wire.compression", "brotli", "an optional extra"),
    ("taskq.wire.compression", "zstandard", "an optional extra"),
    ("taskq.app", "taskq.wire.auth*", "needs an optional extra"),
    (
        "taskq.seams.broker",
        "importlib.metadata",
        "a tenth of the time of `import taskq`, for schemes of others alone",
    ),
    ("taskq.app", "taskq.schedules.*", "a floor, loaded only when used"),
    ("taskq.schedules.sun", "ephem", "an optional extra"),
    ("taskq.worker.health.http", "taskq.worker.health.exposition*", "needs an optional extra"),
)

#: Modules that may import by a name found at run time.
IMPORTS_BY_NAME: Final = (
    "taskq",
    "taskq.worker",
    "taskq.schedules",
    "taskq.seams.broker",
    "taskq.config.finder",
    "taskq.config.loading",
    "taskq.cli*",
    "taskq.worker.pools.child",
)

#: Where code is ours to judge. taskq/worker and taskq/broker_adapters are links to the folders at the top.
PACKAGE: Final = ("taskq", "worker", "broker_adapters")
SCRIPTS: Final = ("scripts", "examples", "benchmarks")


@dataclass(frozen=True)
class Import:
    """One imported name: `target` as far as it is a module, `inside` a function or not, for type checkers or not."""

    target: str
    line: int
    inside: bool
    typing: bool


@dataclass(frozen=True, eq=False)
class Module:
    name: str
    path: Path
    tree: ast.Module
    text: str

    def at(self, line: int) -> str:
        return f"{self.path.relative_to(ROOT)}:{line}"


def python_files(folders: Iterable[str]) -> list[Path]:
    found = (path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return sorted(path for path in found if not linked(path) and ".venv-peers" not in path.parts)


def linked(path: Path) -> bool:
    return any(parent.is_symlink() for parent in path.parents if parent != ROOT)


def dotted(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    if parts[0] in {"worker", "broker_adapters"}:
        parts.insert(0, "taskq")
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts)


@cache
def load(path: Path) -> Module:
    text = path.read_text(encoding="utf-8")
    return Module(dotted(path), path, ast.parse(text), text)


PACKAGE_FILES: Final = python_files(PACKAGE)
ALL_FILES: Final = python_files([*PACKAGE, *SCRIPTS, "tests"])
NAMES: Final = frozenset(dotted(path) for path in PACKAGE_FILES)
BY_NAME: Final = {dotted(path): load(path) for path in PACKAGE_FILES}


@cache
def imports(module: Module) -> list[Import]:
    """What the module imports, for itself or for type checkers."""
    return list(walk_imports(module, module.tree.body))


def walk_imports(
    module: Module, body: Iterable[ast.AST], *, inside: bool = False, typing: bool = False
) -> Iterator[Import]:
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from (Import(target, node.lineno, inside, typing) for target in targets(module, node))
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from walk_imports(module, node.body, inside=inside, typing=True)
            yield from walk_imports(module, node.orelse, inside=inside, typing=typing)
        else:
            function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            children = ast.iter_child_nodes(node)
            yield from walk_imports(module, children, inside=inside or function, typing=typing)


def targets(module: Module, node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    assert node.level == 0, f"{module.at(node.lineno)}: import by the full name, not relatively"
    for alias in node.names:
        full = f"{node.module}.{alias.name}"
        yield full if full in NAMES else str(node.module)


def ours(module: Module) -> list[Import]:
    return [item for item in imports(module) if item.target.split(".")[0] == "taskq"]


def fits(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def package(*patterns: str) -> list[Module]:
    return [module for module in map(load, PACKAGE_FILES) if fits(module.name, patterns or ("*",))]


def listed(problems: Iterable[str]) -> str:
    return "\n".join(["", *problems])


# == imports


Exceptions = Iterable[tuple[str, str, str]]


def routes(start: Module, *exceptions: Exceptions) -> dict[str, str]:
    """All modules of ours that this one reaches, each with the way to it; exceptions are not followed."""
    left_out = {(who, what) for table in exceptions for who, what, _ in table}
    ways = {start.name: start.name}
    todo = [start.name]
    for name in todo:  # grows meanwhile
        for item in ours(BY_NAME[name]):
            if item.target in BY_NAME and item.target not in ways and (name, item.target) not in left_out:
                ways[item.target] = f"{ways[name]} -> {item.target}"
                todo.append(item.target)
    del ways[start.name]
    return ways


@pytest.mark.parametrize(("who", "allowed"), MAY_REACH)
def test_imports_reach_only_what_is_below(who: str, allowed: Sequence[str]) -> None:
    problems = []
    for module in package(who):
        patterns = [pattern.format(folder=module.name.rpartition(".")[0]) for pattern in allowed]
        ways = routes(module, NOT_FOLLOWED)
        problems += [way for name, way in ways.items() if not fits(name, patterns)]
    assert not problems, listed(problems)


def test_each_module_stands_in_a_row() -> None:
    rows = [who for who, _ in MAY_REACH]
    assert [module.name for module in package() if not fits(module.name, (*rows, *LIBRARY, *FACES))] == []


@pytest.mark.parametrize(("who", "banned", "why"), MAY_NOT_IMPORT)
def test_imports_go_one_way(who: str, banned: Sequence[str], why: str) -> None:
    problems = [
        f"{module.at(item.line)}: {module.name} imports {item.target}"
        for module in package(who)
        for item in ours(module)
        if fits(item.target, banned)
    ]
    assert not problems, listed([why, *problems])


def test_what_is_named_for_its_type_is_not_imported_to_run() -> None:
    problems = [
        f"{BY_NAME[who].at(item.line)}: {what}"
        for who, what, why in NOT_FOLLOWED
        if why.startswith("names")
        for item in imports(BY_NAME[who])
        if item.target == what and not item.typing
    ]
    assert not problems, listed(problems)


def test_exceptions_are_still_needed() -> None:
    unneeded = [
        (who, what)
        for who, what, _ in (*NOT_FOLLOWED, *IMPURE_HERE)
        if what not in {item.target for item in imports(BY_NAME[who])}
    ]
    assert not unneeded


@pytest.mark.parametrize(("driver", "homes"), HOMES.items())
def test_each_third_party_package_has_its_homes(driver: str, homes: Sequence[str]) -> None:
    problems = [
        f"{module.at(item.line)}: {module.name} imports {item.target}"
        for module in package()
        if not fits(module.name, homes)
        for item in imports(module)
        if item.target.split(".")[0] == driver
    ]
    assert not problems, listed(problems)


def test_the_pure_core_reaches_no_clock_loop_or_log() -> None:
    excused = {(who, what) for who, what, _ in NOT_FOLLOWED}
    problems = []
    for module in package(*PURE):
        ways = {module.name: module.name, **routes(module, NOT_FOLLOWED, IMPURE_HERE)}
        problems += [
            f"{way} -> {item.target}"
            for name, way in ways.items()
            for item in imports(BY_NAME[name])
            if (item.target in IMPURE or item.target.split(".")[0] in IMPURE)
            and (name, item.target) not in excused
        ]
    assert not problems, listed(problems)


#: Imports one module after another and prints which of them brought what is banned with it.
IMPORT_EACH: Final = """
import importlib, sys, zoneinfo  # since Python 3.12 it brings in threading
banned = set(sys.argv[1].split(","))
for name in sys.argv[2:]:
    before = banned & set(sys.modules)
    importlib.import_module(name)
    for found in sorted(banned & set(sys.modules) - before):
        print(name, "->", found)
"""


def test_the_pure_core_is_pure_in_a_fresh_interpreter() -> None:
    """None of all brings in what is banned, so none does alone."""
    names = [module.name for module in package(*PURE) if module.name not in IMPURE_BY_LIBRARY]
    banned = ",".join(sorted(IMPURE - {"time", "signal"}))  # Python itself has these from the start
    command = [sys.executable, "-c", IMPORT_EACH, banned, *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=50)
    assert not done.stdout, listed(done.stdout.splitlines())


def test_the_tables_name_modules_that_exist() -> None:
    tables = (MAY_REACH, MAY_NOT_IMPORT, IMPORTS_INSIDE, NOT_FOLLOWED, SMALL, LARGE_FOLDERS, MANY_PARAMETERS)
    named = [*PURE, *LIBRARY, *IMPORTS_BY_NAME, *IMPURE_BY_LIBRARY]
    named += [str(row[0]) for table in tables for row in table]
    assert [name for name in named if not package(name, f"{name}.*")] == []


def test_no_import_inside_a_function() -> None:
    problems = [
        f"{module.at(item.line)}: {item.target}"
        for module in package()
        for item in imports(module)
        if item.inside
        and not any(fits(module.name, [who]) and fits(item.target, [what]) for who, what, _ in IMPORTS_INSIDE)
    ]
    assert not problems, listed(problems)


def test_few_modules_import_by_name() -> None:
    problems = [
        module.at(node.lineno)
        for module in package()
        if not fits(module.name, IMPORTS_BY_NAME)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).split(".")[-1] in {"import_module", "__import__"}
    ]
    assert not problems, listed(problems)


def test_no_import_cycle() -> None:
    graph = {
        module.name: sorted({item.target for item in ours(module) if not item.inside} & NAMES)
        for module in package()
    }
    assert (cycle := find_cycle(graph)) is None, " -> ".join(cycle)


def find_cycle(graph: Mapping[str, Sequence[str]]) -> list[str] | None:
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str] | None:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return None
        for target in graph.get(name, ()):
            if (cycle := visit(target, [*path, name])) is not None:
                return cycle
        done.add(name)
        return None

    return next((cycle for name in graph if (cycle := visit(name, [])) is not None), None)


@pytest.mark.parametrize(("verb", "homes"), EFFECTS.items())
def test_only_the_completer_and_parking_change_broker_and_store(verb: str, homes: Sequence[str]) -> None:
    found = {
        module.name
        for module in package("taskq.worker*")
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == verb
    }
    assert found == set(homes)


def test_find_cycle_finds_one() -> None:
    assert find_cycle({"a": ["b"], "b": ["c"], "c": ["b"]}) == ["b", "c", "b"]
    assert find_cycle({"a": ["b", "c"], "b": ["c"], "c": []}) is None


# == sizes


def code_lines(text: str, tree: ast.AST) -> set[int]:
    """Numbers of the lines that hold code: not blank, not comment, not docstring."""
    silent = {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in silent:
            lines.update(range(token.start[0], token.end[0] + 1))
    return lines - docstring_lines(tree)


def docstring_lines(tree: ast.AST) -> set[int]:
    holders = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    first = [
        node.body[0]
        for node in ast.walk(tree)
        if isinstance(node, holders) and ast.get_docstring(node, clean=False)
    ]
    return {line for node in first for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)}


def test_code_lines_counts_neither_blank_nor_comment_nor_docstring() -> None:
    text = '"""Doc.\n\nMore."""\n# no\nx = (\n    1,\n)\n\n\ndef f():\n    "doc"\n    return x  # yes\n'
    assert sorted(code_lines(text, ast.parse(text))) == [5, 6, 7, 10, 12]


@cache
def lines_of(path: Path) -> set[int]:
    return code_lines(load(path).text, load(path).tree)


def size(path: Path) -> int:
    return len(lines_of(path))


def test_modules_are_no_larger_than_can_be_read() -> None:
    problems = [
        f"{path.relative_to(ROOT)}: {size(path)} lines"
        for path in python_files([*PACKAGE, *SCRIPTS])
        if size(path) > MODULE_LINES
    ]
    assert not problems, listed(problems)


def test_modules_are_worth_a_file() -> None:
    small = [who for who, _ in SMALL]
    problems = [
        f"{path.relative_to(ROOT)}: {size(path)} lines"
        for path in PACKAGE_FILES
        if path.stem != "__init__" and size(path) < SMALLEST_MODULE and not fits(dotted(path), small)
    ]
    assert not problems, listed(problems)


def test_folders_have_lazy_faces() -> None:
    """An `__init__` imports nothing of ours when it runs: a module costs what it imports itself and no more."""
    problems = [
        f"{module.at(item.line)}: {item.target}"
        for module in map(load, PACKAGE_FILES)
        if module.path.stem == "__init__"
        for item in ours(module)
        if not item.typing and not fits(item.target, LEAVES)
    ]
    assert not problems, listed(problems)


def test_constructors_take_few_things() -> None:
    """Value types are exempt, whose fields are named where they are made (dataclasses, named tuples)."""
    excused = [who for who, _ in MANY_PARAMETERS]
    problems = [
        f"{module.at(node.lineno)}: {count} parameters"
        for module in package()
        if not fits(module.name, excused)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.FunctionDef) and node.name == "__init__"
        if (count := len([*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]) - 1)
        > CONSTRUCTOR_PARAMETERS
    ]
    assert not problems, listed(problems)


#: Names that several classes have, each with its reason.
SAME_NAME: Final[Mapping[str, str]] = {}


def test_a_class_name_has_one_meaning() -> None:
    homes: dict[str, list[str]] = {}
    for module in package():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name.lstrip("_"), []).append(module.at(node.lineno))
    problems = [
        f"{name}: {', '.join(found)}"
        for name, found in homes.items()
        if len(found) > 1 and name not in SAME_NAME
    ]
    assert not problems, listed(problems)


def test_folders_are_small() -> None:
    excused = [who for who, _ in LARGE_FOLDERS]
    problems = [
        f"{folder.relative_to(ROOT)}: {count} files"
        for folder in sorted({path.parent for path in PACKAGE_FILES})
        if (count := len(list(folder.glob("*.py")))) > FOLDER_FILES
        and not fits(dotted(folder / "__init__.py"), excused)
    ]
    assert not problems, listed(problems)


def test_functions_are_small() -> None:
    problems = []
    for module in map(load, python_files([*PACKAGE, *SCRIPTS])):
        lines = lines_of(module.path)
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                size = len(lines & set(range(node.lineno, (node.end_lineno or 0) + 1)))
                problems += (
                    [f"{module.at(node.lineno)}: {node.name} {size} lines"] if size > FUNCTION_LINES else []
                )
    assert not problems, listed(problems)


# == public face


def test_public_names_are_those_of_one_list() -> None:
    tree = load(ROOT / "taskq" / "public.py").tree
    listed = [alias for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    names = [alias.name for alias in listed]
    assert all(alias.asname == alias.name for alias in listed), "type checkers want `import x as x`"
    assert len(set(names)) == len(names)
    assert {*names, "__version__"} == set(taskq.__all__)
    assert set(names) <= set(dir(taskq))
    assert all(hasattr(taskq, name) for name in names)
    assert not hasattr(taskq, "no_such_name")


def test_public_face_has_docstrings() -> None:
    problems = []
    for name in taskq.__all__:
        thing = getattr(taskq, name)
        if (isclass(thing) or isroutine(thing)) and thing.__module__.startswith("taskq"):
            problems += undocumented(name, thing)
    assert not problems, listed(problems)


def undocumented(name: str, thing: object) -> list[str]:
    missing = [] if (getattr(thing, "__doc__", None) or "").strip() else [name]
    if isclass(thing):
        members = {key: member for key, member in vars(thing).items() if not key.startswith("_")}
        documented = (staticmethod, classmethod, property)
        missing += [
            f"{name}.{key}"
            for key, member in members.items()
            if (isroutine(member) or isinstance(member, documented)) and not getdoc(getattr(thing, key))
        ]
    return missing


# == comments, tests

SUPPRESSIONS: Final = (
    ("noqa", re.compile(r"# noqa: [A-Z]+[0-9]+(, ?[A-Z]+[0-9]+)* - \S.+")),
    ("type: ignore", re.compile(r"# type: ignore\[[a-z-]+(, ?[a-z-]+)*\]  # \S.+")),
    ("pyright: ignore", re.compile(r"# pyright: ignore\[\w+(, ?\w+)*\]  # \S.+")),
    ("pragma: no ", re.compile(r"# pragma: no (cover|branch) - \S.+")),
)


MARKED: Final = re.compile("|".join(rf"#\s*{mark}" for mark, _ in SUPPRESSIONS))


def test_each_suppression_names_its_rule_and_its_reason() -> None:
    problems = [
        f"{module.at(token.start[0])}: {token.string}"
        for module in map(load, ALL_FILES)
        if MARKED.search(module.text)  # tokenizing every file takes seventeen seconds
        for token in tokenize.generate_tokens(io.StringIO(module.text).readline)
        if token.type == tokenize.COMMENT and not justified(token.string)
    ]
    assert not problems, listed(problems)


def justified(comment: str) -> bool:
    return all(shape.search(comment) for mark, shape in SUPPRESSIONS if re.match(rf"#\s*{mark}", comment))


@pytest.mark.parametrize(
    ("comment", "good"),
    [
        ("# why it is so", True),
        ("# noqa: FBT001, FBT002 - Celery's signature", True),
        ("# noqa: FBT001", False),
        ("# noqa", False),
        ("# type: ignore[arg-type]  # the test hands in a wrong value", True),
        ("# type: ignore[arg-type]", False),
        ("# pragma: no cover", False),
    ],
)
def test_justified(comment: str, good: bool) -> None:  # noqa: FBT001 - a parametrised value
    assert justified(comment) is good


#: A page, and the number of a section of it: "wire-format.md 4.7".
REFERENCE: Final = re.compile(r"([\w-]+\.md)(?: ([0-9]+(?:\.[0-9]+)?))?")


def test_comments_point_to_pages_and_sections_that_are_there() -> None:
    pages = {path.name: path.read_text() for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"))}
    problems = [
        f"{module.path.relative_to(ROOT)}: {page} {section}"
        for module in map(load, python_files([*PACKAGE, *SCRIPTS, "tests"]))
        for page, section in REFERENCE.findall(module.text)
        if page not in pages
        or (section and not re.search(rf"^#+ {re.escape(section)}\.? ", pages[page], re.MULTILINE))
    ]
    assert not problems, listed(problems)


def test_tests_do_not_sleep() -> None:
    """Tests wait for events or poll with `tests/polling.py`; only the body of a task may take its time.

    On the autojump loop a sleep takes none.
    """
    problems = [
        f"{module.at(node.lineno)}: {ast.unparse(node)}"
        for module in map(load, python_files(["tests"]))
        if module.path.name != "polling.py" and "pytest.mark.autojump" not in module.text
        for node in walk_outside_tasks(module.tree)
        if isinstance(node, ast.Call) and sleeps(node)
    ]
    assert not problems, listed(problems)


def walk_outside_tasks(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    for child in ast.iter_child_nodes(node):
        if not is_task(child):
            yield from walk_outside_tasks(child)


def is_task(node: ast.AST) -> bool:
    decorators = node.decorator_list if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else []
    names = [ast.unparse(item.func if isinstance(item, ast.Call) else item) for item in decorators]
    return any(name.split(".")[-1] in {"task", "shared_task"} for name in names)


def sleeps(call: ast.Call) -> bool:
    name = ast.unparse(call.func)
    return name in {"time.sleep", "asyncio.sleep", "sleep", "anyio.sleep"} and [
        ast.unparse(x) for x in call.args
    ] != ["0"]
