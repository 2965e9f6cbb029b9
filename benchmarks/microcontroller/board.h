/* board: an MPS2 board with a Cortex-M4 (AN386) in QEMU: a clock that counts, and a console.
 *
 * QEMU with `-icount shift=0` lets each instruction take one nanosecond, and SysTick ticks at 25 MHz: a tick is 40
 * instructions. It has 24 bits and wraps after 6.7e8 instructions.
 */
#ifndef LISSOM_MICROCONTROLLER_BOARD_H_
#define LISSOM_MICROCONTROLLER_BOARD_H_

#include <stdint.h>

void board_start_clock(void);

/* Ticks since the clock began, modulo 2^24. */
uint32_t board_ticks(void);

void board_print(const char* text);
void board_print_number(int32_t number);

/* Ends QEMU, with exit status 0 or 1. */
void board_exit(int failed) __attribute__((noreturn));

#endif
