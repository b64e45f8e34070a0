// SPDX-License-Identifier: GPL-2.0
/*
 * EPML (kvm-span/docs/epml.rst): the guest's log of the user pages that it
 * dirties, written by the processor. A small guest whose page tables the test
 * sees and edits.
 *
 * test: ooh/epml topology=epml timeout=240 modules=span
 * test: ooh/epml-absent args=--absent timeout=120 modules=span
 */
#include <linux/kvm_epml.h>
#include <linux/kvm_ooh.h>

#include "longmode.h"
#include "tinynested.h"

/* CHECK() without more words than the condition. */
#pragma GCC diagnostic ignored "-Wformat-zero-length"

#define BUFFER_GPA	0x40000u
#define BUFFER2_GPA	0x41000u
#define SUPERVISOR_GPA	0x50000u	/* a page of the kernel's, D clear */
#define NOWHERE_GPA	0x20000000u	/* no memory there */
#define ROM_GPA		0x18000000u
#define GONE_GPA	0x19000000u	/* a slot whose memory was unmapped */
#define VECTOR		0x50u

#define CTL(vector, threshold)	(EPML_CTL_ENABLE | (vector) << EPML_CTL_VECTOR_SHIFT | \
				 (uint64_t)(threshold) << EPML_CTL_THRESHOLD_SHIFT)

static struct tiny_vm v;
static uint8_t *window;
static bool absent;

struct cpuid {
	struct kvm_cpuid2 head;
	struct kvm_cpuid_entry2 entry[128];
};

/* cli: interrupts stay off until the next piece begins. */
TINY_CODE(touch_cli, "cli; 1: movl %ecx, (%ebx); addl $4096, %ebx; decl %ecx; jnz 1b");
TINY_CODE(load_all, "1: movl (%ebx), %eax; addl $4096, %ebx; decl %ecx; jnz 1b");
/* INDEX from eax, store to ebx, INDEX to ebx: in one go. */
TINY_CODE(reset_store, "wrmsr; movl %eax, (%ebx); rdmsr; movl %eax, %ebx");
/*
 * edi epochs of ecx pages: clean the entries, flush, INDEX to the start, write
 * to all pages; what INDEX has moved is summed up in ebp.
 */
TINY_CODE(epochs,
	  "xorl %ebp, %ebp\n"
	  "1: movl %ecx, %esi\n"
	  "2: andl $~0x40, 0x28000-8(,%esi,8); decl %esi; jnz 2b\n"
	  "movl %cr3, %eax; movl %eax, %cr3\n"
	  "pushl %ecx; movl $0xc0001e42, %ecx; movl $511, %eax; xorl %edx, %edx; wrmsr; popl %ecx\n"
	  "movl %ecx, %esi; movl $0x40000000, %ebx\n"
	  "3: movl %esi, (%ebx); addl $4096, %ebx; decl %esi; jnz 3b\n"
	  "pushl %ecx; movl $0xc0001e42, %ecx; rdmsr; popl %ecx\n"
	  "subl $511, %eax; subl %eax, %ebp\n"
	  "decl %edi; jnz 1b");
/* The same without a word to the log. */
TINY_CODE(epochs_plain,
	  "1: movl %ecx, %esi\n"
	  "2: andl $~0x40, 0x28000-8(,%esi,8); decl %esi; jnz 2b\n"
	  "movl %cr3, %eax; movl %eax, %cr3\n"
	  "movl %ecx, %esi; movl $0x40000000, %ebx\n"
	  "3: movl %esi, (%ebx); addl $4096, %ebx; decl %esi; jnz 3b\n"
	  "decl %edi; jnz 1b");
/* From memory that is none, so KVM emulates it, to a user page. */
TINY_CODE(movs, "cld; movsl");

NEST_CODE(nest_rdmsr, "rdmsr");

static bool supported(struct cpuid *id, bool epml)
{
	int kvm = MUST(open("/dev/kvm", O_RDWR | O_CLOEXEC));
	bool has = false;
	uint32_t i;

	memset(id, 0, sizeof(*id));
	id->head.nent = 128;
	MUST(ioctl(kvm, KVM_GET_SUPPORTED_CPUID, id));
	close(kvm);
	for (i = 0; i < id->head.nent; i++) {
		struct kvm_cpuid_entry2 *e = &id->entry[i];

		if (e->function != 0x40000001)
			continue;
		has = e->eax & 1u << KVM_FEATURE_OOH_EPML;
		if (!epml)
			e->eax &= ~(1u << KVM_FEATURE_OOH_EPML);
	}
	return has;
}

static void cpu(struct tiny_vm *c, bool epml)
{
	struct cpuid id;

	supported(&id, epml);
	MUST(ioctl(c->vcpu, KVM_SET_CPUID2, &id));
	long_mode(c);
}

static void make_vm(bool epml)
{
	struct cpuid id;

	if (!absent && !supported(&id, true))
		ktap_skip("this machine has no EPML");
	window = mmap(NULL, LONG_PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	MUST(window == MAP_FAILED ? -1 : 0);
	madvise(window, LONG_PAGES * 4096, MADV_NOHUGEPAGE);
	memset(window, 1, LONG_PAGES * 4096);
	tiny_init_with(&v, TINY_IRQCHIP);
	madvise(v.ram, TINY_RAM, MADV_NOHUGEPAGE);
	MUST(tiny_slot(&v, 1, WINDOW_GPA, window, LONG_PAGES * 4096, 0));
	long_tables(&v);
	long_idt(&v);
	cpu(&v, epml);
}

/* What the guest's instruction does; TINY_GP if it faults. */
static int wrmsr_on(struct tiny_vm *c, uint32_t msr, uint64_t value)
{
	int end = TINY_RUN(c, wrmsr, .ecx = msr, .eax = value, .edx = value >> 32);

	if (end == TINY_GP)
		long_again(c);
	return end;
}

static int wrmsr(uint32_t msr, uint64_t value)
{
	return wrmsr_on(&v, msr, value);
}

static uint64_t rdmsr_on(struct tiny_vm *c, uint32_t msr)
{
	struct kvm_regs r;
	int end = TINY_RUN(c, rdmsr, .ecx = msr);

	CHECK(end == TINY_DONE, "rdmsr %x: %d", msr, end);
	MUST(ioctl(c->vcpu, KVM_GET_REGS, &r));
	return (uint32_t)r.rbx | r.rsi << 32;
}

static bool rdmsr_faults(uint32_t msr)
{
	int end = TINY_RUN(&v, rdmsr, .ecx = msr);

	if (end == TINY_GP)
		long_again(&v);
	return end == TINY_GP;
}

static uint64_t rdmsr(uint32_t msr)
{
	return rdmsr_on(&v, msr);
}

/* What the VM's process does. */
static int host_msr(bool set, uint32_t index, uint64_t *value)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} m = { .head.nmsrs = 1, .entry = { .index = index, .data = *value } };
	int n = ioctl(v.vcpu, set ? KVM_SET_MSRS : KVM_GET_MSRS, &m);

	*value = m.entry.data;
	return n;
}

static void log_on(uint64_t ctl)
{
	CHECK(wrmsr(MSR_EPML_BASE, BUFFER_GPA) == TINY_DONE);
	CHECK(wrmsr(MSR_EPML_INDEX, EPML_INDEX_START) == TINY_DONE);
	CHECK(wrmsr(MSR_EPML_CTL, ctl) == TINY_DONE);
}

static uint64_t entry(unsigned int logged)
{
	return *(volatile uint64_t *)long_entry(&v, BUFFER_GPA, EPML_INDEX_START - logged);
}

static void touch(unsigned int first, unsigned int pages)
{
	int end = TINY_RUN(&v, touch, .ebx = long_gva(first), .ecx = pages);

	CHECK(end == TINY_DONE, "%d", end);
}

static unsigned int dirty_ptes(unsigned int pages)
{
	unsigned int i, n = 0;

	for (i = 0; i < pages; i++)
		n += long_dirty(&v, i);
	return n;
}

static uint64_t exits(struct tiny_vm *c)
{
	return tiny_stat(c->vcpu, "exits");
}

/* Pages of slot 1 in KVM's dirty log since the last call: bit = frame. */
static unsigned int dirty_log(uint64_t *bitmap)
{
	struct kvm_dirty_log log = { .slot = 1, .dirty_bitmap = bitmap };
	unsigned int i, n = 0;

	memset(bitmap, 0, LONG_PAGES / 8);
	MUST(ioctl(v.vm, KVM_GET_DIRTY_LOG, &log));
	for (i = 0; i < LONG_PAGES; i++)
		n += bitmap[i / 64] >> (i % 64) & 1;
	return n;
}

static void t_both_logs(void)
{
	static uint64_t frames[LONG_PAGES / 64];
	unsigned int i, n = 300;

	make_vm(true);
	touch(0, LONG_PAGES);
	MUST(tiny_slot(&v, 1, WINDOW_GPA, window, LONG_PAGES * 4096, KVM_MEM_LOG_DIRTY_PAGES));
	touch(0, LONG_PAGES);		/* large mappings were split */
	dirty_log(frames);
	long_clean(&v, LONG_PAGES);
	log_on(CTL(0, 0));
	touch(100, n);
	CHECK(rdmsr(MSR_EPML_INDEX) == EPML_INDEX_START - n, "%#lx", (long)rdmsr(MSR_EPML_INDEX));
	for (i = 0; i < n; i++)
		CHECK(entry(i) == long_gva(100 + i), "entry %u: %#lx", i, (long)entry(i));
	CHECK(dirty_log(frames) == n);
	for (i = 0; i < n; i++)
		CHECK(frames[long_frame(100 + i) / 64] >> (long_frame(100 + i) % 64) & 1,
		      "frame %u of page %u is not in KVM's log", long_frame(100 + i), 100 + i);
	touch(100, n);			/* dirty already */
	CHECK(rdmsr(MSR_EPML_INDEX) == EPML_INDEX_START - n);
	CHECK(dirty_ptes(LONG_PAGES) == n);
}

static void t_what_is_logged(void)
{
	uint64_t *pte;

	make_vm(true);
	long_clean(&v, LONG_PAGES);
	pte = long_entry(&v, LONG_PT_LOW_GPA, SUPERVISOR_GPA >> 12);
	*pte &= ~LONG_D;
	TINY_RUN(&v, flush);
	log_on(CTL(0, 0));
	TINY_RUN(&v, load_all, .ebx = long_gva(0), .ecx = LONG_PAGES);
	CHECK(rdmsr(MSR_EPML_INDEX) == EPML_INDEX_START, "reads were logged");
	TINY_RUN(&v, store, .ebx = SUPERVISOR_GPA);
	CHECK(*pte & LONG_D);
	CHECK(rdmsr(MSR_EPML_INDEX) == EPML_INDEX_START, "a page of the kernel's was logged");
	TINY_RUN(&v, store, .ebx = LONG_HUGE_GVA + 0x12344);
	CHECK(rdmsr(MSR_EPML_INDEX) == EPML_INDEX_START - 1);
	CHECK(entry(0) == LONG_HUGE_GVA + 0x12000, "large page: %#lx", (long)entry(0));
	*long_pte(&v, 3) &= ~LONG_W;
	TINY_RUN(&v, flush);
	CHECK(TINY_RUN(&v, store, .ebx = long_gva(3)) == TINY_DONE, "CR0.WP is clear");
	CHECK(wrmsr(MSR_EPML_CTL, 0) == TINY_DONE);
	long_clean(&v, LONG_PAGES);
	touch(10, 5);
	CHECK(rdmsr(MSR_EPML_INDEX) >= EPML_INDEX_START - 2, "logged although off");
	CHECK(dirty_ptes(LONG_PAGES) == 5);
}

static void t_full(void)
{
	unsigned int i, pages = 600, known = 0;
	uint64_t e, ctl;

	make_vm(true);
	touch(0, LONG_PAGES);
	long_clean(&v, LONG_PAGES);
	log_on(CTL(VECTOR, 0));
	touch(999, 1);			/* the buffer's page is mapped now */
	CHECK(wrmsr(MSR_EPML_INDEX, EPML_INDEX_START) == TINY_DONE);
	e = exits(&v);
	CHECK(TINY_RUN(&v, touch_cli, .ebx = long_gva(0), .ecx = pages) == TINY_DONE);
	e = exits(&v) - e;
	CHECK(tiny_interrupts(&v) == 0, "an interrupt although they are off");
	TINY_RUN(&v, flush);
	CHECK(tiny_interrupts(&v) == 1, "%u interrupts", tiny_interrupts(&v));
	ctl = rdmsr(MSR_EPML_CTL);
	CHECK(ctl == (CTL(VECTOR, 0) | EPML_CTL_FULL), "%#llx", (long long)ctl);
	CHECK(rdmsr(MSR_EPML_INDEX) == EPML_INDEX_FULL);
	CHECK(e < 10, "%llu exits", (unsigned long long)e);
	ktap_note("%u pages, %llu exits, one of them for the full buffer", pages, (unsigned long long)e);
	/* In the log or in the page tables: no page is lost. */
	for (i = 0; i < EPML_ENTRIES; i++)
		known += entry(i) == long_gva(i);
	CHECK(known == EPML_ENTRIES, "%u entries", known);
	CHECK(dirty_ptes(pages) == pages, "%u dirty", dirty_ptes(pages));
	/* The guest has looked: it goes on. */
	long_clean(&v, LONG_PAGES);
	log_on(CTL(VECTOR, 0));
	touch(500, 512);
	CHECK(rdmsr(MSR_EPML_CTL) == CTL(VECTOR, 0), "512 entries are not too many");
	CHECK(rdmsr(MSR_EPML_INDEX) == EPML_INDEX_FULL);
	CHECK(entry(511) == long_gva(1011));
	CHECK(tiny_interrupts(&v) == 1);
}

static void t_index_at_once(void)
{
	struct kvm_regs r;
	uint64_t e;
	int i;

	make_vm(true);
	touch(0, LONG_PAGES);
	long_clean(&v, LONG_PAGES);
	log_on(CTL(0, 0));
	touch(0, 40);
	e = exits(&v);
	for (i = 0; i < 20; i++) {
		CHECK(TINY_RUN(&v, reset_store, .ecx = MSR_EPML_INDEX, .eax = 300 + i, .ebx = long_gva(100 + i)) ==
		      TINY_DONE);
		MUST(ioctl(v.vcpu, KVM_GET_REGS, &r));
		CHECK(r.rbx == 299u + i, "INDEX %llu", (unsigned long long)r.rbx);
		CHECK(*long_entry(&v, BUFFER_GPA, 300 + i) == long_gva(100 + i));
	}
	e = exits(&v) - e;
	/* Each piece ends with an exit, and time goes on. */
	CHECK(e < 25, "%llu exits for 20 pieces", (unsigned long long)e);
}

static void t_no_exits(void)
{
	unsigned int pages = 500, epochs = 200;
	struct kvm_regs r;
	uint64_t with, without;

	make_vm(true);
	touch(0, LONG_PAGES);
	log_on(CTL(VECTOR, 256));	/* the buffer's page gets mapped */
	CHECK(TINY_RUN(&v, epochs, .ecx = pages, .edi = 1) == TINY_DONE);
	CHECK(wrmsr(MSR_EPML_CTL, 0) == TINY_DONE);
	without = exits(&v);
	CHECK(TINY_RUN(&v, epochs_plain, .ecx = pages, .edi = epochs) == TINY_DONE);
	without = exits(&v) - without;
	*(volatile uint32_t *)(v.ram + TINY_COUNT_GPA) = 0;
	log_on(CTL(VECTOR, 256));
	with = exits(&v);
	CHECK(TINY_RUN(&v, epochs, .ecx = pages, .edi = epochs) == TINY_DONE);
	with = exits(&v) - with;
	MUST(ioctl(v.vcpu, KVM_GET_REGS, &r));
	CHECK(r.rbp == pages * epochs, "%llu pages logged", (unsigned long long)r.rbp);
	CHECK(tiny_interrupts(&v) == epochs, "%u interrupts", tiny_interrupts(&v));
	ktap_note("%u epochs of %u pages, %u interrupts: %llu exits; without a log %llu", epochs, pages,
		  tiny_interrupts(&v), (unsigned long long)with, (unsigned long long)without);
	CHECK(with <= without + 6, "%llu exits, without a log %llu", (unsigned long long)with,
	      (unsigned long long)without);
	CHECK(rdmsr(MSR_EPML_CTL) == (CTL(VECTOR, 256) | EPML_CTL_SIGNALLED));
}

/* An APIC ID of its own choice takes KVM's help by the processor away. */
static void t_threshold_by_kvm(void)
{
	struct kvm_lapic_state l;
	uint64_t e;

	make_vm(true);
	touch(0, LONG_PAGES);
	MUST(ioctl(v.vcpu, KVM_GET_LAPIC, &l));
	tiny_put32((uint8_t *)l.regs + 0x20, 7u << 24);
	MUST(ioctl(v.vcpu, KVM_SET_LAPIC, &l));
	long_clean(&v, LONG_PAGES);
	log_on(CTL(VECTOR, 10));
	touch(0, 9);
	TINY_RUN(&v, flush);
	CHECK(tiny_interrupts(&v) == 0);
	e = exits(&v);
	touch(9, 1);
	e = exits(&v) - e;
	CHECK(e >= 2, "no exit for the interrupt, so it is not KVM that raises it");
	TINY_RUN(&v, flush);
	CHECK(tiny_interrupts(&v) == 1, "%u interrupts", tiny_interrupts(&v));
	touch(10, 30);
	TINY_RUN(&v, flush);
	CHECK(tiny_interrupts(&v) == 1, "%u interrupts", tiny_interrupts(&v));
	CHECK(rdmsr(MSR_EPML_INDEX) == EPML_INDEX_START - 40);
	CHECK(entry(9) == long_gva(9));
}

static void t_values(void)
{
	static const struct {
		uint32_t msr;
		uint64_t value;
		bool ok;
	} tries[] = {
		{ MSR_EPML_BASE, BUFFER_GPA + 8, false },
		{ MSR_EPML_BASE, BUFFER_GPA | 1, false },
		{ MSR_EPML_BASE, 1ULL << 63, false },
		{ MSR_EPML_BASE, 1ULL << 52, false },
		{ MSR_EPML_BASE, ~0xfffULL, false },
		{ MSR_EPML_BASE, NOWHERE_GPA, true },
		{ MSR_EPML_INDEX, 512, false },
		{ MSR_EPML_INDEX, 0xfffe, false },
		{ MSR_EPML_INDEX, 0x10000, false },
		{ MSR_EPML_INDEX, 1ULL << 32 | 5, false },
		{ MSR_EPML_INDEX, ~0ULL, false },
		{ MSR_EPML_INDEX, 0, true },
		{ MSR_EPML_INDEX, 511, true },
		{ MSR_EPML_INDEX, EPML_INDEX_FULL, true },
		{ MSR_EPML_CTL, 1 << 2, false },
		{ MSR_EPML_CTL, 1 << 7, false },
		{ MSR_EPML_CTL, 1 << 26, false },
		{ MSR_EPML_CTL, 1ULL << 32, false },
		{ MSR_EPML_CTL, 1ULL << 60, false },
		{ MSR_EPML_CTL, CTL(1u, 0), false },
		{ MSR_EPML_CTL, CTL(31u, 0), false },
		{ MSR_EPML_CTL, CTL(32u, 0), true },
		{ MSR_EPML_CTL, CTL(0, 513), false },
		{ MSR_EPML_CTL, CTL(0, 512), true },
		{ MSR_EPML_CTL, EPML_CTL_VALID & ~(0x3ffULL << 16), true },
		{ MSR_EPML_CTL, 0, true },
		{ MSR_EPML_CAP, 0, false },
	};
	unsigned int i;
	int end, want;

	make_vm(true);
	for (i = 0; i < sizeof(tries) / sizeof(tries[0]); i++) {
		uint64_t value = tries[i].value;

		want = tries[i].ok ? TINY_DONE : TINY_GP;
		end = wrmsr(tries[i].msr, value);
		CHECK(end == want, "wrmsr %x %#llx: %d", tries[i].msr, (long long)value, end);
		if (tries[i].ok)
			CHECK(rdmsr(tries[i].msr) == value, "%x reads as %#llx", tries[i].msr,
			      (long long)rdmsr(tries[i].msr));
		end = host_msr(true, tries[i].msr, &value);
		CHECK(end == tries[i].ok, "KVM_SET_MSRS %x %#llx: %d", tries[i].msr, (long long)value, end);
	}
	CHECK(rdmsr_faults(MSR_EPML_CAP));
}

/* The log goes nowhere: the guest hears of it, and goes on. */
static void fault_at(uint64_t base, const char *what)
{
	uint32_t before = tiny_interrupts(&v);
	uint64_t ctl;

	long_clean(&v, 20);
	CHECK(wrmsr(MSR_EPML_INDEX, EPML_INDEX_START) == TINY_DONE);
	CHECK(wrmsr(MSR_EPML_BASE, base) == TINY_DONE, "%s", what);
	CHECK(wrmsr(MSR_EPML_CTL, CTL(VECTOR, 0)) == TINY_DONE);
	touch(0, 20);
	TINY_RUN(&v, flush);
	ctl = rdmsr(MSR_EPML_CTL);
	CHECK(ctl == (CTL(VECTOR, 0) | EPML_CTL_FAULT), "%s: %#llx", what, (long long)ctl);
	CHECK(rdmsr(MSR_EPML_INDEX) == EPML_INDEX_START, "%s", what);
	CHECK(dirty_ptes(20) == 20, "%s", what);
	CHECK(tiny_interrupts(&v) == before + 1, "%s: %u interrupts", what, tiny_interrupts(&v) - before);
}

static void t_no_buffer(void)
{
	uint8_t *rom = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint8_t *gone = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint8_t *around = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	unsigned int i;
	int end;

	MUST(rom == MAP_FAILED || gone == MAP_FAILED || around == MAP_FAILED ? -1 : 0);
	make_vm(true);
	touch(0, LONG_PAGES);
	memset(rom, 0x55, 4096);
	memset(around, 0x66, 3 * 4096);
	MUST(tiny_slot(&v, 2, ROM_GPA, rom, 4096, KVM_MEM_READONLY));
	MUST(tiny_slot(&v, 4, NOWHERE_GPA + 4096, around + 4096, 4096, 0));
	fault_at(NOWHERE_GPA, "no memory");
	fault_at(NOWHERE_GPA + 2 * 4096, "behind memory");
	fault_at(ROM_GPA, "read-only memory");
	fault_at(0xfee00000u, "the local APIC");
	fault_at(1ULL << 38, "far away");
	for (i = 0; i < 4096; i++)
		if (!CHECK(rom[i] == 0x55, "read-only memory was written at %u", i))
			break;
	/* All of its own page may be the log, and nothing beside it. */
	CHECK(wrmsr(MSR_EPML_BASE, NOWHERE_GPA + 4096) == TINY_DONE);
	CHECK(wrmsr(MSR_EPML_INDEX, EPML_INDEX_START) == TINY_DONE);
	CHECK(wrmsr(MSR_EPML_CTL, CTL(0, 0)) == TINY_DONE);
	long_clean(&v, LONG_PAGES);
	touch(0, 600);
	for (i = 0; i < 4096; i++)
		if (!CHECK(around[i] == 0x66 && around[2 * 4096 + i] == 0x66, "beside the buffer, at %u", i))
			break;
	CHECK(*(uint64_t *)(around + 4096) == long_gva(511));
	/* Memory that the VM's process took away: its own affair, and no more than that. */
	MUST(tiny_slot(&v, 3, GONE_GPA, gone, 4096, 0));
	MUST(munmap(gone, 4096));
	long_clean(&v, LONG_PAGES);
	CHECK(wrmsr(MSR_EPML_CTL, 0) == TINY_DONE);
	CHECK(wrmsr(MSR_EPML_BASE, GONE_GPA) == TINY_DONE);
	CHECK(wrmsr(MSR_EPML_INDEX, EPML_INDEX_START) == TINY_DONE);
	CHECK(wrmsr(MSR_EPML_CTL, CTL(0, 0)) == TINY_DONE);
	end = TINY_RUN(&v, store, .ebx = long_gva(0));
	CHECK(end == -EFAULT, "%d", end);
	CHECK(!long_dirty(&v, 0), "dirty although nothing was written");
}

/* KVM does the guest's store, after the processor could not: the guest has to look. */
static void t_emulated(void)
{
	uint64_t ctl;
	int end;

	make_vm(true);
	*long_entry(&v, LONG_PT_USER_GPA, LONG_PAGES) = NOWHERE_GPA | LONG_P | LONG_W | LONG_U | LONG_A | LONG_D;
	touch(0, 10);
	long_clean(&v, LONG_PAGES);
	log_on(CTL(VECTOR, 0));
	end = TINY_RUN(&v, movs, .esi = LONG_EXTRA_GVA, .edi = long_gva(4));
	CHECK(end == TINY_EXIT + KVM_EXIT_MMIO, "%d", end);
	memset(v.run->mmio.data, 0x77, 4);
	tiny_go(&v);
	CHECK(tiny_wait(&v, -1) == TINY_DONE);
	CHECK(*(uint32_t *)(window + long_frame(4) * 4096) == 0x77777777);
	CHECK(long_dirty(&v, 4));
	TINY_RUN(&v, flush);
	ctl = rdmsr(MSR_EPML_CTL);
	CHECK(ctl & EPML_CTL_FULL || entry(0) == long_gva(4), "the page is in no log: %#llx", (long long)ctl);
	CHECK(tiny_interrupts(&v) == !!(ctl & EPML_CTL_FULL));
}

static void t_ept_mode(void)
{
	static uint64_t frames[LONG_PAGES / 64];
	unsigned int i, n = 200;

	make_vm(true);
	touch(0, LONG_PAGES);
	MUST(tiny_slot(&v, 1, WINDOW_GPA, window, LONG_PAGES * 4096, KVM_MEM_LOG_DIRTY_PAGES));
	touch(0, LONG_PAGES);
	dirty_log(frames);		/* EPT's dirty bits are clear, the guest's are set */
	log_on(CTL(0, 0) | EPML_CTL_EPT_MODE);
	touch(50, n);
	CHECK(rdmsr(MSR_EPML_INDEX) == EPML_INDEX_START - n, "%#lx", (long)rdmsr(MSR_EPML_INDEX));
	for (i = 0; i < n; i++)
		CHECK(entry(i) == long_gva(50 + i), "entry %u: %#lx", i, (long)entry(i));
	CHECK(dirty_log(frames) == n);
	long_clean(&v, LONG_PAGES);	/* and the other way round: only the guest's are clear */
	touch(50, n);
	dirty_log(frames);
	CHECK(wrmsr(MSR_EPML_CTL, CTL(0, 0) | EPML_CTL_EPT_MODE) == TINY_DONE);
	CHECK(wrmsr(MSR_EPML_INDEX, EPML_INDEX_START) == TINY_DONE);
	CHECK(TINY_RUN(&v, load_all, .ebx = long_gva(0), .ecx = LONG_PAGES) == TINY_DONE);
	CHECK(rdmsr(MSR_EPML_INDEX) == EPML_INDEX_START, "reads were logged");
}

/* A buffer that the host has not mapped is mapped, and no entry is missing. */
static void t_buffer_comes(void)
{
	uint64_t e;
	unsigned int i;

	make_vm(true);
	touch(0, LONG_PAGES);
	long_clean(&v, LONG_PAGES);
	log_on(CTL(0, 0));
	for (i = 0; i < 10; i++) {
		MUST(madvise(v.ram + BUFFER_GPA, 4096, MADV_DONTNEED));
		e = exits(&v);
		touch(i, 1);
		e = exits(&v) - e;
		CHECK(e <= 4, "%llu exits", (unsigned long long)e);
		CHECK(entry(i) == long_gva(i), "entry %u: %#lx", i, (long)entry(i));
	}
}

static void t_two_vcpus(void)
{
	struct tiny_vm w;
	unsigned int i;

	make_vm(true);
	tiny_add_vcpu(&w, &v, 1, TINY_IRQCHIP);
	cpu(&w, true);
	touch(0, LONG_PAGES);
	long_clean(&v, LONG_PAGES);
	TINY_RUN(&w, flush);
	log_on(CTL(0, 0));
	CHECK(wrmsr_on(&w, MSR_EPML_BASE, BUFFER2_GPA) == TINY_DONE);
	CHECK(wrmsr_on(&w, MSR_EPML_INDEX, EPML_INDEX_START) == TINY_DONE);
	CHECK(wrmsr_on(&w, MSR_EPML_CTL, CTL(0, 0)) == TINY_DONE);
	TINY_GO(&v, touch, .ebx = long_gva(0), .ecx = 200);
	TINY_GO(&w, touch, .ebx = long_gva(200), .ecx = 300);
	CHECK(tiny_wait(&v, -1) == TINY_DONE);
	CHECK(tiny_wait(&w, -1) == TINY_DONE);
	CHECK(rdmsr(MSR_EPML_INDEX) == EPML_INDEX_START - 200);
	CHECK(rdmsr_on(&w, MSR_EPML_INDEX) == EPML_INDEX_START - 300);
	for (i = 0; i < 200; i++)
		CHECK(entry(i) == long_gva(i), "entry %u: %#lx", i, (long)entry(i));
	for (i = 0; i < 300; i++)
		CHECK(*long_entry(&v, BUFFER2_GPA, 511 - i) == long_gva(200 + i), "entry %u of the other", i);
}

static void t_state(void)
{
	static const uint32_t msrs[] = { MSR_EPML_CTL, MSR_EPML_BASE, MSR_EPML_INDEX };
	struct {
		struct kvm_msr_list head;
		uint32_t index[1024];
	} list = { .head.nmsrs = 1024 };
	uint64_t value[3], first[3];
	unsigned int i, j, found = 0;
	int kvm;

	make_vm(true);
	kvm = MUST(open("/dev/kvm", O_RDWR | O_CLOEXEC));
	MUST(ioctl(kvm, KVM_GET_MSR_INDEX_LIST, &list));
	for (i = 0; i < list.head.nmsrs; i++)
		for (j = 0; j < 3; j++)
			found += list.head.indices[i] == msrs[j];
	CHECK(found == 3, "%u of the registers are in KVM_GET_MSR_INDEX_LIST", found);
	for (j = 0; j < 3; j++)
		CHECK(host_msr(false, msrs[j], &first[j]) == 1);
	CHECK(first[0] == 0 && first[1] == 0 && first[2] == EPML_INDEX_START);
	long_clean(&v, LONG_PAGES);
	log_on(CTL(VECTOR, 100));
	touch(0, 150);
	for (j = 0; j < 3; j++)
		CHECK(host_msr(false, msrs[j], &value[j]) == 1);
	CHECK(value[0] == (CTL(VECTOR, 100) | EPML_CTL_SIGNALLED), "%#llx", (long long)value[0]);
	CHECK(value[1] == BUFFER_GPA && value[2] == EPML_INDEX_START - 150);
	/* Another state, and this one again: it goes on where it was. */
	for (j = 0; j < 3; j++)
		CHECK(host_msr(true, msrs[j], &first[j]) == 1);
	touch(150, 10);
	for (j = 3; j-- > 0;)
		CHECK(host_msr(true, msrs[j], &value[j]) == 1);
	touch(200, 10);
	CHECK(entry(149) == long_gva(149) && entry(150) == long_gva(200) && entry(159) == long_gva(209));
	CHECK(tiny_interrupts(&v) == 1);
}

/* Of L1, which logs, and its L2, with the page tables of L1. */
static void t_nested(void)
{
	uint8_t *directory;
	uint32_t reason;
	struct cpuid id;
	uint64_t x = 0;

	if (!supported(&id, true))
		ktap_skip("this machine has no EPML");
	window = mmap(NULL, 4 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	MUST(window == MAP_FAILED ? -1 : 0);
	tiny_init_with(&v, TINY_IRQCHIP);
	MUST(tiny_slot(&v, 1, WINDOW_GPA, window, 4 << 20, 0));
	if (!nest_init(&v))
		ktap_skip("KVM has no nested VMX here");
	directory = v.ram + TINY_PD_GPA + 4 * (WINDOW_GPA >> 22);
	*directory = (*directory | LONG_U) & ~LONG_D;
	TINY_RUN(&v, flush);
	log_on(CTL(0, 0));
	CHECK(TINY_RUN(&v, store, .ebx = WINDOW_GPA + 0x5000) == TINY_DONE);
	CHECK(*directory & LONG_D);
	CHECK(rdmsr(MSR_EPML_INDEX) == EPML_INDEX_START - 1);
	CHECK(entry(0) == WINDOW_GPA + 0x5000);
	*directory &= ~LONG_D;
	TINY_RUN(&v, flush);
	CHECK(NEST_RUN(&v, 0, &reason, nest_touch, .ebx = WINDOW_GPA, .ecx = 8) == TINY_DONE);
	CHECK(reason == NEST_VMCALL, "%#x", reason);
	CHECK(*directory & LONG_D, "L2 wrote nothing");
	CHECK(rdmsr(MSR_EPML_INDEX) == EPML_INDEX_START - 1, "what L2 wrote is in L1's log");
	CHECK(NEST_RUN(&v, 1, &reason, nest_rdmsr, .ecx = MSR_EPML_INDEX) == TINY_DONE);
	CHECK(reason == 31, "RDMSR of L2: %#x", reason);
	/* L1's state goes out and in while L2 runs. */
	CHECK(NEST_RUN(&v, 1, &reason, nest_load, .ebx = NOWHERE_GPA) == TINY_EXIT + KVM_EXIT_MMIO);
	CHECK(host_msr(false, MSR_EPML_INDEX, &x) == 1 && x == EPML_INDEX_START - 1, "%#llx", (long long)x);
	CHECK(host_msr(false, MSR_EPML_BASE, &x) == 1 && x == BUFFER_GPA, "%#llx", (long long)x);
	CHECK(host_msr(false, MSR_EPML_CTL, &x) == 1 && x == CTL(0, 0), "%#llx", (long long)x);
	x = 300;
	CHECK(host_msr(true, MSR_EPML_INDEX, &x) == 1);
	x = 0;
	CHECK(host_msr(false, MSR_EPML_INDEX, &x) == 1 && x == 300, "%#llx", (long long)x);
	tiny_go(&v);
	CHECK(tiny_wait(&v, -1) == TINY_DONE);
	CHECK(tiny_eax(&v) == NEST_VMCALL, "%#x", tiny_eax(&v));
	CHECK(rdmsr(MSR_EPML_INDEX) == 300);
	*directory &= ~LONG_D;
	TINY_RUN(&v, flush);
	CHECK(TINY_RUN(&v, store, .ebx = WINDOW_GPA) == TINY_DONE);
	CHECK(*long_entry(&v, BUFFER_GPA, 300) == WINDOW_GPA);
}

static void t_not_offered(void)
{
	uint64_t x = 0;

	make_vm(false);
	CHECK(wrmsr(MSR_EPML_CTL, CTL(0, 0)) == TINY_GP);
	CHECK(wrmsr(MSR_EPML_BASE, BUFFER_GPA) == TINY_GP);
	CHECK(wrmsr(MSR_EPML_INDEX, 0) == TINY_GP);
	CHECK(rdmsr_faults(MSR_EPML_CTL));
	CHECK(rdmsr_faults(MSR_EPML_CAP));
	x = CTL(0, 0);
	CHECK(host_msr(true, MSR_EPML_CTL, &x) <= 0);
	touch(0, LONG_PAGES);
	CHECK(entry(0) == 0, "%#lx", (long)entry(0));
}

static void t_cpu_without(void)
{
	struct cpuid id;

	CHECK(!supported(&id, true), "this machine has EPML");
}

int main(int argc, char **argv)
{
	static const struct ktap_test with[] = {
		{ "virtual addresses for the guest, physical ones for the host, at once", t_both_logs },
		{ "writes to user pages are logged and nothing else", t_what_is_logged },
		{ "a full buffer with interrupts off: no page is lost", t_full },
		{ "a write of the index takes effect at once, without exit", t_index_at_once },
		{ "no exits in steady state", t_no_exits },
		{ "the interrupt where KVM has to raise it", t_threshold_by_kvm },
		{ "values that the registers refuse", t_values },
		{ "buffers that are no memory", t_no_buffer },
		{ "a buffer that is not mapped yet", t_buffer_comes },
		{ "a store that KVM emulates", t_emulated },
		{ "by the dirty bits of EPT", t_ept_mode },
		{ "two vCPUs, two logs", t_two_vcpus },
		{ "state goes out and in", t_state },
		{ "L1 has it, L2 has not", t_nested },
		{ "a guest that was not offered it", t_not_offered },
	};
	static const struct ktap_test without[] = {
		{ "this CPU has none", t_cpu_without },
		{ "no guest has it", t_not_offered },
	};

	absent = argc > 1 && !strcmp(argv[1], "--absent");
	return absent ? KTAP_RUN(without) : KTAP_RUN(with);
}
