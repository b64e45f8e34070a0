// SPDX-License-Identifier: GPL-2.0
/*
 * span-ps on made-up guests: memory images with a small BTF, page tables and a
 * process list, whole and damaged. The damaged ones must end in an answer or an
 * error, never in a crash or an endless walk (ASan, UBSan and a deadline watch).
 */
#define KTAP_DEADLINE 120
#include <ktap.h>

#include <stdarg.h>
#include <sanitizer/lsan_interface.h>
#include <sys/mman.h>

#include <bpf/btf.h>

#include "kernel.h"
#include "places.h"
#include "tasks.h"
#include "units.h"

#define MIB(n)		((uint64_t)(n) << 20)
#define IMAGE_BYTES	MIB(16)
/* offsets in the image */
#define KERNEL		MIB(4)
#define BTF		(KERNEL + 0x104004)
#define INIT_TASK	(KERNEL + 0x40)
#define INIT_MM		(KERNEL + 0x1000)
#define INIT_PGD	(KERNEL + 0x2000)
#define TABLES		(KERNEL + 0x10000)	/* a bump allocator */
#define TASKS		MIB(10)
#define TASK_STEP	0x1800			/* some cross pages */
#define USER_PAGE	MIB(9)
#define USER_VA		0x7ffd00000000ull

#define IMAGE_VA	0xffffffff80000000ull
#define SHIFT		MIB(0x36)		/* KASLR */

#define TASK_BYTES	1024

struct guest {
	uint8_t *mem;
	int fd;
	char path[32];
	int levels;
	uint64_t hole;		/* RAM below 4 GiB, 0: all */
	uint64_t linear;	/* address of guest-physical 0 in the linear map */
	uint64_t pgd;		/* offset */
	uint64_t next_table;
	uint32_t btf_bytes;
	uint64_t last;		/* of the list */
};

/* Where build_btf() puts the members, as the test writes them. */
enum {
	AT_TASKS = 16, AT_COMM = 40, AT_PID = 64, AT_TGID = 68, AT_PARENT = 72, AT_LEADER = 80,
	AT_MM = 88, AT_ACTIVE_MM = 96, AT_CRED = 104, AT_FLAGS = 112, AT_STATE = 116,
	AT_EXIT = 120, AT_UID = 8, AT_PGD = 24, AT_ARG_START = 40, AT_ARG_END = 48,
};

static uint64_t phys_of(const struct guest *g, uint64_t offset)
{
	return g->hole && offset >= g->hole ? (1ull << 32) + offset - g->hole : offset;
}

static uint64_t linear_va(const struct guest *g, uint64_t offset)
{
	return g->linear + phys_of(g, offset);
}

static uint64_t image_va(uint64_t offset)
{
	return IMAGE_VA + SHIFT + offset;
}

static void put64(struct guest *g, uint64_t offset, uint64_t v)
{
	memcpy(g->mem + offset, &v, 8);
}

static void put32(struct guest *g, uint64_t offset, uint32_t v)
{
	memcpy(g->mem + offset, &v, 4);
}

static uint64_t get64(struct guest *g, uint64_t offset)
{
	uint64_t v;

	memcpy(&v, g->mem + offset, 8);
	return v;
}

/* Map with 2 MiB (large) or 4 KiB pages in the tables at offset @table. */
static void map(struct guest *g, uint64_t table, uint64_t va, uint64_t phys, bool large)
{
	int level, last = large ? 2 : 1;
	uint64_t slot;

	for (level = g->levels; level > last; level--) {
		slot = table + ((va >> (12 + 9 * (level - 1))) & 511) * 8;
		if (!get64(g, slot)) {
			put64(g, slot, phys_of(g, g->next_table) | 0x63);
			g->next_table += 4096;
		}
		/* tables are below the hole */
		table = get64(g, slot) & 0xffffffffff000;
	}
	slot = table + ((va >> (12 + 9 * (last - 1))) & 511) * 8;
	put64(g, slot, phys | 0x63 | (large ? 0x80 : 0) | 1ull << 63);
}

static void *build_btf(uint32_t *bytes)
{
	struct btf *b = btf__new_empty();
	int u32 = btf__add_int(b, "unsigned int", 4, 0), u64 = btf__add_int(b, "unsigned long", 8, 0);
	int chr = btf__add_int(b, "char", 1, BTF_INT_CHAR), list, kuid, inner, ptr;
	const void *raw;
	void *copy;

	ptr = btf__add_ptr(b, 0);
	list = btf__add_struct(b, "list_head", 16);
	btf__add_field(b, "next", ptr, 0, 0);
	btf__add_field(b, "prev", ptr, 64, 0);
	kuid = btf__add_struct(b, "", 4);
	btf__add_field(b, "val", u32, 0, 0);
	kuid = btf__add_typedef(b, "kuid_t", kuid);
	btf__add_struct(b, "cred", 64);
	btf__add_field(b, "usage", u64, 0, 0);
	btf__add_field(b, "uid", kuid, AT_UID * 8, 0);
	/* as in real kernels, all of mm_struct is in a nameless struct */
	inner = btf__add_struct(b, "", 64);
	btf__add_field(b, "pgd", ptr, (AT_PGD - 8) * 8, 0);
	btf__add_field(b, "arg_start", u64, (AT_ARG_START - 8) * 8, 0);
	btf__add_field(b, "arg_end", u64, (AT_ARG_END - 8) * 8, 0);
	btf__add_struct(b, "mm_struct", 72);
	btf__add_field(b, "first", u64, 0, 0);
	btf__add_field(b, "", inner, 64, 0);
	chr = btf__add_array(b, u32, chr, 16);
	btf__add_struct(b, "task_struct", TASK_BYTES);
	btf__add_field(b, "tasks", list, AT_TASKS * 8, 0);
	btf__add_field(b, "comm", chr, AT_COMM * 8, 0);
	btf__add_field(b, "pid", u32, AT_PID * 8, 0);
	btf__add_field(b, "tgid", u32, AT_TGID * 8, 0);
	btf__add_field(b, "real_parent", ptr, AT_PARENT * 8, 0);
	btf__add_field(b, "group_leader", ptr, AT_LEADER * 8, 0);
	btf__add_field(b, "mm", ptr, AT_MM * 8, 0);
	btf__add_field(b, "active_mm", ptr, AT_ACTIVE_MM * 8, 0);
	btf__add_field(b, "cred", ptr, AT_CRED * 8, 0);
	btf__add_field(b, "flags", u32, AT_FLAGS * 8, 0);
	btf__add_field(b, "__state", u32, AT_STATE * 8, 0);
	btf__add_field(b, "exit_state", u32, AT_EXIT * 8, 0);

	raw = btf__raw_data(b, bytes);
	copy = malloc(*bytes);
	memcpy(copy, raw, *bytes);
	btf__free(b);
	return copy;
}

static void write_task(struct guest *g, uint64_t offset, uint64_t self, uint32_t pid,
		       uint64_t parent, const char *comm)
{
	strncpy((char *)g->mem + offset + AT_COMM, comm, 16);
	put32(g, offset + AT_PID, pid);
	put32(g, offset + AT_TGID, pid);
	put64(g, offset + AT_PARENT, parent);
	put64(g, offset + AT_LEADER, self);
	put32(g, offset + AT_FLAGS, 0x00200000);
	/* cred right behind it */
	put64(g, offset + AT_CRED, linear_va(g, offset + 512));
	put32(g, offset + 512 + AT_UID, 1000 + pid);
}

static uint64_t task_offset(int n)
{
	return n ? TASKS + (n - 1) * TASK_STEP : INIT_TASK;
}

static uint64_t task_va(const struct guest *g, int n)
{
	return n ? linear_va(g, task_offset(n)) : image_va(INIT_TASK);
}

/* Process n: child of n / 2, in the list after the ones before it. */
static void add_task(struct guest *g, int n, const char *comm)
{
	uint64_t list = task_va(g, n) + AT_TASKS, head = image_va(INIT_TASK) + AT_TASKS;

	write_task(g, task_offset(n), task_va(g, n), n, task_va(g, n / 2), comm);
	put64(g, task_offset(n) + AT_TASKS, head);
	put64(g, task_offset(n) + AT_TASKS + 8, task_va(g, g->last) + AT_TASKS);
	put64(g, task_offset(g->last) + AT_TASKS, list);
	put64(g, INIT_TASK + AT_TASKS + 8, list);
	g->last = n;
}

/* Process 1 gets an address space with arguments over the border of two pages. */
static void give_args(struct guest *g, const char *args, size_t len)
{
	uint64_t mm = TASKS - 4096, pgd = g->next_table, start = USER_VA + 4096 - 3;

	g->next_table += 4096;
	map(g, pgd, USER_VA, phys_of(g, USER_PAGE), false);
	map(g, pgd, USER_VA + 4096, phys_of(g, USER_PAGE + 8192), false);
	memcpy(g->mem + USER_PAGE + 4096 - 3, args, 3);
	memcpy(g->mem + USER_PAGE + 8192, args + 3, len - 3);
	put64(g, mm + AT_PGD, linear_va(g, pgd));
	put64(g, mm + AT_ARG_START, start);
	put64(g, mm + AT_ARG_END, start + len);
	put64(g, task_offset(1) + AT_MM, linear_va(g, mm));
	put32(g, task_offset(1) + AT_FLAGS, 0);
}

static void map_kernel(struct guest *g)
{
	uint64_t at;

	for (at = KERNEL; at < KERNEL + MIB(4); at += MIB(2))
		map(g, g->pgd, image_va(at), at, true);
	for (at = 0; at < IMAGE_BYTES; at += MIB(2))
		map(g, g->pgd, linear_va(g, at), phys_of(g, at), true);
}

static void build(struct guest *g, int levels, uint64_t hole)
{
	static const char args[] = "/sbin/init\0--with\0two \x1b[31m";
	void *btf;

	memset(g, 0, sizeof(*g));
	g->levels = levels;
	g->hole = hole;
	g->linear = levels == 5 ? 0xff11000000000000ull : 0xffff888000000000ull;
	g->pgd = INIT_PGD;
	g->next_table = TABLES;
	g->fd = MUST(memfd_create("guest", 0));
	MUST(ftruncate(g->fd, IMAGE_BYTES));
	g->mem = mmap(NULL, IMAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, g->fd, 0);
	MUST(g->mem == MAP_FAILED ? -1 : 0);
	snprintf(g->path, sizeof(g->path), "/proc/self/fd/%d", g->fd);

	btf = build_btf(&g->btf_bytes);
	memcpy(g->mem + BTF, btf, g->btf_bytes);
	free(btf);
	strcpy((char *)g->mem + KERNEL + 0x108000, "Linux version 6.6.6-test (someone)");
	map_kernel(g);
	write_task(g, INIT_TASK, image_va(INIT_TASK), 0, image_va(INIT_TASK), "swapper/0");
	put64(g, INIT_TASK + AT_TASKS, image_va(INIT_TASK) + AT_TASKS);
	put64(g, INIT_TASK + AT_TASKS + 8, image_va(INIT_TASK) + AT_TASKS);
	put64(g, INIT_TASK + AT_ACTIVE_MM, image_va(INIT_MM));
	put64(g, INIT_MM + AT_PGD, image_va(INIT_PGD));
	add_task(g, 1, "init");
	add_task(g, 2, "kthreadd");
	add_task(g, 3, "name\x07" "bell");
	add_task(g, 4, "fifteen-letters");
	add_task(g, 5, "zombie");
	put32(g, task_offset(2) + AT_STATE, 0x402);
	put32(g, task_offset(3) + AT_STATE, 1);
	put32(g, task_offset(5) + AT_EXIT, 0x20);
	give_args(g, args, sizeof(args));
}

static void drop(struct guest *g)
{
	munmap(g->mem, IMAGE_BYTES);
	close(g->fd);
}

/* Look at @g as span-ps does; what was found when all went well. */
static enum kernel_error look(struct guest *g, struct kernel *k, struct task_list *list)
{
	struct image img;
	enum kernel_error err;

	memset(list, 0, sizeof(*list));
	MUST(image_open(&img, g->path, g->hole) ? -1 : 0);
	err = kernel_find(&img, k);
	if (!err)
		tasks_list(&img, k, 2, list);
	image_close(&img);
	return err;
}

static void check_whole(struct guest *g)
{
	static const char states[] = "RISRZ";
	struct task_list l;
	struct kernel k;
	size_t i;

	if (!CHECK(look(g, &k, &l) == KERNEL_OK))
		return;
	CHECK(k.levels == g->levels, "%d", k.levels);
	CHECK(k.btf_offset == BTF && k.btf_bytes == g->btf_bytes);
	CHECK(k.init_task == image_va(INIT_TASK));
	CHECK(k.pgd == INIT_PGD, "%#lx", (long)k.pgd);
	CHECK(!strcmp(k.release, "6.6.6-test"), "%s", k.release);
	CHECK(l.consistent && l.attempts == 1);
	if (!CHECK(l.count == 5, "%zu", l.count))
		return;
	for (i = 0; i < 5; i++) {
		CHECK(l.task[i].pid == i + 1);
		CHECK(l.task[i].ppid == (i + 1) / 2);
		CHECK(l.task[i].uid == 1001 + i);
		CHECK(l.task[i].state == states[i], "%zu: %c", i, l.task[i].state);
		CHECK(l.task[i].kernel_thread == !!i);
	}
	CHECK(!strcmp(l.task[0].args, "/sbin/init --with two \\x1b[31m"), "%s", l.task[0].args);
	CHECK(!strcmp(l.task[2].comm, "name\\x07bell"), "%s", l.task[2].comm);
	CHECK(!strcmp(l.task[3].comm, "fifteen-letters"), "%s", l.task[3].comm);
	tasks_free(&l);
}

static void four_levels(void)
{
	struct guest g;

	build(&g, 4, 0);
	check_whole(&g);
	drop(&g);
	CHECK(!__lsan_do_recoverable_leak_check());
}

static void five_levels(void)
{
	struct guest g;

	build(&g, 5, 0);
	check_whole(&g);
	drop(&g);
}

static void hole_below_4g(void)
{
	struct guest g;
	struct task_list l;
	struct kernel k;

	build(&g, 4, MIB(10));
	check_whole(&g);
	/* told wrong, it must not find the processes above the hole */
	g.hole = 0;
	CHECK(look(&g, &k, &l) == KERNEL_NO_PAGE_TABLE);
	tasks_free(&l);
	drop(&g);
}

/* init_task borrows some process's mm: the tables are found without it. */
static void borrowed_mm(void)
{
	struct guest g;

	build(&g, 4, 0);
	put64(&g, INIT_TASK + AT_ACTIVE_MM, linear_va(&g, TASKS - 4096));
	check_whole(&g);
	put64(&g, INIT_TASK + AT_ACTIVE_MM, 0);
	check_whole(&g);
	/* a page that leads to the root looks like a five-level root */
	put64(&g, KERNEL + 511 * 8, INIT_PGD | 0x63);
	check_whole(&g);
	drop(&g);
}

static void nothing_there(void)
{
	struct guest g;
	struct task_list l;
	struct kernel k;

	build(&g, 4, 0);
	memset(g.mem + INIT_TASK + AT_COMM, 0, 16);
	CHECK(look(&g, &k, &l) == KERNEL_NO_INIT_TASK);
	memset(g.mem, 0, IMAGE_BYTES);
	CHECK(look(&g, &k, &l) == KERNEL_NO_BTF);
	drop(&g);
}

static void decoys(void)
{
	struct btf *b = btf__new_empty();
	struct guest g;
	const void *raw;
	uint32_t bytes;

	build(&g, 4, 0);
	btf__add_int(b, "int", 4, 0);
	raw = btf__raw_data(b, &bytes);
	memcpy(g.mem + 0x1000, raw, bytes);	/* whole, but knows no task */
	btf__free(b);
	memcpy(g.mem + 0x8000, g.mem + BTF, g.btf_bytes / 2);	/* a torn copy */
	strcpy((char *)g.mem + KERNEL + 0x100000, "swapper/0");
	/* a copy of init_task elsewhere: its address does not fit its place */
	memcpy(g.mem + KERNEL - 0x3000, g.mem + INIT_TASK, TASK_BYTES);
	check_whole(&g);
	drop(&g);
}

static void truncated_btf(void)
{
	uint32_t bytes, len, str_len;
	uint8_t *btf = build_btf(&bytes), *cut;
	struct layout at;

	CHECK(layout_from_btf(btf, bytes, &at));
	CHECK(at.comm == AT_COMM && at.mm_arg_end == AT_ARG_END && at.cred_uid == AT_UID);
	for (len = 0; len < bytes; len++) {
		cut = malloc(len ?: 1);		/* exact, for ASan */
		memcpy(cut, btf, len);
		CHECK(!layout_from_btf(cut, len, &at), "%u of %u accepted", len, bytes);
		free(cut);
	}
	/* the header says less as well: strings are missing */
	memcpy(&str_len, btf + 20, 4);
	for (len = 1; len < str_len; len++) {
		uint32_t left = str_len - len;

		cut = malloc(bytes - len);
		memcpy(cut, btf, bytes - len);
		memcpy(cut + 20, &left, 4);
		layout_from_btf(cut, bytes - len, &at);
		free(cut);
	}
	free(btf);
}

static uint32_t random_state;

static uint32_t next_random(void)
{
	random_state = random_state * 1664525 + 1013904223;
	return random_state >> 8;
}

static void damage(uint8_t *p, uint32_t bytes)
{
	int n = 1 + next_random() % 4;

	while (n--) {
		uint32_t at = next_random() % bytes;

		if (next_random() & 1)
			p[at] ^= 1 << next_random() % 8;
		else
			p[at] = next_random() & 1 ? 0xff : next_random();
	}
}

/* Whatever a hostile guest makes of its BTF. */
static void damaged_btf(void)
{
	uint32_t bytes, ok = 0, i;
	uint8_t *btf = build_btf(&bytes), *bad;
	struct layout at;

	random_state = 1;
	for (i = 0; i < 50000; i++) {
		bad = malloc(bytes);
		memcpy(bad, btf, bytes);
		damage(bad + 24, bytes - 24);
		if (layout_from_btf(bad, bytes, &at)) {
			ok++;
			CHECK(at.task_bytes <= MAX_TASK_BYTES && at.comm + at.comm_len <= at.task_bytes);
		}
		free(bad);
	}
	ktap_note("%u of %u damaged BTFs were still usable", ok, i);
	CHECK(ok && ok < i);
	free(btf);
}

static void damaged_header(void)
{
	static const uint32_t values[] = { 0, 1, 3, 4, 24, 25, 0x7fffffff, 0x80000000, 0xfffffffc, 0xffffffff };
	struct guest g;
	struct task_list l;
	struct kernel k;
	size_t field, v;

	build(&g, 4, 0);
	for (field = 4; field < 24; field += 4) {
		uint32_t old, *p = (uint32_t *)(g.mem + BTF + field);

		memcpy(&old, p, 4);
		for (v = 0; v < sizeof(values) / sizeof(values[0]); v++) {
			if (values[v] == old)
				continue;
			memcpy(p, &values[v], 4);
			CHECK(look(&g, &k, &l) == KERNEL_NO_BTF, "field %zu = %#x", field, values[v]);
		}
		memcpy(p, &old, 4);
	}
	check_whole(&g);
	/* the header at the very end of memory */
	memset(g.mem + BTF, 0, 24);
	memcpy(g.mem + IMAGE_BYTES - 4, "\x9f\xeb\x01\x00", 4);
	CHECK(look(&g, &k, &l) == KERNEL_NO_BTF);
	drop(&g);
}

/* Tables, tasks and lists damaged at random: an answer or an error, in time. */
static void damaged_memory(void)
{
	struct guest g;
	struct task_list l;
	struct kernel k;
	uint8_t *tables, *tasks;
	unsigned int i, found = 0;

	build(&g, 4, 0);
	tables = malloc(0x20000);
	tasks = malloc(0x10000);
	memcpy(tables, g.mem + KERNEL, 0x20000);
	memcpy(tasks, g.mem + TASKS, 0x10000);
	random_state = 2;
	for (i = 0; i < 300; i++) {
		uint64_t p;

		if (next_random() & 1) {
			damage(g.mem + task_offset(next_random() % 6), 128);
		} else {	/* an entry of a table that is used */
			p = KERNEL + 0x2000 + (next_random() % 0x1e000 & ~7u);
			while (!get64(&g, p) && p < KERNEL + 0x1fff8)
				p += 8;
			damage(g.mem + p, 8);
		}
		if (look(&g, &k, &l) == KERNEL_OK && l.consistent)
			found++;
		tasks_free(&l);
		if (i % 3 == 2) {
			memcpy(g.mem + KERNEL, tables, 0x20000);
			memcpy(g.mem + TASKS, tasks, 0x10000);
		}
	}
	ktap_note("%u of %u damaged guests still gave a list", found, i);
	CHECK(found && found < i);
	free(tables);
	free(tasks);
	drop(&g);
}

static void expect_inconsistent(struct guest *g, const char *what)
{
	struct task_list l;
	struct kernel k;

	CHECK(look(g, &k, &l) == KERNEL_OK, "%s", what);
	CHECK(!l.consistent && l.attempts == 2, "%s", what);
	CHECK(l.count < 6, "%s: %zu", what, l.count);
	tasks_free(&l);
}

static void bad_lists(void)
{
	uint64_t next3, prev4;
	struct guest g;

	build(&g, 4, 0);
	next3 = get64(&g, task_offset(3) + AT_TASKS);
	put64(&g, task_offset(3) + AT_TASKS, task_va(&g, 3) + AT_TASKS);
	expect_inconsistent(&g, "points to itself");
	put64(&g, task_offset(3) + AT_TASKS, task_va(&g, 2) + AT_TASKS);
	expect_inconsistent(&g, "points back");
	put64(&g, task_offset(3) + AT_TASKS, 0);
	expect_inconsistent(&g, "ends");
	put64(&g, task_offset(3) + AT_TASKS, image_va(INIT_TASK) + AT_TASKS);
	expect_inconsistent(&g, "skips the rest");
	put64(&g, task_offset(3) + AT_TASKS, next3);
	check_whole(&g);
	prev4 = get64(&g, task_offset(4) + AT_TASKS + 8);
	put64(&g, task_offset(4) + AT_TASKS + 8, task_va(&g, 2) + AT_TASKS);
	expect_inconsistent(&g, "points back past one");
	put64(&g, task_offset(4) + AT_TASKS + 8, prev4);
	put32(&g, task_offset(4) + AT_PID, 3);
	put32(&g, task_offset(4) + AT_TGID, 3);
	expect_inconsistent(&g, "a pid twice");
	drop(&g);
}

static void verify_finds(void)
{
	char why[128];
	struct task_list l;
	struct image img;
	struct kernel k;
	struct guest g;

	build(&g, 4, 0);
	CHECK(look(&g, &k, &l) == KERNEL_OK);
	MUST(image_open(&img, g.path, 0));
	CHECK(tasks_verify(&img, &k, &l, why, sizeof(why)) == 0);
	/* process 3 leaves the list forwards, as a rootkit would do it badly */
	put64(&g, task_offset(2) + AT_TASKS, task_va(&g, 4) + AT_TASKS);
	l.count = 5;
	memmove(&l.task[2], &l.task[3], 2 * sizeof(l.task[0]));
	l.count = 4;
	CHECK(tasks_verify(&img, &k, &l, why, sizeof(why)) > 0);
	CHECK(!strcmp(why, "process 3 is listed backwards only"), "%s", why);
	tasks_free(&l);
	image_close(&img);
	drop(&g);
}

static void translation(void)
{
	struct image img;
	uint64_t phys;
	struct guest g;

	build(&g, 4, 0);
	MUST(image_open(&img, g.path, 0));
	CHECK(translate(&img, INIT_PGD, 4, linear_va(&g, 0x345678), &phys) && phys == 0x345678);
	/* 4 KiB pages */
	map(&g, INIT_PGD, 0x1234567000, 0x89a000, false);
	CHECK(translate(&img, INIT_PGD, 4, 0x1234567abc, &phys) && phys == 0x89aabc);
	CHECK(!translate(&img, INIT_PGD, 4, 0x1234568000, &phys));
	/* 1 GiB pages */
	put64(&g, KERNEL + 0x3000, (KERNEL + 0x4000) | 0x63);
	put64(&g, KERNEL + 0x4000 + 8, 0x40000000 | 0xe3);
	CHECK(translate(&img, KERNEL + 0x3000, 4, 0x7fffffff, &phys) && phys == 0x7fffffff);
	/* a table that leads to itself ends after as many steps as there are levels */
	put64(&g, KERNEL + 0x3000, (KERNEL + 0x3000) | 0x63);
	CHECK(translate(&img, KERNEL + 0x3000, 5, 0x123, &phys) && phys == KERNEL + 0x3123);
	/* outside RAM */
	put64(&g, KERNEL + 0x3000, IMAGE_BYTES | 0x63);
	CHECK(!translate(&img, KERNEL + 0x3000, 4, 0, &phys));
	CHECK(!image_read(&img, IMAGE_BYTES - 1, &phys, 2));
	CHECK(!image_read(&img, UINT64_MAX, &phys, 2));
	CHECK(!phys_read(&img, UINT64_MAX - 3, &phys, 8));
	image_close(&img);
	drop(&g);
}

/* The entry of a large page of the image, to change its rights. */
static uint64_t large_entry(struct guest *g, uint64_t at)
{
	uint64_t table = g->pgd, va = image_va(at);
	int level;

	for (level = g->levels; level > 2; level--)
		table = get64(g, table + ((va >> (12 + 9 * (level - 1))) & 511) * 8) & 0xffffffffff000;
	return table + ((va >> 21) & 511) * 8;
}

static bool address_is(struct image *img, struct kernel *k, uint64_t pgd, uint64_t va, uint64_t offset)
{
	struct places p = {};

	return places_address(img, k, pgd, 1, va, &p) && p.offset == offset;
}

static void check_places(struct guest *g)
{
	const uint64_t executable = ~(1ull << 63), read_only = ~2ull;
	struct places p = {};
	struct task_list l;
	struct image img;
	struct kernel k;
	uint64_t entry, small;

	if (!CHECK(look(g, &k, &l) == KERNEL_OK))
		return;
	MUST(image_open(&img, g->path, g->hole) ? -1 : 0);
	/* an image that is data only, or writable code, has no code to name */
	CHECK(!places_text(&img, &k, &p) && !p.texts);
	entry = large_entry(g, KERNEL + MIB(2));
	put64(g, entry, get64(g, entry) & executable);
	CHECK(!places_text(&img, &k, &p));
	put64(g, entry, get64(g, entry) & read_only);
	CHECK(places_text(&img, &k, &p) && p.texts == 1, "%zu", p.texts);
	CHECK(p.text[0].va == image_va(KERNEL + MIB(2)) && p.text[0].offset == KERNEL + MIB(2) &&
	      p.text[0].bytes == MIB(2), "%#lx", (long)p.text[0].offset);
	/* the next pages, small ones, belong to it; one with a gap does not */
	map(g, g->pgd, image_va(KERNEL + MIB(4)), phys_of(g, KERNEL + MIB(4)), false);
	small = g->next_table - 4096 + ((image_va(KERNEL + MIB(4)) >> 12) & 511) * 8;
	put64(g, small, phys_of(g, KERNEL + MIB(4)) | 0x61);
	put64(g, small + 16, phys_of(g, KERNEL + MIB(4) + 8192) | 0x61);
	/* code elsewhere, mapped beside the image's place, is not the image */
	put64(g, small + 24, phys_of(g, KERNEL) | 0x61);
	CHECK(places_text(&img, &k, &p) && p.texts == 2, "%zu", p.texts);
	CHECK(p.text[0].bytes == MIB(2) + 4096, "%#lx", (long)p.text[0].bytes);
	CHECK(p.text[1].offset == KERNEL + MIB(4) + 8192 && p.text[1].bytes == 4096);
	CHECK(kernel_text(&img, &k, p.text, 1) == 1 && p.text[0].bytes == MIB(2) + 4096);

	/* addresses: of the kernel, and of a process by its own tables */
	CHECK(address_is(&img, &k, k.pgd, image_va(BTF), BTF));
	CHECK(address_is(&img, &k, k.pgd, linear_va(g, USER_PAGE), USER_PAGE));
	CHECK(l.count == 5 && l.task[0].pgd && !l.task[1].pgd);
	CHECK(address_is(&img, &k, l.task[0].pgd, USER_VA + 0x123, USER_PAGE + 0x123));
	CHECK(!address_is(&img, &k, l.task[0].pgd, USER_VA + 0x123, USER_PAGE));
	CHECK(!places_address(&img, &k, k.pgd, 0, USER_VA, &p));
	CHECK(tasks_with_pid(&l, 5) == &l.task[4] && !tasks_with_pid(&l, 6) && !tasks_with_pid(&l, 0));
	tasks_free(&l);
	image_close(&img);
}

static void places(void)
{
	struct guest g;

	build(&g, 4, 0);
	check_places(&g);
	drop(&g);
	build(&g, 5, 0);
	check_places(&g);
	drop(&g);
}

/* The memory goes away in the middle: an error, no SIGBUS. */
static void detached(void)
{
	struct image img;
	struct kernel k;
	struct guest g;
	uint8_t byte;

	build(&g, 4, 0);
	MUST(image_open(&img, g.path, 0));
	MUST(ftruncate(g.fd, 0));
	CHECK(kernel_find(&img, &k) == KERNEL_LOST);
	CHECK(img.lost);
	CHECK(!image_read(&img, 0, &byte, 1));
	image_close(&img);
	CHECK(image_open(&img, g.path, 0) == -ENODATA);
	CHECK(image_open(&img, "/nonexistent", 0) == -ENOENT);
	drop(&g);
}

static void small_things(void)
{
	char text[12];
	uint64_t v;

	CHECK(parse_size("2G", &v) && v == 2ull << 30);
	CHECK(parse_size("0x10k", &v) && v == 16384);
	CHECK(!parse_size("", &v) && !parse_size("-1", &v) && !parse_size("1x", &v));
	CHECK(!parse_size("18446744073709551615k", &v) && !parse_size("18446744073709551616", &v));
	printable(text, sizeof(text), "ab\x80" "cdefghij", 11);
	CHECK(!strcmp(text, "ab\\x80cdefg"), "%s", text);
	printable(text, 5, "\xff\xff", 2);
	CHECK(!strcmp(text, "\\xff") || !strcmp(text, ""), "%s", text);
}

int main(void)
{
	static const struct ktap_test tests[] = {
		{ "four_levels", four_levels },
		{ "five_levels", five_levels },
		{ "hole_below_4g", hole_below_4g },
		{ "borrowed_mm", borrowed_mm },
		{ "nothing_there", nothing_there },
		{ "decoys", decoys },
		{ "truncated_btf", truncated_btf },
		{ "damaged_btf", damaged_btf },
		{ "damaged_header", damaged_header },
		{ "damaged_memory", damaged_memory },
		{ "bad_lists", bad_lists },
		{ "verify_finds", verify_finds },
		{ "translation", translation },
		{ "places", places },
		{ "detached", detached },
		{ "small_things", small_things },
	};

	return KTAP_RUN(tests);
}
