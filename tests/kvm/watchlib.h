/* SPDX-License-Identifier: GPL-2.0 */
/* Watches for tests: a party that subscribes, protects, logs and answers. */
#ifndef WATCHLIB_H
#define WATCHLIB_H

#include <endian.h>
#include <linux/span_port.h>

#include "spanlib.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE	25
#endif

#define PAGES		(MEM_BYTES / PAGE)
#define ACC_R		KVM_SPAN_ACCESS_R
#define ACC_W		KVM_SPAN_ACCESS_W
#define ACC_X		KVM_SPAN_ACCESS_X
#define ACC_RX		(ACC_R | ACC_X)
#define ACC_RWX		(ACC_R | ACC_W | ACC_X)
#define ALL_RIGHTS	(KVM_SPAN_RIGHT_NOTIFY | KVM_SPAN_RIGHT_BLOCK | KVM_SPAN_RIGHT_DENY | KVM_SPAN_RIGHT_LOG)
#define BLOCK		KVM_SPAN_MODE_BLOCK
#define NOTIFY		KVM_SPAN_MODE_NOTIFY
#define LOG		KVM_SPAN_MODE_LOG
#define ALLOW		KVM_SPAN_ALLOW
#define DENY		KVM_SPAN_DENY
#define CANCEL		KVM_SPAN_ANSWER_CANCEL

#define GPA(page)	(WINDOW_GPA + (uint32_t)((page) * PAGE))
#define SOON		3000	/* ms: what happens, happens before that */
#define A_WHILE		20	/* ms: what should not happen would have by then */

/* A member of this process with its rings; has a VM unless it is a watcher. */
struct party {
	int fd;
	uint32_t id;
	uint8_t *window;
	struct tiny_vm vm;
	struct span_ring *answers, *events;
	int event_fd, doorbell;
	uint64_t seq;		/* of our answers */
	uint64_t seen;		/* seq of the last event */
	uint64_t lost;
	unsigned int messages;
};

/* What an event says, in the host's byte order. */
struct event {
	uint64_t event, gpa, rip, cr3;
	uint32_t watch, page, flags;
	uint16_t vcpu;
	uint8_t access, source;
};

static inline int grant_call(int span, const char *name, uint32_t flags, uint32_t access, uint32_t rights,
			     uint32_t max_deadline_us, uint32_t *id)
{
	struct kvm_span_grant g = {
		.size = sizeof(g), .flags = flags, .access = access, .rights = rights,
		.max_deadline_us = max_deadline_us,
	};
	int fd;

	strncpy((char *)g.name, name, sizeof(g.name) - 1);
	fd = ioctl(span, KVM_SPAN_GRANT, &g);
	if (id)
		*id = g.member;
	return fd;
}

static inline int watch_create(int fd, uint32_t deadline_us, uint32_t on_timeout, uint32_t *watch)
{
	struct kvm_span_watch_create c = {
		.size = sizeof(c), .deadline_us = deadline_us, .on_timeout = on_timeout,
	};
	int r = ioctl(fd, KVM_SPAN_WATCH_CREATE, &c);

	if (watch)
		*watch = c.watch;
	return r;
}

/* One that has to work. */
static inline uint32_t watch_new(int fd, uint32_t deadline_us, uint32_t on_timeout)
{
	uint32_t watch = 0;

	MUST(watch_create(fd, deadline_us, on_timeout, &watch));
	return watch;
}

static inline int watch_destroy(int fd, uint32_t watch)
{
	struct kvm_span_watch_destroy d = { .size = sizeof(d), .watch = watch };

	return ioctl(fd, KVM_SPAN_WATCH_DESTROY, &d);
}

static inline int watch_range(int fd, unsigned long cmd, uint32_t watch, uint32_t access, uint32_t mode,
			      uint64_t first, uint64_t pages)
{
	struct kvm_span_range r = {
		.size = sizeof(r), .watch = watch, .access = access, .mode = mode, .first = first,
		.pages = pages,
	};

	return ioctl(fd, cmd, &r);
}

static inline int subscribe(int fd, uint32_t watch, uint32_t access, uint32_t mode, uint64_t first,
			    uint64_t pages)
{
	return watch_range(fd, KVM_SPAN_SUBSCRIBE, watch, access, mode, first, pages);
}

static inline int unsubscribe(int fd, uint32_t watch, uint32_t access, uint64_t first, uint64_t pages)
{
	return watch_range(fd, KVM_SPAN_UNSUBSCRIBE, watch, access, 0, first, pages);
}

static inline int protect(int fd, uint32_t watch, uint32_t access, uint64_t first, uint64_t pages)
{
	return watch_range(fd, KVM_SPAN_PROTECT, watch, access, 0, first, pages);
}

static inline int answer_call(int fd, uint64_t event, uint32_t watch, uint32_t verdict, uint32_t flags)
{
	struct kvm_span_answer a = {
		.size = sizeof(a), .flags = flags, .event = event, .watch = watch, .verdict = verdict,
	};

	return ioctl(fd, KVM_SPAN_ANSWER, &a);
}

static inline int watch_info_call(int fd, uint32_t watch, struct kvm_span_watch_info *info)
{
	memset(info, 0, sizeof(*info));
	info->size = sizeof(*info);
	info->watch = watch;
	return ioctl(fd, KVM_SPAN_GET_WATCH, info);
}

static inline struct kvm_span_watch_info watch_info(int fd, uint32_t watch)
{
	struct kvm_span_watch_info info;

	MUST(watch_info_call(fd, watch, &info));
	return info;
}

static inline int span_written(int span, uint64_t first, uint64_t pages)
{
	struct kvm_span_written w = { .size = sizeof(w), .first = first, .pages = pages };

	return ioctl(span, KVM_SPAN_WRITTEN, &w);
}

/*
 * Each page that was opened for a moment since then is closed again: that is a zap.
 * Nobody else makes any meanwhile.
 */
static inline void wait_closed(int span, const struct kvm_span_stats *before)
{
	uint64_t end = now_ms() + SOON;
	struct kvm_span_stats s;

	do {
		s = span_stats(span);
		if (s.pages_zapped - before->pages_zapped >= s.lifted - before->lifted)
			return;
		usleep(500);
	} while (now_ms() < end);
	CHECK(false, "%llu pages were opened, %llu closed", s.lifted - before->lifted,
	      s.pages_zapped - before->pages_zapped);
}

static inline int log_fetch(int fd, uint32_t watch, struct kvm_span_log_range *ranges, uint32_t max,
			    uint64_t first, uint64_t pages, struct kvm_span_log_fetch *out)
{
	struct kvm_span_log_fetch f = {
		.size = sizeof(f), .watch = watch, .max = max, .ranges = (uintptr_t)ranges, .first = first,
		.pages = pages,
	};
	int r = ioctl(fd, KVM_SPAN_LOG_FETCH, &f);

	if (out)
		*out = f;
	return r;
}

static inline int ring_call(int fd, int event_fd, int doorbell)
{
	struct kvm_span_ring r = { .size = sizeof(r), .event_fd = event_fd, .doorbell_fd = doorbell };

	return ioctl(fd, KVM_SPAN_RING, &r);
}

static inline void *ring_map(int fd)
{
	return mmap(NULL, KVM_SPAN_RING_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, KVM_SPAN_RING_OFFSET);
}

static inline void party_ring(struct party *p)
{
	void *ring;

	p->event_fd = MUST(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
	p->doorbell = MUST(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
	MUST(ring_call(p->fd, p->event_fd, p->doorbell));
	ring = ring_map(p->fd);
	MUST(ring == MAP_FAILED ? -1 : 0);
	p->answers = ring;
	p->events = ring + KVM_SPAN_RING_BYTES / 2;
}

/* A service on L0: no VM, no mapping. */
static inline void watcher_new(struct party *p, int span, const char *name)
{
	memset(p, 0, sizeof(*p));
	p->fd = MUST(grant_call(span, name, KVM_SPAN_GRANT_WATCHER, 0, ALL_RIGHTS, KVM_SPAN_DEADLINE_MAX,
				&p->id));
	party_ring(p);
}

/* An L1: its tiny VM has the guest's memory at WINDOW_GPA. */
static inline void party_new(struct party *p, int span, const char *name)
{
	memset(p, 0, sizeof(*p));
	p->fd = MUST(grant_call(span, name, 0, ACCESS_RW, ALL_RIGHTS, KVM_SPAN_DEADLINE_MAX, &p->id));
	tiny_init_with(&p->vm, TINY_IRQCHIP);
	MUST(span_join(p->fd, p->vm.vm));
	p->window = span_map(p->fd, PROT_READ | PROT_WRITE);
	MUST(p->window == MAP_FAILED ? -1 : 0);
	MUST(tiny_slot(&p->vm, 1, WINDOW_GPA, p->window, MEM_BYTES, 0));
	party_ring(p);
}

/* The Span guest on L0, and its controller's mapping. */
struct guest {
	int memfd, span;
	uint8_t *mem;
	struct tiny_vm vm;
};

/* The memory where it may have huge pages. */
static inline uint8_t *guest_map(int memfd)
{
	uint8_t *room = mmap(NULL, MEM_BYTES + HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint8_t *at = (uint8_t *)(((uintptr_t)room + HUGE - 1) & ~(HUGE - 1));

	MUST(room == MAP_FAILED ? -1 : 0);
	at = mmap(at, MEM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, memfd, 0);
	MUST(at == MAP_FAILED ? -1 : 0);
	return at;
}

/* Have the memory in huge pages; false: there are none to be had. */
static inline bool guest_huge(uint8_t *mem)
{
	int knob = open("/sys/kernel/mm/transparent_hugepage/shmem_enabled", O_RDWR);

	if (knob < 0)
		return false;
	MUST(write(knob, "advise", 6));
	close(knob);
	madvise(mem, MEM_BYTES, MADV_HUGEPAGE);
	memset(mem, 0, MEM_BYTES);
	return madvise(mem, MEM_BYTES, MADV_COLLAPSE) == 0;
}

static inline void guest_new(struct guest *g, unsigned int flags)
{
	memset(g, 0, sizeof(*g));
	g->memfd = memfd_new(MEM_BYTES, GUEST_SEALS);
	g->mem = guest_map(g->memfd);
	tiny_init_with(&g->vm, TINY_IRQCHIP | flags);
	MUST(tiny_slot(&g->vm, 1, WINDOW_GPA, g->mem, MEM_BYTES, 0));
	g->span = span_create(g->memfd, g->vm.vm);
}

static inline uint32_t get32(const uint8_t *p)
{
	uint32_t x;

	memcpy(&x, p, 4);
	return x;
}

/* The next message of the ring, if there is one: its type, or 0. */
static inline int ring_take(struct party *p, struct span_msg *m)
{
	uint32_t head = le32toh(__atomic_load_n(&p->events->head, __ATOMIC_ACQUIRE));
	uint32_t tail = le32toh(p->events->tail);

	if (head == tail)
		return 0;
	if (!CHECK(head - tail <= SPAN_RING_SLOTS, "head %u, tail %u", head, tail))
		return 0;
	*m = p->events->slot[tail % SPAN_RING_SLOTS];
	__atomic_store_n(&p->events->tail, htole32(tail + 1), __ATOMIC_RELEASE);
	CHECK(le64toh(m->seq) == p->seen + 1, "seq %llu after %llu", (unsigned long long)le64toh(m->seq),
	      (unsigned long long)p->seen);
	p->seen = le64toh(m->seq);
	CHECK(m->generation == 0, "generation %u", le32toh(m->generation));
	p->messages++;
	return le16toh(m->type);
}

/* Waits for a message; its type, 0 when none came within the time. */
static inline int ring_wait(struct party *p, struct span_msg *m, int ms)
{
	uint64_t end = now_ms() + ms, n;
	int type, left;

	for (;;) {
		struct pollfd f = { .fd = p->event_fd, .events = POLLIN };

		type = ring_take(p, m);
		left = end - now_ms();
		if (type || left < 0)
			return type;
		if (poll(&f, 1, left) == 1 && read(p->event_fd, &n, 8) < 0)
			MUST(errno == EAGAIN ? 0 : -1);
	}
}

/* The next event, waited for. LOST messages are counted on the way. */
static inline bool event_wait(struct party *p, struct event *e, int ms)
{
	struct span_msg_event w;
	struct span_msg_lost lost;
	struct span_msg m;
	int type;

	memset(e, 0, sizeof(*e));
	while ((type = ring_wait(p, &m, ms)) == SPAN_MSG_LOST) {
		memcpy(&lost, m.payload, sizeof(lost));
		p->lost += le64toh(lost.count);
	}
	if (!type)
		return false;
	CHECK(type == SPAN_MSG_EVENT, "message %d", type);
	CHECK(le16toh(m.len) == sizeof(w), "%u bytes", le16toh(m.len));
	memcpy(&w, m.payload, sizeof(w));
	*e = (struct event) {
		.event = le64toh(w.event), .gpa = le64toh(w.gpa), .rip = le64toh(w.rip),
		.cr3 = le64toh(w.cr3), .watch = le32toh(w.watch), .page = le32toh(w.page),
		.flags = le32toh(w.flags), .vcpu = le16toh(w.vcpu), .access = w.access, .source = w.source,
	};
	return true;
}

static inline void answer_raw(struct party *p, const void *payload, uint16_t type, uint16_t len)
{
	uint32_t head = le32toh(p->answers->head), tail = le32toh(__atomic_load_n(&p->answers->tail,
										 __ATOMIC_ACQUIRE));
	struct span_msg m = { .type = htole16(type), .len = htole16(len), .seq = htole64(++p->seq) };

	CHECK(head - tail < SPAN_RING_SLOTS, "the ring of answers is full");
	memcpy(m.payload, payload, len < 48 ? len : 48);
	p->answers->slot[head % SPAN_RING_SLOTS] = m;
	__atomic_store_n(&p->answers->head, htole32(head + 1), __ATOMIC_RELEASE);
}

static inline void doorbell(struct party *p)
{
	uint64_t one = 1;

	MUST(write(p->doorbell, &one, 8));
}

/* By the ring, as an L1 does. */
static inline void answer(struct party *p, const struct event *e, uint8_t verdict, uint8_t flags)
{
	struct span_msg_answer a = {
		.event = htole64(e->event), .watch = htole32(e->watch), .verdict = verdict, .flags = flags,
	};

	answer_raw(p, &a, SPAN_MSG_ANSWER, sizeof(a));
	doorbell(p);
}

/* An event must come, and say this. */
static inline struct event want_event(struct party *p, uint32_t watch, uint64_t page, uint8_t access,
				      uint8_t source)
{
	struct event e;

	if (!CHECK(event_wait(p, &e, SOON), "no event of watch %u for page %llu", watch,
		   (unsigned long long)page))
		return e;
	CHECK(e.watch == watch && e.page == page && e.access == access && e.source == source,
	      "watch %u page %u access %u source %u flags %#x; want %u, %llu, %u, %u", e.watch, e.page, e.access,
	      e.source, e.flags, watch, (unsigned long long)page, access, source);
	return e;
}

static inline void want_silence(struct party *p)
{
	struct event e;

	CHECK(!event_wait(p, &e, A_WHILE), "event: watch %u page %u access %u source %u flags %#x", e.watch,
	      e.page, e.access, e.source, e.flags);
}

/* The piece must end so. */
#define WANT_END(v, want) ({						\
	int end_ = tiny_wait(v, SOON);					\
	CHECK(end_ == (want), "ended with %d, want %d", end_, want);	\
	tiny_abort(v);							\
	end_;								\
})

#define WANT_WAITING(v)							\
	CHECK(tiny_wait(v, A_WHILE) == TINY_WAITING, "the access went on")

#endif
