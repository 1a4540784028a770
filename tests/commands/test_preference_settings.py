"""The settings of the preference commands: inherited help, defaults of their own, the method's own options."""

import pytest

from rung.commands import COMMANDS
from rung.commands import preference as module
from rung.config import parse
from rung.errors import UserError
from rung.schema import leaves

NAMES = [name for name, command in COMMANDS.items() if command.module == "preference"]


@pytest.mark.parametrize("name", NAMES)
def test_every_key_is_explained_and_the_method_has_its_own(name):
    kind = getattr(module, COMMANDS[name].settings)
    assert kind.__name__.lower() == name  # the command finds its method by this name
    table = leaves(kind)
    assert [key for key, leaf in table.items() if not leaf.help] == []
    assert any(key.startswith("method.") for key in table)
    assert table["step_pairs"].help.startswith("Pairs")


def test_defaults_of_a_nested_class_are_those_of_the_command():
    assert leaves(module.Dpo)["optimizer.learning_rate"].default == 1e-6
    assert leaves(module.Orpo)["optimizer.learning_rate"].default == 8e-6
    settings = parse(module.Orpo, ["--optimizer.clip", "0.5"], "rung orpo")
    assert (settings.optimizer.learning_rate, settings.optimizer.clip) == (8e-6, 0.5)


def test_an_option_of_another_method_is_unknown():
    assert parse(module.Simpo, ["method.gamma=0.3"], "rung simpo").method.gamma == 0.3
    with pytest.raises(UserError, match="gamma"):
        parse(module.Dpo, ["--method.gamma", "0.3"], "rung dpo")
