"""circus, supervisord and gunicorn, set up as their documentation says; only the backlog is not the default."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from ..program import PYTHON, Failed
from .contenders import Report
from .stage import (
    BACKLOG,
    COMMAND_TIME,
    INSTANCES,
    MEMORY_LIMIT,
    PATIENCE,
    Stage,
    children,
    kill,
    run,
    until,
)


class Peer:
    """A supervisor whose children are the instances; it starts `current`, a link to the version that is deployed."""

    name: str
    program: str

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def missing(cls) -> str:
        """See Contender."""
        return "" if _program(cls.program) else f"{cls.program} is not installed: pip install '.[bench]'"

    def limit_memory(self) -> None:
        """Limit everything together, as a systemd unit of the supervisor would; none has limits of its own."""
        self.stage.limit((INSTANCES + 1) * MEMORY_LIMIT)

    def start(self, version: str) -> None:
        """See Contender."""
        self.stage.deploy(version, "good")
        self.configure()
        self._process = self.stage.spawn(*self.command())
        self.stage.until_served()

    def upgrade(self, version: str, behaviour: str) -> Report:
        """See Contender."""
        self.stage.deploy(version, behaviour)
        ended = run(self.reload_command(), COMMAND_TIME)
        lines = (ended.stdout + ended.stderr).split("\n")
        return Report(ended.returncode, next((line.strip() for line in reversed(lines) if line.strip()), ""))

    def kill_instance(self) -> None:
        """See Contender."""
        instances = children(self.pid)
        if not instances:
            raise Failed(f"{self.name} has no instances: {self.stage.last_words()}")
        kill(instances[0])

    def kill_supervisor(self) -> Report:
        """See Contender; one that ends at once is started again."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            self._process = self.stage.restart(*self.command())
            until(self._settled)
            if self._process.poll() is None and len(children(self.pid)) == INSTANCES:
                return Report(0, "started again")
        return Report(1, self.stage.last_words())

    def _settled(self) -> bool:
        """Whether the supervisor has ended or has all its instances."""
        assert self._process is not None
        return self._process.poll() is not None or len(children(self.pid)) == INSTANCES

    def stop(self) -> None:
        """See Contender."""
        if self._process is not None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(PATIENCE)

    @property
    def pid(self) -> int:
        """The supervisor's process."""
        assert self._process is not None
        return self._process.pid

    def configure(self) -> None:
        """Write the configuration."""

    def command(self) -> list[str]:
        """What starts the supervisor."""
        raise NotImplementedError

    def reload_command(self) -> list[str]:
        """What makes it run the version that is deployed now."""
        raise NotImplementedError

    def write(self, name: str, text: str) -> str:
        """Write a file into the stage's folder and return its path."""
        path = self.stage.folder / name
        path.write_text(text)
        return str(path)


def _program(name: str) -> str | None:
    """Where a program is: beside this interpreter, or on the PATH."""
    beside = Path(sys.prefix, "bin", name)
    return str(beside) if beside.exists() else shutil.which(name)


def _path(name: str) -> str:
    found = _program(name)
    assert found is not None, f"{name} was there before"
    return found


class Circus(Peer):
    """circus: one socket, a watcher; https://circus.readthedocs.io/en/latest/for-ops/sockets/."""

    name = "circus"
    program = "circusd"

    def configure(self) -> None:
        """See Peer."""
        self.write(
            "circus.ini",
            "[circus]\n"
            f"endpoint = {self._endpoint}\n"
            f"pubsub_endpoint = ipc://{self.stage.folder}/events\n"
            "[watcher:web]\n"
            f"cmd = {PYTHON} -ES {self.stage.current}/app.py $(circus.sockets.web)\n"
            "use_sockets = True\n"
            f"numprocesses = {INSTANCES}\n"
            "[socket:web]\n"
            f"host = 127.0.0.1\nport = {self.stage.port}\nbacklog = {BACKLOG}\n",
        )

    @property
    def _endpoint(self) -> str:
        return f"ipc://{self.stage.folder}/control"

    def command(self) -> list[str]:
        """See Peer."""
        return [_path("circusd"), f"{self.stage.folder}/circus.ini"]

    def reload_command(self) -> list[str]:
        """See Peer."""
        return [_path("circusctl"), "--endpoint", self._endpoint, "reload", "web", "--waiting"]


class Supervisord(Peer):
    """supervisord: a `fcgi-program`, its only way to share a socket, which the instances get as descriptor 0."""

    name = "supervisord"
    program = "supervisord"

    def configure(self) -> None:
        """See Peer."""
        self.write(
            "supervisord.conf",
            "[supervisord]\n"
            f"nodaemon = true\nuser = root\nlogfile = {self.stage.folder}/log\nlogfile_maxbytes = 0\n"
            f"pidfile = {self.stage.folder}/pid\n"
            f"[unix_http_server]\nfile = {self.stage.folder}/control\n"
            f"[supervisorctl]\nserverurl = unix://{self.stage.folder}/control\n"
            "[rpcinterface:supervisor]\n"
            "supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface\n"
            "[fcgi-program:web]\n"
            f"command = {PYTHON} -ES {self.stage.current}/app.py 0\n"
            "process_name = %(program_name)s_%(process_num)s\n"
            f"numprocs = {INSTANCES}\n"
            f"socket = tcp://127.0.0.1:{self.stage.port}\nsocket_backlog = {BACKLOG}\n"
            "autorestart = true\nstdout_logfile = NONE\nstderr_logfile = NONE\n",
        )

    def command(self) -> list[str]:
        """See Peer."""
        return [_path("supervisord"), "-c", f"{self.stage.folder}/supervisord.conf"]

    def reload_command(self) -> list[str]:
        """See Peer."""
        return [_path("supervisorctl"), "-c", f"{self.stage.folder}/supervisord.conf", "restart", "web:*"]


class Gunicorn(Peer):
    """gunicorn: a master that forks workers with threads; SIGHUP has them replaced, and tells nobody how that went."""

    name = "gunicorn"
    program = "gunicorn"

    def command(self) -> list[str]:
        """See Peer."""
        workers = ["--workers", str(INSTANCES), "--worker-class", "gthread", "--threads", "8"]
        bind = ["--bind", f"127.0.0.1:{self.stage.port}", "--backlog", str(BACKLOG)]
        return [_path("gunicorn"), *workers, *bind, "--chdir", str(self.stage.current), "app:application"]

    def reload_command(self) -> list[str]:
        """See Peer."""
        return ["/bin/kill", f"-{signal.SIGHUP.name.removeprefix('SIG')}", str(self.pid)]
