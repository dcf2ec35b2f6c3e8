"""For the whole suite: the parity table at its end, and Ctrl-C.

Ctrl-C works in every program that the tests start, though nohup and background jobs make children ignore it.
"""
from __future__ import annotations

import signal

from parity_table import TABLE

signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, signal.SIG_DFL)


def pytest_terminal_summary(terminalreporter) -> None:
    if TABLE:
        terminalreporter.section("parity today")
        widths = [max(len(row[i]) for row in TABLE) for i in range(4)]
        for row in TABLE:
            terminalreporter.write_line("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
