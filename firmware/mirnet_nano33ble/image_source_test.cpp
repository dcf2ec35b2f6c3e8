#include "image_source.h"

#include "golden_vectors.h"

namespace mirnet {

// The picture of the self-test: a dark photograph.
Status ReadTestPicture(std::uint8_t* frame) {
  FillFrame(kGoldenInput, frame);
  return Status::kOk;
}

}  // namespace mirnet
