// SPDX-License-Identifier: GPL-2.0
/*
 * EPML: the processor logs which pages of a Tracked get dirty, by their address.
 *
 * A page in a space with a log is watched in one of two ways. Anonymous pages
 * that page tables map one by one are watched by their dirty bits: a look cleans
 * them, and what gets dirty again is in the processor's log, without a hypercall
 * or an exit. All others (files, shared memory, large pages, what somebody may
 * write to by another mapping) are armed in the host as without a log.
 *
 * That nothing is missed, of a page that stays in its frame:
 *
 * (1) The processor sets the bit: it is in the log, or the log says that it is
 *     not complete, and then a fetch looks at everything.
 * (2) The kernel sets the bit of an entry that stays: ptep_set_access_flags() is
 *     probed. Where it puts in a new entry, probe.c has left a mark.
 * (3) The kernel clears the bit (MADV_FREE): the mmu notifier is told, and the
 *     page counts as written.
 * (4) Somebody writes by the kernel's mapping of the frame, which he got by one
 *     of the functions that get or pin the pages of users: these are probed, and
 *     from then on the page is armed in the host. So is one that is pinned when it
 *     is looked at, perhaps since before the tracking began.
 * (5) A kernel thread uses the address space: the log goes with it as with a
 *     thread of the process.
 *
 * The log is for a CPU and a space. It is loaded while a thread of the space
 * runs there, by the scheduler's tracepoint: three MSRs, no exit. A log has two
 * sets of pages: a fetch has every CPU take the other one, and then reads.
 *
 * struct ooh_log belongs to its CPU with interrupts off; the set that is not in
 * use to the fetch, which space->lock makes one at a time.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/cpu.h>
#include <linux/cpuhotplug.h>
#include <linux/ftrace.h>
#include <linux/interrupt.h>
#include <linux/irq.h>
#include <linux/irqdomain.h>
#include <linux/fprobe.h>
#include <linux/mm.h>
#include <linux/percpu.h>
#include <linux/sched.h>
#include <linux/smp.h>
#include <linux/tracepoint.h>
#include <linux/workqueue.h>

#include <asm/hw_irq.h>
#include <asm/irqdomain.h>
#include <asm/msr.h>
#include <asm/tlbflush.h>

#include <linux/kvm_epml.h>

#include "ooh.h"

#define SET_PAGES	16
#define THRESHOLD	480	/* of 512: room for what is written until the interrupt is taken */

struct log_set {
	u64 *page[SET_PAGES];
	u16 index[SET_PAGES];	/* where the next entry goes, of those up to last */
	unsigned int last;
};

struct ooh_log {
	struct log_set set[2];
	unsigned int now;
	bool lost;		/* something is not in it */
	bool taken_lost;	/* the fetch's copy of that */
};

static DEFINE_PER_CPU(struct ooh_space *, running);	/* whose log is loaded */
static DEFINE_PER_CPU(unsigned int, vector);		/* 0: none on this CPU */
static DEFINE_PER_CPU(int, irq_of);
static bool deaf;					/* some CPU has none */
static struct fprobe use_mm_probe;
static enum cpuhp_state cpu_state;
static struct tracepoint *sched_switch;

/* Interrupts are off in what follows, up to the next such line. */

static unsigned int entries_of(u16 index)
{
	return EPML_ENTRIES - 1 - (s16)index;
}

/* When the next interrupt is to come. In the last page nothing could be done. */
static unsigned int threshold(struct ooh_space *space, struct log_set *set)
{
	if (READ_ONCE(space->polled) && !READ_ONCE(space->log_news))
		return 1;
	return set->last + 1 < SET_PAGES ? THRESHOLD : 0;
}

static void load(struct ooh_space *space)
{
	struct ooh_log *log = this_cpu_ptr(space->log);
	struct log_set *set = &log->set[log->now];
	u64 ctl = EPML_CTL_ENABLE;

	this_cpu_write(running, space);
	/* The dirty bits say it all then; nothing is gained by more entries. */
	if (log->lost)
		return;
	if (this_cpu_read(vector))
		ctl |= (u64)this_cpu_read(vector) << EPML_CTL_VECTOR_SHIFT |
		       (u64)threshold(space, set) << EPML_CTL_THRESHOLD_SHIFT;
	wrmsrl(MSR_EPML_BASE, virt_to_phys(set->page[set->last]));
	wrmsrl(MSR_EPML_INDEX, set->index[set->last]);
	wrmsrl(MSR_EPML_CTL, ctl);
}

static void unload(struct ooh_space *space)
{
	struct ooh_log *log = this_cpu_ptr(space->log);
	struct log_set *set = &log->set[log->now];
	u64 ctl, index;

	this_cpu_write(running, NULL);
	if (log->lost)
		return;
	rdmsrl(MSR_EPML_CTL, ctl);
	wrmsrl(MSR_EPML_CTL, 0);
	rdmsrl(MSR_EPML_INDEX, index);
	set->index[set->last] = index;
	/* Switched off behind our back: a VM that was reset in the middle. */
	log->lost = ctl & (EPML_CTL_FULL | EPML_CTL_FAULT) || !(ctl & EPML_CTL_ENABLE);
}

static void switch_to_mm(struct mm_struct *mm)
{
	struct ooh_space *now = this_cpu_read(running), *next = mm ? ooh_space_logged(mm) : NULL;

	if (now == next)
		return;
	if (now)
		unload(now);
	if (next)
		load(next);
}

static void on_switch(void *data, bool preempt, struct task_struct *prev, struct task_struct *next,
		      unsigned int prev_state)
{
	switch_to_mm(next->mm);
}

static void switch_current(void *data)
{
	switch_to_mm(current->mm);
}

static void leave(void *space)
{
	if (this_cpu_read(running) == space)
		unload(space);
}

static void reset_set(struct log_set *set)
{
	set->last = 0;
	set->index[0] = EPML_INDEX_START;
}

static void swap_sets(struct ooh_log *log)
{
	log->now ^= 1;
	reset_set(&log->set[log->now]);
	log->taken_lost = log->lost;
	log->lost = false;
}

static void take(void *data)
{
	struct ooh_space *space = data;
	bool loaded = this_cpu_read(running) == space;

	if (loaded)
		unload(space);
	swap_sets(this_cpu_ptr(space->log));
	if (loaded)
		load(space);
}

/* The page of the log is nearly full: the next one. Or it is the first entry. */
static irqreturn_t handler(int nr, void *data)
{
	struct ooh_space *space = this_cpu_read(running);
	struct ooh_log *log;
	struct log_set *set;

	if (!space)
		return IRQ_HANDLED;
	unload(space);
	log = this_cpu_ptr(space->log);
	set = &log->set[log->now];
	if (!READ_ONCE(space->log_news)) {
		WRITE_ONCE(space->log_news, true);
		ooh_spaces_wake();
	}
	/* It may be late, for a log that was loaded before. */
	if (entries_of(set->index[set->last]) >= THRESHOLD && set->last + 1 < SET_PAGES)
		set->index[++set->last] = EPML_INDEX_START;
	load(space);
	return IRQ_HANDLED;
}

/* Interrupts are on again. */

static void look_for_news(void *data)
{
	struct ooh_space *space = data;
	struct ooh_log *log = this_cpu_ptr(space->log);
	struct log_set *set = &log->set[log->now];
	bool loaded = this_cpu_read(running) == space;

	if (loaded)
		unload(space);
	if (log->lost || set->last || set->index[0] != EPML_INDEX_START || !this_cpu_read(vector))
		WRITE_ONCE(space->log_news, true);
	if (loaded)
		load(space);
}

/*
 * Is there anything in the log? From the first call on an interrupt tells. True
 * always where there is no interrupt for a CPU.
 */
bool ooh_log_news(struct ooh_space *space)
{
	if (!READ_ONCE(space->polled)) {
		WRITE_ONCE(space->polled, true);
		on_each_cpu(look_for_news, space, 1);
	}
	return READ_ONCE(space->log_news) || READ_ONCE(deaf);
}

/* The last entry is the first one in the page. Neighbours are noted together: most writers go one way. */
static void read_page(struct ooh_space *space, const u64 *page, u16 index)
{
	unsigned int i = index == EPML_INDEX_FULL ? 0 : index + 1;
	unsigned long start = 0, end = 0;

	for (; i < EPML_ENTRIES; i++) {
		unsigned long addr = READ_ONCE(page[i]) & PAGE_MASK;

		if (addr + PAGE_SIZE == start) {
			start = addr;
		} else if (addr == end) {
			end = addr + PAGE_SIZE;
		} else if (addr < start || addr >= end) {
			ooh_space_written(space, start, end);
			start = addr;
			end = addr + PAGE_SIZE;
		}
	}
	ooh_space_written(space, start, end);
}

/*
 * Note what was written until now. False: what is in no log was written as well,
 * only dirty bits tell. space->lock is held.
 */
bool ooh_log_take(struct ooh_space *space)
{
	/* A missed end of kthread_use_mm(): somebody may have written with no log. */
	bool complete = !READ_ONCE(use_mm_probe.nmissed);
	unsigned int cpu, i;

	lockdep_assert_held(&space->lock);
	/* What comes now is news, or is in what is taken. */
	WRITE_ONCE(space->log_news, false);
	cpus_read_lock();
	on_each_cpu(take, space, 1);
	for_each_possible_cpu(cpu) {
		struct ooh_log *log = per_cpu_ptr(space->log, cpu);
		struct log_set *set;

		if (!cpu_online(cpu))
			swap_sets(log);
		complete &= !log->taken_lost;
		set = &log->set[!log->now];
		for (i = 0; i <= set->last; i++)
			read_page(space, set->page[i], set->index[i]);
		reset_set(set);
	}
	cpus_read_unlock();
	return complete;
}

/*
 * Clean an entry that is to be watched by its dirty bit; true: it was dirty. The
 * page table is locked. The folio gets what is taken from the entry.
 */
bool ooh_log_clean(pte_t *ptep)
{
	pte_t old = ptep_get(ptep);

	do {
		if (!pte_dirty(old))
			return false;
	} while (!try_cmpxchg(&ptep->pte, &old.pte, pte_mkclean(old).pte));
	folio_mark_dirty(page_folio(pte_page(old)));
	return true;
}

/* A page that its dirty bit can stand for: see the top of this file. */
bool ooh_log_watches(struct vm_area_struct *vma, pte_t pte)
{
	if (pte_special(pte) || pte_devmap(pte) || !pfn_valid(pte_pfn(pte)) || vma->vm_flags & VM_SHADOW_STACK)
		return false;
	return PageAnon(pte_page(pte)) && !folio_maybe_dma_pinned(page_folio(pte_page(pte)));
}

/*
 * Entries of an address space were cleaned: no TLB may have them dirty. What the
 * kernel has for this is not for modules. A CPU that uses the address space is
 * told; any other one sees the generation when it takes it up again.
 */
static void flush_local(void *mm)
{
	unsigned long cr4;

	if (current->active_mm != mm)
		return;
	if (boot_cpu_has(X86_FEATURE_INVPCID)) {
		invpcid_flush_all_nonglobals();
		return;
	}
	/* All PCIDs: page-table isolation has two for an address space. */
	cr4 = __read_cr4();
	asm volatile("mov %0, %%cr4" :: "r" (cr4 ^ X86_CR4_PGE) : "memory");
	asm volatile("mov %0, %%cr4" :: "r" (cr4) : "memory");
}

void ooh_log_flush(struct ooh_space *space)
{
	/* Orders the entries that were cleaned and what CPUs say that they use. */
	atomic64_inc_return(&space->mm->context.tlb_gen);
	on_each_cpu_mask(mm_cpumask(space->mm), flush_local, space->mm, 1);
}

/*
 * Probes, while there is a log.
 */
#define ARG(n) ftrace_regs_get_argument(fregs, n)
#define HANDLER(name)									\
	static void name(unsigned long ip, unsigned long parent, struct ftrace_ops *op,	\
			 struct ftrace_regs *fregs)

static_assert(__same_type(ptep_set_access_flags,
			  int (struct vm_area_struct *, unsigned long, pte_t *, pte_t, int)));
static_assert(__same_type(get_user_pages_remote,
			  long (struct mm_struct *, unsigned long, unsigned long, unsigned int,
				struct page **, int *)));
static_assert(__same_type(pin_user_pages_remote,
			  long (struct mm_struct *, unsigned long, unsigned long, unsigned int,
				struct page **, int *)));
static_assert(__same_type(get_user_pages,
			  long (unsigned long, unsigned long, unsigned int, struct page **)));
static_assert(__same_type(pin_user_pages,
			  long (unsigned long, unsigned long, unsigned int, struct page **)));
static_assert(__same_type(get_user_pages_unlocked,
			  long (unsigned long, unsigned long, struct page **, unsigned int)));
static_assert(__same_type(pin_user_pages_unlocked,
			  long (unsigned long, unsigned long, struct page **, unsigned int)));
static_assert(__same_type(get_user_pages_fast,
			  int (unsigned long, int, unsigned int, struct page **)));
static_assert(__same_type(get_user_pages_fast_only,
			  int (unsigned long, int, unsigned int, struct page **)));
static_assert(__same_type(pin_user_pages_fast,
			  int (unsigned long, int, unsigned int, struct page **)));

/* A write fault that makes an entry dirty where it is. */
HANDLER(on_access_flags)
{
	struct vm_area_struct *vma = (void *)ARG(0);
	unsigned long addr = ARG(1) & PAGE_MASK;

	if ((int)ARG(4) && mm_has_notifiers(vma->vm_mm))
		ooh_spaces_written(vma->vm_mm, addr, addr + PAGE_SIZE);
}

static void got(struct mm_struct *mm, unsigned long start, unsigned long pages, unsigned int flags)
{
	if (mm && flags & FOLL_WRITE && mm_has_notifiers(mm))
		ooh_spaces_foreign(mm, start & PAGE_MASK, (start & PAGE_MASK) + (pages << PAGE_SHIFT));
}

HANDLER(on_get_remote)
{
	got((void *)ARG(0), ARG(1), ARG(2), ARG(3));
}

HANDLER(on_get)
{
	got(current->mm, ARG(0), ARG(1), ARG(2));
}

/* The functions named _fast have an int for the number. */
HANDLER(on_get_fast)
{
	got(current->mm, ARG(0), (int)ARG(1), ARG(2));
}

HANDLER(on_get_unlocked)
{
	got(current->mm, ARG(0), ARG(1), ARG(3));
}

/* Several functions for a handler: registering takes a while. */
#define PROBE(handler, ...) {								\
	.names = { __VA_ARGS__ },							\
	.ops = { .func = handler, .flags = FTRACE_OPS_FL_PERMANENT },			\
}

static struct {
	char *names[4];
	struct ftrace_ops ops;
} probes[] = {
	PROBE(on_access_flags, "ptep_set_access_flags"),
	PROBE(on_get_remote, "get_user_pages_remote", "pin_user_pages_remote"),
	PROBE(on_get, "get_user_pages", "pin_user_pages"),
	PROBE(on_get_unlocked, "get_user_pages_unlocked", "pin_user_pages_unlocked"),
	PROBE(on_get_fast, "get_user_pages_fast", "get_user_pages_fast_only", "pin_user_pages_fast"),
};

/* A kernel thread has begun, or ended, to use an address space. */
static void on_use_mm(struct fprobe *fp, unsigned long ip, unsigned long ret_ip, struct pt_regs *regs,
		      void *data)
{
	unsigned long flags;

	local_irq_save(flags);
	switch_to_mm(current->mm);
	local_irq_restore(flags);
}

/* Filters are made once: ftrace_free_filter() leaves nothing that could be used again. */
static void free_filters(unsigned int n)
{
	while (n--)
		ftrace_free_filter(&probes[n].ops);
}

static bool filters;

static int make_filter(struct ftrace_ops *ops, char **names)
{
	int err = 0;

	for (; *names && !err; names++) {
		err = ftrace_set_filter(ops, *names, strlen(*names), 0);
		if (err)
			pr_err("this kernel has no %s() to probe: error %d\n", *names, err);
	}
	return err;
}

/* Where there is no EPML, nothing of this is needed. */
int ooh_logs_init(void)
{
	unsigned int i;
	int err = 0;

	if (!(ooh_host_features() & OOH_F_EPML))
		return 0;
	for (i = 0; i < ARRAY_SIZE(probes) && !err; i++)
		err = make_filter(&probes[i].ops, probes[i].names);
	if (err)
		free_filters(i);
	filters = !err;
	return err;
}

static void probes_off(unsigned int n)
{
	while (n--)
		unregister_ftrace_function(&probes[n].ops);
}

static int probes_on(void)
{
	unsigned int i;
	int err;

	for (i = 0; i < ARRAY_SIZE(probes); i++) {
		err = register_ftrace_function(&probes[i].ops);
		if (err) {
			pr_err("no probe of %s(): error %d\n", probes[i].names[0], err);
			goto err_probes;
		}
	}
	/* As above: what it was registered with cannot be used again. */
	use_mm_probe = (struct fprobe){ .exit_handler = on_use_mm };
	err = register_fprobe_syms(&use_mm_probe, (const char *[]){ "kthread_use_mm", "kthread_unuse_mm" }, 2);
	if (!err)
		return 0;
	pr_err("no probe of kthread_use_mm(): error %d\n", err);

err_probes:
	probes_off(i);
	return err;
}

/*
 * An interrupt for each CPU, whose vector the processor raises there itself. A
 * CPU without one has logs of one page.
 */
static int vector_on(unsigned int cpu)
{
	struct irq_alloc_info info = { .mask = cpumask_of(cpu) };
	const struct irq_cfg *cfg;
	int irq, err;

	irq = irq_domain_alloc_irqs(x86_vector_domain, 1, cpu_to_node(cpu), &info);
	if (irq < 0)
		return irq;
	irq_set_handler(irq, handle_edge_irq);
	err = request_irq(irq, handler, IRQF_NOBALANCING | IRQF_NO_THREAD, "ooh-log", &running);
	if (err) {
		irq_dispose_mapping(irq);
		return err;
	}
	per_cpu(irq_of, cpu) = irq;
	cfg = irqd_cfg(irq_get_irq_data(irq));
	if (cpumask_test_cpu(cpu, irq_get_effective_affinity_mask(irq)))
		per_cpu(vector, cpu) = cfg->vector;
	return 0;
}

static void vector_off(unsigned int cpu)
{
	int irq = per_cpu(irq_of, cpu);

	per_cpu(vector, cpu) = 0;
	if (!irq)
		return;
	per_cpu(irq_of, cpu) = 0;
	free_irq(irq, &running);
	irq_dispose_mapping(irq);
}

/* It has no interrupt for its log: only those that were there from the beginning do. */
static int cpu_comes(unsigned int cpu)
{
	WRITE_ONCE(deaf, true);
	/* Who sleeps in poll() already would not hear of it. */
	ooh_spaces_wake();
	return 0;
}

/* The kernel moves its interrupt elsewhere. Nothing of a Tracked runs there any more. */
static int cpu_gone(unsigned int cpu)
{
	per_cpu(vector, cpu) = 0;
	return 0;
}

static void find_tracepoint(struct tracepoint *tp, void *data)
{
	if (!strcmp(tp->name, "sched_switch"))
		sched_switch = tp;
}

static int logs_on(void)
{
	unsigned int cpu;
	int err;

	for_each_kernel_tracepoint(find_tracepoint, NULL);
	if (!sched_switch)
		return -EOPNOTSUPP;
	WRITE_ONCE(deaf, false);
	err = cpuhp_setup_state_nocalls(CPUHP_BP_PREPARE_DYN, "ooh:log", cpu_comes, cpu_gone);
	if (err < 0)
		return err;
	cpu_state = err;
	cpus_read_lock();
	for_each_online_cpu(cpu)
		if (vector_on(cpu) || !per_cpu(vector, cpu)) {
			WRITE_ONCE(deaf, true);
			pr_info("no interrupt for the log of CPU %u\n", cpu);
		}
	cpus_read_unlock();
	err = probes_on();
	if (err)
		goto err_vectors;
	err = tracepoint_probe_register(sched_switch, on_switch, NULL);
	if (err)
		goto err_probes;
	return 0;

err_probes:
	unregister_fprobe(&use_mm_probe);
	probes_off(ARRAY_SIZE(probes));
err_vectors:
	for_each_possible_cpu(cpu)
		vector_off(cpu);
	cpuhp_remove_state_nocalls(cpu_state);
	return err;
}

static void logs_off(void)
{
	unsigned int cpu;

	tracepoint_probe_unregister(sched_switch, on_switch, NULL);
	tracepoint_synchronize_unregister();
	unregister_fprobe(&use_mm_probe);
	probes_off(ARRAY_SIZE(probes));
	for_each_possible_cpu(cpu)
		vector_off(cpu);
	cpuhp_remove_state_nocalls(cpu_state);
}

/*
 * All of that takes a while: it stays for some seconds after the last log. The
 * lock is taken inside that of space.c, and cpus_read_lock() inside it.
 */
static DEFINE_MUTEX(users_lock);
static unsigned int users;
static bool on;

static void off_later(struct work_struct *work)
{
	mutex_lock(&users_lock);
	if (on && !users) {
		logs_off();
		on = false;
	}
	mutex_unlock(&users_lock);
}

static DECLARE_DELAYED_WORK(off_work, off_later);

int ooh_logs_get(void)
{
	int err = 0;

	mutex_lock(&users_lock);
	if (!on)
		err = logs_on();
	if (!err) {
		on = true;
		users++;
	}
	mutex_unlock(&users_lock);
	return err;
}

void ooh_logs_put(void)
{
	mutex_lock(&users_lock);
	if (!--users)
		mod_delayed_work(system_wq, &off_work, 5 * HZ);
	mutex_unlock(&users_lock);
}

static void free_log(struct ooh_log __percpu *logs)
{
	unsigned int cpu, i;

	for_each_possible_cpu(cpu) {
		struct ooh_log *log = per_cpu_ptr(logs, cpu);

		for (i = 0; i < 2 * SET_PAGES; i++)
			free_page((unsigned long)log->set[i / SET_PAGES].page[i % SET_PAGES]);
	}
	free_percpu(logs);
}

int ooh_log_new(struct ooh_space *space)
{
	struct ooh_log __percpu *logs = alloc_percpu_gfp(struct ooh_log, GFP_KERNEL_ACCOUNT | __GFP_ZERO);
	unsigned int cpu, i;

	if (!logs)
		return -ENOMEM;
	for_each_possible_cpu(cpu) {
		struct ooh_log *log = per_cpu_ptr(logs, cpu);

		for (i = 0; i < 2 * SET_PAGES; i++) {
			u64 *page = (void *)get_zeroed_page(GFP_KERNEL_ACCOUNT);

			log->set[i / SET_PAGES].page[i % SET_PAGES] = page;
			if (!page)
				goto err_log;
		}
		reset_set(&log->set[0]);
		reset_set(&log->set[1]);
	}
	space->log = logs;
	return 0;

err_log:
	free_log(logs);
	return -ENOMEM;
}

/* The space can be found by its mm now: log those of its threads that run. */
void ooh_log_start(void)
{
	on_each_cpu(switch_current, NULL, 1);
}

/* It cannot be found any more, and nobody is in the middle of that. */
void ooh_log_free(struct ooh_space *space)
{
	on_each_cpu(leave, space, 1);
	free_log(space->log);
	space->log = NULL;
}

/* Nobody tracks any more. */
void ooh_logs_exit(void)
{
	cancel_delayed_work_sync(&off_work);
	off_later(NULL);
	if (filters)
		free_filters(ARRAY_SIZE(probes));
}
