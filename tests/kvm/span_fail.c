// SPDX-License-Identifier: GPL-2.0
/*
 * Each allocation and each copy of each call fails once: the call works or
 * fails cleanly, leaves nothing behind and works the next time. What takes
 * rights away must not need memory at all. Ends with a scan for leaks.
 *
 * Wants CONFIG_FAULT_INJECTION with FAILSLAB, FAIL_PAGE_ALLOC and USERCOPY.
 *
 * test: mem/fail-nth timeout=1200 tags=debug
 */
#define KTAP_DEADLINE 600
#include "watchlib.h"

#include <sys/klog.h>
#include <sys/mount.h>

#define NTH_MAX		400	/* no call of ours has so many places to fail */

static struct guest g;
static int nth_fd = -1;

static void knob(const char *path, const char *value)
{
	char full[128];
	int fd;

	snprintf(full, sizeof(full), "/sys/kernel/debug/%s", path);
	fd = open(full, O_WRONLY);
	if (fd < 0)
		return;
	MUST(write(fd, value, strlen(value)));
	close(fd);
}

static bool failures_possible(void)
{
	mount("none", "/sys/kernel/debug", "debugfs", 0, NULL);
	knob("failslab/ignore-gfp-wait", "N");
	knob("failslab/verbose", "0");
	knob("fail_page_alloc/ignore-gfp-wait", "N");
	knob("fail_page_alloc/ignore-gfp-highmem", "N");
	knob("fail_page_alloc/min-order", "0");
	knob("fail_page_alloc/verbose", "0");
	knob("fail_usercopy/verbose", "0");
	return access("/proc/thread-self/fail-nth", W_OK) == 0 && access("/sys/kernel/debug/failslab", F_OK) == 0;
}

static void nth_set(int nth)
{
	char text[16];

	if (nth_fd < 0)
		nth_fd = MUST(open("/proc/thread-self/fail-nth", O_RDWR | O_CLOEXEC));
	snprintf(text, sizeof(text), "%d", nth);
	/* The copy of this very call can be the one that fails. */
	while (pwrite(nth_fd, text, strlen(text), 0) < 0)
		CHECK(errno == EFAULT, "%s", strerror(errno));
}

/* Did something fail since nth_set()? */
static bool nth_hit(void)
{
	char text[16] = {};
	bool hit = true;

	if (pread(nth_fd, text, sizeof(text) - 1, 0) < 0) {
		/* It was not the call: it is this one that failed. */
		CHECK(errno == EFAULT, "%s", strerror(errno));
		hit = false;
	}
	nth_set(0);
	return hit && atoi(text) == 0;
}

static int fds(void)
{
	int n = 0, i;

	for (i = 0; i < 128; i++)
		n += fcntl(i, F_GETFD) >= 0;
	return n;
}

/* One call, made again and again with another failure. */
struct call {
	const char *name;
	void (*before)(void);		/* each time; no failures */
	long (*call)(void);		/* -1 and errno, or what after() gets */
	void (*after)(long result);	/* each time, also after a failure */
	bool no_memory;			/* does not need any: only copies may fail */
};

static struct party p;
static uint32_t w;
static struct kvm_span_log_range ranges[16];
static struct tiny_vm l1;
static int member_fd;

static void run_call(const struct call *c)
{
	int nth, failed = 0, worked = 0, open_before, e;
	bool hit = true;
	long r;

	for (nth = 1; hit && nth < NTH_MAX; nth++) {
		if (c->before)
			c->before();
		open_before = fds();
		errno = 0;
		nth_set(nth);
		r = c->call();
		e = errno;
		hit = nth_hit();
		if (r == -1) {
			failed++;
			CHECK(hit, "%s: failed without a reason: %s", c->name, strerror(e));
			CHECK(e == EFAULT || (!c->no_memory && e == ENOMEM), "%s, %d: %s", c->name, nth, strerror(e));
			CHECK(fds() == open_before, "%s, %d: a descriptor was left", c->name, nth);
		} else {
			worked++;
		}
		/* At once again, without failures. */
		if (r == -1) {
			r = c->call();
			CHECK(r != -1, "%s, %d: does not work afterwards: %s", c->name, nth, strerror(errno));
		}
		if (c->after)
			c->after(r);
	}
	CHECK(nth > 1 && nth < NTH_MAX, "%s: %d places to fail", c->name, nth);
	ktap_note("%s: %d places, %d failures, %d times it worked even so", c->name, nth - 2, failed, worked - 1);
}

/* A span anew for each time, so that nothing is allocated yet. */

static void fresh_span(void)
{
	g.span = MUST(span_create_named(g.memfd, g.vm.vm, "guest"));
}

static void fresh_watcher(void)
{
	fresh_span();
	memset(&p, 0, sizeof(p));
	p.fd = MUST(grant_call(g.span, "watcher", KVM_SPAN_GRANT_WATCHER, 0, ALL_RIGHTS, 0, &p.id));
}

static void fresh_watch(void)
{
	fresh_watcher();
	w = watch_new(p.fd, 0, ALLOW);
}

static void fresh_log(void)
{
	fresh_watch();
	MUST(subscribe(p.fd, w, ACC_W, LOG, 0, PAGES));
	MUST(subscribe(p.fd, w, ACC_X, BLOCK, 7, 9));
}

static void end(long result)
{
	if (p.fd > 0)
		close(p.fd);
	p.fd = 0;
	/* Whatever failed, the guest's page is free again when all are gone. */
	CHECK(span_stats(g.span).watches == 0, "%u watches", span_stats(g.span).watches);
	close(g.span);
	CHECK(TINY_RUN(&g.vm, store, .ebx = GPA(8), .eax = 3) == TINY_DONE && get32(g.mem + 8 * PAGE) == 3, "masked");
}

static int dev = -1;

static long call_create(void)
{
	struct kvm_span_create c = {
		.size = sizeof(c), .memfd = g.memfd, .vm_fd = g.vm.vm, .name = "guest",
	};

	return g.span = ioctl(dev, KVM_SPAN_CREATE, &c);
}

static void after_create(long fd)
{
	if (fd >= 0)
		close(fd);
}

static long call_grant(void)
{
	return p.fd = grant_call(g.span, "watcher", KVM_SPAN_GRANT_WATCHER, 0, ALL_RIGHTS, 0, &p.id);
}

static void fresh_member(void)
{
	fresh_span();
	member_fd = MUST(grant_call(g.span, "L1", 0, ACCESS_RW, ALL_RIGHTS, 0, NULL));
}

static long call_join(void)
{
	return span_join(member_fd, l1.vm);
}

static void after_member(long r)
{
	close(member_fd);
	close(g.span);
}

static void fresh_joined(void)
{
	fresh_member();
	MUST(call_join());
}

static long call_mmap(void)
{
	p.window = span_map(member_fd, PROT_READ | PROT_WRITE);
	return p.window == MAP_FAILED ? -1 : 0;
}

static void after_mmap(long r)
{
	if (!r)
		munmap(p.window, MEM_BYTES);
	after_member(r);
}

static void fresh_window(void)
{
	fresh_joined();
	MUST(call_mmap());
}

static long call_slot(void)
{
	return tiny_slot(&l1, 1, WINDOW_GPA, p.window, MEM_BYTES, 0);
}

static void after_slot(long r)
{
	if (!r)
		MUST(tiny_slot(&l1, 1, 0, NULL, 0, 0));
	after_mmap(0);
}

static long call_ring(void)
{
	return ring_call(p.fd, p.event_fd, p.doorbell);
}

static void fresh_ring(void)
{
	fresh_watcher();
	p.event_fd = MUST(eventfd(0, EFD_CLOEXEC));
	p.doorbell = MUST(eventfd(0, EFD_CLOEXEC));
}

static void after_ring(long r)
{
	close(p.event_fd);
	close(p.doorbell);
	end(r);
}

static void fresh_ring_made(void)
{
	fresh_ring();
	MUST(call_ring());
}

static long call_ring_map(void)
{
	p.answers = ring_map(p.fd);
	return (void *)p.answers == MAP_FAILED ? -1 : 0;
}

static void after_ring_map(long r)
{
	if (!r)
		munmap(p.answers, KVM_SPAN_RING_BYTES);
	after_ring(r);
}

static long call_watch(void)
{
	return watch_create(p.fd, 0, DENY, &w);
}

static long call_block(void)
{
	return subscribe(p.fd, w, ACC_RWX, BLOCK, 7, 500);
}

static long call_protect(void)
{
	return protect(p.fd, w, ACC_R, 7, 500);
}

static long call_log(void)
{
	return subscribe(p.fd, w, ACC_W, LOG, 0, PAGES);
}

static uint64_t fetched;

static long call_fetch(void)
{
	struct kvm_span_log_fetch f;
	long r = log_fetch(p.fd, w, ranges, 16, 0, PAGES, &f);

	if (!r)
		fetched = f.dirty;
	return r;
}

static void after_fetch(long r)
{
	CHECK(fetched == PAGES, "%llu pages", (unsigned long long)fetched);
	end(r);
}

static long call_written(void)
{
	return span_written(g.span, 0, 40);
}

static long call_unsubscribe(void)
{
	return unsubscribe(p.fd, w, ACC_RWX, 0, PAGES);
}

static long call_destroy(void)
{
	return watch_destroy(p.fd, w);
}

static long call_revoke(void)
{
	return span_revoke(g.span, p.id);
}

static void t_calls(void)
{
	static const struct call calls[] = {
		{ "create", NULL, call_create, after_create, false },
		{ "grant", fresh_span, call_grant, end, false },
		{ "join", fresh_member, call_join, after_member, false },
		{ "mmap", fresh_joined, call_mmap, after_mmap, false },
		{ "memory slot", fresh_window, call_slot, after_slot, false },
		{ "ring", fresh_ring, call_ring, after_ring, false },
		{ "mmap of the ring", fresh_ring_made, call_ring_map, after_ring_map, false },
		{ "watch", fresh_watcher, call_watch, end, false },
		{ "subscribe", fresh_watch, call_block, end, false },
		{ "protect", fresh_watch, call_protect, end, false },
		{ "log", fresh_watch, call_log, end, false },
		{ "fetch", fresh_log, call_fetch, after_fetch, false },
		{ "written", fresh_log, call_written, end, false },
		{ "unsubscribe", fresh_log, call_unsubscribe, end, true },
		{ "destroy", fresh_log, call_destroy, end, true },
		{ "revoke", fresh_log, call_revoke, end, true },
	};
	size_t i;

	guest_new(&g, 0);
	close(g.span);
	dev = span_dev();
	nth_set(0);
	tiny_init_with(&l1, TINY_IRQCHIP);
	for (i = 0; i < sizeof(calls) / sizeof(calls[0]); i++)
		run_call(&calls[i]);
}

/* The vCPU of an access that is told: KVM_RUN may fail, nothing gets lost or stuck. */

static struct party s;
static volatile bool over;

static void *answerer(void *arg)
{
	struct event e;

	while (!over)
		if (event_wait(&s, &e, 50) && e.event)
			answer(&s, &e, ALLOW, 0);
	return NULL;
}

static void t_access(void)
{
	static const uint32_t kinds[] = { ACC_W, ACC_R, ACC_X };
	int nth, k, r, failed = 0;
	pthread_t thread;
	bool hit;

	guest_new(&g, 0);
	watcher_new(&s, g.span, "s");
	w = watch_new(s.fd, 3000000, ALLOW);
	g.mem[5 * PAGE] = 0xc3;
	MUST(subscribe(s.fd, w, ACC_RWX, BLOCK, 5, 1));
	MUST(pthread_create(&thread, NULL, answerer, NULL) ? -1 : 0);
	nth_set(0);
	for (k = 0; k < 3; k++) {
		for (nth = 1, hit = true; hit && nth < NTH_MAX; nth++) {
			/* Nothing is mapped: the most there is to allocate. */
			MUST(madvise(g.mem, MEM_BYTES, MADV_DONTNEED));
			if (kinds[k] == ACC_W)
				tiny_prepare(&g.vm, piece_store, piece_store_end,
					     &(struct tiny_regs){ .ebx = GPA(5) + 64, .eax = nth });
			else if (kinds[k] == ACC_R)
				tiny_prepare(&g.vm, piece_load, piece_load_end, &(struct tiny_regs){ .ebx = GPA(5) });
			else
				tiny_prepare(&g.vm, piece_call, piece_call_end, &(struct tiny_regs){ .ebx = GPA(5) });
			nth_set(nth);
			r = tiny_run_to_end(&g.vm);
			hit = nth_hit();
			if (r < 0) {
				failed++;
				CHECK(r == -ENOMEM || r == -EFAULT, "%s", strerror(-r));
				/* The same access again. */
				r = tiny_run_to_end(&g.vm);
			}
			CHECK(r == TINY_DONE, "kind %u, %d: ended with %d", kinds[k], nth, r);
			if (kinds[k] == ACC_W)
				CHECK(get32(g.mem + 5 * PAGE + 64) == (uint32_t)nth, "%u", get32(g.mem + 5 * PAGE + 64));
		}
		CHECK(nth < NTH_MAX, "%d places", nth);
		ktap_note("access %u: %d places, %d failures so far", kinds[k], nth - 2, failed);
	}
	over = true;
	pthread_join(thread, NULL);
	CHECK(watch_info(s.fd, w).pages_subscribed == 1, "the subscription was lost");
	CHECK(watch_info(s.fd, w).timeouts == 0, "%llu timeouts", watch_info(s.fd, w).timeouts);
}

/* What was allocated and is not known to anybody any more. */
static void t_leaks(void)
{
	static char text[1 << 16];
	int fd = open("/sys/kernel/debug/kmemleak", O_RDWR), i;
	char *line, *end_of_line;
	ssize_t n;

	if (fd < 0)
		ktap_skip("no kmemleak in this kernel");
	/* An object is suspected only if it is found twice, and is some seconds old. */
	for (i = 0; i < 2; i++) {
		sleep(6);
		MUST(write(fd, "scan", 4));
	}
	n = read(fd, text, sizeof(text) - 1);
	text[n > 0 ? n : 0] = 0;
	for (line = text; (end_of_line = strchr(line, '\n')); line = end_of_line + 1) {
		*end_of_line = 0;
		CHECK(!strstr(line, "kvm_span") && !strstr(line, "[kvm"), "%s", line);
		ktap_note("%s", line);
	}
}

/* With failures on the console is quiet, so look at the log ourselves. */
static void t_log(void)
{
	static const char *const bad[] = {
		"BUG:", "WARNING:", "Oops", "KASAN", "possible circular", "possible recursive", "suspicious RCU",
		"sleeping function", "general protection", "blocked for more than",
	};
	static char text[1 << 20];
	int n = klogctl(3, text, sizeof(text) - 1), fd;
	size_t i;

	MUST(n);
	text[n] = 0;
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		CHECK(!strstr(text, bad[i]), "%.200s", strstr(text, bad[i]));
	fd = open("/proc/sys/kernel/printk", O_WRONLY);
	MUST(write(fd, "5", 1));
	close(fd);
}

static void t_quiet(void)
{
	int fd = MUST(open("/proc/sys/kernel/printk", O_WRONLY));

	/* A vmalloc() that fails shows where it was; that is no bug of the kernel. */
	MUST(write(fd, "1", 1));
	close(fd);
}

int main(void)
{
	static const struct ktap_test tests[] = {
		{ "quiet", t_quiet },
		{ "calls", t_calls },
		{ "accesses", t_access },
		{ "the kernel's log", t_log },
		{ "leaks", t_leaks },
	};

	span_require();
	if (!failures_possible()) {
		printf("TAP version 13\n1..0 # SKIP no fault injection in this kernel\n");
		return KTAP_SKIP_STATUS;
	}
	return KTAP_RUN(tests);
}
