/*
 * Where every vCPU arrives at CPL 3. The boot processor reads the command line, finds out about
 * time, wakes the others, and then all of them run their task or idle.
 */
#include "heap.h"
#include "lapic.h"
#include "workloads.h"

/* No more vCPUs are expected once none has come for this long. */
#define QUIET_US 200000
/* With cpus=, how long to wait for that many. */
#define PATIENCE_US 30000000

char user_stacks[MAX_CPUS][65536] __attribute__((aligned(4096)));
struct percpu percpu[MAX_CPUS];
struct boot_info boot_info;
int task_count, cpu_count;

static struct options options;
static struct task tasks[MAX_CPUS];
static const struct workload_ops *ops;
static volatile int arrived = 1, go;
static int met;

static const struct workload_ops *const all_ops[] = {
	[WORKLOAD_IDLE] = &idle_ops,
	[WORKLOAD_PHASED] = &phased_ops,
	[WORKLOAD_ECHO] = &echo_ops,
	[WORKLOAD_FAULT] = &fault_ops,
	[WORKLOAD_TAGBENCH] = &tagbench_ops,
	[WORKLOAD_HEAP] = &heap_ops,
	[WORKLOAD_MATMUL] = &matmul_ops,
	[WORKLOAD_SORT] = &sort_ops,
	[WORKLOAD_KV] = &kv_ops,
	[WORKLOAD_DISK] = &disk_ops,
	[WORKLOAD_NET] = &net_ops,
};

void user_start(int cpu);

void cpu_idle(int cpu)
{
	for (;;)
		call_halt(&percpu[cpu].wakeups, percpu[cpu].wakeups);
}

void tasks_meet(void)
{
	__atomic_add_fetch(&met, 1, __ATOMIC_ACQ_REL);
	while (__atomic_load_n(&met, __ATOMIC_ACQUIRE) % task_count != 0)
		pause();
}

/* The number is the order of arrival, the cpu is where the vCPU's stacks and counters are. */
static void run_cpu(int number, int cpu)
{
	struct task *task = &tasks[number];

	lapic_start_tick();
	if (number >= task_count)
		cpu_idle(cpu);
	task->id = number;
	task->cpu = cpu;
	task->options = &options;
	task->boot = clock.boot;
	task_prepare(task);
	ops->run(task);
	task_finish(task);
}

static void start_other(int cpu)
{
	int number = __atomic_fetch_add(&arrived, 1, __ATOMIC_ACQ_REL);

	lapic_init_cpu();
	clock_init_cpu(cpu);
	while (!go)
		pause();
	if (number >= cpu_count && options.cpus == 0)
		console_say("a vCPU came too late and stays idle; "
			    "cpus=N on the kernel command line waits for N");
	run_cpu(number, cpu);
}

static void count_cpus(void)
{
	uint64_t since = rdtsc();
	uint64_t patience = ticks_from_us(options.cpus != 0 ? PATIENCE_US : QUIET_US);
	int wanted = options.cpus != 0 && options.cpus < MAX_CPUS ? (int)options.cpus : MAX_CPUS;
	int seen = 1;

	if (wanted > 1)
		lapic_start_others();
	while (rdtsc() - since < patience && arrived < wanted) {
		if (arrived != seen) {
			seen = arrived;
			since = rdtsc();
		}
		pause();
	}
	cpu_count = arrived < wanted ? arrived : wanted;
}

static void check_counts(void)
{
	struct line line = {0};
	uint64_t wanted = options.cpus != 0 ? options.cpus : options.tasks;

	if ((options.cpus == 0 || options.cpus <= (uint64_t)cpu_count) &&
	    options.tasks <= (uint64_t)cpu_count)
		return;
	put(&line, "usage: the kernel command line asks for ");
	put_dec(&line, wanted);
	put(&line, options.cpus != 0 && options.cpus > (uint64_t)cpu_count ? " vCPUs" : " tasks");
	put(&line, " and this machine has vCPUs=");
	put_dec(&line, (uint64_t)cpu_count);
	put(&line, "; ask for fewer or give it more");
	usage_error(&line);
}

static void say_what_runs(void)
{
	struct line line = {0};

	put(&line, "guestkernel:");
	put_key(&line, "vcpus", (uint64_t)cpu_count);
	put_key(&line, "ram_mib", (boot_info.ram_bytes + MIB - 1) / MIB);
	put_key(&line, "heap_mib", heap_free() / MIB);
	put(&line, " workload=");
	put(&line, options_workload_name(options.workload));
	put_key(&line, "tasks", (uint64_t)task_count);
	console_send(&line);
}

static void start_boot_cpu(void)
{
	console_init();
	if (!boot_info.has_memmap) {
		console_say("FAULT the loader gave no PVH memory map (hvm_start_info version 1 or later)");
		vm_exit(STATUS_FAULT);
	}
	options_parse(boot_info.cmdline, &options);
	ops = all_ops[options.workload];
	lapic_init_cpu();
	clock_init();
	lapic_calibrate();
	count_cpus();
	check_counts();
	task_count = options.tasks != 0 ? (int)options.tasks : ops->task_per_cpu ? cpu_count : 1;
	say_what_runs();
	tags_prepare(&options);
	ops->prepare(&options, task_count);
	go = 1;
	run_cpu(0, 0);
}

void user_start(int cpu)
{
	if (cpu == 0)
		start_boot_cpu();
	start_other(cpu);
}
