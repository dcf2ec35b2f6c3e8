// Runs the whole sketch, setup() and loop(), on a board whose clock, computer,
// camera and button follow a script, so that every run is the same. A display
// is wired to its pins, whether the sketch is compiled for it or not.
//
// The script, on stdin, is a list of steps: a letter and a number (4 bytes).
//   b n   the next n bytes of the script arrive; loop() runs until it has read
//         them and returned once more
//   w n   loop() runs for n milliseconds
//   c 1, c 0   a program opens or closes the port
//   o n   a program opens the port n milliseconds from now
//   s n   the camera is silent for the next n frames
//   m n   the model takes n milliseconds from now on
//   p n   n bytes arrive at once from now on; 1 at the start
//   x n   the first code of its output is exclusive-ored with n
//   k n   the contact of the button closes, or opens again, n milliseconds
//   after
//         it last did, or from now if it has done all that before
//   v n   from now on every frame of the camera is n levels brighter than the
//         one before, up to white
//   d 0   a look at the display
//
// A step that takes more than a minute ends the program: the sketch has halted.
//
// The answer, on stdout: the number (4 bytes) of bytes that the sketch sent and
// the bytes; how often it asked the clock (4 bytes); how often it started the
// camera (4 bytes); how many looks there were (4 bytes), and for each of them
// the frames that the camera has sent (4 bytes) and pins::State(); one
// character for every 20 milliseconds: the LED, r, g, b or . for none.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <string>
#include <vector>

#include "board.h"
#include "display/pins.h"
#include "golden_vectors.h"
#include "image_source.h"
#include "model_runner.h"
#include "protocol.h"

void setup();
void loop();

namespace {

constexpr std::uint32_t kTickMillis = 20;
constexpr std::uint32_t kLongestStep = 60000;
constexpr std::uint32_t kCameraMillis = 200, kSilentMillis = 1000;

constexpr int kBlack = 3;

std::string sent;
std::deque<std::uint8_t> arrived;
std::size_t packet = 1;
bool drained = false;  // the sketch has asked for bytes, and none were left
std::string leds;
char led = '.';
std::uint32_t clock_millis = 0, clock_asked = 0, model_millis = 0,
              model_error = 0, step_began = 0;
std::uint32_t camera_started = 0, camera_silent = 0;
std::uint32_t camera_frames = 0, brighter = 0, brighter_since = 0;
bool connected = false, closed = false;
std::uint32_t opens_at = 0;
std::deque<std::uint32_t> contact;  // when it closes or opens
std::uint32_t looks = 0;
std::string seen;
void (*on_tick)() = nullptr;

void PutNumber(std::uint32_t value) {
  std::uint8_t bytes[4];
  mirnet::PutU32(bytes, value);
  std::fwrite(bytes, 1, sizeof bytes, stdout);
}

void Look() {
  std::uint8_t bytes[4];
  mirnet::PutU32(bytes, camera_frames);
  seen.append(reinterpret_cast<const char*>(bytes), sizeof bytes);
  seen += pins::State();
  ++looks;
}

[[noreturn]] void Finish() {
  PutNumber(static_cast<std::uint32_t>(sent.size()));
  std::fwrite(sent.data(), 1, sent.size(), stdout);
  PutNumber(clock_asked);
  PutNumber(camera_started);
  PutNumber(looks);
  std::fwrite(seen.data(), 1, seen.size(), stdout);
  std::fwrite(leds.data(), 1, leds.size(), stdout);
  std::fflush(stdout);
  std::_Exit(0);
}

// Time passes, whatever the sketch does.
void Pass(std::uint32_t milliseconds) {
  for (; milliseconds > 0; --milliseconds) {
    if (clock_millis - step_began > kLongestStep) {
      Finish();
    }
    ++clock_millis;
    connected = connected || clock_millis == opens_at;
    while (!contact.empty() && contact.front() == clock_millis) {
      contact.pop_front();
      closed = !closed;
    }
    if (clock_millis % kTickMillis == 0 && on_tick != nullptr) {
      on_tick();
      leds += led;
    }
  }
}

bool ReadStep(char* step, std::uint32_t* number) {
  std::uint8_t bytes[4];
  if (std::fread(step, 1, 1, stdin) != 1 ||
      std::fread(bytes, 1, sizeof bytes, stdin) != sizeof bytes) {
    return false;
  }
  *number = mirnet::GetU32(bytes);
  return true;
}

}  // namespace

namespace mirnet {
namespace board {

void Begin(void (*tick)()) { on_tick = tick; }

bool Connected() { return connected; }

std::size_t Read(std::uint8_t* data, std::size_t size) {
  const std::size_t count = std::min({size, arrived.size(), packet});
  drained = count == 0;
  std::copy_n(arrived.begin(), count, data);
  arrived.erase(arrived.begin(), arrived.begin() + static_cast<long>(count));
  return count;
}

bool Write(const std::uint8_t* data, std::size_t size) {
  if (connected) {
    sent.append(reinterpret_cast<const char*>(data), size);
  }
  return connected;
}

std::uint32_t Millis() {
  ++clock_asked;
  return clock_millis;
}

std::uint32_t Micros() { return 1000 * clock_millis; }

void Wait(std::uint32_t milliseconds) { Pass(milliseconds); }

void SetLeds(bool red, bool green, bool blue) {
  led = red ? 'r' : green ? 'g' : blue ? 'b' : '.';
}

bool ButtonClosed() { return closed; }

}  // namespace board

namespace model_runner {
namespace {

std::int8_t input[kInputSize], output[kOutputSize];

}  // namespace

Status Begin() { return Status::kOk; }

std::int8_t* Input() { return input; }

Status Run() {
  Pass(model_millis);
  std::memcpy(output, kGoldenOutput, sizeof output);
  output[0] = static_cast<std::int8_t>(output[0] ^ model_error);
  return Status::kOk;
}

const std::int8_t* Output() { return output; }

std::size_t ArenaUsed() { return kArenaBytes; }

}  // namespace model_runner

Status BeginCamera() {
  ++camera_started;
  Pass(1000);
  return Status::kOk;
}

Status SetCamera(const CameraSettings&) { return Status::kOk; }

Status ReadCamera(std::uint8_t* frame) {
  if (camera_silent > 0) {
    --camera_silent;
    Pass(kSilentMillis);
    return Status::kCameraSilent;
  }
  Pass(kCameraMillis);
  const Status status = ReadTestPicture(frame);
  const auto more =
      static_cast<int>(brighter * (camera_frames++ - brighter_since));
  for (std::size_t i = 0; i < kFrameSize; i += 2) {  // nothing is black
    frame[i] = static_cast<std::uint8_t>(
        std::min(std::max<int>(frame[i], kBlack) + more, 255));
  }
  return status;
}

}  // namespace mirnet

int main() {
  char step;
  std::uint32_t number;
  model_millis = 1000;
  setup();
  while (ReadStep(&step, &number)) {
    step_began = clock_millis;
    if (step == 'b') {
      std::vector<std::uint8_t> bytes(number);
      if (std::fread(bytes.data(), 1, bytes.size(), stdin) != bytes.size()) {
        return 2;
      }
      arrived.insert(arrived.end(), bytes.begin(), bytes.end());
      for (drained = false; !drained;) {
        loop();
      }
    } else if (step == 'w') {
      for (const std::uint32_t start = clock_millis;
           clock_millis - start < number;) {
        const std::uint32_t before = clock_millis;
        loop();
        Pass(clock_millis == before ? 1 : 0);
      }
    } else if (step == 'c') {
      connected = number != 0;
    } else if (step == 'o') {
      opens_at = clock_millis + number;
    } else if (step == 's') {
      camera_silent = number;
    } else if (step == 'm') {
      model_millis = number;
    } else if (step == 'p') {
      packet = number;
    } else if (step == 'x') {
      model_error = number;
    } else if (step == 'k') {
      // The millisecond that has begun is over for the contact.
      const std::uint32_t last =
          contact.empty() ? clock_millis + 1 : contact.back();
      contact.push_back(last + number);
    } else if (step == 'v') {
      brighter = number;
      brighter_since = camera_frames;
    } else if (step == 'd') {
      Look();
    } else {
      return 2;
    }
  }
  Finish();
}
