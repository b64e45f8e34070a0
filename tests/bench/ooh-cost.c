// SPDX-License-Identifier: GPL-2.0
/*
 * What it costs to know which pages a process writes, by one method.
 *
 *   ooh-cost METHOD MIB STEP EPOCHS [parse]
 *                                       a Tracked writes one word in every STEP-th page of MIB in each epoch, and
 *                                       with "parse" reads all words of these pages
 *   ooh-cost metrics MIB                single steps, one "NAME VALUE" a line
 *
 * METHOD: none, uffd, or a back-end of libooh. Says "init CYCLES"; then waits for a line, lets the Tracked write,
 * says "pass CYCLES FAULTS", waits for a line, collects, says "collect CYCLES PAGES MISSED", and so on; at the end
 * "fini CYCLES". Who asks counts VM exits in between. Cycles are those of the TSC, which in the emulator counts
 * instructions, of the host too; with one CPU nothing else runs meanwhile.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <linux/userfaultfd.h>
#include <libooh.h>

#define PAGE	4096UL
#define ROOM	8192
#define MUST(call) ({ long m_ = (long)(call); if (m_ == -1) die(#call); m_; })

static void __attribute__((noreturn)) die(const char *what)
{
	printf("error %s: %s\n", what, strerror(errno));
	exit(1);
}

static inline uint64_t cycles(void)
{
	uint32_t lo, hi;

	asm volatile("lfence; rdtsc; lfence" : "=a"(lo), "=d"(hi) :: "memory");
	return (uint64_t)hi << 32 | lo;
}

/* The Tracked. */
struct pass {
	uint64_t cycles, faults;
};

static char *area;
static size_t pages, step = 1;
static bool parse;
static int orders, answers;
static int tracked_uffd = -1;		/* its number in the Tracked */
static pid_t tracked;

static uint64_t faults_now(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return u.ru_minflt + u.ru_majflt;
}

static uint64_t sum_of(const volatile uint64_t *page)
{
	uint64_t sum = 0;
	size_t i;

	for (i = 0; i < PAGE / sizeof(*page); i++)
		sum += page[i];
	return sum;
}

static struct pass write_pages(char value)
{
	uint64_t faults = faults_now(), t = cycles();
	struct pass p;
	size_t i;

	if (parse)
		for (i = 0; i < pages; i += step)
			*(volatile uint64_t *)(area + i * PAGE) = sum_of((void *)(area + i * PAGE)) + value;
	else
		for (i = 0; i < pages; i += step)
			*(volatile char *)(area + i * PAGE) = value;
	p.cycles = cycles() - t;
	p.faults = faults_now() - faults;
	return p;
}

static void tracked_main(int in, int out, bool uffd)
{
	struct pass p;
	int fd = -1;
	char c;

	memset(area, 1, pages * PAGE);
	if (uffd)
		fd = MUST(syscall(SYS_userfaultfd, O_CLOEXEC));
	MUST(write(out, &fd, sizeof(fd)));
	while (read(in, &c, 1) == 1) {
		p = write_pages(c);
		MUST(write(out, &p, sizeof(p)));
	}
	_exit(0);
}

static void tracked_start(bool uffd)
{
	int in[2], out[2];

	area = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (area == MAP_FAILED)
		die("mmap");
	MUST(pipe2(in, O_CLOEXEC));
	MUST(pipe2(out, O_CLOEXEC));
	tracked = MUST(fork());
	if (!tracked) {
		close(in[1]);
		tracked_main(in[0], out[1], uffd);
	}
	close(in[0]);
	orders = in[1];
	answers = out[0];
	MUST(read(answers, &tracked_uffd, sizeof(tracked_uffd)));
}

static struct pass tracked_pass(char value)
{
	struct pass p;

	MUST(write(orders, &value, 1));
	if (read(answers, &p, sizeof(p)) != sizeof(p))
		die("the Tracked");
	return p;
}

/* userfaultfd as it was before WP_ASYNC: a thread of ours resolves each fault. */
static struct {
	int fd;
	pthread_t thread;
	bool *written;
} uffd;

static int protect(uint64_t start, uint64_t len, bool on)
{
	struct uffdio_writeprotect wp = {
		.range = { start, len }, .mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
	};

	return ioctl(uffd.fd, UFFDIO_WRITEPROTECT, &wp);
}

static void *uffd_thread(void *arg)
{
	struct uffd_msg m;
	uint64_t at;

	(void)arg;
	while (read(uffd.fd, &m, sizeof(m)) == sizeof(m)) {
		if (m.event != UFFD_EVENT_PAGEFAULT)
			continue;
		at = m.arg.pagefault.address & -PAGE;
		uffd.written[(at - (uintptr_t)area) / PAGE] = true;
		MUST(protect(at, PAGE, false));
	}
	return NULL;
}

static int uffd_init(void)
{
	struct uffdio_register reg = { .range = { (uintptr_t)area, pages * PAGE }, .mode = UFFDIO_REGISTER_MODE_WP };
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP };
	int pidfd = MUST(syscall(SYS_pidfd_open, tracked, 0));

	uffd.fd = MUST(syscall(SYS_pidfd_getfd, pidfd, tracked_uffd, 0));
	uffd.written = calloc(pages, 1);
	MUST(ioctl(uffd.fd, UFFDIO_API, &api));
	MUST(ioctl(uffd.fd, UFFDIO_REGISTER, &reg));
	MUST(protect((uintptr_t)area, pages * PAGE, true));
	return pthread_create(&uffd.thread, NULL, uffd_thread, NULL);
}

/* One epoch: which pages, and what it took. */
static bool *seen;
static uint64_t told;
static struct ooh *ooh;
static struct ooh_range range[ROOM];

static uint64_t uffd_collect(void)
{
	uint64_t t = cycles();

	memcpy(seen, uffd.written, pages);
	memset(uffd.written, 0, pages);
	MUST(protect((uintptr_t)area, pages * PAGE, true));
	return cycles() - t;
}

static void see(int n)
{
	uint64_t at;
	int i;

	for (i = 0; i < n; i++)
		for (at = range[i].start; at < range[i].end; at += PAGE)
			if (at >= (uintptr_t)area && at < (uintptr_t)area + pages * PAGE)
				seen[(at - (uintptr_t)area) / PAGE] = true;
}

/* What is done with the ranges is not the method's, and not counted. */
static uint64_t ooh_collect(void)
{
	uint64_t sum = 0, t;
	struct ooh_epoch e;
	int n;

	do {
		t = cycles();
		n = ooh_fetch(ooh, range, ROOM, &e);
		sum += cycles() - t;
		if (n < 0) {
			errno = -n;
			die("ooh_fetch");
		}
		see(n);
	} while (e.flags & OOH_EPOCH_MORE);
	return sum;
}

static uint64_t missed(void)
{
	uint64_t n = 0;
	size_t i;

	told = 0;
	for (i = 0; i < pages; i++) {
		told += seen[i];
		n += !(i % step) && !seen[i];
	}
	return n;
}

static void wait_for_line(void)
{
	char c;

	do
		if (read(0, &c, 1) != 1)
			exit(1);
	while (c != '\n');
}

static void open_ooh(enum ooh_backend backend)
{
	struct ooh_options o = { .backend = backend };
	int ret = ooh_open(&ooh, tracked, &o);

	if (ret) {
		errno = -ret;
		die("ooh_open");
	}
}

static void epochs(const char *method, int n)
{
	bool none = !strcmp(method, "none"), sync = !strcmp(method, "uffd");
	int backend = none || sync ? 0 : ooh_backend_by_name(method), i;
	uint64_t t, took;

	if (backend < 0 || (!backend && !none && !sync)) {
		errno = EINVAL;
		die(method);
	}
	seen = calloc(pages, 1);
	tracked_start(sync);
	t = cycles();
	if (sync)
		uffd_init();
	else if (!none)
		open_ooh(backend);
	printf("init %lu\n", cycles() - t);
	for (i = 0; i < n; i++) {
		struct pass p;

		wait_for_line();
		p = tracked_pass(i);
		printf("pass %lu %lu\n", p.cycles, p.faults);
		wait_for_line();
		memset(seen, 0, pages);
		took = none ? 0 : sync ? uffd_collect() : ooh_collect();
		t = none ? 0 : missed();
		printf("collect %lu %lu %lu\n", took, told, t);
	}
	wait_for_line();
	t = cycles();
	ooh_close(ooh);
	if (sync)
		pthread_cancel(uffd.thread);
	printf("fini %lu\n", cycles() - t);
	close(orders);
	/* Its userfaultfd has a copy here: only when that is closed its pages are writable again. */
	if (sync)
		close(uffd.fd);
	waitpid(tracked, NULL, 0);
}

/* Single steps. */
#define LEAST_OF	7
#define TIMES		1000

#define LEAST(...) ({							\
	uint64_t least_ = ~0ULL, t_;					\
	for (int k_ = 0; k_ < LEAST_OF; k_++) {				\
		t_ = cycles();						\
		__VA_ARGS__;						\
		t_ = cycles() - t_;					\
		least_ = t_ < least_ ? t_ : least_;			\
	}								\
	least_;								\
})

static int open_of(const char *what, int flags)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/%s", tracked, what);
	return MUST(open(path, flags | O_CLOEXEC));
}

/* The paper's way through the page tables: one read() for each page; and all at once. */
static void walks(void)
{
	size_t i, n = pages < 2560 ? pages : 2560;
	uint64_t *entry = malloc(pages * sizeof(*entry));
	int fd = open_of("pagemap", O_RDONLY);
	off_t at = (uintptr_t)area / PAGE * 8;

	printf("walk_each %lu\n", LEAST(for (i = 0; i < n; i++) MUST(pread(fd, &entry[i], 8, at + i * 8))) * pages / n);
	printf("walk_all %lu\n", LEAST(MUST(pread(fd, entry, pages * 8, at))));
	close(fd);
	free(entry);
}

static void clear_refs(void)
{
	int fd = open_of("clear_refs", O_WRONLY), i;
	uint64_t least = ~0ULL, t;

	/* Each time with everything written: nothing is faster to clear than what is clear. */
	for (i = 0; i < LEAST_OF; i++) {
		tracked_pass(i);
		t = cycles();
		MUST(write(fd, "4", 1));
		t = cycles() - t;
		least = t < least ? t : least;
	}
	printf("clear_refs %lu\n", least);
	close(fd);
}

/* Open, an epoch of nothing, an epoch of all, close. */
static void of_backend(enum ooh_backend backend)
{
	struct ooh_options o = { .backend = backend };
	const char *name = ooh_backend_name(backend);
	uint64_t t, open = ~0ULL, none = ~0ULL, all = ~0ULL, end = ~0ULL;
	int i;

	for (i = 0; i < LEAST_OF; i++) {
		t = cycles();
		if (ooh_open(&ooh, tracked, &o))
			return;
		t = cycles() - t;
		open = t < open ? t : open;
		ooh_collect();
		t = ooh_collect();
		none = t < none ? t : none;
		tracked_pass(i);
		t = ooh_collect();
		all = t < all ? t : all;
		t = cycles();
		ooh_close(ooh);
		t = cycles() - t;
		end = t < end ? t : end;
	}
	ooh = NULL;
	printf("%s_open %lu\n%s_fetch_none %lu\n%s_fetch_all %lu\n%s_close %lu\n", name, open, name, none, name, all, name, end);
}

static void metrics(void)
{
	int i, b;

	seen = calloc(pages, 1);
	tracked_start(true);
	printf("syscall %lu\n", LEAST(for (i = 0; i < TIMES; i++) syscall(SYS_getppid)) / TIMES);
	walks();
	clear_refs();
	for (b = OOH_AUTO + 1; b < OOH_BACKENDS; b++)
		of_backend(b);
	uffd_init();
	printf("uffd_protect %lu\n", LEAST(MUST(protect((uintptr_t)area, pages * PAGE, false));
					   t_ = cycles(); MUST(protect((uintptr_t)area, pages * PAGE, true))));
	close(orders);
	kill(tracked, 9);
	waitpid(tracked, NULL, 0);
}

int main(int argc, char **argv)
{
	cpu_set_t first;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc != 3 && argc != 5 && (argc != 6 || strcmp(argv[5], "parse"))) {
		fprintf(stderr, "usage: ooh-cost METHOD MIB STEP EPOCHS [parse] | metrics MIB\n");
		return 2;
	}
	CPU_ZERO(&first);
	CPU_SET(0, &first);
	MUST(sched_setaffinity(0, sizeof(first), &first));
	pages = strtoul(argv[2], NULL, 0) << 8;
	if (argc == 3) {
		metrics();
		return 0;
	}
	step = strtoul(argv[3], NULL, 0);
	parse = argc == 6;
	epochs(argv[1], atoi(argv[4]));
	return 0;
}
