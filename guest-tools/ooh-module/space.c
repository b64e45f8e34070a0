// SPDX-License-Identifier: GPL-2.0
/* Address spaces that are tracked: marks of what to look at, and the fetch. */
#include <linux/hashtable.h>
#include <linux/rcupdate.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/poll.h>

#include "ooh.h"

/* Readers: RCU, which a probe's disabled preemption is. Writers: spaces_lock. */
static DEFINE_HASHTABLE(spaces, 6);
static unsigned int nr_spaces;
static DEFINE_MUTEX(spaces_lock);	/* also: switching probes and host on and off */

/* More marks at once than this are one mark of everything. */
#define MANY_MARKS	4096

/*
 * Look at a group again. Called from anywhere, also with page tables locked.
 *
 * A mark that is there already may be the one that a fetch is about to take
 * away, but then that fetch looks at the page table after us: it takes the mark
 * before it takes the page table's lock, which we hold, or have held when the
 * change was made.
 */
static int mark(struct ooh_space *space, unsigned long index, gfp_t gfp)
{
	int err;

	smp_mb(); /* what was noted, then the look for a mark; pairs with look() */
	if (xa_load(&space->marks, index))
		return 0;
	err = xa_err(xa_store(&space->marks, index, xa_mk_value(1), gfp | __GFP_NOWARN));
	if (err)
		WRITE_ONCE(space->all_marked, true);
	return err;
}

static void wake(struct ooh_space *space)
{
	/* A waiter that comes now looks for marks after it is in the queue. */
	if (wq_has_sleeper(space->wait))
		wake_up_interruptible_poll(space->wait, EPOLLIN);
}

static void mark_range(struct ooh_space *space, unsigned long start, unsigned long end)
{
	unsigned long index = start >> OOH_GROUP_SHIFT, last = (end - 1) >> OOH_GROUP_SHIFT;

	if (start >= end)
		return;
	if (last - index >= MANY_MARKS)
		WRITE_ONCE(space->all_marked, true);
	else
		for (; index <= last; index++)
			mark(space, index, GFP_ATOMIC);
	wake(space);
}

/* In space->came, ->written and ->foreign: 32 pages an entry, as many as a value has room for. */
#define BITS_SHIFT	(PAGE_SHIFT + 5)
#define GROUP_OF_BITS	(OOH_GROUP_SHIFT - BITS_SHIFT)

/* Notes of more than this at once are one of everything. */
static bool too_many_bits(unsigned long start, unsigned long end)
{
	return ((end - 1) >> BITS_SHIFT) - (start >> BITS_SHIFT) >= MANY_MARKS;
}

/* False: it could not be noted. */
static bool set_bits(struct xarray *xa, unsigned long start, unsigned long end)
{
	unsigned long index = start >> BITS_SHIFT, last = (end - 1) >> BITS_SHIFT;
	bool ok = !too_many_bits(start, end);

	for (; ok && index <= last; index++) {
		unsigned long base = index << BITS_SHIFT;
		unsigned long from = max(start, base) - base, to = min(end - base, 1UL << BITS_SHIFT);
		void *old, *new;

		xa_lock(xa);
		old = xa_load(xa, index);
		new = xa_mk_value((old ? xa_to_value(old) : 0) |
				  GENMASK_ULL((to >> PAGE_SHIFT) - 1, from >> PAGE_SHIFT));
		ok = new == old || !xa_err(__xa_store(xa, index, new, GFP_ATOMIC | __GFP_NOWARN));
		xa_unlock(xa);
	}
	return ok;
}

/* The bits of a group's pages; taken away with that, if so wanted. */
static u64 get_bits(struct xarray *xa, unsigned long group, bool take)
{
	u64 bits = 0;
	unsigned int i;

	for (i = 0; i < 2; i++) {
		unsigned long index = 2 * group + i;
		void *entry = take ? xa_erase(xa, index) : xa_load(xa, index);

		if (entry)
			bits |= (u64)xa_to_value(entry) << (32 * i);
	}
	return bits;
}

/* Frames came to [start, end): the note first, as in ooh_space_written(). */
static void came(struct ooh_space *space, unsigned long start, unsigned long end)
{
	if (start >= end)
		return;
	if (!set_bits(&space->came, start, end)) {
		WRITE_ONCE(space->all_came, true);
		if (!too_many_bits(start, end))
			WRITE_ONCE(space->unsure, true);
		WRITE_ONCE(space->all_marked, true);
	}
	mark_range(space, start, end);
}

/*
 * With a log: pages were written, whatever their dirty bits say. No mark: of the
 * group nothing else has changed, so nothing else is looked at.
 */
void ooh_space_written(struct ooh_space *space, unsigned long start, unsigned long end)
{
	if (start >= end)
		return;
	if (!set_bits(&space->written, start, end))
		WRITE_ONCE(space->all_written, true);
	wake(space);
}

/* Which of a group's pages are not to be watched by their dirty bits. */
u64 ooh_space_foreign(struct ooh_space *space, unsigned long index)
{
	return READ_ONCE(space->all_foreign) ? ~0ULL : get_bits(&space->foreign, index, false);
}

/* The space of an address space that has a log. RCU. */
struct ooh_space *ooh_space_logged(struct mm_struct *mm)
{
	struct ooh_space *space;

	hash_for_each_possible_rcu(spaces, space, by_mm, (unsigned long)mm)
		if (space->mm == mm && space->log)
			return space;
	return NULL;
}

void ooh_spaces_written(struct mm_struct *mm, unsigned long start, unsigned long end)
{
	struct ooh_space *space;

	rcu_read_lock();
	space = ooh_space_logged(mm);
	if (space)
		ooh_space_written(space, start, end);
	rcu_read_unlock();
}

/* Somebody may write to [start, end) by another mapping, from now on. */
void ooh_spaces_foreign(struct mm_struct *mm, unsigned long start, unsigned long end)
{
	struct ooh_space *space;

	if (start >= end)
		return;
	rcu_read_lock();
	space = ooh_space_logged(mm);
	if (space) {
		if (!set_bits(&space->foreign, start, end)) {
			WRITE_ONCE(space->all_foreign, true);
			WRITE_ONCE(space->all_marked, true);
		}
		mark_range(space, start, end);
	}
	rcu_read_unlock();
}

/* A frame came to [start, end) of an address space. */
void ooh_spaces_mark(struct mm_struct *mm, unsigned long start, unsigned long end)
{
	struct ooh_space *space;

	rcu_read_lock();
	hash_for_each_possible_rcu(spaces, space, by_mm, (unsigned long)mm)
		if (space->mm == mm)
			came(space, start, end);
	rcu_read_unlock();
}

/* The host has news. Called from an interrupt. */
void ooh_spaces_wake(void)
{
	struct ooh_space *space;
	unsigned int bucket;

	rcu_read_lock();
	hash_for_each_rcu(spaces, bucket, space, by_mm)
		wake(space);
	rcu_read_unlock();
}

/* A fetch for one space has told others that their pages were written. */
void ooh_spaces_wake_dirty(const struct ooh_space *but)
{
	struct ooh_space *space;
	unsigned int bucket;

	rcu_read_lock();
	hash_for_each_rcu(spaces, bucket, space, by_mm)
		if (space != but && xa_marked(&space->groups, OOH_DIRTY))
			wake(space);
	rcu_read_unlock();
}

/*
 * Pages went, or were replaced. After the change, not before it: a fetch in
 * between would take the mark away and still see the old page. Only groups that
 * exist are marked, in others nothing was known. This one may not sleep.
 */
static void gone(struct mmu_notifier *notifier, const struct mmu_notifier_range *range)
{
	struct ooh_space *space = container_of(notifier, struct ooh_space, notifier);
	unsigned long index;
	unsigned int n = 0;
	void *group;

	if (range->start >= range->end)
		return;
	/* MADV_FREE takes dirty bits away, and leaves the pages. */
	if (space->log && range->event == MMU_NOTIFY_CLEAR)
		ooh_space_written(space, range->start, range->end);
	/* The group is not looked into: it may be freed meanwhile. */
	xa_for_each_range(&space->groups, index, group, range->start >> OOH_GROUP_SHIFT,
			  (range->end - 1) >> OOH_GROUP_SHIFT) {
		if (++n > MANY_MARKS) {
			WRITE_ONCE(space->all_marked, true);
			break;
		}
		mark(space, index, GFP_ATOMIC);
	}
	wake(space);
}

/* The last thread has gone, or called exec; or we let go of it ourselves. */
static void ended(struct mmu_notifier *notifier, struct mm_struct *mm)
{
	struct ooh_space *space = container_of(notifier, struct ooh_space, notifier);

	WRITE_ONCE(space->ended, true);
	wake_up_interruptible_poll(space->wait, EPOLLIN | EPOLLHUP);
}

static const struct mmu_notifier_ops notifier_ops = {
	.invalidate_range_end = gone,
	.release = ended,
};

/* Mark what is present in a mapping. */
static int mark_vma(struct ooh_space *space, struct vm_area_struct *vma)
{
	unsigned long addr = vma->vm_start;
	int err = 0;

	while (!err && (addr = ooh_next_present(space->mm, addr, vma->vm_end)) < vma->vm_end) {
		err = mark(space, addr >> OOH_GROUP_SHIFT, GFP_KERNEL_ACCOUNT);
		addr = ALIGN(addr + 1, OOH_GROUP_SIZE);
		cond_resched();
	}
	return err;
}

/*
 * Mark what no probe tells of, or everything if need be. mmap_lock is held.
 *
 * Whether a move goes on is asked before marks are taken away: one that is over
 * by now has left its mark, one that begins later is none of this fetch.
 */
static int mark_unseen(struct ooh_space *space)
{
	bool all = ooh_probes_moving();
	struct vm_area_struct *vma;
	unsigned long index;
	void *group;
	int err = 0;
	VMA_ITERATOR(vmi, space->mm, 0);

	if (xchg(&space->all_marked, false))
		all = true;
	if (all) {
		xa_for_each(&space->groups, index, group) {
			err = err ?: mark(space, index, GFP_KERNEL_ACCOUNT);
			cond_resched();
		}
		/* Notes whose mark there was no memory for. */
		xa_for_each(&space->came, index, group) {
			err = err ?: mark(space, index >> GROUP_OF_BITS, GFP_KERNEL_ACCOUNT);
			cond_resched();
		}
	}
	for_each_vma(vmi, vma)
		if (!err && ooh_vma_tracked(space, vma) && (all || ooh_vma_unseen(vma)))
			err = mark_vma(space, vma);
	return err;
}

/* What is true of all groups of a look. */
struct ooh_all {
	bool came;
	bool written;
};

/*
 * Look at one group; without a mark only at those of its pages that were written.
 * mmap_lock is held: the mark is taken away and the look done under it.
 * The group is there before that, so that gone() marks it from then on.
 */
static int look(struct ooh_space *space, unsigned long index, bool marked, struct ooh_all all)
{
	struct ooh_group *group = ooh_group_get(space, index);
	struct ooh_look look;
	u64 came = 0, written = 0;
	int err;

	if (!group)
		return -ENOMEM;
	if (marked) {
		xa_erase(&space->marks, index);
		smp_mb(); /* the mark, then the notes; pairs with mark() */
		came = get_bits(&space->came, index, true) | (all.came ? ~0ULL : 0);
	}
	if (space->log)
		written = get_bits(&space->written, index, true) | (all.written ? ~0ULL : 0);
	ooh_look(space, index, marked ? ~0ULL : written, &look);
	look.came = came;
	look.dirty |= (written | came) & look.logged;
	space->stats.walked++;
	mutex_lock(&ooh_frame_lock);
	err = ooh_group_update(group, &look);
	ooh_group_put(group);
	mutex_unlock(&ooh_frame_lock);
	return err;
}

/* Groups that a look is not about, or did not get to, keep such a note. */
static bool take_note(bool *note, bool whole)
{
	if (!xchg(note, false))
		return false;
	if (!whole)
		WRITE_ONCE(*note, true);
	return true;
}

/*
 * Look at the groups from first to last that are in an xarray of marks, or of
 * notes, which are 1 << shift for a group. -EINTR: mmap_lock is not held any more.
 */
static int look_each(struct ooh_space *space, struct xarray *xa, unsigned int shift, unsigned long first,
		     unsigned long last, struct ooh_all all)
{
	unsigned long index = first << shift, most = ((last + 1) << shift) - 1;
	void *entry;
	int err;

	for (entry = xa_find(xa, &index, most, XA_PRESENT); entry; entry = xa_find_after(xa, &index, most, XA_PRESENT)) {
		err = look(space, index >> shift, xa == &space->marks, all);
		if (err) {
			mark(space, index >> shift, GFP_KERNEL_ACCOUNT);
			return err;
		}
		if (!need_resched() && !mmap_lock_is_contended(space->mm))
			continue;
		mmap_read_unlock(space->mm);
		cond_resched();
		if (mmap_read_lock_killable(space->mm))
			return -EINTR;
	}
	return 0;
}

/* Look at the groups from first to last that are marked, and at pages that were written. */
static int look_marked(struct ooh_space *space, unsigned long first, unsigned long last)
{
	bool whole = !first && last >= (TASK_SIZE_MAX - 1) >> OOH_GROUP_SHIFT, incomplete;
	struct ooh_all all;
	int err;

	/* What is in the log is a mark by that, so the log first. */
	incomplete = space->log && !ooh_log_take(space);
	if (mmap_read_lock_killable(space->mm)) {
		if (incomplete)
			WRITE_ONCE(space->all_marked, true);
		return -EINTR;
	}
	all.written = take_note(&space->all_written, whole);
	all.came = take_note(&space->all_came, whole);
	if (incomplete || all.written || all.came)
		WRITE_ONCE(space->all_marked, true);
	err = mark_unseen(space);
	if (!err)
		err = look_each(space, &space->marks, 0, first, last, all);
	if (!err)
		err = look_each(space, &space->written, GROUP_OF_BITS, first, last, all);
	if (err == -EINTR)
		goto out;
	mmap_read_unlock(space->mm);
out:
	if (err && all.written)
		WRITE_ONCE(space->all_written, true);
	if (err && all.came)
		WRITE_ONCE(space->all_came, true);
	return err;
}

/* Every page that is there counts as written. */
static void take_all(struct ooh_space *space, unsigned long first, unsigned long last)
{
	struct ooh_group *group;
	unsigned long index;

	xa_for_each_range(&space->groups, index, group, first, last) {
		mutex_lock(&ooh_frame_lock);
		ooh_group_set_dirty(group, group->used);
		mutex_unlock(&ooh_frame_lock);
		cond_resched();
	}
}

/* Pages that dirty bits tell of from now on: the host has just told the rest. */
static void leave_host(struct ooh_space *space)
{
	struct ooh_group *group;
	unsigned long index;

	xa_for_each_marked(&space->groups, index, group, OOH_LEAVING) {
		mutex_lock(&ooh_frame_lock);
		ooh_group_leave(group);
		mutex_unlock(&ooh_frame_lock);
		cond_resched();
	}
}

/*
 * Learn what was written, and have all of it watched again. Where the host loses
 * track in each fetch (vCPUs of the VM run on other hypervisors), all that is
 * present stays unarmed and dirty, so that this and the next fetch report it.
 */
static int learn(struct ooh_space *space, unsigned long first, unsigned long last)
{
	int err, rounds = 2;
	u64 lost;

	if (mmget_not_zero(space->mm)) {
		err = look_marked(space, first, last);
		mmput(space->mm);
		if (err)
			return err;
	}
	do {
		/* Arm first: what the host forgets in between, it says in the fetch. */
		lost = ooh_host_lost();
		err = ooh_host_arm(space, first, last);
		if (!err)
			err = ooh_host_fetch(space);
		if (err)
			return err;
	} while (lost != ooh_host_lost() && --rounds);
	leave_host(space);
	if (ooh_host_blind())
		take_all(space, first, last);
	return 0;
}

/* The bits of a group's pages that lie in [start, end). */
static u64 bits_in(unsigned long index, unsigned long start, unsigned long end)
{
	unsigned long base = index << OOH_GROUP_SHIFT;
	unsigned long from = max(start, base) - base, to = min(end, base + OOH_GROUP_SIZE) - base;

	return GENMASK_ULL((to >> PAGE_SHIFT) - 1, from >> PAGE_SHIFT);
}

/*
 * Into the ring, as far as it has room. What was given is not dirty any more, if
 * the host watches it: a page that it does not watch stays dirty.
 */
static void give(struct ooh_space *space, unsigned long start, unsigned long end,
		 struct ooh_fetch_args *args)
{
	unsigned long index = start >> OOH_GROUP_SHIFT, last = (end - 1) >> OOH_GROUP_SHIFT;
	struct ooh_group *group;

	for (group = xa_find(&space->groups, &index, last, OOH_DIRTY); group;
	     group = xa_find_after(&space->groups, &index, last, OOH_DIRTY)) {
		u64 bits, done;

		mutex_lock(&ooh_frame_lock);
		bits = group->dirty & bits_in(index, start, end);
		done = bits;
		if (!(args->flags & OOH_FETCH_DISCARD)) {
			done = ooh_ring_add(space->ring, index << OOH_GROUP_SHIFT, bits);
			args->pages += hweight64(done);
		}
		space->stats.unarmed += hweight64(done & group->unarmed);
		ooh_group_clear(group, done & ~group->unarmed, 0);
		ooh_group_put(group);
		mutex_unlock(&ooh_frame_lock);
		if (done != bits) {
			args->status |= OOH_FETCHED_MORE;
			space->rest = (index << OOH_GROUP_SHIFT) + (__ffs64(bits & ~done) << PAGE_SHIFT);
			space->stats.more++;
			return;
		}
		cond_resched();
	}
	space->rest = end;
}

static int fetch(struct ooh_space *space, struct ooh_fetch_args *args)
{
	unsigned long start = args->start, end = args->end;
	bool last = READ_ONCE(space->ended);
	int err;

	if (!start && !end)
		end = TASK_SIZE_MAX;
	if (start >= end || end > TASK_SIZE_MAX || !PAGE_ALIGNED(start | end))
		return -EINVAL;
	if (space->given_last)
		return -ESRCH;
	err = ooh_ring_begin(space->ring);
	if (err)
		return err;
	if (args->flags & OOH_FETCH_REST) {
		start = max(start, space->rest);
	} else {
		u64 lost = space->lost;

		err = learn(space, start >> OOH_GROUP_SHIFT, (end - 1) >> OOH_GROUP_SHIFT);
		if (err)
			return err;
		space->lost = ooh_host_lost();
		space->stats.epochs++;
		if (space->lost != lost || ooh_host_blind() || take_note(&space->unsure, true)) {
			space->stats.lost++;
			args->status |= OOH_FETCHED_LOST;
		}
	}
	if (start < end)
		give(space, start, end, args);
	args->epoch = space->stats.epochs;
	args->records = ooh_ring_end(space->ring, args->epoch);
	space->stats.pages += args->pages;
	space->stats.records += args->records;
	if (last) {
		args->status |= OOH_FETCHED_LAST;
		space->given_last = !(args->status & OOH_FETCHED_MORE);
	}
	return 0;
}

int ooh_space_fetch(struct ooh_space *space, struct ooh_fetch_args *args)
{
	int err;

	if (mutex_lock_killable(&space->lock))
		return -EINTR;
	err = fetch(space, args);
	mutex_unlock(&space->lock);
	return err;
}

void ooh_space_stats(struct ooh_space *space, struct ooh_stats_args *stats)
{
	mutex_lock(&space->lock);
	*stats = space->stats;
	mutex_unlock(&space->lock);
}

__poll_t ooh_space_poll(struct ooh_space *space)
{
	__poll_t events = 0;

	if (READ_ONCE(space->ended))
		events |= EPOLLIN | EPOLLHUP;
	if (ooh_irq_news() || (space->log && ooh_log_news(space)) || READ_ONCE(space->all_marked) || !xa_empty(&space->marks) ||
	    READ_ONCE(space->all_written) || !xa_empty(&space->written) ||
	    xa_marked(&space->groups, OOH_DIRTY))
		events |= EPOLLIN | EPOLLRDNORM;
	return events;
}

/* Probes and the host's ring are there while somebody tracks. spaces_lock is held. */
static int switch_on(void)
{
	int err;

	if (nr_spaces++)
		return 0;
	err = ooh_host_on();
	if (err)
		goto err_count;
	err = ooh_probes_on();
	if (err)
		goto err_host;
	return 0;

err_host:
	ooh_host_off();
err_count:
	nr_spaces--;
	return err;
}

static void switch_off(void)
{
	if (--nr_spaces)
		return;
	ooh_probes_off();
	ooh_host_off();
}

/* spaces_lock is held. */
static int log_on(struct ooh_space *space)
{
	bool busy;
	int err;

	rcu_read_lock();
	busy = ooh_space_logged(space->mm);
	rcu_read_unlock();
	if (busy)
		return -EBUSY;
	err = ooh_logs_get();
	if (err)
		return err;
	err = ooh_log_new(space);
	if (err)
		ooh_logs_put();
	return err;
}

/* No look or mark by a probe comes any more, and no CPU logs, when this returns. */
static void unhash(struct ooh_space *space)
{
	mutex_lock(&spaces_lock);
	hash_del_rcu(&space->by_mm);
	mutex_unlock(&spaces_lock);
	synchronize_rcu();
	if (!space->log)
		return;
	ooh_log_free(space);
	ooh_logs_put();
}

/* ... and none by a notifier. */
static void detach(struct ooh_space *space)
{
	mmu_notifier_unregister(&space->notifier, space->mm);
	unhash(space);
}

static void destroy(struct ooh_space *space)
{
	ooh_groups_free(space);
	xa_destroy(&space->marks);
	xa_destroy(&space->came);
	xa_destroy(&space->written);
	xa_destroy(&space->foreign);
	mutex_lock(&spaces_lock);
	switch_off();
	mutex_unlock(&spaces_lock);
	mmdrop(space->mm);
	mutex_destroy(&space->lock);
	kfree(space);
}

void ooh_space_free(struct ooh_space *space)
{
	detach(space);
	destroy(space);
}

/*
 * The caller holds mm's users. The ring and the queue stay the caller's. One
 * space with a log for an address space: two would clean one another's bits.
 */
struct ooh_space *ooh_space_new(struct mm_struct *mm, struct ooh_ring_buffer *ring,
				wait_queue_head_t *wait, const struct vm_operations_struct *own_ops,
				bool log)
{
	struct ooh_fetch_args args = { .flags = OOH_FETCH_DISCARD };
	struct ooh_space *space;
	int err;

	space = kzalloc(sizeof(*space), GFP_KERNEL_ACCOUNT);
	if (!space)
		return ERR_PTR(-ENOMEM);
	mutex_init(&space->lock);
	xa_init_flags(&space->groups, XA_FLAGS_ACCOUNT);
	xa_init_flags(&space->marks, XA_FLAGS_ACCOUNT);
	xa_init_flags(&space->came, XA_FLAGS_ACCOUNT);
	xa_init_flags(&space->written, XA_FLAGS_ACCOUNT);
	xa_init_flags(&space->foreign, XA_FLAGS_ACCOUNT);
	mmgrab(mm);
	space->mm = mm;
	space->ring = ring;
	space->wait = wait;
	space->own_ops = own_ops;
	space->notifier.ops = &notifier_ops;

	mutex_lock(&spaces_lock);
	err = switch_on();
	if (!err && log) {
		err = log_on(space);
		if (err)
			switch_off();
	}
	if (!err)
		hash_add_rcu(spaces, &space->by_mm, (unsigned long)mm);
	mutex_unlock(&spaces_lock);
	if (err)
		goto err_space;
	/*
	 * From here on probes leave marks. A frame that came before is in the page
	 * tables, whose locks order the probes and this look as any other.
	 */
	err = ooh_host_blind() ? -EOPNOTSUPP : mmu_notifier_register(&space->notifier, mm);
	if (err)
		goto err_table;
	if (space->log)
		ooh_log_start();
	space->all_marked = true;
	space->lost = ooh_host_lost();
	err = ooh_space_fetch(space, &args);
	if (err)
		goto err_detach;
	memset(&space->stats, 0, offsetof(struct ooh_stats_args, armed));
	return space;

err_detach:
	detach(space);
	destroy(space);
	return ERR_PTR(err);
err_table:
	unhash(space);
	destroy(space);
	return ERR_PTR(err);
err_space:
	mmdrop(mm);
	kfree(space);
	return ERR_PTR(err);
}
