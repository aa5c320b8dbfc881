#include "lapic.h"
#include "clock.h"

/* Registers, Intel SDM volume 3, "Advanced Programmable Interrupt Controller" */
#define LAPIC_TPR 0x80
#define LAPIC_SVR 0xf0
#define LAPIC_ICR 0x300
#define LAPIC_LVT_TIMER 0x320
#define LAPIC_LVT_LINT0 0x350
#define LAPIC_TIMER_INITIAL 0x380
#define LAPIC_TIMER_CURRENT 0x390
#define LAPIC_TIMER_DIVIDE 0x3e0

#define LVT_MASKED 0x10000
#define LVT_PERIODIC 0x20000
#define DIVIDE_BY_1 0xb
#define ALL_BUT_SELF 0xc0000
#define LEVEL_ASSERT 0x4000
#define MODE_INIT 0x500
#define MODE_STARTUP 0x600

#define IOAPIC_SELECT 0x00
#define IOAPIC_WINDOW 0x10
#define IOAPIC_VERSION 1
#define SERIAL_PIN 4

static uint32_t timer_khz;

static void write(uint32_t reg, uint32_t value)
{
	mmio_write(LAPIC_BASE + reg, value);
}

void lapic_init_cpu(void)
{
	write(LAPIC_TPR, 0);
	write(LAPIC_SVR, 0x100 | VECTOR_SPURIOUS);
	write(LAPIC_LVT_LINT0, LVT_MASKED);
	write(LAPIC_LVT_TIMER, LVT_MASKED | VECTOR_TIMER);
	write(LAPIC_TIMER_DIVIDE, DIVIDE_BY_1);
}

void lapic_start_count(uint32_t from)
{
	write(LAPIC_TIMER_INITIAL, from);
}

uint32_t lapic_count(void)
{
	return mmio_read(LAPIC_BASE + LAPIC_TIMER_CURRENT);
}

/* Ticks of the timer in about 10 ms, and TSC ticks meanwhile. False when this vCPU was not run for
 * a while in between. */
static bool count_both(uint64_t *timer, uint64_t *tsc)
{
	uint64_t before, start, end, after, allowed = ticks_from_us(200);

	before = rdtsc();
	lapic_start_count(0xffffffff);
	start = rdtsc();
	delay_us(10000);
	end = rdtsc();
	*timer = 0xffffffff - lapic_count();
	after = rdtsc();
	*tsc = after - start;
	return start - before < allowed && after - end < allowed;
}

void lapic_calibrate(void)
{
	uint64_t timer, tsc;

	for (int tries = 0; tries < 10 && !count_both(&timer, &tsc); tries++)
		;
	timer_khz = (uint32_t)(timer * 1000 / us_from_ticks(tsc));
	lapic_start_count(0);
}

void lapic_start_tick(void)
{
	write(LAPIC_LVT_TIMER, LVT_PERIODIC | VECTOR_TIMER);
	write(LAPIC_TIMER_INITIAL, timer_khz * (1000 / TICKS_PER_SECOND));
}

void lapic_start_others(void)
{
	write(LAPIC_ICR, ALL_BUT_SELF | LEVEL_ASSERT | MODE_INIT);
	delay_us(10000);
	write(LAPIC_ICR, ALL_BUT_SELF | LEVEL_ASSERT | MODE_STARTUP | TRAMPOLINE >> 12);
	delay_us(1000);
	write(LAPIC_ICR, ALL_BUT_SELF | LEVEL_ASSERT | MODE_STARTUP | TRAMPOLINE >> 12);
}

static void ioapic_write(uint32_t reg, uint32_t value)
{
	mmio_write(IOAPIC_BASE + IOAPIC_SELECT, reg);
	mmio_write(IOAPIC_BASE + IOAPIC_WINDOW, value);
}

bool ioapic_route_serial(void)
{
	mmio_write(IOAPIC_BASE + IOAPIC_SELECT, IOAPIC_VERSION);
	uint32_t version = mmio_read(IOAPIC_BASE + IOAPIC_WINDOW);
	uint32_t last_pin = version >> 16 & 0xff;
	if (version == 0xffffffff || version == 0 || last_pin < SERIAL_PIN)
		return false;
	uint32_t apic_id = mmio_read(LAPIC_BASE + 0x20) >> 24;
	ioapic_write(0x10 + 2 * SERIAL_PIN + 1, apic_id << 24);
	ioapic_write(0x10 + 2 * SERIAL_PIN, VECTOR_SERIAL); /* edge, active high, fixed, physical */
	return true;
}
