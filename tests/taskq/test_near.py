from taskq.near import near_match


def test_a_near_word_is_proposed() -> None:
    assert near_match("countdwon", ["eta", "countdown"]) == " Did you mean 'countdown'?"


def test_case_does_not_matter_and_the_known_spelling_is_shown() -> None:
    assert near_match("ADD.DELAYED", ["Add.delayed"]) == " Did you mean 'Add.delayed'?"


def test_nothing_is_proposed_when_nothing_is_near() -> None:
    assert near_match("zebra", ["countdown"]) == ""
    assert near_match("zebra", []) == ""
