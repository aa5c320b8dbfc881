/*
 * workload=matmul: in its cool phase a task multiplies matrices, C = A * B, by blocks, which writes
 * little: one panel of C at a time. In its busy phase it updates all three matrices in place, row
 * by row, which writes as fast as memory goes.
 *
 * All elements are small integers in doubles, so that every sum here is exact and results compare
 * for equality. With a fixed vector w of weights, the fingerprint of a row is its product with w.
 * Each row's fingerprint is kept apart and compared before the row is updated; and since those of B
 * make the vector B*w, a row of the product is right if C[i]*w = A[i]*(B*w) (Freivalds' algorithm;
 * a wrong one passes with a probability of about 1/64).
 */
#include "heap.h"
#include "pages.h"
#include "phases.h"
#include "workloads.h"

#define PANEL 32 /* rows of C computed and verified together */
#define BLOCK 64 /* columns, and depth, of a block that stays in the first cache */
#define TILE 4   /* rows and columns that stay in registers */
#define ELEMENTS_PER_PAGE (PAGE / sizeof(double))
#define LIMIT 128.0 /* elements of A and B are below */
#define UPDATE 37.0

typedef double pair __attribute__((vector_size(16), may_alias));
typedef int64_t mask __attribute__((vector_size(16)));

enum { A, B, C, MATRICES };

struct matrices {
	uint64_t n;
	double *m[MATRICES];           /* n x n, by rows */
	double *fingerprint[MATRICES]; /* n each */
	double *w;
	double w_sum;
	uint64_t panel, row; /* where multiplying and updating go on */
	uint64_t products;   /* whole ones */
	double block[PANEL][BLOCK] __attribute__((aligned(64)));
};

static struct matrices all[MAX_CPUS];

static uint64_t side(uint64_t ws)
{
	uint64_t n = 0;

	while ((n + BLOCK) * (n + BLOCK) * MATRICES * sizeof(double) <= ws)
		n += BLOCK;
	return n;
}

static void prepare(const struct options *options, int tasks)
{
	struct line line = {0};
	uint64_t n, matrix, vector;

	if (options->ws > boot_info.ram_bytes)
		heap_require(options->ws, "the working set");
	n = side(options->ws);
	if (n == 0) {
		put(&line, "usage: workload=matmul needs ws=96K or more");
		usage_error(&line);
	}
	matrix = n * n * sizeof(double);
	vector = (n * sizeof(double) + PAGE - 1) & -PAGE;
	heap_require((uint64_t)tasks * (MATRICES * (matrix + vector) + vector),
		     "the matrices of all tasks");
	for (int i = 0; i < tasks; i++) {
		all[i].n = n;
		for (int m = 0; m < MATRICES; m++) {
			all[i].m[m] = heap_take(matrix);
			all[i].fingerprint[m] = heap_take(vector);
		}
		all[i].w = heap_take(vector);
	}
}

static double dot(const double *x, const double *y, uint64_t n)
{
	pair sum = {0, 0};

	for (uint64_t i = 0; i < n; i += 2)
		sum += *(const pair *)(x + i) * *(const pair *)(y + i);
	return sum[0] + sum[1];
}

static void fill(struct task *task, struct matrices *s)
{
	uint64_t n = s->n, random = mix64(task->options->seed + (uint64_t)task->id);

	for (uint64_t j = 0; j < n; j++) {
		s->w[j] = (double)(1 + mix64(random + j) % 64);
		s->w_sum += s->w[j];
	}
	for (int m = A; m <= C; m++)
		for (uint64_t i = 0; i < n; i++) {
			double *row = s->m[m] + i * n;
			for (uint64_t j = 0; j < n; j++) {
				random = random * 6364136223846793005 + 1442695040888963407;
				row[j] = m == C ? 0 : (double)(random >> 57);
				if (j % ELEMENTS_PER_PAGE == 0)
					task_step(task);
			}
			s->fingerprint[m][i] = dot(row, s->w, n);
		}
}

static __attribute__((noreturn)) void corrupt_row(const struct task *task,
						  const struct matrices *s, const char *kind, int m,
						  uint64_t row, double want, double got)
{
	uint64_t page = (uint64_t)(s->m[m] + row * s->n - s->m[A]) / ELEMENTS_PER_PAGE;

	corrupt((unsigned)task->id, kind, page, row, (uint64_t)want, (uint64_t)got);
}

/* block += A[first.., depth..] * B[depth.., column..], for one tile of it. */
static inline void multiply_tile(struct matrices *s, uint64_t first, uint64_t depth,
				 uint64_t column, unsigned i, unsigned j)
{
	const double *a = s->m[A] + (first + i) * s->n + depth;
	const double *b = s->m[B] + depth * s->n + column + j;
	uint64_t n = s->n;
	pair sum[TILE][2];

	for (unsigned r = 0; r < TILE; r++) {
		sum[r][0] = *(pair *)&s->block[i + r][j];
		sum[r][1] = *(pair *)&s->block[i + r][j + 2];
	}
	for (unsigned k = 0; k < BLOCK; k++, b += n) {
		pair b0 = *(const pair *)b, b1 = *(const pair *)(b + 2);
#pragma GCC unroll 4
		for (unsigned r = 0; r < TILE; r++) {
			pair v = {a[r * n + k], a[r * n + k]};
			sum[r][0] += v * b0;
			sum[r][1] += v * b1;
		}
	}
	for (unsigned r = 0; r < TILE; r++) {
		*(pair *)&s->block[i + r][j] = sum[r][0];
		*(pair *)&s->block[i + r][j + 2] = sum[r][1];
	}
}

static void multiply_block(struct task *task, struct matrices *s, uint64_t first, uint64_t column)
{
	memset(s->block, 0, sizeof s->block);
	for (uint64_t depth = 0; depth < s->n; depth += BLOCK)
		for (unsigned i = 0; i < PANEL; i += TILE)
			for (unsigned j = 0; j < BLOCK; j += TILE) {
				multiply_tile(s, first, depth, column, i, j);
				task_step(task);
			}
	for (unsigned i = 0; i < PANEL; i++)
		memcpy(s->m[C] + (first + i) * s->n + column, s->block[i], sizeof s->block[i]);
}

/* Computes the next panel of C and verifies it. A panel is done within one phase: updates change A
 * and B. */
static void multiply_panel(struct task *task, struct matrices *s)
{
	uint64_t n = s->n, first = s->panel;

	for (uint64_t column = 0; column < n; column += BLOCK) {
		multiply_block(task, s, first, column);
		if (task_over(task))
			return;
	}
	for (uint64_t i = first; i < first + PANEL; i++) {
		double want = dot(s->m[A] + i * n, s->fingerprint[B], n);
		double got = dot(s->m[C] + i * n, s->w, n);
		if (want != got)
			corrupt_row(task, s, "product", C, i, want, got);
		s->fingerprint[C][i] = got;
		task_step(task);
	}
	task->writes += PANEL * n / ELEMENTS_PER_PAGE;
	s->panel += PANEL;
	if (s->panel == n) {
		s->panel = 0;
		s->products++;
	}
}

/* Verifies one row and updates it. Elements of A and B go round below LIMIT, those of C up. */
static void update_row(struct task *task, struct matrices *s, int m, uint64_t i)
{
	const pair limit = {LIMIT, LIMIT}, add = m == C ? (pair){1, 1} : (pair){UPDATE, UPDATE};
	double *row = s->m[m] + i * s->n;
	pair before = {0, 0}, after = {0, 0};

	for (uint64_t j = 0; j < s->n; j += 2) {
		pair w = *(const pair *)(s->w + j), x = *(pair *)(row + j);
		before += x * w;
		x += add;
		if (m != C)
			x -= (pair)((mask)limit & (x >= limit));
		after += x * w;
		*(pair *)(row + j) = x;
		if (j % ELEMENTS_PER_PAGE == 0)
			task_step(task);
	}
	if (before[0] + before[1] != s->fingerprint[m][i])
		corrupt_row(task, s, "row", m, i, s->fingerprint[m][i], before[0] + before[1]);
	s->fingerprint[m][i] = after[0] + after[1];
}

static void update_next(struct task *task, struct matrices *s)
{
	for (int m = A; m <= C; m++)
		update_row(task, s, m, s->row);
	task->writes += MATRICES * s->n / ELEMENTS_PER_PAGE;
	if (++s->row == s->n) {
		s->row = 0;
		task->passes++;
		if (task->options->inject != INJECT_NONE)
			s->m[B][s->n * (s->n / 2) + s->n / 2] += 1;
	}
}

static void put_products(struct task *task, struct line *line)
{
	put_key(line, "products", all[task->id].products);
	put_key(line, "n", all[task->id].n);
}

static void run(struct task *task)
{
	struct matrices *s = &all[task->id];

	task->put_extra = put_products;
	fill(task, s);
	tasks_meet();
	task_begin(task);
	phases_begin(task);
	while (!task_over(task)) {
		if (task->cool)
			multiply_panel(task, s);
		else
			update_next(task, s);
		phases_safe_point(task);
		if (task_phase_over(task))
			phases_next(task);
	}
}

const struct workload_ops matmul_ops = {prepare, run, true};
