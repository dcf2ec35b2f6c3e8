// Pixel arithmetic around the model, in integers. conversion/pixels.py says
// what is computed and why; both give the same bytes, and a test holds them to
// that.
#ifndef MIRNET_PIXELS_H_
#define MIRNET_PIXELS_H_

#include <cstddef>
#include <cstdint>

#include "model_data.h"

namespace mirnet {

// A dark frame: RGB565, rows from the top, the high byte of a pixel first.
constexpr std::size_t kFrameSize = std::size_t{2} * kImageWidth * kImageHeight;
// A row of the restored picture: red, green, blue, 8 bits each.
constexpr std::size_t kRowSize = std::size_t{3} * kImageWidth;

// Writes a frame of kFrameSize bytes as the model's input, kInputSize codes.
void FillInput(const std::uint8_t* frame, std::int8_t* input);

// The way back: a frame from an input of the model; low bits are cut.
void FillFrame(const std::int8_t* input, std::uint8_t* frame);

// Computes one row of the restored picture.
//   frame: the dark frame, kFrameSize bytes.
//   maps: the model's output for it, kOutputSize codes.
//   y: 0 to kImageHeight - 1.
//   row: kRowSize bytes.
// Takes 2 KB of stack.
void RestoreRow(const std::uint8_t* frame, const std::int8_t* maps, int y,
                std::uint8_t* row);

}  // namespace mirnet

#endif  // MIRNET_PIXELS_H_
