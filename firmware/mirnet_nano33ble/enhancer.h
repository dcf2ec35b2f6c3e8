// The int8 model on the board. enhancer.cpp is the only file that includes
// TensorFlow Lite Micro; the viewer's simulator has another.
#ifndef MIRNET_ENHANCER_H_
#define MIRNET_ENHANCER_H_

#include <cstddef>
#include <cstdint>

#include "model_data.h"
#include "status.h"

namespace mirnet {
namespace enhancer {

// Loads the model; once, before all others. Whatever it returns but kOk is
// fatal.
Status Begin();

// kInputSize codes to be written before Run().
std::int8_t* Input();

// Runs the model once; it takes a second or two. The input is lost.
Status Run();

// kOutputSize codes, the maps of the last Run(); the next destroys them.
const std::int8_t* Output();

// What the model takes of the arena, for all tensors and bookkeeping.
std::size_t ArenaUsed();

}  // namespace enhancer
}  // namespace mirnet

#endif  // MIRNET_ENHANCER_H_
