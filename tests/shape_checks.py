"""Shapes and types checked at the first calls of every function in a test, not at all of them.

A sampler calls the same dozen functions thousands of times: checking every call was three fifths
of the time that the tests of the core took.
"""

import functools

import jaxtyping
from beartype import beartype

CALLS = 40
"""Of one function, in one test."""
ALL_CALLS = 10_000
"""Of all functions: the tests that make more have long been turning in the same loop."""

_test = 0
_all_calls = 0


def begin() -> None:
    """Another test begins: every function is checked again."""
    global _test, _all_calls
    _test, _all_calls = _test + 1, 0
    jaxtyping.config.update("jaxtyping_disable", False)


def first_calls(function):
    """Return `function` as beartype checks it, for its first `CALLS` calls in each test."""
    checked = beartype(function)
    calls, test = 0, _test

    @functools.wraps(function)
    def call(*args, **kwargs):
        nonlocal calls, test
        global _all_calls
        if test != _test:
            calls, test = 0, _test
        calls += 1
        _all_calls += 1
        if _all_calls == ALL_CALLS:
            jaxtyping.config.update("jaxtyping_disable", True)
        return (checked if calls <= CALLS else function)(*args, **kwargs)

    return call
