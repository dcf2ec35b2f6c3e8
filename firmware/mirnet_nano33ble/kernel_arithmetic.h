// Arithmetic of the kernels in kernels.cpp: instructions of the Cortex-M4, and
// TensorFlow Lite's way from sums of 32 bits to codes.
#ifndef MIRNET_KERNEL_ARITHMETIC_H_
#define MIRNET_KERNEL_ARITHMETIC_H_

#include <cstdint>

#include "kernels.h"

namespace mirnet {
namespace kernels {

// Two numbers of 16 bits, the first in the low half.
using Pair = std::uint32_t;

inline std::int32_t Low(Pair pair) {
  return static_cast<std::int16_t>(pair & 0xFFFF);
}

inline std::int32_t High(Pair pair) {
  return static_cast<std::int16_t>(pair >> 16);
}

inline Pair MakePair(std::int32_t low, std::int32_t high) {
  return (static_cast<Pair>(low) & 0xFFFF) | static_cast<Pair>(high) << 16;
}

// Instructions of the Cortex-M4 by their names; elsewhere C++ that computes the
// same.
#if defined(__ARM_FEATURE_DSP)

inline std::int32_t Smlad(Pair a, Pair b, std::int32_t sum) {
  asm("smlad %0, %1, %2, %0" : "+r"(sum) : "r"(a), "r"(b));
  return sum;
}

inline Pair Sxtab16(Pair sum, std::uint32_t bytes) {
  Pair result;
  asm("sxtab16 %0, %1, %2" : "=r"(result) : "r"(sum), "r"(bytes));
  return result;
}

inline Pair Sxtab16Ror8(Pair sum, std::uint32_t bytes) {
  Pair result;
  asm("sxtab16 %0, %1, %2, ror #8" : "=r"(result) : "r"(sum), "r"(bytes));
  return result;
}

inline std::int32_t Smmulr(std::int32_t a, std::int32_t b) {
  std::int32_t result;
  asm("smmulr %0, %1, %2" : "=r"(result) : "r"(a), "r"(b));
  return result;
}

inline std::int32_t Ssat8(std::int32_t value) {
  asm("ssat %0, #8, %0" : "+r"(value));
  return value;
}

inline std::int32_t ShiftRight(std::int32_t value, int shift,
                               std::int32_t offset) {
  std::int32_t result;
  asm("asrs %0, %1, %2\n\tadc %0, %0, %3"
      : "=&r"(result)
      : "r"(value), "r"(shift), "r"(offset)
      : "cc");
  return result;
}

#else

// Two products added to a sum.
inline std::int32_t Smlad(Pair a, Pair b, std::int32_t sum) {
  return Low(a) * Low(b) + High(a) * High(b) + sum;
}

// Bytes 0 and 2, signed, added to a pair.
inline Pair Sxtab16(Pair sum, std::uint32_t bytes) {
  return MakePair(Low(sum) + static_cast<std::int8_t>(bytes & 255),
                  High(sum) + static_cast<std::int8_t>(bytes >> 16 & 255));
}

// Bytes 1 and 3, signed, added to a pair.
inline Pair Sxtab16Ror8(Pair sum, std::uint32_t bytes) {
  return Sxtab16(sum, bytes >> 8);
}

// The high 32 bits of a product, rounded.
inline std::int32_t Smmulr(std::int32_t a, std::int32_t b) {
  return static_cast<std::int32_t>(
      (static_cast<std::int64_t>(a) * b + (std::int64_t{1} << 31)) >> 32);
}

inline std::int32_t Ssat8(std::int32_t value) {
  return value < -128 ? -128 : value > 127 ? 127 : value;
}

// value / 2^shift, rounded half up, plus an offset: ASRS leaves the last bit
// that it drops in the carry, ADC adds it. The shift is at least 1.
inline std::int32_t ShiftRight(std::int32_t value, int shift,
                               std::int32_t offset) {
  return (value >> shift) + (value >> (shift - 1) & 1) + offset;
}

#endif

// A factor as it is used. TensorFlow Lite rounds twice: value * 2^left *
// multiplier / 2^31 half up, what is left of the shift half away from zero.
struct Rescaling {
  std::int32_t multiplier;
  int right, left;  // one of them is 0
};

inline Rescaling Rescale(const Factor& factor) {
  return {factor.multiplier, factor.shift < 0 ? -factor.shift : 0,
          factor.shift < 0 ? 0 : factor.shift};
}

inline bool Covered(const Factor& factor) {
  return factor.multiplier >= 0 && factor.shift > -31 && factor.shift < 29;
}

inline bool Covered(const Output& output) {
  return output.offset >= -128 && output.offset <= 127 && output.min >= -128 &&
         output.max <= 127 && output.min <= output.max;
}

// Whether this is a zero point, negated.
inline bool IsOffset(std::int32_t offset) {
  return offset >= -127 && offset <= 128;
}

// What the absolute value of anything that is rescaled must stay below, so that
// it can be doubled.
inline std::int64_t Limit(const Factor& factor) {
  return std::int64_t{1} << (30 - Rescale(factor).left);
}

inline std::int32_t Shifted(std::int32_t value, int left) {
  return static_cast<std::int32_t>(static_cast<std::uint32_t>(value) << left);
}

// Rescales half of `twice` and adds an offset.
inline std::int32_t RescaledRight(std::int32_t twice, const Rescaling& by,
                                  std::int32_t offset) {
  const std::int32_t high = Smmulr(twice, by.multiplier);
  return ShiftRight(high + (high >> 31), by.right, offset);
}

inline std::int32_t Rescaled(std::int32_t twice, const Rescaling& by,
                             std::int32_t offset) {
  return by.right > 0 ? RescaledRight(twice, by, offset)
                      : Smmulr(Shifted(twice, by.left), by.multiplier) + offset;
}

// Whether codes take no more than `RescaledRight` and Ssat8.
inline bool IsUsual(const Rescaling& by, const Output& output) {
  return by.right > 0 && output.min == -128 && output.max == 127;
}

// A code for half of `twice`.
template <bool kUsual>
inline std::int8_t ToCode(std::int32_t twice, const Rescaling& by,
                          const Output& output) {
  if (kUsual) {
    return static_cast<std::int8_t>(
        Ssat8(RescaledRight(twice, by, output.offset)));
  }
  const std::int32_t value = Rescaled(twice, by, output.offset);
  return static_cast<std::int8_t>(value < output.min   ? output.min
                                  : value > output.max ? output.max
                                                       : value);
}

}  // namespace kernels
}  // namespace mirnet

#endif  // MIRNET_KERNEL_ARITHMETIC_H_
