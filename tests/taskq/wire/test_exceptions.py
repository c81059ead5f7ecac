import asyncio
import builtins
import json
import os
import subprocess
import sys
from decimal import Decimal
from types import ModuleType
from typing import Any, cast

import billiard.exceptions
import celery.exceptions
import kombu.exceptions
import pytest
from celery.backends.base import Backend
from hypothesis import given
from hypothesis import strategies as st

from taskq import errors
from taskq.wire.exceptions import decode_exception, encode_exception
from taskq.wire.serializers import get_serializer


class Plain(Exception):
    pass


class Nested:
    class Inner(Exception):
        pass

    not_a_class = os.system


class TwoWanted(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__("told once")
        self.two = two


class NeedsTwo(TwoWanted):
    def __str__(self) -> str:
        return f"{self.two}"


class Changeling(Exception):
    def __new__(cls, *args: Any) -> Any:
        return "not an exception"


class Rude(Exception):
    def __init__(self, *args: Any) -> None:
        raise RuntimeError


OURS = [
    (errors.NotRegistered("proj.add"), celery.exceptions.NotRegistered),
    (errors.TaskRevokedError("expired"), celery.exceptions.TaskRevokedError),
    (errors.MaxRetriesExceededError("Can't retry"), celery.exceptions.MaxRetriesExceededError),
    (errors.Reject("bad", True), celery.exceptions.Reject),
    (errors.Ignore(), celery.exceptions.Ignore),
    (errors.Retry("later"), celery.exceptions.Retry),
    (errors.ChordError("Dependency a raised ValueError('boom')"), celery.exceptions.ChordError),
    (errors.ResultTimeout("late"), celery.exceptions.TimeoutError),
    (errors.TaskError("x"), celery.exceptions.TaskError),
    (errors.TaskqError("x"), celery.exceptions.CeleryError),
    (errors.ConfigError("x"), celery.exceptions.ImproperlyConfigured),
    (errors.StoreError("x"), celery.exceptions.BackendError),
    (errors.SoftTimeLimitExceeded(), billiard.exceptions.SoftTimeLimitExceeded),
    (errors.TimeLimitExceeded(3), billiard.exceptions.TimeLimitExceeded),
    (errors.WorkerLostError("gone"), billiard.exceptions.WorkerLostError),
    (errors.OperationalError("x"), kombu.exceptions.OperationalError),
    (errors.EncodeError("x"), kombu.exceptions.EncodeError),
    (errors.DecodeError("x"), kombu.exceptions.DecodeError),
    (errors.ContentDisallowed("x"), kombu.exceptions.ContentDisallowed),
]


@pytest.mark.parametrize(("ours", "theirs"), OURS, ids=[type(ours).__name__ for ours, _ in OURS])
def test_our_errors_are_celerys_on_the_wire(ours: Exception, theirs: type[Exception]) -> None:
    data = encode_exception(ours)
    assert getattr(sys.modules[data["exc_module"]], data["exc_type"]) is theirs
    back = decode_exception(data)
    assert (type(back), back.args) == (type(ours), ours.args)


@pytest.mark.parametrize(("ours", "theirs"), OURS, ids=[type(ours).__name__ for ours, _ in OURS])
def test_celery_raises_the_classes_it_knows(ours: Exception, theirs: type[Exception]) -> None:
    backend = Backend(celery.Celery(set_as_current=False), url="disabled://")
    assert type(backend.exception_to_python(encode_exception(ours))) is theirs


def test_errors_without_a_name_in_celery_keep_their_own() -> None:
    data = encode_exception(errors.BrokerFull("disk"))
    assert (data["exc_module"], data["exc_type"]) == ("taskq.errors", "BrokerFull")
    assert type(decode_exception(data)) is errors.BrokerFull


@pytest.mark.parametrize(
    "exc", [ValueError("boom"), KeyError("k"), Plain(1, "a"), Nested.Inner("x"), OSError(2, "no")]
)
def test_known_classes_come_back(exc: Exception) -> None:
    data = json.loads(json.dumps(encode_exception(exc)))
    back = decode_exception(data)
    assert (type(back), back.args) == (type(exc), exc.args)


def test_the_stored_form() -> None:
    assert encode_exception(ValueError("boom")) == {
        "exc_type": "ValueError",
        "exc_message": ["boom"],
        "exc_module": "builtins",
    }


def test_arguments_that_cannot_be_written_become_their_repr() -> None:
    assert encode_exception(ValueError("first", object, 3))["exc_message"] == ["first", "<class 'object'>", 3]
    assert encode_exception(ValueError(Decimal(1)))["exc_message"] == [Decimal(1)]
    packed = encode_exception(ValueError(Decimal(1)), get_serializer("msgpack"))
    assert packed["exc_message"] == ["Decimal('1')"]


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("posix", "system"),
        ("subprocess", "Popen"),
        ("builtins", "eval"),
        ("builtins", "print"),
        ("builtins", "object"),
        ("builtins", "Exception.__subclasses__"),
        ("test_failures", "Nested.not_a_class"),
        ("celery.exceptions", "sys.exit"),
        ("os", "path.join"),
    ],
)
def test_a_name_that_is_no_exception_is_never_called(
    module: str, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """CVE-2021-23727: Celery before 5.2.2 called whatever the stored result named."""
    marker = tmp_path / "called"
    exc = decode_exception({"exc_module": module, "exc_type": name, "exc_message": [f"touch {marker}"]})
    assert isinstance(exc, errors.TaskError)
    assert exc.args == (f"touch {marker}",)
    assert not marker.exists()


def test_nothing_is_imported_and_nothing_ends_the_reader() -> None:
    sys.modules.pop("this", None)
    exc = decode_exception({"exc_module": "this", "exc_type": "Zen", "exc_message": []})
    assert "this" not in sys.modules
    assert (type(exc).__name__, type(exc).__module__) == ("Zen", "this")
    for name in ("SystemExit", "KeyboardInterrupt", "BaseException"):
        exc = decode_exception({"exc_module": "builtins", "exc_type": name, "exc_message": [1]})
        assert isinstance(exc, errors.TaskError)
    cancelled = encode_exception(asyncio.CancelledError())
    assert isinstance(decode_exception(cancelled), errors.TaskError)


def test_invented_classes_are_the_same_each_time() -> None:
    data = {"exc_module": "their.app", "exc_type": "Outer.Theirs", "exc_message": ["x"]}
    one, other = decode_exception(data), decode_exception(data)
    assert type(one) is type(other)
    assert (type(one).__name__, str(one)) == ("Theirs", "x")
    assert encode_exception(one)["exc_type"] == "Theirs"


def test_a_module_of_another_kind_is_passed_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "odd", cast("Any", object()))
    assert isinstance(
        decode_exception({"exc_module": "odd", "exc_type": "X", "exc_message": None}), errors.TaskError
    )


def test_lazy_attributes_are_not_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    lazy = ModuleType("lazy")
    woken: list[str] = []
    vars(lazy)["__getattr__"] = woken.append  # PEP 562
    monkeypatch.setitem(sys.modules, "lazy", lazy)
    decode_exception({"exc_module": "lazy", "exc_type": "Surprise", "exc_message": []})
    assert woken == []


@pytest.mark.parametrize(
    ("cls", "expected"),
    [(TwoWanted, TwoWanted), (NeedsTwo, errors.TaskError), (Changeling, errors.TaskError), (Rude, Rude)],
)
def test_constructors_that_want_something_else_are_survived(cls: type[Exception], expected: type) -> None:
    exc = decode_exception({"exc_module": __name__, "exc_type": cls.__name__, "exc_message": ["told once"]})
    assert isinstance(exc, expected)
    assert exc.args == ("told once",)


def test_groups_keep_their_name() -> None:
    exc = decode_exception(encode_exception(ExceptionGroup("two", [ValueError(1), KeyError(2)])))
    assert type(exc).__name__ == "ExceptionGroup"
    assert exc.args[0] == "two"


def test_a_pickled_exception_is_taken_as_it_is() -> None:
    exc = ValueError("x")
    assert decode_exception(exc) is exc


@pytest.mark.parametrize("data", [None, 7, "text", [], {}, {"exc_type": None}, {"exc_type": ["x"]}])
def test_what_is_no_exception_at_all_is_told_as_a_task_error(data: Any) -> None:
    exc = decode_exception(data)
    assert (type(exc), exc.args) == (errors.TaskError, (data,))


@pytest.mark.parametrize(
    ("message", "args"), [(None, ()), ("text", ("text",)), (7, (7,)), ([1, [2]], (1, [2])), ((1,), (1,))]
)
def test_messages_of_any_shape(message: Any, args: tuple[Any, ...]) -> None:
    assert decode_exception({"exc_type": "X", "exc_module": None, "exc_message": message}).args == args


NAMES = st.text() | st.sampled_from([*vars(builtins), *vars(os), *vars(subprocess), "a.b", "", "."])
MODULES = (
    st.none()
    | st.integers()
    | st.text()
    | st.sampled_from(["builtins", "os", "subprocess", "celery.exceptions"])
)


@given(NAMES, MODULES, st.none() | st.text() | st.lists(st.integers() | st.text()))
def test_decoding_never_raises(name: str, module: Any, message: Any) -> None:
    exc = decode_exception({"exc_type": name, "exc_module": module, "exc_message": message})
    assert isinstance(exc, Exception)
    assert isinstance(str(exc), str)
