"""Text of strangers in lines of a log and on terminals."""

import re

#: What a terminal obeys rather than shows: control characters, those that turn the direction of text, and half pairs.
_OBEYED = (
    "\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069\\ud800-\\udfff"
)
_CONTROLS, _CONTROLS_AND_ENDS = re.compile(f"[{_OBEYED}]"), re.compile(f"[{_OBEYED}\\t\\n]")
_NAMED = {"\t": "\\t", "\n": "\\n", "\r": "\\r"}


def printable(text: str, *, lines: bool = False) -> str:
    r"""Text with control characters written out (`\x1b`), so that a message cannot steer a terminal or forge a line.

    Args:
        text: from a message, for example.
        lines: whether line ends and tabs stay as they are.
    """
    return (_CONTROLS if lines else _CONTROLS_AND_ENDS).sub(_written_out, text)


def printable_json(text: str) -> str:
    r"""JSON in one line with what is left of these characters written out (`\u009b`): it means the same."""
    return _CONTROLS.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _written_out(match: re.Match[str]) -> str:
    character = match[0]
    code = ord(character)
    return _NAMED.get(character) or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")
