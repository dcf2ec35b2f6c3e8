// The portable sources under test; see the functions for what each mode does.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "board.h"
#include "camera_reader.h"
#include "memory_budget.h"
#include "pixels.h"
#include "protocol.h"
#include "status.h"

namespace {

std::uint32_t clock_millis = 0;
bool red_lamp = false, green_lamp = false, blue_lamp = false;
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
    for (std::size_t i = 0; i < count; ++i) {
      const auto event = decoder.Push(stream[i]);
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
// wires; prints whether a whole frame came, how often interrupts are still
// locked, and the frame's bytes.
class FakePort {
 public:
  FakePort(long* readings, long silent_after, int* locks)
      : readings_(readings), silent_after_(silent_after), locks_(locks) {}
  // A frame: VSYNC high for 4 ticks, 4 of pause, rows of 2 + 8 + 2 ticks; PCLK
  // runs always and is low first.
  bool vsync() { return At(Tick()) < 4; }
  bool href() {
    const long row_at = (At(Tick()) - 8) % 12;
    return At(now_) >= 8 && row_at >= 2 && row_at < 10;
  }
  bool pclk() { return Tick() % 2 != 0; }
  std::uint8_t data() const {
    const long at = At(now_) - 8;
    return static_cast<std::uint8_t>(at / 12 * 16 + (at % 12 - 2) / 2);
  }
  void Lock() const { ++*locks_; }
  void Unlock() const { --*locks_; }

 private:
  static long At(long tick) { return tick % (8 + 3 * 12); }
  // Every fourth reading is a tick further, until the wire is off.
  long Tick() {
    if (*readings_ < silent_after_) {
      now_ = *readings_ / 4;
    }
    ++*readings_;
    return now_;
  }

  long* readings_;
  long silent_after_;
  int* locks_;
  long now_ = 0;
};

int Camera(long silent_after) {
  long readings = 0;
  int locks = 0;
  std::uint8_t frame[12] = {};
  const bool whole = mirnet::ReadCameraFrame(
      FakePort(&readings, silent_after, &locks), 3, 4, frame);
  std::printf("%d %d", whole, locks);
  for (const std::uint8_t byte : frame) {
    std::printf(" %d", byte);
  }
  return 0;
}

// Reports a status and prints what the lamps do, one character for each 10 ms:
// r, g, b or . for none.
int Report(int code) {
  mirnet::Report(static_cast<mirnet::Status>(code));
  for (; clock_millis < 10000; clock_millis += 10) {
    mirnet::UpdateLamps();
    std::putchar(red_lamp ? 'r' : green_lamp ? 'g' : blue_lamp ? 'b' : '.');
  }
  return 0;
}

// Halts; the clock below prints the red lamp and ends the program.
[[noreturn]] void Halt(int code) {
  mirnet::Halt(static_cast<mirnet::Status>(code));
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
// what the lamp did and how many bytes were sent.
void Wait(std::uint32_t milliseconds) {
  clock_millis += milliseconds;
  mirnet::UpdateLamps();  // as the board's interrupt does
  std::putchar(red_lamp ? 'r' : '.');
  if (clock_millis >= 10000) {
    std::printf(" %lu", static_cast<unsigned long>(sent.size()));
    std::fflush(stdout);
    std::_Exit(0);
  }
}

void SetLamps(bool red, bool green, bool blue) {
  red_lamp = red;
  green_lamp = green;
  blue_lamp = blue;
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
    return Camera(number);
  }
  if (std::strcmp(mode, "report") == 0) {
    return Report(static_cast<int>(number));
  }
  if (std::strcmp(mode, "halt") == 0) {
    Halt(static_cast<int>(number));
  }
  if (std::strcmp(mode, "budget") == 0) {
    return Budget();
  }
  return 2;
}
