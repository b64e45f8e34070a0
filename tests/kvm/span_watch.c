// SPDX-License-Identifier: GPL-2.0
/*
 * Watches: every call with every wrong input that the header names, quotas,
 * rights, ids, and what is left after a revoke.
 *
 * test: mem/watch-api timeout=240 tags=fast,debug
 */
#include "badcall.h"
#include "watchlib.h"

#include <stddef.h>

static struct guest g;

static void rules_of(int fd, unsigned long cmd, const void *good, size_t n, bool out, uint32_t flags, int ends)
{
	call_rules(&(struct call_rules) {
		.fd = fd, .cmd = cmd, .good = good, .n = n, .out = out, .flags = flags, .ends = ends,
	});
}

#define RULES(fd, cmd, good, out, flags, ends)	rules_of(fd, cmd, &(good), sizeof(good), out, flags, ends)

static void t_structures(void)
{
	struct kvm_span_log_range ranges[4];
	struct party p;
	uint32_t w;

	guest_new(&g, 0);
	watcher_new(&p, g.span, "watcher");
	RULES(p.fd, KVM_SPAN_WATCH_CREATE,
	      ((struct kvm_span_watch_create){ .size = sizeof(struct kvm_span_watch_create), .on_timeout = ALLOW }),
	      true, 0, 0);
	CHECK(span_stats(g.span).watches == 1, "%u watches, want the one that was accepted",
	      span_stats(g.span).watches);
	w = watch_new(p.fd, 0, ALLOW);
	RULES(p.fd, KVM_SPAN_WATCH_DESTROY,
	      ((struct kvm_span_watch_destroy){ .size = sizeof(struct kvm_span_watch_destroy), .watch = w }), false,
	      0, 0);
	w = watch_new(p.fd, 0, ALLOW);
	struct kvm_span_range range = {
		.size = sizeof(range), .watch = w, .access = ACC_W, .mode = NOTIFY, .first = 1, .pages = 2,
	};
	RULES(p.fd, KVM_SPAN_SUBSCRIBE, range, false, 0, 0);
	range.mode = 0;
	RULES(p.fd, KVM_SPAN_UNSUBSCRIBE, range, false, 0, 0);
	range.access = ACC_R;
	RULES(p.fd, KVM_SPAN_PROTECT, range, false, 0, 0);
	CHECK(watch_info(p.fd, w).pages_protected == 2, "%llu pages", watch_info(p.fd, w).pages_protected);
	RULES(p.fd, KVM_SPAN_ANSWER,
	      ((struct kvm_span_answer){ .size = sizeof(struct kvm_span_answer), .event = 77, .watch = w,
					 .verdict = ALLOW }), false, CANCEL, ENOENT);
	RULES(p.fd, KVM_SPAN_GET_WATCH,
	      ((struct kvm_span_watch_info){ .size = sizeof(struct kvm_span_watch_info), .watch = w }), true, 0, 0);
	RULES(p.fd, KVM_SPAN_LOG_FETCH,
	      ((struct kvm_span_log_fetch){ .size = sizeof(struct kvm_span_log_fetch), .watch = w, .max = 4,
					    .ranges = (uintptr_t)ranges, .pages = PAGES }), true, 0, 0);
	RULES(g.span, KVM_SPAN_WRITTEN,
	      ((struct kvm_span_written){ .size = sizeof(struct kvm_span_written), .pages = 1 }), false, 0, 0);
	p.fd = MUST(grant_call(g.span, "other", KVM_SPAN_GRANT_WATCHER, 0, ALL_RIGHTS, 0, NULL));
	RULES(p.fd, KVM_SPAN_RING,
	      ((struct kvm_span_ring){ .size = sizeof(struct kvm_span_ring), .event_fd = -1, .doorbell_fd = -1 }),
	      false, 0, 0);
}

static void t_padding(void)
{
	struct kvm_span_watch_create c = { .size = sizeof(c), .on_timeout = ALLOW, .pad = 1 };
	struct kvm_span_watch_destroy d = { .size = sizeof(d), .pad = 1 };
	struct kvm_span_range r = { .size = sizeof(r), .access = ACC_W, .mode = NOTIFY, .pages = 1, .pad = 1 };
	struct kvm_span_log_range ranges[2];
	struct kvm_span_log_fetch f = {
		.size = sizeof(f), .max = 2, .ranges = (uintptr_t)ranges, .pages = 1, .pad = 1,
	};
	struct party p;

	guest_new(&g, 0);
	watcher_new(&p, g.span, "watcher");
	d.watch = r.watch = f.watch = watch_new(p.fd, 0, ALLOW);
	CHECK_ERR(ioctl(p.fd, KVM_SPAN_WATCH_CREATE, &c), EINVAL);
	CHECK_ERR(ioctl(p.fd, KVM_SPAN_WATCH_DESTROY, &d), EINVAL);
	CHECK_ERR(ioctl(p.fd, KVM_SPAN_SUBSCRIBE, &r), EINVAL);
	r.mode = 0;
	CHECK_ERR(ioctl(p.fd, KVM_SPAN_UNSUBSCRIBE, &r), EINVAL);
	r.access = ACC_R;
	CHECK_ERR(ioctl(p.fd, KVM_SPAN_PROTECT, &r), EINVAL);
	CHECK_ERR(ioctl(p.fd, KVM_SPAN_LOG_FETCH, &f), EINVAL);
	CHECK(watch_info(p.fd, d.watch).pages_subscribed == 0, "subscribed");
}

/* Each call on the descriptors that it is not for. */
static void t_wrong_fd(void)
{
	static const unsigned long member_calls[] = {
		KVM_SPAN_WATCH_CREATE, KVM_SPAN_WATCH_DESTROY, KVM_SPAN_SUBSCRIBE, KVM_SPAN_UNSUBSCRIBE,
		KVM_SPAN_PROTECT, KVM_SPAN_ANSWER, KVM_SPAN_RING, KVM_SPAN_LOG_FETCH, KVM_SPAN_GET_WATCH,
		KVM_SPAN_SHARE, KVM_SPAN_DOORBELL,
	};
	static const unsigned long span_calls[] = { KVM_SPAN_WRITTEN, KVM_SPAN_CHANNEL, KVM_SPAN_SET_VCPU };
	char buf[256] = {};
	struct party p;
	int dev = span_dev();
	size_t i;

	guest_new(&g, 0);
	watcher_new(&p, g.span, "watcher");
	for (i = 0; i < sizeof(member_calls) / sizeof(member_calls[0]); i++) {
		CHECK_ERR(ioctl(dev, member_calls[i], buf), ENOTTY);
		CHECK_ERR(ioctl(g.span, member_calls[i], buf), ENOTTY);
		CHECK_ERR(ioctl(g.vm.vm, member_calls[i], buf), ENOTTY);
	}
	for (i = 0; i < sizeof(span_calls) / sizeof(span_calls[0]); i++) {
		CHECK_ERR(ioctl(p.fd, span_calls[i], buf), ENOTTY);
		CHECK_ERR(ioctl(dev, span_calls[i], buf), ENOTTY);
	}
	CHECK_ERR(ioctl(p.fd, KVM_SPAN_RELAY, buf), ENOTTY);
	CHECK_ERR(ioctl(g.span, KVM_SPAN_RELAY, buf), ENOTTY);
	CHECK_ERR(ioctl(p.fd, _IOC(_IOC_NONE, KVM_SPAN_IO, 0x7f, 0), buf), ENOTTY);
}

static void t_features(void)
{
	struct kvm_span_info info = { .size = sizeof(info) };

	MUST(ioctl(span_dev(), KVM_SPAN_GET_INFO, &info));
	CHECK(info.features & KVM_SPAN_FEATURE_WATCH, "%#llx", info.features);
	CHECK(info.features & KVM_SPAN_FEATURE_LOG, "%#llx", info.features);
	CHECK(!(info.features >> 8), "%#llx: bits without a name", info.features);
}

/* A binary of before the watches: a shorter structure and no rights. */
static void t_old_grant(void)
{
	struct kvm_span_grant a = { .size = offsetof(struct kvm_span_grant, rights), .access = ACCESS_RW,
				    .name = "old", .rights = ~0u, .max_deadline_us = 1 };
	struct kvm_span_stats s = { .size = offsetof(struct kvm_span_stats, ept_guest), .pending = 77 };
	int fd, vm = vm_new();

	guest_new(&g, 0);
	fd = ioctl(g.span, KVM_SPAN_GRANT, &a);
	CHECK(fd >= 0, "%s", strerror(errno));
	CHECK(a.member && a.rights == ~0u && a.max_deadline_us == 1, "written beyond its size");
	MUST(span_join(fd, vm));
	CHECK_ERR(watch_create(fd, 0, ALLOW, NULL), EPERM);
	CHECK(ioctl(g.span, KVM_SPAN_GET_STATS, &s) == 0, "%s", strerror(errno));
	CHECK(s.joined == 1 && s.pending == 77, "%u joined, pending %u", s.joined, s.pending);
}

static void t_grant(void)
{
	uint32_t id;
	int fd, i;

	guest_new(&g, 0);
	for (i = 5; i < 32; i++)
		CHECK_ERR(grant_call(g.span, "x", 0, ACCESS_RW, 1u << i, 0, &id), EINVAL);
	/* X and unknown access are never granted. */
	CHECK_ERR(grant_call(g.span, "x", 0, ACC_R | ACC_X, ALL_RIGHTS, 0, &id), EINVAL);
	/* A watcher has no access, a member has one. */
	CHECK_ERR(grant_call(g.span, "x", KVM_SPAN_GRANT_WATCHER, ACC_R, ALL_RIGHTS, 0, &id), EINVAL);
	CHECK_ERR(grant_call(g.span, "x", KVM_SPAN_GRANT_WATCHER, 0, KVM_SPAN_RIGHT_VCPU, 0, &id), EINVAL);
	CHECK_ERR(grant_call(g.span, "x", 0, 0, ALL_RIGHTS, 0, &id), EINVAL);
	CHECK_ERR(grant_call(g.span, "x", 0, ACCESS_RW, ALL_RIGHTS, KVM_SPAN_DEADLINE_MIN - 1, &id), EINVAL);
	CHECK_ERR(grant_call(g.span, "x", 0, ACCESS_RW, ALL_RIGHTS, KVM_SPAN_DEADLINE_MAX + 1, &id), EINVAL);
	CHECK_ERR(grant_call(g.span, "x", 0, ACCESS_RW, ALL_RIGHTS, ~0u, &id), EINVAL);
	fd = grant_call(g.span, "x", 0, ACCESS_RW, ALL_RIGHTS, KVM_SPAN_DEADLINE_MAX, &id);
	CHECK(fd >= 0, "%s", strerror(errno));
	/* Nothing before the join. */
	CHECK(watch_create(fd, 0, ALLOW, NULL) == -1, "a watch before the join");
	CHECK(ring_call(fd, -1, -1) == -1, "a ring before the join");
}

static void t_watcher(void)
{
	struct kvm_span_member_info info;
	struct kvm_span_event ev;
	int vm = vm_new();
	struct party p;
	uint32_t w;

	guest_new(&g, 0);
	watcher_new(&p, g.span, "service");
	CHECK(span_join(p.fd, vm) == -1, "a watcher joined");
	CHECK(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, p.fd, 0) == MAP_FAILED, "a watcher mapped the memory");
	CHECK(mmap(NULL, MEM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, p.fd, 0) == MAP_FAILED, "mapped");
	w = watch_new(p.fd, 0, ALLOW);
	CHECK(subscribe(p.fd, w, ACC_W, BLOCK, 3, 1) == 0, "%s", strerror(errno));
	MUST(span_member(g.span, p.id, &info));
	CHECK(info.access == 0, "access %#x", info.access);
	/* It counts as live: the name is taken. */
	CHECK_ERR(grant_call(g.span, "service", KVM_SPAN_GRANT_WATCHER, 0, ALL_RIGHTS, 0, NULL), EEXIST);
	CHECK(span_stats(g.span).watches == 1, "%u watches", span_stats(g.span).watches);
	munmap(p.answers, KVM_SPAN_RING_BYTES);
	close(p.fd);
	do
		ev = span_event(g.span, SOON);
	while (ev.type && ev.type != KVM_SPAN_EVENT_LEFT);
	CHECK(ev.type == KVM_SPAN_EVENT_LEFT && ev.member == p.id, "event %u of %u", ev.type, ev.member);
	CHECK(span_stats(g.span).watches == 0, "%u watches", span_stats(g.span).watches);
	CHECK(TINY_RUN(&g.vm, store, .ebx = GPA(3), .eax = 5) == TINY_DONE, "the guest");
	CHECK(get32(g.mem + 3 * PAGE) == 5, "%#x", get32(g.mem + 3 * PAGE));
}

static void t_ids(void)
{
	static const uint32_t bad[] = { 0, 3, 9, 64, 0x80000000, 0xffffffff };
	struct kvm_span_log_range ranges[2];
	struct kvm_span_watch_info info;
	struct party p, other;
	uint32_t w, id;
	size_t i;

	guest_new(&g, 0);
	watcher_new(&p, g.span, "watcher");
	watcher_new(&other, g.span, "other");
	w = watch_new(p.fd, 0, ALLOW);
	CHECK(w == 1, "first id %u", w);
	w = watch_new(p.fd, 0, ALLOW);
	CHECK(w == 2, "second id %u", w);
	/* 2 is destroyed, and of "other" nothing is there. */
	CHECK(watch_destroy(p.fd, 2) == 0, "%s", strerror(errno));
	CHECK_ERR(watch_destroy(p.fd, 2), ENOENT);
	for (i = 0; i <= sizeof(bad) / sizeof(bad[0]); i++) {
		bool last = i == sizeof(bad) / sizeof(bad[0]);
		int fd = last ? other.fd : p.fd;

		id = last ? 1 : bad[i];
		CHECK_ERR(watch_destroy(fd, id), ENOENT);
		CHECK_ERR(subscribe(fd, id, ACC_W, NOTIFY, 0, 1), ENOENT);
		CHECK_ERR(unsubscribe(fd, id, ACC_W, 0, 1), ENOENT);
		CHECK_ERR(protect(fd, id, ACC_R, 0, 1), ENOENT);
		CHECK_ERR(answer_call(fd, 1, id, ALLOW, 0), ENOENT);
		CHECK_ERR(log_fetch(fd, id, ranges, 2, 0, 1, NULL), ENOENT);
		CHECK_ERR(watch_info_call(fd, id, &info), ENOENT);
	}
	/* Ids are used again, the lowest first or not, but never above 8. */
	CHECK(watch_create(p.fd, 0, ALLOW, &w) == 0 && w >= 1 && w <= KVM_SPAN_MAX_WATCHES, "id %u", w);
	CHECK(w != 1, "an id that is in use");
}

#define OWN	2	/* places that every member has */
#define COMMON	(64 - KVM_SPAN_MAX_MEMBERS * OWN)

static void t_quotas(void)
{
	int i, k, greedy = COMMON / (KVM_SPAN_MAX_WATCHES - OWN), rest = COMMON % (KVM_SPAN_MAX_WATCHES - OWN);
	struct party p[KVM_SPAN_MAX_MEMBERS];
	struct kvm_span_watch_info info;
	uint32_t w, seen;
	char name[16];

	guest_new(&g, 0);
	for (i = 0; i < KVM_SPAN_MAX_MEMBERS; i++) {
		snprintf(name, sizeof(name), "watcher%d", i);
		watcher_new(&p[i], g.span, name);
	}
	for (i = 0; i < greedy; i++) {
		for (k = 0, seen = 0; k < KVM_SPAN_MAX_WATCHES; k++) {
			w = watch_new(p[i].fd, 0, ALLOW);
			CHECK(w >= 1 && w <= KVM_SPAN_MAX_WATCHES && !(seen >> w & 1), "id %u", w);
			seen |= 1u << w;
		}
		CHECK(watch_create(p[i].fd, 0, ALLOW, NULL) == -1 && errno == ENOSPC, "the ninth: %s",
		      strerror(errno));
	}
	/* What is left of the common places, and then everybody has his own ones. */
	for (k = 0; k < OWN + rest; k++)
		watch_new(p[greedy].fd, 0, ALLOW);
	CHECK_ERR(watch_create(p[greedy].fd, 0, ALLOW, NULL), ENOSPC);
	for (i = greedy + 1; i < KVM_SPAN_MAX_MEMBERS; i++) {
		for (k = 0; k < OWN; k++)
			CHECK(watch_create(p[i].fd, 0, ALLOW, NULL) == 0, "member %d's own watch %d: %s", i, k,
			      strerror(errno));
		CHECK(watch_create(p[i].fd, 0, ALLOW, NULL) == -1 && errno == ENOSPC, "member %d's third: %s", i,
		      strerror(errno));
	}
	CHECK(span_stats(g.span).watches == 64, "%u watches", span_stats(g.span).watches);
	/* One of the common places that is let go is for the first that asks ... */
	MUST(watch_destroy(p[3].fd, 5));
	CHECK(watch_create(p[greedy + 1].fd, 0, ALLOW, &w) == 0, "%s", strerror(errno));
	CHECK_ERR(watch_create(p[3].fd, 0, ALLOW, NULL), ENOSPC);
	/* ... his own for him alone, as often as he likes. */
	for (k = 0; k < 20; k++) {
		MUST(watch_destroy(p[greedy + 2].fd, 1));
		CHECK_ERR(watch_create(p[3].fd, 0, ALLOW, NULL), ENOSPC);
		CHECK(watch_create(p[greedy + 2].fd, 0, ALLOW, &w) == 0 && w == 1, "id %u, %s", w, strerror(errno));
	}
	/* A member that is revoked gives back what it had, and one that leaves. */
	MUST(span_revoke(g.span, p[0].id));
	CHECK(span_stats(g.span).watches == 64 - KVM_SPAN_MAX_WATCHES, "%u watches", span_stats(g.span).watches);
	CHECK(watch_create(p[3].fd, 0, ALLOW, &w) == 0 && w == 5, "id %u, %s", w, strerror(errno));
	munmap(p[1].answers, KVM_SPAN_RING_BYTES);
	close(p[1].fd);
	CHECK(span_stats(g.span).watches == 65 - 2 * KVM_SPAN_MAX_WATCHES, "%u watches",
	      span_stats(g.span).watches);
	CHECK(watch_info_call(p[2].fd, 8, &info) == 0, "another's watch is gone: %s", strerror(errno));
}

static void t_ranges(void)
{
	static const struct {
		uint64_t first, pages;
	} bad[] = {
		{ 0, 0 }, { PAGES, 0 }, { PAGES, 1 }, { 0, PAGES + 1 }, { 1, PAGES }, { PAGES - 1, 2 },
		{ ~0ULL, 1 }, { ~0ULL, 2 }, { 1, ~0ULL }, { 2, ~0ULL - 1 }, { 1ULL << 52, 1 },
		{ 1ULL << 63, 1ULL << 63 }, { ~0ULL, ~0ULL }, { 0, 1ULL << 32 }, { 1ULL << 32, 1 },
		{ 0, (1ULL << 52) + 1 },
	};
	struct kvm_span_log_range ranges[2];
	struct party p;
	uint32_t w;
	size_t i;

	guest_new(&g, 0);
	watcher_new(&p, g.span, "watcher");
	w = watch_new(p.fd, 0, ALLOW);
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		uint64_t first = bad[i].first, pages = bad[i].pages;

		CHECK_ERR(subscribe(p.fd, w, ACC_W, NOTIFY, first, pages), EINVAL);
		CHECK_ERR(subscribe(p.fd, w, ACC_W, LOG, first, pages), EINVAL);
		CHECK_ERR(unsubscribe(p.fd, w, ACC_W, first, pages), EINVAL);
		CHECK_ERR(protect(p.fd, w, ACC_R, first, pages), EINVAL);
		CHECK_ERR(log_fetch(p.fd, w, ranges, 2, first, pages, NULL), EINVAL);
		CHECK_ERR(span_written(g.span, first, pages), EINVAL);
	}
	CHECK(watch_info(p.fd, w).pages_subscribed == 0, "%llu", watch_info(p.fd, w).pages_subscribed);
	CHECK(watch_info(p.fd, w).pages_protected == 0, "%llu", watch_info(p.fd, w).pages_protected);
	CHECK(watch_info(p.fd, w).pages_logged == 0, "%llu", watch_info(p.fd, w).pages_logged);
	/* The ends themselves are good. */
	CHECK(subscribe(p.fd, w, ACC_W, NOTIFY, 0, PAGES) == 0, "%s", strerror(errno));
	CHECK(watch_info(p.fd, w).pages_subscribed == PAGES, "%llu", watch_info(p.fd, w).pages_subscribed);
	CHECK(unsubscribe(p.fd, w, ACC_W, 0, PAGES - 1) == 0, "%s", strerror(errno));
	CHECK(watch_info(p.fd, w).pages_subscribed == 1, "%llu", watch_info(p.fd, w).pages_subscribed);
	CHECK(protect(p.fd, w, 0, PAGES - 1, 1) == 0, "%s", strerror(errno));
	CHECK(watch_info(p.fd, w).pages_protected == 1, "%llu", watch_info(p.fd, w).pages_protected);
	/* Twice is once; what is not there can be taken away. */
	CHECK(subscribe(p.fd, w, ACC_W, NOTIFY, PAGES - 1, 1) == 0, "%s", strerror(errno));
	CHECK(unsubscribe(p.fd, w, ACC_RWX, 0, PAGES) == 0, "%s", strerror(errno));
	CHECK(unsubscribe(p.fd, w, ACC_RWX, 0, PAGES) == 0, "%s", strerror(errno));
	CHECK(watch_info(p.fd, w).pages_subscribed == 0, "%llu", watch_info(p.fd, w).pages_subscribed);
	CHECK(protect(p.fd, w, ACC_RWX, 0, PAGES) == 0, "%s", strerror(errno));
	CHECK(watch_info(p.fd, w).pages_protected == 0, "%llu", watch_info(p.fd, w).pages_protected);
	CHECK(span_written(g.span, PAGES - 1, 1) == 0, "%s", strerror(errno));
	CHECK(span_written(g.span, 0, PAGES) == 0, "%s", strerror(errno));
}

static void t_access_and_mode(void)
{
	struct party p;
	uint32_t w, access, mode;

	guest_new(&g, 0);
	watcher_new(&p, g.span, "watcher");
	w = watch_new(p.fd, 0, ALLOW);
	for (mode = 0; mode < 6; mode++) {
		for (access = 0; access < 9; access++) {
			bool good = access && access < 8 && mode >= BLOCK && mode <= LOG &&
				    (mode != LOG || access == ACC_W);
			int r = subscribe(p.fd, w, access, mode, 0, 1);

			CHECK(good ? r == 0 : r == -1 && errno == EINVAL, "subscribe access %u mode %u: %d %s", access,
			      mode, r, strerror(errno));
			r = watch_range(p.fd, KVM_SPAN_UNSUBSCRIBE, w, access, mode, 0, 1);
			good = !mode && access && access < 8;
			CHECK(good ? r == 0 : r == -1 && errno == EINVAL, "unsubscribe access %u mode %u: %d %s",
			      access, mode, r, strerror(errno));
			r = watch_range(p.fd, KVM_SPAN_PROTECT, w, access, mode, 0, 1);
			good = !mode && access < 8 && (!access || (access & ACC_R));
			CHECK(good ? r == 0 : r == -1 && errno == EINVAL, "protect access %u mode %u: %d %s", access,
			      mode, r, strerror(errno));
		}
	}
	CHECK_ERR(subscribe(p.fd, w, 0x80000001, NOTIFY, 0, 1), EINVAL);
	CHECK_ERR(subscribe(p.fd, w, ACC_W, 0xffffffff, 0, 1), EINVAL);
	CHECK_ERR(protect(p.fd, w, 0x80000001, 0, 1), EINVAL);
	/* The kinds of one watch on a page each have their mode; the last one counts. */
	MUST(unsubscribe(p.fd, w, ACC_RWX, 0, PAGES));
	MUST(subscribe(p.fd, w, ACC_W, BLOCK, 5, 1));
	MUST(subscribe(p.fd, w, ACC_X, NOTIFY, 5, 1));
	CHECK(watch_info(p.fd, w).pages_subscribed == 1, "%llu", watch_info(p.fd, w).pages_subscribed);
	MUST(unsubscribe(p.fd, w, ACC_W, 5, 1));
	CHECK(watch_info(p.fd, w).pages_subscribed == 1, "%llu", watch_info(p.fd, w).pages_subscribed);
	MUST(unsubscribe(p.fd, w, ACC_X, 5, 1));
	CHECK(watch_info(p.fd, w).pages_subscribed == 0, "%llu", watch_info(p.fd, w).pages_subscribed);
	/* Logs are counted apart. */
	MUST(subscribe(p.fd, w, ACC_W, LOG, 7, 3));
	CHECK(watch_info(p.fd, w).pages_subscribed == 0, "%llu", watch_info(p.fd, w).pages_subscribed);
	CHECK(watch_info(p.fd, w).pages_logged == 3, "%llu", watch_info(p.fd, w).pages_logged);
	MUST(unsubscribe(p.fd, w, ACC_R, 0, PAGES));
	CHECK(watch_info(p.fd, w).pages_logged == 3, "R ended the log");
	MUST(unsubscribe(p.fd, w, ACC_W, 8, 1));
	CHECK(watch_info(p.fd, w).pages_logged == 2, "%llu", watch_info(p.fd, w).pages_logged);
}

/* With each set of rights, each thing works if and only if its right is there. */
static void t_rights(void)
{
	uint32_t rights, w;
	char name[16];
	int fd, r;

	guest_new(&g, 0);
	for (rights = 1; rights < 16; rights++) {
		bool notify = rights & KVM_SPAN_RIGHT_NOTIFY, block = rights & KVM_SPAN_RIGHT_BLOCK;
		bool deny = rights & KVM_SPAN_RIGHT_DENY, log = rights & KVM_SPAN_RIGHT_LOG;

		snprintf(name, sizeof(name), "rights%u", rights);
		fd = MUST(grant_call(g.span, name, KVM_SPAN_GRANT_WATCHER, 0, rights, 0, NULL));
		r = watch_create(fd, 0, DENY, &w);
		CHECK(deny ? r == 0 : r == -1 && errno == EPERM, "rights %#x: on_timeout deny: %s", rights,
		      strerror(errno));
		w = watch_new(fd, 0, ALLOW);
		r = subscribe(fd, w, ACC_W, NOTIFY, 0, 1);
		CHECK(notify ? r == 0 : r == -1 && errno == EPERM, "rights %#x: notify: %s", rights, strerror(errno));
		r = subscribe(fd, w, ACC_W, BLOCK, 0, 1);
		CHECK(block ? r == 0 : r == -1 && errno == EPERM, "rights %#x: block: %s", rights, strerror(errno));
		r = subscribe(fd, w, ACC_W, LOG, 0, 1);
		CHECK(log ? r == 0 : r == -1 && errno == EPERM, "rights %#x: log: %s", rights, strerror(errno));
		r = protect(fd, w, ACC_R, 0, 1);
		CHECK(deny ? r == 0 : r == -1 && errno == EPERM, "rights %#x: protect: %s", rights, strerror(errno));
		r = answer_call(fd, 99, w, DENY, 0);
		CHECK(r == -1 && errno == (deny ? ENOENT : EPERM), "rights %#x: answer deny: %s", rights,
		      strerror(errno));
		close(fd);
	}
}

static void t_deadlines(void)
{
	static const uint32_t wrong[] = { 0, 3, 0xffffffff };
	struct kvm_span_watch_info info;
	uint32_t w;
	size_t i;
	int fd;

	guest_new(&g, 0);
	/* The largest is the grant's; without one the default. */
	fd = MUST(grant_call(g.span, "ms20", KVM_SPAN_GRANT_WATCHER, 0, ALL_RIGHTS, 20000, NULL));
	info = watch_info(fd, watch_new(fd, 0, ALLOW));
	CHECK(info.deadline_us <= 20000 && info.deadline_us >= KVM_SPAN_DEADLINE_MIN, "%u", info.deadline_us);
	w = watch_new(fd, 5000, DENY);
	info = watch_info(fd, w);
	CHECK(info.deadline_us == 5000 && info.on_timeout == DENY, "%u, %u", info.deadline_us, info.on_timeout);
	if (watch_create(fd, 20001, ALLOW, &w) == 0)
		CHECK(watch_info(fd, w).deadline_us == 20000, "%u", watch_info(fd, w).deadline_us);
	else
		CHECK(errno == EINVAL, "%s", strerror(errno));
	if (watch_create(fd, 1, ALLOW, &w) == 0)
		CHECK(watch_info(fd, w).deadline_us == KVM_SPAN_DEADLINE_MIN, "%u", watch_info(fd, w).deadline_us);
	else
		CHECK(errno == EINVAL, "%s", strerror(errno));
	for (i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		CHECK_ERR(watch_create(fd, 0, wrong[i], &w), EINVAL);
	fd = MUST(grant_call(g.span, "default", KVM_SPAN_GRANT_WATCHER, 0, ALL_RIGHTS, 0, NULL));
	info = watch_info(fd, watch_new(fd, 0, ALLOW));
	CHECK(info.deadline_us == KVM_SPAN_DEADLINE_DEFAULT, "%u", info.deadline_us);
	CHECK(!info.muted && !info.events && !info.lost && !info.stale, "a new watch has a past");
}

static void *map_ring(int fd, size_t bytes, int prot, int flags, uint64_t offset)
{
	return mmap(NULL, bytes, prot, flags, fd, offset);
}

#define NO_MAP(...) CHECK(map_ring(__VA_ARGS__) == MAP_FAILED, "mmap was accepted")

static void t_ring(void)
{
	const uint64_t at = KVM_SPAN_RING_OFFSET;
	const size_t all = KVM_SPAN_RING_BYTES;
	const int rw = PROT_READ | PROT_WRITE;
	int fd, status, efd = MUST(eventfd(0, 0)), null = MUST(open("/dev/null", O_RDWR));
	uint8_t *ring;
	pid_t pid;

	guest_new(&g, 0);
	fd = MUST(grant_call(g.span, "watcher", KVM_SPAN_GRANT_WATCHER, 0, ALL_RIGHTS, 0, NULL));
	NO_MAP(fd, all, rw, MAP_SHARED, at);
	CHECK_ERR(ring_call(fd, 1000, -1), EBADF);
	CHECK_ERR(ring_call(fd, -1, 1000), EBADF);
	CHECK_ERR(ring_call(fd, -2, -1), EBADF);
	CHECK_ERR(ring_call(fd, efd, -2), EBADF);
	CHECK_ERR(ring_call(fd, null, -1), EINVAL);
	CHECK_ERR(ring_call(fd, efd, null), EINVAL);
	CHECK_ERR(ring_call(fd, fd, -1), EINVAL);
	CHECK(ring_call(fd, efd, -1) == 0, "%s", strerror(errno));
	CHECK_ERR(ring_call(fd, efd, -1), EBUSY);

	NO_MAP(fd, all - PAGE, rw, MAP_SHARED, at);
	NO_MAP(fd, all + PAGE, rw, MAP_SHARED, at);
	NO_MAP(fd, PAGE, rw, MAP_SHARED, at);
	NO_MAP(fd, PAGE, rw, MAP_SHARED, at + all - PAGE);
	NO_MAP(fd, all, rw, MAP_SHARED, at + PAGE);
	NO_MAP(fd, all, rw, MAP_SHARED, at - PAGE);
	NO_MAP(fd, all, rw, MAP_SHARED, at << 1);
	NO_MAP(fd, all, rw, MAP_SHARED, at + (1ULL << 40));
	NO_MAP(fd, all, rw, MAP_PRIVATE, at);
	NO_MAP(fd, all, rw | PROT_EXEC, MAP_SHARED, at);

	ring = map_ring(fd, all, rw, MAP_SHARED, at);
	CHECK(ring != MAP_FAILED, "%s", strerror(errno));
	CHECK(mprotect(ring, all, rw | PROT_EXEC) == -1, "made executable");
	CHECK(mremap(ring, all, 2 * all, MREMAP_MAYMOVE) == MAP_FAILED, "the ring grew");
	CHECK(ring[0] == 0 && ring[all - 1] == 0, "the ring is not empty");

	pid = MUST(fork());
	if (!pid) {
		/* Another process, though it has the descriptor. */
		bool ok = map_ring(fd, all, rw, MAP_SHARED, at) == MAP_FAILED && touch(ring, false) == SIGSEGV;

		_exit(ok ? 0 : 1);
	}
	MUST(waitpid(pid, &status, 0));
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "a child sees the ring: %#x", status);
	/* It outlives the descriptor while it is mapped, and does no harm. */
	close(fd);
	memset(ring, 0xff, all);
	MUST(munmap(ring, all));
}

/* Whatever is in the ring of answers, the kernel takes no harm and goes on. */
static void t_ring_garbage(void)
{
	struct span_msg_answer a = { .verdict = 77 };
	struct party p;
	struct event e;
	uint32_t w;
	int i;

	guest_new(&g, 0);
	watcher_new(&p, g.span, "watcher");
	w = watch_new(p.fd, 2000000, ALLOW);
	MUST(subscribe(p.fd, w, ACC_W, BLOCK, 2, 1));
	for (i = 0; i < 100; i++) {
		a.event = htole64(i);
		a.watch = htole32(i % 12);
		answer_raw(&p, &a, i % 7 == 6 ? SPAN_MSG_ANSWER : 1000 + i, i % 5 ? sizeof(a) : 0xffff);
	}
	doorbell(&p);
	/* Indices that cannot be: the ring starts anew or is ignored, and the doorbell rings on. */
	for (i = 0; i < 8; i++) {
		__atomic_store_n(&p.answers->head, htole32(0x80000000u + i), __ATOMIC_RELEASE);
		__atomic_store_n(&p.events->tail, htole32(0x7fffffffu - i), __ATOMIC_RELEASE);
		doorbell(&p);
	}
	/* The guest goes on: by an event that is lost, or by its deadline. */
	TINY_GO(&g.vm, store, .ebx = GPA(2), .eax = 1);
	WANT_END(&g.vm, TINY_DONE);
	CHECK(get32(g.mem + 2 * PAGE) == 1, "%#x", get32(g.mem + 2 * PAGE));
	/* The ioctl does not need the ring. */
	watcher_new(&p, g.span, "second");
	w = watch_new(p.fd, 2000000, ALLOW);
	MUST(subscribe(p.fd, w, ACC_W, BLOCK, 4, 1));
	TINY_GO(&g.vm, store, .ebx = GPA(4), .eax = 1);
	e = want_event(&p, w, 4, ACC_W, SPAN_SOURCE_GUEST_L0);
	CHECK(answer_call(p.fd, e.event, w, ALLOW, 0) == 0, "%s", strerror(errno));
	WANT_END(&g.vm, TINY_DONE);
}

static void t_answers(void)
{
	struct kvm_span_watch_info info;
	struct party p, q;
	struct event e, f;
	uint32_t w, w2, other;

	guest_new(&g, 0);
	watcher_new(&p, g.span, "p");
	watcher_new(&q, g.span, "q");
	w = watch_new(p.fd, 2000000, ALLOW);
	w2 = watch_new(p.fd, 2000000, ALLOW);
	other = watch_new(q.fd, 2000000, ALLOW);
	CHECK_ERR(answer_call(p.fd, 0, w, ALLOW, 0), ENOENT);
	CHECK_ERR(answer_call(p.fd, 1, w, ALLOW, 0), ENOENT);
	CHECK_ERR(answer_call(p.fd, ~0ULL, w, ALLOW, 0), ENOENT);
	MUST(subscribe(p.fd, w, ACC_W, BLOCK, 2, 1));
	MUST(subscribe(q.fd, other, ACC_W, BLOCK, 2, 1));
	TINY_GO(&g.vm, store, .ebx = GPA(2), .eax = 9);
	e = want_event(&p, w, 2, ACC_W, SPAN_SOURCE_GUEST_L0);
	f = want_event(&q, other, 2, ACC_W, SPAN_SOURCE_GUEST_L0);
	CHECK(e.event && f.event, "an event without a number");
	/* Not a verdict. */
	CHECK_ERR(answer_call(p.fd, e.event, w, 0, 0), EINVAL);
	CHECK_ERR(answer_call(p.fd, e.event, w, 3, 0), EINVAL);
	CHECK_ERR(answer_call(p.fd, e.event, w, ~0u, 0), EINVAL);
	/* Not told to this watch. */
	CHECK_ERR(answer_call(p.fd, e.event, w2, ALLOW, 0), ENOENT);
	CHECK_ERR(answer_call(p.fd, e.event + 1000, w, ALLOW, 0), ENOENT);
	WANT_WAITING(&g.vm);
	CHECK(span_stats(g.span).pending == 1, "%u", span_stats(g.span).pending);
	CHECK(answer_call(p.fd, e.event, w, ALLOW, 0) == 0, "%s", strerror(errno));
	/* Once is enough, and it was not the other's. */
	CHECK_ERR(answer_call(p.fd, e.event, w, ALLOW, 0), ENOENT);
	CHECK_ERR(answer_call(p.fd, e.event, w, DENY, 0), ENOENT);
	WANT_WAITING(&g.vm);
	CHECK(answer_call(q.fd, f.event, other, ALLOW, 0) == 0, "%s", strerror(errno));
	WANT_END(&g.vm, TINY_DONE);
	CHECK_ERR(answer_call(q.fd, f.event, other, ALLOW, 0), ENOENT);
	info = watch_info(p.fd, w);
	CHECK(info.events == 1 && info.allowed == 1 && info.denied == 0 && info.timeouts == 0,
	      "%llu events, %llu allowed, %llu denied, %llu timeouts", info.events, info.allowed, info.denied,
	      info.timeouts);
	CHECK(info.stale >= 3, "%llu stale answers", info.stale);
	CHECK(span_stats(g.span).pending == 0, "%u", span_stats(g.span).pending);
}

static void t_fetch(void)
{
	struct kvm_span_log_range *ranges = (void *)edge_page(PROT_READ | PROT_WRITE), *edge, r[8];
	struct kvm_span_log_fetch f;
	struct party p;
	uint64_t at;
	uint32_t w;
	int i;

	guest_new(&g, 0);
	watcher_new(&p, g.span, "watcher");
	w = watch_new(p.fd, 0, ALLOW);
	/* Nothing is under the log: nothing was written. */
	CHECK(log_fetch(p.fd, w, r, 8, 0, PAGES, &f) == 0 && f.count == 0 && f.dirty == 0 && f.next == PAGES,
	      "%u ranges, %llu pages, next %llu", f.count, f.dirty, f.next);
	MUST(subscribe(p.fd, w, ACC_W, LOG, 0, PAGES));
	CHECK_ERR(log_fetch(p.fd, w, r, 0, 0, PAGES, &f), EINVAL);
	CHECK_ERR(log_fetch(p.fd, w, r, 65537, 0, PAGES, &f), EINVAL);
	CHECK_ERR(log_fetch(p.fd, w, r, ~0u, 0, PAGES, &f), EINVAL);
	CHECK_ERR(log_fetch(p.fd, w, NULL, 8, 0, PAGES, &f), EFAULT);
	CHECK_ERR(log_fetch(p.fd, w, (void *)0xffff888000000000UL, 8, 0, PAGES, &f), EFAULT);
	/* All of it is in the log at first, and was not lost by the refusals. */
	CHECK(log_fetch(p.fd, w, r, 8, 0, PAGES, &f) == 0 && f.count == 1 && f.dirty == PAGES && f.next == PAGES &&
	      r[0].first == 0 && r[0].pages == PAGES, "%u ranges, %llu pages, next %llu", f.count, f.dirty, f.next);
	CHECK(log_fetch(p.fd, w, r, 8, 0, PAGES, &f) == 0 && f.count == 0 && f.dirty == 0, "%llu pages", f.dirty);

	/* Every second page of 16; three ranges fit. */
	for (i = 0; i < 16; i += 2)
		MUST(span_written(g.span, 100 + i, 1));
	CHECK(log_fetch(p.fd, w, r, 3, 101, 50, &f) == 0 && f.count == 3 && f.dirty == 3 && r[0].first == 102 &&
	      r[2].first == 106 && r[2].pages == 1, "%u ranges from %llu", f.count, r[0].first);
	CHECK(f.next == 107 || f.next == 108, "next %llu", f.next);
	at = f.next;
	CHECK(log_fetch(p.fd, w, r, 8, at, 151 - at, &f) == 0 && f.count == 4 && f.dirty == 4 && f.next == 151,
	      "%u ranges, next %llu", f.count, f.next);
	CHECK(log_fetch(p.fd, w, r, 8, 0, PAGES, &f) == 0 && f.count == 1 && r[0].first == 100, "%u ranges",
	      f.count);

	/* The answer crosses into a page that is not there: nothing is lost. */
	for (i = 0; i < 6; i += 2)
		MUST(span_written(g.span, 200 + i, 1));
	edge = ranges + PAGE / sizeof(*ranges) - 2;
	CHECK_ERR(log_fetch(p.fd, w, edge, 8, 0, PAGES, &f), EFAULT);
	CHECK_ERR(log_fetch(p.fd, w, edge, 3, 0, PAGES, &f), EFAULT);
	CHECK(log_fetch(p.fd, w, edge, 2, 0, PAGES, &f) == 0 && f.count == 2 && edge[1].first == 202,
	      "%u ranges", f.count);
	CHECK(log_fetch(p.fd, w, r, 8, 0, PAGES, &f) == 0 && f.count == 1 && r[0].first == 204, "%u ranges",
	      f.count);
	/* The structure itself cannot be written back: nothing is lost either. */
	MUST(span_written(g.span, 300, 1));
	struct kvm_span_log_fetch *ro = (void *)edge_page(PROT_READ | PROT_WRITE);
	*ro = (struct kvm_span_log_fetch) {
		.size = sizeof(*ro), .watch = w, .max = 8, .ranges = (uintptr_t)r, .pages = PAGES,
	};
	MUST(mprotect(ro, PAGE, PROT_READ));
	CHECK_ERR(ioctl(p.fd, KVM_SPAN_LOG_FETCH, ro), EFAULT);
	CHECK(log_fetch(p.fd, w, r, 8, 0, PAGES, &f) == 0 && f.count == 1 && r[0].first == 300, "%u ranges: lost",
	      f.count);
	/* Ranges are as long as they can be. */
	MUST(span_written(g.span, 60, 70));
	CHECK(log_fetch(p.fd, w, r, 8, 0, PAGES, &f) == 0 && f.count == 1 && r[0].first == 60 && r[0].pages == 70,
	      "%u ranges, %llu+%llu", f.count, r[0].first, r[0].pages);
	CHECK(watch_info(p.fd, w).fetched == PAGES + 8 + 3 + 1 + 70, "%llu fetched", watch_info(p.fd, w).fetched);
}

/* Every call on a member that was revoked. */
static void refused(struct party *p, uint32_t w)
{
	struct kvm_span_log_range r[2];
	struct kvm_span_watch_info info;

	CHECK_ERR(watch_create(p->fd, 0, ALLOW, NULL), EACCES);
	CHECK_ERR(watch_destroy(p->fd, w), EACCES);
	CHECK_ERR(subscribe(p->fd, w, ACC_W, NOTIFY, 0, 1), EACCES);
	CHECK_ERR(unsubscribe(p->fd, w, ACC_W, 0, 1), EACCES);
	CHECK_ERR(protect(p->fd, w, ACC_R, 0, 1), EACCES);
	CHECK_ERR(answer_call(p->fd, 1, w, ALLOW, 0), EACCES);
	CHECK_ERR(log_fetch(p->fd, w, r, 2, 0, 1, NULL), EACCES);
	CHECK_ERR(watch_info_call(p->fd, w, &info), EACCES);
	CHECK_ERR(ring_call(p->fd, -1, -1), EACCES);
	CHECK(ring_map(p->fd) == MAP_FAILED, "the ring was mapped");
}

static void t_revoked(void)
{
	struct party p, l1;
	struct event e;
	uint32_t w, v;

	guest_new(&g, 0);
	watcher_new(&p, g.span, "watcher");
	party_new(&l1, g.span, "L1a");
	w = watch_new(p.fd, 2000000, DENY);
	v = watch_new(l1.fd, 2000000, DENY);
	MUST(protect(p.fd, w, ACC_R, 0, 4));
	MUST(subscribe(l1.fd, v, ACC_W, BLOCK, 4, 1));
	MUST(subscribe(l1.fd, v, ACC_W, LOG, 0, PAGES));
	MUST(span_revoke(g.span, p.id));
	refused(&p, w);
	CHECK(span_stats(g.span).watches == 1, "%u", span_stats(g.span).watches);
	MUST(span_revoke(g.span, l1.id));
	refused(&l1, v);
	CHECK(span_stats(g.span).watches == 0, "%u", span_stats(g.span).watches);
	/* What they held is gone. */
	CHECK(TINY_RUN(&g.vm, store, .ebx = GPA(1), .eax = 3) == TINY_DONE, "the guest");
	CHECK(TINY_RUN(&g.vm, store, .ebx = GPA(4), .eax = 4) == TINY_DONE, "the guest");
	CHECK(get32(g.mem + PAGE) == 3 && get32(g.mem + 4 * PAGE) == 4, "a write was stopped");
	/* Their rings are memory and no more. */
	want_silence(&p);
	e = (struct event){ .event = 1, .watch = w };
	answer(&p, &e, ALLOW, 0);
	memset(p.answers, 0x5a, KVM_SPAN_RING_BYTES);
	doorbell(&p);
	munmap(p.answers, KVM_SPAN_RING_BYTES);
	doorbell(&p);
	close(p.fd);
	doorbell(&p);
}

/* The span is closed under a watch. */
static void t_span_closed(void)
{
	struct party p;
	uint32_t w;

	guest_new(&g, 0);
	watcher_new(&p, g.span, "watcher");
	w = watch_new(p.fd, 2000000, DENY);
	MUST(protect(p.fd, w, ACC_R, 0, 4));
	close(g.span);
	refused(&p, w);
	CHECK(TINY_RUN(&g.vm, store, .ebx = GPA(1), .eax = 3) == TINY_DONE, "the guest");
	CHECK(get32(g.mem + PAGE) == 3, "a write was stopped");
	/* A new span over the same memory has no part of it. */
	g.span = span_create_named(g.memfd, g.vm.vm, "again");
	CHECK(g.span >= 0 || errno == EBUSY, "%s", strerror(errno));
	close(p.fd);
	munmap(p.answers, KVM_SPAN_RING_BYTES);
	if (g.span < 0)
		g.span = span_create_named(g.memfd, g.vm.vm, "again");
	CHECK(g.span >= 0 && span_stats(g.span).watches == 0, "%s", strerror(errno));
	CHECK(TINY_RUN(&g.vm, store, .ebx = GPA(2), .eax = 4) == TINY_DONE, "the guest");
}

int main(void)
{
	static const struct ktap_test tests[] = {
		{ "features", t_features },
		{ "structures", t_structures },
		{ "padding", t_padding },
		{ "wrong descriptor", t_wrong_fd },
		{ "a grant of before", t_old_grant },
		{ "grant", t_grant },
		{ "watcher", t_watcher },
		{ "ids", t_ids },
		{ "quotas", t_quotas },
		{ "ranges", t_ranges },
		{ "access and mode", t_access_and_mode },
		{ "rights", t_rights },
		{ "deadlines", t_deadlines },
		{ "ring", t_ring },
		{ "garbage in the rings", t_ring_garbage },
		{ "answers", t_answers },
		{ "fetch", t_fetch },
		{ "after a revoke", t_revoked },
		{ "after the span", t_span_closed },
	};

	span_require();
	return KTAP_RUN(tests);
}
