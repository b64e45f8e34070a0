// SPDX-License-Identifier: GPL-2.0
/*
 * A window in use by a vCPU, and its end: by revoke, by the controller's death,
 * with the member's process running, stopped or killed.
 *
 * test: mem/revoke timeout=300
 */
#include "spanlib.h"

#include <linux/userfaultfd.h>
#include <sys/syscall.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef UFFD_FEATURE_WP_ASYNC
#define UFFD_FEATURE_WP_ASYNC (1 << 15)
#endif

/* l: eax++, [window + offset] = eax, jump to l */
static size_t code_hammer(uint8_t *code, uint32_t offset)
{
	uint32_t gpa = WINDOW_GPA + offset;
	const uint8_t c[] = { 0xbb, gpa, gpa >> 8, gpa >> 16, gpa >> 24, 0x31, 0xc0, 0x40, 0x89, 0x03,
			      0xeb, 0xfb };

	memcpy(code, c, sizeof(c));
	return sizeof(c);
}

/* [scratch] = [window + from]; [window + to] = value; halt */
static size_t code_exchange(uint8_t *code, uint32_t from, uint32_t to, uint32_t value)
{
	uint32_t f = WINDOW_GPA + from, t = WINDOW_GPA + to;
	const uint8_t c[] = { 0xa1, f, f >> 8, f >> 16, f >> 24,
			      0xa3, SCRATCH_GPA & 0xff, SCRATCH_GPA >> 8, 0, 0,
			      0xc7, 0x05, t, t >> 8, t >> 16, t >> 24,
			      value, value >> 8, value >> 16, value >> 24, 0xf4 };

	memcpy(code, c, sizeof(c));
	return sizeof(c);
}

struct setup {
	int memfd, span, member;
	uint32_t id;
	volatile uint8_t *base;		/* the controller's mapping */
	uint8_t *window;
	struct tiny_vm l1;
};

/* A span, its controller's mapping, and an "L1" VM that has joined it. */
static void setup_l1(struct setup *s, uint32_t access, const uint8_t *code, size_t n)
{
	s->span = span_new(&s->memfd);
	s->base = mmap(NULL, MEM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, s->memfd, 0);
	MUST(s->base == MAP_FAILED ? -1 : 0);
	s->member = MUST(span_grant(s->span, access, "L1a", &s->id));
	tiny_init(&s->l1, code, n);
	MUST(span_join(s->member, s->l1.vm));
	s->window = span_map(s->member, access & KVM_SPAN_ACCESS_W ? PROT_READ | PROT_WRITE : PROT_READ);
	MUST(s->window == MAP_FAILED ? -1 : 0);
	MUST(tiny_slot(&s->l1, 1, WINDOW_GPA, s->window, MEM_BYTES,
		       access & KVM_SPAN_ACCESS_W ? 0 : KVM_MEM_READONLY));
}

static uint32_t word(volatile uint8_t *base, size_t offset)
{
	return *(volatile uint32_t *)(base + offset);
}

static void set_word(volatile uint8_t *base, size_t offset, uint32_t value)
{
	*(volatile uint32_t *)(base + offset) = value;
}

/* Wait until the counter there moves; false after two seconds. */
static bool moves(volatile uint8_t *base, size_t offset)
{
	uint32_t first = word(base, offset);
	uint64_t end = now_ms() + 2000;

	while (now_ms() < end) {
		if (word(base, offset) != first)
			return true;
		usleep(1000);
	}
	return false;
}

static bool stands_still(volatile uint8_t *base, size_t offset, unsigned int ms)
{
	uint32_t first = word(base, offset);

	usleep(ms * 1000);
	return word(base, offset) == first;
}

/* Guest memory is the same page at the same offset for vCPUs as well. */
static void t_vcpu_sees_it(void)
{
	const size_t from = 3 * PAGE + 16, to = MEM_BYTES - PAGE + 32;
	uint8_t code[64];
	struct setup s;
	struct tiny_vm b;
	uint8_t *window_b;
	size_t n = code_exchange(code, from, to, 0xfeedbeef);
	int member;

	setup_l1(&s, ACCESS_RW, code, n);
	set_word(s.base, from, 0x12345678);
	MUST(ioctl(s.l1.vcpu, KVM_RUN, 0));
	CHECK(s.l1.run->exit_reason == KVM_EXIT_HLT, "%u", s.l1.run->exit_reason);
	CHECK(word(s.l1.ram, SCRATCH_GPA) == 0x12345678, "%#x", word(s.l1.ram, SCRATCH_GPA));
	CHECK(word(s.base, to) == 0xfeedbeef, "%#x", word(s.base, to));

	/* Another L1 reads what the first one wrote. */
	n = code_exchange(code, to, from, 0xcafe);
	member = MUST(span_grant(s.span, ACCESS_RW, "L1b", NULL));
	tiny_init(&b, code, n);
	MUST(span_join(member, b.vm));
	window_b = span_map(member, PROT_READ | PROT_WRITE);
	MUST(tiny_slot(&b, 1, WINDOW_GPA, window_b, MEM_BYTES, 0));
	MUST(ioctl(b.vcpu, KVM_RUN, 0));
	CHECK(word(b.ram, SCRATCH_GPA) == 0xfeedbeef, "%#x", word(b.ram, SCRATCH_GPA));
	CHECK(word(s.window, from) == 0xcafe, "%#x", word(s.window, from));
}

/* A read-only member's vCPU: its write reaches its QEMU, not the memory. */
static void t_vcpu_readonly(void)
{
	uint8_t code[64];
	struct setup s;
	size_t n = code_exchange(code, 0, PAGE, 0xbad);

	setup_l1(&s, KVM_SPAN_ACCESS_R, code, n);
	set_word(s.base, 0, 77);
	set_word(s.base, PAGE, 88);
	MUST(ioctl(s.l1.vcpu, KVM_RUN, 0));
	CHECK(s.l1.run->exit_reason == KVM_EXIT_MMIO && s.l1.run->mmio.is_write &&
	      s.l1.run->mmio.phys_addr == WINDOW_GPA + PAGE, "exit %u", s.l1.run->exit_reason);
	CHECK(word(s.l1.ram, SCRATCH_GPA) == 77, "%u", word(s.l1.ram, SCRATCH_GPA));
	CHECK(word(s.base, PAGE) == 88, "%#x", word(s.base, PAGE));
}

/* Attach allocates nothing; a touch allocates what it touches. */
static void t_lazy(void)
{
	int memfd, span = span_new(&memfd);
	struct kvm_span_stats st;
	volatile uint8_t *base;
	uint8_t *p, *q;

	base = mmap(NULL, MEM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
	CHECK(span_stats(span).present_pages == 0, "%llu", span_stats(span).present_pages);
	p = member_new(span, ACCESS_RW, "a", NULL, NULL);
	q = member_new(span, KVM_SPAN_ACCESS_R, "b", NULL, NULL);
	st = span_stats(span);
	CHECK(st.present_pages == 0 && st.faults == 0, "%llu pages %llu faults", st.present_pages, st.faults);
	p[0] = 1;
	CHECK(span_stats(span).present_pages == 1, "%llu", span_stats(span).present_pages);
	/* A second look finds the first one's page. */
	CHECK(q[0] == 1 && base[0] == 1, "%u %u", q[0], base[0]);
	CHECK(span_stats(span).present_pages == 1, "%llu", span_stats(span).present_pages);
	base[7 * PAGE] = 1;
	CHECK(p[7 * PAGE] == 1, "%u", p[7 * PAGE]);
	CHECK(span_stats(span).present_pages == 2, "%llu", span_stats(span).present_pages);
	st = span_stats(span);
	CHECK(st.faults >= 3 && st.refused == 0, "%llu faults, %llu refused", st.faults, st.refused);
}

/* A hole that the guest's QEMU punches (a balloon) is gone for members too. */
static void t_hole(void)
{
	int memfd, span = span_new(&memfd);
	uint8_t *p = member_new(span, ACCESS_RW, "a", NULL, NULL);

	p[0] = 1;
	p[PAGE] = 2;
	MUST(fallocate(memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE));
	CHECK(span_stats(span).present_pages == 1, "%llu", span_stats(span).present_pages);
	CHECK(p[0] == 0 && p[PAGE] == 2, "%u %u", p[0], p[PAGE]);
}

/*
 * The core of it: a vCPU writes a counter as fast as it can. After revoke has
 * returned, the counter stands still, for ever.
 */
static void t_hammering_vcpu(void)
{
	const size_t offset = 5 * PAGE + 64;
	uint8_t code[64];
	struct setup s;
	uint64_t t0, ms;
	int round;

	for (round = 0; round < 5; round++) {
		setup_l1(&s, ACCESS_RW, code, code_hammer(code, offset));
		tiny_start(&s.l1);
		CHECK(moves(s.base, offset), "the vCPU does not write");
		t0 = now_ms();
		CHECK(span_revoke(s.span, s.id) == 0, "%s", strerror(errno));
		ms = now_ms() - t0;
		CHECK(stands_still(s.base, offset, 60), "written after revoke, round %d", round);
		CHECK(ms < 1000, "revoke took %llu ms", (unsigned long long)ms);
		/* Its process sees nothing either. */
		CHECK(touch(s.window + offset, false) == SIGBUS, "readable");
		CHECK(touch(s.window + offset, true) == SIGBUS, "writable");
		CHECK(touch(s.window, false) == SIGBUS, "readable where it never was touched");
		/* The vCPU waits: no error, and it can be stopped at once. */
		CHECK(s.l1.last_exit >= 0 || s.l1.last_exit == -EINTR, "KVM_RUN: %s", strerror(-s.l1.last_exit));
		ms = tiny_stop(&s.l1);
		CHECK(ms < 1000, "stopping took %llu ms", (unsigned long long)ms);
		CHECK(s.l1.last_exit == -EINTR, "%d", s.l1.last_exit);
		close(s.span);
		close(s.member);
	}
}

/* When its QEMU empties the range, the waiting vCPU goes on. */
static void t_vcpu_goes_on(void)
{
	const size_t offset = PAGE;
	struct kvm_span_member_info info;
	uint8_t code[64];
	struct setup s;
	uint64_t end;

	setup_l1(&s, ACCESS_RW, code, code_hammer(code, offset));
	tiny_start(&s.l1);
	CHECK(moves(s.base, offset), "the vCPU does not write");
	MUST(span_revoke(s.span, s.id));
	usleep(20000);
	CHECK(s.l1.last_exit != KVM_EXIT_MMIO, "an exit too early");
	MUST(tiny_slot(&s.l1, 1, WINDOW_GPA, NULL, 0, 0));
	MUST(munmap(s.window, MEM_BYTES));
	end = now_ms() + 2000;
	while (now_ms() < end && s.l1.last_exit != KVM_EXIT_MMIO)
		usleep(1000);
	CHECK(s.l1.last_exit == KVM_EXIT_MMIO, "%d", s.l1.last_exit);
	tiny_stop(&s.l1);
	MUST(span_member(s.member, 0, &info));
	CHECK(info.mapped_bytes == 0, "%llu", info.mapped_bytes);
	CHECK(info.refused > 0, "no refused fault was counted");
}

/* Others are not disturbed: not the controller, not another member. */
static void t_others_go_on(void)
{
	int memfd, span = span_new(&memfd);
	volatile uint8_t *base = mmap(NULL, MEM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
	uint64_t faults;
	uint8_t *a, *b;
	uint32_t id;

	a = member_new(span, ACCESS_RW, "a", &id, NULL);
	b = member_new(span, ACCESS_RW, "b", NULL, NULL);
	a[0] = 1;
	b[0] = 2;
	faults = span_stats(span).faults;
	MUST(span_revoke(span, id));
	CHECK(b[0] == 2 && base[0] == 2, "%u %u", b[0], base[0]);
	b[0] = 3;
	CHECK(base[0] == 3, "%u", base[0]);
	CHECK(span_stats(span).faults == faults, "b had to fault anew");
	CHECK(touch(a, false) == SIGBUS, "a still reads");
}

/* The kernel does not go through a revoked window for the process either. */
static void t_kernel_access(void)
{
	int memfd, span = span_new(&memfd), p[2], mem;
	uint32_t id;
	uint8_t *w = member_new(span, ACCESS_RW, "a", &id, NULL);
	char buf[16];

	w[0] = 'x';
	MUST(pipe(p));
	CHECK(write(p[1], w, 1) == 1, "%s", strerror(errno));
	mem = MUST(open("/proc/self/mem", O_RDWR));
	CHECK(pread(mem, buf, 1, (uintptr_t)w) == 1 && buf[0] == 'x', "%s", strerror(errno));
	MUST(span_revoke(span, id));
	CHECK_ERR(write(p[1], w, 1), EFAULT);
	CHECK(pread(mem, buf, 1, (uintptr_t)w) == -1, "read through /proc/self/mem");
	CHECK(madvise(w, MEM_BYTES, MADV_POPULATE_READ) == -1, "populated");
	CHECK(mlock(w, PAGE) == -1, "locked");
}

/*
 * MADV_COLLAPSE maps huge pages that are in the page cache, past the window's
 * own fault handler: it must leave windows alone.
 */
static void t_collapse(void)
{
	int memfd, span = span_new(&memfd);
	uint8_t *w, *base;
	uint32_t id;
	size_t i;

	/* Where the memory may be collapsed, so that nothing else refuses. */
	base = mmap(NULL, MEM_BYTES + HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	base = (uint8_t *)(((uintptr_t)base + HUGE - 1) & ~(HUGE - 1));
	MUST(mmap(base, MEM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, memfd, 0) == MAP_FAILED ? -1 : 0);
	memset(base, 1, MEM_BYTES);
	if (madvise(base, HUGE, MADV_COLLAPSE))
		ktap_skip("MADV_COLLAPSE: no huge page to be had");
	w = member_new(span, ACCESS_RW, "a", &id, NULL);
	CHECK(!((uintptr_t)w & (HUGE - 1)), "%p", w);
	for (i = 0; i < MEM_BYTES; i += PAGE)
		CHECK(w[i] == 1, "%u at %#zx", w[i], i);
	CHECK_ERR(madvise(w, MEM_BYTES, MADV_COLLAPSE), EINVAL);
	MUST(span_revoke(span, id));
	CHECK_ERR(madvise(w, MEM_BYTES, MADV_COLLAPSE), EINVAL);
	/* The controller's huge page comes about again; the window has none. */
	MUST(madvise(base, MEM_BYTES, MADV_COLLAPSE));
	for (i = 0; i < MEM_BYTES; i += HUGE)
		CHECK(touch(w + i, false) == SIGBUS, "readable at %#zx", i);
}

/*
 * A userfaultfd would make fork() copy page-table entries, past the window's own
 * fault handler: none may be had for a window.
 */
static void t_userfaultfd(void)
{
	static const uint64_t modes[] = { UFFDIO_REGISTER_MODE_WP, UFFDIO_REGISTER_MODE_MISSING };
	int memfd, span = span_new(&memfd), uffd;
	uint8_t *w = member_new(span, ACCESS_RW, "a", NULL, NULL), *anon;
	struct uffdio_register reg = {};
	struct uffdio_api api;
	size_t i;

	anon = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	MUST(anon == MAP_FAILED ? -1 : 0);
	w[0] = 1;
	for (i = 0; i < 4; i++) {
		/* Plain, and in the mode that takes mappings of any kind. */
		api = (struct uffdio_api){ .api = UFFD_API, .features = i & 2 ? UFFD_FEATURE_WP_ASYNC : 0 };
		uffd = syscall(SYS_userfaultfd, O_CLOEXEC);
		if (uffd < 0 && errno == ENOSYS)
			ktap_skip("no userfaultfd in this kernel");
		MUST(uffd);
		if (ioctl(uffd, UFFDIO_API, &api)) {
			close(uffd);
			continue;
		}
		reg.mode = modes[i & 1];
		reg.range.start = (uintptr_t)w;
		reg.range.len = MEM_BYTES;
		CHECK_ERR(ioctl(uffd, UFFDIO_REGISTER, &reg), EINVAL);
		/* It is the window that is refused. */
		reg.mode = UFFDIO_REGISTER_MODE_MISSING;
		reg.range.start = (uintptr_t)anon;
		reg.range.len = PAGE;
		CHECK(ioctl(uffd, UFFDIO_REGISTER, &reg) == 0, "%s", strerror(errno));
		close(uffd);
	}
}

/* A member in a process of its own that writes a counter. Never returns. */
static void member_process(int member, int ready, size_t offset, bool stop_on_bus)
{
	struct sigaction dfl = { .sa_handler = SIG_DFL };
	volatile uint8_t *w;
	uint32_t i;

	sigaction(SIGBUS, &dfl, NULL);
	alarm(KTAP_DEADLINE);
	MUST(span_join(member, vm_new()));
	w = span_map(member, PROT_READ | PROT_WRITE);
	MUST(w == MAP_FAILED ? -1 : 0);
	for (i = 1;; i++) {
		set_word(w, offset, i);
		if (i == 1)
			MUST(write(ready, "r", 1));
		if (!(i % 100000))
			usleep(100);
	}
}

struct child {
	pid_t pid;
	uint32_t id;
	int memfd, span;
	volatile uint8_t *base;
};

static void child_member(struct child *c, size_t offset)
{
	int ready[2], member;
	char byte;

	c->span = span_new(&c->memfd);
	c->base = mmap(NULL, MEM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, c->memfd, 0);
	member = MUST(span_grant(c->span, ACCESS_RW, "L1a", &c->id));
	MUST(pipe(ready));
	c->pid = MUST(fork());
	if (!c->pid) {
		/* The controller's descriptors are not the member's. */
		close(c->span);
		close(c->memfd);
		member_process(member, ready[1], offset, true);
	}
	close(member);
	close(ready[1]);
	MUST(read(ready[0], &byte, 1) == 1 ? 0 : -1);
}

static int wait_status(pid_t pid)
{
	int status = 0;

	MUST(waitpid(pid, &status, 0));
	return status;
}

/* A stopped process cannot hold up a revoke, and wakes to a SIGBUS. */
static void t_stopped_process(void)
{
	struct child c;
	uint64_t t0;
	int status;

	child_member(&c, 64);
	CHECK(moves(c.base, 64), "the member does not write");
	MUST(kill(c.pid, SIGSTOP));
	MUST(waitpid(c.pid, &status, WUNTRACED));
	t0 = now_ms();
	CHECK(span_revoke(c.span, c.id) == 0, "%s", strerror(errno));
	CHECK(now_ms() - t0 < 1000, "took %llu ms", (unsigned long long)(now_ms() - t0));
	MUST(kill(c.pid, SIGCONT));
	status = wait_status(c.pid);
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS, "status %#x", status);
	CHECK(stands_still(c.base, 64, 20), "written after revoke");
}

static void t_running_process(void)
{
	struct child c;
	int status;

	child_member(&c, 64);
	CHECK(moves(c.base, 64), "the member does not write");
	MUST(span_revoke(c.span, c.id));
	CHECK(stands_still(c.base, 64, 50), "written after revoke");
	status = wait_status(c.pid);
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS, "status %#x", status);
}

/* A killed member: the controller is told, and the name is free again. */
static void t_killed_process(void)
{
	struct kvm_span_event e;
	struct child c;

	child_member(&c, 64);
	e = span_event(c.span, 1000);
	CHECK(e.type == KVM_SPAN_EVENT_JOINED && e.member == c.id, "%u", e.type);
	MUST(kill(c.pid, SIGKILL));
	e = span_event(c.span, 5000);
	CHECK(e.type == KVM_SPAN_EVENT_LEFT && e.member == c.id, "%u", e.type);
	CHECK(span_revoke(c.span, c.id) == 0, "%s", strerror(errno));
	CHECK(span_grant(c.span, ACCESS_RW, "L1a", NULL) >= 0, "%s", strerror(errno));
	CHECK(stands_still(c.base, 64, 20), "written after its death");
	wait_status(c.pid);
}

/* Killed while it is being revoked, many times over. */
static void t_kill_race(void)
{
	struct child c;
	int i;

	for (i = 0; i < 10; i++) {
		child_member(&c, 64);
		MUST(kill(c.pid, SIGKILL));
		CHECK(span_revoke(c.span, c.id) == 0, "%s", strerror(errno));
		CHECK(stands_still(c.base, 64, 5), "written after revoke");
		wait_status(c.pid);
		close(c.span);
		MUST(munmap((void *)c.base, MEM_BYTES));
		close(c.memfd);
	}
}

/* The controller dies: its members are fenced by the time it is reaped. */
static void t_controller_dies(void)
{
	int sock[2], member, memfd, span;
	uint8_t *w;
	pid_t pid;

	MUST(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sock));
	pid = MUST(fork());
	if (!pid) {
		span = span_new(&memfd);
		send_fd(sock[1], MUST(span_grant(span, ACCESS_RW, "L1a", NULL)));
		pause();
		_exit(0);
	}
	member = recv_fd(sock[0]);
	MUST(span_join(member, vm_new()));
	w = span_map(member, PROT_READ | PROT_WRITE);
	MUST(w == MAP_FAILED ? -1 : 0);
	w[0] = 1;
	MUST(kill(pid, SIGKILL));
	wait_status(pid);
	CHECK(touch(w, false) == SIGBUS, "readable without a controller");
	CHECK(touch(w, true) == SIGBUS, "writable without a controller");
	CHECK_ERR(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, member, 0), EACCES);
}

static void t_span_fd_closed(void)
{
	int memfd, span = span_new(&memfd), granted = MUST(span_grant(span, ACCESS_RW, "later", NULL));
	uint8_t *w = member_new(span, ACCESS_RW, "a", NULL, NULL);

	w[0] = 1;
	close(span);
	CHECK(touch(w, false) == SIGBUS, "readable");
	CHECK_ERR(span_join(granted, vm_new()), EACCES);
}

/* Two threads revoke at once: each return is a promise. */
static void *revoker(void *arg)
{
	struct setup *s = arg;

	if (span_revoke(s->span, s->id))
		return (void *)1;
	return (void *)(long)!stands_still(s->base, 64, 10);
}

static void t_double_revoke(void)
{
	pthread_t threads[4];
	uint8_t code[64];
	struct setup s;
	void *bad;
	size_t i;

	setup_l1(&s, ACCESS_RW, code, code_hammer(code, 64));
	tiny_start(&s.l1);
	CHECK(moves(s.base, 64), "the vCPU does not write");
	for (i = 0; i < 4; i++)
		MUST(pthread_create(&threads[i], NULL, revoker, &s) ? -1 : 0);
	for (i = 0; i < 4; i++) {
		MUST(pthread_join(threads[i], &bad) ? -1 : 0);
		CHECK(!bad, "written after revoke had returned to thread %zu", i);
	}
	CHECK(span_stats(s.span).revokes == 1, "%llu", span_stats(s.span).revokes);
	tiny_stop(&s.l1);
}

/* Attach again after a revoke: the same VM, a new capability. */
static void t_attach_again(void)
{
	const size_t offset = 64;
	uint8_t code[64];
	struct setup s;
	int i;

	setup_l1(&s, ACCESS_RW, code, code_hammer(code, offset));
	tiny_start(&s.l1);
	for (i = 0; i < 5; i++) {
		CHECK(moves(s.base, offset), "does not write, round %d", i);
		MUST(span_revoke(s.span, s.id));
		CHECK(stands_still(s.base, offset, 20), "written after revoke, round %d", i);
		MUST(tiny_slot(&s.l1, 1, WINDOW_GPA, NULL, 0, 0));
		MUST(munmap(s.window, MEM_BYTES));
		close(s.member);
		s.member = MUST(span_grant(s.span, ACCESS_RW, "L1a", &s.id));
		MUST(span_join(s.member, s.l1.vm));
		s.window = span_map(s.member, PROT_READ | PROT_WRITE);
		MUST(tiny_slot(&s.l1, 1, WINDOW_GPA, s.window, MEM_BYTES, 0));
	}
	CHECK(moves(s.base, offset), "does not write at the end");
	tiny_stop(&s.l1);
}

/* "ShmemPmdMapped" of the area that begins at the address, in kB. */
static long pmd_mapped(void *address)
{
	char line[256], start[32];
	bool here = false;
	FILE *f = fopen("/proc/self/smaps", "r");
	long kb = -1;

	MUST(f ? 0 : -1);
	snprintf(start, sizeof(start), "%lx-", (unsigned long)address);
	while (fgets(line, sizeof(line), f)) {
		if (!strncmp(line, start, strlen(start)))
			here = true;
		if (here && sscanf(line, "ShmemPmdMapped: %ld", &kb) == 1)
			break;
	}
	fclose(f);
	return kb;
}

static uint64_t vm_stat(int vm, const char *name)
{
	struct kvm_stats_header h;
	struct kvm_stats_desc *d;
	int fd = MUST(ioctl(vm, KVM_GET_STATS_FD, 0));
	uint64_t value = ~0ULL;
	unsigned int i;
	size_t size;

	MUST(pread(fd, &h, sizeof(h), 0) == sizeof(h) ? 0 : -1);
	size = sizeof(*d) + h.name_size;
	d = malloc(size);
	for (i = 0; i < h.num_desc; i++) {
		MUST(pread(fd, d, size, h.desc_offset + i * size) == (ssize_t)size ? 0 : -1);
		if (!strcmp(d->name, name))
			MUST(pread(fd, &value, 8, h.data_offset + d->offset) == 8 ? 0 : -1);
	}
	free(d);
	close(fd);
	return value;
}

/* Huge pages of the guest stay huge in a member's process and in its EPT. */
static void t_huge_pages(void)
{
	int knob = open("/sys/kernel/mm/transparent_hugepage/shmem_enabled", O_RDWR), member, i;
	uint8_t code[64], *room, *w, *base;
	struct tiny_vm l1;
	int memfd, span;
	uint32_t id;
	bool ok;

	if (knob < 0)
		ktap_skip("no huge pages in this kernel");
	MUST(write(knob, "advise", 6));
	memfd = memfd_new(MEM_BYTES, GUEST_SEALS);
	room = mmap(NULL, 2 * MEM_BYTES + 2 * HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	base = (uint8_t *)(((uintptr_t)room + HUGE - 1) & ~(HUGE - 1));
	MUST(mmap(base, MEM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, memfd, 0) == MAP_FAILED ? -1 : 0);
	MUST(madvise(base, MEM_BYTES, MADV_HUGEPAGE));
	for (i = 0; i < (int)(MEM_BYTES / HUGE); i++)
		base[i * HUGE + 64] = 1;
	if (pmd_mapped(base) < (long)(HUGE >> 10))
		ktap_skip("no huge page to be had");

	span = span_create(memfd, vm_new());
	member = MUST(span_grant(span, ACCESS_RW, "L1a", &id));
	tiny_init(&l1, code, code_hammer(code, 64));
	MUST(span_join(member, l1.vm));
	w = span_map(member, PROT_READ | PROT_WRITE);
	MUST(w == MAP_FAILED ? -1 : 0);
	CHECK(!((uintptr_t)w & (HUGE - 1)), "mmap() gave %p: not aligned to a huge page", w);
	/* By a read and by a write. */
	CHECK(touch(w + HUGE + 64, false) == 0, "read");
	CHECK(pmd_mapped(w) == (long)(HUGE >> 10), "read: %ld kB by PMD", pmd_mapped(w));
	CHECK(touch(w + 2 * HUGE + 64, true) == 0, "write");
	CHECK(pmd_mapped(w) == (long)(2 * HUGE >> 10), "write: %ld kB by PMD", pmd_mapped(w));
	CHECK(span_stats(span).present_pages == MEM_BYTES / PAGE, "%llu", span_stats(span).present_pages);

	/* The slot reaches beyond one huge page, so its first is eligible. */
	MUST(tiny_slot(&l1, 1, WINDOW_GPA, w, MEM_BYTES, 0));
	memcpy(l1.ram + CODE_GPA, code, code_hammer(code, HUGE + 64));
	tiny_start(&l1);
	CHECK(moves(base, HUGE + 64), "the vCPU does not write");
	CHECK(vm_stat(l1.vm, "pages_2m") == 1, "%llu huge pages in the EPT",
	      (unsigned long long)vm_stat(l1.vm, "pages_2m"));
	MUST(span_revoke(span, id));
	ok = stands_still(base, HUGE + 64, 30);
	CHECK(ok, "written after revoke");
	CHECK(vm_stat(l1.vm, "pages_2m") == 0, "still in the EPT");
	CHECK(touch(w + HUGE, false) == SIGBUS, "readable");
	CHECK(base[HUGE + 65] == base[HUGE + 65] && base[2 * HUGE + 64] == 2, "the controller lost its pages");
	tiny_stop(&l1);
}

/* Page out and in again through a member, if there is swap. */
static void t_reclaim(void)
{
	int memfd, span = span_new(&memfd);
	uint8_t *w = member_new(span, ACCESS_RW, "a", NULL, NULL);
	int drop = open("/proc/sys/vm/drop_caches", O_WRONLY);
	size_t i;

	for (i = 0; i < MEM_BYTES; i += PAGE)
		w[i] = i / PAGE;
	MUST(madvise(w, MEM_BYTES, MADV_DONTNEED));
	/* Pages that nobody maps are marked by this; they must still map. */
	if (drop >= 0)
		MUST(write(drop, "1", 1));
	for (i = 0; i < MEM_BYTES; i += PAGE)
		if (!CHECK(w[i] == (uint8_t)(i / PAGE), "page %zu: %u", i / PAGE, w[i]))
			break;
}

int main(void)
{
	static const struct ktap_test tests[] = {
		{ "two vCPUs and the controller see one memory", t_vcpu_sees_it },
		{ "read-only vCPU", t_vcpu_readonly },
		{ "attach allocates no page", t_lazy },
		{ "punched hole", t_hole },
		{ "dropped caches", t_reclaim },
		{ "revoke under a hammering vCPU", t_hammering_vcpu },
		{ "the vCPU goes on when the range is emptied", t_vcpu_goes_on },
		{ "others go on", t_others_go_on },
		{ "kernel access for the process", t_kernel_access },
		{ "MADV_COLLAPSE", t_collapse },
		{ "userfaultfd", t_userfaultfd },
		{ "running process", t_running_process },
		{ "stopped process", t_stopped_process },
		{ "killed process", t_killed_process },
		{ "killed while revoked", t_kill_race },
		{ "controller dies", t_controller_dies },
		{ "span fd closed", t_span_fd_closed },
		{ "four revokes at once", t_double_revoke },
		{ "attach again", t_attach_again },
		{ "huge pages", t_huge_pages },
	};

	span_require();
	return KTAP_RUN(tests);
}
