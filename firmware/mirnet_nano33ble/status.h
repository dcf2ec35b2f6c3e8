// What can go wrong, and how the sketch shows it: a code and a sentence for the
// computer, blinks of the red LED for the user.
#ifndef MIRNET_STATUS_H_
#define MIRNET_STATUS_H_

#include <cstdint>

namespace mirnet {

// PROTOCOL.md lists the same numbers.
enum class Status : std::uint8_t {
  kOk = 0,
  // Passed to Report(): the red LED blinks that often, once.
  kDamaged = 1,
  kBadCommand = 2,
  kWrongVersion = 3,
  kNoCamera = 4,
  kCameraSilent = 5,
  // Passed to Halt(): the red LED blinks that often, again and again.
  kModelVersion = 6,
  kOperators = 7,
  kArena = 8,
  kTensors = 9,
  kInvoke = 10,
  kSelfTest = 11,
  // Passed to Report() too.
  kCameraSlipped = 12,
};

// One sentence: what happened and what to do.
const char* Describe(Status status);

// Sends a status and starts the blinks, unless they count the same status
// already. Does nothing if the status is kOk.
void Report(Status status);

// Sends a status every two seconds and blinks, until the board is reset. For
// what makes pictures wrong: no frame is taken after it, no command obeyed.
[[noreturn]] void Halt(Status status);

// Sets the LEDs: green is ready, blue is busy, red blinks the last status. For
// board::Begin(), which has it called by an interrupt.
void UpdateLeds();
void ShowBusy(bool busy);

}  // namespace mirnet

#endif  // MIRNET_STATUS_H_
