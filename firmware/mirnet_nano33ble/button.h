// A push button whose contact bounces.
#ifndef MIRNET_BUTTON_H_
#define MIRNET_BUTTON_H_

#include <cstdint>

namespace mirnet {

class Button {
 public:
  // For an interrupt every 20 milliseconds: whether the contact is closed. A
  // press counts once it was open twice and then closed twice, so a contact may
  // bounce for 20 milliseconds, and must be held for 40.
  void Sample(bool closed) {
    samples_ =
        static_cast<std::uint8_t>((samples_ << 1 | (closed ? 1 : 0)) & 15);
    if (samples_ == 3) {
      pressed_ = true;
    }
  }

  // Whether the button has been pressed since the last call.
  bool Take() {
    if (!pressed_) {
      return false;
    }
    pressed_ = false;
    return true;
  }

 private:
  std::uint8_t samples_ = 15;  // the last four; closed at first
  volatile bool pressed_ = false;
};

}  // namespace mirnet

#endif  // MIRNET_BUTTON_H_
