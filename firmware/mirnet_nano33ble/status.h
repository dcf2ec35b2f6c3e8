// What can go wrong: a code and a text for the computer, blinks for the lamp.
#ifndef MIRNET_STATUS_H_
#define MIRNET_STATUS_H_

#include <cstdint>

namespace mirnet {

// PROTOCOL.md lists the same numbers.
enum class Status : std::uint8_t {
  kOk = 0,
  // The red lamp blinks so many times while work goes on:
  kDamaged = 1,
  kBadCommand = 2,
  kWrongVersion = 3,
  kNoCamera = 4,
  kCameraSilent = 5,
  // and so many times for ever:
  kModelVersion = 6,
  kOperators = 7,
  kArena = 8,
  kTensors = 9,
  kInvoke = 10,
  kSelfTest = 11,
};

// Whether the sketch must not go on, because pictures would be wrong.
bool IsFatal(Status status);

// One sentence: what happened and what to do.
const char* Describe(Status status);

// Tells the computer and the red lamp; kOk is not worth a word. Does not return
// if the status is fatal.
void Report(Status status);

// Green: ready. Blue: a frame is being worked on. Neither waits; the first is
// to be called often.
void UpdateLamps();
void ShowBusy(bool busy);

}  // namespace mirnet

#endif  // MIRNET_STATUS_H_
