"""Folders and files of an installation's state that nobody but their owner reads, whoever makes them first."""

from __future__ import annotations

import os
from pathlib import Path


def private_folder(folder: Path) -> Path:
    """Make a folder, and those above it that are missing, for its owner alone; one that is there stays as it is."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(mode=0o700, exist_ok=True)
    return folder


def private_file(file: Path) -> Path:
    """Make an empty file in a private folder, for its owner alone; one that is there stays as it is.

    SQLite takes an empty file for an empty database, and gives its journals the same mode.
    """
    private_folder(file.parent)
    if not file.exists():
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT, 0o600))
    return file


def tighten(folder: Path, ours: frozenset[str] | None = None) -> None:
    """Take the rights of others away from what is ours in a folder, and from the folder if nothing else lies in it.

    Args:
        folder: of the state; one of another user, and a link, is left alone.
        ours: names of what an installation keeps in it; None: all is.
    """
    if not folder.is_dir() or not _is_own(folder):
        return
    entries = {path.name: path for path in folder.iterdir()}
    ours = frozenset(entries) if ours is None else ours
    for path in (*(entries[name] for name in ours & entries.keys()), *([folder] if entries.keys() <= ours else [])):
        if _is_own(path) and (mode := path.stat().st_mode) & 0o077:
            path.chmod(mode & 0o7700)


def _is_own(path: Path) -> bool:
    return not path.is_symlink() and path.stat().st_uid == os.getuid()
