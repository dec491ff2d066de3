"""Plays histories in several processes, and counts."""

from __future__ import annotations

import multiprocessing
import os
import sys
import traceback

from tests.chaos.histories import Findings, History
from tests.chaos.prepared import Worlds

MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""Where the homes lie: a killed process loses nothing that it gave to the system, so no disk is waited for."""
_AT_HAND: list[tuple[list[History], Worlds]] = []


def play(histories: list[History], worlds: Worlds, workers: int = 2) -> list[tuple[History, Findings]]:
    """Every history and what it came to; a line of progress on a terminal."""
    played: list[tuple[History, Findings]] = []
    for history in histories:
        worlds.prepared(*history.home)
    _AT_HAND[:] = [(histories, worlds)]
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        for place, findings in pool.imap_unordered(_play, range(len(histories))):
            played.append((histories[place], findings))
            for text in findings.wrong:
                print(f"VIOLATED {histories[place].family}: {histories[place].name}\n  {text}", flush=True)
            if sys.stderr.isatty():
                end = "\n" if len(played) == len(histories) else ""
                print(f"\r{len(played)} of {len(histories)} histories", end=end, file=sys.stderr, flush=True)
    return played


def _play(place: int) -> tuple[int, Findings]:
    histories, worlds = _AT_HAND[0]
    return place, play_one(histories[place], worlds)


def play_one(history: History, worlds: Worlds) -> Findings:
    """Play a history; a crash of its own is a violation."""
    try:
        return history.run(worlds)
    except Exception:
        return Findings(wrong=[f"the history itself failed: {traceback.format_exc()}"])
