// The display's driver alone: pictures in, kRowSize bytes for each of their
// rows; after the last one, pins::State().
#include <cstdio>

#include "board.h"
#include "display.h"
#include "pins.h"
#include "pixels.h"

namespace {

std::uint32_t clock_millis = 0;

}  // namespace

namespace mirnet {
namespace board {

std::uint32_t Millis() { return clock_millis; }

void Wait(std::uint32_t milliseconds) { clock_millis += milliseconds; }

}  // namespace board
}  // namespace mirnet

int main() {
  mirnet::display::Begin();
  std::uint8_t row[mirnet::kRowSize];
  for (int y = 0; std::fread(row, 1, sizeof row, stdin) == sizeof row; ++y) {
    if (y % mirnet::kImageHeight == 0) {
      mirnet::display::BeginPicture();
    }
    mirnet::display::ShowRow(row);
  }
  const std::string state = pins::State();
  std::fwrite(state.data(), 1, state.size(), stdout);
}
