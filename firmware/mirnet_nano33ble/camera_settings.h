// What the computer can set of the camera, and the registers of the OV7670 and
// OV7675 that hold it, under the names of their data sheets.
#ifndef MIRNET_CAMERA_SETTINGS_H_
#define MIRNET_CAMERA_SETTINGS_H_

#include <cstddef>
#include <cstdint>

namespace mirnet {

struct CameraSettings {
  bool mirror = false, flip = false;
  // In the dark, while the shutter is automatic, frames take up to 2^night
  // times longer.
  int night = 0;
  // The automatic gain is 2^ceiling at most. The driver's table has 32.
  int ceiling = 5;
  // In sixteenths; 0 is automatic.
  int gain = 0;
  // The time a row is exposed, in rows of 392 microseconds, of which a frame
  // has 510; 0 is automatic.
  int shutter = 0;

  // How many times longer than usual a frame may take.
  std::uint32_t slowness() const { return shutter == 0 ? 1u << night : 1; }
};

constexpr int kMostNight = 3, kMostCeiling = 7;
constexpr int kLeastGain = 16, kMostGain = 31 * 64;
constexpr int kMostShutter = 510;

// Reads settings from the payload of a command, see PROTOCOL.md. Returns false,
// and leaves `*settings` as it was, if there is no such payload.
inline bool ParseCameraSettings(const std::uint8_t* payload, std::size_t length,
                                CameraSettings* settings) {
  constexpr std::size_t kLength = 7;
  if (length != kLength) {
    return false;
  }
  CameraSettings parsed;
  parsed.mirror = (payload[0] & 1) != 0;
  parsed.flip = (payload[0] & 2) != 0;
  parsed.night = payload[1];
  parsed.ceiling = payload[2];
  parsed.gain = payload[3] | payload[4] << 8;
  parsed.shutter = payload[5] | payload[6] << 8;
  if (payload[0] > 3 || parsed.night > kMostNight || parsed.ceiling < 1 ||
      parsed.ceiling > kMostCeiling || parsed.shutter > kMostShutter ||
      (parsed.gain != 0 &&
       (parsed.gain < kLeastGain || parsed.gain > kMostGain))) {
    return false;
  }
  *settings = parsed;
  return true;
}

// Writes the registers. Returns false if the camera does not answer.
//   bus: with bool Read(std::uint8_t address, std::uint8_t* value) and
//     bool Write(std::uint8_t address, std::uint8_t value).
template <typename Bus>
bool WriteCameraSettings(const CameraSettings& settings, Bus&& bus) {
  enum : std::uint8_t {
    kGain = 0x00,
    kVref = 0x03,
    kCom1 = 0x04,
    kAechh = 0x07,
    kAech = 0x10,
    kCom8 = 0x13,
    kCom9 = 0x14,
    kMvfp = 0x1e,
    kCom11 = 0x3b,
    kCom15 = 0x40,
  };
  bool answers = true;
  // Writes the bits of a register that `mask` names.
  const auto set = [&bus, &answers](std::uint8_t address, int mask, int value) {
    std::uint8_t old = 0;
    answers = answers && (mask == 0xff || bus.Read(address, &old));
    answers =
        answers &&
        bus.Write(address, static_cast<std::uint8_t>((old & ~mask) | value));
  };
  set(kCom15, 0xff, 0xc0);  // levels from 0 to 255; without it from 16 to 240
  set(kCom8, 0x05,
      (settings.gain == 0 ? 0x04 : 0) |         // AGC
          (settings.shutter == 0 ? 0x01 : 0));  // AEC
  set(kCom9, 0x70, (settings.ceiling - 1) << 4);
  set(kCom11, 0xe0, settings.night > 0 ? 0x80 | settings.night << 5 : 0);
  set(kMvfp, 0x30, (settings.mirror ? 0x20 : 0) | (settings.flip ? 0x10 : 0));
  if (settings.gain != 0) {
    // Each bit doubles it: GAIN[4] to GAIN[7], then VREF[6] and VREF[7]; the
    // lowest four bits of GAIN add sixteenths.
    int fraction = settings.gain, doublings = 0;
    for (; fraction >= 32; fraction /= 2) {
      doublings = doublings << 1 | 1;
    }
    set(kGain, 0xff, (doublings & 15) << 4 | (fraction - 16));
    set(kVref, 0xc0, doublings >> 4 << 6);
  }
  if (settings.shutter != 0) {
    set(kAechh, 0x3f, settings.shutter >> 10);
    set(kAech, 0xff, settings.shutter >> 2 & 0xff);
    set(kCom1, 0x03, settings.shutter & 3);
  }
  return answers;
}

}  // namespace mirnet

#endif  // MIRNET_CAMERA_SETTINGS_H_
