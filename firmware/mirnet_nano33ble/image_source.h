// Reads dark frames from their sources.
#ifndef MIRNET_IMAGE_SOURCE_H_
#define MIRNET_IMAGE_SOURCE_H_

#include <cstdint>

#include "camera_settings.h"
#include "pixels.h"
#include "status.h"

namespace mirnet {

enum class Source : std::uint8_t {
  kNone = 0,
  kCamera = 1,
  kTestPicture = 2,  // compiled into the sketch
  kComputer = 3,     // a command has brought it
};

// Starts the camera, or starts it anew, with the settings that were set last.
// It takes a second, and its library uses the heap.
Status BeginCamera();

// Sets the camera, now if it has been started, and whenever it is started. Not
// kOk if it does not answer; the settings are kept all the same.
Status SetCamera(const CameraSettings& settings);

// Each writes a frame of kFrameSize bytes, valid only if it returns kOk.
// ReadCamera() throws the first frame away after the camera was set. It takes
// up to 0.6 seconds, and gives up if no whole frame has begun within one; both
// are up to 8 times longer by night. Interrupts are off for slices of 0.7
// milliseconds.
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
