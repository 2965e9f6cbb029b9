/* Registers: Armv7-M Architecture Reference Manual, B3.3 (SysTick). Console: semihosting, Arm's specification of it. */
#include "board.h"

enum { kWrite0 = 0x04, kExit = 0x18, kStopped = 0x20026, kRunTimeError = 0x20023 };

enum { kTickMask = 0xffffff };

typedef struct {
  volatile uint32_t control, reload, value;
} systick;

static systick* const kSysTick = (systick*)0xe000e010;

static int semihosting(int operation, const void* argument) {
  register int r0 __asm__("r0") = operation;
  register const void* r1 __asm__("r1") = argument;
  __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
  return r0;
}

void board_start_clock(void) {
  kSysTick->reload = kTickMask;
  kSysTick->value = 0;
  kSysTick->control = 5; /* the processor's clock, no interrupt, on */
}

uint32_t board_ticks(void) { return (kTickMask - kSysTick->value) & kTickMask; }

void board_print(const char* text) { semihosting(kWrite0, text); }

void board_print_number(int32_t number) {
  char digits[12];
  char* at = digits + sizeof digits;
  uint32_t left = number < 0 ? 0u - (uint32_t)number : (uint32_t)number;
  *--at = 0;
  do {
    *--at = (char)('0' + left % 10);
    left /= 10;
  } while (left);
  if (number < 0) *--at = '-';
  board_print(at);
}

void board_exit(int failed) {
  semihosting(kExit, (const void*)(failed ? kRunTimeError : kStopped));
  for (;;) {
  }
}

extern uint32_t board_stack_top, board_bss_begin, board_bss_end;

int main(void);

static void reset(void) {
  for (uint32_t* word = &board_bss_begin; word < &board_bss_end; ++word) *word = 0;
  board_exit(main());
}

static void fault(void) {
  board_print("fault\n");
  board_exit(1);
}

/* Stack, reset, and the faults. */
__attribute__((section(".vectors"), used)) static const void* const kVectors[] = {
    &board_stack_top, (const void*)reset, (const void*)fault, (const void*)fault,
    (const void*)fault, (const void*)fault, (const void*)fault,
};
