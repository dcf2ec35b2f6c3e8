// The sketch's kernels against reference kernels written from TensorFlow Lite's
// published arithmetic. Runs on this computer and on the emulated Cortex-M4;
// ends with 0 if all results are equal, else prints the first that is not.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "kernels.h"

// CASES: how many convolutions are tried; the other kernels follow.
#ifndef CASES
#define CASES 200
#endif
#ifdef ON_BOARD
#include "start.h"
#define SAY(text) Print(text "\n")
#else
#define SAY(text) std::puts(text)
#endif

namespace {

using mirnet::kernels::Factor;
using mirnet::kernels::Output;

std::uint64_t state = 0x9E3779B97F4A7C15;

// From `low` to `high`.
std::int32_t Random(std::int64_t low, std::int64_t high) {
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  const auto span = static_cast<std::uint64_t>(high - low + 1);
  return static_cast<std::int32_t>(
      low + static_cast<std::int64_t>((state >> 11) % span));
}

std::int8_t RandomCode() {
  const std::int32_t kind = Random(0, 9);
  return static_cast<std::int8_t>(kind == 0   ? -128
                                  : kind == 1 ? 127
                                              : Random(-128, 127));
}

void Fill(std::int8_t* codes, int count) {
  for (int i = 0; i < count; ++i) {
    codes[i] = RandomCode();
  }
}

Factor RandomFactor(int lowest_shift, int highest_shift) {
  return {Random(1 << 30, 0x7FFFFFFF), Random(lowest_shift, highest_shift)};
}

Output RandomOutput() {
  const std::int32_t offset = Random(-128, 127);
  if (Random(0, 1) == 0) {
    return {offset, -128, 127};
  }
  const std::int32_t low = Random(-128, 127);
  return {offset, low, Random(low, 127)};
}

// gemmlowp's SaturatingRoundingDoublingHighMul.
std::int32_t HighMul(std::int32_t a, std::int32_t b) {
  if (a == b && a == INT32_MIN) {
    return INT32_MAX;
  }
  const std::int64_t product = static_cast<std::int64_t>(a) * b;
  const std::int64_t nudge = product >= 0 ? 1LL << 30 : 1 - (1LL << 30);
  return static_cast<std::int32_t>((product + nudge) / (1LL << 31));
}

// gemmlowp's RoundingDivideByPOT.
std::int32_t DivideByPowerOfTwo(std::int32_t value, int exponent) {
  const auto mask = static_cast<std::int32_t>((1LL << exponent) - 1);
  const std::int32_t threshold = (mask >> 1) + (value < 0 ? 1 : 0);
  return (value >> exponent) + ((value & mask) > threshold ? 1 : 0);
}

// TensorFlow Lite's MultiplyByQuantizedMultiplier.
std::int32_t Scaled(std::int32_t value, const Factor& factor) {
  const int left = factor.shift > 0 ? factor.shift : 0;
  const int right = factor.shift > 0 ? 0 : -factor.shift;
  return DivideByPowerOfTwo(HighMul(value * (1 << left), factor.multiplier),
                            right);
}

std::int8_t Code(std::int32_t value, const Output& output) {
  value += output.offset;
  value = value < output.min ? output.min : value;
  return static_cast<std::int8_t>(value > output.max ? output.max : value);
}

constexpr int kMost = 1 << 16;
std::int8_t a[kMost], b[kMost], expected[kMost], result[kMost];

bool Equal(int size) {
  return std::memcmp(expected, result, static_cast<std::size_t>(size)) == 0;
}

// All pairs of codes.
void AllPairs() {
  for (int i = 0; i < 256; ++i) {
    for (int j = 0; j < 256; ++j) {
      a[256 * i + j] = static_cast<std::int8_t>(i - 128);
      b[256 * i + j] = static_cast<std::int8_t>(j - 128);
    }
  }
}

bool Addition() {
  const mirnet::kernels::Addition addition = {
      Random(-127, 128),    Random(-127, 128),    20,
      RandomFactor(-12, 0), RandomFactor(-12, 0), RandomFactor(-22, -16),
      RandomOutput()};
  for (int i = 0; i < kMost; ++i) {
    const std::int32_t one =
        Scaled((a[i] + addition.offset_a) * (1 << 20), addition.factor_a);
    const std::int32_t two =
        Scaled((b[i] + addition.offset_b) * (1 << 20), addition.factor_b);
    expected[i] = Code(Scaled(one + two, addition.factor), addition.output);
  }
  return mirnet::kernels::Add(addition, a, b, kMost, result) && Equal(kMost);
}

bool Multiplication() {
  const mirnet::kernels::Multiplication by = {
      Random(-127, 128), Random(-127, 128), RandomFactor(-14, 3),
      RandomOutput()};
  for (int i = 0; i < kMost; ++i) {
    expected[i] =
        Code(Scaled((a[i] + by.offset_a) * (b[i] + by.offset_b), by.factor),
             by.output);
  }
  if (!MultiplyByRow(by, a, b, 1, kMost, result) || !Equal(kMost)) {
    return false;
  }
  // Rows and columns: 256 rows of 256 codes in `a`, all codes in the first row
  // of `b`.
  std::memset(result, 0, sizeof result);
  std::int8_t column[256];
  for (int i = 0; i < 256; ++i) {
    column[i] = static_cast<std::int8_t>(i - 128);
  }
  if (!MultiplyByRow(by, a, column, 256, 256, result) || !Equal(kMost)) {
    return false;
  }
  // The same pairs, the other way round: a code of `b` for each row.
  mirnet::kernels::Multiplication other = by;
  other.offset_a = by.offset_b;
  other.offset_b = by.offset_a;
  std::memset(result, 0, sizeof result);
  return MultiplyByColumn(other, b, column, 256, 256, result) && Equal(kMost);
}

bool Resize() {
  const int height = Random(1, 6), width = Random(1, 9);
  const int channels = Random(1, 20);
  const int row = width * channels;
  Fill(a, height * row);
  std::int8_t* to = expected;
  for (int y = 0; y < 2 * height; ++y) {
    for (int x = 0; x < 2 * width; ++x) {
      // ResizeBilinearInteger for half-pixel centres and a scale of 512 / 1024.
      const int in_y = 512 * y + 256 - 512, in_x = 512 * x + 256 - 512;
      const int y0 = in_y / 1024 > 0 ? in_y / 1024 : 0;
      const int x0 = in_x / 1024 > 0 ? in_x / 1024 : 0;
      const int y1 =
          (in_y + 1023) / 1024 < height - 1 ? (in_y + 1023) / 1024 : height - 1;
      const int x1 =
          (in_x + 1023) / 1024 < width - 1 ? (in_x + 1023) / 1024 : width - 1;
      const std::int64_t down = in_y - 1024 * y0, right = in_x - 1024 * x0;
      for (int c = 0; c < channels; ++c) {
        const std::int64_t sum =
            a[y0 * row + x0 * channels + c] * (1024 - down) * (1024 - right) +
            a[y1 * row + x0 * channels + c] * down * (1024 - right) +
            a[y0 * row + x1 * channels + c] * (1024 - down) * right +
            a[y1 * row + x1 * channels + c] * down * right;
        *to++ = static_cast<std::int8_t>(
            (sum + (sum > 0 ? 1 << 19 : -(1 << 19))) / (1 << 20));
      }
    }
  }
  return mirnet::kernels::ResizeTwice(a, height, width, channels, result) &&
         Equal(static_cast<int>(to - expected));
}

constexpr int kChannels = 80;
std::int32_t bias[kChannels], multipliers[kChannels], shifts[kChannels];

// Counts the convolutions that the kernel covered.
int covered = 0, refused = 0;

bool Convolution() {
  mirnet::kernels::Convolution c = {};
  c.filter_height = Random(1, 5);
  c.filter_width = Random(1, 5);
  c.stride_y = Random(1, 3);
  c.stride_x = Random(1, 3);
  c.height = Random(c.filter_height, 12);
  c.width = Random(c.filter_width, 12);
  c.channels = Random(1, Random(0, 3) == 0 ? 80 : 24);
  c.out_channels = Random(1, Random(0, 7) == 0 ? kChannels : 17);
  const bool same = Random(0, 1) == 0;
  if (same) {  // pad as much as TensorFlow does for the same size
    c.out_height = (c.height + c.stride_y - 1) / c.stride_y;
    c.out_width = (c.width + c.stride_x - 1) / c.stride_x;
    const int rows =
        (c.out_height - 1) * c.stride_y + c.filter_height - c.height;
    const int columns =
        (c.out_width - 1) * c.stride_x + c.filter_width - c.width;
    c.pad_y = rows > 0 ? rows / 2 : 0;
    c.pad_x = columns > 0 ? columns / 2 : 0;
  } else {
    c.out_height = (c.height - c.filter_height) / c.stride_y + 1;
    c.out_width = (c.width - c.filter_width) / c.stride_x + 1;
  }
  c.input_offset = Random(-127, 128);
  c.output = RandomOutput();
  c.multipliers = multipliers;
  c.shifts = shifts;
  const int area = c.filter_height * c.filter_width;
  const int size = c.out_height * c.out_width * c.out_channels;
  if (area * c.channels * c.out_channels > kMost) {
    return true;
  }
  const int highest_shift = Random(0, 3) == 0 ? 4 : -1;
  for (int i = 0; i < c.out_channels; ++i) {
    const Factor factor = RandomFactor(-16, highest_shift);
    multipliers[i] = factor.multiplier;
    shifts[i] = factor.shift;
    bias[i] = Random(-100000, 100000);
  }
  Fill(a, c.height * c.width * c.channels);
  Fill(b, area * c.channels * c.out_channels);
  const std::int32_t* const start = Random(0, 7) == 0 ? nullptr : bias;
  std::memset(result, 1, sizeof result);
  if (!Convolve(c, a, b, start, result)) {
    ++refused;
    for (int i = 0; i < size; ++i) {
      if (result[i] != 1) {
        return false;  // it wrote something
      }
    }
    return true;
  }
  ++covered;
  std::int8_t* to = expected;
  for (int y = 0; y < c.out_height; ++y) {
    for (int x = 0; x < c.out_width; ++x) {
      for (int out = 0; out < c.out_channels; ++out) {
        std::int32_t sum = start != nullptr ? start[out] : 0;
        const std::int8_t* filter = b + out * area * c.channels;
        for (int tap = 0; tap < area; ++tap, filter += c.channels) {
          const int from_y = y * c.stride_y - c.pad_y + tap / c.filter_width;
          const int from_x = x * c.stride_x - c.pad_x + tap % c.filter_width;
          if (from_y < 0 || from_y >= c.height || from_x < 0 ||
              from_x >= c.width) {
            continue;
          }
          const std::int8_t* from =
              a + (from_y * c.width + from_x) * c.channels;
          for (int channel = 0; channel < c.channels; ++channel) {
            sum += (from[channel] + c.input_offset) * filter[channel];
          }
        }
        *to++ = Code(Scaled(sum, {multipliers[out], shifts[out]}), c.output);
      }
    }
  }
  // Nothing behind the output is touched.
  return Equal(size) && result[size] == 1;
}

// What the kernels leave to the library: sums that could overflow, numbers that
// are no quantisation, maps that are too large or too small.
bool Refusals() {
  using namespace mirnet::kernels;
  std::int32_t one = 1 << 30, shift = -3, large = 1 << 30;
  const Output usual = {0, -128, 127};
  const mirnet::kernels::Convolution fine = {
      4, 4, 4, 4, 4, 1, 1, 1, 1, 1, 0, 0, 0, usual, &one, &shift};
  bool right = Convolve(fine, a, b, nullptr, result) &&
               !Convolve(fine, a, b, &large, result);
  auto other = fine;
  other.height = other.width = other.out_height = other.out_width = 1;
  right = right && !Convolve(other, a, b, nullptr, result);
  other = fine;
  other.filter_height = 9;
  right = right && !Convolve(other, a, b, nullptr, result);
  other = fine;
  other.width = other.out_width = 4000;
  right = right && !Convolve(other, a, b, nullptr, result);
  other = fine;
  other.input_offset = 1000;
  right = right && !Convolve(other, a, b, nullptr, result);
  other = fine;
  other.output.max = 300;
  right = right && !Convolve(other, a, b, nullptr, result);
  one = -1;
  right = right && !Convolve(fine, a, b, nullptr, result);

  const mirnet::kernels::Addition sum = {
      0, 0, 20, {1 << 30, 0}, {1 << 30, 0}, {1 << 30, -18}, usual};
  right = right && Add(sum, a, b, 256, result) && !Add(sum, a, b, 255, result);
  auto another = sum;
  another.factor_a.shift = 1;
  right = right && !Add(another, a, b, 256, result);
  another = sum;
  another.left_shift = 21;
  right = right && !Add(another, a, b, 256, result);

  mirnet::kernels::Multiplication product = {0, 0, {1 << 30, 0}, usual};
  right = right && MultiplyByRow(product, a, b, 2, 4, result) &&
          MultiplyByColumn(product, a, b, 2, 4, result);
  product.factor.shift = 15;
  right = right && !MultiplyByRow(product, a, b, 2, 4, result) &&
          !MultiplyByColumn(product, a, b, 2, 4, result);
  return right && ResizeTwice(a, 1, 256, 8, result) &&
         !ResizeTwice(a, 1, 257, 8, result);
}

}  // namespace

int main() {
  for (int i = 0; i < CASES; ++i) {
    if (!Convolution()) {
      SAY("a convolution differs");
      return 1;
    }
    if (!Resize()) {
      SAY("a resized map differs");
      return 1;
    }
  }
  if (covered < CASES / 2 || refused == 0) {
    SAY("the cases cover too little");
    return 1;
  }
  AllPairs();
  for (int i = 0; i < 1 + CASES / 50; ++i) {
    if (!Addition()) {
      SAY("a sum differs");
      return 1;
    }
    if (!Multiplication()) {
      SAY("a product differs");
      return 1;
    }
  }
  if (!Refusals()) {
    SAY("a kernel covers what it should not, or refuses what it should cover");
    return 1;
  }
  return 0;
}
