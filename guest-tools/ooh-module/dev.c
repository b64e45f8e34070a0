// SPDX-License-Identifier: GPL-2.0
/* /dev/ooh: one open file tracks one address space. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/file.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/poll.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "ooh.h"

struct ooh_file {
	struct rw_semaphore lock;	/* for writing: space and ring change; taken first of all */
	struct ooh_space *space;	/* NULL: nothing is tracked (any more) */
	struct ooh_ring_buffer *ring;	/* set once */
	wait_queue_head_t wait;		/* pollers */
};

static const struct file_operations *pagemap_ops;

static const struct vm_operations_struct ring_vm_ops = {};

static bool all_zero(const u64 *words, size_t count)
{
	return !memchr_inv(words, 0, count * sizeof(*words));
}

/*
 * The address space of a process, if the caller may look into it. What "may"
 * means is decided where it always is, by opening /proc/PID/pagemap: that file's
 * private data is the address space, with a reference. If the caller has
 * something else in his /proc, it is not such a file.
 */
static struct mm_struct *mm_of(pid_t pid)
{
	struct mm_struct *mm;
	struct file *file;
	char path[32];

	if (!pid) {
		if (!current->mm)
			return ERR_PTR(-ESRCH);
		mmgrab(current->mm);
		return current->mm;
	}
	snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
	file = filp_open(path, O_RDONLY, 0);
	if (IS_ERR(file))
		return file == ERR_PTR(-ENOENT) ? ERR_PTR(-ESRCH) : ERR_CAST(file);
	mm = file->f_op == pagemap_ops ? file->private_data : NULL;
	if (mm)
		mmgrab(mm);
	fput(file);
	return mm ?: ERR_PTR(-ESRCH);
}

static long ioctl_info(void __user *arg)
{
	struct ooh_info info = {
		.abi = OOH_ABI,
		.features = ooh_host_features(),
		.page_size = PAGE_SIZE,
		.max_order = OOH_MAX_ORDER,
	};

	return copy_to_user(arg, &info, sizeof(info)) ? -EFAULT : 0;
}

static int track(struct ooh_file *f, struct ooh_track_args *args)
{
	struct ooh_ring_buffer *ring;
	struct ooh_space *space;
	struct mm_struct *mm;
	int err;

	lockdep_assert_held_write(&f->lock);
	if (f->ring)
		return -EBUSY;
	mm = mm_of(args->pid);
	if (IS_ERR(mm))
		return PTR_ERR(mm);
	err = -ENOMEM;
	ring = ooh_ring_new(args->ring_order);
	if (!ring)
		goto err_mm;
	err = -ESRCH;
	if (!mmget_not_zero(mm))
		goto err_ring;
	space = ooh_space_new(mm, ring, &f->wait, &ring_vm_ops, args->features & OOH_F_EPML);
	if (IS_ERR(space) && !args->flags && args->features & OOH_F_EPML) {
		/* Another file may have the log of this process: the host's will do. */
		args->features = OOH_F_SPML;
		space = ooh_space_new(mm, ring, &f->wait, &ring_vm_ops, false);
	}
	mmput(mm);
	err = PTR_ERR_OR_ZERO(space);
	if (err)
		goto err_ring;
	mmdrop(mm);
	args->ring_bytes = ooh_ring_bytes(ring);
	f->space = space;
	smp_store_release(&f->ring, ring); /* for ooh_mmap() */
	return 0;

err_ring:
	ooh_ring_free(ring);
err_mm:
	mmdrop(mm);
	return err;
}

static long ioctl_track(struct ooh_file *f, void __user *arg)
{
	u32 have = ooh_host_features();
	struct ooh_track_args args;
	int err;

	if (copy_from_user(&args, arg, sizeof(args)))
		return -EFAULT;
	if (args.pid < 0 || args.ring_order > OOH_MAX_ORDER ||
	    (args.flags & ~(OOH_F_SPML | OOH_F_EPML)) || hweight32(args.flags) > 1 ||
	    !all_zero(args.reserved, ARRAY_SIZE(args.reserved)))
		return -EINVAL;
	if (!have || (args.flags & ~have))
		return -EOPNOTSUPP;
	args.features = args.flags ?: have & OOH_F_EPML ?: have & OOH_F_SPML;
	if (down_write_killable(&f->lock))
		return -EINTR;
	err = track(f, &args);
	up_write(&f->lock);
	if (err)
		return err;
	/* Tracking is on all the same; the caller closes the file. */
	if (copy_to_user(arg, &args, sizeof(args)))
		return -EFAULT;
	return 0;
}

static long ioctl_fetch(struct ooh_file *f, void __user *arg)
{
	struct ooh_fetch_args args;
	int err = -ENXIO;

	if (copy_from_user(&args, arg, sizeof(args)))
		return -EFAULT;
	if ((args.flags & ~(OOH_FETCH_REST | OOH_FETCH_DISCARD)) || args.pad ||
	    !all_zero(args.reserved, ARRAY_SIZE(args.reserved)))
		return -EINVAL;
	args.status = 0;
	args.pages = 0;
	args.records = 0;
	if (down_read_killable(&f->lock))
		return -EINTR;
	if (f->space)
		err = ooh_space_fetch(f->space, &args);
	up_read(&f->lock);
	if (err)
		return err;
	return copy_to_user(arg, &args, sizeof(args)) ? -EFAULT : 0;
}

static long ioctl_stats(struct ooh_file *f, void __user *arg)
{
	struct ooh_stats_args stats;
	int err = -ENXIO;

	if (down_read_killable(&f->lock))
		return -EINTR;
	if (f->space) {
		ooh_space_stats(f->space, &stats);
		err = 0;
	}
	up_read(&f->lock);
	if (err)
		return err;
	return copy_to_user(arg, &stats, sizeof(stats)) ? -EFAULT : 0;
}

/* The ring stays, it may be mapped; a file tracks once. */
static long ioctl_untrack(struct ooh_file *f)
{
	struct ooh_space *space;

	if (down_write_killable(&f->lock))
		return -EINTR;
	space = f->space;
	f->space = NULL;
	up_write(&f->lock);
	if (!space)
		return -ENXIO;
	ooh_space_free(space);
	wake_up_interruptible_poll(&f->wait, EPOLLERR);
	return 0;
}

static long ooh_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct ooh_file *f = file->private_data;
	void __user *user = (void __user *)arg;

	switch (cmd) {
	case OOH_INFO:
		return ioctl_info(user);
	case OOH_TRACK:
		return ioctl_track(f, user);
	case OOH_FETCH:
		return ioctl_fetch(f, user);
	case OOH_UNTRACK:
		return ioctl_untrack(f);
	case OOH_STATS:
		return ioctl_stats(f, user);
	default:
		return -ENOTTY;
	}
}

static __poll_t ooh_poll(struct file *file, poll_table *wait)
{
	struct ooh_file *f = file->private_data;
	__poll_t events = EPOLLERR;

	poll_wait(file, &f->wait, wait);
	down_read(&f->lock);
	if (f->space)
		events = ooh_space_poll(f->space);
	up_read(&f->lock);
	return events;
}

static int ooh_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct ooh_file *f = file->private_data;
	int err;

	if (!(vma->vm_flags & VM_SHARED) || vma->vm_pgoff)
		return -EINVAL;
	/* Not f->lock: a fetch holds it when it takes mmap_lock. ring is set once. */
	if (!smp_load_acquire(&f->ring))
		return -ENXIO;
	err = ooh_ring_mmap(f->ring, vma);
	if (!err)
		vma->vm_ops = &ring_vm_ops;
	return err;
}

static int ooh_open(struct inode *inode, struct file *file)
{
	struct ooh_file *f = kzalloc(sizeof(*f), GFP_KERNEL_ACCOUNT);

	if (!f)
		return -ENOMEM;
	init_rwsem(&f->lock);
	init_waitqueue_head(&f->wait);
	file->private_data = f;
	return nonseekable_open(inode, file);
}

static int ooh_release(struct inode *inode, struct file *file)
{
	struct ooh_file *f = file->private_data;

	if (f->space)
		ooh_space_free(f->space);
	ooh_ring_free(f->ring);
	kfree(f);
	return 0;
}

static const struct file_operations ooh_fops = {
	.owner = THIS_MODULE,
	.open = ooh_open,
	.release = ooh_release,
	.unlocked_ioctl = ooh_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.poll = ooh_poll,
	.mmap = ooh_mmap,
};

/* Who may track whom is decided per process, so everybody may open it. */
static struct miscdevice ooh_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "ooh",
	.mode = 0666,
	.fops = &ooh_fops,
};

/* Which operations a true /proc/PID/pagemap has. */
static int learn_pagemap(void)
{
	struct file *file = filp_open("/proc/self/pagemap", O_RDONLY, 0);

	if (IS_ERR(file)) {
		pr_err("cannot open /proc/self/pagemap: error %ld\n", PTR_ERR(file));
		return PTR_ERR(file);
	}
	pagemap_ops = file->f_op;
	fput(file);
	return 0;
}

static int __init ooh_init(void)
{
	int err;

	err = learn_pagemap();
	if (err)
		return err;
	err = ooh_groups_init();
	if (err)
		return err;
	err = ooh_probes_init();
	if (err)
		goto err_groups;
	err = ooh_logs_init();
	if (err)
		goto err_probes;
	err = misc_register(&ooh_device);
	if (err)
		goto err_logs;
	if (!ooh_host_features())
		pr_info("this VM's host has no OoH (-cpu ...,+kvm-ooh)\n");
	return 0;

err_logs:
	ooh_logs_exit();
err_probes:
	ooh_probes_exit();
err_groups:
	ooh_groups_exit();
	return err;
}

static void __exit ooh_exit(void)
{
	misc_deregister(&ooh_device);
	ooh_logs_exit();
	ooh_probes_exit();
	ooh_groups_exit();
}

module_init(ooh_init);
module_exit(ooh_exit);
MODULE_DESCRIPTION("Which pages of a process were written, from the host's log");
MODULE_LICENSE("GPL");
