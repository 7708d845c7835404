"""A client on a scripted link, for every test of this folder."""

import pytest

from parallelkit.client.client import Client
from tests.client.scripted_link import ScriptedLink


@pytest.fixture
def make_client():
    """Makes clients of ``engines`` engines; ``held``: nothing runs until the link's script says so."""
    clients = []

    def make(engines=2, held=False, ids=None):
        client = Client.over(ScriptedLink(engines, held, ids))
        clients.append(client)
        return client

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def client(make_client):
    return make_client()


@pytest.fixture
def held(make_client):
    """A client whose tasks wait for the script."""
    return make_client(held=True)
