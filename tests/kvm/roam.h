/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A guest's vCPU that goes from one VM to another which shows the same memory
 * at the same addresses. Its program, tables, stack and data are in that memory:
 * it counts in a register and in memory, and chains the numbers x -> A * x + B,
 * so whatever is lost or done twice on the way stays to be seen.
 */
#ifndef ROAM_H
#define ROAM_H

#include "tinyvm.h"

#define ROAM_CODE	0x000		/* in its first page */
#define ROAM_GDT	0x200
#define ROAM_IDT	0x400
#define ROAM_DATA	0x1000		/* its second page */
#define ROAM_STACK	0x1800

#define ROAM_START	0x5eed0001u
#define ROAM_A		1664525u
#define ROAM_B		1013904223u

/* esi: the number; ecx: how many. At ebx: the count, the number, NMIs taken. */
asm(".pushsection .rodata\n.code32\n"
    "roam_loop: imul $1664525, %esi, %esi\n"
    "addl $1013904223, %esi\n"
    "movl %esi, 4(%ebx)\n"
    "incl %ecx\n"
    "incl (%ebx)\n"
    "jmp roam_loop\n"
    "roam_nmi: incl 8(%ebx)\n"
    "iret\n"
    "roam_end:\n.code64\n.popsection\n");
extern const uint8_t roam_loop[], roam_nmi[], roam_end[];

struct roam {
	uint8_t *mem;			/* its two pages, as its controller has them */
	uint32_t gpa;			/* and where they are in every VM */
	uint32_t nmis;			/* sent so far */
};

static inline uint32_t roam_word(const struct roam *r, unsigned int i)
{
	return *(volatile uint32_t *)(r->mem + ROAM_DATA + 4 * i);
}

/* The number after n steps: maps of this kind compose to one of this kind. */
static inline uint32_t roam_number(uint32_t n)
{
	uint32_t x = ROAM_START, a = ROAM_A, b = ROAM_B;

	for (; n; n >>= 1) {
		if (n & 1)
			x = x * a + b;
		b *= a + 1;
		a *= a;
	}
	return x;
}

/* It begins on this vCPU. */
static inline void roam_begin(struct roam *r, struct tiny_vm *v)
{
	static const uint64_t gdt[3] = { 0, 0x00cf9b000000ffffULL, 0x00cf93000000ffffULL };
	uint32_t nmi = r->gpa + ROAM_CODE + (roam_nmi - roam_loop);
	struct kvm_regs regs = {
		.rip = r->gpa + ROAM_CODE, .rflags = 2, .rbx = r->gpa + ROAM_DATA, .rsi = ROAM_START,
		.rsp = r->gpa + ROAM_STACK,
	};
	struct kvm_sregs s;

	memcpy(r->mem + ROAM_CODE, roam_loop, roam_end - roam_loop);
	memcpy(r->mem + ROAM_GDT, gdt, sizeof(gdt));
	/* No gate but that of NMIs: an exception ends in a shutdown. */
	tiny_put32(r->mem + ROAM_IDT + 8 * 2, 8 << 16 | (nmi & 0xffff));
	tiny_put32(r->mem + ROAM_IDT + 8 * 2 + 4, (nmi & 0xffff0000) | 0x8e00);
	tiny_put32(r->mem + ROAM_DATA, 0);
	tiny_put32(r->mem + ROAM_DATA + 4, ROAM_START);
	tiny_put32(r->mem + ROAM_DATA + 8, 0);
	MUST(ioctl(v->vcpu, KVM_GET_SREGS, &s));
	s.gdt.base = r->gpa + ROAM_GDT;
	s.gdt.limit = sizeof(gdt) - 1;
	s.idt.base = r->gpa + ROAM_IDT;
	s.idt.limit = 32 * 8 - 1;
	MUST(ioctl(v->vcpu, KVM_SET_SREGS, &s));
	MUST(ioctl(v->vcpu, KVM_SET_REGS, &regs));
}

/* It runs for a while, and gets on. */
static inline void roam_go(const struct roam *r, struct tiny_vm *v, unsigned int us)
{
	uint64_t end = tiny_now_ms() + 5000;
	uint32_t before = roam_word(r, 0);

	tiny_go(v);
	while (roam_word(r, 0) == before && tiny_now_ms() < end)
		usleep(100);
	CHECK(roam_word(r, 0) != before, "the guest stands still at %u", before);
	usleep(us);
}

/* Stopped at whatever instruction it has come to: nothing is lost, nothing done twice. */
static inline void roam_stop(const struct roam *r, struct tiny_vm *v, const char *where)
{
	uint32_t count, number, steps;
	struct kvm_regs regs;

	tiny_abort(v);
	CHECK(v->result == -EINTR, "%s: the guest ended with %d", where, v->result);
	MUST(ioctl(v->vcpu, KVM_GET_REGS, &regs));
	count = roam_word(r, 0);
	number = roam_word(r, 1);
	steps = regs.rcx;
	CHECK(steps - count <= 1, "%s: %u steps by the register, %u in memory", where, steps, count);
	CHECK(number == roam_number(steps) || number == roam_number(steps + 1),
	      "%s: the number is not that of %u steps", where, steps);
	CHECK(roam_word(r, 2) == r->nmis, "%s: %u NMIs taken of %u", where, roam_word(r, 2), r->nmis);
}

static inline void roam_run(const struct roam *r, struct tiny_vm *v, unsigned int us, const char *where)
{
	roam_go(r, v, us);
	roam_stop(r, v, where);
}

/* All that KVM has of a vCPU that stands still. What is left behind would not get anywhere. */
static inline void roam_state(struct tiny_vm *from, struct tiny_vm *to, bool nmi)
{
	struct kvm_vcpu_events events;
	struct kvm_regs regs, none = { .rflags = 2 };
	struct kvm_sregs sregs;

	MUST(ioctl(from->vcpu, KVM_GET_REGS, &regs));
	MUST(ioctl(from->vcpu, KVM_GET_SREGS, &sregs));
	MUST(ioctl(from->vcpu, KVM_GET_VCPU_EVENTS, &events));
	CHECK(events.nmi.pending == nmi, "%u NMIs are pending", events.nmi.pending);
	MUST(ioctl(from->vcpu, KVM_SET_REGS, &none));
	MUST(ioctl(to->vcpu, KVM_SET_SREGS, &sregs));
	MUST(ioctl(to->vcpu, KVM_SET_REGS, &regs));
	MUST(ioctl(to->vcpu, KVM_SET_VCPU_EVENTS, &events));
}

/* From one vCPU to another. An NMI that has come and was not taken goes along. */
static inline void roam_move(struct roam *r, struct tiny_vm *from, struct tiny_vm *to, bool nmi)
{
	if (nmi) {
		MUST(ioctl(from->vcpu, KVM_NMI, 0));
		r->nmis++;
	}
	roam_state(from, to, nmi);
}

#endif
