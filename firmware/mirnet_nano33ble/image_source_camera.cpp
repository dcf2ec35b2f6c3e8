#include <Arduino.h>
#include <Arduino_OV767X.h>
#include <Wire.h>

#include <algorithm>

#include "camera_reader.h"
#include "image_source.h"

namespace mirnet {
namespace {

static_assert(kImageWidth == 160 && kImageHeight == 120,
              "the camera delivers frames of 160x120 pixels (QQVGA): convert a "
              "model for --size 160x120");

constexpr int kFramesPerSecond = 5;  // the library offers 1 and 5
constexpr int kAttempts = 3;         // at a frame
// Within this time the last attempt begins: a frame takes 0.2 seconds, one runs
// when ReadCamera() is called, and one may have to pass by.
constexpr std::uint32_t kFrameMicros = 1000000;

// For YUV422 the library's register tables set the order Y U Y V that
// frame_format.h expects: TSLB 0x04, COM13 0xC0.

// The pins of the TinyML kit, as the camera library names them. Constants, or
// the reader would load addresses and masks for every byte.
static_assert(
    OV7670_VSYNC == 8 && OV7670_HREF == A1 && OV7670_PLK == A0,
    "the reader knows the pins of the TinyML kit only: use the camera "
    "library that firmware/README.md names");

struct Port {
  static constexpr std::uint32_t kVsync = 1u << 21;  // pin 8 is P0.21
  static constexpr std::uint32_t kHref = 1u << 5;    // A1 is P0.05
  static constexpr std::uint32_t kPclk = 1u << 4;    // A0 is P0.04
  std::uint32_t wires() const { return NRF_P0->IN; }
  // D0 to D7 are bits 2, 3 and 10 to 15 of port 1.
  std::uint8_t data() const {
    const std::uint32_t in = NRF_P1->IN;
    return static_cast<std::uint8_t>((in >> 2 & 0x03) | (in >> 8 & 0xfc));
  }
  void Lock() const { noInterrupts(); }
  void Unlock() const { interrupts(); }
  std::uint32_t Micros() const { return static_cast<std::uint32_t>(micros()); }
};

// The camera's registers, on the bus that the library has begun.
class Registers {
 public:
  bool Read(std::uint8_t address, std::uint8_t* value) const {
    Wire.beginTransmission(kAddress);
    Wire.write(address);
    if (Wire.endTransmission() != 0 || Wire.requestFrom(kAddress, 1) != 1) {
      return false;
    }
    *value = static_cast<std::uint8_t>(Wire.read());
    return true;
  }
  bool Write(std::uint8_t address, std::uint8_t value) const {
    Wire.beginTransmission(kAddress);
    Wire.write(address);
    Wire.write(value);
    return Wire.endTransmission() == 0;
  }

 private:
  static constexpr std::uint8_t kAddress = 0x21;
};

Status state = Status::kNoCamera;
CameraSettings settings;
std::uint32_t slowness = 1;  // of the frame that runs, at most
std::uint32_t lead = 0;      // see MeasureLead(); 0: not known

}  // namespace

Status BeginCamera() {
  if (state == Status::kOk) {
    Camera.end();  // frees what begin() took
    state = Status::kNoCamera;
  }
  if (Camera.begin(QQVGA, YUV422, kFramesPerSecond, OV7675) != 0) {
    state = Status::kOk;
    return SetCamera(settings);
  }
  return state;
}

Status SetCamera(const CameraSettings& wanted) {
  settings = wanted;
  if (state != Status::kOk) {
    return Status::kOk;  // they are set when it is started
  }
  slowness = std::max(slowness, settings.slowness());
  lead = 0;
  return WriteCameraSettings(settings, Registers()) ? Status::kOk
                                                    : Status::kNoCamera;
}

Status ReadCamera(std::uint8_t* frame) {
  if (state != Status::kOk) {
    return state;
  }
  const CameraDeadline deadline{static_cast<std::uint32_t>(micros()),
                                kFrameMicros * slowness};
  // After the registers have changed, the next frame may be cut short, and its
  // rows were exposed before: none of the attempts is spent on it.
  if (lead == 0) {
    lead = MeasureLead(Port(), deadline);
  }
  for (int i = 0; i < kAttempts; ++i) {
    switch (ReadCameraFrame(Port(), kImageHeight, 2 * kImageWidth, lead,
                            deadline, frame)) {
      case CameraFrame::kWhole:
        slowness = settings.slowness();
        return Status::kOk;
      case CameraFrame::kSilent:
        lead = 0;
        return Status::kCameraSilent;
      case CameraFrame::kSlipped:
        if (i > 0) {
          lead = 0;  // the first row may have come sooner
        }
        break;
    }
  }
  return Status::kCameraSlipped;
}

}  // namespace mirnet
