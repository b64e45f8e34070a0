// SPDX-License-Identifier: GPL-2.0
/*
 * span_port: a watch, the file descriptor that SPAN_PORT_WATCH makes.
 *
 * The watch itself lives on L0 and ends there with the attachment. Here are its
 * queue of events and the calls, each of which is one message to L0.
 */
#include <linux/anon_inodes.h>
#include <linux/delay.h>
#include <linux/file.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/pagemap.h>
#include <linux/poll.h>
#include <linux/sched/signal.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "port.h"

/* An answer that finds the ring full waits so many milliseconds for L0. */
#define ANSWER_TRIES	100
#define ANSWER_BATCH	16

/* --- the queue --- */

/*
 * A place for one more event: a free one, else the oldest notice's. An event
 * that wants an answer is not given up for anything. Caller holds w->lock.
 */
static struct span_watch_node *get_node(struct span_watch *w)
{
	struct span_watch_node *node;

	node = list_first_entry_or_null(&w->free, struct span_watch_node, all);
	if (node)
		return node;
	w->dropped++;
	node = list_first_entry_or_null(&w->notices, struct span_watch_node, notices);
	if (node)
		list_del_init(&node->notices);
	return node;
}

/* Caller holds event_lock, so @w stays. */
void span_watch_post(struct span_watch *w, const struct span_watch_event *event)
{
	struct span_watch_node *node;

	spin_lock(&w->lock);
	node = get_node(w);
	if (node) {
		node->event = *event;
		list_move_tail(&node->all, &w->queue);
		if (!event->event)
			list_add_tail(&node->notices, &w->notices);
	}
	spin_unlock(&w->lock);
	wake_up_interruptible_poll(&w->wait, EPOLLIN | EPOLLRDNORM);
}

/* The attachment is over. Caller holds event_lock. */
void span_watch_kill(struct span_watch *w)
{
	spin_lock(&w->lock);
	w->dead = true;
	spin_unlock(&w->lock);
	wake_up_interruptible_poll(&w->wait, EPOLLHUP | EPOLLIN | EPOLLRDNORM);
}

/* 0 and *@event, EAGAIN or ENODEV. */
static int take_event(struct span_watch *w, struct span_watch_event *event)
{
	struct span_watch_node *node;
	int ret = 0;

	spin_lock(&w->lock);
	node = list_first_entry_or_null(&w->queue, struct span_watch_node, all);
	if (w->dead) {
		ret = -ENODEV;
	} else if (!node) {
		ret = -EAGAIN;
	} else {
		*event = node->event;
		list_del_init(&node->notices);
		list_move(&node->all, &w->free);
	}
	spin_unlock(&w->lock);
	return ret;
}

/* It could not be given to the reader: first in the queue again. */
static void untake_event(struct span_watch *w, const struct span_watch_event *event)
{
	struct span_watch_node *node;

	spin_lock(&w->lock);
	node = get_node(w);
	if (node) {
		node->event = *event;
		list_move(&node->all, &w->queue);
		if (!event->event)
			list_add(&node->notices, &w->notices);
	}
	spin_unlock(&w->lock);
}

static bool something_to_say(struct span_watch *w)
{
	bool yes;

	spin_lock(&w->lock);
	yes = w->dead || !list_empty(&w->queue);
	spin_unlock(&w->lock);
	return yes;
}

static ssize_t watch_read(struct file *file, char __user *buf, size_t len, loff_t *pos)
{
	struct span_watch *w = file->private_data;
	struct span_watch_event event;
	size_t done = 0;
	int ret = 0;

	if (len < sizeof(event))
		return -EINVAL;
	while (len - done >= sizeof(event)) {
		ret = take_event(w, &event);
		if (ret == -EAGAIN && !done && !(file->f_flags & O_NONBLOCK)) {
			ret = wait_event_interruptible(w->wait, something_to_say(w));
			if (!ret)
				continue;
		}
		if (ret)
			break;
		if (copy_to_user(buf + done, &event, sizeof(event))) {
			untake_event(w, &event);
			ret = -EFAULT;
			break;
		}
		done += sizeof(event);
	}
	return done ?: ret;
}

static __poll_t watch_poll(struct file *file, poll_table *wait)
{
	struct span_watch *w = file->private_data;
	__poll_t mask;

	poll_wait(file, &w->wait, wait);
	spin_lock(&w->lock);
	if (w->dead)
		mask = EPOLLHUP;
	else
		mask = EPOLLOUT | EPOLLWRNORM |
		       (list_empty(&w->queue) ? 0 : EPOLLIN | EPOLLRDNORM);
	spin_unlock(&w->lock);
	return mask;
}

/* --- answers --- */

static int check_answers(const struct span_watch_answer *a, unsigned int count)
{
	for (; count--; a++) {
		if (!a->event || (a->flags & ~SPAN_ANSWER_CANCEL))
			return -EINVAL;
		if (a->verdict != SPAN_ALLOW && a->verdict != SPAN_DENY)
			return -EINVAL;
	}
	return 0;
}

/* Sends all of them unless the ring stays full. Returns the number, or an error. */
static int send_answers(struct span_watch *w, const struct span_watch_answer *a,
			unsigned int count, bool wait)
{
	unsigned int done = 0, tries = 0;
	int ret;

	for (;;) {
		ret = span_events_answer(w, a + done, count - done);
		if (ret > 0)
			done += ret;
		if (done == count)
			return done;
		if (ret < 0 && ret != -EAGAIN)
			break;
		ret = -EAGAIN;
		if (!wait || tries++ == ANSWER_TRIES)
			break;
		if (msleep_interruptible(1)) {
			ret = -EINTR;
			break;
		}
	}
	return done ?: ret;
}

static ssize_t watch_write(struct file *file, const char __user *buf, size_t len, loff_t *pos)
{
	struct span_watch_answer answers[ANSWER_BATCH];
	struct span_watch *w = file->private_data;
	unsigned int count;
	size_t done = 0;
	int ret = 0;

	if (!len || len % sizeof(answers[0]))
		return -EINVAL;
	while (done < len) {
		count = min_t(size_t, (len - done) / sizeof(answers[0]), ANSWER_BATCH);
		if (copy_from_user(answers, buf + done, count * sizeof(answers[0])))
			ret = -EFAULT;
		else
			ret = check_answers(answers, count);
		if (ret)
			break;
		ret = send_answers(w, answers, count, !(file->f_flags & O_NONBLOCK));
		if (ret < 0)
			break;
		done += ret * sizeof(answers[0]);
		if (ret < count || signal_pending(current))
			break;
		cond_resched();
	}
	return done ?: ret;
}

/* --- requests --- */

/* Caller holds watch_lock. */
int span_watch_destroy(struct span_port *port, u32 generation, u32 id)
{
	struct span_msg_watch m = { .watch = cpu_to_le32(id) };
	struct span_msg_reply reply;

	return span_ring_request(port, generation, SPAN_MSG_WATCH_DESTROY,
				 &m, sizeof(m), &reply);
}

static int lock_port(struct span_port *port)
{
	return mutex_lock_killable(&port->watch_lock) ? -EINTR : 0;
}

static int change_range(struct span_watch *w, u16 type, void __user *user)
{
	struct span_watch_range range;
	struct span_msg_reply reply;
	struct span_msg_watch m;
	u32 size;
	int ret;

	ret = span_port_fetch_args(&range, sizeof(range), user, &size);
	if (ret)
		return ret;
	if (range.flags)
		return -EINVAL;
	m = (struct span_msg_watch) {
		.watch = cpu_to_le32(w->id),
		.access = cpu_to_le32(range.access),
		.mode = cpu_to_le32(range.mode),
		.first = cpu_to_le64(range.first),
		.pages = cpu_to_le64(range.pages),
	};
	ret = lock_port(w->port);
	if (ret)
		return ret;
	ret = span_ring_request(w->port, w->generation, type, &m, sizeof(m), &reply);
	mutex_unlock(&w->port->watch_lock);
	return ret;
}

/* Fills @out from the data area, as L0 left it. Caller holds watch_lock. */
static int copy_ranges(struct span_port *port, struct span_watch_range_out *out, u32 count)
{
	const struct span_log_range *in = port->ev.data;
	u32 i;

	for (i = 0; i < count; i++) {
		out[i].first = le64_to_cpu(in[i].first);
		out[i].pages = le64_to_cpu(in[i].pages);
	}
	return count;
}

/* Asks L0; @out has room for fetch->max. */
static int request_log(struct span_watch *w, struct span_watch_fetch *fetch,
		       struct span_watch_range_out *out)
{
	struct span_msg_watch m = {
		.watch = cpu_to_le32(w->id),
		.max = cpu_to_le32(fetch->max),
		.first = cpu_to_le64(fetch->first),
		.pages = cpu_to_le64(fetch->pages),
	};
	struct span_msg_reply reply;
	int ret;

	ret = lock_port(w->port);
	if (ret)
		return ret;
	ret = span_ring_request(w->port, w->generation, SPAN_MSG_LOG_FETCH,
				&m, sizeof(m), &reply);
	if (ret)
		goto unlock;
	if (le64_to_cpu(reply.value[0]) > fetch->max) {
		ret = -EPROTO;
		goto unlock;
	}
	fetch->count = copy_ranges(w->port, out, le64_to_cpu(reply.value[0]));
	fetch->next = le64_to_cpu(reply.value[1]);
	fetch->dirty = le64_to_cpu(reply.value[2]);
unlock:
	mutex_unlock(&w->port->watch_lock);
	return ret;
}

static long fetch_log(struct span_watch *w, void __user *user)
{
	struct span_watch_range_out *out;
	struct span_watch_fetch fetch;
	void __user *ranges;
	size_t bytes;
	u32 size;
	int ret;

	ret = span_port_fetch_args(&fetch, sizeof(fetch), user, &size);
	if (ret)
		return ret;
	if (fetch.flags || !fetch.max || fetch.max > SPAN_LOG_MAX_RANGES)
		return -EINVAL;
	ranges = u64_to_user_ptr(fetch.ranges);
	bytes = array_size(fetch.max, sizeof(*out));
	/*
	 * What is fetched leaves the log. Do not begin if it cannot be delivered:
	 * this writes zeroes into the ranges, and what the structure holds already.
	 */
	if (fault_in_writeable(ranges, bytes) || copy_to_user(user, &fetch, sizeof(fetch)))
		return -EFAULT;
	out = kvmalloc(bytes, GFP_KERNEL_ACCOUNT);
	if (!out)
		return -ENOMEM;
	ret = request_log(w, &fetch, out);
	if (!ret && (copy_to_user(ranges, out, fetch.count * sizeof(*out)) ||
		     copy_to_user(user, &fetch, sizeof(fetch))))
		ret = -EFAULT;
	kvfree(out);
	return ret;
}

static int request_info(struct span_watch *w, struct span_watch_info *info)
{
	struct span_msg_watch m = { .watch = cpu_to_le32(w->id) };
	struct span_msg_reply reply;
	int ret;

	ret = lock_port(w->port);
	if (ret)
		return ret;
	ret = span_ring_request(w->port, w->generation, SPAN_MSG_WATCH_INFO,
				&m, sizeof(m), &reply);
	/* x86 is little-endian, and so is the structure */
	if (!ret)
		memcpy(info, w->port->ev.data, sizeof(*info));
	mutex_unlock(&w->port->watch_lock);
	return ret;
}

static long get_info(struct span_watch *w, void __user *user)
{
	struct span_watch_info info;
	u32 size;
	int ret;

	ret = span_port_fetch_args(&info, sizeof(info), user, &size);
	if (ret)
		return ret;
	if (info.flags)
		return -EINVAL;
	ret = request_info(w, &info);
	if (ret)
		return ret;
	info.size = sizeof(info);
	info.flags = 0;
	info.watch = w->id;
	spin_lock(&w->lock);
	info.lost += w->dropped;
	spin_unlock(&w->lock);
	return copy_to_user(user, &info, sizeof(info)) ? -EFAULT : 0;
}

static long watch_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct span_watch *w = file->private_data;
	void __user *user = (void __user *)arg;

	if (_IOC_TYPE(cmd) != SPAN_PORT_IO)
		return -ENOTTY;
	switch (_IOC_NR(cmd)) {
	case _IOC_NR(SPAN_WATCH_SUBSCRIBE):
		return change_range(w, SPAN_MSG_SUBSCRIBE, user);
	case _IOC_NR(SPAN_WATCH_UNSUBSCRIBE):
		return change_range(w, SPAN_MSG_UNSUBSCRIBE, user);
	case _IOC_NR(SPAN_WATCH_PROTECT):
		return change_range(w, SPAN_MSG_PROTECT, user);
	case _IOC_NR(SPAN_WATCH_LOG_FETCH):
		return fetch_log(w, user);
	case _IOC_NR(SPAN_WATCH_GET_INFO):
		return get_info(w, user);
	default:
		return -ENOTTY;
	}
}

static void watch_show_fdinfo(struct seq_file *m, struct file *file)
{
	struct span_watch *w = file->private_data;

	seq_printf(m, "span-port:\t%s\nwatch:\t%u\ngeneration:\t%u\n",
		   dev_name(&w->port->dev), w->id, w->generation);
}

/* --- life --- */

static void free_watch(struct span_watch *w)
{
	put_device(&w->port->dev);
	kvfree(w->nodes);
	kfree(w);
}

/*
 * L0 is asked to end it, and given CONTROL_TIMEOUT. If it does not answer, the
 * watch's accesses go by on_timeout there, and it is ended when L0 answers
 * something again, or an event comes of it (event.c).
 */
static int watch_release(struct inode *inode, struct file *file)
{
	struct span_watch *w = file->private_data;
	struct span_port *port = w->port;
	bool dead;

	mutex_lock(&port->watch_lock);
	span_events_remove(port, w);
	spin_lock(&w->lock);
	dead = w->dead;
	spin_unlock(&w->lock);
	if (w->id && !dead &&
	    span_watch_destroy(port, w->generation, w->id) == -ETIMEDOUT)
		span_events_left(port, w->id);
	mutex_unlock(&port->watch_lock);
	free_watch(w);
	return 0;
}

static const struct file_operations span_watch_fops = {
	.owner = THIS_MODULE,
	.release = watch_release,
	.read = watch_read,
	.write = watch_write,
	.poll = watch_poll,
	.unlocked_ioctl = watch_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.show_fdinfo = watch_show_fdinfo,
};

static struct span_watch *alloc_watch(struct span_port *port, u32 generation)
{
	struct span_watch *w = kzalloc(sizeof(*w), GFP_KERNEL_ACCOUNT);
	int i;

	if (!w)
		return NULL;
	/* beforehand, so that no event is lost for want of memory */
	w->nodes = kvcalloc(SPAN_WATCH_QUEUE, sizeof(*w->nodes), GFP_KERNEL_ACCOUNT);
	if (!w->nodes) {
		kfree(w);
		return NULL;
	}
	spin_lock_init(&w->lock);
	init_waitqueue_head(&w->wait);
	INIT_LIST_HEAD(&w->queue);
	INIT_LIST_HEAD(&w->notices);
	INIT_LIST_HEAD(&w->free);
	for (i = 0; i < SPAN_WATCH_QUEUE; i++) {
		INIT_LIST_HEAD(&w->nodes[i].notices);
		list_add_tail(&w->nodes[i].all, &w->free);
	}
	w->generation = generation;
	w->port = port;
	get_device(&port->dev);
	return w;
}

/* Make it on L0 and let its events in. Caller holds watch_lock. */
static int create_locked(struct span_port *port, struct span_watch *w,
			 const struct span_port_watch *args)
{
	struct span_msg_watch_create m = {
		.deadline_us = cpu_to_le32(args->deadline_us),
		.on_timeout = cpu_to_le32(args->on_timeout),
	};
	struct span_msg_reply reply;
	u64 id;
	int ret;

	if (port->closing)
		return -ENODEV;
	ret = span_ring_request(port, w->generation, SPAN_MSG_WATCH_CREATE,
				&m, sizeof(m), &reply);
	if (ret)
		return ret;
	id = le64_to_cpu(reply.value[0]);
	if (!id || id >= SPAN_WATCH_IDS)
		return -EPROTO;
	w->id = id;
	ret = span_events_add(port, w);
	/* then it is not ours to end */
	if (ret)
		w->id = 0;
	return ret;
}

/* May files of this attachment have watches? */
static int check_right(struct span_port *port, u32 generation)
{
	int ret = 0;

	if (!port->ev.base)
		return -EOPNOTSUPP;
	down_read(&port->sem);
	if (port->gone || !generation || port->now.generation != generation)
		ret = -ENODEV;
	else if (!span_may_watch(&port->now))
		ret = -EPERM;
	up_read(&port->sem);
	return ret;
}

/* SPAN_PORT_WATCH: returns a descriptor. */
int span_watch_open(struct span_port *port, u32 generation,
		    const struct span_port_watch *args)
{
	struct span_watch *w;
	struct file *file;
	int fd, ret;

	ret = check_right(port, generation);
	if (ret)
		return ret;
	w = alloc_watch(port, generation);
	if (!w)
		return -ENOMEM;
	file = anon_inode_getfile("[span-watch]", &span_watch_fops, w, O_RDWR);
	if (IS_ERR(file)) {
		free_watch(w);
		return PTR_ERR(file);
	}
	fd = get_unused_fd_flags(O_CLOEXEC);
	ret = fd;
	if (fd < 0)
		goto err_file;
	ret = lock_port(port);
	if (!ret) {
		ret = create_locked(port, w, args);
		mutex_unlock(&port->watch_lock);
	}
	if (ret)
		goto err_fd;
	fd_install(fd, file);
	return fd;

err_fd:
	put_unused_fd(fd);
err_file:
	fput(file);
	return ret;
}

/*
 * The driver leaves the device, with watches open or not: end them on L0 as long
 * as it answers.
 */
void span_watch_end_all(struct span_port *port)
{
	u32 generation, id;
	bool known;

	mutex_lock(&port->watch_lock);
	port->closing = true;
	for (id = 1; id < SPAN_WATCH_IDS; id++) {
		mutex_lock(&port->event_lock);
		known = port->ev.watch[id];
		generation = port->ev.generation;
		mutex_unlock(&port->event_lock);
		if (known && span_watch_destroy(port, generation, id) == -ETIMEDOUT)
			break;
	}
	mutex_unlock(&port->watch_lock);
}
