// The portable sources under test; see the functions for what each mode does.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "board.h"
#include "camera_reader.h"
#include "camera_settings.h"
#include "memory_budget.h"
#include "pixels.h"
#include "protocol.h"
#include "status.h"

namespace {

std::uint32_t clock_millis = 0;
bool red_led = false, green_led = false, blue_led = false;
std::vector<std::uint8_t> sent;

std::size_t ReadSome(void* data, std::size_t size) {
  return std::fread(data, 1, size, stdin);
}

void Write(const void* data, std::size_t size) {
  std::fwrite(data, 1, size, stdout);
}

// Frames and maps in, an exposure as argument; inputs of the model, the way
// back, restored pictures out.
int Pixels(int exposure) {
  std::vector<std::uint8_t> frame(mirnet::kFrameSize);
  std::vector<std::int8_t> maps(mirnet::kOutputSize);
  while (ReadSome(frame.data(), frame.size()) == frame.size() &&
         ReadSome(maps.data(), maps.size()) == maps.size()) {
    std::vector<std::int8_t> input(mirnet::kInputSize);
    mirnet::FillInput(frame.data(), input.data());
    Write(input.data(), input.size());
    std::vector<std::uint8_t> back(mirnet::kFrameSize);
    mirnet::FillFrame(input.data(), back.data());
    Write(back.data(), back.size());
    for (int y = 0; y < mirnet::kImageHeight; ++y) {
      std::vector<std::uint8_t> row(mirnet::kRowSize);
      mirnet::RestoreRow(frame.data(), maps.data(), y, exposure, row.data());
      Write(row.data(), row.size());
    }
  }
  return 0;
}

// A stream in; for every event its kind, type and tag out, and of messages the
// length (4 bytes) and the payload.
int Decode(std::size_t capacity) {
  std::vector<std::uint8_t> buffer(capacity), stream(1 << 16);
  mirnet::Decoder decoder(buffer.data(), buffer.size());
  while (std::size_t count = ReadSome(stream.data(), stream.size())) {
    for (std::size_t i = 0; i < count;) {
      // In pieces of any size, as packets of USB.
      const std::size_t most = std::min(count - i, 1 + i % 97);
      mirnet::Decoder::Event event;
      i += decoder.Push(stream.data() + i, most, &event);
      if (event == mirnet::Decoder::Event::kNone) {
        continue;
      }
      const std::uint8_t head[3] = {static_cast<std::uint8_t>(event),
                                    decoder.type(), decoder.tag()};
      Write(head, sizeof head);
      if (event == mirnet::Decoder::Event::kMessage) {
        std::uint8_t length[4];
        mirnet::PutU32(length, static_cast<std::uint32_t>(decoder.length()));
        Write(length, sizeof length);
        Write(decoder.payload(), decoder.length());
      }
    }
  }
  return 0;
}

// A camera of 3 rows of 4 bytes that falls silent after so many readings of its
// wires, or misses a pulse of its clock (-1 to -12) or adds one (1 to 12) in
// its first frame. Prints what came, how often interrupts are still locked, and
// the frame's bytes.
class FakePort {
 public:
  static constexpr std::uint32_t kVsync = 1, kHref = 2, kPclk = 4;

  FakePort(long silent_after, long pulse, bool clock_between_rows)
      : silent_after_(silent_after),
        pulse_(pulse),
        clock_between_rows_(clock_between_rows) {}
  // A frame: VSYNC high for 4 ticks, 4 of pause, rows of 2 + 16 + 12 ticks. A
  // byte has 4: PCLK is low for two and then high.
  std::uint32_t wires() const {
    const long at = Tick() % kFrame;
    const long phase = (at - 8) % 30 - 2;
    if (at < 8 || phase < 0 || phase >= 16) {
      return (at < 4 ? kVsync : 0) |
             (clock_between_rows_ && at % 4 >= 2 ? kPclk : 0);
    }
    const bool first = now_ < kFrame;
    const long byte = (at - 8) / 30 * 4 + phase / 4 + 1;
    const bool high = first && byte == -pulse_  ? true
                      : first && byte == pulse_ ? phase % 2 != 0
                                                : phase % 4 >= 2;
    return kHref | (high ? kPclk : 0);
  }
  std::uint8_t data() const {
    const long at = now_ % kFrame - 8;
    return static_cast<std::uint8_t>(at / 30 * 16 + (at % 30 - 2) / 4);
  }
  void Lock() const { ++locks_; }
  void Unlock() const { --locks_; }
  std::uint32_t Micros() const {  // a tick has 150
    ++readings_;
    return static_cast<std::uint32_t>(readings_ * 150 / 4);
  }
  int locks() const { return locks_; }

 private:
  static constexpr long kFrame = 8 + 3 * 30;
  // Every fourth reading is a tick further, until the wire is off.
  long Tick() const {
    if (readings_ < silent_after_) {
      now_ = readings_ / 4;
    }
    ++readings_;
    return now_;
  }

  long silent_after_, pulse_;
  bool clock_between_rows_;
  mutable long readings_ = 0, now_ = 0;
  mutable int locks_ = 0;
};

int Camera(long silent_after, long pulse, bool clock_between_rows, int rows) {
  std::vector<std::uint8_t> frame(static_cast<std::size_t>(4 * rows));
  const FakePort port(silent_after, pulse, clock_between_rows);
  const auto result = mirnet::ReadCameraFrame(
      port, rows, 4, 0, mirnet::CameraDeadline{0, 1000000}, frame.data());
  std::printf("%d %d", static_cast<int>(result), port.locks());
  for (const std::uint8_t byte : frame) {
    std::printf(" %d", byte);
  }
  return 0;
}

// Reports a status and prints what the LEDs do, one character for each 10 ms:
// r, g, b or . for none.
int Report(int code) {
  mirnet::Report(static_cast<mirnet::Status>(code));
  for (; clock_millis < 10000; clock_millis += 10) {
    mirnet::UpdateLeds();
    std::putchar(red_led ? 'r' : green_led ? 'g' : blue_led ? 'b' : '.');
  }
  return 0;
}

// Halts; the clock below prints the red LED and ends the program.
[[noreturn]] void Halt(int code) {
  mirnet::Halt(static_cast<mirnet::Status>(code));
}

// Settings of the camera in, as the payload of a command; out, what is written
// to its registers, address and value, or nothing if the payload is refused.
// The registers have the values of the driver's table; the bus answers as often
// as the argument says.
class FakeBus {
 public:
  explicit FakeBus(long answers) : answers_(answers) {}
  bool Read(std::uint8_t address, std::uint8_t* value) {
    *value = address == 0x14 ? 0x48 : address == 0x13 ? 0xe7 : 0x0a;
    return answers_-- > 0;
  }
  bool Write(std::uint8_t address, std::uint8_t value) {
    std::printf("%02x=%02x ", address, value);
    return answers_-- > 0;
  }

 private:
  long answers_;
};

int Settings(long answers) {
  std::uint8_t payload[16];
  const std::size_t length = ReadSome(payload, sizeof payload);
  mirnet::CameraSettings settings;
  if (mirnet::ParseCameraSettings(payload, length, &settings)) {
    const bool all = mirnet::WriteCameraSettings(settings, FakeBus(answers));
    std::printf("%d %u", all, settings.slowness());
  }
  return 0;
}

int Budget() {
  std::printf(
      "%lu %lu %lu %lu", static_cast<unsigned long>(mirnet::kArenaBytes),
      static_cast<unsigned long>(mirnet::kFrameSize + mirnet::kBuffersInUse),
      static_cast<unsigned long>(mirnet::kFrameSize),
      static_cast<unsigned long>(mirnet::kModelSize));
  return 0;
}

}  // namespace

namespace mirnet {
namespace board {

bool Write(const std::uint8_t* data, std::size_t size) {
  sent.insert(sent.end(), data, data + size);
  return true;
}

std::uint32_t Millis() { return clock_millis; }

// Halt() never returns: end the program from within it after 10 seconds, with
// what the LED did and how many bytes were sent.
void Wait(std::uint32_t milliseconds) {
  clock_millis += milliseconds;
  mirnet::UpdateLeds();  // as the board's interrupt does
  std::putchar(red_led ? 'r' : '.');
  if (clock_millis >= 10000) {
    std::printf(" %lu", static_cast<unsigned long>(sent.size()));
    std::fflush(stdout);
    std::_Exit(0);
  }
}

void SetLeds(bool red, bool green, bool blue) {
  red_led = red;
  green_led = green;
  blue_led = blue;
}

}  // namespace board
}  // namespace mirnet

int main(int argc, char** argv) {
  const char* mode = argc > 1 ? argv[1] : "";
  const long number = argc > 2 ? std::atol(argv[2]) : 0;
  if (std::strcmp(mode, "pixels") == 0) {
    return Pixels(static_cast<int>(number));
  }
  if (std::strcmp(mode, "decode") == 0) {
    return Decode(static_cast<std::size_t>(number));
  }
  if (std::strcmp(mode, "camera") == 0) {
    const auto other = [argc, argv](int i, long usual) {
      return argc > i ? std::atol(argv[i]) : usual;
    };
    return Camera(number, other(3, 0), other(4, 0) != 0,
                  static_cast<int>(other(5, 3)));
  }
  if (std::strcmp(mode, "report") == 0) {
    return Report(static_cast<int>(number));
  }
  if (std::strcmp(mode, "halt") == 0) {
    Halt(static_cast<int>(number));
  }
  if (std::strcmp(mode, "settings") == 0) {
    return Settings(number);
  }
  if (std::strcmp(mode, "budget") == 0) {
    return Budget();
  }
  return 2;
}
