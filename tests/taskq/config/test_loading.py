import collections
import os.path
from pathlib import Path

import pytest

from taskq.config.loading import autodiscover, import_modules, load_symbol
from taskq.errors import ConfigError
from tests.taskq.conftest import Write


def test_modules_are_imported(project: Write) -> None:
    project({"one_module.py": "VALUE = 1"})
    assert [module.VALUE for module in import_modules(["one_module"])] == [1]


@pytest.mark.parametrize("name", ["no_such_module", "no_such_package.tasks"])
def test_a_missing_module_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=f"there is no module '{name}' to import tasks from"):
        import_modules([name])
    with pytest.raises(ConfigError, match=f"there is no module '{name}'"):
        autodiscover([name])


def test_what_a_module_raises_comes_through(project: Write) -> None:
    project(
        {"broken_module.py": "import not_installed_here", "shop/__init__.py": "", "shop/tasks.py": "1 / 0"}
    )
    with pytest.raises(ModuleNotFoundError, match="not_installed_here"):
        import_modules(["broken_module"])
    with pytest.raises(ZeroDivisionError):
        autodiscover(["shop"])


def test_packages_without_tasks_are_passed_over(project: Write) -> None:
    files = ["shop/__init__.py", "shop/tasks.py", "shop/jobs.py", "plain.py", "bare/__init__.py"]
    project(dict.fromkeys(files, ""))
    assert [module.__name__ for module in autodiscover(["shop", "plain", "bare"])] == ["shop.tasks"]
    assert [module.__name__ for module in autodiscover(["shop"], "jobs")] == ["shop.jobs"]
    assert [module.__name__ for module in autodiscover(["shop"], None)] == ["shop"]


def test_modules_and_attributes_are_found() -> None:
    assert load_symbol("os.path") is os.path
    assert load_symbol("os.path:join") is os.path.join
    assert load_symbol("os.path.join") is os.path.join
    assert load_symbol("collections:OrderedDict.fromkeys") == collections.OrderedDict.fromkeys


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        load_symbol("no_such_module")
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        load_symbol("no_such_module.attribute")
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        load_symbol("no_such_module.a.b")
    with pytest.raises(AttributeError, match="nothing"):
        load_symbol("os.path:nothing")
    with pytest.raises(AttributeError, match="nothing"):
        load_symbol("os.path.nothing")


def test_a_failing_import_inside_a_package_is_not_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "broken_package"
    package.mkdir()
    (package / "__init__.py").write_text("import not_installed_here\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="not_installed_here"):
        load_symbol("broken_package.config")
