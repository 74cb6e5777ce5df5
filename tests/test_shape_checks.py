"""What the suite checks of every function: the first calls of each test."""

import pytest
import torch
from jaxtyping import Float, TypeCheckError, jaxtyped
from torch import Tensor

from tests import shape_checks


@jaxtyped(typechecker=shape_checks.first_calls)
def first(x: Float[Tensor, "items dims"]) -> Float[Tensor, " items"]:
    return x[:, 0] if len(x) < 9 else x


WRONG, RIGHT, WRONG_RESULT = torch.zeros(3), torch.zeros(3, 2), torch.zeros(9, 2)


@pytest.mark.parametrize("begun_by", ["one test", "another test"])
def test_the_first_calls_of_a_test_are_checked(begun_by):
    for _ in range(shape_checks.CALLS // 2 - 1):
        with pytest.raises(TypeCheckError):
            first(WRONG)
        with pytest.raises(TypeCheckError):
            first(WRONG_RESULT)
    for _ in range(2 * shape_checks.CALLS):
        first(RIGHT)
    assert first(WRONG_RESULT) is WRONG_RESULT


def test_after_very_many_calls_nothing_is_checked_until_the_next_test(monkeypatch):
    monkeypatch.setattr(shape_checks, "ALL_CALLS", 4)
    for _ in range(3):
        first(RIGHT)
    assert first(WRONG_RESULT) is WRONG_RESULT
    shape_checks.begin()
    with pytest.raises(TypeCheckError):
        first(WRONG)
