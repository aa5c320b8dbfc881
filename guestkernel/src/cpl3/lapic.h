/* The local APIC in xAPIC mode, the interrupts it delivers, and the IOAPIC pin of COM1. */
#ifndef LAPIC_H
#define LAPIC_H
#include "lib.h"

#define TICKS_PER_SECOND 10

void lapic_init_cpu(void);
/* Finds out how fast the timer counts. Needs the TSC's frequency. */
void lapic_calibrate(void);
/* Starts the periodic tick on this vCPU. */
void lapic_start_tick(void);
/* Current count of the timer, which counts down from its start value: for calibrating the TSC. */
uint32_t lapic_count(void);
void lapic_start_count(uint32_t from);
/* INIT and SIPI to all vCPUs but this one. */
void lapic_start_others(void);
/* Routes the serial interrupt to this vCPU. False without a usable IOAPIC. */
bool ioapic_route_serial(void);
#endif
