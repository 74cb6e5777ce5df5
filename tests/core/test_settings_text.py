import pytest

from mgdm_core.conditionals import Tweedie, Variational
from mgdm_core.errors import SettingsError
from mgdm_core.index_laws import ResidualLaw
from mgdm_core.samplers.mgdm import MGDMSettings
from mgdm_core.settings_text import change_settings, setting_names


def test_numbers_words_and_objects_by_name():
    changed = change_settings(
        MGDMSettings(),
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
    settings = MGDMSettings(conditional=Variational(early_learning_rate=0.1))
    assert change_settings(
        settings, {"conditional.early_learning_rate": "none"}
    ).conditional == Variational(early_learning_rate=None)
    assert change_settings(settings, {"jumps": "none"}).jumps is None


def test_the_given_settings_are_not_changed():
    settings = MGDMSettings()
    change_settings(settings, {"levels": "7"})
    assert settings == MGDMSettings()


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
        ({"jumps": "many"}, "cannot be given as text"),
    ],
)
def test_what_does_not_fit_is_said(changes, says):
    with pytest.raises(SettingsError, match=says):
        change_settings(MGDMSettings(), changes)


def test_names_include_the_parts():
    names = setting_names(MGDMSettings())
    assert {"levels", "conditional", "conditional.learning_rate"} <= set(names)
