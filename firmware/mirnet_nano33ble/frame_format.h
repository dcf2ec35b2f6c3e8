// The format of a dark frame, as the OV7675 sends it: YUV 4:2:2 in the order Y
// U Y V (YUYV), 8 bits each. Every pixel has a luminance of its own, two pixels
// beside each other share blue and red chroma. The formulas are those of BT.601
// over the full range of 0 to 255, as JPEG has them: the camera library's
// matrices for RGB are those for YUV with the rows times 1.402 and 1.772.
#ifndef MIRNET_FRAME_FORMAT_H_
#define MIRNET_FRAME_FORMAT_H_

#include <cstddef>
#include <cstdint>

namespace mirnet {

struct Rgb {
  int red, green, blue;
};

inline std::uint8_t ClipToLevel(int value) {
  value = value < 255 ? value : 255;
  return static_cast<std::uint8_t>(value > 0 ? value : 0);
}

// Returns the lowest luminance of `count` pixels of 2 bytes each.
inline int DarkestOf(const std::uint8_t* yuyv, std::size_t count) {
  int darkest = 255;
  for (; count > 0; --count, yuyv += 2) {
    darkest = yuyv[0] < darkest ? yuyv[0] : darkest;
  }
  return darkest;
}

// Converts `count` pixels, an even number, of 2 bytes each to red, green, blue.
inline void YuvToRgb(const std::uint8_t* yuyv, int count, std::uint8_t* rgb) {
  for (; count > 0; count -= 2, yuyv += 4, rgb += 6) {
    const int u = yuyv[1] - 128, v = yuyv[3] - 128;
    const int red = (359 * v + 128) >> 8;
    const int green = (-88 * u - 183 * v + 128) >> 8;
    const int blue = (454 * u + 128) >> 8;
    rgb[0] = ClipToLevel(yuyv[0] + red);
    rgb[1] = ClipToLevel(yuyv[0] + green);
    rgb[2] = ClipToLevel(yuyv[0] + blue);
    rgb[3] = ClipToLevel(yuyv[2] + red);
    rgb[4] = ClipToLevel(yuyv[2] + green);
    rgb[5] = ClipToLevel(yuyv[2] + blue);
  }
}

// Converts two pixels to 4 bytes; they share the mean of their chroma.
inline void RgbToYuv(const Rgb& left, const Rgb& right, std::uint8_t* yuyv) {
  const auto luminance = [](const Rgb& pixel) {
    return ClipToLevel(
        (77 * pixel.red + 150 * pixel.green + 29 * pixel.blue + 128) >> 8);
  };
  const int red = left.red + right.red, green = left.green + right.green,
            blue = left.blue + right.blue;
  yuyv[0] = luminance(left);
  yuyv[1] =
      ClipToLevel(128 + ((-43 * red - 85 * green + 128 * blue + 256) >> 9));
  yuyv[2] = luminance(right);
  yuyv[3] =
      ClipToLevel(128 + ((128 * red - 107 * green - 21 * blue + 256) >> 9));
}

}  // namespace mirnet

#endif  // MIRNET_FRAME_FORMAT_H_
