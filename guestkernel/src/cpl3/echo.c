/*
 * workload=echo: sends back each line that comes in on COM1, behind "echo: ". Its receive interrupt
 * goes through the IOAPIC; without one, the timer tick polls.
 */
#include "lapic.h"
#include "workloads.h"

#define UART_RBR 0
#define UART_IER 1
#define UART_LSR 5
#define LSR_DATA_READY 0x01

static void prepare(const struct options *options, int tasks)
{
	(void)options;
	(void)tasks;
}

static void receive(struct task *task, struct line *line)
{
	while ((call_in8(COM1 + UART_LSR) & LSR_DATA_READY) != 0) {
		char c = (char)call_in8(COM1 + UART_RBR);
		if (c != '\n' && c != '\r') {
			put_bytes(line, &c, 1);
			continue;
		}
		task->writes++;
		task_print(task, line);
		put(line, "echo: ");
	}
}

static void run(struct task *task)
{
	struct line line = {0};
	bool routed = ioapic_route_serial();

	task->cool = true;
	console_say(routed ? "echo: by interrupt" : "echo: by polling");
	call_out8(COM1 + UART_IER, 0x01);
	put(&line, "echo: ");
	task_begin(task);
	while (!task_over(task)) {
		uint64_t seen = percpu[task->cpu].wakeups;
		receive(task, &line);
		call_halt(&percpu[task->cpu].wakeups, seen);
		task_step(task);
	}
}

const struct workload_ops echo_ops = {prepare, run, false};
