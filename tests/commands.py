"""Running a command as its user does: arguments in, exit status and printed lines out."""
from __future__ import annotations

from dataclasses import dataclass

from mirnet_torch.cli import run_command


@dataclass(frozen=True)
class Result:
    """What the user of a command sees."""

    status: int
    out: str
    err: str


def run(capsys, main, *arguments) -> Result:
    """Run `main` with its arguments inside `run_command`; an exception that escapes fails the test."""
    capsys.readouterr()
    try:
        status = run_command(lambda: main([str(argument) for argument in arguments]))
    except SystemExit as stop:  # of argparse
        status = stop.code
    return Result(status, *capsys.readouterr())


def assert_one_error(status: int, err: str, *words: str) -> None:
    """Assert that a command failed with one error, the last line, and that this line holds all the words."""
    assert status not in (0, None), err
    assert "Traceback" not in err and "Warning" not in err, err
    assert err.count("error:") == 1, err
    last = err.rstrip("\n").splitlines()[-1]
    assert "error: " in last, err
    for word in words:
        assert word in last, f"{word!r} is not in {last!r}"
