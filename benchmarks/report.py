"""The figures as a table, as JSON and as a page."""

import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parent.parent / "docs" / "performance.md"

#: (scenario, figure, title, digits)
ROWS = (
    ("drain", "worker_us", "drain: worker CPU, us/task", 0),
    ("drain", "server_us", "drain: server CPU, us/task", 0),
    ("drain", "rate", "drain: tasks/s", 0),
    ("drain, no results", "worker_us", "drain without results: worker CPU, us/task", 0),
    ("drain, no results", "server_us", "drain without results: server CPU, us/task", 0),
    ("drain, no results", "rate", "drain without results: tasks/s", 0),
    ("drain by two", "worker_us", "drain by two processes: worker CPU, us/task", 0),
    ("drain by two", "rate", "drain by two processes: tasks/s", 0),
    ("enqueue many", "client_us", "enqueue many at once: client CPU, us/task", 0),
    ("enqueue many", "server_us", "enqueue many at once: server CPU, us/task", 0),
    ("enqueue many", "rate", "enqueue many at once: tasks/s", 0),
    ("enqueue concurrently", "client_us", "enqueue by concurrent calls: client CPU, us/task", 0),
    ("enqueue concurrently", "rate", "enqueue by concurrent calls: tasks/s", 0),
    ("enqueue many, no results", "client_us", "enqueue many, no results: client CPU, us/task", 0),
    ("enqueue singly", "client_us", "enqueue one by one: client CPU, us/task", 0),
    ("enqueue singly", "rate", "enqueue one by one: tasks/s", 0),
    ("end to end", "rate", "end to end, results awaited: tasks/s", 0),
    ("end to end", "client_us", "end to end: client CPU, us/task", 0),
    ("end to end", "worker_us", "end to end: worker CPU, us/task", 0),
    ("round trip", "p50_ms", "round trip, nothing else to do: p50, ms", 2),
    ("round trip", "p99_ms", "round trip, nothing else to do: p99, ms", 2),
    ("memory", "worker_mb", "worker memory, peak, MB", 0),
    ("memory", "client_mb", "client memory, peak, MB", 0),
)


def rows(figures: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    systems = figures["systems"]
    lines = []
    for scenario, figure, title, digits in ROWS:
        values = [found.get(scenario, {}).get(figure) for found in systems.values()]
        if any(values):
            lines.append((title, ["-" if value is None else f"{value:,.{digits}f}" for value in values]))
    return lines


def table(broker: str, figures: Mapping[str, Any]) -> str:
    names = list(figures["systems"])
    widths = [max(12, len(name)) for name in names]
    text = [f"\n{broker}, medians of {figures['rounds']}".ljust(49)]
    text += [f"{'':48}" + "".join(f"{name:>{width + 2}}" for name, width in zip(names, widths, strict=True))]
    for title, values in rows(figures):
        cells = "".join(f"{value:>{width + 2}}" for value, width in zip(values, widths, strict=True))
        text.append(f"{title:48}{cells}")
    for name, found in figures["ways"].items():
        text.append(f"tried once: {name}: {found['drain']['worker_us']:,.0f} us of worker CPU per task")
    return "\n".join(text)


def save(broker: str, figures: Mapping[str, Any], packages: Mapping[str, str]) -> None:
    """Keep the figures as JSON and put their table into the page, between its marks."""
    RESULTS.mkdir(exist_ok=True)
    record = {"machine": machine(), "packages": packages, **figures}
    (RESULTS / f"{broker}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    begin, end = f"<!-- figures of {broker} -->\n", "<!-- end of figures -->"
    before, mark, rest = PAGE.read_text(encoding="utf-8").partition(begin)
    if mark:
        PAGE.write_text(
            before + mark + markdown(broker, record) + end + rest.partition(end)[2], encoding="utf-8"
        )


def machine() -> dict[str, str]:
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "cpu": f"{os.cpu_count()} x {cpu}",
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
        "date": datetime.now(UTC).date().isoformat(),
        "load": f"{os.getloadavg()[2]:.1f}",
    }


def markdown(broker: str, record: Mapping[str, Any]) -> str:
    systems = record["systems"]
    where = record["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in sorted(record["packages"].items()))
    lines = [
        f"`make bench BROKER={broker}` on {where['date']}, medians of {record['rounds']} interleaved rounds:",
        f"{where['cpu']}, {where['system']}, load average {where['load']};",
        f"Python {where['python']}, {versions}.",
        "",
        "| | " + " | ".join(systems) + " |",
        "| --- |" + " ---: |" * len(systems),
        *(f"| {title} | {' | '.join(values)} |" for title, values in rows(record)),
        "",
    ]
    if record["ways"]:
        tried = (f"{name} {found['drain']['worker_us']:,.0f}" for name, found in record["ways"].items())
        lines += [f"Tried once, worker CPU in us/task; the cheapest is in the table: {', '.join(tried)}.", ""]
    return "\n".join(lines)
