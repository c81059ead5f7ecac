import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskq.errors import ConfigError
from taskq.loader import autodiscover, import_modules


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to import from; what was imported is forgotten after the test."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_modules_are_imported(folder: Path) -> None:
    write(folder, {"one_module.py": "VALUE = 1"})
    assert [module.VALUE for module in import_modules(["one_module"])] == [1]


@pytest.mark.parametrize("name", ["no_such_module", "no_such_package.tasks"])
def test_a_missing_module_is_named(folder: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=f"there is no module '{name}' to import tasks from"):
        import_modules([name])
    with pytest.raises(ConfigError, match=f"there is no module '{name}'"):
        autodiscover([name])


def test_what_a_module_raises_comes_through(folder: Path) -> None:
    write(
        folder,
        {"broken_module.py": "import not_installed_here", "shop/__init__.py": "", "shop/tasks.py": "1 / 0"},
    )
    with pytest.raises(ModuleNotFoundError, match="not_installed_here"):
        import_modules(["broken_module"])
    with pytest.raises(ZeroDivisionError):
        autodiscover(["shop"])


def test_packages_without_tasks_are_passed_over(folder: Path) -> None:
    write(
        folder,
        {
            "shop/__init__.py": "",
            "shop/tasks.py": "",
            "shop/jobs.py": "",
            "plain.py": "",
            "bare/__init__.py": "",
        },
    )
    assert [module.__name__ for module in autodiscover(["shop", "plain", "bare"])] == ["shop.tasks"]
    assert [module.__name__ for module in autodiscover(["shop"], "jobs")] == ["shop.jobs"]
    assert [module.__name__ for module in autodiscover(["shop"], None)] == ["shop"]
