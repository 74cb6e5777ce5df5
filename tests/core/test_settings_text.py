from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from mgdm_core.conditionals import Tweedie, Variational
from mgdm_core.errors import SettingsError
from mgdm_core.index_laws import PublishedMix, ResidualLaw
from mgdm_core.samplers import MGDM
from mgdm_core.settings import Settings, at_least, share
from mgdm_core.settings_text import change_settings, setting_names


@dataclass(frozen=True)
class Walk(Settings):
    """Settings whose types nobody checks, as where beartype is not there."""

    steps: Any = at_least(1, 100)  # noqa: RUF009
    eta: Any = share(1.0)  # noqa: RUF009


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"steps": 10.5}, "steps is a whole number, at least 1; found 10.5"),
        ({"steps": "10"}, "steps is a whole number, at least 1; found '10'"),
        ({"eta": "1"}, r"eta lies in \[0, 1\]; found '1'"),
        ({"eta": None}, r"eta lies in \[0, 1\]; found None"),
        ({"eta": float("nan")}, r"eta lies in \[0, 1\]; found nan"),
    ],
)
def test_what_is_no_number_of_the_kind_is_refused(values, says):
    assert Walk(np.int64(3), np.float32(0.5)).steps == 3
    with pytest.raises(SettingsError, match=says):
        Walk(**values)


BASE = MGDM(conditional=Variational(), index_law=PublishedMix())


def test_numbers_words_and_objects_by_name():
    changed = change_settings(
        MGDM(),
        {
            "levels": "12",
            "renoise": "forward",
            "conditional": "tweedie",
            "conditional.draw": "false",
            "index_law": "residual",
            "index_law.rough": "12.5",
        },
    )
    assert changed.levels == 12
    assert changed.renoise == "forward"
    assert changed.conditional == Tweedie(draw=False)
    assert changed.index_law == ResidualLaw(rough=12.5)


def test_an_optional_number_may_be_none():
    settings = MGDM(conditional=Variational(early_learning_rate=0.1))
    assert change_settings(
        settings, {"conditional.early_learning_rate": "none"}
    ).conditional == Variational(early_learning_rate=None)
    assert change_settings(settings, {"last": "none"}).last is None


def test_the_given_settings_are_not_changed():
    settings = MGDM()
    change_settings(settings, {"levels": "7"})
    assert settings == MGDM()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"level": "3"}, "valid names: levels"),
        ({"levels": "3.5"}, "whole number"),
        ({"levels": "1"}, "at least 2"),
        ({"conditional": "magic"}, "variational"),
        ({"conditional.magic": "1"}, "valid names: steps"),
        ({"conditional.learning_rate": "fast"}, "a number"),
        ({"levels.x": "1"}, "no parts"),
        ({"index_law.floor": "low"}, "a number"),
    ],
)
def test_what_does_not_fit_is_said(changes, says):
    with pytest.raises(SettingsError, match=says):
        change_settings(BASE, changes)


def test_names_include_the_parts():
    names = setting_names(BASE)
    assert {"levels", "conditional", "conditional.learning_rate"} <= set(names)
