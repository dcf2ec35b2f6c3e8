// Int8 kernels that take fewer instructions of a Cortex-M4 than those of the
// library and give the same bytes. They include nothing of the library;
// kernel_resolver.cpp puts them into its interpreter.
//
// A kernel returns false, and has then written nothing, if it does not cover
// the sizes or numbers that it was given.
#ifndef MIRNET_KERNELS_H_
#define MIRNET_KERNELS_H_

#include <cstddef>
#include <cstdint>

namespace mirnet {
namespace kernels {

// The most that a kernel takes of the stack, without its few local variables.
constexpr std::size_t kStackBytes = 10240;

// A factor of multiplier * 2^(shift - 31), rounded as TensorFlow Lite's
// MultiplyByQuantizedMultiplier does: to 31 bits less, then by the shift.
struct Factor {
  std::int32_t multiplier;
  int shift;  // to the left if above 0
};

// What is added to a result, the zero point, and then its range.
struct Output {
  std::int32_t offset, min, max;
};

// A convolution of one map, (height, width, channels). Filters are (out
// channels, height, width, channels).
struct Convolution {
  int height, width, channels;
  int out_height, out_width, out_channels;
  int filter_height, filter_width;
  int stride_y, stride_x;
  int pad_y, pad_x;  // rows above the map, columns to its left
  std::int32_t input_offset;
  Output output;
  const std::int32_t* multipliers;  // a factor for each output channel
  const std::int32_t* shifts;
};

//   bias: one number for each output channel, or null.
bool Convolve(const Convolution& convolution, const std::int8_t* input,
              const std::int8_t* filters, const std::int32_t* bias,
              std::int8_t* output);

// ((a + offset_a) * 2^left_shift * factor_a + the same of b) * factor + offset.
struct Addition {
  std::int32_t offset_a, offset_b;
  int left_shift;
  Factor factor_a, factor_b, factor;
  Output output;
};

bool Add(const Addition& addition, const std::int8_t* a, const std::int8_t* b,
         int size, std::int8_t* output);

// (a + offset_a) * (b + offset_b) * factor + offset.
struct Multiplication {
  std::int32_t offset_a, offset_b;
  Factor factor;
  Output output;
};

// Multiplies `rows` rows of `columns` codes. Each row meets the same row of
// `columns` codes in `b`.
bool MultiplyByRow(const Multiplication& multiplication, const std::int8_t* a,
                   const std::int8_t* b, int rows, int columns,
                   std::int8_t* output);

// Multiplies `rows` rows of `columns` codes. Each row meets one code in `b`.
bool MultiplyByColumn(const Multiplication& multiplication,
                      const std::int8_t* a, const std::int8_t* b, int rows,
                      int columns, std::int8_t* output);

// Makes a map, (height, width, channels), twice as high and twice as wide:
// bilinear, between the centres of pixels.
bool ResizeTwice(const std::int8_t* input, int height, int width, int channels,
                 std::int8_t* output);

}  // namespace kernels
}  // namespace mirnet

#endif  // MIRNET_KERNELS_H_
