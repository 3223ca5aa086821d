"""Any text in any setting is data: it works literally or is refused, and no program of its choosing runs.

Checks that need no connection see all texts of `support.metacharacters` in all settings, and so does one warm
machine; what takes a login or a new agent for each text sees a sample, and all of them in `make fuzz`.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from conftest import remote_environment, require_sshd
from support import direct, login
from support.condas import fake_conda
from support.interpreters import OWN
from support.metacharacters import TEXTS, made_by_a_shell, make_canary, plain

from covalent_sshtiming import errors, settings
from covalent_sshtiming.demo.sshserver import SSHServer, ssh_server
from covalent_sshtiming.forms import jump_hosts, local_path
from covalent_sshtiming.host import bootstrap, pool
from covalent_sshtiming.host.target import Target
from covalent_sshtiming.options import LOCAL, SSH, Plugin

NAMES = [text for text in TEXTS if plain(text)]
PATH_ROOT = "/nowhere/"


class Guarded:
    """A server and a place, in both of which a canary waits to be run."""

    def __init__(self, server: SSHServer, place: Path, sung: Path) -> None:
        self.server = server
        self.place = place
        self._sung = sung

    def check(self) -> None:
        """Fail where the canary has sung, or a redirection has made a file."""
        assert not self._sung.exists(), self._sung.read_text()
        assert made_by_a_shell(self.place) == []
        assert not Path(pwd.getpwuid(os.getuid()).pw_dir, "made").exists()  # where sshd's sessions begin


@pytest.fixture(scope="module")
def guarded(nothing_left_running: None) -> Iterator[Guarded]:
    """Return a server whose sessions, like this process, have the canary on their PATH and as directory."""
    require_sshd()
    with tempfile.TemporaryDirectory(prefix="inj-", dir="/tmp", ignore_cleanup_errors=True) as name:
        place = Path(name)
        sung = make_canary(place / "bin")
        path = f"{place / 'bin'}:{remote_environment()['PATH']}"
        environment = {**remote_environment(), "PATH": path}
        (place / "cwd").mkdir()
        with (
            pytest.MonkeyPatch.context() as patch,
            ssh_server(place / "ssh", kind="openssh", environment=environment) as server,
        ):
            patch.setenv("PATH", f"{place / 'bin'}:{os.environ['PATH']}")
            patch.chdir(place / "cwd")
            assert os.system("canary test") == 0  # noqa: S605 - the canary can sing
            sung.unlink()
            yield Guarded(server, place, sung)


def sample(texts: list[str], every: int) -> pytest.MarkDecorator:
    """Return parameters of a test: each of so many texts, and all of them for `make fuzz`."""
    every_one = pytest.param(texts, marks=[pytest.mark.thorough, pytest.mark.timeout(1200)])
    return pytest.mark.parametrize("texts", [texts[::every], every_one], ids=["sample", "all"])


# ---- all settings, without a connection


def expected(check: Callable[[str], str], text: str) -> str:
    """Return what a text has to become: itself, or the same path spelt absolutely."""
    if check is jump_hosts:
        return ",".join(hop.strip() for hop in text.split(","))
    return str(Path(text).expanduser()) if check is local_path else text


@pytest.mark.parametrize("plugin", [SSH, LOCAL], ids=lambda plugin: plugin.section)
def test_every_text_in_every_setting_is_kept_or_refused(plugin: Plugin) -> None:
    """Each text is found again as it was written, or is a ConfigError that names the setting."""
    base: dict[str, Any] = {} if plugin is LOCAL else {"hostname": "far"}
    kept, said = 0, []
    assert len(TEXTS) >= 200
    for option in plugin.options.values():
        if option.kind is not str:
            continue
        for text in TEXTS:
            for written in {text, PATH_ROOT + text} if option.check is local_path else {text}:
                section = {**base, option.name: written}
                try:
                    found = settings.resolve({}, section, plugin)
                except errors.ConfigError as error:
                    said.append((option.name, str(error)))
                    continue
                kept += 1
                if hasattr(found, option.name):
                    assert getattr(found, option.name) == expected(option.check, written)
    print(f"{kept} kept, {len(said)} refused")
    assert kept > 0
    assert said
    assert [
        text for name, text in said if not text.startswith((name, "no hostname")) or not text.isprintable()
    ] == []


def test_environment_is_data() -> None:
    """A variable's value may be any text; its name only what a variable can be called."""
    for text in TEXTS:
        try:
            found = settings.resolve({"hostname": "far", "env": {"TEXT": text}}, {})
        except errors.ConfigError:
            assert set(text) & set("\0\r\n\udcff")
        else:
            assert found.env == {"TEXT": text}
        if not text.isidentifier():
            with pytest.raises(errors.ConfigError, match="does not name a variable"):
                settings.resolve({"hostname": "far", "env": {text: "x"}}, {})


# ---- what travels with a task


async def _say_where(machine: direct.Machine, text: str, place: Path) -> direct.Ran:
    def where() -> list[str]:
        import os

        print("said")
        return [os.getcwd(), os.environ["TEXT"]]

    options = {
        "remote_workdir": text,
        "env": {"TEXT": text},
        "log_stdout": str(place / "out" / text),
        "timing_filepath": str(place / "log" / text),
    }
    return await machine.run(where, dispatch_id=text, node_id=1, options=options)


async def _check_travelling(machine: direct.Machine, texts: list[str], home: Path, place: Path) -> None:
    for text in texts:
        ran = await _say_where(machine, text, place)
        if not plain(text) or text.startswith("~"):
            assert ran.error is None or isinstance(ran.error, (errors.SSHTimingError, direct.TaskEnded))
            continue
        if len(text) > 190:  # a log's second name would be too long
            continue
        assert ran.value == [str(home / text), text]
        assert (place / "out" / text).read_text() == "said\n"
        assert (place / "log" / text).exists()


async def test_what_travels_with_a_task_is_literal(guarded: Guarded) -> None:
    """Working directory, variable, log and output file have each text as their name, and nothing runs."""
    place = guarded.place / "travel"
    async with direct.machine(guarded.server, place, python_path="") as machine:
        await _check_travelling(machine, TEXTS, guarded.server.remote_home, place)
    guarded.check()


@sample(TEXTS, 8)
async def test_what_a_local_task_is_given_is_literal(guarded: Guarded, texts: list[str]) -> None:
    """The same holds for the local executor."""
    place = guarded.place / f"here-{len(texts)}"
    async with direct.here(place) as machine:
        await _check_travelling(machine, texts, place / "near", place)
    guarded.check()


# ---- what the exec command carries


async def _statuses(server: SSHServer, commands: list[str]) -> list[int | None]:
    """Run commands in sessions of one connection, a few at a time; return their exit statuses."""
    few = asyncio.Semaphore(4)
    async with login.connection(server) as session:

        async def one(command: str) -> int | None:
            async with few:
                ran = await session.run(command, stdin=asyncssh.DEVNULL, encoding=None)
                return ran.exit_status

        return await asyncio.gather(*map(one, commands))


@sample([text for text in NAMES if not shutil.which(text)], 3)
async def test_no_python_path_is_more_than_a_path(guarded: Guarded, texts: list[str]) -> None:
    """A python_path is looked for under just that name, and there is none."""
    targets = [Target("far", "far", OWN, python_path=text, cache=text, spool=text) for text in texts]
    commands = [await asyncio.to_thread(bootstrap.command, target, "0" * 24) for target in targets]
    statuses = await _statuses(guarded.server, commands)
    guarded.check()
    wrong = [(text, status) for text, status in zip(texts, statuses, strict=True) if status not in (126, 127)]
    assert wrong == []


@sample(NAMES, 3)
async def test_no_conda_env_is_more_than_a_name(guarded: Guarded, texts: list[str]) -> None:
    """What is accepted as a conda environment is looked for under just that name, and nothing runs."""
    place = guarded.place / f"conda-{len(texts)}"
    conda = fake_conda(place)
    asked = 0
    async with direct.machine(guarded.server, place, python_path="") as machine:
        for text in texts:
            options = {"conda_env": text, "setup_commands": [f"export CONDA_EXE={conda}"]}
            ran = await machine.run(print, options=options)
            if isinstance(ran.error, errors.RemoteEnvError):
                assert f"{conda}: no environment {text.strip()} here" in str(ran.error)
                asked += 1
            else:
                assert isinstance(ran.error, errors.ConfigError)
    assert asked > 5
    guarded.check()


@sample([text for text in NAMES if not text.startswith("~")], 5)
async def test_a_cache_has_just_that_name(guarded: Guarded, texts: list[str]) -> None:
    """A remote_cache is made under the name that was given, and nothing runs."""
    caches = guarded.place / f"caches-{len(texts)}"
    targets = [Target("far", "far", OWN, cache=str(caches / text), spool=text) for text in texts]
    commands = [await asyncio.to_thread(bootstrap.command, target, "0" * 24) for target in targets]
    assert set(await _statuses(guarded.server, commands)) == {4}  # it asked for the archive, and got none
    assert {path.name for path in caches.iterdir()} == set(texts)
    guarded.check()


@sample([text for text in NAMES if not text.startswith("~") and len(text) < 20], 20)
async def test_a_spool_has_just_that_name(guarded: Guarded, texts: list[str]) -> None:
    """An agent lives in a remote_spool of any name, and starts tasks there."""
    place = guarded.place / f"s{len(texts)}"
    for number, text in enumerate(texts):
        base = place / str(number)
        base.mkdir(parents=True)
        spool = base / text
        async with direct.machine(guarded.server, base, remote_spool=str(spool), python_path="") as machine:
            try:
                assert (await machine.run(lambda: 5)).value == 5
                assert (spool / "tasks").is_dir()
            finally:
                await direct.pool.close_all()
                await asyncio.to_thread(direct.end_agents, spool)
    guarded.check()


# ---- what decides how to log in

CONFIG = """\
Match exec "true %h %n %r %p"
  User {user}
Host *
  ProxyCommand true %h %n %r %p; exit 1
"""


def _accepted(name: str) -> list[str]:
    found = []
    for text in TEXTS:
        try:
            settings.resolve({}, {"hostname": "far", name: text})
        except errors.ConfigError:
            continue
        found.append(text)
    return found


@sample(["hostname", "username", "proxy_jump"], 1)
@pytest.mark.parametrize("transport", ["asyncssh", "openssh"])
async def test_names_that_are_handed_to_a_shell_run_nothing(
    guarded: Guarded, home: Path, texts: list[str], transport: str, request: pytest.FixtureRequest
) -> None:
    """What is accepted as a host, a user or a jump host goes through Match exec and ProxyCommand unharmed."""
    every = 1 if "all" in request.node.name else 6 if transport == "asyncssh" else 12
    (home / ".ssh" / "config").write_text(CONFIG.format(user="nobody"))
    for name in texts:
        for text in _accepted(name)[::every]:
            section = {
                "hostname": "far",
                name: text,
                "transport": transport,
                "connect_timeout": 5,
                "ssh_key_file": str(guarded.server.key_file),
            }
            target = login.target_of(settings.resolve({}, section), OWN)
            with pytest.raises(errors.SSHTimingError):
                await asyncio.wait_for(pool.open_ssh(target, "true", login.Listener()), 30)
            guarded.check()


@sample(NAMES, 6)
@pytest.mark.parametrize("transport", ["asyncssh", "openssh"])
async def test_files_of_any_name_are_read(
    guarded: Guarded, home: Path, texts: list[str], transport: str, request: pytest.FixtureRequest
) -> None:
    """Key and known_hosts are found under whatever name they have, or ssh's transport refuses the name."""
    every = 1 if transport == "asyncssh" or "all" in request.node.name else 4
    files, refused = guarded.place / f"files-{transport}-{len(texts)}", []
    server = guarded.server
    for number, text in enumerate(texts[::every]):
        place = files / str(number)
        place.mkdir(parents=True)
        (place / "known").mkdir()
        shutil.copy(server.key_file, place / text)
        shutil.copy(server.known_hosts_file, place / "known" / text)
        section = login.reaching(
            server,
            transport=transport,
            ssh_key_file=str(place / text),
            known_hosts_file=str(place / "known" / text),
        )
        try:
            assert await login.enter(section) == "in"
        except errors.ConfigError as error:
            refused.append(str(error))
        guarded.check()
    odd = [text for text in texts[::every] if set(text) & set("\"'\\$")]
    assert len(refused) == (len(odd) if transport == "openssh" else 0)
    assert all("has a quote, $ or backslash" in text for text in refused)
