// A display on the pins of a board without a processor: Arduino's functions for
// pins and SPI, which wire an emulated ST7735 to the sketch as
// firmware/README.md has it. Time is that of board.h.
#ifndef PINS_H_
#define PINS_H_

#include <string>

namespace pins {

// How often a window of the display was filled (4 bytes, as the following), the
// bytes of SPI, how often the sketch has set or written a pin, whether the
// display is on, its MADCTL, and its memory, 16 bits a pixel, big endian, from
// the first row.
std::string State();

}  // namespace pins

#endif  // PINS_H_
