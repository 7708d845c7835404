"""The cluster's folder as its own lock, and who may use it."""

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from parallelkit import config
from parallelkit.cluster.folder import (
    ClusterRecord,
    claim,
    read_record,
    remove_shared_memory,
    try_claim,
    write_record,
)
from parallelkit.cluster.processes import birth
from parallelkit.errors import ClusterError


@pytest.fixture
def folder(cluster_home):
    return config.cluster_dir(config.load(), "one")


def record_of(pid, name="one"):
    return ClusterRecord(name, pid, birth(pid) or 1, None, 2, 1000.0, ["keeper"])


def test_a_claimed_folder_is_private_and_empty(folder):
    folder.mkdir(parents=True, mode=0o700)
    folder.joinpath("client.json").write_text("stale")
    folder.joinpath("sub").mkdir()
    lock = claim(folder)
    assert list(folder.iterdir()) == []
    assert folder.stat().st_mode & 0o777 == 0o700
    os.close(lock)


def test_who_finds_it_claimed_by_a_living_keeper_is_told_which(folder):
    lock = claim(folder)
    write_record(folder, record_of(os.getpid()))
    with pytest.raises(ClusterError, match=f"'one' is running already; its keeper is process {os.getpid()}"):
        claim(folder)
    os.close(lock)


def test_the_remains_of_a_dead_cluster_are_waited_for(folder):
    lock = claim(folder)
    write_record(folder, ClusterRecord("one", os.getpid(), 1, None, 2, 1000.0, []))  # another birth: not this process
    with pytest.raises(ClusterError, match="still in use"):
        claim(folder, patience=0.05)
    os.close(lock)
    os.close(claim(folder, patience=0.05))


def test_a_process_that_inherited_the_lock_keeps_it(folder):
    lock = claim(folder)
    heir = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[lock])
    os.close(lock)
    assert try_claim(folder) is None
    heir.communicate(b"\n")
    claimed = try_claim(folder)
    assert claimed is not None
    os.close(claimed)


def test_a_lock_on_a_folder_that_is_no_longer_at_its_path_is_worth_nothing(folder, monkeypatch):
    """The last owner removes the folder just before we get its lock, and a successor makes another."""
    flock = fcntl.flock

    def late(descriptor, operation):
        shutil.rmtree(folder)
        folder.mkdir(mode=0o700)
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    assert try_claim(folder) is None


def test_a_lock_on_a_removed_folder_does_not_keep_its_name(folder):
    old = claim(folder)
    shutil.rmtree(folder)
    new = try_claim(folder)
    assert new is not None
    os.close(old)
    assert try_claim(folder) is None
    os.close(new)


def test_the_record_is_readable_by_its_owner_alone(folder):
    lock = claim(folder)
    write_record(folder, record_of(os.getpid()))
    assert (folder / "cluster.json").stat().st_mode & 0o777 == 0o600
    assert read_record(folder) == record_of(os.getpid())
    assert [path.name for path in folder.iterdir()] == ["cluster.json"]
    os.close(lock)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": "one"}', '{"name": "one", "extra": 1}'])
def test_a_damaged_record_is_none(folder, text):
    folder.mkdir(parents=True)
    (folder / "cluster.json").write_text(text)
    assert read_record(folder) is None


def test_a_folder_open_to_others_is_refused_with_the_remedy(folder):
    folder.mkdir(parents=True, mode=0o700)
    folder.chmod(0o755)
    with pytest.raises(ClusterError, match=f"open to other users; run: chmod 700 {folder}"):
        claim(folder)


def test_a_runtime_folder_that_others_can_write_to_is_refused(folder):
    folder.parent.mkdir(parents=True)
    folder.parent.chmod(0o777)
    with pytest.raises(ClusterError, match="open to other users"):
        claim(folder)


def test_a_link_is_not_followed(folder, tmp_path):
    folder.parent.mkdir(parents=True, mode=0o700)
    folder.symlink_to(tmp_path)
    (tmp_path / "precious").touch()
    with pytest.raises(ClusterError, match="not a folder"):
        claim(folder)
    assert (tmp_path / "precious").exists()


def test_shared_memory_of_this_cluster_alone_is_removed():
    mine = Path("/dev/shm") / f"{config.shared_memory_prefix('pk-test')}1"
    others = Path("/dev/shm") / f"{config.shared_memory_prefix('pk-test-2')}1"
    try:
        mine.touch()
        others.touch()
        remove_shared_memory("pk-test")
        assert not mine.exists()
        assert others.exists()
    finally:
        mine.unlink(missing_ok=True)
        others.unlink(missing_ok=True)


def test_the_lock_is_a_flock_on_the_folder_itself(folder):
    lock = claim(folder)
    other = os.open(folder, os.O_RDONLY)
    with pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(other)
    os.close(lock)
