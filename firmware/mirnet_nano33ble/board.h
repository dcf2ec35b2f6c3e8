// What the sketch needs from its machine: bytes to and from the computer, a
// clock, three LEDs, a push button. board_nano33ble.cpp is for the Arduino
// Nano 33 BLE; the viewer's simulator has its own.
#ifndef MIRNET_BOARD_H_
#define MIRNET_BOARD_H_

#include <cstddef>
#include <cstdint>

namespace mirnet {
namespace board {

// From then on an interrupt calls `tick` every 20 milliseconds or so.
void Begin(void (*tick)());

// Whether a program on the computer has the port open.
bool Connected();

// Takes bytes from the computer, `size` at most, and returns how many there
// were.
std::size_t Read(std::uint8_t* data, std::size_t size);

// Sends bytes and waits while the computer is slow. False if the port is closed
// or nobody reads it for kWriteMillis.
constexpr std::uint32_t kWriteMillis = 1000;
bool Write(const std::uint8_t* data, std::size_t size);

// Both wrap around. The board's take some microseconds: do not call them for
// every byte.
std::uint32_t Millis();
std::uint32_t Micros();
void Wait(std::uint32_t milliseconds);

void SetLeds(bool red, bool green, bool blue);

// Whether the contact of the button is closed; it bounces. For interrupts too.
// Always false without a display.
bool ButtonClosed();

}  // namespace board
}  // namespace mirnet

#endif  // MIRNET_BOARD_H_
