"""The data registry: accepted data under version control, a git repository beside a DVC remote.

The registry is a bare git repository, named by URL or path, whose branch `main` holds a `.dvc` file per data
file; the bytes lie in the DVC remote under their MD5. Whoever clones it can `dvc pull`.

Every call works in a scratch repository of its own, so that a killed process leaves no lock behind and parallel
publishers share none; one atomic `git push` of branch and tag is the compare-and-swap. The order is what keeps
history true: bytes first, then the look at the remote, and only then the commit that speaks of them.

Of DVC the file systems and remotes are used, and its file format: `dvc.repo` is not imported, because its lock
makes parallel writers fail, its add keeps a second copy of the data, and its push says that all is well when the
cache has gone. DVC itself is imported in the function that needs it, so that this module stays light.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import yaml

from retrain.errors import (
    IntervalConflict,
    InvalidName,
    InvalidSpec,
    MissingInput,
    PushIncomplete,
    RegistryBusy,
    RegistryUnavailable,
    RetrainError,
    SnapshotCorrupt,
)
from retrain.results import inside

_MAIN = "refs/heads/main"
_PART = re.compile(r"\w(?:\w|[.=+-](?![.]))*")
_MD5 = re.compile(r"[0-9a-f]{32}")
_RACE = re.compile(
    r"\[rejected\]|cannot lock ref|failed to update ref|atomic transaction failed|File exists|incorrect old value"
)
_HOPELESS = re.compile(
    r"Permission denied|No space left|Read-only file system|Disk quota|cannot create|non-empty directory"
)
# Hooks, signing and repacking belong to whoever owns the machine's git settings, not to a scratch repository.
_GIT = ("git", "-c", "core.hooksPath=/dev/null", "-c", "push.gpgSign=false", "-c", "gc.auto=0")
_KEPT = ("GIT_SSH", "GIT_SSH_COMMAND", "GIT_ASKPASS", "GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM")
_CONFIG = """\
[core]
    remote = store
    analytics = false
['remote "store"']
    url = "{}"
"""
_GITIGNORE = "*\n!*/\n!/.gitignore\n!*.dvc\n!/.dvc/config\n"


@dataclass(frozen=True)
class Version:
    """Data as it was published: `md5` brings back the bytes, `commit` says when and why they came."""

    path: str
    md5: str
    bytes: int
    commit: str
    tag: str

    def __post_init__(self) -> None:
        _plain(self.path)
        if not _MD5.fullmatch(self.md5) or self.bytes < 0:
            raise SnapshotCorrupt(
                f"{self.path}.dvc does not name an MD5 and a size: {self.md5[:60]!r}, {self.bytes}",
                do="restore that file in the data registry from its git history",
            )


@dataclass(frozen=True)
class DataRegistry:
    """A data registry.

    Args:
        url: the git repository; a local path that does not exist becomes one at the first `publish`.
        remote: the DVC remote, a folder or any URL that DVC knows.
        options: settings of that remote as `dvc remote modify` takes them. They are never committed.
        attempts: how often a publisher that lost the race for `main` tries again.

    Raises:
        InvalidSpec: an address with a password in it, or a setting DVC does not know.

        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> registry = DataRegistry(str(folder / "registry.git"), str(folder / "remote"))
        >>> _ = (folder / "april.csv").write_text("a,b")
        >>> version = registry.publish(folder / "april.csv", "flights/april.csv", message="April", tag="flights/april")
        >>> version.md5, registry.lookup("flights/april") == version
        ('b345e1dc09f20fdefdea469f09167892', True)
        >>> registry.fetch(version, folder / "back.csv").read_text()
        'a,b'
    """

    url: str
    remote: str
    options: Mapping[str, str] = field(default_factory=dict, repr=False)
    attempts: int = 40

    def __post_init__(self) -> None:
        for name in ("url", "remote"):
            address = getattr(self, name)
            if not address.isprintable() or not address or address[0] == "-" or '"' in address or _password(address):
                raise InvalidSpec(
                    f"the data registry's {name} is empty, begins with a dash, has a quote or carries a password",
                    do="keep passwords in git's credential helper and in the remote's options",
                )
            if _local(address):
                object.__setattr__(self, name, str(Path(address).expanduser().absolute()))
        if {"url", "worktree", "version_aware"} & self.options.keys():
            raise InvalidSpec(
                "the remote's options may not be url, worktree or version_aware",
                do="use a plain DVC remote, which stores data under its MD5",
            )

    def publish(self, source: Path, path: str, *, message: str, tag: str) -> Version:
        """Bring `source` into the remote and under version control as `path`, and tag it.

        The same bytes under the same path and tag are published once, however often this is called or killed.

        Raises:
            IntervalConflict: the tag stands for other bytes or another path.
            InvalidName: a path or tag that could leave its folder, or a path above or below another's.
            PushIncomplete: the remote does not hold what was sent; nothing was committed.
            RegistryBusy: others kept winning the race.
            RegistryUnavailable: the repository or the remote cannot be reached or written.
        """
        _plain(path)
        if not source.is_file():
            raise MissingInput(f"{source} is not a file, so it cannot be published as {path}", do="run ingest first")
        size, md5 = source.stat().st_size, _md5(source)
        published = self.lookup(tag)
        if published is not None:
            _same(published, path, md5)
        self._send(source, path, md5, size)
        if published is not None:
            return published
        self._create()
        said = f"{message.strip()}\n\nData: {path}\n"
        for attempt in range(self.attempts):
            with _scratch() as git:
                tips = git.fetch(self.url, _MAIN, f"refs/tags/{tag}")
                if f"refs/tags/{tag}" in tips:
                    return _same(_read(git, tag), path, md5)
                commit = git.commit(self._files(git, path, md5, size, first=not tips), said, onto=tips.get(_MAIN))
                if git.push(self.url, commit, tag):
                    return Version(path=path, md5=md5, bytes=size, commit=commit, tag=tag)
            time.sleep(random.uniform(0, min(0.02 * (attempt + 1), 0.3)))
        raise RegistryBusy(
            f"{self.url} refused {tag} {self.attempts} times: {git.refusal}",
            do="try again; if a file ending in .lock is named and no git process runs there, remove that file",
        )

    def lookup(self, tag: str) -> Version | None:
        """What was published under `tag`.

        Raises:
            SnapshotCorrupt: the tag's `.dvc` file cannot be read.
            RegistryUnavailable: the repository cannot be reached.
        """
        _plain(tag, "tag")
        if _local(self.url) and not Path(self.url).exists():
            return None
        with _scratch() as git:
            return _read(git, tag) if git.fetch(self.url, f"refs/tags/{tag}") else None

    def fetch(self, version: Version, target: Path) -> Path:
        """Bring the exact bytes of `version` to `target`, which appears whole or not at all.

        Raises:
            PushIncomplete: the remote does not hold them.
            SnapshotCorrupt: the remote holds other bytes.
            RegistryUnavailable: the remote cannot be read.
        """
        if target.is_file() and target.stat().st_size == version.bytes and _md5(target) == version.md5:
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as folder:
            part = Path(folder, "part")
            with self._reaching(version.path) as (files, key):
                files.get_file(key(version.md5), str(part))
            if (found := _md5(part)) != version.md5:
                raise _altered(version.path, version.md5, f"bytes with MD5 {found}")
            part.replace(target)
        return target

    def verify(self, version: Version) -> None:
        """Ask the remote for `version`: presence and size everywhere, the bytes too in a local folder.

        Raises:
            PushIncomplete: the remote does not hold it.
            SnapshotCorrupt: the remote holds other bytes.
            RegistryUnavailable: the remote cannot be read.
        """
        self._held(version.path, version.md5, version.bytes)

    def _held(self, path: str, md5: str, size: int) -> None:
        with self._reaching(path) as (files, key):
            found = files.info(key(md5))["size"]
            if found != size:
                raise _altered(path, md5, f"{found} bytes instead of {size}")
            if files.protocol == "local" and (digest := _md5(Path(key(md5)))) != md5:
                raise _altered(path, md5, f"bytes with MD5 {digest}")

    def _send(self, source: Path, path: str, md5: str, size: int) -> None:
        with suppress(PushIncomplete, SnapshotCorrupt):
            return self._held(path, md5, size)
        # Whatever lies under this MD5 is not what the MD5 says, and the right bytes are here.
        with self._reaching(path) as (files, key):
            files.put_file(str(source), key(md5))
        if _md5(source) != md5:
            raise PushIncomplete(f"{source} was rewritten while it was sent", do="publish a file that stays as it is")
        return self._held(path, md5, size)

    @contextmanager
    def _reaching(self, path: str) -> Iterator[tuple[Any, Any]]:
        """The remote's file system and its way from an MD5 to a key, with every failure of it named."""
        from dvc.config import ConfigError
        from dvc.data_cloud import Remote
        from dvc.fs import get_cloud_fs

        try:
            settings = {"remote": {"store": {"url": self.remote, **self.options}}}
            kind, config, root = get_cloud_fs(settings, name="store")
            odb = Remote("store", root, kind(**config), **config).odb
            yield odb.fs, odb.oid_to_path
        except RetrainError:
            raise
        except ConfigError as error:
            raise InvalidSpec(_said(error), do="see `dvc remote modify` for this kind of remote") from error
        except FileNotFoundError as error:
            raise PushIncomplete(
                f"the DVC remote {self.remote} does not hold the bytes of {path}",
                do="publish the same file again, or restore the remote from its backup",
            ) from error
        except Exception as error:  # the libraries of the remotes share no base class
            raise RegistryUnavailable(
                f"the DVC remote {self.remote} failed for {path}: {_said(error)}",
                do="see that it is reachable, writable and has room; nothing was committed",
            ) from error

    def _files(self, git: _Scratch, path: str, md5: str, size: int, *, first: bool) -> dict[str, str]:
        parents = [f"{parent}.dvc" for parent in PurePosixPath(path).parents if parent.name]
        if not first and (clash := git.listed(*parents, f"{path}/")):
            raise InvalidName(f"{path} lies above or below {clash[0]}, which is data", do="choose another path")
        out = {"md5": md5, "size": size, "hash": "md5", "path": PurePosixPath(path).name}
        files = {f"{path}.dvc": yaml.safe_dump({"outs": [out]}, sort_keys=False, allow_unicode=True)}
        if first or not git.listed(".dvc/config"):
            files[".dvc/config"] = _CONFIG.format(self.remote)
            files[".gitignore"] = _GITIGNORE
        return files

    def _create(self) -> None:
        home = Path(self.url)
        if not _local(self.url) or home.exists():
            return
        try:
            home.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=home.parent, prefix=".registry-") as folder:
                _Scratch(Path(folder)).run("init", "--quiet", "--bare", "--initial-branch=main", "new")
                Path(folder, "new").rename(home)
        except OSError as error:
            if not (home / "HEAD").exists():  # else another publisher made it in between
                raise RegistryUnavailable(f"{home} cannot be made: {error}", do="give this user the folder") from error


def code_version(root: Path) -> str:
    """The commit that `root` is at, with `-dirty` when tracked files differ from it.

    Code that lies in no git repository has no version; that is said, since a laptop may well run it so.
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
def _scratch() -> Iterator[_Scratch]:
    with tempfile.TemporaryDirectory(prefix="retrain-registry-") as folder:
        git = _Scratch(Path(folder))
        git.run("init", "--quiet", "--bare", "--template=", "--initial-branch=scratch")
        yield git


@dataclass
class _Scratch:
    """A throw-away bare repository with the newest commit of what was fetched, and nothing checked out."""

    folder: Path
    refusal: str = ""

    def call(self, *args: str, stdin: bytes | None = None, detached: bool = False) -> tuple[int, str, str]:
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
        code, out, err = self.call(*args, stdin=stdin)
        if code:
            raise _unavailable(args[0], err)
        return out

    def fetch(self, url: str, *refs: str) -> dict[str, str]:
        """The newest commits of those of `refs` that exist, by ref."""
        rows = (line.split("\t") for line in self.run("ls-remote", "--quiet", url, *refs).splitlines())
        there = {ref: commit for commit, ref in rows if ref in refs}
        if there:
            self.run("fetch", "--quiet", "--depth=1", "--no-tags", url, *(f"+{ref}:{ref}" for ref in there))
        # Asked again, because a ref may have moved between the two calls.
        return {ref: self.run("rev-parse", "--verify", f"{ref}^{{commit}}").strip() for ref in there}

    def listed(self, *paths: str) -> list[str]:
        return [name for name in self.run("ls-tree", "-z", "--name-only", _MAIN, "--", *paths).split("\0") if name]

    def commit(self, files: Mapping[str, str], message: str, *, onto: str | None) -> str:
        """One commit with `files` on top of `onto`; fast-import needs neither a working tree nor an index."""
        who = f"Retrain <retrain@localhost> {int(time.time())} +0000"
        lines = ["commit refs/heads/new", f"committer {who}", _data(message), *([f"from {onto}"] if onto else [])]
        lines += [f"M 100644 inline {path}\n{_data(text)}" for path, text in files.items()]
        self.run("fast-import", "--quiet", "--done", "--date-format=raw", stdin="\n".join([*lines, "done\n"]).encode())
        return self.run("rev-parse", "refs/heads/new").strip()

    def push(self, url: str, commit: str, tag: str) -> bool:
        """Both refs or neither; False if somebody else was faster.

        Detached, because a scheduler that kills this process's group must not hit git while it holds the
        registry's own locks.
        """
        targets = (f"{commit}:{_MAIN}", f"{commit}:refs/tags/{tag}")
        code, out, err = self.call("push", "--porcelain", "--atomic", url, *targets, detached=True)
        self.refusal = _short(err + out)
        if code and (_HOPELESS.search(err + out) or not _RACE.search(err + out)):
            raise _unavailable("push", err + out)
        return not code


def _data(text: str) -> str:
    return f"data {len(text.encode())}\n{text}"


def _read(git: _Scratch, tag: str) -> Version:
    commit, _, message = git.run("log", "-1", "--format=%H%n%B", f"refs/tags/{tag}").partition("\n")
    path = message.rpartition("\nData: ")[2].strip()
    _, text, problem = git.call("show", f"{commit}:{path}.dvc")
    try:
        (out,) = yaml.safe_load(text)["outs"]
        if out["hash"] != "md5" or out["path"] != PurePosixPath(path).name:
            raise ValueError("it is not about this file, or was not written by DVC 3")
        return Version(path=path, md5=str(out["md5"]), bytes=int(out["size"]), commit=commit, tag=tag)
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise SnapshotCorrupt(
            f"{path}.dvc at tag {tag}, commit {commit[:12]}, cannot be read: {_short(problem or str(error))}",
            do="restore that file and the tag in the data registry; the data in the remote is untouched",
        ) from error


def _same(published: Version, path: str, md5: str) -> Version:
    if (published.path, published.md5) != (path, md5):
        raise IntervalConflict(
            f"{published.tag} stands for {published.path} with MD5 {published.md5}, not for {path} with {md5}",
            do="publish under a tag of its own, as a new revision",
        )
    return published


def _altered(path: str, md5: str, found: str) -> SnapshotCorrupt:
    return SnapshotCorrupt(
        f"the DVC remote holds {found} under {md5}, the MD5 of {path}",
        do="publish the same file again, or restore that object from the remote's backup",
    )


def _unavailable(command: str, said: str) -> RegistryUnavailable:
    return RegistryUnavailable(
        f"git {command} failed: {_short(said)}",
        do="see that the data registry is reachable, writable and has room; what was published before is untouched",
    )


def _said(error: Exception) -> str:
    return _short(f"{type(error).__name__}: {error}")


def _short(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip() and not line.startswith("hint:")]
    return re.sub(r"//[^/@\s]*@", "//", " | ".join(lines))[:400]


def _md5(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _local(address: str) -> bool:
    return "://" not in address and not re.match(r"[^/]{2,}:", address)


def _password(address: str) -> bool:
    if "://" not in address:
        return False
    parts = urlsplit(address)
    # Over http a name alone is as a rule a token.
    return parts.password is not None or (parts.scheme in ("http", "https") and parts.username is not None)


def _plain(name: str, kind: str = "path") -> str:
    """A name that is safe as a file, a git ref and a line of a commit message alike."""
    parts = inside(name).split("/")
    if not all(_PART.fullmatch(part) and not part.endswith((".dvc", ".lock", ".")) for part in parts):
        raise InvalidName(
            f"{name!r} is not a plain {kind} for the data registry",
            do="use letters, digits, dots, dashes and underscores; begin with a letter or digit",
        )
    return name
