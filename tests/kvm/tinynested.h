/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A tiny VM that is a hypervisor: it enters VMX operation and runs one guest of
 * its own, in flat 32-bit mode, by EPT with 2 MiB entries that map everything
 * below 1 GiB to itself. So the nested guest sees the window where the VM has it.
 * Each run of the nested guest is one piece of assembler that ends with vmcall.
 */
#ifndef TINYNESTED_H
#define TINYNESTED_H

#include "tinyvm.h"

/* In the VM's own memory. */
#define NEST_VMXON_GPA		0x80000u
#define NEST_VMCS_GPA		0x81000u
#define NEST_FIELDS_GPA		0x82000u	/* pairs of field and value */
#define NEST_CODE_GPA		0x83000u	/* of the nested guest */
#define NEST_MSRS_GPA		0x84000u
#define NEST_PML4_GPA		0x85000u
#define NEST_PDPT_GPA		0x86000u
#define NEST_PD_GPA		0x87000u
#define NEST_POINTER_GPA	0x88000u	/* 64-bit operands */
#define NEST_STACK_GPA		0x8a000u

#define NEST_VMCALL		18		/* exit reason */
#define NEST_FAILED		0x80000000u	/* + error of the instruction */

/* Fields of the VMCS that tests change. */
#define VMCS_EXIT_MSR_STORE_ADDR	0x2006
#define VMCS_EXIT_MSR_STORE_COUNT	0x400e
#define VMCS_GUEST_DR7			0x681a
#define VMCS_EXCEPTION_BITMAP		0x4004

/* eax: 0, or what failed. */
TINY_CODE(vmxon, "vmxon (%ebx); setbe %al; movzbl %al, %eax");
TINY_CODE(vmptrld, "vmptrld (%ebx); setbe %al; movzbl %al, %eax");
TINY_CODE(vmclear, "vmclear (%ebx); setbe %al; movzbl %al, %eax");
TINY_CODE(vmptrst, "vmptrst (%ebx); setbe %al; movzbl %al, %eax");
TINY_CODE(vmread_mem, "vmread %ecx, (%ebx); setbe %al; movzbl %al, %eax");
TINY_CODE(vmread_reg, "vmread %ecx, %eax");
TINY_CODE(vmwrite_mem, "vmwrite (%ebx), %ecx; setbe %al; movzbl %al, %eax");
TINY_CODE(vmwrite_all,
	  "1: movl (%esi), %eax; movl 4(%esi), %ebx; vmwrite %ebx, %eax; jbe 2f; addl $8, %esi; decl %ecx; jnz 1b;"
	  "xorl %eax, %eax; 2:");
/*
 * The nested guest gets the registers as they are. The VM exit comes to the 8th
 * byte. ebp: it ran before. Gives the exit reason in eax; edx is used here.
 */
TINY_CODE(nest_run,
	  "jmp 1f; .fill 8 - (. - piece_nest_run), 1, 0x90;"
	  "movl $0x4402, %edx; vmread %edx, %eax; jmp 4f;"
	  "1: pushl %ebx; movl $0x681e, %edx; movl $0x83000, %ebx; vmwrite %ebx, %edx; popl %ebx;"
	  "testl %ebp, %ebp; jnz 2f; vmlaunch; jmp 3f; 2: vmresume;"
	  "3: movl $0x4400, %edx; vmread %edx, %eax; orl $0x80000000, %eax; 4:");

#define NEST_CODE(name, text)						\
	asm(".pushsection .rodata\n.code32\npiece_" #name ":\n" text	\
	    "\nvmcall\n.code64\npiece_" #name "_end:\n.popsection\n");	\
	extern const uint8_t piece_##name[], piece_##name##_end[]

NEST_CODE(nest_nothing, "nop");
NEST_CODE(nest_store, "movl %eax, (%ebx)");
NEST_CODE(nest_load, "movl (%ebx), %eax");
NEST_CODE(nest_touch, "1: movl %eax, (%ebx); addl $4096, %ebx; decl %ecx; jnz 1b");

static inline void nest_put64(uint8_t *p, uint64_t x)
{
	memcpy(p, &x, 8);
}

static inline uint64_t nest_msr(int vcpu, uint32_t index)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} m = { .head.nmsrs = 1, .entry.index = index };

	MUST(ioctl(vcpu, KVM_GET_MSRS, &m) == 1 ? 0 : -1);
	return m.entry.data;
}

/* What must be set, and of what is wanted what may be. */
static inline uint32_t nest_control(int vcpu, uint32_t msr, uint32_t want)
{
	uint64_t may = nest_msr(vcpu, msr);

	return (uint32_t)may | (want & (may >> 32));
}

/* The processor of the VM gets VMX; false: KVM or this machine has none for VMs. */
static inline bool nest_enable(struct tiny_vm *v)
{
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entry[128];
	} id = { .head.nent = 128 };
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} feature = { .head.nmsrs = 1, .entry = { .index = 0x3a, .data = 5 } };
	int kvm = MUST(open("/dev/kvm", O_RDWR | O_CLOEXEC));
	struct kvm_sregs s;
	bool vmx = false;
	uint32_t i;

	MUST(ioctl(kvm, KVM_GET_SUPPORTED_CPUID, &id));
	close(kvm);
	for (i = 0; i < id.head.nent; i++)
		vmx |= id.entry[i].function == 1 && (id.entry[i].ecx >> 5 & 1);
	if (!vmx)
		return false;
	MUST(ioctl(v->vcpu, KVM_SET_CPUID2, &id));
	MUST(ioctl(v->vcpu, KVM_SET_MSRS, &feature) == 1 ? 0 : -1);
	tiny_page_directory(v->ram + TINY_PD_GPA);
	tiny_paging(v, TINY_PD_GPA);
	MUST(ioctl(v->vcpu, KVM_GET_SREGS, &s));
	s.cr0 |= 1 << 5;		/* NE */
	s.cr4 |= 1 << 13;		/* VMXE */
	MUST(ioctl(v->vcpu, KVM_SET_SREGS, &s));
	return true;
}

static inline void nest_ept(struct tiny_vm *v)
{
	uint64_t i;

	nest_put64(v->ram + NEST_PML4_GPA, NEST_PDPT_GPA | 7);
	nest_put64(v->ram + NEST_PDPT_GPA, NEST_PD_GPA | 7);
	for (i = 0; i < 512; i++)
		nest_put64(v->ram + NEST_PD_GPA + 8 * i, i << 21 | 0xb7);	/* RWX, WB, 2 MiB */
}

/* All of the VMCS, into the table; how many pairs. */
static inline int nest_fields(struct tiny_vm *v)
{
	uint64_t eptp = NEST_PML4_GPA | 6 | 3 << 3 | (nest_msr(v->vcpu, 0x48c) >> 21 & 1) << 6;
	uint8_t *at = v->ram + NEST_FIELDS_GPA;
	struct kvm_sregs s;
	int n = 0, i;

#define F(field, value) (tiny_put32(at + 8 * n, field), tiny_put32(at + 8 * n + 4, value), n++)
	MUST(ioctl(v->vcpu, KVM_GET_SREGS, &s));
	F(0x4000, nest_control(v->vcpu, 0x481, 0));
	F(0x4002, nest_control(v->vcpu, 0x482, 1u << 31));
	F(0x401e, nest_control(v->vcpu, 0x48b, 1 << 1));	/* EPT */
	F(0x400c, nest_control(v->vcpu, 0x483, 0));
	F(0x4012, nest_control(v->vcpu, 0x484, 0));
	F(0x201a, eptp);
	F(0x201b, 0);
	F(0x2800, ~0u);			/* no shadow VMCS */
	F(0x2801, ~0u);
	F(0x2802, 0);			/* DEBUGCTL */
	F(0x2803, 0);
	F(VMCS_EXCEPTION_BITMAP, 0);
	F(0x4006, 0);			/* page faults: none exits */
	F(0x4008, 0);
	F(0x400a, 0);
	F(VMCS_EXIT_MSR_STORE_COUNT, 0);
	F(0x4010, 0);
	F(0x4014, 0);
	F(0x4016, 0);
	for (i = 0; i < 8; i++) {	/* ES, CS, SS, DS, FS, GS, LDTR, TR */
		F(0x800 + 2 * i, i == 6 ? 0 : i == 7 ? 0x18 : i == 1 ? 8 : 0x10);
		F(0x4800 + 2 * i, i >= 6 ? 0x67 : 0xffffffff);
		F(0x4814 + 2 * i, i == 6 ? 0x10000 : i == 7 ? 0x8b : i == 1 ? 0xc09b : 0xc093);
		F(0x6806 + 2 * i, 0);
		if (i < 6)
			F(0xc00 + 2 * i, i == 1 ? 8 : 0x10);
	}
	F(0xc0c, 0x18);
	F(0x4810, 23);
	F(0x4812, 256 * 8 - 1);
	F(0x6816, TINY_GDT_GPA);
	F(0x6818, TINY_IDT_GPA);
	F(0x4824, 0);
	F(0x4826, 0);
	F(0x482a, 0);
	F(0x6000, 0);
	F(0x6002, 0);
	F(0x6800, s.cr0);
	F(0x6802, s.cr3);
	F(0x6804, s.cr4);
	F(VMCS_GUEST_DR7, 0x400);
	F(0x681c, NEST_STACK_GPA);
	F(0x681e, NEST_CODE_GPA);
	F(0x6820, 2);
	F(0x6822, 0);
	F(0x6824, 0);
	F(0x6826, 0);
	F(0x6c00, s.cr0);
	F(0x6c02, s.cr3);
	F(0x6c04, s.cr4);
	F(0x6c06, 0);
	F(0x6c08, 0);
	F(0x6c0a, 0);
	F(0x6c0c, TINY_GDT_GPA);
	F(0x6c0e, TINY_IDT_GPA);
	F(0x6c10, 0);
	F(0x6c12, 0);
	F(0x4c00, 0);
	F(0x6c14, v->stack_gpa);
	F(0x6c16, v->code_gpa + 8);	/* in nest_run */
#undef F
	return n;
}

/* A piece with an operand of 64 bits in memory, an address; eax of it. */
#define NEST_AT(v, name, gpa) ({					\
	nest_put64((v)->ram + NEST_POINTER_GPA, gpa);			\
	int end_ = TINY_RUN(v, name, .ebx = NEST_POINTER_GPA);		\
	end_ == TINY_DONE ? (int)tiny_eax(v) : end_;			\
})

static inline int nest_write(struct tiny_vm *v, uint32_t field, uint32_t value)
{
	int end;

	tiny_put32(v->ram + NEST_FIELDS_GPA, field);
	tiny_put32(v->ram + NEST_FIELDS_GPA + 4, value);
	end = TINY_RUN(v, vmwrite_all, .esi = NEST_FIELDS_GPA, .ecx = 1);
	return end == TINY_DONE ? (int)tiny_eax(v) : end;
}

/*
 * Into VMX operation, with a VMCS that can be launched. Each vCPU of the VM needs
 * pages of its own for that; the rest they share, so one after the other.
 */
static inline bool nest_init_at(struct tiny_vm *v, uint32_t vmxon_gpa, uint32_t vmcs_gpa)
{
	uint32_t revision;
	int n;

	if (!nest_enable(v))
		return false;
	revision = nest_msr(v->vcpu, 0x480);
	tiny_put32(v->ram + vmxon_gpa, revision);
	tiny_put32(v->ram + vmcs_gpa, revision);
	nest_ept(v);
	MUST(NEST_AT(v, vmxon, vmxon_gpa) ? -1 : 0);
	MUST(NEST_AT(v, vmclear, vmcs_gpa) ? -1 : 0);
	MUST(NEST_AT(v, vmptrld, vmcs_gpa) ? -1 : 0);
	n = nest_fields(v);
	MUST(TINY_RUN(v, vmwrite_all, .esi = NEST_FIELDS_GPA, .ecx = n) == TINY_DONE ? 0 : -1);
	if (!CHECK(tiny_eax(v) == 0, "vmwrite of field %#x", tiny_eax(v)))
		return false;
	return true;
}

static inline bool nest_init(struct tiny_vm *v)
{
	return nest_init_at(v, NEST_VMXON_GPA, NEST_VMCS_GPA);
}

/* Run the nested guest. How the piece ended, and the exit reason in *reason. */
#define NEST_RUN(v, again, reason, name, ...) ({			\
	memcpy((v)->ram + NEST_CODE_GPA, piece_##name, piece_##name##_end - piece_##name); \
	int end_ = TINY_RUN(v, nest_run, .ebp = (again), __VA_ARGS__);	\
	*(reason) = tiny_eax(v);					\
	end_;								\
})

#endif
