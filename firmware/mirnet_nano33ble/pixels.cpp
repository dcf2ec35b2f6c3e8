#include "pixels.h"

// Arduino compiles with -Os, which takes twice the instructions here.
#pragma GCC optimize("O3")

namespace mirnet {
namespace {

constexpr int kMaps = 15;  // 3 gains, 6 shares, 3 offsets, 3 root gains
constexpr int kSide = kShuffle * kShuffle;  // input channels of one colour

// From the centre of a cell to the next there are kGrid steps; the first pixel
// lies kFirst behind a centre, its neighbours kStep apart.
constexpr int kGrid = kShuffle % 2 == 1 ? kShuffle : 2 * kShuffle;
constexpr int kFirst = kShuffle % 2 == 1 ? 0 : 1;
constexpr int kStep = kGrid / kShuffle;

static_assert(kOutputChannels == kMaps, "the model has another head");
static_assert(kInputChannels == 3 * kSide, "the model takes no RGB pictures");
static_assert(kInputHeight == kOutputHeight && kInputWidth == kOutputWidth &&
                  kInputHeight * kShuffle == kImageHeight &&
                  kInputWidth * kShuffle == kImageWidth,
              "the maps have another size than the cells of the input");
static_assert(kInputZeroPoint == -128 && kInputScale * 255 > 0.999999f &&
                  kInputScale * 255 < 1.000001f,
              "a code of the input must be an 8-bit level minus 128");
static_assert(kOutputScale < 0.1f, "sums of 32 bits would overflow");

struct Rgb {
  int red, green, blue;
};

// The bits are repeated, so that black is 0 and white 255.
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
  return (y / kShuffle * kInputWidth + x / kShuffle) * kInputChannels +
         y % kShuffle * kShuffle + x % kShuffle;
}

// What the codes of a cell mean, times 2^16 / kGrid^2.
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

// Rounds away the 32 bits after the point.
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

// `m`: gains, shares, offsets and root gains with 16 bits after the point.
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
  // Between the centres of cells both count, outside the one at the edge alone.
  constexpr int kRowOfMaps = kOutputWidth * kMaps;
  constexpr int kBefore = kShuffle / 2;  // pixels of a cell before its centre
  constexpr int kBehind = kShuffle - kBefore;
  const int above = (y + kBehind) / kShuffle - 1;
  const int below_weight = kFirst + kStep * ((y + kBehind) % kShuffle);
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
                       : right == kOutputWidth ? kBehind
                                               : kShuffle;
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
