"""How rate limits are written: "10/s", "100/m", "5/h", or a number per second."""

#: Seconds of the units.
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def parse_rate(rate: str | float | None) -> float:
    """Starts per second; 0 where there is no limit.

    Raises:
        ValueError: it is no rate.
    """
    if not rate:
        return 0.0
    try:
        number, _, unit = str(rate).partition("/")
        per_second = float(number) / _UNITS[unit or "s"]
    except (ValueError, KeyError):
        per_second = -1.0
    if not 0 <= per_second < 1e9:
        raise ValueError(f"{rate!r} is no rate like 10/s, 100/m, 5/h")
    return per_second
