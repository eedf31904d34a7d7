"""The processes of one Serve instance: started so that all can be found again, and ended for good.

Ray's workers and HAProxy outlive whoever started them: a killed proxy actor leaves HAProxy with
init. As a child subreaper the supervisor inherits every orphan instead, so "everything that is
below this process" stays true. Linux only, as HAProxy mode is.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Self

import psutil

# linux/prctl.h
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

# Serve writes HAProxy's configuration to haproxy-serve/<node id>/haproxy.cfg, our launcher what
# becomes of it beside that; the directory can be moved by a variable, the 28-byte node id stays.
HAPROXY_CONFIG = re.compile(r"/([0-9a-f]{56})/(?:haproxy|launched)\.cfg$")

SIGNALS_TO_STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Child = subprocess.Popen[bytes]

_libc = ctypes.CDLL(None, use_errno=True)


class StopRequests:
    """SIGINT, SIGTERM and SIGHUP, taken one by one instead of interrupting whatever runs.

    `signal.sigtimedwait` needs them blocked, and threads started meanwhile inherit that. A
    background job of a script (`serve &`) starts with SIGINT ignored; blocked, it counts again.
    """

    # timeout(1) signals a process and then its whole group: that is one request, not two.
    SAME_REQUEST_S = 0.5

    def __init__(self) -> None:
        self.count = 0
        self._counted_s = -self.SAME_REQUEST_S
        self._previous_mask: set[int] = set()
        # Under nohup(1) the terminal's end is no reason to stop.
        self._signals = {
            number
            for number in SIGNALS_TO_STOP
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
        }

    def __enter__(self) -> Self:
        self._previous_mask = signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)
        return self

    def __exit__(self, *_: object) -> None:
        # A request that came too late to matter must not end this process with a traceback.
        while signal.sigtimedwait(self._signals, 0) is not None:
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, self._previous_mask)

    def wait(self, timeout_s: float) -> bool:
        """Wait until the next request, at most `timeout_s`; return whether any has ever come."""
        if signal.sigtimedwait(self._signals, timeout_s) is not None:
            now_s = time.monotonic()
            if now_s - self._counted_s >= self.SAME_REQUEST_S:
                self.count += 1
                self._counted_s = now_s
        return self.count > 0


def become_subreaper() -> None:
    """Inherit the orphans of all descendants from now on."""
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def start(command: Sequence[str], environment: Mapping[str, str]) -> tuple[Child, IO[str]]:
    """Start a command that Ctrl-C in this terminal does not reach, and that gets a SIGINT of its
    own when this process dies.

    Returns: the child, and its output and errors as one stream of lines.
    """
    reader, writer = os.pipe()
    try:
        child = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=writer,
            stderr=writer,
            # With a reader of its own the child can still print, and so stop in order, after this
            # process was killed.
            pass_fds=[reader],
            start_new_session=True,
            preexec_fn=_prepare_child,
        )
    finally:
        os.close(writer)
    return child, os.fdopen(reader, errors="replace")


def _prepare_child() -> None:
    # Blocked and ignored signals would stay so in the new program, which then could not be stopped.
    for number in SIGNALS_TO_STOP:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGINT, 0, 0, 0)


def reap_orphans(child: Child) -> None:
    """Collect inherited processes that have ended, but leave `child` its exit status."""
    while True:
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if ended is None:
            return
        if ended.si_pid == child.pid:
            child.poll()
        else:
            os.waitpid(ended.si_pid, os.WNOHANG)


def descendants() -> list[psutil.Process]:
    """All processes below this one."""
    return psutil.Process().children(recursive=True)


def send_signal(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    """Signal each process that is still there."""
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue


def stop(child: Child, requests: StopRequests, timeout_s: float) -> bool:
    """End `child` and everything else below this process: SIGINT, then SIGTERM for what it leaves.

    Past `timeout_s`, or when a further request to stop comes, SIGKILL for all.
    Returns: whether everything ended by itself.
    """
    deadline_s = time.monotonic() + timeout_s
    earlier_requests = requests.count
    child.send_signal(signal.SIGINT)
    terminated = False
    while remaining := _remaining(child):
        if requests.count > earlier_requests or time.monotonic() > deadline_s:
            kill(child)
            return False
        if child.returncode is not None and not terminated:
            send_signal(remaining, signal.SIGTERM)
            terminated = True
        requests.wait(0.1)
    return True


def kill(child: Child) -> None:
    """SIGKILL everything below this process, again until nothing new has appeared."""
    while remaining := _remaining(child):
        send_signal(remaining, signal.SIGKILL)
        psutil.wait_procs([p for p in remaining if p.pid != child.pid], timeout=0.1)


def _remaining(child: Child) -> list[psutil.Process]:
    reap_orphans(child)
    return descendants()


def haproxy_node_id(command_line: Sequence[str]) -> str | None:
    """The Ray node that an HAProxy was started for, or None if Serve did not start it."""
    for option, value in itertools.pairwise(command_line):
        if option == "-f" and (match := HAPROXY_CONFIG.search(value)):
            return match[1]
    return None


def leftover_haproxies() -> list[psutil.Process]:
    """HAProxies that Serve started for a Ray node that no longer runs.

    A node lives as long as its raylet, which carries the node's id in its command line. Who the
    parent of an HAProxy is says nothing: a living one may have been inherited as well.
    """
    haproxies: list[tuple[str, psutil.Process]] = []
    others: list[str] = []
    for process in psutil.process_iter():
        try:
            command_line = process.cmdline()
        except psutil.Error:
            continue
        node_id = haproxy_node_id(command_line)
        if node_id is not None:
            haproxies.append((node_id, process))
        else:
            others.append(" ".join(command_line))
    return [
        process
        for node_id, process in haproxies
        if not any(node_id in command_line for command_line in others)
    ]


def _ends(process: psutil.Process, *, within_s: float) -> bool:
    """Wait for the end of another's child, which may stay a zombie until that one looks. While it
    has threads it has not ended: they hold its ports."""
    deadline_s = time.monotonic() + within_s
    while process.is_running() and (
        process.status() != psutil.STATUS_ZOMBIE or process.num_threads() > 1
    ):
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.02)
    return True


def stop_leftover(process: psutil.Process) -> bool:
    """SIGTERM, then SIGKILL; return False if it is not ours to stop."""
    try:
        process.terminate()
        if not _ends(process, within_s=2):
            process.kill()
            _ends(process, within_s=2)
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False
    return True
