// What the board does with a display and without a computer: it shows one frame
// of the camera after the other. A press of the button takes a still, the mean
// of as many frames as possible, which stays on the display until the next
// press.
#ifndef MIRNET_VIEWFINDER_H_
#define MIRNET_VIEWFINDER_H_

#include "average.h"
#include "button.h"
#include "image_source.h"

namespace mirnet {

class Viewfinder {
 public:
  // Call it when a computer commands: a still and presses are forgotten.
  void Restart() {
    state_ = State::kLive;
    average_.Begin(1);
    button_.Take();
  }

  // Returns the source of the next frame, kNone while a still is shown.
  Source Next() {
    if (button_.Take() && state_ != State::kTaking) {
      state_ = state_ == State::kLive ? State::kTaking : State::kLive;
      average_.Begin(state_ == State::kTaking ? kMostFrames : 1);
    }
    return state_ == State::kShown ? Source::kNone : Source::kCamera;
  }

  // Call it when a picture is on the display. Presses before that do not count.
  void Shown() {
    if (state_ == State::kTaking) {
      state_ = State::kShown;
      button_.Take();
    }
  }

  // Of how many frames the picture is made.
  Average& average() { return average_; }

  Button& button() { return button_; }

 private:
  enum class State : std::uint8_t { kLive, kTaking, kShown };

  State state_ = State::kLive;
  Average average_;
  Button button_;
};

}  // namespace mirnet

#endif  // MIRNET_VIEWFINDER_H_
