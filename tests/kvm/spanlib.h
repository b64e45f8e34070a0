/* SPDX-License-Identifier: GPL-2.0 */
/* What the tests of /dev/kvm-span share: a guest's memory, a span, a tiny VM. */
#ifndef SPANLIB_H
#define SPANLIB_H

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>

#include <linux/kvm.h>
#include <linux/kvm_span.h>
#include <linux/memfd.h>

#include "ktap.h"
#include "tinyvm.h"

#define PAGE		4096UL
#define HUGE		(2UL << 20)
#define MEM_BYTES	(8UL << 20)	/* of the guests in these tests */

#define GUEST_SEALS	(F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW)
#define ACCESS_RW	(KVM_SPAN_ACCESS_R | KVM_SPAN_ACCESS_W)

/* Ends the program unless the interface is there. */
static inline void span_require(void)
{
	char value = 0;
	int fd;

	if (!access("/dev/kvm-span", F_OK))
		return;
	fd = open("/sys/module/kvm/parameters/span", O_RDONLY);
	if (fd >= 0 && read(fd, &value, 1) == 1 && value == 'N') {
		printf("TAP version 13\n1..0 # SKIP kvm.ko was loaded with span=0\n");
		exit(KTAP_SKIP_STATUS);
	}
	printf("Bail out! no /dev/kvm-span, though kvm.ko was not loaded with span=0\n");
	exit(1);
}

static inline uint64_t now_ms(void)
{
	return tiny_now_ms();
}

static inline int memfd_new(size_t bytes, unsigned int seals)
{
	int fd = MUST(memfd_create("guest", MFD_ALLOW_SEALING | MFD_CLOEXEC));

	MUST(ftruncate(fd, bytes));
	if (seals)
		MUST(fcntl(fd, F_ADD_SEALS, seals));
	return fd;
}

static inline int vm_new(void)
{
	int kvm = MUST(open("/dev/kvm", O_RDWR | O_CLOEXEC));
	int vm = MUST(ioctl(kvm, KVM_CREATE_VM, 0));

	close(kvm);
	return vm;
}

static inline int span_dev(void)
{
	return MUST(open("/dev/kvm-span", O_RDWR | O_CLOEXEC));
}

static inline int span_create_named(int memfd, int vm, const char *name)
{
	struct kvm_span_create arg = { .size = sizeof(arg), .memfd = memfd, .vm_fd = vm };
	int dev = span_dev(), fd, e;

	strncpy((char *)arg.name, name, sizeof(arg.name) - 1);
	fd = ioctl(dev, KVM_SPAN_CREATE, &arg);
	e = errno;
	close(dev);
	errno = e;
	return fd;
}

static inline int span_create(int memfd, int vm)
{
	return MUST(span_create_named(memfd, vm, "guest"));
}

/* A span over fresh memory, with a VM for the guest. */
static inline int span_new(int *memfd)
{
	*memfd = memfd_new(MEM_BYTES, GUEST_SEALS);
	return span_create(*memfd, vm_new());
}

static inline int span_grant(int span, uint32_t access, const char *name, uint32_t *id)
{
	struct kvm_span_grant arg = { .size = sizeof(arg), .access = access };
	int fd;

	strncpy((char *)arg.name, name, sizeof(arg.name) - 1);
	fd = ioctl(span, KVM_SPAN_GRANT, &arg);
	if (id)
		*id = arg.member;
	return fd;
}

static inline int span_join(int member, int vm)
{
	struct kvm_span_join arg = { .size = sizeof(arg), .vm_fd = vm };

	return ioctl(member, KVM_SPAN_JOIN, &arg);
}

static inline int span_revoke(int span, uint32_t id)
{
	struct kvm_span_revoke arg = { .size = sizeof(arg), .member = id };

	return ioctl(span, KVM_SPAN_REVOKE, &arg);
}

static inline int span_member(int fd, uint32_t id, struct kvm_span_member_info *info)
{
	memset(info, 0, sizeof(*info));
	info->size = sizeof(*info);
	info->member = id;
	return ioctl(fd, KVM_SPAN_GET_MEMBER, info);
}

static inline struct kvm_span_stats span_stats(int span)
{
	struct kvm_span_stats s = { .size = sizeof(s) };

	MUST(ioctl(span, KVM_SPAN_GET_STATS, &s));
	return s;
}

/* The next event, waited for; type 0 when there is none within the time. */
static inline struct kvm_span_event span_event(int span, int timeout_ms)
{
	struct pollfd p = { .fd = span, .events = POLLIN };
	struct kvm_span_event e = {};

	if (poll(&p, 1, timeout_ms) == 1)
		MUST(read(span, &e, sizeof(e)));
	return e;
}

static inline uint8_t *span_map(int member, int prot)
{
	return mmap(NULL, MEM_BYTES, prot, MAP_SHARED, member, 0);
}

/* A member in this process: granted, joined, mapped. */
static inline uint8_t *member_new(int span, uint32_t access, const char *name, uint32_t *id,
				  int *fd)
{
	int member = MUST(span_grant(span, access, name, id));
	uint8_t *p;

	MUST(span_join(member, vm_new()));
	p = span_map(member, access & KVM_SPAN_ACCESS_W ? PROT_READ | PROT_WRITE : PROT_READ);
	MUST(p == MAP_FAILED ? -1 : 0);
	if (fd)
		*fd = member;
	return p;
}

/* Does the access fault with SIGBUS (or SIGSEGV, which is reported apart)? */
static sigjmp_buf touch_env;

static inline void touch_handler(int sig)
{
	siglongjmp(touch_env, sig);
}

/* Returns 0, or the signal that the access ended with. */
static inline int touch(volatile uint8_t *p, bool write)
{
	struct sigaction sa = { .sa_handler = touch_handler }, bus, segv;
	int sig;

	sigaction(SIGBUS, &sa, &bus);
	sigaction(SIGSEGV, &sa, &segv);
	sig = sigsetjmp(touch_env, 1);
	if (!sig) {
		if (write)
			*p = *p + 1;
		else
			(void)*p;
	}
	sigaction(SIGBUS, &bus, NULL);
	sigaction(SIGSEGV, &segv, NULL);
	return sig;
}

static inline void send_fd(int sock, int fd)
{
	char byte = 'f', control[CMSG_SPACE(sizeof(int))] = {};
	struct iovec io = { &byte, 1 };
	struct msghdr m = { .msg_iov = &io, .msg_iovlen = 1, .msg_control = control,
			    .msg_controllen = sizeof(control) };
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &fd, sizeof(int));
	MUST(sendmsg(sock, &m, 0));
}

static inline int recv_fd(int sock)
{
	char byte, control[CMSG_SPACE(sizeof(int))] = {};
	struct iovec io = { &byte, 1 };
	struct msghdr m = { .msg_iov = &io, .msg_iovlen = 1, .msg_control = control,
			    .msg_controllen = sizeof(control) };
	int fd = -1;

	MUST(recvmsg(sock, &m, MSG_CMSG_CLOEXEC));
	if (CMSG_FIRSTHDR(&m))
		memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(int));
	return fd;
}

#endif
