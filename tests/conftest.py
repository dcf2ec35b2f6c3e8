"""Ctrl-C works in every program that the tests start, though nohup and background jobs make children ignore it."""
from __future__ import annotations

import signal

signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
