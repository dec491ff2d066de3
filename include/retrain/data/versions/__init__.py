"""The data registry: accepted data under version control, a git repository beside a DVC remote.

The registry is a bare git repository, named by URL or path, whose branch `main` holds a `.dvc` file per data
file; the bytes lie in the DVC remote under their MD5. Whoever clones it can `dvc pull`.

Every call works in a scratch repository of its own, so that a killed process leaves no lock behind and parallel
publishers share none; one atomic `git push` of branch and tag is the compare-and-swap. The order is what keeps
history true: bytes first, then the look at the remote, and only then the commit that speaks of them.

Of DVC the file systems and remotes are used, and its file format: `dvc.repo` is not imported, because its lock
makes parallel writers fail, its add keeps a second copy of the data, and its push says that all is well when the
cache has gone. DVC itself is imported in the function that needs it, so that this package stays light.
"""

from __future__ import annotations

import hashlib
import os
import random
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from retrain.data.versions.git import MAIN, Scratch, code_version, scratch, short
from retrain.data.versions.names import Anchor, Version, has_password, local, plain
from retrain.errors import (
    ChainBroken,
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
from retrain.state.settings import Home

__all__ = ["Anchor", "DataRegistry", "Version", "code_version", "registry_of"]

OPTION = "RETRAIN_REMOTE_"
"""`RETRAIN_REMOTE_<OPTION>` is an option of the DVC remote: `RETRAIN_REMOTE_ENDPOINTURL` is `endpointurl`."""

_CONFIG = """\
[core]
    remote = store
    analytics = false
['remote "store"']
    url = "{}"
"""
_GITIGNORE = "*\n!*/\n!/.gitignore\n!*.dvc\n!/.dvc/config\n!/.ledger/*\n"
_ANCHORS = ".ledger"
"""A folder that no data can lie in, because `plain` refuses the dot."""


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
            if not address.isprintable() or not address or address[0] == "-" or '"' in address or has_password(address):
                raise InvalidSpec(
                    f"the data registry's {name} is empty, begins with a dash, has a quote or carries a password",
                    do="keep passwords in git's credential helper and in the remote's options",
                )
            if local(address):
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
        plain(path)
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
        for git in self._tries():
            tips = git.fetch(self.url, MAIN, f"refs/tags/{tag}")
            if f"refs/tags/{tag}" in tips:
                return _same(_read(git, tag), path, md5)
            commit = git.commit(self._files(git, path, md5, size, first=not tips), said, onto=tips.get(MAIN))
            if git.push(self.url, commit, f"refs/tags/{tag}"):
                return Version(path=path, md5=md5, bytes=size, commit=commit, tag=tag)
        raise self._busy(tag, git.refusal)

    def anchor(self, model: str, place: int, hash: str) -> Anchor:
        """Write down where a model's ledger stands, in a commit of its own, and return what stands there now.

        An anchor never goes back: one at a later place stays as it is, and the same one is committed once. With the
        history of this repository a ledger that was cut or computed anew can be told, see `anchors`.

        Raises:
            ChainBroken: another hash is anchored at this very place.
            InvalidName: a name that could leave its folder.
            RegistryBusy, RegistryUnavailable: as `publish`.
        """
        path = f"{_ANCHORS}/{plain(model, 'name')}"
        self._create()
        for git in self._tries():
            tips = git.fetch(self.url, MAIN)
            stood = _anchors(git, path, tips[MAIN], "-1") if tips else ()
            if stood and stood[-1].place >= place:
                if stood[-1].place == place and stood[-1].hash != hash:
                    raise ChainBroken(
                        f"record {place} of {model} has the hash {hash[:12]}, {stood[-1].hash[:12]} was anchored in the"
                        f" data registry",
                        do=f"see what else is wrong: python -m retrain verify {model}",
                    )
                return stood[-1]
            files = {path: f"{place} {hash}\n", **self._settings(git, first=not tips)}
            commit = git.commit(files, f"ledger of {model}: record {place}\n", onto=tips.get(MAIN))
            if git.push(self.url, commit):
                return Anchor(place, hash, commit)
        raise self._busy(f"the anchor of {model}", git.refusal)

    def anchors(self, model: str) -> tuple[Anchor, ...]:
        """Every anchor that the repository's history ever held for a model, oldest first.

        Raises:
            SnapshotCorrupt: one of them is no place and hash.
            RegistryUnavailable: the repository cannot be reached.
        """
        path = f"{_ANCHORS}/{plain(model, 'name')}"
        if local(self.url) and not Path(self.url).exists():
            return ()
        with scratch() as git:
            tips = git.fetch(self.url, MAIN, history=True)
            return _anchors(git, path, tips[MAIN], "--full-history", "--reverse") if tips else ()

    def lookup(self, tag: str) -> Version | None:
        """What was published under `tag`.

        Raises:
            SnapshotCorrupt: the tag's `.dvc` file cannot be read.
            RegistryUnavailable: the repository cannot be reached.
        """
        plain(tag, "tag")
        if local(self.url) and not Path(self.url).exists():
            return None
        with scratch() as git:
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

    def verify(self, version: Version, *, whole: bool = False) -> None:
        """Ask the remote for `version`: presence and size everywhere, the bytes too in a local folder.

        Args:
            whole: read the bytes wherever they lie.

        Raises:
            PushIncomplete: the remote does not hold it.
            SnapshotCorrupt: the remote holds other bytes.
            RegistryUnavailable: the remote cannot be read.
        """
        self._held(version.path, version.md5, version.bytes, whole=whole)

    def _held(self, path: str, md5: str, size: int, *, whole: bool = False) -> None:
        with self._reaching(path) as (files, key):
            found = files.info(key(md5))["size"]
            if found != size:
                raise _altered(path, md5, f"{found} bytes instead of {size}")
            if whole or files.protocol == "local":
                with files.open(key(md5), "rb") as stream:
                    digest = _md5_of(stream)
                if digest != md5:
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

    def _files(self, git: Scratch, path: str, md5: str, size: int, *, first: bool) -> dict[str, str]:
        parents = [f"{parent}.dvc" for parent in PurePosixPath(path).parents if parent.name]
        if not first and (clash := git.listed(*parents, f"{path}/")):
            raise InvalidName(f"{path} lies above or below {clash[0]}, which is data", do="choose another path")
        out = {"md5": md5, "size": size, "hash": "md5", "path": PurePosixPath(path).name}
        text = yaml.safe_dump({"outs": [out]}, sort_keys=False, allow_unicode=True)
        return {f"{path}.dvc": text, **self._settings(git, first=first)}

    def _settings(self, git: Scratch, *, first: bool) -> dict[str, str]:
        if not first and git.listed(".dvc/config"):
            return {}
        return {".dvc/config": _CONFIG.format(self.remote), ".gitignore": _GITIGNORE}

    def _tries(self) -> Iterator[Scratch]:
        """A scratch repository for each try at the race for `main`."""
        for attempt in range(self.attempts):
            with scratch() as git:
                yield git
            time.sleep(random.uniform(0, min(0.02 * (attempt + 1), 0.3)))

    def _busy(self, what: str, refusal: str) -> RegistryBusy:
        return RegistryBusy(
            f"{self.url} refused {what} {self.attempts} times: {refusal}",
            do="try again; if a file ending in .lock is named and no git process runs there, remove that file",
        )

    def _create(self) -> None:
        home = Path(self.url)
        if not local(self.url) or home.exists():
            return
        try:
            home.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=home.parent, prefix=".registry-") as folder:
                Scratch(Path(folder)).run("init", "--quiet", "--bare", "--initial-branch=main", "new")
                Path(folder, "new").rename(home)
        except OSError as error:
            if not (home / "HEAD").exists():  # else another publisher made it in between
                raise RegistryUnavailable(f"{home} cannot be made: {error}", do="give this user the folder") from error


def registry_of(home: Home) -> DataRegistry:
    """The data registry of an installation, its remote's options from the environment."""
    options = {
        name.removeprefix(OPTION).lower(): value
        for name, value in os.environ.items()
        if name.startswith(OPTION) and value
    }
    return DataRegistry(home.registry, home.remote, options)


def _read(git: Scratch, tag: str) -> Version:
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
            f"{path}.dvc at tag {tag}, commit {commit[:12]}, cannot be read: {short(problem or str(error))}",
            do="restore that file and the tag in the data registry; the data in the remote is untouched",
        ) from error


def _anchors(git: Scratch, path: str, tip: str, *how: str) -> tuple[Anchor, ...]:
    """The anchors in those commits that changed `path` and did not remove it, in the order that `how` asks for."""
    commits = git.run("log", "--format=%H", *how, tip, "--", path).split()
    found = []
    for commit in commits:
        if not git.listed(path, at=commit):
            continue
        text = git.run("show", f"{commit}:{path}")
        place, _, hash = text.strip().partition(" ")
        if not place.isdecimal() or not hash:
            raise SnapshotCorrupt(
                f"{path} at commit {commit[:12]} is no place and hash: {short(text)!r}",
                do="find out who wrote to the data registry; the anchors before that commit still stand",
            )
        found.append(Anchor(int(place), hash, commit))
    return tuple(found)


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


def _said(error: Exception) -> str:
    return short(f"{type(error).__name__}: {error}")


def _md5(path: Path) -> str:
    with path.open("rb") as stream:
        return _md5_of(stream)


def _md5_of(stream: Any) -> str:
    return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
