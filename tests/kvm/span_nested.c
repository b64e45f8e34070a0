// SPDX-License-Identifier: GPL-2.0
/*
 * An L1 with a guest of its own that has the window's memory: what L0 reads and
 * writes for the L1's VMX instructions keeps to protection, and huge shadow
 * entries are taken apart for logs and protection.
 *
 * test: mem/nested-tiny timeout=240 tags=fast,debug
 */
#include "watchlib.h"
#include "tinynested.h"

#define SECRET		0x5ec2e700u

static struct guest g;

static void l1_new(struct party *l1)
{
	uint32_t reason;

	party_new(l1, g.span, "L1a");
	if (!nest_init(&l1->vm))
		ktap_skip("no VMX for VMs");
	CHECK(NEST_RUN(&l1->vm, 0, &reason, nest_nothing) == TINY_DONE && reason == NEST_VMCALL, "vmlaunch: %#x", reason);
	CHECK(NEST_RUN(&l1->vm, 1, &reason, nest_store, .ebx = GPA(1), .eax = 0x1234) == TINY_DONE &&
	      reason == NEST_VMCALL && get32(g.mem + PAGE) == 0x1234, "the nested guest: %#x, %#x", reason,
	      get32(g.mem + PAGE));
}

/* What an instruction of the L1 has L0 write to page 5, with and without protection. */
struct writer {
	const char *name;
	int (*make)(struct tiny_vm *v, uint32_t gpa);
};

static int make_vmread(struct tiny_vm *v, uint32_t gpa)
{
	return TINY_RUN(v, vmread_mem, .ebx = gpa, .ecx = VMCS_GUEST_DR7);
}

static int make_vmptrst(struct tiny_vm *v, uint32_t gpa)
{
	return TINY_RUN(v, vmptrst, .ebx = gpa);
}

/* Marks a VMCS as not launched; this one is another than the current. */
static int make_vmclear(struct tiny_vm *v, uint32_t gpa)
{
	nest_put64(v->ram + NEST_POINTER_GPA, gpa);
	return TINY_RUN(v, vmclear, .ebx = NEST_POINTER_GPA);
}

/* The VM exit stores an MSR of the nested guest; the list is ours but for the value. */
static int make_msr_store(struct tiny_vm *v, uint32_t gpa)
{
	uint32_t reason;
	int end;

	MUST(nest_write(v, VMCS_EXIT_MSR_STORE_ADDR, gpa));
	MUST(nest_write(v, VMCS_EXIT_MSR_STORE_ADDR + 1, 0));
	MUST(nest_write(v, VMCS_EXIT_MSR_STORE_COUNT, 1));
	end = NEST_RUN(v, 1, &reason, nest_nothing);
	if (end == TINY_DONE)
		MUST(nest_write(v, VMCS_EXIT_MSR_STORE_COUNT, 0));
	return end;
}

/* Page 5 as the list of one MSR, or full of ones. */
static void fill(bool list)
{
	memset(g.mem + 5 * PAGE, 0xff, PAGE);
	if (!list)
		return;
	tiny_put32(g.mem + 5 * PAGE, 0x174);	/* SYSENTER_CS, which is 0 */
	tiny_put32(g.mem + 5 * PAGE + 4, 0);
}

static void t_writes(void)
{
	static const struct writer writers[] = {
		{ "vmread", make_vmread }, { "vmptrst", make_vmptrst }, { "vmclear", make_vmclear },
		/* Last: where the MSR cannot be stored the L1 comes to an end. */
		{ "the VM-exit MSR-store area", make_msr_store },
	};
	uint8_t before[PAGE];
	struct party s, l1;
	uint32_t w;
	size_t i;
	int end;

	guest_new(&g, 0);
	watcher_new(&s, g.span, "s");
	l1_new(&l1);
	w = watch_new(s.fd, 0, ALLOW);
	for (i = 0; i < sizeof(writers) / sizeof(writers[0]); i++) {
		const struct writer *k = &writers[i];

		fill(k->make == make_msr_store);
		memcpy(before, g.mem + 5 * PAGE, PAGE);
		end = k->make(&l1.vm, GPA(5));
		CHECK(end == TINY_DONE && memcmp(before, g.mem + 5 * PAGE, PAGE), "%s writes nothing: %d", k->name, end);
		MUST(protect(s.fd, w, ACC_RX, 5, 1));
		fill(k->make == make_msr_store);
		end = k->make(&l1.vm, GPA(5));
		CHECK(!memcmp(before, g.mem + 5 * PAGE, PAGE), "%s wrote to a protected page (%d)", k->name, end);
		CHECK(end == TINY_DONE || end == TINY_GP || end == TINY_SHUTDOWN, "%s: %d", k->name, end);
		MUST(protect(s.fd, w, ACC_RWX, 5, 1));
	}
}

/* A current VMCS in the window is written back by vmclear, a whole page. */
static void t_vmcs_in_window(void)
{
	uint8_t before[PAGE];
	struct party s, l1;
	uint32_t w;
	int i;

	guest_new(&g, 0);
	watcher_new(&s, g.span, "s");
	l1_new(&l1);
	w = watch_new(s.fd, 0, ALLOW);
	for (i = 0; i < 2; i++) {
		memset(g.mem + 5 * PAGE, 0, PAGE);
		tiny_put32(g.mem + 5 * PAGE, nest_msr(l1.vm.vcpu, 0x480));
		CHECK(NEST_AT(&l1.vm, vmptrld, GPA(5)) == 0, "vmptrld");
		MUST(nest_write(&l1.vm, VMCS_EXCEPTION_BITMAP, SECRET + i));
		if (i)
			MUST(protect(s.fd, w, ACC_RX, 5, 1));
		memcpy(before, g.mem + 5 * PAGE, PAGE);
		NEST_AT(&l1.vm, vmclear, GPA(5));
		CHECK((memcmp(before, g.mem + 5 * PAGE, PAGE) == 0) == i, "vmclear %s",
		      i ? "wrote to a protected page" : "writes nothing");
	}
}

/* What L0 reads for the L1 tells nothing of a page that may not be read. */
static void t_reads(void)
{
	struct party s, l1;
	uint32_t w, i;

	guest_new(&g, 0);
	watcher_new(&s, g.span, "s");
	l1_new(&l1);
	w = watch_new(s.fd, 0, ALLOW);
	for (i = 0; i < 2; i++) {
		tiny_put32(g.mem + 5 * PAGE, SECRET);
		MUST(nest_write(&l1.vm, VMCS_EXCEPTION_BITMAP, 7));
		if (i)
			MUST(protect(s.fd, w, 0, 5, 1));
		TINY_RUN(&l1.vm, vmwrite_mem, .ebx = GPA(5), .ecx = VMCS_EXCEPTION_BITMAP);
		CHECK(TINY_RUN(&l1.vm, vmread_reg, .ecx = VMCS_EXCEPTION_BITMAP) == TINY_DONE, "vmread");
		CHECK((tiny_eax(&l1.vm) == SECRET) == !i, "vmwrite from %s page: %#x", i ? "a protected" : "an open",
		      tiny_eax(&l1.vm));
	}
	MUST(protect(s.fd, w, ACC_RWX, 5, 1));
	/* A VMCS where none may be read. */
	tiny_put32(g.mem + 5 * PAGE, nest_msr(l1.vm.vcpu, 0x480));
	MUST(protect(s.fd, w, 0, 5, 1));
	CHECK(NEST_AT(&l1.vm, vmptrld, GPA(5)) != 0, "vmptrld of a page that may not be read");
}

/* The nested guest's memory in huge shadow entries. */
static void huge_shadows(struct party *l1)
{
	uint32_t reason;

	CHECK(NEST_RUN(&l1->vm, 1, &reason, nest_touch, .ebx = GPA(0), .ecx = PAGES, .eax = 1) == TINY_DONE &&
	      reason == NEST_VMCALL, "touch: %#x", reason);
	CHECK(tiny_stat(l1->vm.vm, "pages_2m") == MEM_BYTES / HUGE, "%llu huge entries",
	      (unsigned long long)tiny_stat(l1->vm.vm, "pages_2m"));
}

static void manual_protect(struct tiny_vm *v)
{
	struct kvm_enable_cap cap = {
		.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
		.args[0] = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET,
	};

	MUST(ioctl(v->vm, KVM_ENABLE_CAP, &cap));
}

static void t_huge(void)
{
	static const uint32_t at[] = { 0, 3, 77, 511, 512, 1029, PAGES - 1 };
	struct kvm_span_log_range r[16];
	struct kvm_span_log_fetch f;
	struct party s, l1;
	uint32_t w, p, reason;
	size_t i;
	int round;

	guest_new(&g, 0);
	if (!guest_huge(g.mem))
		ktap_skip("no huge pages in this kernel");
	watcher_new(&s, g.span, "s");
	l1_new(&l1);
	manual_protect(&l1.vm);
	huge_shadows(&l1);
	w = watch_new(s.fd, 0, ALLOW);
	MUST(subscribe(s.fd, w, ACC_W, LOG, 0, PAGES));
	MUST(log_fetch(s.fd, w, r, 16, 0, PAGES, &f));
	CHECK(f.dirty == PAGES, "%llu pages at first", (unsigned long long)f.dirty);
	for (round = 0; round < 3; round++) {
		for (i = round; i < sizeof(at) / sizeof(at[0]); i++)
			CHECK(NEST_RUN(&l1.vm, 1, &reason, nest_store, .ebx = GPA(at[i]), .eax = round + 2) == TINY_DONE &&
			      get32(g.mem + at[i] * PAGE) == round + 2u, "store in page %u: %#x", at[i], reason);
		MUST(log_fetch(s.fd, w, r, 16, 0, PAGES, &f));
		CHECK(f.dirty == sizeof(at) / sizeof(at[0]) - round, "round %d: %llu pages in the log", round,
		      (unsigned long long)f.dirty);
		for (i = round; i < sizeof(at) / sizeof(at[0]); i++) {
			for (p = 0; p < f.count && !(at[i] >= r[p].first && at[i] - r[p].first < r[p].pages); p++)
				;
			CHECK(p < f.count, "round %d: page %u is not in the log", round, at[i]);
		}
		MUST(log_fetch(s.fd, w, r, 16, 0, PAGES, &f));
		CHECK(f.dirty == 0, "round %d: %llu pages that nobody wrote", round, (unsigned long long)f.dirty);
	}
	MUST(unsubscribe(s.fd, w, ACC_W, 0, PAGES));
	huge_shadows(&l1);

	/* One page in a block is protected, its neighbours are not. */
	p = watch_new(s.fd, 0, ALLOW);
	MUST(protect(s.fd, p, ACC_RX, 700, 1));
	for (i = 699; i <= 701; i++) {
		tiny_put32(g.mem + i * PAGE, 0);
		NEST_RUN(&l1.vm, 1, &reason, nest_store, .ebx = GPA(i), .eax = SECRET);
		CHECK((get32(g.mem + i * PAGE) == SECRET) == (i != 700), "page %zu of the block: %#x", i,
		      get32(g.mem + i * PAGE));
	}
	CHECK(NEST_RUN(&l1.vm, 1, &reason, nest_load, .ebx = GPA(700)) == TINY_DONE && reason == NEST_VMCALL,
	      "a read of the protected page: %#x", reason);
	MUST(watch_destroy(s.fd, p));
	huge_shadows(&l1);
}

/* A nested guest's write is known from the D bit alone: it must not go with the entry. */
static void t_zapped(void)
{
	struct kvm_span_log_range r[16];
	struct kvm_span_log_fetch f;
	struct party s, l1;
	uint32_t w, p, reason;

	guest_new(&g, 0);
	watcher_new(&s, g.span, "s");
	l1_new(&l1);
	CHECK(NEST_RUN(&l1.vm, 1, &reason, nest_touch, .ebx = GPA(0), .ecx = PAGES, .eax = 1) == TINY_DONE, "touch");
	w = watch_new(s.fd, 0, ALLOW);
	MUST(subscribe(s.fd, w, ACC_W, LOG, 0, PAGES));
	MUST(log_fetch(s.fd, w, r, 16, 0, PAGES, &f));
	for (p = 20; p < 24; p++) {
		NEST_RUN(&l1.vm, 1, &reason, nest_store, .ebx = GPA(p), .eax = 2);
		MUST(madvise(l1.window + p * PAGE, PAGE, MADV_DONTNEED));
		MUST(log_fetch(s.fd, w, r, 16, 0, PAGES, &f));
		CHECK(f.dirty == 1 && r[0].first == p, "%llu pages, page %u was written before its entry went",
		      (unsigned long long)f.dirty, p);
		NEST_RUN(&l1.vm, 1, &reason, nest_load, .ebx = GPA(p));
		MUST(log_fetch(s.fd, w, r, 16, 0, PAGES, &f));
		CHECK(f.dirty == 0, "%llu pages after a read", (unsigned long long)f.dirty);
		NEST_RUN(&l1.vm, 1, &reason, nest_store, .ebx = GPA(p), .eax = 3);
		MUST(log_fetch(s.fd, w, r, 16, 0, PAGES, &f));
		CHECK(f.dirty == 1 && r[0].first == p, "%llu pages after a write to page %u", (unsigned long long)f.dirty, p);
	}
}

int main(void)
{
	static const struct ktap_test tests[] = {
		{ "writes by L0", t_writes },
		{ "a VMCS in the window", t_vmcs_in_window },
		{ "reads by L0", t_reads },
		{ "huge pages, manual protect", t_huge },
		{ "entries that go", t_zapped },
	};

	span_require();
	return KTAP_RUN(tests);
}
