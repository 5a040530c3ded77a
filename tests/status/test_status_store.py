from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fake_host import Host, state_of

import lithos_runner
from lithos_runner.status import store
from lithos_runner.status.readings import Observer
from lithos_runner.status.store import AlreadyRunning, StateDirectory

if TYPE_CHECKING:
    from collections.abc import Callable

_PATHS = [Path(lithos_runner.__file__).parents[1]]


@pytest.fixture(autouse=True)
def _root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITHOS_RUNTIME_DIR", str(tmp_path))


@pytest.fixture
def runtime(tmp_path: Path) -> str:
    return str(tmp_path / "run-hello")


class TestLock:
    def test_a_second_claim_names_the_first_one(self, host: Host) -> None:
        first = host.supervisor("run-hello")
        with pytest.raises(AlreadyRunning, match=f"pid {first.process.pid}") as caught:
            store.claim(str(first.runtime))
        assert caught.value.pid == first.process.pid

    def test_a_claim_succeeds_after_sigkill_and_forgets_the_dead_one(self, host: Host) -> None:
        first = host.supervisor("run-hello")
        first.tell("write_instance", state_of(None))
        first.kill()
        os.close(store.claim(str(first.runtime)))
        assert store.read_supervisor(str(first.runtime)) is None
        assert not (first.runtime / "master.pid").exists()
        assert [value["name"] for value in store.read_instances(str(first.runtime))] == ["run/hello.0"]

    def test_the_lock_is_not_inherited_by_a_program(self, runtime: str) -> None:
        lock = store.claim(runtime)
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, close_fds=False)
        os.close(lock)
        assert not store.is_held(runtime)
        child.communicate()

    def test_nobody_else_may_open_the_lock(self, runtime: str) -> None:
        os.close(store.claim(runtime))
        assert os.stat(f"{runtime}/lock").st_mode & 0o777 == 0o600

    def test_readers_do_not_keep_a_supervisor_from_starting(self, runtime: str) -> None:
        os.makedirs(runtime)
        os.close(store.claim(runtime))
        look = f"from lithos_runner.status import store\nprint(flush=True)\nwhile True: store.is_held({runtime!r})"
        readers = [subprocess.Popen([sys.executable, "-c", look], stdout=subprocess.PIPE) for _ in range(2)]
        for reader in readers:
            assert reader.stdout is not None
            reader.stdout.readline()
        for _ in range(2000):
            os.close(store.claim(runtime))
        for reader in readers:
            assert reader.poll() is None
            reader.kill()
            reader.communicate()

    def test_a_directory_removed_by_the_one_before_is_made_again(self, runtime: str) -> None:
        lock = store.claim(runtime)
        StateDirectory.create(runtime).remove()
        assert not os.path.exists(runtime)
        other = store.claim(runtime)
        assert store.is_held(runtime)
        os.close(lock)
        assert store.is_held(runtime)
        os.close(other)
        assert not store.is_held(runtime)

    def test_nobody_holds_what_is_not_there(self, runtime: str) -> None:
        assert not store.is_held(runtime)


class TestStateDirectory:
    def test_what_is_written_is_read(self, runtime: str) -> None:
        state = StateDirectory.create(runtime)
        first, second = state_of(None, index=0), state_of(None, index=1, sockets=[{"inode": 1}])
        state.write_instance(first)
        state.write_instance(second)
        assert store.read_instances(runtime) == [first, second]

    def test_files_have_the_names_of_the_instances(self, runtime: str) -> None:
        state = StateDirectory.create(runtime)
        state.write_instance(state_of(None, index=3))
        assert os.listdir(f"{runtime}/state") == ["run:hello.3.json"]
        state.forget("run/hello.3")
        state.forget("run/hello.3")
        assert os.listdir(f"{runtime}/state") == []

    def test_what_would_say_the_same_is_not_written(self, runtime: str) -> None:
        state = StateDirectory.create(runtime)
        writes: dict[str, Callable[[int], None]] = {
            f"{runtime}/supervisor.json": lambda n: state.write_supervisor({"pid": n}),
            f"{runtime}/state/run:hello.0.json": lambda n: state.write_instance(state_of(None, generation=n)),
            f"{runtime}/services/run:hello.json": lambda n: state.write_service("run/hello", {"generation": n}),
        }
        for path, write in writes.items():
            write(1)
            # A new file may get the number of one that is gone, so this one stays.
            os.link(path, f"{path}.before")
            write(1)
            assert os.path.samefile(path, f"{path}.before")
            write(2)
            assert not os.path.samefile(path, f"{path}.before")

    def test_what_was_forgotten_is_written_again(self, runtime: str) -> None:
        state = StateDirectory.create(runtime)
        for _ in range(2):
            state.write_instance(state_of(None))
            state.write_service("run/hello", {"generation": 1})
            assert len(store.read_instances(runtime)) == len(store.read_services(runtime)) == 1
            state.forget("run/hello.0")
            state.forget_service("run/hello")
            assert store.read_instances(runtime) == store.read_services(runtime) == []

    def test_what_could_not_be_written_is_tried_again(self, runtime: str) -> None:
        state = StateDirectory.create(runtime)
        # In the place of the temporary file, which nobody can open for writing then.
        obstacle = Path(runtime, "state", ".run:hello.0.json")
        obstacle.mkdir()
        with pytest.raises(IsADirectoryError):
            state.write_instance(state_of(None))
        obstacle.rmdir()
        state.write_instance(state_of(None))
        assert store.read_instances(runtime) == [state_of(None)]

    def test_a_reader_never_sees_half_a_file(self, runtime: str) -> None:
        writer = (
            "import sys\nfrom lithos_runner.status.store import StateDirectory\n"
            f"state = StateDirectory.create({runtime!r})\n"
            "print(flush=True)\n"
            "for n in range(3000):\n    state.write_instance({'name': 'a/b.0', 'filler': 'x' * (n % 97) * 50})\n"
        )
        StateDirectory.create(runtime).write_instance({"name": "a/b.0"})
        process = subprocess.Popen([sys.executable, "-c", writer], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        looks = 0
        while process.poll() is None:
            assert len(store.read_instances(runtime)) == 1
            looks += 1
        process.stdout.close()
        assert process.returncode == 0
        assert looks > 10

    def test_remove_leaves_nothing(self, runtime: str, tmp_path: Path) -> None:
        lock = store.claim(runtime)
        state = StateDirectory.create(runtime)
        state.write_supervisor({"pid": os.getpid()})
        state.write_instance(state_of(None))
        state.remove()
        os.close(lock)
        assert not tmp_path.exists()

    def test_remove_leaves_what_others_need(self, tmp_path: Path) -> None:
        first, second = (StateDirectory.create(str(tmp_path / name)) for name in ("first", "second"))
        first.remove()
        assert list(store.registered()) == [str(tmp_path / "second")]
        second.remove()
        assert not tmp_path.exists()

    def test_remove_keeps_files_of_others(self, runtime: str) -> None:
        state = StateDirectory.create(runtime)
        foreign = os.path.join(runtime, "keep")
        open(foreign, "w").close()
        state.remove()
        assert os.listdir(runtime) == ["keep"]

    def test_registrations_of_similar_paths_differ(self, tmp_path: Path) -> None:
        paths = [str(tmp_path / "a-b"), str(tmp_path / "a" / "b")]
        for path in paths:
            StateDirectory.create(path)
        assert sorted(store.registered()) == sorted(paths)

    def test_a_full_file_system_is_an_error_and_keeps_what_was_there(self, tmp_path: Path) -> None:
        script = (
            "import errno, os\nfrom lithos_runner.status.store import StateDirectory, read_instances\n"
            "state = StateDirectory.create('/mnt/run')\nstate.write_instance({'name': 'a/b.0'})\n"
            "try:\n    state.write_instance({'name': 'a/b.0', 'filler': 'x' * 1000000})\n"
            "except OSError as error:\n    assert error.errno == errno.ENOSPC, error\n"
            "else:\n    raise SystemExit('no error')\n"
            "assert read_instances('/mnt/run') == [{'name': 'a/b.0'}]\n"
        )
        mount = f'mount -t tmpfs -o size=64k tmpfs /mnt && exec {sys.executable} -c "$1"'
        subprocess.run(
            ["unshare", "-m", "sh", "-c", mount, "sh", script],
            env={**os.environ, "LITHOS_RUNTIME_DIR": str(tmp_path)},
            check=True,
        )


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"name": 1}', json.dumps({"name": "x"}).encode()],
)
def test_a_malformed_file_is_passed_over(host: Host, content: bytes) -> None:
    supervisor = host.supervisor()
    supervisor.tell("write_instance", state_of(None))
    (supervisor.runtime / "state" / "run:other.0.json").write_bytes(content)
    with Observer() as observer:
        (seen,) = observer.supervisors()
    assert [instance.name for instance in seen.instances] == ["run/hello.0"]


def test_what_is_no_file_is_passed_over(host: Host) -> None:
    supervisor = host.supervisor()
    state = supervisor.runtime / "state"
    os.mkfifo(state / "fifo.json")
    (state / "directory.json").mkdir()
    (state / "link.json").symlink_to("/etc/passwd")
    (state / ".half.json").write_text("{")
    (state / "notes.txt").write_text("{}")
    with Observer() as observer:
        assert [seen.instances for seen in observer.supervisors()] == [[]]
    for name in ("fifo.json", "link.json"):
        (state / name).unlink()
    (state / "directory.json").rmdir()


def test_the_write_half_imports_little() -> None:
    script = "import lithos_runner.status.store; print(*sys.modules)"
    # Without site, which imports what the virtual environment needs.
    script = f"import sys; sys.path[:0] = {[*map(str, _PATHS)]!r}; {script}"
    out = subprocess.run([sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, check=True)
    heavy = {
        "argparse",
        "dataclasses",
        "pathlib",
        "subprocess",
        "logging",
        "asyncio",
        "yaml",
        "attrs",
        "cgroup",
        "tempfile",
    }
    assert not heavy & set(out.stdout.split())


def test_what_a_predecessor_was_writing_when_it_was_killed_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LITHOS_RUNTIME_DIR", str(tmp_path / "root"))
    runtime = tmp_path / "runtime"
    first = StateDirectory.create(str(runtime))
    first.write_instance({"name": "run/hello.0"})
    names = (".supervisor.json", ".master.pid", "state/.run:hello.0.json", "services/.run:hello.json")
    halves = [runtime / name for name in names]
    for half in halves:
        half.write_text('{"na')
    second = StateDirectory.create(str(runtime))
    assert not any(half.exists() for half in halves)
    assert store.read_instances(str(runtime)) == [{"name": "run/hello.0"}]
    second.remove()
    assert not runtime.exists()
