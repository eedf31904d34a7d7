"""Import strings."""

from __future__ import annotations

import json.decoder
from pathlib import Path

import pytest

from rayserve_app.errors import ConfigurationError
from rayserve_app.importing import import_from_string


def test_a_string_names_a_modules_attribute() -> None:
    assert import_from_string("json.decoder:JSONDecoder") is json.decoder.JSONDecoder


def test_an_attribute_may_lie_deeper() -> None:
    assert import_from_string("json:decoder.JSONDecoder.decode") is json.decoder.JSONDecoder.decode


@pytest.mark.parametrize("string", ["", "json", "json:", ":loads", ".json:loads"])
def test_another_form_is_refused(string: str) -> None:
    with pytest.raises(ConfigurationError, match=r"expected `package.module:attribute`.* at `f`$"):
        import_from_string(string, path="f")


@pytest.mark.parametrize(
    ("string", "sentence"),
    [
        ("no_such_package.sub:f", "No module named 'no_such_package'.* - at `f`"),
        ("json.no_such_module:f", "No module named 'json.no_such_module'.* - at `f`"),
        ("json:no_such_name", "Module 'json' has no attribute 'no_such_name' - at `f`"),
        ("json:loads.x", "Module 'json' has no attribute 'loads.x' - at `f`"),
    ],
)
def test_what_is_missing_is_told(string: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        import_from_string(string, path="f")


def test_what_a_module_raises_itself_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "module_of_missing.py").write_text("import no_such_dependency")
    (tmp_path / "module_of_fault.py").write_text("1 / 0")
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
        import_from_string("module_of_missing:f")
    with pytest.raises(ZeroDivisionError):
        import_from_string("module_of_fault:f")
