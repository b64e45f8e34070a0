// SPDX-License-Identifier: GPL-2.0
/*
 * span_port: this L1's end of the byte stream to the guest's controller. What the
 * two ends do is in <linux/span_stream.h>.
 */
#include <linux/anon_inodes.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/poll.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uio.h>

#include "port.h"

/* One open descriptor; share->channel while it is open. */
struct span_channel {
	struct span_share *share;	/* referenced */
	u32 generation;			/* constant */
	bool over;			/* share->lock: the attachment is */
	wait_queue_head_t wait;
	struct mutex read_lock;		/* one copies out of the pages */
	struct mutex write_lock;	/* one copies in */
};

/* How far one can go: bytes, 0, EAGAIN or another error. */
typedef int channel_ask(struct span_stream_end *end);

/* The interrupt: follow L0's end, and wake whoever waits for it. */
void span_channel_look(struct span_share *share)
{
	unsigned long flags;
	bool ring = false;

	spin_lock_irqsave(&share->lock, flags);
	if (share->channel && !share->channel->over) {
		ring = span_stream_look(&share->end);
		wake_up_interruptible(&share->channel->wait);
	}
	spin_unlock_irqrestore(&share->lock, flags);
	if (ring)
		span_share_ring(share);
}

/*
 * Another attachment, whose pages are others, or none. A channel of the old one is
 * over; L0 may still be there to be told, when it is the driver that goes. So it may
 * be of one that was open when a driver was here last. Caller holds reg_lock.
 */
void span_channel_follow(struct span_share *share, u32 generation)
{
	unsigned long flags;

	spin_lock_irqsave(&share->lock, flags);
	share->generation = generation;
	if (share->channel) {
		share->channel->over = true;
		wake_up_interruptible(&share->channel->wait);
	}
	if (generation)
		share->end.head = span_stream_load(&share->end.out->head);
	span_stream_close(&share->end);
	spin_unlock_irqrestore(&share->lock, flags);
	span_share_ring(share);
}

static int channel_try(struct span_channel *ch, channel_ask *ask)
{
	struct span_share *share = ch->share;
	unsigned long flags;
	bool ring = false;
	int n = -ENODEV;

	spin_lock_irqsave(&share->lock, flags);
	if (!ch->over) {
		ring = span_stream_look(&share->end);
		n = ask(&share->end);
	}
	spin_unlock_irqrestore(&share->lock, flags);
	if (ring)
		span_share_ring(share);
	/* All ones are no broken protocol. */
	if (n == -EPROTO && !span_share_there(share, ch->generation))
		n = -ENODEV;
	return n;
}

static int channel_wait(struct span_channel *ch, channel_ask *ask, bool nonblock)
{
	int ret, n = channel_try(ch, ask);

	if (n != -EAGAIN || nonblock)
		return n;
	ret = wait_event_interruptible(ch->wait, (n = channel_try(ch, ask)) != -EAGAIN);
	return ret ?: n;
}

static size_t copy_out(struct span_stream_end *end, u32 bytes, struct iov_iter *to)
{
	u32 at, piece, tail = end->tail;
	size_t n, done = 0;

	while (done < bytes) {
		at = span_stream_place(tail + done, bytes - done, &piece);
		n = copy_to_iter(end->in_bytes + at, piece, to);
		done += n;
		if (n < piece)
			break;
	}
	return done;
}

static size_t copy_in(struct span_stream_end *end, u32 bytes, struct iov_iter *from)
{
	u32 at, piece, head = end->head;
	size_t n, done = 0;

	while (done < bytes) {
		at = span_stream_place(head + done, bytes - done, &piece);
		n = copy_from_iter(end->out_bytes + at, piece, from);
		done += n;
		if (n < piece)
			break;
	}
	return done;
}

/*
 * Were the pages there while we copied? If L0's end shows what it did before, it is
 * the same attachment; if not, it may have closed, or all of it may be gone.
 */
static bool copied_right(struct span_channel *ch)
{
	struct span_share *share = ch->share;

	/* The data first, then the word that vouches for them. */
	virt_rmb();
	if (span_stream_load(&share->end.in->start) == READ_ONCE(share->end.peer))
		return true;
	return span_share_there(share, ch->generation);
}

/* What was copied out has been used up. ENODEV if it was nothing. */
static int channel_took(struct span_channel *ch, u32 bytes)
{
	struct span_share *share = ch->share;
	unsigned long flags;
	bool ring = false;
	int ret = -ENODEV;

	if (!copied_right(ch))
		return ret;
	spin_lock_irqsave(&share->lock, flags);
	if (!ch->over) {
		ring = span_stream_took(&share->end, bytes);
		ret = 0;
	}
	spin_unlock_irqrestore(&share->lock, flags);
	if (ring)
		span_share_ring(share);
	return ret;
}

static int channel_put(struct span_channel *ch, u32 bytes)
{
	struct span_share *share = ch->share;
	unsigned long flags;
	bool ring = false;
	int ret = -ENODEV;

	spin_lock_irqsave(&share->lock, flags);
	if (!ch->over)
		ret = span_stream_put(&share->end, bytes, &ring) ? 0 : -EPIPE;
	spin_unlock_irqrestore(&share->lock, flags);
	if (ring)
		span_share_ring(share);
	return ret;
}

static ssize_t channel_read(struct kiocb *iocb, struct iov_iter *to)
{
	struct span_channel *ch = iocb->ki_filp->private_data;
	bool nonblock = iocb->ki_filp->f_flags & O_NONBLOCK;
	ssize_t n;
	int ret;

	if (!iov_iter_count(to))
		return 0;
	if (mutex_lock_interruptible(&ch->read_lock))
		return -ERESTARTSYS;
	n = channel_wait(ch, span_stream_unread, nonblock);
	if (n <= 0)
		goto unlock;
	/* Only a reader moves the tail of a pair. */
	n = copy_out(&ch->share->end, min_t(size_t, n, iov_iter_count(to)), to);
	ret = channel_took(ch, n);
	if (ret)
		n = ret;
	else if (!n)
		n = -EFAULT;
unlock:
	mutex_unlock(&ch->read_lock);
	return n;
}

/* One piece, as much as there is room for. */
static ssize_t write_some(struct span_channel *ch, struct iov_iter *from, bool nonblock)
{
	ssize_t n = channel_wait(ch, span_stream_room, nonblock);
	int ret;

	if (n <= 0)
		return n;
	/* Only a writer moves the head. */
	n = copy_in(&ch->share->end, min_t(size_t, n, iov_iter_count(from)), from);
	if (!n)
		return -EFAULT;
	ret = channel_put(ch, n);
	return ret ?: n;
}

static ssize_t channel_write(struct kiocb *iocb, struct iov_iter *from)
{
	struct span_channel *ch = iocb->ki_filp->private_data;
	bool nonblock = iocb->ki_filp->f_flags & O_NONBLOCK;
	ssize_t n = 0, done = 0;

	if (mutex_lock_interruptible(&ch->write_lock))
		return -ERESTARTSYS;
	while (iov_iter_count(from)) {
		n = write_some(ch, from, nonblock);
		if (n < 0)
			break;
		done += n;
	}
	mutex_unlock(&ch->write_lock);
	return done ?: n;
}

static __poll_t channel_poll(struct file *file, poll_table *wait)
{
	struct span_channel *ch = file->private_data;
	__poll_t mask = 0;
	int unread, room;

	poll_wait(file, &ch->wait, wait);
	unread = channel_try(ch, span_stream_unread);
	room = channel_try(ch, span_stream_room);
	if (unread != -EAGAIN)
		mask |= EPOLLIN | EPOLLRDNORM;
	if (room != -EAGAIN)
		mask |= EPOLLOUT | EPOLLWRNORM;
	if (room == -EPIPE || room == -ENODEV)
		mask |= EPOLLHUP;
	if (room == -EPROTO || room == -ENODEV)
		mask |= EPOLLERR;
	return mask;
}

/* The descriptor is closed, or was never made. */
static void channel_end(struct span_channel *ch)
{
	struct span_share *share = ch->share;
	unsigned long flags;
	bool ring = false;

	spin_lock_irqsave(&share->lock, flags);
	share->channel = NULL;
	if (!ch->over) {
		span_stream_close(&share->end);
		ring = true;
	}
	spin_unlock_irqrestore(&share->lock, flags);
	if (ring)
		span_share_ring(share);
	span_share_put(share);
	kfree(ch);
}

static int channel_release(struct inode *inode, struct file *file)
{
	channel_end(file->private_data);
	return 0;
}

static const struct file_operations channel_fops = {
	.owner = THIS_MODULE,
	.release = channel_release,
	.read_iter = channel_read,
	.write_iter = channel_write,
	.poll = channel_poll,
};

/* Start a stream of our own, one at a time. */
static int channel_start(struct span_channel *ch)
{
	struct span_share *share = ch->share;
	unsigned long flags;
	int ret = 0;

	spin_lock_irqsave(&share->lock, flags);
	if (share->generation != ch->generation) {
		ret = -ENODEV;
	} else if (share->channel) {
		ret = -EBUSY;
	} else {
		do {
			share->number++;
		} while (!span_stream_number_valid(share->number));
		span_stream_open(&share->end, share->number);
		share->channel = ch;
	}
	spin_unlock_irqrestore(&share->lock, flags);
	return ret;
}

/* A channel that has begun, with the caller's reference to @share. */
static struct span_channel *channel_new(struct span_share *share, u32 generation)
{
	struct span_channel *ch = kzalloc(sizeof(*ch), GFP_KERNEL_ACCOUNT);
	int ret = -ENOMEM;

	if (!ch)
		goto err_share;
	ch->share = share;
	ch->generation = generation;
	init_waitqueue_head(&ch->wait);
	mutex_init(&ch->read_lock);
	mutex_init(&ch->write_lock);
	ret = channel_start(ch);
	if (ret)
		goto err_channel;
	return ch;

err_channel:
	kfree(ch);
err_share:
	span_share_put(share);
	return ERR_PTR(ret);
}

/* Returns a descriptor. */
int span_channel_open(struct span_file *sf)
{
	struct span_share *share = span_share_get(sf);
	struct span_channel *ch;
	struct file *file;
	int fd;

	if (IS_ERR(share))
		return PTR_ERR(share);
	ch = channel_new(share, sf->generation);
	if (IS_ERR(ch))
		return PTR_ERR(ch);
	fd = get_unused_fd_flags(O_CLOEXEC);
	if (fd < 0) {
		channel_end(ch);
		return fd;
	}
	file = anon_inode_getfile("span-channel", &channel_fops, ch, O_RDWR);
	if (IS_ERR(file)) {
		put_unused_fd(fd);
		channel_end(ch);
		return PTR_ERR(file);
	}
	stream_open(file_inode(file), file);
	/* L0's end may be open already, and has to hear of ours. */
	span_channel_look(share);
	span_share_ring(share);
	fd_install(fd, file);
	return fd;
}
