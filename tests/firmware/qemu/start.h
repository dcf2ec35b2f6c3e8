/* What a program on the emulated Cortex-M4 finds; main() returns its status. */
#ifndef MIRNET_TESTS_START_H_
#define MIRNET_TESTS_START_H_

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Files of the host's current folder. Reading and writing return 1 if all bytes
   were moved, else 0. */
int OpenFile(const char* name, int for_writing);
int ReadFile(int file, void* data, uint32_t size);
int WriteFile(int file, const void* data, uint32_t size);

/* Instructions since the start, in steps of 40. */
uint32_t Instructions(void);

#ifdef __cplusplus
}
#endif

#endif /* MIRNET_TESTS_START_H_ */
