#include "pixels.h"

// Arduino compiles with -Os, which takes twice as many instructions here.
#pragma GCC optimize("O3")

namespace mirnet {
namespace {

constexpr int kMaps = 15;  // 3 gains, 6 shares, 3 offsets, 3 root gains
constexpr int kSide = kCell * kCell;  // input channels of one colour

// There are kGrid steps from the centre of one cell to that of the next. The
// first pixel lies kFirst steps after a centre, the next ones kStep apart.
constexpr int kGrid = kCell % 2 == 1 ? kCell : 2 * kCell;
constexpr int kFirst = kCell % 2 == 1 ? 0 : 1;
constexpr int kStep = kGrid / kCell;

static_assert(kOutputChannels == kMaps,
              "the model has another head: the sketch needs 15 maps for each "
              "cell, convert a network of the mcu kind");
static_assert(kInputChannels == 3 * kSide,
              "the model takes no cells of RGB pixels: convert a network of "
              "the mcu kind");
static_assert(kInputHeight == kOutputHeight && kInputWidth == kOutputWidth &&
                  kInputHeight * kCell == kImageHeight &&
                  kInputWidth * kCell == kImageWidth,
              "the maps have another size than the cells of the input: "
              "convert a network of the mcu kind");
static_assert(kCell <= 5,
              "the tables are too coarse for cells above 5x5 pixels: train a "
              "network with smaller cells");
static_assert(kInputZeroPoint == -128 && kInputScale * 255 > 0.999999f &&
                  kInputScale * 255 < 1.000001f,
              "a code of the input must be an 8-bit level minus 128: calibrate "
              "with inputs from 0 to 1 and convert again");
static_assert(kOutputScale < 0.1f,
              "the output's scale must be below 0.1, or sums of 32 bits "
              "overflow: train a network whose maps stay within a few units");

struct Rgb {
  int red, green, blue;
};

// RGB565 to 8 bits; the high bits are repeated, so that white is 255.
inline Rgb Expand(const std::uint8_t* pixel) {
  const int red = pixel[0] >> 3;
  const int green = (pixel[0] & 7) << 3 | pixel[1] >> 5;
  const int blue = pixel[1] & 31;
  return {red << 3 | red >> 2, green << 2 | green >> 4, blue << 3 | blue >> 2};
}

inline std::int8_t CodeOf(int level) {
  return static_cast<std::int8_t>(level + kInputZeroPoint);
}

inline int LevelOf(std::int8_t code) { return code - kInputZeroPoint; }

// The position of pixel `x` of row `y` in the model's input; green and blue
// follow kSide and 2 * kSide later.
inline int CellOf(int y, int x) {
  return (y / kCell * kInputWidth + x / kCell) * kInputChannels +
         y % kCell * kCell + x % kCell;
}

// The values of the codes of a cell, times 2^16 / kGrid^2.
inline void Translate(const std::int8_t* codes, std::int32_t* values) {
  for (int i = 0; i < 3; ++i) {
    values[i] = kGainTable[codes[i] + 128];
  }
  for (int i = 3; i < 9; ++i) {
    values[i] = kShareTable[codes[i] + 128];
  }
  for (int i = 9; i < 12; ++i) {
    values[i] = kOffsetTable[codes[i] + 128];
  }
  for (int i = 12; i < kMaps; ++i) {
    values[i] = kShareTable[codes[i] + 128];
  }
}

// Rounds to a whole level; the sum has 32 bits after the point.
inline std::uint8_t ToLevel(std::int64_t sum) {
  const auto level =
      static_cast<std::int32_t>((sum + (std::int64_t{1} << 31)) >> 32);
  return static_cast<std::uint8_t>(level < 0 ? 0 : level > 255 ? 255 : level);
}

inline std::int64_t Product(std::int32_t a, std::int32_t b) {
  return static_cast<std::int64_t>(a) * b;
}

// gain * level + root gain * root of the level.
inline std::int32_t Raise(int level, std::int32_t gain,
                          std::int32_t root_gain) {
  return gain * level + (root_gain * kRootTable[level] >> kRootBits);
}

// Computes one bright pixel from a dark one.
//   m: gains, shares, offsets and root gains, 16 bits after the point.
inline void Restore(const Rgb& dark, const std::int32_t* m, std::uint8_t* rgb) {
  const std::int32_t red = Raise(dark.red, m[0], m[12]);
  const std::int32_t green = Raise(dark.green, m[1], m[13]);
  const std::int32_t blue = Raise(dark.blue, m[2], m[14]);
  constexpr std::int32_t kOne = 1 << 16;
  rgb[0] = ToLevel(Product(red + m[9], kOne) + Product(m[3], green) +
                   Product(m[4], blue));
  rgb[1] = ToLevel(Product(green + m[10], kOne) + Product(m[5], red) +
                   Product(m[6], blue));
  rgb[2] = ToLevel(Product(blue + m[11], kOne) + Product(m[7], red) +
                   Product(m[8], green));
}

}  // namespace

void FillInput(const std::uint8_t* frame, std::int8_t* input) {
  for (int y = 0; y < kImageHeight; ++y) {
    for (int x = 0; x < kImageWidth; ++x, frame += 2) {
      const Rgb dark = Expand(frame);
      std::int8_t* codes = input + CellOf(y, x);
      codes[0] = CodeOf(dark.red);
      codes[kSide] = CodeOf(dark.green);
      codes[2 * kSide] = CodeOf(dark.blue);
    }
  }
}

void FillFrame(const std::int8_t* input, std::uint8_t* frame) {
  for (int y = 0; y < kImageHeight; ++y) {
    for (int x = 0; x < kImageWidth; ++x, frame += 2) {
      const std::int8_t* codes = input + CellOf(y, x);
      const int word = LevelOf(codes[0]) >> 3 << 11 |
                       LevelOf(codes[kSide]) >> 2 << 5 |
                       LevelOf(codes[2 * kSide]) >> 3;
      frame[0] = static_cast<std::uint8_t>(word >> 8);
      frame[1] = static_cast<std::uint8_t>(word & 255);
    }
  }
}

void RestoreRow(const std::uint8_t* frame, const std::int8_t* maps, int y,
                std::uint8_t* row) {
  // Bilinear between the centres of cells; outside them, the cell at the edge.
  constexpr int kRowOfMaps = kOutputWidth * kMaps;
  constexpr int kBefore = kCell / 2;  // pixels of a cell before its centre
  constexpr int kAfter = kCell - kBefore;
  const int above = (y + kAfter) / kCell - 1;
  const int below_weight = kFirst + kStep * ((y + kAfter) % kCell);
  const std::int8_t* upper = maps + (above < 0 ? 0 : above) * kRowOfMaps;
  const std::int8_t* lower =
      maps + (above + 1 < kOutputHeight ? above + 1 : above) * kRowOfMaps;
  std::int32_t columns[kOutputWidth][kMaps];  // times kGrid
  for (int column = 0; column < kOutputWidth; ++column) {
    std::int32_t a[kMaps], b[kMaps];
    Translate(upper + column * kMaps, a);
    Translate(lower + column * kMaps, b);
    for (int i = 0; i < kMaps; ++i) {
      columns[column][i] = kGrid * a[i] + below_weight * (b[i] - a[i]);
    }
  }
  const std::uint8_t* pixel =
      frame + std::size_t{2} * kImageWidth * static_cast<std::size_t>(y);
  for (int right = 0; right <= kOutputWidth; ++right) {
    const std::int32_t* a = columns[right > 0 ? right - 1 : 0];
    const std::int32_t* b = columns[right < kOutputWidth ? right : right - 1];
    std::int32_t value[kMaps], step[kMaps];
    for (int i = 0; i < kMaps; ++i) {
      step[i] = kStep * (b[i] - a[i]);
      value[i] = (kGrid - kFirst) * a[i] + kFirst * b[i];
    }
    const int pixels = right == 0              ? kBefore
                       : right == kOutputWidth ? kAfter
                                               : kCell;
    for (int x = pixels; x > 0; --x) {
      Restore(Expand(pixel), value, row);
      for (int i = 0; i < kMaps; ++i) {
        value[i] += step[i];
      }
      pixel += 2;
      row += 3;
    }
  }
}

}  // namespace mirnet
