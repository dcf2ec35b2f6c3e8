// The sketch's reader of the camera on the emulated board, interrupts masked
// and with rests between rows as on the real one.
#include "camera_reader.h"

namespace {

volatile std::uint32_t& Register(std::uint32_t address) {
  return *reinterpret_cast<volatile std::uint32_t*>(address);
}

constexpr int kFrames = 4, kRows = 120, kRowSize = 320;
constexpr std::uint32_t kTimer = 0x40009000;

std::uint32_t rests;  // before rows, so far

void Compute(std::uint32_t rounds) {
  for (; rounds > 0; --rounds) {
    __asm__ volatile("nop");
  }
}

// As micros() of Arduino's core: few accesses to the timer among many
// instructions.
std::uint32_t Micros() {
  Compute(20);
  Register(kTimer + 0x40) = 1;
  return Register(kTimer + 0x540);
}

struct Port {
  static constexpr std::uint32_t kVsync = 1u << 21;
  static constexpr std::uint32_t kHref = 1u << 5;
  static constexpr std::uint32_t kPclk = 1u << 4;
  std::uint32_t wires() const { return Register(0x50000510); }
  std::uint8_t data() const {
    const std::uint32_t in = Register(0x50000810);
    return static_cast<std::uint8_t>((in >> 2 & 0x03) | (in >> 8 & 0xfc));
  }
  std::uint32_t Micros() const { return ::Micros(); }
  void Lock() const {
    Compute(++rests * 17 % 500);  // so that rows begin anywhere in a slice
    __asm__ volatile("cpsid i" ::: "memory");
  }
  void Unlock() const { __asm__ volatile("cpsie i" ::: "memory"); }
};

}  // namespace

extern "C" {

std::uint32_t outcomes[kFrames];  // CameraFrame + 1
std::uint8_t frame[kRows * kRowSize];

void Reset() {
  rests = 0;
  Register(0x40025500) = 1;      // I2S gives the camera its clock
  Register(kTimer + 0x508) = 3;  // TIMER1: 32 bits at 1 MHz
  Register(kTimer + 0x510) = 4;
  Register(kTimer) = 1;
  const mirnet::CameraDeadline never{0, 0xffffffff};
  const std::uint32_t lead = mirnet::MeasureLead(Port(), never);
  for (std::uint32_t& outcome : outcomes) {
    outcome = 1 + static_cast<std::uint32_t>(mirnet::ReadCameraFrame(
                      Port(), kRows, kRowSize, lead, never, frame));
  }
  for (;;) {
    __asm__ volatile("wfi");
  }
}

extern std::uint32_t stack_top;
__attribute__((section(".vectors"), used)) const void* const vectors[16] = {
    &stack_top, reinterpret_cast<const void*>(Reset)};

}  // extern "C"
