"""The stderr of workers: shown once, harmless to a terminal, and quoted where a worker dies."""

import io
import subprocess
import sys
from pathlib import Path

import pytest

from autodistill.executors.deaths import LONGEST_LINE, MOST_LINES, WorkerOutput, harmless, last_lines


def test_the_last_lines_keep_the_native_message_and_the_first_frames():
    frames = [f'  File "a.py", line {number} in f' for number in range(100)]
    text = "\n".join(["old warning"] * 30 + ["double free or corruption (!prev)", "Fatal Python error: Aborted", ""])
    text += "\n".join(["", "Stack (most recent call first):", *frames, "", "Extension modules: torch._C (total: 99)"])
    found = last_lines(text).splitlines()
    assert len(found) == MOST_LINES
    assert "double free or corruption (!prev)" in found
    assert found[found.index("Fatal Python error: Aborted") + 2] == frames[0]
    assert found[-1] == "  ..."
    assert not any("Extension modules" in line for line in found)


def test_the_last_lines_of_a_traceback_end_with_the_error():
    found = last_lines("\n".join(f"line {number}" for number in range(50)) + "\nMemoryError\n\n").splitlines()
    assert found == [*(f"line {number}" for number in range(31, 50)), "MemoryError"]
    assert last_lines("") == ""
    assert len(last_lines("x" * 10_000)) == LONGEST_LINE


def test_control_characters_are_spelt_out():
    assert harmless("a\x1b[2J\x07b\r") == r"a\x1b[2J\x07b\r"
    assert harmless("\ttab é 漢") == "    tab é 漢"
    assert "\u202e" not in harmless("\u202eevil")


def test_output_is_passed_on_once_and_its_file_removed(monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    output = WorkerOutput()
    with open(output.path, "ab", buffering=0) as file:
        file.write(b"one\n\xff")
        output.pass_on()
        output.pass_on()
        file.write(b"two\n")
        assert output.tail() == "one\n�two"
    output.close()
    output.close()
    assert shown.getvalue() == "one\n�two\n"
    assert not Path(output.path).exists()
    assert output.tail() == ""


def test_output_that_is_passed_on_cannot_steer_a_terminal(monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    output = WorkerOutput()
    with open(output.path, "ab", buffering=0) as file:
        for part in ("a\x1b[2J\tb\r\n\n", "é".encode()[:1], "é".encode()[1:], b" \x07"):
            file.write(part if isinstance(part, bytes) else part.encode())
            output.pass_on()
    output.close()
    assert shown.getvalue() == "a\\x1b[2J   b\n\né \\x07"


def test_what_an_error_quotes_is_not_passed_on(monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    output = WorkerOutput()
    with open(output.path, "ab", buffering=0) as file:
        file.write(b"".join(b"line %d\x07\n" % number for number in range(MOST_LINES + 2)))
    output.close(quoted=output.tail())
    assert shown.getvalue() == "line 0\\x07\nline 1\\x07\n"


@pytest.mark.slow
def test_without_a_place_for_files_a_worker_keeps_the_stderr_of_its_parent(monkeypatch):
    def full(**_: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.mkstemp", full)
    output = WorkerOutput()
    assert output.path == ""
    output.pass_on()
    assert output.tail() == ""
    output.close()
    code = "import os; from autodistill.executors.deaths import redirect_stderr as go; go(''); os.write(2, b'k')"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (0, "k")
