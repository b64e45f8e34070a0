// SPDX-License-Identifier: GPL-2.0
/*
 * l2-touch FILE OFFSET GPA PAGES: in an L1, a VM that has FILE from OFFSET on at
 * the guest-physical address GPA and reads so many pages of it.
 */
#include "tinyvm.h"

TINY_CODE(look, "1: movl (%ebx), %eax; addl $4096, %ebx; decl %ecx; jnz 1b");

int main(int argc, char **argv)
{
	struct tiny_vm vm;
	uint64_t bytes;
	uint32_t gpa, pages;
	void *p;
	int end;

	if (argc != 5) {
		fprintf(stderr, "usage: l2-touch FILE OFFSET GPA PAGES\n");
		return 2;
	}
	gpa = strtoul(argv[3], NULL, 0);
	pages = strtoul(argv[4], NULL, 0);
	bytes = pages * 4096UL;
	tiny_init_with(&vm, 0);
	p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, MUST(open(argv[1], O_RDWR)),
		 strtoull(argv[2], NULL, 0));
	MUST(p == MAP_FAILED ? -1 : 0);
	MUST(tiny_slot(&vm, 1, gpa, p, bytes, 0));
	end = TINY_RUN(&vm, look, .ebx = gpa, .ecx = pages);
	if (end != TINY_DONE) {
		fprintf(stderr, "l2-touch: the VM ended with %d\n", end);
		return 1;
	}
	return 0;
}
