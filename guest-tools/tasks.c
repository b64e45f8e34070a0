// SPDX-License-Identifier: GPL-2.0
/*
 * The process list of a kernel that goes on running while it is read.
 *
 * Each element must point back to the one that led to it. A list whose every
 * link is mutual cannot contain a cycle that misses the head, so a pass ends;
 * a bound on the count ends it for a guest that changes the list as we read.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tasks.h"

#define PF_KTHREAD	0x00200000u
#define MAX_PID		(4u << 20)	/* PID_MAX_LIMIT on 64 bits */
#define PAUSE_US	5000

void printable(char *dst, size_t dst_len, const char *src, size_t src_len)
{
	size_t n = 0, i;

	for (i = 0; i < src_len && src[i]; i++) {
		unsigned char c = src[i];

		if (c >= 0x20 && c < 0x7f) {
			if (n + 1 >= dst_len)
				break;
			dst[n++] = c;
			continue;
		}
		if (n + 4 >= dst_len)
			break;
		n += snprintf(dst + n, dst_len - n, "\\x%02x", c);
	}
	dst[n] = 0;
}

/* Bits as in the kernel's include/linux/sched.h; letters as in ps(1). */
static char state_letter(uint64_t state, uint32_t exit_state)
{
	if (exit_state & 0x20)
		return 'Z';
	if (exit_state & 0x10)
		return 'X';
	if ((state & 0x402) == 0x402)
		return 'I';	/* uninterruptible, but no load */
	if (state & 0x01)
		return 'S';
	if (state & 0x02)
		return 'D';
	if (state & 0x04)
		return 'T';
	if (state & 0x08)
		return 't';
	if (state & 0x40)
		return 'P';
	return 'R';
}

/* The root of a process's page tables, 0 if it cannot be found. */
static uint64_t pgd_of(struct image *img, const struct kernel *k, uint64_t mm)
{
	uint64_t va, pgd;

	if (!kernel_read(img, k, mm + k->at.mm_pgd, &va, 8) ||
	    !translate(img, k->pgd, k->levels, va, &pgd))
		return 0;
	return pgd;
}

static void read_args(struct image *img, const struct kernel *k, uint64_t mm, struct task *t)
{
	uint64_t start, end;
	char raw[MAX_ARGS];
	size_t len, got, i;

	if (!t->pgd ||
	    !kernel_read(img, k, mm + k->at.mm_arg_start, &start, 8) ||
	    !kernel_read(img, k, mm + k->at.mm_arg_end, &end, 8))
		return;
	if (end <= start)
		return;
	len = end - start < sizeof(raw) ? end - start : sizeof(raw);
	/* a page may be missing: take what comes before it */
	for (got = 0; got < len; got += i) {
		i = 4096 - ((start + got) & 4095);
		if (i > len - got)
			i = len - got;
		if (!virt_read(img, t->pgd, k->levels, start + got, raw + got, i))
			break;
	}
	while (got && !raw[got - 1])
		got--;
	for (i = 0; i < got; i++)
		if (!raw[i])
			raw[i] = ' ';
	printable(t->args, sizeof(t->args), raw, got);
}

/* One element of the list; false when it cannot be a live process. */
static bool read_task(struct image *img, const struct kernel *k, uint64_t va,
		      uint8_t *raw, struct task *t)
{
	const struct layout *at = &k->at;
	uint64_t cred, mm, state = 0;

	memset(t, 0, sizeof(*t));
	if (!kernel_read(img, k, va, raw, at->task_bytes))
		return false;
	t->va = va;
	t->pid = load32(raw + at->pid);
	/* the list holds thread group leaders */
	if (!t->pid || t->pid > MAX_PID || t->pid != load32(raw + at->tgid) ||
	    load64(raw + at->group_leader) != va)
		return false;
	if (!kernel_read(img, k, load64(raw + at->real_parent) + at->tgid, &t->ppid, 4))
		return false;
	cred = load64(raw + at->cred);
	if (!kernel_read(img, k, cred + at->cred_uid, &t->uid, 4))
		return false;
	memcpy(&state, raw + at->state, at->state_bytes);
	t->state = state_letter(state, load32(raw + at->exit_state));
	t->kernel_thread = load32(raw + at->flags) & PF_KTHREAD;
	printable(t->comm, sizeof(t->comm), (char *)raw + at->comm, at->comm_len);
	mm = load64(raw + at->mm);
	if (mm && !t->kernel_thread) {
		t->pgd = pgd_of(img, k, mm);
		read_args(img, k, mm, t);
	}
	return true;
}

static bool append(struct task_list *list, size_t *room, const struct task *t)
{
	struct task *grown;

	if (list->count == *room) {
		*room = *room ? *room * 2 : 128;
		grown = realloc(list->task, *room * sizeof(*t));
		if (!grown)
			return false;
		list->task = grown;
	}
	list->task[list->count++] = *t;
	return true;
}

static int by_pid(const void *a, const void *b)
{
	const struct task *x = a, *y = b;

	return x->pid < y->pid ? -1 : x->pid > y->pid;
}

static bool pids_unique(const struct task_list *list)
{
	size_t i;

	for (i = 1; i < list->count; i++)
		if (list->task[i].pid == list->task[i - 1].pid)
			return false;
	return true;
}

/* Every process has a structure of its own, so memory bounds their number. */
static size_t most_tasks(const struct image *img, const struct kernel *k)
{
	return img->size / k->at.task_bytes + 1;
}

static bool one_pass(struct image *img, const struct kernel *k, uint8_t *raw,
		     struct task_list *list)
{
	const struct layout *at = &k->at;
	uint64_t head = k->init_task + at->tasks, cur = head, next;
	size_t room = 0, most = most_tasks(img, k);
	struct task t;

	free(list->task);
	list->task = NULL;
	list->count = 0;
	if (!kernel_read(img, k, head + at->list_next, &next, 8))
		return false;
	while (next != head) {
		if (list->count >= most ||
		    !read_task(img, k, next - at->tasks, raw, &t) ||
		    load64(raw + at->tasks + at->list_prev) != cur ||
		    !append(list, &room, &t))
			return false;
		cur = next;
		next = load64(raw + at->tasks + at->list_next);
	}
	/* the way round must be closed as well */
	if (!kernel_read(img, k, head + at->list_prev, &next, 8) || next != cur)
		return false;
	qsort(list->task, list->count, sizeof(t), by_pid);
	return pids_unique(list);
}

bool tasks_list(struct image *img, const struct kernel *k, unsigned int attempts,
		struct task_list *list)
{
	uint8_t *raw = malloc(k->at.task_bytes);

	memset(list, 0, sizeof(*list));
	if (!raw)
		return false;
	while (list->attempts < attempts && !img->lost) {
		if (list->attempts++)
			usleep(PAUSE_US);
		list->consistent = one_pass(img, k, raw, list);
		if (list->consistent)
			break;
	}
	free(raw);
	return list->consistent;
}

void tasks_free(struct task_list *list)
{
	free(list->task);
	memset(list, 0, sizeof(*list));
}

const struct task *tasks_with_pid(const struct task_list *list, uint32_t pid)
{
	struct task key = { .pid = pid };

	return bsearch(&key, list->task, list->count, sizeof(key), by_pid);
}

static unsigned int complain(unsigned int n, char *why, size_t len, uint32_t pid, const char *what)
{
	if (!n)
		snprintf(why, len, "process %u %s", pid, what);
	return n + 1;
}

unsigned int tasks_verify(struct image *img, const struct kernel *k,
			  const struct task_list *list, char *why, size_t len)
{
	const struct layout *at = &k->at;
	uint64_t head = k->init_task + at->tasks, cur = head;
	size_t seen = 0, i, most = most_tasks(img, k);
	const struct task *t;
	unsigned int bad = 0;
	uint32_t pid;

	for (;; seen++) {
		if (!kernel_read(img, k, cur + at->list_prev, &cur, 8))
			return complain(bad, why, len, 0, "ends the list read backwards");
		if (cur == head || seen > most)
			break;
		if (!kernel_read(img, k, cur - at->tasks + at->pid, &pid, 4))
			return complain(bad, why, len, 0, "is not readable backwards");
		t = tasks_with_pid(list, pid);
		if (!t || t->va != cur - at->tasks)
			bad = complain(bad, why, len, pid, "is listed backwards only");
	}
	if (seen != list->count)
		bad = complain(bad, why, len, 0, "count differs backwards");
	for (i = 0; i < list->count; i++) {
		t = &list->task[i];
		if (t->ppid && !tasks_with_pid(list, t->ppid))
			bad = complain(bad, why, len, t->pid, "has a parent that is not listed");
	}
	return bad;
}
