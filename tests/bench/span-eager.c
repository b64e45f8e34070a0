// SPDX-License-Identifier: GPL-2.0
/*
 * span-eager MIB: what memory attach would cost if it mapped each page, as the
 * paper's did (0.84 us per 4 KiB page), against what it costs here. Prints
 *
 *	attach INSTRUCTIONS	grant, join, mmap and the VM's memory slot
 *	eager INSTRUCTIONS	the same and each page mapped into the L1's EPT
 *	exits EXITS		VM exits of the eager part
 *
 * All pages of the guest exist before, so that allocating them is in neither.
 */
#define _GNU_SOURCE
#include <linux/kvm_span.h>
#include <x86intrin.h>

#include "tinyvm.h"

static uint64_t attach(int span, const char *name, struct tiny_vm *vm, uint64_t bytes)
{
	struct kvm_span_grant g = {
		.size = sizeof(g), .access = KVM_SPAN_ACCESS_R | KVM_SPAN_ACCESS_W,
	};
	struct kvm_span_join j = { .size = sizeof(j), .vm_fd = vm->vm };
	uint64_t t = __rdtsc();
	void *p;
	int fd;

	strcpy((char *)g.name, name);
	fd = MUST(ioctl(span, KVM_SPAN_GRANT, &g));
	MUST(ioctl(fd, KVM_SPAN_JOIN, &j));
	p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	MUST(p == MAP_FAILED ? -1 : 0);
	MUST(tiny_slot(vm, 1, WINDOW_GPA, p, bytes, 0));
	return __rdtsc() - t;
}

int main(int argc, char **argv)
{
	uint64_t bytes = (argc > 1 ? strtoull(argv[1], NULL, 0) : 0) << 20, t, eager, exits;
	struct kvm_span_create c = { .size = sizeof(c), .name = "bench" };
	struct tiny_vm guest, lazy, each;
	int span;

	if (!bytes) {
		fprintf(stderr, "usage: span-eager MIB\n");
		return 2;
	}
	c.memfd = MUST(memfd_create("guest", MFD_ALLOW_SEALING));
	tiny_init_with(&guest, 0);
	tiny_init_with(&lazy, 0);
	tiny_init_with(&each, 0);
	c.vm_fd = guest.vm;
	MUST(ftruncate(c.memfd, bytes));
	MUST(fcntl(c.memfd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL));
	MUST(fallocate(c.memfd, 0, 0, bytes));
	span = MUST(ioctl(MUST(open("/dev/kvm-span", O_RDWR)), KVM_SPAN_CREATE, &c));

	printf("attach %llu\n", (unsigned long long)attach(span, "lazy", &lazy, bytes));

	eager = attach(span, "each", &each, bytes);
	exits = tiny_stat(each.vcpu, "exits");
	t = __rdtsc();
	MUST(TINY_RUN(&each, touch, .ebx = WINDOW_GPA, .ecx = bytes / 4096) == TINY_DONE ? 0 : -1);
	eager += __rdtsc() - t;
	exits = tiny_stat(each.vcpu, "exits") - exits;
	printf("eager %llu\nexits %llu\n", (unsigned long long)eager, (unsigned long long)exits);
	return 0;
}
