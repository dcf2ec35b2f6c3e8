// Whether the sketch fits the board, checked when it is compiled. The limits
// come from model_data.h, so conversion/to_tflite.py has checked the same.
//
// All memory is static. The arena, the dark frame and some small buffers have
// bytes of their own: the model overwrites its input, and the bright frame is
// made from the dark one. Everything else shares: a frame from the computer
// arrives in the dark frame's bytes, and the bright frame leaves row by row,
// made from the maps that the model leaves in the arena.
#ifndef MIRNET_MEMORY_BUDGET_H_
#define MIRNET_MEMORY_BUDGET_H_

#include <cstddef>

#include "commands.h"
#include "image_sink.h"
#include "model_data.h"
#include "pixels.h"

namespace mirnet {

// Bytes in use: the state of the protocol, a row of the bright frame and a line
// of text; and with arena and dark frame.
constexpr std::size_t kBuffersInUse =
    sizeof(Commands) + kRowSize + sink::kTextSize;
constexpr std::size_t kMemoryInUse = kArenaBytes + kFrameSize + kBuffersInUse;

static_assert(kArenaBytes % 16 == 0,
              "the arena is used in steps of 16 bytes: convert the model "
              "again, do not edit model_data.h");
static_assert(kBuffersInUse <= kBufferBytes,
              "the buffers take more than kBufferBytes: convert a model for "
              "narrower frames");
// Of the board's 262,144 bytes of RAM Mbed OS, USB and the stacks need 60,000.
static_assert(kArenaBytes + kFrameSize + kBufferBytes <= kMemoryLimit,
              "arena, dark frame and buffers take too much memory: convert a "
              "network with fewer channels or larger cells");
static_assert(kModelSize <= kFlashLimit,
              "the model takes too much flash: convert a network with fewer "
              "channels or blocks");

}  // namespace mirnet

#endif  // MIRNET_MEMORY_BUDGET_H_
