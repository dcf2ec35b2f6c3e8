// Reads one frame from the parallel port of an OV7670 or OV7675 and gives up
// when the camera stops. The library's readFrame() then waits for ever.
#ifndef MIRNET_CAMERA_READER_H_
#define MIRNET_CAMERA_READER_H_

#include <cstdint>

namespace mirnet {

// How often a signal is read before the camera counts as stopped. One reading
// takes a Cortex-M4 5 to 10 cycles.
constexpr std::uint32_t kFrameReadings = 10000000;  // for a frame: over 0.8 s
constexpr std::uint32_t kLineReadings = 1000000;    // for a pixel: over 0.08 s

template <typename Signal>
inline bool WaitFor(bool level, std::uint32_t readings, Signal signal) {
  while (signal() != level) {
    if (--readings == 0) {
      return false;
    }
  }
  return true;
}

// Reads `rows` rows of `bytes_per_row` bytes into `frame`. Returns false if the
// camera stops; the bytes are then not valid.
//   port: of a copyable type with bool vsync(), href() and pclk(), the byte on
//   the data wires as uint8_t data(), and Lock() and Unlock(), which turn
//   interrupts off and on.
template <typename Port>
bool ReadCameraFrame(Port port, int rows, int bytes_per_row,
                     std::uint8_t* frame) {
  const auto vsync = [&port] { return port.vsync(); };
  const auto href = [&port] { return port.href(); };
  const auto pclk = [&port] { return port.pclk(); };
  // VSYNC falls some lines before the first row: time enough to lock.
  if (!WaitFor(true, kFrameReadings, vsync) ||
      !WaitFor(false, kFrameReadings, vsync)) {
    return false;
  }
  port.Lock();
  bool alive = true;
  for (int row = 0; row < rows && alive; ++row) {
    alive = WaitFor(true, kLineReadings, href);
    for (int i = 0; i < bytes_per_row && alive; ++i) {
      // Data changes when PCLK falls and is stable until it falls again.
      alive = WaitFor(false, kLineReadings, pclk);
      *frame++ = port.data();
      alive = alive && WaitFor(true, kLineReadings, pclk);
    }
    alive = alive && WaitFor(false, kLineReadings, href);
  }
  port.Unlock();
  return alive;
}

}  // namespace mirnet

#endif  // MIRNET_CAMERA_READER_H_
