// Shows bright frames on a display, if settings.h says that there is one.
#ifndef MIRNET_DISPLAY_H_
#define MIRNET_DISPLAY_H_

#include <cstdint>

#include "settings.h"

namespace mirnet {
namespace display {

#if MIRNET_DISPLAY

// Starts the display, black. Takes 0.4 seconds.
void Begin();

// Shows a bright frame in the middle of the display: BeginPicture(), then
// ShowRow() with kRowSize bytes for each of its rows from the top.
void BeginPicture();
void ShowRow(const std::uint8_t* row);

#else

inline void Begin() {}
inline void BeginPicture() {}
inline void ShowRow(const std::uint8_t*) {}

#endif

}  // namespace display
}  // namespace mirnet

#endif  // MIRNET_DISPLAY_H_
