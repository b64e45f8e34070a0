// SPDX-License-Identifier: GPL-2.0
/*
 * vCPUs of a guest on several hypervisors, L0's part: who owns which, that none
 * runs in two places, and that no interrupt is lost on the way.
 *
 * test: vcpu/owner level=L0 tags=fast,debug timeout=240
 */
#include <stddef.h>

#include "badcall.h"
#include "vcpulib.h"

static void test_rules(void)
{
	struct kvm_span_vcpu good = { .size = sizeof(good), .vcpu = 1, .owner = 0 };
	struct kvm_span_relay relay = { .size = sizeof(relay) };
	struct guest g;
	struct call_rules rules = { .cmd = KVM_SPAN_SET_VCPU, .good = &good, .n = sizeof(good) };
	int dev = span_dev();

	guest_init(&g);
	rules.fd = g.span;
	call_rules(&rules);

	relay.vm_fd = g.vcpu[0].vm;
	relay.port_fd = -1;
	rules = (struct call_rules){ .fd = dev, .cmd = KVM_SPAN_RELAY, .good = &relay,
				     .n = sizeof(relay), .ends = EBADF };
	call_rules(&rules);
}

static void test_errors(void)
{
	struct guest g, full, none = {};
	struct peer p;
	uint32_t id, plain;
	int fd;

	guest_init(&g);
	peer_init(&p, &g, "L1a");
	CHECK_ERR(set_vcpu(g.span, SPAN_MAX_VCPUS, NOBODY), EINVAL);
	CHECK_ERR(set_vcpu(g.span, ~0u, NOBODY), EINVAL);
	CHECK_ERR(set_vcpu(g.span, 0, KVM_SPAN_VCPU_ELSEWHERE), EINVAL);
	CHECK_ERR(set_vcpu(g.span, VCPUS, NOBODY), ENOENT);
	CHECK_ERR(set_vcpu(p.fd, 0, NOBODY), ENOTTY);

	/* From an owner to nobody, and from nobody to an owner. */
	CHECK(set_vcpu(g.span, 1, 0) == 0, "it was here");
	CHECK_ERR(set_vcpu(g.span, 1, p.id), EBUSY);
	CHECK(set_vcpu(g.span, 1, NOBODY) == 0, "%s", strerror(errno));
	CHECK(set_vcpu(g.span, 1, NOBODY) == 0, "again");
	CHECK_ERR(set_vcpu(g.span, 1, 12345), ENOENT);

	fd = MUST(vcpu_grant(g.span, "plain", KVM_SPAN_RIGHT_LOG, &plain));
	CHECK_ERR(set_vcpu(g.span, 1, plain), EPERM);
	MUST(span_join(fd, vm_new()));
	CHECK_ERR(set_vcpu(g.span, 1, plain), EPERM);
	fd = MUST(vcpu_grant(g.span, "silent", KVM_SPAN_RIGHT_VCPU, &id));
	CHECK_ERR(set_vcpu(g.span, 1, id), ENOTCONN);
	MUST(span_join(fd, vm_new()));
	CHECK_ERR(set_vcpu(g.span, 1, id), ENOTCONN);
	MUST(span_revoke(g.span, id));
	CHECK_ERR(set_vcpu(g.span, 1, id), EACCES);

	CHECK(set_vcpu(g.span, 1, p.id) == 0, "%s", strerror(errno));
	CHECK(set_vcpu(g.span, 1, p.id) == 0, "again");
	CHECK_ERR(set_vcpu(g.span, 1, 0), EBUSY);
	CHECK_ERR(set_vcpu(g.span, 1, id), EACCES);
	CHECK(set_vcpu(g.span, 1, NOBODY) == 0, "%s", strerror(errno));
	CHECK(set_vcpu(g.span, 1, 0) == 0, "%s", strerror(errno));

	/* Where interrupts have ways past us, nothing leaves. */
	guest_init_vm(&full, TINY_IRQCHIP);
	full.span = span_create(memfd_new(MEM_BYTES, GUEST_SEALS), full.vcpu[0].vm);
	CHECK_ERR(set_vcpu(full.span, 0, NOBODY), EOPNOTSUPP);
	guest_init_vm(&none, 0);
	none.span = span_create(memfd_new(MEM_BYTES, GUEST_SEALS), none.vcpu[0].vm);
	CHECK_ERR(set_vcpu(none.span, 0, NOBODY), EOPNOTSUPP);
}

static int relay_open(int vm, int port)
{
	struct kvm_span_relay arg = { .size = sizeof(arg), .vm_fd = vm, .port_fd = port };
	int dev = span_dev(), r = ioctl(dev, KVM_SPAN_RELAY, &arg), e = errno;

	close(dev);
	errno = e;
	return r;
}

/* A relay wants a port; on L0 there is none. */
static void test_relay_errors(void)
{
	int null = MUST(open("/dev/null", O_RDWR)), pair[2], memfd, vm;
	struct guest g;

	guest_init(&g);
	CHECK_ERR(relay_open(-1, null), EBADF);
	CHECK_ERR(relay_open(null, null), EINVAL);
	CHECK_ERR(relay_open(g.span, null), EINVAL);
	CHECK_ERR(relay_open(vm_new(), null), EOPNOTSUPP);
	CHECK_ERR(relay_open(g.vcpu[0].vm, -1), EBADF);
	/* ENODEV where the driver of ports is not loaded. */
	CHECK(relay_open(g.vcpu[0].vm, null) == -1 && (errno == EINVAL || errno == ENODEV), "%s",
	      strerror(errno));
	memfd = memfd_new(PAGE, 0);
	CHECK(relay_open(g.vcpu[0].vm, memfd) == -1 && (errno == EINVAL || errno == ENODEV), "%s",
	      strerror(errno));

	/* Another process's VM. */
	MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
	if (!MUST(fork())) {
		struct guest other;

		guest_init_vm(&other, TINY_SPLIT);
		send_fd(pair[0], other.vcpu[0].vm);
		pause();
	}
	vm = recv_fd(pair[1]);
	CHECK_ERR(relay_open(vm, null), EPERM);
	CHECK(set_vcpu(g.span, 0, NOBODY) == 0, "a refused relay left something behind");
}

/* It runs at its owner and nowhere else. */
static void test_run(void)
{
	struct kvm_mp_state runnable = { .mp_state = KVM_MP_STATE_RUNNABLE };
	struct kvm_lapic_state l;
	struct kvm_regs regs;
	struct guest g;
	struct peer p;

	guest_init(&g);
	peer_init(&p, &g, "L1a");
	CHECK(TINY_RUN(&g.vcpu[1], store, .eax = 1, .ebx = SCRATCH_GPA) == TINY_DONE, "before");
	MUST(set_vcpu(g.span, 1, NOBODY));
	CHECK(TINY_RUN(&g.vcpu[1], store, .eax = 2, .ebx = SCRATCH_GPA) == -EBUSY, "nobody's");
	g.vcpu[1].run->immediate_exit = 1;
	CHECK_ERR(ioctl(g.vcpu[1].vcpu, KVM_RUN, 0), EBUSY);
	g.vcpu[1].run->immediate_exit = 0;
	CHECK(TINY_RUN(&g.vcpu[0], store, .eax = 3, .ebx = SCRATCH_GPA) == TINY_DONE, "another one");
	MUST(set_vcpu(g.span, 1, p.id));
	CHECK(TINY_RUN(&g.vcpu[1], store, .eax = 4, .ebx = SCRATCH_GPA) == -EBUSY, "a member's");
	/* Its state can be read and written all the time. */
	CHECK(ioctl(g.vcpu[1].vcpu, KVM_GET_REGS, &regs) == 0, "%s", strerror(errno));
	CHECK(ioctl(g.vcpu[1].vcpu, KVM_GET_LAPIC, &l) == 0, "%s", strerror(errno));
	CHECK(ioctl(g.vcpu[1].vcpu, KVM_SET_LAPIC, &l) == 0, "%s", strerror(errno));
	MUST(set_vcpu(g.span, 1, NOBODY));
	MUST(set_vcpu(g.span, 1, 0));
	CHECK(TINY_RUN(&g.vcpu[1], store, .eax = 5, .ebx = SCRATCH_GPA) == TINY_DONE, "here again");

	/* One that does not leave KVM_RUN stays, and all that comes for it. */
	TINY_GO(&g.vcpu[2], idle);
	send_msi(&g, 2, 0, TINY_VECTOR);
	CHECK(SOON(tiny_interrupts(&g.vcpu[0]) == 1), "%u interrupts", tiny_interrupts(&g.vcpu[0]));
	CHECK_ERR(set_vcpu(g.span, 2, NOBODY), EAGAIN);
	send_msi(&g, 2, 0, TINY_VECTOR);
	CHECK(SOON(tiny_interrupts(&g.vcpu[0]) == 2), "%u interrupts", tiny_interrupts(&g.vcpu[0]));
	tiny_abort(&g.vcpu[2]);
	CHECK(set_vcpu(g.span, 2, NOBODY) == 0, "%s", strerror(errno));

	/* When the span goes, all are the VM's own. */
	close(g.span);
	MUST(ioctl(g.vcpu[2].vcpu, KVM_SET_MP_STATE, &runnable));
	CHECK(TINY_RUN(&g.vcpu[2], store, .eax = 6, .ebx = SCRATCH_GPA) == TINY_DONE, "no span");
}

/* All kinds of interrupts come out of the owner's posts. */
static void test_out(void)
{
	struct kvm_span_member_info info;
	struct guest g;
	struct taken t;
	struct peer p;

	guest_init(&g);
	peer_init(&p, &g, "L1a");
	set_lapic_reg(g.vcpu[0].vcpu, LAPIC_LDR, 1 << 24);
	set_lapic_reg(g.vcpu[1].vcpu, LAPIC_LDR, 2 << 24);
	MUST(set_vcpu(g.span, 1, NOBODY));
	MUST(set_vcpu(g.span, 1, p.id));
	take_post(p.to_l1, 1, &t);
	peer_events(&p);

	send_msi(&g, 1, 0, 0x41);
	CHECK(peer_events(&p) == 1, "not told");
	send_msi(&g, 1, 0, 0xff);
	CHECK(peer_events(&p) == 0, "told twice before it looked");
	CHECK(take_post(p.to_l1, 1, &t), "not pending");
	CHECK(taken_vector(&t, 0x41) && taken_vector(&t, 0xff) && taken_count(&t) == 2, "fixed");
	CHECK(!taken_level(&t, 0x41), "edge");

	send_msi(&g, 2, MSI_LOGICAL, 0x42 | MSI_LOWEST);
	CHECK(peer_events(&p) == 1 && take_post(p.to_l1, 1, &t) && taken_vector(&t, 0x42) &&
	      taken_count(&t) == 1, "lowest priority, one destination");
	send_msi(&g, 3, MSI_LOGICAL, 0x43);
	CHECK(take_post(p.to_l1, 1, &t) && taken_vector(&t, 0x43), "logical, two destinations");
	CHECK(lapic_has(g.vcpu[0].vcpu, 0x43), "logical, the one that is here");
	send_msi(&g, 1, 0, 0x44 | MSI_LEVEL | MSI_ASSERT);
	CHECK(take_post(p.to_l1, 1, &t) && taken_vector(&t, 0x44) && taken_level(&t, 0x44), "level");
	send_msi(&g, 1, 0, 0x44);
	CHECK(take_post(p.to_l1, 1, &t) && taken_vector(&t, 0x44) && !taken_level(&t, 0x44),
	      "edge after level");
	send_msi(&g, 0xff, 0, 0x45);
	CHECK(take_post(p.to_l1, 1, &t) && taken_vector(&t, 0x45), "broadcast");
	CHECK(lapic_has(g.vcpu[0].vcpu, 0x45) && lapic_has(g.vcpu[2].vcpu, 0x45), "broadcast here");
	send_msi(&g, 1, 0, MSI_NMI);
	CHECK(take_post(p.to_l1, 1, &t) && t.event == SPAN_POST_NMI && taken_count(&t) == 1, "NMI");
	send_msi(&g, 1, 0, MSI_SMI);
	CHECK(take_post(p.to_l1, 1, &t) && t.event == SPAN_POST_SMI, "SMI");
	send_msi(&g, 1, 0, MSI_INIT);
	send_msi(&g, 1, 0, MSI_SIPI | 0x9a);
	CHECK(take_post(p.to_l1, 1, &t) && t.event == (SPAN_POST_INIT | SPAN_POST_SIPI) &&
	      p.to_l1->vcpu[1].sipi_vector == 0x9a, "INIT and SIPI");
	send_msi(&g, 1, 0, MSI_SIPI | 0x9b);
	send_msi(&g, 1, 0, MSI_INIT);
	CHECK(take_post(p.to_l1, 1, &t) && t.event == SPAN_POST_INIT, "an INIT ends a SIPI");
	send_msi(&g, 1, 0, MSI_EXTINT | 0x46);
	send_msi(&g, 1, 0, 0x05);
	CHECK(!take_post(p.to_l1, 1, &t) && !taken_count(&t), "no interrupts");
	CHECK(!lapic_has(g.vcpu[1].vcpu, 0x41), "none of it is in the local APIC here");

	MUST(span_member(g.span, p.id, &info));
	CHECK(info.vcpus == 2 && info.irqs_to_l1 == 13 && info.irqs_to_l0 == 0,
	      "vcpus %#llx, %llu out, %llu in", info.vcpus, info.irqs_to_l1, info.irqs_to_l0);
}

/* What an L1 posts comes in at vCPUs that run here. */
static void test_in(void)
{
	static const uint8_t sipi_code[] = { 0xe6, TINY_PORT_DONE, 0xf4 };
	struct kvm_span_member_info info;
	struct kvm_mp_state mp;
	struct guest g;
	struct taken t;
	struct peer p;

	guest_init(&g);
	peer_init(&p, &g, "L1a");
	MUST(set_vcpu(g.span, 2, NOBODY));
	MUST(set_vcpu(g.span, 2, p.id));

	TINY_GO(&g.vcpu[0], idle);
	post_vector(p.to_l0, 0, TINY_VECTOR, false);
	peer_ring(&p);
	CHECK(SOON(tiny_interrupts(&g.vcpu[0]) == 1), "%u", tiny_interrupts(&g.vcpu[0]));
	post_vector(p.to_l0, 0, 0xfe, false);
	post_vector(p.to_l0, 0, 0x80, false);
	post_vector(p.to_l0, 0, 0x0f, false);		/* no vector of an interrupt */
	peer_ring(&p);
	CHECK(SOON(tiny_interrupts(&g.vcpu[0]) == 3), "%u", tiny_interrupts(&g.vcpu[0]));
	CHECK(!p.to_l0->pending, "taken");
	post_event(p.to_l0, 0, SPAN_POST_NMI);
	peer_ring(&p);
	CHECK(tiny_wait(&g.vcpu[0], 2000) == TINY_EXC + 2, "NMI ended with %d", g.vcpu[0].result);

	/* INIT and SIPI start it in real mode, at the page that the SIPI names. */
	memcpy(g.vcpu[0].ram + 0x7000, sipi_code, sizeof(sipi_code));
	TINY_GO(&g.vcpu[1], idle);
	post_event(p.to_l0, 1, SPAN_POST_INIT);
	peer_ring(&p);
	CHECK(tiny_wait(&g.vcpu[1], 50) == TINY_WAITING, "an INIT ended with %d", g.vcpu[1].result);
	p.to_l0->vcpu[1].sipi_vector = 7;
	post_event(p.to_l0, 1, SPAN_POST_SIPI);
	peer_ring(&p);
	CHECK(tiny_wait(&g.vcpu[1], 2000) == TINY_DONE, "SIPI ended with %d", g.vcpu[1].result);
	MUST(ioctl(g.vcpu[1].vcpu, KVM_GET_MP_STATE, &mp));
	CHECK(mp.mp_state == KVM_MP_STATE_RUNNABLE, "%u", mp.mp_state);

	/* For the member's own: it says that it does not have it. Kept, not sent back. */
	take_post(p.to_l1, 2, &t);
	peer_events(&p);
	post_vector(p.to_l0, 2, 0x55, false);
	peer_ring(&p);
	CHECK(!peer_events(&p) && !(p.to_l1->pending & 4), "sent back and forth");
	MUST(set_vcpu(g.span, 2, NOBODY));
	MUST(set_vcpu(g.span, 2, 0));
	CHECK(lapic_has(g.vcpu[2].vcpu, 0x55), "what came back has come to the next owner");

	/* Without a vCPU, an L1 has nothing to say. */
	post_vector(p.to_l0, 2, 0x56, false);
	peer_ring(&p);
	CHECK(!lapic_has(g.vcpu[2].vcpu, 0x56), "from one who owns none");
	MUST(span_member(g.span, p.id, &info));
	CHECK(info.irqs_to_l0 == 7 && info.refused == 1 && info.vcpus == 0, "%llu in, %llu refused",
	      info.irqs_to_l0, info.refused);
}

/* The level-triggered kind: the EOI comes out, though this VM has no such route. */
static void test_eoi(void)
{
	struct guest g;
	struct peer p;
	int i;

	guest_init(&g);
	peer_init(&p, &g, "L1a");
	MUST(set_vcpu(g.span, 2, NOBODY));
	MUST(set_vcpu(g.span, 2, p.id));
	for (i = 0; i < 3; i++) {
		TINY_GO(&g.vcpu[0], idle);
		post_vector(p.to_l0, 0, 0x61, true);
		peer_ring(&p);
		CHECK(tiny_wait(&g.vcpu[0], 2000) == TINY_EXIT + KVM_EXIT_IOAPIC_EOI &&
		      g.vcpu[0].run->eoi.vector == 0x61, "round %d: %d", i, g.vcpu[0].result);
		CHECK(tiny_interrupts(&g.vcpu[0]) == 2u * i + 1, "%u", tiny_interrupts(&g.vcpu[0]));
		/* The same vector by edge has no EOI to tell. */
		TINY_GO(&g.vcpu[0], idle);
		post_vector(p.to_l0, 0, 0x61, false);
		peer_ring(&p);
		CHECK(SOON(tiny_interrupts(&g.vcpu[0]) == 2u * i + 2), "edge");
		tiny_abort(&g.vcpu[0]);
	}
	/* One that was in service or pending when the vCPU came. */
	MUST(set_vcpu(g.span, 1, NOBODY));
	set_lapic_reg(g.vcpu[1].vcpu, 0x180 + 3 * 16, 1 << 4);	/* TMR of 0x64 */
	set_lapic_reg(g.vcpu[1].vcpu, LAPIC_IRR + 3 * 16, 1 << 4);
	MUST(set_vcpu(g.span, 1, 0));
	CHECK(TINY_RUN(&g.vcpu[1], idle) == TINY_EXIT + KVM_EXIT_IOAPIC_EOI &&
	      g.vcpu[1].run->eoi.vector == 0x64, "pending at the transfer: %d", g.vcpu[1].result);
}

/* Kept while nobody has it, taken back from who had it, given to the next. */
static void test_kept(void)
{
	struct guest g;
	struct peer a, b;
	struct taken t;

	guest_init(&g);
	peer_init(&a, &g, "L1a");
	peer_init(&b, &g, "L1b");

	MUST(set_vcpu(g.span, 1, NOBODY));
	send_msi(&g, 1, 0, 0x50);
	send_msi(&g, 1, 0, 0x51 | MSI_LEVEL | MSI_ASSERT);
	send_msi(&g, 1, 0, MSI_NMI);
	CHECK(!lapic_has(g.vcpu[1].vcpu, 0x50), "it is not here any more");
	MUST(set_vcpu(g.span, 1, a.id));
	CHECK(peer_events(&a) >= 1, "not told");
	CHECK(take_post(a.to_l1, 1, &t) && taken_count(&t) == 3 && taken_vector(&t, 0x50) &&
	      taken_vector(&t, 0x51) && taken_level(&t, 0x51) && (t.event & SPAN_POST_NMI), "kept");

	/* Not taken by the L1 in time: taken back. */
	send_msi(&g, 1, 0, 0x52);
	MUST(set_vcpu(g.span, 1, NOBODY));
	CHECK(!a.to_l1->vcpu[1].irr[0x52 / 64], "left where it was");
	/* Taken, but given back, after its last vCPU has gone. */
	post_vector(a.to_l0, 1, 0x53, false);
	peer_ring(&a);
	/* An IPI that it sent last. */
	post_vector(a.to_l0, 2, 0x54, false);
	peer_ring(&a);
	CHECK(lapic_has(g.vcpu[2].vcpu, 0x54), "its last IPI");
	MUST(set_vcpu(g.span, 1, b.id));
	CHECK(take_post(b.to_l1, 1, &t) && taken_count(&t) == 2 && taken_vector(&t, 0x52) &&
	      taken_vector(&t, 0x53), "to the next owner: %d", taken_count(&t));
	/* From now on the former owner has nothing to say. */
	post_vector(a.to_l0, 1, 0x57, false);
	peer_ring(&a);
	CHECK(!take_post(b.to_l1, 1, &t), "a former owner's");

	/* From one L1 to another. */
	MUST(set_vcpu(g.span, 2, NOBODY));
	MUST(set_vcpu(g.span, 2, a.id));
	peer_events(&b);
	post_vector(a.to_l0, 1, 0x58, true);
	peer_ring(&a);
	CHECK(peer_events(&b) == 1 && take_post(b.to_l1, 1, &t) && taken_vector(&t, 0x58) &&
	      taken_level(&t, 0x58) && taken_count(&t) == 1, "between members");

	/* Revoked: what it did not take comes to who has the vCPU next. */
	send_msi(&g, 1, 0, 0x59);
	MUST(span_revoke(g.span, b.id));
	CHECK_ERR(ioctl(g.vcpu[1].vcpu, KVM_RUN, 0), EBUSY);
	CHECK_ERR(set_vcpu(g.span, 1, b.id), EACCES);
	send_msi(&g, 1, 0, 0x5a);
	MUST(set_vcpu(g.span, 1, 0));
	CHECK(lapic_has(g.vcpu[1].vcpu, 0x59) && lapic_has(g.vcpu[1].vcpu, 0x5a), "after the revoke");
	post_vector(b.to_l0, 1, 0x5b, false);
	CHECK(TINY_RUN(&b.l1, store, .eax = 1, .ebx = DOORBELL_GPA) == TINY_EXIT + KVM_EXIT_MMIO,
	      "its doorbell still rings");
	CHECK(!lapic_has(g.vcpu[1].vcpu, 0x5b), "a revoked member's");
	/* A member that leaves by itself. */
	send_msi(&g, 2, 0, 0x5c);
	close(a.fd);
	munmap(a.pages, SPAN_SHARE_BYTES);
	CHECK(SOON(set_vcpu(g.span, 2, 0) == 0), "%s", strerror(errno));
	CHECK(lapic_has(g.vcpu[2].vcpu, 0x5c), "after it left");
}

/* The timer of a vCPU that is away stands still, and goes on where it is taken back. */
static void test_timer(void)
{
	struct kvm_lapic_state l;
	uint32_t x;
	struct guest g;

	guest_init(&g);
	/* Else KVM lets a timer shoot once only. */
	tiny_cpuid(g.vcpu[1].vcpu);
	MUST(ioctl(g.vcpu[1].vcpu, KVM_GET_LAPIC, &l));
	x = 0x70 | 1 << 17;				/* LVTT: periodic, vector 0x70 */
	memcpy(l.regs + 0x320, &x, 4);
	x = 0xb;					/* divide by 1 */
	memcpy(l.regs + 0x3e0, &x, 4);
	x = 20000000;					/* 20 ms */
	memcpy(l.regs + 0x380, &x, 4);
	memcpy(l.regs + 0x390, &x, 4);
	MUST(ioctl(g.vcpu[1].vcpu, KVM_SET_LAPIC, &l));
	TINY_GO(&g.vcpu[1], idle);
	CHECK(SOON(tiny_interrupts(&g.vcpu[0]) >= 2), "a periodic timer");
	tiny_abort(&g.vcpu[1]);

	MUST(set_vcpu(g.span, 1, NOBODY));
	/* What is set meanwhile does not start it either. */
	MUST(ioctl(g.vcpu[1].vcpu, KVM_GET_LAPIC, &l));
	MUST(ioctl(g.vcpu[1].vcpu, KVM_SET_LAPIC, &l));
	x = tiny_interrupts(&g.vcpu[0]);
	usleep(100000);
	CHECK(tiny_interrupts(&g.vcpu[0]) == x && !lapic_has(g.vcpu[1].vcpu, 0x70), "it ticks");
	MUST(set_vcpu(g.span, 1, 0));
	TINY_GO(&g.vcpu[1], idle);
	CHECK(SOON(tiny_interrupts(&g.vcpu[0]) >= x + 3), "it does not tick again: %u after %u",
	      tiny_interrupts(&g.vcpu[0]), x);
	tiny_abort(&g.vcpu[1]);

	/* One that was spent comes back as none. */
	MUST(ioctl(g.vcpu[2].vcpu, KVM_GET_LAPIC, &l));
	x = 0x71;
	memcpy(l.regs + 0x320, &x, 4);
	x = 1000;
	memcpy(l.regs + 0x380, &x, 4);
	memcpy(l.regs + 0x390, &x, 4);
	x = tiny_interrupts(&g.vcpu[0]);
	MUST(ioctl(g.vcpu[2].vcpu, KVM_SET_LAPIC, &l));
	TINY_GO(&g.vcpu[2], idle);
	CHECK(SOON(tiny_interrupts(&g.vcpu[0]) == x + 1), "one shot");
	tiny_abort(&g.vcpu[2]);
	MUST(set_vcpu(g.span, 2, NOBODY));
	MUST(set_vcpu(g.span, 2, 0));
	TINY_GO(&g.vcpu[2], idle);
	usleep(50000);
	CHECK(tiny_interrupts(&g.vcpu[0]) == x + 1, "a spent shot fired again");
	tiny_abort(&g.vcpu[2]);
}

/* Plays the part of an L1's kernel: takes identities and says so. */
static void *answer_identities(void *arg)
{
	struct peer *p = arg;
	struct taken t;
	int n;

	while (!__atomic_load_n(&p->l1.stop, __ATOMIC_SEQ_CST)) {
		for (n = 0; n < VCPUS; n++)
			if (p->to_l1->pending >> n & 1 && take_post(p->to_l1, n, &t) &&
			    t.event & SPAN_POST_APIC)
				__atomic_fetch_or(&p->to_l1->vcpu[n].apic, SPAN_APIC_ANSWERED,
						  __ATOMIC_SEQ_CST);
		usleep(100);
	}
	return NULL;
}

/* By what a vCPU is addressed is known wherever the others are. */
static void test_identity(void)
{
	struct span_post *post;
	pthread_t thread;
	struct taken t;
	struct guest g;
	struct peer p;
	uint64_t t0;
	uint32_t word;

	guest_init(&g);
	peer_init(&p, &g, "L1a");
	set_lapic_reg(g.vcpu[0].vcpu, LAPIC_LDR, 0x10 << 24);
	MUST(set_vcpu(g.span, 2, NOBODY));
	t0 = now_ms();
	MUST(set_vcpu(g.span, 2, p.id));
	CHECK(now_ms() - t0 < 1000, "an L1 that does not answer held us for %llu ms",
	      (unsigned long long)(now_ms() - t0));

	/* With the first vCPU it learns of all. */
	CHECK(take_post(p.to_l1, 0, &t) && t.event == SPAN_POST_APIC, "not told of vCPU 0");
	CHECK(take_post(p.to_l1, 1, &t) && t.event == SPAN_POST_APIC, "not told of vCPU 1");
	post = &p.to_l1->vcpu[0];
	CHECK((post->apic & 7) == SPAN_APIC_ENABLED && post->ldr == 0x10u << 24 &&
	      post->spiv == 0x1ff && post->dfr == 0xffffffff, "apic %#x ldr %#x spiv %#x",
	      post->apic, post->ldr, post->spiv);
	CHECK(p.to_l1->vcpu[1].apic >> SPAN_APIC_ID_SHIFT == 1, "xAPIC id");

	/* The guest here changes its own, and waits until it is known. */
	p.l1.stop = false;
	pthread_create(&thread, NULL, answer_identities, &p);
	CHECK(TINY_RUN(&g.vcpu[0], store, .eax = 0x20 << 24, .ebx = LAPIC_GPA + LAPIC_LDR) == TINY_DONE,
	      "LDR");
	CHECK(post->ldr == 0x20u << 24 && (post->apic & SPAN_APIC_ANSWERED), "ldr %#x apic %#x",
	      post->ldr, post->apic);
	CHECK(TINY_RUN(&g.vcpu[0], store, .eax = 0xff, .ebx = LAPIC_GPA + LAPIC_SPIV) == TINY_DONE, "SPIV");
	CHECK(post->spiv == 0xff && (post->apic & SPAN_APIC_ANSWERED), "spiv %#x", post->spiv);
	__atomic_store_n(&p.l1.stop, true, __ATOMIC_SEQ_CST);
	pthread_join(thread, NULL);
	p.l1.stop = false;
	/* Nobody answers: only a moment is lost. */
	word = post->apic;
	CHECK(TINY_RUN(&g.vcpu[0], store, .eax = 0x1ff, .ebx = LAPIC_GPA + LAPIC_SPIV) == TINY_DONE, "SPIV");
	CHECK(!(post->apic & SPAN_APIC_ANSWERED) && (post->apic ^ word) & 0xff00, "apic %#x after %#x",
	      post->apic, word);

	/* The member tells of its vCPU; others may not. */
	post = &p.to_l0->vcpu[2];
	post->ldr = 0x40u << 24;
	post->dfr = 0xffffffff;
	post->spiv = 0x1ff;
	post->apic = SPAN_APIC_ENABLED | 2u << SPAN_APIC_ID_SHIFT | 1 << 8;
	post_event(p.to_l0, 2, SPAN_POST_APIC);
	p.to_l0->vcpu[1] = *post;
	post_event(p.to_l0, 1, SPAN_POST_APIC);
	peer_ring(&p);
	CHECK(SOON(post->apic & SPAN_APIC_ANSWERED), "no answer");
	CHECK(lapic_reg(g.vcpu[2].vcpu, LAPIC_LDR) == 0x40u << 24, "ldr %#x",
	      lapic_reg(g.vcpu[2].vcpu, LAPIC_LDR));
	CHECK(lapic_reg(g.vcpu[1].vcpu, LAPIC_LDR) == 0 &&
	      !(p.to_l0->vcpu[1].apic & SPAN_APIC_ANSWERED), "it spoke for another's vCPU");
	take_post(p.to_l1, 2, &t);
	send_msi(&g, 0x40, MSI_LOGICAL, 0x47);
	CHECK(take_post(p.to_l1, 2, &t) && taken_vector(&t, 0x47), "by its new logical id");
	/* Off by software: no destination of logical ones. Nonsense is harmless. */
	post->spiv = 0;
	post->apic = SPAN_APIC_ENABLED | 2 << 8 | 2u << SPAN_APIC_ID_SHIFT;
	post_event(p.to_l0, 2, SPAN_POST_APIC);
	peer_ring(&p);
	CHECK(SOON(post->apic & SPAN_APIC_ANSWERED) && lapic_reg(g.vcpu[2].vcpu, LAPIC_SPIV) == 0, "spiv");
	post->apic = SPAN_APIC_X2APIC | 3 << 8;
	post_event(p.to_l0, 2, SPAN_POST_APIC);
	peer_ring(&p);
	CHECK(SOON(post->apic & SPAN_APIC_ANSWERED), "no answer to nonsense");
	CHECK(TINY_RUN(&g.vcpu[0], store, .eax = 1, .ebx = SCRATCH_GPA) == TINY_DONE, "the guest runs");
}

static void test_info(void)
{
	struct kvm_span_member_info info;
	struct {
		uint64_t attr[3];
	} dev;
	struct kvm_device_attr a = { .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET };
	uint64_t offset = 0x123456789aull;
	struct kvm_span_info about = { .size = sizeof(about) };
	struct guest g;
	struct peer p;
	struct tiny_vm second;
	int devfd = span_dev();

	(void)dev;
	guest_init(&g);
	peer_init(&p, &g, "L1a");
	MUST(ioctl(devfd, KVM_SPAN_GET_INFO, &about));
	CHECK(about.features & KVM_SPAN_FEATURE_VCPU, "%#llx", about.features);
	a.addr = (uintptr_t)&offset;
	MUST(ioctl(p.l1.vcpu, KVM_SET_DEVICE_ATTR, &a));
	MUST(span_member(g.span, p.id, &info));
	CHECK(info.tsc_flags == KVM_SPAN_TSC_VALID && info.tsc_offset == (int64_t)offset,
	      "flags %#x offset %#llx", info.tsc_flags, info.tsc_offset);
	MUST(span_member(p.fd, 0, &info));
	CHECK(info.tsc_offset == (int64_t)offset, "on the member's own");
	/* Two vCPUs that differ have none. */
	tiny_add_vcpu(&second, &p.l1, 1, 0);
	offset = 5;
	MUST(ioctl(second.vcpu, KVM_SET_DEVICE_ATTR, &a));
	MUST(span_member(g.span, p.id, &info));
	CHECK(info.tsc_flags == 0, "%#x", info.tsc_flags);
	/* The first version of the call. */
	memset(&info, 0xee, sizeof(info));
	info.size = offsetof(struct kvm_span_member_info, tsc_offset);
	info.flags = 0;
	info.member = p.id;
	CHECK(ioctl(g.span, KVM_SPAN_GET_MEMBER, &info) == 0, "%s", strerror(errno));
	CHECK(info.vcpus == 0xeeeeeeeeeeeeeeeeull, "wrote beyond what the caller has");
}

/*
 * Interrupts while the vCPU goes from one to the next: each comes out once, and
 * somewhere.
 */
static void *send_all(void *arg)
{
	struct guest *g = arg;
	int v;

	for (v = 0x20; v < 0x100; v++) {
		send_msi(g, 1, 0, v);
		usleep(300);
	}
	return NULL;
}

/* No L1 here takes identities; nobody shall wait for that. */
static void *say_taken(void *arg)
{
	struct peer *p = arg;
	int n;

	while (!__atomic_load_n(&p->l1.stop, __ATOMIC_SEQ_CST)) {
		for (n = 0; n < VCPUS; n++)
			__atomic_fetch_or(&p->to_l1->vcpu[n].apic, SPAN_APIC_ANSWERED,
					  __ATOMIC_SEQ_CST);
		usleep(50);
	}
	return NULL;
}

static void collect(struct peer *p, uint8_t *seen)
{
	struct taken t;
	int v;

	take_post(p->to_l1, 1, &t);
	for (v = 0; v < 256; v++)
		seen[v] += taken_vector(&t, v);
}

static void test_no_loss(void)
{
	struct kvm_lapic_state l;
	uint8_t seen[256] = {};
	struct guest g;
	struct peer a, b;
	pthread_t thread, taken[2];
	int v, moves = 0, lost = 0, twice = 0;
	uint64_t until;

	guest_init(&g);
	peer_init(&a, &g, "L1a");
	peer_init(&b, &g, "L1b");
	pthread_create(&taken[0], NULL, say_taken, &a);
	pthread_create(&taken[1], NULL, say_taken, &b);
	pthread_create(&thread, NULL, send_all, &g);
	until = now_ms() + 400;
	while (now_ms() < until) {
		MUST(set_vcpu(g.span, 1, NOBODY));
		MUST(set_vcpu(g.span, 1, a.id));
		collect(&a, seen);
		MUST(set_vcpu(g.span, 1, NOBODY));
		collect(&a, seen);
		MUST(set_vcpu(g.span, 1, b.id));
		MUST(set_vcpu(g.span, 1, NOBODY));
		collect(&b, seen);
		MUST(set_vcpu(g.span, 1, 0));
		moves += 3;
	}
	pthread_join(thread, NULL);
	a.l1.stop = b.l1.stop = true;
	pthread_join(taken[0], NULL);
	pthread_join(taken[1], NULL);
	collect(&a, seen);
	collect(&b, seen);
	MUST(ioctl(g.vcpu[1].vcpu, KVM_GET_LAPIC, &l));
	for (v = 0x20; v < 0x100; v++) {
		uint32_t irr;

		memcpy(&irr, l.regs + LAPIC_IRR + v / 32 * 16, 4);
		seen[v] += irr >> (v % 32) & 1;
		lost += !seen[v];
		twice += seen[v] > 1;
	}
	CHECK(!lost && !twice, "%d lost, %d twice, in %d moves", lost, twice, moves);
	ktap_note("%d moves", moves);
}

/* The pages are the L1's to write: anything. */
static void *scribble(void *arg)
{
	struct peer *p = arg;
	unsigned int seed = 1;
	size_t i;

	while (!__atomic_load_n(&p->l1.stop, __ATOMIC_SEQ_CST)) {
		for (i = 0; i < 400; i++) {
			size_t at = rand_r(&seed) % (2 * (SPAN_POSTS_TO_L1 - SPAN_POSTS_TO_L0));
			bool event = at % sizeof(struct span_post) == offsetof(struct span_post, event);

			/* An SMI that finds no memory ends a VM; KVM is like that. */
			p->pages[at] = rand_r(&seed) & (event ? ~SPAN_POST_SMI : 0xff);
		}
		((struct span_posts *)p->pages)->pending = (uint64_t)rand_r(&seed) << 32 | rand_r(&seed);
		usleep(200);
	}
	return NULL;
}

static void test_random(void)
{
	struct guest g;
	struct peer p;
	pthread_t thread;
	struct tiny_vm ringer;
	int i, r;

	guest_init(&g);
	peer_init(&p, &g, "L1a");
	tiny_add_vcpu(&ringer, &p.l1, 1, 0);
	MUST(set_vcpu(g.span, 2, NOBODY));
	MUST(set_vcpu(g.span, 2, p.id));
	TINY_GO(&g.vcpu[0], idle);
	TINY_GO(&g.vcpu[1], idle);
	pthread_create(&thread, NULL, scribble, &p);
	for (i = 0; i < 300; i++) {
		r = TINY_RUN(&ringer, store, .eax = 1, .ebx = DOORBELL_GPA);
		if (!CHECK(r == TINY_DONE, "%d", r))
			break;
		send_msi(&g, 2, 0, 0x20 + i % 0xe0);
		if (i % 50 == 49) {
			MUST(set_vcpu(g.span, 2, NOBODY));
			MUST(set_vcpu(g.span, 2, i % 100 == 99 ? 0 : p.id));
			if (i % 100 == 99) {
				MUST(set_vcpu(g.span, 2, NOBODY));
				MUST(set_vcpu(g.span, 2, p.id));
			}
		}
	}
	__atomic_store_n(&p.l1.stop, true, __ATOMIC_SEQ_CST);
	pthread_join(thread, NULL);
	MUST(span_revoke(g.span, p.id));
	MUST(set_vcpu(g.span, 2, 0));
	CHECK(span_stats(g.span).joined == 0, "revoked");
	tiny_abort(&g.vcpu[0]);
	tiny_abort(&g.vcpu[1]);
}

int main(void)
{
	static const struct ktap_test tests[] = {
		{ "rules", test_rules },
		{ "errors", test_errors },
		{ "relay_errors", test_relay_errors },
		{ "run", test_run },
		{ "out", test_out },
		{ "in", test_in },
		{ "eoi", test_eoi },
		{ "kept", test_kept },
		{ "timer", test_timer },
		{ "identity", test_identity },
		{ "info", test_info },
		{ "no_loss", test_no_loss },
		{ "random", test_random },
	};

	span_require();
	return KTAP_RUN(tests);
}
