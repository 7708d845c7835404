"""The line that says how far a start is."""

import io

import pytest

from parallelkit.cluster.progress import StepLine


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal():
    return Terminal()


@pytest.fixture
def plain():
    return io.StringIO()


def test_in_a_terminal_each_step_replaces_the_one_before(terminal):
    line = StepLine(terminal)
    line.step("starting hub")
    line.step("1/2 engines")
    line.done("up")
    assert terminal.getvalue() == (
        "\r\x1b[Kparallelkit: starting hub …\r\x1b[Kparallelkit: 1/2 engines …\r\x1b[Kparallelkit: up\n"
    )


def test_elsewhere_it_is_one_line_however_many_steps(plain):
    line = StepLine(plain)
    for step in ("starting", "0/9 engines", "1/9 engines"):
        line.step(step)
    line.done("up")
    assert plain.getvalue() == "parallelkit: starting … up\n"


def test_an_outcome_without_steps_is_a_line_of_its_own(plain):
    line = StepLine(plain)
    line.done("cleaned up")
    line.step("starting")
    line.done("up")
    assert plain.getvalue() == "parallelkit: cleaned up\nparallelkit: starting … up\n"


def test_a_failure_ends_the_line(plain):
    line = StepLine(plain)
    line.step("starting")
    line.fail()
    line.fail()
    assert plain.getvalue() == "parallelkit: starting … failed\n"
