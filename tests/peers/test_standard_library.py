"""`Executor.as_futures` passes the standard library's own tests of executors."""

from __future__ import annotations

import unittest

import pytest
from standard_library_suite import (
    MIXINS,
    NOT_APPLICABLE,
    NOT_IN_EVERY_VERSION,
    adapted,
    cases_of_the_suite,
    is_left_out,
    modules_of_the_suite,
    own_tests,
)

try:
    CASES = cases_of_the_suite(modules_of_the_suite())
except ImportError as error:
    pytest.skip(f"not available: this Python was installed without the tests ({error})", allow_module_level=True)

ADAPTED = [adapted(CASES[case], mixin) for case, mixins in MIXINS.items() for mixin in mixins]
globals().update({case.__name__: case for case in ADAPTED})  # for pytest to find


def test_each_test_is_run_or_listed_as_not_applicable() -> None:
    """Each test of the suite is either run or in the table."""
    run = {
        (base, test)
        for case in ADAPTED
        for test in unittest.defaultTestLoader.getTestCaseNames(case)
        for base in case.__mro__
    }
    tests = [(case, test) for case in CASES.values() for test in own_tests(case)]
    assert tests
    assert [test for test in tests if (test in run) == is_left_out(test[0].__name__, test[1])] == []


def test_table_names_only_existing_tests() -> None:
    """Each name in the table exists in the suite of this version of Python or another supported one."""
    known = set(CASES) | {f"{case.__name__}.{test}" for case in CASES.values() for test in own_tests(case)}
    known |= {f"{over.__name__}.{test}" for over in ADAPTED for case in over.__mro__ for test in own_tests(case)}
    assert NOT_APPLICABLE.keys() - known <= NOT_IN_EVERY_VERSION
    assert NOT_APPLICABLE.keys() >= NOT_IN_EVERY_VERSION
