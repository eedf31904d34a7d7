"""Ray's token and the variables of one machine."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import yaml

from rayserve_app.errors import ConfigurationError
from rayserve_app.operations.server import access
from rayserve_app.operations.server.settings import read_config, serve_environment, yaml_with_host


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_an_instance_gets_a_token_of_its_own_for_as_long_as_it_runs(home: Path) -> None:
    tokens = []
    for _ in range(2):
        with access.own_token(serve_environment(None, {}), 8000) as environment:
            path = Path(environment["RAY_AUTH_TOKEN_PATH"])
            assert path == home / ".rayserve-app" / "token-8000"
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            tokens.append(path.read_text())
            assert access.headers(environment) == {"authorization": f"Bearer {tokens[-1]}"}
        assert not path.exists()
    assert len(set(tokens)) == 2
    assert all(len(token) == 64 for token in tokens)


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000_000)  # whom no database knows
    with (
        pytest.raises(ConfigurationError, match=r"no home directory.*RAY_AUTH_TOKEN_PATH"),
        access.own_token({"RAY_AUTH_MODE": "token"}, 8000),
    ):
        pass


def test_what_a_killed_instance_has_left_is_not_used_again(home: Path) -> None:
    path = home / ".rayserve-app" / "token-8000"
    path.parent.mkdir()
    path.write_text("old")
    path.chmod(0o644)
    with access.own_token({"RAY_AUTH_MODE": "token"}, 8000):
        assert path.read_text() != "old"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "environment",
    [
        {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "mine"},
        {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "/mine"},
        {"RAY_AUTH_MODE": "disabled"},
    ],
)
def test_what_the_user_has_set_stays(home: Path, environment: dict[str, str]) -> None:
    with access.own_token(environment, 8000) as same:
        assert same == environment
    assert not (home / ".rayserve-app").exists()


def test_headers_are_of_the_token_that_ray_takes(home: Path) -> None:
    (home / "token").write_text("from a file\n")
    path = {"RAY_AUTH_TOKEN_PATH": str(home / "token")}
    assert access.headers({"RAY_AUTH_MODE": "disabled", **path}) == {}
    mode = {"RAY_AUTH_MODE": "token"}
    assert access.headers(mode | path) == {"authorization": "Bearer from a file"}
    both = mode | path | {"RAY_AUTH_TOKEN": "mine"}
    assert access.headers(both) == {"authorization": "Bearer mine"}
    with pytest.raises(ConfigurationError, match="token cannot be read"):
        access.headers(mode | {"RAY_AUTH_TOKEN_PATH": str(home / "none")})


def test_a_home_that_cannot_be_written_is_told(home: Path) -> None:
    (home / ".rayserve-app").write_text("a file")
    with (
        pytest.raises(ConfigurationError, match="RAY_AUTH_TOKEN_PATH"),
        access.own_token({"RAY_AUTH_MODE": "token"}, 8000),
    ):
        pass


def test_a_script_is_told_where_the_instance_is_and_how_to_get_in() -> None:
    dashboard: Any = SimpleNamespace(
        cmdline=lambda: ["python", "dashboard.py", "--gcs-address=127.0.0.1:6379"]
    )

    def gone() -> list[str]:
        raise psutil.NoSuchProcess(1)

    processes: list[Any] = [SimpleNamespace(cmdline=gone), dashboard]
    environment = serve_environment(None, {"RAY_AUTH_TOKEN_PATH": "/t"})
    assert access.script_variables(environment, "http://127.0.0.1:8265", processes) == {
        "RAY_ADDRESS": "127.0.0.1:6379",
        "RAY_DASHBOARD_ADDRESS": "http://127.0.0.1:8265",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": "/t",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }


@pytest.mark.parametrize(
    ("options", "host"),
    [
        ("", "127.0.0.1"),
        ("http_options: {port: 8001}", "127.0.0.1"),
        ("http_options: null", "127.0.0.1"),
        ("http_options: {host: 0.0.0.0}", "0.0.0.0"),
    ],
)
def test_serve_listens_on_loopback_unless_the_yaml_names_a_host(
    tmp_path: Path, options: str, host: str
) -> None:
    path = tmp_path / "app.yaml"
    path.write_text(f"{options}\napplications: [{{import_path: 'a:b', args: {{x: [1, ö]}}}}]")
    config = read_config(path)
    assert config.http_host == host
    with yaml_with_host(config) as written:
        document = yaml.safe_load(written.read_text())
        assert document["http_options"]["host"] == host
        assert document["applications"] == [{"import_path": "a:b", "args": {"x": [1, "ö"]}}]
    assert path.exists()
    assert written == path or not written.exists()
