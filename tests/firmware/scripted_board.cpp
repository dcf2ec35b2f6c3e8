// Runs the whole sketch, setup() and loop(), on a board whose clock, computer
// and camera follow a script, so that every run is the same.
//
// The script, on stdin, is a list of steps: a letter and a number (4 bytes).
//   b n   the next n bytes of the script arrive; loop() runs until it has read
//         them and returned once more
//   w n   loop() runs for n milliseconds
//   c 1, c 0   a program opens or closes the port
//   s n   the camera is silent for the next n frames
//   m n   the model takes n milliseconds from now on
//   x n   the first code of its output is exclusive-ored with n
//
// A step that takes more than a minute ends the program: the sketch has halted.
//
// The answer, on stdout: the number (4 bytes) of bytes that the sketch sent and
// the bytes; how often it asked the clock (4 bytes); how often it started the
// camera (4 bytes); one character for every 20 milliseconds: the lamp, r, g, b
// or . for none.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <string>
#include <vector>

#include "board.h"
#include "golden_vectors.h"
#include "image_source.h"
#include "model_runner.h"
#include "protocol.h"

void setup();
void loop();

namespace {

constexpr std::uint32_t kTickMillis = 20;
constexpr std::uint32_t kLongestStep = 60000;
constexpr std::uint32_t kCameraMillis = 200, kSilentMillis = 3000;

std::string sent;
std::deque<std::uint8_t> arrived;
std::string lamps;
char lamp = '.';
std::uint32_t clock_millis = 0, clock_asked = 0, model_millis = 0,
              model_error = 0, step_began = 0;
std::uint32_t camera_started = 0, camera_silent = 0;
bool connected = false;
void (*on_tick)() = nullptr;

void PutNumber(std::uint32_t value) {
  std::uint8_t bytes[4];
  mirnet::PutU32(bytes, value);
  std::fwrite(bytes, 1, sizeof bytes, stdout);
}

[[noreturn]] void Finish() {
  PutNumber(static_cast<std::uint32_t>(sent.size()));
  std::fwrite(sent.data(), 1, sent.size(), stdout);
  PutNumber(clock_asked);
  PutNumber(camera_started);
  std::fwrite(lamps.data(), 1, lamps.size(), stdout);
  std::fflush(stdout);
  std::_Exit(0);
}

// Time passes, whatever the sketch does.
void Pass(std::uint32_t milliseconds) {
  for (; milliseconds > 0; --milliseconds) {
    if (clock_millis - step_began > kLongestStep) {
      Finish();
    }
    if (++clock_millis % kTickMillis == 0 && on_tick != nullptr) {
      on_tick();
      lamps += lamp;
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

int Read() {
  if (arrived.empty()) {
    return -1;
  }
  const int byte = arrived.front();
  arrived.pop_front();
  return byte;
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

void SetLamps(bool red, bool green, bool blue) {
  lamp = red ? 'r' : green ? 'g' : blue ? 'b' : '.';
}

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

Status ReadCamera(std::uint8_t* frame) {
  if (camera_silent > 0) {
    --camera_silent;
    Pass(kSilentMillis);
    return Status::kCameraSilent;
  }
  Pass(kCameraMillis);
  return ReadTestPicture(frame);
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
      while (!arrived.empty()) {
        loop();
      }
      loop();
    } else if (step == 'w') {
      for (const std::uint32_t start = clock_millis;
           clock_millis - start < number;) {
        const std::uint32_t before = clock_millis;
        loop();
        Pass(clock_millis == before ? 1 : 0);
      }
    } else if (step == 'c') {
      connected = number != 0;
    } else if (step == 's') {
      camera_silent = number;
    } else if (step == 'm') {
      model_millis = number;
    } else if (step == 'x') {
      model_error = number;
    } else {
      return 2;
    }
  }
  Finish();
}
