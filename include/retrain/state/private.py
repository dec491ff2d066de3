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


def tighten(folder: Path, ours: frozenset[str]) -> None:
    """Take the rights of others away from what is ours in a folder, and from the folder if nothing else lies in it.

    Args:
        folder: of the state; one of another user, and a link, is left alone.
        ours: names of what an installation keeps in it.
    """
    if not folder.is_dir() or folder.is_symlink() or folder.stat().st_uid != os.getuid():
        return
    names = set(os.listdir(folder))  # noqa: PTH208 - names are compared
    kept = [folder / name for name in names & ours]
    for path in (*kept, *([folder] if names <= ours else [])):
        mode = path.lstat().st_mode
        if not path.is_symlink() and path.lstat().st_uid == os.getuid() and mode & 0o077:
            path.chmod(mode & 0o7700)
