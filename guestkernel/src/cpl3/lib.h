/* Strings, formatted lines and the console. */
#ifndef LIB_H
#define LIB_H
#include <stdbool.h>
#include <stddef.h>
#include "call.h"

#define KIB 1024ull
#define MIB (1024 * KIB)
#define PAGE 4096ull

void *memset(void *to, int value, size_t count);
void *memcpy(void *to, const void *from, size_t count);
int memcmp(const void *a, const void *b, size_t count);
void *memmove(void *to, const void *from, size_t count);
size_t strlen(const char *s);
bool str_equal(const char *a, const char *b);
bool str_prefix(const char *s, const char *prefix);

/* One line of output under construction. Text beyond its capacity is dropped. */
struct line {
	unsigned used;
	char text[508];
};

void put(struct line *line, const char *text);
void put_bytes(struct line *line, const char *text, size_t count);
void put_dec(struct line *line, uint64_t value);
void put_hex(struct line *line, uint64_t value);
/* " key=value" */
void put_key(struct line *line, const char *key, uint64_t value);

/* Sends the line and a newline to COM1, whole: lines of several vCPUs never mix. */
void console_send(struct line *line);
void console_say(const char *text);
void console_init(void);

__attribute__((noreturn)) void vm_exit(int status);
/* Says what is wrong with the command line and ends the VM with STATUS_USAGE. */
__attribute__((noreturn)) void usage_error(struct line *line);

/* splitmix64's finalizer: a bijection in which every bit of x reaches every bit of the result. */
static inline uint64_t mix64(uint64_t x)
{
	x += 0x9e3779b97f4a7c15;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
	x = (x ^ x >> 27) * 0x94d049bb133111eb;
	return x ^ x >> 31;
}
#endif
