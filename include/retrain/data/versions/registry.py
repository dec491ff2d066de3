"""The data registry: files published under a tag, and the anchors of ledgers, in one bare git repository."""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import yaml

from retrain.data.versions.git import MAIN, Scratch, one_line, scratch
from retrain.data.versions.names import Anchor, DataVersion, has_password, is_local, safe_name
from retrain.data.versions.remote import Remote, md5_of
from retrain.errors import (
    ChainBroken,
    IntervalConflict,
    InvalidName,
    InvalidSpec,
    MissingInput,
    RegistryBusy,
    RegistryUnavailable,
    SnapshotCorrupt,
)
from retrain.state.private import private_folder
from retrain.state.settings import Home

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
"""A folder that no data can lie in, because `safe_name` refuses the dot."""


@dataclass(frozen=True)
class DataRegistry:
    """A bare git repository of `.dvc` files, and the DVC remote with their bytes.

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
            if is_local(address):
                object.__setattr__(self, name, str(Path(address).expanduser().absolute()))
        if {"url", "worktree", "version_aware"} & self.options.keys():
            raise InvalidSpec(
                "the remote's options may not be url, worktree or version_aware",
                do="use a plain DVC remote, which stores data under its MD5",
            )

    @property
    def _bytes(self) -> Remote:
        return Remote(self.remote, self.options)

    def publish(self, source: Path, path: str, *, message: str, tag: str) -> DataVersion:
        """Bring `source` into the remote and under version control as `path`, and tag it.

        The same bytes under the same path and tag are published once, however often this is called or killed.

        Args:
            source: a file on this machine.
            path: of the file in the registry.
            message: of the commit.
            tag: by which the version is looked up.

        Raises:
            IntervalConflict: the tag stands for other bytes or another path.
            InvalidName: a path or tag that could leave its folder, or a path above or below another's.
            PushIncomplete: the remote does not hold what was sent; nothing was committed.
            RegistryBusy: others kept winning the race.
            RegistryUnavailable: the repository or the remote cannot be reached or written.
        """
        safe_name(path)
        if not source.is_file():
            raise MissingInput(f"{source} is not a file, so it cannot be published as {path}", do="run ingest first")
        size, md5 = source.stat().st_size, md5_of(source)
        published = self.lookup(tag)
        if published is not None:
            _refuse_other(published, path, md5)
        self._bytes.send(source, path, md5, size)
        if published is not None:
            return published
        self._create()
        text = f"{message.strip()}\n\nData: {path}\n"
        for git in self._tries():
            tips = git.fetch(self.url, MAIN, f"refs/tags/{tag}")
            if f"refs/tags/{tag}" in tips:
                return _refuse_other(_read(git, tag), path, md5)
            commit = git.commit(self._files(git, path, md5, size, first=not tips), text, onto=tips.get(MAIN))
            if git.push(self.url, commit, f"refs/tags/{tag}"):
                return DataVersion(path=path, md5=md5, bytes=size, commit=commit, tag=tag)
        raise self._busy(tag, git.refusal)

    def anchor(self, model: str, place: int, hash: str, lost: Collection[str] = ()) -> Anchor:
        """Write down where a model's ledger stands, in a commit of its own, and return what stands there now.

        An anchor never goes back: one at a later place stays as it is, and the same one is committed once. With the
        history of this repository a ledger that was cut or computed anew can be told, see `anchors`.

        Args:
            model: whose ledger.
            place: of its newest record.
            hash: of that record.
            lost: hashes of anchored records that were given up; the ledger goes on from an earlier place.

        Raises:
            ChainBroken: another hash is anchored at this very place.
            InvalidName: a name that could leave its folder.
            RegistryBusy, RegistryUnavailable: as `publish`.
        """
        path = f"{_ANCHORS}/{safe_name(model, 'name')}"
        self._create()
        for git in self._tries():
            tips = git.fetch(self.url, MAIN)
            last = _anchors(git, path, tips[MAIN], "-1") if tips else ()
            if last and last[-1].place >= place and last[-1].hash not in lost:
                if last[-1].place == place and last[-1].hash != hash:
                    raise ChainBroken(
                        f"record {place} of {model} has the hash {hash[:12]}, {last[-1].hash[:12]} was anchored in the"
                        f" data registry",
                        do=f"see what else is wrong: python -m retrain verify {model}",
                    )
                return last[-1]
            files = {path: f"{place} {hash}\n", **self._settings(git, first=not tips)}
            commit = git.commit(files, f"ledger of {model}: record {place}\n", onto=tips.get(MAIN))
            if git.push(self.url, commit):
                return Anchor(place, hash, commit)
        raise self._busy(f"the anchor of {model}", git.refusal)

    def newest_anchor(self, model: str) -> Anchor | None:
        """The anchor that was written last for a model, without its commit; None where there is none.

        Raises:
            SnapshotCorrupt, RegistryUnavailable: as `anchors`.
        """
        path = f"{_ANCHORS}/{safe_name(model, 'name')}"
        if is_local(self.url) and not Path(self.url).exists():
            return None
        with scratch() as git:
            tips = git.fetch(self.url, MAIN)
            newest = _anchors(git, path, tips[MAIN], "-1") if tips else ()  # of the tip alone, which says no commit
            return replace(newest[0], commit="") if newest else None

    def anchors(self, model: str) -> tuple[Anchor, ...]:
        """List every anchor that the repository's history ever held for a model, oldest first.

        Raises:
            SnapshotCorrupt: one of them is no place and hash.
            RegistryUnavailable: the repository cannot be reached.
        """
        path = f"{_ANCHORS}/{safe_name(model, 'name')}"
        if is_local(self.url) and not Path(self.url).exists():
            return ()
        with scratch() as git:
            tips = git.fetch(self.url, MAIN, history=True)
            return _anchors(git, path, tips[MAIN], "--full-history", "--reverse") if tips else ()

    def lookup(self, tag: str) -> DataVersion | None:
        """Look up the version that was published under `tag`.

        Raises:
            SnapshotCorrupt: the tag's `.dvc` file cannot be read.
            RegistryUnavailable: the repository cannot be reached.
        """
        safe_name(tag, "tag")
        if is_local(self.url) and not Path(self.url).exists():
            return None
        with scratch() as git:
            return _read(git, tag) if git.fetch(self.url, f"refs/tags/{tag}") else None

    def fetch(self, version: DataVersion, target: Path) -> Path:
        """Bring the exact bytes of `version` to `target`, which appears whole or not at all.

        Raises:
            PushIncomplete: the remote does not hold them.
            SnapshotCorrupt: the remote holds other bytes.
            RegistryUnavailable: the remote cannot be read.
        """
        if target.is_file() and target.stat().st_size == version.bytes and md5_of(target) == version.md5:
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as folder:
            part = Path(folder, "part")
            self._bytes.fetch(part, version.path, version.md5)
            part.replace(target)
        return target

    def verify(self, version: DataVersion, *, whole: bool = False) -> None:
        """Ask the remote for `version`: presence and size everywhere, the bytes too in a local folder.

        Args:
            version: what was published.
            whole: read the bytes wherever they lie.

        Raises:
            PushIncomplete: the remote does not hold it.
            SnapshotCorrupt: the remote holds other bytes.
            RegistryUnavailable: the remote cannot be read.
        """
        self._bytes.verify(version.path, version.md5, version.bytes, whole=whole)

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
        if not is_local(self.url) or home.exists():
            return
        try:
            private_folder(home.parent)
            with tempfile.TemporaryDirectory(dir=home.parent, prefix=".registry-") as folder:
                Scratch(Path(folder)).run("init", "--quiet", "--bare", "--initial-branch=main", "new")
                Path(folder, "new").rename(home)
        except OSError as error:
            if not (home / "HEAD").exists():  # else another publisher was faster
                raise RegistryUnavailable(f"{home} cannot be made: {error}", do="give this user the folder") from error


def registry_of(home: Home) -> DataRegistry:
    """Find the data registry of an installation; its remote's options come from the environment."""
    options = {
        name.removeprefix(OPTION).lower(): value
        for name, value in os.environ.items()
        if name.startswith(OPTION) and value
    }
    return DataRegistry(home.registry, home.remote, options)


def _read(git: Scratch, tag: str) -> DataVersion:
    commit, _, message = git.run("log", "-1", "--format=%H%n%B", f"refs/tags/{tag}").partition("\n")
    path = message.rpartition("\nData: ")[2].strip()
    _, text, problem = git.call("show", f"{commit}:{path}.dvc")
    try:
        (out,) = yaml.safe_load(text)["outs"]
        if out["hash"] != "md5" or out["path"] != PurePosixPath(path).name:
            raise ValueError("it is not about this file, or was not written by DVC 3")
        return DataVersion(path=path, md5=str(out["md5"]), bytes=int(out["size"]), commit=commit, tag=tag)
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise SnapshotCorrupt(
            f"{path}.dvc at tag {tag}, commit {commit[:12]}, cannot be read: {one_line(problem or str(error))}",
            do="restore that file and the tag in the data registry; the data in the remote is untouched",
        ) from error


def _anchors(git: Scratch, path: str, tip: str, *how: str) -> tuple[Anchor, ...]:
    """The anchors in those commits that changed `path` and did not remove it, in the order that `how` asks for."""
    commits = git.run("log", "--format=%H", *how, tip, "--", path).split()
    anchors = []
    for commit in commits:
        if not git.listed(path, at=commit):
            continue
        text = git.run("show", f"{commit}:{path}")
        place, _, hash = text.strip().partition(" ")
        if not place.isdecimal() or not hash:
            raise SnapshotCorrupt(
                f"{path} at commit {commit[:12]} is no place and hash: {one_line(text)!r}",
                do="find out who wrote to the data registry; the anchors before that commit still stand",
            )
        anchors.append(Anchor(int(place), hash, commit))
    return tuple(anchors)


def _refuse_other(published: DataVersion, path: str, md5: str) -> DataVersion:
    if (published.path, published.md5) != (path, md5):
        raise IntervalConflict(
            f"{published.tag} stands for {published.path} with MD5 {published.md5}, not for {path} with {md5}",
            do="publish under a tag of its own, as a new revision",
        )
    return published
