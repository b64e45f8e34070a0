// SPDX-License-Identifier: GPL-2.0
/*
 * fakeport PATH MODE: a port of an L1 that lies. Listens on PATH as an L1's QEMU
 * does, takes one offer, and then does what MODE says. Prints "ready", later
 * "SIGBUS" if its mapping of the guest's memory is gone. Protocol:
 * docs/specs/span-port.rst in the QEMU series.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <linux/kvm.h>
#include <linux/kvm_span.h>

enum { OFFER = 1, ACCEPT, REFUSE, DETACH, DETACHED, DETACH_REQUEST };

static int conn, member = -1;
static uint64_t seq;
static uint64_t bytes;
static uint32_t access_bits;
static volatile uint64_t *window;
static sigjmp_buf fault;

static void die(const char *what)
{
	printf("fakeport: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int is(const char *mode, const char *name)
{
	return !strcmp(mode, name);
}

static void transmit(uint16_t type, uint32_t generation, const void *payload, uint32_t len)
{
	struct {
		uint32_t magic;
		uint16_t version, type;
		uint32_t len, generation;
		uint64_t seq;
		uint8_t payload[256];
	} f = { 0x574e5053, 1, type, len, generation, ++seq, {} };

	if (len)
		memcpy(f.payload, payload, len);
	if (send(conn, &f, 24 + len, MSG_NOSIGNAL) < 0 && errno != EPIPE && errno != ECONNRESET)
		die("send");
}

static void accept_with(uint64_t size, uint32_t access, uint32_t generation)
{
	struct { uint64_t size; uint32_t access, pad; } p = { size, access, 0 };

	transmit(ACCEPT, generation, &p, sizeof(p));
}

static void take_connection(const char *path)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int s = socket(AF_UNIX, SOCK_STREAM, 0);

	unlink(path);
	strncpy(a.sun_path, path, sizeof(a.sun_path) - 1);
	if (bind(s, (void *)&a, sizeof(a)) || listen(s, 1))
		die(path);
	printf("ready\n");
	fflush(stdout);
	conn = accept(s, NULL, NULL);
	if (conn < 0)
		die("accept");
}

static void take_offer(void)
{
	uint8_t buf[72], control[CMSG_SPACE(sizeof(int))];
	struct iovec iov = { buf, sizeof(buf) };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1,
			      .msg_control = control, .msg_controllen = sizeof(control) };

	if (recvmsg(conn, &msg, MSG_WAITALL) != sizeof(buf) || !CMSG_FIRSTHDR(&msg))
		die("offer");
	memcpy(&member, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(int));
	memcpy(&bytes, buf + 24, 8);
	memcpy(&access_bits, buf + 32, 4);
}

static void join(void)
{
	int kvm = open("/dev/kvm", O_RDWR), vm = ioctl(kvm, KVM_CREATE_VM, 0);
	struct kvm_span_join j = { .size = sizeof(j), .vm_fd = vm };

	if (vm < 0 || ioctl(member, KVM_SPAN_JOIN, &j))
		die("join");
	window = mmap(NULL, bytes, PROT_READ, MAP_SHARED, member, 0);
	if (window == MAP_FAILED)
		die("mmap");
	(void)window[512];
}

static void on_fault(int sig)
{
	siglongjmp(fault, 1);
}

/* Look at the guest's memory again and again, until it is gone. */
static void look_until_gone(void)
{
	signal(SIGBUS, on_fault);
	if (sigsetjmp(fault, 1)) {
		printf("SIGBUS\n");
		fflush(stdout);
		return;
	}
	for (;;) {
		(void)window[512];
		usleep(1000);
	}
}

static void before_joining(const char *mode)
{
	struct { uint32_t error, pad; char text[128]; } refusal = { EPERM, 0, "go away" };

	if (is(mode, "close")) {
		close(conn);
		exit(0);
	}
	if (is(mode, "garbage") && write(conn, "this is not a frame of any kind, but long enough to be one", 58) < 0)
		die("write");
	if (is(mode, "liar"))
		accept_with(bytes, access_bits, 1);
	if (is(mode, "refuse"))
		transmit(REFUSE, 0, &refusal, sizeof(refusal));
	if (is(mode, "half") && write(conn, "SPNW\1\0\2\0\20\0\0\0", 12) < 0)
		die("write");
}

static void after_joining(const char *mode)
{
	if (is(mode, "other-size"))
		accept_with(bytes / 2, access_bits, 1);
	else if (is(mode, "other-access"))
		accept_with(bytes, KVM_SPAN_ACCESS_R | KVM_SPAN_ACCESS_W, 1);
	else
		accept_with(bytes, access_bits, 1);
	if (is(mode, "rubbish-later")) {
		usleep(20000);
		transmit(REFUSE, 0, NULL, 0);
	}
	if (is(mode, "leave")) {
		usleep(20000);
		munmap((void *)window, bytes);
		close(member);
		pause();
	}
	if (is(mode, "flood")) {
		usleep(20000);
		for (int i = 0; i < 200000; i++)
			transmit(DETACH_REQUEST, 1, NULL, 0);
	}
	look_until_gone();
}

int main(int argc, char **argv)
{
	static const char *const strangers[] = { "silent", "close", "garbage", "liar", "refuse", "half", NULL };
	const char *mode = argc == 3 ? argv[2] : "";
	int i;

	if (argc != 3) {
		fprintf(stderr, "usage: fakeport PATH MODE\n");
		return 2;
	}
	take_connection(argv[1]);
	take_offer();
	for (i = 0; strangers[i] && !is(mode, strangers[i]); i++)
		;
	if (strangers[i]) {
		before_joining(mode);
	} else {
		join();
		after_joining(mode);
	}
	pause();
	return 0;
}
