"""Celery's `solar`: events of the sun at a place, by the library ephem."""

from datetime import UTC, datetime, tzinfo
from typing import Any, Final, NamedTuple, Unpack

from taskq.errors import ConfigError
from taskq.schedules.base import Policy, PolicyOptions, Schedule


class SunEvent(NamedTuple):
    """How ephem finds an event: its method, the sun's height in degrees, and whether its centre counts."""

    method: str
    horizon: str
    center: bool


#: Celery's events, with its heights: 34 minutes of arc are the air's refraction.
_EVENTS: Final = {
    "dawn_astronomical": SunEvent("next_rising", "-18", center=True),
    "dawn_nautical": SunEvent("next_rising", "-12", center=True),
    "dawn_civil": SunEvent("next_rising", "-6", center=True),
    "sunrise": SunEvent("next_rising", "-0:34", center=False),
    "solar_noon": SunEvent("next_transit", "0", center=False),
    "sunset": SunEvent("next_setting", "-0:34", center=False),
    "dusk_civil": SunEvent("next_setting", "-6", center=True),
    "dusk_nautical": SunEvent("next_setting", "-12", center=True),
    "dusk_astronomical": SunEvent("next_setting", "-18", center=True),
}
#: Near the poles an event may not come for months; after so many days it never does.
_DAYS: Final = 366


class solar(Schedule):  # noqa: N801 - Celery's name
    """Celery's solar schedule: `solar("sunset", 52.5, 13.4)`. Needs `pip install 'taskq-asyncio[solar]'`.

    Args:
        event: `dawn_astronomical`, `dawn_nautical`, `dawn_civil`, `sunrise`, `solar_noon`, `sunset`, `dusk_civil`,
            `dusk_nautical` or `dusk_astronomical`.
        lat: latitude in degrees, north positive.
        lon: longitude in degrees, east positive.
        options: see `taskq.schedules.base.PolicyOptions`.

    Raises:
        ValueError: there is no such event or place.
        TypeError: an option is unknown.
        ConfigError: the package is missing.
    """

    def __init__(self, event: str, lat: float, lon: float, **options: Unpack[PolicyOptions]) -> None:
        if event not in _EVENTS:
            raise ValueError(f"solar: there is no event {event!r}, only {', '.join(_EVENTS)}")
        if not (-90 <= lat <= 90 and -180 <= lon <= 180):
            raise ValueError(f"solar: there is no place {lat}, {lon}: -90 to 90 and -180 to 180 degrees")
        self.event, self.lat, self.lon = event, lat, lon
        self.policy = Policy.read(options)
        _ephem()

    def next_after(self, instant: datetime, zone: tzinfo = UTC) -> datetime | None:  # noqa: ARG002 - the sun knows none
        """As `Schedule.next_after`."""
        ephem, event = _ephem(), _EVENTS[self.event]
        here = ephem.Observer()
        here.lat, here.lon, here.elevation = str(self.lat), str(self.lon), 0
        here.horizon, here.pressure = event.horizon, 0
        center = {"use_center": True} if event.center else {}
        start = ephem.Date(instant.astimezone(UTC).replace(tzinfo=None))
        for _ in range(_DAYS):
            try:
                found = getattr(here, event.method)(ephem.Sun(), start=start, **center)
            except ephem.CircumpolarError:  # not on this day
                start = here.next_antitransit(ephem.Sun(), start=start)
            else:
                moment: datetime = found.datetime()
                return moment.replace(tzinfo=UTC)
        return None

    def dump(self) -> dict[str, Any]:
        """As `Schedule.dump`."""
        return {
            "kind": "solar",
            "event": self.event,
            "lat": self.lat,
            "lon": self.lon,
            **self.policy.dump(),
        }

    def __repr__(self) -> str:
        return f"<solar: {self.event} at latitude {self.lat}, longitude: {self.lon}>"


def _ephem() -> Any:
    try:
        import ephem  # noqa: PLC0415 - an optional extra
    except ImportError as error:
        raise ConfigError("solar schedules need a package: pip install 'taskq-asyncio[solar]'") from error
    return ephem
