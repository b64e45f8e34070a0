// SPDX-License-Identifier: GPL-2.0
/*
 * What a page allows is the least of what all watches allow: on every path, as
 * long as they say so and no longer, and nothing gives it back behind them.
 *
 *	span_mask [--seed N] [--steps N]
 *
 * test: mem/mask timeout=400 tags=fast,debug
 */
#define KTAP_DEADLINE 120
#include "watchlib.h"

#include <getopt.h>
#include <sys/prctl.h>

#define MODEL_PAGES	24	/* around the end of a 2 MiB block */
#define MODEL_FIRST	(512 - MODEL_PAGES / 2)
#define WATCHES		5	/* 0, 1: watchers; 2, 3: members; 4: a process that is killed */

static unsigned long seed = 1, steps = 60;
static struct guest g;
static struct party l1;

static uint32_t rnd(uint32_t n)
{
	static uint64_t s;

	if (!s)
		s = seed * 2654435761u + 1;
	s = s * 6364136223846793005ULL + 1442695040888963407ULL;
	return (uint32_t)(s >> 33) % n;
}

/* What a VM can do with a page, tried out. */
static uint32_t probe(struct tiny_vm *v, uint64_t page)
{
	static uint32_t value = 0x1000;
	uint8_t *at = g.mem + page * PAGE;
	uint32_t can = 0;
	int end;

	at[0x20] = 0xc3;
	end = TINY_RUN(v, load, .ebx = GPA(page) + 0x10);
	/* An L1 whose read of its window is denied gets all ones. */
	if (end == TINY_DONE && (tiny_eax(v) != 0xffffffff || get32(at + 0x10) == 0xffffffff))
		can |= ACC_R;
	else
		CHECK(end == TINY_GP || end == TINY_DONE, "read of page %llu: %d", (unsigned long long)page, end);
	end = TINY_RUN(v, call, .ebx = GPA(page) + 0x20);
	if (end == TINY_DONE)
		can |= ACC_X;
	else
		CHECK(end == TINY_GP, "fetch of page %llu: %d", (unsigned long long)page, end);
	value++;
	end = TINY_RUN(v, store, .ebx = GPA(page) + 0x10, .eax = value);
	CHECK(end == TINY_DONE || end == TINY_GP, "write of page %llu: %d", (unsigned long long)page, end);
	if (get32(at + 0x10) == value)
		can |= ACC_W;
	return can;
}

#define WANT_CAN(v, page, want, ...) ({					\
	uint32_t can_ = probe(v, page);					\
	CHECK(can_ == (want), "page %llu allows %u, want %u; " __VA_ARGS__); \
})

/* Least permission against a model. */

struct contributor {
	int fd;
	uint32_t watch;
	uint32_t protect[MODEL_PAGES];	/* what it allows */
	uint32_t subscribed[MODEL_PAGES]; /* what it denies by not answering */
	pid_t pid;			/* of its process, or 0 */
	int to, from;			/* its pipes */
};

static struct contributor who[WATCHES];

struct order {
	char what;			/* p, s, u */
	uint32_t access, first, pages;
};

static int carry_out(struct contributor *c, const struct order *o)
{
	uint64_t first = MODEL_FIRST + o->first;

	switch (o->what) {
	case 'p': return protect(c->fd, c->watch, o->access, first, o->pages);
	case 's': return subscribe(c->fd, c->watch, o->access, BLOCK, first, o->pages);
	default: return unsubscribe(c->fd, c->watch, o->access, first, o->pages);
	}
}

static void process_main(struct contributor *c, int in, int out)
{
	struct order o;
	int r;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	c->watch = watch_new(c->fd, 0, DENY);
	while (read(in, &o, sizeof(o)) == sizeof(o)) {
		r = carry_out(c, &o);
		MUST(write(out, &r, sizeof(r)));
	}
	_exit(0);
}

static void contributor_start(int i)
{
	struct contributor *c = &who[i];
	int in[2], out[2], k;
	char name[16];

	memset(c, 0, sizeof(*c));
	for (k = 0; k < MODEL_PAGES; k++)
		c->protect[k] = ACC_RWX;
	if (i == 3) {
		c->fd = l1.fd;
		c->watch = watch_new(c->fd, 0, DENY);
		return;
	}
	snprintf(name, sizeof(name), "watcher%d", i);
	/* No ring: what it subscribes to with "deny" is denied. */
	c->fd = MUST(grant_call(g.span, name, KVM_SPAN_GRANT_WATCHER, 0, ALL_RIGHTS, 0, NULL));
	if (i < 4) {
		c->watch = watch_new(c->fd, 0, DENY);
		return;
	}
	MUST(pipe(in));
	MUST(pipe(out));
	c->pid = MUST(fork());
	if (!c->pid) {
		/* Nobody else lives on in here. */
		for (k = 0; k < 4; k++)
			close(who[k].fd);
		close(g.span);
		process_main(c, in[0], out[1]);
	}
	close(c->fd);
	close(in[0]);
	close(out[1]);
	c->to = in[1];
	c->from = out[0];
}

static int contributor_do(struct contributor *c, const struct order *o)
{
	int r;

	if (!c->pid)
		return carry_out(c, o);
	MUST(write(c->to, o, sizeof(*o)));
	MUST(read(c->from, &r, sizeof(r)) == sizeof(r) ? 0 : -1);
	return r;
}

static void contributor_end(int i)
{
	struct contributor *c = &who[i];

	if (c->pid) {
		MUST(kill(c->pid, SIGKILL));
		MUST(waitpid(c->pid, NULL, 0));
		close(c->to);
		close(c->from);
	} else if (i == 3 || rnd(2)) {
		MUST(watch_destroy(c->fd, c->watch));
		if (i != 3)
			close(c->fd);
	} else {
		close(c->fd);
	}
	contributor_start(i);
}

static void model_step(void)
{
	static const uint32_t rights[] = { 0, ACC_R, ACC_R | ACC_W, ACC_RX, ACC_RWX, ACC_RX };
	struct order o = { .first = rnd(MODEL_PAGES) };
	int i = rnd(WATCHES);
	struct contributor *c = &who[i];
	uint32_t k;

	o.pages = 1 + rnd(MODEL_PAGES - o.first);
	switch (rnd(8)) {
	case 0:
		contributor_end(i);
		return;
	case 1: case 2:
		/* The guest's accesses only: of its own it would not be told. */
		if (i == 3)
			return;
		o.what = 's';
		o.access = 1 + rnd(7);
		break;
	case 3: case 4:
		o.what = 'u';
		o.access = 1 + rnd(7);
		break;
	default:
		o.what = 'p';
		o.access = rights[rnd(6)];
		break;
	}
	CHECK(contributor_do(c, &o) == 0, "%c of %u at %u+%u by %d: %s", o.what, o.access, o.first, o.pages, i,
	      strerror(errno));
	for (k = o.first; k < o.first + o.pages; k++) {
		uint32_t all = o.access & ACC_R ? ACC_RWX : o.access;

		if (o.what == 'p')
			c->protect[k] = o.access;
		else if (o.what == 's')
			c->subscribed[k] |= all;
		else
			c->subscribed[k] &= ~all;
	}
}

static uint32_t model_allows(int page)
{
	uint32_t can = ACC_RWX;
	int i;

	for (i = 0; i < WATCHES; i++)
		can &= who[i].protect[page] & ~who[i].subscribed[page];
	/* What may not be read cannot be mapped. */
	return can & ACC_R ? can : 0;
}

static void t_least(void)
{
	unsigned long i, checked = 0;
	int k;

	guest_new(&g, 0);
	party_new(&l1, g.span, "L1a");
	guest_huge(g.mem);
	for (k = 0; k < WATCHES; k++)
		contributor_start(k);
	for (i = 0; i < steps && !ktap_failures; i++) {
		model_step();
		for (k = 0; k < MODEL_PAGES; k++) {
			/* Some pages by the guest, some by the L1, all of them now and then. */
			if (i % 8 && rnd(4))
				continue;
			WANT_CAN(rnd(2) ? &g.vm : &l1.vm, MODEL_FIRST + k, model_allows(k),
				 "step %lu, seed %lu", MODEL_FIRST + k + 0ULL, can_, model_allows(k), i, seed);
			checked++;
		}
		/* What nobody named is free. */
		WANT_CAN(&g.vm, MODEL_FIRST - 1, ACC_RWX, "before", MODEL_FIRST - 1ULL, can_, ACC_RWX);
		WANT_CAN(&l1.vm, MODEL_FIRST + MODEL_PAGES, ACC_RWX, "behind", MODEL_FIRST + MODEL_PAGES + 0ULL, can_,
			 ACC_RWX);
	}
	ktap_note("seed %lu: %lu steps, %lu pages tried", seed, i, checked);
	for (k = 0; k < WATCHES; k++)
		contributor_end(k);
	for (k = 0; k < MODEL_PAGES; k++)
		WANT_CAN(k & 1 ? &g.vm : &l1.vm, MODEL_FIRST + k, ACC_RWX, "at the end", MODEL_FIRST + k + 0ULL, can_,
			 ACC_RWX);
}

/* Huge pages are split where a mask needs it, and come back. */

static uint64_t huge_now(struct tiny_vm *v)
{
	int end = TINY_RUN(v, touch, .ebx = WINDOW_GPA, .ecx = PAGES);

	CHECK(end == TINY_DONE, "touch: %d", end);
	return tiny_stat(v->vm, "pages_2m");
}

#define WANT_HUGE(want) ({						\
	int a_ = huge_now(&g.vm), b_ = huge_now(&l1.vm);			\
	CHECK(a_ == (want) && b_ == (want), "the guest has %d, the L1 %d huge pages, want %d", a_, b_, \
	      want);							\
})

static void t_huge(void)
{
	int all = MEM_BYTES / HUGE, mode;
	struct party s, q;
	uint32_t w, v;

	guest_new(&g, 0);
	party_new(&l1, g.span, "L1a");
	if (!guest_huge(g.mem))
		ktap_skip("no huge pages in this kernel");
	watcher_new(&s, g.span, "s");
	watcher_new(&q, g.span, "q");
	w = watch_new(s.fd, 0, ALLOW);
	v = watch_new(q.fd, 0, ALLOW);
	WANT_HUGE(all);
	/* A subscription to fetches, that touch() does not run into. */
	for (mode = BLOCK; mode <= NOTIFY; mode++) {
		MUST(subscribe(s.fd, w, ACC_X, mode, 600, 1));
		CHECK(tiny_stat(g.vm.vm, "pages_2m") == all - 1u && tiny_stat(l1.vm.vm, "pages_2m") == all - 1u,
		      "more or less than one was split: %llu, %llu",
		      (unsigned long long)tiny_stat(g.vm.vm, "pages_2m"),
		      (unsigned long long)tiny_stat(l1.vm.vm, "pages_2m"));
		WANT_HUGE(all - 1);
		MUST(unsubscribe(s.fd, w, ACC_X, 600, 1));
		WANT_HUGE(all);
	}
	MUST(protect(s.fd, w, ACCESS_RW, 512, 512));
	WANT_HUGE(all - 1);
	/* Two want it small; one is not enough to have it back. */
	MUST(protect(q.fd, v, ACCESS_RW, 700, 1));
	MUST(protect(s.fd, w, ACC_RWX, 512, 512));
	WANT_HUGE(all - 1);
	MUST(subscribe(q.fd, v, ACC_X, BLOCK, 100, 1));
	WANT_HUGE(all - 2);
	MUST(watch_destroy(q.fd, v));
	WANT_HUGE(all);
	MUST(protect(s.fd, w, ACCESS_RW, 0, PAGES));
	WANT_HUGE(0);
	MUST(span_revoke(g.span, s.id));
	WANT_HUGE(all);
}

/* Whatever happens to the mappings, what is masked stays so. */

#define X_PAGE		520	/* may be fetched from and read */
#define W_PAGE		530	/* may be written and read */
#define NO_PAGE		540
#define B_PAGE		550	/* subscribed by one who denies */
#define FREE_PAGE	560

static void masks_hold(const char *after)
{
	struct tiny_vm *v[2] = { &g.vm, &l1.vm };
	int i;

	for (i = 0; i < 2; i++) {
		WANT_CAN(v[i], X_PAGE, ACC_RX, "%s, %s", X_PAGE + 0ULL, can_, ACC_RX, after, i ? "L1" : "guest");
		WANT_CAN(v[i], W_PAGE, ACCESS_RW, "%s, %s", W_PAGE + 0ULL, can_, ACCESS_RW, after, i ? "L1" : "guest");
		WANT_CAN(v[i], NO_PAGE, 0u, "%s, %s", NO_PAGE + 0ULL, can_, 0u, after, i ? "L1" : "guest");
		WANT_CAN(v[i], B_PAGE, ACC_RX, "%s, %s", B_PAGE + 0ULL, can_, ACC_RX, after, i ? "L1" : "guest");
		WANT_CAN(v[i], FREE_PAGE, ACC_RWX, "%s, %s", FREE_PAGE + 0ULL, can_, ACC_RWX, after,
			 i ? "L1" : "guest");
	}
}

static void masks_set(int fd, uint32_t w)
{
	MUST(protect(fd, w, ACC_RX, X_PAGE, 1));
	MUST(protect(fd, w, ACCESS_RW, W_PAGE, 1));
	MUST(protect(fd, w, 0, NO_PAGE, 1));
	MUST(subscribe(fd, w, ACC_W, BLOCK, B_PAGE, 1));
}

static void dirty_bitmap(struct tiny_vm *v)
{
	static uint64_t bitmap[PAGES / 64];
	struct kvm_dirty_log log = { .slot = 1, .dirty_bitmap = bitmap };

	MUST(ioctl(v->vm, KVM_GET_DIRTY_LOG, &log));
}

static void dirty_clear(struct tiny_vm *v)
{
	static uint64_t bitmap[PAGES / 64];
	struct kvm_clear_dirty_log log = { .slot = 1, .num_pages = PAGES, .dirty_bitmap = bitmap };

	memset(bitmap, 0xff, sizeof(bitmap));
	MUST(ioctl(v->vm, KVM_CLEAR_DIRTY_LOG, &log));
}

static void shake_dirty_log(struct tiny_vm *v, uint8_t *hva, bool manual)
{
	int i;

	MUST(tiny_slot(v, 1, WINDOW_GPA, hva, MEM_BYTES, KVM_MEM_LOG_DIRTY_PAGES));
	masks_hold("dirty logging on");
	for (i = 0; i < 3; i++) {
		dirty_bitmap(v);
		if (manual)
			dirty_clear(v);
		masks_hold("dirty log fetched");
	}
	MUST(tiny_slot(v, 1, WINDOW_GPA, hva, MEM_BYTES, 0));
	masks_hold("dirty logging off");
}

static void manual_protect(struct tiny_vm *v)
{
	struct kvm_enable_cap cap = {
		.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
		.args[0] = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET,
	};

	MUST(ioctl(v->vm, KVM_ENABLE_CAP, &cap));
}

static void shake_slots(struct tiny_vm *v, uint8_t *hva)
{
	MUST(tiny_slot(v, 1, 0, NULL, 0, 0));
	MUST(tiny_slot(v, 1, WINDOW_GPA, hva, MEM_BYTES, 0));
	masks_hold("slot made again");
	/* Away and back again. */
	MUST(tiny_slot(v, 1, 2 * WINDOW_GPA, hva, MEM_BYTES, 0));
	MUST(tiny_slot(v, 1, WINDOW_GPA, hva, MEM_BYTES, 0));
	masks_hold("slot moved");
	/* A second view of a part of it is no way around. */
	MUST(tiny_slot(v, 2, 4 * WINDOW_GPA, hva + 512 * PAGE, 64 * PAGE, 0));
	CHECK(TINY_RUN(v, store, .ebx = 4 * WINDOW_GPA + (X_PAGE - 512) * PAGE, .eax = 0x77777777) == TINY_DONE,
	      "store by a second slot");
	CHECK(get32(g.mem + X_PAGE * PAGE) != 0x77777777, "written by a second slot");
	CHECK(TINY_RUN(v, call, .ebx = 4 * WINDOW_GPA + (W_PAGE - 512) * PAGE + 0x20) == TINY_GP,
	      "fetched by a second slot");
	CHECK(TINY_RUN(v, store, .ebx = 4 * WINDOW_GPA + (W_PAGE - 512) * PAGE, .eax = 0x77777777) == TINY_DONE &&
	      get32(g.mem + W_PAGE * PAGE) == 0x77777777, "not written by a second slot");
	MUST(tiny_slot(v, 2, 0, NULL, 0, 0));
}

static void shake_process(uint8_t *hva, bool base)
{
	MUST(madvise(hva, MEM_BYTES, MADV_DONTNEED));
	masks_hold("madvise");
	if (base) {
		MUST(mprotect(hva, MEM_BYTES, PROT_READ));
		MUST(mprotect(hva, MEM_BYTES, PROT_READ | PROT_WRITE));
		masks_hold("mprotect");
		MUST(fallocate(g.memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 512 * PAGE, 100 * PAGE));
		masks_hold("hole");
		if (madvise(hva, MEM_BYTES, MADV_COLLAPSE) == 0)
			masks_hold("collapse");
	}
}

#ifndef KVM_PRE_FAULT_MEMORY
struct kvm_pre_fault_memory {
	__u64 gpa, size, flags, padding[5];
};
#define KVM_PRE_FAULT_MEMORY	_IOWR(KVMIO, 0xd5, struct kvm_pre_fault_memory)
#endif

static void shake_prefault(struct tiny_vm *v)
{
	struct kvm_pre_fault_memory p = { .gpa = WINDOW_GPA, .size = MEM_BYTES };
	int i, r = 0;

	for (i = 0; i < 64 && p.size && !r; i++) {
		r = ioctl(v->vcpu, KVM_PRE_FAULT_MEMORY, &p);
		/* A page that may not be mapped ends it; go on behind it. */
		if (r && p.size >= PAGE) {
			p.gpa += PAGE;
			p.size -= PAGE;
			r = 0;
		}
	}
	masks_hold("prefault");
}

static void shake_parameter(const char *name, const char *one, const char *other)
{
	char path[96], old[8] = {};
	int fd, i;

	snprintf(path, sizeof(path), "/sys/module/kvm/parameters/%s", name);
	fd = open(path, O_RDWR);
	if (fd < 0 || read(fd, old, 7) < 1) {
		ktap_note("no parameter %s", name);
		return;
	}
	for (i = 0; i < 2; i++) {
		if (pwrite(fd, i ? other : one, strlen(i ? other : one), 0) < 0)
			ktap_note("%s: %s", name, strerror(errno));
		masks_hold(name);
	}
	/* As it was; what reads as "never" is not written back. */
	if (old[0] == 'Y' || old[0] == 'N' || old[0] == '0' || old[0] == '1')
		MUST(pwrite(fd, old, 1, 0));
	close(fd);
}

static void t_nothing_gives_back(void)
{
	struct party s;
	uint32_t w;
	int manual;

	for (manual = 0; manual < 2; manual++) {
		guest_new(&g, 0);
		party_new(&l1, g.span, "L1a");
		guest_huge(g.mem);
		if (manual) {
			manual_protect(&g.vm);
			manual_protect(&l1.vm);
		}
		watcher_new(&s, g.span, "s");
		w = watch_new(s.fd, 0, DENY);
		/* Answers nothing and is muted: denied at once, every time. */
		munmap(s.answers, KVM_SPAN_RING_BYTES);
		huge_now(&g.vm);
		huge_now(&l1.vm);
		masks_set(s.fd, w);
		masks_hold("at first");
		shake_dirty_log(&g.vm, g.mem, manual);
		shake_dirty_log(&l1.vm, l1.window, manual);
		if (!manual) {
			shake_slots(&g.vm, g.mem);
			shake_slots(&l1.vm, l1.window);
			shake_process(g.mem, true);
			shake_process(l1.window, false);
			shake_prefault(&g.vm);
			shake_prefault(&l1.vm);
			shake_parameter("nx_huge_pages", "force", "off");
		}
		/* The masks while dirty logging is on. */
		MUST(unsubscribe(s.fd, w, ACC_RWX, 0, PAGES));
		MUST(protect(s.fd, w, ACC_RWX, 0, PAGES));
		MUST(tiny_slot(&g.vm, 1, WINDOW_GPA, g.mem, MEM_BYTES, KVM_MEM_LOG_DIRTY_PAGES));
		huge_now(&g.vm);
		masks_set(s.fd, w);
		masks_hold("set under dirty logging");
		MUST(tiny_slot(&g.vm, 1, WINDOW_GPA, g.mem, MEM_BYTES, 0));
		masks_hold("dirty logging off, again");
		tiny_free(&g.vm);
		tiny_free(&l1.vm);
		close(g.span);
	}
}

/* The guest's memory under other slots: before the span, read-only, private. */
static void t_slots(void)
{
	struct party s;
	uint8_t *private;
	uint32_t w;

	/* A slot that was there before the span (guest_new's) and one that comes later. */
	guest_new(&g, 0);
	watcher_new(&s, g.span, "s");
	w = watch_new(s.fd, 0, DENY);
	MUST(protect(s.fd, w, ACC_R, 10, 1));
	MUST(tiny_slot(&g.vm, 2, 4 * WINDOW_GPA, g.mem + 8 * PAGE, 8 * PAGE, 0));
	CHECK(TINY_RUN(&g.vm, store, .ebx = GPA(10), .eax = 5) == TINY_DONE && get32(g.mem + 10 * PAGE) == 0,
	      "written by the first");
	CHECK(TINY_RUN(&g.vm, store, .ebx = 4 * WINDOW_GPA + 2 * PAGE, .eax = 5) == TINY_DONE &&
	      get32(g.mem + 10 * PAGE) == 0, "written by the second");
	CHECK(TINY_RUN(&g.vm, store, .ebx = 4 * WINDOW_GPA + 3 * PAGE, .eax = 5) == TINY_DONE &&
	      get32(g.mem + 11 * PAGE) == 5, "not written by the second");
	MUST(tiny_slot(&g.vm, 2, 0, NULL, 0, 0));
	/* A read-only slot stays one. */
	MUST(tiny_slot(&g.vm, 2, 4 * WINDOW_GPA, g.mem + 8 * PAGE, 8 * PAGE, KVM_MEM_READONLY));
	CHECK(TINY_RUN(&g.vm, load, .ebx = 4 * WINDOW_GPA + 2 * PAGE) == TINY_DONE, "read");
	CHECK(TINY_RUN(&g.vm, call, .ebx = 4 * WINDOW_GPA + 2 * PAGE) == TINY_GP, "fetched");
	CHECK(TINY_RUN(&g.vm, store, .ebx = 4 * WINDOW_GPA + 3 * PAGE) == TINY_EXIT + KVM_EXIT_MMIO, "written");
	MUST(tiny_slot(&g.vm, 2, 0, NULL, 0, 0));
	/* A private mapping has pages of its own once it is written. */
	private = mmap(NULL, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, g.memfd, 8 * PAGE);
	MUST(private == MAP_FAILED ? -1 : 0);
	MUST(tiny_slot(&g.vm, 2, 4 * WINDOW_GPA, private, 8 * PAGE, 0));
	TINY_RUN(&g.vm, store, .ebx = 4 * WINDOW_GPA + 2 * PAGE, .eax = 5);
	CHECK(get32(g.mem + 10 * PAGE) == 0, "written by a private mapping");
	MUST(tiny_slot(&g.vm, 2, 0, NULL, 0, 0));
	/* A slot that begins in the guest's memory and ends elsewhere is refused. */
	uint8_t *room = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	MUST(mmap(room, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, g.memfd, 8 * PAGE) ==
	     MAP_FAILED ? -1 : 0);
	CHECK(tiny_slot(&g.vm, 2, 4 * WINDOW_GPA, room, 16 * PAGE, 0) == -1, "half a slot");
	CHECK(tiny_slot(&g.vm, 2, 4 * WINDOW_GPA, room + PAGE, 7 * PAGE, 0) == 0, "%s", strerror(errno));
	TINY_RUN(&g.vm, store, .ebx = 4 * WINDOW_GPA + PAGE, .eax = 5);
	CHECK(get32(g.mem + 10 * PAGE) == 0, "written by a mapping at an odd place");
	/* A VM of another sort, with the memory, that is no member. */
	struct tiny_vm other;

	tiny_init_with(&other, TINY_IRQCHIP);
	MUST(tiny_slot(&other, 1, WINDOW_GPA, g.mem, MEM_BYTES, 0));
	TINY_RUN(&other, store, .ebx = GPA(10), .eax = 6);
	CHECK(get32(g.mem + 10 * PAGE) == 0, "written by another VM of the base");
	CHECK(TINY_RUN(&other, call, .ebx = GPA(10)) == TINY_GP, "fetched by another VM of the base");
}

/* When the call returns, nobody writes any more. */

static volatile bool race_over;

static void *race_shaker(void *arg)
{
	unsigned int n = 0;

	while (!race_over) {
		uint32_t flags = ++n & 1 ? KVM_MEM_LOG_DIRTY_PAGES : 0;

		MUST(tiny_slot(&g.vm, 1, WINDOW_GPA, g.mem, MEM_BYTES, flags));
		if (flags)
			dirty_bitmap(&g.vm);
		madvise(l1.window, MEM_BYTES, MADV_DONTNEED);
		madvise(g.mem, MEM_BYTES, MADV_DONTNEED);
		if (n % 4 == 0)
			fallocate(g.memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 600 * PAGE, PAGE);
		usleep(700);
	}
	return NULL;
}

static void race_rounds(bool shake)
{
	volatile uint32_t *mine, *theirs;
	uint32_t w, before[2], moved = 0;
	pthread_t shaker;
	struct party s;
	int i, k;

	guest_new(&g, 0);
	party_new(&l1, g.span, "L1a");
	guest_huge(g.mem);
	watcher_new(&s, g.span, "s");
	w = watch_new(s.fd, 1000000, ALLOW);
	mine = (volatile uint32_t *)(g.mem + 520 * PAGE + 0x40);
	theirs = mine + 4;
	TINY_GO(&g.vm, count, .ebx = GPA(520) + 0x40);
	TINY_GO(&l1.vm, count, .ebx = GPA(520) + 0x50);
	race_over = false;
	if (shake)
		MUST(pthread_create(&shaker, NULL, race_shaker, NULL) ? -1 : 0);
	for (i = 0; i < 60; i++) {
		bool by_protect = i & 1;
		uint32_t from[2] = { *mine, *theirs };
		struct span_msg m;

		/* A ring that is full would be a reason to let them pass. */
		while (ring_take(&s, &m))
			;

		/* In the middle of their work. */
		for (k = 0; k < 30 && (*mine == from[0] || *theirs == from[1]); k++)
			usleep(500);
		moved += *mine != from[0] && *theirs != from[1];
		usleep(i * 37 % 700);
		if (by_protect)
			MUST(protect(s.fd, w, ACC_RX, 520, 1));
		else
			MUST(subscribe(s.fd, w, ACC_W, BLOCK, 520, 1));
		before[0] = *mine;
		before[1] = *theirs;
		usleep(1500);
		CHECK(*mine == before[0] && *theirs == before[1], "round %d, %s: written after it: %u %u", i,
		      by_protect ? "protect" : "subscribe", *mine - before[0], *theirs - before[1]);
		if (by_protect)
			MUST(protect(s.fd, w, ACC_RWX, 520, 1));
		else
			MUST(unsubscribe(s.fd, w, ACC_W, 520, 1));
	}
	race_over = true;
	if (shake)
		pthread_join(shaker, NULL);
	ktap_note("both were seen writing before %u of %d rounds", moved, i);
	CHECK(moved >= (unsigned int)i / 2, "%u of %d", moved, i);
	tiny_abort(&g.vm);
	tiny_abort(&l1.vm);
}

static void t_race(void)
{
	race_rounds(false);
}

static void t_race_shaken(void)
{
	race_rounds(true);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "seed", required_argument, NULL, 's' },
		{ "steps", required_argument, NULL, 'n' },
		{}
	};
	static const struct ktap_test tests[] = {
		{ "least permission", t_least },
		{ "huge pages", t_huge },
		{ "nothing gives back", t_nothing_gives_back },
		{ "slots", t_slots },
		{ "revoke before acknowledge", t_race },
		{ "the same, shaken", t_race_shaken },
	};
	int c;

	while ((c = getopt_long(argc, argv, "s:n:", options, NULL)) != -1) {
		if (c == 's')
			seed = strtoul(optarg, NULL, 0);
		else if (c == 'n')
			steps = strtoul(optarg, NULL, 0);
		else
			return 2;
	}
	span_require();
	return KTAP_RUN(tests);
}
