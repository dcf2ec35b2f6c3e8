"""The parity table: tests of every kind add rows to it, and the end of the run prints it."""
from __future__ import annotations

TABLE: list[tuple[str, str, str, str]] = []  # network, link, figures of today, tolerance
