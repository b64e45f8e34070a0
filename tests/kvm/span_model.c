// SPDX-License-Identifier: GPL-2.0
/*
 * Random operations on watches against a model that says what each of them has
 * to give, while other vCPUs, the dirty log and the memory's owner go on:
 * grant, join, map, attach a slot, subscribe, unsubscribe, protect, log, fetch,
 * answer, touch by the guest and by members, write by the controller, hand the
 * guest over to a member's VM and back, revoke, leave, destroy, kill a process
 * in the middle of something.
 *
 * Nothing here depends on who gets to run when. Where the interface has times of
 * its own, the model asks what came first: whether a page is closed again that was
 * open for a moment, and whether an answer was late.
 *
 *	span_model [--seed N] [--ops N] [--verbose]
 *
 * The same seed makes the same choices.
 *
 * test: mem/model timeout=600 tags=slow args=--seed,1,--ops,10000
 * test: mem/model-debug timeout=1800 tags=debug args=--seed,2,--ops,10000
 */
#define KTAP_DEADLINE 3600
#include "roam.h"
#include "watchlib.h"

#include <getopt.h>
#include <sys/prctl.h>

#define MODEL_PAGES	24		/* around the end of a 2 MiB block */
#define MODEL_FIRST	(512 - MODEL_PAGES / 2)
#define MEMBERS		5
#define PROCESS		MEMBERS		/* the one that is a process and gets killed */
#define WATCHES		3		/* of one member */
#define CHAOS_PAGE	900
#define ROAM_PAGE	470		/* two pages */
#define LOOP_PAGE	480		/* the process writes here */
#define VICTIM_PAGE	860		/* somebody is asked about this one and does not answer */
#define DEADLINE_US	3000000		/* never reached: we answer */
#define L1_WAITS_MS	40		/* an access of an L1's does at least that long; by the interface 50 */

static unsigned long seed = 1, ops = 4000;
static bool verbose;
static struct guest g;
static uint64_t rng;

static uint32_t rnd(uint32_t n)
{
	rng = rng * 6364136223846793005ULL + 1442695040888963407ULL;
	return (uint32_t)(rng >> 33) % n;
}

static void say(const char *fmt, ...)
{
	va_list ap;

	if (!verbose)
		return;
	va_start(ap, fmt);
	printf("# ");
	vprintf(fmt, ap);
	printf("\n");
	va_end(ap);
	fflush(stdout);
}

/* The model. */

struct watch {
	uint32_t id;			/* 0: there is none */
	uint32_t on_timeout;
	uint8_t block[MODEL_PAGES], notify[MODEL_PAGES], denied[MODEL_PAGES];
	bool logging[MODEL_PAGES];
	bool must[MODEL_PAGES], may[MODEL_PAGES];	/* in the log */
	unsigned int told, want;	/* messages by the operation under way */
};

enum stage { NONE, GRANTED, JOINED, MAPPED, SLOTTED };

struct member {
	enum stage stage;
	bool watcher, ring;
	struct party p;			/* its VM is never freed, the next one uses it */
	bool vm;
	struct tiny_vm roam;		/* its VM's second vCPU, for the guest */
	struct watch watch[WATCHES];
	pid_t pid;			/* PROCESS only */
	int kind, to, from;
};

static struct member member[MEMBERS + 1];
static struct party asker;		/* a watcher that does not answer */
static struct roam roam = { .gpa = GPA(ROAM_PAGE) };
static struct tiny_vm base_roam;	/* vCPU of the guest's own VM */
static struct member *seat;		/* whose VM runs the guest; NULL: its own */
static unsigned long done[40], allowed, refused, events, notices, late;
static unsigned long away, home, torn, nmis, begun_anew;	/* moves of the guest */

static uint32_t with_r(uint32_t access)
{
	return access & ACC_R ? ACC_RWX : access;
}

/* Has it ended its grant? Watchers have watches at once, others once joined. */
static bool may_watch(const struct member *m)
{
	return m->watcher ? m->stage == GRANTED : m->stage >= JOINED;
}

static void model_drop(struct member *m)
{
	memset(m->watch, 0, sizeof(m->watch));
}

static unsigned int model_watches(void)
{
	unsigned int n = 0;
	int i, k;

	for (i = 0; i <= MEMBERS; i++)
		for (k = 0; k < WATCHES; k++)
			n += member[i].watch[k].id != 0;
	return n;
}

#define FOR_EACH_WATCH(m, w)						\
	for ((m) = member; (m) <= member + MEMBERS; (m)++)		\
		for ((w) = (m)->watch; (w) < (m)->watch + WATCHES; (w)++)	\
			if ((w)->id)

static struct watch *watch_of(struct member *m, uint32_t id)
{
	int k;

	for (k = 0; k < WATCHES; k++)
		if (id && m->watch[k].id == id)
			return &m->watch[k];
	return NULL;
}

/*
 * The process that is killed: does what it is told. It answers what it is asked
 * with its watch's default, so that for the model it is one without a ring.
 */

enum kind { WATCHER, ASKED, WITH_VM, KINDS };

enum { ORDER_HOLD = 1, ORDER_LOOP, ORDER_WRITE };	/* besides the calls */

struct order {
	unsigned long cmd;
	uint32_t access, mode;
	uint64_t first, pages;
};

static struct party self;		/* in the process */
static volatile bool hold;

TINY_CODE(inc, "incl (%ebx)");

static void *process_answers(void *arg)
{
	struct event e;

	while (!hold)
		if (event_wait(&self, &e, 20) && e.event)
			answer(&self, &e, DENY, 0);
	return NULL;
}

static int process_order(const struct order *o, uint32_t watch, pthread_t answers)
{
	switch (o->cmd) {
	case ORDER_HOLD:
		hold = true;
		return pthread_join(answers, NULL);
	case ORDER_LOOP:
		TINY_GO(&self.vm, count, .ebx = GPA(o->first) + 0x10);
		return 0;
	case ORDER_WRITE:
		TINY_GO(&self.vm, inc, .ebx = GPA(o->first) + 0x10);
		return 0;
	default:
		return watch_range(self.fd, o->cmd, watch, o->access, o->mode, o->first, o->pages);
	}
}

static void process_main(enum kind kind, int in, int out)
{
	pthread_t answers = 0;
	struct order o;
	uint32_t watch;
	int r;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (kind == WITH_VM) {
		tiny_init_with(&self.vm, TINY_IRQCHIP);
		MUST(span_join(self.fd, self.vm.vm));
		self.window = span_map(self.fd, PROT_READ | PROT_WRITE);
		MUST(self.window == MAP_FAILED ? -1 : 0);
		MUST(tiny_slot(&self.vm, 1, WINDOW_GPA, self.window, MEM_BYTES, 0));
	}
	if (kind != WATCHER) {
		party_ring(&self);
		MUST(pthread_create(&answers, NULL, process_answers, NULL) ? -1 : 0);
	}
	watch = watch_new(self.fd, kind == WATCHER ? 0 : DEADLINE_US, DENY);
	while (read(in, &o, sizeof(o)) == sizeof(o)) {
		r = process_order(&o, watch, answers);
		if (ktap_failures)
			break;
		MUST(write(out, &r, sizeof(r)));
	}
	_exit(0);
}

static void process_send(struct member *m, unsigned long cmd, uint32_t access, uint32_t mode, uint64_t first,
			 uint64_t pages)
{
	struct order o = { cmd, access, mode, first, pages };

	MUST(write(m->to, &o, sizeof(o)));
}

static int process_result(struct member *m)
{
	int r;

	MUST(read(m->from, &r, sizeof(r)) == sizeof(r) ? 0 : -1);
	return r;
}

static int process_do(struct member *m, unsigned long cmd, uint32_t access, uint32_t mode, uint64_t first,
		      uint64_t pages)
{
	process_send(m, cmd, access, mode, first, pages);
	return process_result(m);
}

static void process_start(struct member *m)
{
	static unsigned int turn;
	int in[2], out[2], fd, i;

	/* In turn, since there are not many: a VM that ends costs a lot. */
	m->kind = turn++ % KINDS;
	fd = MUST(grant_call(g.span, "process", m->kind == WITH_VM ? 0 : KVM_SPAN_GRANT_WATCHER,
			     m->kind == WITH_VM ? ACCESS_RW : 0, ALL_RIGHTS, KVM_SPAN_DEADLINE_MAX, &m->p.id));
	MUST(pipe2(in, O_CLOEXEC));
	MUST(pipe2(out, O_CLOEXEC));
	m->pid = MUST(fork());
	if (!m->pid) {
		/* Nobody else lives on in here. */
		close(g.span);
		close(asker.fd);
		for (i = 0; i < MEMBERS; i++)
			if (member[i].stage)
				close(member[i].p.fd);
		close(in[1]);
		close(out[0]);
		self.fd = fd;
		ktap_failures = 0;
		process_main(m->kind, in[0], out[1]);
	}
	close(fd);
	close(in[0]);
	close(out[1]);
	m->to = in[1];
	m->from = out[0];
	m->watcher = m->kind != WITH_VM;
	m->stage = m->watcher ? GRANTED : SLOTTED;
	m->watch[0].on_timeout = DENY;
	m->watch[0].id = 1;
	/* Its watch is there when it has answered something. */
	MUST(process_do(m, KVM_SPAN_UNSUBSCRIBE, ACC_RWX, 0, 0, 1));
}

/* All of it is gone when this returns; for the next one process_start(). */
static void process_kill(struct member *m)
{
	MUST(kill(m->pid, SIGKILL));
	MUST(waitpid(m->pid, NULL, 0));
	close(m->to);
	close(m->from);
	model_drop(m);
	m->stage = NONE;
}

static int member_range(struct member *m, struct watch *w, unsigned long cmd, uint32_t access, uint32_t mode,
			uint64_t first, uint64_t pages)
{
	first += MODEL_FIRST;
	if (m->pid)
		return process_do(m, cmd, access, mode, first, pages);
	return watch_range(m->p.fd, cmd, w->id, access, mode, first, pages);
}

/* Messages. */

static void drain(struct member *m, bool answer_them, uint32_t *verdicts)
{
	struct span_msg_event e;
	struct span_msg msg;
	struct watch *w;
	int type;

	while ((type = ring_take(&m->p, &msg))) {
		if (!CHECK(type == SPAN_MSG_EVENT, "message %d", type))
			continue;
		memcpy(&e, msg.payload, sizeof(e));
		if (le32toh(e.flags) & SPAN_EVENT_F_VIOLATION)
			continue;
		if (le32toh(e.page) == CHAOS_PAGE)
			continue;
		w = watch_of(m, le32toh(e.watch));
		if (!CHECK(w, "a message of watch %u, which is not there", le32toh(e.watch)))
			continue;
		w->told++;
		if (!le64toh(e.event)) {
			notices++;
			continue;
		}
		events++;
		CHECK(answer_them, "an event where nobody is to wait");
		if (answer_them) {
			struct event ev = { .event = le64toh(e.event), .watch = w->id };
			uint32_t v = verdicts[(m - member) * WATCHES + (w - m->watch)];

			answer(&m->p, &ev, v & 3, v >> 2);
		}
	}
}

static void drain_all(bool answer_them, uint32_t *verdicts)
{
	struct member *m;

	for (m = member; m < member + MEMBERS; m++)
		if (m->ring)
			drain(m, answer_them, verdicts);
}

static void want_none(void)
{
	struct member *m;
	struct watch *w;

	FOR_EACH_WATCH(m, w)
		w->want = w->told = 0;
}

/*
 * again: a page that was opened for an access was closed before the access was
 * through (the machine is slow, and others zap), so it was asked for again.
 */
static void check_told(const char *what, bool again)
{
	struct member *m;
	struct watch *w;

	drain_all(false, NULL);
	FOR_EACH_WATCH(m, w)
		CHECK(w->told == (m->ring ? w->want : 0) || (again && m->ring && w->want && w->told > w->want), "%s: watch %u of member %d was told %u times, want %u", what,
		      w->id, (int)(m - member), w->told, w->want);
}

/* Accesses. */

/* Answers until the vCPU is through. */
static int touch_and_answer(struct tiny_vm *v, uint32_t *verdicts)
{
	uint64_t end = now_ms() + 4000;
	struct pollfd f[MEMBERS + 1];
	int i, n, r;
	uint64_t x;

	for (;;) {
		r = tiny_wait(v, 0);
		if (r != TINY_WAITING)
			return r;
		drain_all(true, verdicts);
		f[0] = (struct pollfd){ .fd = v->done_fd, .events = POLLIN };
		for (i = 0, n = 1; i < MEMBERS; i++)
			if (member[i].ring)
				f[n++] = (struct pollfd){ .fd = member[i].p.event_fd, .events = POLLIN };
		poll(f, n, 1000);
		for (i = 1; i < n; i++)
			if ((f[i].revents & POLLIN) && read(f[i].fd, &x, 8) < 0)
				MUST(errno == EAGAIN ? 0 : -1);
		if (now_ms() > end) {
			tiny_abort(v);
			return TINY_WAITING;
		}
	}
}

static void log_written(int page)
{
	struct member *m;
	struct watch *w;

	FOR_EACH_WATCH(m, w)
		if (w->logging[page])
			w->must[page] = w->may[page] = true;
}

/* Who may be in a log though nothing came of it. */
static void log_touched(int page)
{
	struct member *m;
	struct watch *w;

	FOR_EACH_WATCH(m, w)
		w->may[page] = true;
}

/* What the model says about an access, and what it does to the model. */
struct verdict {
	bool denied;		/* in the end */
	bool by_others;		/* ... by a default or a protection */
	bool late;		/* some answer was, see model_late() */
	bool open;		/* ... and either end is right */
	bool asks;		/* somebody with a ring is asked */
	bool lifts;
};

static struct verdict model_access(const struct member *own, uint32_t kind, int page, uint32_t *verdicts)
{
	uint32_t need = kind | ACC_R;
	struct verdict v = {};
	struct member *m;
	struct watch *w;

	want_none();
	FOR_EACH_WATCH(m, w)
		v.denied |= (w->denied[page] & need) != 0;
	v.by_others = v.denied;
	if (v.denied)
		return v;
	FOR_EACH_WATCH(m, w) {
		uint32_t answer = w->on_timeout;

		if (m == own)
			continue;
		if (w->notify[page] & need) {
			w->want++;
			w->notify[page] = 0;
		}
		if (!(w->block[page] & need))
			continue;
		w->want++;
		if (m->ring) {
			v.asks = true;
			answer = rnd(4) ? ALLOW : DENY;
			if (!rnd(3)) {
				verdicts[(m - member) * WATCHES + (w - m->watch)] = answer | CANCEL << 2;
				w->block[page] = w->notify[page] = 0;
			} else {
				verdicts[(m - member) * WATCHES + (w - m->watch)] = answer;
				v.lifts = true;
			}
		} else {
			v.lifts = true;
			v.by_others |= answer == DENY;
		}
		v.denied |= answer == DENY;
	}
	return v;
}

/*
 * An L1's own access waits 50 ms at most, whatever the deadline, so that answers may
 * come late. Whose does: his default has counted, and if the access was asked for
 * again, perhaps his answer after it. He gives the page up, so that it is known what
 * he has of it.
 */
static void model_late(struct verdict *v, int page, const uint32_t *verdicts, const uint64_t *timeouts)
{
	uint32_t answer;
	struct member *m;
	struct watch *w;
	int i;

	if (!v->asks)
		return;
	v->denied = v->by_others;
	FOR_EACH_WATCH(m, w) {
		i = (m - member) * WATCHES + (w - m->watch);
		answer = verdicts[i] & 3;
		if (!answer)
			continue;
		if (watch_info(m->p.fd, w->id).timeouts == timeouts[i]) {
			v->denied |= answer == DENY;
			continue;
		}
		late++;
		v->late = true;
		MUST(unsubscribe(m->p.fd, w->id, ACC_RWX, MODEL_FIRST + page, 1));
		w->block[page] = w->notify[page] = 0;
		w->logging[page] = w->must[page] = false;
		if (answer == w->on_timeout)
			v->denied |= answer == DENY;
		else
			v->open = true;
	}
	v->open &= !v->denied;
}

static void timeouts_so_far(const uint32_t *verdicts, uint64_t *timeouts)
{
	struct member *m;
	struct watch *w;
	int i;

	FOR_EACH_WATCH(m, w) {
		i = (m - member) * WATCHES + (w - m->watch);
		if (verdicts[i])
			timeouts[i] = watch_info(m->p.fd, w->id).timeouts;
	}
}

/* Chaos makes no zaps of its own while this is held. */
static pthread_mutex_t zaps = PTHREAD_MUTEX_INITIALIZER;

/* It ended as the model says; whether it was denied, where that is open. */
static bool check_end(const struct verdict *d, uint32_t kind, int page, bool l1, int end, uint32_t written, uint32_t eax)
{
	bool denied = d->denied;
	int want;

	if (d->open)
		denied = kind == ACC_W ? !written : kind == ACC_R && l1 ? eax == 0xffffffff : end == TINY_GP;
	/* An L1 reads all ones; an instruction that would have to read first is #GP. */
	want = denied && (kind == ACC_X || (kind == ACC_R && !l1)) ? TINY_GP : TINY_DONE;
	if (denied && kind == ACC_W && !l1 && end == TINY_GP)
		want = TINY_GP;
	if (denied && kind == ACC_R && l1)
		CHECK(eax == 0xffffffff, "page %d: an L1 read %#x", page, eax);
	CHECK(end == want, "page %d, kind %u, %s: ended with %d, want %d", page, kind, l1 ? "L1" : "guest", end, want);
	CHECK(written == (kind == ACC_W && !denied), "page %d, kind %u: written %u times", page, kind, written);
	return denied;
}

static int touch_page(struct tiny_vm *v, uint32_t kind, uint64_t at, uint32_t *verdicts)
{
	if (kind == ACC_W)
		TINY_GO(v, inc, .ebx = GPA(at) + 0x10);
	else if (kind == ACC_R)
		TINY_GO(v, load, .ebx = GPA(at) + 0x10);
	else
		TINY_GO(v, call, .ebx = GPA(at) + 0x20);
	return touch_and_answer(v, verdicts);
}

static void op_touch_by(struct tiny_vm *v, struct member *own)
{
	static const uint32_t kinds[] = { ACC_W, ACC_W, ACC_R, ACC_X };
	uint32_t verdicts[(MEMBERS + 1) * WATCHES] = {}, kind = kinds[rnd(4)], before, after;
	uint64_t timeouts[(MEMBERS + 1) * WATCHES] = {};
	int page = rnd(MODEL_PAGES), end;
	uint64_t at = MODEL_FIRST + page;
	struct kvm_span_stats stats;
	struct verdict d;
	bool denied;

	d = model_access(own, kind, page, verdicts);
	before = get32(g.mem + at * PAGE + 0x10);
	say("touch page %d kind %u by %d: %s%s%s", page, kind, own ? (int)(own - member) : -1,
	    d.denied ? "denied" : "allowed", d.asks ? ", asks" : "", d.lifts ? ", lifts" : "");
	timeouts_so_far(verdicts, timeouts);
	pthread_mutex_lock(&zaps);
	stats = span_stats(g.span);
	end = touch_page(v, kind, at, verdicts);
	wait_closed(g.span, &stats);
	pthread_mutex_unlock(&zaps);
	/* What was asked and not answered before the access gave up waiting. */
	if (own && d.asks)
		drain_all(true, verdicts);
	if (own)
		model_late(&d, page, verdicts, timeouts);
	after = get32(g.mem + at * PAGE + 0x10);
	denied = check_end(&d, kind, page, own, end, after - before, tiny_eax(v));
	/* Under KVM's own dirty log, which chaos turns on, a page is dirty once it is mapped. */
	log_touched(page);
	if (kind == ACC_W && !denied)
		log_written(page);
	check_told("touch", kind != ACC_W && (d.lifts || d.late));
	if (denied)
		refused++;
	else
		allowed++;
}

static void op_touch_guest(void)
{
	if (seat)
		op_touch_by(&seat->p.vm, seat);
	else
		op_touch_by(&g.vm, NULL);
}

static void op_touch_member(void)
{
	int from = rnd(MEMBERS), i;

	for (i = 0; i < MEMBERS; i++, from++) {
		struct member *m = &member[from % MEMBERS];

		if (m->stage != SLOTTED)
			continue;
		op_touch_by(&m->p.vm, m);
		return;
	}
}

/* The controller writes itself, and says so. */
static void op_write(void)
{
	int first = rnd(MODEL_PAGES), pages = 1 + rnd(rnd(4) ? 1 : MODEL_PAGES - first), i;
	struct member *m;
	struct watch *w;

	want_none();
	say("write %d+%d", first, pages);
	for (i = first; i < first + pages; i++) {
		++*(volatile uint32_t *)(g.mem + (MODEL_FIRST + i) * PAGE + 0x10);
		FOR_EACH_WATCH(m, w) {
			if (!((w->block[i] | w->notify[i]) & (ACC_W | ACC_R)))
				continue;
			w->want++;
			w->notify[i] = 0;
		}
		log_touched(i);
		log_written(i);
	}
	CHECK(span_written(g.span, MODEL_FIRST + first, pages) == 0, "%s", strerror(errno));
	check_told("write", false);
}

/* Watches. */

static struct watch *any_watch(struct member **which)
{
	/* The process, which always has one, not more often than others. */
	int all = rnd(8) ? MEMBERS : MEMBERS + 1, from = rnd(all * WATCHES), i;

	for (i = 0; i < all * WATCHES; i++, from++) {
		struct member *m = &member[from / WATCHES % all];

		*which = m;
		if (m->watch[from % WATCHES].id)
			return &m->watch[from % WATCHES];
	}
	return NULL;
}

static void op_watch_create(void)
{
	struct member *m = &member[rnd(MEMBERS)];
	struct watch *w = &m->watch[rnd(WATCHES)];
	uint32_t on_timeout = rnd(2) ? ALLOW : DENY, id;
	int r;

	if (!m->stage || w->id)
		return;
	r = watch_create(m->p.fd, DEADLINE_US, on_timeout, &id);
	say("watch of %d: %d", (int)(m - member), r);
	if (!may_watch(m)) {
		CHECK(r == -1 && errno == EACCES, "a watch before its time: %s", strerror(errno));
		return;
	}
	if (!CHECK(r == 0, "%s", strerror(errno)))
		return;
	CHECK(!watch_of(m, id), "id %u twice", id);
	memset(w, 0, sizeof(*w));
	w->id = id;
	w->on_timeout = on_timeout;
}

static void op_watch_destroy(void)
{
	struct member *m;
	struct watch *w = any_watch(&m);

	if (!w || m->pid || rnd(3))
		return;
	say("destroy %u of %d", w->id, (int)(m - member));
	CHECK(watch_destroy(m->p.fd, w->id) == 0, "%s", strerror(errno));
	CHECK_ERR(watch_destroy(m->p.fd, w->id), ENOENT);
	memset(w, 0, sizeof(*w));
}

static void op_range(unsigned long cmd, uint32_t mode)
{
	static const uint32_t protections[] = { 0, ACC_R, ACCESS_RW, ACC_RX, ACC_RWX, ACC_RWX, ACC_RWX };
	struct member *m;
	struct watch *w = any_watch(&m);
	uint32_t access, first = rnd(MODEL_PAGES), pages, i, all;

	if (!w)
		return;
	pages = 1 + rnd(rnd(3) && first < MODEL_PAGES - 1 ? 2 : MODEL_PAGES - first);
	if (cmd == KVM_SPAN_UNSUBSCRIBE && !rnd(4)) {
		first = 0;
		pages = MODEL_PAGES;
	}
	access = cmd == KVM_SPAN_PROTECT ? protections[rnd(7)] : mode == LOG ? ACC_W : 1 + rnd(7);
	/* Else in the end everything would be denied. */
	if (cmd == KVM_SPAN_PROTECT && access != ACC_RWX && pages > 3)
		pages = 3;
	say("cmd %lx access %u mode %u %u+%u by %d/%u", cmd & 0xff, access, mode, first, pages, (int)(m - member),
	    w->id);
	if (!CHECK(member_range(m, w, cmd, access, mode, first, pages) == 0, "%s", strerror(errno)))
		return;
	all = with_r(access);
	for (i = first; i < first + pages; i++) {
		if (cmd == KVM_SPAN_PROTECT) {
			w->denied[i] = ACC_RWX & ~access;
		} else if (cmd == KVM_SPAN_UNSUBSCRIBE) {
			w->block[i] &= ~all;
			w->notify[i] &= ~all;
			if (access & ACC_W)
				w->logging[i] = w->must[i] = false;
		} else if (mode == LOG) {
			w->must[i] |= !w->logging[i];
			w->logging[i] = w->may[i] = true;
		} else if (mode == BLOCK) {
			w->block[i] |= all;
			w->notify[i] &= ~all;
		} else {
			w->notify[i] |= all;
			w->block[i] &= ~all;
		}
	}
}

static void op_subscribe(void)
{
	op_range(KVM_SPAN_SUBSCRIBE, rnd(2) ? BLOCK : NOTIFY);
}

static void op_unsubscribe(void)
{
	op_range(KVM_SPAN_UNSUBSCRIBE, 0);
}

static void op_protect(void)
{
	op_range(KVM_SPAN_PROTECT, 0);
}

static void op_log(void)
{
	op_range(KVM_SPAN_SUBSCRIBE, LOG);
}

static void op_fetch(void)
{
	struct kvm_span_log_range r[MODEL_PAGES];
	bool got[MODEL_PAGES] = {};
	struct kvm_span_log_fetch f;
	struct member *m;
	struct watch *w = any_watch(&m);
	uint32_t first = rnd(MODEL_PAGES), pages = 1 + rnd(MODEL_PAGES - first), max = 1 + rnd(MODEL_PAGES), i, k;

	if (!w || m->pid)
		return;
	if (!CHECK(log_fetch(m->p.fd, w->id, r, max, MODEL_FIRST + first, pages, &f) == 0, "%s", strerror(errno)))
		return;
	say("fetch %u+%u by %d/%u: %llu pages up to %llu", first, pages, (int)(m - member), w->id, f.dirty,
	    f.next - MODEL_FIRST);
	CHECK(f.count <= max, "%u ranges, %u fit", f.count, max);
	for (i = 0; i < f.count && i < max; i++)
		for (k = 0; k < r[i].pages; k++) {
			uint64_t page = r[i].first + k - MODEL_FIRST;

			if (CHECK(page >= first && page < first + pages, "page %llu", (unsigned long long)page))
				got[page] = true;
		}
	for (i = first; MODEL_FIRST + i < f.next; i++) {
		CHECK(got[i] || !w->must[i], "page %u was lost", i);
		CHECK(!got[i] || w->may[i], "page %u was not written", i);
		w->must[i] = w->may[i] = false;
	}
	for (; i < first + pages; i++)
		CHECK(!got[i], "page %u behind next", i);
	CHECK(f.next == MODEL_FIRST + first + pages || f.count == max, "stopped at %llu", f.next);
}

/* An answer to nothing. */
static void op_stale(void)
{
	struct member *m;
	struct watch *w = any_watch(&m);

	if (w && !m->pid)
		CHECK_ERR(answer_call(m->p.fd, rnd(2) ? rnd(1000) : ~0ULL, w->id, 1 + rnd(2), rnd(2)), ENOENT);
}

static void op_info(void)
{
	struct kvm_span_watch_info info;
	struct member *m;
	struct watch *w = any_watch(&m);
	unsigned int subscribed = 0, protected = 0, logged = 0;
	int i;

	if (!w || m->pid)
		return;
	for (i = 0; i < MODEL_PAGES; i++) {
		subscribed += (w->block[i] | w->notify[i]) != 0;
		protected += w->denied[i] != 0;
		logged += w->logging[i];
	}
	info = watch_info(m->p.fd, w->id);
	CHECK(info.pages_subscribed == subscribed && info.pages_protected == protected && info.pages_logged == logged,
	      "%llu subscribed, %llu protected, %llu logged; want %u, %u, %u", info.pages_subscribed,
	      info.pages_protected, info.pages_logged, subscribed, protected, logged);
}

/* Where the guest runs. */

static struct tiny_vm *roam_vm(struct member *m)
{
	return m ? &m->roam : &base_roam;
}

/* The guest stands still on its old seat, and goes on on the new one. */
static void seat_take(struct member *to)
{
	bool nmi = rnd(2);

	say("the guest goes to %d%s", to ? (int)(to - member) : -1, nmi ? " with an NMI" : "");
	roam_move(&roam, roam_vm(seat), roam_vm(to), nmi);
	nmis += nmi;
	if (to)
		away++;
	else
		home++;
	seat = to;
	roam_run(&roam, roam_vm(seat), rnd(300), to ? "on a member" : "at home");
}

static void hand_over(struct member *to)
{
	roam_run(&roam, roam_vm(seat), rnd(300), "before a move");
	seat_take(to);
}

/*
 * While a write waits for somebody's answer, or when it has it, the vCPU that makes
 * it goes to a member, begins it anew there, and does it once. What was answered
 * here is none of what the vCPU does when it is back, and may look the same.
 */
static void hand_over_waiting(struct member *to)
{
	volatile uint32_t *word = (uint32_t *)(g.mem + VICTIM_PAGE * PAGE + 0x10);
	uint32_t before = *word, w = watch_new(asker.fd, DEADLINE_US, ALLOW);
	struct tiny_vm *v = &to->p.vm;
	struct event first, second;
	bool answered = rnd(2);

	say("a write waits while its vCPU goes to %d", (int)(to - member));
	MUST(subscribe(asker.fd, w, ACC_W, BLOCK, VICTIM_PAGE, 1));
	TINY_GO(&g.vm, inc, .ebx = GPA(VICTIM_PAGE) + 0x10);
	first = want_event(&asker, w, VICTIM_PAGE, ACC_W, SPAN_SOURCE_GUEST_L0);
	tiny_abort(&g.vm);
	CHECK(g.vm.result == -EINTR && *word == before, "ended with %d, wrote %u", g.vm.result, *word - before);
	memcpy(v->ram + CODE_GPA, g.vm.ram + CODE_GPA, piece_inc_end - piece_inc);
	if (answered)
		MUST(answer_call(asker.fd, first.event, w, ALLOW, 0));
	roam_state(&g.vm, v, false);
	tiny_go(v);
	second = want_event(&asker, w, VICTIM_PAGE, ACC_W, SPAN_SOURCE_L1);
	CHECK_ERR(answer_call(asker.fd, first.event, w, ALLOW, 0), ENOENT);
	answer(&asker, &second, ALLOW, 0);
	WANT_END(v, TINY_DONE);
	CHECK(*word == before + 1, "written %u times", *word - before);
	MUST(watch_destroy(asker.fd, w));
	while (event_wait(&asker, &second, 0))
		;
	begun_anew++;
}

static void op_hand_over(void)
{
	struct member *to[MEMBERS + 1];
	int n = 0, i;

	if (rnd(4))
		return;
	if (seat)
		to[n++] = NULL;
	for (i = 0; i < MEMBERS; i++)
		if (member[i].stage == SLOTTED && &member[i] != seat)
			to[n++] = &member[i];
	if (!n)
		return;
	i = rnd(n);
	if (!seat && !rnd(3))
		hand_over_waiting(to[i]);
	hand_over(to[i]);
}

/* Members. */

static void op_grant(void)
{
	int i = rnd(MEMBERS);
	struct member *m = &member[i];
	char name[16];

	if (m->stage)
		return;
	snprintf(name, sizeof(name), "member%d", i);
	m->watcher = rnd(3) == 0;
	m->p.fd = MUST(grant_call(g.span, name, m->watcher ? KVM_SPAN_GRANT_WATCHER : 0, m->watcher ? 0 : ACCESS_RW,
				  ALL_RIGHTS, KVM_SPAN_DEADLINE_MAX, &m->p.id));
	m->stage = GRANTED;
	say("grant %d%s", i, m->watcher ? ", a watcher" : "");
}

static void ring_start(struct member *m)
{
	/* Now or never: one without ring is soon muted. */
	m->ring = rnd(4) != 0;
	m->p.seq = m->p.seen = 0;
	if (m->ring)
		party_ring(&m->p);
}

static void op_progress(void)
{
	struct member *m = &member[rnd(MEMBERS)];

	if (m->watcher) {
		if (m->stage == GRANTED && !m->ring && !m->watch[0].id && !m->watch[1].id && !m->watch[2].id)
			ring_start(m);
		return;
	}
	switch (m->stage) {
	case GRANTED:
		if (!m->vm) {
			tiny_init_with(&m->p.vm, TINY_IRQCHIP);
			tiny_add_vcpu(&m->roam, &m->p.vm, 1, TINY_IRQCHIP);
		}
		m->vm = true;
		CHECK(span_join(m->p.fd, m->p.vm.vm) == 0, "%s", strerror(errno));
		m->stage = JOINED;
		ring_start(m);
		break;
	case JOINED:
		m->p.window = span_map(m->p.fd, PROT_READ | PROT_WRITE);
		if (CHECK(m->p.window != MAP_FAILED, "%s", strerror(errno)))
			m->stage = MAPPED;
		break;
	case MAPPED:
		CHECK(tiny_slot(&m->p.vm, 1, WINDOW_GPA, m->p.window, MEM_BYTES, 0) == 0, "%s", strerror(errno));
		m->stage = SLOTTED;
		break;
	case SLOTTED:
		/* Back again now and then. */
		if (!rnd(4)) {
			if (seat == m)
				hand_over(NULL);
			MUST(tiny_slot(&m->p.vm, 1, 0, NULL, 0, 0));
			m->stage = MAPPED;
		}
		break;
	default:
		break;
	}
}

static void member_close(struct member *m)
{
	if (m->stage == SLOTTED)
		MUST(tiny_slot(&m->p.vm, 1, 0, NULL, 0, 0));
	if (m->stage >= MAPPED)
		munmap(m->p.window, MEM_BYTES);
	if (m->ring) {
		munmap(m->p.answers, KVM_SPAN_RING_BYTES);
		close(m->p.event_fd);
		close(m->p.doorbell);
	}
	close(m->p.fd);
	m->ring = false;
	m->stage = NONE;
	model_drop(m);
}

static void op_leave(void)
{
	struct member *m = &member[rnd(MEMBERS)];

	if (!m->stage || rnd(12))
		return;
	say("%d leaves", (int)(m - member));
	if (seat == m)
		hand_over(NULL);
	member_close(m);
}

/* The guest was running there, and cannot any more. It goes on at home where it has come to. */
static void seat_from_revoked(struct member *m)
{
	uint32_t at = roam_word(&roam, 0);

	usleep(500);
	CHECK(roam_word(&roam, 0) == at, "the guest runs on in a window that was revoked");
	roam_stop(&roam, &m->roam, "revoked");
	torn++;
	seat_take(NULL);
}

static void op_revoke(void)
{
	struct member *m = seat && !rnd(3) ? seat : &member[rnd(MEMBERS)];
	struct kvm_span_watch_info info;

	if (!m->stage || rnd(12))
		return;
	say("revoke %d", (int)(m - member));
	if (seat == m)
		roam_go(&roam, &m->roam, rnd(300));
	CHECK(span_revoke(g.span, m->p.id) == 0, "%s", strerror(errno));
	if (seat == m)
		seat_from_revoked(m);
	CHECK_ERR(watch_create(m->p.fd, 0, ALLOW, NULL), EACCES);
	CHECK_ERR(watch_info_call(m->p.fd, 1, &info), EACCES);
	if (m->stage >= MAPPED)
		CHECK(touch(m->p.window + MODEL_FIRST * PAGE, false) == SIGBUS, "readable after its revoke");
	member_close(m);
}

/* Kill it in the middle of ... */

enum { KILL_IDLE, KILL_CALL, KILL_ASKED, KILL_LOOP, KILL_WAITS, KILLS };

static unsigned long kills[KILLS], waited;

/* ... a call that masks pages: all of it is gone, whatever it had come to. */
static void kill_in_call(struct member *m)
{
	process_send(m, KVM_SPAN_PROTECT, 0, 0, 0, PAGES);
	if (rnd(2))
		usleep(rnd(300));
	process_kill(m);
}

/* ... an access of the guest that waits for its answer: which then goes on. */
static void kill_asked(struct member *m)
{
	volatile uint32_t *word = (uint32_t *)(g.mem + VICTIM_PAGE * PAGE + 0x10);
	uint64_t end = now_ms() + SOON;
	uint32_t before = *word;

	MUST(process_do(m, ORDER_HOLD, 0, 0, 0, 0));
	MUST(process_do(m, KVM_SPAN_SUBSCRIBE, ACC_W, BLOCK, VICTIM_PAGE, 1));
	TINY_GO(&g.vm, inc, .ebx = GPA(VICTIM_PAGE) + 0x10);
	while (!span_stats(g.span).pending && now_ms() < end)
		usleep(100);
	CHECK(span_stats(g.span).pending == 1, "the guest's write does not wait");
	CHECK(*word == before, "written without an answer");
	process_kill(m);
	WANT_END(&g.vm, TINY_DONE);
	CHECK(*word == before + 1, "not written when nobody was left to ask");
}

/* ... writing to its window: nothing comes after its end. */
static void kill_in_loop(struct member *m)
{
	volatile uint32_t *word = (uint32_t *)(g.mem + LOOP_PAGE * PAGE + 0x10);
	uint64_t end = now_ms() + SOON;
	uint32_t at = *word;

	MUST(process_do(m, ORDER_LOOP, 0, 0, LOOP_PAGE, 1));
	while (*word == at && now_ms() < end)
		usleep(100);
	CHECK(*word != at, "its VM does not write");
	process_kill(m);
	at = *word;
	usleep(500);
	CHECK(*word == at, "the VM of a process that was killed writes on");
}

/*
 * ... an access of its own that waits for another's answer: it does not come about,
 * unless it has waited for as long as an L1's may before the process came to its end.
 */
static void kill_waiting(struct member *m)
{
	volatile uint32_t *word = (uint32_t *)(g.mem + VICTIM_PAGE * PAGE + 0x10);
	uint32_t before = *word, w = watch_new(asker.fd, DEADLINE_US, ALLOW);
	struct event e;
	uint64_t t;

	MUST(subscribe(asker.fd, w, ACC_W, BLOCK, VICTIM_PAGE, 1));
	t = now_ms();
	MUST(process_do(m, ORDER_WRITE, 0, 0, VICTIM_PAGE, 1));
	e = want_event(&asker, w, VICTIM_PAGE, ACC_W, SPAN_SOURCE_L1);
	process_kill(m);
	if (now_ms() - t < L1_WAITS_MS)
		CHECK(!watch_info(asker.fd, w).timeouts, "an access of a process that was killed has timed out");
	if (!watch_info(asker.fd, w).timeouts) {
		CHECK(*word == before, "the write of a process that was killed came about");
		CHECK_ERR(answer_call(asker.fd, e.event, w, ALLOW, 0), ENOENT);
		waited++;
	}
	MUST(watch_destroy(asker.fd, w));
	while (event_wait(&asker, &e, 0))
		;
}

static void op_kill(void)
{
	static void (*const how[KILLS])(struct member *m) = {
		[KILL_IDLE] = process_kill, [KILL_CALL] = kill_in_call, [KILL_ASKED] = kill_asked,
		[KILL_LOOP] = kill_in_loop, [KILL_WAITS] = kill_waiting,
	};
	static const int from[KINDS] = { KILL_IDLE, KILL_IDLE, KILL_CALL };
	static const int to[KINDS] = { KILL_CALL, KILL_ASKED, KILL_WAITS };
	static unsigned int turn[KINDS];
	struct member *m = &member[PROCESS];
	int i;

	if (rnd(10))
		return;
	i = from[m->kind] + turn[m->kind]++ % (to[m->kind] - from[m->kind] + 1);
	/* It is the guest at home that waits for it: an L1, where it may be, waits for 50 ms only. */
	if (i == KILL_ASKED && seat)
		hand_over(NULL);
	say("kill %d of a process of kind %d", i, m->kind);
	kills[i]++;
	want_none();
	how[i](m);
	/* Nobody else was told of anything. */
	check_told("kill", false);
	CHECK(span_stats(g.span).watches == model_watches() + 1 && !span_stats(g.span).pending,
	      "%u watches, %u pending after a kill", span_stats(g.span).watches, span_stats(g.span).pending);
	process_start(m);
}

static void op_stats(void)
{
	struct kvm_span_stats s = span_stats(g.span);
	unsigned int granted = 0, joined = 0;
	int i;

	for (i = 0; i <= MEMBERS; i++) {
		granted += member[i].stage == GRANTED;
		joined += member[i].stage > GRANTED;
	}
	joined++;	/* the one of chaos */
	granted++;	/* the one who does not answer */
	CHECK(s.granted == granted && s.joined == joined, "%u granted, %u joined; want %u, %u", s.granted, s.joined,
	      granted, joined);
	CHECK(s.watches == model_watches() + 1, "%u watches, want %u", s.watches, model_watches() + 1);
	CHECK(s.pending == 0, "%u pending", s.pending);
}

/* Things that go on meanwhile, and change nothing of what the model knows. */

static volatile bool chaos_over;
static struct tiny_vm chaos_vm;
static struct party chaos_l1;

static void *chaos(void *arg)
{
	struct kvm_dirty_log log = { .slot = 1 };
	static uint64_t bitmap[PAGES / 64];
	uint32_t w = *(uint32_t *)arg;
	unsigned int n = 0;

	log.dirty_bitmap = bitmap;
	while (!chaos_over) {
		bool zap = n % 8 == 3 || n % 8 == 6;

		if (zap)
			pthread_mutex_lock(&zaps);
		switch (n++ % 8) {
		case 0: tiny_slot(&g.vm, 1, WINDOW_GPA, g.mem, MEM_BYTES, KVM_MEM_LOG_DIRTY_PAGES); break;
		case 1: ioctl(g.vm.vm, KVM_GET_DIRTY_LOG, &log); break;
		case 2: madvise(g.mem, MEM_BYTES, MADV_DONTNEED); break;
		case 3: subscribe(chaos_l1.fd, w, ACC_RWX, n & 8 ? BLOCK : NOTIFY, CHAOS_PAGE, 1); break;
		case 4: tiny_slot(&g.vm, 1, WINDOW_GPA, g.mem, MEM_BYTES, 0); break;
		case 5: fallocate(g.memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 700 * PAGE, 64 * PAGE); break;
		case 6: protect(chaos_l1.fd, w, n & 8 ? ACC_R : ACC_RWX, CHAOS_PAGE, 1); break;
		case 7: madvise(g.mem, MEM_BYTES, MADV_COLLAPSE); break;
		}
		if (zap)
			pthread_mutex_unlock(&zaps);
		usleep(30000);
	}
	return NULL;
}

static void all_free(void)
{
	int i;

	/* At the end nothing is left of anybody: the guest may do everything. */
	for (i = 0; i < MODEL_PAGES; i++) {
		uint64_t at = MODEL_FIRST + i;
		uint32_t before = get32(g.mem + at * PAGE + 0x10);

		CHECK(TINY_RUN(&g.vm, inc, .ebx = GPA(at) + 0x10) == TINY_DONE &&
		      get32(g.mem + at * PAGE + 0x10) == before + 1, "page %d: not written", i);
		CHECK(TINY_RUN(&g.vm, call, .ebx = GPA(at) + 0x20) == TINY_DONE, "page %d: not fetched", i);
	}
}

/* Every sort of move and of kill has to have been among so many operations. */
static void all_sorts(void)
{
	int i;

	ktap_note("the guest moved %lu times away, %lu home, %lu of them from one that was revoked, %lu with an NMI; %lu waiting writes",
		  away, home, torn, nmis, begun_anew);
	ktap_note("kills: %lu idle, %lu in a call, %lu asked, %lu writing, %lu waiting (%lu in time)", kills[KILL_IDLE],
		  kills[KILL_CALL], kills[KILL_ASKED], kills[KILL_LOOP], kills[KILL_WAITS], waited);
	if (ops < 10000 || ktap_failures)
		return;
	CHECK(away && home && torn && nmis && begun_anew, "some sort of move is missing");
	for (i = 0; i < KILLS; i++)
		CHECK(kills[i], "kill %d was never done", i);
}

static void t_model(void)
{
	static void (*const op[])(void) = {
		op_touch_guest, op_touch_guest, op_touch_guest, op_touch_guest, op_touch_guest, op_touch_member,
		op_touch_member, op_touch_member, op_touch_member, op_write, op_watch_create, op_watch_create, op_watch_destroy, op_subscribe,
		op_subscribe, op_unsubscribe, op_unsubscribe, op_protect, op_protect, op_log, op_fetch, op_fetch,
		op_stale, op_info, op_grant, op_progress, op_progress, op_progress, op_leave, op_revoke, op_kill,
		op_hand_over, op_stats,
	};
	unsigned long i;
	uint64_t t0 = now_ms();
	struct kvm_span_event e[64];
	pthread_t thread;
	uint32_t which = 0, w;
	int k;

	rng = seed * 2654435761u + 1;
	guest_new(&g, 0);
	MUST(fcntl(g.span, F_SETFL, O_NONBLOCK));
	guest_huge(g.mem);
	for (k = 0; k < MODEL_PAGES; k++)
		g.mem[(MODEL_FIRST + k) * PAGE + 0x20] = 0xc3;
	party_new(&chaos_l1, g.span, "chaos");
	watcher_new(&asker, g.span, "asker");
	process_start(&member[PROCESS]);
	w = watch_new(chaos_l1.fd, 1000, DENY);
	MUST(pthread_create(&thread, NULL, chaos, &w) ? -1 : 0);
	tiny_add_vcpu(&chaos_vm, &g.vm, 1, TINY_IRQCHIP);
	tiny_add_vcpu(&base_roam, &g.vm, 2, TINY_IRQCHIP);
	roam.mem = g.mem + ROAM_PAGE * PAGE;
	roam_begin(&roam, &base_roam);
	for (i = 0; i < ops && !ktap_failures; i++) {
		which = rnd(sizeof(op) / sizeof(op[0]));
		op[which]();
		done[which]++;
		if (i % 64 == 0)
			while (read(g.span, e, sizeof(e)) > 0)
				;
		if (i % 16 == 0)
			TINY_RUN(&chaos_vm, store, .ebx = GPA(CHAOS_PAGE), .eax = i);
	}
	if (ktap_failures)
		ktap_note("seed %lu: operation %lu, number %u", seed, i - 1, which);
	chaos_over = true;
	pthread_join(thread, NULL);
	if (seat)
		hand_over(NULL);
	for (k = 0; k < MEMBERS; k++)
		if (member[k].stage)
			member_close(&member[k]);
	MUST(span_revoke(g.span, member[PROCESS].p.id));
	kill(member[PROCESS].pid, SIGKILL);
	waitpid(member[PROCESS].pid, NULL, 0);
	MUST(span_revoke(g.span, chaos_l1.id));
	MUST(span_revoke(g.span, asker.id));
	CHECK(span_stats(g.span).watches == 0 && span_stats(g.span).pending == 0, "%u watches, %u pending at the end",
	      span_stats(g.span).watches, span_stats(g.span).pending);
	all_free();
	all_sorts();
	ktap_note("seed %lu: %lu operations in %llu ms: %lu accesses allowed, %lu denied, %lu events (%lu answered too late), %lu notices",
		  seed, i, (unsigned long long)(now_ms() - t0), allowed, refused, events, late, notices);
	for (k = 0; k < (int)(sizeof(op) / sizeof(op[0])); k++)
		CHECK(ops < 500 || ktap_failures || done[k], "operation %d was never done", k);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "seed", required_argument, NULL, 's' },
		{ "ops", required_argument, NULL, 'o' },
		{ "verbose", no_argument, NULL, 'v' },
		{}
	};
	static const struct ktap_test tests[] = {
		{ "random operations", t_model },
	};
	int c;

	while ((c = getopt_long(argc, argv, "s:o:v", options, NULL)) != -1) {
		if (c == 's')
			seed = strtoul(optarg, NULL, 0);
		else if (c == 'o')
			ops = strtoul(optarg, NULL, 0);
		else if (c == 'v')
			verbose = true;
		else
			return 2;
	}
	span_require();
	return KTAP_RUN(tests);
}
