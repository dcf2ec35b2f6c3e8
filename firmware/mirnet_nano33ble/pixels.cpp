#include "pixels.h"

#include "frame_format.h"

// Arduino compiles with -Os, which takes twice as many instructions here.
#pragma GCC optimize("O3")

namespace mirnet {
namespace {

// Of the model: log gain, root gain, roll-off, 3 tints, 6 shares, 3 offsets.
// Here: gain, root gain, roll-off, times 2^16 / kGrid^2, then a 3x3 matrix by
// rows and 3 offsets, in codes.
constexpr int kMaps = 15;
constexpr int kSide = kCell * kCell;  // input channels of one colour

// There are kGrid steps from the centre of one cell to that of the next. The
// first pixel lies kFirst steps after a centre, the next ones kStep apart.
constexpr int kGrid = kCell % 2 == 1 ? kCell : 2 * kCell;
constexpr int kFirst = kCell % 2 == 1 ? 0 : 1;
constexpr int kStep = kGrid / kCell;

// The largest gains in the units of the tables.
constexpr int kSquare = kGrid * kGrid;
constexpr std::int32_t kLargestGain = ((64 << 16) + kSquare - 1) / kSquare - 1;
constexpr std::int32_t kLargestRootGain = ((12 << 16) + kSquare / 2) / kSquare;

// Full scale of a restored colour.
constexpr std::int32_t kWhite = (1 << kWhiteBits) - 1;

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
static_assert(kImageWidth % 2 == 0,
              "two pixels of a row share their chroma: convert a model for an "
              "even width");
static_assert(kCell <= 5,
              "the tables are too coarse for cells above 5x5 pixels: train a "
              "network with smaller cells");
static_assert(
    kInputZeroPoint == -128 && kInputScale * 255 > 0.999999f &&
        kInputScale * 255 < 1.000001f,
    "a code of the input must be a root of a level minus 128: calibrate "
    "with inputs from 0 to 1 and convert again");
static_assert(kOutputScale < 0.1f,
              "the output's scale must be below 0.1, or sums of 32 bits "
              "overflow: train a network whose maps stay within a few units");

// The model's input has the roots of the levels.
inline std::int8_t CodeOf(int level) {
  return static_cast<std::int8_t>(
      ((kRootTable[level] + (1 << (kRootBits - 1))) >> kRootBits) +
      kInputZeroPoint);
}

// A level for a code.
inline int LevelOf(std::int8_t code) {
  const int root = code - kInputZeroPoint;
  return (root * root + 255 / 2) / 255;
}

// The position of pixel `x` of row `y` in the model's input; green and blue
// follow kSide and 2 * kSide later.
inline int CellOf(int y, int x) {
  return (y / kCell * kInputWidth + x / kCell) * kInputChannels +
         y % kCell * kCell + x % kCell;
}

inline std::int64_t Product(std::int32_t a, std::int32_t b) {
  return static_cast<std::int64_t>(a) * b;
}

inline std::int32_t Smaller(std::int32_t a, std::int32_t b) {
  return a < b ? a : b;
}

inline std::int32_t Larger(std::int32_t a, std::int32_t b) {
  return a > b ? a : b;
}

inline std::int32_t Brighter(std::int32_t value, std::int32_t k) {
  return static_cast<std::int32_t>(
      (Product(value, k) + (1 << (kBrighterBits - 1))) >> kBrighterBits);
}

// The high 32 bits of a product, one instruction of the Cortex-M4.
inline std::int32_t High(std::int32_t a, std::int32_t b) {
  return static_cast<std::int32_t>(Product(a, b) >> 32);
}

// What the codes of a cell mean for pixels.
//   k: the factor of the exposure.
inline void Translate(const std::int8_t* codes, std::int32_t k,
                      std::int32_t* values) {
  std::int32_t code[kMaps];
  for (int i = 3; i < kMaps; ++i) {
    code[i] = codes[i] - kOutputZeroPoint;
  }
  values[0] = Smaller(Brighter(kGainTable[codes[0] + 128], k), kLargestGain);
  values[1] =
      Smaller(Brighter(kRootGainTable[codes[1] + 128], k), kLargestRootGain);
  values[2] = kRollOffTable[codes[2] + 128];
  values[3] = code[3] - code[6] - code[7];
  values[4] = code[6];
  values[5] = code[7];
  values[6] = code[8];
  values[7] = code[4] - code[8] - code[9];
  values[8] = code[9];
  values[9] = code[10];
  values[10] = code[11];
  values[11] = code[5] - code[10] - code[11];
  values[12] = code[12];
  values[13] = code[13];
  values[14] = code[14];
}

// gain * level + root gain * root of the level, 16 bits after the point.
inline std::int32_t Raise(int level, std::int32_t gain,
                          std::int32_t root_gain) {
  return gain * level + (root_gain * kRootTable[level] >> kRootBits);
}

// A raised level divided, from 0 to kWhite.
inline std::int32_t Divide(std::int32_t raised, std::uint32_t reciprocal) {
  return static_cast<std::int32_t>((static_cast<std::uint32_t>(raised) >> 10) *
                                       reciprocal >>
                                   (32 - kWhiteBits));
}

// A factor on its way from the centre of one cell, `a`, to that of the next,
// `b`, times kGrid.
struct Factor {
  Factor(std::int32_t a, std::int32_t b)
      : value((kGrid - kFirst) * a + kFirst * b), step(kStep * (b - a)) {}

  std::int32_t value, step;
};

// A pixel after the curve, from 0 to kWhite, and how much of a change of colour
// it gets, times 2^16.
struct Raised {
  std::int32_t red, green, blue, fading;
};

// Raises `count` dark pixels along the curve of their cells, one curve and one
// divisor for all colours, so that their hue stays.
//   a, b: of the cells to their left and right.
inline void RaiseRun(const std::uint8_t* rgb, int count, const std::int32_t* a,
                     const std::int32_t* b, Raised* raised) {
  Factor gain(a[0], b[0]), root_gain(a[1], b[1]), roll_off(a[2], b[2]);
  for (; count > 0; --count, rgb += 3, ++raised) {
    const Rgb dark = {rgb[0], rgb[1], rgb[2]};
    const std::int32_t red = Raise(dark.red, gain.value, root_gain.value);
    const std::int32_t green = Raise(dark.green, gain.value, root_gain.value);
    const std::int32_t blue = Raise(dark.blue, gain.value, root_gain.value);
    const int level = Larger(dark.red, Larger(dark.green, dark.blue));
    const std::int32_t highest = Larger(red, Larger(green, blue));
    const std::int32_t rise =
        (gain.value + root_gain.value - (1 << 16)) * level;
    const std::int32_t divisor =
        Larger((255 << 16) + High(roll_off.value << 14, rise) * 4, highest);
    const std::uint32_t reciprocal =
        0xFFFFFFFFu / (static_cast<std::uint32_t>(divisor) >> 10);
    *raised = {Divide(red, reciprocal), Divide(green, reciprocal),
               Divide(blue, reciprocal),
               (kWhite - Divide(highest, reciprocal)) << 16};
    gain.value += gain.step;
    root_gain.value += root_gain.step;
    roll_off.value += roll_off.step;
  }
}

// Changes colour `c` of `count` raised pixels and writes it to every third
// byte. The change fades where a pixel is bright.
inline void ChangeRun(const Raised* raised, int count, const std::int32_t* a,
                      const std::int32_t* b, std::int32_t k, int c,
                      std::uint8_t* row) {
  const int first = 3 + 3 * c;
  Factor of_red(a[first], b[first]), of_green(a[first + 1], b[first + 1]),
      of_blue(a[first + 2], b[first + 2]), offset(a[12 + c], b[12 + c]);
  for (; count > 0; --count, ++raised, row += 3) {
    const std::int32_t sum = of_red.value * raised->red +
                             of_green.value * raised->green +
                             of_blue.value * raised->blue + offset.value * k;
    const std::int32_t curve = c == 0   ? raised->red
                               : c == 1 ? raised->green
                                        : raised->blue;
    const std::int32_t result =
        curve + High(raised->fading, High(sum, kValueScale));
    row[c] = static_cast<std::uint8_t>(
        (Smaller(Larger(result, 0), kWhite) * 255 + (1 << (kWhiteBits - 1))) >>
        kWhiteBits);
    of_red.value += of_red.step;
    of_green.value += of_green.step;
    of_blue.value += of_blue.step;
    offset.value += offset.step;
  }
}

}  // namespace

void FillInput(const std::uint8_t* frame, std::int8_t* input) {
  for (int y = 0; y < kImageHeight; ++y) {
    for (int x = 0; x < kImageWidth; x += 2, frame += 4) {
      std::uint8_t rgb[6];
      YuvToRgb(frame, 2, rgb);
      for (int i = 0; i < 2; ++i) {
        std::int8_t* codes = input + CellOf(y, x + i);
        codes[0] = CodeOf(rgb[3 * i]);
        codes[kSide] = CodeOf(rgb[3 * i + 1]);
        codes[2 * kSide] = CodeOf(rgb[3 * i + 2]);
      }
    }
  }
}

void FillFrame(const std::int8_t* input, std::uint8_t* frame) {
  const auto pixel = [input](int y, int x) {
    const std::int8_t* codes = input + CellOf(y, x);
    return Rgb{LevelOf(codes[0]), LevelOf(codes[kSide]),
               LevelOf(codes[2 * kSide])};
  };
  for (int y = 0; y < kImageHeight; ++y) {
    for (int x = 0; x < kImageWidth; x += 2, frame += 4) {
      RgbToYuv(pixel(y, x), pixel(y, x + 1), frame);
    }
  }
}

void RestoreRow(const std::uint8_t* frame, const std::int8_t* maps, int y,
                int exposure, std::uint8_t* row) {
  // Bilinear between the centres of cells; outside them, the cell at the edge.
  constexpr int kRowOfMaps = kOutputWidth * kMaps;
  constexpr int kBefore = kCell / 2;  // pixels of a cell before its centre
  constexpr int kAfter = kCell - kBefore;
  const int above = (y + kAfter) / kCell - 1;
  const int below_weight = kFirst + kStep * ((y + kAfter) % kCell);
  const std::int8_t* upper = maps + (above < 0 ? 0 : above) * kRowOfMaps;
  const std::int8_t* lower =
      maps + (above + 1 < kOutputHeight ? above + 1 : above) * kRowOfMaps;
  const std::int32_t k = kBrighterTable[exposure + kLargestExposure];
  std::int32_t columns[kOutputWidth][kMaps];  // times kGrid
  for (int column = 0; column < kOutputWidth; ++column) {
    std::int32_t a[kMaps], b[kMaps];
    Translate(upper + column * kMaps, k, a);
    Translate(lower + column * kMaps, k, b);
    for (int i = 0; i < kMaps; ++i) {
      columns[column][i] = kGrid * a[i] + below_weight * (b[i] - a[i]);
    }
  }
  // The row is bright as far as it is done, and dark behind that.
  YuvToRgb(frame + std::size_t{2} * kImageWidth * static_cast<std::size_t>(y),
           kImageWidth, row);
  for (int right = 0; right <= kOutputWidth; ++right) {
    const std::int32_t* a = columns[right > 0 ? right - 1 : 0];
    const std::int32_t* b = columns[right < kOutputWidth ? right : right - 1];
    const int pixels = right == 0              ? kBefore
                       : right == kOutputWidth ? kAfter
                                               : kCell;
    Raised raised[kCell];
    RaiseRun(row, pixels, a, b, raised);
    for (int c = 0; c < 3; ++c) {
      ChangeRun(raised, pixels, a, b, k / 2, c, row);
    }
    row += 3 * pixels;
  }
}

}  // namespace mirnet
