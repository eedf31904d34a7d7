"""Packages of one model's own: really installed, each seen by its own process only."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest

from rayserve_app.artifacts import packages
from rayserve_app.artifacts.packages import INSTALL_TIMEOUT_S, activate, install
from rayserve_app.artifacts.requirements import Requirements
from rayserve_app.errors import ConfigurationError, LoadError, MissingDependency
from rayserve_app.settings.model import ModelSettings, parse_settings

ROOT = Path(__file__).parents[2]


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


def wheel(folder: Path, name: str, version: str, *requires: str, tag: str = "py3-none-any") -> None:
    """Write a wheel of one module that says its version."""
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    files = {
        f"{module}.py": f"VERSION = {version!r}\n",
        f"{info}/METADATA": metadata + "".join(f"Requires-Dist: {each}\n" for each in requires),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\n"
        f"Tag: {tag}\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    folder.mkdir(exist_ok=True)
    with ZipFile(folder / f"{module}-{version}-{tag}.whl", "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)


@pytest.fixture
def index(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An index of its own, which holds what a test writes there."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_FIND_LINKS", str(folder))
    monkeypatch.setenv("UV_NO_CACHE", "1")
    return folder


def place(folder: Path, name: str, version: str) -> Path:
    """Put a package where Python finds it, outside of the environment."""
    wheel(folder, name, version)
    (file,) = folder.glob("*.whl")
    with ZipFile(file) as archive:
        archive.extractall(folder)
    return folder


def names(directory: Path) -> set[str]:
    return {path.stem for path in directory.glob("*.py")}


def test_what_is_there_and_satisfies_needs_nothing(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `pip install` leaves it; without uv, an index, and time."""
    monkeypatch.setitem(sys.modules, "uv", None)
    file = tmp_path / "requirements.txt"
    file.write_text(
        "# what everybody has\n--extra-index-url https://127.0.0.1:9/simple\n"
        "requests\nPyYAML>=5 # a comment\nopencv-python\nopencv-python-headless>=4.1\n\n"
        "numpy>=1.20 ; python_version > '3'\nno-such-package ; python_version < '3'\n"
        "Pillow \\\n  >=8 --hash=sha256:00\n"
    )
    directory = install(["scikit_image", "requests>=2,<3"], requirements_file=file)
    assert names(directory) == set()
    before = list(sys.modules)
    activate(directory)
    sys.path.remove(str(directory))
    assert set(sys.modules) >= set(before)


@pytest.mark.parametrize("wanted", [["tensorflow"], ["tensorflow-gpu>=2.4"]])
def test_a_stand_in_satisfies(
    cache: Path, monkeypatch: pytest.MonkeyPatch, wanted: list[str]
) -> None:
    pytest.importorskip("tensorflow")
    monkeypatch.setitem(sys.modules, "uv", None)
    assert names(install(wanted)) == set()


def test_what_the_replica_has_is_not_resolved_anew(index: Path) -> None:
    for newest in ("requests", "pyyaml", "opencv-python", "opencv-python-headless", "numpy"):
        wheel(index, newest, "99.0")
    wheel(index, "mine", "1.0", "requests", "pyyaml", "opencv-python>=4", "numpy")
    directory = install(["mine", "requests", "opencv-python"])
    assert names(directory) == {"mine"}


def test_the_resolver_is_held_to_what_the_replica_has(index: Path) -> None:
    wheel(index, "numpy", "1.26.4")
    wheel(index, "mine", "1.0", "numpy")
    wheel(index, "mine", "2.0", "numpy<2")
    assert (install(["mine"]) / "mine.py").read_text() == "VERSION = '1.0'\n"


@pytest.mark.parametrize("requirement", ["numpy==1.26.4", "mine"])
def test_a_pin_below_what_is_imported_says_how_it_is_served(index: Path, requirement: str) -> None:
    wheel(index, "numpy", "1.26.4")
    wheel(index, "mine", "2.0", "numpy<2")
    sentence = r"do not go together with .* imported already: got .*numpy.*py_executable"
    with pytest.raises(LoadError, match=sentence) as info:
        install([requirement])
    assert "\n" not in str(info.value)


def test_another_version_of_what_is_not_imported_is_the_models_own(
    tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(place(tmp_path / "there", "both-have-it", "2.0"))
    wheel(index, "both-have-it", "1.0")
    wheel(index, "mine", "1.0", "both-have-it")
    assert names(install(["mine"])) == {"mine"}
    directory = install(["both-have-it<2", "mine"])
    assert names(directory) == {"mine", "both_have_it"}
    monkeypatch.syspath_prepend(directory)
    import both_have_it

    assert both_have_it.VERSION == "1.0"
    sys.modules.pop("both_have_it")


def test_a_pin_that_no_index_has_for_this_python_is_left_out(
    tmp_path: Path, index: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The fourth guide's `tensorflow==2.4.0` has wheels of Python 3.6 to 3.8 alone."""
    tensorflow = pytest.importorskip("tensorflow")
    wheel(index, "tensorflow", "2.4.0", tag="cp38-cp38-manylinux2010_x86_64")
    wheel(index, "tensorflow-serving-api", "2.4.0", "tensorflow>=2.4.0")
    file = tmp_path / "requirements.txt"
    file.write_text("tensorflow==2.4.0\ntensorflow-serving-api==2.4.0\nrequests\n")
    for _ in range(2):  # the second one finds it in the cache
        caplog.clear()
        directory = install([], requirements_file=file)
        assert names(directory) == {"tensorflow_serving_api"}
        version = tensorflow.__version__
        assert [message.replace("_", "-") for message in caplog.messages] == [
            "No index has a wheel of `tensorflow==2.4.0` for Python 3.11: going on with"
            f" tensorflow-cpu=={version}"
        ]
    sentence = r"wheel of `tensorflow==2\.4\.0` for Python 3\.11: got tensorflow.cpu==.*strict"
    with pytest.raises(LoadError, match=sentence):
        install([], requirements_file=file, strictness="strict")


def test_what_has_no_version_is_not_counted(
    tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Old distributions have versions that nobody can compare, broken ones none."""
    for name, metadata in (("old", "Name: old\nVersion: 1.0-odd build\n"), ("broken", "")):
        info = tmp_path / "there" / f"{name}-1.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(metadata)
    monkeypatch.syspath_prepend(tmp_path / "there")
    wheel(index, "old", "2.0")
    assert names(install(["old", "requests"])) == {"old"}


def test_strict_takes_what_satisfies(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uv", None)
    assert names(install(["requests"], strictness="strict")) == set()


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
    wheel(tmp_path, "numpy", "1.26.4")
    directory = tmp_path / "packages"
    with ZipFile(tmp_path / "numpy-1.26.4-py3-none-any.whl") as archive:
        archive.extractall(directory)
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
    monkeypatch.setattr(packages, "INSTALL_TIMEOUT_S", 6)
    requirement = write_project(tmp_path / "project", "slow", "1.0")
    pid_file = tmp_path / "pid"
    (tmp_path / "project" / "backend.py").write_text(
        f"import os, time\nopen({str(pid_file)!r}, 'w').write(str(os.getpid()))\ntime.sleep(99)"
    )
    sentence = r"take too long to install: slow @ .*: expected at most 6 s, got uv is still at work"
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
from deployments.closure.backend import ClosureBackend, ClosureSettings
from rayserve_app.settings.model import parse_settings

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
