/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A VM with one vCPU in flat 32-bit mode, for tests and benchmarks: 1 MiB of
 * its own at 0 and whatever the user maps at WINDOW_GPA. It runs pieces of
 * assembler (TINY_CODE) with given registers, each to its end, an exception or
 * a shutdown, and the caller learns which.
 */
#ifndef TINYVM_H
#define TINYVM_H

#include <fcntl.h>
#include <linux/kvm.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>

#include "ktap.h"

#define WINDOW_GPA	0x10000000u

/* The VM's own memory. */
#define TINY_RAM	(1UL << 20)
#define CODE_GPA	0x1000u
#define SCRATCH_GPA	0x2000u
#define TINY_COUNT_GPA	0x2ff0u		/* interrupts taken */
#define TINY_IDT_GPA	0x3000u
#define TINY_GDT_GPA	0x3800u
#define TINY_STUB_GPA	0x4000u		/* 32 bytes for each vector */
#define TINY_STACK_GPA	0x8000u		/* grows downwards from here */
#define TINY_PD_GPA	0x9000u		/* page directory, with TINY_PAGING */
#define TINY_VCPU_GPA	0x10000u	/* code of vCPU n at n times this */

#define TINY_PORT_DONE	0x10
#define TINY_PORT_EXC	0xee
#define TINY_PORT_IN	0x30		/* gives bytes of TINY_IN_BYTE */
#define TINY_IN_BYTE	0xab
#define TINY_VECTOR	0x40		/* first one that is an interrupt */

/* For tiny_init_with(). */
#define TINY_IRQCHIP	1u		/* interrupt controllers in the kernel */
#define TINY_AVX	2u
#define TINY_PAGING	4u		/* identity map by 4 MiB pages */
#define TINY_SPLIT	8u		/* local APICs in the kernel, no other controller */

struct tiny_vm {
	int vm, vcpu;
	uint8_t *ram;
	struct kvm_run *run;
	size_t run_bytes;
	pthread_t thread;
	volatile bool stop;
	volatile int last_exit;		/* exit_reason, or -errno of KVM_RUN */
	volatile unsigned long exits;
	/*
	 * One thread runs all pieces of a vCPU: KVM waits for an RCU grace
	 * period whenever another one does.
	 */
	sem_t go;
	int done_fd;			/* counts pieces that have ended */
	volatile int result;
	bool going, worker, quit;
	uint32_t code_gpa, stack_gpa;
};

/* How a piece ended. */
#define TINY_DONE	0
#define TINY_WAITING	1		/* it has not, within the time */
#define TINY_EXC	1000		/* + vector */
#define TINY_GP		(TINY_EXC + 13)
#define TINY_PF		(TINY_EXC + 14)
#define TINY_SHUTDOWN	2000
#define TINY_INTERNAL	2001		/* KVM gave up */
#define TINY_EXIT	3000		/* + other exit reason */

/* Registers that a piece starts with; esp 0: the VM's own stack. */
struct tiny_regs {
	uint32_t eax, ebx, ecx, edx, esi, edi, ebp, esp;
};

#define TINY_CODE(name, text)						\
	asm(".pushsection .rodata\n.code32\npiece_" #name ":\n" text	\
	    "\noutb %al, $0x10\njmp .\n.code64\npiece_" #name "_end:\n.popsection\n"); \
	extern const uint8_t piece_##name[], piece_##name##_end[]

TINY_CODE(store, "movl %eax, (%ebx)");
TINY_CODE(load, "movl (%ebx), %eax");
TINY_CODE(call, "call *%ebx");
TINY_CODE(touch, "1: movl %ecx, (%ebx); addl $4096, %ebx; decl %ecx; jnz 1b");
TINY_CODE(count, "1: incl %eax; movl %eax, (%ebx); jmp 1b");

static inline int tiny_slot(struct tiny_vm *v, int slot, uint32_t gpa, void *hva, size_t bytes,
			    uint32_t flags)
{
	struct kvm_userspace_memory_region r = {
		.slot = slot, .flags = flags, .guest_phys_addr = gpa, .memory_size = bytes,
		.userspace_addr = (uintptr_t)hva,
	};

	return ioctl(v->vm, KVM_SET_USER_MEMORY_REGION, &r);
}

static inline void tiny_put32(uint8_t *p, uint32_t x)
{
	memcpy(p, &x, 4);
}

/*
 * Exceptions go out by a port with their number, interrupts are counted and
 * acknowledged.
 */
static inline void tiny_tables(uint8_t *ram)
{
	static const uint64_t gdt[3] = { 0, 0x00cf9b000000ffffULL, 0x00cf93000000ffffULL };
	static const uint8_t irq[] = {
		0xff, 0x05, TINY_COUNT_GPA & 0xff, TINY_COUNT_GPA >> 8, 0, 0,	/* incl COUNT */
		0xc7, 0x05, 0xb0, 0x00, 0xe0, 0xfe, 0, 0, 0, 0,			/* EOI */
		0xcf,								/* iret */
	};
	int i;

	memcpy(ram + TINY_GDT_GPA, gdt, sizeof(gdt));
	for (i = 0; i < 256; i++) {
		uint8_t *stub = ram + TINY_STUB_GPA + 32 * i, *gate = ram + TINY_IDT_GPA + 8 * i;
		uint32_t at = TINY_STUB_GPA + 32 * i;

		if (i < 32) {
			stub[0] = 0xb0;			/* mov $i, %al */
			stub[1] = i;
			stub[2] = 0xe6;			/* out %al, $0xee */
			stub[3] = TINY_PORT_EXC;
			stub[4] = 0xf4;
		} else {
			memcpy(stub, irq, sizeof(irq));
		}
		tiny_put32(gate, 8 << 16 | (at & 0xffff));
		tiny_put32(gate + 4, (at & 0xffff0000) | 0x8e00);
	}
}

static inline void tiny_flat_mode(int vcpu)
{
	struct kvm_regs regs = { .rip = CODE_GPA, .rflags = 2, .rsp = TINY_STACK_GPA };
	struct kvm_segment *seg[6];
	struct kvm_sregs s;
	int i;

	MUST(ioctl(vcpu, KVM_GET_SREGS, &s));
	s.cr0 |= 1;
	seg[0] = &s.cs; seg[1] = &s.ds; seg[2] = &s.es;
	seg[3] = &s.fs; seg[4] = &s.gs; seg[5] = &s.ss;
	for (i = 0; i < 6; i++)
		*seg[i] = (struct kvm_segment) {
			.limit = 0xffffffff, .g = 1, .db = 1, .s = 1, .present = 1,
			.type = i ? 3 : 11, .selector = i ? 16 : 8,
		};
	s.gdt.base = TINY_GDT_GPA;
	s.gdt.limit = 23;
	s.idt.base = TINY_IDT_GPA;
	s.idt.limit = 256 * 8 - 1;
	MUST(ioctl(vcpu, KVM_SET_SREGS, &s));
	MUST(ioctl(vcpu, KVM_SET_REGS, &regs));
}

static inline void tiny_avx(int kvm, int vcpu)
{
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entry[128];
	} id = { .head.nent = 128 };
	struct kvm_xcrs x = { .nr_xcrs = 1, .xcrs[0] = { .value = 7 } };
	struct kvm_sregs s;

	MUST(ioctl(kvm, KVM_GET_SUPPORTED_CPUID, &id));
	MUST(ioctl(vcpu, KVM_SET_CPUID2, &id));
	MUST(ioctl(vcpu, KVM_GET_SREGS, &s));
	s.cr4 |= 1 << 9 | 1 << 10 | 1 << 18;
	MUST(ioctl(vcpu, KVM_SET_SREGS, &s));
	MUST(ioctl(vcpu, KVM_SET_XCRS, &x));
}

/* An identity map; the directory may also lie in the window. */
static inline void tiny_page_directory(uint8_t *at)
{
	unsigned int i;

	for (i = 0; i < 1024; i++)
		tiny_put32(at + 4 * i, i << 22 | 0x83);		/* P, W, 4 MiB */
}

static inline void tiny_paging(struct tiny_vm *v, uint32_t directory_gpa)
{
	struct kvm_sregs s;

	MUST(ioctl(v->vcpu, KVM_GET_SREGS, &s));
	s.cr3 = directory_gpa;
	s.cr4 |= 1 << 4;
	s.cr0 |= 1u << 31;
	MUST(ioctl(v->vcpu, KVM_SET_SREGS, &s));
}

static inline void tiny_lapic_on(int vcpu)
{
	struct kvm_lapic_state l;

	MUST(ioctl(vcpu, KVM_GET_LAPIC, &l));
	tiny_put32((uint8_t *)l.regs + 0xf0, 0x1ff);
	MUST(ioctl(vcpu, KVM_SET_LAPIC, &l));
}

static inline void tiny_vcpu(struct tiny_vm *v, int kvm, int id, unsigned int flags)
{
	v->vcpu = MUST(ioctl(v->vm, KVM_CREATE_VCPU, id));
	v->run_bytes = MUST(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0));
	v->run = mmap(NULL, v->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, v->vcpu, 0);
	MUST(v->run == MAP_FAILED ? -1 : 0);
	v->done_fd = MUST(eventfd(0, EFD_CLOEXEC));
	sem_init(&v->go, 0, 0);
	v->code_gpa = id ? id * TINY_VCPU_GPA : CODE_GPA;
	v->stack_gpa = id ? v->code_gpa + 0x2000 : TINY_STACK_GPA;
	tiny_flat_mode(v->vcpu);
	if (flags & (TINY_IRQCHIP | TINY_SPLIT)) {
		struct kvm_mp_state runnable = { .mp_state = KVM_MP_STATE_RUNNABLE };

		tiny_lapic_on(v->vcpu);
		MUST(ioctl(v->vcpu, KVM_SET_MP_STATE, &runnable));
	}
	if (flags & TINY_AVX)
		tiny_avx(kvm, v->vcpu);
}

/* One more vCPU of a VM, with a struct of its own; tiny_free() the first one last. */
static inline void tiny_add_vcpu(struct tiny_vm *v, const struct tiny_vm *first, int id, unsigned int flags)
{
	int kvm = MUST(open("/dev/kvm", O_RDWR | O_CLOEXEC));

	memset(v, 0, sizeof(*v));
	v->vm = first->vm;
	v->ram = first->ram;
	tiny_vcpu(v, kvm, id, flags);
	close(kvm);
}

static inline void tiny_init_with(struct tiny_vm *v, unsigned int flags)
{
	int kvm = MUST(open("/dev/kvm", O_RDWR | O_CLOEXEC));

	memset(v, 0, sizeof(*v));
	v->vm = MUST(ioctl(kvm, KVM_CREATE_VM, 0));
	MUST(ioctl(v->vm, KVM_SET_TSS_ADDR, 0xfffbd000));
	if (flags & TINY_IRQCHIP)
		MUST(ioctl(v->vm, KVM_CREATE_IRQCHIP));
	if (flags & TINY_SPLIT) {
		struct kvm_enable_cap split = { .cap = KVM_CAP_SPLIT_IRQCHIP, .args[0] = 24 };

		MUST(ioctl(v->vm, KVM_ENABLE_CAP, &split));
	}
	v->ram = mmap(NULL, TINY_RAM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	MUST(v->ram == MAP_FAILED ? -1 : 0);
	tiny_tables(v->ram);
	MUST(tiny_slot(v, 0, 0, v->ram, TINY_RAM, 0));
	tiny_vcpu(v, kvm, 0, flags);
	if (flags & TINY_PAGING) {
		tiny_page_directory(v->ram + TINY_PD_GPA);
		tiny_paging(v, TINY_PD_GPA);
	}
	close(kvm);
}

/* For code that runs until it is stopped (tiny_start, tiny_stop). */
static inline void tiny_init(struct tiny_vm *v, const uint8_t *code, size_t n)
{
	tiny_init_with(v, 0);
	memcpy(v->ram + CODE_GPA, code, n);
}

static inline void tiny_nothing(int sig)
{
	(void)sig;
}

static inline void *tiny_loop(void *arg)
{
	struct tiny_vm *v = arg;

	while (!v->stop) {
		int r = ioctl(v->vcpu, KVM_RUN, 0);

		v->last_exit = r < 0 ? -errno : (int)v->run->exit_reason;
		v->exits++;
		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0 || v->run->exit_reason == KVM_EXIT_HLT)
			break;
	}
	return NULL;
}

static inline void tiny_thread(struct tiny_vm *v, void *(*loop)(void *))
{
	struct sigaction sa = { .sa_handler = tiny_nothing };

	sigaction(SIGUSR1, &sa, NULL);
	MUST(pthread_create(&v->thread, NULL, loop, v) ? -1 : 0);
}

static inline void tiny_start(struct tiny_vm *v)
{
	tiny_thread(v, tiny_loop);
}

static inline uint64_t tiny_now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000ULL + t.tv_nsec / 1000000;
}

/* Stop the vCPU's thread; returns the milliseconds that it took. */
static inline uint64_t tiny_stop(struct tiny_vm *v)
{
	uint64_t t0 = tiny_now_ms();
	struct timespec t;

	v->stop = true;
	v->run->immediate_exit = 1;
	do {
		pthread_kill(v->thread, SIGUSR1);
		clock_gettime(CLOCK_REALTIME, &t);
		t.tv_nsec += 20000000;
		if (t.tv_nsec >= 1000000000) {
			t.tv_sec++;
			t.tv_nsec -= 1000000000;
		}
	} while (pthread_timedjoin_np(v->thread, NULL, &t) == ETIMEDOUT);
	return tiny_now_ms() - t0;
}

/* Run until the piece that was prepared has ended. */
static inline int tiny_run_to_end(struct tiny_vm *v)
{
	for (;;) {
		int r = ioctl(v->vcpu, KVM_RUN, 0);
		uint8_t *data = (uint8_t *)v->run + v->run->io.data_offset;

		v->last_exit = r < 0 ? -errno : (int)v->run->exit_reason;
		v->exits++;
		if (v->stop)
			return -EINTR;
		if (r < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (r < 0)
			return -errno;
		switch (v->run->exit_reason) {
		case KVM_EXIT_INTR:
			continue;
		case KVM_EXIT_IO:
			if (v->run->io.port == TINY_PORT_DONE)
				return TINY_DONE;
			if (v->run->io.port == TINY_PORT_EXC)
				return TINY_EXC + *data;
			if (v->run->io.port == TINY_PORT_IN && v->run->io.direction == KVM_EXIT_IO_IN) {
				memset(data, TINY_IN_BYTE, v->run->io.size * v->run->io.count);
				continue;
			}
			return TINY_EXIT + KVM_EXIT_IO;
		case KVM_EXIT_SHUTDOWN:
			return TINY_SHUTDOWN;
		case KVM_EXIT_INTERNAL_ERROR:
			ktap_note("KVM internal error %u", v->run->internal.suberror);
			return TINY_INTERNAL;
		default:
			return TINY_EXIT + v->run->exit_reason;
		}
	}
}

static inline void tiny_prepare(struct tiny_vm *v, const uint8_t *code, const uint8_t *end,
				const struct tiny_regs *r)
{
	struct kvm_regs regs = {
		.rip = v->code_gpa, .rflags = 0x202, .rax = r->eax, .rbx = r->ebx, .rcx = r->ecx, .rdx = r->edx,
		.rsi = r->esi, .rdi = r->edi, .rbp = r->ebp, .rsp = r->esp ? r->esp : v->stack_gpa,
	};

	memcpy(v->ram + v->code_gpa, code, end - code);
	v->stop = false;
	v->run->immediate_exit = 0;
	MUST(ioctl(v->vcpu, KVM_SET_REGS, &regs));
}

static inline void *tiny_worker(void *arg)
{
	struct tiny_vm *v = arg;
	uint64_t one = 1;

	for (;;) {
		while (sem_wait(&v->go))
			;
		if (v->quit)
			return NULL;
		v->result = tiny_run_to_end(v);
		MUST(write(v->done_fd, &one, 8));
	}
}

/* On with what was prepared, or interrupted. */
static inline void tiny_go(struct tiny_vm *v)
{
	if (!v->worker)
		tiny_thread(v, tiny_worker);
	v->worker = true;
	v->going = true;
	sem_post(&v->go);
}

/* Begin a piece. It has ended when tiny_wait() returns something else than TINY_WAITING. */
#define TINY_GO(v, name, ...) ({					\
	tiny_prepare(v, piece_##name, piece_##name##_end, &(struct tiny_regs){ __VA_ARGS__ }); \
	tiny_go(v);							\
})

static inline int tiny_wait(struct tiny_vm *v, int ms)
{
	struct pollfd p = { .fd = v->done_fd, .events = POLLIN };
	uint64_t n;

	if (!v->going)
		return v->result;
	if (poll(&p, 1, ms) != 1)
		return TINY_WAITING;
	MUST(read(v->done_fd, &n, 8));
	v->going = false;
	return v->result;
}

/* A piece from its begin to its end. */
#define TINY_RUN(v, name, ...) ({					\
	TINY_GO(v, name, __VA_ARGS__);					\
	tiny_wait(v, -1);						\
})

/* End a piece that waits or runs for ever. */
static inline void tiny_abort(struct tiny_vm *v)
{
	if (!v->going)
		return;
	v->stop = true;
	v->run->immediate_exit = 1;
	do
		pthread_kill(v->thread, SIGUSR1);
	while (tiny_wait(v, 20) == TINY_WAITING);
	v->stop = false;
	v->run->immediate_exit = 0;
}

static inline uint32_t tiny_eax(struct tiny_vm *v)
{
	struct kvm_regs regs;

	MUST(ioctl(v->vcpu, KVM_GET_REGS, &regs));
	return regs.rax;
}

static inline void tiny_interrupt(struct tiny_vm *v, uint8_t vector)
{
	struct kvm_msi msi = { .address_lo = 0xfee00000, .data = vector };

	MUST(ioctl(v->vm, KVM_SIGNAL_MSI, &msi));
}

static inline uint32_t tiny_interrupts(struct tiny_vm *v)
{
	uint32_t n;

	memcpy(&n, v->ram + TINY_COUNT_GPA, 4);
	return n;
}

static inline void tiny_free(struct tiny_vm *v)
{
	tiny_abort(v);
	if (v->worker) {
		v->quit = true;
		sem_post(&v->go);
		pthread_join(v->thread, NULL);
	}
	close(v->vcpu);
	close(v->vm);
	close(v->done_fd);
	munmap(v->run, v->run_bytes);
	munmap(v->ram, TINY_RAM);
}

/* A number of KVM's binary statistics, of a VM (v->vm) or a vCPU (v->vcpu). */
static inline uint64_t tiny_stat(int of, const char *name)
{
	char buf[sizeof(struct kvm_stats_desc) + 64];
	struct kvm_stats_desc *d = (void *)buf;
	struct kvm_stats_header h;
	uint64_t value = 0;
	bool found = false;
	uint32_t i;
	int fd = MUST(ioctl(of, KVM_GET_STATS_FD, 0));

	MUST(pread(fd, &h, sizeof(h), 0) == sizeof(h) ? 0 : -1);
	for (i = 0; i < h.num_desc && !found; i++) {
		size_t size = sizeof(*d) + h.name_size;

		MUST(pread(fd, buf, size, h.desc_offset + i * size) == (ssize_t)size ? 0 : -1);
		if (strcmp(d->name, name))
			continue;
		MUST(pread(fd, &value, 8, h.data_offset + d->offset) == 8 ? 0 : -1);
		found = true;
	}
	close(fd);
	MUST(found ? 0 : -1);
	return value;
}

#endif
