"""What the shipped model costs, by two tools of other people: `tensorscope-cli` and `mcufit`."""
from __future__ import annotations

import json
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest

import mirnet_torch
from conversion.bridge.cost import Cost, cost
from conversion.bridge.graph import read_graph

SHIPPED = Path(mirnet_torch.__file__).parent / "weights" / "mcu_int8.tflite"
CLOCK = 64e6  # of the Nano 33 BLE


@pytest.fixture(scope="module")
def ours() -> Cost:
    return cost(read_graph(SHIPPED))


def theirs(tool: str, *arguments: object) -> dict[str, Any]:
    """Run a tool that writes JSON, as pip installed it beside this Python."""
    program = Path(sysconfig.get_path("scripts")) / tool
    if not program.exists():
        pytest.skip(f"{tool} is not installed: pip install -e '.[test]'")
    result = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=True)
    return json.loads(result.stdout)


def test_tensorscope_finds_the_same_arena_and_the_same_work(ours):
    report = theirs("tensorscope", "analyze", SHIPPED, "--json")
    assert report["arena_head"]["bytes"] == ours.head_bytes
    assert report["compute_cost"]["total_mac_count"] == ours.macs


@pytest.fixture(scope="module")
def mcufit() -> dict[str, Any]:
    return theirs("mcufit", "check", SHIPPED, "-b", "nano33ble", "--json")


def test_mcufit_finds_the_same_activations_and_the_same_work(ours, mcufit):
    assert mcufit["estimate"]["peak_activation_bytes"] == ours.head_bytes
    assert mcufit["macs_by_op"]["CONV_2D"] == sum(item.macs for item in ours.operators
                                                  if item.operator.name == "CONV_2D")


def test_mcufit_s_milliseconds_are_between_one_and_two_cycles_an_instruction(ours, mcufit):
    """Throughput measured on a real Nano 33 BLE, built by Arduino, against instructions predicted for -Os.

    mcufit states by how many percent its milliseconds were too low or too high on four models, and the kinds of
    operators that it leaves out; those are left out of the instructions too. Most instructions of a Cortex-M4 take one
    cycle, loads and branches taken two or three. The instructions of -O2 would be too few.
    """
    latency = mcufit["latency"]
    lowest, highest = latency["error_pct"]
    cycles = latency["milliseconds"] / 1000 * CLOCK
    instructions = sum(count for kind, count in ours.by_kind().items() if kind not in latency["unmodelled_ops"])
    assert instructions > 0.8 * ours.instructions
    assert cycles / (1 + highest / 100) / instructions > 1
    assert cycles / (1 + lowest / 100) / instructions < 2
