"""Random workflows: a plan builds its signature, and tells by itself what must come of it.

A plan is data. `interpret` is the reference: what each task returns, in plain Python and one after the other.
"""

from collections import Counter
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from taskq import TaskQ, chain, chord, group
from taskq.canvas.signature import Signature


class Failed(Exception):
    """A task failed; its argument is the type of the error that a caller sees."""


@dataclass
class Linked:
    """`links` and `errbacks` are the notes that callbacks and errbacks write."""

    links: list[str] = field(default_factory=list, kw_only=True)
    errbacks: list[str] = field(default_factory=list, kw_only=True)


@dataclass
class Step(Linked):
    """One task. `how`: ok, fail, retry (twice), replace (by `inner`), add (`inner` to its chord)."""

    label: str
    how: str = "ok"
    immutable: bool = False
    inner: "Plan | None" = None


@dataclass
class Line(Linked):
    steps: "list[Plan]"


@dataclass
class Side(Linked):
    members: "list[Plan]"


@dataclass
class Meet(Linked):
    members: "list[Plan]"
    body: "Plan"


Plan = Step | Line | Side | Meet


# == from a plan to a signature


def build(app: TaskQ, plan: Plan) -> Signature[Any]:
    made = build_bare(app, plan)
    for note in plan.links:
        made = made.link(app.signature("note", (note,)))
    for note in plan.errbacks:
        made = made.link_error(app.signature("note", (note,)))
    return made


def build_bare(app: TaskQ, plan: Plan) -> Signature[Any]:
    if isinstance(plan, Line):
        return chain(*(build(app, step) for step in plan.steps), app=app)
    if isinstance(plan, Side):
        return group(*(build(app, member) for member in plan.members), app=app)
    if isinstance(plan, Meet):
        return chord([build(app, member) for member in plan.members], build(app, plan.body), app=app)
    inner = None if plan.inner is None else build(app, plan.inner).to_dict()
    return app.signature("step", (plan.label,), {"how": plan.how, "inner": inner}, immutable=plan.immutable)


# == the reference


@dataclass
class World:
    """What a workflow does beside its result: the notes of callbacks and errbacks."""

    notes: Counter[str] = field(default_factory=Counter)


def handed_down(plan: Plan) -> Plan:
    """The plan with all callbacks and errbacks at the tasks they mean: the table of docs/canvas.md."""
    if isinstance(plan, Line):
        bare: Plan = Line(flat(Line([handed_down(step) for step in plan.steps])))
    elif isinstance(plan, Side):
        bare = Side([handed_down(member) for member in plan.members])
    elif isinstance(plan, Meet):
        bare = Meet([handed_down(member) for member in plan.members], handed_down(plan.body))
    else:
        return replace(plan, inner=None if plan.inner is None else handed_down(plan.inner))
    return pushed(bare, plan.links, plan.errbacks)


def pushed(plan: Plan, links: list[str], errbacks: list[str]) -> Plan:
    """A plan that has none of its own, with these: to a line's every step, a group's every member, a chord's body."""
    if isinstance(plan, Line):
        *before, last = flat(plan)
        return Line([*(pushed(step, [], errbacks) for step in before), pushed(last, links, errbacks)])
    if isinstance(plan, Side):
        first, *others = plan.members
        return Side([pushed(first, links, errbacks), *(pushed(other, [], errbacks) for other in others)])
    if isinstance(plan, Meet):
        return Meet(plan.members, pushed(plan.body, links, errbacks))
    return replace(plan, links=plan.links + links, errbacks=plan.errbacks + errbacks)


def interpret(plan: Plan, args: tuple[Any, ...], world: World) -> Any:
    """The value of a plan; `Failed` if it fails. The value of a group is a list with `Failed` for failed members."""
    if isinstance(plan, Line):
        return interpret_line(flat(plan), args, world)
    if isinstance(plan, Side):
        return [attempt(member, args, world) for member in members_of(plan)]
    if isinstance(plan, Meet):
        return interpret_meet(plan, args, world)
    return interpret_step(plan, args, world)


def attempt(plan: Plan, args: tuple[Any, ...], world: World) -> Any:
    try:
        return interpret(plan, args, world)
    except Failed as failed:
        return failed


def interpret_step(step: Step, args: tuple[Any, ...], world: World) -> Any:
    try:
        value = interpret_run(step, () if step.immutable else args, world)
    except Failed:
        world.notes.update(entry(step))
        raise
    world.notes.update(step.links)
    return value


def interpret_run(step: Step, args: tuple[Any, ...], world: World) -> Any:
    if step.how == "fail":
        raise Failed("ValueError")
    if step.how == "replace" and step.inner is not None:
        return whole(interpret(step.inner, (), world))
    return [step.label, *args]


def whole(value: Any) -> Any:
    """The value of a group as one value: none if a member has failed."""
    if isinstance(value, list) and any(isinstance(item, Failed) for item in value):
        raise Failed("ChordError")
    return value


def flat(line: Line) -> list[Plan]:
    """The steps of a line by Celery's rules (wire-format.md 5.6): what follows a group makes a chord of it."""
    steps: list[Plan] = []
    for outer in line.steps:
        for step in flat(outer) if isinstance(outer, Line) else [unrolled(outer)]:
            last = steps[-1] if steps else None
            if isinstance(last, Side):
                steps[-1] = Meet(last.members, step)
            elif isinstance(last, Meet) and ends_in_side(last):
                steps[-1] = Meet(last.members, Line([last.body, step]))
            else:
                steps.append(step)
    return steps


def unrolled(step: Plan) -> Plan:
    """A group of one in a line is that one."""
    if isinstance(step, Side) and len(members := members_of(step)) == 1:
        [step] = members
    return step


def ends_in_side(plan: Plan) -> bool:
    if isinstance(plan, Line):
        return ends_in_side(flat(plan)[-1])
    return ends_in_side(plan.body) if isinstance(plan, Meet) else isinstance(plan, Side)


def members_of(side: Side) -> list[Plan]:
    found: list[Plan] = []
    for member in side.members:
        found += members_of(member) if isinstance(member, Side) else [member]
    return found


def interpret_line(steps: list[Plan], args: tuple[Any, ...], world: World) -> Any:
    for step in steps:
        args = (interpret(step, args, world),)
    return args[0]


def note_errbacks(body: Plan, world: World) -> None:
    """The errbacks of a body that cannot run; those of each member if it is a group."""
    for part in members_of(body) if isinstance(body, Side) else [body]:
        world.notes.update(set(entry(part)))


def entry(plan: Plan) -> list[str]:
    """The errbacks of what would have run first."""
    if isinstance(plan, Step):
        return plan.errbacks
    if isinstance(plan, Side):
        return [note for member in members_of(plan) for note in entry(member)]
    if isinstance(plan, Meet):
        return entry(plan.body)
    return entry(flat(plan)[0])


def interpret_meet(meet: Meet, args: tuple[Any, ...], world: World) -> Any:
    added: list[Any] = []
    values = []
    for member in members_of(Side(meet.members)):
        value = attempt(member, args, world)
        values.append(value if isinstance(value, Failed) else attempt_whole(value))
        added += additions(member, world)
    try:
        joined = whole(values + added)
    except Failed:
        note_errbacks(meet.body, world)
        raise
    return interpret(meet.body, (joined,), world)


def attempt_whole(value: Any) -> Any:
    try:
        return whole(value)
    except Failed as failed:
        return failed


def additions(member: Plan, world: World) -> list[Any]:
    """What a member adds to its chord while it runs."""
    if not isinstance(member, Step) or member.how != "add" or member.inner is None:
        return []
    return [attempt_whole(attempt(member.inner, (), world))]


# == random plans


class Maker:
    """Makes plans of about `size` tasks."""

    def __init__(self, seed: int, size: int = 12) -> None:
        self.random = Random(seed)
        self.left = size
        self.labels = 0
        self.notes = 0

    def plan(self, depth: int = 3) -> Plan:
        kind = self.random.choices(("step", "line", "side", "meet"), (3, 4, 2, 4))[0]
        if depth == 0 or self.left <= 1 or kind == "step":
            return self.step(depth)
        made = self.canvas(kind, depth)
        made.links = self.some("link", (0, 0, 0, 0, 1))
        made.errbacks = self.some("errback", (0, 0, 0, 0, 1))
        return made

    def canvas(self, kind: str, depth: int) -> Line | Side | Meet:
        if kind == "line":
            return Line([self.plan(depth - 1) for _ in range(self.random.randint(1, 4))])
        if kind == "side":
            return Side([self.plan(depth - 1) for _ in range(self.random.randint(1, 3))])
        members = [self.plan(depth - 1) for _ in range(self.random.choice((0, 1, 2, 3, 3)))]
        if members and self.random.random() < 0.3:  # one at most: what several add comes in any order
            members[0] = self.step(depth, how="add")
        return Meet(members, self.plan(depth - 1))

    def step(self, depth: int, how: str | None = None) -> Step:
        self.left -= 1
        self.labels += 1
        label = f"t{self.labels}"
        hows = ("ok", "fail", "retry", "replace")
        how = how or self.random.choices(hows, (16, 1, 2, 2 if depth else 0))[0]
        inner = self.plan(depth - 1) if how in {"replace", "add"} else None
        links, errbacks = self.some("link", (0, 0, 0, 1, 2)), self.some("errback", (0, 0, 0, 1))
        immutable = self.random.random() < 0.2
        return Step(label, how, immutable, inner, links=links, errbacks=errbacks)

    def some(self, kind: str, counts: tuple[int, ...]) -> list[str]:
        notes = []
        for _ in range(self.random.choice(counts)):
            self.notes += 1
            notes.append(f"{kind} {self.notes}")
        return notes
