#include <Arduino.h>
#include <USB/PluggableUSBSerial.h>
#include <mbed.h>

#include <algorithm>
#include <chrono>

#include "board.h"
#include "settings.h"

namespace mirnet {
namespace board {
namespace {

constexpr auto kTick = std::chrono::milliseconds(20);
constexpr std::size_t kPacketSize = 64;  // of USB at full speed

mbed::LowPowerTicker ticker;

// The core's buffer of received bytes is private; an explicit instantiation may
// name it.
struct CoreBuffer {
  using Type = arduino::RingBufferN<256> arduino::USBSerial::*;
  friend Type Buffer(CoreBuffer);
};
template <CoreBuffer::Type member>
struct Reveal {
  friend CoreBuffer::Type Buffer(CoreBuffer) { return member; }
};
template struct Reveal<&arduino::USBSerial::rx_buffer>;

}  // namespace

void Begin(void (*tick)()) {
  // The cache of the flash is off after a reset.
  NRF_NVMC->ICACHECNF = NVMC_ICACHECNF_CACHEEN_Enabled;
  pinMode(LEDR, OUTPUT);
  pinMode(LEDG, OUTPUT);
  pinMode(LEDB, OUTPUT);
  SetLeds(false, false, false);
  if (kHasDisplay) {
    pinMode(kButtonPin, INPUT_PULLUP);
  }
  ticker.attach(tick, kTick);
}

// The core follows the signal DTR, which the computer lowers when a program
// closes the port or ends.
bool Connected() { return _SerialUSB.connected(); }

std::size_t Read(std::uint8_t* data, std::size_t size) {
  // available() moves a packet into the core's buffer. read() takes two locks
  // and looks for a packet for every byte: 280 instructions.
  const int available = _SerialUSB.available();
  const std::size_t count =
      std::min(size, static_cast<std::size_t>(std::max(available, 0)));
  auto& buffer = _SerialUSB.*Buffer(CoreBuffer());
  core_util_critical_section_enter();
  for (std::size_t i = 0; i < count; ++i) {
    data[i] = static_cast<std::uint8_t>(buffer.read_char());
  }
  core_util_critical_section_exit();
  return count;
}

// The core's write() would wait for ever for a program that does not read.
bool Write(const std::uint8_t* data, std::size_t size) {
  bool waiting = false;
  for (std::uint32_t since = 0; size > 0;) {
    std::uint32_t sent = 0;
    if (!Connected()) {
      return false;
    }
    _SerialUSB.send_nb(const_cast<std::uint8_t*>(data),
                       static_cast<std::uint32_t>(std::min(size, kPacketSize)),
                       &sent);
    if (sent > 0) {
      waiting = false;
    } else if (!waiting) {
      waiting = true;
      since = Millis();
    } else if (Millis() - since > kWriteMillis) {
      return false;
    }
    data += sent;
    size -= sent;
  }
  return true;
}

std::uint32_t Millis() { return millis(); }

std::uint32_t Micros() { return micros(); }

void Wait(std::uint32_t milliseconds) { delay(milliseconds); }

void SetLeds(bool red, bool green, bool blue) {
  digitalWrite(LEDR, red ? LOW : HIGH);  // on when low
  digitalWrite(LEDG, green ? LOW : HIGH);
  digitalWrite(LEDB, blue ? LOW : HIGH);
}

bool ButtonClosed() { return kHasDisplay && digitalRead(kButtonPin) == LOW; }

}  // namespace board
}  // namespace mirnet
