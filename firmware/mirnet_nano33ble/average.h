// The mean of several frames, so that less noise enters the model: a still.
#ifndef MIRNET_AVERAGE_H_
#define MIRNET_AVERAGE_H_

#include <cstddef>
#include <cstdint>

#include "image_source.h"
#include "pixels.h"

namespace mirnet {

constexpr int kMostFrames = 8;  // of a mean

// Sums have 12 bits: first a byte for each of a frame's bytes, then half a byte
// for each.
constexpr std::size_t kSumBytes = kFrameSize + kFrameSize / 2;
static_assert(kSumBytes <= kInputSize,
              "the sums of frames do not fit into the model's input: convert a "
              "network that takes RGB frames");

class Average {
 public:
  // From now on pictures are the mean of `count` frames, 1 to kMostFrames.
  void Begin(int count) {
    count_ = count;
    summed_ = 0;
  }

  // Forgets what has been summed. Call it when others have used the sums.
  void Restart() { summed_ = 0; }

  // Adds a frame. Once all are there, returns true and replaces it by the mean.
  //   sums: kSumBytes bytes, which stay as they are until then.
  bool Add(Source source, std::uint8_t* frame, std::int8_t* sums);

 private:
  int count_ = 1, summed_ = 0;
  Source source_ = Source::kNone;
};

}  // namespace mirnet

#endif  // MIRNET_AVERAGE_H_
