// SPDX-License-Identifier: GPL-2.0
/*
 * The watch descriptors of /dev/spanN as span_port.h promises them. Runs in an
 * L1 that a guest is attached to. A process of the guest counts up the first
 * 8 bytes of a page without end; the test is told which.
 *
 *	span_port_watch --empty		no guest is attached (asks to be detached)
 *	span_port_watch --none		an attachment without rights
 *	span_port_watch --all PAGE	one with all rights, on L0
 *	span_port_watch --end PAGE	prints READY, waits for the attachment's end
 *
 * test: mem/port-watch-empty level=L1a topology=two-l1 args=--empty
 */
#include <ktap.h>

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>

#include <linux/span_port.h>

/* CHECK() without a text */
#pragma GCC diagnostic ignored "-Wformat-zero-length"

#define DEVICE		"/dev/span0"
#define PAGE_BYTES	4096ul
#define SOON		3000	/* ms: what happens, happens before that */
#define A_WHILE		30	/* ms: what should not happen would have by then */
#define MAX_WATCHES	8
#define R		SPAN_ACCESS_R
#define W		SPAN_ACCESS_W
#define X		SPAN_ACCESS_X
#define RWX		(R | W | X)

static uint64_t target;			/* the page that the guest counts in */
static uint64_t memory_pages;
static void *volatile nowhere;

/* --- calls --- */

static int open_port(void)
{
	int fd = MUST(open(DEVICE, O_RDONLY | O_CLOEXEC));
	struct span_port_info i = { .size = sizeof(i) };

	MUST(ioctl(fd, SPAN_PORT_GET_INFO, &i));
	memory_pages = i.bytes / PAGE_BYTES;
	return fd;
}

static int make_watch(int port, uint32_t deadline_us, uint32_t on_timeout)
{
	struct span_port_watch w = {
		.size = sizeof(w), .deadline_us = deadline_us, .on_timeout = on_timeout,
	};

	return ioctl(port, SPAN_PORT_WATCH, &w);
}

static int new_watch(void)
{
	return MUST(make_watch(open_port(), 1000000, SPAN_ALLOW));
}

static int range_call(int fd, unsigned long call, uint32_t access, uint32_t mode, uint64_t first,
		      uint64_t pages)
{
	struct span_watch_range r = {
		.size = sizeof(r), .access = access, .mode = mode, .first = first, .pages = pages,
	};

	return ioctl(fd, call, &r);
}

static int subscribe(int fd, uint32_t access, uint32_t mode, uint64_t first, uint64_t pages)
{
	return range_call(fd, SPAN_WATCH_SUBSCRIBE, access, mode, first, pages);
}

static struct span_watch_info info_of(int fd)
{
	struct span_watch_info i = { .size = sizeof(i) };

	MUST(ioctl(fd, SPAN_WATCH_GET_INFO, &i));
	return i;
}

static int answer(int fd, uint64_t event, uint32_t verdict, uint32_t flags)
{
	struct span_watch_answer a = { .event = event, .verdict = verdict, .flags = flags };

	return write(fd, &a, sizeof(a));
}

static int poll_for(int fd, int ms)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	MUST(poll(&p, 1, ms));
	return p.revents;
}

static bool next_event(int fd, struct span_watch_event *e)
{
	memset(e, 0, sizeof(*e));
	if (!CHECK(poll_for(fd, SOON) == POLLIN, "no event: %#x", poll_for(fd, 0)))
		return false;
	return CHECK(read(fd, e, sizeof(*e)) == sizeof(*e), "%s", strerror(errno));
}

static bool is_quiet(int fd)
{
	return !(poll_for(fd, A_WHILE) & POLLIN);
}

/* --- the guest's counter --- */

static volatile uint64_t *counter(void)
{
	static volatile uint64_t *page;

	if (!page) {
		void *p = mmap(NULL, PAGE_BYTES, PROT_READ, MAP_SHARED, open_port(), target * PAGE_BYTES);

		MUST(p == MAP_FAILED ? -1 : 0);
		page = p;
	}
	return page;
}

static bool counts(void)
{
	uint64_t old = *counter();
	int ms;

	for (ms = 0; ms < SOON; ms++) {
		if (*counter() != old)
			return true;
		usleep(1000);
	}
	return false;
}

static bool stands(void)
{
	uint64_t old = *counter();

	usleep(A_WHILE * 1000);
	return *counter() == old;
}

static bool event_is(const struct span_watch_event *e, uint32_t access, uint32_t flags)
{
	return CHECK(e->access == access && e->page == target, "access %u of page %#x", e->access, e->page) &&
	       CHECK((e->flags & (flags ?: ~0u)) == flags, "%#x", e->flags) &&
	       CHECK(!e->event == !!flags, "event %llu", (unsigned long long)e->event) &&
	       CHECK(e->source == SPAN_SOURCE_GUEST_L0 && e->vcpu == 0, "source %u, vcpu %u", e->source, e->vcpu) &&
	       CHECK(e->gpa / PAGE_BYTES == target, "%#llx", (unsigned long long)e->gpa) &&
	       CHECK(e->cr3 && e->rip, "no registers") && CHECK(!e->lost) &&
	       CHECK(e->time_ns, "no time");
}

/* --- rights --- */

static void without_rights(void)
{
	struct span_port_watch w = { .size = sizeof(w), .on_timeout = SPAN_ALLOW };
	int fd = open_port();

	CHECK_ERR(ioctl(fd, SPAN_PORT_WATCH, &w), EPERM);
	w.flags = 1;
	CHECK_ERR(ioctl(fd, SPAN_PORT_WATCH, &w), EINVAL);
	CHECK_ERR(ioctl(fd, SPAN_PORT_WATCH, NULL), EFAULT);
}

static void empty_port(void)
{
	struct pollfd p = { .fd = open(DEVICE, O_RDONLY | O_CLOEXEC), .events = POLLPRI };
	int fd;

	/* another test may have left a guest */
	if (p.fd >= 0) {
		MUST(ioctl(p.fd, SPAN_PORT_DETACH));
		MUST(poll(&p, 1, 10000));
		CHECK_ERR(make_watch(p.fd, 0, SPAN_ALLOW), ENODEV);
	}
	fd = MUST(open(DEVICE, O_RDONLY | O_NONBLOCK | O_CLOEXEC));
	CHECK_ERR(make_watch(fd, 0, SPAN_ALLOW), ENODEV);
}

/* --- bad input --- */

static void create_rules(void)
{
	struct { struct span_port_watch w; __u64 more; } big = { .w = { .size = sizeof(big), .on_timeout = SPAN_ALLOW } };
	struct span_port_watch w = { .size = sizeof(w), .on_timeout = SPAN_ALLOW };
	int port = open_port(), fd;

	CHECK_ERR(ioctl(port, SPAN_PORT_WATCH, NULL), EFAULT);
	w.size = sizeof(w) - 1;
	CHECK_ERR(ioctl(port, SPAN_PORT_WATCH, &w), EINVAL);
	w.size = 0;
	CHECK_ERR(ioctl(port, SPAN_PORT_WATCH, &w), EINVAL);
	w.size = 0xffffffff;
	CHECK_ERR(ioctl(port, SPAN_PORT_WATCH, &w), EINVAL);
	w.size = sizeof(w);
	w.flags = 1;
	CHECK_ERR(ioctl(port, SPAN_PORT_WATCH, &w), EINVAL);
	CHECK_ERR(make_watch(port, 0, 0), EINVAL);
	CHECK_ERR(make_watch(port, 0, 3), EINVAL);
	big.more = 1;
	CHECK_ERR(ioctl(port, SPAN_PORT_WATCH, &big), E2BIG);
	big.more = 0;
	fd = MUST(ioctl(port, SPAN_PORT_WATCH, &big));
	CHECK(fcntl(fd, F_GETFD) == FD_CLOEXEC);
	CHECK_ERR(ioctl(fd, SPAN_PORT_WATCH, &w), ENOTTY);
	CHECK_ERR(ioctl(port, SPAN_WATCH_GET_INFO, &w), ENOTTY);
	CHECK_ERR(lseek(fd, 0, SEEK_SET), ESPIPE);
	CHECK_ERR(mmap(NULL, PAGE_BYTES, PROT_READ, MAP_SHARED, fd, 0), ENODEV);
	/* the messages that make watches cannot be sent behind the driver's back */
	struct span_port_call c = { .size = sizeof(c), .type = SPAN_MSG_WATCH_CREATE, .len = 8 };

	CHECK_ERR(ioctl(port, SPAN_PORT_CALL, &c), EINVAL);
	c.type = SPAN_MSG_WATCH_DESTROY;
	CHECK_ERR(ioctl(port, SPAN_PORT_CALL, &c), EINVAL);
}

static void range_rules(void)
{
	static const unsigned long calls[] = { SPAN_WATCH_SUBSCRIBE, SPAN_WATCH_UNSUBSCRIBE, SPAN_WATCH_PROTECT };
	struct { struct span_watch_range r; __u64 more; } big;
	struct span_watch_range r;
	int fd = new_watch();
	uint32_t mode;
	size_t i;

	CHECK_ERR(ioctl(fd, _IO(SPAN_PORT_IO, 0x7f), 0), ENOTTY);
	CHECK_ERR(ioctl(fd, _IO('x', 0x10), 0), ENOTTY);
	for (i = 0; i < 3; i++) {
		mode = i ? 0 : SPAN_MODE_NOTIFY;
		CHECK_ERR(ioctl(fd, calls[i], NULL), EFAULT);
		r = (struct span_watch_range){ .size = sizeof(r) - 1, .access = R, .mode = mode, .pages = 1 };
		CHECK_ERR(ioctl(fd, calls[i], &r), EINVAL);
		r.size = sizeof(r);
		r.flags = 1;
		CHECK_ERR(ioctl(fd, calls[i], &r), EINVAL);
		r.flags = 0;
		big.r = r;
		big.r.size = sizeof(big);
		big.more = 1;
		CHECK_ERR(ioctl(fd, calls[i], &big), E2BIG);
		CHECK_ERR(range_call(fd, calls[i], R, mode, 0, 0), EINVAL);
		CHECK_ERR(range_call(fd, calls[i], R, mode, memory_pages, 1), EINVAL);
		CHECK_ERR(range_call(fd, calls[i], R, mode, 1, memory_pages), EINVAL);
		CHECK_ERR(range_call(fd, calls[i], R, mode, 1, UINT64_MAX), EINVAL);
		CHECK_ERR(range_call(fd, calls[i], R, mode, UINT64_MAX, 2), EINVAL);
		CHECK_ERR(range_call(fd, calls[i], 8, mode, 0, 1), EINVAL);
		CHECK_ERR(range_call(fd, calls[i], R, 4, 0, 1), EINVAL);
	}
	CHECK_ERR(subscribe(fd, 0, SPAN_MODE_NOTIFY, 0, 1), EINVAL);
	CHECK_ERR(subscribe(fd, W, 0, 0, 1), EINVAL);
	CHECK_ERR(subscribe(fd, R, SPAN_MODE_LOG, 0, 1), EINVAL);
	CHECK_ERR(range_call(fd, SPAN_WATCH_UNSUBSCRIBE, W, SPAN_MODE_BLOCK, 0, 1), EINVAL);
	CHECK_ERR(range_call(fd, SPAN_WATCH_PROTECT, R, SPAN_MODE_BLOCK, 0, 1), EINVAL);
	CHECK_ERR(range_call(fd, SPAN_WATCH_PROTECT, W, 0, 0, 1), EINVAL);
	CHECK_ERR(range_call(fd, SPAN_WATCH_PROTECT, X, 0, 0, 1), EINVAL);
	/* nothing of that was half done */
	CHECK(!info_of(fd).pages_subscribed && !info_of(fd).pages_protected && !info_of(fd).pages_logged);
	MUST(subscribe(fd, W, SPAN_MODE_NOTIFY, 2, 3));
	MUST(range_call(fd, SPAN_WATCH_PROTECT, RWX, 0, 0, 1));
	CHECK(info_of(fd).pages_subscribed == 3 && !info_of(fd).pages_protected, "%llu",
	      (unsigned long long)info_of(fd).pages_subscribed);
	MUST(range_call(fd, SPAN_WATCH_UNSUBSCRIBE, W, 0, 3, 1));
	CHECK(info_of(fd).pages_subscribed == 2);
}

static void info_rules(void)
{
	struct span_watch_info i = { .size = sizeof(i) - 1 };
	int fd = new_watch(), other;

	CHECK_ERR(ioctl(fd, SPAN_WATCH_GET_INFO, NULL), EFAULT);
	CHECK_ERR(ioctl(fd, SPAN_WATCH_GET_INFO, &i), EINVAL);
	i.size = sizeof(i);
	i.flags = 1;
	CHECK_ERR(ioctl(fd, SPAN_WATCH_GET_INFO, &i), EINVAL);
	i = info_of(fd);
	CHECK(i.size == sizeof(i) && !i.flags && i.watch && i.on_timeout == SPAN_ALLOW, "watch %u", i.watch);
	CHECK(i.deadline_us && i.deadline_us <= 1000000, "%u", i.deadline_us);
	CHECK(!i.muted && !i.events && !i.notices && !i.timeouts && !i.stale && !i.lost);
	other = MUST(make_watch(open_port(), 2000, SPAN_DENY));
	CHECK(info_of(other).watch != i.watch);
	CHECK(info_of(other).deadline_us == 2000 && info_of(other).on_timeout == SPAN_DENY);
}

static void read_and_write_rules(void)
{
	struct span_watch_event e;
	struct span_watch_answer a[40] = {};
	int fd = new_watch(), ms, i;

	fcntl(fd, F_SETFL, O_NONBLOCK);
	CHECK_ERR(read(fd, &e, sizeof(e)), EAGAIN);
	CHECK_ERR(read(fd, &e, sizeof(e) - 1), EINVAL);
	CHECK_ERR(read(fd, &e, 0), EINVAL);
	CHECK(poll_for(fd, 0) == 0);
	CHECK_ERR(write(fd, a, 0), EINVAL);
	CHECK_ERR(write(fd, a, sizeof(a[0]) - 1), EINVAL);
	CHECK_ERR(write(fd, a, sizeof(a[0]) + 1), EINVAL);
	CHECK_ERR(write(fd, nowhere, sizeof(a[0])), EFAULT);
	CHECK_ERR(answer(fd, 0, SPAN_ALLOW, 0), EINVAL);
	CHECK_ERR(answer(fd, 1, 0, 0), EINVAL);
	CHECK_ERR(answer(fd, 1, 3, 0), EINVAL);
	CHECK_ERR(answer(fd, 1, SPAN_ALLOW, 2), EINVAL);
	CHECK(!info_of(fd).stale);
	/* well-formed ones that answer nothing are counted; more than a batch */
	for (i = 0; i < 40; i++)
		a[i] = (struct span_watch_answer){ .event = 0x123456789, .verdict = SPAN_ALLOW };
	fcntl(fd, F_SETFL, 0);
	CHECK(write(fd, a, sizeof(a)) == sizeof(a));
	for (ms = 0; ms < SOON && info_of(fd).stale < 40; ms += 10)
		usleep(10000);
	CHECK(info_of(fd).stale == 40, "%llu", (unsigned long long)info_of(fd).stale);
	/* more than the ring has room for, at once */
	for (i = 0; i < 20; i++)
		CHECK(write(fd, a, sizeof(a)) == sizeof(a), "%s", strerror(errno));
	for (ms = 0; ms < SOON && info_of(fd).stale < 840; ms += 10)
		usleep(10000);
	CHECK(info_of(fd).stale == 840, "%llu", (unsigned long long)info_of(fd).stale);
}

/* --- events --- */

static void notice(void)
{
	struct span_watch_event e;
	int fd = new_watch(), i;

	for (i = 0; i < 3; i++) {
		MUST(subscribe(fd, W, SPAN_MODE_NOTIFY, target, 1));
		if (!next_event(fd, &e))
			return;
		event_is(&e, W, SPAN_EVENT_F_NOTICE);
		/* the page has left the subscription */
		CHECK(is_quiet(fd) && counts());
		CHECK(info_of(fd).pages_subscribed == 0);
	}
	CHECK(info_of(fd).notices == 3);
}

static void block_and_allow(void)
{
	struct span_watch_event e, e2;
	int fd = new_watch();

	MUST(subscribe(fd, W, SPAN_MODE_BLOCK, target, 1));
	if (!next_event(fd, &e))
		return;
	event_is(&e, W, 0);
	CHECK(stands(), "the write did not wait");
	CHECK(answer(fd, e.event, SPAN_ALLOW, 0) == sizeof(struct span_watch_answer));
	if (!next_event(fd, &e2))
		return;
	CHECK(e2.event != e.event && e2.time_ns > e.time_ns);
	CHECK(stands());
	CHECK(answer(fd, e2.event, SPAN_ALLOW, SPAN_ANSWER_CANCEL) == sizeof(struct span_watch_answer));
	CHECK(counts() && is_quiet(fd));
	CHECK(info_of(fd).events == 2 && info_of(fd).allowed == 2, "%llu events",
	      (unsigned long long)info_of(fd).events);
}

static void deny(void)
{
	uint64_t old;
	struct span_watch_event e;
	int fd = new_watch(), i;

	MUST(subscribe(fd, W, SPAN_MODE_BLOCK, target, 1));
	for (i = 0; i < 5; i++) {
		if (!next_event(fd, &e))
			return;
		old = *counter();
		CHECK(answer(fd, e.event, SPAN_DENY, 0) == sizeof(struct span_watch_answer));
		CHECK(*counter() == old);
	}
	if (!next_event(fd, &e))
		return;
	CHECK(*counter() == old, "a denied write was made");
	CHECK(info_of(fd).denied == 5);
	CHECK(answer(fd, e.event, SPAN_ALLOW, SPAN_ANSWER_CANCEL) == sizeof(struct span_watch_answer));
	CHECK(counts());
}

static void deadline(void)
{
	int fd = MUST(make_watch(open_port(), 5000, SPAN_ALLOW)), ms;

	MUST(subscribe(fd, W, SPAN_MODE_BLOCK, target, 1));
	CHECK(counts(), "the guest waits for ever");
	for (ms = 0; ms < SOON && !info_of(fd).timeouts; ms += 10)
		usleep(10000);
	CHECK(info_of(fd).timeouts && !info_of(fd).allowed);
}

static void two_watches(void)
{
	int a = new_watch(), b = new_watch();
	struct span_watch_event e, f;

	MUST(subscribe(a, W, SPAN_MODE_NOTIFY, target, 1));
	MUST(subscribe(b, W, SPAN_MODE_BLOCK, target, 1));
	if (!next_event(a, &e) || !next_event(b, &f))
		return;
	event_is(&e, W, SPAN_EVENT_F_NOTICE);
	event_is(&f, W, 0);
	CHECK(answer(b, f.event, SPAN_ALLOW, SPAN_ANSWER_CANCEL) == sizeof(struct span_watch_answer));
	CHECK(counts());
	/* both ask, and one says no */
	MUST(subscribe(a, W, SPAN_MODE_BLOCK, target, 1));
	MUST(subscribe(b, W, SPAN_MODE_BLOCK, target, 1));
	if (!next_event(a, &e) || !next_event(b, &f))
		return;
	CHECK(answer(a, e.event, SPAN_ALLOW, 0) > 0);
	CHECK(stands(), "went on before all had answered");
	CHECK(answer(b, f.event, SPAN_DENY, 0) > 0);
	CHECK(stands());
	close(b);
	CHECK(next_event(a, &e) && answer(a, e.event, SPAN_ALLOW, SPAN_ANSWER_CANCEL) > 0);
	CHECK(counts());
}

static void protect(void)
{
	struct span_watch_event e;
	int fd = new_watch();

	MUST(range_call(fd, SPAN_WATCH_PROTECT, R | X, 0, target, 1));
	CHECK(info_of(fd).pages_protected == 1);
	if (!next_event(fd, &e))
		return;
	event_is(&e, W, SPAN_EVENT_F_VIOLATION);
	CHECK(stands() && info_of(fd).violations);
	MUST(range_call(fd, SPAN_WATCH_PROTECT, RWX, 0, target, 1));
	CHECK(counts());
	MUST(range_call(fd, SPAN_WATCH_PROTECT, R, 0, target, 1));
	CHECK(stands());
	close(fd);
	CHECK(counts(), "the protection outlived its watch");
}

/* Also this L1's own kernel, which copies for read(): no oops, and nothing of the page. */
static void own_reads(void)
{
	char got[2 * PAGE_BYTES];
	int fd = new_watch(), port = open_port(), i;
	off_t at = (target + 1) * PAGE_BYTES;
	ssize_t n;

	MUST(range_call(fd, SPAN_WATCH_PROTECT, 0, 0, target + 1, 1));
	memset(got, 0x5a, sizeof(got));
	n = pread(port, got, 256, at);
	if (n < 0)
		CHECK(errno == EFAULT, "%s", strerror(errno));
	else
		for (i = 0; i < n; i++)
			CHECK((unsigned char)got[i] == 0xff, "byte %d is %#x", i, got[i]);
	/* up to the page there is something to read */
	n = pread(port, got, sizeof(got), at - 100);
	CHECK(n == 100 || n == (ssize_t)sizeof(got), "%zd", n);
	/* every call comes back, so no lock was left behind */
	CHECK(info_of(fd).violations);
	MUST(range_call(fd, SPAN_WATCH_PROTECT, RWX, 0, target + 1, 1));
	CHECK(pread(port, got, 256, at) == 256);
}

static void close_ends(void)
{
	struct span_watch_event e;
	int fd = new_watch();

	MUST(subscribe(fd, W, SPAN_MODE_BLOCK, target, 1));
	if (!next_event(fd, &e))
		return;
	close(fd);
	CHECK(counts(), "the write still waits for a watch that is gone");
}

/* The same, when its process is killed. */
static void killed(void)
{
	int pipes[2], status;
	char c;
	pid_t pid;

	MUST(pipe(pipes));
	pid = MUST(fork());
	if (!pid) {
		struct span_watch_event e;
		int fd = new_watch();

		MUST(subscribe(fd, W, SPAN_MODE_BLOCK, target, 1));
		if (next_event(fd, &e))
			MUST(write(pipes[1], "x", 1));
		pause();
	}
	close(pipes[1]);
	CHECK(read(pipes[0], &c, 1) == 1);
	kill(pid, SIGKILL);
	MUST(waitpid(pid, &status, 0));
	CHECK(counts());
}

static void on_signal(int sig)
{
}

static void *read_one(void *fd)
{
	struct span_watch_event *e = calloc(1, sizeof(*e));

	if (read((int)(long)fd, e, sizeof(*e)) == sizeof(*e))
		return e;
	free(e);
	return NULL;
}

static void reader_waits(void)
{
	struct sigaction sa = { .sa_handler = on_signal };
	struct span_watch_event *got, e;
	int fd = new_watch();
	void *result = NULL;
	pthread_t t;

	MUST(pthread_create(&t, NULL, read_one, (void *)(long)fd));
	usleep(10000);
	MUST(subscribe(fd, W, SPAN_MODE_NOTIFY, target, 1));
	pthread_join(t, &result);
	got = result;
	if (CHECK(got))
		event_is(got, W, SPAN_EVENT_F_NOTICE);
	/* a signal ends a read */
	sigaction(SIGUSR1, &sa, NULL);
	if (!fork()) {
		usleep(50000);
		kill(getppid(), SIGUSR1);
		_exit(0);
	}
	CHECK_ERR(read(fd, &e, sizeof(e)), EINTR);
	/* what cannot be delivered stays */
	MUST(subscribe(fd, W, SPAN_MODE_NOTIFY, target, 1));
	CHECK(poll_for(fd, SOON) == POLLIN);
	CHECK_ERR(read(fd, nowhere, sizeof(e)), EFAULT);
	CHECK(read(fd, &e, sizeof(e)) == sizeof(e));
	event_is(&e, W, SPAN_EVENT_F_NOTICE);
}

static void quota(void)
{
	int port = open_port(), fd[MAX_WATCHES + 1], n;

	for (n = 0; n < MAX_WATCHES + 1; n++) {
		fd[n] = make_watch(port, 0, SPAN_ALLOW);
		if (fd[n] < 0)
			break;
	}
	CHECK(n == MAX_WATCHES, "%d watches: %s", n, strerror(errno));
	if (!n)
		return;
	close(fd[n - 1]);
	fd[n - 1] = make_watch(port, 0, SPAN_ALLOW);
	CHECK(fd[n - 1] >= 0, "%s", strerror(errno));
}

/* --- the log --- */

static int fetch(int fd, uint64_t first, uint64_t pages, struct span_watch_range_out *out, uint32_t max,
		 struct span_watch_fetch *f)
{
	*f = (struct span_watch_fetch){
		.size = sizeof(*f), .ranges = (uintptr_t)out, .max = max, .first = first, .pages = pages,
	};
	return ioctl(fd, SPAN_WATCH_LOG_FETCH, f);
}

/* Everything; says whether @page was in it. */
static bool fetch_finds(int fd, uint64_t page, uint64_t *dirty)
{
	static struct span_watch_range_out out[16];
	uint64_t at = 0, sum;
	struct span_watch_fetch f;
	bool found = false;
	uint32_t i;

	*dirty = 0;
	while (at < memory_pages) {
		MUST(fetch(fd, at, memory_pages - at, out, 16, &f));
		for (i = 0, sum = 0; i < f.count; i++) {
			found |= page >= out[i].first && page < out[i].first + out[i].pages;
			sum += out[i].pages;
			CHECK(out[i].first >= at && out[i].first + out[i].pages <= f.next);
		}
		CHECK(sum == f.dirty, "%llu in ranges, %llu said", (unsigned long long)sum,
		      (unsigned long long)f.dirty);
		if (!CHECK(f.next > at && f.next <= memory_pages))
			break;
		*dirty += f.dirty;
		at = f.next;
	}
	return found;
}

static void log_rules(void)
{
	struct span_watch_range_out *out = calloc(SPAN_LOG_MAX_RANGES, sizeof(*out));
	struct span_watch_fetch f;
	int fd = new_watch();

	CHECK_ERR(ioctl(fd, SPAN_WATCH_LOG_FETCH, NULL), EFAULT);
	CHECK_ERR(fetch(fd, 0, 1, out, 0, &f), EINVAL);
	CHECK_ERR(fetch(fd, 0, 1, out, SPAN_LOG_MAX_RANGES + 1, &f), EINVAL);
	CHECK_ERR(fetch(fd, 0, 0, out, 1, &f), EINVAL);
	CHECK_ERR(fetch(fd, memory_pages, 1, out, 1, &f), EINVAL);
	CHECK_ERR(fetch(fd, 1, memory_pages, out, 1, &f), EINVAL);
	/* a call that fails leaves it as it was */
	CHECK(f.size == sizeof(f) && f.first == 1 && f.pages == memory_pages && f.max == 1 && !f.count,
	      "size %u", f.size);
	f.size = sizeof(f) - 1;
	CHECK_ERR(ioctl(fd, SPAN_WATCH_LOG_FETCH, &f), EINVAL);
	f.size = sizeof(f);
	f.flags = 1;
	CHECK_ERR(ioctl(fd, SPAN_WATCH_LOG_FETCH, &f), EINVAL);
	/* all pages of a new log are in it; what cannot be delivered is not lost */
	MUST(subscribe(fd, W, SPAN_MODE_LOG, target, 2));
	CHECK(info_of(fd).pages_logged == 2);
	CHECK_ERR(fetch(fd, target, 2, NULL, 1, &f), EFAULT);
	CHECK_ERR(fetch(fd, target, 2, (void *)-16ul, 4, &f), EFAULT);
	MUST(fetch(fd, target, 2, out, SPAN_LOG_MAX_RANGES, &f));
	CHECK(f.dirty == 2 && f.count == 1 && f.next == target + 2, "%llu", (unsigned long long)f.dirty);
	CHECK(out[0].first == target && out[0].pages == 2);
	free(out);
}

static void log_sees_writes(void)
{
	uint64_t dirty, all;
	int fd = new_watch(), i;

	MUST(subscribe(fd, W, SPAN_MODE_LOG, 0, memory_pages));
	CHECK(fetch_finds(fd, target, &all) && all == memory_pages, "%llu", (unsigned long long)all);
	for (i = 0; i < 5; i++) {
		CHECK(counts());
		CHECK(fetch_finds(fd, target, &dirty), "round %d: a write is missing", i);
		CHECK(dirty < memory_pages / 4, "%llu of %llu pages", (unsigned long long)dirty,
		      (unsigned long long)memory_pages);
	}
	MUST(range_call(fd, SPAN_WATCH_UNSUBSCRIBE, W, 0, target, 1));
	CHECK(counts() && !fetch_finds(fd, target, &dirty));
	CHECK(info_of(fd).pages_logged == memory_pages - 1);
}

/* --- the end of the attachment --- */

static struct {
	int port, waiting, idle;
	pthread_t reader;
} kept;

static void *read_until_end(void *fd)
{
	struct span_watch_event e;

	while (read((int)(long)fd, &e, sizeof(e)) > 0)
		;
	return (void *)(long)errno;
}

static void keep(void)
{
	kept.port = open_port();
	kept.waiting = new_watch();
	kept.idle = new_watch();
	/* a reader sleeps, and an access of the guest waits for an answer */
	MUST(pthread_create(&kept.reader, NULL, read_until_end, (void *)(long)kept.waiting));
	MUST(subscribe(kept.idle, W, SPAN_MODE_BLOCK, target, 1));
	CHECK(poll_for(kept.idle, SOON) == POLLIN);
	printf("READY\n");
	fflush(stdout);
	while (!(poll_for(kept.idle, 60000) & POLLHUP))
		usleep(1000);
}

static long long now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000ll + ts.tv_nsec / 1000000;
}

/* In one process: the reader is a thread. */
static void all_ends(void)
{
	struct span_watch_info i = { .size = sizeof(i) };
	struct span_watch_range_out out;
	struct span_watch_fetch f;
	struct span_watch_event e;
	void *error = NULL;
	long long start;

	keep();
	pthread_join(kept.reader, &error);
	CHECK((long)error == ENODEV, "%s", strerror((long)error));
	CHECK(poll_for(kept.waiting, 0) == POLLHUP, "%#x", poll_for(kept.waiting, 0));
	/* also the event that was not read */
	CHECK_ERR(read(kept.idle, &e, sizeof(e)), ENODEV);
	CHECK_ERR(answer(kept.idle, 1, SPAN_ALLOW, 0), ENODEV);
	CHECK_ERR(ioctl(kept.idle, SPAN_WATCH_GET_INFO, &i), ENODEV);
	CHECK_ERR(subscribe(kept.idle, W, SPAN_MODE_NOTIFY, 0, 1), ENODEV);
	CHECK_ERR(range_call(kept.idle, SPAN_WATCH_PROTECT, R, 0, 0, 1), ENODEV);
	CHECK_ERR(fetch(kept.idle, 0, 1, &out, 1, &f), ENODEV);
	CHECK_ERR(make_watch(kept.port, 0, SPAN_ALLOW), ENODEV);
	start = now_ms();
	close(kept.idle);
	close(kept.waiting);
	CHECK(now_ms() - start < 1000, "closing took %lld ms", now_ms() - start);
}

static const struct ktap_test empty_tests[] = {
	{ "empty_port", empty_port },
};

static const struct ktap_test none_tests[] = {
	{ "without_rights", without_rights },
};

static const struct ktap_test all_tests[] = {
	{ "create_rules", create_rules },
	{ "range_rules", range_rules },
	{ "info_rules", info_rules },
	{ "read_and_write_rules", read_and_write_rules },
	{ "quota", quota },
	{ "notice", notice },
	{ "reader_waits", reader_waits },
	{ "block_and_allow", block_and_allow },
	{ "deny", deny },
	{ "deadline", deadline },
	{ "two_watches", two_watches },
	{ "protect", protect },
	{ "own_reads", own_reads },
	{ "close_ends", close_ends },
	{ "killed", killed },
	{ "log_rules", log_rules },
	{ "log_sees_writes", log_sees_writes },
};

static const struct ktap_test end_tests[] = {
	{ "all_ends", all_ends },
};

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "";

	if (argc == 2 && !strcmp(mode, "--empty"))
		return KTAP_RUN(empty_tests);
	if (argc == 2 && !strcmp(mode, "--none"))
		return KTAP_RUN(none_tests);
	if (argc == 3)
		target = strtoull(argv[2], NULL, 0);
	if (argc == 3 && !strcmp(mode, "--all"))
		return KTAP_RUN(all_tests);
	if (argc == 3 && !strcmp(mode, "--end"))
		return KTAP_RUN(end_tests);
	fprintf(stderr, "usage: span_port_watch --empty | --none | --all PAGE | --end PAGE\n");
	return 2;
}
