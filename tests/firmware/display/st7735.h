// An ST7735 as Sitronix's data sheet (V2.1) has it, with 128x160 pixels (GM =
// 011) and the 4-line serial interface. It ends the program with status 3 and a
// sentence at what the data sheet does not allow, at pixels that would be lost
// or misread, and at what would show noise.
#ifndef ST7735_H_
#define ST7735_H_

#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

class St7735 {
 public:
  static constexpr int kColumns = 128, kRows = 160;
  using Memory = std::array<std::uint16_t, kColumns * kRows>;

  St7735() {
    std::uint32_t noise = 1;  // after power on
    for (std::uint16_t& pixel : memory_) {
      noise = noise * 1664525 + 1013904223;
      pixel = static_cast<std::uint16_t>(noise >> 16);
    }
  }

  // The wire RESX, and the time in milliseconds.
  void Reset(bool high, std::uint32_t now) {
    if (high && !running_) {
      Check(now - since_ >= 1, "the reset is too short");
      Default(now);
    }
    since_ = now;
    running_ = high;
  }

  // A byte while CSX is low; the level of D/CX.
  void Byte(bool is_data, std::uint8_t byte, std::uint32_t now) {
    Check(running_, "a byte while RESX is low, or before a reset");
    Check(now - quiet_since_ >= quiet_, "a byte too early after a command");
    if (is_data) {
      Data(byte);
    } else {
      Begin(byte, now);
    }
  }

  const Memory& memory() const { return memory_; }
  bool on() const { return on_; }
  std::uint8_t access() const { return access_; }
  // How often a window has been filled to its last pixel.
  std::uint32_t filled() const { return filled_; }

  [[noreturn]] static void Fail(const char* what) {
    std::fprintf(stderr, "ST7735: %s\n", what);
    std::exit(3);
  }
  static void Check(bool well, const char* what) {
    if (!well) {
      Fail(what);
    }
  }

 private:
  void Default(std::uint32_t now) {
    sleeping_ = true;
    on_ = false;
    bits_ = 18;
    access_ = 0;
    reset_at_ = now;
    Quiet(5, now);
  }

  void Quiet(std::uint32_t milliseconds, std::uint32_t now) {
    quiet_since_ = now;
    quiet_ = milliseconds;
  }

  void Begin(std::uint8_t command, std::uint32_t now) {
    Check(parameters_.size() == wanted_, "a command lacks parameters");
    Check(!half_, "half a pixel before a command");
    command_ = command;
    parameters_.clear();
    wanted_ = command == 0x2a || command == 0x2b   ? 4
              : command == 0x36 || command == 0x3a ? 1
                                                   : 0;
    switch (command) {
      case 0x01:  // SWRESET
        Default(now);
        break;
      case 0x11:  // SLPOUT
        Check(now - reset_at_ >= 120, "SLPOUT less than 120 ms after a reset");
        sleeping_ = false;
        Quiet(120, now);
        break;
      case 0x29:  // DISPON
        Check(!sleeping_, "DISPON in sleep mode");
        for (bool written : written_) {
          Check(written, "the display is on and shows noise");
        }
        on_ = true;
        break;
      case 0x2a:  // CASET
      case 0x2b:  // RASET
      case 0x36:  // MADCTL
      case 0x3a:  // COLMOD
        break;
      case 0x2c:  // RAMWR
        Check(!sleeping_, "pixels in sleep mode");
        Check(bits_ == 16, "pixels of 16 bits while COLMOD says otherwise");
        x_ = window_[0].first;
        y_ = window_[1].first;
        break;
      default:
        Fail("a command that a picture does not need");
    }
  }

  void Data(std::uint8_t byte) {
    if (command_ == 0x2c) {
      half_ = !half_;
      if (half_) {
        high_ = byte;
      } else {
        Pixel(static_cast<std::uint16_t>(high_ << 8 | byte));
      }
      return;
    }
    Check(parameters_.size() < wanted_, "a parameter that no command takes");
    parameters_.push_back(byte);
    if (parameters_.size() < wanted_) {
      return;
    }
    if (command_ == 0x36) {
      access_ = byte;
    } else if (command_ == 0x3a) {
      Check(byte == 3 || byte == 5 || byte == 6, "COLMOD of no format");
      bits_ = byte == 3 ? 12 : byte == 5 ? 16 : 18;
    } else {
      const int first = parameters_[0] << 8 | parameters_[1];
      const int last = parameters_[2] << 8 | parameters_[3];
      const bool columns = (command_ == 0x2a) != ((access_ & 0x20) != 0);
      Check(first <= last && last < (columns ? kColumns : kRows),
            "a window that is not inside the memory");
      window_[command_ - 0x2a] = {first, last};
    }
  }

  void Pixel(std::uint16_t colour) {
    // Table 9.10.1: MV exchanges what MX and MY then mirror.
    const bool exchanged = (access_ & 0x20) != 0;
    int column = exchanged ? y_ : x_, row = exchanged ? x_ : y_;
    column = (access_ & 0x40) != 0 ? kColumns - 1 - column : column;
    row = (access_ & 0x80) != 0 ? kRows - 1 - row : row;
    const auto at = static_cast<std::size_t>(row * kColumns + column);
    memory_[at] = colour;
    written_[at] = true;
    if (++x_ > window_[0].last) {
      x_ = window_[0].first;
      if (++y_ > window_[1].last) {
        y_ = window_[1].first;
        ++filled_;
      }
    }
  }

  struct Range {
    int first, last;
  };

  Memory memory_;
  std::array<bool, kColumns * kRows> written_ = {};
  bool running_ = false, sleeping_ = true, on_ = false, half_ = false;
  int bits_ = 18;
  std::uint8_t access_ = 0, command_ = 0, high_ = 0;
  std::size_t wanted_ = 0;
  std::vector<std::uint8_t> parameters_;
  std::array<Range, 2> window_ = {{{0, kColumns - 1}, {0, kRows - 1}}};
  int x_ = 0, y_ = 0;
  std::uint32_t since_ = 0, reset_at_ = 0, quiet_since_ = 0, quiet_ = 0;
  std::uint32_t filled_ = 0;
};

#endif  // ST7735_H_
