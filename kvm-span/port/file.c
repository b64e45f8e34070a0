// SPDX-License-Identifier: GPL-2.0
/*
 * span_port: /dev/spanN.
 */
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/poll.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/uio.h>

#include "port.h"

/* read() and write() copy through a buffer of at most this size. */
#define BOUNCE_BYTES	(64 * 1024)

static int span_port_open(struct inode *inode, struct file *file)
{
	struct span_port *port = container_of(inode->i_cdev, struct span_port, cdev);
	bool may_wait = (file->f_flags & O_NONBLOCK) && !(file->f_mode & FMODE_WRITE);
	struct span_file *sf;
	int ret = 0;

	sf = kzalloc(sizeof(*sf), GFP_KERNEL_ACCOUNT);
	if (!sf)
		return -ENOMEM;
	sf->port = port;

	/* Do not depend on when the interrupt comes. */
	span_port_refresh(port);
	down_read(&port->sem);
	sf->generation = port->now.generation;
	sf->seen = port->changes;
	if (port->gone || (!sf->generation && !may_wait))
		ret = -ENODEV;
	up_read(&port->sem);
	if (ret) {
		kfree(sf);
		return ret;
	}

	get_device(&port->dev);
	file->private_data = sf;
	/* All opens of all nodes share one mapping, so one call unmaps all. */
	file->f_mapping = port->inode->i_mapping;
	return 0;
}

static int span_port_release(struct inode *inode, struct file *file)
{
	struct span_file *sf = file->private_data;
	struct span_port *port = sf->port;

	kfree(sf);
	put_device(&port->dev);
	return 0;
}

/*
 * Another hypervisor may deny this L1 a page of the guest, for reading too: L0
 * then ends the access in a general protection fault. So the kernel touches the
 * window only in a way that survives one. Both within one page.
 */
static int read_page(void *to, const void *from, size_t len)
{
	return copy_from_kernel_nofault(to, from, len) ? -EFAULT : 0;
}

static int write_page(void *to, const void *from, size_t len)
{
	pagefault_disable();
	for (; len >= sizeof(u64); len -= sizeof(u64)) {
		__put_kernel_nofault(to, from, u64, denied);
		to += sizeof(u64);
		from += sizeof(u64);
	}
	for (; len; len--) {
		__put_kernel_nofault(to, from, u8, denied);
		to++;
		from++;
	}
	pagefault_enable();
	return 0;

denied:
	pagefault_enable();
	return -EFAULT;
}

/* Returns what was copied before a page that is denied, or EFAULT. */
static ssize_t copy_pages(void *window, void *buf, size_t len, bool write)
{
	size_t done, n;
	int ret = 0;

	for (done = 0; done < len; done += n) {
		n = min_t(size_t, len - done, PAGE_SIZE - offset_in_page(window + done));
		if (write)
			ret = write_page(window + done, buf + done, n);
		else
			ret = read_page(buf + done, window + done, n);
		if (ret)
			break;
	}
	return done ?: ret;
}

/*
 * Copy @len bytes at @pos out of (or into) the window. Returns what was
 * copied, 0 at or after the end, or an error. @buf is kernel memory: user
 * memory could fault, and a fault on the window needs sem.
 */
static ssize_t copy_window(struct span_file *sf, void *buf, loff_t pos, size_t len, bool write)
{
	struct span_port *port = sf->port;
	ssize_t ret;

	down_read(&port->sem);
	ret = -ENODEV;
	if (!span_file_live(sf))
		goto unlock;
	ret = -EACCES;
	if (write && span_readonly(&port->now))
		goto unlock;
	ret = 0;
	if (pos >= port->now.bytes)
		goto unlock;
	ret = copy_pages(port->window + pos, buf, min_t(u64, len, port->now.bytes - pos), write);
unlock:
	up_read(&port->sem);
	return ret;
}

static ssize_t span_port_read_iter(struct kiocb *iocb, struct iov_iter *to)
{
	struct span_file *sf = iocb->ki_filp->private_data;
	size_t size = clamp_t(size_t, iov_iter_count(to), 1, BOUNCE_BYTES);
	ssize_t ret = 0, done = 0;
	size_t copied;
	void *buf;

	buf = kvmalloc(size, GFP_KERNEL);
	if (!buf)
		return -ENOMEM;
	do {
		ret = copy_window(sf, buf, iocb->ki_pos,
				  min(size, iov_iter_count(to)), false);
		if (ret <= 0)
			break;
		copied = copy_to_iter(buf, ret, to);
		iocb->ki_pos += copied;
		done += copied;
		if (copied < ret) {
			ret = -EFAULT;
			break;
		}
		if (signal_pending(current)) {
			ret = -EINTR;
			break;
		}
		cond_resched();
	} while (iov_iter_count(to));
	kvfree(buf);
	return done ?: ret;
}

static ssize_t span_port_write_iter(struct kiocb *iocb, struct iov_iter *from)
{
	struct span_file *sf = iocb->ki_filp->private_data;
	size_t size = clamp_t(size_t, iov_iter_count(from), 1, BOUNCE_BYTES);
	ssize_t ret = 0, done = 0;
	size_t copied;
	void *buf;

	buf = kvmalloc(size, GFP_KERNEL);
	if (!buf)
		return -ENOMEM;
	do {
		copied = copy_from_iter(buf, min(size, iov_iter_count(from)), from);
		if (!copied && iov_iter_count(from)) {
			ret = -EFAULT;
			break;
		}
		ret = copy_window(sf, buf, iocb->ki_pos, copied, true);
		if (!ret && copied)
			ret = -ENOSPC;
		if (ret <= 0)
			break;
		iocb->ki_pos += ret;
		done += ret;
		if (ret < copied)
			break;
		if (signal_pending(current)) {
			ret = -EINTR;
			break;
		}
		cond_resched();
	} while (iov_iter_count(from));
	kvfree(buf);
	return done ?: ret;
}

static loff_t span_port_llseek(struct file *file, loff_t offset, int whence)
{
	struct span_file *sf = file->private_data;
	loff_t bytes = -ENODEV;

	down_read(&sf->port->sem);
	if (span_file_live(sf))
		bytes = sf->port->now.bytes;
	up_read(&sf->port->sem);
	if (bytes < 0)
		return bytes;
	return fixed_size_llseek(file, offset, whence, bytes);
}

static __poll_t span_port_poll(struct file *file, poll_table *wait)
{
	struct span_file *sf = file->private_data;
	struct span_port *port = sf->port;
	__poll_t mask = 0;

	poll_wait(file, &port->changed, wait);
	down_read(&port->sem);
	if (span_file_live(sf))
		mask |= EPOLLIN | EPOLLRDNORM |
			(span_readonly(&port->now) ? 0 : EPOLLOUT | EPOLLWRNORM);
	if (sf->seen != port->changes)
		mask |= EPOLLPRI;
	if (span_file_stale(sf))
		mask |= EPOLLHUP;
	up_read(&port->sem);
	return mask;
}

/* Answers EINVAL, E2BIG or EFAULT, or 0 and *@size. Every call begins with its size. */
int span_port_fetch_args(void *args, size_t known, const void __user *user, u32 *size)
{
	if (get_user(*size, (const u32 __user *)user))
		return -EFAULT;
	if (*size < known || *size > PAGE_SIZE)
		return -EINVAL;
	return copy_struct_from_user(args, known, user, *size);
}

static long get_info(struct span_file *sf, void __user *user)
{
	struct span_port *port = sf->port;
	struct span_port_info info;
	u32 size;
	int ret;

	ret = span_port_fetch_args(&info, sizeof(info), user, &size);
	if (ret)
		return ret;
	if (info.flags)
		return -EINVAL;
	span_port_refresh(port);

	memset(&info, 0, sizeof(info));
	info.size = sizeof(info);
	info.version = port->version;
	info.features = port->features;
	info.window_bytes = port->window_bytes;
	info.window_phys = port->window_phys;
	info.faults_pte = atomic64_read(&port->faults_pte);
	info.faults_pmd = atomic64_read(&port->faults_pmd);
	down_read(&port->sem);
	if (span_file_stale(sf)) {
		ret = -ENODEV;
	} else {
		info.status = port->now.status;
		info.generation = port->last_generation;
		info.bytes = port->now.bytes;
		memcpy(info.name, port->now.name, sizeof(info.name));
		sf->seen = port->changes;
	}
	up_read(&port->sem);
	if (ret)
		return ret;
	return copy_to_user(user, &info, sizeof(info)) ? -EFAULT : 0;
}

static int file_generation(struct span_file *sf, u32 *generation)
{
	int ret = 0;

	down_read(&sf->port->sem);
	if (span_file_stale(sf))
		ret = -ENODEV;
	*generation = sf->generation;
	up_read(&sf->port->sem);
	return ret;
}

static long call_l0(struct span_file *sf, void __user *user)
{
	struct span_port_call call;
	u32 size, generation;
	int ret;

	ret = span_port_fetch_args(&call, sizeof(call), user, &size);
	if (ret)
		return ret;
	if (call.flags || call.pad || call.len > sizeof(call.payload))
		return -EINVAL;
	ret = file_generation(sf, &generation);
	if (ret)
		return ret;
	ret = span_ring_call(sf->port, generation, &call);
	if (ret)
		return ret;
	return copy_to_user(user, &call, sizeof(call)) ? -EFAULT : 0;
}

static long make_watch(struct span_file *sf, void __user *user)
{
	struct span_port_watch args;
	u32 size, generation;
	int ret;

	ret = span_port_fetch_args(&args, sizeof(args), user, &size);
	if (ret)
		return ret;
	if (args.flags)
		return -EINVAL;
	ret = file_generation(sf, &generation);
	if (ret)
		return ret;
	return span_watch_open(sf->port, generation, &args);
}

static long make_channel(struct span_file *sf, void __user *user)
{
	struct span_port_channel args;
	u32 size;
	int ret;

	ret = span_port_fetch_args(&args, sizeof(args), user, &size);
	if (ret)
		return ret;
	if (args.flags)
		return -EINVAL;
	return span_channel_open(sf);
}

static long request_detach(struct span_file *sf)
{
	u32 generation;
	int ret;

	ret = file_generation(sf, &generation);
	if (ret)
		return ret;
	if (!generation)
		return -ENODEV;
	return span_port_command(sf->port, SPAN_CMD_DETACH_REQUEST, generation);
}

static long span_port_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct span_file *sf = file->private_data;
	void __user *user = (void __user *)arg;

	if (_IOC_TYPE(cmd) != SPAN_PORT_IO)
		return -ENOTTY;
	/* The size in the number is that of version 1; the structure has its own. */
	switch (_IOC_NR(cmd)) {
	case _IOC_NR(SPAN_PORT_GET_INFO):
		return get_info(sf, user);
	case _IOC_NR(SPAN_PORT_CALL):
		return call_l0(sf, user);
	case _IOC_NR(SPAN_PORT_DETACH):
		return request_detach(sf);
	case _IOC_NR(SPAN_PORT_WATCH):
		return make_watch(sf, user);
	case _IOC_NR(SPAN_PORT_CHANNEL):
		return make_channel(sf, user);
	default:
		return -ENOTTY;
	}
}

const struct file_operations span_port_fops = {
	.owner = THIS_MODULE,
	.open = span_port_open,
	.release = span_port_release,
	.read_iter = span_port_read_iter,
	.write_iter = span_port_write_iter,
	.splice_read = copy_splice_read,
	.llseek = span_port_llseek,
	.poll = span_port_poll,
	.mmap = span_port_mmap,
	/* 2 MiB aligned, so that PMDs fit */
	.get_unmapped_area = thp_get_unmapped_area,
	.unlocked_ioctl = span_port_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};
