/* Calls into CPL 0, and the few instructions that CPL 3 may use itself. */
#ifndef CALL_H
#define CALL_H
#include "abi.h"

static inline uint64_t rdtsc(void)
{
	uint32_t low, high;

	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
	return (uint64_t)high << 32 | low;
}

static inline void pause(void)
{
	__asm__ volatile("pause" ::: "memory");
}

static inline void call_write(uint16_t port, const void *bytes, uint64_t count)
{
	__asm__ volatile("int3"
			 : "+S"(bytes), "+c"(count)
			 : "a"(CALL_WRITE), "d"(port)
			 : "memory", "cc");
}

static inline void call_out8(uint16_t port, uint8_t value)
{
	uint32_t call = CALL_OUT8;

	__asm__ volatile("int3" : "+a"(call) : "c"(value), "d"(port) : "memory", "cc");
}

static inline void call_out32(uint16_t port, uint32_t value)
{
	uint32_t call = CALL_OUT32;

	__asm__ volatile("int3" : "+a"(call) : "c"(value), "d"(port) : "memory", "cc");
}

static inline uint8_t call_in8(uint16_t port)
{
	uint32_t value = CALL_IN8;

	__asm__ volatile("int3" : "+a"(value) : "d"(port) : "memory", "cc");
	return (uint8_t)value;
}

static inline uint32_t call_in32(uint16_t port)
{
	uint32_t value = CALL_IN32;

	__asm__ volatile("int3" : "+a"(value) : "d"(port) : "memory", "cc");
	return value;
}

/* Halts until an interrupt, unless the low half of *counter no longer is seen: then the wake-up has
 * already come. */
static inline void call_halt(const volatile uint64_t *counter, uint64_t seen)
{
	__asm__ volatile("int3" ::"a"(CALL_HALT), "D"(counter), "c"((uint32_t)seen) : "memory", "cc");
}

struct cpuid {
	uint32_t eax, ebx, ecx, edx;
};

static inline struct cpuid call_cpuid(uint32_t leaf, uint32_t subleaf)
{
	struct cpuid r = {.eax = CALL_CPUID, .ecx = subleaf};

	__asm__ volatile("int3"
			 : "+a"(r.eax), "=b"(r.ebx), "+c"(r.ecx), "=d"(r.edx)
			 : "D"(leaf)
			 : "memory", "cc");
	return r;
}

static inline void call_wrmsr(uint32_t msr, uint64_t value)
{
	uint32_t call = CALL_WRMSR;

	__asm__ volatile("int3"
			 : "+a"(call)
			 : "c"(msr), "D"(value), "d"((uint32_t)(value >> 32))
			 : "memory", "cc");
}

static inline uint8_t mmio_read8(uint64_t address)
{
	return *(volatile uint8_t *)address;
}

static inline void mmio_write8(uint64_t address, uint8_t value)
{
	*(volatile uint8_t *)address = value;
}

static inline uint16_t mmio_read16(uint64_t address)
{
	return *(volatile uint16_t *)address;
}

static inline void mmio_write16(uint64_t address, uint16_t value)
{
	*(volatile uint16_t *)address = value;
}

static inline uint32_t mmio_read(uint64_t address)
{
	return *(volatile uint32_t *)address;
}

static inline void mmio_write(uint64_t address, uint32_t value)
{
	*(volatile uint32_t *)address = value;
}
#endif
