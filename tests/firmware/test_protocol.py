"""The framing in C++ against the framing in Python: two decoders written apart, and 100,000 damaged messages."""
from __future__ import annotations

import random
import re
import struct

import link
import pytest
from camera import MOST_ROWS, ROW_SECONDS
from link import MAX_PAYLOAD, VERSION, Decoder, Message, Type
from sketch_tools import SKETCH

MESSAGE, WRONG_VERSION, TOO_LONG, DAMAGED = 1, 2, 3, 4
CAPACITY = 64


def test_every_type_and_length_passes(host_program) -> None:
    rng = random.Random(0)
    sent = [Message(type=kind, tag=rng.randrange(256), payload=rng.randbytes(length % (CAPACITY + 1)))
            for length, kind in enumerate(range(256))]
    stream = b"".join(message.encode() for message in sent)
    assert [event for event in _decode(host_program, stream)] == [(MESSAGE, message) for message in sent]
    assert list(Decoder().feed(stream)) == sent


def test_a_payload_may_look_like_a_message(host_program) -> None:
    inner = Message(Type.INFO, 7).encode()
    outer = Message(Type.ENHANCE, 8, inner + inner)
    assert _decode(host_program, outer.encode() * 2) == [(MESSAGE, outer)] * 2
    assert list(Decoder().feed(outer.encode() * 2)) == [outer] * 2


def test_the_example_in_the_document() -> None:
    line, = re.findall(r"^The command info with tag 1: `([0-9A-F ]+)`$", (SKETCH / "PROTOCOL.md").read_text(), re.M)
    assert bytes.fromhex(line) == Message(Type.INFO, 1).encode()


def test_versions_and_lengths_are_refused_at_the_header(host_program) -> None:
    good = Message(Type.INFO, 3)
    foreign = _with_header(version=VERSION + 1, length=0)
    long = _with_header(version=VERSION, length=CAPACITY + 1)
    events = _decode(host_program, foreign + good.encode() + long + good.encode())
    assert [kind for kind, _ in events] == [WRONG_VERSION, MESSAGE, TOO_LONG, MESSAGE]
    status, *others = Decoder().feed(foreign + good.encode()
                                     + _with_header(version=VERSION, length=MAX_PAYLOAD + 1) + good.encode())
    assert others == [good, good]
    assert (status.type, status.tag, status.payload[0]) == (Type.STATUS, 1, 3)
    assert f"version {VERSION + 1} of the protocol, this viewer version {VERSION}: upload" in status.payload.decode()


@pytest.mark.parametrize("damage", ["flip", "drop", "insert", "cut", "garbage", "swap"])
def test_damaged_messages(host_program, damage: str) -> None:
    """20,000 of each kind: nothing accepted that was not sent, and back in step once a payload's room has passed."""
    rng = random.Random(damage)
    sent, stream, markers = set(), bytearray(), []
    for number in range(20_000):
        message = Message(rng.randrange(256), rng.randrange(256), rng.randbytes(rng.randrange(CAPACITY + 1)))
        stream += _damage(rng, damage, message.encode())
        sent.add(message)
        # A header that survives may claim the next CAPACITY + 4 bytes at most: three of these are more.
        marker = Message(Type.STATUS, number % 256, struct.pack("<I", number) * 9)
        stream += marker.encode() * 3
        markers.append(marker)
    sent.update(markers)
    in_cpp = [message for event, message in _decode(host_program, bytes(stream)) if event == MESSAGE]
    in_python = list(Decoder().feed(bytes(stream)))
    for name, accepted in (("C++", in_cpp), ("Python", in_python)):
        assert set(accepted) <= sent, f"{name} accepted what was not sent"
        assert set(markers) <= set(accepted), f"{name} did not come back into step"


def test_pure_noise_is_no_message(host_program) -> None:
    noise = random.Random(5).randbytes(2_000_000)
    last = Message(Type.INFO, 9)
    events = _decode(host_program, noise + last.encode() * 6)
    assert [message for kind, message in events if kind == MESSAGE][-1] == last
    assert {message for kind, message in events if kind == MESSAGE} == {last}


def test_protocol_page_lists_what_the_sources_have() -> None:
    page = (SKETCH / "PROTOCOL.md").read_text()
    types = {name: int(code, 16) for name, code in
             re.findall(r"\bk(\w+) = (0x\w\w),", (SKETCH / "image_sink.h").read_text())}
    in_page = {int(code, 16) for code in re.findall(r"^\| `(0x\w\w)`", page, re.M)}
    assert set(types.values()) == {int(kind) for kind in Type} == in_page
    assert {name.lower() for name in types} == {kind.name.replace("_", "").lower() for kind in Type}
    statuses = {int(code) for code in re.findall(r"\bk\w+ = (\d+),", (SKETCH / "status.h").read_text())}
    assert statuses == {int(code) for code in re.findall(r"^\| (\d+) \|", page[page.index("| status |"):], re.M)}


def test_the_page_has_the_same_numbers() -> None:
    """What JavaScript cannot import."""
    sources = SKETCH.parent / "viewer" / "page" / "src"
    text = "".join((sources / name).read_text() for name in ("protocol.js", "link.js", "board_view.js"))
    types = {name.lower(): int(code, 16) for name, code in re.findall(r"\b(\w+): (0x\w\w)\b", text)}
    assert len(types) == 10
    assert types.items() <= {kind.name.replace("_", "").lower(): int(kind) for kind in Type}.items()
    numbers = {name: float(value) for name, value in re.findall(r"\b([A-Z_]+) = ([\d.e-]+)[,;]", text)}
    assert (numbers["VERSION"], numbers["DAMAGED"], numbers["ATTEMPTS"]) == (VERSION, link.DAMAGED, link.ATTEMPTS)
    assert (numbers["HEADER"], numbers["ROW"], numbers["MOST_ROWS"]) == (Decoder.HEADER, ROW_SECONDS, MOST_ROWS)

    def captured(pattern: str) -> list[int]:
        [found] = re.findall(pattern, text)
        return [int(number, 0) for number in ([found] if isinstance(found, str) else found)]

    assert numbers["FRAME_HEADER"] + 3 * captured(r"MOST = FRAME_HEADER \+ 3 \* (\d+);")[0] == MAX_PAYLOAD
    assert bytes(captured(r"\[(0x\w+), (0x\w+), VERSION,")) == link.MAGIC
    first, last = captured(r"status >= (\d+) && status <= (\d+)")
    assert range(first, last + 1) == link.FATAL
    *products, vendor = captured(r"BOARDS = \[(\w+), (\w+), (\w+), (\w+)\].*usbVendorId: (\w+),")
    assert {(vendor, product) for product in products} == link.BOARDS


def _damage(rng: random.Random, kind: str, message: bytes) -> bytes:
    data, at = bytearray(message), rng.randrange(len(message))
    if kind == "flip":
        for _ in range(rng.choice((1, 1, 2, 8))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == "drop":
        del data[at:at + rng.choice((1, 1, 2, 9))]
    elif kind == "insert":
        data[at:at] = rng.randbytes(rng.choice((1, 1, 2, 9)))
    elif kind == "cut":
        del data[at:]
    elif kind == "garbage":
        data = bytearray(rng.randbytes(rng.randrange(40)) + message[:rng.randrange(20)])
    else:
        other = rng.randrange(len(data))
        data[at], data[other] = data[other], data[at]
    return bytes(data)


def _with_header(*, version: int, length: int) -> bytes:
    import zlib
    header = b"\xa5M" + bytes([version, Type.ENHANCE, 1]) + length.to_bytes(3, "little")
    return header + struct.pack("<I", zlib.crc32(header))


def _decode(host_program, stream: bytes) -> list[tuple[int, Message]]:
    answer, at, events = host_program("decode", CAPACITY, stdin=stream), 0, []
    while at < len(answer):
        event, kind, tag = answer[at:at + 3]
        at += 3
        payload = b""
        if event == MESSAGE:
            length = int.from_bytes(answer[at:at + 4], "little")
            payload = answer[at + 4:at + 4 + length]
            at += 4 + length
        events.append((event, Message(kind, tag, payload)))
    return events
