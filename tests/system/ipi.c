// SPDX-License-Identifier: GPL-2.0
/*
 * ipi CPU CPUS x2apic|flat|cluster [TIMES]: one CPU of a guest sends interrupts to others in
 * each way that a local APIC knows, and each has to arrive where it should, and nowhere
 * else. With TIMES: in one way only, to the next CPU.
 *
 * The vector is the kernel's for work of its own: any number of them is harmless, it
 * hardly comes by itself, and /proc/interrupts counts it (IWI). APIC ids are CPU numbers.
 * One line for each way; the exit status is 1 if an interrupt was lost or went astray.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define MAX_CPUS	4	/* as many as a cluster of an xAPIC has */
#define VECTOR		0xf6u		/* IRQ_WORK_VECTOR */
#define ROUNDS		4
#define PATIENCE_NS	2000000000ull
#define QUIET_NS	3000000ull	/* so long nothing more may come */

#define LOWEST		(1u << 8)
#define LOGICAL		(1u << 11)
#define ASSERT		(1u << 14)
#define SELF		(1u << 18)
#define ALL		(2u << 18)
#define OTHERS		(3u << 18)

#define MSR_ICR		0x830
#define MSR_SELF_IPI	0x83f
#define REG_LDR		0xd0
#define REG_DFR		0xe0
#define DFR_FLAT	0xffffffffu
#define DFR_CLUSTER	0x0fffffffu
#define REG_ICR		0x300
#define REG_ICR2	0x310

static int self, cpus, msr_fd = -1;
static int times = ROUNDS;
static volatile uint32_t *apic;		/* NULL: x2APIC */
static bool bad;

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static void die(const char *what)
{
	perror(what);
	exit(2);
}

static void read_counts(unsigned long *counts)
{
	FILE *f = fopen("/proc/interrupts", "r");
	char line[400], *p;
	bool found = false;
	int i;

	if (!f)
		die("/proc/interrupts");
	while (!found && fgets(line, sizeof(line), f)) {
		p = strstr(line, "IWI:");
		if (!p)
			continue;
		p += 4;
		for (i = 0; i < cpus; i++)
			counts[i] = strtoul(p, &p, 10);
		found = true;
	}
	fclose(f);
	if (!found) {
		fprintf(stderr, "ipi: no line IWI in /proc/interrupts\n");
		exit(2);
	}
}

static void write_msr(uint32_t msr, uint64_t value)
{
	if (pwrite(msr_fd, &value, 8, msr) != 8)
		die("writing an MSR");
}

/*
 * False: in an xAPIC the kernel has used the two registers, maybe between our two writes;
 * then nobody knows what went out.
 */
static bool send(uint32_t dest, uint32_t low)
{
	if (!apic) {
		write_msr(MSR_ICR, (uint64_t)dest << 32 | low);
		return true;
	}
	apic[REG_ICR2 / 4] = dest << 24;
	apic[REG_ICR / 4] = low;
	return apic[REG_ICR2 / 4] == dest << 24 && (apic[REG_ICR / 4] & 0xff) == (low & 0xff);
}

/* Exactly these have got one each; or, with any, one of them. */
static bool arrived(const unsigned long *before, unsigned int want, bool any)
{
	unsigned int got = 0, sum = 0;
	unsigned long counts[MAX_CPUS];
	int i;

	read_counts(counts);
	for (i = 0; i < cpus; i++) {
		if (counts[i] != before[i])
			got |= 1u << i;
		sum += counts[i] - before[i];
	}
	if (any)
		return sum == 1 && !(got & ~want);
	return got == want && sum == (unsigned int)__builtin_popcount(want);
}

static void show(const char *name, const unsigned long *before, unsigned int want)
{
	unsigned long counts[MAX_CPUS];
	int i;

	read_counts(counts);
	printf("%s: cpu %d to %#x:", name, self, want);
	for (i = 0; i < cpus; i++)
		printf(" %lu", counts[i] - before[i]);
	printf(" arrived\n");
	bad = true;
}

static void pause_ns(uint64_t ns)
{
	struct timespec t = { 0, ns };

	nanosleep(&t, NULL);
}

static bool one_round(const char *name, unsigned int want, bool any, bool (*go)(uint32_t, uint32_t),
		      uint32_t dest, uint32_t low)
{
	unsigned long before[MAX_CPUS];
	uint64_t end;

	for (;;) {
		read_counts(before);
		if (go(dest, low))
			break;
		pause_ns(QUIET_NS);
	}
	for (end = now() + PATIENCE_NS; !arrived(before, want, any) && now() < end;)
		pause_ns(200000);
	pause_ns(QUIET_NS);
	if (arrived(before, want, any))
		return true;
	show(name, before, want);
	return false;
}

static void way(const char *name, unsigned int want, bool any, uint32_t dest, uint32_t low)
{
	int i;

	for (i = 0; i < times; i++)
		if (!one_round(name, want, any, send, dest, low | VECTOR | ASSERT))
			return;
	printf("%s: good\n", name);
}

static bool self_ipi(uint32_t dest, uint32_t low)
{
	(void)dest;
	write_msr(MSR_SELF_IPI, low);
	return true;
}

/* The logical id of a CPU: one bit of sixteen in its cluster, or in an xAPIC of eight or four. */
static uint32_t logical(int cpu)
{
	return apic ? 1u << cpu : (uint32_t)cpu >> 4 << 16 | 1u << (cpu & 15);
}

static void go_to(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		die("sched_setaffinity");
}

static void open_x2apic(void)
{
	char path[40];

	snprintf(path, sizeof(path), "/dev/cpu/%d/msr", self);
	msr_fd = open(path, O_RDWR);
	if (msr_fd < 0)
		die(path);
}

/* Linux leaves logical ids alone and does not use them: all CPUs get one. */
static void open_xapic(uint32_t dfr)
{
	int c, fd = open("/dev/mem", O_RDWR | O_SYNC);

	if (fd < 0)
		die("/dev/mem");
	apic = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0xfee00000);
	if (apic == MAP_FAILED)
		die("the local APIC's page");
	for (c = 0; c < cpus; c++) {
		go_to(c);
		apic[REG_DFR / 4] = dfr;
		apic[REG_LDR / 4] = 1u << c << 24;
	}
}

static void each_way(void)
{
	unsigned int all = (1u << cpus) - 1, others = all & ~(1u << self);
	char name[40];
	int c;

	for (c = 0; c < cpus; c++) {
		snprintf(name, sizeof(name), "physical to %d", c);
		way(name, 1u << c, false, c, 0);
		snprintf(name, sizeof(name), "logical to %d", c);
		way(name, 1u << c, false, logical(c), LOGICAL);
		snprintf(name, sizeof(name), "lowest priority to %d", c);
		way(name, 1u << c, true, logical(c), LOGICAL | LOWEST);
	}
	way("logical to all", all, false, all, LOGICAL);
	way("logical to others", others, false, others, LOGICAL);
	way("lowest priority to one of all", all, true, all, LOGICAL | LOWEST);
	way("broadcast", all, false, apic ? 0xff : 0xffffffff, 0);
	way("self", 1u << self, false, 0, SELF);
	way("all", all, false, 0, ALL);
	way("all but self", others, false, 0, OTHERS);
	way("to nobody", 0, false, cpus + 3, 0);
	for (c = 0; !apic && c < times; c++)
		one_round("the register for oneself", 1u << self, false, self_ipi, 0, VECTOR);
}

int main(int argc, char **argv)
{
	bool good = argc == 4 || argc == 5;

	self = good ? atoi(argv[1]) : -1;
	cpus = good ? atoi(argv[2]) : 0;
	if (self < 0 || self >= cpus || cpus > MAX_CPUS) {
		fprintf(stderr, "usage: ipi CPU CPUS x2apic|flat|cluster [TIMES]\n");
		return 2;
	}
	if (!strcmp(argv[3], "x2apic"))
		open_x2apic();
	else
		open_xapic(strcmp(argv[3], "flat") ? DFR_CLUSTER : DFR_FLAT);
	go_to(self);
	if (argc == 5) {
		times = atoi(argv[4]);
		way("to the next one", 1u << (self + 1) % cpus, false, (self + 1) % cpus, 0);
	} else {
		each_way();
	}
	return bad;
}
