// SPDX-License-Identifier: GPL-2.0
/*
 * /dev/ooh, one thing at a time: what is written is given, once; who may track
 * whom; what becomes of it when one of them ends; input that makes no sense.
 *
 * test: ooh/dev level=guest topology=ooh timeout=600 tags=long
 * long, as not all of it has been seen to pass yet:
 * test: ooh/dev-epml level=guest topology=ooh-epml timeout=600 tags=long
 * test: ooh/dev-guest level=guest topology=ooh-guest timeout=400 tags=long
 */
#include <linux/io_uring.h>
#include <pthread.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "oohlib.h"

static void touch(struct buffer *b, size_t page)
{
	volatile char *p = b->base + page * PAGE;

	p[page % PAGE]++;
}

/* Exactly these pages of the buffer, in a fetch now. */
static void check_given(struct tracker *t, struct buffer *b, const size_t *pages, size_t n)
{
	size_t i;

	fetch_buffer(t, b);
	for (i = 0; i < n; i++)
		CHECK(b->given[pages[i]], "page %zu is missing", pages[i]);
	CHECK(count_given(b) == n, "%zu pages given, %zu written", count_given(b), n);
}

#define GIVEN(t, b, ...) ({						\
	const size_t p_[] = { __VA_ARGS__ };				\
	check_given(t, b, p_, sizeof(p_) / sizeof(p_[0]));		\
})
#define GIVEN_NONE(t, b) check_given(t, b, NULL, 0)

static void test_info(void)
{
	struct ooh_info info;
	int fd = MUST(open(OOH_DEVICE, O_RDWR));

	MUST(ioctl(fd, OOH_INFO, &info));
	CHECK(info.abi == OOH_ABI && info.page_size == PAGE && info.max_order == 10);
	CHECK(info.features & OOH_F_SPML, "features %x", info.features);
}

static void test_written(void)
{
	struct tracker t;
	struct buffer b;
	int i;

	buffer_new(&b, 300);
	track(&t, 0, 0);
	for (i = 0; i < 3; i++) {
		touch(&b, 3);
		touch(&b, 17);
		touch(&b, 18);
		touch(&b, 299);
		GIVEN(&t, &b, 3, 17, 18, 299);
		GIVEN_NONE(&t, &b);
		touch(&b, 0);
		GIVEN(&t, &b, 0);
	}
	CHECK(t.ring->epoch == 9, "epoch %llu", t.ring->epoch);
	untrack(&t);
}

/* What was written before the tracking is not given. */
static void test_first(void)
{
	struct tracker t;
	struct buffer b;

	buffer_new(&b, 64);
	touch(&b, 5);
	track(&t, 0, 0);
	GIVEN_NONE(&t, &b);
	untrack(&t);
}

static void *toucher(void *opaque)
{
	struct buffer *b = opaque;

	touch(b, 7);
	return NULL;
}

static void test_thread(void)
{
	struct tracker t;
	struct buffer b;
	pthread_t thread;

	buffer_new(&b, 64);
	track(&t, 0, 0);
	pthread_create(&thread, NULL, toucher, &b);
	pthread_join(thread, NULL);
	GIVEN(&t, &b, 7);
	untrack(&t);
}

/* A child that does what it is told: touch a page, or exec or exit. */
struct child {
	pid_t pid;
	int to, from;
};

static void child_begin(struct child *c, struct buffer *b)
{
	int to[2], from[2];
	long page;

	MUST(pipe(to));
	MUST(pipe(from));
	c->pid = MUST(fork());
	if (c->pid) {
		close(to[0]);
		close(from[1]);
		c->to = to[1];
		c->from = from[0];
		return;
	}
	/* So that it ends with the test. */
	close(to[1]);
	while (read(to[0], &page, sizeof(page)) == sizeof(page)) {
		if (page == -1)
			_exit(0);
		if (page == -2)
			execl("/bin/sleep", "sleep", "1000", NULL);
		touch(b, page);
		if (write(from[1], &page, sizeof(page)) < 0)
			break;
	}
	_exit(0);
}

static void child_do(struct child *c, long page)
{
	MUST(write(c->to, &page, sizeof(page)));
	if (page >= 0)
		MUST(read(c->from, &page, sizeof(page)));
}

static void child_end(struct child *c)
{
	kill(c->pid, SIGKILL);
	waitpid(c->pid, NULL, 0);
}

static void test_other(void)
{
	struct tracker t;
	struct buffer b;
	struct child c;

	buffer_new(&b, 64);
	child_begin(&c, &b);
	child_do(&c, 0);
	track(&t, c.pid, 0);
	GIVEN_NONE(&t, &b);
	child_do(&c, 0);
	GIVEN(&t, &b, 0);
	/* The child's own copy of a page is a new frame. */
	child_do(&c, 9);
	GIVEN(&t, &b, 9);
	/* Ours is none of its. */
	touch(&b, 11);
	GIVEN_NONE(&t, &b);
	child_end(&c);
	untrack(&t);
}

/* Written by another process, which has not mapped it. */
static void test_vm_writev(void)
{
	char word[] = "somebody";
	struct iovec from = { word, sizeof(word) }, to;
	struct tracker t;
	struct buffer b;
	struct child c;

	buffer_new(&b, 64);
	child_begin(&c, &b);
	child_do(&c, 20);
	track(&t, c.pid, 0);
	to = (struct iovec) { b.base + 20 * PAGE, sizeof(word) };
	MUST(process_vm_writev(c.pid, &from, 1, &to, 1, 0));
	GIVEN(&t, &b, 20);
	to.iov_base = b.base + 21 * PAGE;
	MUST(process_vm_writev(c.pid, &from, 1, &to, 1, 0));
	GIVEN(&t, &b, 21);
	child_end(&c);
	untrack(&t);
}

/* Written by the kernel for a system call. */
static void test_read_into(void)
{
	struct tracker t;
	struct buffer b;
	int fd = MUST(open("/dev/zero", O_RDONLY));

	buffer_new(&b, 64);
	track(&t, 0, 0);
	MUST(read(fd, b.base + 30 * PAGE + 5, 3 * PAGE));
	GIVEN(&t, &b, 30, 31, 32, 33);
	untrack(&t);
}

/* An io_uring for one request at a time. */
struct uring {
	int fd;
	struct io_uring_params p;
	char *ring;
	struct io_uring_sqe *sqe;
};

static bool uring_new(struct uring *u, const struct iovec *buffer)
{
	memset(u, 0, sizeof(*u));
	u->fd = syscall(SYS_io_uring_setup, 1, &u->p);
	if (u->fd < 0)
		return false;
	CHECK(u->p.features & IORING_FEAT_SINGLE_MMAP);
	u->ring = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, u->fd, IORING_OFF_SQ_RING);
	u->sqe = mmap(NULL, sizeof(*u->sqe), PROT_READ | PROT_WRITE, MAP_SHARED, u->fd, IORING_OFF_SQES);
	MUST(u->ring == MAP_FAILED || u->sqe == MAP_FAILED ? -1 : 0);
	MUST(syscall(SYS_io_uring_register, u->fd, IORING_REGISTER_BUFFERS, buffer, 1));
	return true;
}

static void uring_read(struct uring *u, int fd, const struct iovec *into)
{
	unsigned int *head = (void *)(u->ring + u->p.cq_off.head), *tail = (void *)(u->ring + u->p.sq_off.tail);
	unsigned int *array = (void *)(u->ring + u->p.sq_off.array);
	struct io_uring_cqe *cqe = (void *)(u->ring + u->p.cq_off.cqes);

	*u->sqe = (struct io_uring_sqe) {
		.opcode = IORING_OP_READ_FIXED, .fd = fd, .addr = (uintptr_t)into->iov_base, .len = into->iov_len,
	};
	array[0] = 0;
	__atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
	CHECK(syscall(SYS_io_uring_enter, u->fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) == 1, "%s", strerror(errno));
	cqe += *head & (u->p.cq_entries - 1);
	CHECK(cqe->res == (int)into->iov_len, "%d", cqe->res);
	__atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
}

/* Written by way of a pin that is older than the tracking: no address is used for that any more. */
static void test_pinned(void)
{
	int fd = MUST(open("/dev/zero", O_RDONLY)), i;
	struct iovec one;
	struct tracker t;
	struct buffer b;
	struct uring u;

	buffer_new(&b, 64);
	one = (struct iovec) { b.base + 12 * PAGE, PAGE };
	if (!uring_new(&u, &one))
		ktap_skip("no io_uring");
	track(&t, 0, 0);
	GIVEN_NONE(&t, &b);
	for (i = 0; i < 3; i++) {
		uring_read(&u, fd, &one);
		GIVEN(&t, &b, 12);
		GIVEN_NONE(&t, &b);
	}
	touch(&b, 12);
	GIVEN(&t, &b, 12);
	close(u.fd);
	usleep(20000);		/* the pins go in the background */
	touch(&b, 12);
	touch(&b, 13);
	fetch_buffer(&t, &b);
	CHECK(b.given[12] && b.given[13]);
	untrack(&t);
}

static void test_new_pages(void)
{
	struct tracker t;
	struct buffer b;
	void *p;

	track(&t, 0, 0);
	p = mmap(NULL, 64 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	buffer_at(&b, p, 64);
	GIVEN_NONE(&t, &b);
	touch(&b, 1);
	touch(&b, 2);
	GIVEN(&t, &b, 1, 2);
	GIVEN_NONE(&t, &b);
	touch(&b, 2);
	touch(&b, 63);
	GIVEN(&t, &b, 2, 63);
	/* A page that is only read is the page of zeroes, until it is written. */
	CHECK(!((volatile char *)p)[40 * PAGE]);
	GIVEN_NONE(&t, &b);
	touch(&b, 40);
	GIVEN(&t, &b, 40);
	untrack(&t);
}

static void test_dontneed(void)
{
	struct tracker t;
	struct buffer b;

	buffer_new(&b, 64);
	track(&t, 0, 0);
	MUST(madvise(b.base + 10 * PAGE, 2 * PAGE, MADV_DONTNEED));
	/* They changed: they read as zeroes. */
	GIVEN(&t, &b, 10, 11);
	GIVEN_NONE(&t, &b);
	touch(&b, 10);
	GIVEN(&t, &b, 10);
	untrack(&t);
}

/* Written, and in no page table any more when the fetch looks: what it wrote is in the file. */
static void test_came_and_went(void)
{
	int fd = MUST(memfd_create("ooh", 0));
	struct tracker t;
	struct buffer b;
	void *p;
	int i;

	MUST(ftruncate(fd, 128 * PAGE));
	p = mmap(NULL, 128 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	MUST(p == MAP_FAILED ? -1 : 0);
	buffer_at(&b, p, 128);
	track(&t, 0, 0);
	for (i = 0; i < 2; i++) {
		touch(&b, 70);
		touch(&b, 90);
		MUST(madvise(p, 128 * PAGE, MADV_DONTNEED));
		fetch_buffer(&t, &b);
		CHECK(b.given[70] && b.given[90], "%d: %d, %d", i, b.given[70], b.given[90]);
		GIVEN_NONE(&t, &b);
	}
	/* Of memory that is nobody's then nothing is left. */
	p = mmap(NULL, 64 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	MUST(p == MAP_FAILED ? -1 : 0);
	buffer_at(&b, p, 64);
	touch(&b, 10);
	MUST(madvise(p, 64 * PAGE, MADV_DONTNEED));
	GIVEN_NONE(&t, &b);
	untrack(&t);
	close(fd);
}

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT	21
#endif

static bool swapped(struct buffer *b, size_t page)
{
	int fd = MUST(open("/proc/self/pagemap", O_RDONLY));
	uint64_t entry = 0;

	MUST(pread(fd, &entry, 8, ((uintptr_t)b->base / PAGE + page) * 8));
	close(fd);
	return entry & 1ULL << 62;
}

static bool put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);
	bool ok = fd >= 0 && write(fd, text, strlen(text)) > 0;

	close(fd);
	return ok;
}

/* The same with swap: a page that comes, is written and goes to swap between two fetches. */
static void test_swapped(void)
{
	struct tracker t;
	struct buffer b;
	int i, out = 0;
	void *p;

	if (!put("/sys/block/zram0/disksize", "8M") || system("mkswap /dev/zram0 >/dev/null") ||
	    swapon("/dev/zram0", 0))
		ktap_skip("no swap");
	p = mmap(NULL, 64 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	MUST(p == MAP_FAILED ? -1 : 0);
	buffer_at(&b, p, 64);
	track(&t, 0, 0);
	for (i = 0; i < 3; i++) {
		touch(&b, 40 + i);
		MUST(madvise(p, 64 * PAGE, MADV_PAGEOUT));
		out += swapped(&b, 40 + i);
		fetch_buffer(&t, &b);
		CHECK(b.given[40 + i], "page %d", 40 + i);
		/* It stays there. */
		GIVEN_NONE(&t, &b);
	}
	CHECK(out, "no page went to swap");
	/* Back, written, and out again. */
	touch(&b, 40);
	MUST(madvise(p, 64 * PAGE, MADV_PAGEOUT));
	GIVEN(&t, &b, 40);
	/* Thrown away there: it is full of zeros now. */
	MUST(madvise(p + 40 * PAGE, PAGE, MADV_DONTNEED));
	GIVEN(&t, &b, 40);
	GIVEN_NONE(&t, &b);
	untrack(&t);
	munmap(p, 64 * PAGE);
	MUST(swapoff("/dev/zram0"));
	put("/sys/block/zram0/reset", "1");
}

static void test_unmapped(void)
{
	struct tracker t;
	struct buffer b;

	buffer_new(&b, 128);
	track(&t, 0, 0);
	touch(&b, 70);
	touch(&b, 2);
	MUST(munmap(b.base + 64 * PAGE, 64 * PAGE));
	GIVEN(&t, &b, 2);
	MUST(mmap(b.base + 64 * PAGE, 64 * PAGE, PROT_READ | PROT_WRITE,
		  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED ? -1 : 0);
	touch(&b, 71);
	GIVEN(&t, &b, 71);
	untrack(&t);
}

static void test_mremap(void)
{
	struct buffer from, to;
	struct tracker t;
	void *p, *q;

	buffer_new(&from, 64);
	buffer_new(&to, 64);
	p = to.base;
	track(&t, 0, 0);
	touch(&from, 5);
	q = mremap(from.base, 64 * PAGE, 64 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, p);
	CHECK(p == q);
	fetch_buffer(&t, &to);
	CHECK(count_given(&to) == 64, "%zu pages given where 64 came", count_given(&to));
	GIVEN_NONE(&t, &to);
	/* The frames are where they were before, and were armed then. */
	touch(&to, 5);
	touch(&to, 6);
	GIVEN(&t, &to, 5, 6);
	untrack(&t);
}

static void test_fork(void)
{
	struct tracker t;
	struct buffer b;
	struct child c;

	buffer_new(&b, 64);
	track(&t, 0, 0);
	child_begin(&c, &b);
	touch(&b, 3);		/* a copy: the child has the frame */
	child_do(&c, 4);	/* the child's copy, or now its alone */
	child_do(&c, 3);
	GIVEN(&t, &b, 3);
	touch(&b, 4);
	GIVEN(&t, &b, 4);
	child_end(&c);
	touch(&b, 5);		/* in place: nobody shares it any more */
	touch(&b, 4);
	fetch_buffer(&t, &b);
	CHECK(b.given[4] && b.given[5]);
	untrack(&t);
}

static void test_protection(void)
{
	struct tracker t;
	struct buffer b;

	buffer_new(&b, 64);
	MUST(mprotect(b.base, 64 * PAGE, PROT_READ));
	track(&t, 0, 0);
	MUST(mprotect(b.base, 32 * PAGE, PROT_READ | PROT_WRITE));
	touch(&b, 8);
	GIVEN(&t, &b, 8);
	MUST(mprotect(b.base, 32 * PAGE, PROT_NONE));
	GIVEN_NONE(&t, &b);
	MUST(mprotect(b.base, 32 * PAGE, PROT_READ | PROT_WRITE));
	touch(&b, 9);
	GIVEN(&t, &b, 9);
	untrack(&t);
}

/* The same frames at two places, and in a file that is written with write(). */
static void test_shared(void)
{
	int fd = MUST(memfd_create("ooh", 0));
	struct buffer a, b;
	struct tracker t;
	void *p, *q;

	MUST(ftruncate(fd, 64 * PAGE));
	p = mmap(NULL, 64 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	q = mmap(NULL, 64 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	memset(p, 1, 64 * PAGE);
	memset(q, 2, 64 * PAGE);
	buffer_at(&a, p, 64);
	buffer_at(&b, q, 64);
	track(&t, 0, 0);
	touch(&a, 5);
	fetch_buffer(&t, &b);
	CHECK(b.given[5] && count_given(&b) == 1, "%zu given", count_given(&b));
	MUST(pwrite(fd, "x", 1, 7 * PAGE));
	fetch_buffer(&t, &a);
	CHECK(a.given[7] && count_given(&a) == 1, "%zu given", count_given(&a));
	/* Truncated and extended: what is there now was not there before. */
	MUST(ftruncate(fd, 8 * PAGE));
	MUST(ftruncate(fd, 64 * PAGE));
	touch(&a, 9);
	fetch_buffer(&t, &a);
	CHECK(a.given[9]);
	touch(&a, 9);
	fetch_buffer(&t, &b);
	touch(&a, 9);
	CHECK(((volatile char *)q)[9 * PAGE + 9]);
	fetch_buffer(&t, &b);
	CHECK(b.given[9]);
	untrack(&t);
}

static void test_huge(void)
{
	size_t size = 2UL << 20;
	struct tracker t;
	struct buffer b;
	char *p = mmap(NULL, 2 * size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	p = (char *)(((uintptr_t)p + size - 1) & ~(size - 1));
	MUST(madvise(p, size, MADV_HUGEPAGE));
	memset(p, 1, size);
	buffer_at(&b, p, size / PAGE);
	track(&t, 0, 0);
	touch(&b, 77);
	touch(&b, 511);
	GIVEN(&t, &b, 77, 511);
	MUST(madvise(p + PAGE, PAGE, MADV_DONTNEED));	/* splits it */
	GIVEN(&t, &b, 1);
	touch(&b, 78);
	GIVEN(&t, &b, 78);
	untrack(&t);
}

static void test_hugetlb(void)
{
	size_t size = 2UL << 20;
	struct tracker t;
	struct buffer b;
	FILE *f = fopen("/proc/sys/vm/nr_hugepages", "w");
	char *p;

	if (!f)
		ktap_skip("no hugetlb");
	fprintf(f, "4\n");
	fclose(f);
	p = mmap(NULL, 2 * size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
	if (p == MAP_FAILED)
		ktap_skip("no huge pages to be had");
	buffer_at(&b, p, 2 * size / PAGE);
	touch(&b, 0);
	track(&t, 0, 0);
	touch(&b, 5);
	GIVEN(&t, &b, 5);
	touch(&b, 512 + 9);	/* a new one */
	fetch_buffer(&t, &b);
	CHECK(b.given[512 + 9] && count_given(&b) == 512);
	GIVEN_NONE(&t, &b);
	touch(&b, 512 + 9);
	GIVEN(&t, &b, 512 + 9);
	untrack(&t);
}

static void test_range(void)
{
	struct tracker t;
	struct buffer b;

	buffer_new(&b, 200);
	track(&t, 0, 0);
	touch(&b, 10);
	touch(&b, 100);
	memset(b.given, 0, b.pages);
	MUST(fetch(&t, (uintptr_t)b.base + 90 * PAGE, (uintptr_t)b.base + 101 * PAGE, into_buffer, &b));
	CHECK(b.given[100] && count_given(&b) == 1);
	GIVEN(&t, &b, 10);
	untrack(&t);
}

/* A ring of 256 records and 2000 to be given. */
static void test_full(void)
{
	struct tracker t;
	struct buffer b;
	size_t i;

	buffer_new(&b, 4000);
	track(&t, 0, 0);
	CHECK(t.ring->size == 256);
	for (i = 0; i < b.pages; i += 2)
		touch(&b, i);
	fetch_buffer(&t, &b);
	CHECK(t.parts >= 8, "%lu parts", t.parts);
	for (i = 0; i < b.pages; i++)
		CHECK(b.given[i] == !(i % 2), "page %zu", i);
	GIVEN_NONE(&t, &b);
	untrack(&t);
}

static void test_discard(void)
{
	struct ooh_fetch_args args = { .flags = OOH_FETCH_DISCARD };
	struct tracker t;
	struct buffer b;

	buffer_new(&b, 64);
	track(&t, 0, 0);
	touch(&b, 1);
	MUST(ioctl(t.fd, OOH_FETCH, &args));
	CHECK(!args.records && !args.pages && !args.status);
	GIVEN_NONE(&t, &b);
	touch(&b, 1);
	GIVEN(&t, &b, 1);
	untrack(&t);
}

/* Two trackers of one process, each with its own epochs; and a third of another. */
static void test_two(void)
{
	struct tracker t, u, v;
	struct buffer b;
	struct child c;

	buffer_new(&b, 64);
	child_begin(&c, &b);
	child_do(&c, 1);
	track(&t, c.pid, 0);
	track(&u, c.pid, 1);
	track(&v, 0, 0);
	child_do(&c, 1);
	GIVEN(&t, &b, 1);
	child_do(&c, 2);
	GIVEN(&t, &b, 2);
	GIVEN(&u, &b, 1, 2);
	GIVEN_NONE(&v, &b);
	child_do(&c, 3);
	untrack(&t);
	GIVEN(&u, &b, 3);
	child_do(&c, 3);
	GIVEN(&u, &b, 3);
	touch(&b, 40);
	GIVEN(&v, &b, 40);
	child_end(&c);
	untrack(&u);
	untrack(&v);
}

static void test_ends(void)
{
	struct pollfd p = { .events = POLLIN };
	struct ooh_fetch_args args = { 0 };
	struct tracker t;
	struct buffer b;
	struct child c;

	buffer_new(&b, 64);
	child_begin(&c, &b);
	child_do(&c, 0);
	track(&t, c.pid, 0);
	child_do(&c, 0);
	p.fd = t.fd;
	child_do(&c, -1);
	MUST(waitpid(c.pid, NULL, 0));
	CHECK(poll(&p, 1, 5000) == 1 && (p.revents & POLLHUP), "revents %x", p.revents);
	MUST(fetch(&t, 0, 0, into_buffer, &b));
	CHECK(t.status & OOH_FETCHED_LAST);
	CHECK_ERR(ioctl(t.fd, OOH_FETCH, &args), ESRCH);
	untrack(&t);
}

static void test_exec(void)
{
	struct pollfd p = { .events = POLLIN };
	struct tracker t;
	struct buffer b;
	struct child c;

	buffer_new(&b, 64);
	child_begin(&c, &b);
	child_do(&c, 0);
	track(&t, c.pid, 0);
	p.fd = t.fd;
	child_do(&c, -2);
	CHECK(poll(&p, 1, 5000) >= 1);
	while (!(p.revents & POLLHUP) && !ktap_failures) {
		usleep(1000);
		CHECK(poll(&p, 1, 5000) == 1);
	}
	MUST(fetch(&t, 0, 0, NULL, NULL));
	CHECK(t.status & OOH_FETCHED_LAST);
	untrack(&t);
	/* What it is now can be tracked anew. */
	track(&t, c.pid, 0);
	MUST(fetch(&t, 0, 0, NULL, NULL));
	CHECK(!t.status);
	child_end(&c);
	untrack(&t);
}

/* The tracker is killed at some moment of its work. */
static void test_tracker_dies(void)
{
	struct tracker t;
	struct buffer b;
	struct child c;
	int i;

	buffer_new(&b, 512);
	child_begin(&c, &b);
	for (i = 0; i < 30; i++) {
		pid_t tracker = MUST(fork());

		if (!tracker) {
			for (;;) {
				track(&t, c.pid, i % 3);
				MUST(fetch(&t, 0, 0, NULL, NULL));
				if (i % 2)
					untrack(&t);
			}
		}
		child_do(&c, i);
		usleep(500 * i);
		kill(tracker, SIGKILL);
		MUST(waitpid(tracker, NULL, 0));
	}
	track(&t, c.pid, 0);
	child_do(&c, 99);
	fetch_buffer(&t, &b);
	CHECK(b.given[99]);
	child_end(&c);
	untrack(&t);
}

/* The tracked is killed at some moment of a fetch. */
static void test_tracked_dies(void)
{
	struct tracker t;
	struct buffer b;
	int i;

	buffer_new(&b, 512);
	for (i = 0; i < 30; i++) {
		pid_t pid = MUST(fork());

		if (!pid) {
			size_t n;

			for (n = 0;; n++)
				touch(&b, n % b.pages);
		}
		if (try_track(&t, pid, 0)) {
			CHECK(false, "%s", strerror(errno));
			break;
		}
		if (!fork()) {
			usleep(700 * i);
			kill(pid, SIGKILL);
			_exit(0);
		}
		while (!fetch(&t, 0, 0, NULL, NULL))
			;
		CHECK(errno == ESRCH, "%s", strerror(errno));
		untrack(&t);
		while (wait(NULL) > 0)
			;
	}
}

static void test_poll(void)
{
	struct pollfd p = { .events = POLLIN };
	struct tracker t;
	struct buffer b;
	struct child c;

	p.fd = MUST(open(OOH_DEVICE, O_RDWR));
	CHECK(poll(&p, 1, 0) == 1 && p.revents == POLLERR, "revents %x", p.revents);
	close(p.fd);
	buffer_new(&b, 64);
	child_begin(&c, &b);
	child_do(&c, 1);
	track(&t, c.pid, 0);
	MUST(fetch(&t, 0, 0, NULL, NULL));
	usleep(20000);		/* it sleeps now, in read() */
	MUST(fetch(&t, 0, 0, NULL, NULL));
	p.fd = t.fd;
	CHECK(poll(&p, 1, 100) == 0, "revents %x", p.revents);
	child_do(&c, 1);
	CHECK(poll(&p, 1, 5000) == 1 && p.revents == POLLIN, "revents %x", p.revents);
	GIVEN(&t, &b, 1);
	child_end(&c);
	untrack(&t);
}

static void test_who_may(void)
{
	struct tracker t;
	struct child c;
	struct buffer b;
	pid_t pid;
	int status;

	buffer_new(&b, 64);
	child_begin(&c, &b);
	child_do(&c, 0);
	pid = MUST(fork());
	if (!pid) {
		MUST(setgid(65534));
		MUST(setuid(65534));
		errno = 0;
		CHECK(try_track(&t, c.pid, 0) < 0 && (errno == EACCES || errno == EPERM), "%s", strerror(errno));
		CHECK(try_track(&t, 1, 0) < 0 && (errno == EACCES || errno == EPERM), "%s", strerror(errno));
		CHECK(try_track(&t, 0, 0) == 0, "%s", strerror(errno));
		_exit(!!ktap_failures);
	}
	MUST(waitpid(pid, &status, 0));
	CHECK(WIFEXITED(status) && !WEXITSTATUS(status), "status %x", status);
	CHECK(try_track(&t, 999999, 0) < 0 && errno == ESRCH, "%s", strerror(errno));
	CHECK(try_track(&t, 2, 0) < 0 && errno == ESRCH, "kthreadd: %s", strerror(errno));
	child_end(&c);
}

static void test_bad_input(void)
{
	struct ooh_track_args track_args, good = { 0 };
	struct ooh_fetch_args args, fine = { 0 };
	struct ooh_stats_args stats;
	int fd = MUST(open(OOH_DEVICE, O_RDWR));
	struct tracker t;
	void *p;

	CHECK_ERR(ioctl(fd, OOH_FETCH, &fine), ENXIO);
	CHECK_ERR(ioctl(fd, OOH_STATS, &stats), ENXIO);
	CHECK_ERR(ioctl(fd, OOH_UNTRACK), ENXIO);
	CHECK_ERR(ioctl(fd, _IO(0xd9, 0x77)), ENOTTY);
	CHECK_ERR(ioctl(fd, OOH_INFO, 8), EFAULT);
	CHECK_ERR(ioctl(fd, OOH_TRACK, 8), EFAULT);
	CHECK_ERR(ioctl(fd, OOH_FETCH, NULL), EFAULT);
	p = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);
	CHECK(p == MAP_FAILED && errno == ENXIO);

#define BAD_TRACK(field, value, err) ({ track_args = good; track_args.field = value;	\
	CHECK_ERR(ioctl(fd, OOH_TRACK, &track_args), err); })
	BAD_TRACK(flags, 4, EINVAL);
	BAD_TRACK(flags, OOH_F_SPML | OOH_F_EPML, EINVAL);
	BAD_TRACK(ring_order, 11, EINVAL);
	BAD_TRACK(pid, -1, EINVAL);
	BAD_TRACK(reserved[1], 1, EINVAL);
	BAD_TRACK(pid, 0x7fffffff, ESRCH);
	MUST(ioctl(fd, OOH_TRACK, &good));
	CHECK_ERR(ioctl(fd, OOH_TRACK, &good), EBUSY);
	MUST(ioctl(fd, OOH_UNTRACK));
	CHECK_ERR(ioctl(fd, OOH_UNTRACK), ENXIO);
	CHECK_ERR(ioctl(fd, OOH_TRACK, &good), EBUSY);
	close(fd);

	track(&t, 0, 0);
#define BAD_FETCH(field, value, err) ({ args = fine; args.field = value;		\
	CHECK_ERR(ioctl(t.fd, OOH_FETCH, &args), err); })
	BAD_FETCH(flags, 4, EINVAL);
	BAD_FETCH(flags, ~0u, EINVAL);
	BAD_FETCH(pad, 1, EINVAL);
	BAD_FETCH(reserved[0], 1, EINVAL);
	BAD_FETCH(start, PAGE, EINVAL);
	BAD_FETCH(end, 100, EINVAL);
	BAD_FETCH(end, ~0xfffULL, EINVAL);
	BAD_FETCH(end, 1ULL << 63, EINVAL);
	args = (struct ooh_fetch_args) { .start = 2 * PAGE, .end = 2 * PAGE };
	CHECK_ERR(ioctl(t.fd, OOH_FETCH, &args), EINVAL);
	/* The ring is ours to spoil. */
	t.ring->tail = t.ring->head + 1;
	CHECK_ERR(ioctl(t.fd, OOH_FETCH, &fine), EINVAL);
	t.ring->tail = t.ring->head - t.ring->size - 1;
	CHECK_ERR(ioctl(t.fd, OOH_FETCH, &fine), EINVAL);
	t.ring->tail = t.ring->head;
	t.ring->size = 0;
	t.ring->head = 77;
	memset(t.records, 0xff, PAGE);
	MUST(ioctl(t.fd, OOH_FETCH, &fine));
	CHECK(fine.records && t.ring->head == t.ring->tail + fine.records);
	CHECK(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, t.fd, 0) == MAP_FAILED && errno == EINVAL);
	CHECK(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, t.fd, PAGE) == MAP_FAILED && errno == EINVAL);
	CHECK(mmap(NULL, t.bytes + PAGE, PROT_READ, MAP_SHARED, t.fd, 0) == MAP_FAILED && errno == EINVAL);
	untrack(&t);
}

static void test_stats(void)
{
	struct ooh_stats_args s;
	struct tracker t;
	struct buffer b;

	buffer_new(&b, 64);
	track(&t, 0, 0);
	touch(&b, 1);
	fetch_buffer(&t, &b);
	MUST(ioctl(t.fd, OOH_STATS, &s));
	CHECK(s.epochs == 1 && s.pages == t.pages && s.armed >= 64 && !s.lost && !s.unarmed,
	      "epochs %llu pages %llu armed %llu lost %llu unarmed %llu", s.epochs, s.pages, s.armed, s.lost,
	      s.unarmed);
	untrack(&t);
}

static const struct ktap_test tests[] = {
	{ "info", test_info },
	{ "what is written is given, once", test_written },
	{ "what was written before is not", test_first },
	{ "a thread writes", test_thread },
	{ "another process", test_other },
	{ "process_vm_writev", test_vm_writev },
	{ "read()", test_read_into },
	{ "a pin that is older", test_pinned },
	{ "pages that are new", test_new_pages },
	{ "madvise(MADV_DONTNEED)", test_dontneed },
	{ "a shared page that came and went", test_came_and_went },
	{ "swap", test_swapped },
	{ "munmap and mmap", test_unmapped },
	{ "mremap", test_mremap },
	{ "fork", test_fork },
	{ "mprotect", test_protection },
	{ "a file mapped twice", test_shared },
	{ "transparent huge pages", test_huge },
	{ "hugetlb", test_hugetlb },
	{ "a part of the address space", test_range },
	{ "a ring that is too small", test_full },
	{ "forget it", test_discard },
	{ "two trackers", test_two },
	{ "poll", test_poll },
	{ "the tracked ends", test_ends },
	{ "the tracked calls exec", test_exec },
	{ "the tracker is killed", test_tracker_dies },
	{ "the tracked is killed", test_tracked_dies },
	{ "who may", test_who_may },
	{ "bad input", test_bad_input },
	{ "counters", test_stats },
};

int main(void)
{
	return KTAP_RUN(tests);
}
