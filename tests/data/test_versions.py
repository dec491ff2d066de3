from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

import retrain
from retrain.data.versions import DataRegistry, DataVersion
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

PUBLISHER = """
import resource, sys
from pathlib import Path
import dvc.config, dvc.data_cloud, dvc.fs
from retrain.errors import RetrainError
from retrain.data.versions import DataRegistry

url, remote, limit, *names = sys.argv[1:]
if int(limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
print("ready", flush=True)
sys.stdin.readline()
for name in names:
    source, path = Path(url).parent / name, f"flights/{name}"
    try:
        DataRegistry(url, remote).publish(source, path, message=name, tag=path)
    except RetrainError as error:
        sys.exit(str(error))
"""


@pytest.fixture
def registry(tmp_path: Path) -> DataRegistry:
    return DataRegistry(str(tmp_path / "registry.git"), str(tmp_path / "remote"))


def publish(registry: DataRegistry, name: str, data: bytes, tag: str = "") -> DataVersion:
    source = Path(registry.url).parent / name
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_bytes(data)
    return registry.publish(source, f"flights/{name}", message=f"add {name}", tag=tag or f"flights/{name}")


def git(registry: DataRegistry, *args: str) -> str:
    return subprocess.run(["git", "-C", registry.url, *args], check=True, capture_output=True, text=True).stdout


def stored(registry: DataRegistry, md5: str) -> Path:
    return Path(registry.remote, "files", "md5", md5[:2], md5[2:])


def publisher(registry: DataRegistry, *names: str, limit: int = 0) -> subprocess.Popen[str]:
    """A process of its own that has imported everything and waits for a line before it publishes `names`."""
    child = subprocess.Popen(
        [sys.executable, "-c", PUBLISHER, registry.url, registry.remote, str(limit), *names],
        env=os.environ | {"PYTHONPATH": str(Path(retrain.__file__).parents[1])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


def go(child: subprocess.Popen[str]) -> None:
    assert child.stdin is not None
    child.stdin.write("go\n")
    child.stdin.flush()


def committed(registry: DataRegistry) -> dict[str, str]:
    """MD5 by path, of every `.dvc` file of every commit."""
    md5s = {}
    for commit in git(registry, "rev-list", "--all").split():
        for name in git(registry, "ls-tree", "-r", "--name-only", commit).splitlines():
            if name.endswith(".dvc"):
                md5s[name] = yaml.safe_load(git(registry, "show", f"{commit}:{name}"))["outs"][0]["md5"]
    return md5s


def test_what_is_published_comes_back_to_the_byte(registry: DataRegistry, tmp_path: Path) -> None:
    version = publish(registry, "april.parquet", b"april" * 1000)
    assert registry.fetch(version, tmp_path / "new" / "back").read_bytes() == b"april" * 1000
    assert (version.path, version.bytes, version.tag) == ("flights/april.parquet", 5000, "flights/april.parquet")
    assert git(registry, "rev-parse", "main", version.tag).split() == [version.commit] * 2
    assert registry.lookup(version.tag) == version
    assert registry.lookup("flights/may.parquet") is None


def test_a_missing_registry_knows_nothing_and_looking_does_not_make_it(registry: DataRegistry) -> None:
    assert registry.lookup("flights/april") is None
    assert not Path(registry.url).exists()


def test_dvc_itself_brings_the_data_back_from_a_clone(
    registry: DataRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dvc.repo import Repo

    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    publish(registry, "april.parquet", b"april")
    publish(registry, "2013/may-file.parquet", b"may")
    git(registry, "clone", "--quiet", registry.url, str(tmp_path / "clone"))
    with Repo(str(tmp_path / "clone")) as repo:
        repo.pull()
        assert repo.status() == {}
    assert (tmp_path / "clone/flights/april.parquet").read_bytes() == b"april"
    assert (tmp_path / "clone/flights/2013/may-file.parquet").read_bytes() == b"may"
    assert not git(registry, "-C", str(tmp_path / "clone"), "status", "--porcelain")


def test_publishing_again_changes_nothing(registry: DataRegistry) -> None:
    first = publish(registry, "april", b"april")
    publish(registry, "may", b"may")
    assert publish(registry, "april", b"april") == first
    assert git(registry, "rev-list", "--count", "main").strip() == "2"


def test_a_tag_never_changes_its_meaning(registry: DataRegistry, tmp_path: Path) -> None:
    first = publish(registry, "april", b"april")
    with pytest.raises(IntervalConflict, match=first.md5):
        publish(registry, "april", b"other")
    with pytest.raises(IntervalConflict):
        publish(registry, "may", b"april", tag=first.tag)
    assert registry.lookup(first.tag) == first
    assert [path.name for path in Path(registry.remote).rglob("*") if path.is_file()] == [first.md5[2:]]
    revision = publish(registry, "april", b"other", tag="flights/april-r2")
    assert registry.fetch(revision, tmp_path / "b").read_bytes() == b"other"
    assert registry.fetch(first, tmp_path / "a").read_bytes() == b"april"


def test_parallel_publishers_all_succeed(registry: DataRegistry, tmp_path: Path) -> None:
    names = [f"{month}-{part}" for month in range(4) for part in range(3)]
    for name in [*names, "same"]:
        (tmp_path / name).write_bytes(name.encode() * 1000)
    children = [publisher(registry, *names[3 * n : 3 * n + 3], "same") for n in range(4)]
    for child in children:
        go(child)
    assert [child.communicate()[1] for child in children] == [""] * 4
    assert sorted(committed(registry)) == sorted(f"flights/{name}.dvc" for name in [*names, "same"])
    assert git(registry, "rev-list", "--count", "main").strip() == "13"
    git(registry, "fsck", "--strict")


def test_a_killed_publisher_leaves_nothing_in_the_way(registry: DataRegistry, tmp_path: Path) -> None:
    chance = random.Random(20130401)
    names = [f"month-{n}" for n in range(8)]
    died = 0
    for name in names:
        (tmp_path / name).write_bytes(name.encode() * 200_000)
        child = publisher(registry, name)
        go(child)
        try:
            child.wait(timeout=chance.uniform(0.0, 0.12))
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            died += 1
        child.communicate()
        if Path(registry.url).exists():
            assert all(stored(registry, md5).is_file() for md5 in committed(registry).values())
        version = publish(registry, name, name.encode() * 200_000)
        assert registry.fetch(version, tmp_path / "back").read_bytes() == name.encode() * 200_000
        (tmp_path / "back").unlink()
    assert died
    assert git(registry, "rev-list", "--count", "main").strip() == "8"
    assert git(registry, "tag").split() == [f"flights/{name}" for name in names]
    git(registry, "fsck", "--strict")


def test_bytes_gone_from_the_remote_are_named_and_can_be_published_again(
    registry: DataRegistry, tmp_path: Path
) -> None:
    version = publish(registry, "april", b"april")
    stored(registry, version.md5).unlink()
    with pytest.raises(PushIncomplete, match="flights/april"):
        registry.verify(version)
    with pytest.raises(PushIncomplete, match="flights/april"):
        registry.fetch(version, tmp_path / "back")
    assert not (tmp_path / "back").exists()
    assert publish(registry, "april", b"april") == version
    registry.verify(version)


@pytest.mark.parametrize("content", [b"APRIL", b"apr"])
def test_altered_bytes_never_arrive(registry: DataRegistry, tmp_path: Path, content: bytes) -> None:
    version = publish(registry, "april", b"april")
    stored(registry, version.md5).chmod(0o644)
    stored(registry, version.md5).write_bytes(content)
    with pytest.raises(SnapshotCorrupt, match="flights/april"):
        registry.fetch(version, tmp_path / "back")
    with pytest.raises(SnapshotCorrupt, match="flights/april"):
        registry.verify(version)
    assert [path.name for path in tmp_path.iterdir() if "back" in path.name or "fetch" in path.name] == []
    assert publish(registry, "april", b"april") == version
    assert registry.fetch(version, tmp_path / "back").read_bytes() == b"april"


def test_a_stale_target_is_replaced(registry: DataRegistry, tmp_path: Path) -> None:
    version = publish(registry, "april", b"april")
    (tmp_path / "back").write_bytes(b"APRIL")
    assert registry.fetch(version, tmp_path / "back").read_bytes() == b"april"


HOSTILE = ["", "/etc/passwd", "../a", "a/../b", "a//b", "./a", "a/", ".git/config", ".dvc/config", "-a", "a\nData: b"]
HOSTILE += ["a\0b", "a b", "a:b", "a*", "a.dvc", "a.dvc/b", "a.lock", "a..b", "a.", "a@{1}", '"a"', "a\\b", "x" * 501]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_refused(registry: DataRegistry, tmp_path: Path, name: str) -> None:
    (tmp_path / "source").write_bytes(b"april")
    with pytest.raises(InvalidName):
        registry.publish(tmp_path / "source", name, message="m", tag="t")
    with pytest.raises(InvalidName):
        registry.publish(tmp_path / "source", "flights/april", message="m", tag=name)
    assert not Path(registry.url).exists()


def test_data_does_not_lie_inside_data(registry: DataRegistry, tmp_path: Path) -> None:
    publish(registry, "april/a", b"a")
    for path in ("april", "april/a/b"):
        with pytest.raises(InvalidName, match="another path"):
            registry.publish(tmp_path / "april/a", f"flights/{path}", message="m", tag="other")


def test_a_tag_above_other_tags_is_refused_at_once(registry: DataRegistry) -> None:
    publish(registry, "april", b"april")
    with pytest.raises(RegistryUnavailable, match="cannot create"):
        publish(registry, "may", b"may", tag="flights")


def test_a_message_cannot_forge_the_path(registry: DataRegistry, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    version = registry.publish(tmp_path / "a", "flights/a", message="m\n\nData: flights/b\ndata 3\nM 100", tag="a")
    assert registry.lookup("a") == version


def test_a_corrupt_dvc_file_is_named(registry: DataRegistry, tmp_path: Path) -> None:
    version = publish(registry, "april", b"april")
    clone = tmp_path / "clone"
    git(registry, "clone", "--quiet", registry.url, str(clone))
    for text in ("outs: [", "outs:\n- md5: ../../x\n  size: 5\n  hash: md5\n  path: april\n", ""):
        (clone / "flights/april.dvc").write_text(text)
        who = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
        git(registry, "-C", str(clone), *who, "commit", "--quiet", "-am", "by hand\n\nData: flights/april")
        git(registry, "-C", str(clone), "push", "--quiet", "--force", "origin", f"HEAD:refs/tags/{version.tag}")
        with pytest.raises(SnapshotCorrupt, match=r"flights/april\.dvc"):
            registry.lookup(version.tag)
    assert registry.fetch(version, tmp_path / "back").read_bytes() == b"april"


def test_a_full_disk_stops_the_publisher_before_the_commit(registry: DataRegistry, tmp_path: Path) -> None:
    earlier = publish(registry, "april", b"april")
    (tmp_path / "may").write_bytes(os.urandom(1_000_000))
    child = publisher(registry, "may", limit=500_000)
    errors = child.communicate("go\n")[1]
    assert child.returncode == 1
    assert errors.startswith("RegistryUnavailable: ")
    assert "too large" in errors
    assert committed(registry) == {"flights/april.dvc": earlier.md5}
    assert registry.fetch(earlier, tmp_path / "back").read_bytes() == b"april"


def test_a_remote_that_cannot_be_written_is_one_clear_error(registry: DataRegistry, tmp_path: Path) -> None:
    earlier = publish(registry, "april", b"april")
    (tmp_path / "file").write_bytes(b"")
    broken = DataRegistry(registry.url, str(tmp_path / "file"))
    with pytest.raises(RegistryUnavailable, match="flights/may"):
        publish(broken, "may", b"may")
    assert committed(registry) == {"flights/april.dvc": earlier.md5}


def test_a_repository_that_refuses_is_asked_once(registry: DataRegistry, tmp_path: Path) -> None:
    earlier = publish(registry, "april", b"april")
    hook = Path(registry.url, "hooks", "pre-receive")
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\necho asked >> {tmp_path}/asked; exit 1\n")
    hook.chmod(0o755)
    with pytest.raises(RegistryUnavailable, match="pre-receive hook declined"):
        publish(registry, "may", b"may")
    assert (tmp_path / "asked").read_text() == "asked\n"
    assert registry.lookup(earlier.tag) == earlier
    hook.unlink()
    publish(registry, "may", b"may")


def test_what_is_not_a_repository_is_unavailable(registry: DataRegistry, tmp_path: Path) -> None:
    Path(registry.url).write_text("not git")
    with pytest.raises(RegistryUnavailable):
        registry.lookup("flights/april")
    with pytest.raises(RegistryUnavailable):
        publish(registry, "april", b"april")
    under = DataRegistry(str(tmp_path / "registry.git/under"), registry.remote)
    with pytest.raises(RegistryUnavailable, match="cannot be made"):
        under.publish(tmp_path / "april", "flights/april", message="m", tag="t")


def test_a_stale_lock_is_reported_and_left_alone(registry: DataRegistry) -> None:
    publish(registry, "april", b"april")
    lock = Path(registry.url, "refs", "heads", "main.lock")
    lock.touch()
    with pytest.raises(RegistryBusy, match=r"main\.lock") as caught:
        publish(DataRegistry(registry.url, registry.remote, attempts=2), "may", b"may")
    assert caught.value.retryable
    lock.unlink()
    assert publish(registry, "may", b"may").path == "flights/may"


def test_a_missing_source_is_named(registry: DataRegistry, tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="nothing-here"):
        registry.publish(tmp_path / "nothing-here", "flights/a", message="m", tag="a")


def test_the_owners_git_settings_do_not_reach_the_registry(
    registry: DataRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gitconfig").write_text(
        "[commit]\n gpgsign = true\n[user]\n signingkey = none\n[core]\n hooksPath = /\n"
    )
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
    version = publish(registry, "april", b"april")
    monkeypatch.undo()
    assert git(registry, "log", "-1", "--format=%an <%ae> %G?", version.commit) == "Retrain <retrain@localhost> N\n"
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("url", "remote", "options"),
    [
        ("", "r", {}),
        ("--upload-pack=touch /tmp/x", "r", {}),
        ("u", "https://me:hunter2@example.org/x", {}),
        ("https://me:hunter2@example.org/x", "r", {}),
        ("https://hunter2@example.org/x", "r", {}),
        ("u", "r", {"url": "s3://other"}),
        ("u", "s3://b/c", {"version_aware": "true"}),
    ],
)
def test_addresses_that_would_leak_or_mislead_are_refused(url: str, remote: str, options: dict[str, str]) -> None:
    with pytest.raises(InvalidSpec) as caught:
        DataRegistry(url, remote, options)
    assert "hunter2" not in str(caught.value)


def test_an_unknown_option_is_named(tmp_path: Path) -> None:
    registry = DataRegistry(
        str(tmp_path / "registry.git"), "s3://bucket/data", {"endpoint": "x", "password": "hunter2"}
    )
    with pytest.raises(InvalidSpec, match=r"endpoint|password") as caught:
        publish(registry, "april", b"april")
    assert "hunter2" not in str(caught.value)


class Store(BaseHTTPRequestHandler):
    """A remote that is not a folder: one password, PUT, GET and HEAD."""

    files: dict[str, bytes]

    def answer(self, code: int, body: bytes = b"", size: int | None = None) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(body) if size is None else size))
        self.end_headers()
        self.wfile.write(body)

    def do_PUT(self) -> None:
        body = b""
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers["Content-Length"]))
        if "X-Token" not in self.headers:
            return self.answer(403)
        self.files[self.path] = body
        return self.answer(201)

    def do_GET(self) -> None:
        self.answer(200, self.files[self.path]) if self.path in self.files else self.answer(404)

    def do_HEAD(self) -> None:
        self.answer(200, size=len(self.files[self.path])) if self.path in self.files else self.answer(404)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def store() -> Iterator[tuple[str, dict[str, bytes]]]:
    files: dict[str, bytes] = {}
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Own", (Store,), {"files": files})) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/data", files
        server.shutdown()


def test_a_remote_by_url_with_a_password_that_is_never_committed(
    store: tuple[str, dict[str, bytes]], tmp_path: Path
) -> None:
    address, files = store
    options = {"auth": "custom", "custom_auth_header": "X-Token", "password": "hunter2", "method": "PUT"}
    registry = DataRegistry(str(tmp_path / "registry.git"), address, options)
    version = publish(registry, "april", b"april")
    assert registry.fetch(version, tmp_path / "back").read_bytes() == b"april"
    registry.verify(version)
    assert "hunter2" not in git(registry, "log", "-p", "--all") + repr(registry)
    assert address in git(registry, "show", "main:.dvc/config")
    (key,) = files
    files[key] = b"APRIL"
    registry.verify(version)
    with pytest.raises(SnapshotCorrupt, match="bytes with MD5"):
        registry.verify(version, whole=True)
    files[key] = b"apri"
    with pytest.raises(SnapshotCorrupt):
        registry.verify(version)
    files.clear()
    with pytest.raises(PushIncomplete):
        registry.verify(version)
    with pytest.raises(PushIncomplete):
        registry.fetch(version, tmp_path / "back2")


def test_a_remote_that_refuses_to_write_leaves_no_commit(store: tuple[str, dict[str, bytes]], tmp_path: Path) -> None:
    registry = DataRegistry(str(tmp_path / "registry.git"), store[0], {"method": "PUT"})
    with pytest.raises(RetrainError, match="flights/april"):
        publish(registry, "april", b"april")
    assert not Path(registry.url).exists()


# --- where a ledger stands

ANCHORER = """
import sys
from retrain.data.versions import DataRegistry

url, remote, model, *places = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
for place in places:
    DataRegistry(url, remote).anchor(model, int(place), f"hash-{place}")
"""


def test_an_anchor_is_in_the_history_of_a_clone_for_good(registry: DataRegistry, tmp_path: Path) -> None:
    assert registry.anchors("churn") == ()
    assert not Path(registry.url).exists()
    first = registry.anchor("churn", 3, "aaa")
    publish(registry, "april", b"april")
    other = registry.anchor("other", 1, "ccc")
    second = registry.anchor("churn", 5, "bbb")
    assert (first.place, first.hash, second.place, second.hash) == (3, "aaa", 5, "bbb")
    assert registry.anchors("churn") == (first, second)
    assert registry.anchors("other") == (other,)
    git(registry, "clone", "--quiet", registry.url, str(tmp_path / "clone"))
    assert (tmp_path / "clone/.ledger/churn").read_text() == "5 bbb\n"
    assert not git(registry, "-C", str(tmp_path / "clone"), "status", "--porcelain")
    assert git(registry, "ls-tree", "--name-only", "main").split() == [".dvc", ".gitignore", ".ledger", "flights"]


def test_dvc_brings_the_data_back_beside_an_anchor(
    registry: DataRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dvc.repo import Repo

    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    registry.anchor("churn", 1, "aaa")
    publish(registry, "april", b"april")
    git(registry, "clone", "--quiet", registry.url, str(tmp_path / "clone"))
    with Repo(str(tmp_path / "clone")) as repo:
        repo.pull()
        assert repo.status() == {}
    assert (tmp_path / "clone/flights/april").read_bytes() == b"april"


def test_an_anchor_is_committed_once_and_never_goes_back(registry: DataRegistry) -> None:
    first = registry.anchor("churn", 3, "aaa")
    publish(registry, "april", b"april")
    assert registry.anchor("churn", 3, "aaa").place == 3
    assert (registry.anchor("churn", 2, "old").place, registry.anchor("churn", 2, "old").hash) == (3, "aaa")
    with pytest.raises(ChainBroken, match="record 3 of churn"):
        registry.anchor("churn", 3, "bbb")
    assert registry.anchors("churn") == (first,)
    assert git(registry, "rev-list", "--count", "main").strip() == "2"


def test_anchors_and_data_race_and_nothing_is_lost(registry: DataRegistry, tmp_path: Path) -> None:
    names = ["april", "may"]
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    children = [publisher(registry, *names)]
    for model, places in (("churn", "123456"), ("churn", "246"), ("other", "12")):
        children.append(
            subprocess.Popen(
                [sys.executable, "-c", ANCHORER, registry.url, registry.remote, model, *places],
                env=os.environ | {"PYTHONPATH": str(Path(retrain.__file__).parents[1])},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        assert children[-1].stdout is not None
        assert children[-1].stdout.readline() == "ready\n"
    for child in children:
        go(child)
    assert [child.communicate()[1] for child in children] == [""] * 4
    anchors = [(anchor.place, anchor.hash) for anchor in registry.anchors("churn")]
    assert anchors == sorted(set(anchors))
    assert anchors[-1] == (6, "hash-6")
    assert [anchor.place for anchor in registry.anchors("other")] == [1, 2]
    assert sorted(committed(registry)) == ["flights/april.dvc", "flights/may.dvc"]
    assert git(registry, "rev-list", "--count", "main").strip() == str(2 + len(anchors) + 2)


def test_an_anchor_that_a_hand_removed_or_spoilt_still_shows(registry: DataRegistry, tmp_path: Path) -> None:
    first = registry.anchor("churn", 3, "aaa")
    clone = tmp_path / "clone"
    git(registry, "clone", "--quiet", registry.url, str(clone))
    hand = ("-C", str(clone), "-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    (clone / ".ledger/churn").unlink()
    git(registry, *hand, "commit", "--quiet", "-am", "gone")
    git(registry, *hand, "push", "--quiet", "origin", "main")
    assert registry.anchors("churn") == (first,)
    (clone / ".ledger").mkdir(exist_ok=True)
    (clone / ".ledger/churn").write_text("nonsense\n")
    git(registry, *hand, "add", ".ledger/churn")
    git(registry, *hand, "commit", "--quiet", "-m", "spoilt")
    git(registry, *hand, "push", "--quiet", "origin", "main")
    with pytest.raises(SnapshotCorrupt, match=r"\.ledger/churn"):
        registry.anchors("churn")


@pytest.mark.parametrize("name", ["", "../a", "a\0b", "-a", ".git", "a b"])
def test_a_hostile_name_is_not_anchored(registry: DataRegistry, name: str) -> None:
    with pytest.raises(InvalidName):
        registry.anchor(name, 1, "aaa")
    with pytest.raises(InvalidName):
        registry.anchors(name)
    assert not Path(registry.url).exists()
