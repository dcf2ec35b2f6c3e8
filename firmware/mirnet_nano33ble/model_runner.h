// Runs the int8 model. Only model_runner.cpp and kernel_resolver include
// TensorFlow Lite Micro; the viewer's simulator has its own.
#ifndef MIRNET_MODEL_RUNNER_H_
#define MIRNET_MODEL_RUNNER_H_

#include <cstddef>
#include <cstdint>

#include "model_data.h"
#include "status.h"

namespace mirnet {
namespace model_runner {

// Loads the model. Call it once, before all others; after anything but kOk the
// others must not be called.
Status Begin();

// The model's input: kInputSize codes, to be written before Run().
std::int8_t* Input();

// Runs the model once, which is most of the work on a frame. The input
// is overwritten.
Status Run();

// The model's output: kOutputSize codes, valid until the next Run().
const std::int8_t* Output();

// Bytes of the arena in use, for tensors and the interpreter's bookkeeping.
std::size_t ArenaUsed();

}  // namespace model_runner
}  // namespace mirnet

#endif  // MIRNET_MODEL_RUNNER_H_
