#include <Arduino.h>
#include <Arduino_OV767X.h>

#include "camera_reader.h"
#include "image_source.h"

namespace mirnet {
namespace {

static_assert(kImageWidth == 160 && kImageHeight == 120,
              "the camera delivers frames of 160x120 pixels (QQVGA): convert a "
              "model for --size 160x120");

constexpr int kFramesPerSecond = 5;  // the library offers 1 and 5

// For YUV422 the library's register tables set what frame_format.h expects: the
// order Y U Y V (TSLB 0x04, COM13 0xC0) and the full range of levels (COM15
// 0xC0). For RGB565 they leave COM15 at 0x10, levels 16 to 240.

class Pin {
 public:
  explicit Pin(pin_size_t pin)
      : in_(digitalPinToPinName(pin) < 32 ? &NRF_P0->IN : &NRF_P1->IN),
        mask_(1u << digitalPinToPinName(pin) % 32) {}
  bool high() const { return (*in_ & mask_) != 0; }

 private:
  const volatile std::uint32_t* in_;
  std::uint32_t mask_;
};

// The pins of the TinyML kit, as the camera library names them.
class Port {
 public:
  bool vsync() const { return vsync_.high(); }
  bool href() const { return href_.high(); }
  bool pclk() const { return pclk_.high(); }
  // D0 to D7 are bits 2, 3 and 10 to 15 of port 1.
  std::uint8_t data() const {
    const std::uint32_t in = NRF_P1->IN;
    return static_cast<std::uint8_t>((in >> 2 & 0x03) | (in >> 8 & 0xfc));
  }
  void Lock() const { noInterrupts(); }
  void Unlock() const { interrupts(); }

 private:
  Pin vsync_{OV7670_VSYNC}, href_{OV7670_HREF}, pclk_{OV7670_PLK};
};

Status state = Status::kNoCamera;

}  // namespace

Status BeginCamera() {
  if (state == Status::kOk) {
    Camera.end();  // frees what begin() took
    state = Status::kNoCamera;
  }
  if (Camera.begin(QQVGA, YUV422, kFramesPerSecond, OV7675) != 0) {
    state = Status::kOk;
  }
  return state;
}

Status ReadCamera(std::uint8_t* frame) {
  if (state == Status::kOk &&
      !ReadCameraFrame(Port(), kImageHeight, 2 * kImageWidth, frame)) {
    return Status::kCameraSilent;
  }
  return state;
}

}  // namespace mirnet
