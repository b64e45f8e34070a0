// SPDX-License-Identifier: GPL-2.0
/*
 * fault-cost: what the faults of the Span paper's Table 3 cost, by a VM that
 * touches pages for the first time and then again. All pages exist before, so
 * that allocating them is in none of the figures. Prints lines "NAME VALUE".
 *
 *   fault-cost l0 PAGES		a VM of its own, on L0: a plain one, the Span
 *				guest and an L1, with two L1s that hold the memory
 *   fault-cost log PAGES	the Span guest's pages under a log
 *   fault-cost nested PAGES 4k|2m [FILE OFFSET]
 *				in an L1: a VM on it, whose memory the L1 maps in
 *				such pages; of its own, or FILE (the window). Says
 *				"ready", touches at a line on standard input, so
 *				that L0 can count exits meanwhile; and "done", and
 *				keeps its memory until one more line
 *   fault-cost nested-log PAGES 4k|2m DEVICE OFFSET
 *				the same with pages that were touched before and
 *				are under a log of the span-port DEVICE
 */
#define _GNU_SOURCE
#include <linux/kvm_span.h>
#include <linux/span_port.h>
#include <x86intrin.h>

#include "tinyvm.h"

#define PAGE	4096UL
#define HUGE	(2UL << 20)

static void out(const char *name, uint64_t value)
{
	printf("%s %llu\n", name, (unsigned long long)value);
	fflush(stdout);
}

/* Of one page, with two digits more than an integer has. */
static void out_each(const char *name, uint64_t value, uint32_t pages)
{
	printf("%s %.2f\n", name, (double)value / pages);
	fflush(stdout);
}

static uint64_t touch(struct tiny_vm *vm, uint32_t gpa, uint32_t pages)
{
	uint64_t t = __rdtsc();

	if (TINY_RUN(vm, touch, .ebx = gpa, .ecx = pages) != TINY_DONE) {
		fprintf(stderr, "fault-cost: the VM ended with exit %d\n", vm->last_exit);
		exit(1);
	}
	return __rdtsc() - t;
}

/* First touches less second ones: the faults alone. */
static void faults(const char *name, struct tiny_vm *vm, uint32_t pages)
{
	uint64_t exits, first, exits_first, second;
	char key[64];

	touch(vm, WINDOW_GPA + pages * PAGE, 16);	/* the code and the way to it */
	exits = tiny_stat(vm->vcpu, "exits");
	first = touch(vm, WINDOW_GPA, pages);
	exits_first = tiny_stat(vm->vcpu, "exits") - exits;
	second = touch(vm, WINDOW_GPA, pages);
	out_each(name, first - second, pages);
	snprintf(key, sizeof(key), "%s_exits", name);
	out(key, exits_first);
}

/* The guest's memory, all of it there, in small pages. */
static void *memory(int *memfd, uint64_t bytes)
{
	void *p;

	*memfd = MUST(memfd_create("guest", MFD_ALLOW_SEALING | MFD_CLOEXEC));
	MUST(ftruncate(*memfd, bytes));
	MUST(fcntl(*memfd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL));
	MUST(fallocate(*memfd, 0, 0, bytes));
	p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, *memfd, 0);
	MUST(p == MAP_FAILED ? -1 : 0);
	memset(p, 1, bytes);		/* and in this process's page table */
	return p;
}

/* Member fd of an L1 that has joined; vm gets the window. */
static int l1(int span, const char *name, struct tiny_vm *vm, uint64_t bytes)
{
	struct kvm_span_grant g = {
		.size = sizeof(g), .access = KVM_SPAN_ACCESS_R | KVM_SPAN_ACCESS_W,
		.rights = KVM_SPAN_RIGHT_NOTIFY | KVM_SPAN_RIGHT_LOG,
	};
	struct kvm_span_join j = { .size = sizeof(j) };
	int fd;
	void *p;

	strcpy((char *)g.name, name);
	fd = MUST(ioctl(span, KVM_SPAN_GRANT, &g));
	tiny_init_with(vm, 0);
	j.vm_fd = vm->vm;
	MUST(ioctl(fd, KVM_SPAN_JOIN, &j));
	p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	MUST(p == MAP_FAILED ? -1 : 0);
	memset(p, 2, bytes);
	MUST(tiny_slot(vm, 1, WINDOW_GPA, p, bytes, 0));
	return fd;
}

struct span {
	struct tiny_vm guest, l1a, l1b;
	int a, b;
	uint64_t bytes;
};

static void span_new(struct span *s, uint64_t bytes)
{
	struct kvm_span_create c = { .size = sizeof(c), .name = "bench" };
	int span, memfd;
	void *p = memory(&memfd, bytes);

	tiny_init_with(&s->guest, 0);
	MUST(tiny_slot(&s->guest, 1, WINDOW_GPA, p, bytes, 0));
	c.memfd = memfd;
	c.vm_fd = s->guest.vm;
	span = MUST(ioctl(MUST(open("/dev/kvm-span", O_RDWR)), KVM_SPAN_CREATE, &c));
	s->a = l1(span, "L1a", &s->l1a, bytes);
	s->b = l1(span, "L1b", &s->l1b, bytes);
	s->bytes = bytes;
}

static void on_l0(uint32_t pages)
{
	uint64_t bytes = (pages + 512) * PAGE;
	struct tiny_vm plain;
	struct span s;
	int memfd;
	void *p = memory(&memfd, bytes);

	tiny_init_with(&plain, 0);
	MUST(tiny_slot(&plain, 1, WINDOW_GPA, p, bytes, 0));
	faults("ept_fault_single", &plain, pages);
	span_new(&s, bytes);
	faults("ept_fault_span0", &s.guest, pages);
	faults("ept_fault_l1", &s.l1a, pages);
}

static uint32_t watch_new(int fd)
{
	struct kvm_span_watch_create c = { .size = sizeof(c), .on_timeout = KVM_SPAN_ALLOW };

	MUST(ioctl(fd, KVM_SPAN_WATCH_CREATE, &c));
	return c.watch;
}

static void range(int fd, unsigned long cmd, uint32_t watch, uint32_t mode, uint64_t pages)
{
	struct kvm_span_range r = {
		.size = sizeof(r), .watch = watch, .access = KVM_SPAN_ACCESS_W, .mode = mode, .pages = pages,
	};

	MUST(ioctl(fd, cmd, &r));
}

static uint64_t fetch(int fd, uint32_t watch, uint64_t pages)
{
	struct kvm_span_log_range *ranges = calloc(4096, sizeof(*ranges));
	struct kvm_span_log_fetch f = {
		.size = sizeof(f), .watch = watch, .max = 4096, .ranges = (uintptr_t)ranges, .pages = pages,
	};
	uint64_t dirty = 0;

	while (f.first < pages) {
		f.pages = pages - f.first;
		MUST(ioctl(fd, KVM_SPAN_LOG_FETCH, &f));
		dirty += f.dirty;
		f.first = f.next;
	}
	free(ranges);
	return dirty;
}

static void under_log(uint32_t pages)
{
	uint64_t total = pages + 512, exits, plain, t;
	struct span s;
	uint32_t w;

	span_new(&s, total * PAGE);
	touch(&s.guest, WINDOW_GPA, total);
	plain = touch(&s.guest, WINDOW_GPA, pages);
	/* A write fault that nobody wants to know of: the subscription has just gone. */
	w = watch_new(s.a);
	range(s.a, KVM_SPAN_SUBSCRIBE, w, KVM_SPAN_MODE_NOTIFY, pages);
	range(s.a, KVM_SPAN_UNSUBSCRIBE, w, 0, pages);
	exits = tiny_stat(s.guest.vcpu, "exits");
	out("write_fault_without_subscriber", (touch(&s.guest, WINDOW_GPA, pages) - plain) / pages);
	out("write_fault_without_subscriber_exits", tiny_stat(s.guest.vcpu, "exits") - exits);

	range(s.a, KVM_SPAN_SUBSCRIBE, w, KVM_SPAN_MODE_LOG, total);
	fetch(s.a, w, total);
	touch(&s.guest, WINDOW_GPA + pages * PAGE, 16);
	fetch(s.a, w, total);
	exits = tiny_stat(s.guest.vcpu, "exits");
	t = touch(&s.guest, WINDOW_GPA, pages);
	out("dirty_l0", (t - plain) / pages);
	out("dirty_l0_exits", tiny_stat(s.guest.vcpu, "exits") - exits);
	t = __rdtsc();
	out("dirty_l0_pages", fetch(s.a, w, total));
	out("dirty_l0_fetch", (__rdtsc() - t) / pages);
	/* Once more, now that the pages are in the tables as the fetch left them. */
	exits = tiny_stat(s.guest.vcpu, "exits");
	t = touch(&s.guest, WINDOW_GPA, pages);
	out("dirty_l0_again", (t - plain) / pages);
	out("dirty_l0_again_exits", tiny_stat(s.guest.vcpu, "exits") - exits);
	out("dirty_l0_again_pages", fetch(s.a, w, total));
}

/* Memory that the L1's KVM can map in pages of that size, and in no larger ones. */
static void *mapping(const char *file, uint64_t offset, uint64_t bytes, bool huge)
{
	uint8_t *area = mmap(NULL, bytes + 2 * HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uint8_t *at = (uint8_t *)(((uintptr_t)area + HUGE - 1) & ~(HUGE - 1)) + (huge ? 0 : PAGE);
	int prot = PROT_READ | PROT_WRITE;
	uint64_t i;
	void *p;

	if (file) {
		p = mmap(at, bytes, prot, MAP_SHARED | MAP_FIXED, MUST(open(file, O_RDWR)), offset);
	} else {
		p = mmap(at, bytes, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	}
	MUST(p == MAP_FAILED ? -1 : 0);
	MUST(madvise(p, bytes, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE));
	/* In the L1's page table and in L0's for the L1. */
	for (i = 0; i < bytes; i += PAGE)
		*(volatile uint8_t *)(p + i) = *(volatile uint8_t *)(p + i);
	return p;
}

static void wait_for_line(const char *say)
{
	char line[16];

	printf("%s\n", say);
	fflush(stdout);
	if (!fgets(line, sizeof(line), stdin))
		exit(1);
}

static void nested(uint32_t pages, bool huge, const char *file, uint64_t offset)
{
	/* Where the guest has it: a page of the window may be mapped nowhere else. */
	uint32_t gpa = file ? offset : WINDOW_GPA;
	uint64_t bytes = pages * PAGE + HUGE, first;
	struct tiny_vm vm;

	tiny_init_with(&vm, 0);
	MUST(tiny_slot(&vm, 1, gpa, mapping(file, offset, bytes, huge), bytes, 0));
	touch(&vm, gpa + pages * PAGE, 16);
	wait_for_line("ready");
	first = touch(&vm, gpa, pages);
	wait_for_line("touched");
	out_each("nested", first - touch(&vm, gpa, pages), pages);
	wait_for_line("done");
}

static uint64_t port_fetch(int watch, uint64_t first, uint64_t pages)
{
	static struct span_watch_range_out ranges[SPAN_LOG_MAX_RANGES];
	struct span_watch_fetch f = {
		.size = sizeof(f), .ranges = (uintptr_t)ranges, .max = SPAN_LOG_MAX_RANGES, .first = first,
	};
	uint64_t end = first + pages, dirty = 0;

	while (f.first < end) {
		f.pages = end - f.first;
		MUST(ioctl(watch, SPAN_WATCH_LOG_FETCH, &f));
		dirty += f.dirty;
		f.first = f.next;
	}
	return dirty;
}

static void nested_log(uint32_t pages, bool huge, const char *device, uint64_t offset)
{
	struct span_port_watch w = { .size = sizeof(w), .on_timeout = SPAN_ALLOW };
	struct span_watch_range r = {
		.size = sizeof(r), .access = SPAN_ACCESS_W, .mode = SPAN_MODE_LOG, .first = offset / PAGE,
		.pages = pages,
	};
	uint64_t bytes = pages * PAGE + HUGE, plain, t, dirty;
	struct tiny_vm vm;
	int watch;

	tiny_init_with(&vm, 0);
	MUST(tiny_slot(&vm, 1, offset, mapping(device, offset, bytes, huge), bytes, 0));
	touch(&vm, offset, pages + 16);
	plain = touch(&vm, offset, pages);
	watch = MUST(ioctl(MUST(open(device, O_RDWR)), SPAN_PORT_WATCH, &w));
	MUST(ioctl(watch, SPAN_WATCH_SUBSCRIBE, &r));
	port_fetch(watch, r.first, pages);
	touch(&vm, offset, pages);		/* what zapping left to be made again is not this figure's */
	port_fetch(watch, r.first, pages);
	wait_for_line("ready");
	t = touch(&vm, offset, pages);
	wait_for_line("touched");
	out("touch", t > plain ? (t - plain) / pages : 0);
	t = __rdtsc();
	dirty = port_fetch(watch, r.first, pages);
	out("fetch", (__rdtsc() - t) / pages);
	out("pages", dirty);
}

int main(int argc, char **argv)
{
	uint32_t pages = argc > 2 ? strtoul(argv[2], NULL, 0) : 0;

	if (argc == 3 && pages && !strcmp(argv[1], "l0")) {
		on_l0(pages);
	} else if (argc == 3 && pages && !strcmp(argv[1], "log")) {
		under_log(pages);
	} else if (argc == 6 && pages && !strcmp(argv[1], "nested-log")) {
		nested_log(pages, !strcmp(argv[3], "2m"), argv[4], strtoull(argv[5], NULL, 0));
	} else if ((argc == 4 || argc == 6) && pages && !strcmp(argv[1], "nested")) {
		nested(pages, !strcmp(argv[3], "2m"), argc == 6 ? argv[4] : NULL,
		       argc == 6 ? strtoull(argv[5], NULL, 0) : 0);
	} else {
		fprintf(stderr, "usage: fault-cost l0|log PAGES | fault-cost nested PAGES 4k|2m [FILE OFFSET] | fault-cost nested-log PAGES 4k|2m DEVICE OFFSET\n");
		return 2;
	}
	return 0;
}
