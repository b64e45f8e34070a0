// SPDX-License-Identifier: GPL-2.0
/*
 * plain-vm PAGES: a VM that has nothing to do with Span faults in so many pages
 * and touches them again. Prints "instructions N exits N".
 */
#define _GNU_SOURCE
#include <x86intrin.h>

#include "tinyvm.h"

int main(int argc, char **argv)
{
	uint32_t pages = argc > 1 ? strtoul(argv[1], NULL, 0) : 0;
	uint64_t bytes = (uint64_t)pages * 4096, t = __rdtsc();
	struct tiny_vm vm;
	void *p;
	int i;

	if (!pages) {
		fprintf(stderr, "usage: plain-vm PAGES\n");
		return 2;
	}
	p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	MUST(madvise(p, bytes, MADV_NOHUGEPAGE));
	tiny_init_with(&vm, 0);
	MUST(tiny_slot(&vm, 1, WINDOW_GPA, p, bytes, 0));
	for (i = 0; i < 2; i++)
		MUST(TINY_RUN(&vm, touch, .ebx = WINDOW_GPA, .ecx = pages) == TINY_DONE ? 0 : -1);
	printf("instructions %llu exits %llu\n", (unsigned long long)(__rdtsc() - t),
	       (unsigned long long)tiny_stat(vm.vcpu, "exits"));
	return 0;
}
