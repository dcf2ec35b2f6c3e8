// What image_source_camera.cpp uses of Arduino's Wire: declarations only.
#ifndef WIRE_H_
#define WIRE_H_

#include <cstddef>
#include <cstdint>

struct TwoWire {
  void beginTransmission(std::uint8_t address);
  std::size_t write(std::uint8_t byte);
  std::uint8_t endTransmission();
  std::size_t requestFrom(std::uint8_t address, std::size_t size);
  int read();
};
extern TwoWire Wire;

#endif  // WIRE_H_
