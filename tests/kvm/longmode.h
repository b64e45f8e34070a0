/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A tiny VM (tinyvm.h) with paging of four levels, the kernel's pages and pages
 * for users, whose virtual and physical addresses have nothing in common. The
 * pieces of code are still 32-bit code, in compatibility mode; exceptions and
 * interrupts are taken in 64-bit mode.
 */
#ifndef LONGMODE_H
#define LONGMODE_H

#include "tinyvm.h"

/* Of the VM's own memory; from 0 on it is mapped one to one, for the kernel. */
#define LONG_IDT_GPA	0x7000u
#define LONG_PML4_GPA	0x20000u
#define LONG_PDPT_GPA	0x21000u
#define LONG_PD_LOW_GPA	0x22000u	/* 0 to 1 GiB */
#define LONG_PD_USER_GPA 0x23000u	/* 1 to 2 GiB */
#define LONG_PD_APIC_GPA 0x24000u	/* 3 to 4 GiB */
#define LONG_PT_LOW_GPA	0x25000u	/* 0 to 2 MiB */
#define LONG_PT_USER_GPA 0x28000u	/* LONG_PAGES entries, and 512 more */
#define LONG_PAGES	1024u
#define LONG_GVA	0x40000000u	/* of the pages for users */
#define LONG_EXTRA_GVA	(LONG_GVA + LONG_PAGES * 4096)
#define LONG_HUGE_GVA	0x50000000u

#define LONG_P		0x001ULL
#define LONG_W		0x002ULL
#define LONG_U		0x004ULL
#define LONG_A		0x020ULL
#define LONG_D		0x040ULL
#define LONG_PS		0x080ULL
#define LONG_CODE64	24		/* selector */

TINY_CODE(wrmsr, "wrmsr");
TINY_CODE(rdmsr, "rdmsr; movl %eax, %ebx; movl %edx, %esi; movb $0, %al");
TINY_CODE(flush, "movl %cr3, %eax; movl %eax, %cr3");

static inline uint64_t *long_entry(struct tiny_vm *v, uint32_t table, unsigned int i)
{
	return (uint64_t *)(v->ram + table) + i;
}

/* Which frame page n has: each another one, in no order. */
static inline unsigned int long_frame(unsigned int n)
{
	return (n * 389 + 17) % LONG_PAGES;
}

static inline uint32_t long_gpa(unsigned int n)
{
	return WINDOW_GPA + long_frame(n) * 4096;
}

static inline uint32_t long_gva(unsigned int n)
{
	return LONG_GVA + n * 4096;
}

static inline uint64_t *long_pte(struct tiny_vm *v, unsigned int n)
{
	return long_entry(v, LONG_PT_USER_GPA, n);
}

static inline bool long_dirty(struct tiny_vm *v, unsigned int n)
{
	return *(volatile uint64_t *)long_pte(v, n) & LONG_D;
}

static inline void long_clean(struct tiny_vm *v, unsigned int pages)
{
	unsigned int i;

	for (i = 0; i < pages; i++)
		*long_pte(v, i) &= ~LONG_D;
	TINY_RUN(v, flush);
}

static inline void long_tables(struct tiny_vm *v)
{
	uint64_t all = LONG_P | LONG_W | LONG_U | LONG_A, kernel = LONG_P | LONG_W | LONG_A | LONG_D;
	unsigned int i;

	*long_entry(v, LONG_PML4_GPA, 0) = LONG_PDPT_GPA | all;
	*long_entry(v, LONG_PDPT_GPA, 0) = LONG_PD_LOW_GPA | all;
	*long_entry(v, LONG_PDPT_GPA, 1) = LONG_PD_USER_GPA | all;
	*long_entry(v, LONG_PDPT_GPA, 3) = LONG_PD_APIC_GPA | all;
	*long_entry(v, LONG_PD_LOW_GPA, 0) = LONG_PT_LOW_GPA | all;
	for (i = 0; i < TINY_RAM / 4096; i++)
		*long_entry(v, LONG_PT_LOW_GPA, i) = i * 4096ULL | kernel;
	for (i = 0; i < LONG_PAGES / 512 + 1; i++)
		*long_entry(v, LONG_PD_USER_GPA, i) = (LONG_PT_USER_GPA + i * 4096) | all;
	for (i = 0; i < LONG_PAGES; i++)
		*long_pte(v, i) = long_gpa(i) | all;
	*long_entry(v, LONG_PD_USER_GPA, (LONG_HUGE_GVA - LONG_GVA) >> 21) = WINDOW_GPA | all | LONG_PS;
	*long_entry(v, LONG_PD_APIC_GPA, (0xfee00000u - 0xc0000000u) >> 21) = 0xfee00000u | kernel | LONG_PS | 0x18;
}

/* As tiny_tables() has them, in 64-bit code. */
static inline void long_idt(struct tiny_vm *v)
{
	static const uint8_t irq[] = {
		0x50, 0xb8, 0xb0, 0x00, 0xe0, 0xfe,		/* push; EOI's address */
		0xc7, 0x00, 0, 0, 0, 0,
		0x58,
		0xff, 0x04, 0x25, TINY_COUNT_GPA & 0xff, TINY_COUNT_GPA >> 8, 0, 0,
		0x48, 0xcf,					/* iretq */
	};
	int i;

	for (i = 0; i < 256; i++) {
		uint8_t *stub = v->ram + TINY_STUB_GPA + 32 * i, *gate = v->ram + LONG_IDT_GPA + 16 * i;
		uint32_t at = TINY_STUB_GPA + 32 * i;

		if (i >= 32)
			memcpy(stub, irq, sizeof(irq));
		tiny_put32(gate, LONG_CODE64 << 16 | (at & 0xffff));
		tiny_put32(gate + 4, (at & 0xffff0000) | 0x8e00);
		tiny_put32(gate + 8, 0);
		tiny_put32(gate + 12, 0);
	}
	*(uint64_t *)(v->ram + TINY_GDT_GPA + LONG_CODE64) = 0x00af9b000000ffffULL;
}

/* For a vCPU; the tables are the VM's. */
static inline void long_mode(struct tiny_vm *v)
{
	struct kvm_sregs s;

	MUST(ioctl(v->vcpu, KVM_GET_SREGS, &s));
	s.gdt.limit = 31;
	s.idt.base = LONG_IDT_GPA;
	s.idt.limit = 256 * 16 - 1;
	s.cr3 = LONG_PML4_GPA;
	s.cr4 |= 1 << 5;
	s.cr0 |= 1u << 31;
	s.efer |= 1 << 8 | 1 << 10;
	MUST(ioctl(v->vcpu, KVM_SET_SREGS, &s));
}

/* After an exception, whose handler is 64-bit code. */
static inline void long_again(struct tiny_vm *v)
{
	struct kvm_sregs s;

	MUST(ioctl(v->vcpu, KVM_GET_SREGS, &s));
	s.cs = (struct kvm_segment) {
		.limit = 0xffffffff, .g = 1, .db = 1, .s = 1, .present = 1, .type = 11, .selector = 8,
	};
	MUST(ioctl(v->vcpu, KVM_SET_SREGS, &s));
}

#endif
