#include "status.h"

#include "board.h"
#include "image_sink.h"

namespace mirnet {
namespace {

constexpr std::uint32_t kBlinkMillis = 600;  // on for the first half
constexpr std::uint32_t kPauseBlinks = 3;    // dark between two rounds
constexpr std::uint32_t kRepeatMillis = 2000;

// UpdateLeds() reads these in an interrupt.
volatile Status shown = Status::kOk;
volatile std::uint32_t shown_since = 0;  // milliseconds
volatile bool shown_busy = false;
volatile bool halted = false;

}  // namespace

const char* Describe(Status status) {
  switch (status) {
    case Status::kOk:
      return "all is well";
    case Status::kDamaged:
      return "a message arrived damaged and was dropped: send it again";
    case Status::kBadCommand:
      return "a message has an unknown type or a wrong length: compare the "
             "versions of viewer and sketch";
    case Status::kWrongVersion:
      return "a message is of another version of the protocol: upload the "
             "sketch that belongs to the viewer";
    case Status::kNoCamera:
      return "no camera answers: check its wires";
    case Status::kCameraSilent:
      return "the camera sends no picture: check its wires";
    case Status::kModelVersion:
      return "the model has a schema that the library does not know: convert "
             "it again";
    case Status::kOperators:
      return "the library lacks an operator of the model: install the one that "
             "firmware/README.md names";
    case Status::kArena:
      return "the model does not fit into its arena: install the library that "
             "firmware/README.md names, or convert the model again";
    case Status::kTensors:
      return "the model's tensors are not those of model_data.h: convert it "
             "again";
    case Status::kInvoke:
      return "the model failed to run: upload the sketch again";
    case Status::kSelfTest:
      return "the self-test computed wrong bytes: install the library that "
             "firmware/README.md names";
    case Status::kCameraSlipped:
      return "bytes of the camera's pictures are missing: check its wires and "
             "make them shorter";
  }
  return "unknown";
}

void Report(Status status) {
  if (status == Status::kOk) {
    return;
  }
  if (status != shown) {  // else the LED goes on counting
    shown_since = board::Millis();
    shown = status;
  }
  sink::SendStatus(status);
}

void Halt(Status status) {
  halted = true;
  Report(status);
  for (std::uint32_t sent_at = board::Millis();;) {
    board::Wait(10);
    if (board::Millis() - sent_at >= kRepeatMillis) {
      sent_at = board::Millis();
      sink::SendStatus(status);
    }
  }
}

void UpdateLeds() {
  const std::uint32_t elapsed = board::Millis() - shown_since;
  const Status status = shown;
  const auto count = static_cast<std::uint32_t>(status);
  const std::uint32_t round = count + kPauseBlinks;
  const std::uint32_t blink = elapsed / kBlinkMillis;
  if (blink >= round && !halted) {
    shown = Status::kOk;
  }
  const bool well = shown == Status::kOk;
  const bool red = !well && blink % round < count &&
                   elapsed % kBlinkMillis < kBlinkMillis / 2;
  board::SetLeds(red, well && !shown_busy, well && shown_busy);
}

void ShowBusy(bool busy) { shown_busy = busy; }

}  // namespace mirnet
