/* What a program on the emulated Cortex-M4 finds; main() returns its status. */
#ifndef MIRNET_EMULATOR_START_H_
#define MIRNET_EMULATOR_START_H_

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Files of the host's current folder. Reading and writing return 1 if all bytes
   were moved, else 0. */
int OpenFile(const char* name, int for_writing);
uint32_t FileSize(int file);
int ReadFile(int file, void* data, uint32_t size);
int WriteFile(int file, const void* data, uint32_t size);

/* Writes to the standard output of QEMU. */
void Print(const char* text);

/* Instructions since the start, exact if QEMU runs with `-icount shift=6` and
   no two calls are more than 2.6 thousand million instructions apart. */
uint64_t Instructions(void);

#ifdef __cplusplus
}
#endif

#endif /* MIRNET_EMULATOR_START_H_ */
