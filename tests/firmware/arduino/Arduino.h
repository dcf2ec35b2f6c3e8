// What image_source_camera.cpp uses of Arduino's core: declarations only, so
// that a computer's compiler can check that file.
#ifndef ARDUINO_H_
#define ARDUINO_H_

#include <cstdint>

using pin_size_t = std::uint8_t;

struct NRF_GPIO_Type {
  volatile std::uint32_t IN;
};
extern NRF_GPIO_Type* NRF_P0;
extern NRF_GPIO_Type* NRF_P1;

unsigned digitalPinToPinName(pin_size_t pin);
void interrupts();
void noInterrupts();

#endif  // ARDUINO_H_
