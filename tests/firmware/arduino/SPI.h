// What display_st7735.cpp uses of Arduino's SPI library: declarations only.
#ifndef SPI_H_
#define SPI_H_

#include <Arduino.h>

#include <cstddef>
#include <cstdint>

enum SPIMode { SPI_MODE0, SPI_MODE1, SPI_MODE2, SPI_MODE3 };

struct SPISettings {
  SPISettings(std::uint32_t clock_hz, BitOrder order, SPIMode mode)
      : clock_hz(clock_hz), order(order), mode(mode) {}
  std::uint32_t clock_hz;
  BitOrder order;
  SPIMode mode;
};

namespace arduino {

class MbedSPI {
 public:
  MbedSPI(PinName miso, PinName mosi, PinName sck);
  void begin();
  void beginTransaction(SPISettings settings);
  void endTransaction();
  void transfer(void* bytes, std::size_t count);

 private:
  PinName miso_, mosi_, sck_;
};

}  // namespace arduino

#endif  // SPI_H_
