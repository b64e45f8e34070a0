// SPDX-License-Identifier: GPL-2.0
/*
 * Page-modification logging at work: a guest writes 4096 pages with the dirty
 * log on. By write protection that would be 4096 exits a pass; with PML it is
 * one exit per 512 pages and one for the end.
 *
 * test: stock/pml-count timeout=180 modules=span
 * test: stock/pml-count-stock-modules timeout=180 modules=stock
 */
#include <fcntl.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <linux/kvm.h>

#include "ktap.h"

#define PAGES		4096u
#define FIRST_GPA	0x100000u
#define RAM_BYTES	(64UL << 20)
#define CODE_GPA	0x1000u
#define EXITS_MAX	9	/* 4096 / 512 and one */

static struct kvm_run *run;
static uint8_t *ram;
static int vm, vcpu;

static uint64_t exits(void)
{
	struct kvm_stats_header h;
	struct kvm_stats_desc *d;
	uint64_t value = 0;
	unsigned int i;
	size_t size;
	int fd = MUST(ioctl(vcpu, KVM_GET_STATS_FD, 0));

	MUST(pread(fd, &h, sizeof(h), 0) == sizeof(h) ? 0 : -1);
	size = sizeof(*d) + h.name_size;
	d = malloc(size);
	for (i = 0; i < h.num_desc; i++) {
		MUST(pread(fd, d, size, h.desc_offset + i * size) == (ssize_t)size ? 0 : -1);
		if (!strcmp(d->name, "exits"))
			MUST(pread(fd, &value, 8, h.data_offset + d->offset) == 8 ? 0 : -1);
	}
	free(d);
	close(fd);
	return value;
}

static void slot(uint32_t flags)
{
	struct kvm_userspace_memory_region r = {
		.flags = flags, .memory_size = RAM_BYTES, .userspace_addr = (uintptr_t)ram,
	};

	MUST(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &r));
}

static void flat_mode(void)
{
	struct kvm_regs regs = { .rip = CODE_GPA, .rflags = 2 };
	struct kvm_sregs s;
	struct kvm_segment *seg[6];
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

/*
 * top: esi = FIRST_GPA; ecx = PAGES; l: [esi] = ecx; esi += 4096; loop l;
 * out 0x10, al; jump to top. The end is a port write and not HLT: KVM handles
 * HLT before it looks at the log, and the last entries would wait there.
 */
static void make_vm(void)
{
	static const uint8_t code[] = {
		0xbe, 0x00, 0x00, 0x10, 0x00, 0xb9, 0x00, 0x10, 0x00, 0x00, 0x89, 0x0e,
		0x81, 0xc6, 0x00, 0x10, 0x00, 0x00, 0x49, 0x75, 0xf5, 0xe6, 0x10, 0xeb, 0xe7,
	};
	int kvm = MUST(open("/dev/kvm", O_RDWR)), bytes;

	ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	MUST(ram == MAP_FAILED ? -1 : 0);
	/* Small pages from the start: no splitting in the passes that count. */
	madvise(ram, RAM_BYTES, MADV_NOHUGEPAGE);
	memcpy(ram + CODE_GPA, code, sizeof(code));
	vm = MUST(ioctl(kvm, KVM_CREATE_VM, 0));
	MUST(ioctl(vm, KVM_SET_TSS_ADDR, 0xfffbd000));
	slot(0);
	vcpu = MUST(ioctl(vm, KVM_CREATE_VCPU, 0));
	bytes = MUST(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0));
	run = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	MUST(run == MAP_FAILED ? -1 : 0);
	flat_mode();
}

static void pass(void)
{
	int r;

	do
		r = ioctl(vcpu, KVM_RUN, 0);
	while (r < 0 && errno == EINTR);
	MUST(r);
	if (run->exit_reason != KVM_EXIT_IO) {
		ktap_note("exit reason %u", run->exit_reason);
		_exit(1);
	}
}

/* Pages of the range that are dirty; *other counts those outside of it. */
static unsigned int dirty(unsigned int *other)
{
	static uint64_t bitmap[RAM_BYTES / 4096 / 64];
	struct kvm_dirty_log log = { .dirty_bitmap = bitmap };
	unsigned int i, first = FIRST_GPA / 4096, n = 0;

	memset(bitmap, 0, sizeof(bitmap));
	MUST(ioctl(vm, KVM_GET_DIRTY_LOG, &log));
	*other = 0;
	for (i = 0; i < RAM_BYTES / 4096; i++) {
		if (!(bitmap[i / 64] >> (i % 64) & 1))
			continue;
		if (i >= first && i < first + PAGES)
			n++;
		else
			++*other;
	}
	return n;
}

static bool pml_on(void)
{
	char c = 0;
	int fd = open("/sys/module/kvm_intel/parameters/pml", O_RDONLY);

	return fd >= 0 && read(fd, &c, 1) == 1 && c == 'Y';
}

static void t_count(void)
{
	unsigned int n, other;
	uint64_t before, e;
	int i;

	if (!pml_on())
		ktap_skip("this CPU has no PML, or kvm-intel was loaded with pml=0");
	make_vm();
	pass();
	pass();
	slot(KVM_MEM_LOG_DIRTY_PAGES);
	for (i = 0; i < 5; i++) {
		before = exits();
		pass();
		e = exits() - before;
		n = dirty(&other);
		ktap_note("pass %d: %llu exits, %u dirty pages, %u others", i, (unsigned long long)e, n, other);
		if (i < 2)
			continue;	/* the first passes set up what they need */
		CHECK(n == PAGES, "%u dirty pages", n);
		CHECK(!other, "%u pages that nobody wrote", other);
		CHECK(e <= EXITS_MAX, "%llu exits", (unsigned long long)e);
	}
}

int main(void)
{
	static const struct ktap_test tests[] = {
		{ "4096 pages in 9 exits", t_count },
	};

	return KTAP_RUN(tests);
}
