// SPDX-License-Identifier: GPL-2.0
/*
 * The byte stream between L0 and an L1, both real.
 *
 *	span_port_channel --base SOCKET	on L0: plays the controller of a guest. Offers
 *			its memory to the port behind SOCKET, opens the stream and
 *			sends back what comes, stream after stream. A line on stdin:
 *			detach, revoke, quit, or silent (open, and read nothing)
 *	span_port_channel --echo	in the L1: what span_port.h promises, with the base
 *	span_port_channel --cost	in the L1: what it costs, by the TSC
 *	span_port_channel --hold	in the L1: waits in read() and says how that ended
 *	span_port_channel --garbage N	in the L1: writes into the shared pages at random
 *
 * test: mem/port-channel-empty level=L1a topology=channel args=--empty tags=fast,debug
 */
#include <errno.h>
#include <stddef.h>

#include "portlib.h"
#include "streamlib.h"

#pragma GCC diagnostic ignored "-Wformat-zero-length"

#define DEVICE		"/dev/span0"
#define RESOURCE	"/sys/class/span_port/span0/device/resource"
#define ECHO_BYTES	(1u << 20)

/* ---- the base ---- */

static int span, channel = -1;
static struct port l1;
static uint64_t echoed;
static volatile bool silent;

static void say(const char *what)
{
	printf("%s\n", what);
	fflush(stdout);
}

static void offer(const char *path)
{
	struct kvm_span_grant grant = {
		.size = sizeof(grant), .access = ACCESS_RW, .name = "L1", .rights = KVM_SPAN_RIGHT_VCPU,
	};
	int memfd, fd;

	span = span_new(&memfd);
	fd = MUST(ioctl(span, KVM_SPAN_GRANT, &grant));
	l1.member = grant.member;
	if (!port_offer(&l1, path, KVM_SPAN_RIGHT_VCPU, fd)) {
		say("REFUSED");
		exit(1);
	}
}

static void *echo_streams(void *arg)
{
	static uint8_t buf[SPAN_STREAM_BYTES];
	struct kvm_span_channel call = { .size = sizeof(call), .member = l1.member };

	for (;;) {
		uint64_t bytes = 0;
		ssize_t n = 0;

		channel = ioctl(span, KVM_SPAN_CHANNEL, &call);
		if (channel < 0) {
			printf("CHANNEL %s\n", strerror(errno));
			fflush(stdout);
			return NULL;
		}
		while (silent)
			usleep(1000);
		while ((n = read(channel, buf, sizeof(buf))) > 0) {
			ssize_t done = 0, w = 0;

			while (done < n && (w = write(channel, buf + done, n - done)) > 0)
				done += w;
			if (w < 0)
				break;
			bytes += n;
			echoed += n;
		}
		printf("STREAM %llu %s\n", (unsigned long long)bytes, n < 0 ? strerror(errno) : "end");
		fflush(stdout);
		close(channel);
	}
}

static int base(const char *path)
{
	pthread_t t;
	char line[32];

	offer(path);
	say("ATTACHED");
	pthread_create(&t, NULL, echo_streams, NULL);
	while (fgets(line, sizeof(line), stdin)) {
		if (!strcmp(line, "detach\n")) {
			printf("DETACHED %d\n", port_detach(&l1, 2000));
			fflush(stdout);
		} else if (!strcmp(line, "revoke\n")) {
			MUST(span_revoke(span, l1.member));
			say("REVOKED");
		} else if (!strcmp(line, "silent\n")) {
			silent = !silent;
			say(silent ? "SILENT" : "LISTENING");
		} else if (!strcmp(line, "count\n")) {
			printf("COUNT %llu\n", (unsigned long long)echoed);
			fflush(stdout);
		} else if (!strcmp(line, "quit\n")) {
			break;
		}
	}
	_exit(0);
}

/* ---- the L1 ---- */

static int open_port(void)
{
	return MUST(open(DEVICE, O_RDWR | O_CLOEXEC));
}

static int channel_call(int port)
{
	struct span_port_channel c = { .size = sizeof(c) };

	return ioctl(port, SPAN_PORT_CHANNEL, &c);
}

/* A stream that the base has opened too. */
static int open_channel(void)
{
	int port = open_port(), fd = MUST(channel_call(port));
	struct pollfd p = { .fd = fd, .events = POLLOUT };

	close(port);		/* the stream is not the port's file */
	CHECK(poll(&p, 1, 5000) == 1 && p.revents == POLLOUT, "the base did not come: %#x", p.revents);
	return fd;
}

static bool read_all(int fd, uint8_t *buf, size_t n)
{
	size_t done = 0;
	ssize_t r;

	while (done < n) {
		r = read(fd, buf + done, n - done);
		if (r <= 0)
			return CHECK(false, "read at %zu of %zu: %zd %s", done, n, r, strerror(errno));
		done += r;
	}
	return true;
}

static void t_structures(void)
{
	struct span_port_channel c = { .size = sizeof(c), .flags = 1 };
	uint8_t longer[64] = { sizeof(longer) };
	int port = open_port(), fd;

	CHECK_ERR(ioctl(port, SPAN_PORT_CHANNEL, &c), EINVAL);
	c.flags = 0;
	c.size = 7;
	CHECK_ERR(ioctl(port, SPAN_PORT_CHANNEL, &c), EINVAL);
	CHECK_ERR(ioctl(port, SPAN_PORT_CHANNEL, NULL), EFAULT);
	longer[63] = 1;
	CHECK_ERR(ioctl(port, SPAN_PORT_CHANNEL, longer), E2BIG);
	longer[63] = 0;
	fd = MUST(ioctl(port, SPAN_PORT_CHANNEL, longer));
	CHECK(fcntl(fd, F_GETFD) == FD_CLOEXEC, "not close-on-exec");
	CHECK_ERR(channel_call(port), EBUSY);
	CHECK_ERR(channel_call(open_port()), EBUSY);
	CHECK_ERR(lseek(fd, 0, SEEK_SET), ESPIPE);
	CHECK_ERR(ioctl(fd, SPAN_PORT_CHANNEL, &c), ENOTTY);
	close(fd);
	fd = MUST(channel_call(port));
	close(fd);
}

static void t_status(void)
{
	struct span_port_info i = { .size = sizeof(i) };

	MUST(ioctl(open_port(), SPAN_PORT_GET_INFO, &i));
	CHECK(i.features & SPAN_PORT_F_SHARE, "features %#x", i.features);
	CHECK(i.status & SPAN_STATUS_SHARE, "status %#x", i.status);
	CHECK(!(i.status & SPAN_STATUS_WATCH), "status %#x", i.status);
}

static void t_small(void)
{
	int fd = open_channel(), i;
	uint8_t buf[64];

	for (i = 1; i < 60; i++) {
		memset(buf, i, sizeof(buf));
		CHECK(write(fd, buf, i) == i, "write: %s", strerror(errno));
		memset(buf, 0, sizeof(buf));
		if (!read_all(fd, buf, i) || !CHECK(buf[0] == i && buf[i - 1] == i, "other bytes"))
			return;
	}
	fcntl(fd, F_SETFL, O_NONBLOCK);
	CHECK_ERR(read(fd, buf, 1), EAGAIN);
}

struct writer {
	int fd;
	uint64_t bytes;
	bool ok;
};

static void *write_pattern(void *arg)
{
	static uint8_t buf[50000];
	struct writer *w = arg;
	unsigned int seed = 7;
	uint64_t at = 0;
	size_t i;

	w->ok = true;
	while (at < w->bytes && w->ok) {
		size_t n = 1 + rand_r(&seed) % sizeof(buf);

		if (n > w->bytes - at)
			n = w->bytes - at;
		for (i = 0; i < n; i++)
			buf[i] = stream_byte(9, at + i);
		w->ok = CHECK(write(w->fd, buf, n) == (ssize_t)n, "write: %s", strerror(errno));
		at += n;
	}
	return NULL;
}

static void t_megabyte(void)
{
	struct writer w = { .fd = open_channel(), .bytes = ECHO_BYTES };
	static uint8_t buf[50000];
	uint64_t at = 0;
	pthread_t t;
	ssize_t n, i;

	pthread_create(&t, NULL, write_pattern, &w);
	while (at < w.bytes) {
		n = read(w.fd, buf, sizeof(buf));
		if (!CHECK(n > 0, "read at %llu: %zd %s", (unsigned long long)at, n, strerror(errno)))
			break;
		for (i = 0; i < n; i++)
			if (buf[i] != stream_byte(9, at + i))
				break;
		if (!CHECK(i == n, "byte %llu is wrong", (unsigned long long)(at + i)))
			break;
		at += n;
	}
	close(at < w.bytes ? w.fd : dup(w.fd));
	pthread_join(t, NULL);
	CHECK(w.ok, "the writer");
}

/* What was in flight is gone with the stream, and the next one begins clean. */
static void t_reopen(void)
{
	uint8_t buf[100], i;

	for (i = 0; i < 20; i++) {
		int fd = open_channel();

		memset(buf, i, sizeof(buf));
		CHECK(write(fd, buf, sizeof(buf)) == sizeof(buf), "write: %s", strerror(errno));
		if (i & 1) {
			CHECK(read_all(fd, buf, 10) && buf[0] == i && buf[9] == i, "an old stream's bytes in %u", i);
		}
		close(fd);
	}
}

static const struct ktap_test echo_tests[] = {
	{ "structures", t_structures },
	{ "status", t_status },
	{ "small", t_small },
	{ "megabyte", t_megabyte },
	{ "reopen", t_reopen },
};

static void t_empty(void)
{
	struct span_port_info i = { .size = sizeof(i) };
	int fd = MUST(open(DEVICE, O_RDONLY | O_NONBLOCK));

	CHECK_ERR(channel_call(fd), ENODEV);
	MUST(ioctl(fd, SPAN_PORT_GET_INFO, &i));
	CHECK(i.features & SPAN_PORT_F_SHARE, "features %#x", i.features);
	CHECK(!(i.status & SPAN_STATUS_SHARE), "status %#x", i.status);
}

/* An attachment that may own no vCPUs. */
static void t_none(void)
{
	CHECK_ERR(channel_call(open_port()), EACCES);
}

static const struct ktap_test empty_tests[] = { { "empty", t_empty } };
static const struct ktap_test none_tests[] = { { "none", t_none } };

static int hold(void)
{
	int fd = open_channel();
	uint8_t byte = 1;
	ssize_t n;

	MUST(write(fd, &byte, 1));
	MUST(read(fd, &byte, 1));
	say("HOLDS");
	n = read(fd, &byte, 1);
	printf("READ %s\n", n < 0 ? strerror(errno) : n ? "a byte" : "end");
	n = write(fd, &byte, 1);
	printf("WRITE %s\n", n < 0 ? strerror(errno) : "ok");
	{
		struct pollfd p = { .fd = fd, .events = POLLIN | POLLOUT };

		poll(&p, 1, 0);
		printf("POLL %s%s\n", p.revents & POLLHUP ? "hup" : "", p.revents & POLLERR ? " err" : "");
	}
	fflush(stdout);
	return 0;
}

static uint64_t tsc(void)
{
	uint32_t lo, hi;

	asm volatile("rdtsc" : "=a"(lo), "=d"(hi));
	return lo | (uint64_t)hi << 32;
}

static int cost(void)
{
	static uint8_t buf[SPAN_STREAM_BYTES];
	int fd = open_channel(), i, rounds = 50;
	uint64_t t0, t1;

	MUST(write(fd, buf, 1));
	read_all(fd, buf, 1);
	t0 = tsc();
	for (i = 0; i < rounds; i++) {
		MUST(write(fd, buf, 64));
		read_all(fd, buf, 64);
	}
	t1 = tsc();
	printf("round_trip %llu\n", (unsigned long long)(t1 - t0) / rounds);
	t0 = tsc();
	for (i = 0; i < 32; i++) {
		MUST(write(fd, buf, 32768));
		read_all(fd, buf, 32768);
	}
	t1 = tsc();
	printf("bytes_per_million %llu\n", 2ull * 32 * 32768 * 1000000 / (t1 - t0));
	return 0;
}

/* Random bytes, mostly where indices are, and the doorbell. */
static int garbage(unsigned long count)
{
	int r5 = MUST(open(RESOURCE "5", O_RDWR)), r0 = MUST(open(RESOURCE "0", O_RDWR));
	uint8_t *share = mmap(NULL, SPAN_SHARE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, r5, SPAN_SHARE_OFFSET);
	volatile uint32_t *regs = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, r0, 0);
	unsigned int seed = count;
	unsigned long i;

	MUST(share == MAP_FAILED ? -1 : 0);
	MUST(regs == MAP_FAILED ? -1 : 0);
	for (i = 0; i < count; i++) {
		uint32_t at;

		switch (rand_r(&seed) % 4) {
		case 0:		/* posts */
			at = rand_r(&seed) % (SPAN_POSTS_TO_L1 + sizeof(struct span_posts));
			break;
		case 1:		/* anything */
			at = rand_r(&seed) % SPAN_SHARE_BYTES;
			break;
		default:	/* the streams' words */
			at = (rand_r(&seed) % 2 ? SPAN_STREAM_TO_L0 : SPAN_STREAM_TO_L1) +
			     (rand_r(&seed) % 2 ? 0 : 64) + (rand_r(&seed) % 2 ? 0 : 4);
		}
		at &= ~3u;
		*(uint32_t *)(share + at) = rand_r(&seed) % 3 ? *(uint32_t *)(share + at) + rand_r(&seed) % 70000
							     : (uint32_t)rand_r(&seed) << 5;
		if (rand_r(&seed) % 4 == 0)
			regs[SPAN_REG_SHARE / 4] = 1;
	}
	/* what no driver left: streams begin with nobody there, and padding is 0 */
	memset(share, 0, SPAN_STREAM_TO_L0 + 2 * 4096);
	regs[SPAN_REG_SHARE / 4] = 1;
	say("DONE");
	return 0;
}

#define RUN(tests)	ktap_run(tests, sizeof(tests) / sizeof(tests[0]))

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "";

	signal(SIGPIPE, SIG_IGN);
	if (!strcmp(mode, "--base") && argc == 3)
		return base(argv[2]);
	if (!strcmp(mode, "--echo"))
		return RUN(echo_tests);
	if (!strcmp(mode, "--empty"))
		return RUN(empty_tests);
	if (!strcmp(mode, "--none"))
		return RUN(none_tests);
	if (!strcmp(mode, "--cost"))
		return cost();
	if (!strcmp(mode, "--hold"))
		return hold();
	if (!strcmp(mode, "--garbage") && argc == 3)
		return garbage(strtoul(argv[2], NULL, 0));
	fprintf(stderr, "usage: span_port_channel --base SOCKET | --echo | --empty | --none | --cost | --hold | --garbage N\n");
	return 2;
}
