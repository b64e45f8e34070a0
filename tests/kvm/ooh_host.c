// SPDX-License-Identifier: GPL-2.0
/*
 * A guest that logs its own writes, against an oracle: what is reported is what
 * was written, by whomever, once per arming; whatever the guest asks for harms
 * only itself.
 *
 *	ooh_host [--no-pml]	load kvm-intel with pml=0 for the time
 *	ooh_host --logs		beside KVM's own dirty log and one of a span
 *
 * test: ooh/host timeout=400 tags=fast
 * test: ooh/host-logs timeout=600 args=--logs tags=fast
 * test: ooh/host-without-pml timeout=400 args=--no-pml tags=fast
 */
#define KTAP_DEADLINE 120
#include "oohhost.h"
#include "tinynested.h"

#define NEXT	"imull $1664525, %eax; addl $1013904223, %eax; movl %eax, %edx; shrl $12, %edx; andl %esi, %edx;" \
		"shll $12, %edx;"
/* Pseudo-random pages of a power of two, for ecx times: [ebx + page] += 1. */
TINY_CODE(scatter, "1: " NEXT "incl (%ebx,%edx); decl %ecx; jnz 1b");
TINY_CODE(scatter_for_ever, "1: " NEXT "incl (%ebx,%edx); movl $300, %ecx; 2: decl %ecx; jnz 2b; jmp 1b");
TINY_CODE(ins, "cld; movl %ebx, %edi; movl $0x30, %edx; rep insb");
/* Write a page once, say so, go on only by leaving: the other CPU may look without an exit of this one. */
TINY_CODE(say, "incl (%ebx); movl $1, (%ecx); 1: pause; cmpl $0, (%ecx); jne 1b");

TINY_CODE(call_and_stay, "vmcall; 1: jmp 1b");

#define MSR_STEAL_TIME	0x4b564d03u

static bool no_pml;
static struct ooh_guest g;
static uint8_t set[PAGES], want[PAGES];

static void scatter_model(uint32_t eax, uint32_t count, uint32_t pages)
{
	memset(want, 0, PAGES);
	while (count--) {
		eax = eax * 1664525 + 1013904223;
		want[eax >> 12 & (pages - 1)] = 1;
	}
}

static void scatter(struct tiny_vm *v, uint32_t seed, uint32_t count)
{
	CHECK(TINY_RUN(v, scatter, .ebx = WINDOW_GPA, .eax = seed, .esi = PAGES - 1, .ecx = count) == TINY_DONE,
	      "scatter");
}

static void want_set(const char *what)
{
	unsigned int i, lost = 0, over = 0;

	for (i = 0; i < PAGES; i++) {
		lost += want[i] && !set[i];
		over += set[i] && !want[i];
	}
	CHECK(!lost, "%s: %u pages were lost", what, lost);
	CHECK(!over, "%s: %u pages that nobody wrote", what, over);
}

/* Exactly this page, or none for a number beyond them. */
static void want_page(unsigned int page, const char *what)
{
	memset(want, 0, PAGES);
	if (page < PAGES)
		want[page] = 1;
	ooh_fetch(&g, set, KVM_OOH_REARM);
	want_set(what);
}

/* The feature as CPUID has it. */

static void t_offered(void)
{
	int kvm = MUST(open("/dev/kvm", O_RDWR | O_CLOEXEC));

	ooh_new(&g, 0);
	CHECK(ioctl(g.vm.vm, KVM_CHECK_EXTENSION, KVM_CAP_OOH) == ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_OOH),
	      "the VM has another answer");
	CHECK(ooh_call(&g, KVM_OOH_FETCH, 0, 0, 0) == -KVM_OOH_ENXIO, "a fetch without a ring");
	/* A guest that is not offered it has none of it. */
	ooh_new_with(&g, 0, false);
	CHECK(ooh_call(&g, KVM_OOH_FETCH, 0, 0, 0) == KVM_HC_ENOSYS, "a hypercall without the feature");
	CHECK(ooh_wrmsr(&g.vm, MSR_KVM_OOH_RING, ooh_ring_value(0)) == TINY_GP, "RING without the feature");
	CHECK(ooh_wrmsr(&g.vm, MSR_KVM_OOH_INT, 0x60) == TINY_GP, "INT without the feature");
	CHECK(ooh_wrmsr(&g.vm, MSR_KVM_OOH_RING, 0) == TINY_GP, "RING 0 without the feature");
	CHECK(TINY_RUN(&g.vm, ooh_rdmsr, .ecx = MSR_KVM_OOH_RING, .ebx = OOH_LIST_GPA) == TINY_GP,
	      "rdmsr without the feature");
	CHECK(ooh_host_rdmsr(&g.vm, MSR_KVM_OOH_RING) == 0, "RING is not 0");
}

static void t_registers(void)
{
	unsigned int bit, order;
	uint32_t vector;
	uint64_t value;

	ooh_new(&g, 0);
	CHECK(ooh_wrmsr(&g.vm, MSR_KVM_OOH_RING, 0) == TINY_DONE, "off while off");
	for (order = 0; order <= 15; order++) {
		int end = ooh_wrmsr(&g.vm, MSR_KVM_OOH_RING, ooh_ring_value(order));

		/* Order 10 is 4 MiB: with the header, a page more than there is. */
		CHECK(end == (order < KVM_OOH_MAX_ORDER ? TINY_DONE : TINY_GP), "order %u: %d", order, end);
		if (end != TINY_DONE)
			continue;
		CHECK(ooh_host_rdmsr(&g.vm, MSR_KVM_OOH_RING) == ooh_ring_value(order), "order %u reads differently",
		      order);
		CHECK(g.ring->version == KVM_OOH_RING_VERSION && g.ring->size == 512u << order && !g.ring->head &&
		      !g.ring->tail && !g.ring->flags && !g.ring->info, "header of order %u", order);
	}
	for (bit = 5; bit < 12; bit++)
		CHECK(ooh_wrmsr(&g.vm, MSR_KVM_OOH_RING, ooh_ring_value(0) | 1u << bit) == TINY_GP, "bit %u", bit);
	for (bit = 1; bit < 64; bit++)
		CHECK(ooh_wrmsr(&g.vm, MSR_KVM_OOH_RING, 1ULL << bit) == TINY_GP, "bit %u without enable", bit);
	/* No RAM; RAM for the header only; the end of all addresses. */
	CHECK(ooh_wrmsr(&g.vm, MSR_KVM_OOH_RING, 0x70000001) == TINY_GP, "a ring that is no RAM");
	CHECK(ooh_wrmsr(&g.vm, MSR_KVM_OOH_RING, (OOH_GPA + OOH_BYTES - PAGE) | 1) == TINY_GP, "half a ring");
	CHECK(ooh_wrmsr(&g.vm, MSR_KVM_OOH_RING, 0xfffffffffffff001) == TINY_GP, "the last page");
	CHECK(ooh_wrmsr(&g.vm, MSR_KVM_OOH_RING, 0x000ffffffffff001) == TINY_GP, "the last page of 52 bits");
	CHECK(ooh_host_rdmsr(&g.vm, MSR_KVM_OOH_RING) == ooh_ring_value(9), "a refused value changed it");
	CHECK(ooh_wrmsr(&g.vm, MSR_KVM_OOH_RING, 0) == TINY_DONE, "off");
	CHECK(ooh_call(&g, KVM_OOH_FETCH, 0, 0, 0) == -KVM_OOH_ENXIO, "a fetch while off");

	for (vector = 0; vector < 256; vector++)
		CHECK(ooh_wrmsr(&g.vm, MSR_KVM_OOH_INT, vector) == (vector && vector < 32 ? TINY_GP : TINY_DONE),
		      "vector %u", vector);
	for (bit = 8; bit < 64; bit++) {
		value = 1ULL << bit | 0x60;
		CHECK(ooh_wrmsr(&g.vm, MSR_KVM_OOH_INT, value) == (bit < 12 ? TINY_GP : TINY_DONE), "bit %u", bit);
		CHECK(bit < 12 || ooh_host_rdmsr(&g.vm, MSR_KVM_OOH_INT) == value, "bit %u reads differently", bit);
	}
	/* The VM's process obeys the same rules. */
	CHECK(ooh_host_wrmsr(&g.vm, MSR_KVM_OOH_RING, ooh_ring_value(0) | 1 << 5) == 0, "RING by the process");
	CHECK(ooh_host_wrmsr(&g.vm, MSR_KVM_OOH_INT, 5) == 0, "INT by the process");
	CHECK(ooh_host_wrmsr(&g.vm, MSR_KVM_OOH_INT, 0) == 1, "INT 0 by the process");
}

static void list_set(unsigned int i, uint64_t gfn, uint64_t pages)
{
	struct kvm_ooh_range *list = (void *)(g.own + (OOH_LIST_GPA - OOH_GPA));

	list[i] = (struct kvm_ooh_range){ gfn, pages };
}

static void t_bad_calls(void)
{
	static const uint64_t bad[][2] = {
		{ GFN(0), 0 }, { GFN(0), KVM_OOH_MAX_PAGES + 1 }, { GFN(0), ~0ull }, { ~0ull, 1 }, { ~0ull, 2 },
		{ 1ull << 40, 1 }, { (1ull << 40) - 1, 2 }, { 1ull << 52, 1 },
	};
	static const uint64_t no_ram[][2] = {
		{ GFN(PAGES), 1 }, { GFN(0) - 1, 1 }, { GFN(0), PAGES + 1 }, { GFN(0) - 1, 2 }, { 0xfee00, 1 },
		{ 0x7ffff, 65536 },
	};
	unsigned int op, i, bit;

	ooh_new(&g, 0);
	ooh_begin(&g, 0);
	for (i = 5; i < 40; i++)
		CHECK(ooh_call(&g, i, 0, 0, 0) == -EINVAL, "operation %u", i);
	CHECK(ooh_call(&g, 0xffffffff, 0, 0, 0) == -EINVAL, "operation -1");
	for (op = KVM_OOH_ARM; op <= KVM_OOH_DISARM; op++) {
		for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
			CHECK(ooh_range(&g, op, bad[i][0], bad[i][1]) == -EINVAL, "op %u, bad range %u", op, i);
		for (i = 0; i < sizeof(no_ram) / sizeof(no_ram[0]); i++)
			CHECK(ooh_range(&g, op, no_ram[i][0], no_ram[i][1]) == (op == KVM_OOH_ARM ? -EINVAL : 1),
			      "op %u, range %u that is no RAM", op, i);
		CHECK(ooh_call(&g, op, OOH_LIST_GPA, 0, 0) == 0, "op %u, no range", op);
		CHECK(ooh_call(&g, op, OOH_LIST_GPA, KVM_OOH_MAX_RANGES + 1, 0) == -E2BIG, "op %u, too many", op);
		CHECK(ooh_call(&g, op, OOH_LIST_GPA, 0xffffffff, 0) == -E2BIG, "op %u, far too many", op);
		for (bit = 0; bit < 3; bit++)
			CHECK(ooh_call(&g, op, OOH_LIST_GPA + (1 << bit), 1, 0) == -EINVAL, "op %u, alignment", op);
		for (bit = 0; bit < 32; bit++)
			CHECK(ooh_call(&g, op, OOH_LIST_GPA, 1, 1u << bit) == -EINVAL, "op %u, flag %u", op, bit);
		CHECK(ooh_call(&g, op, 0x70000000, 1, 0) == -EFAULT, "op %u, a list that is no RAM", op);
		CHECK(ooh_call(&g, op, 0xfffffff8, 1, 0) == -EFAULT, "op %u, a list at the end", op);
		/* The good ones of a list are done. */
		list_set(0, GFN(0), 1);
		list_set(1, GFN(1), 1);
		list_set(2, GFN(1), 0);
		list_set(3, GFN(1), 1);
		CHECK(ooh_call(&g, op, OOH_LIST_GPA, 4, 0) == 2, "op %u, two good ranges", op);
		CHECK(ooh_call(&g, op, OOH_LIST_GPA + 32, 2, 0) == -EINVAL, "op %u, then a bad one", op);
		/* A list that runs out of RAM: nothing of what cannot be read is done. */
		CHECK(ooh_call(&g, op, OOH_GPA + OOH_BYTES - 16, 2, 0) == -EFAULT, "op %u, half a list", op);
	}
	for (bit = 0; bit < 32; bit++) {
		CHECK(ooh_call(&g, KVM_OOH_FETCH, 0, 0, 1u << bit) == (1u << bit == KVM_OOH_REARM ? 0 : -EINVAL),
		      "fetch, flag %u", bit);
		CHECK(ooh_call(&g, KVM_OOH_DISARM_ALL, 0, 0, 1u << bit) == -EINVAL, "disarm all, flag %u", bit);
		CHECK(ooh_call(&g, KVM_OOH_STATS, OOH_STATS_GPA, 0, 1u << bit) == -EINVAL, "stats, flag %u", bit);
	}
	for (op = KVM_OOH_FETCH; op <= KVM_OOH_DISARM_ALL; op++)
		CHECK(ooh_call(&g, op, 1, 0, 0) == -EINVAL && ooh_call(&g, op, 0, 1, 0) == -EINVAL, "op %u, a1, a2", op);
	CHECK(ooh_call(&g, KVM_OOH_STATS, OOH_STATS_GPA, 1, 0) == -EINVAL, "stats, a2");
	CHECK(ooh_call(&g, KVM_OOH_STATS, 0x70000000, 0, 0) == -EFAULT, "stats, no RAM");
	/* What the guest says of its ring. */
	g.ring->tail = 1;
	CHECK(ooh_call(&g, KVM_OOH_FETCH, 0, 0, 0) == -EINVAL, "tail before head");
	g.ring->tail = g.ring->head - g.ring->size - 1;
	CHECK(ooh_call(&g, KVM_OOH_FETCH, 0, 0, 0) == -EINVAL, "more in the ring than its size");
	g.ring->tail = g.ring->head;
	CHECK(ooh_call(&g, KVM_OOH_FETCH, 0, 0, 0) == 0, "fetch");
	/* The ring's memory goes away. */
	MUST(tiny_slot(&g.vm, 2, OOH_GPA, g.own, 0, 0));
	CHECK(ooh_call(&g, KVM_OOH_FETCH, 0, 0, 0) == -EFAULT, "a ring that is no RAM any more");
	CHECK(ooh_call(&g, KVM_OOH_ARM, OOH_LIST_GPA, 1, 0) == -EFAULT, "a list that is no RAM any more");
}

/* A process of the guest cannot. */
static void t_user_mode(void)
{
	struct kvm_sregs s;
	struct kvm_regs r;

	ooh_new(&g, 0);
	ooh_begin(&g, 0);
	tiny_prepare(&g.vm, piece_vmcall, piece_vmcall_end,
		     &(struct tiny_regs){ .eax = KVM_HC_OOH, .ebx = KVM_OOH_FETCH });
	MUST(ioctl(g.vm.vcpu, KVM_GET_SREGS, &s));
	s.cs.dpl = s.ss.dpl = s.ds.dpl = s.es.dpl = 3;
	s.cs.selector |= 3;
	s.ss.selector |= 3;
	MUST(ioctl(g.vm.vcpu, KVM_SET_SREGS, &s));
	MUST(ioctl(g.vm.vcpu, KVM_GET_REGS, &r));
	r.rflags |= 3 << 12;
	MUST(ioctl(g.vm.vcpu, KVM_SET_REGS, &r));
	tiny_go(&g.vm);
	CHECK(tiny_wait(&g.vm, -1) == TINY_DONE, "the call ended otherwise");
	CHECK((int)tiny_eax(&g.vm) == -EPERM, "%d", (int)tiny_eax(&g.vm));
}

static void t_bad_ioctls(void)
{
	struct kvm_ooh_info info = { 0 };
	unsigned int bit;

	ooh_new(&g, 0);
	MUST(ooh_wrote(&g, WINDOW_GPA, PAGE, 0));	/* nobody wants to know */
	ooh_begin(&g, 0);
	CHECK_ERR(ooh_wrote(&g, WINDOW_GPA, 0, 0), EINVAL);
	CHECK_ERR(ooh_wrote(&g, ~0ull, 2, 0), EINVAL);
	CHECK_ERR(ooh_wrote(&g, 1, ~0ull, 0), EINVAL);
	CHECK_ERR(ooh_wrote(&g, 1ull << 52, 1, 0), EINVAL);
	for (bit = 0; bit < 64; bit++)
		CHECK_ERR(ooh_wrote(&g, WINDOW_GPA, 1, 1ull << bit), EINVAL);
	CHECK_ERR(ioctl(g.vm.vm, KVM_OOH_WROTE, NULL), EFAULT);
	CHECK_ERR(ioctl(g.vm.vm, KVM_OOH_SET_INFO, NULL), EFAULT);
	for (bit = 0; bit < 32; bit++) {
		info.info = 1u << bit;
		if (info.info != KVM_OOH_INFO_UNSEEN_WRITERS)
			CHECK_ERR(ioctl(g.vm.vm, KVM_OOH_SET_INFO, &info), EINVAL);
		info.info = 0;
		info.pad = 1u << bit;
		CHECK_ERR(ioctl(g.vm.vm, KVM_OOH_SET_INFO, &info), EINVAL);
		info.pad = 0;
	}
	CHECK(!g.ring->info, "info %#x", g.ring->info);
	info.info = KVM_OOH_INFO_UNSEEN_WRITERS;
	MUST(ioctl(g.vm.vm, KVM_OOH_SET_INFO, &info));
	CHECK(ooh_call(&g, KVM_OOH_FETCH, 0, 0, 0) == 0 && g.ring->info == info.info, "info %#x", g.ring->info);
	info.info = 0;
	MUST(ioctl(g.vm.vm, KVM_OOH_SET_INFO, &info));
	/* The device that has just gone has written since the last fetch. */
	CHECK(ooh_call(&g, KVM_OOH_FETCH, 0, 0, 0) == 0 && g.ring->info == KVM_OOH_INFO_UNSEEN_WRITERS,
	      "info %#x", g.ring->info);
	CHECK(ooh_call(&g, KVM_OOH_FETCH, 0, 0, 0) == 0 && !g.ring->info, "info %#x", g.ring->info);
	/* One that came and went between two fetches. */
	info.info = KVM_OOH_INFO_UNSEEN_WRITERS;
	MUST(ioctl(g.vm.vm, KVM_OOH_SET_INFO, &info));
	info.info = 0;
	MUST(ioctl(g.vm.vm, KVM_OOH_SET_INFO, &info));
	CHECK(ooh_call(&g, KVM_OOH_FETCH, 0, 0, 0) == 0 && g.ring->info == KVM_OOH_INFO_UNSEEN_WRITERS,
	      "info %#x", g.ring->info);
	CHECK(ooh_call(&g, KVM_OOH_FETCH, 0, 0, 0) == 0 && !g.ring->info, "info %#x", g.ring->info);
	/* Of the vCPU they are no calls. */
	CHECK_ERR(ioctl(g.vm.vcpu, KVM_OOH_SET_INFO, &info), EINVAL);
}

/* Reports. */

static void exact_with(bool huge)
{
	struct kvm_ooh_stats s;
	unsigned int round;

	ooh_new(&g, 0);
	if (huge && !guest_huge(g.mem))
		ktap_skip("no huge pages in this kernel");
	TINY_RUN(&g.vm, touch, .ebx = WINDOW_GPA, .ecx = PAGES);
	ooh_begin(&g, 2);
	scatter(&g.vm, 1, 100);
	want_page(PAGES, "nothing armed");
	ooh_arm(&g, 0, PAGES);
	want_page(PAGES, "nothing written");
	for (round = 0; round < 4; round++) {
		uint32_t seed = 77 + round, count = round == 3 ? 1 : 100 << round;

		scatter_model(seed, count, PAGES);
		scatter(&g.vm, seed, count);
		ooh_fetch(&g, set, KVM_OOH_REARM);
		want_set("round");
		want_page(PAGES, "fetched twice");
	}
	/* Reads are no writes; what is not armed again is not reported again. */
	for (round = 0; round < 16; round++)
		CHECK(TINY_RUN(&g.vm, load, .ebx = GPA(round * 8)) == TINY_DONE, "load");
	want_page(PAGES, "a read");
	TINY_RUN(&g.vm, touch, .ebx = GPA(10), .ecx = 5);
	CHECK(ooh_fetch(&g, set, 0) == 5, "five pages");
	TINY_RUN(&g.vm, touch, .ebx = GPA(8), .ecx = 5);
	CHECK(ooh_fetch(&g, set, 0) == 2 && set[8] && set[9], "pages that were not armed again");
	/* What was disarmed is not reported, neither is what waited. */
	ooh_arm(&g, 0, PAGES);
	TINY_RUN(&g.vm, touch, .ebx = GPA(100), .ecx = 100);
	ooh_disarm(&g, 100, 50);
	ooh_disarm(&g, 300, 600);
	TINY_RUN(&g.vm, touch, .ebx = GPA(300), .ecx = 700);
	memset(want, 0, PAGES);
	memset(want + 150, 1, 50);
	memset(want + 900, 1, 100);
	ooh_fetch(&g, set, KVM_OOH_REARM);
	want_set("disarmed");
	CHECK(ooh_call(&g, KVM_OOH_DISARM_ALL, 0, 0, 0) == 0, "disarm all");
	TINY_RUN(&g.vm, touch, .ebx = WINDOW_GPA, .ecx = PAGES);
	want_page(PAGES, "all disarmed");
	if (huge)
		CHECK(tiny_stat(g.vm.vm, "pages_2m") == MEM_BYTES / HUGE, "%llu huge pages after all was disarmed",
		      (unsigned long long)tiny_stat(g.vm.vm, "pages_2m"));
	s = ooh_stats(&g);
	CHECK(s.arms == 2 * PAGES && s.rearms >= 400 && s.fetched >= s.rearms && s.by_user == 0, "%llu %llu %llu",
	      s.arms, s.rearms, s.fetched);
	CHECK(no_pml ? !s.by_pml && s.by_fault : s.by_pml > s.by_fault, "%llu by PML, %llu by faults", s.by_pml,
	      s.by_fault);
}

static void t_exact(void)
{
	exact_with(false);
}

static void t_exact_huge(void)
{
	exact_with(true);
}

/* Entries go and are made anew. */
static void t_made_anew(void)
{
	unsigned int p;

	ooh_new(&g, 0);
	TINY_RUN(&g.vm, touch, .ebx = WINDOW_GPA, .ecx = PAGES);
	ooh_begin(&g, 0);
	ooh_arm(&g, 0, PAGES);
	for (p = 40; p < 50; p++) {
		MUST(madvise(g.mem + p * PAGE, PAGE, MADV_DONTNEED));
		CHECK(TINY_RUN(&g.vm, load, .ebx = GPA(p)) == TINY_DONE, "load");
		want_page(PAGES, "a read that made an entry");
		TINY_RUN(&g.vm, store, .ebx = GPA(p), .eax = p);
		want_page(p, "a write to the new entry");
		TINY_RUN(&g.vm, store, .ebx = GPA(p), .eax = p);
		MUST(madvise(g.mem + p * PAGE, PAGE, MADV_DONTNEED));
		want_page(p, "a write before the entry went");
	}
	/* The slot goes, and comes back. */
	MUST(tiny_slot(&g.vm, 1, WINDOW_GPA, g.mem, 0, 0));
	MUST(tiny_slot(&g.vm, 1, WINDOW_GPA, g.mem, MEM_BYTES, 0));
	memset(want, 1, PAGES);
	ooh_fetch(&g, set, KVM_OOH_REARM);
	want_set("a slot that went");
	TINY_RUN(&g.vm, store, .ebx = GPA(7), .eax = 7);
	want_page(7, "a write to the slot that came back");
}

/* More than the ring holds; runs that come in one entry. */
static void t_full_ring(void)
{
	unsigned int p, n = 0, calls = 0;
	int left;

	ooh_new(&g, 0);
	ooh_begin(&g, 0);
	ooh_arm(&g, 0, PAGES);
	TINY_RUN(&g.vm, touch, .ebx = WINDOW_GPA, .ecx = PAGES);
	CHECK(ooh_call(&g, KVM_OOH_FETCH, 0, 0, KVM_OOH_REARM) == 0 && g.ring->head == 1, "%u entries of one run",
	      g.ring->head);
	CHECK(KVM_OOH_ENTRY_GFN(g.entries[0]) == GFN(0) && KVM_OOH_ENTRY_PAGES(g.entries[0]) == PAGES, "entry %#llx",
	      (unsigned long long)g.entries[0]);
	g.ring->tail = 1;
	memset(want, 0, PAGES);
	for (p = 0; p < PAGES; p += 2) {
		TINY_RUN(&g.vm, store, .ebx = GPA(p), .eax = p);
		want[p] = 1;
	}
	memset(set, 0, PAGES);
	left = ooh_call(&g, KVM_OOH_FETCH, 0, 0, KVM_OOH_REARM);
	CHECK(left == PAGES / 2 - 512, "%d are left", left);
	CHECK(g.ring->head - g.ring->tail == 512, "%u in the ring", g.ring->head - g.ring->tail);
	/* No room: nothing is lost, nothing is overwritten. */
	for (p = 0; p < 3; p++)
		CHECK(ooh_call(&g, KVM_OOH_FETCH, 0, 0, KVM_OOH_REARM) == left, "a fetch without room");
	/* A little room. */
	CHECK(KVM_OOH_ENTRY_GFN(g.entries[1]) == GFN(0), "entry %#llx", (unsigned long long)g.entries[1]);
	g.ring->tail += 5;
	set[0] = set[2] = set[4] = set[6] = set[8] = 1;
	n = 5;
	CHECK(ooh_call(&g, KVM_OOH_FETCH, 0, 0, KVM_OOH_REARM) == left - 5, "room for five");
	do {
		n += ooh_consume(&g, set);
		left = ooh_call(&g, KVM_OOH_FETCH, 0, 0, KVM_OOH_REARM);
	} while (left && calls++ < 10);
	n += ooh_consume(&g, set);
	CHECK(n == PAGES / 2, "%u frames", n);
	want_set("full ring");
	/* Head and tail run over. */
	g.ring->head = g.ring->tail = 0xfffffffe;
	for (p = 0; p < 10; p += 2)
		TINY_RUN(&g.vm, store, .ebx = GPA(p), .eax = p);
	memset(want, 0, PAGES);
	want[0] = want[2] = want[4] = want[6] = want[8] = 1;
	ooh_fetch(&g, set, KVM_OOH_REARM);
	want_set("over the end");
	CHECK(g.ring->head == 3, "head %u", g.ring->head);
}

/* What does not come by an entry of the guest's own table. */
static void t_other_writers(void)
{
	struct kvm_ooh_stats before, after;

	ooh_new(&g, 0);
	TINY_RUN(&g.vm, touch, .ebx = WINDOW_GPA, .ecx = PAGES);
	ooh_begin(&g, 0);
	ooh_arm(&g, 0, PAGES);
	CHECK(TINY_RUN(&g.vm, ins, .ebx = GPA(30) + 8, .ecx = 4) == TINY_DONE, "ins");
	want_page(30, "data of a port");
	before = ooh_stats(&g);
	MUST(ooh_wrote(&g, GPA(50) + 100, 1, 0));
	want_page(50, "the VM's process");
	MUST(ooh_wrote(&g, GPA(50) + PAGE - 1, 2, 0));
	memset(want, 0, PAGES);
	want[50] = want[51] = 1;
	ooh_fetch(&g, set, KVM_OOH_REARM);
	want_set("over the end of a page");
	MUST(ooh_wrote(&g, 0, 1ull << 40, 0));
	memset(want, 1, PAGES);
	ooh_fetch(&g, set, KVM_OOH_REARM);
	want_set("all of it");
	after = ooh_stats(&g);
	CHECK(after.by_user - before.by_user == 3 + PAGES, "%llu by the process", after.by_user - before.by_user);
	/* The walk of page tables that are armed: accessed and dirty bits. */
	tiny_page_directory(g.mem + 60 * PAGE);
	tiny_paging(&g.vm, GPA(60));
	CHECK(TINY_RUN(&g.vm, store, .ebx = GPA(70), .eax = 1) == TINY_DONE, "store");
	ooh_fetch(&g, set, KVM_OOH_REARM);
	CHECK(set[70], "a write under paging was lost");
	CHECK(!(get32(g.mem + 60 * PAGE + (GPA(70) >> 22) * 4) & 0x60) || set[60], "bits of the walk were lost");
	/* A PV clock: KVM writes it. */
	CHECK(ooh_wrmsr(&g.vm, 0x4b564d01, GPA(40) | 1) == TINY_DONE, "wrmsr");
	CHECK(TINY_RUN(&g.vm, load, .ebx = GPA(61)) == TINY_DONE, "load");
	ooh_fetch(&g, set, KVM_OOH_REARM);
	CHECK(get32(g.mem + 40 * PAGE + 16), "no PV clock was written");
	CHECK(set[40], "KVM's own write was lost");
}

/* A write of another vCPU that has not left the guest since. */
static void t_other_vcpu(void)
{
	struct tiny_vm second;
	volatile uint32_t *flag;
	unsigned int i;

	ooh_new(&g, 0);
	flag = (void *)(g.own + (OOH_STATS_GPA - OOH_GPA));
	tiny_add_vcpu(&second, &g.vm, 1, TINY_IRQCHIP);
	ooh_begin(&g, 0);
	ooh_arm(&g, 0, PAGES);
	for (i = 0; i < 50; i++) {
		*flag = 0;
		TINY_GO(&second, say, .ebx = GPA(i), .ecx = OOH_STATS_GPA);
		while (!*flag)
			usleep(100);
		want_page(i, "the other vCPU");
		*flag = 0;
		CHECK(tiny_wait(&second, SOON) == TINY_DONE, "the other vCPU");
		want_page(PAGES, "reported twice");
	}
	/* A vCPU that is made now logs, too. */
	tiny_add_vcpu(&second, &g.vm, 2, TINY_IRQCHIP);
	ooh_cpuid(&second, true);
	TINY_RUN(&second, store, .ebx = GPA(99), .eax = 1);
	want_page(99, "a new vCPU");
	/* And the registers are the VM's. */
	CHECK(ooh_host_rdmsr(&second, MSR_KVM_OOH_RING) == ooh_ring_value(0), "RING of the other vCPU");
	TINY_RUN(&g.vm, store, .ebx = GPA(3), .eax = 1);
	ooh_fetch_by(&g, &second, set, KVM_OOH_REARM);
	CHECK(set[3], "a fetch by the other vCPU");
}

/* A copy that is made of what is reported. */

struct copy {
	uint8_t *at;
	unsigned long epochs, reported, changed;
};

static void copy_new(struct copy *c)
{
	memset(c, 0, sizeof(*c));
	c->at = mmap(NULL, MEM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	MUST(c->at == MAP_FAILED ? -1 : 0);
	memcpy(c->at, g.mem, MEM_BYTES);
}

static void copy_page(struct copy *c, unsigned int i)
{
	c->reported++;
	if (!memcmp(c->at + i * PAGE, g.mem + i * PAGE, PAGE))
		return;
	c->changed++;
	memcpy(c->at + i * PAGE, g.mem + i * PAGE, PAGE);
}

static void copy_check(struct copy *c, const char *name)
{
	unsigned int i, bad = 0;

	for (i = 0; i < PAGES; i++)
		bad += memcmp(c->at + i * PAGE, g.mem + i * PAGE, PAGE) != 0;
	CHECK(!bad, "%s: %u pages were lost", name, bad);
	CHECK(c->changed > 20, "%s: %lu pages: too little to prove anything", name, c->changed);
	ktap_note("%s: %lu epochs, %lu pages reported, %lu of them changed", name, c->epochs, c->reported, c->changed);
}

static void ooh_epoch(struct copy *c)
{
	unsigned int i;

	ooh_fetch(&g, set, KVM_OOH_REARM);
	for (i = 0; i < PAGES; i++)
		if (set[i])
			copy_page(c, i);
	c->epochs++;
}

static void kvm_epoch(struct copy *c)
{
	static uint64_t bitmap[PAGES / 64];
	struct kvm_dirty_log log = { .slot = 1, .dirty_bitmap = bitmap };
	unsigned int i;

	MUST(ioctl(g.vm.vm, KVM_GET_DIRTY_LOG, &log));
	for (i = 0; i < PAGES; i++)
		if (bitmap[i / 64] >> (i % 64) & 1)
			copy_page(c, i);
	c->epochs++;
}

static void span_epoch(struct copy *c, struct party *p, uint32_t watch)
{
	static struct kvm_span_log_range ranges[PAGES];
	struct kvm_span_log_fetch f;
	unsigned int i;
	uint64_t k;

	MUST(log_fetch(p->fd, watch, ranges, PAGES, 0, PAGES, &f));
	for (i = 0; i < f.count; i++)
		for (k = ranges[i].first; k < ranges[i].first + ranges[i].pages; k++)
			copy_page(c, k);
	c->epochs++;
}

/*
 * Two vCPUs write, a third fetches for the guest; KVM's own dirty log comes and
 * goes, a span's log is there from the beginning. Each log has all of it.
 */
static void logs_with(bool huge)
{
	struct tiny_vm writer[2];
	struct copy ooh, kvm, span;
	struct party p;
	uint32_t watch;
	int i, fd;

	ooh_new(&g, 0);
	if (huge && !guest_huge(g.mem))
		ktap_skip("no huge pages in this kernel");
	fd = span_create(g.memfd, g.vm.vm);
	tiny_add_vcpu(&writer[0], &g.vm, 1, TINY_IRQCHIP);
	tiny_add_vcpu(&writer[1], &g.vm, 2, TINY_IRQCHIP);
	ooh_begin(&g, 0);
	ooh_arm(&g, 0, PAGES);
	copy_new(&ooh);
	copy_new(&span);
	watcher_new(&p, fd, "w");
	watch = watch_new(p.fd, 0, ALLOW);
	MUST(subscribe(p.fd, watch, ACC_W, LOG, 0, PAGES));
	span_epoch(&span, &p, watch);
	span.changed = span.reported = 0;
	for (i = 0; i < 2; i++)
		TINY_GO(&writer[i], scatter_for_ever, .ebx = WINDOW_GPA, .eax = i + 1, .esi = PAGES - 1);
	MUST(tiny_slot(&g.vm, 1, WINDOW_GPA, g.mem, MEM_BYTES, KVM_MEM_LOG_DIRTY_PAGES));
	copy_new(&kvm);
	for (i = 0; i < 40; i++) {
		usleep(1000 + 300 * (i % 7));
		ooh_epoch(&ooh);
		if (i % 3 == 1)
			span_epoch(&span, &p, watch);
		if (i % 4 == 2)
			kvm_epoch(&kvm);
		if (i == 20) {
			MUST(tiny_slot(&g.vm, 1, WINDOW_GPA, g.mem, MEM_BYTES, 0));
			MUST(tiny_slot(&g.vm, 1, WINDOW_GPA, g.mem, MEM_BYTES, KVM_MEM_LOG_DIRTY_PAGES));
			memcpy(kvm.at, g.mem, MEM_BYTES);
		}
	}
	tiny_abort(&writer[0]);
	tiny_abort(&writer[1]);
	ooh_epoch(&ooh);
	kvm_epoch(&kvm);
	span_epoch(&span, &p, watch);
	copy_check(&ooh, "OoH");
	copy_check(&kvm, "KVM");
	copy_check(&span, "span");
	/* The others end, the guest's own goes on; and the other way round. */
	MUST(watch_destroy(p.fd, watch));
	MUST(tiny_slot(&g.vm, 1, WINDOW_GPA, g.mem, MEM_BYTES, 0));
	scatter(&g.vm, 9, 300);
	ooh_epoch(&ooh);
	copy_check(&ooh, "OoH alone");
	MUST(tiny_slot(&g.vm, 1, WINDOW_GPA, g.mem, MEM_BYTES, KVM_MEM_LOG_DIRTY_PAGES));
	kvm_epoch(&kvm);
	memcpy(kvm.at, g.mem, MEM_BYTES);
	CHECK(ooh_wrmsr(&g.vm, MSR_KVM_OOH_RING, 0) == TINY_DONE, "off");
	scatter(&g.vm, 10, 300);
	kvm_epoch(&kvm);
	copy_check(&kvm, "KVM alone");
}

static void t_logs(void)
{
	logs_with(false);
}

static void t_logs_huge(void)
{
	logs_with(true);
}

/* A nested guest writes to memory that its hypervisor has armed. */
static void t_nested(void)
{
	uint32_t reason;
	unsigned int p;
	bool again = false;

	ooh_new(&g, 0);
	if (!nest_init(&g.vm))
		ktap_skip("no nested VMX");
	ooh_begin(&g, 0);
	TINY_RUN(&g.vm, touch, .ebx = WINDOW_GPA, .ecx = PAGES);
	ooh_arm(&g, 0, PAGES);
	for (p = 0; p < 40; p++) {
		if (p % 4 == 1) {
			CHECK(NEST_RUN(&g.vm, again, &reason, nest_load, .ebx = GPA(p)) == TINY_DONE &&
			      reason == NEST_VMCALL, "nested load: %#x", reason);
			want_page(PAGES, "a nested read");
		}
		CHECK(NEST_RUN(&g.vm, again || p % 4 == 1, &reason, nest_store, .ebx = GPA(p), .eax = p) == TINY_DONE &&
		      reason == NEST_VMCALL, "nested store: %#x", reason);
		again = true;
		want_page(p, "a nested write");
		if (p % 4 == 2) {
			CHECK(NEST_RUN(&g.vm, true, &reason, nest_store, .ebx = GPA(p), .eax = p + 1) == TINY_DONE,
			      "nested store");
			want_page(p, "a nested write by an entry that was there");
			TINY_RUN(&g.vm, store, .ebx = GPA(p), .eax = p);
			want_page(p, "a write of the hypervisor to the same page");
		}
	}
	CHECK(NEST_RUN(&g.vm, true, &reason, nest_touch, .ebx = WINDOW_GPA, .ecx = PAGES) == TINY_DONE, "nested touch");
	memset(want, 1, PAGES);
	ooh_fetch(&g, set, KVM_OOH_REARM);
	want_set("all, nested");
}

static uint32_t interrupts_soon(struct tiny_vm *v, uint32_t want)
{
	int i;

	for (i = 0; i < 50 && tiny_interrupts(v) < want; i++) {
		usleep(1000);
		TINY_RUN(v, load, .ebx = GPA(0));
	}
	return tiny_interrupts(v);
}

static void t_interrupt(void)
{
	uint64_t msr = 0x60 | 10 << KVM_OOH_INT_FRAMES_SHIFT;
	unsigned int i;

	ooh_new(&g, 0);
	CHECK(ooh_wrmsr(&g.vm, MSR_KVM_OOH_INT, msr) == TINY_DONE, "INT");
	ooh_begin(&g, 0);
	ooh_arm(&g, 0, PAGES);
	TINY_RUN(&g.vm, touch, .ebx = WINDOW_GPA, .ecx = 9);
	CHECK(interrupts_soon(&g.vm, 1) == 0, "nine are enough");
	TINY_RUN(&g.vm, store, .ebx = GPA(20), .eax = 1);
	CHECK(interrupts_soon(&g.vm, 1) == 1, "none with ten");
	TINY_RUN(&g.vm, touch, .ebx = GPA(100), .ecx = 100);
	CHECK(interrupts_soon(&g.vm, 2) == 1, "a second one before a fetch");
	CHECK(ooh_fetch(&g, set, KVM_OOH_REARM) == 110, "110 frames");
	TINY_RUN(&g.vm, touch, .ebx = GPA(100), .ecx = 100);
	CHECK(interrupts_soon(&g.vm, 2) == 2, "none after the fetch");
	ooh_fetch(&g, set, KVM_OOH_REARM);
	/* At once; by the process's write, while the vCPU does not run. */
	CHECK(ooh_wrmsr(&g.vm, MSR_KVM_OOH_INT, 0x60) == TINY_DONE, "INT");
	MUST(ooh_wrote(&g, GPA(5), 1, 0));
	CHECK(interrupts_soon(&g.vm, 3) == 3, "none for the process's write");
	CHECK(ooh_stats(&g).interrupts == 3, "%llu interrupts", ooh_stats(&g).interrupts);
	/* For frames that wait already when it is asked for. */
	CHECK(ooh_wrmsr(&g.vm, MSR_KVM_OOH_INT, 0) == TINY_DONE, "INT");
	ooh_fetch(&g, set, KVM_OOH_REARM);
	TINY_RUN(&g.vm, touch, .ebx = GPA(200), .ecx = 2);
	CHECK(ooh_wrmsr(&g.vm, MSR_KVM_OOH_INT, 0x60 | 3 << KVM_OOH_INT_FRAMES_SHIFT) == TINY_DONE, "INT");
	CHECK(interrupts_soon(&g.vm, 4) == 3, "two are enough");
	CHECK(ooh_wrmsr(&g.vm, MSR_KVM_OOH_INT, 0x60 | 2 << KVM_OOH_INT_FRAMES_SHIFT) == TINY_DONE, "INT");
	CHECK(interrupts_soon(&g.vm, 4) == 4, "none for what waits");
	/* To a vCPU that is not there; to none. */
	for (i = 0; i < 2; i++) {
		CHECK(ooh_wrmsr(&g.vm, MSR_KVM_OOH_INT, i ? 0 : 7ull << KVM_OOH_INT_APIC_SHIFT | 0x60) == TINY_DONE,
		      "INT");
		ooh_fetch(&g, set, KVM_OOH_REARM);
		TINY_RUN(&g.vm, store, .ebx = GPA(20), .eax = 1);
		CHECK(interrupts_soon(&g.vm, 5) == 4, "one more");
	}
	CHECK(ooh_wrmsr(&g.vm, MSR_KVM_OOH_INT, 0xffffffff00000060) == TINY_DONE, "INT");
	ooh_fetch(&g, set, KVM_OOH_REARM);
	TINY_RUN(&g.vm, store, .ebx = GPA(20), .eax = 1);
	CHECK(interrupts_soon(&g.vm, 5) == 4, "one to nobody");
}

/*
 * A vCPU that is preempted writes its steal time, at a place where nobody may be
 * woken. Where that frame is armed, the interrupt comes all the same.
 */
static void t_preempted(void)
{
	struct kvm_ooh_range *list;
	uint64_t before;
	unsigned int i;

	ooh_new(&g, 0);
	list = (void *)(g.own + (OOH_LIST_GPA - OOH_GPA));
	if (!ooh_host_wrmsr(&g.vm, MSR_STEAL_TIME, GPA(7) | 1))
		ktap_skip("no steal time in this kernel");
	CHECK(ooh_wrmsr(&g.vm, MSR_KVM_OOH_INT, 0x60) == TINY_DONE, "INT");
	ooh_begin(&g, 0);
	for (i = 0; i < 20; i++) {
		before = ooh_stats(&g).interrupts;
		ooh_fetch(&g, set, 0);
		/* By itself: whoever else armed it would have to be scheduled first. */
		*list = (struct kvm_ooh_range){ GFN(7), 1 };
		TINY_GO(&g.vm, call_and_stay, .eax = KVM_HC_OOH, .ebx = KVM_OOH_ARM, .ecx = OOH_LIST_GPA, .edx = 1);
		usleep(3000);
		tiny_abort(&g.vm);
		usleep(1000);
		CHECK(ooh_stats(&g).interrupts > before, "no interrupt when it was preempted");
		ooh_fetch(&g, set, 0);
		CHECK(set[7], "its steal time was not reported");
	}
}

/* The registers go to another VM with the memory: it has to take all for written. */
static void t_restored(void)
{
	uint64_t ring, interrupt;
	struct ooh_guest to;

	ooh_new(&g, 0);
	CHECK(ooh_wrmsr(&g.vm, MSR_KVM_OOH_INT, 0x60 | 1000 << KVM_OOH_INT_FRAMES_SHIFT) == TINY_DONE, "INT");
	ooh_begin(&g, 1);
	ooh_arm(&g, 0, PAGES);
	TINY_RUN(&g.vm, touch, .ebx = GPA(100), .ecx = 100);
	ooh_fetch(&g, set, KVM_OOH_REARM);
	CHECK(!g.ring->flags && !g.ring->generation, "flags %#x, generation %u", g.ring->flags, g.ring->generation);
	TINY_RUN(&g.vm, touch, .ebx = GPA(500), .ecx = 10);
	ring = ooh_host_rdmsr(&g.vm, MSR_KVM_OOH_RING);
	interrupt = ooh_host_rdmsr(&g.vm, MSR_KVM_OOH_INT);

	ooh_new(&to, 0);
	memcpy(to.mem, g.mem, MEM_BYTES);
	memcpy(to.own, g.own, OOH_BYTES);
	CHECK(ooh_host_wrmsr(&to.vm, MSR_KVM_OOH_INT, interrupt) == 1, "INT");
	CHECK(ooh_host_wrmsr(&to.vm, MSR_KVM_OOH_RING, ring) == 1, "RING");
	CHECK(interrupts_soon(&to.vm, 1) == 1, "no interrupt");
	CHECK(to.ring->head == g.ring->head, "the ring was changed");
	CHECK(ooh_fetch(&to, set, KVM_OOH_REARM) == 0, "frames that are not armed");
	CHECK(to.ring->flags == KVM_OOH_ALL_DIRTY && to.ring->generation == 1, "flags %#x, generation %u",
	      to.ring->flags, to.ring->generation);
	CHECK(ooh_stats(&to).all_dirty == 1, "%llu times", ooh_stats(&to).all_dirty);
	to.ring->flags = 0;
	ooh_arm(&to, 0, PAGES);
	TINY_RUN(&to.vm, store, .ebx = GPA(77), .eax = 1);
	CHECK(ooh_fetch(&to, set, KVM_OOH_REARM) == 1 && set[77] && !to.ring->flags, "a write after it");
	/* A snapshot is loaded into the VM that made it. */
	CHECK(ooh_host_wrmsr(&to.vm, MSR_KVM_OOH_RING, ring) == 1, "RING");
	TINY_RUN(&to.vm, store, .ebx = GPA(78), .eax = 1);
	CHECK(ooh_fetch(&to, set, KVM_OOH_REARM) == 0 && to.ring->flags == KVM_OOH_ALL_DIRTY &&
	      to.ring->generation == 2, "flags %#x, generation %u", to.ring->flags, to.ring->generation);
	/* A reset. */
	CHECK(ooh_host_wrmsr(&to.vm, MSR_KVM_OOH_RING, 0) == 1, "RING");
	CHECK(ooh_call(&to, KVM_OOH_FETCH, 0, 0, 0) == -KVM_OOH_ENXIO, "a fetch after the reset");
	/* A ring where there is no RAM (yet): known at the fetch. */
	CHECK(ooh_host_wrmsr(&to.vm, MSR_KVM_OOH_RING, 0x70000001) == 1, "RING");
	CHECK(ooh_call(&to, KVM_OOH_FETCH, 0, 0, 0) == -EFAULT, "a fetch into nowhere");
	/* The first VM goes on. */
	CHECK(ooh_fetch(&g, set, KVM_OOH_REARM) == 10 && set[500] && set[509], "the ten pages");
}

/* Few exits, and time that does not go with the VM's size. */
static void t_cost(void)
{
	unsigned int i, calls[] = { KVM_OOH_ARM, KVM_OOH_FETCH, KVM_OOH_DISARM };
	struct timespec a, b;
	uint64_t exits;

	ooh_new(&g, 0);
	TINY_RUN(&g.vm, touch, .ebx = WINDOW_GPA, .ecx = PAGES);
	ooh_begin(&g, 0);
	list_set(0, GFN(0), PAGES);
	for (i = 0; i < 3; i++) {
		bool list = calls[i] != KVM_OOH_FETCH;

		TINY_RUN(&g.vm, touch, .ebx = WINDOW_GPA, .ecx = 4);
		exits = tiny_stat(g.vm.vcpu, "exits");
		clock_gettime(CLOCK_MONOTONIC, &a);
		CHECK(ooh_call(&g, calls[i], list ? OOH_LIST_GPA : 0, list, list ? 0 : KVM_OOH_REARM) == list, "call");
		clock_gettime(CLOCK_MONOTONIC, &b);
		exits = tiny_stat(g.vm.vcpu, "exits") - exits;
		ktap_note("%s: %llu exits, %ld us", calls[i] == KVM_OOH_ARM ? "arm all" : list ? "disarm all" : "fetch four",
			  (unsigned long long)exits, (b.tv_sec - a.tv_sec) * 1000000 + (b.tv_nsec - a.tv_nsec) / 1000);
		CHECK(exits <= 6, "%llu exits", (unsigned long long)exits);
	}
	g.ring->tail = g.ring->head;
	/* A page that is written over and over costs once. */
	ooh_arm(&g, 0, PAGES);
	exits = tiny_stat(g.vm.vcpu, "exits");
	for (i = 0; i < 4; i++)
		TINY_RUN(&g.vm, touch, .ebx = WINDOW_GPA, .ecx = PAGES);
	exits = tiny_stat(g.vm.vcpu, "exits") - exits;
	ktap_note("%lu pages four times: %llu exits", PAGES, (unsigned long long)exits);
	CHECK(exits <= (no_pml ? PAGES + 64 : PAGES / 512 + 32), "%llu exits", (unsigned long long)exits);
	CHECK(ooh_fetch(&g, set, 0) == PAGES, "some were lost");
}

/* VMs that end with frames armed, interrupts on their way, logs on. */
static void t_ends(void)
{
	struct ooh_guest many;
	int i;

	for (i = 0; i < 20; i++) {
		ooh_new(&many, 0);
		CHECK(ooh_wrmsr(&many.vm, MSR_KVM_OOH_INT, 0x60) == TINY_DONE, "INT");
		ooh_begin(&many, 0);
		ooh_arm(&many, 0, PAGES);
		if (i % 3 == 1)
			TINY_RUN(&many.vm, touch, .ebx = WINDOW_GPA, .ecx = PAGES);
		if (i % 3 == 2)
			MUST(ooh_wrote(&many, WINDOW_GPA, MEM_BYTES, 0));
		tiny_free(&many.vm);
		munmap(many.mem, MEM_BYTES);
		munmap(many.own, OOH_BYTES);
		close(many.memfd);
	}
}

/* kvm-intel anew, with or without PML. */
static bool reload(const char *parameters)
{
	char cmd[256];

	snprintf(cmd, sizeof(cmd), "cd /lib/modules/span && rmmod kvm_intel && insmod kvm-intel.ko %s", parameters);
	return system(cmd) == 0;
}

int main(int argc, char **argv)
{
	static const struct ktap_test tests[] = {
		{ "offered by CPUID", t_offered },
		{ "every value of the registers", t_registers },
		{ "bad arguments of the hypercall", t_bad_calls },
		{ "not from user mode", t_user_mode },
		{ "bad calls of the process", t_bad_ioctls },
		{ "exact", t_exact },
		{ "exact, huge pages", t_exact_huge },
		{ "entries and slots made anew", t_made_anew },
		{ "a full ring", t_full_ring },
		{ "other writers", t_other_writers },
		{ "another vCPU", t_other_vcpu },
		{ "a nested guest", t_nested },
		{ "interrupts", t_interrupt },
		{ "a vCPU that is preempted", t_preempted },
		{ "restored and reset", t_restored },
		{ "cost", t_cost },
		{ "VMs that end", t_ends },
	};
	static const struct ktap_test logs[] = {
		{ "three logs at once", t_logs },
		{ "three logs at once, huge pages", t_logs_huge },
	};
	int r;

	no_pml = argc > 1 && !strcmp(argv[1], "--no-pml");
	ooh_require();
	if (argc > 1 && !strcmp(argv[1], "--logs"))
		return KTAP_RUN(logs);
	if (no_pml && !reload("pml=0")) {
		printf("TAP version 13\n1..0 # SKIP kvm-intel cannot be loaded again\n");
		return KTAP_SKIP_STATUS;
	}
	r = KTAP_RUN(tests);
	if (no_pml && !reload(""))
		printf("Bail out! kvm-intel does not load again\n");
	return r;
}
