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
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000ULL + t.tv_nsec / 1000000;
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

/*
 * A VM with one vCPU in flat 32-bit mode: 1 MiB of its own at 0, code at
 * 0x1000, and the window at WINDOW_GPA. Plays the part of an L1.
 */
#define WINDOW_GPA	0x10000000u
#define CODE_GPA	0x1000u
#define SCRATCH_GPA	0x2000u

struct tiny_vm {
	int vm, vcpu;
	uint8_t *ram;
	struct kvm_run *run;
	pthread_t thread;
	volatile bool stop;
	volatile int last_exit;		/* exit_reason, or -errno of KVM_RUN */
	volatile unsigned long exits;
};

static inline int tiny_slot(struct tiny_vm *v, int slot, uint32_t gpa, void *hva, size_t bytes,
			    uint32_t flags)
{
	struct kvm_userspace_memory_region r = {
		.slot = slot, .flags = flags, .guest_phys_addr = gpa, .memory_size = bytes,
		.userspace_addr = (uintptr_t)hva,
	};

	return ioctl(v->vm, KVM_SET_USER_MEMORY_REGION, &r);
}

static inline void tiny_flat_mode(int vcpu)
{
	struct kvm_regs regs = { .rip = CODE_GPA, .rflags = 2 };
	struct kvm_segment *seg[6];
	struct kvm_sregs s;
	int i;

	MUST(ioctl(vcpu, KVM_GET_SREGS, &s));
	s.cr0 |= 1;
	seg[0] = &s.cs; seg[1] = &s.ds; seg[2] = &s.es;
	seg[3] = &s.fs; seg[4] = &s.gs; seg[5] = &s.ss;
	for (i = 0; i < 6; i++)
		*seg[i] = (struct kvm_segment) {
			.limit = 0xffffffff, .g = 1, .db = 1, .s = 1, .present = 1,
			.type = i ? 3 : 11, .selector = i ? 16 : 8,
		};
	MUST(ioctl(vcpu, KVM_SET_SREGS, &s));
	MUST(ioctl(vcpu, KVM_SET_REGS, &regs));
}

static inline void tiny_init(struct tiny_vm *v, const uint8_t *code, size_t n)
{
	int kvm = MUST(open("/dev/kvm", O_RDWR | O_CLOEXEC)), bytes;
	size_t ram = 1 << 20;

	memset(v, 0, sizeof(*v));
	v->vm = MUST(ioctl(kvm, KVM_CREATE_VM, 0));
	MUST(ioctl(v->vm, KVM_SET_TSS_ADDR, 0xfffbd000));
	v->ram = mmap(NULL, ram, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	MUST(v->ram == MAP_FAILED ? -1 : 0);
	memcpy(v->ram + CODE_GPA, code, n);
	MUST(tiny_slot(v, 0, 0, v->ram, ram, 0));
	v->vcpu = MUST(ioctl(v->vm, KVM_CREATE_VCPU, 0));
	bytes = MUST(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0));
	v->run = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, v->vcpu, 0);
	MUST(v->run == MAP_FAILED ? -1 : 0);
	tiny_flat_mode(v->vcpu);
	close(kvm);
}

static inline void tiny_nothing(int sig)
{
	(void)sig;
}

static inline void *tiny_loop(void *arg)
{
	struct tiny_vm *v = arg;

	while (!v->stop) {
		int r = ioctl(v->vcpu, KVM_RUN, 0);

		v->last_exit = r < 0 ? -errno : (int)v->run->exit_reason;
		v->exits++;
		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0 || v->run->exit_reason == KVM_EXIT_HLT)
			break;
	}
	return NULL;
}

static inline void tiny_start(struct tiny_vm *v)
{
	struct sigaction sa = { .sa_handler = tiny_nothing };

	sigaction(SIGUSR1, &sa, NULL);
	MUST(pthread_create(&v->thread, NULL, tiny_loop, v) ? -1 : 0);
}

/* Stop the vCPU's thread; returns the milliseconds that it took. */
static inline uint64_t tiny_stop(struct tiny_vm *v)
{
	uint64_t t0 = now_ms();
	struct timespec t;

	v->stop = true;
	v->run->immediate_exit = 1;
	do {
		pthread_kill(v->thread, SIGUSR1);
		clock_gettime(CLOCK_REALTIME, &t);
		t.tv_nsec += 20000000;
		if (t.tv_nsec >= 1000000000) {
			t.tv_sec++;
			t.tv_nsec -= 1000000000;
		}
	} while (pthread_timedjoin_np(v->thread, NULL, &t) == ETIMEDOUT);
	return now_ms() - t0;
}

#endif
