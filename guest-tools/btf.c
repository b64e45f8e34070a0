// SPDX-License-Identifier: GPL-2.0
/*
 * Member offsets out of a kernel's BTF. The bytes come from a guest and may be
 * made to harm: libbpf checks sizes and ids as it parses, the header is checked
 * before it (kernel.c), and every walk here has a bound.
 */
#include <string.h>

#include <stdarg.h>

#include <bpf/btf.h>
#include <bpf/libbpf.h>

#include "kernel.h"

#define MAX_NESTING	8	/* anonymous structs and unions in one another */
#define MAX_VISITS	20000	/* members looked at for one name */

struct member {
	uint32_t offset;
	uint32_t type;
};

static bool find_member(const struct btf *btf, uint32_t id, const char *name,
			struct member *found, int depth, int *visits)
{
	const struct btf_type *t = btf__type_by_id(btf, id);
	const struct btf_member *m;
	uint32_t i, bits;

	if (!t || !btf_is_composite(t) || depth > MAX_NESTING)
		return false;
	m = btf_members(t);
	for (i = 0; i < btf_vlen(t); i++, m++) {
		const char *n = btf__name_by_offset(btf, m->name_off);
		struct member inner;

		if (++*visits > MAX_VISITS || !n)
			return false;
		bits = btf_member_bit_offset(t, i);
		if (bits % 8 || bits / 8 >= MAX_TASK_BYTES)
			continue;
		if (*n) {
			if (strcmp(n, name) || btf_member_bitfield_size(t, i))
				continue;
			found->offset = bits / 8;
			found->type = m->type;
			return true;
		}
		if (!find_member(btf, m->type, name, &inner, depth + 1, visits))
			continue;
		found->offset = bits / 8 + inner.offset;
		found->type = inner.type;
		return found->offset < MAX_TASK_BYTES;
	}
	return false;
}

/* Offset of a member whose size is one of two. */
static bool member_of(const struct btf *btf, int id, const char *name, uint32_t *offset,
		      uint32_t size1, uint32_t size2, uint32_t *size)
{
	struct member m;
	int visits = 0;
	int64_t bytes;

	if (id <= 0 || !find_member(btf, id, name, &m, 0, &visits))
		return false;
	bytes = btf__resolve_size(btf, m.type);
	if (bytes != size1 && bytes != size2)
		return false;
	*offset = m.offset;
	if (size)
		*size = bytes;
	return true;
}

static bool pointer(const struct btf *btf, int id, const char *name, uint32_t *offset)
{
	return member_of(btf, id, name, offset, 8, 8, NULL);
}

static bool word(const struct btf *btf, int id, const char *name, uint32_t *offset)
{
	return member_of(btf, id, name, offset, 4, 4, NULL);
}

static void reach(struct layout *at, uint32_t offset, uint32_t bytes)
{
	if (at->task_bytes < offset + bytes)
		at->task_bytes = offset + bytes;
}

static bool task_layout(const struct btf *btf, struct layout *at)
{
	int task = btf__find_by_name_kind(btf, "task_struct", BTF_KIND_STRUCT);

	if (task < 0 ||
	    !member_of(btf, task, "tasks", &at->tasks, 16, 16, NULL) ||
	    !member_of(btf, task, "comm", &at->comm, 16, MAX_COMM, &at->comm_len) ||
	    !word(btf, task, "pid", &at->pid) ||
	    !word(btf, task, "tgid", &at->tgid) ||
	    !word(btf, task, "flags", &at->flags) ||
	    !word(btf, task, "exit_state", &at->exit_state) ||
	    !pointer(btf, task, "real_parent", &at->real_parent) ||
	    !pointer(btf, task, "group_leader", &at->group_leader) ||
	    !pointer(btf, task, "mm", &at->mm) ||
	    !pointer(btf, task, "active_mm", &at->active_mm) ||
	    !pointer(btf, task, "cred", &at->cred))
		return false;
	/* "state", a long, until 5.13 */
	if (!member_of(btf, task, "__state", &at->state, 4, 8, &at->state_bytes) &&
	    !member_of(btf, task, "state", &at->state, 4, 8, &at->state_bytes))
		return false;
	reach(at, at->tasks, 16);
	reach(at, at->comm, at->comm_len);
	reach(at, at->pid, 4);
	reach(at, at->tgid, 4);
	reach(at, at->flags, 4);
	reach(at, at->exit_state, 4);
	reach(at, at->real_parent, 8);
	reach(at, at->group_leader, 8);
	reach(at, at->mm, 8);
	reach(at, at->active_mm, 8);
	reach(at, at->cred, 8);
	reach(at, at->state, at->state_bytes);
	return at->task_bytes <= MAX_TASK_BYTES;
}

static bool other_layouts(const struct btf *btf, struct layout *at)
{
	int list = btf__find_by_name_kind(btf, "list_head", BTF_KIND_STRUCT);
	int cred = btf__find_by_name_kind(btf, "cred", BTF_KIND_STRUCT);
	int mm = btf__find_by_name_kind(btf, "mm_struct", BTF_KIND_STRUCT);

	return pointer(btf, list, "next", &at->list_next) &&
	       pointer(btf, list, "prev", &at->list_prev) &&
	       at->list_next <= 8 && at->list_prev <= 8 &&
	       word(btf, cred, "uid", &at->cred_uid) &&
	       pointer(btf, mm, "pgd", &at->mm_pgd) &&
	       pointer(btf, mm, "arg_start", &at->mm_arg_start) &&
	       pointer(btf, mm, "arg_end", &at->mm_arg_end);
}

static int silent(enum libbpf_print_level level, const char *format, va_list args)
{
	(void)level;
	(void)format;
	(void)args;
	return 0;
}

bool layout_from_btf(const void *data, uint32_t bytes, struct layout *at)
{
	struct btf *btf;
	bool ok;

	libbpf_set_print(silent);
	btf = btf__new(data, bytes);
	if (libbpf_get_error(btf))
		return false;
	memset(at, 0, sizeof(*at));
	ok = task_layout(btf, at) && other_layouts(btf, at);
	btf__free(btf);
	return ok;
}
