"""What all tests share: async tests, the order of the files, and what is said meanwhile."""

from __future__ import annotations

import asyncio
import inspect
import time
from typing import Any

import pytest
from hypothesis import settings

SERVE = "Serve"

settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run `async def` tests in an event loop of their own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Call bytes by their argument's name: what wrote them may write the time as well, and two
    processes that share the tests must find the same."""
    return argname if isinstance(val, bytes) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the tests that start Serve come last."""
    items.sort(key=lambda item: group_of(item.nodeid) == SERVE)


def group_of(nodeid: str) -> str:
    """Return the file of a test; of those that start Serve, which takes both cores, what they are
    together."""
    file = nodeid.partition("::")[0]
    return (
        SERVE
        if file.startswith("tests/serve/") or file == "tests/operations/server/test_supervisor.py"
        else file
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Let each of several processes take a whole group at a time."""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return ByGroup(config, log)


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Say what goes on where tests run side by side; pytest itself does where they do not."""
    terminal = config.pluginmanager.getplugin("terminalreporter")
    if terminal is not None and getattr(config.option, "numprocesses", None):
        config.pluginmanager.register(Progress(terminal), "progress")


class Progress:
    """A line for each file when its first test begins, in place of a dot for each test."""

    def __init__(self, terminal: pytest.TerminalReporter) -> None:
        self._terminal = terminal
        self._started_at = time.monotonic()
        self._files: set[str] = set()

    def pytest_report_header(self, config: pytest.Config) -> str | None:
        if config.args_source is not pytest.Config.ArgsSource.TESTPATHS:
            return None
        return "minutes on two cores: 4 without Serve, then some 10 with it (tests/serve)"

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        if report.passed:
            return ("passed" if report.when == "call" else "", "", "")
        return None

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        file = nodeid.partition("::")[0]
        if file in self._files:
            return
        self._files.add(file)
        minutes, seconds = divmod(int(time.monotonic() - self._started_at), 60)
        self._terminal.ensure_newline()
        self._terminal.write_line(f"{minutes:3d}:{seconds:02d}  {file}")
