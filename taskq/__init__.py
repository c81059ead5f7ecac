"""taskq: Celery's Calling API and wire protocol, native to asyncio."""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from taskq.version import VERSION as __version__  # noqa: F401, N811 - the customary name for users

if TYPE_CHECKING:
    from taskq.public import *  # noqa: F403 - they are named there


def __getattr__(name: str) -> Any:
    """The names of taskq/public.py, imported when the first is asked for: `taskq --help` needs none of it."""
    if name == "__all__":
        return [*_public(), "__version__"]
    # Python asks here for modules, too, before it imports them: while public.py is imported itself, for one.
    if name.startswith("_") or find_spec(f"{__name__}.{name}") is not None or name not in _public():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = _public()[name]
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_public()])


def _public() -> dict[str, Any]:
    return {name: value for name, value in vars(import_module("taskq.public")).items() if name[0] != "_"}
