// The sketch's image_source_camera.cpp on an emulated Cortex-M4. The Python
// that calls these functions is the clock and the camera: it answers what is
// read from the registers below and from the pins.
#include <Arduino.h>
#include <Arduino_OV767X.h>
#include <Wire.h>

#include "image_source.h"

namespace {

// Made up: microseconds since the start; 1 while interrupts are off.
volatile std::uint32_t& kMicros =
    *reinterpret_cast<volatile std::uint32_t*>(0x40001000);
volatile std::uint32_t& kLocked =
    *reinterpret_cast<volatile std::uint32_t*>(0x40001004);

}  // namespace

OV767X Camera;

int OV767X::begin(int, int, int, int) { return 1; }
void OV767X::end() {}

unsigned long micros() { return kMicros; }
void interrupts() { kLocked = 0; }
void noInterrupts() { kLocked = 1; }

TwoWire Wire;
namespace {
std::uint8_t sent[2];
std::size_t sent_size;
}  // namespace

extern "C" {

std::uint8_t registers[256];  // of the camera

std::uint8_t frame[mirnet::kFrameSize];

int Begin() { return static_cast<int>(mirnet::BeginCamera()); }
int SetNight(int night) {
  mirnet::CameraSettings settings;
  settings.night = night;
  return static_cast<int>(mirnet::SetCamera(settings));
}
int Read() { return static_cast<int>(mirnet::ReadCamera(frame)); }

}  // extern "C"

void TwoWire::beginTransmission(std::uint8_t) { sent_size = 0; }
std::size_t TwoWire::write(std::uint8_t byte) {
  sent[sent_size++] = byte;
  return 1;
}
std::uint8_t TwoWire::endTransmission() {
  if (sent_size == 2) {
    registers[sent[0]] = sent[1];
  }
  return 0;
}
std::size_t TwoWire::requestFrom(std::uint8_t, std::size_t) { return 1; }
int TwoWire::read() { return registers[sent[0]]; }

int main() { return 0; }
