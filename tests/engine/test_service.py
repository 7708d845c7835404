"""The engine's shell against a scripted hub, in memory and in virtual time."""

import logging

import pytest

from parallelkit.core.runqueue import RunQueue
from parallelkit.engine.mailbox import Letter
from parallelkit.engine.service import BATCH, LONELY, EngineService
from parallelkit.transport.base import HUB
from parallelkit.transport.loopback import LoopbackNetwork
from parallelkit.wire import messages as m

INCARNATION = b"i" * 16
A, B = b"a" * 16, b"b" * 16
F, G = b"f" * 16, b"g" * 16


def attempt(number, epoch=1):
    return epoch << 40 | number


class ScriptedHub:
    """Records what engines send; ``answer`` says what it sends by itself."""

    def __init__(self, network):
        self.peer = network.join(HUB)
        self.peer.shell = self
        self.got = []
        self.silent = False
        self.epoch = 1

    def receive(self, peer, message, frames):
        self.got.append((message, [bytes(frame) for frame in frames]))
        if isinstance(message, m.EngineHello) and not self.silent:
            self.send(m.EngineWelcome(self.epoch, 5, 1.0, 1000))

    def flush(self):
        pass

    def send(self, message, frames=()):
        self.peer.send(m.ROLE_ENGINE + INCARNATION, message, frames)

    def of(self, kind):
        return [message for message, _ in self.got if isinstance(message, kind)]

    def results(self):
        return [record for message in self.of(m.Replies) for batch in message.batches for record in batch.results]


class ScriptedRunner:
    """Stands for the main thread: the test says when something starts and how it ends."""

    def __init__(self):
        self.engine_id = -1
        self.woken = 0
        self.interrupted = []
        self.forgotten = []

    def wake(self):
        self.woken += 1

    def interrupt(self, attempt, verdict):
        self.interrupted.append((attempt, verdict))

    def forget(self, attempt):
        self.forgotten.append(attempt)


class Bench:
    def __init__(self, silent=False, node=b""):
        self.network = LoopbackNetwork()
        self.hub = ScriptedHub(self.network)
        self.hub.silent = silent
        self.tasks = RunQueue()
        self.runner = ScriptedRunner()
        self.ends = []
        self.welcomes = []
        peer = self.network.join(m.ROLE_ENGINE + INCARNATION)
        hello = m.EngineHello(m.PROTOCOL, "3.11", "0", "host", 1, INCARNATION, -1, node)
        self.service = EngineService(
            peer, self.tasks, hello, 1.0, self.welcomes.append, lambda reason, code: self.ends.append((reason, code))
        )
        self.service.port, self.service.runner, peer.shell = peer, self.runner, self.service
        self.service.start()
        self.settle()

    def settle(self, seconds=0.01):
        self.network.advance(seconds)
        self.tasks.check()

    def assign(self, *records, session=A, number=1, functions=None, acknowledged=(), frames=(), epoch=None):
        epoch = self.hub.epoch if epoch is None else epoch
        batches = [m.Batch(session, list(records))] if records else []
        self.hub.send(m.Assign(epoch, number, batches, functions or {}, list(acknowledged)), frames)
        self.settle()

    def tell(self, message):
        self.hub.send(message)
        self.settle()

    def run_next(self, outcome=m.Outcome.OK, frames=()):
        entry = self.tasks.next()
        record = m.ResultRecord(entry.seq, entry.attempt, outcome, b"value", len(frames), 5, 1)
        self.service.deliver([Letter(entry.session, record, frames)])
        self.settle()
        return entry


def call(number, function=b"", frames=0, payload=b"args"):
    return m.AssignRecord(number, attempt(number), 1, m.Operation.CALL, function, payload, frames)


@pytest.fixture
def bench():
    return Bench()


class TestHello:
    def test_it_says_who_it_is_and_takes_the_id_it_is_given(self, bench):
        assert bench.hub.of(m.EngineHello)[0].incarnation == INCARNATION
        assert bench.runner.engine_id == 5
        assert [welcome.output_limit for welcome in bench.welcomes] == [1000]

    def test_the_inventory_follows_the_welcome(self, bench):
        assert bench.hub.of(m.EngineBeat) == [m.EngineBeat(1, 1, 0, [])]

    def test_it_repeats_itself_until_a_hub_answers(self):
        bench = Bench(silent=True)
        bench.settle(10)
        assert 3 <= len(bench.hub.of(m.EngineHello)) <= 10
        assert bench.hub.of(m.EngineBeat) == []

    def test_a_refusal_ends_the_engine_with_its_reason(self, bench):
        bench.tell(m.Refused("version", "Python 3.13 there, 3.11 here"))
        assert bench.ends == [("the hub refused this engine (version): Python 3.13 there, 3.11 here", 1)]

    def test_goodbye_ends_it_too(self, bench):
        bench.tell(m.Goodbye("the cluster stops"))
        assert bench.ends == [("the hub said goodbye: the cluster stops", 0)]

    def test_leaving_says_goodbye_after_the_results(self, bench):
        bench.assign(call(1))
        entry = bench.tasks.next()
        bench.service.deliver([Letter(A, m.ResultRecord(1, entry.attempt, m.Outcome.OK, b"", engine=5))])
        bench.service.leave("terminated")
        bench.settle()
        assert [type(message) for message, _ in bench.hub.got[-2:]] == [m.Replies, m.Goodbye]


class TestAssignments:
    def test_work_reaches_the_run_queue_with_its_frames(self, bench):
        bench.assign(call(1, frames=2), call(2), call(3, frames=1), frames=[b"x", b"y", b"z"])
        entries = [bench.tasks.next() for _ in range(3)]
        assert [[bytes(f) for f in entry.work.frames] for entry in entries] == [[b"x", b"y"], [], [b"z"]]
        assert bench.runner.woken == 1

    def test_a_repeated_assignment_runs_once(self, bench):
        bench.assign(call(1))
        bench.assign(call(1))
        bench.run_next()
        bench.assign(call(1))
        assert bench.tasks.next() is None
        assert len(bench.hub.results()) == 1

    def test_one_that_is_over_is_returned(self, bench):
        bench.assign(call(1))
        bench.run_next()
        bench.assign(acknowledged=[attempt(1)])
        bench.assign(call(1))
        assert bench.hub.of(m.Returned) == [m.Returned([attempt(1)])]

    def test_an_older_hub_is_ignored(self, bench):
        bench.hub.epoch = 2
        bench.assign(call(1))
        bench.assign(call(2), epoch=1)
        assert bench.tasks.statistics().queued == 1

    def test_frames_that_do_not_add_up_are_dropped_with_a_word(self, bench, caplog):
        bench.assign(call(1, frames=2), frames=[b"x"])
        assert bench.tasks.next() is None
        assert "1 frames, the records speak of 2" in caplog.text
        bench.assign(call(1, frames=1), frames=[b"x"])
        assert bench.tasks.next() is not None

    def test_a_message_for_others_is_dropped_with_a_word(self, bench, caplog):
        caplog.set_level(logging.WARNING)
        bench.tell(m.HubBeat(1, 1, []))
        assert "HubBeat, which is not for engines" in caplog.text


class TestFunctions:
    def test_a_function_travels_once(self, bench):
        bench.assign(call(1, F), functions={F: b"code"})
        bench.assign(call(2, F))
        entries = [bench.tasks.next(), bench.tasks.next()]
        assert entries[0].work.function is entries[1].work.function
        assert entries[0].work.function.data == b"code"
        assert bench.hub.of(m.NeedFunctions) == []

    def test_a_missing_one_is_asked_for_while_its_session_waits(self, bench):
        bench.assign(call(1, F), call(2, G), call(3))
        bench.assign(call(4), session=B)
        assert bench.hub.of(m.NeedFunctions) == [m.NeedFunctions([F, G])]
        assert bench.tasks.next().seq == 4
        assert bench.tasks.next() is None
        woken = bench.runner.woken
        bench.tell(m.Functions({F: b"code"}))
        assert bench.runner.woken > woken
        assert bench.tasks.next().work.function.data == b"code"
        assert bench.tasks.next() is None
        bench.assign(functions={G: b"other"}, number=2)
        assert [bench.tasks.next().seq for _ in range(2)] == [2, 3]

    def test_it_asks_once_in_a_burst_and_again_with_each_beat(self, bench):
        bench.assign(call(1, F))
        bench.assign(call(2, F), number=2)
        assert len(bench.hub.of(m.NeedFunctions)) == 1
        bench.settle(1)
        assert bench.hub.of(m.NeedFunctions) == [m.NeedFunctions([F])] * 2


class TestResults:
    def test_what_gathers_leaves_in_one_message_with_its_frames_in_order(self, bench):
        bench.assign(call(1), call(3))
        bench.assign(call(2), session=B, number=2)
        entries = [bench.tasks.next() for _ in range(3)]
        order = [entries[0], entries[2], entries[1]]
        letters = [
            Letter(entry.session, m.ResultRecord(entry.seq, entry.attempt, m.Outcome.OK, b"", 1), [b"%d" % entry.seq])
            for entry in order
        ]
        bench.service.deliver(letters)
        bench.settle()
        (message, frames) = bench.hub.got[-1]
        assert [(batch.session, [r.seq for r in batch.results]) for batch in message.batches] == [(A, [1, 3]), (B, [2])]
        assert frames == [b"1", b"3", b"2"]
        assert message.epoch == 1
        assert bench.runner.forgotten == [attempt(1), attempt(2), attempt(3)]

    def test_output_leaves_before_the_result_of_its_task(self, bench):
        bench.assign(call(1))
        entry = bench.tasks.next()
        bench.service.deliver(
            [
                Letter(A, m.OutputRecord(1, entry.attempt, 5, m.Stream.STDOUT, b"hello")),
                Letter(A, m.ResultRecord(1, entry.attempt, m.Outcome.OK, b"")),
            ]
        )
        bench.settle()
        assert [type(message) for message, _ in bench.hub.got[-2:]] == [m.EngineOutput, m.Replies]

    def test_huge_batches_are_split(self, bench):
        bench.assign(call(1), call(2), call(3))
        third = b"x" * (BATCH // 2)
        letters = []
        for _ in range(3):
            entry = bench.tasks.next()
            letters.append(Letter(A, m.ResultRecord(entry.seq, entry.attempt, m.Outcome.OK, third)))
        bench.service.deliver(letters)
        bench.settle()
        assert [[r.seq for batch in x.batches for r in batch.results] for x in bench.hub.of(m.Replies)] == [[1, 2], [3]]

    def test_the_outbox_keeps_them_until_acknowledged(self, bench):
        bench.assign(call(1))
        bench.run_next(frames=[b"big"])
        bench.tell(m.Resend([attempt(1), attempt(9)]))
        assert [r.seq for r in bench.hub.results()] == [1, 1]
        assert bench.hub.got[-1][1] == [b"big"]
        bench.tell(m.Acknowledged([attempt(1)]))
        bench.tell(m.Resend([attempt(1)]))
        assert len(bench.hub.results()) == 2
        assert bench.tasks.inventory() == {}


class TestRecallAndInterrupt:
    def test_unstarted_work_is_given_back(self, bench):
        bench.assign(call(1), call(2))
        bench.tasks.next()
        bench.tell(m.Recall([attempt(1), attempt(2), attempt(3)]))
        assert bench.hub.of(m.Returned) == [m.Returned([attempt(2), attempt(3)])]

    def test_interrupts(self, bench):
        bench.assign(call(1), call(2))
        bench.tasks.next()
        bench.tell(m.Interrupt([attempt(1), attempt(2), attempt(3)]))
        assert bench.runner.interrupted == [(attempt(1), m.Outcome.CANCELLED)]
        (cancelled,) = bench.hub.results()
        assert (cancelled.seq, cancelled.outcome, cancelled.engine) == (2, m.Outcome.CANCELLED, 5)
        assert cancelled.payload == b"cancelled before it started"
        assert bench.hub.of(m.Returned) == [m.Returned([attempt(3)])]
        assert bench.tasks.next() is None


class TestBeats:
    def test_each_carries_the_inventory(self, bench):
        bench.assign(call(1), call(2), number=7)
        bench.tasks.next()
        bench.assign(call(3), session=B, number=8)
        bench.settle(1)
        beat = bench.hub.of(m.EngineBeat)[-1]
        assert (beat.epoch, beat.received) == (1, 8)
        assert beat.inventory == [
            m.SessionInventory(A, [(1, attempt(1), m.Stage.RUNNING), (2, attempt(2), m.Stage.QUEUED)]),
            m.SessionInventory(B, [(3, attempt(3), m.Stage.QUEUED)]),
        ]

    def test_they_are_numbered(self, bench):
        bench.settle(5)
        numbers = [beat.number for beat in bench.hub.of(m.EngineBeat)]
        assert numbers == sorted(set(numbers))
        assert len(numbers) >= 4


class TestHubRestart:
    def test_work_results_and_functions_stay(self, bench):
        bench.assign(call(1), call(2), call(3, F), functions={F: b"code"}, number=9)
        bench.run_next()
        running = bench.tasks.next()
        bench.hub.peer.die()
        bench.settle(5)
        bench.hub = ScriptedHub(bench.network)
        bench.hub.epoch = 2
        bench.settle(3)
        hello = bench.hub.of(m.EngineHello)[0]
        assert (hello.incarnation, hello.wanted_id) == (INCARNATION, 5)
        beat = next(beat for beat in bench.hub.of(m.EngineBeat) if beat.epoch == 2)
        assert beat.received == 0
        stages = {seq: stage for held in beat.inventory for seq, _, stage in held.attempts}
        assert stages == {1: m.Stage.FINISHED, 2: m.Stage.RUNNING, 3: m.Stage.QUEUED}
        bench.tell(m.Resend([attempt(1)]))
        assert [(x.epoch, [r.seq for b in x.batches for r in b.results]) for x in bench.hub.of(m.Replies)] == [(2, [1])]
        bench.service.deliver([Letter(A, m.ResultRecord(running.seq, running.attempt, m.Outcome.OK, b""))])
        bench.settle()
        assert [r.seq for r in bench.hub.results()] == [1, 2]
        assert bench.tasks.next().work.function.data == b"code"

    def test_no_inventory_is_sent_into_the_void(self, bench):
        bench.hub.silent = True
        bench.settle(20)
        assert len(bench.hub.of(m.EngineBeat)) <= 4
        assert len(bench.hub.of(m.EngineHello)) > 10

    @pytest.mark.parametrize(("node", "ends"), [(b"", 1), (b"N" * 17, 0)])
    def test_without_a_node_it_does_not_wait_for_ever(self, node, ends):
        bench = Bench(node=node)
        bench.hub.silent = True
        bench.settle(LONELY - 10)
        assert bench.ends == []
        bench.settle(LONELY)
        assert len(bench.ends) == ends

    def test_a_hub_that_does_not_know_it_is_told(self, bench):
        bench.hub.epoch = 2
        bench.tell(m.Introduce())
        assert len(bench.hub.of(m.EngineHello)) == 2
        assert bench.hub.of(m.EngineBeat)[-1].epoch == 2

    def test_a_newer_epoch_in_an_assignment_counts(self, bench):
        bench.assign(call(1), number=9)
        bench.assign(call(2), number=1, epoch=2)
        bench.settle(1)
        beat = bench.hub.of(m.EngineBeat)[-1]
        assert (beat.epoch, beat.received) == (2, 1)
