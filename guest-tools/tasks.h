/* SPDX-License-Identifier: GPL-2.0 */
#ifndef TASKS_H
#define TASKS_H

#include "kernel.h"

#define MAX_ARGS 256

struct task {
	uint64_t va;
	uint64_t pgd;			/* guest-physical; 0: no memory of its own */
	uint32_t pid, ppid, uid;
	char state;
	bool kernel_thread;
	bool hidden;			/* set by the caller */
	char comm[MAX_COMM];		/* printable ASCII */
	char args[MAX_ARGS];		/* printable ASCII, "" if not readable */
};

struct task_list {
	struct task *task;
	size_t count;
	unsigned int attempts;
	bool consistent;
};

/*
 * List the processes; tries up to @attempts times for a pass in which the
 * list did not change under us. Returns false when no pass succeeded, with
 * what the last one saw.
 */
bool tasks_list(struct image *img, const struct kernel *k, unsigned int attempts,
		struct task_list *list);
void tasks_free(struct task_list *list);
/* NULL: not in the list. */
const struct task *tasks_with_pid(const struct task_list *list, uint32_t pid);

/*
 * The same processes backwards, and every parent among them? Returns the
 * number of disagreements and describes the first.
 */
unsigned int tasks_verify(struct image *img, const struct kernel *k,
			  const struct task_list *list, char *why, size_t len);

/* Replace what could harm a terminal. */
void printable(char *dst, size_t dst_len, const char *src, size_t src_len);

#endif
