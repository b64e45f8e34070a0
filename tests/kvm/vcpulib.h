/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the tests of vCPUs on several hypervisors share: a guest with a few vCPUs,
 * and members whose L1 is played by the test: a tiny VM that rings the doorbell,
 * and the shared pages as the L1 sees them.
 */
#ifndef VCPULIB_H
#define VCPULIB_H

#include <linux/span_port.h>

#include "spanlib.h"

#define VCPUS		3
#define DOORBELL_GPA	0xd0000000u
#define NOBODY		KVM_SPAN_VCPU_NOBODY

#define LAPIC_GPA	0xfee00000u
#define LAPIC_LDR	0xd0
#define LAPIC_DFR	0xe0
#define LAPIC_SPIV	0xf0
#define LAPIC_IRR	0x200

/* Takes interrupts for ever, and counts them in memory. */
TINY_CODE(idle, "1: sti; hlt; jmp 1b");

struct guest {
	int span;
	struct tiny_vm vcpu[VCPUS];
};

/* One member and its L1. */
struct peer {
	int fd, event;
	uint32_t id;
	uint8_t *pages;
	struct span_posts *to_l0, *to_l1;
	struct tiny_vm l1;
};

static inline void guest_init_vm(struct guest *g, unsigned int flags)
{
	int i;

	tiny_init_with(&g->vcpu[0], flags);
	for (i = 1; i < VCPUS; i++)
		tiny_add_vcpu(&g->vcpu[i], &g->vcpu[0], i, flags);
}

static inline void guest_init(struct guest *g)
{
	guest_init_vm(g, TINY_SPLIT);
	g->span = span_create(memfd_new(MEM_BYTES, GUEST_SEALS), g->vcpu[0].vm);
}

static inline int set_vcpu(int fd, uint32_t vcpu, uint32_t owner)
{
	struct kvm_span_vcpu arg = { .size = sizeof(arg), .vcpu = vcpu, .owner = owner };

	return ioctl(fd, KVM_SPAN_SET_VCPU, &arg);
}

static inline int vcpu_grant(int span, const char *name, uint32_t rights, uint32_t *id)
{
	struct kvm_span_grant arg = { .size = sizeof(arg), .access = ACCESS_RW, .rights = rights };
	int fd;

	strncpy((char *)arg.name, name, sizeof(arg.name) - 1);
	fd = ioctl(span, KVM_SPAN_GRANT, &arg);
	*id = arg.member;
	return fd;
}

static inline void peer_share(struct peer *p)
{
	struct kvm_span_share share = { .size = sizeof(share) };
	struct kvm_span_doorbell bell = { .size = sizeof(bell), .gpa = DOORBELL_GPA };

	p->event = MUST(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
	share.event_fd = p->event;
	MUST(ioctl(p->fd, KVM_SPAN_SHARE, &share));
	p->pages = mmap(NULL, SPAN_SHARE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, p->fd,
			KVM_SPAN_SHARE_OFFSET);
	MUST(p->pages == MAP_FAILED ? -1 : 0);
	p->to_l0 = (struct span_posts *)(p->pages + SPAN_POSTS_TO_L0);
	p->to_l1 = (struct span_posts *)(p->pages + SPAN_POSTS_TO_L1);
	MUST(ioctl(p->fd, KVM_SPAN_DOORBELL, &bell));
}

static inline void peer_init(struct peer *p, struct guest *g, const char *name)
{
	memset(p, 0, sizeof(*p));
	tiny_init_with(&p->l1, 0);
	p->fd = MUST(vcpu_grant(g->span, name, KVM_SPAN_RIGHT_VCPU, &p->id));
	MUST(span_join(p->fd, p->l1.vm));
	peer_share(p);
}

/* As the L1 does. */
static inline void peer_ring(struct peer *p)
{
	int r = TINY_RUN(&p->l1, store, .eax = 1, .ebx = DOORBELL_GPA);

	CHECK(r == TINY_DONE, "the doorbell ended with %d", r);
}

static inline void post_vector(struct span_posts *posts, int vcpu, int vector, bool level)
{
	struct span_post *post = &posts->vcpu[vcpu];
	uint64_t bit = 1ULL << (vector % 64);

	if (level)
		__atomic_fetch_or(&post->level[vector / 64], bit, __ATOMIC_SEQ_CST);
	else
		__atomic_fetch_and(&post->level[vector / 64], ~bit, __ATOMIC_SEQ_CST);
	__atomic_fetch_or(&post->irr[vector / 64], bit, __ATOMIC_SEQ_CST);
	__atomic_fetch_or(&posts->pending, 1ULL << vcpu, __ATOMIC_SEQ_CST);
}

static inline void post_event(struct span_posts *posts, int vcpu, uint32_t event)
{
	__atomic_fetch_or(&posts->vcpu[vcpu].event, event, __ATOMIC_SEQ_CST);
	__atomic_fetch_or(&posts->pending, 1ULL << vcpu, __ATOMIC_SEQ_CST);
}

/* What an L1 takes out of its posts. */
struct taken {
	uint64_t irr[4], level[4];
	uint32_t event;
};

static inline bool take_post(struct span_posts *posts, int vcpu, struct taken *t)
{
	struct span_post *post = &posts->vcpu[vcpu];
	uint64_t bit = 1ULL << vcpu;
	bool any;
	int i;

	any = __atomic_fetch_and(&posts->pending, ~bit, __ATOMIC_SEQ_CST) & bit;
	for (i = 0; i < 4; i++) {
		t->irr[i] = __atomic_exchange_n(&post->irr[i], 0, __ATOMIC_SEQ_CST);
		t->level[i] = post->level[i] & t->irr[i];
	}
	t->event = __atomic_exchange_n(&post->event, 0, __ATOMIC_SEQ_CST);
	return any;
}

static inline bool taken_vector(const struct taken *t, int vector)
{
	return t->irr[vector / 64] >> (vector % 64) & 1;
}

static inline bool taken_level(const struct taken *t, int vector)
{
	return t->level[vector / 64] >> (vector % 64) & 1;
}

static inline int taken_count(const struct taken *t)
{
	int i, n = __builtin_popcount(t->event & ~SPAN_POST_APIC);

	for (i = 0; i < 4; i++)
		n += __builtin_popcountll(t->irr[i]);
	return n;
}

/* An MSI with any delivery mode; address bits besides the destination: flags. */
static inline void send_msi(struct guest *g, uint32_t dest, uint32_t flags, uint32_t data)
{
	struct kvm_msi msi = { .address_lo = LAPIC_GPA | dest << 12 | flags, .data = data };

	MUST(ioctl(g->vcpu[0].vm, KVM_SIGNAL_MSI, &msi));
}

#define MSI_LOGICAL	(1u << 2)
#define MSI_LOWEST	(1u << 8)
#define MSI_SMI		(2u << 8)
#define MSI_NMI		(4u << 8)
#define MSI_INIT	(5u << 8)
#define MSI_SIPI	(6u << 8)
#define MSI_EXTINT	(7u << 8)
#define MSI_ASSERT	(1u << 14)
#define MSI_LEVEL	(1u << 15)

static inline void tiny_cpuid(int vcpu)
{
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entry[128];
	} id = { .head.nent = 128 };
	int kvm = MUST(open("/dev/kvm", O_RDWR | O_CLOEXEC));

	MUST(ioctl(kvm, KVM_GET_SUPPORTED_CPUID, &id));
	MUST(ioctl(vcpu, KVM_SET_CPUID2, &id));
	close(kvm);
}

static inline uint32_t lapic_reg(int vcpu, unsigned int reg)
{
	struct kvm_lapic_state l;
	uint32_t value;

	MUST(ioctl(vcpu, KVM_GET_LAPIC, &l));
	memcpy(&value, l.regs + reg, 4);
	return value;
}

static inline void set_lapic_reg(int vcpu, unsigned int reg, uint32_t value)
{
	struct kvm_lapic_state l;

	MUST(ioctl(vcpu, KVM_GET_LAPIC, &l));
	memcpy(l.regs + reg, &value, 4);
	MUST(ioctl(vcpu, KVM_SET_LAPIC, &l));
}

static inline bool lapic_has(int vcpu, int vector)
{
	return lapic_reg(vcpu, LAPIC_IRR + vector / 32 * 16) >> (vector % 32) & 1;
}

/* How often the event was signalled since the last look. */
static inline uint64_t peer_events(struct peer *p)
{
	uint64_t n = 0;

	return read(p->event, &n, 8) == 8 ? n : 0;
}

/* Until a condition holds, at most some time; usable in CHECK(). */
#define SOON(cond) ({							\
	uint64_t t_ = now_ms() + 2000;					\
	while (!(cond) && now_ms() < t_)				\
		usleep(500);						\
	(cond);								\
})

#endif
