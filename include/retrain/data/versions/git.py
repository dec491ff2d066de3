"""git: the scratch repository that every call of the data registry works in, and the version of the code."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from retrain.errors import RegistryUnavailable
from retrain.masking import masked

MAIN = "refs/heads/main"
_RACE = re.compile(
    r"\[rejected\]|cannot lock ref|failed to update ref|atomic transaction failed|File exists|incorrect old value"
)
_HOPELESS = re.compile(
    r"Permission denied|No space left|Read-only file system|Disk quota|cannot create|non-empty directory"
)
# Hooks, signing and repacking belong to whoever owns the machine's git settings, not to a scratch repository.
_GIT = ("git", "-c", "core.hooksPath=/dev/null", "-c", "push.gpgSign=false", "-c", "gc.auto=0")
_KEPT = ("GIT_SSH", "GIT_SSH_COMMAND", "GIT_ASKPASS", "GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM")


def code_version(root: Path) -> str:
    """Name the commit that `root` is at, with `-dirty` when tracked files differ from it.

    Code that lies in no git repository has no version, and the text says so: a laptop may well run it like that.
    """
    try:
        done = subprocess.run(
            [*_GIT, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=root, capture_output=True, timeout=60, text=True,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"unknown: {error}"[:200]
    return done.stdout.strip() if done.returncode == 0 else "not in a git repository"


@contextmanager
def scratch() -> Iterator[Scratch]:
    """Open a scratch repository, which is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="retrain-registry-") as folder:
        git = Scratch(Path(folder))
        git.run("init", "--quiet", "--bare", "--template=", "--initial-branch=scratch")
        yield git


@dataclass
class Scratch:
    """A throw-away bare repository with the newest commit of what was fetched, and nothing checked out.

    Attributes:
        folder: where it lies.
        refusal: what git answered to the last push.
    """

    folder: Path
    refusal: str = ""

    def call(self, *args: str, stdin: bytes | None = None, detached: bool = False) -> tuple[int, str, str]:
        """Run a git command: its exit code, output and errors.

        Args:
            args: of git.
            stdin: what it reads.
            detached: whether it outlives a signal to this process's group.

        Raises:
            RegistryUnavailable: git is not there, or does not end.
        """
        env = {key: value for key, value in os.environ.items() if not key.startswith("GIT_") or key in _KEPT}
        env |= {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
        try:
            done = subprocess.run(
                [*_GIT, *args], cwd=self.folder, env=env, input=stdin, capture_output=True, timeout=600,
                start_new_session=detached,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise RegistryUnavailable(f"git {args[0]}: {error}", do="install git, or mend the connection") from error
        return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")

    def run(self, *args: str, stdin: bytes | None = None) -> str:
        """Run a git command and return its output.

        Raises:
            RegistryUnavailable: it failed.
        """
        code, out, err = self.call(*args, stdin=stdin)
        if code:
            raise _unavailable(args[0], err)
        return out

    def fetch(self, url: str, *refs: str, history: bool = False) -> dict[str, str]:
        """Fetch the newest commits of those of `refs` that exist, by ref; with all that came before on request."""
        rows = (line.split("\t") for line in self.run("ls-remote", "--quiet", url, *refs).splitlines())
        existing = {ref: commit for commit, ref in rows if ref in refs}
        if existing:
            depth = () if history else ("--depth=1",)
            self.run("fetch", "--quiet", *depth, "--no-tags", url, *(f"+{ref}:{ref}" for ref in existing))
        # Asked again, because a ref may have moved between the two calls.
        return {ref: self.run("rev-parse", "--verify", f"{ref}^{{commit}}").strip() for ref in existing}

    def listed(self, *paths: str, at: str = MAIN) -> list[str]:
        """Those of these paths that exist in a commit; of a path that ends in a slash, what lies in it."""
        return [name for name in self.run("ls-tree", "-z", "--name-only", at, "--", *paths).split("\0") if name]

    def commit(self, files: Mapping[str, str], message: str, *, onto: str | None) -> str:
        """Make one commit with `files` on top of `onto`; fast-import needs neither a working tree nor an index."""
        who = f"Retrain <retrain@localhost> {int(time.time())} +0000"
        lines = ["commit refs/heads/new", f"committer {who}", _data(message), *([f"from {onto}"] if onto else [])]
        lines += [f"M 100644 inline {path}\n{_data(text)}" for path, text in files.items()]
        self.run("fast-import", "--quiet", "--done", "--date-format=raw", stdin="\n".join([*lines, "done\n"]).encode())
        return self.run("rev-parse", "refs/heads/new").strip()

    def push(self, url: str, commit: str, *refs: str) -> bool:
        """Push `main` and all of `refs`, or nothing; False if somebody else was faster.

        Detached, because a scheduler that kills this process's group must not hit git while it holds the
        registry's own locks.
        """
        targets = [f"{commit}:{ref}" for ref in (MAIN, *refs)]
        code, out, err = self.call("push", "--porcelain", "--atomic", url, *targets, detached=True)
        self.refusal = one_line(err + out)
        if code and (_HOPELESS.search(err + out) or not _RACE.search(err + out)):
            raise _unavailable("push", err + out)
        return not code


def _data(text: str) -> str:
    return f"data {len(text.encode())}\n{text}"


def _unavailable(command: str, message: str) -> RegistryUnavailable:
    return RegistryUnavailable(
        f"git {command} failed: {one_line(message)}",
        do="see that the data registry is reachable, writable and has room; what was published before is untouched",
    )


def one_line(message: str) -> str:
    """Bring a message of git on one line, bounded, without its hints and without a login in a URL."""
    lines = [line.strip() for line in message.splitlines() if line.strip() and not line.startswith("hint:")]
    return masked(" | ".join(lines))[:400]
