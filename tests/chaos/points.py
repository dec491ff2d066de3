"""The points at which a process writes, found by watching it; nothing in the product knows of them.

A point comes before every SQL statement that writes, before and after every commit, before every file that is made,
moved or removed in the history's folder, before, under way and after each `git push`, and before and after every
request to MLflow that may write. Between two neighbours nothing is written, so that a kill at each of them is a kill
everywhere.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests
import sqlalchemy as sa
from sqlalchemy.engine.default import DefaultDialect

from retrain.data.versions.git import Scratch

Act = Callable[[int, str], None]
"""Called at each point with its number, from 1 on, and its name."""

VERBS = ("INSERT", "UPDATE", "DELETE", "CREATE", "DROP", "ALTER")


def kill_at(place: int) -> Act:
    """SIGKILL to this very process at the point of that number."""

    def act(number: int, _: str) -> None:
        if number == place:
            os.kill(os.getpid(), signal.SIGKILL)

    return act


def watch(folder: Path, act: Act) -> None:
    """Have `act` called at every point from now on. There is no way back: for a process that ends soon."""
    count = itertools.count(1)

    def hit(name: str) -> None:
        act(next(count), name)

    _watch_sql(hit)
    _watch_files(folder, hit)
    _watch_git(hit)
    _watch_http(hit)


def _watch_sql(hit: Callable[[str], None]) -> None:
    wrote = [False]

    @sa.event.listens_for(sa.engine.Engine, "before_cursor_execute")
    def before(_1: Any, _2: Any, statement: str, *_: Any) -> None:
        words = statement.split()
        if words[0].upper() in VERBS:
            wrote[0] = True
            hit(f"{words[0]} {words[2] if words[0] != 'UPDATE' else words[1]}")

    commit = DefaultDialect.do_commit

    def watched(self: Any, connection: Any) -> None:
        if wrote[0]:
            hit("commit")
        commit(self, connection)
        if wrote[0]:
            wrote[0] = False
            hit("committed")

    DefaultDialect.do_commit = watched  # type: ignore[method-assign]


def _watch_files(folder: Path, hit: Callable[[str], None]) -> None:
    inside, aside = f"{folder}/", f"{folder}/tmp"
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT

    def heard(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in ("open", "os.rename", "os.remove", "os.mkdir"):
            return
        path = str(arguments[0])
        if not path.startswith(inside) or path.startswith(aside) or (event == "open" and not arguments[2] & writing):
            return
        hit(f"{event} {Path(path).relative_to(folder)}")

    sys.addaudithook(heard)


def _watch_git(hit: Callable[[str], None]) -> None:
    begin, push = subprocess.Popen.__init__, Scratch.push

    def begun(self: Any, args: Any, *more: Any, **named: Any) -> None:
        begin(self, args, *more, **named)
        if isinstance(args, list) and "push" in args:
            hit("git push under way")

    def pushed(self: Scratch, *arguments: Any) -> bool:
        hit("git push")
        done = push(self, *arguments)
        hit("git pushed")
        return done

    subprocess.Popen.__init__ = begun  # type: ignore[method-assign]
    Scratch.push = pushed  # type: ignore[method-assign]


def _watch_http(hit: Callable[[str], None]) -> None:
    send = requests.Session.send

    def sent(self: Any, request: Any, **named: Any) -> Any:
        name = f"{request.method} {request.path_url.partition('?')[0]}"
        if request.method == "GET" or name.endswith("search"):
            return send(self, request, **named)
        hit(name)
        answer = send(self, request, **named)
        hit(f"{name} answered")
        return answer

    requests.Session.send = sent  # type: ignore[method-assign]
