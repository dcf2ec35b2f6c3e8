// Sends the messages of PROTOCOL.md to the computer, and shows bright frames on
// the display if settings.h says that there is one. If nobody reads the port,
// messages are dropped.
#ifndef MIRNET_IMAGE_SINK_H_
#define MIRNET_IMAGE_SINK_H_

#include <cstddef>
#include <cstdint>

#include "pixels.h"
#include "protocol.h"
#include "status.h"

namespace mirnet {

// The types of messages: commands of the computer, answers of the board.
enum class Message : std::uint8_t {
  kInfo = 0x01,
  kSelfTest = 0x02,
  kCapture = 0x03,
  kTestPicture = 0x04,
  kEnhance = 0x05,
  kStream = 0x06,
  kExposure = 0x07,
  kCamera = 0x08,
  kAverage = 0x09,

  kInfoText = 0x81,
  kSelfTestText = 0x82,
  kDarkFrame = 0x83,
  kBrightFrame = 0x84,
  kStatus = 0x85,
};

namespace sink {

constexpr std::size_t kTextSize = 256;

// Starts the display, if there is one.
void Begin();

// From now on messages are answers to the command with this tag, or to
// none if it is 0.
void Answer(std::uint8_t tag);

void SendStatus(Status status);

// Sends a line of text, formatted as by printf and cut after kTextSize - 1
// characters.
void SendText(Message type, const char* format, ...)
    __attribute__((format(printf, 2, 3)));

// Sends a dark frame of kFrameSize bytes.
//   number: of the frame.
//   micros: how long it took to read.
void SendDark(std::uint32_t number, std::uint32_t micros,
              const std::uint8_t* frame);

// Sends and shows a bright frame: BeginBright(), then SendRow() with kRowSize
// bytes for each of the kImageHeight rows from the top, then EndBright(). No
// other message may be sent in between.
//   number: of the dark frame.
//   micros: how long the model took.
void BeginBright(std::uint32_t number, std::uint32_t micros);
void SendRow(const std::uint8_t* row);
void EndBright();

}  // namespace sink
}  // namespace mirnet

#endif  // MIRNET_IMAGE_SINK_H_
