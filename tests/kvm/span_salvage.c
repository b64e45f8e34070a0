// SPDX-License-Identifier: GPL-2.0
/*
 * vCPUs that are taken back from an L1 by force: out of guest mode, and as of
 * their last exit; what cannot be taken; an L1 that lies. The L1 is a tiny VM with a
 * nested guest whose memory, page tables included, is in the window.
 *
 * test: vcpu/salvage-kernel level=L0 tags=fast,debug timeout=240
 */
#include "badcall.h"
#include "tinynested.h"
#include "vcpulib.h"

/* Pages of the window; the guest has them at the same addresses as the L1. */
#define G(page)		(WINDOW_GPA + (page) * PAGE)
#define G_CR3		G(0)
#define G_IDT		G(1)
#define G_STUB		G(2)
#define G_STACK		G(3)
#define G_CODE		G(4)
#define G_DATA		G(5)
#define G_COUNT		(G_DATA + 0x40)	/* interrupts taken */

/* Of the guest's second vCPU. */
#define G_STACK2	G(6)
#define G_CODE2		G(7)
#define G_DATA2		G(8)

/* The L1's virtual-APIC page of the guest's vCPU. */
#define L1_APIC_GPA	0x90000u
/* Its descriptor of posted interrupts. */
#define L1_POSTED_GPA	0x91000u
/* The same for the second one, and what the L1's own second vCPU needs. */
#define L1_APIC2_GPA	0x92000u
#define L1_VMXON2_GPA	0x93000u
#define L1_VMCS2_GPA	0x94000u

#define WHO		1u		/* the guest's vCPU */
#define WHO2		2u
#define APIC_ID		0x20
#define APIC_ISR	0x100
#define APIC_IRR	0x200

#define VMCS_CR4_MASK		0x6002
#define VMCS_CR4_SHADOW		0x6006
#define VMCS_GUEST_CR3		0x6802
#define VMCS_GUEST_CR4		0x6804
#define VMCS_GUEST_IDTR_BASE	0x6818
#define VMCS_GUEST_RSP		0x681c
#define VMCS_GUEST_RFLAGS	0x6820
#define VMCS_CONTROLS		0x4002
#define VMCS_ENTRY_EVENT	0x4016
#define VMCS_APIC_PAGE		0x2012
#define VMCS_TPR_THRESHOLD	0x401c
#define VMCS_PIN_CONTROLS	0x4000
#define VMCS_SECONDARY		0x401e
#define VMCS_EXIT_CONTROLS	0x400c
#define VMCS_POSTED_VECTOR	0x0002
#define VMCS_POSTED_DESC	0x2016
#define VMCS_INTR_STATUS	0x0810	/* vector requested, and in service << 8 */
#define VMCS_EOI_EXIT		0x201c

#define PIN_INTR	(1u << 0)
#define PIN_POSTED	(1u << 7)
#define SEC_EPT		(1u << 1)
#define SEC_APIC_REGS	(1u << 8)
#define SEC_DELIVERY	(1u << 9)
#define EXIT_ACK_INTR	(1u << 15)

#define CTL_HLT		(1u << 7)
#define CTL_TPR_SHADOW	(1u << 21)
#define CTL_SECONDARY	(1u << 31)

#define CR4_VMXE	(1u << 13)
#define CR4_GUEST	0x610u		/* PSE, OSFXSR, OSXMMEXCPT */

#define EXIT_CPUID	10
#define EXIT_HLT	12

#define COST_EXITS	2000

/* Like nest_run, with the guest's rip in edi. */
TINY_CODE(enter,
	  "jmp 1f; .fill 8 - (. - piece_enter), 1, 0x90;"
	  "movl $0x4402, %edx; vmread %edx, %eax; jmp 4f;"
	  "1: movl $0x681e, %edx; vmwrite %edi, %edx;"
	  "testl %ebp, %ebp; jnz 2f; vmlaunch; jmp 3f; 2: vmresume;"
	  "3: movl $0x4400, %edx; vmread %edx, %eax; orl $0x80000000, %eax; 4:");

/* The same, and lets the guest go on after esi CPUIDs. */
TINY_CODE(enter_often,
	  "jmp 1f; .fill 8 - (. - piece_enter_often), 1, 0x90;"
	  "decl %esi; jz 4f; movl $0x681e, %edx; vmread %edx, %eax; addl $2, %eax; vmwrite %eax, %edx; vmresume; hlt;"
	  "1: movl $0x681e, %edx; vmwrite %edi, %edx; testl %ebp, %ebp; jnz 2f; vmlaunch; 2: vmresume; hlt; 4:");

/* What the guest does: ends on L0 by the port, which exits to the L1 elsewhere. */
TINY_CODE(g_count, "1: incl %eax; movl %eax, (%ebx); cmpl $0, 4(%ebx); je 1b");
TINY_CODE(g_sse, "movd %eax, %xmm3; pshufd $0, %xmm3, %xmm3; 1: incl 8(%ebx); cmpl $0, 4(%ebx); je 1b; movups %xmm3, 16(%ebx)");
TINY_CODE(g_cpuid, "movl $7, (%ebx); xorl %eax, %eax; cpuid; movl $0x600d, %esi; movl $8, 0x10005000");
TINY_CODE(g_hlt, "movl $7, (%ebx); sti; hlt; movl $8, (%ebx)");
TINY_CODE(g_sti, "1: incl (%ebx); cmpl $0, 4(%ebx); je 1b; sti; nop; cli");
TINY_CODE(g_out, "movl $7, (%ebx)");
TINY_CODE(g_cpuids, "1: cpuid; jmp 1b");

struct split {
	struct guest g;
	struct peer p;
	int memfd;
	uint8_t *mem;		/* the guest's */
};

static void put(struct split *s, uint32_t gpa, const void *from, size_t n)
{
	memcpy(s->mem + (gpa - WINDOW_GPA), from, n);
}

static volatile uint32_t *word(struct split *s, uint32_t gpa)
{
	return (volatile uint32_t *)(s->mem + (gpa - WINDOW_GPA));
}

static volatile uint32_t *apic(struct split *s, unsigned int reg)
{
	return (volatile uint32_t *)(s->p.l1.ram + L1_APIC_GPA + reg);
}

static int arm_one(struct split *s, unsigned int who)
{
	struct kvm_span_vcpu arg = {
		.size = sizeof(arg), .vcpu = who, .owner = s->p.id, .flags = KVM_SPAN_VCPU_SALVAGE,
	};

	return ioctl(s->g.span, KVM_SPAN_SET_VCPU, &arg);
}

static int arm(struct split *s)
{
	return arm_one(s, WHO);
}

static int salvage(struct split *s, uint64_t vcpus, struct kvm_span_salvage *arg)
{
	*arg = (struct kvm_span_salvage){ .size = sizeof(*arg), .member = s->p.id, .vcpus = vcpus };
	return ioctl(s->g.span, KVM_SPAN_SALVAGE, arg);
}

/* Salvages the vCPU with this result. */
static bool expect(struct split *s, uint8_t result)
{
	bool good = result == KVM_SPAN_SALVAGE_RUNNING || result == KVM_SPAN_SALVAGE_EXITED;
	struct kvm_span_salvage arg;

	if (!CHECK(salvage(s, 1u << WHO, &arg) == 0, "%s", strerror(errno)))
		return false;
	CHECK(arg.vcpus == (good ? 1u << WHO : 0), "salvaged %#llx", (unsigned long long)arg.vcpus);
	return CHECK(arg.result[WHO] == result, "result %u, not %u", arg.result[WHO], result);
}

/* Identity paging, and for each vector the same stub: it counts. */
static void guest_tables(struct split *s)
{
	static const uint8_t stub[] = {
		0xff, 0x05, 0x40, 0x50, 0x00, 0x10,	/* incl G_COUNT */
		0xcf,					/* iret */
	};
	uint8_t gate[8];
	int i;

	tiny_page_directory(s->mem);
	tiny_put32(gate, 8 << 16 | (G_STUB & 0xffff));
	tiny_put32(gate + 4, (G_STUB & 0xffff0000) | 0x8e00);
	for (i = 0; i < 256; i++)
		put(s, G_IDT + 8 * i, gate, sizeof(gate));
	put(s, G_STUB, stub, sizeof(stub));
}

/* A vCPU of the guest, for the L1's vCPU v, whose VMCS is there. */
static void split_vcpu(struct split *s, struct tiny_vm *v, unsigned int who, uint32_t stack, uint32_t apic_gpa)
{
	volatile uint32_t *regs = (volatile uint32_t *)(s->p.l1.ram + apic_gpa);

	MUST(nest_write(v, VMCS_GUEST_CR3, G_CR3));
	/* VMXE is the L1's, the guest sees none; it has SSE. */
	MUST(nest_write(v, VMCS_GUEST_CR4, CR4_VMXE | CR4_GUEST));
	MUST(nest_write(v, VMCS_CR4_MASK, CR4_VMXE));
	MUST(nest_write(v, VMCS_CR4_SHADOW, 0));
	MUST(nest_write(v, VMCS_GUEST_IDTR_BASE, G_IDT));
	MUST(nest_write(v, VMCS_GUEST_RSP, stack));
	MUST(nest_write(v, VMCS_APIC_PAGE, apic_gpa));
	MUST(nest_write(v, VMCS_APIC_PAGE + 1, 0));
	MUST(nest_write(v, VMCS_TPR_THRESHOLD, 0));
	MUST(nest_write(v, VMCS_CONTROLS,
			nest_control(v->vcpu, 0x482, CTL_SECONDARY | CTL_TPR_SHADOW | CTL_HLT)));
	regs[APIC_ID / 4] = who << 24;
	regs[LAPIC_SPIV / 4] = 0x1ff;
	regs[LAPIC_DFR / 4] = ~0u;
	MUST(set_vcpu(s->g.span, who, NOBODY));
}

static void split_init(struct split *s)
{
	uint8_t *window;

	memset(s, 0, sizeof(*s));
	guest_init_vm(&s->g, TINY_SPLIT);
	s->memfd = memfd_new(MEM_BYTES, GUEST_SEALS);
	s->mem = mmap(NULL, MEM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, s->memfd, 0);
	MUST(s->mem == MAP_FAILED ? -1 : 0);
	MUST(tiny_slot(&s->g.vcpu[0], 1, WINDOW_GPA, s->mem, MEM_BYTES, 0));
	tiny_cpuid(s->g.vcpu[WHO].vcpu);
	s->g.span = span_create(s->memfd, s->g.vcpu[0].vm);
	peer_init(&s->p, &s->g, "L1a");
	window = span_map(s->p.fd, PROT_READ | PROT_WRITE);
	MUST(window == MAP_FAILED ? -1 : 0);
	MUST(tiny_slot(&s->p.l1, 1, WINDOW_GPA, window, MEM_BYTES, 0));
	guest_tables(s);
	if (!nest_init(&s->p.l1))
		ktap_skip("no VMX for VMs");
	split_vcpu(s, &s->p.l1, WHO, G_STACK, L1_APIC_GPA);
}

#define ENTER(s, again, name, ...) ({					\
	put(s, G_CODE, piece_##name, piece_##name##_end - piece_##name); \
	TINY_GO(&(s)->p.l1, enter, .edi = G_CODE, .ebp = (again), .ebx = G_DATA, __VA_ARGS__); \
})

static struct kvm_regs regs_of(struct split *s)
{
	struct kvm_regs regs;

	MUST(ioctl(s->g.vcpu[WHO].vcpu, KVM_GET_REGS, &regs));
	return regs;
}

/* The guest's vCPU goes on at home, to its end. */
static int home(struct split *s)
{
	MUST(set_vcpu(s->g.span, WHO, 0));
	tiny_go(&s->g.vcpu[WHO]);
	return tiny_wait(&s->g.vcpu[WHO], 5000);
}

static void test_rules(void)
{
	struct kvm_span_salvage good = { .size = sizeof(good), .member = 12345, .vcpus = 1 };
	struct guest g;
	struct call_rules rules = {
		.cmd = KVM_SPAN_SALVAGE, .good = &good, .n = sizeof(good), .ends = ENOENT,
	};

	guest_init(&g);
	rules.fd = g.span;
	call_rules(&rules);
}

static void test_errors(void)
{
	struct kvm_span_vcpu vcpu = { .size = sizeof(vcpu), .vcpu = WHO };
	struct kvm_span_salvage arg;
	struct split s;
	uint32_t plain;
	int fd;

	memset(&s, 0, sizeof(s));
	guest_init(&s.g);
	CHECK_ERR(salvage(&s, 1, &arg), ENOENT);
	fd = MUST(vcpu_grant(s.g.span, "plain", KVM_SPAN_RIGHT_LOG, &plain));
	MUST(span_join(fd, vm_new()));
	s.p.id = plain;
	CHECK_ERR(salvage(&s, 1, &arg), EPERM);
	fd = MUST(vcpu_grant(s.g.span, "late", KVM_SPAN_RIGHT_VCPU, &s.p.id));
	CHECK_ERR(salvage(&s, 1, &arg), EACCES);
	peer_init(&s.p, &s.g, "L1a");
	CHECK_ERR(salvage(&s, 0, &arg), EINVAL);
	arg = (struct kvm_span_salvage){ .size = sizeof(arg), .member = s.p.id, .vcpus = 1, .pad = 1 };
	CHECK_ERR(ioctl(s.g.span, KVM_SPAN_SALVAGE, &arg), EINVAL);
	CHECK_ERR(ioctl(s.p.fd, KVM_SPAN_SALVAGE, &arg), ENOTTY);

	/* The flag is about members only. */
	vcpu.flags = KVM_SPAN_VCPU_SALVAGE;
	CHECK_ERR(ioctl(s.g.span, KVM_SPAN_SET_VCPU, &vcpu), EINVAL);
	vcpu.owner = NOBODY;
	CHECK_ERR(ioctl(s.g.span, KVM_SPAN_SET_VCPU, &vcpu), EINVAL);
	vcpu.owner = s.p.id;
	vcpu.flags = 2;
	CHECK_ERR(ioctl(s.g.span, KVM_SPAN_SET_VCPU, &vcpu), EINVAL);

	/* Another process has no business with the guest's VM. */
	if (!fork()) {
		errno = 0;
		_exit(salvage(&s, 1, &arg) == -1 && errno == EPERM ? 0 : 1);
	}
	wait(&fd);
	CHECK(WIFEXITED(fd) && !WEXITSTATUS(fd), "another process: %#x", fd);
}

/* What it does not have, nobody takes; it is fenced all the same. */
static void test_not_there(void)
{
	struct kvm_span_member_info info;
	struct kvm_span_salvage arg;
	struct split s;

	split_init(&s);
	MUST(set_vcpu(s.g.span, WHO, s.p.id));
	CHECK(salvage(&s, 0xf, &arg) == 0, "%s", strerror(errno));
	CHECK(arg.vcpus == 0, "%#llx", (unsigned long long)arg.vcpus);
	CHECK(arg.result[0] == KVM_SPAN_SALVAGE_NOT_OWNED, "%u", arg.result[0]);
	CHECK(arg.result[WHO] == KVM_SPAN_SALVAGE_NOT_ARMED, "%u", arg.result[WHO]);
	CHECK(arg.result[63] == 0, "%u", arg.result[63]);
	MUST(span_member(s.g.span, s.p.id, &info));
	CHECK(info.state == KVM_SPAN_REVOKED && !info.vcpus, "state %u", info.state);
	CHECK_ERR(salvage(&s, 1u << WHO, &arg), EACCES);
	CHECK(set_vcpu(s.g.span, WHO, 0) == 0, "%s", strerror(errno));

	/* Armed, and never run there. */
	split_init(&s);
	MUST(arm(&s));
	expect(&s, KVM_SPAN_SALVAGE_UNKNOWN);
}

/* In guest mode, while it runs. */
static void test_running(void)
{
	struct kvm_regs regs;
	uint32_t n, end;
	struct split s;

	split_init(&s);
	MUST(arm(&s));
	ENTER(&s, 0, g_count);
	CHECK(SOON(*word(&s, G_DATA) > 1000), "it counts: %u", *word(&s, G_DATA));
	/* As while it is asked to give it back. */
	MUST(set_vcpu(s.g.span, WHO, NOBODY));
	if (!expect(&s, KVM_SPAN_SALVAGE_RUNNING))
		return;
	n = *word(&s, G_DATA);
	regs = regs_of(&s);
	CHECK(regs.rax == n || regs.rax == n + 1, "eax %llu, counted %u", regs.rax, n);
	CHECK(regs.rip >= G_CODE && regs.rip < G_CODE + 16, "rip %#llx", regs.rip);
	CHECK(regs.rbx == G_DATA, "ebx %#llx", regs.rbx);
	usleep(20000);
	CHECK(*word(&s, G_DATA) == n, "it runs on: %u, %u", n, *word(&s, G_DATA));
	MUST(set_vcpu(s.g.span, WHO, 0));
	tiny_go(&s.g.vcpu[WHO]);
	CHECK(SOON(*word(&s, G_DATA) > n + 1000), "it counts at home: %u", *word(&s, G_DATA));
	*word(&s, G_DATA + 4) = 1;
	end = tiny_wait(&s.g.vcpu[WHO], 5000);
	CHECK(end == TINY_DONE, "ended with %u", end);
	tiny_abort(&s.p.l1);
}

/* In guest mode, its vCPU not in KVM_RUN: the L1's QEMU was stopped. */
static void test_stopped(void)
{
	struct split s;
	uint32_t n;

	split_init(&s);
	MUST(arm(&s));
	ENTER(&s, 0, g_sse, .eax = 0x5eed5eed);
	CHECK(SOON(*word(&s, G_DATA + 8) > 1000), "it counts");
	tiny_abort(&s.p.l1);
	n = *word(&s, G_DATA + 8);
	if (!expect(&s, KVM_SPAN_SALVAGE_RUNNING))
		return;
	MUST(set_vcpu(s.g.span, WHO, 0));
	tiny_go(&s.g.vcpu[WHO]);
	CHECK(SOON(*word(&s, G_DATA + 8) > n + 1000), "it counts at home");
	*word(&s, G_DATA + 4) = 1;
	CHECK(tiny_wait(&s.g.vcpu[WHO], 5000) == TINY_DONE, "ended with %d", s.g.vcpu[WHO].result);
	CHECK(*word(&s, G_DATA + 16) == 0x5eed5eed && *word(&s, G_DATA + 28) == 0x5eed5eed, "xmm3: %#x",
	      *word(&s, G_DATA + 16));
}

/* After an exit that it can make once more; its L1 is in its own code. */
static void test_exited(void)
{
	struct split s;

	split_init(&s);
	MUST(arm(&s));
	ENTER(&s, 0, g_cpuid);
	CHECK(tiny_wait(&s.p.l1, 5000) == TINY_DONE && tiny_eax(&s.p.l1) == EXIT_CPUID, "exit %#x",
	      tiny_eax(&s.p.l1));
	CHECK(*word(&s, G_DATA) == 7, "%u", *word(&s, G_DATA));
	if (!expect(&s, KVM_SPAN_SALVAGE_EXITED))
		return;
	CHECK(home(&s) == TINY_DONE, "ended with %d", s.g.vcpu[WHO].result);
	CHECK(*word(&s, G_DATA) == 8 && regs_of(&s).rsi == 0x600d, "%u", *word(&s, G_DATA));
}

/* Halted: the interrupt that wakes it was in service already, for an entry that never was. */
static void test_halted(void)
{
	struct split s;

	split_init(&s);
	MUST(arm(&s));
	ENTER(&s, 0, g_hlt);
	CHECK(tiny_wait(&s.p.l1, 5000) == TINY_DONE && tiny_eax(&s.p.l1) == EXIT_HLT, "exit %#x",
	      tiny_eax(&s.p.l1));
	*apic(&s, APIC_ISR + 0x10 * (0x51 / 32)) = 1u << (0x51 % 32);
	*apic(&s, APIC_IRR + 0x10 * (0x43 / 32)) |= 1u << (0x43 % 32);
	if (!expect(&s, KVM_SPAN_SALVAGE_EXITED))
		return;
	CHECK(lapic_has(s.g.vcpu[WHO].vcpu, 0x51), "the vector in service has to come again");
	CHECK(lapic_has(s.g.vcpu[WHO].vcpu, 0x43), "what waits");
	CHECK(home(&s) == TINY_DONE, "ended with %d", s.g.vcpu[WHO].result);
	CHECK(*word(&s, G_DATA) == 8, "%u", *word(&s, G_DATA));
	CHECK(*word(&s, G_COUNT) == 1, "interrupts taken: %u", *word(&s, G_COUNT));
}

/* An interrupt that the L1 injects with an entry, taken before or after. */
static void test_injected(void)
{
	struct split s;

	split_init(&s);
	MUST(arm(&s));
	MUST(nest_write(&s.p.l1, VMCS_GUEST_RFLAGS, 0x202));
	MUST(nest_write(&s.p.l1, VMCS_ENTRY_EVENT, 1u << 31 | 0x61));
	*apic(&s, APIC_ISR + 0x10 * (0x61 / 32)) = 1u << (0x61 % 32);
	ENTER(&s, 0, g_count);
	CHECK(SOON(*word(&s, G_DATA) > 10), "it counts: %u", *word(&s, G_DATA));
	if (!expect(&s, KVM_SPAN_SALVAGE_RUNNING))
		return;
	*word(&s, G_DATA + 4) = 1;
	CHECK(home(&s) == TINY_DONE, "ended with %d", s.g.vcpu[WHO].result);
	CHECK(*word(&s, G_COUNT) == 1, "interrupts taken: %u", *word(&s, G_COUNT));
	CHECK(lapic_reg(s.g.vcpu[WHO].vcpu, APIC_ISR + 0x10 * (0x61 / 32)) == 1u << (0x61 % 32), "in service");
	tiny_abort(&s.p.l1);
}

/* An access to a device: nobody knows what the L1 has done for it. */
static void test_at_work(void)
{
	struct split s;

	split_init(&s);
	MUST(arm(&s));
	/* Ports exit where the L1 says so; unconditional I/O exiting. */
	MUST(nest_write(&s.p.l1, VMCS_CONTROLS,
			nest_control(s.p.l1.vcpu, 0x482, CTL_SECONDARY | CTL_TPR_SHADOW | 1u << 24)));
	ENTER(&s, 0, g_out);
	CHECK(tiny_wait(&s.p.l1, 5000) == TINY_DONE && tiny_eax(&s.p.l1) == 30, "exit %#x",
	      tiny_eax(&s.p.l1));
	expect(&s, KVM_SPAN_SALVAGE_AT_WORK);
}

/* A vCPU of another guest of the same L1, with the same APIC id: its CR3 is elsewhere. */
static void test_another_guest(void)
{
	struct split s;
	uint32_t i;

	split_init(&s);
	MUST(arm(&s));
	for (i = 0; i < 1024; i++)
		tiny_put32(s.p.l1.ram + 0xa0000 + 4 * i, i << 22 | 0x83);
	MUST(nest_write(&s.p.l1, VMCS_GUEST_CR3, 0xa0000));
	ENTER(&s, 0, g_count);
	CHECK(SOON(*word(&s, G_DATA) > 10), "it counts: %u", *word(&s, G_DATA));
	expect(&s, KVM_SPAN_SALVAGE_UNKNOWN);
	tiny_abort(&s.p.l1);
}

static void *scribble(void *arg)
{
	struct split *s = arg;
	unsigned int seed = 1, i;

	while (!s->p.l1.stop)
		for (i = 0; i < 0x400; i += 4)
			if (i != APIC_ID)
				*apic(s, i) = rand_r(&seed) << 1 ^ rand_r(&seed);
	return NULL;
}

/* The L1 writes anything into the registers of its local APIC meanwhile. */
static void test_lies(void)
{
	/* Each has threads that stay, and know it by its address. */
	static struct split all[8];
	struct kvm_span_salvage arg;
	struct split *s = all;
	pthread_t thread;
	int round;

	for (round = 0; round < 8; round++, s++) {
		split_init(s);
		MUST(arm(s));
		/* A page that is not there at all, in the last one. */
		if (round == 7)
			MUST(nest_write(&s->p.l1, VMCS_APIC_PAGE, 0xe0000000));
		ENTER(s, 0, g_count);
		SOON(*word(s, G_DATA) > 10);
		MUST(pthread_create(&thread, NULL, scribble, s) ? -1 : 0);
		usleep(2000);
		CHECK(salvage(s, 1u << WHO, &arg) == 0, "%s", strerror(errno));
		CHECK(arg.result[WHO] == (round < 7 ? KVM_SPAN_SALVAGE_RUNNING : KVM_SPAN_SALVAGE_UNKNOWN),
		      "round %d: %u", round, arg.result[WHO]);
		s->p.l1.stop = true;
		pthread_join(thread, NULL);
		MUST(set_vcpu(s->g.span, WHO, 0));
		tiny_go(&s->g.vcpu[WHO]);
		tiny_wait(&s->g.vcpu[WHO], 50);
		tiny_abort(&s->g.vcpu[WHO]);
		tiny_abort(&s->p.l1);
		tiny_free(&s->p.l1);
		close(s->p.fd);
		close(s->g.span);
	}
}

/*
 * Both of the guest's vCPUs that the L1 has, on two of its own: one runs, and the
 * other one runs, too, or has exited.
 */
static void salvage_two(struct split *s, struct tiny_vm *second, bool exited)
{
	struct kvm_span_salvage arg;
	uint32_t n[2];
	int end;

	split_init(s);
	tiny_add_vcpu(second, &s->p.l1, 1, 0);
	tiny_cpuid(s->g.vcpu[WHO2].vcpu);
	MUST(nest_init_at(second, L1_VMXON2_GPA, L1_VMCS2_GPA) ? 0 : -1);
	split_vcpu(s, second, WHO2, G_STACK2, L1_APIC2_GPA);
	MUST(arm(s));
	MUST(arm_one(s, WHO2));
	if (exited)
		put(s, G_CODE2, piece_g_hlt, piece_g_hlt_end - piece_g_hlt);
	else
		put(s, G_CODE2, piece_g_count, piece_g_count_end - piece_g_count);
	TINY_GO(second, enter, .edi = G_CODE2, .ebx = G_DATA2, .eax = 0x1000000);
	ENTER(s, 0, g_count);
	CHECK(SOON(*word(s, G_DATA) > 1000), "the first counts: %u", *word(s, G_DATA));
	if (exited)
		CHECK(tiny_wait(second, 5000) == TINY_DONE && tiny_eax(second) == EXIT_HLT, "exit %#x",
		      tiny_eax(second));
	else
		CHECK(SOON(*word(s, G_DATA2) > 0x1001000), "the second counts: %#x", *word(s, G_DATA2));
	CHECK(salvage(s, 1u << WHO | 1u << WHO2, &arg) == 0, "%s", strerror(errno));
	CHECK(arg.vcpus == (1u << WHO | 1u << WHO2), "salvaged %#llx", (unsigned long long)arg.vcpus);
	CHECK(arg.result[WHO] == KVM_SPAN_SALVAGE_RUNNING, "the first: %u", arg.result[WHO]);
	CHECK(arg.result[WHO2] == (exited ? KVM_SPAN_SALVAGE_EXITED : KVM_SPAN_SALVAGE_RUNNING),
	      "the second: %u", arg.result[WHO2]);
	/* Each with its own. */
	n[0] = *word(s, G_DATA);
	n[1] = *word(s, G_DATA2);
	CHECK(regs_of(s).rbx == G_DATA, "ebx %#llx", regs_of(s).rbx);
	MUST(set_vcpu(s->g.span, WHO, 0));
	MUST(set_vcpu(s->g.span, WHO2, 0));
	tiny_go(&s->g.vcpu[WHO]);
	tiny_go(&s->g.vcpu[WHO2]);
	CHECK(SOON(*word(s, G_DATA) > n[0] + 1000), "at home: %u, %u", n[0], *word(s, G_DATA));
	*word(s, G_DATA + 4) = 1;
	end = tiny_wait(&s->g.vcpu[WHO], 5000);
	CHECK(end == TINY_DONE, "the first ended with %d", end);
	if (!exited)
		CHECK(SOON(*word(s, G_DATA2) > n[1] + 1000), "at home: %#x, %#x", n[1],
		      *word(s, G_DATA2));
	*word(s, G_DATA2 + 4) = 1;
	/* One that halted is woken, as by a kick that only the L1 knew of. */
	end = tiny_wait(&s->g.vcpu[WHO2], 5000);
	CHECK(end == TINY_DONE, "the second ended with %d", end);
	if (exited)
		CHECK(*word(s, G_DATA2) == 8, "it halted once more, and went on: %u", *word(s, G_DATA2));
	tiny_abort(&s->p.l1);
	tiny_abort(second);
}

static void test_two(void)
{
	/* Each has threads that stay, and know it by its address. */
	static struct split s[2];
	static struct tiny_vm second[2];

	salvage_two(&s[0], &second[0], false);
	salvage_two(&s[1], &second[1], true);
}

/* The processor delivers the guest's interrupts, and others are posted to it. */
static void split_init_posted(struct split *s, uint32_t requested)
{
	struct tiny_vm *v = &s->p.l1;
	uint32_t i;

	split_init(s);
	if (!(nest_msr(v->vcpu, 0x481) >> 32 & PIN_POSTED) || !(nest_msr(v->vcpu, 0x48b) >> 32 & SEC_DELIVERY))
		ktap_skip("VMs have no posted interrupts");
	MUST(nest_write(v, VMCS_PIN_CONTROLS, nest_control(v->vcpu, 0x481, PIN_INTR | PIN_POSTED)));
	MUST(nest_write(v, VMCS_EXIT_CONTROLS, nest_control(v->vcpu, 0x483, EXIT_ACK_INTR)));
	MUST(nest_write(v, VMCS_SECONDARY, nest_control(v->vcpu, 0x48b, SEC_EPT | SEC_APIC_REGS | SEC_DELIVERY)));
	MUST(nest_write(v, VMCS_POSTED_VECTOR, 0xf2));
	MUST(nest_write(v, VMCS_POSTED_DESC, L1_POSTED_GPA));
	MUST(nest_write(v, VMCS_POSTED_DESC + 1, 0));
	for (i = 0; i < 8; i++)
		MUST(nest_write(v, VMCS_EOI_EXIT + i, 0));
	MUST(nest_write(v, VMCS_INTR_STATUS, requested));
	*apic(s, APIC_IRR + 0x10 * (requested / 32)) |= 1u << (requested % 32);
}

static void post(struct split *s, unsigned int vector)
{
	volatile uint32_t *pir = (volatile uint32_t *)(s->p.l1.ram + L1_POSTED_GPA);

	pir[vector / 32] |= 1u << (vector % 32);
	pir[8] |= 1;		/* outstanding */
}

/* What waits in the IRR and what was posted, while the guest has interrupts off. */
static void test_posted(void)
{
	struct split s;
	uint32_t n;

	split_init_posted(&s, 0x43);
	MUST(arm(&s));
	post(&s, 0x71);
	ENTER(&s, 0, g_sti);
	CHECK(SOON(*word(&s, G_DATA) > 1000), "it counts: %u", *word(&s, G_DATA));
	post(&s, 0x95);
	if (!expect(&s, KVM_SPAN_SALVAGE_RUNNING))
		return;
	n = *word(&s, G_DATA);
	CHECK(lapic_has(s.g.vcpu[WHO].vcpu, 0x43), "what waits");
	CHECK(lapic_has(s.g.vcpu[WHO].vcpu, 0x71), "what was posted before it ran");
	CHECK(lapic_has(s.g.vcpu[WHO].vcpu, 0x95), "what was posted while it ran");
	CHECK(*word(&s, G_COUNT) == 0, "interrupts taken: %u", *word(&s, G_COUNT));
	MUST(set_vcpu(s.g.span, WHO, 0));
	tiny_go(&s.g.vcpu[WHO]);
	CHECK(SOON(*word(&s, G_DATA) > n + 1000), "it counts at home: %u", *word(&s, G_DATA));
	*word(&s, G_DATA + 4) = 1;
	CHECK(tiny_wait(&s.g.vcpu[WHO], 5000) == TINY_DONE, "ended with %d", s.g.vcpu[WHO].result);
	/* The highest one, whose end the guest does not tell; the others wait for that. */
	CHECK(*word(&s, G_COUNT) == 1, "interrupts taken: %u", *word(&s, G_COUNT));
	CHECK(lapic_reg(s.g.vcpu[WHO].vcpu, APIC_ISR + 0x10 * (0x95 / 32)) == 1u << (0x95 % 32), "in service");
	CHECK(lapic_has(s.g.vcpu[WHO].vcpu, 0x71) && lapic_has(s.g.vcpu[WHO].vcpu, 0x43), "the others");
	tiny_abort(&s.p.l1);
}

/* One that the processor delivered, without an exit: in service, and not once more. */
static void test_delivered(void)
{
	/* Each has threads that stay, and know it by its address. */
	static struct split both[2];
	struct split *s = both;
	uint32_t exited;

	for (exited = 0; exited < 2; exited++, s++) {
		split_init_posted(s, 0x51);
		MUST(arm(s));
		MUST(nest_write(&s->p.l1, VMCS_GUEST_RFLAGS, 0x202));
		if (exited) {
			ENTER(s, 0, g_hlt);
			CHECK(tiny_wait(&s->p.l1, 5000) == TINY_DONE && tiny_eax(&s->p.l1) == EXIT_HLT, "exit %#x",
			      tiny_eax(&s->p.l1));
		} else {
			ENTER(s, 0, g_count);
			CHECK(SOON(*word(s, G_DATA) > 1000), "it counts: %u", *word(s, G_DATA));
		}
		CHECK(*word(s, G_COUNT) == 1, "interrupts taken: %u", *word(s, G_COUNT));
		post(s, 0x53);
		if (!expect(s, exited ? KVM_SPAN_SALVAGE_EXITED : KVM_SPAN_SALVAGE_RUNNING))
			return;
		CHECK(lapic_reg(s->g.vcpu[WHO].vcpu, APIC_ISR + 0x10 * (0x51 / 32)) == 1u << (0x51 % 32), "in service");
		CHECK(!lapic_has(s->g.vcpu[WHO].vcpu, 0x51), "requested once more");
		CHECK(lapic_has(s->g.vcpu[WHO].vcpu, 0x53), "what was posted");
		*word(s, G_DATA + 4) = 1;
		MUST(set_vcpu(s->g.span, WHO, 0));
		tiny_go(&s->g.vcpu[WHO]);
		/* One that halted is woken once; the posted one is of the same class, and waits. */
		CHECK(tiny_wait(&s->g.vcpu[WHO], 5000) == TINY_DONE, "ended with %d", s->g.vcpu[WHO].result);
		CHECK(*word(s, G_COUNT) == 1, "interrupts taken at home: %u", *word(s, G_COUNT));
		tiny_abort(&s->p.l1);
	}
}

/* It is not armed any more once somebody else has it; and as often as one likes. */
static void test_again(void)
{
	struct kvm_span_salvage arg;
	struct split s;
	int i;

	split_init(&s);
	for (i = 0; i < 20; i++) {
		MUST(arm(&s));
		MUST(arm(&s));
		MUST(set_vcpu(s.g.span, WHO, NOBODY));
		MUST(set_vcpu(s.g.span, WHO, i % 2 ? 0 : s.p.id));
		MUST(set_vcpu(s.g.span, WHO, NOBODY));
	}
	MUST(set_vcpu(s.g.span, WHO, s.p.id));
	ENTER(&s, 0, g_count);
	CHECK(SOON(*word(&s, G_DATA) > 10), "it counts");
	CHECK(salvage(&s, 1u << WHO, &arg) == 0 && arg.result[WHO] == KVM_SPAN_SALVAGE_NOT_ARMED, "%u",
	      arg.result[WHO]);
	tiny_abort(&s.p.l1);
}

/* Of an exit to the L1 and the entry after it; least of some, by the TSC. */
static uint64_t exit_cost(struct split *s, bool again)
{
	uint64_t least = ~0ull, t;
	int i;

	put(s, G_CODE, piece_g_cpuids, piece_g_cpuids_end - piece_g_cpuids);
	for (i = 0; i < 8; i++) {
		t = __builtin_ia32_rdtsc();
		CHECK(TINY_RUN(&s->p.l1, enter_often, .edi = G_CODE, .ebp = again || i, .esi = COST_EXITS) == TINY_DONE,
		      "ended with %d", s->p.l1.result);
		t = __builtin_ia32_rdtsc() - t;
		least = t < least ? t : least;
	}
	return least / COST_EXITS;
}

/* What it costs an L1 that its guest may be taken back; nothing if it is not to be. */
static void test_cost(void)
{
	uint64_t plain, armed, after;
	struct split s;

	split_init(&s);
	MUST(set_vcpu(s.g.span, WHO, s.p.id));
	plain = exit_cost(&s, false);
	MUST(arm(&s));
	armed = exit_cost(&s, true);
	MUST(set_vcpu(s.g.span, WHO, NOBODY));
	MUST(set_vcpu(s.g.span, WHO, 0));
	usleep(1500000);
	after = exit_cost(&s, true);
	ktap_note("a nested exit and entry: %llu, armed %llu, afterwards %llu cycles of the TSC",
		  (unsigned long long)plain, (unsigned long long)armed, (unsigned long long)after);
	CHECK(armed > plain && armed < 3 * plain, "%llu, armed %llu", (unsigned long long)plain,
	      (unsigned long long)armed);
	CHECK(after < armed, "%llu after it, armed %llu", (unsigned long long)after, (unsigned long long)armed);
}

int main(void)
{
	static const struct ktap_test tests[] = {
		{ "rules", test_rules },
		{ "errors", test_errors },
		{ "not_there", test_not_there },
		{ "running", test_running },
		{ "stopped", test_stopped },
		{ "exited", test_exited },
		{ "halted", test_halted },
		{ "injected", test_injected },
		{ "at_work", test_at_work },
		{ "another_guest", test_another_guest },
		{ "two", test_two },
		{ "posted", test_posted },
		{ "delivered", test_delivered },
		{ "lies", test_lies },
		{ "again", test_again },
		{ "cost", test_cost },
	};

	span_require();
	return KTAP_RUN(tests);
}
