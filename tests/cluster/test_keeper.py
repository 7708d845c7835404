"""When the keeper restarts, and when it gives up."""

from parallelkit.cluster.keeper import Restarts


def test_the_back_off_doubles_up_to_its_limit():
    restarts = Restarts()
    delays = [restarts.after(1.0, -9) for _ in range(9)]
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]


def test_a_healthy_life_starts_it_over():
    restarts = Restarts()
    for _ in range(5):
        restarts.after(1.0, -9)
    assert restarts.after(31.0, -9) == 0.1


def test_three_failed_starts_in_a_row_are_enough():
    restarts = Restarts()
    assert restarts.after(0.2, 1) is not None
    assert restarts.after(0.2, 1) is not None
    assert restarts.after(0.2, 1) is None


def test_kills_are_no_failed_starts():
    restarts = Restarts()
    assert all(restarts.after(0.2, -9) is not None for _ in range(10))


def test_a_life_in_between_forgives_failed_starts():
    restarts = Restarts()
    for life in (0.2, 0.2, 6.0, 0.2, 0.2):
        assert restarts.after(life, 1) is not None


def test_two_keepers_do_not_share_their_counts():
    one, other = Restarts(), Restarts()
    one.after(1.0, 1)
    assert other.delay == 0.1
    assert other.failures == 0
