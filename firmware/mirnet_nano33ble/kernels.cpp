#include "kernels.h"

#include <cstring>

// Arduino compiles with -Os, which takes far more instructions here. Before it
// allots registers, the compiler would move loads so far ahead that the sums of
// a convolution no longer fit into them.
#pragma GCC optimize("O3", "no-schedule-insns")

#include "kernel_arithmetic.h"

namespace mirnet {
namespace kernels {
namespace {

// Four bytes, or what there is of them and zeros.
inline std::uint32_t FourBytes(const std::int8_t* from, int count) {
  std::uint32_t bytes = 0;
  if (count >= 4) {
    std::memcpy(&bytes, from, 4);
  } else {
    std::memcpy(&bytes, from, static_cast<std::size_t>(count));
  }
  return bytes;
}

// Convolution. Rows of the input are widened to 16 bits once, with zeros for
// the padding, and kept while windows need them. Filters are widened before
// them, for four output channels at a time. Both hold channels in the order 0,
// 2, 1, 3, as SXTAB16 leaves them, in groups of four; a group that has fewer is
// filled up with zeros in the filter.

constexpr int kScratch = 2048;  // pairs of widened rows and filters
constexpr int kChannels = 64;   // whose filters are kept at a time
constexpr int kMostRows = 8;    // that a window has
constexpr int kTogether = 4;    // channels

struct Channel {
  std::int32_t bias;
  Rescaling rescaling;
};
static_assert(kScratch * sizeof(Pair) + kChannels * sizeof(Channel) <=
                  kStackBytes,
              "state in kernels.h what they take of the stack");

inline int GroupsOf(int channels) { return (channels + 3) / 4; }

// Widens codes, the last group of which may have fewer than four.
inline void Widen(const std::int8_t* from, int channels, Pair offset,
                  Pair* to) {
  for (; channels > 0; channels -= 4, from += 4, to += 2) {
    const std::uint32_t bytes = FourBytes(from, channels);
    to[0] = Sxtab16(offset, bytes);
    to[1] = Sxtab16Ror8(offset, bytes);
  }
}

// Widens one filter; the pairs of `together` filters alternate.
inline void WidenFilter(const std::int8_t* from, int positions, int channels,
                        int together, Pair* to) {
  for (; positions > 0; --positions, from += channels) {
    for (int c = 0; c < channels; c += 4, to += 2 * together) {
      const std::uint32_t bytes = FourBytes(from + c, channels - c);
      to[0] = Sxtab16(0, bytes);
      to[together] = Sxtab16Ror8(0, bytes);
    }
  }
}

// A row of windows.
struct Row {
  const Pair* rows[kMostRows];  // of the input, only those inside the map
  int count;
  int skipped;  // rows of the filter that lie above the map
  int length;   // of a row of a window, in pairs
  int step;     // from one window to the next, in pairs
  int windows;
};

// Multiplies `kPairs` pairs of two windows with the filters of `kCount`
// channels and moves all pointers behind them.
template <int kCount, int kPairs>
inline void MultiplyPairs(const Pair*& a, const Pair*& b, const Pair*& filters,
                          std::int32_t* a_sums, std::int32_t* b_sums) {
  for (int i = 0; i < kPairs; ++i) {
    const Pair a_pair = *a++, b_pair = *b++;
    for (int channel = 0; channel < kCount; ++channel) {
      const Pair weights = *filters++;
      a_sums[channel] = Smlad(a_pair, weights, a_sums[channel]);
      b_sums[channel] = Smlad(b_pair, weights, b_sums[channel]);
    }
  }
}

template <int kCount, bool kUsual>
__attribute__((noinline)) void ConvolveRow(const Row& row, const Pair* filters,
                                           const Channel* channels,
                                           const Output output, int stride,
                                           std::int8_t* to) {
  filters += row.skipped * row.length * kCount;
  for (int x = 0; x < row.windows; x += 2) {
    // The last of an odd number is computed twice.
    const int first = x * row.step;
    const int second = x + 1 < row.windows ? row.step : 0;
    constexpr auto kSums = static_cast<std::size_t>(kCount);
    std::int32_t a_sums[kSums], b_sums[kSums];
    for (int i = 0; i < kCount; ++i) {
      a_sums[i] = b_sums[i] = channels[i].bias;
    }
    const Pair* filter = filters;
    for (int y = 0; y < row.count; ++y) {
      const Pair* a = row.rows[y] + first;
      const Pair* b = a + second;
      const Pair* end = a + row.length / 4 * 4;
      while (a != end) {
        MultiplyPairs<kCount, 4>(a, b, filter, a_sums, b_sums);
      }
      if (row.length % 4 != 0) {
        MultiplyPairs<kCount, 2>(a, b, filter, a_sums, b_sums);
      }
    }
    std::int8_t* const a_to = to + x * stride;
    std::int8_t* const b_to = second > 0 ? a_to + stride : a_to;
    for (int i = 0; i < kCount; ++i) {
      const Rescaling rescaling = channels[i].rescaling;
      b_to[i] = ToCode<kUsual>(Shifted(b_sums[i], 1), rescaling, output);
      a_to[i] = ToCode<kUsual>(Shifted(a_sums[i], 1), rescaling, output);
    }
  }
}

template <bool kUsual>
inline void ConvolveRow(const Row& row, int count, const Pair* filters,
                        const Channel* channels, const Output output,
                        int stride, std::int8_t* to) {
  switch (count) {
    case 1:
      return ConvolveRow<1, kUsual>(row, filters, channels, output, stride, to);
    case 2:
      return ConvolveRow<2, kUsual>(row, filters, channels, output, stride, to);
    case 3:
      return ConvolveRow<3, kUsual>(row, filters, channels, output, stride, to);
    default:
      return ConvolveRow<4, kUsual>(row, filters, channels, output, stride, to);
  }
}

inline int Smaller(int a, int b) { return a < b ? a : b; }
inline int Larger(int a, int b) { return a > b ? a : b; }

}  // namespace

bool Convolve(const Convolution& c, const std::int8_t* input,
              const std::int8_t* filters, const std::int32_t* bias,
              std::int8_t* output) {
  const int pairs = 2 * GroupsOf(c.channels);  // of one position
  const int area = c.filter_height * c.filter_width;
  const int terms = area * c.channels;
  const int columns = (c.out_width - 1) * c.stride_x + c.filter_width;
  const int rows_size = c.filter_height * columns * pairs;
  const int filter_size = area * pairs;
  const int fit = Smaller(kChannels, (kScratch - rows_size) / filter_size);
  const int at_once = fit < c.out_channels ? fit / kTogether * kTogether : fit;
  // For very few windows the filters take longer to widen than it saves.
  if (c.out_height * c.out_width < 4 || c.filter_height > kMostRows ||
      columns > kScratch || terms > 32768 || c.pad_x < 0 || c.pad_y < 0 ||
      c.pad_y >= c.filter_height || c.pad_x >= c.filter_width || at_once < 1 ||
      !IsOffset(c.input_offset) || !Covered(c.output)) {
    return false;
  }
  bool usual = true;
  for (int i = 0; i < c.out_channels; ++i) {
    const Factor factor = {c.multipliers[i], c.shifts[i]};
    const std::int64_t start = bias != nullptr ? bias[i] : 0;
    if (!Covered(factor) ||
        (start < 0 ? -start : start) + terms * 255LL * 128 >= Limit(factor)) {
      return false;
    }
    usual = usual && IsUsual(Rescale(factor), c.output);
  }

  Pair scratch[kScratch];
  Channel channels[kChannels];
  Pair* const rows = scratch + at_once * filter_size;
  const Pair offset = MakePair(c.input_offset, c.input_offset);
  const int inside = Larger(Smaller(c.width, columns - c.pad_x), 0);
  std::memset(rows, 0, static_cast<std::size_t>(rows_size) * sizeof(Pair));
  for (int first = 0; first < c.out_channels; first += at_once) {
    const int here = Smaller(at_once, c.out_channels - first);
    for (int i = 0; i < here; ++i) {
      const int quad = i / kTogether * kTogether;
      WidenFilter(filters + (first + i) * terms, area, c.channels,
                  Smaller(kTogether, here - quad),
                  scratch + quad * filter_size + i - quad);
      channels[i] = {bias != nullptr ? bias[first + i] : 0,
                     Rescale({c.multipliers[first + i], c.shifts[first + i]})};
    }
    Row row = {{},         0, 0, c.filter_width * pairs, c.stride_x * pairs,
               c.out_width};
    int widened = 0;  // rows of the input
    for (int y = 0; y < c.out_height; ++y) {
      const int top = y * c.stride_y - c.pad_y;
      const int bottom = Smaller(top + c.filter_height, c.height);
      row.skipped = Larger(-top, 0);
      row.count = 0;
      for (int from = Larger(top, 0); from < bottom; ++from) {
        Pair* const to = rows + from % c.filter_height * columns * pairs;
        row.rows[row.count++] = to;
        if (from < widened) {
          continue;
        }
        const std::int8_t* codes = input + from * c.width * c.channels;
        Pair* pair = to + c.pad_x * pairs;
        if (c.channels % 4 == 0) {
          Widen(codes, inside * c.channels, offset, pair);
        } else {
          for (int x = 0; x < inside; ++x, codes += c.channels, pair += pairs) {
            Widen(codes, c.channels, offset, pair);
          }
        }
        widened = from + 1;
      }
      std::int8_t* to = output + y * c.out_width * c.out_channels + first;
      for (int i = 0; i < here; i += kTogether) {
        const Pair* const four = scratch + i * filter_size;
        const int count = Smaller(kTogether, here - i);
        if (usual) {
          ConvolveRow<true>(row, count, four, channels + i, c.output,
                            c.out_channels, to + i);
        } else {
          ConvolveRow<false>(row, count, four, channels + i, c.output,
                             c.out_channels, to + i);
        }
      }
    }
  }
  return true;
}

namespace {

template <bool kUsual>
inline void Add(const std::int32_t* a_table, const std::int32_t* b_table,
                const Addition& addition, const std::int8_t* a,
                const std::int8_t* b, int size, std::int8_t* output) {
  const Rescaling rescaling = Rescale(addition.factor);
  const Output range = addition.output;
  for (int i = 0; i < size; ++i) {
    output[i] = ToCode<kUsual>(a_table[a[i] + 128] + b_table[b[i] + 128],
                               rescaling, range);
  }
}

}  // namespace

bool Add(const Addition& addition, const std::int8_t* a, const std::int8_t* b,
         int size, std::int8_t* output) {
  // The tables take longer to make than a small map to add.
  if (size < 256 || addition.left_shift < 0 || addition.left_shift > 20 ||
      !Covered(addition.factor_a) || !Covered(addition.factor_b) ||
      !Covered(addition.factor) || addition.factor_a.shift > 0 ||
      addition.factor_b.shift > 0 || addition.factor.shift > 0 ||
      !IsOffset(addition.offset_a) || !IsOffset(addition.offset_b) ||
      !Covered(addition.output)) {
    return false;
  }
  std::int32_t a_table[256], b_table[256];  // twice what a code contributes
  const Rescaling rescale_a = Rescale(addition.factor_a);
  const Rescaling rescale_b = Rescale(addition.factor_b);
  for (int code = -128; code < 128; ++code) {
    a_table[code + 128] =
        2 * Rescaled(Shifted(code + addition.offset_a, addition.left_shift + 1),
                     rescale_a, 0);
    b_table[code + 128] =
        2 * Rescaled(Shifted(code + addition.offset_b, addition.left_shift + 1),
                     rescale_b, 0);
  }
  (IsUsual(Rescale(addition.factor), addition.output)
       ? Add<true>
       : Add<false>)(a_table, b_table, addition, a, b, size, output);
  return true;
}

namespace {

template <bool kUsual, bool kByRow>
inline void Multiply(const Multiplication& by, const std::int8_t* a,
                     const std::int8_t* b, int rows, int columns,
                     std::int8_t* output) {
  const Rescaling rescaling = Rescale(by.factor);
  const Output range = by.output;
  const std::int32_t offset_a = by.offset_a, offset_b = by.offset_b;
  for (int y = 0; y < rows; ++y, a += columns, output += columns) {
    for (int x = 0; x < columns; ++x) {
      const std::int32_t product =
          (a[x] + offset_a) * (b[kByRow ? x : y] + offset_b);
      output[x] = ToCode<kUsual>(2 * product, rescaling, range);
    }
  }
}

inline bool Covered(const Multiplication& by) {
  return Covered(by.factor) && Covered(by.output) && IsOffset(by.offset_a) &&
         IsOffset(by.offset_b) && Limit(by.factor) > 255 * 255;
}

template <bool kByRow>
bool MultiplyIfCovered(const Multiplication& by, const std::int8_t* a,
                       const std::int8_t* b, int rows, int columns,
                       std::int8_t* output) {
  if (!Covered(by)) {
    return false;
  }
  const auto multiply = IsUsual(Rescale(by.factor), by.output)
                            ? Multiply<true, kByRow>
                            : Multiply<false, kByRow>;
  multiply(by, a, b, rows, columns, output);
  return true;
}

}  // namespace

bool MultiplyByRow(const Multiplication& multiplication, const std::int8_t* a,
                   const std::int8_t* b, int rows, int columns,
                   std::int8_t* output) {
  return MultiplyIfCovered<true>(multiplication, a, b, rows, columns, output);
}

bool MultiplyByColumn(const Multiplication& multiplication,
                      const std::int8_t* a, const std::int8_t* b, int rows,
                      int columns, std::int8_t* output) {
  return MultiplyIfCovered<false>(multiplication, a, b, rows, columns, output);
}

bool ResizeTwice(const std::int8_t* input, int height, int width, int channels,
                 std::int8_t* output) {
  constexpr int kMost = 2048;
  const int row = width * channels;
  if (row > kMost) {
    return false;
  }
  std::int16_t mixed[kMost];  // a row between two of the input, times 4
  for (int y = 0; y < 2 * height; ++y) {
    const int near = y / 2;
    const int far =
        Larger(Smaller(y % 2 == 0 ? near - 1 : near + 1, height - 1), 0);
    for (int i = 0; i < row; ++i) {
      mixed[i] = static_cast<std::int16_t>(3 * input[near * row + i] +
                                           input[far * row + i]);
    }
    for (int x = 0; x < 2 * width; ++x, output += channels) {
      const std::int16_t* a = mixed + x / 2 * channels;
      const std::int16_t* b =
          mixed +
          Larger(Smaller(x % 2 == 0 ? x / 2 - 1 : x / 2 + 1, width - 1), 0) *
              channels;
      for (int c = 0; c < channels; ++c) {
        const std::int32_t sum = 3 * a[c] + b[c];
        // Half away from zero.
        output[c] = static_cast<std::int8_t>((sum + (sum >> 31) + 8) >> 4);
      }
    }
  }
  return true;
}

}  // namespace kernels
}  // namespace mirnet
