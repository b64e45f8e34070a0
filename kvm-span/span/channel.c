// SPDX-License-Identifier: GPL-2.0
/*
 * KVM Span: our end of the byte stream in the pages that a member's L1 shares with
 * us, as a file. What is in the pages is the other side's to change at any time.
 */
#include <linux/anon_inodes.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/poll.h>
#include <linux/sched.h>
#include <linux/seq_file.h>
#include <linux/uio.h>

#include "share.h"
#include "watch.h"

/* What kvm_span_channel_wait() waits for. */
typedef int kvm_span_channel_ask(struct span_stream_end *end);

/* Ask how far one can go now. The state of a member that is over is the end. */
static int kvm_span_channel_try(struct kvm_span_share_state *share, kvm_span_channel_ask *ask, int over)
{
	bool ring;
	int n;

	spin_lock(&share->lock);
	ring = span_stream_look(&share->end);
	n = share->over ? over : ask(&share->end);
	spin_unlock(&share->lock);
	if (ring)
		kvm_span_share_ring(share);
	return n;
}

/* The same, and wait where there is nothing now. */
static int kvm_span_channel_wait(struct kvm_span_share_state *share, kvm_span_channel_ask *ask, int over,
				 bool nonblock)
{
	int r, n = kvm_span_channel_try(share, ask, over);

	if (n != -EAGAIN || nonblock)
		return n;
	r = wait_event_interruptible(share->wait,
				     (n = kvm_span_channel_try(share, ask, over)) != -EAGAIN);
	return r ?: n;
}

/* Copy out what is there, at most @bytes. Returns how much the user got. */
static size_t kvm_span_channel_copy_out(struct kvm_span_share_state *share, u32 bytes,
					struct iov_iter *to)
{
	u32 at, piece, tail = share->end.tail;
	size_t n, done = 0;

	while (done < bytes) {
		at = span_stream_place(tail + done, bytes - done, &piece);
		n = copy_to_iter(share->end.in_bytes + at, piece, to);
		done += n;
		if (n < piece)
			break;
	}
	return done;
}

static size_t kvm_span_channel_copy_in(struct kvm_span_share_state *share, u32 bytes,
				       struct iov_iter *from)
{
	u32 at, piece, head = share->end.head;
	size_t n, done = 0;

	while (done < bytes) {
		at = span_stream_place(head + done, bytes - done, &piece);
		n = copy_from_iter(share->end.out_bytes + at, piece, from);
		done += n;
		if (n < piece)
			break;
	}
	return done;
}

static ssize_t kvm_span_channel_read(struct kiocb *iocb, struct iov_iter *to)
{
	struct kvm_span_share_state *share = iocb->ki_filp->private_data;
	bool ring, nonblock = iocb->ki_filp->f_flags & O_NONBLOCK;
	ssize_t n;

	if (!iov_iter_count(to))
		return 0;
	if (mutex_lock_interruptible(&share->read_lock))
		return -ERESTARTSYS;
	n = kvm_span_channel_wait(share, span_stream_unread, 0, nonblock);
	if (n <= 0)
		goto out;
	/* Only a reader moves the tail of a pair. */
	n = kvm_span_channel_copy_out(share, min_t(size_t, n, iov_iter_count(to)), to);
	spin_lock(&share->lock);
	ring = span_stream_took(&share->end, n);
	spin_unlock(&share->lock);
	share->bytes_in += n;
	if (ring)
		kvm_span_share_ring(share);
	if (!n)
		n = -EFAULT;
out:
	mutex_unlock(&share->read_lock);
	return n;
}

/* One piece, as much as there is room for. */
static ssize_t kvm_span_channel_write_some(struct kvm_span_share_state *share, struct iov_iter *from,
					   bool nonblock)
{
	bool ring, put;
	ssize_t n;

	n = kvm_span_channel_wait(share, span_stream_room, -EPIPE, nonblock);
	if (n <= 0)
		return n;
	/* Only a writer moves the head. */
	n = kvm_span_channel_copy_in(share, min_t(size_t, n, iov_iter_count(from)), from);
	if (!n)
		return -EFAULT;
	spin_lock(&share->lock);
	put = span_stream_put(&share->end, n, &ring);
	spin_unlock(&share->lock);
	if (ring)
		kvm_span_share_ring(share);
	return put ? n : -EPIPE;
}

static ssize_t kvm_span_channel_write(struct kiocb *iocb, struct iov_iter *from)
{
	struct kvm_span_share_state *share = iocb->ki_filp->private_data;
	bool nonblock = iocb->ki_filp->f_flags & O_NONBLOCK;
	ssize_t n = 0, done = 0;

	if (mutex_lock_interruptible(&share->write_lock))
		return -ERESTARTSYS;
	while (iov_iter_count(from)) {
		n = kvm_span_channel_write_some(share, from, nonblock);
		if (n < 0)
			break;
		done += n;
	}
	share->bytes_out += done;
	mutex_unlock(&share->write_lock);
	return done ?: n;
}

static __poll_t kvm_span_channel_poll(struct file *file, poll_table *wait)
{
	struct kvm_span_share_state *share = file->private_data;
	__poll_t mask = 0;
	int unread, room;

	poll_wait(file, &share->wait, wait);
	unread = kvm_span_channel_try(share, span_stream_unread, 0);
	room = kvm_span_channel_try(share, span_stream_room, -EPIPE);
	if (unread != -EAGAIN)
		mask |= EPOLLIN | EPOLLRDNORM;
	if (room != -EAGAIN)
		mask |= EPOLLOUT | EPOLLWRNORM;
	if (room == -EPIPE)
		mask |= EPOLLHUP;
	if (room == -EPROTO)
		mask |= EPOLLERR;
	return mask;
}

static int kvm_span_channel_release(struct inode *inode, struct file *file)
{
	struct kvm_span_share_state *share = file->private_data;

	spin_lock(&share->lock);
	span_stream_close(&share->end);
	share->open = false;
	spin_unlock(&share->lock);
	kvm_span_share_ring(share);
	kvm_span_share_put(share);
	return 0;
}

static const char *kvm_span_channel_state(struct kvm_span_share_state *share)
{
	static const char * const names[] = {
		[SPAN_STREAM_CLOSED] = "closed", [SPAN_STREAM_WAITING] = "waiting",
		[SPAN_STREAM_PAIRED] = "paired", [SPAN_STREAM_ENDED] = "ended",
		[SPAN_STREAM_BROKEN] = "broken",
	};

	return READ_ONCE(share->over) ? "over" : names[READ_ONCE(share->end.state)];
}

static void kvm_span_channel_show_fdinfo(struct seq_file *m, struct file *file)
{
	struct kvm_span_share_state *share = file->private_data;

	seq_printf(m, "span-channel:\t%s\n", kvm_span_channel_state(share));
	seq_printf(m, "span-bytes-in:\t%llu\n", READ_ONCE(share->bytes_in));
	seq_printf(m, "span-bytes-out:\t%llu\n", READ_ONCE(share->bytes_out));
	seq_printf(m, "span-doorbells:\t%lld\n", atomic64_read(&share->doorbells));
	seq_printf(m, "span-signals:\t%lld\n", atomic64_read(&share->signals));
}

static const struct file_operations kvm_span_channel_fops = {
	.owner = THIS_MODULE,
	.release = kvm_span_channel_release,
	.read_iter = kvm_span_channel_read,
	.write_iter = kvm_span_channel_write,
	.poll = kvm_span_channel_poll,
	.show_fdinfo = kvm_span_channel_show_fdinfo,
};

/* Start a stream of our own. */
static int kvm_span_channel_start(struct kvm_span_share_state *share)
{
	int r = 0;

	spin_lock(&share->lock);
	if (share->over) {
		r = -EACCES;
	} else if (share->open) {
		r = -EBUSY;
	} else {
		do {
			share->number++;
		} while (!span_stream_number_valid(share->number));
		span_stream_open(&share->end, share->number);
		share->open = true;
	}
	spin_unlock(&share->lock);
	return r;
}

/* A reference to the member's shared pages. */
static struct kvm_span_share_state *kvm_span_channel_find(struct kvm_span *span, u32 id)
{
	struct kvm_span_member *member = kvm_span_member_get(span, id);
	struct kvm_span_share_state *share;
	int r;

	if (!member)
		return ERR_PTR(-ENOENT);
	r = kvm_span_share_may(member);
	share = kvm_span_share_of(member);
	if (r)
		share = ERR_PTR(r);
	else if (!share)
		share = ERR_PTR(-EAGAIN);
	else
		kref_get(&share->ref);
	kvm_span_member_put(member);
	return share;
}

/* KVM_SPAN_CHANNEL */
long kvm_span_channel(struct kvm_span *span, void __user *uarg)
{
	struct kvm_span_channel arg;
	struct kvm_span_share_state *share;
	struct file *file;
	int r, fd;

	r = kvm_span_copy_arg(&arg, sizeof(arg), uarg);
	if (r)
		return r;
	if (arg.flags || arg.pad)
		return -EINVAL;
	share = kvm_span_channel_find(span, arg.member);
	if (IS_ERR(share))
		return PTR_ERR(share);
	fd = get_unused_fd_flags(O_CLOEXEC);
	if (fd < 0) {
		r = fd;
		goto err_share;
	}
	r = kvm_span_channel_start(share);
	if (r)
		goto err_fd;
	file = anon_inode_getfile("kvm-span-channel", &kvm_span_channel_fops, share, O_RDWR);
	if (IS_ERR(file)) {
		r = PTR_ERR(file);
		goto err_start;
	}
	stream_open(file_inode(file), file);
	/* The L1 may be waiting. */
	kvm_span_share_follow(share);
	kvm_span_share_ring(share);
	fd_install(fd, file);
	return fd;

err_start:
	spin_lock(&share->lock);
	span_stream_close(&share->end);
	share->open = false;
	spin_unlock(&share->lock);
err_fd:
	put_unused_fd(fd);
err_share:
	kvm_span_share_put(share);
	return r;
}
