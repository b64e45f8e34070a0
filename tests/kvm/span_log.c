// SPDX-License-Identifier: GPL-2.0
/*
 * Logs of written pages against an oracle: a copy of the memory to which only
 * the fetched pages are copied must be equal to it in the end, whoever wrote
 * and whenever the epochs turned. Two logs with different epochs run beside
 * KVM's own dirty log, which must stay as exact.
 *
 *	span_log [--short]	a third of the epochs
 *	span_log [--no-pml]	load kvm-intel with pml=0 for the time
 *
 * test: mem/log timeout=400 tags=fast
 * test: mem/log-debug timeout=400 args=--short tags=debug
 * test: mem/log-without-pml timeout=400 args=--no-pml tags=fast,debug
 */
#define KTAP_DEADLINE 120
#include "watchlib.h"

#include <getopt.h>

#define MANY		2048		/* ranges that fit */
#define GUEST_PAGES	1024u		/* the guest writes here, */
#define L1_PAGES	1024u		/* and L1s behind it */

static struct guest g;
static unsigned int fewer = 1;		/* epochs, by this factor */
static struct kvm_span_log_range ranges[MANY];

/* Pseudo-random pages of a power of two, for ecx times: [ebx + page] += 1. */
#define NEXT	"imull $1664525, %eax; addl $1013904223, %eax; movl %eax, %edx; shrl $12, %edx; andl %esi, %edx;" \
		"shll $12, %edx;"
TINY_CODE(scatter, "1: " NEXT "incl (%ebx,%edx); decl %ecx; jnz 1b");
TINY_CODE(scatter_for_ever, "1: " NEXT "incl (%ebx,%edx); movl $300, %ecx; 2: decl %ecx; jnz 2b; jmp 1b");
TINY_CODE(ins, "cld; movl %ebx, %edi; movl $0x30, %edx; rep insb");
TINY_CODE(locked, "lock incl (%ebx)");
TINY_CODE(wrmsr, "wrmsr");

/* The same in C: which pages were written. */
static void scatter_model(uint32_t eax, uint32_t esi, uint32_t count, uint64_t first, uint8_t *written)
{
	while (count--) {
		eax = eax * 1664525 + 1013904223;
		written[first + (eax >> 12 & esi)] = 1;
	}
}

/* A log with the copy that is made by it. */
struct mirror {
	struct party p;
	uint32_t watch;
	uint8_t *copy;
	uint64_t fetched, changed;	/* pages; changed: they differed */
	unsigned int epochs;
};

static void mirror_copy(struct mirror *m, uint64_t first, uint64_t pages)
{
	uint64_t i;

	for (i = first; i < first + pages; i++) {
		m->fetched++;
		if (memcmp(m->copy + i * PAGE, g.mem + i * PAGE, PAGE)) {
			m->changed++;
			memcpy(m->copy + i * PAGE, g.mem + i * PAGE, PAGE);
		}
	}
}

static void mirror_epoch(struct mirror *m)
{
	struct kvm_span_log_fetch f;
	uint64_t at = 0;
	unsigned int i;

	while (at < PAGES) {
		MUST(log_fetch(m->p.fd, m->watch, ranges, MANY, at, PAGES - at, &f));
		for (i = 0; i < f.count; i++)
			mirror_copy(m, ranges[i].first, ranges[i].pages);
		if (!CHECK(f.next > at && f.next <= PAGES, "next %llu after %llu", f.next, (unsigned long long)at))
			break;
		at = f.next;
	}
	m->epochs++;
}

static void mirror_new(struct mirror *m, const char *name)
{
	memset(m, 0, sizeof(*m));
	watcher_new(&m->p, g.span, name);
	m->watch = watch_new(m->p.fd, 0, ALLOW);
	m->copy = mmap(NULL, MEM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	MUST(m->copy == MAP_FAILED ? -1 : 0);
	MUST(subscribe(m->p.fd, m->watch, ACC_W, LOG, 0, PAGES));
}

/* Everything was in the first answer; now it is about what is written. */
static void mirror_begin(struct mirror *m)
{
	mirror_epoch(m);
	CHECK(m->fetched == PAGES, "%llu pages in the first answer", (unsigned long long)m->fetched);
	m->fetched = m->changed = 0;
	m->epochs = 0;
}

static void mirror_check(struct mirror *m, const char *name)
{
	unsigned int i, bad = 0;

	for (i = 0; i < PAGES; i++) {
		if (!memcmp(m->copy + i * PAGE, g.mem + i * PAGE, PAGE))
			continue;
		if (!bad++)
			ktap_note("%s: page %u was lost", name, i);
	}
	CHECK(!bad, "%s: %u pages were lost", name, bad);
	ktap_note("%s: %u epochs, %llu pages reported, %llu of them written: %.3f", name, m->epochs,
		  (unsigned long long)m->fetched, (unsigned long long)m->changed,
		  m->changed ? (double)m->fetched / m->changed : 0.0);
}

/* The pages that are in the log now, as a set. */
static unsigned int fetch_set(struct mirror *m, uint8_t *set)
{
	struct kvm_span_log_fetch f;
	uint64_t k;
	unsigned int i;

	memset(set, 0, PAGES);
	MUST(log_fetch(m->p.fd, m->watch, ranges, MANY, 0, PAGES, &f));
	for (i = 0; i < f.count; i++)
		for (k = ranges[i].first; k < ranges[i].first + ranges[i].pages; k++)
			set[k] = 1;
	return f.dirty;
}

/* Exactly the pages that were written, neither less nor (but for huge pages) more. */
static void exact(bool huge, struct tiny_vm *v, struct mirror *m, const char *name)
{
	static uint8_t set[PAGES], want[PAGES];
	unsigned int i, lost, over, n;
	int round;

	for (round = 0; round < 4; round++) {
		uint32_t seed = 77 + round, count = round == 3 ? 1 : 100 << round;

		memset(want, 0, sizeof(want));
		scatter_model(seed, GUEST_PAGES - 1, count, 0, want);
		CHECK(TINY_RUN(v, scatter, .ebx = WINDOW_GPA, .eax = seed, .esi = GUEST_PAGES - 1, .ecx = count) ==
		      TINY_DONE, "scatter");
		n = fetch_set(m, set);
		for (i = 0, lost = 0, over = 0; i < PAGES; i++) {
			lost += want[i] && !set[i];
			over += set[i] && !want[i];
		}
		CHECK(!lost, "%s, round %d: %u pages of %u were lost", name, round, lost, n);
		CHECK(!over, "%s, round %d: %u pages that nobody wrote, of %u", name, round, over, n);
		CHECK(fetch_set(m, set) == 0, "%s, round %d: fetched twice", name, round);
	}
	/* Reads and fetches are no writes. */
	for (i = 0; i < 16; i++)
		CHECK(TINY_RUN(v, load, .ebx = GPA(i * 8)) == TINY_DONE, "load");
	CHECK(fetch_set(m, set) == 0, "%s: a read was logged", name);
	ktap_note("%s%s: exact", name, huge ? ", huge pages" : "");
}

static void exact_with(bool huge)
{
	static uint8_t set[PAGES];
	struct party l1;
	struct mirror m;
	uint64_t logged;

	guest_new(&g, 0);
	party_new(&l1, g.span, "L1a");
	if (huge && !guest_huge(g.mem))
		ktap_skip("no huge pages in this kernel");
	TINY_RUN(&g.vm, touch, .ebx = WINDOW_GPA, .ecx = PAGES);
	TINY_RUN(&l1.vm, touch, .ebx = WINDOW_GPA, .ecx = PAGES);
	mirror_new(&m, "log");
	CHECK(fetch_set(&m, set) == PAGES, "not all in the first answer");
	exact(huge, &g.vm, &m, "guest");
	exact(huge, &l1.vm, &m, "L1");
	logged = watch_info(m.p.fd, m.watch).logged;
	CHECK(logged >= 200 && span_stats(g.span).logged >= 200, "%llu, %llu logged", (unsigned long long)logged,
	      span_stats(g.span).logged);
	/* Of the pages that left the log nothing is heard. */
	MUST(unsubscribe(m.p.fd, m.watch, ACC_W, 0, 500));
	CHECK(TINY_RUN(&g.vm, touch, .ebx = WINDOW_GPA, .ecx = 600) == TINY_DONE, "touch");
	CHECK(fetch_set(&m, set) == 100 && set[500] && !set[499] && set[599], "%u %u %u", set[499], set[500],
	      set[599]);
	/* Subscribed again: all of it is news. */
	MUST(subscribe(m.p.fd, m.watch, ACC_W, LOG, 100, 10));
	CHECK(fetch_set(&m, set) == 10 && set[100] && set[109] && !set[110], "%u %u", set[100], set[110]);
	if (huge) {
		MUST(watch_destroy(m.p.fd, m.watch));
		TINY_RUN(&g.vm, touch, .ebx = WINDOW_GPA, .ecx = PAGES);
		CHECK(tiny_stat(g.vm.vm, "pages_2m") == MEM_BYTES / HUGE, "%llu huge pages after the log",
		      (unsigned long long)tiny_stat(g.vm.vm, "pages_2m"));
	}
}

/* Entries go and are made anew: one that a read has made, writable, tells of the next write. */
static void made_anew(struct tiny_vm *v, uint8_t *at, struct mirror *m, const char *name)
{
	static uint8_t set[PAGES];
	uint32_t p, n;

	for (p = 40; p < 50; p++) {
		MUST(madvise(at + p * PAGE, PAGE, MADV_DONTNEED));
		CHECK(TINY_RUN(v, load, .ebx = GPA(p)) == TINY_DONE, "%s: load", name);
		n = fetch_set(m, set);
		CHECK(n == 0, "%s: %u pages after a read of page %u", name, n, p);
		CHECK(TINY_RUN(v, store, .ebx = GPA(p), .eax = p) == TINY_DONE, "%s: store", name);
		n = fetch_set(m, set);
		CHECK(n == 1 && set[p], "%s: %u pages after a write to page %u", name, n, p);
		CHECK(TINY_RUN(v, store, .ebx = GPA(p), .eax = p) == TINY_DONE, "%s: store", name);
		MUST(madvise(at + p * PAGE, PAGE, MADV_DONTNEED));
		n = fetch_set(m, set);
		CHECK(n == 1 && set[p], "%s: %u pages, page %u was written before its entry went", name, n, p);
	}
}

static void t_made_anew(void)
{
	static uint8_t set[PAGES];
	struct party l1;
	struct mirror m;

	guest_new(&g, 0);
	party_new(&l1, g.span, "L1a");
	TINY_RUN(&g.vm, touch, .ebx = WINDOW_GPA, .ecx = PAGES);
	TINY_RUN(&l1.vm, touch, .ebx = WINDOW_GPA, .ecx = PAGES);
	mirror_new(&m, "log");
	CHECK(fetch_set(&m, set) == PAGES, "not all in the first answer");
	made_anew(&g.vm, g.mem, &m, "guest");
	made_anew(&l1.vm, l1.window, &m, "L1");
}

static void t_exact(void)
{
	exact_with(false);
}

static void t_exact_huge(void)
{
	exact_with(true);
}

/* KVM's own log of the base VM, with its copy. */
struct kvm_mirror {
	uint8_t *copy;
	bool manual;
	uint64_t bitmap[PAGES / 64];
};

static void kvm_epoch(struct kvm_mirror *k)
{
	struct kvm_dirty_log log = { .slot = 1, .dirty_bitmap = k->bitmap };
	struct kvm_clear_dirty_log clear = { .slot = 1, .num_pages = PAGES, .dirty_bitmap = k->bitmap };
	unsigned int i;

	memset(k->bitmap, 0, sizeof(k->bitmap));
	MUST(ioctl(g.vm.vm, KVM_GET_DIRTY_LOG, &log));
	if (k->manual)
		MUST(ioctl(g.vm.vm, KVM_CLEAR_DIRTY_LOG, &clear));
	for (i = 0; i < PAGES; i++)
		if (k->bitmap[i / 64] >> (i % 64) & 1)
			memcpy(k->copy + i * PAGE, g.mem + i * PAGE, PAGE);
}

static void kvm_begin(struct kvm_mirror *k, bool manual)
{
	struct kvm_enable_cap cap = {
		.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
		.args[0] = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET,
	};

	k->manual = manual;
	if (manual)
		MUST(ioctl(g.vm.vm, KVM_ENABLE_CAP, &cap));
	k->copy = mmap(NULL, MEM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	MUST(k->copy == MAP_FAILED ? -1 : 0);
	MUST(tiny_slot(&g.vm, 1, WINDOW_GPA, g.mem, MEM_BYTES, KVM_MEM_LOG_DIRTY_PAGES));
	memcpy(k->copy, g.mem, MEM_BYTES);
	kvm_epoch(k);
}

static void kvm_check(struct kvm_mirror *k)
{
	unsigned int i, bad = 0;

	/* Of the guest's writes; those of L1s are not in the log of its VM. */
	for (i = 0; i < GUEST_PAGES; i++)
		bad += memcmp(k->copy + i * PAGE, g.mem + i * PAGE, PAGE) != 0;
	CHECK(!bad, "KVM's dirty log lost %u pages", bad);
}

#define RUN_FOR_EVER(v, first, mask, s)	\
	TINY_GO(v, scatter_for_ever, .ebx = GPA(first), .eax = s, .esi = (mask) - 1)

/* Two vCPUs of the guest and two L1s write while epochs of all logs turn. */
static void epochs_with(bool huge, bool manual, int rounds)
{
	struct kvm_mirror k;
	struct mirror a, b;
	struct party l1[2];
	struct tiny_vm second;
	int i;

	rounds /= fewer;
	guest_new(&g, 0);
	tiny_add_vcpu(&second, &g.vm, 1, TINY_IRQCHIP);
	party_new(&l1[0], g.span, "L1a");
	party_new(&l1[1], g.span, "L1b");
	if (huge && !guest_huge(g.mem))
		ktap_skip("no huge pages in this kernel");
	mirror_new(&a, "a");
	mirror_new(&b, "b");
	mirror_begin(&a);
	mirror_begin(&b);
	kvm_begin(&k, manual);
	RUN_FOR_EVER(&g.vm, 0, GUEST_PAGES, 1);
	RUN_FOR_EVER(&second, 0, GUEST_PAGES, 2);
	RUN_FOR_EVER(&l1[0].vm, GUEST_PAGES, L1_PAGES, 3);
	RUN_FOR_EVER(&l1[1].vm, GUEST_PAGES, L1_PAGES, 4);
	for (i = 0; i < rounds; i++) {
		usleep(2000 + 300 * (i % 7));
		mirror_epoch(&a);
		if (i % 3 == 1)
			mirror_epoch(&b);
		if (i % 4 == 2)
			kvm_epoch(&k);
		/* KVM's log goes and comes back. */
		if (i == rounds / 2) {
			MUST(tiny_slot(&g.vm, 1, WINDOW_GPA, g.mem, MEM_BYTES, 0));
			MUST(tiny_slot(&g.vm, 1, WINDOW_GPA, g.mem, MEM_BYTES, KVM_MEM_LOG_DIRTY_PAGES));
			memcpy(k.copy, g.mem, MEM_BYTES);
		}
	}
	tiny_abort(&g.vm);
	tiny_abort(&second);
	tiny_abort(&l1[0].vm);
	tiny_abort(&l1[1].vm);
	mirror_epoch(&a);
	mirror_epoch(&b);
	kvm_epoch(&k);
	mirror_check(&a, "a");
	mirror_check(&b, "b");
	kvm_check(&k);
	CHECK(a.changed > 20 && b.changed > 20, "%llu and %llu pages: too little to prove anything",
	      (unsigned long long)a.changed, (unsigned long long)b.changed);
	/* One log ends, the other two go on. */
	MUST(watch_destroy(a.p.fd, a.watch));
	CHECK(TINY_RUN(&g.vm, scatter, .ebx = WINDOW_GPA, .eax = 9, .esi = GUEST_PAGES - 1, .ecx = 300) == TINY_DONE,
	      "scatter");
	mirror_epoch(&b);
	kvm_epoch(&k);
	mirror_check(&b, "b, alone");
	kvm_check(&k);
	MUST(span_revoke(g.span, b.p.id));
	CHECK(TINY_RUN(&g.vm, scatter, .ebx = WINDOW_GPA, .eax = 10, .esi = GUEST_PAGES - 1, .ecx = 300) == TINY_DONE,
	      "scatter");
	kvm_epoch(&k);
	kvm_check(&k);
}

static void t_epochs(void)
{
	epochs_with(false, false, 40);
}

static void t_epochs_huge(void)
{
	epochs_with(true, false, 30);
}

static void t_epochs_manual(void)
{
	epochs_with(true, true, 30);
}

/* What does not come by an EPT entry: the emulator, PV pages, the controller. */
static void t_other_writers(void)
{
	static uint8_t set[PAGES];
	struct mirror m;
	uint32_t msr = GPA(40) | 1;

	guest_new(&g, TINY_AVX);
	mirror_new(&m, "log");
	TINY_RUN(&g.vm, touch, .ebx = WINDOW_GPA, .ecx = PAGES);
	fetch_set(&m, set);
	/* Data of a port, by the emulator. */
	CHECK(TINY_RUN(&g.vm, ins, .ebx = GPA(30) + 8, .ecx = 4) == TINY_DONE, "ins");
	CHECK(fetch_set(&m, set) >= 1 && set[30], "ins was lost");
	/* The walk of page tables that the log covers. */
	tiny_page_directory(g.mem + 50 * PAGE);
	MUST(span_written(g.span, 50, 1));
	CHECK(fetch_set(&m, set) == 1 && set[50], "WRITTEN was lost");
	tiny_paging(&g.vm, GPA(50));
	CHECK(TINY_RUN(&g.vm, store, .ebx = GPA(60), .eax = 1) == TINY_DONE, "store");
	fetch_set(&m, set);
	CHECK(set[60], "a write under paging was lost");
	CHECK(!(get32(g.mem + 50 * PAGE + (GPA(60) >> 22) * 4) & 0x60) || set[50],
	      "accessed and dirty bits of the walk were lost");
	/* A PV clock: KVM writes it. */
	CHECK(TINY_RUN(&g.vm, wrmsr, .ecx = 0x4b564d01, .eax = msr) == TINY_DONE, "wrmsr");
	CHECK(TINY_RUN(&g.vm, load, .ebx = GPA(61)) == TINY_DONE, "load");
	fetch_set(&m, set);
	if (get32(g.mem + 40 * PAGE + 16))
		CHECK(set[40], "KVM's own write was lost");
	else
		ktap_note("no PV clock was written");
	/* The controller, page by page and all of it. */
	MUST(span_written(g.span, PAGES - 1, 1));
	CHECK(fetch_set(&m, set) >= 1 && set[PAGES - 1], "WRITTEN was lost");
	MUST(span_written(g.span, 0, PAGES));
	CHECK(fetch_set(&m, set) == PAGES, "WRITTEN of all was lost");
}

/* A log and a subscription of one page: both hear of the write that was allowed. */
static void t_log_and_block(void)
{
	static uint8_t set[PAGES];
	struct mirror m;
	struct party s;
	struct event e;
	uint32_t w;
	int how;

	guest_new(&g, TINY_AVX);
	mirror_new(&m, "log");
	watcher_new(&s, g.span, "s");
	w = watch_new(s.fd, 1000000, ALLOW);
	TINY_RUN(&g.vm, touch, .ebx = WINDOW_GPA, .ecx = PAGES);
	for (how = 0; how < 3; how++) {
		MUST(subscribe(s.fd, w, ACC_W, BLOCK, 5, 1));
		fetch_set(&m, set);
		TINY_GO(&g.vm, locked, .ebx = GPA(5));
		e = want_event(&s, w, 5, ACC_W, SPAN_SOURCE_GUEST_L0);
		CHECK(fetch_set(&m, set) == 0, "logged before it was allowed");
		answer(&s, &e, how == 2 ? DENY : ALLOW, how == 1 ? CANCEL : 0);
		WANT_END(&g.vm, TINY_DONE);
		fetch_set(&m, set);
		CHECK(set[5] || how == 2, "how %d: an allowed write was not logged", how);
		MUST(unsubscribe(s.fd, w, ACC_W | ACC_R | ACC_X, 5, 1));
		MUST(subscribe(m.p.fd, m.watch, ACC_W, LOG, 5, 1));
		fetch_set(&m, set);
		/* The subscription is gone, the log is not. */
		CHECK(TINY_RUN(&g.vm, locked, .ebx = GPA(5)) == TINY_DONE, "store");
		fetch_set(&m, set);
		CHECK(set[5], "how %d: lost after the subscription", how);
	}
}

/* Pages that the guest writes over and over between two fetches cost once. */
static void t_pml(void)
{
	struct kvm_span_info info = { .size = sizeof(info) };
	static uint8_t set[PAGES];
	struct mirror m;
	uint64_t exits;
	bool pml;
	int i;

	MUST(ioctl(span_dev(), KVM_SPAN_GET_INFO, &info));
	pml = info.features & KVM_SPAN_FEATURE_PML;
	guest_new(&g, 0);
	mirror_new(&m, "log");
	TINY_RUN(&g.vm, touch, .ebx = WINDOW_GPA, .ecx = PAGES);
	fetch_set(&m, set);
	TINY_RUN(&g.vm, touch, .ebx = WINDOW_GPA, .ecx = PAGES);
	fetch_set(&m, set);
	for (i = 0; i < 2; i++) {
		exits = tiny_stat(g.vm.vcpu, "exits");
		TINY_RUN(&g.vm, touch, .ebx = WINDOW_GPA, .ecx = PAGES);
		TINY_RUN(&g.vm, touch, .ebx = WINDOW_GPA, .ecx = PAGES);
		exits = tiny_stat(g.vm.vcpu, "exits") - exits;
		ktap_note("%lu pages in %llu exits", PAGES, (unsigned long long)exits);
		CHECK(fetch_set(&m, set) == PAGES, "some were lost");
		if (pml)
			CHECK(exits <= PAGES / 512 + 8, "%llu exits", (unsigned long long)exits);
		else
			CHECK(exits <= PAGES + 64, "%llu exits: a page cost more than once", (unsigned long long)exits);
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
		{ "exact", t_exact },
		{ "exact, huge pages", t_exact_huge },
		{ "made anew", t_made_anew },
		{ "epochs", t_epochs },
		{ "epochs, huge pages", t_epochs_huge },
		{ "epochs, manual protect", t_epochs_manual },
		{ "other writers", t_other_writers },
		{ "log and block", t_log_and_block },
		{ "exits", t_pml },
	};
	bool no_pml = argc > 1 && !strcmp(argv[1], "--no-pml");
	int r;

	if (argc > 1 && !strcmp(argv[1], "--short"))
		fewer = 3;
	span_require();
	if (no_pml && !reload("pml=0")) {
		printf("TAP version 13\n1..0 # SKIP kvm-intel cannot be loaded again\n");
		return KTAP_SKIP_STATUS;
	}
	r = KTAP_RUN(tests);
	if (no_pml && !reload(""))
		printf("Bail out! kvm-intel does not load again\n");
	return r;
}
