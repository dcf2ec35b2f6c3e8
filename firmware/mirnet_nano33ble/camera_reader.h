// Reads one frame from the parallel port of an OV7670 or OV7675 without ever
// waiting for ever: the library's readFrame() does, when a wire is off.
#ifndef MIRNET_CAMERA_READER_H_
#define MIRNET_CAMERA_READER_H_

#include <cstdint>

namespace mirnet {

// How often a signal is looked at before it is given up. A look takes a
// Cortex-M4 5 to 10 cycles.
constexpr std::uint32_t kFrameLooks = 10000000;  // a frame: above 0.8 s
constexpr std::uint32_t kLineLooks = 1000000;    // lines and pixels: 0.08 s

template <typename Signal>
inline bool WaitFor(bool level, std::uint32_t looks, Signal signal) {
  while (signal() != level) {
    if (--looks == 0) {
      return false;
    }
  }
  return true;
}

// Port: a copyable type with bool vsync(), href(), pclk(), the byte on the data
// wires as uint8_t data(), and Lock(), Unlock() around what must not be
// interrupted.
// Returns false when the camera stops; the bytes then mean nothing.
template <typename Port>
bool ReadCameraFrame(Port port, int rows, int bytes_per_row,
                     std::uint8_t* frame) {
  const auto vsync = [&port] { return port.vsync(); };
  const auto href = [&port] { return port.href(); };
  const auto pclk = [&port] { return port.pclk(); };
  // VSYNC falls some lines before the first row begins: time to lock.
  if (!WaitFor(true, kFrameLooks, vsync) ||
      !WaitFor(false, kFrameLooks, vsync)) {
    return false;
  }
  port.Lock();
  bool alive = true;
  for (int row = 0; row < rows && alive; ++row) {
    alive = WaitFor(true, kLineLooks, href);
    for (int i = 0; i < bytes_per_row && alive; ++i) {
      // The data change when PCLK falls and stay while it is low and high.
      alive = WaitFor(false, kLineLooks, pclk);
      *frame++ = port.data();
      alive = alive && WaitFor(true, kLineLooks, pclk);
    }
    alive = alive && WaitFor(false, kLineLooks, href);
  }
  port.Unlock();
  return alive;
}

}  // namespace mirnet

#endif  // MIRNET_CAMERA_READER_H_
