// Everything that the sketch tells the computer: one function for each message
// of PROTOCOL.md. A computer that does not listen loses what it is told.
#ifndef MIRNET_IMAGE_SINK_H_
#define MIRNET_IMAGE_SINK_H_

#include <cstddef>
#include <cstdint>

#include "pixels.h"
#include "protocol.h"
#include "status.h"

namespace mirnet {

// What the computer may ask for, and what it is told.
enum class Message : std::uint8_t {
  kInfo = 0x01,
  kSelfTest = 0x02,
  kCapture = 0x03,
  kTestPicture = 0x04,
  kEnhance = 0x05,
  kStream = 0x06,

  kInfoText = 0x81,
  kSelfTestText = 0x82,
  kDarkFrame = 0x83,
  kBrightFrame = 0x84,
  kStatus = 0x85,
};

namespace sink {

constexpr std::size_t kTextSize = 256;
constexpr std::size_t kBuffers = kRowSize + kTextSize;

// All that follows answers the command with this tag.
void Answer(std::uint8_t tag);

void SendStatus(Status status);

// A line of words and numbers as by printf.
void SendText(Message type, const char* format, ...)
    __attribute__((format(printf, 2, 3)));

// The dark frame; then, computed row by row, the bright one.
//   number: of the frame.
//   micros: it took to get it, or to enhance it.
void SendDark(std::uint32_t number, std::uint32_t micros,
              const std::uint8_t* frame);
void SendBright(std::uint32_t number, std::uint32_t micros,
                const std::uint8_t* frame, const std::int8_t* maps);

}  // namespace sink
}  // namespace mirnet

#endif  // MIRNET_IMAGE_SINK_H_
