// SPDX-License-Identifier: GPL-2.0
/*
 * /dev/spanN as the driver's header promises it. Runs in an L1.
 *
 *	span_port_dev --empty		no guest is attached (asks to be detached)
 *	span_port_dev --rw | --ro	one is, with that access
 *	span_port_dev --after-detach	opens and maps everything, prints READY,
 *					waits for the detach and looks again
 *
 * Writes only to a page that Linux guests leave alone: the first 64 KiB are
 * reserved for the firmware.
 *
 * test: mem/port-empty level=L1a topology=two-l1 args=--empty
 */
#include <ktap.h>

#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>

#include <linux/span_port.h>

/* CHECK() without a text */
#pragma GCC diagnostic ignored "-Wformat-zero-length"

#define DEVICE		"/dev/span0"
#define SYSFS		"/sys/class/span_port/span0/"
#define PAGE		4096ul
#define HUGE_PAGE	(2ul << 20)
#define SCRATCH		0x4000ul

static bool want_ro;
static void *volatile nowhere;

static struct span_port_info info_of(int fd)
{
	struct span_port_info i = { .size = sizeof(i) };

	MUST(ioctl(fd, SPAN_PORT_GET_INFO, &i));
	return i;
}

static int open_port(int flags)
{
	return MUST(open(DEVICE, flags | O_CLOEXEC));
}

static int open_best(void)
{
	return open_port(want_ro ? O_RDONLY : O_RDWR);
}

static int poll_now(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN | POLLOUT | POLLPRI };

	MUST(poll(&p, 1, 0));
	return p.revents;
}

static void read_sysfs(const char *name, char *text, size_t len)
{
	char path[128];
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), SYSFS "%s", name);
	fd = MUST(open(path, O_RDONLY));
	n = MUST(read(fd, text, len - 1));
	text[n] = 0;
	if (n && text[n - 1] == '\n')
		text[n - 1] = 0;
	close(fd);
}

/* --- touching memory that may not be there --- */

static sigjmp_buf bus_jump;

static void on_bus(int sig)
{
	siglongjmp(bus_jump, sig);
}

/* 0, or the signal that reading (or writing) *p ended in. */
static int touch(volatile char *p, bool write)
{
	struct sigaction sa = { .sa_handler = on_bus, .sa_flags = SA_NODEFER };
	int sig;

	sigaction(SIGBUS, &sa, NULL);
	sigaction(SIGSEGV, &sa, NULL);
	sig = sigsetjmp(bus_jump, 0);
	if (sig)
		return sig;
	if (write)
		*p = *p;
	else
		(void)*p;
	return 0;
}

/* --- rules that hold with and without a guest --- */

static void ioctl_rules(int fd)
{
	struct { struct span_port_info i; __u64 more; } big = { .i.size = sizeof(big) };
	struct span_port_info i = { .size = sizeof(i) };
	struct span_port_call c = { .size = sizeof(c), .type = SPAN_MSG_PING };

	MUST(ioctl(fd, SPAN_PORT_GET_INFO, &i));
	CHECK(i.size == sizeof(i) && i.version == SPAN_PORT_VERSION && !i.flags);
	CHECK(i.window_bytes >= HUGE_PAGE && i.window_phys % HUGE_PAGE == 0);
	CHECK_ERR(ioctl(fd, _IO(SPAN_PORT_IO, 0x7f)), ENOTTY);
	CHECK_ERR(ioctl(fd, _IO('x', 0)), ENOTTY);
	CHECK_ERR(ioctl(fd, SPAN_PORT_GET_INFO, NULL), EFAULT);
	CHECK_ERR(ioctl(fd, SPAN_PORT_GET_INFO, -8ul), EFAULT);
	i.size = sizeof(i) - 1;
	CHECK_ERR(ioctl(fd, SPAN_PORT_GET_INFO, &i), EINVAL);
	i.size = 0;
	CHECK_ERR(ioctl(fd, SPAN_PORT_GET_INFO, &i), EINVAL);
	i.size = 0xffffffff;
	CHECK_ERR(ioctl(fd, SPAN_PORT_GET_INFO, &i), EINVAL);
	i.size = sizeof(i);
	i.flags = 1;
	CHECK_ERR(ioctl(fd, SPAN_PORT_GET_INFO, &i), EINVAL);
	CHECK(!ioctl(fd, SPAN_PORT_GET_INFO, &big), "longer with zeroes: %s", strerror(errno));
	big.i.size = sizeof(big);
	big.i.flags = 0;
	big.more = 1;
	CHECK_ERR(ioctl(fd, SPAN_PORT_GET_INFO, &big), E2BIG);

	c.len = 49;
	CHECK_ERR(ioctl(fd, SPAN_PORT_CALL, &c), EINVAL);
	c.len = 0;
	c.pad = 1;
	CHECK_ERR(ioctl(fd, SPAN_PORT_CALL, &c), EINVAL);
	c.pad = 0;
	c.flags = 1;
	CHECK_ERR(ioctl(fd, SPAN_PORT_CALL, &c), EINVAL);
	c.flags = 0;
	c.type = SPAN_MSG_PONG;		/* only L0 says that */
	CHECK_ERR(ioctl(fd, SPAN_PORT_CALL, &c), EINVAL);
	c.type = 0xffff;
	CHECK_ERR(ioctl(fd, SPAN_PORT_CALL, &c), EINVAL);
}

static bool ping(int fd, unsigned int value)
{
	struct span_port_call c = {
		.size = sizeof(c), .type = SPAN_MSG_PING, .len = sizeof(c.payload),
	};
	unsigned char sent[sizeof(c.payload)];
	size_t i;

	for (i = 0; i < sizeof(sent); i++)
		sent[i] = value >> (i % 4 * 8) ^ i;
	memcpy(c.payload, sent, sizeof(sent));
	if (ioctl(fd, SPAN_PORT_CALL, &c))
		return CHECK(false, "ping: %s", strerror(errno));
	return CHECK(c.type == SPAN_MSG_PONG && c.len == sizeof(sent) &&
		     !memcmp(c.payload, sent, sizeof(sent)), "wrong answer to %u", value);
}

static void ring(int fd)
{
	struct span_port_call c = { .size = sizeof(c), .type = SPAN_MSG_STATS_GET };
	__u64 before[4], after[4];
	int i;

	MUST(ioctl(fd, SPAN_PORT_CALL, &c));
	CHECK(c.type == SPAN_MSG_STATS && c.len >= sizeof(before), "%u, %u bytes", c.type, c.len);
	memcpy(before, c.payload, sizeof(before));
	/* more than the ring has slots */
	for (i = 0; i < 3 * SPAN_RING_SLOTS; i++)
		if (!ping(fd, i * 2654435761u))
			return;
	c = (struct span_port_call){ .size = sizeof(c), .type = SPAN_MSG_STATS_GET };
	MUST(ioctl(fd, SPAN_PORT_CALL, &c));
	memcpy(after, c.payload, sizeof(after));
	CHECK(after[0] - before[0] == 3 * SPAN_RING_SLOTS + 1, "received %llu",
	      (unsigned long long)(after[0] - before[0]));
	CHECK(after[2] == before[2] && after[3] == before[3], "dropped or malformed messages");
}

/* Several processes at once each get their own answers. */
static void ring_shared(int fd)
{
	int p, i, status;

	for (p = 0; p < 4; p++) {
		if (fork())
			continue;
		for (i = 0; i < 50; i++)
			if (!ping(fd, p << 16 | i))
				_exit(1);
		_exit(0);
	}
	for (p = 0; p < 4; p++) {
		MUST(wait(&status));
		CHECK(WIFEXITED(status) && !WEXITSTATUS(status));
	}
}

/* --- no guest --- */

/* Another test may have left one attached. */
static void become_empty(void)
{
	struct pollfd p = { .fd = open(DEVICE, O_RDONLY | O_CLOEXEC), .events = POLLPRI };

	if (p.fd < 0)
		return;
	MUST(ioctl(p.fd, SPAN_PORT_DETACH));
	MUST(poll(&p, 1, 10000));
	close(p.fd);
}

static void empty_open(void)
{
	CHECK_ERR(open(DEVICE, O_RDONLY), ENODEV);
	CHECK_ERR(open(DEVICE, O_RDWR), ENODEV);
	CHECK_ERR(open(DEVICE, O_RDWR | O_NONBLOCK), ENODEV);
	CHECK_ERR(open(DEVICE, O_WRONLY | O_NONBLOCK), ENODEV);
	CHECK(open(DEVICE, O_RDONLY | O_NONBLOCK) >= 0);
}

static void empty_use(void)
{
	int fd = open_port(O_RDONLY | O_NONBLOCK);
	struct span_port_info i = info_of(fd);
	char c;

	CHECK(!(i.status & SPAN_STATUS_WATCH));
	CHECK(!(i.status & SPAN_STATUS_ATTACHED) && !i.bytes && !i.name[0]);
	CHECK_ERR(read(fd, &c, 1), ENODEV);
	CHECK_ERR(pread(fd, &c, 1, SCRATCH), ENODEV);
	CHECK_ERR(write(fd, &c, 1), EBADF);
	CHECK_ERR(lseek(fd, 0, SEEK_END), ENODEV);
	CHECK_ERR(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0), ENODEV);
	CHECK_ERR(ioctl(fd, SPAN_PORT_DETACH), ENODEV);
	CHECK(poll_now(fd) == 0, "%#x", poll_now(fd));
}

static void empty_ioctls(void)
{
	ioctl_rules(open_port(O_RDONLY | O_NONBLOCK));
}

static void empty_ring(void)
{
	ring(open_port(O_RDONLY | O_NONBLOCK));
}

static void empty_sysfs(void)
{
	char text[64];

	read_sysfs("size", text, sizeof(text));
	CHECK(!strcmp(text, "0"), "%s", text);
	read_sysfs("access", text, sizeof(text));
	CHECK(!strcmp(text, "none"), "%s", text);
	read_sysfs("generation", text, sizeof(text));
	CHECK(!strcmp(text, "0"), "%s", text);
}

static void device_node(void)
{
	struct stat st;

	MUST(stat(DEVICE, &st));
	CHECK(S_ISCHR(st.st_mode) && (st.st_mode & 0777) == 0600, "%o", st.st_mode);
}

/* --- a guest --- */

static void state(void)
{
	int fd = open_best();
	struct span_port_info i = info_of(fd);
	char text[64], want[64];

	CHECK((i.status & ~SPAN_STATUS_WATCH) == (SPAN_STATUS_ATTACHED | (want_ro ? SPAN_STATUS_READONLY : 0)),
	      "%#x", i.status);
	CHECK(i.bytes && i.bytes % PAGE == 0 && i.bytes <= i.window_bytes);
	CHECK(i.generation > 0);
	CHECK(i.name[0] && !i.name[SPAN_NAME_LEN - 1]);
	CHECK(poll_now(fd) == (POLLIN | (want_ro ? 0 : POLLOUT)), "%#x", poll_now(fd));

	read_sysfs("size", text, sizeof(text));
	CHECK(strtoull(text, NULL, 10) == i.bytes, "%s", text);
	read_sysfs("access", text, sizeof(text));
	CHECK(!strcmp(text, want_ro ? "ro" : "rw"), "%s", text);
	read_sysfs("generation", text, sizeof(text));
	snprintf(want, sizeof(want), "%u", i.generation);
	CHECK(!strcmp(text, want), "%s", text);
	read_sysfs("guest", text, sizeof(text));
	CHECK(!strcmp(text, (char *)i.name), "%s", text);
}

static void seek(void)
{
	int fd = open_port(O_RDONLY);
	off_t bytes = info_of(fd).bytes;

	CHECK(lseek(fd, 0, SEEK_END) == bytes);
	CHECK(lseek(fd, -1, SEEK_CUR) == bytes - 1);
	CHECK(lseek(fd, 5, SEEK_SET) == 5);
	CHECK_ERR(lseek(fd, bytes + 1, SEEK_SET), EINVAL);
	CHECK_ERR(lseek(fd, -1, SEEK_SET), EINVAL);
	CHECK(lseek(fd, 0, SEEK_CUR) == 5);
}

static void reading(void)
{
	int fd = open_port(O_RDONLY);
	off_t bytes = info_of(fd).bytes;
	char *buf = malloc(300000);
	struct iovec v[2] = { { buf, 3 }, { buf + 8192, 100 } };

	CHECK(pread(fd, buf, 300000, 1) == 300000);
	CHECK(pread(fd, buf, 2, bytes - 1) == 1);
	CHECK(pread(fd, buf, 1, bytes) == 0);
	CHECK(pread(fd, buf, 1, bytes + PAGE) == 0);
	CHECK(pread(fd, buf, 0, 0) == 0);
	CHECK(preadv(fd, v, 2, SCRATCH) == 103);
	CHECK_ERR(pread(fd, nowhere, 16, 0), EFAULT);
	CHECK(lseek(fd, bytes - 3, SEEK_SET) == bytes - 3);
	CHECK(read(fd, buf, 10) == 3 && read(fd, buf, 10) == 0);
	free(buf);
}

static void writing(void)
{
	char old[16], got[16];
	int fd;

	fd = open_port(O_RDONLY);
	CHECK_ERR(pwrite(fd, "x", 1, SCRATCH), EBADF);
	close(fd);
	fd = open_port(O_RDWR);
	if (want_ro) {
		CHECK_ERR(pwrite(fd, "x", 1, SCRATCH), EACCES);
		return;
	}
	CHECK(pread(fd, old, 16, SCRATCH) == 16);
	CHECK(pwrite(fd, "sixteen letters!", 16, SCRATCH) == 16);
	CHECK(pread(fd, got, 16, SCRATCH) == 16 && !memcmp(got, "sixteen letters!", 16));
	CHECK(pwrite(fd, old, 16, SCRATCH) == 16);
	CHECK_ERR(pwrite(fd, old, 1, info_of(fd).bytes), ENOSPC);
	CHECK_ERR(pwrite(fd, nowhere, 16, SCRATCH), EFAULT);
	CHECK(pwrite(fd, old, 0, SCRATCH) == 0);
}

static void mapping_rules(void)
{
	int fd = open_best(), ro = open_port(O_RDONLY);
	size_t bytes = info_of(fd).bytes;
	char *p;

	CHECK_ERR(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, ro, 0), EINVAL);
	CHECK_ERR(mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, ro, 0), EACCES);
	CHECK_ERR(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, ro, 0), EACCES);
	CHECK_ERR(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, ro, bytes), EINVAL);
	CHECK_ERR(mmap(NULL, bytes + PAGE, PROT_READ, MAP_SHARED, ro, 0), EINVAL);
	CHECK_ERR(mmap(NULL, 2 * PAGE, PROT_READ, MAP_SHARED, ro, bytes - PAGE), EINVAL);
	p = mmap(NULL, bytes, PROT_READ, MAP_SHARED, ro, 0);
	if (!CHECK(p != MAP_FAILED, "%s", strerror(errno)))
		return;
	CHECK((unsigned long)p % HUGE_PAGE == 0, "%p is not aligned to 2 MiB", p);
	CHECK_ERR(mprotect(p, PAGE, PROT_READ | PROT_EXEC), EACCES);
	CHECK_ERR(mprotect(p, PAGE, PROT_READ | PROT_WRITE), EACCES);
	CHECK_ERR(mremap(p, bytes, bytes + PAGE, MREMAP_MAYMOVE), EFAULT);
	CHECK(touch(p + SCRATCH, true) == SIGSEGV);

	fd = open_port(O_RDWR);
	if (want_ro) {
		CHECK_ERR(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), EACCES);
		p = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);
		CHECK(p != MAP_FAILED);
		CHECK_ERR(mprotect(p, PAGE, PROT_READ | PROT_WRITE), EACCES);
	}
}

static void mapping_shows_memory(void)
{
	int fd = open_best();
	char *p, *q, old[8], got[8];

	p = mmap(NULL, HUGE_PAGE, PROT_READ | (want_ro ? 0 : PROT_WRITE), MAP_SHARED, fd, 0);
	MUST(p == MAP_FAILED ? -1 : 0);
	CHECK(pread(fd, got, 8, SCRATCH) == 8 && !memcmp(got, p + SCRATCH, 8));
	if (want_ro)
		return;
	memcpy(old, p + SCRATCH, 8);
	memcpy(p + SCRATCH, "mapped!", 8);
	CHECK(pread(fd, got, 8, SCRATCH) == 8 && !memcmp(got, "mapped!", 8));
	/* a second mapping, by small pages, of another open file */
	q = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, open_port(O_RDONLY), SCRATCH);
	MUST(q == MAP_FAILED ? -1 : 0);
	CHECK(!memcmp(q, "mapped!", 8));
	CHECK(pwrite(fd, old, 8, SCRATCH) == 8 && !memcmp(q, old, 8));
}

/*
 * Linux turns huge pages off when it has less than 512 MiB. The driver's do not
 * need them on where the kernel has FS_DAX; others have to be told.
 */
static void allow_huge_pages(void)
{
	static const char path[] = "/sys/kernel/mm/transparent_hugepage/enabled";
	char text[64] = "";
	int fd = MUST(open(path, O_RDWR));

	MUST(read(fd, text, sizeof(text) - 1));
	if (strstr(text, "[never]")) {
		ktap_note("huge pages were off: %s", text);
		MUST(pwrite(fd, "madvise", 7, 0));
	}
	close(fd);
}

static void huge_pages(void)
{
	int fd = open_best();
	struct span_port_info a, b;
	volatile char *p;
	char *small;

	allow_huge_pages();
	p = mmap(NULL, 2 * HUGE_PAGE, PROT_READ, MAP_SHARED, fd, 0);
	MUST(p == MAP_FAILED ? -1 : 0);
	a = info_of(fd);
	(void)p[SCRATCH];
	(void)p[HUGE_PAGE - 1];
	(void)p[HUGE_PAGE / 2];
	b = info_of(fd);
	CHECK(b.faults_pmd - a.faults_pmd == 1 && b.faults_pte == a.faults_pte,
	      "%llu of 2 MiB, %llu of 4 KiB", (unsigned long long)(b.faults_pmd - a.faults_pmd),
	      (unsigned long long)(b.faults_pte - a.faults_pte));

	/* what does not fit a large page is mapped by small ones */
	small = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, SCRATCH);
	MUST(small == MAP_FAILED ? -1 : 0);
	(void)*(volatile char *)small;
	a = info_of(fd);
	CHECK(a.faults_pte - b.faults_pte == 1 && a.faults_pmd == b.faults_pmd);

	/* splitting a large mapping leaves the rest usable */
	MUST(munmap((void *)(p + SCRATCH), PAGE));
	CHECK(touch((char *)p + SCRATCH, false) == SIGSEGV);
	CHECK(touch((char *)p + SCRATCH + PAGE, false) == 0);
	CHECK(touch((char *)p + HUGE_PAGE, false) == 0);
}

/* Read our own memory as a debugger would: the kernel takes a reference to the page. */
static ssize_t read_pinned(const void *p, void *buf, size_t len)
{
	int fd = MUST(open("/proc/self/mem", O_RDONLY));
	ssize_t n = pread(fd, buf, len, (unsigned long)p);

	close(fd);
	return n;
}

/* The pages are memory to the kernel: it can pin them, as KVM and direct I/O do. */
static void pages_can_be_pinned(void)
{
	int fd = open_best();
	char *p = mmap(NULL, HUGE_PAGE, PROT_READ, MAP_SHARED, fd, 0);
	char got[64];

	MUST(p == MAP_FAILED ? -1 : 0);
	CHECK(read_pinned(p + SCRATCH, got, sizeof(got)) == sizeof(got), "%s", strerror(errno));
	CHECK(!memcmp(got, p + SCRATCH, sizeof(got)));
}

/* A page that is a window page as source or target of read() and write(). */
static void window_to_window(void)
{
	int fd = open_best(), pipes[2];
	char *p, old[PAGE], got[PAGE];

	p = mmap(NULL, HUGE_PAGE, PROT_READ | (want_ro ? 0 : PROT_WRITE), MAP_SHARED, fd, 0);
	MUST(p == MAP_FAILED ? -1 : 0);
	MUST(pipe(pipes));
	CHECK(write(pipes[1], p + SCRATCH, 64) == 64);
	CHECK(read(pipes[0], got, 64) == 64 && !memcmp(got, p + SCRATCH, 64));
	if (want_ro)
		return;
	/* both sides of the copy fault on the window: must not deadlock */
	CHECK(pread(fd, old, PAGE, SCRATCH) == (ssize_t)PAGE);
	memset(p + SCRATCH + PAGE, 0x5a, PAGE);
	CHECK(pread(fd, p + SCRATCH, PAGE, SCRATCH + PAGE) == (ssize_t)PAGE);
	CHECK(p[SCRATCH] == 0x5a && p[SCRATCH + PAGE - 1] == 0x5a);
	CHECK(pwrite(fd, old, PAGE, SCRATCH) == (ssize_t)PAGE);
	memset(p + SCRATCH + PAGE, 0, PAGE);
}

static bool line_is_window(const char *line, unsigned long long phys)
{
	unsigned long long start;

	/* PAT: [mem 0x0000004000000000-0x0000004020000000] write-back */
	line = strstr(line, "0x");
	return line && sscanf(line, "%llx", &start) == 1 && start == phys;
}

static void write_back(void)
{
	struct span_port_info i = info_of(open_best());
	char line[256], dir[] = "/tmp/debugfs-XXXXXX", path[64];
	bool seen = false;
	FILE *f;

	MUST(mkdtemp(dir) ? 0 : -1);
	if (mount("debugfs", dir, "debugfs", 0, NULL)) {
		rmdir(dir);
		ktap_skip("no debugfs in this kernel");
	}
	snprintf(path, sizeof(path), "%s/x86/pat_memtype_list", dir);
	f = fopen(path, "r");
	while (f && fgets(line, sizeof(line), f)) {
		if (!line_is_window(line, i.window_phys))
			continue;
		seen = true;
		CHECK(strstr(line, "write-back"), "%s", line);
	}
	if (f)
		fclose(f);
	umount(dir);
	rmdir(dir);
	if (!f)
		ktap_skip("no list of memory types in this kernel");
	CHECK(seen, "the window at %#llx has no memory type", (unsigned long long)i.window_phys);
}

static void attached_ioctls(void)
{
	ioctl_rules(open_best());
}

static void attached_ring(void)
{
	ring(open_best());
}

static void attached_ring_shared(void)
{
	ring_shared(open_best());
}

/* --- after the detach --- */

static struct {
	int fd, waiter, other_node;
	char *huge, *small, *untouched;
	size_t bytes;
} kept;

static void keep_everything(void)
{
	char dir[] = "/tmp/span-node-XXXXXX", path[64];
	struct stat st;

	kept.fd = open_best();
	kept.waiter = open_port(O_RDONLY | O_NONBLOCK);
	kept.bytes = info_of(kept.fd).bytes;
	/* another node of the same device must end as well */
	MUST(stat(DEVICE, &st));
	MUST(mkdtemp(dir) ? 0 : -1);
	snprintf(path, sizeof(path), "%s/node", dir);
	MUST(mknod(path, S_IFCHR | 0600, st.st_rdev));
	kept.other_node = MUST(open(path, O_RDONLY | O_CLOEXEC));
	unlink(path);
	rmdir(dir);
	kept.huge = mmap(NULL, HUGE_PAGE, PROT_READ, MAP_SHARED, kept.fd, 0);
	kept.small = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, kept.other_node, SCRATCH);
	kept.untouched = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, kept.fd, SCRATCH);
	MUST(kept.huge == MAP_FAILED || kept.small == MAP_FAILED || kept.untouched == MAP_FAILED ? -1 : 0);
	CHECK(!touch(kept.huge + SCRATCH, false) && !touch(kept.small, false));
}

static void wait_for_detach(void)
{
	struct pollfd p = { .fd = kept.fd, .events = POLLPRI };

	printf("READY\n");
	fflush(stdout);
	while (!(p.revents & POLLHUP)) {
		if (MUST(poll(&p, 1, 60000)) == 0) {
			printf("Bail out! nobody detached this L1\n");
			exit(1);
		}
	}
}

static void mappings_end(void)
{
	CHECK(touch(kept.huge + SCRATCH, false) == SIGBUS);
	CHECK(touch(kept.small, false) == SIGBUS, "of another node");
	CHECK(touch(kept.untouched, false) == SIGBUS, "first touch");
	CHECK_ERR(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, kept.fd, 0), ENODEV);
}

static void calls_end(void)
{
	struct span_port_info i = { .size = sizeof(i) };
	struct span_port_call c = { .size = sizeof(c), .type = SPAN_MSG_PING };
	char byte;

	CHECK_ERR(pread(kept.fd, &byte, 1, SCRATCH), ENODEV);
	CHECK_ERR(pread(kept.other_node, &byte, 1, SCRATCH), ENODEV);
	CHECK_ERR(lseek(kept.fd, 0, SEEK_END), ENODEV);
	CHECK_ERR(ioctl(kept.fd, SPAN_PORT_GET_INFO, &i), ENODEV);
	CHECK_ERR(ioctl(kept.fd, SPAN_PORT_CALL, &c), ENODEV);
	CHECK_ERR(ioctl(kept.fd, SPAN_PORT_DETACH), ENODEV);
	if (!want_ro)
		CHECK_ERR(pwrite(kept.fd, &byte, 1, SCRATCH), ENODEV);
	CHECK(poll_now(kept.fd) & POLLHUP);
	CHECK(poll_now(kept.waiter) & (POLLHUP | POLLPRI));
}

/* The kernel too must not reach the window through what the process mapped. */
static void kernel_access_ends(void)
{
	char got[8];
	int pipes[2];

	MUST(pipe(pipes));
	CHECK_ERR(write(pipes[1], kept.huge + SCRATCH, 8), EFAULT);
	CHECK_ERR(read_pinned(kept.huge + SCRATCH, got, sizeof(got)), EIO);
}

#define RUN(list) ktap_run(list, sizeof(list) / sizeof((list)[0]))

static const struct ktap_test empty_tests[] = {
	{ "device_node", device_node },
	{ "open", empty_open },
	{ "use", empty_use },
	{ "ioctls", empty_ioctls },
	{ "ring", empty_ring },
	{ "sysfs", empty_sysfs },
};

static const struct ktap_test attached_tests[] = {
	{ "device_node", device_node },
	{ "state", state },
	{ "seek", seek },
	{ "reading", reading },
	{ "writing", writing },
	{ "mapping_rules", mapping_rules },
	{ "mapping_shows_memory", mapping_shows_memory },
	{ "huge_pages", huge_pages },
	{ "pages_can_be_pinned", pages_can_be_pinned },
	{ "window_to_window", window_to_window },
	{ "write_back", write_back },
	{ "ioctls", attached_ioctls },
	{ "ring", attached_ring },
	{ "ring_shared", attached_ring_shared },
};

static const struct ktap_test ended_tests[] = {
	{ "mappings_end", mappings_end },
	{ "calls_end", calls_end },
	{ "kernel_access_ends", kernel_access_ends },
};

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "";

	if (!strcmp(mode, "--empty")) {
		become_empty();
		return RUN(empty_tests);
	}
	want_ro = !strcmp(mode, "--ro") || (argc > 2 && !strcmp(argv[2], "--ro"));
	if (!strcmp(mode, "--rw") || !strcmp(mode, "--ro"))
		return RUN(attached_tests);
	if (!strcmp(mode, "--after-detach")) {
		keep_everything();
		wait_for_detach();
		return RUN(ended_tests);
	}
	fprintf(stderr, "usage: span_port_dev --empty|--rw|--ro|--after-detach [--ro]\n");
	return 2;
}
