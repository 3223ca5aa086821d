"""Files of ours, there and here: modes, owners, links, names, and what others may have put in their place."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from support import direct, farside, faults, login
from support.keys import make_key

from covalent_sshtiming import errors
from covalent_sshtiming.demo.sshserver import SSHServer
from covalent_sshtiming.outputs import Outputs
from covalent_sshtiming.remote import places
from covalent_sshtiming.timing.rotation import rotated

STRANGER = 54_321  # a user id that nobody has
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can make files of other users")


@contextmanager
def umask(mask: int) -> Iterator[None]:
    """Set the umask of this process."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def mode(path: Path) -> int:
    """Return a path's permissions, of a link its own."""
    return stat.S_IMODE(path.lstat().st_mode)


def pipe(path: Path) -> None:
    """Make a named pipe, which nobody writes to."""
    os.mkfifo(path)


def link(path: Path) -> None:
    """Make a link to a directory of our own."""
    target = path.with_name("target")
    target.mkdir(mode=0o700)
    path.symlink_to(target)


def file(path: Path) -> None:
    """Make a file."""
    path.write_text("mine")


def open_to_others(path: Path) -> None:
    """Make a directory that others can read."""
    path.mkdir(mode=0o755)


def a_strangers(path: Path) -> None:
    """Make a directory of another user's, closed to all others."""
    path.mkdir(mode=0o700)
    os.chown(path, STRANGER, STRANGER)


def another(make: Callable[[Path], None]) -> Callable[[Path], None]:
    """Return a function that puts something in a file's place."""

    def put(path: Path) -> None:
        path.unlink()
        make(path)

    return put


# ---- the far side's directories


@pytest.mark.parametrize("mask", [0o000, 0o077, 0o777])
def test_a_directory_of_ours_is_ours_alone(place: Path, mask: int) -> None:
    """Whatever the umask, a directory is made with 0700 or less; one that is there and right is taken."""
    with umask(mask):
        places.private_directory(str(place / "new"))
    assert mode(place / "new") == 0o700 & ~mask
    places.private_directory(str(place / "new"))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (pipe, "not a directory"),
        (link, "not a directory"),
        (file, "not a directory"),
        (open_to_others, "can be read or written by others (chmod 700 it)"),
        pytest.param(a_strangers, f"belongs to user id {STRANGER}", marks=needs_root),
    ],
    ids=lambda one: one.__name__ if callable(one) else "",
)
async def test_a_spool_that_somebody_else_made_is_refused(
    sshd: SSHServer, place: Path, make: Callable[[Path], None], said: str
) -> None:
    """A link, a pipe, a file, an open or a stranger's directory in its place ends in TransferError."""
    make(place / "spool")
    async with direct.machine(sshd, place, max_connection_attempts=1) as machine:
        ran = await asyncio.wait_for(machine.run(lambda: 1), 20)
    assert type(ran.error) is errors.TransferError
    assert said in str(ran.error)
    assert "Set remote_spool to another one." in str(ran.error)
    assert not list(place.glob("target/*"))


@needs_root
@pytest.mark.parametrize("make", [a_strangers, pipe], ids=lambda make: str(make.__name__))
def test_who_takes_the_default_place_first_only_moves_us(make: Callable[[Path], None]) -> None:
    """In sticky /var/tmp a directory of somebody else's under our name sends us to the next place."""
    user = STRANGER + 1
    taken = Path(f"/var/tmp/covalent-sshtiming-{user}")
    with tempfile.TemporaryDirectory(dir="/tmp") as other:
        os.chown(other, user, user)
        make(taken)
        try:
            code = f"import os; from covalent_sshtiming.remote import places; os.setuid({user})"
            ran = subprocess.run(
                [sys.executable, "-c", f"{code}; print(places.spool_base())"],
                env={**os.environ, "TMPDIR": other, "PYTHONPATH": str(Path(__file__).parents[1])},
                capture_output=True,
                text=True,
                check=False,
                timeout=30,
            )
            assert ran.stdout.strip() == f"{other}/covalent-sshtiming-{user}", ran.stderr
            assert stat.S_ISFIFO(taken.lstat().st_mode) or not list(taken.iterdir())
        finally:
            taken.unlink() if make is pipe else taken.rmdir()


# ---- the far side's files


async def test_every_file_of_a_task_is_the_users_alone(sshd: SSHServer, place: Path) -> None:
    """Under any umask, while a task runs and after it, directories are 0700 and files 0600."""
    here, go = place / "here", place / "go"
    names = str(here), str(go)

    def work() -> int:
        import os
        import time

        print("out")
        open(names[0], "w").close()
        while not os.path.exists(names[1]):
            time.sleep(0.01)
        return os.umask(0)

    async with direct.machine(sshd, place, do_cleanup=False) as machine:
        with umask(0):
            running = asyncio.ensure_future(machine.run(work))
            await faults.until(lambda: here.exists() and any(machine.spool.glob("tasks/*/stdout")))
            during = {path: path.lstat() for path in machine.spool.rglob("*")}
            go.touch()
            ran = await running
        after = {path: path.lstat() for path in machine.spool.rglob("*")}
    assert ran.value == 0o022  # the login's: the user's function has the user's own
    assert mode(machine.spool) == 0o700
    for path, facts in (*during.items(), *after.items()):
        wanted = 0o700 if stat.S_ISDIR(facts.st_mode) else 0o600
        allowed = wanted if not stat.S_ISSOCK(facts.st_mode) else 0o700
        assert stat.S_IMODE(facts.st_mode) & ~allowed == 0, path
        assert facts.st_uid == os.getuid(), path
        assert facts.st_nlink == 1 or stat.S_ISDIR(facts.st_mode), path
    tasks = [path.parent.name for path in after if path.name == "outcome"]
    assert len(tasks) == 1
    assert places.is_key(tasks[0])
    assert {"started", "lock", "stdout"} <= {path.name for path in during}


async def test_what_prints_nothing_has_no_file_for_it(sshd: SSHServer, place: Path) -> None:
    """A silent task leaves what it was and what became of it, and one that prints to one stream its file."""
    async with direct.machine(sshd, place, do_cleanup=False) as machine:
        await machine.run(lambda: None)
        (silent,) = machine.spool.glob("tasks/*")
        ran = await machine.run(lambda: print("trouble", file=sys.stderr))
        (loud,) = set(machine.spool.glob("tasks/*")) - {silent}
    assert ran.stderr == "trouble\n"
    kept = {"lock", "started", "result", "outcome"}
    assert {path.name for path in silent.iterdir()} == kept
    assert {path.name for path in loud.iterdir()} == {*kept, "stderr"}


async def test_what_stands_in_place_of_a_file_stops_nobody(sshd: SSHServer, place: Path) -> None:
    """Pipes, links and directories where an old task's files should be leave an agent free for others."""
    spool = place / "spool"
    (place / "secret").write_text("not theirs")
    for part in ("", "tasks", "agents", "clients", "slots"):
        (spool / part).mkdir(mode=0o700)
    for number, name in enumerate((places.OUTCOME, places.REQUEST, places.LOCK, places.STARTED)):
        for kind in range(3):
            directory = spool / "tasks" / f"{number}{kind}".rjust(32, "0")
            directory.mkdir(mode=0o700)
            if kind == 0:
                os.mkfifo(directory / name)
            elif kind == 1:
                (directory / name).symlink_to(place / "secret")
            else:
                (directory / name).mkdir()
    (spool / "tasks" / ("f" * 32)).symlink_to(place)
    async with direct.machine(sshd, place) as machine:
        ran = await asyncio.wait_for(machine.run(lambda: 5), 30)
        assert ran.value == 5
    assert (place / "secret").read_text() == "not theirs"


@pytest.mark.parametrize("make", [pipe, link, file])
def test_nothing_is_written_through_what_is_there(place: Path, make: Callable[[Path], None]) -> None:
    """A file is made where there is none, or not at all; one that replaces another leaves a link's target."""
    make(place / "name")
    name = str(place / "name")
    assert places.create(name, b"ours") is False
    assert places.publish(name, b"ours") is False
    before = (place / "name").lstat().st_ino
    places.replace(name, b"ours")
    assert (place / "name").read_bytes() == b"ours"
    assert (place / "name").lstat().st_ino != before
    assert not list(place.glob("target/*"))
    assert mode(place / "name") == 0o600


@pytest.mark.parametrize("make", [pipe, link])
def test_what_is_no_file_is_not_read(place: Path, make: Callable[[Path], None]) -> None:
    """A link is not followed and a pipe not waited for, neither to read nor to lock."""
    make(place / "name")
    for work in (places.read, places.read_json, places.open_file):
        with pytest.raises(OSError, match=r"not a regular file|Too many levels of symbolic links"):
            work(str(place / "name"))
    if make is link:
        with pytest.raises(OSError, match="symbolic links"):
            places.try_lock(str(place / "name"))


def test_a_hard_link_is_replaced_and_not_written_to(place: Path) -> None:
    """What has a second name elsewhere keeps its content there when ours is replaced or removed."""
    (place / "elsewhere").write_text("theirs")
    (place / "task").mkdir()
    os.link(place / "elsewhere", place / "task" / "outcome")
    places.replace(str(place / "task" / "outcome"), b"ours")
    places.remove_tree(str(place / "task"))
    assert (place / "elsewhere").read_text() == "theirs"
    assert not (place / "task").exists()


def test_removing_follows_no_link(place: Path) -> None:
    """A task directory goes with the links in it, and not with what they lead to."""
    (place / "kept").mkdir()
    (place / "kept" / "file").write_text("kept")
    (place / "task").mkdir()
    (place / "task" / "link").symlink_to(place / "kept")
    places.remove_tree(str(place / "task"))
    assert (place / "kept" / "file").exists()
    (place / "task").symlink_to(place / "kept")
    with suppress(OSError):
        places.remove_tree(str(place / "task"))
    assert (place / "kept").is_dir()


def test_a_key_cannot_be_guessed() -> None:
    """A task's name has 128 random bits, and nothing that is a path or another name passes for one."""
    keys = {farside.new_key() for _ in range(1000)}
    assert len(keys) == 1000
    assert all(map(places.is_key, keys))
    for text in (
        "",
        "a" * 31,
        "a" * 33,
        "A" * 32,
        "../" + "a" * 29,
        "a" * 31 + "\n",
        "é" * 32,
        None,
        7,
        ["a"] * 32,
    ):
        assert not places.is_key(text)


# ---- the near side


@pytest.mark.parametrize("place_of", ["log_stdout", "timing_filepath"])
async def test_files_here_are_the_users_alone(sshd: SSHServer, place: Path, place_of: str) -> None:
    """Under a umask that gives all away, log and output files are made with 0600; a user's mode is kept."""
    path = place / "made" / "file.jsonl"

    def say() -> None:
        print("said")

    async with direct.machine(sshd, place, **{place_of: str(path)}) as machine:
        with umask(0):
            assert (await machine.run(say)).error is None
            assert mode(path) == 0o600
            path.chmod(0o640)
            assert (await machine.run(say)).error is None
    assert mode(path) == 0o640


def test_a_packed_log_is_never_open_to_others(place: Path) -> None:
    """The file that a log is packed into has the log's mode before anything is in it, and no other."""
    log, looking = place / "log.jsonl", True
    seen: list[int] = []

    def look(event: str, args: tuple[Any, ...]) -> None:
        if looking and event == "os.chmod" and isinstance(args[0], int):
            seen.append(stat.S_IMODE(os.fstat(args[0]).st_mode))

    log.write_text("{}\n")
    log.chmod(0o640)
    sys.addaudithook(look)
    with umask(0o022):
        (packed,) = rotated(log, compress=True)
    looking = False  # a hook cannot be taken out again
    assert seen == [0o600]
    assert mode(packed) == 0o640


async def test_an_output_pipe_that_nobody_reads_holds_nobody_up(place: Path) -> None:
    """A named pipe as log_stdout without a reader costs a warning, not the task."""
    os.mkfifo(place / "pipe")
    files = Outputs({1: place / "pipe", 2: None})
    files.put(1, b"text")
    said = await asyncio.wait_for(files.finish(), 5)
    assert said == f"warning: {place / 'pipe'} cannot be written: {os.strerror(errno.ENXIO)}\n"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda key: key.chmod(0o640), "others can read the key file {key}; run `chmod 600 {key}`."),
        (lambda key: key.chmod(0o604), "others can read the key file {key}; run `chmod 600 {key}`."),
        (
            another(pipe),
            "the key file {key} is no regular file; correct ssh_key_file",
        ),
        (
            another(open_to_others),
            "the key file {key} is no regular file; correct ssh_key_file",
        ),
        (lambda key: key.unlink(), "the key file {key} cannot be read (No such file or directory)"),
    ],
    ids=["group", "others", "pipe", "directory", "absent"],
)
@pytest.mark.parametrize("transport", ["asyncssh", "openssh"])
async def test_a_key_that_is_not_ours_alone_is_refused(
    home: Path, sshd: SSHServer, spoil: Callable[[Path], Any], said: str, transport: str
) -> None:
    """A private key that others can read, or that is no file, is an AuthError at once, by either way in."""
    key = make_key(home / "key")
    spoil(key)
    section = login.reaching(sshd, ssh_key_file=str(key), transport=transport)
    text = await asyncio.wait_for(login.refusal(section, errors.AuthError), 10)
    assert said.format(key=key) in text


@pytest.mark.parametrize("transport", ["asyncssh", "openssh"])
async def test_a_path_in_a_command_to_type_is_one_word(home: Path, sshd: SSHServer, transport: str) -> None:
    """A path that somebody else may have chosen does nothing but name a file when the advice is followed."""
    key, known = make_key(home / "a; touch made"), home / "k; touch made"
    key.chmod(0o644)
    section = login.reaching(sshd, transport=transport, ssh_key_file=str(key))
    assert f"run `chmod 600 '{key}'`" in await login.refusal(section, errors.AuthError)
    section = login.reaching(sshd, transport=transport, known_hosts_file=str(known))
    assert f"-o UserKnownHostsFile='{known}'" in await login.refusal(section, errors.HostKeyUnknown)


@pytest.mark.parametrize("form", ["binary", "behind a preface"])
async def test_no_form_of_a_private_key_may_be_read_by_others(home: Path, sshd: SSHServer, form: str) -> None:
    """What others can read has to be a public key, or it is refused, however it looks."""
    key = home / "odd"
    if form == "binary":
        asyncssh.read_private_key(sshd.key_file).write_private_key(key, "pkcs8-der")
    else:
        key.write_bytes(b"# of mine\n" * 500 + sshd.key_file.read_bytes())
    key.chmod(0o600)
    assert await login.enter(login.reaching(sshd, ssh_key_file=str(key))) == "in"
    key.chmod(0o644)
    text = await login.refusal(login.reaching(sshd, ssh_key_file=str(key)), errors.AuthError)
    assert f"others can read the key file {key}; run `chmod 600 {key}`." in text


@needs_root
async def test_a_strangers_secret_is_refused(home: Path, sshd: SSHServer) -> None:
    """A file with a passphrase that belongs to another user, or that others can read, is a ConfigError."""
    file = home / "passphrase"
    for owner, permissions in ((STRANGER, 0o600), (0, 0o604)):
        file.write_text("word")
        file.chmod(permissions)
        os.chown(file, owner, owner)
        section = login.reaching(sshd, ssh_key_passphrase_file=str(file))
        assert f"others can read or own {file}" in await login.refusal(section, errors.ConfigError)
