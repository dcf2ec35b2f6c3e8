/* Start-up code for QEMU's mps2-an386, a bare Cortex-M4F, and a few of ARM's
   semihosting calls, by which a program there opens files of the host. */
#include "start.h"

#include <string.h>

extern uint32_t stack_top, data_load, data_start, data_end, bss_start, bss_end;
extern void (*init_array_start[])(void), (*init_array_end[])(void);
int main(void);
void* __dso_handle = 0; /* destructors of statics are never called */

enum {
  kOpen = 0x01,
  kPrint = 0x04,
  kWrite = 0x05,
  kRead = 0x06,
  kLength = 0x0c,
  kExit = 0x20
};

static int Call(int operation, const void* argument) {
  register int r0 __asm__("r0") = operation;
  register const void* r1 __asm__("r1") = argument;
  __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
  return r0;
}

static int OnFile(int operation, int file, const void* data, uint32_t size) {
  const uint32_t block[3] = {(uint32_t)file, (uint32_t)data, size};
  return Call(operation, block);
}

int OpenFile(const char* name, int for_writing) {
  const uint32_t block[3] = {(uint32_t)name, for_writing ? 5 : 1, strlen(name)};
  return Call(kOpen, block);
}

uint32_t FileSize(int file) {
  const uint32_t block[1] = {(uint32_t)file};
  return (uint32_t)Call(kLength, block);
}

void Print(const char* text) { Call(kPrint, text); }

int ReadFile(int file, void* data, uint32_t size) {
  return OnFile(kRead, file, data, size) == 0;
}

int WriteFile(int file, const void* data, uint32_t size) {
  return OnFile(kWrite, file, data, size) == 0;
}

static void Exit(int code) {
  const uint32_t block[2] = {0x20026, (uint32_t)code};
  Call(kExit, block);
  for (;;) {
  }
}

/* The board's first timer counts down at 25 MHz, 40 ns a step; with -icount
   shift=6 an instruction takes 64 ns, 8 steps in 5 instructions. */
#define TIMER ((volatile uint32_t*)0x40000000)

uint64_t Instructions(void) {
  static uint64_t steps;
  steps += (uint32_t)(~TIMER[1] - (uint32_t)steps);
  return steps * 5 / 8;
}

static void Fault(void) { Exit(70); }

void Reset(void) {
  *(volatile uint32_t*)0xE000ED88 |= 0xf << 20; /* switches the FPU on */
  __asm__ volatile("dsb\nisb");
  memcpy(&data_start, &data_load,
         (size_t)((char*)&data_end - (char*)&data_start));
  memset(&bss_start, 0, (size_t)((char*)&bss_end - (char*)&bss_start));
  for (void (**constructor)(void) = init_array_start;
       constructor != init_array_end; ++constructor) {
    (*constructor)();
  }
  TIMER[2] = TIMER[1] = 0xffffffff;
  TIMER[0] = 1;
  Exit(main());
}

__attribute__((section(".vectors"),
               used)) static const void* const kVectors[16] = {
    &stack_top, Reset, Fault, Fault, Fault, Fault, Fault};
