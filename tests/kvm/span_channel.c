// SPDX-License-Identifier: GPL-2.0
/*
 * Shared pages, doorbell and byte stream of a member: every call with every wrong
 * input that the header names, a tiny VM that rings, and a stream against an L1
 * that this program plays on the mapped pages, well-behaved and not.
 *
 * test: mem/channel timeout=400 tags=fast,debug
 */
#include "badcall.h"
#include "streamlib.h"
#include "watchlib.h"

#include <stddef.h>
#include <sys/eventfd.h>

#define BELL_GPA	0xd0000034u	/* nothing is there */
#define VCPU_RIGHT	KVM_SPAN_RIGHT_VCPU
#define MMIO_EXIT	(TINY_EXIT + KVM_EXIT_MMIO)

TINY_CODE(ring_on, "1: movl %eax, (%ebx); decl %ecx; jnz 1b");

static struct guest g;

/* The L1: a tiny VM, the shared pages, and what its driver would do. */
struct l1 {
	int fd, event_fd;
	uint32_t id;
	struct tiny_vm vm;
	uint8_t *pages;
	struct span_stream_end end;
	uint32_t number;
	uint64_t sent, got;
};

static int share_call(int fd, int event_fd)
{
	struct kvm_span_share s = { .size = sizeof(s), .event_fd = event_fd };

	return ioctl(fd, KVM_SPAN_SHARE, &s);
}

static int bell_call(int fd, uint32_t flags, uint64_t gpa)
{
	struct kvm_span_doorbell d = { .size = sizeof(d), .flags = flags, .gpa = gpa };

	return ioctl(fd, KVM_SPAN_DOORBELL, &d);
}

static int channel_call(int span, uint32_t id)
{
	struct kvm_span_channel c = { .size = sizeof(c), .member = id };

	return ioctl(span, KVM_SPAN_CHANNEL, &c);
}

static void *share_map_at(int fd, uint64_t offset, size_t bytes, int prot, int flags)
{
	return mmap(NULL, bytes, prot, flags, fd, offset);
}

static uint8_t *share_map(int fd)
{
	return share_map_at(fd, KVM_SPAN_SHARE_OFFSET, SPAN_SHARE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED);
}

/* Granted, joined to the VM that it has, without shared pages. */
static void l1_join(struct l1 *l1, const char *name, uint32_t rights)
{
	l1->fd = MUST(grant_call(g.span, name, 0, ACCESS_RW, rights, 0, &l1->id));
	MUST(span_join(l1->fd, l1->vm.vm));
}

static void l1_share(struct l1 *l1)
{
	l1->event_fd = MUST(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
	MUST(share_call(l1->fd, l1->event_fd));
	l1->pages = share_map(l1->fd);
	MUST(l1->pages == MAP_FAILED ? -1 : 0);
	span_stream_init(&l1->end, l1->pages, false);
	MUST(bell_call(l1->fd, 0, BELL_GPA));
}

static void l1_new(struct l1 *l1, const char *name)
{
	memset(l1, 0, sizeof(*l1));
	tiny_init_with(&l1->vm, TINY_IRQCHIP);
	l1_join(l1, name, VCPU_RIGHT);
	l1_share(l1);
	l1->number = 100;
}

static int l1_store(struct l1 *l1, uint32_t gpa)
{
	return TINY_RUN(&l1->vm, store, .eax = 1, .ebx = gpa);
}

static void l1_ring(struct l1 *l1)
{
	CHECK(l1_store(l1, BELL_GPA) == TINY_DONE, "the doorbell was not answered");
}

/* The interrupt: whether one came, within the time. */
static bool l1_signalled(struct l1 *l1, int ms)
{
	struct pollfd p = { .fd = l1->event_fd, .events = POLLIN };
	uint64_t n;

	if (poll(&p, 1, ms) != 1)
		return false;
	MUST(read(l1->event_fd, &n, 8));
	return true;
}

static void l1_look(struct l1 *l1)
{
	if (span_stream_look(&l1->end))
		l1_ring(l1);
}

static void l1_open(struct l1 *l1)
{
	l1->sent = l1->got = 0;
	span_stream_open(&l1->end, ++l1->number);
	span_stream_look(&l1->end);
	l1_ring(l1);
	l1_look(l1);
}

static void l1_close(struct l1 *l1)
{
	span_stream_close(&l1->end);
	l1_ring(l1);
}

/* A stream that both have opened, L0's end. */
static int pair(struct l1 *l1)
{
	int fd = MUST(channel_call(g.span, l1->id));

	l1_open(l1);
	CHECK(l1->end.state == SPAN_STREAM_PAIRED, "state %d", l1->end.state);
	return fd;
}

static void nonblocking(int fd, bool on)
{
	MUST(fcntl(fd, F_SETFL, on ? O_NONBLOCK : 0));
}

static short polled(int fd, int ms)
{
	struct pollfd p = { .fd = fd, .events = POLLIN | POLLOUT };

	return poll(&p, 1, ms) == 1 ? p.revents : 0;
}

static void fill_pattern(uint8_t *buf, uint32_t number, uint64_t at, size_t n)
{
	size_t i;

	for (i = 0; i < n; i++)
		buf[i] = stream_byte(number, at + i);
}

static bool pattern(const uint8_t *buf, uint32_t number, uint64_t at, size_t n)
{
	size_t i;

	for (i = 0; i < n; i++)
		if (buf[i] != stream_byte(number, at + i))
			return CHECK(false, "byte %llu is %#x, not %#x", (unsigned long long)(at + i), buf[i],
				     stream_byte(number, at + i));
	return true;
}

/* ---- the calls ---- */

static void t_structures(void)
{
	struct kvm_span_share share = { .size = sizeof(share), .event_fd = -1 };
	struct kvm_span_doorbell bell = { .size = sizeof(bell), .gpa = BELL_GPA };
	struct kvm_span_channel channel = { .size = sizeof(channel) };
	struct l1 l1 = {};

	guest_new(&g, 0);
	tiny_init_with(&l1.vm, TINY_IRQCHIP);
	l1_join(&l1, "L1", VCPU_RIGHT);
	channel.member = l1.id;
	call_rules(&(struct call_rules){ .fd = l1.fd, .cmd = KVM_SPAN_SHARE, .good = &share, .n = sizeof(share) });
	call_rules(&(struct call_rules){ .fd = l1.fd, .cmd = KVM_SPAN_DOORBELL, .good = &bell, .n = sizeof(bell),
					 .flags = KVM_SPAN_DOORBELL_REMOVE });
	call_rules(&(struct call_rules){ .fd = g.span, .cmd = KVM_SPAN_CHANNEL, .good = &channel,
					 .n = sizeof(channel), .makes_fd = true });
	share.pad = 1;
	CHECK_ERR(ioctl(l1.fd, KVM_SPAN_SHARE, &share), EINVAL);
	channel.pad = 1;
	CHECK_ERR(ioctl(g.span, KVM_SPAN_CHANNEL, &channel), EINVAL);
}

static void t_wrong_fd(void)
{
	char buf[64] = {};
	int dev = span_dev(), channel;
	struct l1 l1;

	guest_new(&g, 0);
	l1_new(&l1, "L1");
	channel = MUST(channel_call(g.span, l1.id));
	CHECK_ERR(ioctl(dev, KVM_SPAN_SHARE, buf), ENOTTY);
	CHECK_ERR(ioctl(g.span, KVM_SPAN_SHARE, buf), ENOTTY);
	CHECK_ERR(ioctl(dev, KVM_SPAN_DOORBELL, buf), ENOTTY);
	CHECK_ERR(ioctl(g.span, KVM_SPAN_DOORBELL, buf), ENOTTY);
	CHECK_ERR(ioctl(dev, KVM_SPAN_CHANNEL, buf), ENOTTY);
	CHECK_ERR(ioctl(l1.fd, KVM_SPAN_CHANNEL, buf), ENOTTY);
	CHECK_ERR(ioctl(channel, KVM_SPAN_SHARE, buf), ENOTTY);
	CHECK_ERR(ioctl(channel, KVM_SPAN_GET_MEMBER, buf), ENOTTY);
	CHECK_ERR(lseek(channel, 0, SEEK_SET), ESPIPE);
	CHECK_ERR((long)mmap(NULL, PAGE, PROT_READ, MAP_SHARED, channel, 0), ENODEV);
	CHECK(fcntl(channel, F_GETFD) == FD_CLOEXEC, "not close-on-exec");
}

static void t_rights(void)
{
	struct kvm_span_info info = { .size = sizeof(info) };
	struct l1 l1 = {}, watch = {};
	int event, pipe_fd[2];

	guest_new(&g, 0);
	MUST(ioctl(span_dev(), KVM_SPAN_GET_INFO, &info));
	CHECK(info.features & KVM_SPAN_FEATURE_CHANNEL, "features %#llx", info.features);
	CHECK_ERR(grant_call(g.span, "W", KVM_SPAN_GRANT_WATCHER, 0, VCPU_RIGHT, 0, NULL), EINVAL);
	CHECK_ERR(grant_call(g.span, "X", 0, ACCESS_RW, VCPU_RIGHT << 1, 0, NULL), EINVAL);

	tiny_init_with(&l1.vm, TINY_IRQCHIP);
	tiny_init_with(&watch.vm, TINY_IRQCHIP);
	l1_join(&watch, "watches", ALL_RIGHTS);
	CHECK_ERR(share_call(watch.fd, -1), EPERM);
	CHECK_ERR(channel_call(g.span, watch.id), EPERM);

	l1.fd = MUST(grant_call(g.span, "L1", 0, ACCESS_RW, VCPU_RIGHT, 0, &l1.id));
	CHECK_ERR(share_call(l1.fd, -1), EACCES);
	CHECK_ERR(channel_call(g.span, l1.id), EACCES);
	MUST(span_join(l1.fd, l1.vm.vm));
	CHECK_ERR(bell_call(l1.fd, 0, BELL_GPA), EACCES);
	CHECK_ERR(channel_call(g.span, l1.id), EAGAIN);
	CHECK_ERR(channel_call(g.span, 77), ENOENT);
	/* not for watches */
	CHECK_ERR(watch_create(l1.fd, 0, ALLOW, NULL), EPERM);
	CHECK_ERR(ring_call(l1.fd, -1, -1), EPERM);

	MUST(pipe(pipe_fd));
	CHECK_ERR(share_call(l1.fd, 250), EBADF);
	CHECK_ERR(share_call(l1.fd, -2), EBADF);
	CHECK_ERR(share_call(l1.fd, pipe_fd[0]), EINVAL);
	event = MUST(eventfd(0, 0));
	MUST(share_call(l1.fd, event));
	CHECK_ERR(share_call(l1.fd, event), EBUSY);
	CHECK_ERR(bell_call(l1.fd, 0, BELL_GPA + 1), EINVAL);
	CHECK_ERR(bell_call(l1.fd, 0, BELL_GPA + 2), EINVAL);
	MUST(bell_call(l1.fd, KVM_SPAN_DOORBELL_REMOVE, 0));	/* there is none: nothing to do */

	MUST(span_revoke(g.span, l1.id));
	CHECK_ERR(share_call(l1.fd, event), EACCES);
	CHECK_ERR(bell_call(l1.fd, 0, BELL_GPA), EACCES);
	MUST(bell_call(l1.fd, KVM_SPAN_DOORBELL_REMOVE, 0));
	CHECK_ERR(channel_call(g.span, l1.id), EACCES);
}

/* Whole, shared, by the process that made them. */
static void t_mmap(void)
{
	int rw = PROT_READ | PROT_WRITE, status;
	uint64_t at = KVM_SPAN_SHARE_OFFSET;
	struct l1 l1 = {};
	uint8_t *p;
	pid_t pid;

	guest_new(&g, 0);
	tiny_init_with(&l1.vm, TINY_IRQCHIP);
	l1_join(&l1, "L1", VCPU_RIGHT);
	CHECK_ERR((long)share_map(l1.fd), EACCES);
	l1_share(&l1);
	CHECK_ERR((long)share_map_at(l1.fd, at, SPAN_SHARE_BYTES - PAGE, rw, MAP_SHARED), EINVAL);
	CHECK_ERR((long)share_map_at(l1.fd, at, SPAN_SHARE_BYTES + PAGE, rw, MAP_SHARED), EINVAL);
	CHECK_ERR((long)share_map_at(l1.fd, at + PAGE, SPAN_SHARE_BYTES, rw, MAP_SHARED), EINVAL);
	CHECK_ERR((long)share_map_at(l1.fd, at, SPAN_SHARE_BYTES, rw, MAP_PRIVATE), EINVAL);
	CHECK_ERR((long)share_map_at(l1.fd, at, SPAN_SHARE_BYTES, rw | PROT_EXEC, MAP_SHARED), EACCES);
	CHECK_ERR(mprotect(l1.pages, PAGE, PROT_READ | PROT_EXEC), EACCES);
	CHECK_ERR((long)mremap(l1.pages, SPAN_SHARE_BYTES, SPAN_SHARE_BYTES + PAGE, MREMAP_MAYMOVE), EFAULT);
	/* somebody else's, with the descriptor */
	fflush(stdout);
	pid = MUST(fork());
	if (!pid) {
		errno = 0;
		_exit(share_map(l1.fd) == MAP_FAILED && errno == EPERM && share_call(l1.fd, -1) == -1 &&
		      bell_call(l1.fd, 0, BELL_GPA) == -1 && errno == EPERM ? 0 : 1);
	}
	MUST(waitpid(pid, &status, 0));
	CHECK(status == 0, "another process got them: %#x", status);
	/* twice is the same memory */
	p = share_map(l1.fd);
	p[5] = 77;
	CHECK(l1.pages[5] == 77, "%d", l1.pages[5]);
	/* after a revoke there are no new mappings, and the old one is memory nobody looks at */
	MUST(span_revoke(g.span, l1.id));
	CHECK_ERR((long)share_map(l1.fd), EACCES);
	CHECK(touch(l1.pages, true) == 0 && touch(p + SPAN_SHARE_BYTES - 1, true) == 0, "gone");
	close(l1.fd);
	CHECK(touch(l1.pages, true) == 0, "gone with the member");
}

/* ---- the doorbell ---- */

static void t_doorbell(void)
{
	uint32_t other = BELL_GPA + 0x1000;
	struct l1 l1;
	int i;

	guest_new(&g, 0);
	l1_new(&l1, "L1");
	/* the first is emulated, those that follow take the short way */
	for (i = 0; i < 4; i++)
		CHECK(l1_store(&l1, BELL_GPA) == TINY_DONE, "store %d", i);
	CHECK(l1_store(&l1, BELL_GPA + 4) == MMIO_EXIT, "beside it");
	MUST(bell_call(l1.fd, 0, other));
	CHECK(l1_store(&l1, BELL_GPA) == MMIO_EXIT, "where it was");
	CHECK(l1_store(&l1, other) == TINY_DONE, "where it is");
	MUST(bell_call(l1.fd, 0, other));
	CHECK(l1_store(&l1, other) == TINY_DONE, "the same again");
	MUST(bell_call(l1.fd, KVM_SPAN_DOORBELL_REMOVE, other));
	CHECK(l1_store(&l1, other) == MMIO_EXIT, "removed");
	MUST(bell_call(l1.fd, 0, BELL_GPA));
	CHECK(l1_store(&l1, BELL_GPA) == TINY_DONE, "set again");
	MUST(span_revoke(g.span, l1.id));
	CHECK(l1_store(&l1, BELL_GPA) == MMIO_EXIT, "of a revoked member");
	close(l1.fd);
	CHECK(l1_store(&l1, BELL_GPA) == MMIO_EXIT, "of a member that left");
}

/* The VM is a member once more while the old doorbell is still there. */
static void t_rejoin(void)
{
	uint8_t byte = 0;
	struct l1 l1;
	int fd;

	guest_new(&g, 0);
	l1_new(&l1, "L1");
	MUST(span_revoke(g.span, l1.id));
	l1_join(&l1, "again", VCPU_RIGHT);
	l1_share(&l1);
	fd = pair(&l1);
	MUST(write(fd, "x", 1));
	CHECK(l1_signalled(&l1, SOON), "no interrupt");
	l1_look(&l1);
	CHECK(span_stream_unread(&l1.end) == 1 && l1.end.in_bytes[l1.end.tail % SPAN_STREAM_BYTES] == 'x', "not there");
	l1.end.out_bytes[l1.end.head % SPAN_STREAM_BYTES] = 'y';
	{
		bool ring;

		CHECK(span_stream_put(&l1.end, 1, &ring) && ring, "no ring");
	}
	l1_ring(&l1);
	CHECK(read(fd, &byte, 1) == 1 && byte == 'y', "%d", byte);
}

/* ---- the stream ---- */

static void t_open_close(void)
{
	void *volatile nowhere = (void *)16;
	uint8_t buf[100];
	struct l1 l1;
	bool ring;
	int fd;

	guest_new(&g, 0);
	l1_new(&l1, "L1");
	fd = MUST(channel_call(g.span, l1.id));
	CHECK_ERR(channel_call(g.span, l1.id), EBUSY);
	nonblocking(fd, true);
	CHECK(polled(fd, 0) == 0, "%#x", polled(fd, 0));
	CHECK_ERR(read(fd, buf, 1), EAGAIN);
	CHECK_ERR(write(fd, buf, 1), EAGAIN);
	CHECK(read(fd, buf, 0) == 0 && write(fd, buf, 0) == 0, "of nothing");
	l1_open(&l1);
	CHECK(polled(fd, 0) == POLLOUT, "%#x", polled(fd, 0));
	CHECK(write(fd, "hello", 5) == 5, "write");
	l1_look(&l1);
	CHECK(span_stream_unread(&l1.end) == 5, "%d", span_stream_unread(&l1.end));
	CHECK(stream_fill(&l1.end, &l1.sent, 50, &ring) == 50 && ring, "fill");
	l1_ring(&l1);
	CHECK(polled(fd, 0) == (POLLIN | POLLOUT), "%#x", polled(fd, 0));
	l1_close(&l1);
	/* what was written before comes out, then the end */
	CHECK(polled(fd, 0) & POLLHUP, "%#x", polled(fd, 0));
	CHECK_ERR(write(fd, buf, 1), EPIPE);
	CHECK(read(fd, buf, 30) == 30 && read(fd, buf + 30, 70) == 20 && pattern(buf, l1.number, 0, 50), "the rest");
	CHECK(read(fd, buf, 1) == 0 && read(fd, buf, 1) == 0, "no end");
	/* one that is opened anew does not wake the dead */
	l1_open(&l1);
	CHECK(l1.end.state == SPAN_STREAM_WAITING && read(fd, buf, 1) == 0, "paired with an old one");
	close(fd);
	fd = MUST(channel_call(g.span, l1.id));
	l1_look(&l1);
	CHECK(l1.end.state == SPAN_STREAM_PAIRED && polled(fd, 0) == POLLOUT, "%d", l1.end.state);
	/* the other way round */
	CHECK(write(fd, "bye", 3) == 3, "write");
	close(fd);
	CHECK(l1_signalled(&l1, SOON), "not told of the end");
	l1_look(&l1);
	CHECK(l1.end.state == SPAN_STREAM_ENDED && span_stream_unread(&l1.end) == 3, "%d", l1.end.state);
	/* L0 waits again while the L1 is still at the old one */
	fd = MUST(channel_call(g.span, l1.id));
	nonblocking(fd, true);
	CHECK(polled(fd, 0) == 0, "%#x", polled(fd, 0));
	CHECK(l1.end.state == SPAN_STREAM_ENDED && span_stream_unread(&l1.end) == 3, "disturbed");
	l1_close(&l1);
	CHECK(polled(fd, 0) == 0, "the first to come was not the one to go");
	l1_open(&l1);
	CHECK(l1.end.state == SPAN_STREAM_PAIRED && polled(fd, 0) == POLLOUT, "%d", l1.end.state);
	/* pointers */
	CHECK_ERR(write(fd, nowhere, 10), EFAULT);
	stream_fill(&l1.end, &l1.sent, 10, &ring);
	CHECK_ERR(read(fd, nowhere, 10), EFAULT);
	CHECK(read(fd, buf, 10) == 10, "lost by a wrong pointer");
}

/* One side of L0's descriptor; the other thread does the other. */
struct pump {
	int fd;
	uint32_t number;	/* writer: our pattern; reader: the L1's */
	uint64_t bytes;
	bool ok;
};

static void *pump_write(void *arg)
{
	static uint8_t buf[100000];
	struct pump *p = arg;
	unsigned int seed = 3;
	uint64_t at = 0;

	p->ok = true;
	while (at < p->bytes) {
		size_t n = 1 + rand_r(&seed) % (rand_r(&seed) % 4 ? 3000 : sizeof(buf));
		ssize_t r;

		if (n > p->bytes - at)
			n = p->bytes - at;
		fill_pattern(buf, p->number, at, n);
		r = write(p->fd, buf, n);
		if (r != (ssize_t)n) {
			p->ok = CHECK(false, "write of %zu: %zd %s", n, r, strerror(errno));
			break;
		}
		at += r;
	}
	return NULL;
}

static void *pump_read(void *arg)
{
	static uint8_t buf[100000];
	struct pump *p = arg;
	unsigned int seed = 4;
	uint64_t at = 0;

	p->ok = true;
	while (at < p->bytes && p->ok) {
		size_t n = 1 + rand_r(&seed) % (rand_r(&seed) % 4 ? 3000 : sizeof(buf));
		ssize_t r = read(p->fd, buf, n);

		if (r <= 0 || r > (ssize_t)n) {
			p->ok = CHECK(false, "read at %llu: %zd %s", (unsigned long long)at, r, strerror(errno));
			break;
		}
		p->ok = pattern(buf, p->number, at, r);
		at += r;
	}
	return NULL;
}

/* The L1's driver, until both ways are through. L0's pattern is of number 0 in every stream. */
static bool l1_pump(struct l1 *l1, uint64_t bytes)
{
	unsigned int seed = 5, idle = 0;
	bool ring;
	int n, m;

	while (l1->got < bytes || l1->sent < bytes) {
		uint32_t most = 1 + rand_r(&seed) % 90000, peer = l1->end.peer;

		l1_look(l1);
		l1->end.peer = 0;
		n = stream_drain(&l1->end, &l1->got, most, &ring);
		l1->end.peer = peer;
		if (ring)
			l1_ring(l1);
		if (!CHECK(n == -EAGAIN || n > 0, "drain: %s", strerror(-n)))
			return false;
		most = min_t(uint64_t, most, bytes - l1->sent);
		m = most ? stream_fill(&l1->end, &l1->sent, most, &ring) : -EAGAIN;
		if (m > 0 && ring)
			l1_ring(l1);
		if (!CHECK(m == -EAGAIN || m > 0, "fill: %s", strerror(-m)))
			return false;
		if (n > 0 || m > 0) {
			idle = 0;
			continue;
		}
		/* A signal may be of something that was seen before; silence may not. */
		if (!CHECK(l1_signalled(l1, SOON) && ++idle < 100, "slept for ever at %llu sent, %llu taken",
			   (unsigned long long)l1->sent, (unsigned long long)l1->got))
			return false;
	}
	return true;
}

static void t_integrity(void)
{
	struct pump out = { .bytes = 1 << 20 }, in = { .bytes = 1 << 20 };
	pthread_t w, r;
	struct l1 l1;

	guest_new(&g, 0);
	l1_new(&l1, "L1");
	out.fd = in.fd = pair(&l1);
	in.number = l1.number;
	pthread_create(&w, NULL, pump_write, &out);
	pthread_create(&r, NULL, pump_read, &in);
	if (!l1_pump(&l1, out.bytes))
		close(out.fd);
	pthread_join(w, NULL);
	pthread_join(r, NULL);
	CHECK(out.ok && in.ok, "see above");
}

/* Partial writes, a full ring, and a writer who waits for room. */
static void t_full(void)
{
	static uint8_t buf[SPAN_STREAM_BYTES + 100];
	struct pump out = { .bytes = 200000 };
	struct l1 l1;
	pthread_t w;
	bool ring;
	int fd;

	guest_new(&g, 0);
	l1_new(&l1, "L1");
	fd = pair(&l1);
	nonblocking(fd, true);
	fill_pattern(buf, l1.end.peer, 0, sizeof(buf));
	CHECK(write(fd, buf, sizeof(buf)) == SPAN_STREAM_BYTES, "not as much as there is room for");
	CHECK_ERR(write(fd, buf, 1), EAGAIN);
	CHECK(polled(fd, 0) == 0, "%#x", polled(fd, 0));
	l1_look(&l1);
	CHECK(stream_drain(&l1.end, &l1.got, 1, &ring) == 1 && ring, "a writer may wait for this");
	l1_ring(&l1);
	CHECK(polled(fd, 0) == POLLOUT && write(fd, buf + SPAN_STREAM_BYTES, 2) == 1, "room for one");
	CHECK(stream_drain(&l1.end, &l1.got, SPAN_STREAM_BYTES - 1, &ring) == SPAN_STREAM_BYTES - 1, "pattern");
	while (stream_drain(&l1.end, &l1.got, 1, &ring) == 1)
		;
	nonblocking(fd, false);
	out.fd = fd;
	pthread_create(&w, NULL, pump_write, &out);
	l1.got = 0;
	l1.end.peer = 0;
	while (l1.got < out.bytes && CHECK(l1_signalled(&l1, SOON), "at %llu", (unsigned long long)l1.got))
		while (stream_drain(&l1.end, &l1.got, 7000, &ring) > 0)
			if (ring)
				l1_ring(&l1);
	pthread_join(w, NULL);
	CHECK(out.ok && l1.got == out.bytes, "%llu", (unsigned long long)l1.got);
}

/* Words that cannot be, and what follows from them: for the descriptor, for good. */
static void t_impossible(void)
{
	uint8_t buf[10];
	struct l1 l1;
	int fd, i;

	guest_new(&g, 0);
	l1_new(&l1, "L1");
	for (i = 0; i < 2; i++) {
		fd = pair(&l1);
		nonblocking(fd, true);
		if (i)
			l1.end.in->tail += SPAN_STREAM_BYTES + 1;	/* more taken than given */
		else
			l1.end.out->head = l1.end.head + SPAN_STREAM_BYTES + 1;
		if (i)
			CHECK_ERR(write(fd, buf, 1), EPROTO);
		CHECK_ERR(read(fd, buf, 1), EPROTO);
		CHECK_ERR(write(fd, buf, 1), EPROTO);
		CHECK(polled(fd, 0) & POLLERR, "%#x", polled(fd, 0));
		l1.end.out->head = l1.end.head;
		l1.end.in->tail = l1.end.tail;
		l1_ring(&l1);
		CHECK_ERR(read(fd, buf, 1), EPROTO);
		close(fd);
		l1_close(&l1);
	}
	fd = pair(&l1);
	CHECK(write(fd, "ok", 2) == 2, "the next stream");
}

/* Random words, again and again: only the errors that the header names, and it never hangs. */
static void t_random_words(void)
{
	static const unsigned int words[] = { 0, 4, 64, 68 };
	unsigned int i, j, seed = 6, errors[4] = {};
	uint8_t buf[5000];
	struct l1 l1;
	int fd;

	guest_new(&g, 0);
	l1_new(&l1, "L1");
	fd = pair(&l1);
	nonblocking(fd, true);
	for (i = 0; i < 1000; i++) {
		uint32_t *stream = (uint32_t *)(l1.pages + (rand_r(&seed) % 2 ? SPAN_STREAM_TO_L0 : SPAN_STREAM_TO_L1));
		uint32_t *word = stream + words[rand_r(&seed) % 4] / 4;
		ssize_t r[2];

		*word = rand_r(&seed) % 3 ? *word + rand_r(&seed) % 100000 : (uint32_t)rand_r(&seed) << 4;
		if (rand_r(&seed) % 8 == 0)
			l1_ring(&l1);
		r[0] = read(fd, buf, 1 + rand_r(&seed) % sizeof(buf));
		CHECK(r[0] >= 0 || errno == EAGAIN || errno == EPROTO, "read: %s", strerror(errno));
		errors[r[0] >= 0 ? 0 : errno == EPROTO ? 1 : 2]++;
		r[1] = write(fd, buf, 1 + rand_r(&seed) % sizeof(buf));
		CHECK(r[1] > 0 || errno == EAGAIN || errno == EPROTO || errno == EPIPE, "write: %s", strerror(errno));
		errors[3] += r[1] > 0;
		polled(fd, 0);
		if (rand_r(&seed) % 4 == 0) {
			close(fd);
			l1_close(&l1);
			fd = pair(&l1);
			nonblocking(fd, true);
		}
	}
	ktap_note("reads %u, EPROTO %u, EAGAIN %u, writes %u", errors[0], errors[1], errors[2], errors[3]);
	CHECK(errors[0] && errors[1] && errors[2] && errors[3], "some kind never happened");
	/* all pages, while nobody looks what is in them */
	for (i = 0; i < 8; i++) {
		for (j = 0; j < SPAN_SHARE_BYTES; j += 4)
			*(uint32_t *)(l1.pages + j) = rand_r(&seed) << 3;
		l1_store(&l1, BELL_GPA);
		errno = 0;
		read(fd, buf, sizeof(buf));
		CHECK(errno == 0 || errno == EAGAIN || errno == EPROTO, "%s", strerror(errno));
	}
	close(fd);
	l1_close(&l1);
	fd = pair(&l1);
	CHECK(write(fd, "ok", 2) == 2, "the next stream");
}

/* ---- the end ---- */

static void *blocked_read(void *arg)
{
	struct pump *p = arg;
	uint8_t byte;
	ssize_t r = read(p->fd, &byte, 1);

	p->bytes = r < 0 ? errno : r;
	p->ok = true;
	return NULL;
}

static void *blocked_write(void *arg)
{
	static uint8_t buf[2 * SPAN_STREAM_BYTES];
	struct pump *p = arg;
	ssize_t r = write(p->fd, buf, sizeof(buf));

	p->bytes = r < 0 ? errno : r;
	p->ok = true;
	return NULL;
}

/* A reader and a writer who wait when the member ends by @end. */
static void waiting_when(const char *what, bool paired, void (*end)(struct l1 *l1))
{
	struct pump in = {}, out = {};
	pthread_t r, w;
	struct l1 l1;
	uint8_t byte;
	int fd;

	guest_new(&g, 0);
	l1_new(&l1, "L1");
	fd = paired ? pair(&l1) : MUST(channel_call(g.span, l1.id));
	in.fd = out.fd = fd;
	pthread_create(&r, NULL, blocked_read, &in);
	pthread_create(&w, NULL, blocked_write, &out);
	usleep(A_WHILE * 1000);
	CHECK(!in.ok && !out.ok, "%s: did not wait", what);
	end(&l1);
	pthread_join(r, NULL);
	pthread_join(w, NULL);
	CHECK(in.bytes == 0, "%s: read gave %llu", what, (unsigned long long)in.bytes);
	CHECK(out.bytes == (paired ? SPAN_STREAM_BYTES : EPIPE), "%s: write gave %llu", what,
	      (unsigned long long)out.bytes);
	CHECK((polled(fd, 0) & (POLLHUP | POLLIN)) == (POLLHUP | POLLIN), "%s: %#x", what, polled(fd, 0));
	CHECK(read(fd, &byte, 1) == 0, "%s: no end", what);
	CHECK_ERR(write(fd, &byte, 1), EPIPE);
	close(fd);
	tiny_free(&l1.vm);
	close(g.span);
	tiny_free(&g.vm);
}

static void by_revoke(struct l1 *l1)
{
	MUST(span_revoke(g.span, l1->id));
}

static void by_leave(struct l1 *l1)
{
	munmap(l1->pages, SPAN_SHARE_BYTES);
	close(l1->fd);
}

static void by_span(struct l1 *l1)
{
	close(g.span);
	g.span = MUST(open("/dev/null", O_RDONLY));
}

static void t_ends(void)
{
	waiting_when("revoke", true, by_revoke);
	waiting_when("revoke, not paired", false, by_revoke);
	waiting_when("leave", true, by_leave);
	waiting_when("close of the span", true, by_span);
}

static void on_alarm(int sig)
{
}

static void t_signal(void)
{
	struct sigaction sa = { .sa_handler = on_alarm };
	uint8_t byte;
	struct l1 l1;
	int fd;

	guest_new(&g, 0);
	l1_new(&l1, "L1");
	fd = pair(&l1);
	sigaction(SIGUSR2, &sa, NULL);
	{
		timer_t timer;
		struct sigevent se = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR2 };
		struct itimerspec soon = { .it_value.tv_nsec = A_WHILE * 1000000 };

		MUST(timer_create(CLOCK_MONOTONIC, &se, &timer));
		MUST(timer_settime(timer, 0, &soon, NULL));
		CHECK_ERR(read(fd, &byte, 1), EINTR);
	}
}

/* The L1 rings all the time while everything ends around it. */
static void t_ring_and_end(void)
{
	int i;

	guest_new(&g, 0);
	for (i = 0; i < 12; i++) {
		char name[16];
		struct l1 l1;
		int fd;

		snprintf(name, sizeof(name), "L1-%d", i);
		l1_new(&l1, name);
		fd = MUST(channel_call(g.span, l1.id));
		span_stream_open(&l1.end, ++l1.number);
		TINY_GO(&l1.vm, ring_on, .eax = 1, .ebx = BELL_GPA, .ecx = 100000);
		usleep(1000 + i * 100);
		switch (i % 4) {
		case 0:
			MUST(span_revoke(g.span, l1.id));
			break;
		case 1:
			MUST(bell_call(l1.fd, 0, BELL_GPA + 0x1000));
			break;
		case 2:
			MUST(bell_call(l1.fd, KVM_SPAN_DOORBELL_REMOVE, 0));
			break;
		default:
			close(fd);
			fd = MUST(channel_call(g.span, l1.id));
		}
		usleep(1000);
		tiny_abort(&l1.vm);
		close(fd);
		munmap(l1.pages, SPAN_SHARE_BYTES);
		/* the VM first, or the member */
		if (i & 4)
			close(l1.fd);
		tiny_free(&l1.vm);
		if (!(i & 4))
			close(l1.fd);
		close(l1.event_fd);
		MUST(span_revoke(g.span, l1.id));
		while (span_event(g.span, 0).type)
			;
	}
}

static const struct ktap_test tests[] = {
	{ "structures", t_structures },
	{ "wrong_fd", t_wrong_fd },
	{ "rights", t_rights },
	{ "mmap", t_mmap },
	{ "doorbell", t_doorbell },
	{ "rejoin", t_rejoin },
	{ "open_close", t_open_close },
	{ "integrity", t_integrity },
	{ "full", t_full },
	{ "impossible", t_impossible },
	{ "random_words", t_random_words },
	{ "ends", t_ends },
	{ "signal", t_signal },
	{ "ring_and_end", t_ring_and_end },
};

int main(void)
{
	span_require();
	return ktap_run(tests, sizeof(tests) / sizeof(tests[0]));
}
