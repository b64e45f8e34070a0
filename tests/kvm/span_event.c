// SPDX-License-Identifier: GPL-2.0
/*
 * Memory events: accesses that wait, are told, allowed, denied, or run into
 * the deadline; by the guest and by an L1 through its window.
 *
 * test: mem/event timeout=400 tags=fast,debug
 */
#include "watchlib.h"

#include <sys/prctl.h>
#include <x86intrin.h>

#define LONG_US		2000000		/* a deadline that no test runs into */
#define L1_DEADLINE_MS	50		/* accesses of an L1 never wait longer */
#define VALUE		0x5a5a0001u

static struct guest g;

static uint64_t now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000ULL + t.tv_nsec / 1000;
}

static void pause_ms(int ms)
{
	usleep(ms * 1000);
}

/* Begin an access of this kind to a page; it writes VALUE, or calls "ret". */
static void access_go(struct tiny_vm *v, uint32_t kind, uint64_t page)
{
	if (kind == ACC_W)
		TINY_GO(v, store, .ebx = GPA(page) + 0x10, .eax = VALUE);
	else if (kind == ACC_X)
		TINY_GO(v, call, .ebx = GPA(page) + 0x20);
	else
		TINY_GO(v, load, .ebx = GPA(page) + 0x10);
}

static int access_run(struct tiny_vm *v, uint32_t kind, uint64_t page)
{
	int end;

	access_go(v, kind, page);
	end = tiny_wait(v, SOON);
	tiny_abort(v);
	return end;
}

static void page_init(uint64_t page)
{
	memset(g.mem + page * PAGE, 0, PAGE);
	g.mem[page * PAGE + 0x20] = 0xc3;	/* ret */
}

static uint32_t written(uint64_t page)
{
	return get32(g.mem + page * PAGE + 0x10);
}

/* One access, from its subscription to its effect. */
struct row {
	bool l1;		/* by the L1 through its window, not by the guest */
	uint32_t kind;
	bool warm;		/* the page was mapped before the subscription */
	uint32_t verdict, flags;
};

static void row_check_event(const struct row *r, const struct event *e, uint64_t page)
{
	CHECK(e->event != 0, "no number");
	CHECK(!(e->flags & (SPAN_EVENT_F_NOTICE | SPAN_EVENT_F_VIOLATION | SPAN_EVENT_F_AFTER)), "flags %#x",
	      e->flags);
	if (r->l1) {
		/* What an L1 does inside itself is nobody's business. */
		CHECK(e->vcpu == 0xffff && e->rip == 0 && e->cr3 == 0 && e->gpa == ~0ULL,
		      "vcpu %#x rip %#llx cr3 %#llx gpa %#llx", e->vcpu, (unsigned long long)e->rip,
		      (unsigned long long)e->cr3, (unsigned long long)e->gpa);
		return;
	}
	CHECK(e->vcpu == 0, "vcpu %#x", e->vcpu);
	CHECK(e->gpa >> 12 == GPA(page) >> 12, "gpa %#llx", (unsigned long long)e->gpa);
	if (r->kind == ACC_X)
		CHECK(e->rip == GPA(page) + 0x20, "rip %#llx", (unsigned long long)e->rip);
	else
		CHECK(e->rip >= CODE_GPA && e->rip < CODE_GPA + 64, "rip %#llx", (unsigned long long)e->rip);
}

static void row_check_effect(const struct row *r, struct tiny_vm *v, int end, uint64_t page)
{
	bool denied = r->verdict == DENY;

	if (r->kind == ACC_R && r->l1 && denied) {
		/* Like any PCI device that does not answer. */
		CHECK(end == TINY_DONE && tiny_eax(v) == 0xffffffff, "ended with %d, eax %#x", end, tiny_eax(v));
	} else if (r->kind == ACC_W) {
		CHECK(end == TINY_DONE, "ended with %d", end);
		CHECK(written(page) == (denied ? 0 : VALUE), "memory %#x", written(page));
	} else {
		CHECK(end == (denied ? TINY_GP : TINY_DONE), "ended with %d", end);
	}
}

static void row_run(const struct row *r, struct party *s, struct party *l1, uint64_t page)
{
	struct tiny_vm *v = r->l1 ? &l1->vm : &g.vm;
	uint8_t source = r->l1 ? SPAN_SOURCE_L1 : SPAN_SOURCE_GUEST_L0;
	uint32_t w = watch_new(s->fd, LONG_US, ALLOW);
	struct kvm_span_stats stats;
	struct event e;
	int end;

	page_init(page);
	if (r->warm)
		CHECK(access_run(v, r->kind, page) == TINY_DONE, "the first touch");
	page_init(page);
	MUST(subscribe(s->fd, w, r->kind, BLOCK, page, 1));
	stats = span_stats(g.span);
	access_go(v, r->kind, page);
	e = want_event(s, w, page, r->kind, source);
	row_check_event(r, &e, page);
	WANT_WAITING(v);
	CHECK(written(page) == 0, "written before the answer");
	answer(s, &e, r->verdict, r->flags);
	end = tiny_wait(v, SOON);
	tiny_abort(v);
	row_check_effect(r, v, end, page);
	want_silence(s);

	/* Again: told if and only if the subscription was kept. */
	wait_closed(g.span, &stats);
	access_go(v, r->kind, page);
	if (!(r->flags & CANCEL)) {
		e = want_event(s, w, page, r->kind, source);
		answer(s, &e, ALLOW, CANCEL);
	}
	WANT_END(v, TINY_DONE);
	CHECK(r->kind != ACC_W || written(page) == VALUE, "memory %#x", written(page));
	want_silence(s);
	CHECK(watch_info(s->fd, w).pages_subscribed == 0, "%llu", watch_info(s->fd, w).pages_subscribed);
	CHECK(watch_info(s->fd, w).timeouts == 0, "%llu timeouts", watch_info(s->fd, w).timeouts);
	MUST(watch_destroy(s->fd, w));
}

static void rows_of(bool l1_access)
{
	static const uint32_t kinds[] = { ACC_W, ACC_X, ACC_R };
	static const struct {
		uint32_t verdict, flags;
	} answers[] = { { ALLOW, 0 }, { ALLOW, CANCEL }, { DENY, 0 }, { DENY, CANCEL } };
	struct party s, l1;
	uint64_t page = 16;
	int k, a, warm, failed;

	guest_new(&g, 0);
	watcher_new(&s, g.span, "watcher");
	party_new(&l1, g.span, "L1a");
	for (k = 0; k < 3; k++) {
		for (a = 0; a < 4; a++) {
			for (warm = 0; warm < 2; warm++) {
				struct row r = { l1_access, kinds[k], warm, answers[a].verdict, answers[a].flags };

				failed = ktap_failures;
				row_run(&r, &s, &l1, page++);
				if (ktap_failures != failed)
					ktap_note("^ access %u, %s, verdict %u, flags %u", r.kind,
						  warm ? "warm" : "cold", r.verdict, r.flags);
			}
		}
	}
}

static void t_guest(void)
{
	rows_of(false);
}

static void t_l1(void)
{
	rows_of(true);
}

/* Both touch the page; each subscription stops both, whoever mapped it first. */
static void t_both_paths(void)
{
	struct party s, l1;
	struct event e, f;
	uint64_t page;
	uint32_t w;
	int order;

	guest_new(&g, 0);
	watcher_new(&s, g.span, "watcher");
	party_new(&l1, g.span, "L1a");
	w = watch_new(s.fd, LONG_US, ALLOW);
	for (order = 0; order < 2; order++) {
		page = 30 + order;
		page_init(page);
		CHECK(access_run(order ? &g.vm : &l1.vm, ACC_W, page) == TINY_DONE, "first touch");
		CHECK(access_run(order ? &l1.vm : &g.vm, ACC_W, page) == TINY_DONE, "second touch");
		page_init(page);
		MUST(subscribe(s.fd, w, ACC_W, BLOCK, page, 1));
		access_go(&g.vm, ACC_W, page);
		e = want_event(&s, w, page, ACC_W, SPAN_SOURCE_GUEST_L0);
		access_go(&l1.vm, ACC_W, page);
		f = want_event(&s, w, page, ACC_W, SPAN_SOURCE_L1);
		CHECK(e.event != f.event, "two accesses, one number");
		/* Each has its own answer. */
		answer(&s, &f, DENY, 0);
		WANT_END(&l1.vm, TINY_DONE);
		CHECK(written(page) == 0, "%#x", written(page));
		WANT_WAITING(&g.vm);
		answer(&s, &e, ALLOW, 0);
		WANT_END(&g.vm, TINY_DONE);
		CHECK(written(page) == VALUE, "%#x", written(page));
		/* Reads and fetches are nobody's concern here. */
		CHECK(access_run(&g.vm, ACC_R, page) == TINY_DONE && access_run(&l1.vm, ACC_X, page) == TINY_DONE,
		      "a read or a fetch was stopped");
		want_silence(&s);
	}
}

/* A vCPU that other pages of the same 2 MiB do not stop. */
static void t_neighbours(void)
{
	struct party s;
	uint32_t w;

	guest_new(&g, 0);
	watcher_new(&s, g.span, "watcher");
	w = watch_new(s.fd, LONG_US, ALLOW);
	CHECK(TINY_RUN(&g.vm, touch, .ebx = WINDOW_GPA, .ecx = PAGES) == TINY_DONE, "first touch");
	MUST(subscribe(s.fd, w, ACC_RWX, BLOCK, 100, 1));
	MUST(subscribe(s.fd, w, ACC_RWX, BLOCK, PAGES - 1, 1));
	CHECK(TINY_RUN(&g.vm, touch, .ebx = WINDOW_GPA, .ecx = 100) == TINY_DONE, "pages before");
	CHECK(TINY_RUN(&g.vm, touch, .ebx = GPA(101), .ecx = PAGES - 102) == TINY_DONE, "pages after");
	want_silence(&s);
	CHECK(watch_info(s.fd, w).events == 0, "%llu events", watch_info(s.fd, w).events);
}

/* All are told before one has answered; all have to allow. */
static void t_subscribers(void)
{
	struct party s[3];
	struct event e[3];
	uint32_t w[3];
	int n, k, denier;
	char name[16];

	guest_new(&g, 0);
	for (k = 0; k < 3; k++) {
		snprintf(name, sizeof(name), "watcher%d", k);
		watcher_new(&s[k], g.span, name);
		w[k] = watch_new(s[k].fd, LONG_US, ALLOW);
	}
	for (n = 2; n <= 3; n++) {
		/* denier n: nobody */
		for (denier = 0; denier <= n; denier++) {
			page_init(5);
			for (k = 0; k < n; k++)
				MUST(subscribe(s[k].fd, w[k], ACC_W, BLOCK, 5, 1));
			access_go(&g.vm, ACC_W, 5);
			for (k = 0; k < n; k++)
				e[k] = want_event(&s[k], w[k], 5, ACC_W, SPAN_SOURCE_GUEST_L0);
			for (k = n - 1; k >= 0; k--) {
				if (denier == n)
					WANT_WAITING(&g.vm);
				answer(&s[k], &e[k], k == denier ? DENY : ALLOW, CANCEL);
			}
			WANT_END(&g.vm, TINY_DONE);
			CHECK(written(5) == (denier == n ? VALUE : 0), "%d subscribers, %d denies: %#x", n, denier,
			      written(5));
			for (k = 0; k < n; k++)
				want_silence(&s[k]);
		}
	}
	for (k = 0; k < 3; k++)
		CHECK(watch_info(s[k].fd, w[k]).timeouts == 0, "%llu", watch_info(s[k].fd, w[k]).timeouts);
}

/* One keeps, the other cancels: only the first hears of the next one. */
static void t_keep_and_cancel(void)
{
	struct party s, q;
	struct event e;
	uint32_t w, v;

	guest_new(&g, 0);
	watcher_new(&s, g.span, "s");
	watcher_new(&q, g.span, "q");
	w = watch_new(s.fd, LONG_US, ALLOW);
	v = watch_new(q.fd, LONG_US, ALLOW);
	MUST(subscribe(s.fd, w, ACC_W, BLOCK, 5, 2));
	MUST(subscribe(q.fd, v, ACC_W, BLOCK, 5, 2));
	access_go(&g.vm, ACC_W, 5);
	e = want_event(&q, v, 5, ACC_W, SPAN_SOURCE_GUEST_L0);
	answer(&q, &e, ALLOW, CANCEL);
	e = want_event(&s, w, 5, ACC_W, SPAN_SOURCE_GUEST_L0);
	answer(&s, &e, ALLOW, 0);
	WANT_END(&g.vm, TINY_DONE);
	access_go(&g.vm, ACC_W, 5);
	e = want_event(&s, w, 5, ACC_W, SPAN_SOURCE_GUEST_L0);
	want_silence(&q);
	answer(&s, &e, ALLOW, CANCEL);
	WANT_END(&g.vm, TINY_DONE);
	CHECK(access_run(&g.vm, ACC_W, 5) == TINY_DONE, "nobody subscribes any more");
	/* Page 6 is as it was, for both. */
	access_go(&g.vm, ACC_W, 6);
	e = want_event(&q, v, 6, ACC_W, SPAN_SOURCE_GUEST_L0);
	answer(&q, &e, ALLOW, 0);
	e = want_event(&s, w, 6, ACC_W, SPAN_SOURCE_GUEST_L0);
	answer(&s, &e, ALLOW, 0);
	WANT_END(&g.vm, TINY_DONE);
}

/* Two watches of one party, two kinds of interest of one watch. */
static void t_notify(void)
{
	struct party s, l1;
	struct event e;
	uint32_t w;
	int i;

	guest_new(&g, 0);
	watcher_new(&s, g.span, "s");
	party_new(&l1, g.span, "L1a");
	w = watch_new(s.fd, LONG_US, ALLOW);
	for (i = 0; i < 3; i++) {
		struct tiny_vm *v = i == 2 ? &l1.vm : &g.vm;

		page_init(5);
		MUST(subscribe(s.fd, w, ACC_W, NOTIFY, 5, 1));
		CHECK(access_run(v, ACC_R, 5) == TINY_DONE, "read");
		want_silence(&s);
		/* It does not wait for anybody, and is told once. */
		CHECK(access_run(v, ACC_W, 5) == TINY_DONE && written(5) == VALUE, "write");
		e = want_event(&s, w, 5, ACC_W, i == 2 ? SPAN_SOURCE_L1 : SPAN_SOURCE_GUEST_L0);
		CHECK(e.event == 0 && (e.flags & SPAN_EVENT_F_NOTICE), "event %llu, flags %#x",
		      (unsigned long long)e.event, e.flags);
		CHECK(access_run(v, ACC_W, 5) == TINY_DONE, "write");
		want_silence(&s);
		CHECK(watch_info(s.fd, w).pages_subscribed == 0, "the page did not leave the subscription");
	}
	CHECK(watch_info(s.fd, w).notices == 3, "%llu notices", watch_info(s.fd, w).notices);
	CHECK(span_stats(g.span).notices == 3, "%llu notices", span_stats(g.span).notices);
	CHECK(watch_info(s.fd, w).events == 0, "%llu events", watch_info(s.fd, w).events);
	/* X and R. */
	page_init(6);
	MUST(subscribe(s.fd, w, ACC_X, NOTIFY, 6, 1));
	CHECK(access_run(&g.vm, ACC_W, 6) == TINY_DONE && access_run(&g.vm, ACC_X, 6) == TINY_DONE, "fetch");
	want_event(&s, w, 6, ACC_X, SPAN_SOURCE_GUEST_L0);
	page_init(7);
	MUST(subscribe(s.fd, w, ACC_R, NOTIFY, 7, 1));
	CHECK(access_run(&g.vm, ACC_R, 7) == TINY_DONE, "read");
	want_event(&s, w, 7, ACC_R, SPAN_SOURCE_GUEST_L0);
	want_silence(&s);
}

/* What one watch protects is denied to everybody at once, and it is told. */
static void t_protect(void)
{
	struct party s, l1, l2;
	struct event e;
	uint32_t w, own;

	guest_new(&g, 0);
	watcher_new(&s, g.span, "s");
	party_new(&l1, g.span, "L1a");
	party_new(&l2, g.span, "L1b");
	w = watch_new(s.fd, LONG_US, ALLOW);
	page_init(5);
	CHECK(access_run(&g.vm, ACC_W, 5) == TINY_DONE && access_run(&l1.vm, ACC_W, 5) == TINY_DONE, "first touch");
	page_init(5);
	MUST(protect(s.fd, w, ACC_RX, 5, 1));
	CHECK(access_run(&g.vm, ACC_W, 5) == TINY_DONE && written(5) == 0, "written: %#x", written(5));
	e = want_event(&s, w, 5, ACC_W, SPAN_SOURCE_GUEST_L0);
	CHECK(e.event == 0 && (e.flags & SPAN_EVENT_F_VIOLATION), "event %llu flags %#x",
	      (unsigned long long)e.event, e.flags);
	CHECK(access_run(&g.vm, ACC_X, 5) == TINY_DONE && access_run(&g.vm, ACC_R, 5) == TINY_DONE, "read, fetch");
	CHECK(access_run(&l1.vm, ACC_W, 5) == TINY_DONE && written(5) == 0, "written: %#x", written(5));
	CHECK(watch_info(s.fd, w).violations == 2, "%llu violations", watch_info(s.fd, w).violations);
	MUST(protect(s.fd, w, ACC_R, 5, 1));
	CHECK(access_run(&g.vm, ACC_X, 5) == TINY_GP, "fetched");
	CHECK(access_run(&l1.vm, ACC_X, 5) == TINY_GP, "fetched");
	CHECK(access_run(&g.vm, ACC_R, 5) == TINY_DONE, "read");
	MUST(protect(s.fd, w, 0, 5, 1));
	CHECK(access_run(&g.vm, ACC_R, 5) == TINY_GP, "read");
	CHECK(access_run(&l1.vm, ACC_R, 5) == TINY_DONE && tiny_eax(&l1.vm) == 0xffffffff, "read: %#x",
	      tiny_eax(&l1.vm));
	CHECK(access_run(&g.vm, ACC_W, 5) == TINY_DONE && written(5) == 0, "written: %#x", written(5));
	CHECK(span_stats(g.span).denials >= 7, "%llu denials", span_stats(g.span).denials);
	/* No one waits for anybody here, and nobody is pending. */
	CHECK(watch_info(s.fd, w).events == 0 && span_stats(g.span).pending == 0, "events");
	MUST(protect(s.fd, w, ACC_RWX, 5, 1));
	CHECK(access_run(&g.vm, ACC_X, 5) == TINY_DONE && access_run(&l1.vm, ACC_W, 5) == TINY_DONE &&
	      written(5) == VALUE, "not restored: %#x", written(5));
	/* It binds the one who asked for it as well. */
	own = watch_new(l1.fd, LONG_US, ALLOW);
	page_init(6);
	MUST(protect(l1.fd, own, ACC_R, 6, 1));
	CHECK(access_run(&l1.vm, ACC_W, 6) == TINY_DONE && written(6) == 0, "L1a wrote itself: %#x", written(6));
	CHECK(access_run(&l2.vm, ACC_W, 6) == TINY_DONE && written(6) == 0, "L1b wrote: %#x", written(6));
	CHECK(access_run(&l1.vm, ACC_X, 6) == TINY_GP, "L1a fetched");
}

/* Protection comes before subscriptions: nobody is asked what is denied anyhow. */
static void t_protect_and_block(void)
{
	struct party s, q;
	struct event e;
	uint32_t w, v;

	guest_new(&g, 0);
	watcher_new(&s, g.span, "s");
	watcher_new(&q, g.span, "q");
	w = watch_new(s.fd, LONG_US, ALLOW);
	v = watch_new(q.fd, LONG_US, ALLOW);
	page_init(5);
	MUST(subscribe(s.fd, w, ACC_W, BLOCK, 5, 1));
	MUST(protect(q.fd, v, ACC_R, 5, 1));
	CHECK(access_run(&g.vm, ACC_W, 5) == TINY_DONE && written(5) == 0, "%#x", written(5));
	want_silence(&s);
	e = want_event(&q, v, 5, ACC_W, SPAN_SOURCE_GUEST_L0);
	CHECK(e.flags & SPAN_EVENT_F_VIOLATION, "%#x", e.flags);
	/* Protected while it waits: the "yes" that comes later does not help. */
	MUST(protect(q.fd, v, ACC_RWX, 5, 1));
	access_go(&g.vm, ACC_W, 5);
	e = want_event(&s, w, 5, ACC_W, SPAN_SOURCE_GUEST_L0);
	MUST(protect(q.fd, v, ACC_R, 5, 1));
	answer(&s, &e, ALLOW, 0);
	WANT_END(&g.vm, TINY_DONE);
	CHECK(written(5) == 0, "%#x", written(5));
}

/* Nobody hears of itself; the others do. */
static void t_own_access(void)
{
	struct party a, b;
	struct event e;
	uint32_t w, kinds[] = { ACC_W, ACC_X, ACC_R };
	int i, mode;

	guest_new(&g, 0);
	party_new(&a, g.span, "L1a");
	party_new(&b, g.span, "L1b");
	w = watch_new(a.fd, LONG_US, DENY);
	for (i = 0; i < 3; i++) {
		for (mode = BLOCK; mode <= NOTIFY; mode++) {
			uint64_t page = 10 + 2 * i + mode;

			page_init(page);
			MUST(subscribe(a.fd, w, kinds[i], mode, page, 1));
			CHECK(access_run(&a.vm, kinds[i], page) == TINY_DONE, "kind %u: stopped by itself", kinds[i]);
			CHECK(kinds[i] != ACC_W || written(page) == VALUE, "%#x", written(page));
			want_silence(&a);
			CHECK(watch_info(a.fd, w).pages_subscribed == 1, "it left the subscription");
			access_go(&b.vm, kinds[i], page);
			e = want_event(&a, w, page, kinds[i], SPAN_SOURCE_L1);
			if (mode == BLOCK)
				answer(&a, &e, ALLOW, CANCEL);
			WANT_END(&b.vm, TINY_DONE);
			/* And it had not opened the page for the guest. */
			MUST(subscribe(a.fd, w, kinds[i], BLOCK, page, 1));
			CHECK(access_run(&a.vm, kinds[i], page) == TINY_DONE, "kind %u: stopped by itself", kinds[i]);
			access_go(&g.vm, kinds[i], page);
			e = want_event(&a, w, page, kinds[i], SPAN_SOURCE_GUEST_L0);
			answer(&a, &e, ALLOW, CANCEL);
			WANT_END(&g.vm, TINY_DONE);
		}
	}
}

static void deadline_row(struct party *s, struct tiny_vm *v, uint32_t us, uint32_t on_timeout, bool l1)
{
	uint32_t w = watch_new(s->fd, us, on_timeout), want = us;
	uint64_t t0, took, tsc;
	struct event e;

	if (l1 && want > L1_DEADLINE_MS * 1000)
		want = L1_DEADLINE_MS * 1000;
	page_init(5);
	MUST(subscribe(s->fd, w, ACC_W, BLOCK, 5, 1));
	t0 = now_us();
	tsc = __rdtsc();
	access_go(v, ACC_W, 5);
	WANT_END(v, TINY_DONE);
	took = now_us() - t0;
	tsc = __rdtsc() - tsc;
	ktap_note("deadline %u us, %s: took %llu us, %llu TSC", us, l1 ? "L1" : "guest", (unsigned long long)took,
		  (unsigned long long)tsc);
	CHECK(took >= want - 1000, "%llu us of %u", (unsigned long long)took, want);
	CHECK(took <= want + 15000, "%llu us of %u", (unsigned long long)took, want);
	CHECK(written(5) == (on_timeout == ALLOW ? VALUE : 0), "%#x", written(5));
	CHECK(watch_info(s->fd, w).timeouts == 1, "%llu timeouts", watch_info(s->fd, w).timeouts);
	CHECK(span_stats(g.span).pending == 0, "%u pending", span_stats(g.span).pending);
	CHECK(event_wait(s, &e, SOON) && e.watch == w, "it was not told");
	CHECK_ERR(answer_call(s->fd, e.event, e.watch, ALLOW, 0), ENOENT);
	want_silence(s);
	MUST(watch_destroy(s->fd, w));
}

/* Nobody answers in time; each late answer shows that somebody is there, though. */
static void t_deadline(void)
{
	struct party s, l1;

	guest_new(&g, 0);
	watcher_new(&s, g.span, "s");
	party_new(&l1, g.span, "L1a");
	deadline_row(&s, &g.vm, 5000, ALLOW, false);
	deadline_row(&s, &g.vm, 30000, ALLOW, false);
	deadline_row(&s, &g.vm, 30000, DENY, false);
	deadline_row(&s, &g.vm, 200000, DENY, false);
	deadline_row(&s, &l1.vm, 20000, ALLOW, true);
	deadline_row(&s, &l1.vm, 20000, DENY, true);
	deadline_row(&s, &l1.vm, 400000, ALLOW, true);
	CHECK(span_stats(g.span).timeouts == 7, "%llu timeouts", span_stats(g.span).timeouts);
}

/* Two deadlines on one access: each watch has its own. */
static void t_two_deadlines(void)
{
	struct party s, q;
	struct event e;
	uint64_t t0;
	uint32_t w, v;

	guest_new(&g, 0);
	watcher_new(&s, g.span, "s");
	watcher_new(&q, g.span, "q");
	w = watch_new(s.fd, 20000, ALLOW);
	v = watch_new(q.fd, 100000, ALLOW);
	page_init(5);
	MUST(subscribe(s.fd, w, ACC_W, BLOCK, 5, 1));
	MUST(subscribe(q.fd, v, ACC_W, BLOCK, 5, 1));
	t0 = now_us();
	access_go(&g.vm, ACC_W, 5);
	e = want_event(&q, v, 5, ACC_W, SPAN_SOURCE_GUEST_L0);
	pause_ms(50);
	CHECK(tiny_wait(&g.vm, 0) == TINY_WAITING, "gone on after the shorter deadline");
	CHECK(watch_info(s.fd, w).timeouts == 1, "%llu timeouts", watch_info(s.fd, w).timeouts);
	answer(&q, &e, ALLOW, 0);
	WANT_END(&g.vm, TINY_DONE);
	CHECK(now_us() - t0 < 95000, "%llu us", (unsigned long long)(now_us() - t0));
	CHECK(written(5) == VALUE, "%#x", written(5));
}

/* Three timeouts in a row: it is not waited for any more. */
static void t_muted(void)
{
	struct kvm_span_event ev;
	struct party s, q;
	struct event e;
	uint64_t t0, took;
	uint32_t w, v;
	int i, n = 0;

	guest_new(&g, 0);
	watcher_new(&s, g.span, "s");
	watcher_new(&q, g.span, "q");
	w = watch_new(s.fd, 30000, DENY);
	v = watch_new(q.fd, 30000, ALLOW);
	MUST(subscribe(s.fd, w, ACC_W, BLOCK, 5, 1));
	MUST(subscribe(q.fd, v, ACC_W, BLOCK, 9, 1));
	for (i = 0; i < 6; i++) {
		page_init(5);
		CHECK(watch_info(s.fd, w).muted == (i >= 3), "after %d timeouts: muted %u", i,
		      watch_info(s.fd, w).muted);
		t0 = now_us();
		CHECK(access_run(&g.vm, ACC_W, 5) == TINY_DONE, "access %d", i);
		took = now_us() - t0;
		CHECK(i < 3 ? took >= 29000 : took < 15000, "access %d took %llu us", i, (unsigned long long)took);
		CHECK(written(5) == 0, "access %d was not denied", i);
	}
	do
		ev = span_event(g.span, 0);
	while (ev.type && ev.type != KVM_SPAN_EVENT_MUTED);
	CHECK(ev.type == KVM_SPAN_EVENT_MUTED && ev.member == s.id, "event %u of %u", ev.type, ev.member);
	/* The other is not concerned. */
	CHECK(watch_info(q.fd, v).muted == 0, "both are muted");
	/* It answers something, and is waited for again. */
	while (event_wait(&s, &e, A_WHILE)) {
		n++;
		answer(&s, &e, ALLOW, 0);
	}
	CHECK(n >= 3, "%d events", n);
	pause_ms(A_WHILE);
	CHECK(watch_info(s.fd, w).muted == 0, "still muted after an answer");
	page_init(5);
	access_go(&g.vm, ACC_W, 5);
	e = want_event(&s, w, 5, ACC_W, SPAN_SOURCE_GUEST_L0);
	answer(&s, &e, ALLOW, 0);
	WANT_END(&g.vm, TINY_DONE);
	CHECK(written(5) == VALUE, "%#x", written(5));
}

/* Notices leave this many slots free for events that want an answer. */
#define RESERVE		32

/* A subscriber that does not read, and one that has no ring. */
static void t_ring_full(void)
{
	const int fit = SPAN_RING_SLOTS - RESERVE;
	struct kvm_span_watch_info info;
	struct party s, none = {};
	struct event e;
	uint64_t t0;
	uint32_t w, v;
	int i, n = 0;

	guest_new(&g, 0);
	watcher_new(&s, g.span, "s");
	w = watch_new(s.fd, LONG_US, ALLOW);
	MUST(subscribe(s.fd, w, ACC_W, NOTIFY, 100, 2 * SPAN_RING_SLOTS));
	MUST(subscribe(s.fd, w, ACC_W, BLOCK, 5, 1));
	CHECK(TINY_RUN(&g.vm, touch, .ebx = GPA(100), .ecx = 2 * SPAN_RING_SLOTS) == TINY_DONE, "touch");
	info = watch_info(s.fd, w);
	CHECK((int)info.lost == 2 * SPAN_RING_SLOTS - fit, "%llu lost", info.lost);
	/* However many notices there are, who wants to block is asked. */
	page_init(5);
	access_go(&g.vm, ACC_W, 5);
	WANT_WAITING(&g.vm);
	while (event_wait(&s, &e, A_WHILE) && !e.event)
		n++;
	CHECK(e.event && n == fit, "%d notices before the event", n);
	answer(&s, &e, DENY, 0);
	WANT_END(&g.vm, TINY_DONE);
	CHECK(written(5) == 0, "%#x", written(5));
	/* There is room again: it learns what it lost. */
	while (event_wait(&s, &e, A_WHILE))
		;
	CHECK(s.lost == info.lost, "LOST said %llu, want %llu", (unsigned long long)s.lost, info.lost);

	/* Full of events, the next one goes by the default at once. */
	v = watch_new(s.fd, 1000, ALLOW);
	MUST(subscribe(s.fd, v, ACC_W, BLOCK, 6, 1));
	for (i = 0; i < SPAN_RING_SLOTS; i++)
		CHECK(access_run(&g.vm, ACC_W, 6) == TINY_DONE, "access %d", i);
	page_init(5);
	t0 = now_us();
	MUST(unsubscribe(s.fd, w, ACC_W, 100, 2 * SPAN_RING_SLOTS));
	CHECK(access_run(&g.vm, ACC_W, 5) == TINY_DONE && written(5) == VALUE, "%#x", written(5));
	CHECK(now_us() - t0 < 100000, "waited %llu us for one who cannot know", (unsigned long long)(now_us() - t0));
	for (n = 0; event_wait(&s, &e, A_WHILE); n++)
		;
	CHECK(n == SPAN_RING_SLOTS, "%d messages", n);
	MUST(watch_destroy(s.fd, v));
	/* The ring goes on where it was, many times around. */
	for (i = 0; i < 4; i++) {
		MUST(subscribe(s.fd, w, ACC_W, NOTIFY, 100, fit - 6));
		CHECK(TINY_RUN(&g.vm, touch, .ebx = GPA(100), .ecx = fit - 6) == TINY_DONE, "touch");
		for (n = 0; event_wait(&s, &e, A_WHILE); n++)
			CHECK(e.page == 100u + n, "page %u", e.page);
		CHECK(n == fit - 6, "%d messages", n);
	}

	none.fd = MUST(grant_call(g.span, "none", KVM_SPAN_GRANT_WATCHER, 0, ALL_RIGHTS, 0, NULL));
	v = watch_new(none.fd, 0, DENY);
	MUST(subscribe(none.fd, v, ACC_W, BLOCK, 7, 1));
	page_init(7);
	t0 = now_us();
	CHECK(access_run(&g.vm, ACC_W, 7) == TINY_DONE && written(7) == 0, "%#x", written(7));
	for (i = 0; i < 5; i++)
		CHECK(access_run(&g.vm, ACC_W, 7) == TINY_DONE && written(7) == 0, "%#x", written(7));
	CHECK(now_us() - t0 < 60000, "waited %llu us", (unsigned long long)(now_us() - t0));
}

/* The subscriber ends in one way or another while an access waits for it. */

static pid_t dying_watcher(uint64_t page, int *ready)
{
	int fds[2];
	pid_t pid;

	MUST(pipe(fds));
	pid = MUST(fork());
	if (!pid) {
		struct party s;
		struct event e;
		uint32_t w;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		watcher_new(&s, g.span, "dying");
		close(g.span);
		w = watch_new(s.fd, LONG_US, ALLOW);
		MUST(subscribe(s.fd, w, ACC_W, BLOCK, page, 1));
		MUST(write(fds[1], "r", 1));
		event_wait(&s, &e, 10000);
		MUST(write(fds[1], "e", 1));
		pause();
		_exit(0);
	}
	close(fds[1]);
	*ready = fds[0];
	return pid;
}

static void t_killed(void)
{
	uint64_t t0;
	pid_t pid;
	char c;
	int fd;

	guest_new(&g, 0);
	page_init(5);
	pid = dying_watcher(5, &fd);
	MUST(read(fd, &c, 1) == 1 ? 0 : -1);
	access_go(&g.vm, ACC_W, 5);
	MUST(read(fd, &c, 1) == 1 && c == 'e' ? 0 : -1);
	WANT_WAITING(&g.vm);
	t0 = now_us();
	MUST(kill(pid, SIGKILL));
	WANT_END(&g.vm, TINY_DONE);
	CHECK(now_us() - t0 < 500000, "%llu us after the kill", (unsigned long long)(now_us() - t0));
	CHECK(written(5) == VALUE, "%#x", written(5));
	waitpid(pid, NULL, 0);
	CHECK(span_stats(g.span).watches == 0 && span_stats(g.span).pending == 0, "left behind");
	CHECK(access_run(&g.vm, ACC_W, 5) == TINY_DONE, "still subscribed");
}

/* A stopped process is no dead one: the deadline counts. */
static void t_stopped(void)
{
	uint64_t t0;
	pid_t pid;
	char c;
	int fd;

	guest_new(&g, 0);
	page_init(5);
	pid = dying_watcher(5, &fd);
	MUST(read(fd, &c, 1) == 1 ? 0 : -1);
	MUST(kill(pid, SIGSTOP));
	t0 = now_us();
	access_go(&g.vm, ACC_W, 5);
	WANT_END(&g.vm, TINY_DONE);
	CHECK(now_us() - t0 >= LONG_US - 1000 && now_us() - t0 < LONG_US + 20000, "%llu us",
	      (unsigned long long)(now_us() - t0));
	MUST(kill(pid, SIGKILL));
	waitpid(pid, NULL, 0);
}

static void t_ended(void)
{
	static const char *const how[] = { "destroy", "unsubscribe", "revoke", "close", "span" };
	struct party s, other;
	struct event e;
	uint64_t t0;
	uint32_t w;
	size_t i;

	for (i = 0; i < sizeof(how) / sizeof(how[0]); i++) {
		guest_new(&g, 0);
		watcher_new(&s, g.span, "s");
		watcher_new(&other, g.span, "other");
		w = watch_new(s.fd, LONG_US, ALLOW);
		page_init(5);
		MUST(subscribe(s.fd, w, ACC_W, BLOCK, 5, 1));
		access_go(&g.vm, ACC_W, 5);
		e = want_event(&s, w, 5, ACC_W, SPAN_SOURCE_GUEST_L0);
		WANT_WAITING(&g.vm);
		t0 = now_us();
		switch (i) {
		case 0: MUST(watch_destroy(s.fd, w)); break;
		case 1: MUST(unsubscribe(s.fd, w, ACC_W, 5, 1)); break;
		case 2: MUST(span_revoke(g.span, s.id)); break;
		case 3: munmap(s.answers, KVM_SPAN_RING_BYTES); close(s.fd); break;
		case 4: close(g.span); break;
		}
		WANT_END(&g.vm, TINY_DONE);
		CHECK(now_us() - t0 < 500000, "%s: %llu us", how[i], (unsigned long long)(now_us() - t0));
		CHECK(written(5) == VALUE, "%s: %#x", how[i], written(5));
		if (i < 2)
			CHECK_ERR(answer_call(s.fd, e.event, e.watch, ALLOW, 0), ENOENT);
		CHECK(access_run(&g.vm, ACC_W, 5) == TINY_DONE, "%s: still subscribed", how[i]);
		if (i < 4)
			CHECK(span_stats(g.span).pending == 0, "%s: %u pending", how[i], span_stats(g.span).pending);
		tiny_free(&g.vm);
	}
}

/* The guest's process is killed while its vCPU waits. */
static void t_guest_killed(void)
{
	int sock[2], status, k;
	struct party s = {};
	struct event e;
	uint32_t w;
	pid_t pid;

	for (k = 0; k < 2; k++) {
		MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, sock));
		pid = MUST(fork());
		if (!pid) {
			char c;

			prctl(PR_SET_PDEATHSIG, SIGKILL);
			guest_new(&g, 0);
			send_fd(sock[1], MUST(grant_call(g.span, "s", KVM_SPAN_GRANT_WATCHER, 0, ALL_RIGHTS,
							 KVM_SPAN_DEADLINE_MAX, NULL)));
			MUST(read(sock[1], &c, 1));
			access_go(&g.vm, ACC_W, 5);
			WANT_END(&g.vm, TINY_DONE);
			_exit(0);
		}
		memset(&s, 0, sizeof(s));
		s.fd = recv_fd(sock[0]);
		party_ring(&s);
		w = watch_new(s.fd, LONG_US, ALLOW);
		MUST(subscribe(s.fd, w, ACC_W, BLOCK, 5, 1));
		MUST(write(sock[0], "g", 1));
		e = want_event(&s, w, 5, ACC_W, SPAN_SOURCE_GUEST_L0);
		if (k)
			answer(&s, &e, ALLOW, 0);
		MUST(kill(pid, SIGKILL));
		MUST(waitpid(pid, &status, 0));
		answer(&s, &e, ALLOW, 0);
		CHECK(answer_call(s.fd, e.event, w, ALLOW, 0) == -1, "answered for a dead one");
		CHECK(watch_create(s.fd, 0, ALLOW, NULL) == -1 && errno == EACCES, "%s", strerror(errno));
		munmap(s.answers, KVM_SPAN_RING_BYTES);
		close(s.fd);
		close(sock[0]);
		close(sock[1]);
	}
}

/* A vCPU that waits takes interrupts and goes back to waiting. */
static void t_interrupt(void)
{
	static const uint32_t kinds[] = { ACC_W, ACC_R, ACC_X };
	struct party s;
	struct event e;
	uint32_t w, n, k;
	int i;

	guest_new(&g, 0);
	watcher_new(&s, g.span, "s");
	w = watch_new(s.fd, LONG_US, ALLOW);
	for (k = 0; k < 3; k++) {
		page_init(5 + k);
		MUST(subscribe(s.fd, w, kinds[k], BLOCK, 5 + k, 1));
		n = tiny_interrupts(&g.vm);
		access_go(&g.vm, kinds[k], 5 + k);
		e = want_event(&s, w, 5 + k, kinds[k], SPAN_SOURCE_GUEST_L0);
		for (i = 1; i <= 5; i++) {
			tiny_interrupt(&g.vm, TINY_VECTOR + i);
			WANT_WAITING(&g.vm);
			CHECK(tiny_interrupts(&g.vm) == n + i, "%u interrupts taken of %d", tiny_interrupts(&g.vm) - n, i);
			/* Signals of the process, too. */
			pthread_kill(g.vm.thread, SIGUSR1);
		}
		WANT_WAITING(&g.vm);
		want_silence(&s);
		answer(&s, &e, ALLOW, 0);
		WANT_END(&g.vm, TINY_DONE);
		CHECK(kinds[k] != ACC_W || written(5 + k) == VALUE, "%#x", written(5 + k));
	}
	CHECK(watch_info(s.fd, w).events == 3, "%llu events for three accesses", watch_info(s.fd, w).events);
}

/* The answer comes while the vCPU is out, in user space. */
static void t_answer_while_out(void)
{
	struct party s;
	struct event e;
	uint32_t w;

	guest_new(&g, 0);
	watcher_new(&s, g.span, "s");
	w = watch_new(s.fd, LONG_US, ALLOW);
	page_init(5);
	MUST(subscribe(s.fd, w, ACC_W, BLOCK, 5, 1));
	access_go(&g.vm, ACC_W, 5);
	e = want_event(&s, w, 5, ACC_W, SPAN_SOURCE_GUEST_L0);
	tiny_abort(&g.vm);
	answer(&s, &e, ALLOW, 0);
	pause_ms(5);
	/* The vCPU stands before the store: on with it. */
	tiny_go(&g.vm);
	WANT_END(&g.vm, TINY_DONE);
	CHECK(written(5) == VALUE, "%#x", written(5));
	CHECK(watch_info(s.fd, w).events == 1, "%llu events for one access", watch_info(s.fd, w).events);
	/* A vCPU that never comes back leaves nothing for ever. */
	access_go(&g.vm, ACC_W, 5);
	e = want_event(&s, w, 5, ACC_W, SPAN_SOURCE_GUEST_L0);
	tiny_abort(&g.vm);
	answer(&s, &e, DENY, 0);
	CHECK(TINY_RUN(&g.vm, load, .ebx = GPA(50)) == TINY_DONE, "elsewhere");
	pause_ms(LONG_US / 1000 + 300);
	CHECK(span_stats(g.span).pending == 0, "%u pending", span_stats(g.span).pending);
}

/* User space sets the registers that the vCPU has, or has it go on at an instruction. */
static void set_rip(struct tiny_vm *v, uint64_t rip)
{
	struct kvm_regs regs;

	MUST(ioctl(v->vcpu, KVM_GET_REGS, &regs));
	if (rip)
		regs.rip = rip;
	MUST(ioctl(v->vcpu, KVM_SET_REGS, &regs));
}

/*
 * Whoever sets a vCPU's registers has it begin anew: what it waited for, or was
 * answered, is none of what it does next, though it looks the same.
 */
static void t_registers_set(void)
{
	static const struct {
		bool answered;		/* before the registers are set */
		uint32_t verdict, flags;
	} row[] = { { false, ALLOW, 0 }, { true, ALLOW, 0 }, { true, DENY, 0 }, { true, DENY, CANCEL } };
	uint64_t page = 5, t;
	struct party s;
	struct event e, f;
	unsigned int i;
	uint32_t w;

	guest_new(&g, 0);
	watcher_new(&s, g.span, "s");
	w = watch_new(s.fd, LONG_US, ALLOW);
	for (i = 0; i < sizeof(row) / sizeof(row[0]); i++, page++) {
		page_init(page);
		MUST(subscribe(s.fd, w, ACC_W, BLOCK, page, 1));
		access_go(&g.vm, ACC_W, page);
		e = want_event(&s, w, page, ACC_W, SPAN_SOURCE_GUEST_L0);
		tiny_abort(&g.vm);
		if (row[i].answered)
			MUST(answer_call(s.fd, e.event, w, row[i].verdict, row[i].flags));
		set_rip(&g.vm, 0);
		CHECK(span_stats(g.span).pending == 0, "%u: %u pending", i, span_stats(g.span).pending);
		CHECK_ERR(answer_call(s.fd, e.event, w, ALLOW, 0), ENOENT);
		/* The opposite of what it was told at first. */
		tiny_go(&g.vm);
		f = want_event(&s, w, page, ACC_W, SPAN_SOURCE_GUEST_L0);
		CHECK(f.event != e.event, "%u: asked by the same number", i);
		WANT_WAITING(&g.vm);
		CHECK(written(page) == 0, "%u: written before the answer", i);
		MUST(answer_call(s.fd, f.event, w, row[i].verdict == DENY ? ALLOW : DENY, CANCEL));
		WANT_END(&g.vm, TINY_DONE);
		CHECK(written(page) == (row[i].verdict == DENY ? VALUE : 0), "%u: memory %#x", i, written(page));
	}
	/* It waits for nothing any more: not for the answer, nor for the deadline. */
	MUST(subscribe(s.fd, w, ACC_W, BLOCK, page, 1));
	access_go(&g.vm, ACC_W, page);
	want_event(&s, w, page, ACC_W, SPAN_SOURCE_GUEST_L0);
	tiny_abort(&g.vm);
	memcpy(g.vm.ram + CODE_GPA + 0x800, "\xe6\x10", 2);	/* outb to TINY_PORT_DONE */
	t = now_us();
	set_rip(&g.vm, CODE_GPA + 0x800);
	tiny_go(&g.vm);
	WANT_END(&g.vm, TINY_DONE);
	CHECK(now_us() - t < LONG_US / 2, "halted for %llu us", (unsigned long long)(now_us() - t));
}

/*
 * An access that is asked for again has what is left of the deadlines: what it
 * waited for others counts, what its vCPU did in between does not.
 */
static void t_time_waited(void)
{
	struct party s, t;
	uint32_t w, x;
	struct event e;
	uint64_t from;

	guest_new(&g, 0);
	watcher_new(&s, g.span, "s");
	watcher_new(&t, g.span, "t");
	w = watch_new(s.fd, LONG_US, ALLOW);
	x = watch_new(t.fd, 200000, DENY);

	/* Away for longer than the deadline of the second. */
	page_init(5);
	MUST(subscribe(s.fd, w, ACC_W, BLOCK, 5, 1));
	access_go(&g.vm, ACC_W, 5);
	e = want_event(&s, w, 5, ACC_W, SPAN_SOURCE_GUEST_L0);
	tiny_abort(&g.vm);
	MUST(answer_call(s.fd, e.event, w, ALLOW, 0));
	MUST(subscribe(t.fd, x, ACC_W, BLOCK, 5, 1));
	pause_ms(300);
	tiny_go(&g.vm);
	e = want_event(&t, x, 5, ACC_W, SPAN_SOURCE_GUEST_L0);
	WANT_WAITING(&g.vm);
	MUST(answer_call(t.fd, e.event, x, ALLOW, 0));
	WANT_END(&g.vm, TINY_DONE);
	CHECK(written(5) == VALUE, "%#x", written(5));
	CHECK(watch_info(t.fd, x).timeouts == 0, "%llu timeouts", watch_info(t.fd, x).timeouts);

	/* Waited for longer than that: the second's default, at once. */
	page_init(6);
	MUST(subscribe(s.fd, w, ACC_W, BLOCK, 6, 1));
	access_go(&g.vm, ACC_W, 6);
	e = want_event(&s, w, 6, ACC_W, SPAN_SOURCE_GUEST_L0);
	pause_ms(300);
	tiny_abort(&g.vm);
	MUST(answer_call(s.fd, e.event, w, ALLOW, 0));
	MUST(subscribe(t.fd, x, ACC_W, BLOCK, 6, 1));
	from = now_us();
	tiny_go(&g.vm);
	WANT_END(&g.vm, TINY_DONE);
	CHECK(now_us() - from < 150000, "waited for %llu us", (unsigned long long)(now_us() - from));
	CHECK(written(6) == 0, "%#x", written(6));
	CHECK(watch_info(t.fd, x).timeouts == 1, "%llu timeouts", watch_info(t.fd, x).timeouts);
}

/* An answer from before a watch subscribes anew is none for what comes after; another's is. */
static void t_renewed(void)
{
	struct party s, t;
	struct event e;
	uint32_t w, x;

	guest_new(&g, 0);
	watcher_new(&s, g.span, "s");
	watcher_new(&t, g.span, "t");
	w = watch_new(s.fd, LONG_US, ALLOW);
	page_init(5);
	MUST(subscribe(s.fd, w, ACC_W, BLOCK, 5, 1));
	access_go(&g.vm, ACC_W, 5);
	e = want_event(&s, w, 5, ACC_W, SPAN_SOURCE_GUEST_L0);
	tiny_abort(&g.vm);
	MUST(answer_call(s.fd, e.event, w, DENY, 0));
	MUST(subscribe(s.fd, w, ACC_W, BLOCK, 5, 1));
	tiny_go(&g.vm);
	e = want_event(&s, w, 5, ACC_W, SPAN_SOURCE_GUEST_L0);
	MUST(answer_call(s.fd, e.event, w, ALLOW, 0));
	WANT_END(&g.vm, TINY_DONE);
	CHECK(written(5) == VALUE, "%#x", written(5));

	x = watch_new(t.fd, LONG_US, ALLOW);
	page_init(6);
	MUST(subscribe(s.fd, w, ACC_W, BLOCK, 6, 1));
	MUST(subscribe(t.fd, x, ACC_W, BLOCK, 6, 1));
	access_go(&g.vm, ACC_W, 6);
	e = want_event(&s, w, 6, ACC_W, SPAN_SOURCE_GUEST_L0);
	want_event(&t, x, 6, ACC_W, SPAN_SOURCE_GUEST_L0);
	tiny_abort(&g.vm);
	MUST(answer_call(s.fd, e.event, w, ALLOW, 0));
	MUST(answer_call(t.fd, e.event, x, DENY, 0));
	MUST(subscribe(s.fd, w, ACC_W, BLOCK, 6, 1));
	tiny_go(&g.vm);
	WANT_END(&g.vm, TINY_DONE);
	CHECK(written(6) != VALUE, "what another watch denied was written");

	/* A denial outlives the watch, but not as that of the one that has its place now. */
	page_init(7);
	MUST(subscribe(t.fd, x, ACC_W, BLOCK, 7, 1));
	access_go(&g.vm, ACC_W, 7);
	e = want_event(&t, x, 7, ACC_W, SPAN_SOURCE_GUEST_L0);
	tiny_abort(&g.vm);
	MUST(answer_call(t.fd, e.event, x, DENY, 0));
	MUST(watch_destroy(t.fd, x));
	x = watch_new(t.fd, LONG_US, ALLOW);
	MUST(subscribe(t.fd, x, ACC_W, BLOCK, 7, 1));
	tiny_go(&g.vm);
	WANT_END(&g.vm, TINY_DONE);
	CHECK(written(7) != VALUE, "what was denied was written");
}

/* The page-table walk of the guest writes to a page that is subscribed. */
static void t_page_walk(void)
{
	struct party s;
	struct event e;
	uint32_t w;
	int deny, n;

	for (deny = 0; deny < 2; deny++) {
		guest_new(&g, 0);
		watcher_new(&s, g.span, "s");
		w = watch_new(s.fd, LONG_US, ALLOW);
		tiny_page_directory(g.mem + 8 * PAGE);
		tiny_paging(&g.vm, GPA(8));
		CHECK(access_run(&g.vm, ACC_W, 20) == TINY_DONE, "first touch");
		tiny_page_directory(g.mem + 8 * PAGE);
		MUST(subscribe(s.fd, w, ACC_W, BLOCK, 8, 1));
		TINY_GO(&g.vm, load, .ebx = GPA(21));
		e = want_event(&s, w, 8, ACC_W, SPAN_SOURCE_GUEST_L0);
		CHECK(e.flags & SPAN_EVENT_F_WALK, "flags %#x", e.flags);
		CHECK(e.cr3 == GPA(8), "cr3 %#llx", (unsigned long long)e.cr3);
		WANT_WAITING(&g.vm);
		answer(&s, &e, deny ? DENY : ALLOW, deny ? 0 : CANCEL);
		WANT_END(&g.vm, deny ? TINY_SHUTDOWN : TINY_DONE);
		tiny_free(&g.vm);
		close(g.span);
	}
	/* Kept: allowed by lifting, so it goes on. */
	guest_new(&g, 0);
	watcher_new(&s, g.span, "s");
	w = watch_new(s.fd, LONG_US, ALLOW);
	tiny_page_directory(g.mem + 8 * PAGE);
	tiny_paging(&g.vm, GPA(8));
	MUST(subscribe(s.fd, w, ACC_W, BLOCK, 8, 1));
	TINY_GO(&g.vm, load, .ebx = GPA(21));
	while (tiny_wait(&g.vm, 0) == TINY_WAITING && event_wait(&s, &e, 200))
		answer(&s, &e, ALLOW, 0);
	WANT_END(&g.vm, TINY_DONE);
	CHECK(span_stats(g.span).lifted >= 1, "%llu lifted", span_stats(g.span).lifted);
	/* Open for about a millisecond, longer on a slow kernel. */
	for (n = 0; n < 100 && !watch_info(s.fd, w).pages_subscribed; n++)
		pause_ms(5);
	CHECK(watch_info(s.fd, w).pages_subscribed == 1, "left the subscription");
}

TINY_CODE(int41, "int $0x41");

/* The stack that an interrupt is delivered to is subscribed. */
static void t_delivery(void)
{
	struct party s;
	struct event e;
	uint32_t w;
	int how;

	for (how = 0; how < 3; how++) {
		guest_new(&g, 0);
		watcher_new(&s, g.span, "s");
		w = watch_new(s.fd, LONG_US, ALLOW);
		page_init(9);
		MUST(subscribe(s.fd, w, ACC_W, BLOCK, 9, 1));
		TINY_GO(&g.vm, int41, .esp = GPA(9) + 0x800);
		e = want_event(&s, w, 9, ACC_W, SPAN_SOURCE_GUEST_L0);
		CHECK(e.flags & SPAN_EVENT_F_DELIVERY, "flags %#x", e.flags);
		WANT_WAITING(&g.vm);
		answer(&s, &e, how == 2 ? DENY : ALLOW, how == 1 ? CANCEL : 0);
		WANT_END(&g.vm, how == 2 ? TINY_SHUTDOWN : TINY_DONE);
		CHECK(tiny_interrupts(&g.vm) == (how == 2 ? 0 : 1), "%u interrupts", tiny_interrupts(&g.vm));
		tiny_free(&g.vm);
		close(g.span);
	}
}

TINY_CODE(inc, "incl (%ebx)");
TINY_CODE(xadd, "lock xaddl %eax, (%ebx)");
TINY_CODE(cmpxchg, "movl %eax, %ecx; xorl %eax, %eax; lock cmpxchgl %ecx, (%ebx)");
TINY_CODE(cmpxchg8b, "movl %eax, %ecx; xchgl %ebx, %esi; movl $7, %ebx; xorl %eax, %eax; xorl %edx, %edx;"
		     "lock cmpxchg8b (%esi)");
TINY_CODE(xchg, "xchgl %eax, (%ebx)");
TINY_CODE(push, "movl %ebx, %esp; addl $4, %esp; pushl %eax");
TINY_CODE(stos, "cld; movl %ebx, %edi; rep stosl");
TINY_CODE(movs, "cld; movl %ebx, %edi; rep movsl");
TINY_CODE(byte, "movb %al, (%ebx)");
TINY_CODE(bts, "lock btsl $3, (%ebx)");
TINY_CODE(sse, "movd %eax, %xmm0; movups %xmm0, (%ebx)");
TINY_CODE(avx, "vmovd %eax, %xmm0; vmovdqu %ymm0, (%ebx)");
TINY_CODE(fst, "fld1; fstpl (%ebx)");
TINY_CODE(call_push, "movl %ebx, %esp; addl $4, %esp; call 1f; 1:");

TINY_CODE(ins, "cld; movl %ebx, %edi; movl $0x30, %edx; rep insb");

struct insn {
	const char *name;
	const uint8_t *code, *end;
	struct tiny_regs regs;
	uint32_t offset;	/* in page 5 */
	uint32_t want[2];	/* the first words there */
	bool may_gp;		/* KVM cannot emulate it: denied by #GP */
};

#define INSN(n, ...) { .name = #n, .code = piece_##n, .end = piece_##n##_end, __VA_ARGS__ }

static void insn_one(struct party *s, uint32_t w, const struct insn *in, uint32_t verdict, uint32_t flags)
{
	struct tiny_regs regs = in->regs;
	uint8_t *at = g.mem + 5 * PAGE + in->offset;
	struct event e;
	bool denied = verdict == DENY;
	int end, events = 0;

	regs.ebx = GPA(5) + in->offset;
	memset(g.mem + 5 * PAGE, 0, 2 * PAGE);
	MUST(subscribe(s->fd, w, ACC_W, BLOCK, 5, 1));
	tiny_prepare(&g.vm, in->code, in->end, &regs);
	tiny_go(&g.vm);
	while ((end = tiny_wait(&g.vm, 0)) == TINY_WAITING && event_wait(s, &e, events ? 100 : SOON)) {
		events++;
		CHECK(e.page == 5 && e.access == ACC_W, "%s: page %u access %u", in->name, e.page, e.access);
		CHECK(get32(at) == 0, "%s: written before the answer", in->name);
		if (verdict == ALLOW && events > 1)
			ktap_note("%s: event %d", in->name, events);
		answer(s, &e, verdict, flags);
		if (events > 40)
			break;
	}
	end = tiny_wait(&g.vm, SOON);
	tiny_abort(&g.vm);
	CHECK(events > 0, "%s: no event", in->name);
	CHECK(end == TINY_DONE || (denied && in->may_gp && end == TINY_GP), "%s: ended with %d", in->name, end);
	CHECK(get32(at) == (denied ? 0 : in->want[0]) && get32(at + 4) == (denied ? 0 : in->want[1]),
	      "%s, verdict %u flags %u: memory %#x %#x", in->name, verdict, flags, get32(at), get32(at + 4));
	MUST(unsubscribe(s->fd, w, ACC_W, 5, 1));
	want_silence(s);
}

static const struct insn insns[] = {
	INSN(inc, .want = { 1 }),
	INSN(xadd, .regs = { .eax = 3 }, .want = { 3 }),
	INSN(cmpxchg, .regs = { .eax = 5 }, .want = { 5 }),
	INSN(cmpxchg8b, .regs = { .eax = 6 }, .want = { 7, 6 }, .may_gp = true),
	INSN(xchg, .regs = { .eax = 7 }, .want = { 7 }),
	INSN(push, .regs = { .eax = 8 }, .want = { 8 }),
	INSN(byte, .regs = { .eax = 9 }, .want = { 9 }, .offset = 16),
	INSN(bts, .want = { 8 }),
	INSN(sse, .regs = { .eax = 10 }, .want = { 10 }, .may_gp = true),
	INSN(avx, .regs = { .eax = 11 }, .want = { 11 }, .may_gp = true),
	INSN(fst, .want = { 0, 0x3ff00000 }, .may_gp = true),
	INSN(call_push, .want = { CODE_GPA + 10 }),
};

#define INSNS	(sizeof(insns) / sizeof(insns[0]))

/* What the pieces do when nobody watches: the tests after this one build on it. */
static void t_pieces(void)
{
	struct tiny_regs regs;
	size_t i;
	int end;

	guest_new(&g, TINY_AVX);
	for (i = 0; i < INSNS; i++) {
		uint8_t *at = g.mem + 5 * PAGE + insns[i].offset;

		memset(g.mem + 5 * PAGE, 0, PAGE);
		regs = insns[i].regs;
		regs.ebx = GPA(5) + insns[i].offset;
		tiny_prepare(&g.vm, insns[i].code, insns[i].end, &regs);
		end = tiny_run_to_end(&g.vm);
		CHECK(end == TINY_DONE, "%s: ended with %d", insns[i].name, end);
		CHECK(get32(at) == insns[i].want[0] && get32(at + 4) == insns[i].want[1], "%s: %#x %#x",
		      insns[i].name, get32(at), get32(at + 4));
	}
	CHECK(TINY_RUN(&g.vm, int41, .esp = GPA(9) + 0x800) == TINY_DONE && tiny_interrupts(&g.vm) == 1,
	      "%u interrupts", tiny_interrupts(&g.vm));
	page_init(5);
	CHECK(TINY_RUN(&g.vm, ins, .ebx = GPA(5) + 0x10, .ecx = 4) == TINY_DONE, "ins");
	CHECK(written(5) == 0xabababab, "ins: %#x", written(5));
	tiny_page_directory(g.mem + 8 * PAGE);
	tiny_paging(&g.vm, GPA(8));
	page_init(20);
	CHECK(access_run(&g.vm, ACC_W, 20) == TINY_DONE && written(20) == VALUE, "%#x", written(20));
	CHECK(get32(g.mem + 8 * PAGE + 4 * (GPA(20) >> 22)) & 0x20, "no accessed bit");
	/* Where nothing is, an exception or an exit, and no hang. */
	CHECK(TINY_RUN(&g.vm, load, .ebx = 0x60000000) == TINY_EXIT + KVM_EXIT_MMIO, "MMIO");
}

/* Each is executed once, completely, or not at all. */
static void t_instructions(void)
{
	struct party s;
	uint32_t w;
	size_t i;

	guest_new(&g, TINY_AVX);
	watcher_new(&s, g.span, "s");
	w = watch_new(s.fd, LONG_US, ALLOW);
	for (i = 0; i < INSNS; i++) {
		insn_one(&s, w, &insns[i], ALLOW, 0);
		insn_one(&s, w, &insns[i], ALLOW, CANCEL);
		insn_one(&s, w, &insns[i], DENY, 0);
	}
	CHECK(watch_info(s.fd, w).timeouts == 0, "%llu timeouts", watch_info(s.fd, w).timeouts);
}

/* Answers whatever comes until the piece ends. Returns the number of events. */
static int serve(struct party *s, struct tiny_vm *v, uint32_t verdict, int *end)
{
	struct event e;
	int n = 0;

	for (;;) {
		*end = tiny_wait(v, 0);
		if (*end != TINY_WAITING)
			return n;
		if (!event_wait(s, &e, 200)) {
			*end = tiny_wait(v, SOON);
			tiny_abort(v);
			return n;
		}
		n++;
		answer(s, &e, verdict, 0);
	}
}

/* Strings that run from a free page into one that is subscribed, and out of it again. */
static void t_strings(void)
{
	uint32_t w, i, verdict;
	int end, n, movs;
	struct party s;

	guest_new(&g, 0);
	watcher_new(&s, g.span, "s");
	w = watch_new(s.fd, LONG_US, ALLOW);
	MUST(subscribe(s.fd, w, ACC_W, BLOCK, 6, 1));
	for (verdict = ALLOW; verdict <= DENY; verdict++) {
		for (movs = 0; movs < 2; movs++) {
			uint32_t *m = (uint32_t *)(g.mem + 6 * PAGE - 32), words = 16 + PAGE / 4, bad = 0;

			memset(g.mem + 5 * PAGE, 0, 3 * PAGE);
			for (i = 0; i < words; i++)
				((uint32_t *)(g.mem + 40 * PAGE))[i] = 100 + i;
			if (movs)
				TINY_GO(&g.vm, movs, .ebx = GPA(6) - 32, .esi = GPA(40), .ecx = words);
			else
				TINY_GO(&g.vm, stos, .ebx = GPA(6) - 32, .eax = 77, .ecx = words);
			n = serve(&s, &g.vm, verdict, &end);
			CHECK(end == TINY_DONE, "ended with %d", end);
			CHECK(n >= 1, "no event");
			ktap_note("%s, verdict %u: %d events", movs ? "rep movsl" : "rep stosl", verdict, n);
			for (i = 0; i < words; i++) {
				bool masked = i >= 8 && i < 8 + PAGE / 4;
				uint32_t want = masked && verdict == DENY ? 0 : movs ? 100 + i : 77;

				bad += m[i] != want;
			}
			CHECK(!bad, "%u of %u words are wrong", bad, words);
		}
	}
}

/* A store that lies in two pages, one of which, or both, are subscribed. */
static void t_two_pages(void)
{
	uint32_t w, verdict, which, low, high;
	struct party s;
	int end, n;

	guest_new(&g, 0);
	watcher_new(&s, g.span, "s");
	w = watch_new(s.fd, LONG_US, ALLOW);
	for (which = 1; which < 4; which++) {
		for (verdict = ALLOW; verdict <= DENY; verdict++) {
			memset(g.mem + 5 * PAGE, 0, 2 * PAGE);
			MUST(unsubscribe(s.fd, w, ACC_W, 5, 2));
			MUST(subscribe(s.fd, w, ACC_W, BLOCK, which == 2 ? 6 : 5, which == 3 ? 2 : 1));
			TINY_GO(&g.vm, store, .ebx = GPA(6) - 2, .eax = 0x11223344);
			n = serve(&s, &g.vm, verdict, &end);
			low = g.mem[6 * PAGE - 2] | g.mem[6 * PAGE - 1] << 8;
			high = g.mem[6 * PAGE] | g.mem[6 * PAGE + 1] << 8;
			CHECK(end == TINY_DONE, "which %u verdict %u: ended with %d", which, verdict, end);
			CHECK(n >= 1, "no event");
			if (verdict == ALLOW)
				CHECK(low == 0x3344 && high == 0x1122, "which %u: %#x %#x", which, low, high);
			else
				CHECK((!(which & 1) || !low) && (!(which & 2) || !high), "which %u: %#x %#x", which,
				      low, high);
		}
	}
}

/* Writes that pass no EPT: told after they happened, or discarded where protected. */
static void t_emulated(void)
{
	struct party s;
	struct event e;
	uint32_t w;

	guest_new(&g, 0);
	watcher_new(&s, g.span, "s");
	w = watch_new(s.fd, LONG_US, ALLOW);
	page_init(5);
	MUST(subscribe(s.fd, w, ACC_W, BLOCK, 5, 1));
	CHECK(TINY_RUN(&g.vm, ins, .ebx = GPA(5) + 0x10, .ecx = 4) == TINY_DONE, "ins");
	CHECK(written(5) == 0xabababab, "%#x", written(5));
	CHECK(event_wait(&s, &e, SOON) && e.page == 5 && e.access == ACC_W && e.event == 0 &&
	      (e.flags & SPAN_EVENT_F_AFTER), "no notice: page %u flags %#x", e.page, e.flags);
	while (event_wait(&s, &e, A_WHILE))
		CHECK(e.page == 5 && e.event == 0, "page %u", e.page);
	MUST(protect(s.fd, w, ACC_R, 6, 1));
	page_init(6);
	TINY_RUN(&g.vm, ins, .ebx = GPA(6) + 0x10, .ecx = 4);
	CHECK(written(6) == 0, "%#x", written(6));
}

/* The controller says what it wrote itself. */
static void t_written(void)
{
	uint32_t w, v, blocks = 0, notices = 0;
	struct party s;
	struct event e;

	guest_new(&g, 0);
	watcher_new(&s, g.span, "s");
	w = watch_new(s.fd, LONG_US, DENY);
	v = watch_new(s.fd, LONG_US, DENY);
	MUST(subscribe(s.fd, w, ACC_W, BLOCK, 5, 2));
	MUST(subscribe(s.fd, v, ACC_W, NOTIFY, 6, 2));
	MUST(subscribe(s.fd, w, ACC_X, BLOCK, 9, 1));
	MUST(span_written(g.span, 4, 10));
	while (event_wait(&s, &e, A_WHILE)) {
		CHECK(e.event == 0 && (e.flags & SPAN_EVENT_F_AFTER) && e.source == SPAN_SOURCE_L0 &&
		      e.vcpu == 0xffff && e.access == ACC_W, "event %llu flags %#x source %u vcpu %#x access %u",
		      (unsigned long long)e.event, e.flags, e.source, e.vcpu, e.access);
		if (e.watch == w)
			blocks |= 1u << e.page;
		else
			notices |= 1u << e.page;
	}
	CHECK(blocks == (1u << 5 | 1u << 6), "pages %#x", blocks);
	CHECK(notices == (1u << 6 | 1u << 7), "pages %#x", notices);
	CHECK(watch_info(s.fd, w).events == 0, "%llu", watch_info(s.fd, w).events);
	CHECK(watch_info(s.fd, w).pages_subscribed == 3, "%llu", watch_info(s.fd, w).pages_subscribed);
}

/* One of several members dies, waits or answers: the vCPUs of the others do not care. */
static void t_many_wait(void)
{
	struct party s, l1[3];
	struct event e[4];
	uint32_t w;
	char name[8];
	int i;

	guest_new(&g, 0);
	watcher_new(&s, g.span, "s");
	w = watch_new(s.fd, LONG_US, ALLOW);
	page_init(5);
	MUST(subscribe(s.fd, w, ACC_W, BLOCK, 5, 1));
	for (i = 0; i < 3; i++) {
		snprintf(name, sizeof(name), "L1%c", 'a' + i);
		party_new(&l1[i], g.span, name);
	}
	access_go(&g.vm, ACC_W, 5);
	e[3] = want_event(&s, w, 5, ACC_W, SPAN_SOURCE_GUEST_L0);
	for (i = 0; i < 3; i++) {
		TINY_GO(&l1[i].vm, store, .ebx = GPA(5) + 0x40 + 4 * i, .eax = i + 1);
		e[i] = want_event(&s, w, 5, ACC_W, SPAN_SOURCE_L1);
	}
	CHECK(span_stats(g.span).pending == 4, "%u pending", span_stats(g.span).pending);
	/* Fenced while it waits: its vCPU gets no further, and nobody minds. */
	MUST(span_revoke(g.span, l1[0].id));
	answer(&s, &e[1], ALLOW, 0);
	answer(&s, &e[2], DENY, 0);
	WANT_END(&l1[1].vm, TINY_DONE);
	WANT_END(&l1[2].vm, TINY_DONE);
	CHECK(tiny_wait(&g.vm, 0) == TINY_WAITING, "the guest went on");
	answer(&s, &e[3], ALLOW, 0);
	WANT_END(&g.vm, TINY_DONE);
	CHECK(get32(g.mem + 5 * PAGE + 0x40) == 0, "the fenced one wrote");
	CHECK(get32(g.mem + 5 * PAGE + 0x44) == 2 && get32(g.mem + 5 * PAGE + 0x48) == 0 && written(5) == VALUE,
	      "%u %u %#x", get32(g.mem + 5 * PAGE + 0x44), get32(g.mem + 5 * PAGE + 0x48), written(5));
	tiny_abort(&l1[0].vm);
}

/* Interrupt controllers in user space: waiting works all the same. */
static void t_no_irqchip(void)
{
	struct tiny_vm v;
	struct party s;
	struct event e;
	uint32_t w;
	int memfd = memfd_new(MEM_BYTES, GUEST_SEALS), deny;

	g.mem = guest_map(memfd);
	tiny_init_with(&v, 0);
	MUST(tiny_slot(&v, 1, WINDOW_GPA, g.mem, MEM_BYTES, 0));
	g.span = span_create(memfd, v.vm);
	watcher_new(&s, g.span, "s");
	w = watch_new(s.fd, LONG_US, ALLOW);
	for (deny = 0; deny < 2; deny++) {
		page_init(5 + deny);
		MUST(subscribe(s.fd, w, ACC_W, BLOCK, 5 + deny, 1));
		access_go(&v, ACC_W, 5 + deny);
		e = want_event(&s, w, 5 + deny, ACC_W, SPAN_SOURCE_GUEST_L0);
		WANT_WAITING(&v);
		pthread_kill(v.thread, SIGUSR1);
		WANT_WAITING(&v);
		answer(&s, &e, deny ? DENY : ALLOW, 0);
		WANT_END(&v, TINY_DONE);
		CHECK(written(5 + deny) == (deny ? 0 : VALUE), "%#x", written(5 + deny));
	}
	w = watch_new(s.fd, 20000, DENY);
	page_init(9);
	MUST(subscribe(s.fd, w, ACC_X, BLOCK, 9, 1));
	CHECK(access_run(&v, ACC_X, 9) == TINY_GP, "the deadline");
	CHECK(watch_info(s.fd, w).timeouts == 1, "%llu timeouts", watch_info(s.fd, w).timeouts);
}

int main(void)
{
	static const struct ktap_test tests[] = {
		{ "pieces", t_pieces },
		{ "guest: write, fetch, read", t_guest },
		{ "L1: write, fetch, read", t_l1 },
		{ "both paths, both orders", t_both_paths },
		{ "neighbours", t_neighbours },
		{ "subscribers", t_subscribers },
		{ "keep and cancel", t_keep_and_cancel },
		{ "notify", t_notify },
		{ "protect", t_protect },
		{ "protect before block", t_protect_and_block },
		{ "own accesses", t_own_access },
		{ "deadline", t_deadline },
		{ "two deadlines", t_two_deadlines },
		{ "muted", t_muted },
		{ "ring full, no ring", t_ring_full },
		{ "subscriber killed", t_killed },
		{ "subscriber stopped", t_stopped },
		{ "subscription ends", t_ended },
		{ "guest killed", t_guest_killed },
		{ "interrupts", t_interrupt },
		{ "answer while out", t_answer_while_out },
		{ "registers set", t_registers_set },
		{ "time waited", t_time_waited },
		{ "subscribed anew", t_renewed },
		{ "page walk", t_page_walk },
		{ "delivery", t_delivery },
		{ "instructions", t_instructions },
		{ "strings", t_strings },
		{ "two pages", t_two_pages },
		{ "emulated writes", t_emulated },
		{ "written by the controller", t_written },
		{ "many wait", t_many_wait },
		{ "no irqchip", t_no_irqchip },
	};

	span_require();
	return KTAP_RUN(tests);
}
