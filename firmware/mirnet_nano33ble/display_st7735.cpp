// An ST7735 with 160x128 pixels behind Arduino's SPI library. The registers and
// waiting times are those of Sitronix's data sheet.
//
// Adafruit_ST7735 is not used: it brings four more libraries (GFX, BusIO,
// seesaw, SD), on this board it sends a row byte by byte, and eight commands
// are all that a picture needs. Voltages, refresh and gamma stay as the panel's
// maker has stored them.

#include "settings.h"

#if MIRNET_DISPLAY

#include <Arduino.h>
#include <SPI.h>

#include <cstddef>
#include <initializer_list>

#include "display.h"
#include "pixels.h"

namespace mirnet {
namespace display {
namespace {

constexpr int kWidth = 160, kHeight = 128;
static_assert(kImageWidth <= kWidth && kImageHeight <= kHeight,
              "the display has 160x128 pixels: convert a model for frames that "
              "are not larger, or set MIRNET_DISPLAY to 0");

constexpr std::uint32_t kClockHz = 8000000;  // the display takes 15 MHz
constexpr unsigned long kResetMillis = 120, kWakeMillis = 120;

enum Command : std::uint8_t {
  kSoftwareReset = 0x01,  // SWRESET
  kSleepOut = 0x11,       // SLPOUT
  kDisplayOn = 0x29,      // DISPON
  kColumns = 0x2a,        // CASET
  kRows = 0x2b,           // RASET
  kWritePixels = 0x2c,    // RAMWR
  kAccess = 0x36,         // MADCTL
  kPixelFormat = 0x3a,    // COLMOD
};
constexpr std::uint8_t k16Bits = 0x05;

// The display says nothing, so there is no wire MISO.
arduino::MbedSPI bus(NC, digitalPinToPinName(kDisplayData),
                     digitalPinToPinName(kDisplayClock));

// The library overwrites the bytes with what it reads meanwhile.
void Send(bool is_data, std::uint8_t* bytes, std::size_t size) {
  digitalWrite(kDisplayIsData, is_data ? HIGH : LOW);
  bus.beginTransaction(SPISettings(kClockHz, MSBFIRST, SPI_MODE0));
  digitalWrite(kDisplaySelect, LOW);
  bus.transfer(bytes, size);
  digitalWrite(kDisplaySelect, HIGH);
  bus.endTransaction();
}

void Send(Command command,
          std::initializer_list<std::uint8_t> parameters = {}) {
  std::uint8_t code = command;
  Send(false, &code, 1);
  for (std::uint8_t parameter : parameters) {
    Send(true, &parameter, 1);
  }
}

void SendRange(Command command, int first, int count) {
  const int last = first + count - 1;
  Send(command, {static_cast<std::uint8_t>(first >> 8),
                 static_cast<std::uint8_t>(first & 255),
                 static_cast<std::uint8_t>(last >> 8),
                 static_cast<std::uint8_t>(last & 255)});
}

// The pixels that follow fill a rectangle, row by row.
void BeginPixels(int left, int top, int width, int height) {
  SendRange(kColumns, kDisplayLeft + left, width);
  SendRange(kRows, kDisplayTop + top, height);
  Send(kWritePixels);
}

// The nearest of 0 to `most` for a level.
inline int Nearest(int level, int most) { return (level * most + 127) / 255; }

}  // namespace

void Begin() {
  pinMode(kDisplaySelect, OUTPUT);
  pinMode(kDisplayIsData, OUTPUT);
  pinMode(kDisplayReset, OUTPUT);
  digitalWrite(kDisplaySelect, HIGH);
  bus.begin();
  digitalWrite(kDisplayReset, LOW);
  delay(1);
  digitalWrite(kDisplayReset, HIGH);
  delay(kResetMillis);
  Send(kSoftwareReset);  // for modules whose RESET is wired to 3.3V
  delay(kResetMillis);
  Send(kSleepOut);
  delay(kWakeMillis);
  Send(kPixelFormat, {k16Bits});
  Send(kAccess, {kDisplayAccess});
  BeginPixels(0, 0, kWidth, kHeight);  // else noise would show
  for (int y = 0; y < kHeight; ++y) {
    std::uint8_t black[2 * kWidth] = {};
    Send(true, black, sizeof black);
  }
  Send(kDisplayOn);
}

void BeginPicture() {
  BeginPixels((kWidth - kImageWidth) / 2, (kHeight - kImageHeight) / 2,
              kImageWidth, kImageHeight);
}

// On the stack, where RestoreRow() has just used more.
void ShowRow(const std::uint8_t* row) {
  std::uint8_t pixels[2 * kImageWidth];  // RGB565, big endian
  for (std::uint8_t* pixel = pixels; pixel < pixels + sizeof pixels;
       pixel += 2, row += 3) {
    const int colour = Nearest(row[0], 31) << 11 | Nearest(row[1], 63) << 5 |
                       Nearest(row[2], 31);
    pixel[0] = static_cast<std::uint8_t>(colour >> 8);
    pixel[1] = static_cast<std::uint8_t>(colour & 255);
  }
  Send(true, pixels, sizeof pixels);
}

}  // namespace display
}  // namespace mirnet

#endif  // MIRNET_DISPLAY
