"""Objects named by text, such as `proj.config` or `proj.routes:route_task`."""

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any


def load_symbol(path: str) -> Any:
    """Import what `module`, `module:attribute` or `module.attribute` names.

    Raises:
        ModuleNotFoundError: there is no such module.
        AttributeError: the module has no such attribute.
        Exception: whatever the module raises when it is imported.
    """
    module, colon, attribute = path.partition(":")
    if not colon and not _is_module(module):
        module, _, attribute = path.rpartition(".")
    found: Any = import_module(module or path)
    for name in attribute.split(".") if attribute else ():
        found = getattr(found, name)
    return found


def _is_module(path: str) -> bool:
    """Whether a dotted path is a module; its parents are imported to find out."""
    if path in sys.modules:  # also those that have no spec, as `__main__`
        return True
    try:
        return find_spec(path) is not None
    except ModuleNotFoundError as error:
        # "a.b.c" where a.b is a plain module: then c is an attribute of it. Any other missing module is an
        # import inside the parents, and the reader must see that one.
        if error.name is not None and path.startswith(f"{error.name}."):
            return False
        if error.name == path:
            return False
        raise
