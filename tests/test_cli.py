"""The command line where no cluster needs to run. tests/system/ has the rest."""

import json
import os

import pytest
from typer.testing import CliRunner

from parallelkit import __version__, cli, config
from parallelkit.cluster.folder import ClusterRecord, claim, write_record
from parallelkit.cluster.processes import birth


@pytest.fixture
def run(cluster_home):
    def run(*arguments):
        return CliRunner().invoke(cli.app, list(arguments))

    return run


@pytest.fixture
def main(cluster_home, monkeypatch, capsys):
    """As the shell calls it: exit code, standard output, standard error."""

    def main(*arguments):
        monkeypatch.setattr("sys.argv", ["parallelkit", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        return caught.value.code or 0, captured.out, captured.err

    return main


def make_stale(name):
    folder = config.cluster_dir(config.load(), name)
    os.close(claim(folder))
    write_record(folder, ClusterRecord(name, os.getpid(), (birth(os.getpid()) or 0) - 1, None, 4, 1000.0, ["keeper"]))
    return folder


def test_version(run):
    assert run("--version").output == f"parallelkit {__version__}\n"


def test_list_without_clusters(run):
    assert run("list").output == "No cluster is running.\n"
    assert json.loads(run("list", "--json").output) == []


def test_list_tells_stale_from_running(run):
    make_stale("old")
    assert "stale" in run("list").output
    (row,) = json.loads(run("list", "--json").output)
    assert (row["name"], row["running"], row["n"]) == ("old", False, 4)


def test_stop_all_cleans_up_after_the_dead(run):
    folder = make_stale("old")
    result = run("stop", "--all")
    assert result.exit_code == 0
    assert "old" in result.output
    assert not folder.exists()


def test_stopping_a_dead_cluster_cleans_up_after_it(run):
    folder = make_stale("old")
    result = run("stop", "old")
    assert result.exit_code == 0
    assert "dead already" in result.output
    assert not folder.exists()


@pytest.mark.parametrize("command", [("stop", "nothing"), ("status", "nothing"), ("logs", "nothing")])
def test_what_is_not_there_is_one_sentence_and_exit_code_1(main, command):
    code, out, err = main(*command)
    assert code == 1
    assert out == ""
    assert err.startswith("Error: ")
    assert "nothing" in err
    assert "No cluster is running" in err
    assert "Traceback" not in err


def test_a_name_and_all_do_not_go_together(main):
    code, _, err = main("stop", "one", "--all")
    assert code == 1
    assert "not both" in err


def test_logs_of_a_cluster_that_has_ended(run):
    folder = config.log_dir(config.load(), "one")
    folder.mkdir(parents=True)
    folder.joinpath("hub.log").write_text("[red]listens[/]\n")
    folder.joinpath("engine-0.log").write_text("first\nsecond\n")
    assert run("logs", "one").output == "==> engine-0.log <==\nfirst\nsecond\n==> hub.log <==\n[red]listens[/]\n"
    assert run("logs", "one", "--engine", "0", "-n", "1").output == "second\n"


def test_logs_of_an_engine_that_never_was(main):
    folder = config.log_dir(config.load(), "one")
    folder.mkdir(parents=True)
    folder.joinpath("hub.log").touch()
    code, _, err = main("logs", "one", "--engine", "9")
    assert code == 1
    assert "engine 9" in err


def test_config_show_says_where_each_value_comes_from(run, monkeypatch):
    monkeypatch.setenv("PARALLELKIT_ENGINES", "3")
    output = run("config", "show").output
    assert "$PARALLELKIT_ENG" in output
    assert "default" in output
    assert str(config.config_file()) in output


def test_a_bad_setting_is_one_sentence(main, monkeypatch):
    monkeypatch.setenv("PARALLELKIT_ENGINES", "many")
    code, _, err = main("list")
    assert code == 1
    assert "$PARALLELKIT_ENGINES: engines = 'many' is not a whole number" in err
