// SPDX-License-Identifier: GPL-2.0
/*
 * A controller and members that do everything at random, for the debug kernel:
 * grant, join, map, touch, fork, remap, stop, kill, revoke, punch, close.
 *
 *	span_stress [--seed N] [--ops N]
 *
 * The same seed makes the same choices. After each revoke the counter that the
 * member writes must stand still; at the end nobody may be left.
 *
 * test: mem/stress timeout=600 tags=slow args=--seed,1,--ops,400
 * test: mem/stress-debug timeout=900 tags=debug args=--seed,2,--ops,400
 */
#define KTAP_DEADLINE 3600
#include "spanlib.h"

#include <getopt.h>
#include <sys/prctl.h>

#define SLOTS		6	/* member processes at a time */
#define COUNTER(slot)	((slot) * 16 * PAGE + 128)

static unsigned long seed = 1, ops = 400;

struct rng {
	uint64_t s;
};

static uint32_t rnd(struct rng *r, uint32_t n)
{
	r->s = r->s * 6364136223846793005ULL + 1442695040888963407ULL;
	return (uint32_t)(r->s >> 33) % n;
}

struct slot {
	pid_t pid;		/* 0: free */
	uint32_t id;
	int fd;			/* our copy of the member fd, or -1 */
	bool revoked;
};

static struct slot slots[SLOTS];
static int memfd, span, guest_vm;
static volatile uint8_t *base;
static unsigned long done[16];

/* The member's side. It dies by SIGBUS, by SIGKILL, or when it has enough. */

static void member_touch(struct rng *r, volatile uint8_t *w, int slot)
{
	volatile uint32_t *counter = (volatile uint32_t *)(w + COUNTER(slot));
	unsigned int i, n = rnd(r, 2000);

	for (i = 0; i < n; i++)
		++*counter;
	for (i = 0; i < 8; i++)
		(void)w[rnd(r, MEM_BYTES)];
}

static void member_fork(struct rng *r, uint8_t *w)
{
	bool copy = rnd(r, 2);
	pid_t pid;

	madvise(w, MEM_BYTES, copy ? MADV_DOFORK : MADV_DONTFORK);
	pid = fork();
	if (!pid) {
		/* Either way the child must not see the memory. */
		_exit(touch(w + rnd(r, MEM_BYTES), false) ? 0 : 7);
	}
	if (pid > 0) {
		int status;

		if (waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 7)
			_exit(7);
	}
}

static uint8_t *member_move(uint8_t *w)
{
	uint8_t *room = mmap(NULL, MEM_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return mremap(w, MEM_BYTES, MEM_BYTES, MREMAP_MAYMOVE | MREMAP_FIXED, room);
}

static void member_vcpu(struct rng *r, struct tiny_vm *l1, uint8_t *w)
{
	if (l1->thread) {
		tiny_stop(l1);
		l1->thread = 0;
		l1->stop = false;
		l1->run->immediate_exit = 0;
	}
	if (rnd(r, 3) == 0) {
		tiny_slot(l1, 1, WINDOW_GPA, NULL, 0, 0);
		return;
	}
	tiny_slot(l1, 1, WINDOW_GPA, w, MEM_BYTES, 0);
	tiny_start(l1);
}

static void __attribute__((noreturn)) member_main(int fd, int slot, uint64_t s)
{
	/* eax++, [window + 64] = eax, for ever */
	static const uint8_t code[] = { 0xbb, 0x40, 0, 0, 0x10, 0x31, 0xc0, 0x40, 0x89, 0x03, 0xeb, 0xfb };
	struct rng r = { s };
	struct tiny_vm l1;
	uint8_t *w, *other;
	int copy = -1;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	tiny_init(&l1, code, sizeof(code));
	if (span_join(fd, l1.vm))
		_exit(errno == EACCES ? 0 : 3);
	w = span_map(fd, PROT_READ | PROT_WRITE);
	if (w == MAP_FAILED)
		_exit(errno == EACCES ? 0 : 4);
	for (;;) {
		switch (rnd(&r, 12)) {
		case 0: member_fork(&r, w); break;
		case 1: w = member_move(w); break;
		case 2: madvise(w + rnd(&r, 16) * PAGE, 64 * PAGE, MADV_DONTNEED); break;
		case 3:
			other = span_map(fd, PROT_READ);
			/* A part of it is refused. */
			if (other != MAP_FAILED && munmap(other, MEM_BYTES / (1 + rnd(&r, 2))))
				munmap(other, MEM_BYTES);
			break;
		case 4: mprotect(w + rnd(&r, 2000) * PAGE, PAGE, PROT_READ | PROT_WRITE); break;
		case 5:
			if (copy >= 0)
				close(copy);
			copy = dup(fd);
			break;
		case 6:
		case 7: member_vcpu(&r, &l1, w); break;
		case 8:
			if (rnd(&r, 20) == 0)
				_exit(0);
			break;
		default: member_touch(&r, w, slot); break;
		}
	}
}

/* The controller's side. */

static void slot_free(struct slot *s)
{
	if (s->fd >= 0)
		close(s->fd);
	memset(s, 0, sizeof(*s));
	s->fd = -1;
}

static void reap(bool wait)
{
	int i, status;

	for (i = 0; i < SLOTS; i++) {
		if (!slots[i].pid || waitpid(slots[i].pid, &status, wait ? 0 : WNOHANG) != slots[i].pid)
			continue;
		CHECK(!WIFEXITED(status) || WEXITSTATUS(status) == 0, "member ended with status %d",
		      WEXITSTATUS(status));
		CHECK(!WIFSIGNALED(status) || WTERMSIG(status) == SIGBUS || WTERMSIG(status) == SIGKILL,
		      "member ended by signal %d", WTERMSIG(status));
		CHECK(!WIFSIGNALED(status) || WTERMSIG(status) == SIGKILL || slots[i].revoked,
		      "SIGBUS without a revoke");
		slot_free(&slots[i]);
	}
}

static void op_grant(struct rng *r)
{
	struct slot *s = &slots[rnd(r, SLOTS)];
	uint64_t child_seed = ((uint64_t)rnd(r, 1u << 30) << 20) ^ seed;
	char name[16];
	int fd;

	if (s->pid)
		return;
	snprintf(name, sizeof(name), "L1-%d", (int)(s - slots));
	fd = span_grant(span, ACCESS_RW, name, &s->id);
	if (!CHECK(fd >= 0 || errno == EEXIST || errno == ENOSPC, "grant: %s", strerror(errno)) || fd < 0)
		return;
	s->pid = MUST(fork());
	if (!s->pid) {
		close(span);
		close(memfd);
		member_main(fd, s - slots, child_seed);
	}
	s->revoked = false;
	/* Sometimes keep a copy, so that the member leaves late. */
	s->fd = rnd(r, 3) ? -1 : fd;
	if (s->fd < 0)
		close(fd);
}

static void revoke_one(struct slot *s)
{
	volatile uint32_t *counter = (volatile uint32_t *)(base + COUNTER(s - slots));
	uint32_t before;

	s->revoked = true;
	if (!CHECK(span_revoke(span, s->id) == 0, "revoke: %s", strerror(errno)))
		return;
	before = *counter;
	usleep(2000);
	CHECK(*counter == before, "member %u wrote after its revoke", s->id);
}

static void op_revoke(struct rng *r)
{
	struct slot *s = &slots[rnd(r, SLOTS)];

	if (s->pid)
		revoke_one(s);
	else
		CHECK_ERR(span_revoke(span, 0xfffffff0), ENOENT);
}

static void op_signal(struct rng *r)
{
	struct slot *s = &slots[rnd(r, SLOTS)];
	static const int signals[] = { SIGKILL, SIGSTOP, SIGCONT, SIGKILL };

	if (s->pid)
		kill(s->pid, signals[rnd(r, 4)]);
}

static void op_kill_and_revoke(struct rng *r)
{
	struct slot *s = &slots[rnd(r, SLOTS)];

	if (!s->pid)
		return;
	kill(s->pid, SIGKILL);
	revoke_one(s);
}

static void op_events(struct rng *r)
{
	struct kvm_span_event e[16];
	ssize_t n = read(span, e, sizeof(e[0]) * (1 + rnd(r, 16)));
	ssize_t i;

	CHECK(n > 0 || errno == EAGAIN, "read: %s", strerror(errno));
	for (i = 0; i < n / (ssize_t)sizeof(e[0]); i++)
		CHECK(e[i].type == KVM_SPAN_EVENT_JOINED || e[i].type == KVM_SPAN_EVENT_LEFT, "event %u",
		      e[i].type);
}

static void op_punch(struct rng *r)
{
	/* Not the counters: a hole there is a change. */
	off_t at = (SLOTS * 16 + rnd(r, 1000)) * PAGE;

	MUST(fallocate(memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, 64 * PAGE));
}

static void op_query(struct rng *r)
{
	struct slot *s = &slots[rnd(r, SLOTS)];
	struct kvm_span_member_info info;
	struct kvm_span_stats st = span_stats(span);

	CHECK(st.present_pages <= MEM_BYTES / PAGE && st.granted + st.joined <= KVM_SPAN_MAX_MEMBERS,
	      "%llu pages, %u granted, %u joined", st.present_pages, st.granted, st.joined);
	if (s->pid && !span_member(span, s->id, &info))
		CHECK(info.member == s->id && info.state >= KVM_SPAN_GRANTED && info.state <= KVM_SPAN_LEFT,
		      "state %u", info.state);
}

/* The controller starts over: everybody is fenced, a new span begins. */
static void op_new_span(struct rng *r)
{
	uint32_t before[SLOTS];
	int i;

	if (rnd(r, 8))
		return;
	close(span);
	for (i = 0; i < SLOTS; i++) {
		slots[i].revoked = true;
		before[i] = *(volatile uint32_t *)(base + COUNTER(i));
	}
	usleep(2000);
	for (i = 0; i < SLOTS; i++)
		CHECK(*(volatile uint32_t *)(base + COUNTER(i)) == before[i], "slot %d wrote after the end", i);
	for (i = 0; i < SLOTS; i++)
		if (slots[i].pid)
			kill(slots[i].pid, SIGKILL);
	reap(true);
	span = span_create(memfd, guest_vm);
	MUST(fcntl(span, F_SETFL, O_NONBLOCK));
}

static void t_stress(void)
{
	static void (*const op[])(struct rng *) = {
		op_grant, op_grant, op_grant, op_revoke, op_signal, op_kill_and_revoke, op_events, op_punch,
		op_query, op_new_span,
	};
	struct kvm_span_stats st;
	struct rng r = { seed };
	unsigned long i;
	uint32_t which;
	int k;

	for (k = 0; k < SLOTS; k++)
		slots[k].fd = -1;
	guest_vm = vm_new();
	memfd = memfd_new(MEM_BYTES, GUEST_SEALS);
	span = span_create(memfd, guest_vm);
	MUST(fcntl(span, F_SETFL, O_NONBLOCK));
	base = mmap(NULL, MEM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
	for (i = 0; i < ops && !ktap_failures; i++) {
		which = rnd(&r, sizeof(op) / sizeof(op[0]));
		op[which](&r);
		done[which]++;
		reap(false);
		if (rnd(&r, 3) == 0)
			usleep(rnd(&r, 3000));
	}
	for (k = 0; k < SLOTS; k++) {
		if (!slots[k].pid)
			continue;
		kill(slots[k].pid, SIGCONT);
		kill(slots[k].pid, SIGKILL);
	}
	reap(true);
	for (k = 0; k < SLOTS; k++)
		slot_free(&slots[k]);
	st = span_stats(span);
	CHECK(st.granted == 0 && st.joined == 0, "%u granted, %u joined at the end", st.granted, st.joined);
	ktap_note("seed %lu: %lu operations; this span: %llu grants, %llu joins, %llu revokes, %llu leaves, "
		  "%llu faults, %llu refused", seed, i, st.grants, st.joins, st.revokes, st.leaves, st.faults,
		  st.refused);
	CHECK(st.grants == st.leaves, "%llu granted, %llu left", st.grants, st.leaves);
	for (k = 0; k < (int)(sizeof(op) / sizeof(op[0])); k++)
		CHECK(ops < 200 || done[k], "operation %d was never done", k);
	close(span);
	/* The memory is free for a new span: nothing holds on to the old one. */
	span = span_create_named(memfd, guest_vm, "again");
	CHECK(span >= 0, "%s", strerror(errno));
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "seed", required_argument, NULL, 's' },
		{ "ops", required_argument, NULL, 'o' },
		{}
	};
	static const struct ktap_test tests[] = {
		{ "random operations", t_stress },
	};
	int c;

	while ((c = getopt_long(argc, argv, "s:o:", options, NULL)) != -1) {
		if (c == 's')
			seed = strtoul(optarg, NULL, 0);
		else if (c == 'o')
			ops = strtoul(optarg, NULL, 0);
		else
			return 2;
	}
	span_require();
	return KTAP_RUN(tests);
}
