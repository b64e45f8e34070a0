// SPDX-License-Identifier: GPL-2.0
/*
 * Ways around a mask, and races at the ends: reads by the emulator of a page
 * that is denied, what KVM itself reads and writes for a VM, slots beyond the
 * guest's memory, calls that cross one another.
 *
 * test: mem/holes timeout=300 tags=fast,debug
 */
#include "watchlib.h"

#include <sys/prctl.h>

#define SECRET		0x5ec2e700u
#define MSR_WALL_CLOCK	0x4b564d00u
#define MSR_STEAL_TIME	0x4b564d03u
#define LONG_US		2000000

static struct guest g;

TINY_CODE(xadd, "xaddl %eax, (%ebx)");
TINY_CODE(cmpxchg, "xorl %eax, %eax; cmpxchgl %ecx, (%ebx)");
TINY_CODE(xchg, "xchgl %eax, (%ebx)");
TINY_CODE(add_to, "xorl %eax, %eax; addl (%ebx), %eax");
TINY_CODE(movs, "cld; movl %ebx, %esi; leal 64(%ebx), %edi; movsl");
TINY_CODE(movs_out, "cld; movl %ebx, %esi; movl $0x2000, %edi; movsl; movl 0x2000, %eax");
TINY_CODE(push_mem, "pushl (%ebx); popl %eax");
TINY_CODE(outs, "cld; movl %ebx, %esi; movl $0x31, %edx; outsl");
TINY_CODE(wrmsr, "xorl %edx, %edx; wrmsr");

/* Does this number, or its bytes, tell what was on the page? */
static bool tells(uint32_t value)
{
	return (value & 0xffffff00) == SECRET || (value & 0xffff0000) == (SECRET & 0xffff0000);
}

struct reader {
	const char *name;
	const uint8_t *code, *end;
};

#define READER(n) { #n, piece_##n, piece_##n##_end }

/* Whatever an instruction is, nothing of a page that may not be read comes out. */
static void nothing_read(struct tiny_vm *v, const char *who, const uint8_t *at, bool protected)
{
	static const struct reader readers[] = {
		READER(load), READER(xadd), READER(cmpxchg), READER(xchg), READER(add_to), READER(movs),
		READER(movs_out), READER(push_mem), READER(outs),
	};
	uint8_t before[PAGE];
	uint32_t out = 0;
	size_t i;
	int end;

	for (i = 0; i < sizeof(readers) / sizeof(readers[0]); i++) {
		const struct reader *r = &readers[i];

		/* What KVM reads for an instruction is not asked for, but kept to protection. */
		if (r->code == piece_outs && !protected)
			continue;
		memcpy(before, at, PAGE);
		memset(v->ram + 0x2000, 0, 16);
		tiny_prepare(v, r->code, r->end, &(struct tiny_regs){ .ebx = GPA(5), .ecx = 1 });
		tiny_go(v);
		end = tiny_wait(v, SOON);
		if (end == TINY_EXIT + KVM_EXIT_IO)
			memcpy(&out, (uint8_t *)v->run + v->run->io.data_offset, 4);
		if (end == TINY_EXIT + KVM_EXIT_MMIO)
			memcpy(&out, v->run->mmio.data, 4);
		CHECK(end == TINY_DONE || end == TINY_GP || end == TINY_EXIT + KVM_EXIT_IO ||
		      end == TINY_EXIT + KVM_EXIT_MMIO, "%s, %s: ended with %d", who, r->name, end);
		CHECK(!tells(out), "%s, %s: %#x went to user space", who, r->name, out);
		CHECK(!tells(tiny_eax(v)), "%s, %s: eax is %#x", who, r->name, tiny_eax(v));
		CHECK(!tells(get32(v->ram + 0x2000)), "%s, %s: %#x in memory", who, r->name, get32(v->ram + 0x2000));
		CHECK(!memcmp(before, at, PAGE), "%s, %s: the page was changed", who, r->name);
		tiny_abort(v);
		out = 0;
	}
}

static void t_reads(void)
{
	struct party s, l1, ro;
	uint32_t w;

	guest_new(&g, 0);
	watcher_new(&s, g.span, "s");
	party_new(&l1, g.span, "L1a");
	memset(&ro, 0, sizeof(ro));
	ro.fd = MUST(grant_call(g.span, "read-only", 0, ACC_R, 0, 0, NULL));
	tiny_init_with(&ro.vm, TINY_IRQCHIP);
	MUST(span_join(ro.fd, ro.vm.vm));
	ro.window = span_map(ro.fd, PROT_READ);
	MUST(ro.window == MAP_FAILED ? -1 : 0);
	MUST(tiny_slot(&ro.vm, 1, WINDOW_GPA, ro.window, MEM_BYTES, KVM_MEM_READONLY));
	tiny_put32(g.mem + 5 * PAGE, SECRET);
	/* So it is when nobody minds. */
	CHECK(TINY_RUN(&l1.vm, load, .ebx = GPA(5)) == TINY_DONE && tells(tiny_eax(&l1.vm)), "%#x", tiny_eax(&l1.vm));
	w = watch_new(s.fd, 0, DENY);
	MUST(protect(s.fd, w, 0, 5, 1));
	nothing_read(&g.vm, "guest, protected", g.mem + 5 * PAGE, true);
	nothing_read(&l1.vm, "L1, protected", g.mem + 5 * PAGE, true);
	nothing_read(&ro.vm, "read-only L1, protected", g.mem + 5 * PAGE, true);
	/* The same by one who is asked and says no; by default, without a ring. */
	close(s.fd);
	munmap(s.answers, KVM_SPAN_RING_BYTES);
	s.fd = MUST(grant_call(g.span, "none", KVM_SPAN_GRANT_WATCHER, 0, ALL_RIGHTS, 0, NULL));
	w = watch_new(s.fd, 0, DENY);
	MUST(subscribe(s.fd, w, ACC_RWX, BLOCK, 5, 1));
	nothing_read(&g.vm, "guest, denied", g.mem + 5 * PAGE, false);
	nothing_read(&l1.vm, "L1, denied", g.mem + 5 * PAGE, false);
}

/* What KVM writes for a VM that asks for it. */
static void t_kvm_writes(void)
{
	struct party s, l1;
	struct tiny_vm *v[2] = { &g.vm, &l1.vm };
	uint32_t w, i;
	int end;

	guest_new(&g, TINY_AVX);
	watcher_new(&s, g.span, "s");
	party_new(&l1, g.span, "L1a");
	w = watch_new(s.fd, 0, DENY);
	for (i = 0; i < 2; i++) {
		memset(g.mem + 5 * PAGE, 0, PAGE);
		end = TINY_RUN(v[i], wrmsr, .ecx = MSR_WALL_CLOCK, .eax = GPA(5));
		if (end != TINY_DONE || !get32(g.mem + 5 * PAGE)) {
			ktap_note("no wall clock for %s: %d", i ? "the L1" : "the guest", end);
			continue;
		}
		memset(g.mem + 5 * PAGE, 0, PAGE);
		MUST(protect(s.fd, w, ACC_RX, 5, 1));
		TINY_RUN(v[i], wrmsr, .ecx = MSR_WALL_CLOCK, .eax = GPA(5));
		CHECK(!get32(g.mem + 5 * PAGE) && !get32(g.mem + 5 * PAGE + 4), "%s: KVM wrote %#x to a protected page",
		      i ? "L1" : "guest", get32(g.mem + 5 * PAGE + 4));
		MUST(protect(s.fd, w, ACC_RWX, 5, 1));
	}
}

/* A member that was revoked cannot make others believe that something was written. */
static void t_no_false_writes(void)
{
	struct kvm_span_log_range r[8];
	struct kvm_span_log_fetch f;
	struct party s, l1;
	struct event e;
	uint32_t w;

	guest_new(&g, 0);
	watcher_new(&s, g.span, "s");
	party_new(&l1, g.span, "L1a");
	w = watch_new(s.fd, LONG_US, ALLOW);
	MUST(subscribe(s.fd, w, ACC_W, LOG, 0, PAGES));
	MUST(subscribe(s.fd, w, ACC_W, NOTIFY, 6, 1));
	MUST(log_fetch(s.fd, w, r, 8, 0, PAGES, &f));
	MUST(span_revoke(g.span, l1.id));
	if (TINY_RUN(&l1.vm, wrmsr, .ecx = MSR_STEAL_TIME, .eax = GPA(6) | 1) != TINY_DONE)
		ktap_skip("no steal time in this kernel");
	TINY_RUN(&l1.vm, load, .ebx = 0x1000);
	CHECK(!event_wait(&s, &e, A_WHILE), "told of page %u, flags %#x", e.page, e.flags);
	MUST(log_fetch(s.fd, w, r, 8, 0, PAGES, &f));
	CHECK(f.dirty == 0, "%llu pages in the log, the first %llu", f.dirty, r[0].first);
	CHECK(watch_info(s.fd, w).pages_subscribed == 1, "the subscription is gone");
}

/* Mappings that reach beyond the guest's memory. */
static void t_beyond(void)
{
	size_t longer = MEM_BYTES + HUGE;
	struct tiny_vm v;
	uint8_t *m;
	int memfd = memfd_new(MEM_BYTES, GUEST_SEALS), span;

	m = mmap(NULL, longer, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
	MUST(m == MAP_FAILED ? -1 : 0);
	tiny_init_with(&v, TINY_IRQCHIP);
	/* It is there before the span. */
	MUST(tiny_slot(&v, 1, WINDOW_GPA, m, longer, 0));
	span = span_create_named(memfd, v.vm, "guest");
	CHECK(span == -1 && errno == EINVAL, "a slot beyond the memory: %s", span < 0 ? strerror(errno) : "taken");
	if (span >= 0)
		close(span);
	MUST(tiny_slot(&v, 1, 0, NULL, 0, 0));
	span = span_create(memfd, v.vm);
	CHECK(tiny_slot(&v, 1, WINDOW_GPA, m, longer, 0) == -1, "a slot beyond the memory");
	CHECK(tiny_slot(&v, 1, WINDOW_GPA, m + MEM_BYTES - PAGE, 2 * PAGE, 0) == -1, "a slot beyond the memory");
	CHECK(tiny_slot(&v, 1, WINDOW_GPA, m + MEM_BYTES, PAGE, 0) == -1, "a slot behind the memory");
	CHECK(tiny_slot(&v, 1, WINDOW_GPA, m + MEM_BYTES - PAGE, PAGE, 0) == 0, "%s", strerror(errno));
	CHECK(TINY_RUN(&v, store, .ebx = WINDOW_GPA, .eax = 7) == TINY_DONE && get32(m + MEM_BYTES - PAGE) == 7,
	      "the last page");
	close(span);
}

/* The answer of one that cancels holds, though another's opened the page for a moment. */
static void t_cancel_and_lift(void)
{
	struct party s, l1;
	struct event e, f;
	uint32_t w;
	int order;

	guest_new(&g, 0);
	watcher_new(&s, g.span, "s");
	party_new(&l1, g.span, "L1a");
	w = watch_new(s.fd, LONG_US, ALLOW);
	for (order = 0; order < 2; order++) {
		g.mem[5 * PAGE] = 0xc3;
		MUST(subscribe(s.fd, w, ACC_X, BLOCK, 5, 1));
		TINY_GO(&g.vm, call, .ebx = GPA(5));
		e = want_event(&s, w, 5, ACC_X, SPAN_SOURCE_GUEST_L0);
		TINY_GO(&l1.vm, call, .ebx = GPA(5));
		f = want_event(&s, w, 5, ACC_X, SPAN_SOURCE_L1);
		answer(&s, &e, ALLOW, order ? CANCEL : 0);
		WANT_END(&g.vm, TINY_DONE);
		answer(&s, &f, ALLOW, order ? 0 : CANCEL);
		WANT_END(&l1.vm, TINY_DONE);
		usleep(15000);
		CHECK(watch_info(s.fd, w).pages_subscribed == 0, "order %d: still subscribed", order);
		TINY_GO(&g.vm, call, .ebx = GPA(5));
		WANT_END(&g.vm, TINY_DONE);
		want_silence(&s);
	}
}

/* A page that was opened for a moment is not closed again for one who has unsubscribed. */
static void t_unsubscribe_and_lift(void)
{
	struct party s;
	struct event e;
	uint32_t w, i;

	guest_new(&g, 0);
	watcher_new(&s, g.span, "s");
	w = watch_new(s.fd, LONG_US, ALLOW);
	g.mem[5 * PAGE] = 0xc3;
	for (i = 0; i < 30; i++) {
		MUST(subscribe(s.fd, w, ACC_X, BLOCK, 5, 1));
		TINY_GO(&g.vm, call, .ebx = GPA(5));
		e = want_event(&s, w, 5, ACC_X, SPAN_SOURCE_GUEST_L0);
		answer(&s, &e, ALLOW, 0);
		/* Before, while and after the page is open. */
		if (i % 3 == 0)
			tiny_wait(&g.vm, SOON);
		else
			usleep(i * 53 % 1700);
		if (i % 2)
			MUST(unsubscribe(s.fd, w, ACC_RWX, 5, 1));
		else
			MUST(subscribe(s.fd, w, ACC_X, NOTIFY, 5, 1));
		WANT_END(&g.vm, TINY_DONE);
		usleep(5000);
		/* It may have been told a second time before; not any more. */
		while (event_wait(&s, &e, 0))
			;
		CHECK(TINY_RUN(&g.vm, call, .ebx = GPA(5)) == TINY_DONE, "round %u", i);
		while (event_wait(&s, &e, 0))
			CHECK(e.event == 0, "round %u: an event after unsubscribing", i);
		MUST(unsubscribe(s.fd, w, ACC_RWX, 5, 1));
		CHECK(watch_info(s.fd, w).pages_subscribed == 0, "round %u", i);
	}
}

/* A new span of the same memory as soon as it can be had. */
static int closing;

static void *closer(void *arg)
{
	close(closing);
	return NULL;
}

static void t_again(void)
{
	pthread_t thread;
	struct party s;
	uint32_t w;
	int i, span;

	guest_new(&g, 0);
	for (i = 0; i < 20; i++) {
		closing = g.span;
		MUST(pthread_create(&thread, NULL, closer, NULL) ? -1 : 0);
		while ((span = span_create_named(g.memfd, g.vm.vm, "again")) < 0)
			if (!CHECK(errno == EBUSY, "%s", strerror(errno)))
				return;
		g.span = span;
		watcher_new(&s, span, "s");
		w = watch_new(s.fd, 0, ALLOW);
		MUST(protect(s.fd, w, ACC_R, 5, 1));
		tiny_put32(g.mem + 5 * PAGE, 0);
		CHECK(TINY_RUN(&g.vm, store, .ebx = GPA(5), .eax = 1) == TINY_DONE && !get32(g.mem + 5 * PAGE),
		      "round %d: protected, and written", i);
		pthread_join(thread, NULL);
		CHECK(TINY_RUN(&g.vm, store, .ebx = GPA(5), .eax = 1) == TINY_DONE && !get32(g.mem + 5 * PAGE),
		      "round %d: protected, and written, later", i);
		munmap(s.answers, KVM_SPAN_RING_BYTES);
		close(s.fd);
	}
}

/* One revokes, the other dies; both look after the ring. */
static volatile int race_fd;
static volatile bool race_go, race_end;

static void *race_closer(void *arg)
{
	while (!race_end) {
		if (!race_go) {
			sched_yield();
			continue;
		}
		close(race_fd);
		race_go = false;
	}
	return NULL;
}

static void t_revoke_and_close(void)
{
	struct kvm_span_event events[8];
	struct party s;
	pthread_t thread;
	uint32_t w;
	int i;

	guest_new(&g, 0);
	MUST(fcntl(g.span, F_SETFL, O_NONBLOCK));
	MUST(pthread_create(&thread, NULL, race_closer, NULL) ? -1 : 0);
	for (i = 0; i < 100; i++) {
		watcher_new(&s, g.span, "s");
		w = watch_new(s.fd, 0, ALLOW);
		if (i & 1)
			MUST(subscribe(s.fd, w, ACC_W, BLOCK, 5, 1));
		munmap(s.answers, KVM_SPAN_RING_BYTES);
		doorbell(&s);
		race_fd = s.fd;
		race_go = true;
		if (i & 2)
			sched_yield();
		CHECK(span_revoke(g.span, s.id) == 0, "%s", strerror(errno));
		while (race_go)
			sched_yield();
		close(s.event_fd);
		close(s.doorbell);
		while (read(g.span, events, sizeof(events)) > 0)
			;
		CHECK(span_stats(g.span).watches == 0, "round %d: %u watches", i, span_stats(g.span).watches);
	}
	race_end = true;
	pthread_join(thread, NULL);
}

int main(void)
{
	static const struct ktap_test tests[] = {
		{ "nothing is read", t_reads },
		{ "KVM's own writes", t_kvm_writes },
		{ "no false writes", t_no_false_writes },
		{ "beyond the memory", t_beyond },
		{ "cancel and lift", t_cancel_and_lift },
		{ "unsubscribe and lift", t_unsubscribe_and_lift },
		{ "a span again", t_again },
		{ "revoke and close", t_revoke_and_close },
	};

	span_require();
	return KTAP_RUN(tests);
}
