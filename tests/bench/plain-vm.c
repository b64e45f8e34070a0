// SPDX-License-Identifier: GPL-2.0
/*
 * plain-vm PAGES: a VM that has nothing to do with Span faults in so many pages
 * and touches them again. Prints "instructions N exits N".
 */
#define _GNU_SOURCE
#include "tiny-vm.h"

int main(int argc, char **argv)
{
	uint32_t pages = argc > 1 ? strtoul(argv[1], NULL, 0) : 0;
	uint64_t bytes = (uint64_t)pages * 4096, t = __rdtsc();
	struct tiny_vm vm = tiny_vm_create();
	void *p;

	if (!pages) {
		fprintf(stderr, "usage: plain-vm PAGES\n");
		return 2;
	}
	p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	MUST(madvise(p, bytes, MADV_NOHUGEPAGE));
	tiny_vm_map(&vm, p, bytes);
	tiny_vm_touch(&vm, pages);
	tiny_vm_touch(&vm, pages);
	printf("instructions %llu exits %llu\n", (unsigned long long)(__rdtsc() - t),
	       (unsigned long long)tiny_vm_exits(&vm));
	return 0;
}
