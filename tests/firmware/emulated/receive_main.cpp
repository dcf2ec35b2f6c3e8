// The sketch's way from packets of USB to a whole command, on an emulated
// Cortex-M4: `stream` holds what the computer sends, in packets of 64 bytes.
#include <algorithm>
#include <cstring>

#include "board.h"
#include "commands.h"
#include "self_test.h"

namespace {

constexpr std::size_t kPacket = 64;
std::size_t taken = 0;

}  // namespace

extern "C" {

std::uint8_t frame[mirnet::kFrameSize];
std::uint8_t
    stream[mirnet::kFrameSize + mirnet::kHeaderSize + mirnet::kCrcSize];

// Runs until a command asks for a frame, and returns its source.
int Receive() {
  taken = 0;
  mirnet::Commands commands(frame);
  for (;;) {
    const mirnet::Source source = commands.Next(mirnet::Status::kOk, 0);
    if (source != mirnet::Source::kNone || taken == sizeof stream) {
      return static_cast<int>(source);
    }
  }
}

}  // extern "C"

namespace mirnet {
namespace board {

bool Connected() { return true; }

std::size_t Read(std::uint8_t* data, std::size_t size) {
  const std::size_t count = std::min({size, kPacket, sizeof stream - taken});
  std::memcpy(data, stream + taken, count);
  taken += count;
  return count;
}

bool Write(const std::uint8_t*, std::size_t) { return true; }
std::uint32_t Millis() { return 0; }
void Wait(std::uint32_t) {}
void SetLeds(bool, bool, bool) {}

}  // namespace board

namespace model_runner {
std::size_t ArenaUsed() { return 0; }
}  // namespace model_runner

Status SelfTest() { return Status::kOk; }
Status SetCamera(const CameraSettings&) { return Status::kOk; }

}  // namespace mirnet

int main() { return 0; }
