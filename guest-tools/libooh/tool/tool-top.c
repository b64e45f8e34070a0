// SPDX-License-Identifier: GPL-2.0
/* ooh top: several processes, live. ooh caps: what works here. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tool.h"

#define MOST_TARGETS	64
#define PAGE		4096.0
#define CLEAR_SCREEN	"\033[H\033[2J"

struct top {
	struct target t[MOST_TARGETS];
	int n;
};

static void add(struct top *top, int pid)
{
	int i, ret;

	for (i = 0; i < top->n; i++)
		if (top->t[i].pid == pid)
			return;
	if (pid == getpid() || top->n == MOST_TARGETS)
		return;
	ret = target_open(&top->t[top->n], pid);
	if (ret)
		fail(ret, "process %d", pid);
	else
		top->n++;
}

static int more_first(const void *a, const void *b)
{
	const struct target *x = a, *y = b;

	return x->pages < y->pages ? 1 : x->pages > y->pages ? -1 : x->pid - y->pid;
}

/* One epoch of each; those that have ended go. */
static void fetch_all(struct top *top)
{
	int i, ret;

	for (i = 0; i < top->n; i++) {
		ret = target_fetch(&top->t[i]);
		if (!ret && !(top->t[i].flags & OOH_EPOCH_LAST))
			continue;
		if (ret && ret != -ESRCH)
			fail(ret, "process %d", top->t[i].pid);
		target_close(&top->t[i]);
		top->t[i--] = top->t[--top->n];
	}
	qsort(top->t, top->n, sizeof(top->t[0]), more_first);
}

static void say_table(const struct top *top)
{
	int i;

	if (isatty(STDOUT_FILENO))
		fputs(CLEAR_SCREEN, stdout);
	printf("    PID NAME             BACKEND         PAGES    PAGES/S      MB/S\n");
	for (i = 0; i < top->n; i++) {
		const struct target *t = &top->t[i];
		double rate = t->seconds > 0 ? t->pages / t->seconds : 0;

		printf("%7d %-16s %-10s %10" PRIu64 " %10.0f %9.2f\n", t->pid, t->name,
		       ooh_backend_name(ooh_backend(t->ooh)), t->pages, rate, rate * PAGE / 1e6);
	}
	fflush(stdout);
}

static void say(const struct top *top)
{
	int i;

	if (opt.format == FORMAT_TEXT) {
		say_table(top);
		return;
	}
	for (i = 0; i < top->n; i++)
		say_epoch(&top->t[i]);
}

int cmd_top(int argc, char **argv)
{
	uint64_t left = opt.count;
	struct top *top;
	int i, n;

	if (!argc || opt.format == FORMAT_CSV)
		return bad_usage("top wants processes, and has no CSV");
	for (i = 0; i < argc; i++)
		if (atoi(argv[i]) <= 0 || argv[i][strspn(argv[i], "0123456789")])
			return bad_usage("'%s' is no PID", argv[i]);
	top = calloc(1, sizeof(*top));
	if (!top)
		return fail(-ENOMEM, "top");
	/* By number only: to track a process may mean to stop it and to use it, which wants to be meant. */
	for (i = 0; i < argc; i++)
		add(top, atoi(argv[i]));
	n = top->n;
	say_to(NULL, false);
	while (top->n && sleep_until(top->t[0].since_ns + opt.interval * 1e9)) {
		fetch_all(top);
		say(top);
		if (left && !--left)
			break;
	}
	if (!n)
		fprintf(stderr, "ooh: nothing to show\n");
	for (i = 0; i < top->n; i++)
		target_close(&top->t[i]);
	free(top);
	return n ? EXIT_OK : EXIT_ENDED;
}

static void say_caps_json(const struct ooh_capabilities *c)
{
	json_object *j = json_object_new_object(), *list = json_object_new_array();
	int i;

	json_object_object_add(j, "best", json_object_new_string(ooh_backend_name(c->best)));
	json_object_object_add(j, "module_abi", json_object_new_int(c->module_abi));
	for (i = OOH_AUTO + 1; i < OOH_BACKENDS; i++) {
		json_object *b = json_object_new_object();

		json_object_object_add(b, "backend", json_object_new_string(ooh_backend_name(i)));
		json_object_object_add(b, "works", json_object_new_boolean(c->backends >> i & 1));
		if (!(c->backends >> i & 1))
			json_object_object_add(b, "why_not", json_object_new_string(c->why_not[i]));
		json_object_array_add(list, b);
	}
	json_object_object_add(j, "backends", list);
	printf("%s\n", json_object_to_json_string_ext(j, JSON_C_TO_STRING_PLAIN));
	json_object_put(j);
}

int cmd_caps(void)
{
	struct ooh_capabilities c;
	int i, ret;

	ret = ooh_capabilities(opt.pid, &c);
	if (ret)
		return fail(ret, "capabilities");
	if (opt.format == FORMAT_JSON) {
		say_caps_json(&c);
		return c.best ? EXIT_OK : EXIT_NONE;
	}
	for (i = OOH_AUTO + 1; i < OOH_BACKENDS; i++)
		printf("%-10s  %s%s\n", ooh_backend_name(i), c.backends >> i & 1 ? "yes" : "no, ", c.why_not[i]);
	return c.best ? EXIT_OK : EXIT_NONE;
}
