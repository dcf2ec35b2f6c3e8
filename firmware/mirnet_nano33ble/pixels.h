// The arithmetic on pixels before and after the model, in integers. The Python
// of conversion/ that says what is computed and why gives the same bytes, as a
// test checks.
#ifndef MIRNET_PIXELS_H_
#define MIRNET_PIXELS_H_

#include <cstddef>
#include <cstdint>

#include "model_data.h"

namespace mirnet {

// A dark frame: rows from the top, in the format of frame_format.h.
constexpr std::size_t kFrameSize = std::size_t{2} * kImageWidth * kImageHeight;
// A row of the bright frame: red, green, blue, 8 bits each.
constexpr std::size_t kRowSize = std::size_t{3} * kImageWidth;

// Converts a frame, kFrameSize bytes, to the model's input, kInputSize codes.
void FillInput(const std::uint8_t* frame, std::int8_t* input);

// Converts an input of the model back to a frame; two pixels share their
// chroma.
void FillFrame(const std::int8_t* input, std::uint8_t* frame);

// Computes one row of the bright frame.
//   frame: the dark frame, kFrameSize bytes.
//   maps: the model's output for it, kOutputSize codes.
//   y: 0 to kImageHeight - 1.
//   exposure: how much brighter, in steps of 1/8 EV, from -kLargestExposure to
//     kLargestExposure; 0: no correction.
//   row: kRowSize bytes.
// Takes 60 bytes of stack for each column of cells: 2 KB for 32 of them.
void RestoreRow(const std::uint8_t* frame, const std::int8_t* maps, int y,
                int exposure, std::uint8_t* row);

}  // namespace mirnet

#endif  // MIRNET_PIXELS_H_
