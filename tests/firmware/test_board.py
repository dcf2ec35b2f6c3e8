"""What the sketch promises of memory, LEDs and camera, as far as it shows without a board."""
from __future__ import annotations

import re
from pathlib import Path

import pytest
from camera import CameraSettings
from sketch_tools import FIRMWARE, HERE, SKETCH, WARNINGS, complaint, need, run

OTHER_STATUSES, FATAL_STATUSES = (*range(1, 6), 12), range(6, 12)


def test_budget(host_program, model_constants: dict[str, float]) -> None:
    arena, others, frame, flash = map(int, host_program("budget").split())
    assert arena == model_constants["kArenaBytes"] and flash == model_constants["kModelSize"] <= 350_000
    assert frame == 160 * 120 * 2
    assert arena + others <= 128_000
    assert others - frame <= 2048, "protocol buffers"


@pytest.mark.parametrize("constant, value, said", [
    ("kArenaBytes", "160000", "take too much memory"), ("kArenaBytes", "130008", "steps of 16 bytes"),
    ("kModelSize", "350001", "takes too much flash"), ("kInputZeroPoint", "0", "root of a level"),
    ("kInputScale", "0.0041f", "root of a level"), ("kOutputChannels", "6", "another head"),
    ("kInputChannels", "48", "no cells of RGB"), ("kOutputWidth", "16", "another size than the cells"),
    ("kCell", "6", "above 5x5"), ("kOutputScale", "0.1f", "must be below 0.1")])
def test_a_model_that_does_not_suit_does_not_compile(tmp_path: Path, constant: str, value: str, said: str) -> None:
    message = complaint(tmp_path, "memory_budget.h", "pixels.cpp", **{constant: value})
    assert re.search(f"static assertion failed: .*{said}.*(convert|train) ", message), "and what to do about it"


@pytest.mark.parametrize("sizes", [{}, {"kImageWidth": 80, "kImageHeight": 60}, {"kImageHeight": 160}])
def test_a_frame_that_the_camera_does_not_deliver_does_not_compile(tmp_path: Path, sizes: dict[str, int]) -> None:
    message = complaint(tmp_path, "image_source_camera.cpp", **sizes)
    if sizes:
        assert "the camera delivers frames of 160x120 pixels (QQVGA): convert a model for --size 160x120" in message
    else:
        assert message == ""


def test_portable_sources_have_no_heap_and_no_string() -> None:
    for path in sorted(SKETCH.glob("*.[chi]*")):
        code = re.sub(r"//[^\n]*|\"[^\"\n]*\"", "", path.read_text())
        on_heap = re.search(r"\b(new|malloc|calloc|realloc|free|String|std::(string|vector|function))\b", code)
        assert on_heap is None, f"{path.name}: {on_heap}"


def test_only_model_runner_and_kernel_resolver_include_tensorflow() -> None:
    users = [path.name for path in sorted(SKETCH.glob("*.[chi]*"))
             if re.search(r"#include.*(?i:tensorflow)", path.read_text())]
    assert users == ["kernel_resolver.cpp", "kernel_resolver.h", "model_runner.cpp"]


def test_clang_format() -> None:
    formatter = need("clang-format")
    generated = ("model_data.h", "model_data.cpp", "golden_vectors.h", "golden_vectors.cpp")
    files = (*FIRMWARE.glob("*/*"), *HERE.rglob("*"))
    sources = [path for path in files if path.suffix in (".h", ".c", ".cpp", ".ino")]
    assert len(sources) > 30
    ragged = [path.name for path in sources if path.name not in generated and path.read_bytes() != run(
        formatter, "--style=Google", f"--assume-filename={path.stem}.cpp", input=path.read_bytes())]
    assert not ragged, "run clang-format --style=Google -i on them"


def test_portable_sources_compile_without_warnings() -> None:
    from simulator import portable_sources
    hand_written = [path for path in portable_sources() if path.name not in ("model_data.cpp", "golden_vectors.cpp")]
    for path in (*hand_written, FIRMWARE / "viewer" / "simulator.cpp", SKETCH / "mirnet_nano33ble.ino"):
        run(need("g++"), *WARNINGS, "-Wshadow", "-Wsign-conversion", "-fsyntax-only", "-I", SKETCH, "-x", "c++", path)


@pytest.mark.parametrize("status", OTHER_STATUSES)
def test_red_led_blinks_the_status_once(host_program, status: int) -> None:
    leds = host_program("report", status).decode()
    assert len(re.findall("r+", leds)) == status
    assert leds.endswith("g" * 100), "green again afterwards"


@pytest.mark.parametrize("status", FATAL_STATUSES)
def test_red_led_blinks_for_ever_and_the_status_is_repeated(host_program, status: int) -> None:
    leds, sent = host_program("halt", status).decode().split()
    first_round = re.match(r"\.*((r+\.{25,35})+)\.{120,}", leds)
    assert first_round is not None and len(re.findall("r+", first_round[1])) == status
    assert len(re.findall("r+", leds)) > status
    assert int(sent) > 4 * (12 + 1 + 20 + 4), "said every two seconds of ten"


@pytest.mark.parametrize("payload, written", [
    # COM15, COM8 (AGC, AEC), COM9 (ceiling), COM11 (night mode), MVFP (mirror, flip)
    ([0, 0, 5, 0, 0, 0, 0], "40=c0 13=e7 14=48 3b=0a 1e=0a 1 1"),
    ([1, 1, 1, 0, 0, 0, 0], "40=c0 13=e7 14=08 3b=aa 1e=2a 1 2"),
    ([2, 3, 7, 0, 0, 0, 0], "40=c0 13=e7 14=68 3b=ea 1e=1a 1 8"),
    # and GAIN, VREF: 1, 31/16, 2, 32 * 25/16 and 64 * 31/16
    ([0, 0, 5, 16, 0, 0, 0], "40=c0 13=e3 14=48 3b=0a 1e=0a 00=00 03=0a 1 1"),
    ([0, 0, 5, 31, 0, 0, 0], "40=c0 13=e3 14=48 3b=0a 1e=0a 00=0f 03=0a 1 1"),
    ([0, 0, 5, 32, 0, 0, 0], "40=c0 13=e3 14=48 3b=0a 1e=0a 00=10 03=0a 1 1"),
    ([0, 0, 5, 0x20, 3, 0, 0], "40=c0 13=e3 14=48 3b=0a 1e=0a 00=f9 03=4a 1 1"),
    ([0, 0, 5, 0xc0, 7, 0, 0], "40=c0 13=e3 14=48 3b=0a 1e=0a 00=ff 03=ca 1 1"),
    # and AECHH, AECH, COM1: 510 rows; a night has no say then
    ([0, 3, 5, 0, 0, 0xfe, 1], "40=c0 13=e6 14=48 3b=ea 1e=0a 07=00 10=7f 04=0a 1 1")])
def test_camera_settings_are_written_to_the_registers(host_program, payload: list[int], written: str) -> None:
    assert host_program("settings", 100, stdin=bytes(payload)).decode() == written
    *_, last, answered, _ = host_program("settings", 4, stdin=bytes(payload)).decode().split()
    assert answered == "0" and last.startswith("14="), "a camera that does not answer is not asked on"


def test_the_viewer_s_settings_are_the_board_s(host_program) -> None:
    payload = CameraSettings(mirror=True, night=4, ceiling=128, gain=50, shutter=0.1).payload()
    assert host_program("settings", 100, stdin=payload).decode() == (
        "40=c0 13=e2 14=68 3b=ca 1e=2a 00=f9 03=4a 07=00 10=3f 04=0b 1 1")


WHOLE, SLIPPED, SILENT = range(3)  # of camera_reader.h
NEVER = 10**9


@pytest.mark.parametrize("clock_between_rows", [0, 1])
def test_camera_frame_arrives_whole(host_program, clock_between_rows: int) -> None:
    result, locks, *frame = map(int, host_program("camera", NEVER, 0, clock_between_rows).split())
    assert result == WHOLE and locks == 0
    assert frame == [16 * row + column for row in range(3) for column in range(4)]


@pytest.mark.parametrize("clock_between_rows", [0, 1])
@pytest.mark.parametrize("pulse", [*range(-12, 0), *range(1, 13)])
def test_a_frame_with_a_pulse_too_few_or_too_many_is_refused(host_program, pulse: int, clock_between_rows: int) -> None:
    result, locks, *_ = map(int, host_program("camera", NEVER, pulse, clock_between_rows).split())
    assert result == SLIPPED and locks == 0


def test_a_frame_that_ends_too_early_is_refused(host_program) -> None:
    assert int(host_program("camera", NEVER, 0, 0, 4).split()[0]) == SLIPPED


@pytest.mark.parametrize("silent_after", [0, 10, 20, 32, 41, 60, 90, 120, 150, 200, 250, 300, 340])
def test_camera_that_is_unplugged_is_given_up(host_program, silent_after: int) -> None:
    result, locks, *_ = map(int, host_program("camera", silent_after).split())
    assert result == (SILENT if silent_after < 20 else SLIPPED), "no frame can have come"
    assert locks == 0, "interrupts are on again"
