"""What a mistyped word was probably meant to be."""

from collections.abc import Iterable
from difflib import get_close_matches


def near_match(word: str, known: Iterable[str]) -> str:
    """The end of an error message: `" Did you mean 'x'?"`, or "" when nothing known is near the word.

    >>> "unknown option 'countdwon'." + near_match("countdwon", ["countdown", "eta"])
    "unknown option 'countdwon'. Did you mean 'countdown'?"
    """
    by_lower = {name.lower(): name for name in known}
    near = get_close_matches(word.lower(), by_lower, n=1, cutoff=0.7)
    return f" Did you mean {by_lower[near[0]]!r}?" if near else ""
