#include "pins.h"

#include <Arduino.h>
#include <SPI.h>

#include <algorithm>
#include <map>

#include "board.h"
#include "protocol.h"
#include "st7735.h"

namespace {

// firmware/README.md: the display's wires. The camera has the other pins.
constexpr std::uint8_t kSelect = 7, kMosi = 11, kClock = 12, kIsData = 16,
                       kReset = 17;
constexpr std::uint32_t kFastestHz = 15151515;  // 66 ns a bit

St7735 display;
std::map<std::uint8_t, bool> outputs;  // the levels of the pins that are driven
std::uint32_t bytes_sent = 0, uses = 0;
bool begun = false, transaction = false;

bool Level(std::uint8_t pin) {
  const auto found = outputs.find(pin);
  St7735::Check(found != outputs.end(), "a wire is not driven");
  return found->second;
}

}  // namespace

namespace pins {

std::string State() {
  std::string state;
  for (std::uint32_t value :
       {display.filled(), bytes_sent, uses, std::uint32_t{display.on()},
        std::uint32_t{display.access()}}) {
    std::uint8_t bytes[4];
    mirnet::PutU32(bytes, value);
    state.append(reinterpret_cast<const char*>(bytes), sizeof bytes);
  }
  for (std::uint16_t pixel : display.memory()) {
    state += static_cast<char>(pixel >> 8);
    state += static_cast<char>(pixel & 255);
  }
  return state;
}

}  // namespace pins

PinName digitalPinToPinName(std::uint8_t pin) {
  return static_cast<PinName>(pin);
}

void pinMode(std::uint8_t pin, PinMode mode) {
  ++uses;
  St7735::Check(pin == kSelect || pin == kIsData || pin == kReset,
                "a pin that is not the display's");
  St7735::Check(mode == OUTPUT, "a wire of the display is an input");
  outputs[pin] = false;
}

void digitalWrite(std::uint8_t pin, PinStatus level) {
  ++uses;
  Level(pin);
  outputs[pin] = level == HIGH;
  if (pin == kReset) {
    display.Reset(level == HIGH, mirnet::board::Millis());
  }
}

void delay(unsigned long milliseconds) {
  mirnet::board::Wait(static_cast<std::uint32_t>(milliseconds));
}

namespace arduino {

MbedSPI::MbedSPI(PinName miso, PinName mosi, PinName sck)
    : miso_(miso), mosi_(mosi), sck_(sck) {}

void MbedSPI::begin() {
  St7735::Check(miso_ == NC && mosi_ == kMosi && sck_ == kClock,
                "SPI on other pins");
  begun = true;
}

void MbedSPI::beginTransaction(SPISettings settings) {
  St7735::Check(settings.mode == SPI_MODE0 && settings.order == MSBFIRST,
                "another mode of SPI");
  St7735::Check(settings.clock_hz <= kFastestHz, "SPI is too fast");
  transaction = true;
}

void MbedSPI::endTransaction() { transaction = false; }

// The core's library writes what it has read over what it has sent.
void MbedSPI::transfer(void* bytes, std::size_t count) {
  St7735::Check(begun && transaction, "SPI has not begun");
  St7735::Check(!Level(kSelect), "bytes while CSX is high");
  auto* begin = static_cast<std::uint8_t*>(bytes);
  const std::uint32_t now = mirnet::board::Millis();
  for (std::uint8_t* byte = begin; byte < begin + count; ++byte) {
    display.Byte(Level(kIsData), *byte, now);
  }
  std::fill_n(begin, count, std::uint8_t{0xff});
  bytes_sent += static_cast<std::uint32_t>(count);
}

}  // namespace arduino
