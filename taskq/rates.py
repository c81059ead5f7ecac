"""How rate limits are written: "10/s", "100/m", "5/h", or a number per second."""

#: Seconds of the units.
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def parse_rate(rate: str | float | None) -> float:
    """Starts per second; 0 where there is no limit.

    Raises:
        ValueError: it is no rate.
        KeyError: its unit is unknown.
    """
    if not rate:
        return 0.0
    if isinstance(rate, str):
        number, _, unit = rate.partition("/")
        rate = float(number) / _UNITS[unit or "s"]
    if isinstance(rate, bool) or not 0 <= rate < 1e9:
        raise ValueError(f"{rate!r} is no rate like 10/s, 100/m, 5/h")
    return float(rate)
