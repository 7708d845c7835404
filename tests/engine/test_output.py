"""What tasks print: whose it is, when it leaves, how much of it, and what is left of it in memory."""

import sys
import threading
import tracemalloc

import pytest

from parallelkit.core.runqueue import Entry
from parallelkit.engine.mailbox import Mailbox
from parallelkit.engine.output import PERIOD, PIECE, Output, TextStream, amount
from parallelkit.transport.loopback import LoopbackNetwork
from parallelkit.wire.messages import Stream

SESSION = b"s" * 16


class Desk:
    """An output with a clock of its own; ``texts`` and ``sent`` are what has reached the loop's thread."""

    def __init__(self, limit=1 << 20):
        self.network = LoopbackNetwork()
        self.loop = self.network.join(b"E" * 17)
        self.letters = []
        self.bursts = 0
        self.output = Output(self.loop, Mailbox(self.loop, self.deliver), limit)
        self.stdout = TextStream(self.output, Stream.STDOUT)
        self.stderr = TextStream(self.output, Stream.STDERR)

    def deliver(self, letters):
        self.bursts += 1
        self.letters += letters

    def begin(self, seq=0):
        self.output.begin(Entry(SESSION, seq, 1 << 40 | seq, "work"))

    def end(self):
        self.output.end()
        self.network.advance(0)

    def text(self, stream=Stream.STDOUT, seq=None):
        found = [x.record for x in self.letters if x.record.stream is stream and seq in (None, x.record.seq)]
        return b"".join(record.data for record in found).decode()


@pytest.fixture
def desk():
    return Desk()


def test_print_reaches_the_attempt_that_runs(desk):
    desk.output.engine_id = 7
    for seq in (3, 4):
        desk.begin(seq)
        print(f"hello from {seq}", file=desk.stdout)
        print("and", seq, file=desk.stderr)
        desk.end()
    assert desk.text(seq=3) == "hello from 3\n"
    assert desk.text(Stream.STDERR, seq=4) == "and 4\n"
    record = desk.letters[0].record
    assert (record.engine, record.attempt, desk.letters[0].session) == (7, 1 << 40 | 3, SESSION)


def test_streams_keep_their_order(desk):
    desk.begin()
    for word in ("one", "two"):
        desk.stdout.write(word)
        desk.stderr.write(word.upper())
    desk.output.publish(Stream.DISPLAY, b"{}")
    desk.stdout.write("three")
    desk.end()
    assert [(x.record.stream.name, x.record.data) for x in desk.letters] == [
        ("STDOUT", b"one"),
        ("STDERR", b"ONE"),
        ("STDOUT", b"two"),
        ("STDERR", b"TWO"),
        ("DISPLAY", b"{}"),
        ("STDOUT", b"three"),
    ]


def test_output_flows_while_the_task_runs_at_most_ten_times_a_second(desk):
    desk.begin()
    for _ in range(1000):
        desk.stdout.write("tick\r")
        desk.network.advance(0.001)
    assert desk.text().count("tick\r") > 800
    assert desk.bursts <= 1 / PERIOD + 1


def test_the_first_line_does_not_wait_for_a_period(desk):
    desk.network.advance(10)
    desk.begin()
    print("at once", file=desk.stdout)
    desk.network.advance(0.02)
    assert desk.text() == "at once\n"


def test_a_full_piece_leaves_without_the_clock(desk):
    desk.begin()
    desk.stdout.write("x" * PIECE)
    desk.network.advance(0)
    assert len(desk.text()) == PIECE


class TestLimit:
    def test_what_is_beyond_is_counted_and_said(self):
        desk = Desk(limit=1000)
        desk.begin()
        for _ in range(500):
            desk.stdout.write("0123456789")
        desk.end()
        assert desk.text() == "0123456789" * 100
        assert desk.text(Stream.STDERR) == "… 4.0 kB more were printed; not sent\n"

    def test_the_next_task_has_an_allowance_of_its_own(self):
        desk = Desk(limit=10)
        for seq in range(2):
            desk.begin(seq)
            desk.stdout.write("x" * 11)
            desk.end()
        assert desk.text() == "x" * 20
        assert desk.text(Stream.STDERR) == "… 1 bytes more were printed; not sent\n" * 2

    def test_characters_are_not_cut_in_two(self):
        desk = Desk(limit=9)
        desk.begin()
        desk.stdout.write("ääääääää")
        desk.end()
        assert desk.text() == "ääää"
        assert desk.text(Stream.STDERR) == "… 8 bytes more were printed; not sent\n"

    def test_nothing_slips_in_behind_the_cut(self):
        desk = Desk(limit=9)
        desk.begin()
        desk.stdout.write("ääääää")
        desk.network.advance(1)
        desk.stdout.write("x")
        desk.end()
        assert desk.text() == "ääää"

    def test_rich_output_goes_whole_or_not_at_all(self):
        desk = Desk(limit=10)
        desk.begin()
        desk.output.publish(Stream.DISPLAY, b"x" * 11)
        desk.stdout.write("text")
        desk.end()
        assert [x.record.data for x in desk.letters] == [b"text", "… 11 bytes more were printed; not sent\n".encode()]

    def test_a_hundred_megabytes_cost_what_the_limit_allows(self):
        desk = Desk(limit=1 << 20)
        desk.begin()
        line = "x" * 9_999
        tracemalloc.start()
        for _ in range(10_000):
            print(line, file=desk.stdout)
        desk.stdout.write("é" * 1_000_000)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        desk.end()
        assert peak < 8 << 20
        assert len(desk.text()) == 1 << 20
        assert desk.text(Stream.STDERR) == "… 101 MB more were printed; not sent\n"


@pytest.mark.parametrize(
    ("count", "said"), [(812, "812 bytes"), (9_950, "9.9 kB"), (996_000_000, "996 MB"), (1_250_000_000, "1.2 GB")]
)
def test_amounts_are_for_people(count, said):
    assert amount(count) == said


def test_other_threads_write_to_the_attempt_that_runs(desk):
    desk.begin(5)
    thread = threading.Thread(target=print, args=("from a thread",), kwargs={"file": desk.stdout})
    thread.start()
    thread.join()
    desk.end()
    assert desk.text(seq=5) == "from a thread\n"


def test_between_two_tasks_text_goes_to_the_log(desk, capfd):
    desk.stdout.write("idle\n")
    desk.stderr.write("idle too\n")
    assert capfd.readouterr() == ("idle\n", "idle too\n")
    desk.network.advance(1)
    assert desk.letters == []


def test_a_finalizer_that_prints_while_output_is_handed_over_does_not_deadlock(desk):
    class Noisy(str):
        def encode(self, *args):
            desk.stdout.write("from inside")
            desk.output.hand_over()
            return super().encode(*args)

        def __getitem__(self, where):
            return Noisy(super().__getitem__(where))

    desk.begin()
    desk.output.write(Stream.STDOUT, Noisy("outside"))
    desk.output.publish(Stream.CLEAR, b"{}")
    done = threading.Thread(target=desk.output.hand_over, daemon=True)
    done.start()
    done.join(10)
    assert not done.is_alive()


class TestAsAFile:
    def test_it_is_a_text_stream(self, desk):
        stream = desk.stdout
        assert (stream.encoding, stream.isatty(), stream.writable(), stream.closed) == ("utf-8", False, True, False)
        assert stream.fileno() == 1
        assert desk.stderr.fileno() == 2

    def test_bytes_are_utf8(self, desk):
        desk.begin()
        assert desk.stdout.buffer.write("bytes äöü".encode()) == 12
        desk.end()
        assert desk.text() == "bytes äöü"

    def test_closing_and_flushing_change_nothing(self, desk):
        desk.begin()
        desk.stdout.close()
        desk.stdout.flush()
        desk.stdout.reconfigure(line_buffering=True)
        desk.stdout.writelines(["still ", "open"])
        desk.end()
        assert desk.text() == "still open"

    def test_only_text_is_written(self, desk):
        desk.begin()
        with pytest.raises(TypeError, match="must be str, not bytes"):
            desk.stdout.write(b"bytes")

    def test_undecodable_file_names_can_be_printed(self, desk):
        desk.begin()
        print("name \udce9", file=desk.stdout)
        desk.end()
        assert desk.text() == "name \\udce9\n"

    def test_logging_and_warnings_can_use_it(self, desk, monkeypatch):
        monkeypatch.setattr(sys, "stderr", desk.stderr)
        desk.begin()
        sys.excepthook(ValueError, ValueError("shown"), None)
        desk.end()
        assert desk.text(Stream.STDERR) == "ValueError: shown\n"
