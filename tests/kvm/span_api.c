// SPDX-License-Identifier: GPL-2.0
/*
 * /dev/kvm-span: every call with every wrong input that its header names.
 *
 * test: mem/api timeout=180
 */
#include "badcall.h"

#include <stddef.h>

#include <linux/userfaultfd.h>
#include <sys/syscall.h>

/* Offset of what came later: where the first version ended. */
#define FIRST_VERSION(type, member)	offsetof(struct type, member)

static void size_rules(int fd, unsigned long cmd, const void *good, size_t n, size_t min, bool out,
		       bool makes_fd)
{
	call_rules(&(struct call_rules) {
		.fd = fd, .cmd = cmd, .good = good, .n = n, .min = min, .out = out, .makes_fd = makes_fd,
	});
}

static void t_info(void)
{
	struct kvm_span_info info = { .size = sizeof(info) };
	int dev = span_dev();

	CHECK(ioctl(dev, KVM_SPAN_GET_INFO, &info) == 0, "%s", strerror(errno));
	CHECK(info.api_version == KVM_SPAN_API_VERSION, "%u", info.api_version);
	CHECK(info.max_members == KVM_SPAN_MAX_MEMBERS, "%u", info.max_members);
	CHECK(info.features & KVM_SPAN_FEATURE_MEMORY, "%#llx", info.features);
	CHECK(info.max_bytes >= 1ULL << 40, "%llu", info.max_bytes);
	CHECK(info.size == sizeof(info), "%u", info.size);
	size_rules(dev, KVM_SPAN_GET_INFO, &(struct kvm_span_info){ .size = sizeof(info) },
		   sizeof(info), 0, true, false);
}

static void t_device(void)
{
	int dev = span_dev(), memfd, span = span_new(&memfd);
	uint32_t id;
	int member = MUST(span_grant(span, ACCESS_RW, "L1a", &id)), vm = vm_new();
	int any[] = { dev, span, member, vm };
	char buf[64] = { 0 };
	size_t i;

	/* Only the magic and the number count; the size in the number does not. */
	struct kvm_span_info info = { .size = sizeof(info) };
	CHECK(ioctl(dev, _IOC(_IOC_READ, KVM_SPAN_IO, 0, 3), &info) == 0, "%s", strerror(errno));

	for (i = 0; i < 3; i++) {
		CHECK_ERR(ioctl(any[i], _IOC(_IOC_NONE, 0xAE, 0, 0), buf), ENOTTY);
		CHECK_ERR(ioctl(any[i], _IOC(_IOC_NONE, KVM_SPAN_IO, 0x7f, 0), buf), ENOTTY);
	}
	/* Each call on the descriptors that it is not for. */
	CHECK_ERR(ioctl(span, KVM_SPAN_GET_INFO, buf), ENOTTY);
	CHECK_ERR(ioctl(member, KVM_SPAN_GET_INFO, buf), ENOTTY);
	CHECK_ERR(ioctl(vm, KVM_SPAN_GET_INFO, buf), ENOTTY);
	CHECK_ERR(ioctl(span, KVM_SPAN_CREATE, buf), ENOTTY);
	CHECK_ERR(ioctl(member, KVM_SPAN_CREATE, buf), ENOTTY);
	CHECK_ERR(ioctl(dev, KVM_SPAN_GRANT, buf), ENOTTY);
	CHECK_ERR(ioctl(member, KVM_SPAN_GRANT, buf), ENOTTY);
	CHECK_ERR(ioctl(dev, KVM_SPAN_REVOKE, buf), ENOTTY);
	CHECK_ERR(ioctl(member, KVM_SPAN_REVOKE, buf), ENOTTY);
	CHECK_ERR(ioctl(dev, KVM_SPAN_GET_MEMBER, buf), ENOTTY);
	CHECK_ERR(ioctl(dev, KVM_SPAN_JOIN, buf), ENOTTY);
	CHECK_ERR(ioctl(span, KVM_SPAN_JOIN, buf), ENOTTY);
	CHECK_ERR(ioctl(dev, KVM_SPAN_GET_STATS, buf), ENOTTY);
	CHECK_ERR(ioctl(member, KVM_SPAN_GET_STATS, buf), ENOTTY);
	/* Nothing to read, write or map where nothing is. */
	CHECK_ERR(read(dev, buf, sizeof(buf)), EINVAL);
	CHECK_ERR(read(member, buf, sizeof(buf)), EINVAL);
	CHECK_ERR(pread(member, buf, sizeof(buf), 0), ESPIPE);
	CHECK_ERR(write(member, buf, sizeof(buf)), EINVAL);
	CHECK_ERR(write(span, buf, sizeof(buf)), EINVAL);
	CHECK_ERR(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, dev, 0), ENODEV);
	CHECK_ERR(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, span, 0), ENODEV);
	/* A member fd is no memfd. */
	CHECK_ERR(fcntl(member, F_GET_SEALS), EINVAL);
	CHECK_ERR(fcntl(member, F_ADD_SEALS, F_SEAL_WRITE), EINVAL);
	CHECK_ERR(ftruncate(member, 0), EINVAL);
	CHECK(fallocate(member, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE) == -1, "punched");
	close(member);
	CHECK_ERR(span_join(member, vm), EBADF);
	close(span);
	CHECK_ERR(span_revoke(span, id), EBADF);
}

static int try_create(int memfd, int vm)
{
	int fd = span_create_named(memfd, vm, "guest"), e = errno;

	if (fd >= 0)
		close(fd);
	errno = e;
	return fd;
}

static void t_create(void)
{
	int dev = span_dev(), memfd = memfd_new(MEM_BYTES, GUEST_SEALS), vm = vm_new(), span, ro, other;
	struct kvm_span_create good = { .size = sizeof(good), .memfd = memfd, .vm_fd = vm, .name = "guest" };
	char path[64];

	size_rules(dev, KVM_SPAN_CREATE, &good, sizeof(good), 0, false, true);

	CHECK_ERR(try_create(-1, vm), EBADF);
	CHECK_ERR(try_create(1000, vm), EBADF);
	CHECK_ERR(try_create(vm, vm), EINVAL);
	CHECK_ERR(try_create(dev, vm), EINVAL);
	CHECK_ERR(try_create(memfd, -1), EBADF);
	CHECK_ERR(try_create(memfd, 1000), EBADF);
	CHECK_ERR(try_create(memfd, memfd), EINVAL);
	other = MUST(open("/dev/kvm", O_RDWR));
	CHECK_ERR(try_create(memfd, other), EINVAL);

	/* Memory that could change under its users. */
	CHECK_ERR(try_create(memfd_new(MEM_BYTES, 0), vm), EPERM);
	CHECK_ERR(try_create(memfd_new(MEM_BYTES, F_SEAL_SHRINK | F_SEAL_GROW), vm), EPERM);
	CHECK_ERR(try_create(memfd_new(MEM_BYTES, F_SEAL_SHRINK | F_SEAL_SEAL), vm), EPERM);
	CHECK_ERR(try_create(memfd_new(MEM_BYTES, F_SEAL_GROW | F_SEAL_SEAL), vm), EPERM);
	CHECK_ERR(try_create(memfd_new(MEM_BYTES, GUEST_SEALS | F_SEAL_WRITE), vm), EPERM);
	CHECK_ERR(try_create(memfd_new(MEM_BYTES, GUEST_SEALS | F_SEAL_FUTURE_WRITE), vm), EPERM);
	CHECK_ERR(try_create(memfd_new(0, GUEST_SEALS), vm), EINVAL);
	CHECK_ERR(try_create(memfd_new(MEM_BYTES + 1, GUEST_SEALS), vm), EINVAL);
	CHECK_ERR(try_create(memfd_new(5UL << 40, GUEST_SEALS), vm), EFBIG);

	snprintf(path, sizeof(path), "/proc/self/fd/%d", memfd);
	ro = MUST(open(path, O_RDONLY));
	CHECK_ERR(try_create(ro, vm), EACCES);
	ro = MUST(open("/proc/version", O_RDONLY));
	CHECK_ERR(try_create(ro, vm), EINVAL);
	other = open("/tmp/span_api.tmp", O_RDWR | O_CREAT, 0600);
	if (other >= 0) {
		MUST(ftruncate(other, MEM_BYTES));
		CHECK(try_create(other, vm) == -1 && (errno == EINVAL || errno == EPERM), "a plain file: %s",
		      strerror(errno));
		unlink("/tmp/span_api.tmp");
	}

	/* One memory, one span, until it is closed. */
	span = span_create(memfd, vm);
	CHECK_ERR(try_create(memfd, vm), EBUSY);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", memfd);
	other = MUST(open(path, O_RDWR));
	CHECK_ERR(try_create(other, vm), EBUSY);
	close(span);
	CHECK(try_create(memfd, vm) >= 0, "%s", strerror(errno));
}

static void t_hugetlb(void)
{
	int fd = memfd_create("huge", MFD_HUGETLB | MFD_ALLOW_SEALING);

	if (fd < 0)
		ktap_skip("no hugetlb in this kernel");
	MUST(ftruncate(fd, HUGE));
	MUST(fcntl(fd, F_ADD_SEALS, GUEST_SEALS));
	CHECK_ERR(try_create(fd, vm_new()), EINVAL);
}

static void t_names(void)
{
	static const struct {
		uint8_t name[KVM_SPAN_NAME_LEN];
		bool good;
	} names[] = {
		{ "", false },
		{ "a", true },
		{ "thirty-one characters long name", true },
		{ { [0 ... 31] = 'x' }, false },
		{ "tab\there", false },
		{ "line\n", false },
		{ "\x7f", false },
		{ "\x1f", false },
		{ "\xe9t\xe9", false },
		{ "with space / and #", true },
		{ { 'a', 0, 'b' }, false },
		{ { [0] = 'a', [31] = 1 }, false },
	};
	int dev = span_dev(), memfd, span = span_new(&memfd), vm = vm_new(), fd;
	size_t i;

	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		struct kvm_span_grant g = { .size = sizeof(g), .access = KVM_SPAN_ACCESS_R };
		struct kvm_span_create c = { .size = sizeof(c), .vm_fd = vm };

		memcpy(g.name, names[i].name, sizeof(g.name));
		fd = ioctl(span, KVM_SPAN_GRANT, &g);
		CHECK((fd >= 0) == names[i].good && (fd >= 0 || errno == EINVAL), "grant name %zu: %d %s",
		      i, fd, strerror(errno));
		if (fd >= 0)
			close(fd);
		c.memfd = memfd_new(PAGE, GUEST_SEALS);
		memcpy(c.name, names[i].name, sizeof(c.name));
		fd = ioctl(dev, KVM_SPAN_CREATE, &c);
		CHECK((fd >= 0) == names[i].good && (fd >= 0 || errno == EINVAL), "create name %zu: %d %s",
		      i, fd, strerror(errno));
		if (fd >= 0)
			close(fd);
		close(c.memfd);
	}
}

static void t_grant(void)
{
	int memfd, span = span_new(&memfd), fd, i;
	struct kvm_span_grant good = { .size = sizeof(good), .access = KVM_SPAN_ACCESS_R, .name = "L1a" };
	struct kvm_span_member_info info;
	struct kvm_span_grant arg;
	uint32_t id;

	size_rules(span, KVM_SPAN_GRANT, &good, sizeof(good), FIRST_VERSION(kvm_span_grant, rights), true,
		   true);
	arg = good;
	arg.access = 0;
	CHECK_ERR(ioctl(span, KVM_SPAN_GRANT, &arg), EINVAL);
	for (i = 2; i < 32; i++) {
		arg.access = KVM_SPAN_ACCESS_R | 1u << i;
		CHECK_ERR(ioctl(span, KVM_SPAN_GRANT, &arg), EINVAL);
	}
	/* W implies R. */
	fd = span_grant(span, KVM_SPAN_ACCESS_W, "writer", &id);
	CHECK(fd >= 0, "%s", strerror(errno));
	CHECK(span_member(span, id, &info) == 0 && info.access == ACCESS_RW, "%u", info.access);
	CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC, "not close-on-exec");
	CHECK((fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDWR, "%#x", fcntl(fd, F_GETFL));
	fd = span_grant(span, KVM_SPAN_ACCESS_R, "reader", &id);
	CHECK((fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDONLY, "%#x", fcntl(fd, F_GETFL));
}

static void t_join(void)
{
	int memfd, span = span_new(&memfd), member, vm = vm_new(), kvm;
	struct kvm_span_join good = { .size = sizeof(good), .vm_fd = vm }, arg;
	uint32_t id;

	member = MUST(span_grant(span, ACCESS_RW, "L1a", &id));
	arg = good;
	arg.pad = 1;
	CHECK_ERR(ioctl(member, KVM_SPAN_JOIN, &arg), EINVAL);
	CHECK_ERR(span_join(member, -1), EBADF);
	CHECK_ERR(span_join(member, 1000), EBADF);
	CHECK_ERR(span_join(member, memfd), EINVAL);
	CHECK_ERR(span_join(member, member), EINVAL);
	CHECK_ERR(span_join(member, span), EINVAL);
	kvm = MUST(open("/dev/kvm", O_RDWR));
	CHECK_ERR(span_join(member, kvm), EINVAL);
	/* None of that has used it up. */
	size_rules(member, KVM_SPAN_JOIN, &good, sizeof(good), 0, false, false);
	CHECK_ERR(span_join(member, vm), EBUSY);
}

static void t_revoke(void)
{
	int memfd, span = span_new(&memfd), member;
	struct kvm_span_revoke good = { .size = sizeof(good) }, arg;
	uint32_t id;

	CHECK_ERR(span_revoke(span, 0), ENOENT);
	CHECK_ERR(span_revoke(span, 1), ENOENT);
	CHECK_ERR(span_revoke(span, 0xffffffff), ENOENT);
	member = MUST(span_grant(span, ACCESS_RW, "L1a", &id));
	CHECK_ERR(span_revoke(span, id + 1), ENOENT);
	good.member = id;
	arg = good;
	arg.pad = 1;
	CHECK_ERR(ioctl(span, KVM_SPAN_REVOKE, &arg), EINVAL);
	CHECK(span_stats(span).granted == 1, "a refused revoke revoked");
	size_rules(span, KVM_SPAN_REVOKE, &good, sizeof(good), 0, false, false);
	CHECK(span_stats(span).granted == 0, "not revoked");
	CHECK_ERR(span_join(member, vm_new()), EACCES);
	CHECK(span_revoke(span, id) == 0, "twice: %s", strerror(errno));
	CHECK(span_stats(span).revokes == 1, "counted twice: %llu", span_stats(span).revokes);
	close(member);
	CHECK(span_event(span, 1000).type == KVM_SPAN_EVENT_LEFT, "no LEFT event");
	CHECK(span_revoke(span, id) == 0, "after it left: %s", strerror(errno));
}

static void t_query(void)
{
	int memfd, span = span_new(&memfd), member;
	struct kvm_span_member_info good = { .size = sizeof(good) }, info;
	struct kvm_span_stats stats = { .size = sizeof(stats) };
	uint32_t id;

	CHECK_ERR(span_member(span, 1, &info), ENOENT);
	member = MUST(span_grant(span, KVM_SPAN_ACCESS_R, "L1a", &id));
	good.member = id;
	size_rules(span, KVM_SPAN_GET_MEMBER, &good, sizeof(good),
		   FIRST_VERSION(kvm_span_member_info, tsc_offset), true, false);
	size_rules(member, KVM_SPAN_GET_MEMBER, &good, sizeof(good),
		   FIRST_VERSION(kvm_span_member_info, tsc_offset), true, false);
	size_rules(span, KVM_SPAN_GET_STATS, &stats, sizeof(stats),
		   FIRST_VERSION(kvm_span_stats, ept_guest), true, false);

	CHECK(span_member(member, 12345, &info) == 0, "%s", strerror(errno));
	CHECK(info.member == id, "%u", info.member);
	CHECK(info.state == KVM_SPAN_GRANTED && info.pid == 0, "%u %d", info.state, info.pid);
	CHECK(info.access == KVM_SPAN_ACCESS_R && info.bytes == MEM_BYTES, "%u", info.access);
	CHECK(!strcmp((char *)info.name, "L1a") && info.mapped_bytes == 0, "%s", info.name);
	MUST(span_join(member, vm_new()));
	MUST(span_map(member, PROT_READ) == MAP_FAILED ? -1 : 0);
	CHECK(span_member(span, id, &info) == 0, "%s", strerror(errno));
	CHECK(info.state == KVM_SPAN_JOINED && info.pid == getpid(), "%u %d", info.state, info.pid);
	CHECK(info.mapped_bytes == MEM_BYTES, "%llu", info.mapped_bytes);
	MUST(span_revoke(span, id));
	CHECK(span_member(member, 0, &info) == 0 && info.state == KVM_SPAN_REVOKED, "%u", info.state);
	stats = span_stats(span);
	CHECK(stats.bytes == MEM_BYTES && stats.grants == 1 && stats.joins == 1 && stats.revokes == 1 &&
	      stats.leaves == 0 && stats.granted == 0 && stats.joined == 0,
	      "grants %llu joins %llu revokes %llu leaves %llu granted %u joined %u", stats.grants,
	      stats.joins, stats.revokes, stats.leaves, stats.granted, stats.joined);
}

static void t_events(void)
{
	int memfd, span = span_new(&memfd), a, b;
	struct pollfd p = { .fd = span, .events = POLLIN };
	struct kvm_span_event e[8] = {};
	struct kvm_span_member_info info;
	uint32_t ida, idb;
	uint8_t *edge = edge_page(PROT_READ);

	CHECK(poll(&p, 1, 0) == 0, "an event from nowhere");
	MUST(fcntl(span, F_SETFL, O_NONBLOCK));
	CHECK_ERR(read(span, e, sizeof(e)), EAGAIN);
	CHECK_ERR(read(span, e, 7), EINVAL);
	CHECK_ERR(read(span, e, 0), EINVAL);

	a = MUST(span_grant(span, ACCESS_RW, "a", &ida));
	b = MUST(span_grant(span, ACCESS_RW, "b", &idb));
	CHECK_ERR(read(span, e, sizeof(e)), EAGAIN);
	MUST(span_join(a, vm_new()));
	CHECK(poll(&p, 1, 0) == 1 && p.revents == POLLIN, "%#x", p.revents);
	close(a);
	close(b);
	CHECK(span_member(span, idb, &info) == 0 && info.state == KVM_SPAN_LEFT, "%u", info.state);
	/* An event that cannot be delivered stays. */
	CHECK_ERR(read(span, edge, 8), EFAULT);
	CHECK(read(span, e, 8) == 8, "%s", strerror(errno));
	CHECK(e[0].type == KVM_SPAN_EVENT_JOINED && e[0].member == ida, "%u %u", e[0].type, e[0].member);
	CHECK(read(span, e, sizeof(e[0]) * 2 + 3) == 16, "%s", strerror(errno));
	CHECK(e[0].type == KVM_SPAN_EVENT_LEFT && e[0].member == ida, "%u %u", e[0].type, e[0].member);
	CHECK(e[1].type == KVM_SPAN_EVENT_LEFT && e[1].member == idb, "%u %u", e[1].type, e[1].member);
	CHECK_ERR(read(span, e, sizeof(e)), EAGAIN);
	CHECK_ERR(span_member(span, ida, &info), ENOENT);
}

static void *event_reader(void *arg)
{
	struct kvm_span_event e = {};

	return (void *)(long)(read(*(int *)arg, &e, sizeof(e)) == sizeof(e) ? e.type : 0);
}

/* A blocking read sleeps until something happens. */
static void t_blocking_read(void)
{
	int memfd, span = span_new(&memfd), member;
	pthread_t thread;
	void *type;

	member = MUST(span_grant(span, ACCESS_RW, "L1a", NULL));
	MUST(pthread_create(&thread, NULL, event_reader, &span) ? -1 : 0);
	usleep(50000);
	close(member);
	MUST(pthread_join(thread, &type) ? -1 : 0);
	CHECK((long)type == KVM_SPAN_EVENT_LEFT, "%ld", (long)type);
}

struct slow_read {
	int span;
	void *buffer;
	ssize_t r;
	int error;
};

static void *slow_reader(void *arg)
{
	struct slow_read *s = arg;

	s->r = read(s->span, s->buffer, sizeof(struct kvm_span_event));
	s->error = errno;
	return NULL;
}

/*
 * A reader holds JOINED while its buffer's page fault waits; another reads
 * LEFT, which ends the record; then the first one's buffer goes away. The event
 * must not come back to a record that is gone: the descriptor would be ready
 * for ever, with nothing to read.
 */
static void t_event_undelivered(void)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	int memfd, span = span_new(&memfd), member, uffd;
	struct pollfd p = { .fd = span, .events = POLLIN };
	struct slow_read s = { .span = span };
	struct kvm_span_event e = {};
	struct uffd_msg msg;
	pthread_t thread;

	uffd = syscall(SYS_userfaultfd, O_CLOEXEC);
	if (uffd < 0 && errno == ENOSYS)
		ktap_skip("no userfaultfd in this kernel");
	MUST(uffd);
	MUST(ioctl(uffd, UFFDIO_API, &api));
	s.buffer = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	MUST(s.buffer == MAP_FAILED ? -1 : 0);
	reg.range.start = (uintptr_t)s.buffer;
	reg.range.len = PAGE;
	MUST(ioctl(uffd, UFFDIO_REGISTER, &reg));

	member = MUST(span_grant(span, ACCESS_RW, "L1a", NULL));
	MUST(span_join(member, vm_new()));
	MUST(pthread_create(&thread, NULL, slow_reader, &s) ? -1 : 0);
	/* The fault's message: JOINED was taken, and the copy waits. */
	MUST(read(uffd, &msg, sizeof(msg)));
	close(member);
	e = span_event(span, 2000);
	CHECK(e.type == KVM_SPAN_EVENT_LEFT, "%u", e.type);
	MUST(munmap(s.buffer, PAGE));
	close(uffd);
	MUST(pthread_join(thread, NULL) ? -1 : 0);
	CHECK(s.r == -1 && s.error == EFAULT, "%zd: %s", s.r, strerror(s.error));
	CHECK(poll(&p, 1, 0) == 0, "ready, with nothing to read");
	MUST(fcntl(span, F_SETFL, O_NONBLOCK));
	CHECK_ERR(read(span, &e, sizeof(e)), EAGAIN);
	/* The descriptor still works. */
	close(MUST(span_grant(span, ACCESS_RW, "L1a", NULL)));
	CHECK(span_event(span, 2000).type == KVM_SPAN_EVENT_LEFT, "no LEFT event");
}

static bool file_has(const char *path, const char *text)
{
	char buf[4096];
	int fd = MUST(open(path, O_RDONLY));
	ssize_t n = MUST(read(fd, buf, sizeof(buf) - 1));

	close(fd);
	buf[n] = 0;
	return strstr(buf, text);
}

static void t_fdinfo(void)
{
	int memfd, span = span_new(&memfd), member = MUST(span_grant(span, KVM_SPAN_ACCESS_R, "L1a", NULL));
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", span);
	CHECK(file_has(path, "span-name:\tguest\n"), "no name");
	CHECK(file_has(path, "span-granted:\t1\n"), "no count");
	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", member);
	CHECK(file_has(path, "span-member-name:\tL1a\n"), "no name");
	CHECK(file_has(path, "span-state:\tgranted\n"), "no state");
	CHECK(file_has(path, "span-access:\tro\n"), "no access");
}

/* Records are bounded, also when nobody reads the events. */
static void t_records(void)
{
	int memfd, span = span_new(&memfd), i, fd;
	struct kvm_span_event e;

	for (i = 0; i < 10000; i++) {
		fd = span_grant(span, ACCESS_RW, "x", NULL);
		if (fd < 0)
			break;
		close(fd);
	}
	CHECK(i >= 2 * KVM_SPAN_MAX_MEMBERS && i < 10000 && errno == ENOSPC, "%d grants: %s", i,
	      strerror(errno));
	MUST(read(span, &e, sizeof(e)));
	fd = span_grant(span, ACCESS_RW, "x", NULL);
	CHECK(fd >= 0, "%s", strerror(errno));
}

int main(void)
{
	static const struct ktap_test tests[] = {
		{ "info", t_info },
		{ "wrong descriptors", t_device },
		{ "create", t_create },
		{ "hugetlb memfd", t_hugetlb },
		{ "names", t_names },
		{ "grant", t_grant },
		{ "join", t_join },
		{ "revoke", t_revoke },
		{ "members and stats", t_query },
		{ "events", t_events },
		{ "blocking read", t_blocking_read },
		{ "event that was not delivered", t_event_undelivered },
		{ "fdinfo", t_fdinfo },
		{ "unread events are bounded", t_records },
	};

	span_require();
	return KTAP_RUN(tests);
}
