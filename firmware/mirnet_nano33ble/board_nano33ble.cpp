#include <Arduino.h>
#include <USB/PluggableUSBSerial.h>
#include <mbed.h>

#include <algorithm>
#include <chrono>

#include "board.h"

namespace mirnet {
namespace board {
namespace {

constexpr auto kTick = std::chrono::milliseconds(20);
constexpr std::size_t kPacketSize = 64;  // of USB at full speed

mbed::LowPowerTicker ticker;

}  // namespace

void Begin(void (*tick)()) {
  // The cache of the flash is off after a reset.
  NRF_NVMC->ICACHECNF = NVMC_ICACHECNF_CACHEEN_Enabled;
  pinMode(LEDR, OUTPUT);
  pinMode(LEDG, OUTPUT);
  pinMode(LEDB, OUTPUT);
  SetLamps(false, false, false);
  ticker.attach(tick, kTick);
}

// The core follows the signal DTR, which the computer lowers when a program
// closes the port or ends.
bool Connected() { return _SerialUSB.connected(); }

int Read() { return _SerialUSB.read(); }

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

void SetLamps(bool red, bool green, bool blue) {
  digitalWrite(LEDR, red ? LOW : HIGH);  // on when low
  digitalWrite(LEDG, green ? LOW : HIGH);
  digitalWrite(LEDB, blue ? LOW : HIGH);
}

}  // namespace board
}  // namespace mirnet
