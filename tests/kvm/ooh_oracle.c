// SPDX-License-Identifier: GPL-2.0
/*
 * Is every write found? A process changes its memory in all the ways that there
 * are, from several threads, without pausing for anybody. Its tracker keeps a
 * copy: after each fetch it reads the pages that were reported, and no others.
 * Now and then the writers stop, one more fetch is done, and the copy is compared
 * with the memory, byte for byte. A page that differs was written and not
 * reported. A page that was reported and is as it was counts as over-reported.
 *
 * The oracle itself is tried with --blind: it forgets one reported page in a
 * hundred, and has to find that out. With --own, only what the process writes
 * itself, by the mapping it is found in, has to be found: the kernel's own ways
 * of tracking promise no more.
 *
 * test: ooh/oracle level=guest topology=ooh args=spml timeout=600 tags=long
 * test: ooh/oracle-guest level=guest topology=ooh-guest args=spml timeout=600 tags=long
 * test: ooh/oracle-long level=guest topology=ooh args=spml,--epochs,10000,--seed,7 timeout=4000 tags=long
 * long, as it has not been seen to pass yet:
 * test: ooh/oracle-epml level=guest topology=ooh-epml args=epml timeout=600 tags=long
 * test: ooh/oracle-blind level=guest topology=ooh args=spml,--blind timeout=600 tags=long
 * test: ooh/oracle-wp-async level=guest topology=ooh args=wp-async,--own,--epochs,300 timeout=400 tags=long
 */
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include <libooh.h>

#include "ktap.h"

#define PAGE	4096UL
#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT	21
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE	25
#endif

#ifndef UFFDIO_MOVE
struct uffdio_move {
	__u64 dst, src, len, mode;
	__s64 move;
};
#define UFFDIO_MOVE	_IOWR(UFFDIO, 0x05, struct uffdio_move)
#define UFFD_FEATURE_MOVE (1 << 16)
#endif

#define THREADS		3
#define ARENA		((char *)0x200000000000UL)

/* Parts of the arena. Each thread has a churn of its own, two places for it, and a filled one. */
enum { PLAIN, HUGE, FILE_A, FILE_B, PRIVATE, MERGED, CHURN, FILLED = CHURN + 2 * THREADS, PARTS = FILLED + THREADS };

static const struct {
	const char *name;
	unsigned long start, pages;	/* start in pages from the arena's */
} part[PARTS] = {
	[PLAIN]   = { "plain", 0, 512 },
	[HUGE]    = { "huge", 512, 1024 },
	[FILE_A]  = { "shared", 1536, 128 },
	[FILE_B]  = { "shared, again", 1664, 128 },
	[PRIVATE] = { "private file", 1792, 128 },
	[MERGED]  = { "merged", 1920, 128 },
	[CHURN]   = { "churn", 2048, 64 }, { "churn", 2112, 64 }, { "churn", 2176, 64 },
		    { "churn", 2240, 64 }, { "churn", 2304, 64 }, { "churn", 2368, 64 },
	[FILLED]  = { "filled", 2432, 32 }, { "filled", 2464, 32 }, { "filled", 2496, 32 },
};

#define ARENA_PAGES	2528UL

/* Shared by tracker, tracked and the helper. */
static struct shared {
	volatile int stop;		/* writers are to pause */
	volatile int paused;		/* and so many do */
	volatile int writers;
	volatile int quit;
	volatile long done[24];		/* how often each of the ways was gone */
} *shared;

static int memfd;
static const char *direct;		/* to be read with O_DIRECT */
static bool blind, own;
static unsigned long seed = 1;

static unsigned long next(unsigned long *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static char *page_of(int p, unsigned long n)
{
	return ARENA + (part[p].start + n % part[p].pages) * PAGE;
}

static void write_at(char *page, unsigned long value)
{
	*(volatile unsigned long *)(page + (value % (PAGE / 8)) * 8) = value;
}

static void write_some(int p, unsigned long *r, int n)
{
	while (n--)
		write_at(page_of(p, next(r)), next(r));
}

static void map_anon(int p, int flags)
{
	MUST(mmap(page_of(p, 0), part[p].pages * PAGE, PROT_READ | PROT_WRITE,
		  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | flags, -1, 0) == MAP_FAILED ? -1 : 0);
}

/* In the way of a fetch: a stop is waited for between two ways. */
static void pause_here(void)
{
	if (!shared->stop)
		return;
	__atomic_add_fetch(&shared->paused, 1, __ATOMIC_SEQ_CST);
	while (shared->stop && !shared->quit)
		usleep(200);
	__atomic_sub_fetch(&shared->paused, 1, __ATOMIC_SEQ_CST);
}

static void way_write(unsigned long *r, int me)
{
	write_some(PLAIN, r, 1 + next(r) % 16);
}

static void way_run(unsigned long *r, int me)
{
	unsigned long at = next(r), n = 1 + next(r) % 40;

	while (n--)
		write_at(page_of(HUGE, at++), next(r));
}

static void way_file(unsigned long *r, int me)
{
	write_some(next(r) % 2 ? FILE_A : FILE_B, r, 6);
}

static void way_private(unsigned long *r, int me)
{
	if (!(next(r) % 16))
		/* The file's own pages again. */
		MUST(madvise(page_of(PRIVATE, next(r)), PAGE, MADV_DONTNEED));
	write_some(PRIVATE, r, 2);
}

static void way_pwrite(unsigned long *r, int me)
{
	unsigned long v = next(r);

	MUST(pwrite(memfd, &v, sizeof(v), (v % part[FILE_A].pages) * PAGE + (v % 100) * 8));
}

static void way_merged(unsigned long *r, int me)
{
	memset(page_of(MERGED, next(r)), next(r) % 3, PAGE);
}

static void way_remap(unsigned long *r, int me)
{
	int p = CHURN + 2 * me;

	MUST(munmap(page_of(p, 16), 32 * PAGE));
	MUST(mmap(page_of(p, 16), 32 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
		  -1, 0) == MAP_FAILED ? -1 : 0);
	write_some(p, r, 4);
}

/* From one place to the other; pages that were there are lost, and mapped anew. */
static void way_move(unsigned long *r, int me)
{
	int from = CHURN + 2 * me + next(r) % 2, to = from ^ 1;
	unsigned long at = next(r) % 32, n = 1 + next(r) % 32, i;

	write_some(from, r, 3);
	/* One page after the other: what it was put together from may be several mappings. */
	for (i = 0; i < n; i++)
		MUST(mremap(page_of(from, at + i), PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
			    page_of(to, at + i)) == MAP_FAILED ? -1 : 0);
	MUST(mmap(page_of(from, at), n * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
		  -1, 0) == MAP_FAILED ? -1 : 0);
	write_some(to, r, 3);
}

static void way_dontneed(unsigned long *r, int me)
{
	unsigned long at = next(r) % 500;

	MUST(madvise(page_of(PLAIN, at), (1 + next(r) % 8) * PAGE, MADV_DONTNEED));
	write_some(PLAIN, r, 2);
}

static void way_pageout(unsigned long *r, int me)
{
	int p = next(r) % 2 ? PLAIN : HUGE;
	unsigned long at = next(r) % (part[p].pages - 32);

	write_some(p, r, 4);
	madvise(page_of(p, at), 32 * PAGE, MADV_PAGEOUT);
	write_at(page_of(p, at + next(r) % 32), next(r));
}

static void way_fork(unsigned long *r, int me)
{
	pid_t pid = fork();

	if (!pid) {
		write_some(PLAIN, r, 4);
		write_some(HUGE, r, 4);
		_exit(0);
	}
	write_some(PLAIN, r, 4);
	if (pid > 0)
		waitpid(pid, NULL, 0);
	write_some(PLAIN, r, 2);
	write_some(HUGE, r, 2);
}

static void way_protect(unsigned long *r, int me)
{
	int p = CHURN + 2 * me;
	unsigned long at = next(r) % 48;

	MUST(mprotect(page_of(p, at), 8 * PAGE, next(r) % 2 ? PROT_READ : PROT_NONE));
	sched_yield();
	MUST(mprotect(page_of(p, at), 8 * PAGE, PROT_READ | PROT_WRITE));
	write_at(page_of(p, at + next(r) % 8), next(r));
}

static void way_read(unsigned long *r, int me)
{
	int fd = MUST(open("/proc/self/maps", O_RDONLY));

	MUST(read(fd, page_of(PLAIN, next(r) % 500) + next(r) % PAGE, 3000));
	close(fd);
}

static void way_direct(unsigned long *r, int me)
{
	int fd;

	if (!direct)
		return;
	fd = MUST(open(direct, O_RDONLY | O_DIRECT));
	MUST(pread(fd, page_of(next(r) % 2 ? PLAIN : HUGE, next(r) % 500), 4 * PAGE, (next(r) % 64) * PAGE));
	close(fd);
}

static void way_huge(unsigned long *r, int me)
{
	char *at = page_of(HUGE, next(r) % 2 ? 512 : 0);

	if (next(r) % 2)
		madvise(at, 2UL << 20, MADV_COLLAPSE);
	else
		MUST(madvise(at + (next(r) % 512) * PAGE, PAGE, MADV_DONTNEED));
	write_some(HUGE, r, 3);
}

/* By userfaultfd: nobody faults on these pages, they are put there. */
static int uffd[THREADS];

static bool filled_begin(int me)
{
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_MOVE };
	struct uffdio_register reg = {
		.range = { (uintptr_t)page_of(FILLED + me, 0), part[FILLED + me].pages * PAGE },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};

	uffd[me] = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (uffd[me] < 0)
		return false;
	if (ioctl(uffd[me], UFFDIO_API, &api) || ioctl(uffd[me], UFFDIO_REGISTER, &reg)) {
		ktap_note("userfaultfd: %s", strerror(errno));
		close(uffd[me]);
		return false;
	}
	/* What was read before by the tracker is the page of zeroes. */
	MUST(madvise(page_of(FILLED + me, 0), part[FILLED + me].pages * PAGE, MADV_DONTNEED));
	return true;
}

static void fill(int me, unsigned long n, unsigned long *r)
{
	static __thread unsigned long scratch[2 * PAGE / 8];
	unsigned long *from = (void *)(((uintptr_t)scratch + PAGE - 1) & ~(PAGE - 1));
	struct uffdio_copy copy = { .dst = (uintptr_t)page_of(FILLED + me, n), .src = (uintptr_t)from, .len = PAGE };

	from[next(r) % (PAGE / 8)] = next(r);
	MUST(ioctl(uffd[me], UFFDIO_COPY, &copy));
}

static void move_in(int me, unsigned long n, unsigned long *r)
{
	static __thread char *from;
	struct uffdio_move move = { .dst = (uintptr_t)page_of(FILLED + me, n), .len = PAGE };

	if (!from) {
		from = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		MUST(from == MAP_FAILED ? -1 : 0);
	}
	write_at(from, next(r));
	move.src = (uintptr_t)from;
	/* It cannot while the page is shared (a fork) or being moved. */
	if (ioctl(uffd[me], UFFDIO_MOVE, &move))
		fill(me, n, r);
}

static void way_filled(unsigned long *r, int me)
{
	unsigned long n = next(r) % part[FILLED].pages;

	/* A back-end of the kernel's may need the place of our userfaultfd. */
	if (uffd[me] < 0 || own)
		return;
	if (!uffd[me]) {
		if (!filled_begin(me)) {
			uffd[me] = -1;
			return;
		}
		for (n = 0; n < part[FILLED].pages; n++)
			fill(me, n, r);
	}
	MUST(madvise(page_of(FILLED + me, n), PAGE, MADV_DONTNEED));
	if (next(r) % 2)
		fill(me, n, r);
	else
		move_in(me, n, r);
	write_some(FILLED + me, r, 2);
}

static const struct {
	const char *name;
	void (*go)(unsigned long *r, int me);
	unsigned int weight;
} ways[] = {
	{ "write", way_write, 40 },
	{ "write a run", way_run, 20 },
	{ "write to a file's page", way_file, 10 },
	{ "write to a private page of a file", way_private, 5 },
	{ "pwrite", way_pwrite, 5 },
	{ "write to merged pages", way_merged, 3 },
	{ "munmap, mmap", way_remap, 3 },
	{ "mremap", way_move, 4 },
	{ "MADV_DONTNEED", way_dontneed, 3 },
	{ "MADV_PAGEOUT", way_pageout, 2 },
	{ "fork", way_fork, 1 },
	{ "mprotect", way_protect, 3 },
	{ "read", way_read, 3 },
	{ "O_DIRECT", way_direct, 2 },
	{ "huge pages", way_huge, 1 },
	{ "userfaultfd", way_filled, 3 },
};

#define WAYS (sizeof(ways) / sizeof(ways[0]))

static void *writer(void *opaque)
{
	unsigned long me = (unsigned long)opaque, r = seed * 2654435761UL + me * 40503 + 1;
	unsigned int total = 0, i;

	for (i = 0; i < WAYS; i++)
		total += ways[i].weight;
	__atomic_add_fetch(&shared->writers, 1, __ATOMIC_SEQ_CST);
	while (!shared->quit) {
		unsigned int pick = next(&r) % total;

		for (i = 0; pick >= ways[i].weight; i++)
			pick -= ways[i].weight;
		ways[i].go(&r, me);
		shared->done[i]++;
		pause_here();
	}
	return NULL;
}

static void tracked(int fd)
{
	pthread_t thread[THREADS];
	unsigned long i;
	int p;

	map_anon(PLAIN, 0);
	map_anon(HUGE, 0);
	madvise(page_of(HUGE, 0), part[HUGE].pages * PAGE, MADV_HUGEPAGE);
	map_anon(MERGED, 0);
	madvise(page_of(MERGED, 0), part[MERGED].pages * PAGE, MADV_MERGEABLE);
	for (p = FILE_A; p <= PRIVATE; p++)
		MUST(mmap(page_of(p, 0), part[p].pages * PAGE, PROT_READ | PROT_WRITE,
			  MAP_FIXED | (p == PRIVATE ? MAP_PRIVATE : MAP_SHARED), memfd, 0) == MAP_FAILED ? -1 : 0);
	for (p = CHURN; p < PARTS; p++)
		map_anon(p, 0);
	MUST(write(fd, "", 1));
	for (i = 0; i < THREADS; i++)
		if (pthread_create(&thread[i], NULL, writer, (void *)i))
			_exit(1);
	for (i = 0; i < THREADS; i++)
		pthread_join(thread[i], NULL);
	_exit(0);
}

/* Writes to the tracked from outside, and moves its frames about. */
static void helper(pid_t pid)
{
	char *map = mmap(NULL, part[FILE_A].pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
	unsigned long r = seed + 99, n;

	MUST(map == MAP_FAILED ? -1 : 0);
	__atomic_add_fetch(&shared->writers, 1, __ATOMIC_SEQ_CST);
	for (n = 0; !shared->quit; n++) {
		unsigned long value = next(&r);
		struct iovec from = { &value, sizeof(value) };
		struct iovec to = { page_of(value % 2 ? PLAIN : HUGE, value >> 8) + 8, sizeof(value) };

		process_vm_writev(pid, &from, 1, &to, 1, 0);
		write_at(map + (next(&r) % part[FILE_A].pages) * PAGE, next(&r));
		if (!(n % 200)) {
			int fd = open("/proc/sys/vm/compact_memory", O_WRONLY);

			if (fd >= 0 && write(fd, "1", 1) < 0)
				ktap_note("compact_memory: %s", strerror(errno));
			close(fd);
		}
		usleep(1000);
		pause_here();
	}
	_exit(0);
}

static void put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);

	if (fd < 0)
		return;
	if (write(fd, text, strlen(text)) < 0)
		ktap_note("%s: %s", path, strerror(errno));
	close(fd);
}

/* Swap to compressed memory, KSM at work; what the kernel has not is not tried. */
static void prepare(void)
{
	put("/sys/block/zram0/disksize", "64M");
	if (access("/dev/zram0", F_OK) || system("mkswap /dev/zram0 >/dev/null") || swapon("/dev/zram0", 0))
		ktap_note("no swap");
	put("/sys/kernel/mm/ksm/sleep_millisecs", "5");
	put("/sys/kernel/mm/ksm/run", "1");
	put("/sys/kernel/mm/transparent_hugepage/enabled", "madvise");
	put("/sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs", "10");
}

static void clean_up(void)
{
	swapoff("/dev/zram0");
	put("/sys/block/zram0/reset", "1");
	put("/sys/kernel/mm/ksm/run", "0");
}

static int pagemap;
static int memory;		/* of the tracked: /proc/PID/mem, which also reads what PROT_NONE hides */
static char *copy;		/* of the arena, as the tracker knows it */
static unsigned char *known;	/* pages of the copy that were ever read */
static unsigned char late[ARENA_PAGES];	/* missed, perhaps only late */
static struct { unsigned long reported, same, ranges, elsewhere; } count;
static unsigned long hidden;

/* A page of the tracked as it is; false: it is not there. */
static bool read_page(unsigned long n, char *into)
{
	return pread(memory, into, PAGE, (uintptr_t)ARENA + n * PAGE) == PAGE;
}

static void take(const struct ooh_range *range, unsigned long *r)
{
	static char now[PAGE];
	uint64_t at;

	count.ranges++;
	for (at = range->start; at < range->end; at += PAGE) {
		unsigned long n = (at - (uintptr_t)ARENA) / PAGE;

		if (at < (uintptr_t)ARENA || n >= ARENA_PAGES) {
			count.elsewhere++;
			continue;
		}
		if (blind && !(next(r) % 100)) {
			hidden++;
			continue;
		}
		if (!read_page(n, now))
			continue;
		if (late[n])
			ktap_note("page %lu comes late", n);
		count.reported++;
		count.same += known[n] && !memcmp(copy + n * PAGE, now, PAGE);
		known[n] = 1;
		memcpy(copy + n * PAGE, now, PAGE);
	}
}

static int fetch(struct ooh *ooh, unsigned long *r)
{
	struct ooh_range ranges[128];
	struct ooh_epoch epoch;

	do {
		int i, n = ooh_fetch(ooh, ranges, 128, &epoch);

		if (n < 0)
			return n;
		for (i = 0; i < n; i++)
			take(&ranges[i], r);
	} while (epoch.flags & OOH_EPOCH_MORE);
	return 0;
}

static const char *part_of(unsigned long n)
{
	int p;

	for (p = 0; p < PARTS; p++)
		if (n >= part[p].start && n < part[p].start + part[p].pages)
			return part[p].name;
	return "nothing";
}

static unsigned long frame_of(unsigned long n)
{
	uint64_t entry = 0;

	if (pread(pagemap, &entry, 8, ((uintptr_t)ARENA / PAGE + n) * 8) != 8 || !(entry >> 63))
		return 0;
	return entry & ((1ULL << 55) - 1);
}

/* Where the two differ. */
static void tell(unsigned long n, const char *now)
{
	unsigned long first = PAGE, last = 0, differ = 0, b;

	for (b = 0; b < PAGE; b++) {
		if (copy[n * PAGE + b] == now[b])
			continue;
		first = first < b ? first : b;
		last = b;
		differ++;
	}
	ktap_note("page %lu (%s) at %p in frame %lx: %lu bytes from %lu to %lu differ, the first is %02x and was %02x",
		  n, part_of(n), ARENA + n * PAGE, frame_of(n), differ, first, last, (unsigned char)now[first],
		  (unsigned char)copy[n * PAGE + first]);
}

/* Writers stand still, and have been fetched. How many pages were missed. */
static unsigned long compare(unsigned long epoch)
{
	static char now[PAGE], zero[PAGE];
	unsigned long n, missed = 0;

	for (n = 0; n < ARENA_PAGES; n++) {
		if (own && n >= part[FILE_A].start && n < part[MERGED].start)
			continue;
		if (!read_page(n, now) || !memcmp(copy + n * PAGE, now, PAGE))
			continue;
		/* Given back and not written since. */
		if (!memcmp(now, zero, PAGE)) {
			memcpy(copy + n * PAGE, now, PAGE);
			continue;
		}
		if (missed++ < 20 && !blind) {
			ktap_note("epoch %lu:", epoch);
			tell(n, now);
			late[n] = 1;
		}
		memcpy(copy + n * PAGE, now, PAGE);
	}
	return missed;
}

static void stop(bool on)
{
	shared->stop = on;
	while (on && shared->paused < shared->writers)
		usleep(200);
	while (!on && shared->paused)
		usleep(100);
}

static unsigned long epochs = 600, every = 20;
static enum ooh_backend backend;

static void run(void)
{
	struct ooh_options options = { .backend = backend };
	unsigned long missed = 0, epoch, r = seed + 12345;
	struct ooh_counters counters;
	int ready[2], status, err;
	struct ooh *ooh;
	pid_t pid, other;
	unsigned int i;
	char path[32];
	char c;

	alarm(0);		/* the runner has a deadline */
	shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	memfd = MUST(memfd_create("oracle", 0));
	MUST(ftruncate(memfd, part[FILE_A].pages * PAGE));
	copy = calloc(ARENA_PAGES, PAGE);
	known = calloc(ARENA_PAGES, 1);
	MUST(pipe(ready));
	prepare();
	pid = MUST(fork());
	if (!pid)
		tracked(ready[1]);
	MUST(read(ready[0], &c, 1));
	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	memory = MUST(open(path, O_RDONLY));
	snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
	pagemap = MUST(open(path, O_RDONLY));
	err = ooh_open(&ooh, pid, &options);
	if (!CHECK(!err, "%s", strerror(-err)))
		goto out;
	other = MUST(fork());
	if (!other)
		helper(pid);
	while (shared->writers < THREADS + 1)
		usleep(1000);
	/* On one CPU a fetch would wait for all writers' turns, again and again: they have its pauses. */
	setpriority(PRIO_PROCESS, 0, -20);
	/* What is there now was there before. */
	stop(true);
	err = fetch(ooh, &r);
	for (i = 0; i < ARENA_PAGES; i++)
		known[i] = read_page(i, copy + i * PAGE);
	memset(&count, 0, sizeof(count));
	hidden = 0;
	stop(false);
	for (epoch = 1; epoch <= epochs && !err && (!missed || blind); epoch++) {
		usleep(next(&r) % 3000);
		if (!(epoch % every))
			stop(true);
		err = fetch(ooh, &r);
		if (!(epoch % every) && !err) {
			missed += compare(epoch);
			if (missed && !blind)
				err = fetch(ooh, &r);
			stop(false);
		}
	}
	CHECK(!err, "fetch: %s", strerror(-err));
	if (blind)
		CHECK(missed && missed <= hidden, "%lu of %lu that were hidden were found", missed, hidden);
	else
		CHECK(!missed, "%lu pages were missed (seed %lu)", missed, seed);
	ooh_counters(ooh, &counters);
	ktap_note("%s: %lu epochs, %lu pages in %lu ranges, %lu of them (%.1f%%) not changed, %lu outside",
		  ooh_backend_name(ooh_backend(ooh)), epoch - 1, count.reported, count.ranges, count.same,
		  count.reported ? 100.0 * count.same / count.reported : 0, count.elsewhere);
	ktap_note("new in their place %lu, unarmed %lu, ring full %lu, lost %lu", counters.new_pages,
		  counters.untracked, counters.overflows, counters.lost);
	for (i = 0; i < WAYS; i++)
		ktap_note("%6ld %s", shared->done[i], ways[i].name);
	CHECK(waitpid(pid, &status, WNOHANG) == 0, "the tracked ended: %x", status);
	ooh_close(ooh);
	shared->quit = 1;
	CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && !WEXITSTATUS(status), "status %x", status);
	waitpid(other, NULL, 0);
out:
	kill(pid, SIGKILL);
	clean_up();
}

int main(int argc, char **argv)
{
	static struct ktap_test tests[] = { { "every write is found", run } };
	int i, b = argc > 1 ? ooh_backend_by_name(argv[1]) : -1;

	if (b < 0) {
		fprintf(stderr, "usage: ooh_oracle BACKEND [--epochs N] [--seed N] [--direct FILE] [--blind] [--own]\n");
		return 2;
	}
	backend = b;
	for (i = 2; i < argc; i++) {
		if (!strcmp(argv[i], "--epochs") && i + 1 < argc)
			epochs = strtoul(argv[++i], NULL, 0);
		else if (!strcmp(argv[i], "--seed") && i + 1 < argc)
			seed = strtoul(argv[++i], NULL, 0);
		else if (!strcmp(argv[i], "--direct") && i + 1 < argc)
			direct = argv[++i];
		else if (!strcmp(argv[i], "--blind"))
			blind = true;
		else if (!strcmp(argv[i], "--own"))
			own = true;
		else
			return 2;
	}
	return KTAP_RUN(tests);
}
