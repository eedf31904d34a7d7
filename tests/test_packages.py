"""Packages of one model's own: really installed, each seen by its own process only."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rayserve_app import packages
from rayserve_app.errors import ConfigurationError, LoadError, MissingDependency
from rayserve_app.packages import INSTALL_TIMEOUT_S, Requirements, activate, install
from rayserve_app.settings import ModelSettings, parse_settings

ROOT = Path(__file__).parents[1]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAYSERVE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write_project(directory: Path, name: str, version: str) -> str:
    """Write a package of one module that says its version; return a requirement for it."""
    directory.mkdir(parents=True)
    (directory / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    # The smallest backend of PEP 517, so that nothing is downloaded to build it.
    (directory / "backend.py").write_text(f"""
import zipfile

def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    name = "{name}-{version}-py3-none-any.whl"
    info = "{name}-{version}.dist-info"
    files = {{
        "{name}.py": "VERSION = '{version}'\\n",
        info + "/METADATA": "Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n",
        info + "/WHEEL": "Wheel-Version: 1.0\\nGenerator: test\\n"
                         "Root-Is-Purelib: true\\nTag: py3-none-any\\n",
    }}
    files[info + "/RECORD"] = "".join(f + ",,\\n" for f in [*files, info + "/RECORD"])
    with zipfile.ZipFile(wheel_directory + "/" + name, "w") as wheel:
        for path, content in files.items():
            wheel.writestr(path, content)
    return name
""")
    return f"{name} @ {directory.as_uri()}"


def test_a_package_is_installed_once_into_a_folder_of_its_own(tmp_path: Path, cache: Path) -> None:
    requirement = write_project(tmp_path / "project", "own_package", "1.0")
    directory = install([requirement])
    assert (directory / "own_package.py").read_text() == "VERSION = '1.0'\n"
    assert directory.is_relative_to(cache)
    made_at = directory.stat().st_mtime_ns
    assert install([requirement]) == directory
    assert directory.stat().st_mtime_ns == made_at


def test_requirements_of_a_file_are_installed_as_well(tmp_path: Path, cache: Path) -> None:
    file = tmp_path / "requirements.txt"
    file.write_text(write_project(tmp_path / "a", "package_a", "1.0"))
    directory = install([write_project(tmp_path / "b", "package_b", "2.0")], requirements_file=file)
    assert {path.name for path in directory.glob("*.py")} == {"package_a.py", "package_b.py"}
    file.write_text(file.read_text() + "\n# another text")
    assert install([], requirements_file=file) != directory
    with pytest.raises(LoadError, match=r"No such file: /.*absent.txt"):
        install([], requirements_file=tmp_path / "absent.txt")


def test_what_is_active_is_imported_first(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "both_have_it.py").write_text("VERSION = 'of the environment'")
    monkeypatch.syspath_prepend(tmp_path)
    directory = install([write_project(tmp_path / "project", "both_have_it", "2.0")])
    activate(directory)
    try:
        import both_have_it  # type: ignore[import-not-found]

        assert both_have_it.VERSION == "2.0"
        activate(directory)
        assert sys.path.count(str(directory)) == 1
    finally:
        sys.path.remove(str(directory))
        sys.modules.pop("both_have_it", None)


def test_another_version_of_what_is_imported_already_is_refused(
    tmp_path: Path, cache: Path
) -> None:
    directory = install([write_project(tmp_path / "project", "numpy", "1.26.4")])
    (directory / "numpy.py").rename(directory / "numpy.txt")  # nothing else here may import it
    sentence = (
        r"package numpy cannot be used: another version is imported already: "
        rf"expected numpy==1.26.4, got numpy=={np.__version__} at .*py_executable"
    )
    before = list(sys.path)
    with pytest.raises(LoadError, match=sentence):
        activate(directory)
    assert sys.path == before


def test_the_version_that_is_imported_already_is_no_conflict(tmp_path: Path, cache: Path) -> None:
    directory = install([write_project(tmp_path / "project", "numpy", np.__version__)])
    (directory / "numpy.py").unlink()
    activate(directory)
    sys.path.remove(str(directory))


def test_a_requirement_that_does_not_exist_is_named(cache: Path) -> None:
    sentence = "cannot be installed: no-such-package-of-ours==9: got No solution"
    with pytest.raises(LoadError, match=sentence) as info:
        install(["no-such-package-of-ours==9"])
    assert "\n" not in str(info.value)
    assert str(info.value).count("no-such-package-of-ours") > 1
    assert {path.suffix for path in (cache / "packages").iterdir()} == {".lock"}


def test_a_package_that_does_not_build_is_named(tmp_path: Path, cache: Path) -> None:
    requirement = write_project(tmp_path / "project", "broken", "1.0")
    (tmp_path / "project" / "backend.py").write_text("def build_wheel(*args): raise ValueError(17)")
    with pytest.raises(LoadError, match=r"cannot be installed: broken @ .*ValueError: 17"):
        install([requirement])


def test_installing_ends_at_its_time_limit(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "INSTALL_TIMEOUT_S", 2)
    requirement = write_project(tmp_path / "project", "slow", "1.0")
    pid_file = tmp_path / "pid"
    (tmp_path / "project" / "backend.py").write_text(
        f"import os, time\nopen({str(pid_file)!r}, 'w').write(str(os.getpid()))\ntime.sleep(99)"
    )
    sentence = r"take too long to install: slow @ .*: expected at most 2 s, got uv is still at work"
    with pytest.raises(LoadError, match=sentence):
        install([requirement])
    state = Path("/proc", pid_file.read_text(), "stat")
    assert not state.exists() or state.read_text().split()[2] == "Z"


def test_the_time_limit_is_below_two_minutes() -> None:
    assert INSTALL_TIMEOUT_S < 120


def test_without_uv_the_remedy_is_a_command(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uv", None)
    with pytest.raises(MissingDependency, match="pip install uv"):
        install(["humanize"])


class WithPackages(ModelSettings):
    packages: Requirements = ()


def test_requirements_are_pips_without_its_options() -> None:
    model = {"input": {"type": "bytes"}, "packages": ["humanize==4.9.0", "a @ https://host/a.whl"]}
    assert parse_settings(WithPackages, {"model": model}).packages == tuple(model["packages"])
    for wrong, sentence in (
        ("-r other.txt", "A requirement begins with '-', as an option does"),
        (" --pre", "A requirement begins with '-'"),
        (" ", "A requirement is empty"),
    ):
        faulty = model | {"packages": ["humanize", wrong]}
        with pytest.raises(ConfigurationError, match=rf"{sentence}.* - at `.*packages\[1\]`"):
            parse_settings(WithPackages, {"model": faulty})


ANSWER = """
import sys
from deployments.closure import ClosureBackend, ClosureSettings
from rayserve_app.settings import parse_settings

model = {"function": "humanize_closure:versions", "input": {"type": "string"},
         "packages": [sys.argv[1]]}
backend = ClosureBackend(parse_settings(ClosureSettings, {"model": model}))
backend.load()
print("loaded", flush=True)
sys.stdin.readline()
print(*backend.predict(["1024"]))
"""


def test_models_side_by_side_have_each_its_own_version(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "humanize_closure.py").write_text(
        "import humanize\n"
        "from importlib.metadata import version\n\n"
        "def versions(inputs):\n"
        "    return [version('humanize') + ' ' + humanize.naturalsize(x) for x in inputs]\n"
    )
    versions = ("4.9.0", "4.11.0")
    running = [
        subprocess.Popen(
            [sys.executable, "-c", ANSWER, f"humanize=={version}"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}", "RAYSERVE_CACHE": str(cache)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for version in versions
    ]
    assert [process.stdout and process.stdout.readline() for process in running] == ["loaded\n"] * 2
    answers = [process.communicate("go\n")[0] for process in running]
    assert answers == [f"{version} 1.0 kB\n" for version in versions]
