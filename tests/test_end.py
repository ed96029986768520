"""How the process of a command ends: with its status, everything written, and no teardown of Python that other threads could meet."""

import os
import subprocess
import sys
from pathlib import Path

from livetalk_core.cli import __main__

ROOT = Path(__file__).parent.parent

COMMAND = """
import atexit, os, sys, threading, time
from livetalk_core.cli.end import run_to_end

class Kept:
    def __del__(self, write=os.write):
        write(1, b"Python takes itself apart\\n")

kept = Kept()
atexit.register(print, "at exit")

def command():
    threading.Thread(target=lambda: (go.wait(), print("the thread is done"))).start()
    print("the command is done")
    go.set()
    return END

go = threading.Event()
"""

DONE = ["at exit", "the command is done", "the thread is done"]


def run(code: str) -> tuple[int, list[str], str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    return done.returncode, sorted(done.stdout.splitlines()), done.stderr


def test_a_command_ends_with_its_status_before_python_takes_itself_apart():
    """The control ends as scripts do."""
    assert run(COMMAND.replace("END", "3") + "run_to_end(command)") == (3, DONE, "")
    assert run(COMMAND.replace("END", "3") + "sys.exit(command())") == (3, ["Python takes itself apart", *DONE], "")


def test_a_command_that_breaks_ends_the_same_way_with_a_traceback():
    status, lines, errors = run(COMMAND.replace("END", "1 / 0") + "run_to_end(command)")
    assert (status, lines) == (1, DONE) and "ZeroDivisionError" in errors


def test_the_command_line_ends_through_it(monkeypatch):
    ended = []
    monkeypatch.setattr(sys, "argv", ["livetalk", "doctor", "--model", "/nowhere"])
    monkeypatch.setattr("livetalk_core.cli.end.leave", ended.append)
    __main__.run()
    assert ended == [1]


def test_a_reader_that_is_gone_is_no_error():
    code = "print('few words')\nfrom livetalk_core.cli.end import leave\nleave(0)"
    buffered = os.environ | {"PYTHONUNBUFFERED": ""}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, env=buffered)
    process.stdout.close()
    assert (process.wait(), process.stderr.read()) == (0, b"")
