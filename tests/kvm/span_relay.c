// SPDX-License-Identifier: GPL-2.0
/*
 * Interrupts between vCPUs of one guest on L0 and in two L1s; kernels, ports and
 * drivers are real, the controllers are played by this program, and so is the
 * guest, a tiny VM at each place.
 *
 * test: none
 *
 *	span_relay --base SOCKET...	on L0: the guest's own VM, offered to these ports
 *	span_relay --l1			in an L1: the VM that controls it there
 *	span_relay --errors		in an L1 with a port that is offered a guest
 *
 * Both do what lines on stdin say, and answer each with one line "= ...":
 *
 *	set VCPU OWNER		KVM_SPAN_SET_VCPU; OWNER 0, -1, -2 or pN, the Nth port's
 *	msi DEST FLAGS DATA	an MSI, numbers as C has them
 *	irr VCPU VECTOR		is it pending in the local APIC here?
 *	reg VCPU OFFSET		a register of the local APIC
 *	store VCPU OFFSET DATA	the guest writes a register of its local APIC
 *	idle VCPU		the guest takes interrupts from now on
 *	stop VCPU		and ends; how it ended before, if it did
 *	count			interrupts that the guest has taken here
 *	wait N			... until they are at least so many
 *	cost DEST N		TSC per MSI
 *	info N			(base) what L0 knows of the Nth member
 *	revoke N, detach N	(base)
 *	relay			(L1) closes it, and opens it again
 */
#include <stddef.h>
#include <x86intrin.h>

#include "portlib.h"
#include "vcpulib.h"

#define DEVICE	"/dev/span0"
#define PORTS	2

static struct guest guest;
static struct port ports[PORTS];
static int owners = -1;		/* the span's or the relay's descriptor */

static void answer(const char *fmt, ...)
{
	va_list ap;

	printf("= ");
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf("\n");
	fflush(stdout);
}

/* ---- the base ---- */

static void offer(struct port *p, const char *path)
{
	int fd = MUST(vcpu_grant(guest.span, path, KVM_SPAN_RIGHT_VCPU, &p->member));

	if (!port_offer(p, path, KVM_SPAN_RIGHT_VCPU, fd)) {
		answer("refused");
		exit(1);
	}
}

/* ---- the L1 ---- */

static int relay_open(int port)
{
	struct kvm_span_relay arg = { .size = sizeof(arg), .vm_fd = guest.vcpu[0].vm, .port_fd = port };
	int dev = span_dev(), r = ioctl(dev, KVM_SPAN_RELAY, &arg), e = errno;

	close(dev);
	errno = e;
	return r;
}

static int open_port(void)
{
	return MUST(open(DEVICE, O_RDWR | O_CLOEXEC));
}

/* ---- both ---- */

static const char *result(int r)
{
	return r < 0 ? strerror(errno) : "ok";
}

static long number(const char *s)
{
	return s && *s == 'p' ? (long)ports[atoi(s + 1)].member : s ? strtol(s, NULL, 0) : 0;
}

static void cost(uint32_t dest, int n)
{
	uint64_t t = __rdtsc();
	int i;

	for (i = 0; i < n; i++)
		send_msi(&guest, dest, 0, TINY_VECTOR + i % 64);
	answer("%llu", (unsigned long long)(__rdtsc() - t) / n);
}

static void info(int n)
{
	struct kvm_span_member_info i;

	MUST(span_member(guest.span, ports[n].member, &i));
	answer("vcpus %#llx out %llu in %llu refused %llu tsc %u", i.vcpus, i.irqs_to_l1, i.irqs_to_l0,
	       i.refused, i.tsc_flags);
}

static bool command(char **arg)
{
	uint32_t a = number(arg[1]), b = number(arg[2]), c = number(arg[3]);
	struct tiny_vm *v = &guest.vcpu[a % VCPUS];

	if (!strcmp(arg[0], "set")) {
		answer("%s", result(set_vcpu(owners, a, b)));
	} else if (!strcmp(arg[0], "msi")) {
		send_msi(&guest, a, b, c);
		answer("ok");
	} else if (!strcmp(arg[0], "irr")) {
		answer("%d", lapic_has(v->vcpu, b));
	} else if (!strcmp(arg[0], "reg")) {
		answer("%#x", lapic_reg(v->vcpu, b));
	} else if (!strcmp(arg[0], "store")) {
		answer("%d", TINY_RUN(v, store, .eax = c, .ebx = LAPIC_GPA + b));
	} else if (!strcmp(arg[0], "idle")) {
		TINY_GO(v, idle);
		answer("ok");
	} else if (!strcmp(arg[0], "stop")) {
		bool ended = tiny_wait(v, 0) != TINY_WAITING;

		tiny_abort(v);
		answer("%d", ended ? v->result : 0);
	} else if (!strcmp(arg[0], "count")) {
		answer("%u", tiny_interrupts(&guest.vcpu[0]));
	} else if (!strcmp(arg[0], "wait")) {
		SOON(tiny_interrupts(&guest.vcpu[0]) >= a);
		answer("%u", tiny_interrupts(&guest.vcpu[0]));
	} else if (!strcmp(arg[0], "cost")) {
		cost(a, b);
	} else if (!strcmp(arg[0], "info")) {
		info(a % PORTS);
	} else if (!strcmp(arg[0], "revoke")) {
		answer("%s", result(span_revoke(guest.span, ports[a % PORTS].member)));
	} else if (!strcmp(arg[0], "detach")) {
		answer("%d", port_detach(&ports[a % PORTS], 2000));
	} else if (!strcmp(arg[0], "relay")) {
		close(owners);
		owners = relay_open(open_port());
		answer("%s", result(owners));
	} else {
		return false;
	}
	return true;
}

static int obey(void)
{
	char line[256], *arg[5], *at;
	int n;

	answer("ready");
	while (fgets(line, sizeof(line), stdin)) {
		memset(arg, 0, sizeof(arg));
		line[strcspn(line, "\n")] = 0;
		for (n = 0, at = line; n < 4 && (arg[n] = strtok(at, " ")); n++, at = NULL)
			;
		if (!arg[0] || !strcmp(arg[0], "quit"))
			break;
		if (!command(arg))
			answer("what?");
	}
	_exit(0);
}

static int base(int n, char **paths)
{
	int i;

	guest_init(&guest);
	owners = guest.span;
	for (i = 0; i < n && i < PORTS; i++)
		offer(&ports[i], paths[i]);
	return obey();
}

static int l1(void)
{
	guest_init_vm(&guest, TINY_SPLIT);
	owners = relay_open(open_port());
	if (owners < 0) {
		answer("%s", strerror(errno));
		return 1;
	}
	return obey();
}

static void test_errors(void)
{
	int port = open_port(), relay;
	struct kvm_span_vcpu v = { .size = sizeof(v), .owner = 0 };
	uint8_t longer[sizeof(v) + 8] = {};

	guest_init_vm(&guest, TINY_SPLIT);
	CHECK_ERR(relay_open(-1), EBADF);
	CHECK_ERR(relay_open(guest.vcpu[0].vm), EINVAL);
	/* A vCPU that runs cannot be made to run elsewhere. */
	TINY_GO(&guest.vcpu[2], idle);
	send_msi(&guest, 2, 0, TINY_VECTOR);
	CHECK(SOON(tiny_interrupts(&guest.vcpu[0]) == 1), "it does not run");
	CHECK_ERR(relay_open(port), EAGAIN);
	send_msi(&guest, 2, 0, TINY_VECTOR);
	CHECK(SOON(tiny_interrupts(&guest.vcpu[0]) == 2), "it does not run any more");
	tiny_abort(&guest.vcpu[2]);
	CHECK(TINY_RUN(&guest.vcpu[1], store, .eax = 1, .ebx = SCRATCH_GPA) == TINY_DONE, "still its own");

	relay = MUST(relay_open(port));
	CHECK_ERR(relay_open(port), EBUSY);
	CHECK_ERR(ioctl(relay, KVM_SPAN_RELAY, &v), ENOTTY);
	CHECK_ERR(set_vcpu(relay, VCPUS, 0), ENOENT);
	CHECK_ERR(set_vcpu(relay, SPAN_MAX_VCPUS, 0), EINVAL);
	CHECK_ERR(set_vcpu(relay, 0, 1), EINVAL);
	CHECK_ERR(set_vcpu(relay, 0, NOBODY), EINVAL);
	v.flags = 1;
	CHECK_ERR(ioctl(relay, KVM_SPAN_SET_VCPU, &v), EINVAL);
	v.flags = 0;
	memcpy(longer, &v, sizeof(v));
	longer[0] = sizeof(longer);
	CHECK(ioctl(relay, KVM_SPAN_SET_VCPU, longer) == 0, "%s", strerror(errno));
	longer[sizeof(v)] = 1;
	CHECK_ERR(ioctl(relay, KVM_SPAN_SET_VCPU, longer), E2BIG);
	CHECK_ERR(ioctl(relay, KVM_SPAN_SET_VCPU, NULL), EFAULT);

	CHECK(TINY_RUN(&guest.vcpu[1], store, .eax = 1, .ebx = SCRATCH_GPA) == -EBUSY, "elsewhere at first");
	CHECK(set_vcpu(relay, 1, 0) == 0 && set_vcpu(relay, 1, 0) == 0, "%s", strerror(errno));
	CHECK(TINY_RUN(&guest.vcpu[1], store, .eax = 1, .ebx = SCRATCH_GPA) == TINY_DONE, "here");
	CHECK(set_vcpu(relay, 1, KVM_SPAN_VCPU_ELSEWHERE) == 0 &&
	      set_vcpu(relay, 1, KVM_SPAN_VCPU_ELSEWHERE) == 0, "%s", strerror(errno));
	CHECK(TINY_RUN(&guest.vcpu[1], store, .eax = 1, .ebx = SCRATCH_GPA) == -EBUSY, "elsewhere again");
	close(relay);
	CHECK(TINY_RUN(&guest.vcpu[1], store, .eax = 1, .ebx = SCRATCH_GPA) == TINY_DONE, "without a relay");
}

int main(int argc, char **argv)
{
	static const struct ktap_test tests[] = { { "errors", test_errors } };

	if (argc > 2 && !strcmp(argv[1], "--base"))
		return base(argc - 2, argv + 2);
	if (argc == 2 && !strcmp(argv[1], "--l1"))
		return l1();
	if (argc == 2 && !strcmp(argv[1], "--errors"))
		return KTAP_RUN(tests);
	fprintf(stderr, "usage: %s --base SOCKET... | --l1 | --errors\n", argv[0]);
	return 2;
}
