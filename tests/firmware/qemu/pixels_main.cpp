// Reads a frame and maps from "in"; writes to "out" the model's input, the
// restored picture, the CRC-32 of it, and the instructions of the three.
#include "pixels.h"
#include "protocol.h"
#include "start.h"

namespace {

std::uint8_t frame[mirnet::kFrameSize];
std::int8_t maps[mirnet::kOutputSize];
std::int8_t input[mirnet::kInputSize];
std::uint8_t restored[mirnet::kImageHeight][mirnet::kRowSize];
std::uint32_t numbers[4];

}  // namespace

int main() {
  const int in = OpenFile("in", 0), out = OpenFile("out", 1);
  if (!ReadFile(in, frame, sizeof frame) || !ReadFile(in, maps, sizeof maps)) {
    return 1;
  }
  const std::uint64_t start = Instructions();
  mirnet::FillInput(frame, input);
  const std::uint64_t filled = Instructions();
  for (int y = 0; y < mirnet::kImageHeight; ++y) {
    mirnet::RestoreRow(frame, maps, y, 5, restored[y]);
  }
  const std::uint64_t done = Instructions();
  numbers[0] = mirnet::Crc32(0, restored[0], sizeof restored);
  numbers[3] = static_cast<std::uint32_t>(Instructions() - done);
  numbers[1] = static_cast<std::uint32_t>(filled - start);
  numbers[2] = static_cast<std::uint32_t>(done - filled);
  return WriteFile(out, input, sizeof input) &&
                 WriteFile(out, restored, sizeof restored) &&
                 WriteFile(out, numbers, sizeof numbers)
             ? 0
             : 2;
}
