// SPDX-License-Identifier: GPL-2.0
/*
 * write-cost: in the guest, a locked page; prints its number in the guest's
 * physical memory. Each line "ROUNDS" on standard input: so many writes to it;
 * answers with the median of the TSC's way over one.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#include <x86intrin.h>

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

int main(void)
{
	volatile uint64_t *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
				       MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE | MAP_LOCKED, -1, 0);
	unsigned int rounds, i;
	uint64_t entry;
	int pagemap;

	if (page == MAP_FAILED) {
		perror("write-cost");
		return 1;
	}
	pagemap = open("/proc/self/pagemap", O_RDONLY);
	if (pread(pagemap, &entry, 8, (uintptr_t)page / 4096 * 8) != 8 || !(entry << 9)) {
		fprintf(stderr, "write-cost: no page number\n");
		return 1;
	}
	printf("%llu\n", (unsigned long long)(entry & ((1ULL << 55) - 1)));
	fflush(stdout);
	while (scanf("%u", &rounds) == 1 && rounds) {
		uint64_t *took = calloc(rounds, sizeof(*took));

		for (i = 0; i < rounds; i++) {
			uint64_t t = __rdtsc();

			page[256] = i;
			took[i] = __rdtsc() - t;
		}
		qsort(took, rounds, sizeof(*took), by_value);
		printf("%llu\n", (unsigned long long)took[rounds / 2]);
		fflush(stdout);
		free(took);
	}
	return 0;
}
