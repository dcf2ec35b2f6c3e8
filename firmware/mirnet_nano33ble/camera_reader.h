// Reads one frame from the parallel port of an OV7670 or OV7675. The library's
// readFrame() waits for ever when the camera stops, and passes a frame on whose
// bytes have slipped because a pulse of the pixel clock was missed or was one
// too many.
#ifndef MIRNET_CAMERA_READER_H_
#define MIRNET_CAMERA_READER_H_

#include <cstdint>

namespace mirnet {

// How often the wires are read before a row counts as missing, 0.08 s. One
// reading takes a Cortex-M4 5 to 10 cycles of 1/64 microsecond.
constexpr std::uint32_t kLineReadings = 1000000;
// A row takes 320 microseconds, and the next one begins 1250 later. Interrupts
// are off from 350 before a row, and must end within these.
constexpr std::uint32_t kEarlyMicros = 350;
constexpr std::uint32_t kRestMicros = 900;
// A byte of a row takes 1 microsecond, 13 readings at most. Twice that is less
// than the time until the next row: what is missing of a row is not taken
// there.
constexpr std::uint32_t kByteReadings = 26;

enum class CameraFrame : std::uint8_t {
  kWhole,
  kSlipped,  // pulses of a clock are missing, or too many: try again
  kSilent,   // no frame begins
};

// Until when a frame must have begun, in microseconds.
struct CameraDeadline {
  std::uint32_t start, limit;
};

namespace camera_reader {

// Waits until one of `wires` is at another level than in `levels`. Returns what
// was read, or `levels` if `*readings` have been used up.
template <typename Port>
inline std::uint32_t WaitFor(const Port& port, std::uint32_t wires,
                             std::uint32_t levels, std::uint32_t* readings) {
  for (; *readings > 0; --*readings) {
    const std::uint32_t now = port.wires();
    if (((now ^ levels) & wires) != 0) {
      return now;
    }
  }
  return levels;
}

// Waits while a wire is high, or low. Returns false if the time is up.
template <typename Port>
inline bool WaitWhile(const Port& port, std::uint32_t wire, bool high,
                      const CameraDeadline& deadline) {
  while (((port.wires() & wire) != 0) == high) {
    if (port.Micros() - deadline.start > deadline.limit) {
      return false;
    }
  }
  return true;
}

// Reads a row while interrupts are off. HREF rises before its first byte and
// falls with the clock after its last one.
template <typename Port>
inline bool ReadRow(const Port& port, int bytes, std::uint8_t* row) {
  std::uint32_t readings = kLineReadings;
  if ((WaitFor(port, Port::kHref | Port::kVsync, 0, &readings) &
       (Port::kHref | Port::kVsync)) != Port::kHref) {
    return false;  // the frame ends too early, or the camera has stopped
  }
  readings = kByteReadings * static_cast<std::uint32_t>(bytes);
  std::uint32_t now = 0;
  for (const std::uint8_t* const end = row + bytes; row < end; ++row) {
    // Data changes when PCLK falls and is stable until it falls again.
    while ((port.wires() & Port::kPclk) != 0) {
      if (--readings == 0) {
        return false;
      }
    }
    *row = port.data();
    while (((now = port.wires()) & Port::kPclk) == 0) {
      if (--readings == 0) {
        return false;
      }
    }
  }
  // There may be no clock between rows, and HREF may fall a moment after it.
  WaitFor(port, Port::kPclk | Port::kHref, Port::kPclk | Port::kHref,
          &readings);
  return (now & Port::kHref) != 0 && (port.wires() & Port::kHref) == 0;
}

}  // namespace camera_reader

// Waits until a frame begins: until VSYNC, which falls some lines before the
// first row, has risen and fallen. Returns false if none does in time.
template <typename Port>
bool AwaitCameraFrame(const Port& port, const CameraDeadline& deadline) {
  using camera_reader::WaitWhile;
  return WaitWhile(port, Port::kVsync, false, deadline) &&
         WaitWhile(port, Port::kVsync, true, deadline);
}

// Lets a frame pass by. Returns how many microseconds after its beginning
// interrupts must be off for its first row, or 0 if none came in time. That
// depends on the window that the camera's driver has chosen, and on where the
// camera puts the blank lines of a long frame.
//   port: as for ReadCameraFrame().
template <typename Port>
std::uint32_t MeasureLead(const Port& port, const CameraDeadline& deadline) {
  if (!AwaitCameraFrame(port, deadline)) {
    return 0;
  }
  const std::uint32_t start = port.Micros();
  if (!camera_reader::WaitWhile(port, Port::kHref, false, deadline)) {
    return 0;
  }
  const std::uint32_t first_row = port.Micros() - start;
  return first_row > kEarlyMicros ? first_row - kEarlyMicros : 0;
}

// Reads `rows` rows of `bytes_per_row` bytes into `frame`; they are valid if
// the frame is whole. Interrupts are off from shortly before a row to its end.
//   port: with Lock() and Unlock(), which turn interrupts off and on, and
//     std::uint32_t wires(), one reading of the wires VSYNC, HREF and PCLK, the
//       bits kVsync, kHref and kPclk of it
//     std::uint8_t data(), the byte on the data wires
//     std::uint32_t Micros(), a clock that wraps around.
//   lead: from MeasureLead(), or 0. If it is too long, the frame slips.
template <typename Port>
CameraFrame ReadCameraFrame(const Port& port, int rows, int bytes_per_row,
                            std::uint32_t lead, const CameraDeadline& deadline,
                            std::uint8_t* frame) {
  if (!AwaitCameraFrame(port, deadline)) {
    return CameraFrame::kSilent;
  }
  for (int row = 0; row < rows; ++row) {
    const std::uint32_t rest = row == 0 ? lead : kRestMicros;
    for (const std::uint32_t start = port.Micros();
         port.Micros() - start < rest;) {
    }
    port.Lock();
    const bool whole = camera_reader::ReadRow(port, bytes_per_row, frame);
    port.Unlock();
    if (!whole) {
      return CameraFrame::kSlipped;
    }
    frame += bytes_per_row;
  }
  return CameraFrame::kWhole;
}

}  // namespace mirnet

#endif  // MIRNET_CAMERA_READER_H_
