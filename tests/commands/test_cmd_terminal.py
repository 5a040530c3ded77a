"""`lithos cmd` on a terminal: never is it handed on; who is `interactive` gets one of its own."""

from __future__ import annotations

import os
import signal
import sys
import termios
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "supervisor"))
sys.path.insert(0, str(Path(__file__).parent))

from command_host import CommandHost, shop, until_ended
from real_host import PATIENCE, processes_in

__all__ = ["shop"]

WHERE = "for fd in 0 1 2; do [ -t $fd ] && echo $fd; done; (: < /dev/tty) 2> /dev/null && echo /dev/tty"


def devices(pids: list[int]) -> set[int]:
    """The character devices that processes have open."""
    links = [link for pid in pids for link in Path(f"/proc/{pid}/fd").iterdir()]
    return {os.stat(link).st_rdev for link in links if os.path.lexists(link)}


# Interactive.


def test_an_interactive_command_has_a_terminal_of_its_own(shop: CommandHost) -> None:
    shop.command(f"{WHERE}; stty size; echo $TERM; echo ready; read line; exit 4", interactive=True)
    terminal = shop.terminal()
    assert terminal.until("ready\r\n").split() == ["0", "1", "2", "/dev/tty", "31", "97", "vt100", "ready"]
    open_devices = devices(processes_in(shop.group(terminal.process)))
    assert os.fstat(terminal.inside).st_rdev not in open_devices
    assert any(os.major(device) == 136 for device in open_devices)  # a pty, see Documentation/admin-guide/devices.txt
    terminal.press("\r")
    assert terminal.end() == (4, "\r\n")


def test_the_configuration_knows_the_terminal_better(shop: CommandHost) -> None:
    shop.command("echo $TERM", interactive=True, environ={"TERM": "xterm"})
    assert shop.terminal().end() == (0, "xterm\r\n")


def test_every_key_is_for_the_application(shop: CommandHost) -> None:
    """Ctrl-C, Ctrl-Z, Ctrl-D and Ctrl-\\: the caller's terminal makes signals of them only where the command runs."""
    shop.command("stty raw -echo; echo ready; exec cat", interactive=True)
    terminal = shop.terminal()
    terminal.until("ready")
    terminal.press("\x03\x1a\x04\x1c\x11\x13q")
    terminal.until("\x03\x1a\x04\x1c\x11\x13q")
    terminal.hang_up()
    assert terminal.process.wait(PATIENCE) == 128 + signal.SIGTERM


def test_control_c_interrupts_the_application_only(shop: CommandHost) -> None:
    shop.command("trap 'echo interrupted' INT; echo ready; read line; read line; exit 8", interactive=True)
    terminal = shop.terminal()
    terminal.until("ready")
    terminal.press("\x03")
    terminal.until("interrupted")
    terminal.press("on\n")
    terminal.press("on\n")
    assert terminal.end()[0] == 8


def test_the_size_follows_the_window(shop: CommandHost) -> None:
    shop.command("trap 'stty size' WINCH; echo ready; while :; do read line && exit; done", interactive=True)
    terminal = shop.terminal()
    terminal.until("ready")
    terminal.resize(50, 132)
    terminal.until("50 132\r\n")
    terminal.press("\n")
    assert terminal.end()[0] == 0


@pytest.mark.parametrize("how", ["exit 3", "kill -9 $$", "stty raw -echo; exit 3"])
def test_the_callers_terminal_is_raw_meanwhile_and_then_as_it_was(shop: CommandHost, how: str) -> None:
    shop.command(f"echo ready; read line; {how}", interactive=True)
    terminal = shop.terminal()
    terminal.until("ready")
    assert not termios.tcgetattr(terminal.inside)[3] & (termios.ICANON | termios.ECHO | termios.ISIG)
    terminal.press("\n")
    assert terminal.end()[0] in (3, 137)
    assert termios.tcgetattr(terminal.inside) == terminal.before


def test_it_is_restored_when_a_signal_ends_the_command(shop: CommandHost) -> None:
    shop.command("trap 'exit 5' TERM; echo ready; while :; do read line; done", interactive=True)
    terminal = shop.terminal()
    terminal.until("ready")
    terminal.process.send_signal(signal.SIGTERM)
    assert terminal.end()[0] == 5
    assert termios.tcgetattr(terminal.inside) == terminal.before


def test_it_behaves_as_the_callers_does(shop: CommandHost) -> None:
    """Which key erases, and whether characters are UTF-8."""
    shop.command("stty -a", interactive=True)
    code, shown = shop.terminal(wrap=("sh", "-c", 'stty erase ^H iutf8; exec "$@"', "sh")).end()
    assert code == 0
    assert "erase = ^H;" in shown
    assert " iutf8" in shown


def test_what_is_redirected_stays_redirected(shop: CommandHost, tmp_path: Path) -> None:
    shop.command(f"{WHERE}; echo error >&2", interactive=True)
    with (tmp_path / "out").open("w") as out:
        terminal = shop.terminal(stdout=out.fileno())
        assert terminal.end() == (0, "error\r\n")
    assert (tmp_path / "out").read_text() == "0\n2\n/dev/tty\n"


def test_without_a_terminal_as_input_there_is_none(shop: CommandHost) -> None:
    """As in `echo … | lithos cmd …`; the output is a pipe then."""
    shop.command(f"{WHERE}; read line; echo got $line", interactive=True)
    reader, writer = os.pipe()
    os.write(writer, b"this\n")
    os.close(writer)
    terminal = shop.terminal(stdin=reader)
    os.close(reader)
    assert terminal.end() == (0, "got this\r\n")


def test_its_user_may_open_it_again(shop: CommandHost) -> None:
    shop.command("echo out > /dev/stdout; echo error > /dev/stderr", interactive=True)
    assert shop.terminal().end() == (0, "out\r\nerror\r\n")


@pytest.mark.parametrize("interactive", [True, False])
def test_a_terminal_that_is_gone_ends_the_command(shop: CommandHost, interactive: bool) -> None:
    shop.command("trap 'exit 0' TERM; sleep 1000 & echo ready; while :; do wait $!; done", interactive=interactive)
    terminal = shop.terminal()
    terminal.until("ready")
    pids = processes_in(shop.group(terminal.process))
    terminal.hang_up()
    assert terminal.process.wait(PATIENCE) == 0
    until_ended(pids)


def test_it_dies_with_its_lithos_cmd(shop: CommandHost) -> None:
    shop.command("trap '' TERM HUP; sleep 1000 & echo ready; while :; do wait $!; done", interactive=True)
    terminal = shop.terminal()
    terminal.until("ready")
    pids = processes_in(shop.group(terminal.process))
    terminal.process.send_signal(signal.SIGKILL)
    until_ended(pids)
    shop.command("", "next")
    assert shop.run("next").returncode == 0


# Not interactive.


def test_without_interactive_there_is_no_terminal(shop: CommandHost) -> None:
    """Input has ended, output is a pipe."""
    shop.command(f"{WHERE}; cat; echo $TERM; echo ready; sleep 1000")
    terminal = shop.terminal()
    assert terminal.until("ready\r\n") == "dumb\r\nready\r\n"
    assert {os.major(device) for device in devices(processes_in(shop.group(terminal.process)))} <= {0, 1}
    assert termios.tcgetattr(terminal.inside) == terminal.before
    terminal.press("\x03")
    assert terminal.end()[0] == 128 + signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_signals_are_as_without_a_terminal(shop: CommandHost, number: int) -> None:
    shop.command("trap 'echo term; exit 7' TERM; sleep 1000 & echo ready; while :; do wait $!; done")
    terminal = shop.terminal()
    terminal.until("ready")
    terminal.process.send_signal(number)
    code, shown = terminal.end()
    assert code == 7
    assert "term\r\n" in shown


def test_both_streams_keep_their_order(shop: CommandHost) -> None:
    shop.command("for n in $(seq 100); do echo $n; echo -$n >&2; done")
    code, shown = shop.terminal().end()
    assert code == 0
    assert shown.split() == [word for n in range(1, 101) for word in (f"{n}", f"-{n}")]


@pytest.mark.parametrize("interactive", [True, False])
def test_nothing_of_what_was_printed_last_is_lost(shop: CommandHost, interactive: bool) -> None:
    """More than a pipe or a terminal holds; the writer is gone at once when it could write all."""
    shop.command("exec seq 20000", interactive=interactive)
    code, shown = shop.terminal().end()
    assert code == 0
    assert shown.split() == [str(n) for n in range(1, 20001)]


def test_what_a_terminal_would_obey_is_written_out(shop: CommandHost) -> None:
    """Colours stay; a title that is set and then reported would be typed in at the caller's shell."""
    shop.command(r"printf '\033]0;reboot\007\033[21t\033[31mred\033[0m é\r\n\t\302\233'")
    assert shop.terminal().end() == (0, "^[]0;reboot^G^[[21t\x1b[31mred\x1b[0m é\r\r\n\t\\x9b")


def test_only_what_is_a_terminal_is_replaced(shop: CommandHost, tmp_path: Path) -> None:
    shop.command("cat; echo error >&2")
    with (tmp_path / "file").open("w+") as file:
        file.write("content\n")
        file.flush()
        file.seek(0)
        terminal = shop.terminal(stdin=file.fileno())
        assert terminal.end() == (0, "content\r\nerror\r\n")
