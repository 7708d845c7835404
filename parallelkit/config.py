"""Settings: keyword argument over environment over one TOML file over the default.

The only reader of the environment. ``load()`` returns a frozen :class:`Settings`; ``explain()`` tells for each
setting which value holds and where it came from (``parallelkit config show`` prints it).
"""

from __future__ import annotations

import os
import re
import tempfile
import tomllib
import zlib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from parallelkit.errors import ConfigError

PREFIX = "PARALLELKIT_"
#: Cluster names become folder names and parts of socket paths; this is all that they may hold.
CLUSTER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}")
#: A unix socket's path has at most 107 bytes; this much is left after "/<name>/hub.sock".
MAX_RUNTIME_PATH = 55


def _runtime_home() -> str:
    base = os.environ.get("XDG_RUNTIME_DIR")
    if base and os.access(base, os.W_OK):
        return str(Path(base) / "parallelkit")
    return str(Path(tempfile.gettempdir()) / f"parallelkit-{os.getuid()}")


def _state_home() -> str:
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return str(Path(base) / "parallelkit")


def _processors() -> int:
    """Processors this process may use; a container or a batch job often has fewer than the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _setting(default: Any, help: str, *, factory: bool = False) -> Any:
    kind = {"default_factory": default} if factory else {"default": default}
    return field(**kind, metadata={"help": help})


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting there is. Sizes are bytes, times are seconds."""

    engines: int = _setting(_processors, "engines that a new local cluster starts", factory=True)
    cluster: str = _setting("default", "name of the cluster that connect() joins or starts")
    ip: str = _setting("", "address the hub listens on over TCP; empty: a unix socket only")
    port: int = _setting(0, "TCP port of the hub; 0: any free one")
    runtime_dir: str = _setting(_runtime_home, "folder of sockets and connection files", factory=True)
    state_dir: str = _setting(_state_home, "folder of logs", factory=True)
    start_timeout: float = _setting(60.0, "patience for a cluster to start")
    connect_timeout: float = _setting(10.0, "patience for a hub to answer")
    heartbeat: float = _setting(1.0, "time between two signs of life")
    silence: float = _setting(6.0, "silence after which an engine counts as lost")
    window_tasks: int = _setting(10_000, "unacknowledged tasks of one client at the hub; more wait at the client")
    window_bytes: int = _setting(256 << 20, "bytes of unacknowledged tasks of one client at the hub")
    prefetch: float = _setting(0.004, "work that an engine holds beyond the running task")
    chunk: float = _setting(0.02, "duration that map aims at for one chunk")
    max_attempts: int = _setting(4, "runs of one task that dying engines may cost; 1: at most once")
    output_limit: int = _setting(4 << 20, "bytes of printed output that one task may send; the rest is counted")
    log_level: str = _setting("INFO", "level of the cluster's own logs")


class Provenance(NamedTuple):
    """Where one setting's value came from."""

    name: str
    value: Any
    origin: str
    help: str


def config_file() -> Path:
    """The TOML file: ``$PARALLELKIT_CONFIG``, else ``parallelkit/config.toml`` in the user's config folder."""
    named = os.environ.get(f"{PREFIX}CONFIG")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "parallelkit" / "config.toml"


def load(**overrides: Any) -> Settings:
    """The settings in force; ``None`` among the overrides means "not given".

    Raises:
        ConfigError: an unknown name, or a value of the wrong type; the text names the place.
    """
    return Settings(**{row.name: row.value for row in explain(**overrides)})


def explain(**overrides: Any) -> list[Provenance]:
    """Each setting with its value and its origin, in the order of :class:`Settings`."""
    known = {f.name: f for f in fields(Settings)}
    path = config_file()
    from_file = _read_file(path)
    for place, names in ((str(path), from_file), ("keyword", overrides)):
        unknown = sorted(set(names) - set(known))
        if unknown:
            raise ConfigError(f"{place}: no setting {unknown[0]!r}; there are {', '.join(known)}")
    defaults = Settings()
    rows = []
    for name, f in known.items():
        value, origin = getattr(defaults, name), "default"
        if name in from_file:
            value, origin = _convert(name, from_file[name], type(value), str(path)), str(path)
        variable = PREFIX + name.upper()
        if variable in os.environ:
            value, origin = _convert(name, os.environ[variable], type(value), f"${variable}"), f"${variable}"
        if overrides.get(name) is not None:
            value, origin = _convert(name, overrides[name], type(value), "keyword"), "keyword"
        rows.append(Provenance(name, value, origin, f.metadata["help"]))
    return rows


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error


def _convert(name: str, value: Any, kind: type, origin: str) -> Any:
    try:
        if kind is int and isinstance(value, float) and not value.is_integer():
            raise ValueError("not a whole number")
        return kind(value)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{origin}: {name} = {value!r} is not {_noun(kind)}") from error


def _noun(kind: type) -> str:
    return {int: "a whole number", float: "a number", str: "a text"}[kind]


def check_cluster_name(name: str) -> str:
    """Return ``name`` if it may name a cluster.

    Raises:
        ConfigError: it holds a character that does not belong in a file name, or is too long.
    """
    if not CLUSTER_NAME.fullmatch(name):
        raise ConfigError(f"{name!r} cannot name a cluster: use up to 40 letters, digits, '-', '_' and '.'")
    return name


def runtime_dir(settings: Settings) -> Path:
    """Folder that holds the clusters' folders: the one that is set, or a short one of its own if that is too long."""
    wanted = os.path.abspath(settings.runtime_dir)
    if len(os.fsencode(wanted)) <= MAX_RUNTIME_PATH:
        return Path(wanted)
    return Path(f"/tmp/parallelkit-{os.getuid()}-{zlib.crc32(os.fsencode(wanted)):08x}")


def cluster_dir(settings: Settings, name: str) -> Path:
    """Folder of a cluster's sockets and connection files (mode 0700)."""
    return runtime_dir(settings) / check_cluster_name(name)


def shared_memory_prefix(name: str) -> str:
    """How the names of a cluster's files in ``/dev/shm`` begin. No cluster's prefix begins another's."""
    return f"parallelkit-{os.getuid()}~{check_cluster_name(name)}~"


def log_dir(settings: Settings, name: str) -> Path:
    """Folder of a cluster's logs; they stay after the cluster has ended, until the next of that name starts."""
    return Path(settings.state_dir) / "logs" / check_cluster_name(name)


def log_tail(path: Path, lines: int = 20) -> str:
    """The last lines of a log, at most 64 kB of them; empty if there is no such log."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - (64 << 10)))
            text = stream.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def child_environment(settings: Settings) -> dict[str, str]:
    """Environment for the cluster's own processes: ours, plus the settings in force."""
    env = dict(os.environ)
    env.update({PREFIX + f.name.upper(): str(getattr(settings, f.name)) for f in fields(Settings)})
    return env
