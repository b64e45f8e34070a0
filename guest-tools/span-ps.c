// SPDX-License-Identifier: GPL-2.0
/*
 * span-ps: list the processes of a Linux guest from its raw memory.
 */
#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <json-c/json.h>

#include "places.h"
#include "tasks.h"
#include "units.h"

enum {
	EXIT_OK = 0,
	EXIT_USAGE = 1,
	EXIT_OPEN = 2,
	EXIT_NO_KERNEL = 3,
	EXIT_INCONSISTENT = 4,
	EXIT_LOST = 5,
	EXIT_NOT_THERE = 6,
};

#define VERIFY_TRIES 10

struct options {
	const char *path;
	const char *hidden_from;
	uint64_t below_4g;
	unsigned int attempts;
	bool json, verify, verbose, user_only;
	bool kernel_text;
	uint64_t vaddr;
	bool has_vaddr;
	uint32_t pid;		/* 0: the kernel */
};

static const char usage_text[] =
	"usage: span-ps [options] MEMORY\n"
	"List the processes of a Linux guest from its raw memory: /dev/spanN of an\n"
	"attached Span guest, or a file. Needs nothing from outside that memory.\n"
	"\n"
	"  -f, --hidden-from FILE  compare with a list of pids (the guest's own ps) and\n"
	"                          mark processes that it lacks; - is standard input\n"
	"  -u, --user              leave kernel threads out\n"
	"  -j, --json              JSON\n"
	"  -c, --verify            check the list backwards and every parent\n"
	"  -4, --below-4g SIZE     RAM below the hole at 4 GiB (default: all of it)\n"
	"  -t, --attempts N        passes for a consistent list (default 50)\n"
	"  -v, --verbose           say how the kernel was found\n"
	"  -h, --help\n"
	"instead of a list, pages of the memory as ranges for spanctl:\n"
	"  -T, --kernel-text       of the kernel's code\n"
	"  -a, --vaddr ADDRESS     the one at that virtual address, of the kernel or of\n"
	"  -p, --pid PID           that process\n"
	"\n"
	"exit status: 0 listed; 1 usage; 2 cannot open; 3 no kernel found; 4 list\n"
	"inconsistent; 5 the guest was detached meanwhile; 6 nothing at that address\n";

struct pids {
	uint32_t *pid;
	size_t count;
};

static int compare_pids(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

static bool has_pid(const struct pids *p, uint32_t pid)
{
	return p->count && bsearch(&pid, p->pid, p->count, sizeof(pid), compare_pids);
}

/* Which column of ps's output is the pid? Without a heading, the first. */
static int heading(const char *line, int *column)
{
	char word[64];
	int n, i = 0;

	while (sscanf(line, "%63s%n", word, &n) == 1) {
		if (!strcmp(word, "PID")) {
			*column = i;
			return 1;
		}
		line += n;
		i++;
	}
	return 0;
}

static bool number_in(const char *line, int column, uint32_t *pid)
{
	char word[64], *end;
	int n;

	do {
		if (sscanf(line, "%63s%n", word, &n) != 1)
			return false;
		line += n;
	} while (column--);
	*pid = strtoul(word, &end, 10);
	return isdigit((unsigned char)word[0]) && !*end;
}

static int read_pids(const char *path, struct pids *p)
{
	FILE *f = strcmp(path, "-") ? fopen(path, "r") : stdin;
	size_t room = 0, len = 0;
	char *line = NULL;
	int column = 0;
	uint32_t pid;

	memset(p, 0, sizeof(*p));
	if (!f)
		return -errno;
	while (getline(&line, &len, f) > 0) {
		if (!p->count && heading(line, &column))
			continue;
		if (!number_in(line, column, &pid))
			continue;
		if (p->count == room) {
			uint32_t *grown;

			room = room ? room * 2 : 256;
			grown = realloc(p->pid, room * sizeof(pid));
			if (!grown)
				break;
			p->pid = grown;
		}
		p->pid[p->count++] = pid;
	}
	free(line);
	if (f != stdin)
		fclose(f);
	if (!p->count)
		return -ENODATA;
	qsort(p->pid, p->count, sizeof(pid), compare_pids);
	return 0;
}

static size_t mark_hidden(struct task_list *list, const struct pids *p)
{
	size_t i, n = 0;

	for (i = 0; i < list->count; i++) {
		list->task[i].hidden = !has_pid(p, list->task[i].pid);
		n += list->task[i].hidden;
	}
	return n;
}

static void print_text(const struct options *o, const struct kernel *k,
		       const struct task_list *list, size_t hidden)
{
	size_t i;

	if (o->verbose && o->hidden_from)
		fprintf(stderr, "hidden       %zu of %zu processes\n", hidden, list->count);
	(void)k;
	printf("%7s %7s %6s S %-16s %s\n", "PID", "PPID", "UID", "COMM",
	       o->hidden_from ? "        COMMAND" : "COMMAND");
	for (i = 0; i < list->count; i++) {
		const struct task *t = &list->task[i];

		if (o->user_only && t->kernel_thread)
			continue;
		printf("%7u %7u %6u %c %-16s ", t->pid, t->ppid, t->uid, t->state, t->comm);
		if (o->hidden_from)
			printf("%-7s ", t->hidden ? "HIDDEN" : "");
		if (t->args[0])
			printf("%s\n", t->args);
		else
			printf("[%s]\n", t->comm);
	}
}

static json_object *hex(uint64_t v)
{
	char text[20];

	snprintf(text, sizeof(text), "0x%" PRIx64, v);
	return json_object_new_string(text);
}

static json_object *task_json(const struct options *o, const struct task *t)
{
	json_object *j = json_object_new_object();

	json_object_object_add(j, "pid", json_object_new_int64(t->pid));
	json_object_object_add(j, "ppid", json_object_new_int64(t->ppid));
	json_object_object_add(j, "uid", json_object_new_int64(t->uid));
	json_object_object_add(j, "state", json_object_new_string_len(&t->state, 1));
	json_object_object_add(j, "comm", json_object_new_string(t->comm));
	json_object_object_add(j, "args", t->args[0] ? json_object_new_string(t->args) : NULL);
	json_object_object_add(j, "kernel_thread", json_object_new_boolean(t->kernel_thread));
	if (o->hidden_from)
		json_object_object_add(j, "hidden", json_object_new_boolean(t->hidden));
	return j;
}

static void print_json(const struct options *o, const struct kernel *k,
		       const struct task_list *list, size_t hidden)
{
	json_object *top = json_object_new_object(), *kernel = json_object_new_object();
	json_object *tasks = json_object_new_array();
	size_t i;

	json_object_object_add(kernel, "release", json_object_new_string(k->release));
	json_object_object_add(kernel, "btf_offset", hex(k->btf_offset));
	json_object_object_add(kernel, "btf_bytes", json_object_new_int64(k->btf_bytes));
	json_object_object_add(kernel, "init_task", hex(k->init_task));
	json_object_object_add(kernel, "init_task_phys", hex(k->init_task_phys));
	json_object_object_add(kernel, "page_table", hex(k->pgd));
	json_object_object_add(kernel, "levels", json_object_new_int(k->levels));
	json_object_object_add(top, "kernel", kernel);
	json_object_object_add(top, "passes", json_object_new_int64(list->attempts));
	json_object_object_add(top, "consistent", json_object_new_boolean(list->consistent));
	if (o->hidden_from)
		json_object_object_add(top, "hidden", json_object_new_int64(hidden));
	for (i = 0; i < list->count; i++)
		if (!o->user_only || !list->task[i].kernel_thread)
			json_object_array_add(tasks, task_json(o, &list->task[i]));
	json_object_object_add(top, "processes", tasks);
	puts(json_object_to_json_string_ext(top, JSON_C_TO_STRING_PRETTY));
	json_object_put(top);
}

static void describe(const struct image *img, const struct kernel *k, double seconds)
{
	fprintf(stderr,
		"memory       %" PRIu64 " MiB\n"
		"kernel       %s, found in %.2f s\n"
		"BTF          %" PRIu64 " bytes at offset 0x%" PRIx64 "\n"
		"init_task    0x%" PRIx64 " at guest-physical 0x%" PRIx64 "\n"
		"page table   0x%" PRIx64 ", %d levels, %s\n",
		img->size >> 20, k->release[0] ? k->release : "of unknown version", seconds,
		k->btf_bytes, k->btf_offset, k->init_task, k->init_task_phys, k->pgd,
		k->levels, k->pgd_from_init_mm ? "named by init_mm" : "found in memory");
}

/* A guest that runs may change between the two looks: then look again, a few times. */
static int verify(struct image *img, const struct kernel *k, unsigned int attempts,
		  struct task_list *list)
{
	unsigned int bad, tries;
	char why[128] = "";

	for (tries = 0; tries < VERIFY_TRIES; tries++) {
		bad = tasks_verify(img, k, list, why, sizeof(why));
		if (!bad)
			break;
		tasks_free(list);
		if (!tasks_list(img, k, attempts, list))
			break;
	}
	if (bad) {
		fprintf(stderr, "span-ps: verify: %u disagreements, first: %s\n", bad, why);
		return EXIT_INCONSISTENT;
	}
	fprintf(stderr, "verified: %zu processes, the same backwards, every parent listed\n",
		list->count);
	return EXIT_OK;
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static int find_kernel(const struct options *o, struct image *img, struct kernel *k)
{
	double start = now();
	enum kernel_error err;

	err = kernel_find(img, k);
	if (err) {
		fprintf(stderr, "span-ps: %s: %s\n", o->path, kernel_strerror(err));
		return err == KERNEL_LOST ? EXIT_LOST : EXIT_NO_KERNEL;
	}
	if (o->verbose)
		describe(img, k, now() - start);
	return EXIT_OK;
}

/* The page tables to look through for --vaddr. */
static int find_tables(const struct options *o, struct image *img, const struct kernel *k,
		       uint64_t *pgd)
{
	const struct task *t;
	struct task_list list;
	int ret = EXIT_OK;

	*pgd = k->pgd;
	if (!o->pid)
		return EXIT_OK;
	tasks_list(img, k, o->attempts, &list);
	t = tasks_with_pid(&list, o->pid);
	if (!t) {
		fprintf(stderr, "span-ps: %s: no process %u%s\n", o->path, o->pid,
			list.consistent ? "" : " in an inconsistent list");
		ret = list.consistent ? EXIT_NOT_THERE : EXIT_INCONSISTENT;
	} else if (!t->pgd) {
		fprintf(stderr, "span-ps: %s: process %u has no memory of its own\n", o->path, o->pid);
		ret = EXIT_NOT_THERE;
	} else {
		*pgd = t->pgd;
	}
	tasks_free(&list);
	return ret;
}

static int show_places(const struct options *o, struct image *img)
{
	struct places p = {};
	uint64_t pgd = 0;
	struct kernel k;
	int ret;

	ret = find_kernel(o, img, &k);
	if (!ret && o->has_vaddr)
		ret = find_tables(o, img, &k, &pgd);
	if (ret)
		return ret;
	if (o->kernel_text && !places_text(img, &k, &p)) {
		fprintf(stderr, "span-ps: %s: the kernel has no page of code that is not writable\n", o->path);
		ret = EXIT_NOT_THERE;
	}
	if (o->has_vaddr && !places_address(img, &k, pgd, o->pid, o->vaddr, &p)) {
		fprintf(stderr, "span-ps: %s: nothing at 0x%" PRIx64 " in memory\n", o->path, o->vaddr);
		ret = EXIT_NOT_THERE;
	}
	if (img->lost) {
		fprintf(stderr, "span-ps: %s: %s\n", o->path, kernel_strerror(KERNEL_LOST));
		return EXIT_LOST;
	}
	places_print(&p, o->json);
	return ret;
}

static int list_processes(const struct options *o, struct image *img, const struct pids *known)
{
	struct task_list list;
	struct kernel k;
	size_t hidden = 0;
	int ret;

	ret = find_kernel(o, img, &k);
	if (ret)
		return ret;
	tasks_list(img, &k, o->attempts, &list);
	if (img->lost) {
		fprintf(stderr, "span-ps: %s: %s\n", o->path, kernel_strerror(KERNEL_LOST));
		ret = EXIT_LOST;
		goto free_list;
	}
	if (!list.consistent) {
		fprintf(stderr, "span-ps: no consistent list in %u passes; the last one saw %zu processes\n",
			list.attempts, list.count);
		ret = EXIT_INCONSISTENT;
	}
	if (o->verify && !ret)
		ret = verify(img, &k, o->attempts, &list);
	if (known)
		hidden = mark_hidden(&list, known);
	(o->json ? print_json : print_text)(o, &k, &list, hidden);
free_list:
	tasks_free(&list);
	return ret;
}

static int parse(int argc, char **argv, struct options *o)
{
	static const struct option longs[] = {
		{ "hidden-from", required_argument, NULL, 'f' },
		{ "below-4g", required_argument, NULL, '4' },
		{ "attempts", required_argument, NULL, 't' },
		{ "user", no_argument, NULL, 'u' },
		{ "json", no_argument, NULL, 'j' },
		{ "verify", no_argument, NULL, 'c' },
		{ "verbose", no_argument, NULL, 'v' },
		{ "kernel-text", no_argument, NULL, 'T' },
		{ "vaddr", required_argument, NULL, 'a' },
		{ "pid", required_argument, NULL, 'p' },
		{ "help", no_argument, NULL, 'h' },
		{ }
	};
	uint64_t n;
	int c;

	*o = (struct options){ .attempts = 50 };
	while ((c = getopt_long(argc, argv, "f:4:t:ujcvTa:p:h", longs, NULL)) != -1) {
		switch (c) {
		case 'f':
			o->hidden_from = optarg;
			break;
		case '4':
			if (!parse_size(optarg, &o->below_4g) || o->below_4g % 4096 ||
			    o->below_4g > (4ull << 30)) {
				fprintf(stderr, "span-ps: bad size '%s'\n", optarg);
				return EXIT_USAGE;
			}
			break;
		case 't':
			if (!parse_size(optarg, &n) || !n || n > 1000000) {
				fprintf(stderr, "span-ps: bad number '%s'\n", optarg);
				return EXIT_USAGE;
			}
			o->attempts = n;
			break;
		case 'u':
			o->user_only = true;
			break;
		case 'j':
			o->json = true;
			break;
		case 'c':
			o->verify = true;
			break;
		case 'v':
			o->verbose = true;
			break;
		case 'T':
			o->kernel_text = true;
			break;
		case 'a':
			if (!parse_size(optarg, &o->vaddr)) {
				fprintf(stderr, "span-ps: bad address '%s'\n", optarg);
				return EXIT_USAGE;
			}
			o->has_vaddr = true;
			break;
		case 'p':
			if (!parse_size(optarg, &n) || !n || n > UINT32_MAX) {
				fprintf(stderr, "span-ps: bad process id '%s'\n", optarg);
				return EXIT_USAGE;
			}
			o->pid = n;
			break;
		case 'h':
			fputs(usage_text, stdout);
			exit(EXIT_OK);
		default:
			fputs(usage_text, stderr);
			return EXIT_USAGE;
		}
	}
	if (optind + 1 != argc) {
		fputs(usage_text, stderr);
		return EXIT_USAGE;
	}
	if (o->pid && !o->has_vaddr) {
		fprintf(stderr, "span-ps: --pid needs --vaddr\n");
		return EXIT_USAGE;
	}
	if ((o->kernel_text || o->has_vaddr) && (o->hidden_from || o->verify || o->user_only)) {
		fprintf(stderr, "span-ps: either a list of processes or pages\n");
		return EXIT_USAGE;
	}
	o->path = argv[optind];
	return -1;
}

int main(int argc, char **argv)
{
	struct pids known = {};
	struct options o;
	struct image img;
	int ret;

	ret = parse(argc, argv, &o);
	if (ret >= 0)
		return ret;
	if (o.hidden_from) {
		ret = read_pids(o.hidden_from, &known);
		if (ret) {
			fprintf(stderr, "span-ps: %s: %s\n", o.hidden_from,
				ret == -ENODATA ? "no pids in it" : strerror(-ret));
			return EXIT_OPEN;
		}
	}
	ret = image_open(&img, o.path, o.below_4g);
	if (ret) {
		fprintf(stderr, "span-ps: %s: %s\n", o.path,
			ret == -ENODEV ? "no guest is attached" : strerror(-ret));
		free(known.pid);
		return EXIT_OPEN;
	}
	if (o.kernel_text || o.has_vaddr)
		ret = show_places(&o, &img);
	else
		ret = list_processes(&o, &img, o.hidden_from ? &known : NULL);
	image_close(&img);
	free(known.pid);
	if (fflush(stdout) || ferror(stdout))
		return EXIT_OPEN;
	return ret;
}
