#include "clock.h"
#include "lapic.h"

#define KVM_CPUID_SIGNATURE 0x40000000
#define KVM_CPUID_FEATURES 0x40000001
#define KVM_FEATURE_CLOCKSOURCE2 (1u << 3)
#define HYPERVISOR_TSC_KHZ 0x40000010
#define MSR_KVM_SYSTEM_TIME_NEW 0x4b564d01
#define KVM_LAPIC_KHZ 1000000

/* struct pvclock_vcpu_time_info of the kernel's Documentation/virt/kvm/x86/msr.rst */
struct pvclock {
	volatile uint32_t version;
	uint32_t pad0;
	volatile uint64_t tsc_timestamp, system_time;
	volatile uint32_t tsc_to_system_mul;
	volatile int8_t tsc_shift;
	volatile uint8_t flags;
	uint8_t pad[2];
} __attribute__((aligned(64)));

struct clock clock;
static struct pvclock pvclock[MAX_CPUS];

static bool kvmclock_offered(void)
{
	struct cpuid id = call_cpuid(KVM_CPUID_SIGNATURE, 0);

	/* "KVMKVMKVM\0\0\0" */
	if (id.ebx != 0x4b4d564b || id.ecx != 0x564b4d56 || id.edx != 0x4d)
		return false;
	return (call_cpuid(KVM_CPUID_FEATURES, 0).eax & KVM_FEATURE_CLOCKSOURCE2) != 0;
}

static uint64_t khz_from_leaf_15(void)
{
	if (call_cpuid(0, 0).eax < 0x15)
		return 0;
	struct cpuid id = call_cpuid(0x15, 0);
	if (id.eax == 0 || id.ebx == 0 || id.ecx == 0)
		return 0;
	return (uint64_t)id.ecx * id.ebx / id.eax / 1000;
}

static uint64_t khz_from_hypervisor_leaf(void)
{
	uint32_t max = call_cpuid(KVM_CPUID_SIGNATURE, 0).eax;

	if (max < HYPERVISOR_TSC_KHZ || max > HYPERVISOR_TSC_KHZ + 0xff)
		return 0;
	return call_cpuid(HYPERVISOR_TSC_KHZ, 0).eax;
}

static uint64_t khz_from_kvmclock(void)
{
	const struct pvclock *p = &pvclock[0];

	if (!clock.has_kvmclock || p->tsc_to_system_mul == 0)
		return 0;
	uint64_t khz = (1000000ull << 32) / p->tsc_to_system_mul;
	return p->tsc_shift < 0 ? khz << -p->tsc_shift : khz >> p->tsc_shift;
}

/* Counts the TSC against 20 ms of the LAPIC timer, taken to run at KVM's 1 GHz. */
static uint64_t khz_from_lapic(void)
{
	uint64_t start = rdtsc();

	lapic_start_count(0xffffffff);
	while (0xffffffff - lapic_count() < 20 * KVM_LAPIC_KHZ)
		pause();
	return (rdtsc() - start) / 20;
}

void clock_init(void)
{
	static const struct {
		const char *name;
		uint64_t (*khz)(void);
	} sources[] = {
		{"CPUID 0x15", khz_from_leaf_15},
		{"CPUID 0x40000010", khz_from_hypervisor_leaf},
		{"kvmclock", khz_from_kvmclock},
		{"the LAPIC timer", khz_from_lapic},
	};
	struct line line = {0};
	unsigned i = 0;

	clock.boot = rdtsc();
	clock.has_kvmclock = kvmclock_offered();
	clock_init_cpu(0);
	while ((clock.khz = sources[i].khz()) == 0)
		i++;
	put(&line, "clock:");
	put_key(&line, "tsc_khz", clock.khz);
	put(&line, " from ");
	put(&line, sources[i].name);
	put(&line, clock.has_kvmclock ? ", kvmclock on" : ", no kvmclock");
	console_send(&line);
}

void clock_init_cpu(int cpu)
{
	if (clock.has_kvmclock)
		call_wrmsr(MSR_KVM_SYSTEM_TIME_NEW, (uint64_t)&pvclock[cpu] | 1);
}

uint64_t kvmclock_ns(int cpu)
{
	const struct pvclock *p = &pvclock[cpu];
	uint64_t ns;
	uint32_t version;

	if (!clock.has_kvmclock)
		return 0;
	/* An odd version, or one that has changed, means that the hypervisor was writing. */
	do {
		version = p->version;
		uint64_t delta = rdtsc() - p->tsc_timestamp;
		delta = p->tsc_shift < 0 ? delta >> -p->tsc_shift : delta << p->tsc_shift;
		ns = p->system_time + (uint64_t)((unsigned __int128)delta * p->tsc_to_system_mul >> 32);
	} while ((version & 1) != 0 || version != p->version);
	return ns;
}

uint64_t ticks_from_us(uint64_t us)
{
	return us / 1000 * clock.khz + us % 1000 * clock.khz / 1000;
}

uint64_t us_from_ticks(uint64_t ticks)
{
	return ticks / clock.khz * 1000 + ticks % clock.khz * 1000 / clock.khz;
}

uint64_t ns_from_ticks(uint64_t ticks)
{
	return ticks / clock.khz * 1000000 + ticks % clock.khz * 1000000 / clock.khz;
}

void delay_us(uint64_t us)
{
	uint64_t start = rdtsc(), ticks = ticks_from_us(us);

	while (rdtsc() - start < ticks)
		pause();
}

void put_us(struct line *line, const char *key, uint64_t ticks)
{
	uint64_t ns = ns_from_ticks(ticks);

	put_key(line, key, ns / 1000);
	put(line, ns / 10 % 100 < 10 ? ".0" : ".");
	put_dec(line, ns / 10 % 100);
}
