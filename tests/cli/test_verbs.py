"""The table of verbs matches the stages, and every verb has help."""

import dataclasses
import importlib
import inspect

import pytest

from nanochat.cli.main import main
from nanochat.cli.verbs import GROUPS, VERBS


def test_every_two_word_verb_has_a_group():
    assert {name[0] for name in VERBS if len(name) == 2} == set(GROUPS)
    assert not {name[0] for name in VERBS if len(name) == 1} & set(GROUPS)


@pytest.mark.parametrize("name", VERBS, ids=" ".join)
def test_a_verb_names_a_stage(name: tuple[str, ...]):
    verb = VERBS[name]
    module = importlib.import_module(verb.module)
    config = getattr(module, verb.config)
    assert dataclasses.is_dataclass(config)
    assert config.__dataclass_params__.frozen
    fields = {field.name: field.default for field in dataclasses.fields(config)}
    runtime = {name: fields.get(name) for name in ("device", "dtype") if name in fields}
    if verb.needs == "runtime":
        assert runtime == {"device": "auto", "dtype": "auto"}
    parameters = list(inspect.signature(getattr(module, verb.function)).parameters)
    assert parameters == ["config", verb.needs]


@pytest.mark.parametrize("name", VERBS, ids=" ".join)
def test_a_verb_explains_its_options(name: tuple[str, ...], capsys):
    with pytest.raises(SystemExit) as ended:
        main([*name, "--help"])
    assert ended.value.code == 0
    out, err = capsys.readouterr()
    assert f"usage: nanochat {' '.join(name)}" in out
    assert VERBS[name].help.split()[0] in out
    assert err == ""
