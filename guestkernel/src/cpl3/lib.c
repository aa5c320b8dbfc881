#include "lib.h"

#define UART_LSR 5
#define UART_THR_EMPTY 0x20

void *memset(void *to, int value, size_t count)
{
	void *at = to;

	__asm__ volatile("rep stosb" : "+D"(at), "+c"(count) : "a"(value) : "memory");
	return to;
}

void *memcpy(void *to, const void *from, size_t count)
{
	void *at = to;

	__asm__ volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(count)::"memory");
	return to;
}

void *memmove(void *to, const void *from, size_t count)
{
	if ((uintptr_t)to - (uintptr_t)from >= count)
		return memcpy(to, from, count);
	for (char *t = to; count-- > 0;)
		t[count] = ((const char *)from)[count];
	return to;
}

int memcmp(const void *a, const void *b, size_t count)
{
	const unsigned char *x = a, *y = b;

	for (size_t i = 0; i < count; i++)
		if (x[i] != y[i])
			return x[i] - y[i];
	return 0;
}

size_t strlen(const char *s)
{
	size_t n = 0;

	while (s[n] != '\0')
		n++;
	return n;
}

bool str_equal(const char *a, const char *b)
{
	while (*a != '\0' && *a == *b)
		a++, b++;
	return *a == *b;
}

bool str_prefix(const char *s, const char *prefix)
{
	while (*prefix != '\0')
		if (*s++ != *prefix++)
			return false;
	return true;
}

void put_bytes(struct line *line, const char *text, size_t count)
{
	/* One byte stays free for the newline. */
	for (size_t i = 0; i < count && line->used + 1 < sizeof line->text; i++)
		line->text[line->used++] = text[i];
}

void put(struct line *line, const char *text)
{
	put_bytes(line, text, strlen(text));
}

static void put_number(struct line *line, uint64_t value, unsigned base)
{
	char digits[20];
	unsigned n = sizeof digits;

	do {
		digits[--n] = "0123456789abcdef"[value % base];
		value /= base;
	} while (value != 0);
	put_bytes(line, digits + n, sizeof digits - n);
}

void put_dec(struct line *line, uint64_t value)
{
	put_number(line, value, 10);
}

void put_hex(struct line *line, uint64_t value)
{
	put(line, "0x");
	put_number(line, value, 16);
}

void put_key(struct line *line, const char *key, uint64_t value)
{
	put(line, " ");
	put(line, key);
	put(line, "=");
	put_dec(line, value);
}

static volatile int console_lock;

/*
 * A vCPU that faulted while it held the lock would never give it back, and its last words must come
 * out: after about a second of waiting the lock counts as abandoned.
 */
static void lock_console(void)
{
	uint64_t start = rdtsc();

	while (__atomic_exchange_n(&console_lock, 1, __ATOMIC_ACQUIRE) != 0)
		while (console_lock != 0) {
			pause();
			uint64_t now = rdtsc();
			if (now < start) /* as it may after a migration */
				start = now;
			if (now - start > 4000000000)
				return;
		}
}

void console_init(void)
{
	call_out8(COM1 + 1, 0x00); /* no interrupts yet */
	call_out8(COM1 + 3, 0x80); /* divisor latch: 115200 baud */
	call_out8(COM1 + 0, 0x01);
	call_out8(COM1 + 1, 0x00);
	call_out8(COM1 + 3, 0x03); /* 8n1 */
	call_out8(COM1 + 2, 0x07); /* FIFOs on and empty */
	call_out8(COM1 + 4, 0x0b); /* DTR, RTS, OUT2 */
}

/*
 * A virtual UART takes bytes at the speed of the exits, so one look at the line status before the
 * line is enough, and one call carries the whole line. Where there is no UART at all (it reads
 * 0xff) that look does not hang either.
 */
void console_send(struct line *line)
{
	line->text[line->used++] = '\n';
	lock_console();
	while ((call_in8(COM1 + UART_LSR) & UART_THR_EMPTY) == 0)
		pause();
	call_write(COM1, line->text, line->used);
	__atomic_store_n(&console_lock, 0, __ATOMIC_RELEASE);
	line->used = 0;
}

void console_say(const char *text)
{
	struct line line = {0};

	put(&line, text);
	console_send(&line);
}

void vm_exit(int status)
{
	static const volatile uint64_t never;

	call_out8(EXIT_PORT, (uint8_t)status);
	/* No exit port on this machine: at least burn no time. */
	for (;;)
		call_halt(&never, 0);
}

void usage_error(struct line *line)
{
	console_send(line);
	vm_exit(STATUS_USAGE);
}
