// What the computer asks for, message by message, as in PROTOCOL.md.
#ifndef MIRNET_COMMANDS_H_
#define MIRNET_COMMANDS_H_

#include <cstddef>
#include <cstdint>

#include "image_source.h"
#include "protocol.h"

namespace mirnet {

class Commands {
 public:
  // Messages arrive in the bytes of the frame, kFrameSize of them, between two
  // calls of Next() that return kNone.
  explicit Commands(std::uint8_t* frame);

  // Reads what has arrived, answers what is not about frames, and returns where
  // the next frame is to come from; kNone if none is asked for.
  Source Next(Status camera);

  // Ends a stream.
  void Stop() { stream_ = Source::kNone; }

 private:
  Source Obey(Status camera);

  const std::uint8_t* frame_;
  Decoder decoder_;
  Source stream_ = Source::kNone;
  std::uint32_t last_byte_at_ = 0;  // milliseconds
};

}  // namespace mirnet

#endif  // MIRNET_COMMANDS_H_
