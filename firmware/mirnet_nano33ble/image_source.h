// Reads dark frames from their sources.
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
  kComputer = 3,     // a command has brought it
};

// Starts the camera, or starts it anew. It takes a second, and its library uses
// the heap.
Status BeginCamera();

// Each writes a frame of kFrameSize bytes, valid only if it returns kOk. The
// camera takes up to half a second, part of it with interrupts off;
// ReadCamera() gives up after three seconds.
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
