// What image_source_camera.cpp and display_st7735.cpp use of Arduino's core, so
// that compilers can check these files, an emulated Cortex-M4 run the first,
// and an emulated display be wired to the second: the registers are where the
// board has them, the types have the core's sizes.
#ifndef ARDUINO_H_
#define ARDUINO_H_

#include <cstdint>

struct NRF_GPIO_Type {
  std::uint32_t before[0x510 / 4];
  volatile std::uint32_t IN;
};
#define NRF_P0 (reinterpret_cast<NRF_GPIO_Type*>(0x50000000))
#define NRF_P1 (reinterpret_cast<NRF_GPIO_Type*>(0x50000300))

constexpr std::uint8_t A0 = 14, A1 = 15;

enum PinStatus { LOW, HIGH };
enum PinMode { INPUT, OUTPUT, INPUT_PULLUP };
enum BitOrder { LSBFIRST, MSBFIRST };
enum PinName : int { NC = -1 };
PinName digitalPinToPinName(std::uint8_t pin);

void pinMode(std::uint8_t pin, PinMode mode);
void digitalWrite(std::uint8_t pin, PinStatus level);
void delay(unsigned long milliseconds);

unsigned long micros();
void interrupts();
void noInterrupts();

#endif  // ARDUINO_H_
