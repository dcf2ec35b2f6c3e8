// Reads the computer's commands of PROTOCOL.md and answers them, but for those
// that ask for frames.
#ifndef MIRNET_COMMANDS_H_
#define MIRNET_COMMANDS_H_

#include <cstddef>
#include <cstdint>

#include "average.h"
#include "image_source.h"
#include "protocol.h"

namespace mirnet {

class Commands {
 public:
  // Next() receives payloads into `frame`, kFrameSize bytes. Others may use it
  // once Next() has returned a source, until the next call.
  explicit Commands(std::uint8_t* frame);

  // Reads the bytes that have arrived, answers commands that need no frame, and
  // returns the source of the next frame, kNone if there is none to take. What
  // is sent from then on answers the command that asked for this frame.
  //   camera: its status, for the info message.
  //   darkest: the lowest luminance of its last frame, or below 0 before one.
  Source Next(Status camera, int darkest);

  // Whether no program had the port open at the last Next(): nobody commands.
  bool alone() const { return alone_; }

  // Whether a part of a message has arrived: call Next() again soon.
  bool receiving() const { return decoder_.receiving(); }

  // How much brighter frames become, in steps of 1/8 EV; 0: no correction.
  int exposure() const { return exposure_; }

  // Of how many frames a picture is made.
  Average& average() { return average_; }

 private:
  Source Obey(Status camera, int darkest);

  const std::uint8_t* frame_;
  Decoder decoder_;
  Source stream_ = Source::kNone;
  std::uint8_t stream_tag_ = 0;  // of the command that started it
  bool alone_ = false;
  int exposure_ = 0;
  Average average_;
  std::uint8_t arrived_[64];  // a packet of USB
  std::size_t arrived_size_ = 0, arrived_used_ = 0;
  std::uint32_t last_byte_at_ = 0;  // milliseconds
};

}  // namespace mirnet

#endif  // MIRNET_COMMANDS_H_
