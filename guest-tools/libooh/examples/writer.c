/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Write pages that somebody else names: something to be tracked, of which it is
 * known what it writes.
 *
 *   writer PAGES
 *
 * Says "at ADDRESS pid PID". Then each line of standard input names pages by
 * their number, "3 10-19 0-4095/64" (each 64th), which are written, one word
 * each; it says "written PAGES, CYCLES cycles, FAULTS faults" for that. A line
 * "rate N" has it write N random pages, every 10 ms, until the next line.
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#define PAGE		4096UL
#define MOST_PAGES	(1UL << 20)
#define LONGEST_LINE	4096
#define RATE_MS		10

static char *area;
static unsigned long pages;

struct run {
	unsigned long first, last, step;
};

static uint64_t cycles(void)
{
	uint32_t lo, hi;

	__asm__ volatile("lfence; rdtsc; lfence" : "=a"(lo), "=d"(hi) : : "memory");
	return (uint64_t)hi << 32 | lo;
}

static long faults(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return u.ru_minflt + u.ru_majflt;
}

static void write_page(unsigned long n)
{
	volatile unsigned long *word = (volatile unsigned long *)(area + n * PAGE);

	*word += 1;
}

/* "3", "10-19", "0-4095/64" */
static bool parse_run(const char *text, struct run *r)
{
	char *end;

	errno = 0;
	r->first = r->last = strtoul(text, &end, 10);
	r->step = 1;
	if (end == text)
		return false;
	if (*end == '-') {
		text = end + 1;
		r->last = strtoul(text, &end, 10);
		if (end == text)
			return false;
	}
	if (*end == '/')
		r->step = strtoul(end + 1, &end, 10);
	return !*end && !errno && r->step && r->first <= r->last && r->last < pages;
}

static int write_line(char *line)
{
	static struct run run[LONGEST_LINE / 2];
	uint64_t t, took;
	unsigned long n = 0, i;
	size_t runs = 0, k;
	char *word;
	long f;

	for (word = strtok(line, " \n"); word; word = strtok(NULL, " \n")) {
		if (!parse_run(word, &run[runs])) {
			fprintf(stderr, "writer: '%s' are no pages of %lu\n", word, pages);
			return -EINVAL;
		}
		runs++;
	}
	f = faults();
	t = cycles();
	for (k = 0; k < runs; k++)
		for (i = run[k].first; i <= run[k].last; i += run[k].step, n++)
			write_page(i);
	took = cycles() - t;
	f = faults() - f;
	printf("written %lu, %" PRIu64 " cycles, %ld faults\n", n, took, f);
	return 0;
}

static void write_at_rate(unsigned long n)
{
	struct pollfd p = { .fd = STDIN_FILENO, .events = POLLIN };
	unsigned long i;

	while (!poll(&p, 1, RATE_MS))
		for (i = 0; i < n; i++)
			write_page((unsigned long)random() % pages);
}

int main(int argc, char **argv)
{
	static char line[LONGEST_LINE];
	unsigned long rate;

	pages = argc == 2 ? strtoul(argv[1], NULL, 0) : 0;
	if (!pages || pages > MOST_PAGES) {
		fprintf(stderr, "usage: %s PAGES\n", argv[0]);
		return 1;
	}
	area = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (area == MAP_FAILED) {
		fprintf(stderr, "%lu pages: %s\n", pages, strerror(errno));
		return 1;
	}
	memset(area, 1, pages * PAGE);
	/* poll() and stdio's own buffer would not agree about what is there to be read. */
	setvbuf(stdin, NULL, _IONBF, 0);
	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("at 0x%" PRIxPTR " pid %d\n", (uintptr_t)area, getpid());
	while (fgets(line, sizeof(line), stdin)) {
		if (sscanf(line, "rate %lu", &rate) == 1)
			write_at_rate(rate);
		else if (write_line(line))
			return 1;
	}
	return 0;
}
