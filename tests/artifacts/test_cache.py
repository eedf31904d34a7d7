"""The folder that the replicas of a machine share: one makes, the others wait; how it is pruned."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from rayserve_app.artifacts import cache
from rayserve_app.artifacts.cache import obtain
from rayserve_app.errors import ConfigurationError

MEGABYTE = 1_000_000


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAYSERVE_CACHE", str(tmp_path))
    return tmp_path


def test_of_several_makers_one_works_and_the_others_wait() -> None:
    made: list[Path] = []

    def make(target: Path) -> None:
        made.append(target)
        target.write_text("whole")

    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: obtain("a/b", make), range(8)))
    assert len(made) == 1
    assert [path.read_text() for path in paths] == ["whole"] * 8


def test_who_waits_for_a_maker_may_give_up() -> None:
    at_work, done = threading.Event(), threading.Event()

    def make(target: Path) -> None:
        at_work.set()
        done.wait(30)
        target.touch()

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(obtain, "key", make)
        assert at_work.wait(30)
        with pytest.raises(TimeoutError):
            obtain("key", make, wait_s=0.1)
        done.set()
        assert first.result().exists()


# Pruning


def write_tree(target: Path, size: int = MEGABYTE) -> None:
    (target / "variables").mkdir(parents=True)
    (target / "variables" / "data").write_bytes(bytes(size // 2))
    (target / "graph").write_bytes(bytes(size - size // 2))


OBTAIN = """
import sys
from rayserve_app.artifacts.cache import obtain
from tests.artifacts.test_cache import write_tree
for key in sys.argv[1:]:
    obtain(key, write_tree)
print("stored", flush=True)
sys.stdin.read()
"""


@contextmanager
def another_process(*keys: str) -> Iterator[None]:
    """A process that stores entries of a megabyte, and lives on."""
    process = subprocess.Popen(
        [sys.executable, "-c", OBTAIN, *keys],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "stored\n"
        yield
        process.communicate()
    assert process.returncode == 0


def store(*keys: str) -> None:
    """Store entries of a megabyte, and use them no longer."""
    with another_process(*keys):
        pass


def use_at(directory: Path, key: str, time_s: float) -> None:
    os.utime(directory / f"{key}.used.lock", (time_s, time_s))


def trees_in(directory: Path) -> set[str]:
    return {each.name for each in (directory / "trees").iterdir() if each.is_dir()}


def test_what_was_not_used_for_longest_makes_room(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store("trees/a", "trees/b", "trees/c")
    for age_s, key in enumerate(["trees/b", "trees/c", "trees/a"]):
        use_at(directory, key, 1000.0 + age_s)
    store("trees/b")
    monkeypatch.setenv("RAYSERVE_CACHE_MAX_GB", "0.0025")
    obtain("trees/d", write_tree)
    assert trees_in(directory) == {"b", "d"}
    obtain("trees/a", write_tree)
    assert trees_in(directory) == {"a", "d"}


def test_what_fits_stays(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYSERVE_CACHE_MAX_GB", "0.003")
    store("trees/a", "trees/b", "trees/c")
    assert trees_in(directory) == {"a", "b", "c"}


def test_files_and_packages_count_as_well(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store("files/0123/model.pt", "packages/4567")
    monkeypatch.setenv("RAYSERVE_CACHE_MAX_GB", "0")
    obtain("files/89ab/model.pt", lambda target: target.write_bytes(b"small"))
    assert not (directory / "files/0123/model.pt").exists()
    assert not (directory / "packages/4567").exists()
    assert (directory / "files/89ab/model.pt").read_bytes() == b"small"


def test_what_a_process_uses_stays_until_it_ends(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYSERVE_CACHE_MAX_GB", "0")
    obtain("trees/own", write_tree)
    with another_process("trees/others"):
        obtain("trees/new", write_tree)
        assert trees_in(directory) == {"own", "others", "new"}
    obtain("trees/newer", write_tree)
    assert trees_in(directory) == {"own", "new", "newer"}


def test_what_is_looked_up_is_held(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store("trees/a")
    assert cache.hold("trees/a")
    assert not cache.hold("trees/b")
    monkeypatch.setenv("RAYSERVE_CACHE_MAX_GB", "0")
    store("trees/b")
    assert "a" in trees_in(directory)


def test_what_a_killed_maker_left_is_removed_too(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store("trees/a")
    (directory / "trees/a").rename(directory / "trees/a.partial")
    monkeypatch.setenv("RAYSERVE_CACHE_MAX_GB", "0")
    obtain("trees/b", write_tree)
    assert trees_in(directory) == {"b"}


def test_names_within_an_entry_mean_nothing(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(target: Path) -> None:
        write_tree(target / "inner")
        (target / "inner.used.lock").touch()

    obtain("trees/a", write)
    monkeypatch.setenv("RAYSERVE_CACHE_MAX_GB", "0")
    obtain("trees/b", write_tree)
    assert (directory / "trees/a/inner/graph").exists()


def test_processes_that_store_at_one_time_all_get_theirs(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYSERVE_CACHE_MAX_GB", "0")
    code = """
import random
from rayserve_app.artifacts.cache import obtain
from tests.artifacts.test_cache import write_tree
for _ in range(30):
    assert (obtain(f"trees/{random.randrange(40)}", write_tree) / "variables/data").exists()
"""
    started = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(4)]
    assert [process.wait() for process in started] == [0] * 4


def test_a_cache_that_cannot_be_written_is_read(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store("trees/a")
    (directory / "trees/a.used.lock").unlink()
    (directory / "trees/a.used.lock").mkdir()  # which not even root can open for writing
    assert obtain("trees/a", write_tree) == directory / "trees/a"


@pytest.mark.parametrize("value", ["", "20 GB", "-1", "nan"])
def test_a_size_that_is_none_is_told(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYSERVE_CACHE_MAX_GB", value)
    with pytest.raises(ConfigurationError, match=f"0 or more, got '{value}' - at `RAYSERVE_CACHE_"):
        obtain("trees/a", partial(write_tree, size=1))
