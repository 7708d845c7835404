"""Which clusters there are, which are stale, and what may be cleaned. No cluster is started."""

import os
from pathlib import Path

import pytest

from parallelkit import config
from parallelkit.cluster import registry
from parallelkit.cluster.folder import ClusterRecord, claim, write_record
from parallelkit.cluster.processes import birth
from parallelkit.errors import ConnectionFileError


@pytest.fixture
def settings(cluster_home):
    return config.load()


def make(settings, name, alive=True, locked=False):
    """A cluster as it looks on disk; this process plays the keeper."""
    folder = config.cluster_dir(settings, name)
    lock = claim(folder)
    born = birth(os.getpid())
    assert born is not None
    write_record(folder, ClusterRecord(name, os.getpid(), born if alive else born - 1, None, 4, 1000.0, []))
    (folder / "client.json").touch()
    if not locked:
        os.close(lock)
    return lock


def test_without_a_runtime_folder_there_is_none(settings):
    assert registry.clusters(settings) == []
    assert registry.clean(settings) == []
    assert registry.describe_running(settings) == "No cluster is running"


def test_running_and_stale_are_told_apart_by_birth_not_only_by_number(settings):
    make(settings, "alive")
    make(settings, "dead", alive=False)
    assert [(record.name, record.is_running) for record in registry.clusters(settings)] == [
        ("alive", True),
        ("dead", False),
    ]
    assert registry.running(settings) == ["alive"]


def test_a_missing_cluster_is_answered_with_those_that_run(settings):
    make(settings, "one")
    make(settings, "two")
    with pytest.raises(ConnectionFileError, match=r"'three' is not running\. Running are 'one', 'two'"):
        registry.find(settings, "three")


def test_a_stale_cluster_is_called_so(settings):
    make(settings, "one")
    make(settings, "dead", alive=False)
    with pytest.raises(ConnectionFileError, match=f"keeper, process {os.getpid()}, is gone.*Running is 'one'"):
        registry.find(settings, "dead")


@pytest.mark.parametrize("file", ["", "cluster.json", "client.json"])
def test_a_cluster_is_found_by_its_folder_or_a_file_in_it(settings, file):
    make(settings, "one")
    folder = config.cluster_dir(settings, "one")
    record, found = registry.find_by_path(settings, folder / file)
    assert record.name == "one"
    assert found == folder


def test_a_path_without_a_cluster(settings, tmp_path):
    make(settings, "one")
    with pytest.raises(ConnectionFileError, match=r"no cluster at .*Running is 'one'"):
        registry.find_by_path(settings, tmp_path / "nothing.json")


def test_the_path_of_a_dead_cluster(settings):
    make(settings, "dead", alive=False)
    with pytest.raises(ConnectionFileError, match="is not running: its keeper"):
        registry.find_by_path(settings, config.cluster_dir(settings, "dead"))


def test_cleaning_removes_the_dead_and_spares_the_living_and_what_is_no_cluster(settings):
    make(settings, "alive")
    make(settings, "dead", alive=False)
    shared = Path("/dev/shm") / f"{config.shared_memory_prefix('dead')}segment"
    shared.touch()
    other = config.runtime_dir(settings) / "photos"
    other.mkdir()
    (other / "cat.jpg").touch()
    assert registry.clean(settings) == ["dead"]
    assert not shared.exists()
    assert not config.cluster_dir(settings, "dead").exists()
    assert config.cluster_dir(settings, "alive").exists()
    assert (other / "cat.jpg").exists()


def test_cleaning_spares_a_dead_keepers_cluster_whose_hub_is_still_there(settings):
    lock = make(settings, "dying", alive=False, locked=True)  # as if hub or node held the lock
    assert not registry.clean_one(settings, "dying")
    assert config.cluster_dir(settings, "dying").exists()
    os.close(lock)
    assert registry.clean_one(settings, "dying")
    assert not config.cluster_dir(settings, "dying").exists()


def test_an_empty_folder_is_what_a_keeper_leaves_that_is_killed_at_once(settings):
    folder = config.cluster_dir(settings, "stillborn")
    folder.mkdir(parents=True)
    assert registry.clusters(settings) == []
    folder.chmod(0o700)
    assert registry.clean(settings) == ["stillborn"]
    assert not folder.exists()


def test_cleaning_what_is_not_there_does_not_make_it(settings):
    assert not registry.clean_one(settings, "nothing")
    assert not config.cluster_dir(settings, "nothing").exists()
