"""The clusters there are: one folder each. A cluster whose keeper is dead is stale; what it left can be cleaned."""

from __future__ import annotations

import os
from pathlib import Path

from parallelkit import config
from parallelkit.cluster.folder import (
    CLIENT_FILE,
    RECORD_FILE,
    ClusterRecord,
    read_record,
    remove,
    remove_shared_memory,
    try_claim,
)
from parallelkit.errors import ClusterError, ConnectionFileError


def clusters(settings: config.Settings) -> list[ClusterRecord]:
    """Every cluster on record, running or stale, by name."""
    records = (read_record(folder) for folder in _folders(settings))
    return [record for record in records if record is not None]


def running(settings: config.Settings) -> list[str]:
    """Names of the clusters that run."""
    return [record.name for record in clusters(settings) if record.is_running]


def find(settings: config.Settings, name: str) -> ClusterRecord:
    """The running cluster of that name.

    Raises:
        ConnectionFileError: there is none; the text says whether it was left behind, and which do run.
    """
    record = read_record(config.cluster_dir(settings, name))
    if record is not None and record.is_running:
        return record
    what = f"cluster {name!r} is not running"
    if record is not None:
        what += f": its keeper, process {record.pid}, is gone and has left its files behind"
    raise ConnectionFileError(f"{what}. {describe_running(settings)}")


def find_by_path(settings: config.Settings, path: Path) -> tuple[ClusterRecord, Path]:
    """The running cluster whose folder, or a file in it, is at ``path``; and its folder.

    Raises:
        ConnectionFileError: there is no running cluster there; the text says which do run.
    """
    folder = path if path.is_dir() else path.parent
    record = read_record(folder)
    if record is None:
        raise ConnectionFileError(f"there is no cluster at {path}. {describe_running(settings)}")
    if not record.is_running:
        raise ConnectionFileError(
            f"the cluster at {path} is not running: its keeper, process {record.pid}, is gone. "
            f"{describe_running(settings)}"
        )
    return record, folder.absolute()


def describe_running(settings: config.Settings) -> str:
    """A sentence that says which clusters run."""
    names = running(settings)
    if not names:
        return "No cluster is running"
    return f"Running {'is' if len(names) == 1 else 'are'} {', '.join(map(repr, names))}"


def clean(settings: config.Settings) -> list[str]:
    """Remove what dead clusters have left behind; returns their names. One that is starting or ending is spared."""
    cleaned = []
    for folder in _folders(settings):
        record = read_record(folder)
        if (record is None or not record.is_running) and _clean(folder):
            cleaned.append(folder.name)
    return cleaned


def clean_one(settings: config.Settings, name: str) -> bool:
    """Remove what the dead cluster of that name has left behind; False if it is in use or not there."""
    folder = config.cluster_dir(settings, name)
    return folder.is_dir() and _clean(folder)


def _clean(folder: Path) -> bool:
    try:
        lock = try_claim(folder)
    except ClusterError:
        return False  # not ours to touch
    if lock is None:
        return False
    try:
        remove_shared_memory(folder.name)
        remove(folder)
    finally:
        os.close(lock)
    return True


def _folders(settings: config.Settings) -> list[Path]:
    """Folders of clusters; one that is empty may have lost its keeper at once. Others are left alone."""
    root = config.runtime_dir(settings)
    if not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if config.CLUSTER_NAME.fullmatch(path.name) and _is_clusters(path))


def _is_clusters(path: Path) -> bool:
    if not path.is_dir() or path.stat().st_uid != os.getuid():
        return False
    files = {entry.name for entry in path.iterdir()}
    return not files or not files.isdisjoint({RECORD_FILE, CLIENT_FILE})
