"""Connection files: nobody else can read them, and what is wrong with one is said."""

from __future__ import annotations

import os
import stat

import pytest

from parallelkit.errors import ConnectionFileError
from parallelkit.transport.connection import ConnectionInfo, read_connection, write_connection

INFO = ConnectionInfo("c", "tcp://127.0.0.1:5555", "server", "public", "secret")


def test_round_trip_and_mode(tmp_path):
    old = os.umask(0)
    try:
        write_connection(tmp_path / "client.json", INFO)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "client.json").stat().st_mode) == 0o600
    assert read_connection(tmp_path / "client.json") == INFO
    assert os.listdir(tmp_path) == ["client.json"]


def test_missing(tmp_path):
    with pytest.raises(ConnectionFileError, match="the cluster is not running"):
        read_connection(tmp_path / "client.json")


def test_readable_by_others(tmp_path):
    path = tmp_path / "client.json"
    write_connection(path, INFO)
    path.chmod(0o644)
    with pytest.raises(ConnectionFileError, match="chmod 600"):
        read_connection(path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"cluster": "c"}', '{"cluster": "c", "endpoint": "x", "more": 1}'])
def test_damaged(tmp_path, text):
    path = tmp_path / "client.json"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ConnectionFileError, match="is damaged"):
        read_connection(path)


def test_keys_are_not_in_the_repr():
    assert "secret" not in repr(INFO)
    assert "public" not in repr(INFO)
