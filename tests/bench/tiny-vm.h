/* SPDX-License-Identifier: GPL-2.0 */
/* A VM in 32-bit mode that touches one word of each page of a range. */
#ifndef BENCH_TINY_VM_H
#define BENCH_TINY_VM_H

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>
#include <x86intrin.h>

#define CODE_GPA	0x1000
#define TOUCH_GPA	0x40000000u

static inline long must(long r, const char *what)
{
	if (r < 0) {
		fprintf(stderr, "%s: %s\n", what, strerror(errno));
		exit(2);
	}
	return r;
}
#define MUST(x) must((long)(x), #x)

struct tiny_vm {
	int fd, vcpu;
	struct kvm_run *run;
	uint8_t *low;		/* 64 KiB at guest-physical 0 */
};

static inline struct tiny_vm tiny_vm_create(void)
{
	struct tiny_vm vm;
	struct kvm_userspace_memory_region low = { .memory_size = 0x10000 };
	struct kvm_sregs s;
	int kvm = MUST(open("/dev/kvm", O_RDWR | O_CLOEXEC)), i;

	vm.fd = MUST(ioctl(kvm, KVM_CREATE_VM, 0));
	MUST(ioctl(vm.fd, KVM_SET_TSS_ADDR, 0xfffbd000));
	vm.low = mmap(NULL, 0x10000, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	low.userspace_addr = (uintptr_t)vm.low;
	MUST(ioctl(vm.fd, KVM_SET_USER_MEMORY_REGION, &low));
	vm.vcpu = MUST(ioctl(vm.fd, KVM_CREATE_VCPU, 0));
	vm.run = mmap(NULL, MUST(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0)), PROT_READ | PROT_WRITE,
		      MAP_SHARED, vm.vcpu, 0);
	MUST(ioctl(vm.vcpu, KVM_GET_SREGS, &s));
	struct kvm_segment *seg[] = { &s.cs, &s.ds, &s.es, &s.fs, &s.gs, &s.ss };

	for (i = 0; i < 6; i++)
		*seg[i] = (struct kvm_segment) {
			.limit = 0xffffffff, .g = 1, .db = 1, .s = 1, .present = 1,
			.type = i ? 3 : 11, .selector = i ? 16 : 8,
		};
	s.cr0 |= 1;
	MUST(ioctl(vm.vcpu, KVM_SET_SREGS, &s));
	close(kvm);
	return vm;
}

static inline void tiny_vm_map(struct tiny_vm *vm, void *p, uint64_t bytes)
{
	struct kvm_userspace_memory_region r = {
		.slot = 1, .guest_phys_addr = TOUCH_GPA, .memory_size = bytes,
		.userspace_addr = (uintptr_t)p,
	};

	MUST(ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &r));
}

/* Write one word into each of so many pages at TOUCH_GPA; halts at the end. */
static inline void tiny_vm_touch(struct tiny_vm *vm, uint32_t pages)
{
	/* mov esi,TOUCH_GPA; mov ecx,pages; 1: mov [esi],ecx; add esi,4096; dec ecx; jnz 1b; hlt */
	uint8_t code[] = {
		0xbe, 0, 0, 0, TOUCH_GPA >> 24, 0xb9, 0, 0, 0, 0,
		0x89, 0x0e, 0x81, 0xc6, 0, 0x10, 0, 0, 0x49, 0x75, 0xf5, 0xf4,
	};
	struct kvm_regs regs = { .rip = CODE_GPA, .rflags = 2 };

	memcpy(code + 6, &pages, 4);
	memcpy(vm->low + CODE_GPA, code, sizeof(code));
	MUST(ioctl(vm->vcpu, KVM_SET_REGS, &regs));
	do {
		MUST(ioctl(vm->vcpu, KVM_RUN, 0));
	} while (vm->run->exit_reason == KVM_EXIT_INTR);
	if (vm->run->exit_reason != KVM_EXIT_HLT) {
		fprintf(stderr, "unexpected exit %u\n", vm->run->exit_reason);
		exit(2);
	}
}

/* The vCPU's VM exits so far, from KVM's binary statistics. */
static inline uint64_t tiny_vm_exits(struct tiny_vm *vm)
{
	struct kvm_stats_header h;
	char buf[sizeof(struct kvm_stats_desc) + 64];
	struct kvm_stats_desc *d = (void *)buf;
	uint64_t value = 0;
	uint32_t i;
	int fd = MUST(ioctl(vm->vcpu, KVM_GET_STATS_FD, 0));

	MUST(pread(fd, &h, sizeof(h), 0));
	for (i = 0; i < h.num_desc; i++) {
		MUST(pread(fd, buf, sizeof(*d) + h.name_size,
			   h.desc_offset + i * (sizeof(*d) + h.name_size)));
		if (!strcmp(d->name, "exits"))
			MUST(pread(fd, &value, 8, h.data_offset + d->offset));
	}
	close(fd);
	return value;
}

#endif
