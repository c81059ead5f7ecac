from types import MappingProxyType

from celery.app import defaults

from taskq.config.celery_names import absent, new_name
from taskq.config.settings import Settings

KNOWN = Settings().names()
OLD_NAMES = MappingProxyType(defaults._TO_OLD_KEY)


def test_every_setting_of_celery_is_ours_or_refused_with_a_reason() -> None:
    assert [name for name in OLD_NAMES if name not in KNOWN and absent(name) is None] == []


def test_no_setting_is_both_ours_and_refused() -> None:
    assert [name for name in KNOWN if absent(name)] == []


def test_every_old_name_leads_to_the_new_one() -> None:
    assert {old: new_name(old, KNOWN) for old in OLD_NAMES.values()} == {
        old: name for name, old in OLD_NAMES.items()
    }


def test_other_names_are_no_old_ones() -> None:
    assert new_name("CELERY_NO_SUCH_THING", KNOWN) is None
    assert new_name("DEBUG", KNOWN) is None
    assert new_name("Broker_Url", KNOWN) is None
    assert absent("no_such_thing") is None
