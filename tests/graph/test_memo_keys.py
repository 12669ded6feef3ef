"""Keys of code say the same in each process, whatever the process has done before."""

import copy
from pathlib import Path

from sfumato.graph.memo import code, contents


class Own:
    """A class of a program."""

    limit = 3


def test_the_first_copy_or_pickle_of_an_object_changes_no_key_of_its_class() -> None:
    before = code._alone(Own, "tests")[0]
    copy.copy(Own())
    assert "__slotnames__" in vars(Own)
    assert code._alone(Own, "tests")[0] == before


def test_what_the_memo_has_read_changes_no_key_of_code() -> None:
    things = contents.file_key, code.code_key, code._alone
    before = [code._alone(thing, "tests")[0] for thing in things]
    contents.file_key(Path(__file__))
    code.code_key(Own)
    assert [code._alone(thing, "tests")[0] for thing in things] == before
