"""What a bug report holds: gathered from this machine and a running server, and redacted."""

from __future__ import annotations

import getpass
import json
import os
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx

from cluster.cli.doctor import ask_server, of_cluster
from cluster.cli.server import connect, readable_errors
from cluster.core.errors import BadConfiguration, SetupError
from cluster.core.redact import Known, has_prompts, redact, redact_json
from cluster.node.findings import of_machine
from cluster.node.hardware import ask
from cluster.node.software import read_software
from cluster.node.survey import survey

ANSWER_SECONDS = 4.0
KEPT_BYTES = 256 << 10
"""The newest part of each log that is kept."""
LOOKED_BYTES = 1 << 20
"""The newest part that is looked at for prompts: what `--log-prompts` writes of one is far less
than the difference."""
MOST_LOGS = 16

ENVIRONMENT = re.compile(r"(TANDEM|MLX|HF|OPENBLAS|OMP|MKL|CUDA|NCCL|GRPC|LD|DYLD|PYTHON)_?[A-Z_]*")
"""Variables that change how Tandem runs."""
SECRET_VARIABLE = re.compile(r"(?i).*(token|key|secret|password)")
SETTINGS = (
    "/etc/tandem/serve.env",
    "/etc/tandem/worker.env",
    "/Library/LaunchDaemons/local.tandem.serve.plist",
    "/Library/LaunchDaemons/local.tandem.worker.plist",
)
"""Where `deploy` has the settings of services, and their logs."""
LOGS = ("/var/db/tandem/serve.log", "/var/db/tandem/worker.log")
UNITS = ("tandem-serve", "tandem-worker")
SERVER = {"/cluster": "cluster.json", "/health": "health.json", "/metrics": "metrics.txt"}


@dataclass(frozen=True, slots=True)
class Item:
    """One file of a report."""

    name: str
    about: str
    text: str


def gather(
    url: str, key: str | None, authority: Path | None, folder: Path, logs: Sequence[Path]
) -> list[Item]:
    """Everything that can be had, redacted. `folder` holds the configuration of this user, `logs`
    are those that a person named.

    Raises BadConfiguration for an address, key or certificate that makes no sense, and for a log
    that can't be read.
    """
    server = dict(_of_server(url, key, authority))
    raw, hosts = [], [socket.gethostname()]
    for name, about, value in (*_of_machine(url, key, authority), *_of_settings(folder)):
        raw.append((name, about, value))
        hosts += _hosts(value)
    for name, value in server.items():
        raw.append((f"server/{name}", f"what {url} answers", value))
        hosts += _hosts(value)
    raw += _of_logs(logs)
    secret = [value for name, value in os.environ.items() if SECRET_VARIABLE.match(name)]
    known = Known(
        secrets=tuple(value for value in (key, *secret) if value and len(value) >= 8),
        users=(_user(),),
        homes=(str(Path.home()),),
        hosts=tuple(dict.fromkeys(hosts)),
    )
    return [Item(name, about, cleaned(value, known)) for name, about, value in raw]


def cleaned(value: object, known: Known) -> str:
    """A text or a JSON value, redacted, as text. Lines of JSON are looked at as such."""
    if not isinstance(value, str):
        return json.dumps(redact_json(value, known), indent=2) + "\n"
    lines = [
        line if (parsed := _parsed(line)) is None else json.dumps(redact_json(parsed, known))
        for line in value.splitlines()
    ]
    return redact("\n".join(lines), known) + "\n"


def newest(path: Path) -> str:
    """The end of a log, from the beginning of a line on; instead of one with prompts in it, a
    line that says so. Raises OSError."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - LOOKED_BYTES))
        text = file.read().decode(errors="replace")
    return tail(text, whole=size <= KEPT_BYTES)


def tail(text: str, *, whole: bool) -> str:
    """What is kept of the end of a log; all of it where it is `whole`."""
    if has_prompts(text):
        return "left out: with --log-prompts it has what people have asked"
    return text if whole else text[-KEPT_BYTES:].partition("\n")[2]


def _of_machine(
    url: str, key: str | None, authority: Path | None
) -> Iterator[tuple[str, str, object]]:
    from huggingface_hub.constants import HF_HUB_CACHE

    yield "version.json", "tandem version --json", asdict(read_software())
    found: dict[str, object]
    try:
        facts = survey(Path(HF_HUB_CACHE))
        seen = ask_server(url, key, authority)
        findings = [*of_machine(facts), *of_cluster(seen, facts)]
        machines = [asdict(each) for each in seen.survey.machines]
        # Under other names than in `tandem doctor --json`: "text" is what people ask.
        told = [f"{each.topic}, {each.level}: {each.text} {each.mend}".strip() for each in findings]
        found = {"facts": asdict(facts), "machines": machines, "findings": told}
    except SetupError as error:
        found = {"error": str(error)}
    yield "doctor.json", "tandem doctor --json", found


def _of_settings(folder: Path) -> Iterator[tuple[str, str, object]]:
    lines = [f"{name}={value}" for name, value in sorted(chosen(os.environ).items())]
    yield "environment.txt", "variables that change how Tandem runs", "\n".join(lines)
    listed = [_listed(path) for path in sorted(folder.rglob("*"))[:100]]
    yield "configuration.txt", f"names and sizes of files in {folder}", "\n".join(listed)
    for path in map(Path, SETTINGS):
        try:
            yield f"settings/{path.name}", str(path), path.read_text(errors="replace")
        except OSError:
            continue


def chosen(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that are reported. Of those that hold a secret, only that they are set."""
    return {
        name: "[key removed]" if SECRET_VARIABLE.fullmatch(name) else value
        for name, value in environ.items() if ENVIRONMENT.fullmatch(name)
    }  # fmt: skip


def _of_server(url: str, key: str | None, authority: Path | None) -> Iterator[tuple[str, object]]:
    with connect(url, key, authority) as client:
        client.timeout = httpx.Timeout(ANSWER_SECONDS)
        for path, name in SERVER.items():
            try:
                with readable_errors(client):
                    answer = client.get(path)
            except SetupError as error:
                yield "nobody.txt", str(error)
                return
            parsed = _parsed(answer.text)
            yield name, answer.text if parsed is None else parsed


def _of_logs(named: Sequence[Path]) -> Iterator[tuple[str, str, object]]:
    """Those that a person named must be there; those of services may be."""
    if len(named) > MOST_LOGS:
        raise BadConfiguration(f"{len(named)} logs: at most {MOST_LOGS} go into a report")
    for number, path in enumerate(named, 1):
        try:
            yield f"logs/{number}-{path.name}", f"the end of {path}", newest(path)
        except OSError as error:
            raise BadConfiguration(f"can't read the log {path}: {error.strerror}") from error
    for path in map(Path, LOGS):
        try:
            yield f"logs/{path.name}", f"the end of {path}", newest(path)
        except OSError:
            continue
    for unit in UNITS:
        text = ask("journalctl", "-u", unit, "-n", "2000", "--no-pager", "-o", "short-iso", "-q")
        if text:
            yield f"logs/{unit}.txt", f"journalctl -u {unit}", tail(text, whole=False)


def _listed(path: Path) -> str:
    try:
        status = path.lstat()
    except OSError as error:
        return f"{path}: {error.strerror}"
    return f"{status.st_mode & 0o7777:04o} {status.st_size:>9} {path}"


def _hosts(value: object) -> Iterator[str]:
    """Names of machines in what doctor and a server say."""
    if isinstance(value, dict):
        for name, each in value.items():
            if name in ("hostname", "here", "there", "peer") and isinstance(each, str):
                yield each
            yield from _hosts(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _hosts(each)


def _parsed(text: str) -> dict[str, object] | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # no such user: containers
        return ""
