// Reads the computer's commands of PROTOCOL.md and answers them, but for those
// that ask for frames.
#ifndef MIRNET_COMMANDS_H_
#define MIRNET_COMMANDS_H_

#include <cstddef>
#include <cstdint>

#include "image_source.h"
#include "protocol.h"

namespace mirnet {

class Commands {
 public:
  // Next() receives payloads into `frame`, kFrameSize bytes. Others may use it
  // once Next() has returned a source, until the next call.
  explicit Commands(std::uint8_t* frame);

  // Reads the bytes that have arrived, answers commands that need no frame, and
  // returns the source of the next frame, kNone if there is none to take.
  //   camera: its status, for the info message.
  Source Next(Status camera);

  // Next() returns no more frames of a stream that the computer asked for.
  void EndStream() { stream_ = Source::kNone; }

  // How much brighter than the network thinks, in steps of 1/8 EV.
  int exposure() const { return exposure_; }

 private:
  Source Obey(Status camera);

  const std::uint8_t* frame_;
  Decoder decoder_;
  Source stream_ = Source::kNone;
  int exposure_ = 0;
  std::uint32_t last_byte_at_ = 0;  // milliseconds
};

}  // namespace mirnet

#endif  // MIRNET_COMMANDS_H_
