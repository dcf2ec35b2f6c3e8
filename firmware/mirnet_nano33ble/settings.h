// What you may set before you compile the sketch.
#ifndef MIRNET_SETTINGS_H_
#define MIRNET_SETTINGS_H_

#include <cstdint>

// 1: an ST7735 display shows the bright frames, and without a computer the
// board takes frames by itself. 0: there is no display. Change it here, or
// compile with --build-property compiler.cpp.extra_flags=-DMIRNET_DISPLAY=1
#ifndef MIRNET_DISPLAY
#define MIRNET_DISPLAY 0
#endif

namespace mirnet {

constexpr bool kHasDisplay = MIRNET_DISPLAY != 0;

// The wires of the display, and of a push button to GND. The camera has the
// pins 0 to 6, 8 to 10, A0, A1, A4 and A5. Pin 13 is left free: on the shield
// of the TinyML kit a button pulls it to GND, on the board an LED hangs on it.
constexpr std::uint8_t kDisplaySelect = 7;   // CS
constexpr std::uint8_t kDisplayData = 11;    // MOSI, SDA or DIN
constexpr std::uint8_t kDisplayClock = 12;   // SCK or SCL
constexpr std::uint8_t kDisplayIsData = 16;  // A2; DC, A0 or RS
constexpr std::uint8_t kDisplayReset = 17;   // A3; RESET or RST
constexpr std::uint8_t kButtonPin = 20;      // A6

// The bits MY, MX, MV and RGB of the display's register MADCTL. 0xa0:
// landscape; 0x60: the same, turned by half a turn. Add 8 if red and blue are
// exchanged.
constexpr std::uint8_t kDisplayAccess = 0xa0;
// Where the glass begins in the controller's memory. If strange pixels stay at
// two edges of the picture, try 1 and 2.
constexpr int kDisplayLeft = 0, kDisplayTop = 0;

}  // namespace mirnet

#endif  // MIRNET_SETTINGS_H_
