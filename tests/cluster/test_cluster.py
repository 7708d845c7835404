"""``Cluster`` and ``connect`` where no cluster needs to run."""

import os
import sys

import pytest

from parallelkit import config
from parallelkit.cluster.cluster import Cluster
from parallelkit.cluster.launch import Launched, launch
from parallelkit.errors import ClusterError, ConfigError, ConnectionFileError, LaunchError


def test_an_unnamed_cluster_gets_a_name_of_its_own(cluster_home):
    names = {Cluster().name for _ in range(20)}
    assert len(names) == 20
    assert all(config.CLUSTER_NAME.fullmatch(name) for name in names)


def test_socket_paths_stay_short_enough_however_long_the_folder_is(cluster_home, monkeypatch, tmp_path):
    monkeypatch.setenv("PARALLELKIT_RUNTIME_DIR", str(tmp_path / ("long" * 20)))
    one = Cluster(name="x" * 40)
    assert len(str(one.folder / "hub.sock")) < 108  # sizeof(sockaddr_un.sun_path)
    monkeypatch.setenv("PARALLELKIT_RUNTIME_DIR", str(tmp_path / ("other" * 20)))
    assert Cluster(name="x" * 40).folder != one.folder


def test_a_short_folder_is_used_as_it_is(cluster_home):
    assert str(Cluster(name="one").folder) == f"{cluster_home}/run/one"


@pytest.mark.parametrize("name", ["", "..", "a/b", "a b", "-a", "x" * 41])
def test_names_that_cannot_be_folders_are_refused(cluster_home, name):
    if name:
        with pytest.raises(ConfigError, match="cannot name a cluster"):
            Cluster(name=name)
    else:
        assert Cluster(name=name).name  # no name: one is made up


def test_bad_arguments_are_refused_by_name(cluster_home):
    with pytest.raises(ConfigError, match="-1 engines"):
        Cluster(n=-1)
    with pytest.raises(ConfigError, match="'slurm' is unknown"):
        Cluster(engines="slurm")
    with pytest.raises(ConfigError, match="no setting 'colour'"):
        Cluster(colour="red")


def test_the_number_of_engines_comes_from_the_settings(cluster_home, monkeypatch):
    monkeypatch.setenv("PARALLELKIT_ENGINES", "7")
    assert Cluster().n == 7
    assert Cluster(3).n == 3


def test_a_cluster_that_was_not_started_says_so(cluster_home):
    cluster = Cluster(n=1, name="one")
    assert repr(cluster) == "<Cluster 'one': not running, 1 engine when started>"
    assert not cluster.is_running()
    assert cluster.logs() == {}
    cluster.stop_cluster_sync()
    with pytest.raises(ClusterError, match=r"'one' is not running\. No cluster is running"):
        cluster.connect_client_sync()


def test_from_file_says_what_is_not_there(cluster_home, tmp_path):
    with pytest.raises(ConnectionFileError, match="'default' is not running"):
        Cluster.from_file()
    with pytest.raises(ConnectionFileError, match="no cluster at"):
        Cluster.from_file(tmp_path / "cluster.json")


def test_a_name_goes_before_a_file_that_is_called_so(cluster_home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one").mkdir()
    with pytest.raises(ConnectionFileError, match="no cluster at one"):
        Cluster.from_file("one")
    config.cluster_dir(config.load(), "one").mkdir(parents=True)
    with pytest.raises(ConnectionFileError, match="'one' is not running"):
        Cluster.from_file("one")


def test_a_python_that_cannot_be_run_is_a_launch_error(cluster_home, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(LaunchError, match="/nowhere/python cannot be run") as caught:
        launch(config.load(), "one", 1, None)
    assert "--cluster one" in caught.value.command


@pytest.mark.system
def test_a_keeper_that_cannot_use_its_folder_says_why(cluster_home):
    folder = config.cluster_dir(config.load(), "one")
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    with pytest.raises(ClusterError, match="chmod 700"):
        Cluster(name="one").start_cluster_sync()


def test_a_failure_shows_the_log_that_tells_of_it(tmp_path):
    (tmp_path / "hub.log").write_text("listening\n")
    (tmp_path / "node.log").write_text("started\nModuleNotFoundError: No module named 'numpy'\nTraceback\n")
    (tmp_path / "keeper.log").write_text("the node cannot be started\n")
    error = Launched("one", ["python", "-m", "x"], os.getpid(), 0, tmp_path).failure("it gave up")
    assert isinstance(error, LaunchError)
    assert error.command == "python -m x"
    assert "No module named 'numpy'" in str(error)
    assert "node.log" in str(error)
