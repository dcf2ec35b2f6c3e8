#include "average.h"

namespace mirnet {

bool Average::Add(Source source, std::uint8_t* frame, std::int8_t* sums) {
  if (source != source_) {
    source_ = source;
    summed_ = 0;
  }
  if (count_ == 1) {
    return true;
  }
  auto* low = reinterpret_cast<std::uint8_t*>(sums);
  std::uint8_t* high = low + kFrameSize;
  const bool first = summed_ == 0;
  const bool last = ++summed_ == count_;
  for (std::size_t i = 0; i < kFrameSize; ++i) {
    const int shift = i % 2 == 0 ? 0 : 4;
    std::uint8_t& half = high[i / 2];
    const int before = first ? 0 : (half >> shift & 15) << 8 | low[i];
    const int sum = before + frame[i];
    low[i] = static_cast<std::uint8_t>(sum);
    half = static_cast<std::uint8_t>((half & 240 >> shift) | sum >> 8 << shift);
    if (last) {
      frame[i] = static_cast<std::uint8_t>((sum + count_ / 2) / count_);
    }
  }
  if (last) {
    summed_ = 0;
  }
  return last;
}

}  // namespace mirnet
