#include <Arduino.h>

#include "board.h"

namespace mirnet {
namespace board {

void Begin() {
  pinMode(LEDR, OUTPUT);
  pinMode(LEDG, OUTPUT);
  pinMode(LEDB, OUTPUT);
  SetLamps(false, false, false);
  Serial.begin(115200);  // the number has no effect over USB
}

int Read() { return Serial.read(); }

bool Write(const std::uint8_t* data, std::size_t size) {
  return Serial.write(data, size) == size;
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
