// SPDX-License-Identifier: GPL-2.0
/*
 * Probes: a frame comes into a page table of somebody.
 *
 * Nothing else tells of that: the mmu notifier is told of what goes. So the
 * functions of the reverse map are probed, which every fault, migration, swap-in,
 * collapse, KSM and userfaultfd call for the frame that they put in, with the
 * lock of the page table held; and the two ways in which pages change their
 * place and keep their frame: mremap and UFFDIO_MOVE.
 *
 * The probes are on while anything is tracked. Each is one test of a pointer
 * for an address space that nobody tracks.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/fprobe.h>
#include <linux/ftrace.h>
#include <linux/hugetlb.h>
#include <linux/mutex.h>
#include <linux/rmap.h>
#include <linux/userfaultfd_k.h>
#include <linux/workqueue.h>

#include "ooh.h"

#if !defined(CONFIG_DYNAMIC_FTRACE_WITH_ARGS) || !defined(CONFIG_FPROBE)
#error "this kernel cannot be probed: CONFIG_DYNAMIC_FTRACE_WITH_ARGS and CONFIG_FPROBE are needed"
#endif

/* What the probes believe of the functions' arguments. copy_vma() is private to mm/. */
static_assert(__same_type(folio_add_new_anon_rmap,
			  void (struct folio *, struct vm_area_struct *, unsigned long, rmap_t)));
static_assert(__same_type(folio_add_anon_rmap_ptes,
			  void (struct folio *, struct page *, int, struct vm_area_struct *,
				unsigned long, rmap_t)));
static_assert(__same_type(folio_add_anon_rmap_pmd,
			  void (struct folio *, struct page *, struct vm_area_struct *,
				unsigned long, rmap_t)));
static_assert(__same_type(folio_add_file_rmap_ptes,
			  void (struct folio *, struct page *, int, struct vm_area_struct *)));
static_assert(__same_type(folio_add_file_rmap_pmd,
			  void (struct folio *, struct page *, struct vm_area_struct *)));

static bool tracked(const struct vm_area_struct *vma)
{
	/* A tracked address space has our notifier; few others have one. */
	return mm_has_notifiers(vma->vm_mm);
}

static void came(struct vm_area_struct *vma, unsigned long addr, unsigned long pages)
{
	ooh_spaces_mark(vma->vm_mm, addr, addr + (pages << PAGE_SHIFT));
}

/* Where a page of a file is mapped follows from its place in the file. */
static void file_came(struct folio *folio, struct page *page, unsigned long pages,
		      struct vm_area_struct *vma)
{
	unsigned long offset = folio->index + folio_page_idx(folio, page);
	unsigned long first = offset - vma->vm_pgoff;

	if (vma->vm_file && folio->mapping == vma->vm_file->f_mapping &&
	    offset >= vma->vm_pgoff && first + pages <= vma_pages(vma))
		came(vma, vma->vm_start + (first << PAGE_SHIFT), pages);
	else
		/* A driver's page. */
		came(vma, vma->vm_start, vma_pages(vma));
}

#define ARG(n) ftrace_regs_get_argument(fregs, n)
#define HANDLER(name)									\
	static void name(unsigned long ip, unsigned long parent, struct ftrace_ops *op,	\
			 struct ftrace_regs *fregs)

HANDLER(on_new_anon)
{
	struct folio *folio = (void *)ARG(0);
	struct vm_area_struct *vma = (void *)ARG(1);

	if (tracked(vma))
		came(vma, ARG(2), folio_nr_pages(folio));
}

HANDLER(on_anon_ptes)
{
	struct vm_area_struct *vma = (void *)ARG(3);

	if (tracked(vma))
		came(vma, ARG(4), (int)ARG(2));
}

HANDLER(on_anon_pmd)
{
	struct vm_area_struct *vma = (void *)ARG(2);

	if (tracked(vma))
		came(vma, ARG(3), PMD_SIZE >> PAGE_SHIFT);
}

HANDLER(on_file_ptes)
{
	struct vm_area_struct *vma = (void *)ARG(3);

	if (tracked(vma))
		file_came((void *)ARG(0), (void *)ARG(1), (int)ARG(2), vma);
}

HANDLER(on_file_pmd)
{
	struct vm_area_struct *vma = (void *)ARG(2);

	if (tracked(vma))
		file_came((void *)ARG(0), (void *)ARG(1), PMD_SIZE >> PAGE_SHIFT, vma);
}

/* mremap: mmap_lock is held for writing from before this until the pages have moved. */
HANDLER(on_copy_vma)
{
	struct vm_area_struct **vma = (void *)ARG(0);

	if (tracked(*vma))
		ooh_spaces_mark((*vma)->vm_mm, ARG(1), ARG(1) + ARG(2));
}

/*
 * PERMANENT: the sysctl kernel.ftrace_enabled, which would silence a probe
 * without a word, is refused while one is on. They need no guard against
 * recursion: nothing that they call is probed by them.
 */
#define PROBE(function, handler) {							\
	.name = function,								\
	.ops = { .func = handler, .flags = FTRACE_OPS_FL_PERMANENT },			\
}

static struct {
	char *name;
	struct ftrace_ops ops;
} probes[] = {
	PROBE("folio_add_new_anon_rmap", on_new_anon),
	PROBE("folio_add_anon_rmap_ptes", on_anon_ptes),
	PROBE("folio_add_anon_rmap_pmd", on_anon_pmd),
	PROBE("folio_add_file_rmap_ptes", on_file_ptes),
	PROBE("folio_add_file_rmap_pmd", on_file_pmd),
	PROBE("copy_vma", on_copy_vma),
};

/*
 * UFFDIO_MOVE holds no lock that a look waits for, and the reverse map is not
 * called where the address is known. While one goes on, whoever's, a fetch looks
 * at everything; its destination is marked when it is done. This probe is on as
 * long as the module is there, since a move may have begun before the tracking.
 */
struct move {
	struct mm_struct *mm;
	unsigned long start, end;
};

static atomic_t moves;

static int move_begins(struct fprobe *fp, unsigned long ip, unsigned long ret_ip,
		       struct pt_regs *regs, void *data)
{
	struct userfaultfd_ctx *ctx = (void *)regs_get_kernel_argument(regs, 0);
	struct move *move = data;

	move->mm = ctx->mm;
	move->start = regs_get_kernel_argument(regs, 1);
	move->end = move->start + regs_get_kernel_argument(regs, 3);
	atomic_inc(&moves);
	smp_mb__after_atomic(); /* counted before anything moves */
	return 0;
}

static void move_ends(struct fprobe *fp, unsigned long ip, unsigned long ret_ip,
		      struct pt_regs *regs, void *data)
{
	struct move *move = data;

	/* The mark first: a fetch that finds no move any more has to find it. */
	ooh_spaces_mark(move->mm, move->start, move->end);
	smp_mb__before_atomic(); /* pairs with ooh_probes_moving() */
	atomic_dec(&moves);
}

/* So many moves may go on at once; if there were more, ooh_probes_moving() says yes for ever. */
#define MOVES	1024

static struct fprobe move_probe = {
	.entry_handler = move_begins,
	.exit_handler = move_ends,
	.nr_maxactive = MOVES,
	.entry_data_size = sizeof(struct move),
};

/*
 * A move may be going on: then marks say not enough. Also if one went by unseen,
 * as too many went on at once: then nothing is sure any more.
 */
bool ooh_probes_moving(void)
{
	bool moving = atomic_read(&moves) || READ_ONCE(move_probe.nmissed);

	smp_mb(); /* marks are looked for after this; pairs with move_ends() */
	return moving;
}

/* Filters are made once: ftrace_free_filter() leaves nothing that could be used again. */
static void free_filters(unsigned int n)
{
	while (n--)
		ftrace_free_filter(&probes[n].ops);
}

int ooh_probes_init(void)
{
	unsigned int i;
	int err = 0;

	for (i = 0; i < ARRAY_SIZE(probes) && !err; i++) {
		err = ftrace_set_filter(&probes[i].ops, probes[i].name, strlen(probes[i].name), 1);
		if (err)
			pr_err("this kernel has no %s() to probe: error %d\n", probes[i].name, err);
	}
	if (!err && IS_ENABLED(CONFIG_USERFAULTFD)) {
		err = register_fprobe(&move_probe, "move_pages", NULL);
		if (err)
			pr_err("no probe of move_pages(): error %d\n", err);
	}
	if (err)
		free_filters(i);
	return err;
}

static void off(unsigned int n)
{
	while (n--)
		unregister_ftrace_function(&probes[n].ops);
}

static int on(void)
{
	unsigned int i;
	int err;

	for (i = 0; i < ARRAY_SIZE(probes); i++) {
		err = register_ftrace_function(&probes[i].ops);
		if (err) {
			pr_err("no probe of %s(): error %d\n", probes[i].name, err);
			off(i);
			return err;
		}
	}
	return 0;
}

/*
 * Each probe that goes waits for all tasks of the system, so they stay for a while
 * after the last user; without one they find no address space and do nothing.
 */
#define PROBES_LINGER	(5 * HZ)

static DEFINE_MUTEX(probes_lock);	/* of the next two */
static bool probing;
static bool wanted;

static void off_later(struct work_struct *work)
{
	mutex_lock(&probes_lock);
	if (probing && !wanted) {
		off(ARRAY_SIZE(probes));
		probing = false;
	}
	mutex_unlock(&probes_lock);
}

static DECLARE_DELAYED_WORK(off_work, off_later);

int ooh_probes_on(void)
{
	int err = 0;

	mutex_lock(&probes_lock);
	if (!probing)
		err = on();
	if (!err) {
		probing = true;
		wanted = true;
	}
	mutex_unlock(&probes_lock);
	return err;
}

void ooh_probes_off(void)
{
	mutex_lock(&probes_lock);
	wanted = false;
	mod_delayed_work(system_wq, &off_work, PROBES_LINGER);
	mutex_unlock(&probes_lock);
}

/* Nobody has a file open. */
void ooh_probes_exit(void)
{
	cancel_delayed_work_sync(&off_work);
	if (probing)
		off(ARRAY_SIZE(probes));
	if (IS_ENABLED(CONFIG_USERFAULTFD))
		unregister_fprobe(&move_probe);
	free_filters(ARRAY_SIZE(probes));
}
