"""Checking a call's arguments against the function, at call time and cheaply."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class ArgumentCheck:
    """Knows what a function takes. `bound` leaves out its first parameter (the task itself)."""

    __slots__ = ("_least", "_most", "name", "signature")

    def __init__(self, fun: Callable[..., Any], *, bound: bool, name: str) -> None:
        self.name = name
        signature = inspect.signature(fun)
        if bound:
            signature = signature.replace(parameters=list(signature.parameters.values())[1:])
        self.signature = signature
        parameters = signature.parameters.values()
        positional = [p for p in parameters if p.kind in _POSITIONAL]
        needs_keywords = any(
            p.kind is inspect.Parameter.KEYWORD_ONLY and p.default is inspect.Parameter.empty
            for p in parameters
        )
        self._most = len(positional)
        # Calls with positional arguments alone, the usual ones, are told by counting: `bind` costs 3 us.
        self._least = (
            self._most + 1
            if needs_keywords
            else sum(p.default is inspect.Parameter.empty for p in positional)
        )

    def check(self, args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> None:
        """Refuse arguments the function could not be called with.

        Raises:
            TypeError: names the task, what it takes, and what is wrong.
        """
        if not kwargs and self._least <= len(args) <= self._most:
            return
        try:
            self.signature.bind(*args, **(kwargs or {}))
        except TypeError as error:
            raise TypeError(f"{self.name}{self.signature} called with wrong arguments: {error}") from None

    @property
    def most_positional(self) -> float:
        """How many positional arguments it takes; infinity for `*args`."""
        if any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in self.signature.parameters.values()):
            return float("inf")
        return self._most
