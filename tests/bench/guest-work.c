// SPDX-License-Identifier: GPL-2.0
/*
 * Work of a guest, and what it costs by its TSC, which on the emulated machine is
 * the number of instructions of all levels meanwhile:
 *
 *	guest-work quicksort N	sort N numbers
 *	guest-work mix N	N times: fork, exec, fresh pages, a file
 *	guest-work pingpong N	N times a futex from CPU 0 to CPU 1 and back
 *	guest-work touch N	write to nine tenths of the free memory, N times: its pages are mapped then
 *
 * quicksort and mix print the least of five runs; pingpong the median of the way there, of the way
 * back, and of both. The first run fills caches and page tables, it does not count.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <x86intrin.h>

#define RUNS	5
#define PAGES	64

static const char *self;

static uint64_t tsc(void)
{
	uint64_t t;

	_mm_mfence();
	_mm_lfence();
	t = __rdtsc();
	_mm_lfence();
	return t;
}

static void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set)) {
		perror("guest-work: sched_setaffinity");
		exit(1);
	}
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static uint64_t quicksort(long n)
{
	uint64_t *v = malloc(n * sizeof(*v)), x = 88172645463325252ull, start;
	long i;

	for (i = 0; i < n; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		v[i] = x;
	}
	start = tsc();
	qsort(v, n, sizeof(*v), compare);
	start = tsc() - start;
	for (i = 1; i < n; i++)
		if (v[i - 1] > v[i])
			abort();
	free(v);
	return start;
}

static void one_mix(void)
{
	char block[4096];
	volatile char *p;
	int i, fd, status;
	pid_t pid = fork();

	if (!pid) {
		execl(self, self, "nothing", NULL);
		_exit(1);
	}
	p = mmap(NULL, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (i = 0; i < PAGES; i++)
		p[i * 4096] = i;
	munmap((void *)p, PAGES * 4096);
	fd = open("/tmp/guest-work.file", O_RDWR | O_CREAT | O_TRUNC, 0600);
	memset(block, 7, sizeof(block));
	for (i = 0; i < 16; i++)
		if (write(fd, block, sizeof(block)) != sizeof(block))
			abort();
	for (i = 0; i < 16; i++)
		if (pread(fd, block, sizeof(block), i * 4096L) != sizeof(block))
			abort();
	close(fd);
	unlink("/tmp/guest-work.file");
	if (waitpid(pid, &status, 0) != pid || status)
		abort();
}

static uint64_t mix(long n)
{
	uint64_t start = tsc();

	while (n--)
		one_mix();
	return tsc() - start;
}

static _Atomic uint32_t turn;
static _Atomic uint64_t sent;
static uint64_t *there, *back;
static long turns;

static void wait_for(uint32_t parity)
{
	uint32_t v;

	while (((v = atomic_load(&turn)) & 1) != parity)
		syscall(SYS_futex, &turn, FUTEX_WAIT_PRIVATE, v, NULL, NULL, 0);
}

static void pass(void)
{
	atomic_store(&sent, tsc());
	atomic_fetch_add(&turn, 1);
	syscall(SYS_futex, &turn, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

/* Both sleep until they are woken, so that each message is an interrupt for a halted CPU. */
static void *answer(void *arg)
{
	long i;

	(void)arg;
	pin(1);
	for (i = 0; i < turns; i++) {
		wait_for(1);
		there[i] = tsc() - atomic_load(&sent);
		usleep(200);
		pass();
	}
	return NULL;
}

static uint64_t median(uint64_t *v)
{
	qsort(v, turns, sizeof(*v), compare);
	return v[turns / 2];
}

static int pingpong(long n)
{
	pthread_t other;
	long i;

	turns = n;
	there = calloc(n, sizeof(*there));
	back = calloc(n, sizeof(*back));
	if (pthread_create(&other, NULL, answer, NULL))
		return 1;
	for (i = 0; i < n; i++) {
		usleep(200);
		pass();
		wait_for(0);
		back[i] = tsc() - atomic_load(&sent);
	}
	pthread_join(other, NULL);
	printf("there %lu\n", median(there));
	printf("back %lu\n", median(back));
	return 0;
}

static void touch(void)
{
	char line[128];
	long kb = 0, i;
	FILE *f = fopen("/proc/meminfo", "re");
	char *p;

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "MemAvailable: %ld", &kb) == 1)
			break;
	kb = kb / 10 * 9;
	p = mmap(NULL, kb * 1024, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (!kb || p == MAP_FAILED)
		abort();
	for (i = 0; i < kb / 4; i++)
		p[i * 4096] = 1;
	munmap(p, kb * 1024);
}

int main(int argc, char **argv)
{
	uint64_t least = ~0ull, t;
	long n;
	int i;

	if (argc == 2 && !strcmp(argv[1], "nothing"))
		return 0;
	self = argv[0];
	if (argc != 3 || (n = atol(argv[2])) < 1)
		return 2;
	pin(0);
	if (!strcmp(argv[1], "pingpong"))
		return pingpong(n);
	if (!strcmp(argv[1], "touch")) {
		while (n--)
			touch();
		return 0;
	}
	for (i = 0; i <= RUNS; i++) {
		t = !strcmp(argv[1], "mix") ? mix(n) : quicksort(n);
		if (i && t < least)
			least = t;
	}
	printf("%s %lu\n", argv[1], least);
	return 0;
}
