"""The display and its button: the sketch's own sources on a scripted board that has an emulated ST7735 on its pins."""
from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Callable, Sequence

import numpy as np
import pytest
from link import Message, Type
from scripted import BRIGHTER, CONTACT, LOOK, OPEN, OPEN_LATER, SILENT, WAIT, Board, Look, compiled
from sketch_tools import HERE, SKETCH, WARNINGS, constants_of, need, run, set_constants

DISPLAY = "-DMIRNET_DISPLAY=1"
STILL = 8  # frames
FRAME, STILL_TIME = 1200, STILL * 200 + 1000  # ms that pictures take on the scripted board
PICTURE_BYTES = 2 * 160 * 120 + 5 + 5 + 1  # and CASET, RASET, RAMWR
HOLD = 100  # ms


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Board:
    """The sketch compiled for a display."""
    return compiled(SKETCH, tmp_path_factory.mktemp("display"), DISPLAY)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Board:
    """The sketch as it comes."""
    return compiled(SKETCH, tmp_path_factory.mktemp("plain"))


Driver = Callable[[np.ndarray], Look]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Driver:
    """The driver alone, on pictures (N, 120, 160, 3)."""
    from simulator import SANITIZERS
    program = compiled_driver(SKETCH, tmp_path_factory.mktemp("driver"), SANITIZERS)
    return lambda pictures: Look.parse(bytes(4) + run(program, input=pictures.tobytes()))


def compiled_driver(sketch: Path, folder: Path, flags: Sequence[str] = ()) -> Path:
    run(need("g++"), *WARNINGS, *flags, DISPLAY, "-I", sketch, "-I", HERE / "arduino", "-I", HERE,
        sketch / "display_st7735.cpp", sketch / "protocol.cpp", HERE / "display" / "pins.cpp",
        HERE / "display" / "driver_main.cpp", "-o", folder / "driver")
    return folder / "driver"


def seen(look: Look) -> np.ndarray:
    """What an eye sees of the display turned by a quarter: RGB565, uint16 (128, 160)."""
    assert look.on
    return np.rot90(look.memory, -1)


def rgb565(picture: np.ndarray) -> np.ndarray:
    """Levels (..., 3) as the nearest that the display has, uint16."""
    red, green, blue = (np.rint(picture[..., c] / 255 * most).astype(np.uint16) for c, most in enumerate((31, 63, 31)))
    return red << 11 | green << 5 | blue


def assert_shows(look: Look, picture: np.ndarray) -> None:
    """The picture (120, 160, 3) is in the middle of a black display."""
    expected = np.zeros((128, 160), np.uint16)
    expected[4:124] = rgb565(picture)
    np.testing.assert_array_equal(seen(look), expected)


def bright_of(answer: Sequence[Message], tag: int) -> np.ndarray:
    """The bright frame that the computer got as an answer."""
    message, = (message for message in answer if (message.type, message.tag) == (Type.BRIGHT_FRAME, tag))
    return np.frombuffer(message.payload[8:], np.uint8).reshape(120, 160, 3)


@pytest.fixture(scope="module")
def first_frame(plain: Board) -> np.ndarray:
    """The dark frame of the scripted camera, (38400,)."""
    dark = plain((OPEN, 1), Message(Type.CAPTURE, 1)).sent[0].payload[8:]
    return np.frombuffer(dark, np.uint8)


@pytest.fixture(scope="module")
def restore(plain: Board) -> Callable[[np.ndarray], np.ndarray]:
    """What the sketch without a display makes of a dark frame that the computer sends."""
    return lambda dark: bright_of(plain((OPEN, 1), Message(Type.ENHANCE, 9, dark.tobytes())).sent, 9)


def brighter(frame: np.ndarray, more: int) -> np.ndarray:
    """The frame as the scripted camera sends it after BRIGHTER."""
    later = frame.astype(int)
    later[::2] += more
    return later.clip(0, 255).astype(np.uint8)


def mean_of(frames: Sequence[np.ndarray]) -> np.ndarray:
    count = len(frames)
    return ((np.stack(frames).astype(int).sum(0) + count // 2) // count).astype(np.uint8)


def pressed(bounces: Sequence[int] = (), hold: int = HOLD) -> list[tuple[str, int]]:
    """A press whose contact bounces when it closes and when it opens."""
    return [(CONTACT, after) for after in (0, *bounces, hold, *bounces)]


# The driver

def test_every_level_is_the_nearest_that_the_display_has(driver: Driver) -> None:
    levels = np.resize(np.arange(256, dtype=np.uint8), (120, 160))
    for channel in range(3):
        picture = np.zeros((1, 120, 160, 3), np.uint8)
        picture[0, ..., channel] = levels
        assert_shows(driver(picture), picture[0])


def test_a_picture_replaces_the_one_before_pixel_by_pixel(driver: Driver) -> None:
    pictures = np.random.default_rng(3).integers(0, 256, (3, 120, 160, 3), np.uint8)
    look = driver(pictures)
    assert_shows(look, pictures[-1])
    assert look.filled == 4, "the black of the start, and three pictures"


def test_the_display_starts_black(driver: Driver) -> None:
    look = driver(np.zeros((0, 120, 160, 3), np.uint8))
    assert look.on and not look.memory.any()


def test_bytes_and_time_of_a_picture(driver: Driver, record_property) -> None:
    one, two = (driver(np.zeros((count, 120, 160, 3), np.uint8)).spi_bytes for count in (1, 2))
    assert two - one == PICTURE_BYTES
    clock, = re.findall(r"kClockHz = (\d+)", (SKETCH / "display_st7735.cpp").read_text())
    milliseconds = 1000 * 8 * PICTURE_BYTES / int(clock)
    record_property("milliseconds", milliseconds)
    print(f"a picture has {PICTURE_BYTES} bytes: computed {milliseconds:.1f} ms at {int(clock) / 1e6:g} MHz, without "
          "pauses between transfers")
    assert int(clock) >= 8e6 and milliseconds < 39


def test_half_a_turn_and_offset_of_other_panels(tmp_path: Path) -> None:
    sketch = changed_sketch(tmp_path, r"kDisplayAccess = 0xa0", "kDisplayAccess = 0x68")
    picture = np.random.default_rng(4).integers(0, 256, (1, 120, 160, 3), np.uint8)
    look = Look.parse(bytes(4) + run(compiled_driver(sketch, tmp_path), input=picture.tobytes()))
    assert look.access == 0x68
    np.testing.assert_array_equal(np.rot90(look.memory, 1)[4:124], rgb565(picture[0]))


def changed_sketch(folder: Path, pattern: str, replacement: str) -> Path:
    """A copy of the display's sources with one place changed."""
    sketch = folder / "sketch"
    sketch.mkdir()
    found = 0
    for path in (*SKETCH.glob("*.h"), SKETCH / "display_st7735.cpp", SKETCH / "protocol.cpp"):
        text, count = re.subn(pattern, replacement, path.read_text())
        (sketch / path.name).write_text(text)
        found += count
    assert found == 1, f"{pattern} is there {found} times"
    return sketch


@pytest.mark.parametrize("pattern, replacement, said", [
    (r"  delay\(kResetMillis\);\n  Send\(kSoftwareReset\)", "  Send(kSoftwareReset)", "too early"),
    (r"(Send\(kSoftwareReset\);.*\n)  delay\(kResetMillis\);", r"\1  delay(20);", "less than 120 ms"),
    (r"  delay\(kWakeMillis\);", "  delay(119);", "too early"),
    (r"  Send\(kSleepOut\);\n  delay\(kWakeMillis\);", "", "sleep mode"),
    (r"  Send\(kPixelFormat, {k16Bits}\);", "", "COLMOD says otherwise"),
    (r"k16Bits = 0x05", "k16Bits = 0x06", "COLMOD says otherwise"),
    (r"  Send\(kAccess, {kDisplayAccess}\);", "", "not inside the memory"),
    (r"kDisplayLeft = 0", "kDisplayLeft = 1", "not inside the memory"),
    (r"Send\(kAccess, {kDisplayAccess}\)", "Send(kAccess)", "lacks parameters"),
    (r"y < kHeight; \+\+y", "y < kHeight - 1; ++y", "shows noise"),
    (r"  Send\(kDisplayOn\);", "  std::uint8_t half = 0;  Send(true, &half, 1);  Send(kDisplayOn);", "half a pixel"),
    (r"  digitalWrite\(kDisplayReset, LOW\);\n  delay\(1\);\n", "", "before a reset|too short"),
    (r"digitalWrite\(kDisplaySelect, LOW\)", "digitalWrite(kDisplaySelect, HIGH)", "CSX is high"),
    (r"is_data \? HIGH : LOW", "is_data ? LOW : HIGH", "parameter that no command takes"),
    (r"kDisplayData = 11", "kDisplayData = 13", "SPI on other pins"),
    (r"kDisplayReset = 17", "kDisplayReset = 8", "not the display's"),
    (r"kClockHz = 8000000", "kClockHz = 16000000", "too fast")])
def test_the_emulated_controller_refuses_what_the_data_sheet_does(tmp_path: Path, pattern: str, replacement: str,
                                                                  said: str) -> None:
    program = compiled_driver(changed_sketch(tmp_path, pattern, replacement), tmp_path)
    result = subprocess.run([program], input=bytes(2 * 160 * 120 * 3), capture_output=True)
    assert result.returncode == 3 and re.search(f"^ST7735: .*({said})", result.stderr.decode()), result.stderr


# Without a computer

def test_frames_follow_one_another_on_the_display(board: Board, first_frame: np.ndarray, restore) -> None:
    answer = board((BRIGHTER, 5), (LOOK, 0), (WAIT, FRAME), (LOOK, 0), (WAIT, FRAME), (LOOK, 0))
    assert [look.filled for look in answer.looks] == [1, 2, 3]
    assert_shows(answer.looks[1], restore(first_frame))
    assert_shows(answer.looks[2], restore(brighter(first_frame, 5)))
    assert answer.sent == [], "the port is closed"


@pytest.mark.parametrize("late", [0, 3, 500])
@pytest.mark.parametrize("bounces", [(), (1, 1), (9, 9), (4, 3, 2, 1, 5, 4), (19, 1)])
def test_a_press_takes_one_still_which_stays(board: Board, first_frame: np.ndarray, restore, bounces: tuple[int, ...],
                                             late: int) -> None:
    """It is pressed while a frame is being computed."""
    press = pressed(bounces)
    press[0] = (CONTACT, late)
    answer = board((WAIT, FRAME), (BRIGHTER, 3), *press, (WAIT, FRAME), (LOOK, 0), (WAIT, STILL_TIME), (LOOK, 0),
                   (WAIT, 20_000), (LOOK, 0))
    live, still, later = answer.looks
    assert still.camera_frames - live.camera_frames == STILL and still.filled == live.filled + 1
    assert (later.camera_frames, later.spi_bytes) == (still.camera_frames, still.spi_bytes), "nothing more is taken"
    # The frame during which it was pressed was the first that got brighter.
    assert_shows(later, restore(mean_of([brighter(first_frame, 3 * i) for i in range(1, 1 + STILL)])))
    assert answer.leds.endswith("g" * 900), "ready"


def test_the_next_press_goes_on(board: Board, first_frame: np.ndarray, restore) -> None:
    answer = board(*pressed(), (WAIT, FRAME + STILL_TIME + 1000), (LOOK, 0), *pressed(), (WAIT, 3 * FRAME), (LOOK, 0),
                   *pressed(), (WAIT, FRAME + STILL_TIME + 1000), (LOOK, 0), (WAIT, 5000), (LOOK, 0))
    still, live, again, later = answer.looks
    assert live.filled - still.filled == live.camera_frames - still.camera_frames >= 2, "one frame each"
    assert_shows(live, restore(first_frame))
    assert again.filled - live.filled == 2 and again.camera_frames - live.camera_frames == 1 + STILL
    assert later.camera_frames == again.camera_frames


def test_a_button_that_is_held_takes_one_still(board: Board) -> None:
    answer = board((CONTACT, 0), (WAIT, FRAME + STILL_TIME + 500), (LOOK, 0), (WAIT, 30_000), (LOOK, 0), (CONTACT, 0),
                   (WAIT, 5000), (LOOK, 0))
    assert [look.camera_frames for look in answer.looks] == 3 * [1 + STILL]


def test_presses_before_the_still_is_shown_do_not_count(board: Board) -> None:
    impatient = [(CONTACT, 100)] * 20  # ten presses in two seconds
    answer = board(*impatient, (WAIT, FRAME + STILL_TIME), (LOOK, 0), (WAIT, 5000), (LOOK, 0))
    assert [look.camera_frames for look in answer.looks] == 2 * [1 + STILL]


@pytest.mark.parametrize("shake", [(0, 1), (0, 19), (0, 2, 3, 2, 5, 2)])
def test_a_contact_that_only_shakes_is_no_press(board: Board, shake: tuple[int, ...]) -> None:
    """Whenever it comes between two samples."""
    steps = [step for phase in range(20) for step in ((WAIT, FRAME + phase), *((CONTACT, after) for after in shake))]
    look, = board(*steps, (WAIT, 2 * FRAME), (LOOK, 0)).looks
    assert look.camera_frames == look.filled - 1, "no still"


def test_a_button_that_is_down_when_the_board_starts_is_no_press(tmp_path: Path) -> None:
    """Its wire may lie at GND. One sample a character, 1 is closed; out comes where a press was taken."""
    (tmp_path / "main.cpp").write_text("""#include "button.h"
#include <cstdio>
int main() {
  mirnet::Button button;
  for (int at = 0, sample; (sample = std::getchar()) != EOF; ++at) {
    button.Sample(sample == '1');
    if (button.Take()) std::printf("%d ", at);
  }
}
""")
    run(need("g++"), *WARNINGS, "-I", SKETCH, tmp_path / "main.cpp", "-o", tmp_path / "button")

    def presses(samples: str) -> list[int]:
        return [int(at) for at in run(tmp_path / "button", input=samples.encode()).split()]

    assert presses(20 * "1") == presses("0" * 20) == presses("00" + "10" * 9 + "110" * 5 + "100" * 5) == []
    assert presses("1110011") == presses("0000011") == [6]
    assert presses("0011111100110") == [3, 11]


def test_a_still_that_fails_is_tried_again(board: Board) -> None:
    answer = board(*pressed(), (WAIT, FRAME), (SILENT, 1), (WAIT, 3000 + STILL_TIME), (LOOK, 0), (WAIT, 9000),
                   (LOOK, 0))
    assert [look.camera_frames for look in answer.looks] == 2 * [1 + STILL]
    assert "r" in answer.leds


# With a computer

COMMANDS = ((OPEN, 1), Message(Type.INFO, 1), Message(Type.CAPTURE, 2), Message(Type.EXPOSURE, 3, b"\4"),
            Message(Type.TEST_PICTURE, 4), Message(Type.AVERAGE, 5, b"\3"), Message(Type.CAPTURE, 6),
            Message(Type.AVERAGE, 7, b"\1"), Message(Type.SELF_TEST, 8), Message(Type.STREAM, 9, b"\2"), (WAIT, 2500),
            Message(Type.STREAM, 10, b"\0"), (WAIT, 5000), Message(0x55, 11))


def test_commands_work_as_without_a_display(board: Board, plain: Board) -> None:
    ours, theirs = board(*COMMANDS, (LOOK, 0)), plain(*COMMANDS, (LOOK, 0))
    assert ours.heads() == theirs.heads() and len(ours.sent) > 15
    for our, their in zip(ours.sent, theirs.sent):
        assert our.payload == their.payload or our.type == Type.INFO_TEXT, our.tag
    assert ours.looks[0].camera_frames == theirs.looks[0].camera_frames, "none of its own"


def test_what_the_computer_asks_for_is_shown(board: Board) -> None:
    dark = np.random.default_rng(7).integers(0, 256, 38_400, np.uint8).tobytes()
    answer = board((OPEN, 1), Message(Type.EXPOSURE, 1, b"\5"), Message(Type.ENHANCE, 2, dark), (WAIT, 5000), (LOOK, 0))
    assert_shows(answer.looks[0], bright_of(answer.sent, 2))
    assert answer.looks[0].filled == 2 and answer.looks[0].camera_frames == 0


def test_a_button_does_nothing_while_a_program_has_the_port_open(board: Board) -> None:
    answer = board((OPEN, 1), (WAIT, 10), *pressed(), (WAIT, 5000), (LOOK, 0), (OPEN, 0), (WAIT, 2 * FRAME), (LOOK, 0))
    assert [look.camera_frames for look in answer.looks] == [0, 2], "and it is no press afterwards"


def test_a_program_that_opens_the_port_ends_a_still_and_gets_no_frames_unasked(board: Board) -> None:
    answer = board(*pressed(), (WAIT, FRAME + STILL_TIME), (OPEN, 1), (WAIT, 3000), Message(Type.CAPTURE, 5),
                   Message(Type.INFO, 6), (LOOK, 0), (OPEN, 0), (WAIT, 2 * FRAME), (LOOK, 0))
    assert answer.heads() == [(Type.DARK_FRAME, 5), (Type.BRIGHT_FRAME, 5), (Type.INFO_TEXT, 6)]
    assert answer.looks[0].camera_frames == 1 + STILL + 1, "one frame, not a mean"
    assert answer.looks[1].camera_frames == answer.looks[0].camera_frames + 2


def test_a_port_that_is_opened_during_a_frame_gets_the_rest_of_it_without_a_tag(board: Board) -> None:
    """The viewer passes over what has another tag than its command."""
    earlier = (Message(Type.CAPTURE, 7), (OPEN, 0), (WAIT, FRAME))  # a tag that nobody knows any more
    answer = board((OPEN, 1), *earlier, (OPEN_LATER, 500), (WAIT, FRAME), (LOOK, 0), (WAIT, 3000),
                   Message(Type.INFO, 6), (LOOK, 0))
    assert answer.heads() == [(Type.DARK_FRAME, 7), (Type.BRIGHT_FRAME, 7), (Type.BRIGHT_FRAME, 0), (Type.INFO_TEXT, 6)]
    assert [look.camera_frames for look in answer.looks] == [3, 3]


# Without the setting

def test_without_the_setting_nothing_is_on_the_pins_and_no_frame_is_taken(plain: Board) -> None:
    answer = plain((WAIT, 3000), *pressed(), (WAIT, 3000), (LOOK, 0), *COMMANDS, (LOOK, 0))
    before, after = answer.looks
    assert before.camera_frames == 0 and after.camera_frames == 4
    for look in answer.looks:
        assert (look.spi_bytes, look.pin_uses, look.filled, look.on) == (0, 0, 0, False)


def test_the_sketch_comes_without_a_display() -> None:
    assert "#define MIRNET_DISPLAY 0\n" in (SKETCH / "settings.h").read_text()


def test_the_simulator_has_none_whatever_the_setting(tmp_path: Path) -> None:
    from simulator import build
    sketch = tmp_path / "sketch"
    shutil.copytree(SKETCH, sketch)
    header = sketch / "settings.h"
    header.write_text(header.read_text().replace("#define MIRNET_DISPLAY 0", "#define MIRNET_DISPLAY 1"))
    assert build(sketch, folder=tmp_path).is_file()


# On the board

def test_the_pins_are_free() -> None:
    """Those of the camera are in firmware/README.md, 13 is the shield's button."""
    header = (SKETCH / "settings.h").read_text()
    pins = dict(re.findall(r"constexpr std::uint8_t (kDisplay\w+|kButtonPin) = (\d+);", header))
    assert len(pins) == 6
    numbers = {int(number) for number in pins.values()}
    camera = {*range(7), 8, 9, 10, 14, 15, 18, 19}
    assert len(numbers) == 6 and not numbers & (camera | {13}) and max(numbers) <= 21


def test_memory_of_the_display_on_the_board(tmp_path: Path, host_program, record_property) -> None:
    made = tmp_path / "display.o"
    from cortex_m4 import BOARD
    run(need("arm-none-eabi-g++"), *WARNINGS, *BOARD, "-Os", "-fno-rtti", "-fstack-usage", DISPLAY, "-I", SKETCH, "-I",
        HERE / "arduino", "-c", SKETCH / "display_st7735.cpp", "-o", made)
    text, data, bss, *_ = map(int, run(need("arm-none-eabi-size"), made).decode().splitlines()[1].split()[:3])
    usage = made.with_suffix(".su").read_text()
    stack = {name: int(size) for name, size in re.findall(r":void mirnet::display::(\w+)\(.*\t(\d+)\t", usage)}
    arena, others, *_ = map(int, host_program("budget").split())
    print(f"display: {text} bytes of flash, {data + bss} of static memory, {stack['ShowRow']} of the stack for a row; "
          f"arena, frame and buffers: {arena + others} bytes")
    record_property("flash", text)
    assert data + bss <= 32 and stack["ShowRow"] <= 400, "one row, on the stack"
    assert arena + others + data + bss <= 128_000


@pytest.mark.parametrize("sizes", [{}, {"kImageWidth": 162}, {"kImageHeight": 130}])
def test_a_frame_that_the_display_cannot_show_does_not_compile(tmp_path: Path, sizes: dict[str, int]) -> None:
    sketch = changed_sketch(tmp_path, "kHeight = 128", "kHeight = 128")
    set_constants(sketch, **sizes)
    assert constants_of(sketch)
    said = subprocess.run([need("g++"), *WARNINGS, DISPLAY, "-fsyntax-only", "-I", HERE / "arduino",
                           sketch / "display_st7735.cpp"], capture_output=True, text=True).stderr
    assert ("the display has 160x128 pixels: convert a model" in said) if sizes else said == ""
