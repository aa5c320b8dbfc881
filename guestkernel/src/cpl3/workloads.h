/* The workloads: each function is what one task does, and returns when its time is over. */
#ifndef WORKLOADS_H
#define WORKLOADS_H
#include "task.h"

extern int task_count;
extern int cpu_count;

struct workload_ops {
	/* Checks that the machine is large enough and takes the memory of all tasks. */
	void (*prepare)(const struct options *options, int tasks);
	void (*run)(struct task *task);
	bool task_per_cpu; /* unless tasks= says otherwise; else one task */
};

extern const struct workload_ops idle_ops, phased_ops, echo_ops, fault_ops, tagbench_ops, heap_ops;
extern const struct workload_ops matmul_ops, sort_ops, kv_ops, disk_ops, net_ops;

/* Waits until all tasks have come here. */
void tasks_meet(void);
/* Halts for good, ticking. */
__attribute__((noreturn)) void cpu_idle(int cpu);
#endif
