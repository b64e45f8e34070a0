// SPDX-License-Identifier: GPL-2.0
/*
 * torture [--cpus N] [--pause MICROSECONDS] [--file PATH]
 *
 * Runs in a guest whose vCPUs are moved about meanwhile, and checks all the time
 * what a guest relies on: on each CPU threads that compute, keep patterns in
 * all registers, use hardware breakpoints, read clocks, sleep, and make the CPUs
 * talk to one another. Each works for some ten microseconds, then pauses, so that a
 * vCPU is met in the middle of work and idle alike.
 *
 * Commands on standard input, a line each:
 *	r	answer: one line of JSON: rounds and errors by kind, clocks, maxima
 *	z	the same, and the maxima begin anew
 *	b KIND	spoil the next round of that kind: it has to be noticed; answer: ok
 *	q	stop, answer as r, end; the exit status is 1 if there were errors
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/hw_breakpoint.h>
#include <linux/membarrier.h>
#include <linux/perf_event.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#define MAX_CPUS	8
#define PAGE		4096
#define NS		1000000000ul
#define STUCK		(5 * NS)	/* so late is an error */
#define TICK		10000000ul
#define TURNS		8

enum kind {
	HASH, FPU, GPR, DEBUGREG, TSC, CLOCK, SLEEP, TIMERFD, MEMBARRIER, REMAP, MPROTECT,
	FUTEX, SIGNAL, MEMORY, FILES, KINDS
};

static const char *const names[KINDS] = {
	"hash", "fpu", "gpr", "debugreg", "tsc", "clock", "sleep", "timerfd", "membarrier", "remap",
	"mprotect", "futex", "signal", "memory", "file",
};

static _Atomic uint64_t rounds[KINDS], errors[KINDS], rounds_on[MAX_CPUS];
static _Atomic int spoil[KINDS];
static _Atomic bool stop;
static int cpus;
static uint64_t pause_us = 3000;
static const char *path = "/tmp/torture.file";

/* The longest seen, in ns: between two looks at the clock by anybody, ... */
static _Atomic uint64_t max_gap, max_late, max_futex, max_signal, max_membarrier;

static char first_error[200];
static pthread_mutex_t first_lock = PTHREAD_MUTEX_INITIALIZER;

struct worker {
	pthread_t thread;
	enum kind kind;
	int cpu;
	bool second;		/* the answering one of a pair */
	struct worker *peer;
	void (*round)(struct worker *w);
	uint64_t random;
	union {
		struct {
			int fd;
			uint64_t start, count;
		} tick;
		struct {
			int fd;
			volatile uint64_t watched;
		} debug;
		_Atomic uint32_t turn;
		_Atomic uint64_t signals;
	};
};

static struct worker workers[MAX_CPUS * KINDS * 2];
static int nworkers;

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * NS + t.tv_nsec;
}

/* After all loads and stores before it, before all that come later. */
static uint64_t ordered_tsc(void)
{
	uint64_t t;

	_mm_mfence();
	_mm_lfence();
	t = __rdtsc();
	_mm_lfence();
	return t;
}

static uint64_t draw(struct worker *w)
{
	w->random ^= w->random << 13;
	w->random ^= w->random >> 7;
	w->random ^= w->random << 17;
	return w->random;
}

static void raise_to(_Atomic uint64_t *max, uint64_t v)
{
	uint64_t old = atomic_load(max);

	while (old < v && !atomic_compare_exchange_weak(max, &old, v))
		;
}

__attribute__((format(printf, 2, 3)))
static void fail(struct worker *w, const char *fmt, ...)
{
	char what[120];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	pthread_mutex_lock(&first_lock);
	if (!atomic_fetch_add(&errors[w->kind], 1) && !first_error[0])
		snprintf(first_error, sizeof(first_error), "%s on cpu %d: %s", names[w->kind], w->cpu, what);
	pthread_mutex_unlock(&first_lock);
}

static bool spoiled(enum kind kind)
{
	int one = 1;

	return atomic_load(&spoil[kind]) && atomic_compare_exchange_strong(&spoil[kind], &one, 0);
}

static void nap(uint64_t us)
{
	struct timespec t = { us / 1000000, us % 1000000 * 1000 };

	nanosleep(&t, NULL);
}

/* A chain of hashes forwards, then backwards: it ends where it began. */
#define HASH_MUL	0x9e3779b97f4a7c15ull
#define HASH_INVERSE	0xf1de83e19937733dull	/* of it, modulo 2^64 */
#define HASH_ADD	0x632be59bd9b4e019ull

static void hash_round(struct worker *w)
{
	uint64_t start = draw(w), x = start;
	int i, n = 2000 + draw(w) % 4000;

	for (i = 0; i < n; i++) {
		x = x * HASH_MUL + HASH_ADD;
		x = x << 31 | x >> 33;
	}
	if (spoiled(HASH))
		x ^= 1ull << (n & 63);
	for (i = 0; i < n; i++) {
		x = x >> 31 | x << 33;
		x = (x - HASH_ADD) * HASH_INVERSE;
	}
	if (x != start)
		fail(w, "%#lx came back as %#lx after %d steps", start, x, n);
}

struct fpu {
	uint8_t ymm[16][32];
	uint8_t st[8][10];
	uint16_t fcw;
	uint32_t mxcsr;
};

#define EACH16(op)	op(0) op(1) op(2) op(3) op(4) op(5) op(6) op(7) \
			op(8) op(9) op(10) op(11) op(12) op(13) op(14) op(15)
#define LOAD_YMM(n)	"vmovdqu " #n "*32(%[in]), %%ymm" #n "\n\t"
#define STORE_YMM(n)	"vmovdqu %%ymm" #n ", " #n "*32(%[out])\n\t"
#define EACH8(op)	op(7) op(6) op(5) op(4) op(3) op(2) op(1) op(0)
#define LOAD_ST(n)	"fldt 512+" #n "*10(%[in])\n\t"

/* No memory is touched while it spins: all is in registers. */
static void fpu_spin(const struct fpu *in, struct fpu *out, uint64_t spins)
{
	uint32_t mxcsr = 0x1f80;

	asm volatile("fninit\n\t"
		     "fldcw %[fcw]\n\t"
		     "ldmxcsr %[mxcsr]\n\t"
		     EACH8(LOAD_ST)
		     EACH16(LOAD_YMM)
		     "1: dec %[spins]\n\t"
		     "jnz 1b\n\t"
		     EACH16(STORE_YMM)
		     "fstpt 512(%[out])\n\t"
		     "fstpt 522(%[out])\n\t"
		     "fstpt 532(%[out])\n\t"
		     "fstpt 542(%[out])\n\t"
		     "fstpt 552(%[out])\n\t"
		     "fstpt 562(%[out])\n\t"
		     "fstpt 572(%[out])\n\t"
		     "fstpt 582(%[out])\n\t"
		     "fnstcw %[fcw_out]\n\t"
		     "stmxcsr %[mxcsr_out]\n\t"
		     "fninit\n\t"
		     "ldmxcsr %[usual]\n\t"
		     "vzeroupper\n\t"
		     : [spins] "+r"(spins), [fcw_out] "=m"(out->fcw), [mxcsr_out] "=m"(out->mxcsr)
		     : [in] "r"(in), [out] "r"(out), [fcw] "m"(in->fcw), [mxcsr] "m"(in->mxcsr), [usual] "m"(mxcsr)
		     : "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",
		       "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15",
		       "st", "st(1)", "st(2)", "st(3)", "st(4)", "st(5)", "st(6)", "st(7)");
}

static void fpu_round(struct worker *w)
{
	static const uint32_t rounding[4] = { 0x1f80, 0x3f80, 0x9f80, 0x7fc0 };
	struct fpu in, out;
	size_t i;

	memset(&in, 0, sizeof(in));
	for (i = 0; i < sizeof(in.ymm); i++)
		in.ymm[i / 32][i % 32] = draw(w);
	for (i = 0; i < 8; i++) {
		long double x = (long double)draw(w) / 3;

		memcpy(in.st[i], &x, 10);
	}
	in.fcw = draw(w) & 1 ? 0x27f : 0xf7f;
	in.mxcsr = rounding[draw(w) % 4];
	out = in;
	memset(out.ymm, 0, sizeof(out.ymm));
	fpu_spin(&in, &out, 1 + draw(w) % 30000);
	if (spoiled(FPU))
		out.ymm[5][20] ^= 4;
	for (i = 0; i < 16; i++)
		if (memcmp(in.ymm[i], out.ymm[i], 32))
			fail(w, "ymm%zu changed", i);
	for (i = 0; i < 8; i++)
		if (memcmp(in.st[i], out.st[i], 10))
			fail(w, "st(%zu) changed", i);
	/* Flags of exceptions may come up: the x87 part of it makes none, and MXCSR's are masked. */
	if (in.fcw != out.fcw || in.mxcsr != out.mxcsr)
		fail(w, "control words %#x %#x became %#x %#x", in.fcw, in.mxcsr, out.fcw, out.mxcsr);
}

static void gpr_round(struct worker *w)
{
	uint64_t in[13], out[13], spins = 1 + draw(w) % 30000, *from = in;
	int i;

	for (i = 0; i < 13; i++)
		in[i] = draw(w);
	asm volatile("push %%rbp\n\t"
		     "mov 0(%%rsi), %%rax\n\t"
		     "mov 8(%%rsi), %%rbx\n\t"
		     "mov 16(%%rsi), %%rdx\n\t"
		     "mov 24(%%rsi), %%rbp\n\t"
		     "mov 32(%%rsi), %%r8\n\t"
		     "mov 40(%%rsi), %%r9\n\t"
		     "mov 48(%%rsi), %%r10\n\t"
		     "mov 56(%%rsi), %%r11\n\t"
		     "mov 64(%%rsi), %%r12\n\t"
		     "mov 72(%%rsi), %%r13\n\t"
		     "mov 80(%%rsi), %%r14\n\t"
		     "mov 88(%%rsi), %%r15\n\t"
		     "mov 96(%%rsi), %%rsi\n\t"
		     "1: dec %%rcx\n\t"
		     "jnz 1b\n\t"
		     "mov %%rax, 0(%%rdi)\n\t"
		     "mov %%rbx, 8(%%rdi)\n\t"
		     "mov %%rdx, 16(%%rdi)\n\t"
		     "mov %%rbp, 24(%%rdi)\n\t"
		     "mov %%r8, 32(%%rdi)\n\t"
		     "mov %%r9, 40(%%rdi)\n\t"
		     "mov %%r10, 48(%%rdi)\n\t"
		     "mov %%r11, 56(%%rdi)\n\t"
		     "mov %%r12, 64(%%rdi)\n\t"
		     "mov %%r13, 72(%%rdi)\n\t"
		     "mov %%r14, 80(%%rdi)\n\t"
		     "mov %%r15, 88(%%rdi)\n\t"
		     "mov %%rsi, 96(%%rdi)\n\t"
		     "pop %%rbp\n\t"
		     : "+c"(spins), "+S"(from)
		     : "D"(out)
		     : "memory", "cc", "rax", "rbx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15");
	if (spoiled(GPR))
		out[7] ^= 1;
	for (i = 0; i < 13; i++)
		if (in[i] != out[i])
			fail(w, "register %d: %#lx became %#lx", i, in[i], out[i]);
}

/* The debug registers, by the kernel's breakpoint counter of this thread: each write is counted. */
static void debug_start(struct worker *w)
{
	struct perf_event_attr a = {
		.type = PERF_TYPE_BREAKPOINT, .size = sizeof(a), .sample_period = 0,
		.bp_type = HW_BREAKPOINT_W, .bp_addr = (uintptr_t)&w->debug.watched, .bp_len = HW_BREAKPOINT_LEN_8,
		.exclude_kernel = 1,
	};

	w->debug.fd = syscall(SYS_perf_event_open, &a, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
	if (w->debug.fd < 0)
		fail(w, "perf_event_open: %s", strerror(errno));
}

static void debug_round(struct worker *w)
{
	uint64_t before, after, n = 1 + draw(w) % 8, i;

	if (w->debug.fd < 0 || read(w->debug.fd, &before, 8) != 8)
		return;
	for (i = 0; i < n; i++) {
		uint64_t spins = draw(w) % 2000;

		w->debug.watched = i;
		while (spins--)
			asm volatile("");
	}
	if (spoiled(DEBUGREG))
		n++;
	if (read(w->debug.fd, &after, 8) == 8 && after - before != n)
		fail(w, "%lu of %lu writes met the breakpoint", after - before, n);
}

/* What a thread has seen on one CPU must not lie ahead for the next one on another. */
static _Atomic uint64_t last_tsc, last_clock;

static void tsc_round(struct worker *w)
{
	uint64_t own = 0, seen, t;
	int i;

	for (i = 0; i < 40; i++) {
		seen = atomic_load(&last_tsc);
		t = ordered_tsc();
		if (spoiled(TSC))
			t = seen - 1;
		if (t < seen)
			fail(w, "TSC %lu, %lu less than elsewhere before", t, seen - t);
		if (t < own)
			fail(w, "TSC %lu, %lu less than here before", t, own - t);
		own = t;
		raise_to(&last_tsc, t);
	}
}

static void clock_round(struct worker *w)
{
	uint64_t own = 0, seen, t;
	int i;

	for (i = 0; i < 40; i++) {
		seen = atomic_load(&last_clock);
		t = now();
		if (spoiled(CLOCK))
			t = seen - 1;
		if (t < seen)
			fail(w, "CLOCK_MONOTONIC %lu, %lu ns less than elsewhere before", t, seen - t);
		if (t < own)
			fail(w, "CLOCK_MONOTONIC %lu, %lu ns less than here before", t, own - t);
		if (seen && t > seen)
			raise_to(&max_gap, t - seen);
		own = t;
		raise_to(&last_clock, t);
	}
}

static void sleep_round(struct worker *w)
{
	uint64_t at = now() + 100000 + draw(w) % 3000000, t;
	struct timespec ts = { at / NS, at % NS };

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL) == EINTR)
		;
	t = now();
	if (spoiled(SLEEP))
		t = at - 1;
	if (t < at)
		fail(w, "woke up %lu ns early", at - t);
	else if (t - at > STUCK)
		fail(w, "woke up %lu ns late", t - at);
	else
		raise_to(&max_late, t - at);
}

static void timerfd_start(struct worker *w)
{
	struct itimerspec its = { .it_interval = { 0, TICK } };

	w->tick.start = now() + TICK;
	its.it_value = (struct timespec){ w->tick.start / NS, w->tick.start % NS };
	w->tick.fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (w->tick.fd < 0 || timerfd_settime(w->tick.fd, TFD_TIMER_ABSTIME, &its, NULL))
		fail(w, "timerfd: %s", strerror(errno));
}

/* A periodic timer ticks as often as there were periods, however long the CPU was away. */
static void timerfd_round(struct worker *w)
{
	struct pollfd pf = { .fd = w->tick.fd, .events = POLLIN };
	uint64_t start = now(), before, n, after, least, most;

	/* Clock, read, clock, close together, so that one tick is seen if it is missing. */
	poll(&pf, 1, STUCK / 1000000);
	before = now();
	if (read(w->tick.fd, &n, 8) != 8) {
		fail(w, "no tick for %lu ns", now() - start);
		return;
	}
	after = now();
	w->tick.count += n;
	if (spoiled(TIMERFD))
		w->tick.count--;
	least = before < w->tick.start ? 0 : (before - w->tick.start) / TICK + 1;
	most = (after - w->tick.start) / TICK + 1;
	if (w->tick.count >= least && w->tick.count <= most)
		return;
	fail(w, "%lu ticks in %lu to %lu periods", w->tick.count, least, most);
	w->tick.count = most;	/* each is told once */
}

static void membarrier_round(struct worker *w)
{
	uint64_t t = now();

	if (syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0) || spoiled(MEMBARRIER))
		fail(w, "membarrier: %s", strerror(errno));
	t = now() - t;
	raise_to(&max_membarrier, t);
	if (t > STUCK)
		fail(w, "membarrier took %lu ns", t);
}

/*
 * A page under one address is exchanged for another that has a higher number.
 * After that nobody may read the old number: it would come by a TLB entry that should
 * have been flushed.
 */
static struct {
	volatile uint64_t *view;	/* read by all */
	uint64_t *pages;	/* both */
	int fd;
	_Atomic uint64_t generation;
} exchanged;

static void remap_writer(struct worker *w)
{
	uint64_t next = atomic_load(&exchanged.generation) + 1;

	exchanged.pages[next % 2 * PAGE / 8] = next;
	if (mmap((void *)exchanged.view, PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, exchanged.fd, next % 2 * PAGE) ==
	    MAP_FAILED)
		fail(w, "mmap: %s", strerror(errno));
	else
		atomic_store(&exchanged.generation, next);
}

static void remap_round(struct worker *w)
{
	int i;

	if (w->second) {
		remap_writer(w);
		return;
	}
	for (i = 0; i < 300; i++) {
		uint64_t least = atomic_load(&exchanged.generation);
		uint64_t seen = *exchanged.view;

		if (spoiled(REMAP))
			seen = least - 1;
		if (seen < least)
			fail(w, "read %lu through an old translation, it should be %lu", seen, least);
	}
}

/* After mprotect() nobody may write any more; who does gets a signal. */
static volatile uint64_t *guarded;
static __thread sigjmp_buf fault;
static __thread volatile sig_atomic_t may_fault;

static void on_segv(int sig)
{
	if (!may_fault) {
		signal(sig, SIG_DFL);
		return;
	}
	may_fault = 0;
	siglongjmp(fault, 1);
}

static void mprotect_guard(struct worker *w)
{
	uint64_t a[MAX_CPUS];
	int i, spins;

	if (mprotect((void *)guarded, PAGE, PROT_READ)) {
		fail(w, "mprotect: %s", strerror(errno));
		return;
	}
	for (i = 0; i < cpus; i++)
		a[i] = guarded[i * 8];
	for (spins = 0; spins < 3000; spins++)
		asm volatile("");
	for (i = 0; i < cpus; i++)
		if (a[i] != guarded[i * 8] || spoiled(MPROTECT))
			fail(w, "cpu %d wrote to a page that is read-only", i);
	mprotect((void *)guarded, PAGE, PROT_READ | PROT_WRITE);
}

static void mprotect_round(struct worker *w)
{
	int i;

	if (w->second) {
		mprotect_guard(w);
		return;
	}
	if (sigsetjmp(fault, 1))
		return;		/* it was read-only */
	may_fault = 1;
	for (i = 0; i < 300; i++)
		guarded[w->cpu * 8]++;
	may_fault = 0;
}

static long futex(_Atomic uint32_t *at, int op, uint32_t value, const struct timespec *timeout)
{
	return syscall(SYS_futex, at, op, value, timeout, NULL, 0);
}

/* Even: the first one's turn; odd: the second one's. false when it never comes. */
static bool wait_turn(_Atomic uint32_t *turn, uint32_t parity)
{
	const struct timespec second = { 1, 0 };
	uint64_t start = now();
	uint32_t v;

	while (((v = atomic_load(turn)) & 1) != parity) {
		if (atomic_load(&stop))
			return false;
		futex(turn, FUTEX_WAIT_PRIVATE, v, &second);
		/* A wake-up that got lost shows as a wait of a whole second. */
		if (now() - start > STUCK)
			return false;
	}
	return true;
}

static void pass_turn(_Atomic uint32_t *turn)
{
	atomic_fetch_add(turn, 1);
	futex(turn, FUTEX_WAKE_PRIVATE, 1, NULL);
}

static void futex_round(struct worker *w)
{
	_Atomic uint32_t *turn = w->second ? &w->peer->turn : &w->turn;
	uint64_t t;
	int i;

	for (i = 0; i < TURNS; i++) {
		t = now();
		if (!wait_turn(turn, w->second) || (!w->second && spoiled(FUTEX))) {
			if (!atomic_load(&stop))
				fail(w, "no answer from cpu %d in %lu ns", w->peer->cpu, now() - t);
			return;
		}
		if (!w->second && i)
			raise_to(&max_futex, now() - t);
		pass_turn(turn);
	}
}

static void on_usr1(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	(void)context;
	atomic_fetch_add((_Atomic uint64_t *)info->si_value.sival_ptr, 1);
}

static void signal_round(struct worker *w)
{
	uint64_t before = atomic_load(&w->signals), start = now(), want = before + 1, limit = STUCK;

	if (spoiled(SIGNAL)) {
		want++;
		limit = STUCK / 100;
	}
	if (pthread_sigqueue(w->peer->thread, SIGUSR1, (union sigval){ .sival_ptr = (void *)&w->signals }))
		return;
	while (atomic_load(&w->signals) != want) {
		if (atomic_load(&stop))
			return;
		if (now() - start > limit) {
			fail(w, "a signal for a thread on cpu %d did not come", w->peer->cpu);
			return;
		}
		nap(100);
	}
	raise_to(&max_signal, now() - start);
}

static uint64_t mix(uint64_t x)
{
	x ^= x >> 33;
	x *= 0xff51afd7ed558ccdull;
	return x ^ x >> 33;
}

static bool holds(const uint64_t *p, size_t words, uint64_t seed)
{
	size_t i;

	for (i = 0; i < words; i++)
		if (p[i] != mix(seed + i))
			return false;
	return true;
}

/* Fresh pages, and what a child has of them. */
static void memory_round(struct worker *w)
{
	size_t n = 4 + draw(w) % 8, words = n * PAGE / 8, i;
	uint64_t seed = draw(w);
	uint64_t *p = mmap(NULL, n * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int status = -1;
	pid_t pid;

	if (p == MAP_FAILED)
		return;
	for (i = 0; i < words; i++)
		p[i] = mix(seed + i);
	if (spoiled(MEMORY))
		p[words / 2]++;
	pid = fork();
	if (!pid) {
		bool good = holds(p, words, seed);

		memset(p, 0, n * PAGE);
		_exit(!good);
	}
	nap(500);
	if (!holds(p, words, seed))
		fail(w, "%zu pages changed", n);
	if (pid > 0 && waitpid(pid, &status, 0) == pid && status)
		fail(w, "a child saw %zu pages changed, status %#x", n, status);
	munmap(p, n * PAGE);
}

static void file_round(struct worker *w)
{
	uint64_t block[PAGE / 8], seed = draw(w);
	size_t i;
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	if (fd < 0) {
		fail(w, "%s: %s", path, strerror(errno));
		return;
	}
	for (i = 0; i < PAGE / 8; i++)
		block[i] = mix(seed + i);
	if (pwrite(fd, block, PAGE, (off_t)w->cpu * PAGE) != PAGE || fsync(fd))
		fail(w, "%s: writing: %s", path, strerror(errno));
	memset(block, 0, PAGE);
	posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	if (pread(fd, block, PAGE, (off_t)w->cpu * PAGE) != PAGE || !holds(block, PAGE / 8, seed + spoiled(FILES)))
		fail(w, "%s: reads otherwise than written", path);
	close(fd);
}

static void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	/* Fails while the CPU is offline; then we are somewhere else. */
	sched_setaffinity(0, sizeof(set), &set);
}

static void count_round(struct worker *w)
{
	int cpu = sched_getcpu();

	atomic_fetch_add(&rounds[w->kind], 1);
	if (cpu >= 0 && cpu < MAX_CPUS)
		atomic_fetch_add(&rounds_on[cpu], 1);
	/* It may have been offline, and be there again. */
	if (cpu != w->cpu)
		pin(w->cpu);
}

static void *work(void *arg)
{
	struct worker *w = arg;

	pin(w->cpu);
	if (w->kind == DEBUGREG)
		debug_start(w);
	if (w->kind == TIMERFD)
		timerfd_start(w);
	while (!atomic_load(&stop)) {
		w->round(w);
		count_round(w);
		if (!(w->kind == FUTEX && w->second))
			nap(pause_us / 2 + draw(w) % (pause_us + 1));
	}
	return NULL;
}

static struct worker *add(enum kind kind, int cpu, void (*round)(struct worker *w))
{
	struct worker *w = &workers[nworkers++];

	w->kind = kind;
	w->cpu = cpu;
	w->round = round;
	w->random = mix(0x1234567 + nworkers) | 1;
	return w;
}

static void make_workers(void)
{
	struct worker *compute[MAX_CPUS], *fpu[MAX_CPUS], *a, *b;
	int c;

	for (c = 0; c < cpus; c++) {
		compute[c] = add(HASH, c, hash_round);
		fpu[c] = add(FPU, c, fpu_round);
		add(GPR, c, gpr_round);
		add(DEBUGREG, c, debug_round);
		add(TSC, c, tsc_round);
		add(CLOCK, c, clock_round);
		add(SLEEP, c, sleep_round);
		add(TIMERFD, c, timerfd_round);
		add(MEMBARRIER, c, membarrier_round);
		add(REMAP, c, remap_round);
		add(MPROTECT, c, mprotect_round);
	}
	for (c = 0; c < cpus; c++) {
		a = add(FUTEX, c, futex_round);
		b = add(FUTEX, (c + 1) % cpus, futex_round);
		a->peer = b;
		b->peer = a;
		b->second = true;
		/* A signal in the middle of a computation, or of a pattern in all registers. */
		add(SIGNAL, c, signal_round)->peer = (c & 1 ? compute : fpu)[(c + 1) % cpus];
	}
	add(REMAP, 0, remap_round)->second = true;
	add(MPROTECT, cpus - 1, mprotect_round)->second = true;
	add(MEMORY, 0, memory_round);
	add(FILES, cpus - 1, file_round);
}

static void prepare(void)
{
	struct sigaction usr1 = { .sa_sigaction = on_usr1, .sa_flags = SA_SIGINFO | SA_RESTART };
	struct sigaction segv = { .sa_handler = on_segv };

	sigaction(SIGUSR1, &usr1, NULL);
	sigaction(SIGSEGV, &segv, NULL);
	exchanged.fd = memfd_create("exchanged", MFD_CLOEXEC);
	if (exchanged.fd < 0 || ftruncate(exchanged.fd, 2 * PAGE))
		goto err;
	exchanged.pages = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, exchanged.fd, 0);
	exchanged.view = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, exchanged.fd, 0);
	guarded = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (exchanged.pages == MAP_FAILED || exchanged.view == MAP_FAILED || guarded == MAP_FAILED)
		goto err;
	if (syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0))
		goto err;
	return;
err:
	perror("torture");
	exit(2);
}

static void print_kinds(const char *what, _Atomic uint64_t *counts)
{
	int k;

	printf("\"%s\": {", what);
	for (k = 0; k < KINDS; k++)
		printf("%s\"%s\": %lu", k ? ", " : "", names[k], atomic_load(&counts[k]));
	printf("}, ");
}

static void print_cpus(void)
{
	int c;

	printf("\"rounds_on\": [");
	for (c = 0; c < cpus; c++)
		printf("%s%lu", c ? ", " : "", atomic_load(&rounds_on[c]));
	printf("], ");
}

static uint64_t report(bool reset)
{
	_Atomic uint64_t *max[] = { &max_gap, &max_late, &max_futex, &max_signal, &max_membarrier };
	static const char *const what[] = { "gap", "late", "futex", "signal", "membarrier" };
	uint64_t sum = 0, best = ~0ul, tsc = 0, t = 0;
	size_t i;
	char *p;

	for (i = 0; i < KINDS; i++)
		sum += atomic_load(&errors[i]);
	printf("{\"sum\": %lu, ", sum);
	print_kinds("errors", errors);
	print_kinds("rounds", rounds);
	print_cpus();
	printf("\"max_ns\": {");
	for (i = 0; i < sizeof(max) / sizeof(max[0]); i++)
		printf("%s\"%s\": %lu", i ? ", " : "", what[i], reset ? atomic_exchange(max[i], 0) : atomic_load(max[i]));
	/* The two clocks at one instant: the closest of some pairs. */
	for (i = 0; i < 5; i++) {
		uint64_t before = ordered_tsc(), mono = now(), after = ordered_tsc();

		if (after - before < best) {
			best = after - before;
			tsc = before + best / 2;
			t = mono;
		}
	}
	for (p = first_error; *p; p++)
		if (*p == '"' || *p == '\\')
			*p = '\'';
	printf("}, \"tsc\": %lu, \"clock_ns\": %lu, \"cpus\": %d, \"first\": \"%s\"}\n", tsc, t, cpus, first_error);
	fflush(stdout);
	return sum;
}

static void spoil_one(const char *name)
{
	int k;

	for (k = 0; k < KINDS; k++) {
		if (strcmp(names[k], name))
			continue;
		atomic_store(&spoil[k], 1);
		puts("ok");
		fflush(stdout);
		return;
	}
	printf("no kind '%s'\n", name);
	fflush(stdout);
}

static void options(int argc, char **argv)
{
	int i;

	cpus = sysconf(_SC_NPROCESSORS_ONLN);
	for (i = 1; i + 1 < argc; i += 2) {
		if (!strcmp(argv[i], "--cpus"))
			cpus = atoi(argv[i + 1]);
		else if (!strcmp(argv[i], "--pause"))
			pause_us = strtoull(argv[i + 1], NULL, 0);
		else if (!strcmp(argv[i], "--file"))
			path = argv[i + 1];
		else
			break;
	}
	if (i != argc || cpus < 1 || cpus > MAX_CPUS) {
		fprintf(stderr, "usage: torture [--cpus 1..%d] [--pause MICROSECONDS] [--file PATH]\n", MAX_CPUS);
		exit(2);
	}
}

int main(int argc, char **argv)
{
	char line[64];
	uint64_t sum;
	int i;

	options(argc, argv);
	prepare();
	make_workers();
	for (i = 0; i < nworkers; i++) {
		if (pthread_create(&workers[i].thread, NULL, work, &workers[i])) {
			fprintf(stderr, "torture: a thread cannot be made\n");
			return 2;
		}
	}
	while (fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\n")] = '\0';
		if (!strcmp(line, "r") || !strcmp(line, "z"))
			report(line[0] == 'z');
		else if (!strncmp(line, "b ", 2))
			spoil_one(line + 2);
		else if (!strcmp(line, "q"))
			break;
	}
	atomic_store(&stop, true);
	for (i = 0; i < nworkers; i++)
		pthread_join(workers[i].thread, NULL);
	sum = report(false);
	return sum != 0;
}
