"""The node's rules: restarts and their back-off, certificates, verbs, silence, the end. In memory, virtual time."""

import signal

import pytest

from parallelkit.node.service import NodeService
from parallelkit.transport.base import HUB
from parallelkit.transport.loopback import LoopbackNetwork
from parallelkit.wire import messages as m
from parallelkit.wire import zygote as z

NODE = m.ROLE_NODE + bytes(16)


class Hub:
    """Keeps what the node says; welcomes it while it is awake."""

    def __init__(self, network):
        self.port = network.join(HUB)
        self.port.shell = self
        self.messages = []
        self.awake = True

    def receive(self, peer, message, frames):
        self.messages.append(message)
        if isinstance(message, m.NodeHello) and self.awake:
            self.send(m.NodeWelcome(1, 1.0))

    def flush(self):
        pass

    def send(self, message):
        self.port.send(NODE, message)

    def got(self, kind):
        return [message for message in self.messages if isinstance(message, kind)]


class ScriptedZygote:
    """Forks at once, into nothing; engines end when the test says so."""

    def __init__(self):
        self.forks = []
        self.signals = []
        self.obeys = False  # whether SIGTERM ends an engine
        self.service = None

    def fork(self, request):
        self.forks.append(request)
        self.service.forked(z.Forked(request.incarnation, self.pid(request)))

    def pid(self, request):
        return 1_000_000_000 + self.forks.index(request)  # beyond any real process

    def signal(self, pid, number):
        self.signals.append((pid, number))
        if self.obeys and number == signal.SIGTERM:
            self.exit(self.forks[pid - 1_000_000_000])

    def exit(self, fork, code=0, number=0, memory=0):
        self.service.exited(z.Exited(fork.incarnation, self.pid(fork), code, number, memory))


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


class World:
    def __init__(self, log_dir):
        self.network = LoopbackNetwork()
        self.node = self.network.join(NODE)
        self.hub = Hub(self.network)
        self.zygote = ScriptedZygote()
        self.service = NodeService(self.node, self.zygote, NODE, log_dir / "engine.json", log_dir)
        self.zygote.service = self.node.shell = self.service
        self.service.port = self.node
        self.log_dir = log_dir

    def start(self, engines=2):
        self.service.start(engines)
        self.network.advance(0.01)
        return self.zygote.forks[:engines]

    def say(self, message):
        self.hub.send(message)
        self.network.advance(0.01)

    def ids(self):
        return [fork.engine_id for fork in self.zygote.forks]


def test_it_says_hello_and_starts_its_engines(world):
    forks = world.start(3)
    (hello,) = world.hub.got(m.NodeHello)
    assert hello.protocol == m.PROTOCOL
    assert [fork.engine_id for fork in forks] == [0, 1, 2]
    assert len({fork.incarnation for fork in forks}) == 3
    assert {len(fork.incarnation) for fork in forks} == {16}
    assert {fork.node for fork in forks} == {NODE}
    assert forks[1].log == str(world.log_dir / "engine-1.log")


def test_a_death_is_certified_at_once_with_the_end_of_the_log(world):
    first, _ = world.start()
    world.log_dir.joinpath("engine-0.log").write_text("".join(f"line {n}\n" for n in range(30)))
    world.zygote.exit(first, number=signal.SIGSEGV, memory=123 << 20)
    world.network.advance(0.01)
    (certificate,) = world.hub.got(m.EngineExited)
    assert certificate.incarnation == first.incarnation
    assert (certificate.exit_code, certificate.signal, certificate.wanted) == (0, signal.SIGSEGV, False)
    assert certificate.peak_memory == 123 << 20
    assert certificate.log_tail.splitlines() == [f"line {n}" for n in range(10, 30)]


def test_a_dead_engine_is_replaced_under_its_id_by_a_new_incarnation(world):
    _, second = world.start()
    world.zygote.exit(second, code=1)
    assert world.ids() == [0, 1]  # not yet: after the back-off
    world.network.advance(0.11)
    assert world.ids() == [0, 1, 1]
    assert world.zygote.forks[-1].incarnation != second.incarnation


def test_deaths_in_a_row_are_answered_ever_more_slowly_and_a_healthy_life_forgives(world):
    (fork,) = world.start(1)
    delays = []
    for _ in range(9):
        died = world.network.now
        world.zygote.exit(fork, code=1)
        seen = len(world.zygote.forks)
        world.network.advance_until(lambda seen=seen: len(world.zygote.forks) > seen)
        fork = world.zygote.forks[-1]
        delays.append(round(world.network.now - died, 3))
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]
    world.network.advance(31)
    world.zygote.exit(fork, code=1)
    world.network.advance(0.11)
    assert len(world.zygote.forks) == 11


def test_an_engine_that_is_stopped_stays_away_and_its_certificate_says_wanted(world):
    first, _ = world.start()
    world.zygote.obeys = True
    world.say(m.NodeStop([first.incarnation], restart=False))
    world.network.advance(30)
    assert world.hub.got(m.EngineExited)[0].wanted
    assert world.ids() == [0, 1]


def test_a_restart_follows_at_once(world):
    first, _ = world.start()
    world.zygote.obeys = True
    world.say(m.NodeStop([first.incarnation], restart=True))
    assert world.ids() == [0, 1, 0]


def test_an_engine_that_ignores_sigterm_is_killed_after_two_seconds(world):
    first, _ = world.start()
    world.say(m.NodeStop([first.incarnation], restart=False))
    pid = world.zygote.pid(first)
    assert world.zygote.signals == [(pid, signal.SIGTERM)]
    world.network.advance(1.9)
    assert len(world.zygote.signals) == 1
    world.network.advance(0.2)
    assert world.zygote.signals[-1] == (pid, signal.SIGKILL)


def test_signals_reach_the_engines_named_and_nobody_else(world):
    first, second = world.start()
    world.say(m.NodeSignal([second.incarnation, b"unknown"], signal.SIGINT))
    assert world.zygote.signals == [(world.zygote.pid(second), signal.SIGINT)]
    assert first.incarnation


def test_more_engines_get_the_smallest_free_ids(world):
    first, *_ = world.start(3)
    world.zygote.obeys = True
    world.say(m.NodeStop([first.incarnation], restart=False))
    world.say(m.NodeStart([-1, -1, 7]))
    assert world.ids() == [0, 1, 2, 0, 3, 7]


def test_an_id_that_is_taken_is_not_started_twice_even_while_its_successor_waits(world):
    first, _ = world.start()
    world.zygote.exit(first, code=1)
    world.say(m.NodeStart([0, 1]))
    world.network.advance(1)
    assert world.ids() == [0, 1, 0]


def test_it_beats_and_says_hello_again_when_the_hub_has_been_silent(world):
    world.start()
    world.network.advance(2.5)
    assert [beat.number for beat in world.hub.got(m.NodeBeat)] == [1, 2]
    assert len(world.hub.got(m.NodeHello)) == 1
    world.hub.awake = False
    world.network.advance(10)
    assert len(world.hub.got(m.NodeHello)) >= 8  # nobody answers, so nothing but hellos
    assert world.zygote.signals == []  # and the engines are left in peace
    assert world.node.alive


def test_a_new_hub_that_does_not_know_the_node_is_greeted_at_once(world):
    world.start()
    world.say(m.Introduce())
    assert len(world.hub.got(m.NodeHello)) == 2


def test_at_the_goodbye_engines_end_then_the_node(world):
    forks = world.start()
    world.say(m.Goodbye("stopped"))
    assert [number for _, number in world.zygote.signals] == [signal.SIGTERM, signal.SIGTERM]
    assert world.node.alive
    for fork in forks:
        world.zygote.exit(fork)
    assert not world.node.alive
    world.network.advance(0.01)
    assert world.hub.got(m.Goodbye)
    assert all(certificate.wanted for certificate in world.hub.got(m.EngineExited))
    assert world.service.exit_code == 0
    world.network.advance(30)
    assert world.ids() == [0, 1]  # nobody is replaced


def test_engines_that_do_not_end_delay_the_node_by_a_second_only(world):
    world.start()
    world.service.end("the keeper is gone")
    world.network.advance(0.9)
    assert world.node.alive
    world.network.advance(0.2)
    assert not world.node.alive


def test_a_pending_successor_does_not_start_while_the_node_ends(world):
    first, second = world.start()
    world.zygote.exit(first, code=1)
    world.service.end("told to")
    world.zygote.exit(second)
    world.network.advance(30)
    assert world.ids() == [0, 1]


def test_a_refusal_ends_the_node_with_an_error(world):
    world.start(0)
    world.say(m.Refused("version", "install the same version"))
    assert not world.node.alive
    assert world.service.exit_code == 1


def test_a_message_for_somebody_else_is_dropped(world):
    world.start()
    world.say(m.EngineWelcome(1, 0, 1.0, 1))
    world.network.advance(1)
    assert world.hub.got(m.NodeBeat)
