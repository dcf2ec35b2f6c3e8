/* Looks at the emulated nRF52840 from inside. Each check leaves what it saw in
   `results`, which test_emulator.py reads; then bytes from the serial port come
   back, one larger. */
#include <stdint.h>

#define REG(address) (*(volatile uint32_t*)(address))
#define TASK(base, offset) (REG((base) + (offset)) = 1)
#define ISER(irq) REG(0xE000E100 + 4 * ((irq) / 32)) = 1u << ((irq) % 32)
#define ISPR(irq) REG(0xE000E200 + 4 * ((irq) / 32)) = 1u << ((irq) % 32)
#define PRIORITY(irq, value) \
  (*(volatile uint8_t*)(0xE000E400 + (irq)) = (uint8_t)(value))
#define SYNCHRONISE() __asm__ volatile("dsb\n isb" ::: "memory")

enum { kUart = 0x40002000, kTwi = 0x40003000, kGpio = 0x50000000 };
enum { kSpi = 0x40023000 };
enum { kTimer1 = 0x40009000, kTimer2 = 0x4000A000, kRtc1 = 0x40011000 };
enum { kUartIrq = 2, kTimer2Irq = 10, kRtc1Irq = 17 };
enum { kSoftware0 = 20, kSoftware1 = 21 };

/* By number, as test_emulator.py names them. */
enum {
  kTicks,
  kTickMicros,
  kMaskedBefore,
  kUnmaskedAfter,
  kBaseBlocked,
  kBasePassed,
  kBaseAfter,
  kSupervisor,
  kSwitches,
  kSwitchErrors,
  kSleepTicks,
  kEventTicks,
  kMaskedWake,
  kPins,
  kPullUp,
  kIdentity,
  kWritten,
  kNoAnswer,
  kEchoes,
  kReady,
  kConditional,
  kAligned,
  kDone,
  kResults
};
volatile uint32_t results[kResults];
volatile char journal[32];
uint8_t frame[38400];

static volatile uint32_t ticks, taken, taken_at, switching;
static volatile uint32_t length;

static void Note(char letter) { journal[length++] = letter; }

static uint32_t Micros(void) {
  TASK(kTimer1, 0x44);
  return REG(kTimer1 + 0x544);
}

static void PendSwitch(void) { REG(0xE000ED04) = 1u << 28; }

void SysTick(void) {
  ++ticks;
  if (switching) {
    PendSwitch();
  }
}

void Rtc1(void) {
  REG(kRtc1 + 0x140) = 0;
  Note('r');
  if (REG(kTimer2 + 0x304) != 0) {
    TASK(kTimer2, 0x00);
    for (uint32_t since = Micros(); Micros() - since < 500;) {
    }
  }
  Note('R');
}

void Timer2(void) {
  REG(kTimer2 + 0x140) = 0;
  TASK(kTimer2, 0x04);
  Note('t');
}

void Software0(void) {
  ++taken;
  uint32_t stack;
  __asm__ volatile("mov %0, sp" : "=r"(stack));
  results[kAligned] |= stack & 7;
  Note('0');
}
void Software1(void) { Note('1'); }

void Uart(void) {
  REG(kUart + 0x108) = 0;
  REG(kUart + 0x51C) = (REG(kUart + 0x518) + 1) & 0xff;
}

/* Adds 1 to the argument of the program that has called. */
__attribute__((naked)) void Supervisor(void) {
  __asm__ volatile(
      "tst lr, #4\n ite eq\n mrseq r1, msp\n mrsne r1, psp\n"
      "ldr r0, [r1]\n adds r0, #1\n str r0, [r1]\n bx lr");
}

/* Two threads that count, each in integers and floats at once. */
uint32_t* saved[2];
volatile uint32_t current, switches;
uint32_t kinds[2] = {0xfffffffd, 0xfffffffd};
static uint32_t stacks[2][256] __attribute__((aligned(8)));
static volatile uint32_t errors, counts[2];

__attribute__((naked)) void PendSV(void) {
  __asm__ volatile(
      "mrs r0, psp\n tst lr, #16\n it eq\n vstmdbeq r0!, {s16-s31}\n"
      "stmdb r0!, {r4-r11}\n"
      "ldr r1, =current\n ldr r2, [r1]\n ldr r3, =saved\n"
      "str r0, [r3, r2, lsl #2]\n ldr r12, =kinds\n str lr, [r12, r2, lsl #2]\n"
      "eor r2, #1\n str r2, [r1]\n"
      "ldr r0, =switches\n ldr r1, [r0]\n adds r1, #1\n str r1, [r0]\n"
      "ldr r0, [r3, r2, lsl #2]\n ldr lr, [r12, r2, lsl #2]\n"
      "ldmia r0!, {r4-r11}\n tst lr, #16\n it eq\n vldmiaeq r0!, {s16-s31}\n"
      "msr psp, r0\n bx lr");
}

static void Count(uint32_t thread) {
  float sum = 0, step = thread ? 2.0f : 1.0f;
  uint32_t whole = 0;
  while (switches < 40) {
    for (int i = 0; i < 100; ++i) {
      sum += step;
      whole += thread ? 2 : 1;
    }
    if ((uint32_t)sum != whole) {
      ++errors;
    }
    if (whole > 1000000) {
      sum = 0;
      whole = 0;
    }
    ++counts[thread];
  }
}

static void Second(void) {
  Count(1);
  for (;;) {
    PendSwitch();
    SYNCHRONISE();
  }
}

static void Switch(void) {
  uint32_t* stack = &stacks[1][256 - 16]; /* r4 to r11, then a frame */
  stack[14] = (uint32_t)Second;
  stack[15] = 1u << 24;
  saved[1] = stack;
  switching = 1;
  Count(0);
  while (current != 0) {
  }
  switching = 0;
  results[kSwitches] = switches;
  results[kSwitchErrors] = errors + (counts[0] == 0) + (counts[1] == 0);
}

static void Exceptions(void) {
  /* SysTick: ten milliseconds, by TIMER1. */
  REG(0xE000E014) = 64000 - 1;
  REG(0xE000E018) = 0;
  REG(0xE000E010) = 7;
  for (uint32_t now = ticks; ticks == now;) {
  }
  uint32_t since = Micros(), first = ticks;
  while (ticks < first + 10) {
  }
  results[kTickMicros] = Micros() - since;
  results[kTicks] = ticks;

  /* The more urgent TIMER2 interrupts the handler of RTC1. */
  PRIORITY(kRtc1Irq, 0xC0);
  PRIORITY(kTimer2Irq, 0x40);
  REG(kTimer2 + 0x510) = 4;
  REG(kTimer2 + 0x508) = 3;
  REG(kTimer2 + 0x540) = 100;
  REG(kTimer2 + 0x304) = 1u << 16;
  ISER(kTimer2Irq);
  ISER(kRtc1Irq);
  REG(kRtc1 + 0x540) = REG(kRtc1 + 0x504) + 5;
  REG(kRtc1 + 0x304) = 1u << 16;
  while (length < 3) {
  }
  REG(kTimer2 + 0x308) = 1u << 16;

  /* PRIMASK: taken before the instruction after the one behind CPSIE. */
  PRIORITY(kSoftware0, 0x80);
  PRIORITY(kSoftware1, 0x80);
  ISER(kSoftware0);
  ISER(kSoftware1);
  __asm__ volatile("cpsid i" ::: "memory");
  ISPR(kSoftware1);
  ISPR(kSoftware0);
  SYNCHRONISE();
  results[kMaskedBefore] = taken;
  __asm__ volatile("cpsie i\n nop\n ldr %0, [%1]\n cpsid i"
                   : "=r"(taken_at)
                   : "r"(&taken)
                   : "memory");
  results[kUnmaskedAfter] = taken_at;
  __asm__ volatile("cpsie i" ::: "memory");

  /* BASEPRI holds back what is as urgent or less. */
  __asm__ volatile("msr basepri, %0" ::"r"(0x80) : "memory");
  ISPR(kSoftware0);
  SYNCHRONISE();
  results[kBaseBlocked] = taken;
  PRIORITY(kSoftware0, 0x60);
  SYNCHRONISE();
  results[kBasePassed] = taken;
  PRIORITY(kSoftware0, 0xA0);
  ISPR(kSoftware0);
  SYNCHRONISE();
  __asm__ volatile("msr basepri, %0\n nop" ::"r"(0) : "memory");
  results[kBaseAfter] = taken;

  register uint32_t argument __asm__("r0") = 41;
  __asm__ volatile("svc #7" : "+r"(argument)::"memory");
  results[kSupervisor] = argument;
}

static void Sleep(void) {
  uint32_t since = REG(kRtc1 + 0x504);
  REG(kRtc1 + 0x540) = since + 3277; /* 100 ms */
  REG(0xE000E010) = 0;
  __asm__ volatile("wfi");
  results[kSleepTicks] = REG(kRtc1 + 0x504) - since;

  since = REG(kRtc1 + 0x504);
  __asm__ volatile("sev\n wfe");
  results[kEventTicks] = REG(kRtc1 + 0x504) - since;

  /* An interrupt wakes also while it is masked, and is taken later. */
  __asm__ volatile("cpsid i" ::: "memory");
  REG(kRtc1 + 0x540) = REG(kRtc1 + 0x504) + 100;
  uint32_t before = length;
  __asm__ volatile("wfi");
  results[kMaskedWake] = length == before;
  __asm__ volatile("cpsie i\n nop" ::: "memory");
  results[kMaskedWake] += length == before + 2;
}

static int Transfer(uint32_t address, uint8_t number, int value) {
  static const int kEvents[] = {0x104, 0x108, 0x11C, 0x124};
  for (int i = 0; i < 4; ++i) {
    REG(kTwi + kEvents[i]) = 0;
  }
  REG(kTwi + 0x588) = address;
  TASK(kTwi, 0x08);
  REG(kTwi + 0x51C) = number;
  while (REG(kTwi + 0x11C) == 0) {
    if (REG(kTwi + 0x124) != 0) {
      return -1;
    }
  }
  if (value >= 0) {
    REG(kTwi + 0x11C) = 0;
    REG(kTwi + 0x51C) = (uint32_t)value;
    while (REG(kTwi + 0x11C) == 0) {
    }
  }
  TASK(kTwi, 0x14);
  while (REG(kTwi + 0x104) == 0) {
  }
  if (value >= 0) {
    return value;
  }
  REG(kTwi + 0x200) = 2; /* stop after a byte */
  TASK(kTwi, 0x00);
  while (REG(kTwi + 0x108) == 0) {
  }
  return (int)REG(kTwi + 0x518);
}

static void Wires(void) {
  REG(kGpio + 0x518) = 1u << 13;
  REG(kGpio + 0x508) = 1u << 13;
  results[kPins] = REG(kGpio + 0x504) >> 13 & 1;
  REG(kGpio + 0x50C) = 1u << 13;
  results[kPins] = results[kPins] << 1 | (REG(kGpio + 0x504) >> 13 & 1);
  results[kPullUp] = REG(kGpio + 0x510) >> 11 & 1;
  REG(kGpio + 0x700 + 4 * 11) = 3u << 2;
  results[kPullUp] = results[kPullUp] << 1 | (REG(kGpio + 0x510) >> 11 & 1);

  REG(0x40025500) = 1; /* I2S gives the camera its clock */
  REG(kTwi + 0x500) = 5;
  static const uint8_t kIdentityRegisters[] = {0x0A, 0x0B, 0x1C, 0x1D};
  for (int i = 0; i < 4; ++i) {
    results[kIdentity] = results[kIdentity] << 8 |
                         (uint32_t)Transfer(0x21, kIdentityRegisters[i], -1);
  }
  Transfer(0x21, 0x3A, 0x04);
  Transfer(0x21, 0x3D, 0xC0);
  results[kWritten] = (uint32_t)Transfer(0x21, 0x3D, -1);
  results[kNoAnswer] = (uint32_t)Transfer(0x30, 0x0A, -1);

  while ((REG(kGpio + 0x510) & 1u << 21) == 0) {
  }
  while ((REG(kGpio + 0x510) & 1u << 21) != 0) {
  }
  uint8_t* to = frame;
  for (int row = 0; row < 120; ++row) {
    while ((REG(kGpio + 0x510) & 1u << 5) == 0) {
    }
    for (int i = 0; i < 320; ++i) {
      while ((REG(kGpio + 0x510) & 1u << 4) != 0) {
      }
      uint32_t in = REG(kGpio + 0x810);
      *to++ = (uint8_t)((in >> 2 & 3) | (in >> 8 & 0xfc));
      while ((REG(kGpio + 0x510) & 1u << 4) == 0) {
      }
    }
    while ((REG(kGpio + 0x510) & 1u << 5) != 0) {
    }
  }
}

/* Blocks of conditional instructions, which no interrupt may break. */
static uint32_t Conditional(void) {
  uint32_t even = 0, odd = 0;
  for (uint32_t i = 0; i < 100000; ++i) {
    __asm__ volatile(
        "lsls r3, %2, #31\n"
        "itete eq\n addeq %0, #1\n addne %1, #1\n addeq %0, #2\n addne %1, #3\n"
        : "+r"(even), "+r"(odd)
        : "r"(i)
        : "r3", "cc");
  }
  return even + 10 * odd;
}

/* Three bytes as mbed sends them: two at once, then one for each that has
   come. */
static void Bytes(void) {
  static const uint8_t kSent[] = {0x12, 0x34, 0x56};
  uint32_t sent = 2;
  REG(kSpi + 0x500) = 1;
  REG(kSpi + 0x51C) = kSent[0];
  REG(kSpi + 0x51C) = kSent[1];
  for (int received = 0; received < 3; ++received) {
    while (REG(kSpi + 0x108) == 0) {
    }
    REG(kSpi + 0x108) = 0;
    results[kEchoes] = results[kEchoes] << 8 | REG(kSpi + 0x518);
    if (sent < 3) {
      REG(kSpi + 0x51C) = kSent[sent++];
    }
  }
  results[kReady] = REG(kSpi + 0x108);
}

int main(void) {
  REG(kTimer1 + 0x508) = 3;
  REG(kTimer1 + 0x510) = 4;
  TASK(kTimer1, 0x00);
  TASK(0x40000000, 0x08); /* the low-frequency clock */
  while (REG(0x40000104) == 0) {
  }
  TASK(kRtc1, 0x00);
  Exceptions();
  REG(0xE000ED20) = 0xE0E00000; /* PendSV and SysTick: least urgent */
  results[kConditional] = Conditional();
  Switch();
  Sleep();
  Wires();
  Bytes();
  PRIORITY(kUartIrq, 0x40);
  ISER(kUartIrq);
  REG(kUart + 0x304) = 1u << 2;
  results[kDone] = 1;
  for (;;) {
    __asm__ volatile("wfi");
  }
}

extern uint32_t stack_top, data_load, data_start, data_end, bss_start, bss_end;

void Fault(void) {
  for (;;) {
  }
}

/* The program runs on a thread's stack, exceptions on the main one. */
void Reset(void) {
  for (uint32_t *from = &data_load, *to = &data_start; to < &data_end;) {
    *to++ = *from++;
  }
  for (uint32_t* to = &bss_start; to < &bss_end;) {
    *to++ = 0;
  }
  REG(0xE000ED88) |= 0xf << 20; /* the FPU */
  SYNCHRONISE();
  __asm__ volatile(
      "msr psp, %0\n msr control, %1\n isb\n bl main" ::"r"(&stacks[0][256]),
      "r"(2));
}

__attribute__((section(".vectors"),
               used)) static const void* const kVectors[64] = {
    &stack_top,
    Reset,
    Fault,
    Fault,
    Fault,
    Fault,
    Fault,
    [11] = Supervisor,
    [14] = PendSV,
    [15] = SysTick,
    [16 + kUartIrq] = Uart,
    [16 + kTimer2Irq] = Timer2,
    [16 + kRtc1Irq] = Rtc1,
    [16 + kSoftware0] = Software0,
    [16 + kSoftware1] = Software1};
