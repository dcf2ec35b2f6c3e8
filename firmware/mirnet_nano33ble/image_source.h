// Where dark frames come from.
#ifndef MIRNET_IMAGE_SOURCE_H_
#define MIRNET_IMAGE_SOURCE_H_

#include <cstdint>

#include "pixels.h"
#include "status.h"

namespace mirnet {

enum class Source : std::uint8_t {
  kNone = 0,
  kCamera = 1,
  kTestPicture = 2,  // compiled into the sketch
  kComputer = 3,     // by a message, which is in the frame already
};

// Wakes the camera; once, it takes a second and the heap.
Status BeginCamera();

// Each writes a frame of kFrameSize bytes. When it returns anything but kOk,
// the bytes mean nothing. The camera takes up to half a second, part of it with
// interrupts off, and is given up after three, whatever happens to its wires.
Status ReadCamera(std::uint8_t* frame);
Status ReadTestPicture(std::uint8_t* frame);

inline Status ReadFrame(Source source, std::uint8_t* frame) {
  switch (source) {
    case Source::kCamera:
      return ReadCamera(frame);
    case Source::kTestPicture:
      return ReadTestPicture(frame);
    default:
      return Status::kOk;
  }
}

}  // namespace mirnet

#endif  // MIRNET_IMAGE_SOURCE_H_
