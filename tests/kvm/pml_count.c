// SPDX-License-Identifier: GPL-2.0
/*
 * Page-modification logging at work: a guest writes 4096 pages with the dirty
 * log on. By write protection that would be 4096 exits a pass; with PML it is
 * one exit per 512 pages and one for the end.
 *
 * test: stock/pml-count timeout=180 modules=span
 * test: stock/pml-count-stock-modules timeout=180 modules=stock
 */
#include "tinyvm.h"

#define PAGES		4096u
#define RAM_BYTES	(PAGES * 4096UL)
#define EXITS_MAX	9	/* 4096 / 512 and one */

static struct tiny_vm v;
static uint8_t *ram;

static void slot(uint32_t flags)
{
	MUST(tiny_slot(&v, 1, WINDOW_GPA, ram, RAM_BYTES, flags));
}

static void make_vm(void)
{
	ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	MUST(ram == MAP_FAILED ? -1 : 0);
	/* Small pages from the start: no splitting in the passes that count. */
	madvise(ram, RAM_BYTES, MADV_NOHUGEPAGE);
	tiny_init_with(&v, 0);
	slot(0);
}

/*
 * The end is a port write and not HLT: KVM handles HLT before it looks at the
 * log, and the last entries would wait there.
 */
static void pass(void)
{
	int end = TINY_RUN(&v, touch, .ebx = WINDOW_GPA, .ecx = PAGES);

	if (end != TINY_DONE) {
		ktap_note("the pass ended with %d", end);
		_exit(1);
	}
}

/* Pages of the range that are dirty. */
static unsigned int dirty(void)
{
	static uint64_t bitmap[PAGES / 64];
	struct kvm_dirty_log log = { .slot = 1, .dirty_bitmap = bitmap };
	unsigned int i, n = 0;

	memset(bitmap, 0, sizeof(bitmap));
	MUST(ioctl(v.vm, KVM_GET_DIRTY_LOG, &log));
	for (i = 0; i < PAGES; i++)
		n += bitmap[i / 64] >> (i % 64) & 1;
	return n;
}

static bool pml_on(void)
{
	char c = 0;
	int fd = open("/sys/module/kvm_intel/parameters/pml", O_RDONLY);

	return fd >= 0 && read(fd, &c, 1) == 1 && c == 'Y';
}

static void t_count(void)
{
	unsigned int n;
	uint64_t before, e;
	int i;

	if (!pml_on())
		ktap_skip("this CPU has no PML, or kvm-intel was loaded with pml=0");
	make_vm();
	pass();
	pass();
	slot(KVM_MEM_LOG_DIRTY_PAGES);
	for (i = 0; i < 5; i++) {
		before = tiny_stat(v.vcpu, "exits");
		pass();
		e = tiny_stat(v.vcpu, "exits") - before;
		n = dirty();
		ktap_note("pass %d: %llu exits, %u dirty pages", i, (unsigned long long)e, n);
		if (i < 2)
			continue;	/* the first passes set up what they need */
		CHECK(n == PAGES, "%u dirty pages", n);
		CHECK(e <= EXITS_MAX, "%llu exits", (unsigned long long)e);
	}
}

int main(void)
{
	static const struct ktap_test tests[] = {
		{ "4096 pages in 9 exits", t_count },
	};

	return KTAP_RUN(tests);
}
