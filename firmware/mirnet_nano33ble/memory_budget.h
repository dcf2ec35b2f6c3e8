// The memory of the sketch, all of it static, and what it may come to.
//
// The dark frame has its own bytes: the model destroys its input, and the
// restored picture is made of the dark one. Everything else shares: commands
// and frames from the computer arrive in the dark frame's bytes, and the
// restored picture leaves row by row, computed from the maps that the model
// left in its arena.
#ifndef MIRNET_MEMORY_BUDGET_H_
#define MIRNET_MEMORY_BUDGET_H_

#include <cstddef>

#include "commands.h"
#include "image_sink.h"
#include "model_data.h"
#include "pixels.h"

namespace mirnet {

// Of 262,144 bytes of RAM; Mbed OS, USB and the stacks need 60,000. The flash
// is that of the model alone.
constexpr std::size_t kMemoryBudget = 180000;
constexpr std::size_t kFlashBudget = 350000;

constexpr std::size_t kArenaSize = kArenaBytes;
constexpr std::size_t kOtherBuffers =
    kFrameSize + sizeof(Commands) + sink::kBuffers;

static_assert(kArenaSize % 16 == 0, "the arena is used in steps of 16 bytes");
static_assert(kArenaSize + kOtherBuffers <= kMemoryBudget,
              "arena, frame and protocol take too much memory");
static_assert(kModelSize <= kFlashBudget, "the model takes too much flash");

}  // namespace mirnet

#endif  // MIRNET_MEMORY_BUDGET_H_
