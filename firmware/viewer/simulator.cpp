// Runs a sketch on this computer. Its portable sources are compiled unchanged;
// this file stands for the board, the model's runtime and the camera.
//
//   simulator sizes      prints a frame's width and height and the bytes of the
//                        model's input and output
//   simulator model      writes the model's bytes to stdout
//   simulator picture    writes the test picture, a dark frame, to stdout
//   simulator run FD     runs the sketch on the terminal that is open as FD;
//                        it asks simulator.py on stdout to run the model or to
//                        take a frame, and reads the answers from stdin
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "board.h"
#include "image_source.h"
#include "memory_budget.h"
#include "model_runner.h"

void setup();
void loop();

namespace mirnet {
namespace {

int terminal = -1;
std::uint8_t turned = 0;  // the camera: 1 mirrored, 2 flipped
const auto start = std::chrono::steady_clock::now();

// Both end the program when simulator.py is gone.
void ReadAll(int fd, void* data, std::size_t size) {
  auto* bytes = static_cast<char*>(data);
  while (size > 0) {
    const ssize_t count = read(fd, bytes, size);
    if (count <= 0) {
      std::_Exit(0);
    }
    bytes += count;
    size -= static_cast<std::size_t>(count);
  }
}

void WriteAll(int fd, const void* data, std::size_t size) {
  const auto* bytes = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t count = write(fd, bytes, size);
    if (count <= 0) {
      std::_Exit(0);
    }
    bytes += count;
    size -= static_cast<std::size_t>(count);
  }
}

// Asks simulator.py, which answers with a status and, if that is 0, the bytes.
Status Ask(char request, const void* data, std::size_t size, void* answer,
           std::size_t answer_size) {
  WriteAll(STDOUT_FILENO, &request, 1);
  WriteAll(STDOUT_FILENO, data, size);
  Status status;
  ReadAll(STDIN_FILENO, &status, 1);
  if (status == Status::kOk) {
    ReadAll(STDIN_FILENO, answer, answer_size);
  }
  return status;
}

}  // namespace

namespace board {

void Begin(void (*)()) {}  // there are no LEDs

// The terminal hangs up while no program has its other end open.
bool Connected() {
  pollfd end{terminal, 0, 0};
  return poll(&end, 1, 0) == 0;
}

std::size_t Read(std::uint8_t* data, std::size_t size) {
  pollfd ends[2] = {{terminal, POLLIN, 0}, {STDIN_FILENO, 0, 0}};
  if (poll(ends, 2, 1) <= 0 || (ends[1].revents & POLLHUP) == 0) {
    const bool arrived = (ends[0].revents & POLLIN) != 0;
    const ssize_t count = arrived ? read(terminal, data, size) : 0;
    return count > 0 ? static_cast<std::size_t>(count) : 0;
  }
  std::_Exit(0);
}

bool Write(const std::uint8_t* data, std::size_t size) {
  while (size > 0) {
    pollfd ready{terminal, POLLOUT, 0};
    if (!Connected() || poll(&ready, 1, kWriteMillis) <= 0) {
      return false;
    }
    const ssize_t count = write(terminal, data, size < 256 ? size : 256);
    if (count <= 0) {
      return false;
    }
    data += count;
    size -= static_cast<std::size_t>(count);
  }
  return true;
}

std::uint32_t Micros() {
  return static_cast<std::uint32_t>(
      std::chrono::duration_cast<std::chrono::microseconds>(
          std::chrono::steady_clock::now() - start)
          .count());
}

std::uint32_t Millis() {
  return static_cast<std::uint32_t>(
      std::chrono::duration_cast<std::chrono::milliseconds>(
          std::chrono::steady_clock::now() - start)
          .count());
}

void Wait(std::uint32_t milliseconds) {
  std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
}

void SetLeds(bool, bool, bool) {}

bool ButtonClosed() { return false; }

}  // namespace board

namespace model_runner {
namespace {

std::int8_t input[kInputSize];
std::int8_t output[kOutputSize];

}  // namespace

Status Begin() { return Status::kOk; }

std::int8_t* Input() { return input; }

Status Run() {
  const Status status = Ask('M', input, sizeof input, output, sizeof output);
  std::memset(input, 0x55, sizeof input);  // the board's is overwritten too
  return status;
}

const std::int8_t* Output() { return output; }

std::size_t ArenaUsed() { return kArenaBytes; }

}  // namespace model_runner

Status BeginCamera() { return Status::kOk; }

// Of the settings, those that a moving picture can follow.
Status SetCamera(const CameraSettings& settings) {
  turned = static_cast<std::uint8_t>((settings.mirror ? 1 : 0) |
                                     (settings.flip ? 2 : 0));
  return Status::kOk;
}

Status ReadCamera(std::uint8_t* frame) {
  return Ask('C', &turned, 1, frame, kFrameSize);
}

}  // namespace mirnet

int main(int argc, char** argv) {
  if (argc == 2 && std::strcmp(argv[1], "sizes") == 0) {
    std::printf("%d %d %lu %lu", mirnet::kImageWidth, mirnet::kImageHeight,
                static_cast<unsigned long>(mirnet::kInputSize),
                static_cast<unsigned long>(mirnet::kOutputSize));
    return 0;
  }
  if (argc == 2 && std::strcmp(argv[1], "model") == 0) {
    mirnet::WriteAll(STDOUT_FILENO, mirnet::kModelData, mirnet::kModelSize);
    return 0;
  }
  if (argc == 2 && std::strcmp(argv[1], "picture") == 0) {
    static std::uint8_t frame[mirnet::kFrameSize];
    mirnet::ReadTestPicture(frame);
    mirnet::WriteAll(STDOUT_FILENO, frame, sizeof frame);
    return 0;
  }
  if (argc != 3 || std::strcmp(argv[1], "run") != 0) {
    std::fprintf(stderr, "use python firmware/viewer --simulate\n");
    return 2;
  }
  mirnet::terminal = std::atoi(argv[2]);
  setup();
  for (;;) {
    loop();
  }
}
