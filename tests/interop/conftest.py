"""A cluster for the suites of others, and where their files come from; nothing of it outlives this package."""

import os
import shutil
import subprocess
import sys
import tempfile

import pytest

import parallelkit as pk

#: The suites' tests have up to five tasks sleep side by side.
ENGINES = 5


def fetch_debian(package, folder):
    """Unpack a package of Debian's below ``folder``; fails with a sentence if it cannot be had."""
    env = {**os.environ, "LC_ALL": "C"}
    download = ["apt-get", "-o", "APT::Sandbox::User=root", "download", package]
    try:
        done = subprocess.run(download, cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            subprocess.run(["apt-get", "update"], env=env, capture_output=True, timeout=90, check=False)
            done = subprocess.run(
                download, cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False
            )
    except (OSError, subprocess.TimeoutExpired) as error:
        pytest.fail(f"CPython's tests come from the Debian package {package}, and apt-get cannot fetch it: {error}")
    if done.returncode:
        pytest.fail(f"CPython's tests come from the Debian package {package}, which cannot be fetched: {done.stderr}")
    [archive] = folder.glob("*.deb")
    subprocess.run(["dpkg-deb", "-x", archive, folder / "root"], check=True, timeout=60)
    return folder / "root"


@pytest.fixture(scope="package")
def suites(tmp_path_factory):
    """A folder for modules of tests, importable here and on the engines."""
    folder = tmp_path_factory.mktemp("suites")
    with pytest.MonkeyPatch.context() as environment:
        paths = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
        environment.setenv("PYTHONPATH", paths)
        environment.syspath_prepend(folder)
        yield folder


@pytest.fixture(scope="package")
def cluster(suites):
    """One cluster for all suites."""
    folder = tempfile.mkdtemp(prefix="pk-")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PARALLELKIT_RUNTIME_DIR", f"{folder}/run")
        environment.setenv("PARALLELKIT_STATE_DIR", f"{folder}/state")
        environment.setenv("PARALLELKIT_CONFIG", f"{folder}/config.toml")
        environment.setenv("PARALLELKIT_CLUSTER", "suites")  # the default one, for what connects by itself
        cluster = pk.Cluster(n=ENGINES, name="suites")
        cluster.start_and_connect_sync().close()
        yield cluster
        cluster.stop_cluster_sync()
    shutil.rmtree(folder, ignore_errors=True)
    sys.path_importer_cache.pop(str(suites), None)


@pytest.fixture
def rc(cluster):
    with pk.Client(cluster=cluster.name) as rc:
        rc.wait_for_engines(ENGINES, timeout=30)
        yield rc
