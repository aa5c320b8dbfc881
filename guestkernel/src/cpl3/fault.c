/*
 * Faults: how they are reported, and workload=fault, which causes one to show that they are.
 */
#include "workloads.h"

void user_fault(int cpu);

/* Where CPL 0 sends a vCPU that has faulted. */
void user_fault(int cpu)
{
	const struct fault *fault = &percpu[cpu].fault;
	struct line line = {0};

	put(&line, "FAULT");
	put_key(&line, "cpu", (uint64_t)cpu);
	put_key(&line, "cpl", fault->cs & 3);
	put_key(&line, "vector", fault->vector);
	put(&line, " error=");
	put_hex(&line, fault->error);
	put(&line, " rip=");
	put_hex(&line, fault->rip);
	put(&line, " rsp=");
	put_hex(&line, fault->rsp);
	put(&line, " rflags=");
	put_hex(&line, fault->rflags);
	put(&line, " cr2=");
	put_hex(&line, fault->cr2);
	console_send(&line);
	vm_exit(STATUS_FAULT);
}

static void prepare(const struct options *options, int tasks)
{
	(void)options;
	(void)tasks;
}

static void run(struct task *task)
{
	/* The kernel's own page: CPL 3 must not get there. */
	*(volatile uint64_t *)(0x100000 + 8 * (uint64_t)task->id) = 0;
	console_say("fault: none came");
}

const struct workload_ops fault_ops = {prepare, run, false};
