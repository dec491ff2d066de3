"""Processes that outlive the command that started them, found again and ended without leaving anything behind.

Each is the leader of a session of its own, so that Ctrl-C in a terminal never reaches it. It is known by its pid and
its start time: a pid that the system has given to somebody else is left alone.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

_children: dict[int, subprocess.Popen[bytes]] = {}  # kept, so that their exit codes can be read


class Running(NamedTuple):
    """A process on record: its pid and when it started, in seconds since 1970."""

    pid: int
    started: float


def spawn(command: list[str], log: Path, cwd: Path, env: dict[str, str]) -> Running:
    """Start `python -m` with these arguments; the log before this one is kept as `.log.1`.

    What the process writes is readable by its owner alone: databases, passwords, logs.
    """
    if log.exists():
        log.replace(log.with_suffix(".log.1"))
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=cwd,
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            umask=0o077,
        )
    _children[process.pid] = process
    return Running(process.pid, psutil.Process(process.pid).create_time())


def exit_code(record: Running, *, wait: bool = False) -> int | None:
    """How a child of this very process ended; None while it runs, and for anybody else's child."""
    child = _children.get(record.pid)
    return (child.wait() if wait else child.poll()) if child else None


def leader(record: Running) -> psutil.Process | None:
    """The process on record, unless it has ended or its pid belongs to another one now."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(record.pid)
        if abs(process.create_time() - record.started) < 1 and _lives(process):
            return process
    return None


def session(record: Running) -> set[psutil.Process]:
    """The leader and all that it has left behind, also when the leader itself has ended."""
    head = leader(record)
    members = {head} if head else set()
    with suppress(psutil.NoSuchProcess):
        if head:
            members |= set(head.children(recursive=True))
        elif _lives(psutil.Process(record.pid)):
            return set()  # somebody else has the pid, which the system gives out only when the session is gone
    for process in psutil.process_iter():
        with suppress(ProcessLookupError, PermissionError, psutil.NoSuchProcess):
            if os.getsid(process.pid) == record.pid and _lives(process):
                members.add(process)
    return members


def end(records: list[Running], grace: float) -> list[int]:
    """Ask the leaders to end and wait; then TERM and at last KILL what is left of their sessions.

    Returns the pids that outlived even that.
    """
    members = {process for record in records for process in session(record)}
    leaders = [head for record in records if (head := leader(record))]
    _signal(leaders, signal.SIGTERM)
    psutil.wait_procs(leaders, timeout=grace)
    # Whatever they started meanwhile, and whatever left the session, is theirs too.
    left = [process for process in members.union(*map(session, records)) if process.is_running()]
    for number in (signal.SIGTERM, signal.SIGKILL):
        _signal(left, number)
        _, left = psutil.wait_procs(left, timeout=5)
    return [process.pid for process in left if _lives(process)]


def _lives(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False


def _signal(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)
