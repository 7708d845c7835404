"""The ``parallelkit`` command: start, stop and look at clusters."""

from __future__ import annotations

import json
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from parallelkit import __version__, config
from parallelkit.cluster import registry
from parallelkit.cluster.cluster import Cluster
from parallelkit.cluster.folder import ClusterRecord
from parallelkit.errors import ClusterError, ConnectionFileError, ParallelKitError

app = typer.Typer(
    name="parallelkit",
    help="Interactive parallel computing in Jupyter: clusters of engines on this machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
config_app = typer.Typer(help="The settings in force.", no_args_is_help=True)
app.add_typer(config_app, name="config")

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

#: Time between two looks for new lines in a log.
FOLLOW_INTERVAL = 0.2

Name = Annotated[str | None, typer.Argument(help="Name of the cluster; default: the one of the settings.")]


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False) -> None:
    if version:
        typer.echo(f"parallelkit {__version__}")
        raise typer.Exit


@app.command()
def start(
    n: Annotated[int | None, typer.Option("-n", "--n", min=0, help="Engines; default: one for each processor.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the cluster; default: the one of the settings.")] = None,
    ip: Annotated[str | None, typer.Option(help="Listen on this address over encrypted TCP.")] = None,
) -> None:
    """Start a cluster that stays until it is stopped, and wait until its engines are up."""
    began = time.monotonic()
    settings = config.load(cluster=name)
    with err.status("starting") as status:
        cluster = Cluster(n, name=settings.cluster, ip=ip, shutdown_atexit=False, on_step=status.update)
        with cluster.start_and_connect_sync() as client:
            count = len(client.ids)
    argument = "" if cluster.name == config.load().cluster else repr(cluster.name)
    seconds = time.monotonic() - began
    out.print(f"Cluster [bold]{cluster.name}[/] is up with {_plural(count, 'engine')} after {seconds:.1f} s.")
    out.print(f"Connect in Python:  import parallelkit as pk; rc = pk.connect({escape(argument)})", soft_wrap=True)
    out.print(f"Stop it:            parallelkit stop {cluster.name}", soft_wrap=True)


@app.command()
def stop(
    name: Name = None,
    all: Annotated[bool, typer.Option("--all", help="Stop every cluster, and clean up after dead ones.")] = False,
) -> None:
    """Stop a cluster with all its engines."""
    if all and name:
        raise ClusterError("give a name or --all, not both")
    settings = config.load()
    if not all:
        _stop(settings, name or settings.cluster)
        return
    names = registry.running(settings)
    for each in names:
        _stop(settings, each)
    for each in registry.clean(settings):
        out.print(f"Cleaned up after cluster [bold]{each}[/], whose keeper was killed.")
    if not names:
        out.print("No cluster is running.")


def _stop(settings: config.Settings, name: str) -> None:
    try:
        cluster = Cluster.from_file(name)
    except ConnectionFileError:
        if not registry.clean_one(settings, name):
            raise
        out.print(f"Cluster [bold]{name}[/] was dead already; cleaned up after it.")
        return
    with err.status(f"stopping {name}"):
        cluster.stop_cluster_sync()
    out.print(f"Cluster [bold]{name}[/] is stopped.")


@app.command(name="list")
def list_(as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """List the clusters there are."""
    records = registry.clusters(config.load())
    if as_json:
        rows = [{**asdict(record), "running": record.is_running} for record in records]
        typer.echo(json.dumps(rows, indent=1))
        return
    if not records:
        out.print("No cluster is running.")
        return
    table = Table("name", "state", "engines", "since", "keeper", "ends with")
    for record in records:
        table.add_row(*_row(record))
    out.print(table)


def _row(record: ClusterRecord) -> tuple[str, ...]:
    state = "running" if record.is_running else "[red]stale[/]"
    owner = "parallelkit stop" if record.owner is None else f"process {record.owner}"
    return record.name, state, str(record.n), _time(record.started), str(record.pid), owner


@app.command()
def status(name: Name = None) -> None:
    """Show a cluster's engines and how busy they are."""
    cluster = Cluster.from_file(name)
    with cluster.connect_client_sync() as client:
        queues: dict[Any, Any] = client.queue_status(verbose=True)
    unassigned = queues.pop("unassigned")
    table = Table("engine", "running", "queued", "completed", "host", "pid", "state")
    keys = ("tasks", "queue", "completed", "host", "pid", "state")
    for id, load in sorted(queues.items()):
        table.add_row(str(id), *(str(load.get(key, "")) for key in keys))
    since = _time(registry.find(config.load(), cluster.name).started)
    out.print(
        f"Cluster [bold]{cluster.name}[/]: {_plural(len(queues), 'engine')} of {cluster.n}, running since {since}, "
        f"{_plural(unassigned, 'task')} unassigned",
        soft_wrap=True,
    )
    out.print(table)


@app.command()
def logs(
    name: Name = None,
    engine: Annotated[int | None, typer.Option(help="Only this engine's log.")] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on showing what is written.")] = False,
    lines: Annotated[int, typer.Option("-n", "--lines", min=0, help="Lines of each log to show.")] = 40,
) -> None:
    """Show the logs of a cluster, also of one that has ended."""
    settings = config.load(cluster=name)
    folder = config.log_dir(settings, settings.cluster)
    paths = sorted(folder.glob("*.log")) if engine is None else [folder / f"engine-{engine}.log"]
    paths = [path for path in paths if path.is_file()]
    if not paths:
        which = "logs" if engine is None else f"log of an engine {engine}"
        raise ClusterError(f"there are no {which} in {folder}. {registry.describe_running(settings)}")
    ends = {}
    for path in paths:
        ends[path] = path.stat().st_size
        tail = config.log_tail(path, lines) if lines else ""
        _show(path, tail, headed=len(paths) > 1)
    if follow:
        with suppress(KeyboardInterrupt):
            _follow(ends)


def _show(path: Path, text: str, headed: bool) -> None:
    if headed:
        typer.echo(f"==> {path.name} <==")
    if text:
        typer.echo(text)


def _follow(ends: dict[Path, int]) -> None:
    """Print what is appended to the logs until Ctrl-C; with a heading whenever another one speaks."""
    last: Path | None = None
    while True:
        for path, end in ends.items():
            with suppress(OSError), path.open("rb") as stream:
                stream.seek(end)
                new = stream.read()
                ends[path] = stream.tell()
                if new:
                    _show(path, new.decode(errors="replace").rstrip("\n"), headed=len(ends) > 1 and path != last)
                    last = path
        time.sleep(FOLLOW_INTERVAL)


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Where the executed notebook and its report go.")] = Path(
        "parallelkit-demo"
    ),
) -> None:
    """Run the quickstart notebook on a local cluster and show what it did."""
    from parallelkit.jupyter.demo import main as run_demo  # late: the other commands do without it

    raise typer.Exit(run_demo([str(folder)]))


@config_app.command()
def show() -> None:
    """Show each setting, its value, and where that came from."""
    table = Table("setting", "value", "from", "what it is")
    for row in config.explain():
        table.add_row(row.name, escape(repr(row.value)), escape(row.origin), escape(row.help))
    out.print(table)
    typer.echo(f"File: {config.config_file()}{'' if config.config_file().exists() else ' (not there)'}")


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S")


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def main() -> None:
    """Run the command; an error of ours ends it with one sentence and exit code 1."""
    try:
        app()
    except (ParallelKitError, OSError) as error:
        err.print(f"[bold red]Error:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(1)
