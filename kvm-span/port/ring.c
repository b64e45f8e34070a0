// SPDX-License-Identifier: GPL-2.0
/*
 * span_port: the message rings to and from L0.
 *
 * Both rings are plain memory shared with L0's QEMU. Each side keeps its own
 * index privately and only publishes it; the other side's index and all
 * messages are input to be checked.
 */
#include <linux/errno.h>
#include <linux/io.h>
#include <linux/jiffies.h>
#include <linux/string.h>

#include "port.h"

#define ANSWER_TIMEOUT	HZ
/* Requests about watches may have to change much, and are not given up by a signal. */
#define CONTROL_TIMEOUT	(5 * HZ)
/* ... after one that was not answered: many descriptors may be closed in a row. */
#define SILENT_TIMEOUT	(HZ / 10)

/* Both rings from zero. Caller holds ring_lock and not reg_lock. */
static void reset_rings(struct span_port *port)
{
	struct span_port_ring *r = &port->ring;

	r->head = 0;
	r->tail = 0;
	r->seq = 0;
	span_ring_store(&r->to_l0->head, 0);
	span_ring_store(&r->to_l1->tail, 0);
}

static u16 answer_type(u16 type)
{
	switch (type) {
	case SPAN_MSG_PING:
		return SPAN_MSG_PONG;
	case SPAN_MSG_STATS_GET:
		return SPAN_MSG_STATS;
	case SPAN_MSG_WATCH_CREATE ... SPAN_MSG_WATCH_INFO:
		return SPAN_MSG_REPLY;
	default:
		return 0;
	}
}

/* Caller holds ring_lock. */
static int send(struct span_port *port, u32 generation, const struct span_port_call *call)
{
	struct span_port_ring *r = &port->ring;
	struct span_msg msg = {};
	u32 used = r->head - span_ring_load(&r->to_l0->tail);

	if (used > SPAN_RING_SLOTS) {
		r->errors++;
		return -EPROTO;
	}
	if (used == SPAN_RING_SLOTS)
		return -EAGAIN;
	msg.type = cpu_to_le16(call->type);
	msg.len = cpu_to_le16(call->len);
	msg.generation = cpu_to_le32(generation);
	msg.seq = cpu_to_le64(++r->seq);
	r->types[r->seq % SPAN_RING_SLOTS] = call->type;
	memcpy(msg.payload, call->payload, call->len);
	r->to_l0->slot[r->head % SPAN_RING_SLOTS] = msg;
	span_ring_store(&r->to_l0->head, ++r->head);
	r->asked = msg;
	return 0;
}

static u32 reply_seq(const struct span_msg *msg)
{
	return le32_to_cpu(((const struct span_msg_reply *)msg->payload)->seq);
}

/* Is @msg what the waiting call waits for? A late PONG of an earlier one is not. */
static bool answers(const struct span_port_ring *r, const struct span_msg *msg)
{
	u16 type = le16_to_cpu(msg->type);

	if (!r->want || le16_to_cpu(msg->len) > sizeof(msg->payload))
		return false;
	if (type == SPAN_MSG_ERROR)
		return true;
	if (type != r->want)
		return false;
	if (type == SPAN_MSG_REPLY)
		return reply_seq(msg) == (u32)le64_to_cpu(r->asked.seq);
	return type != SPAN_MSG_PONG ||
	       (msg->len == r->asked.len &&
		!memcmp(msg->payload, r->asked.payload, le16_to_cpu(msg->len)));
}

/*
 * The reply to a request that was given up. If that made a watch, nobody has it
 * here. Caller holds ring_lock.
 */
static void take_late_reply(struct span_port *port, const struct span_msg *msg)
{
	const struct span_msg_reply *reply = (const void *)msg->payload;
	struct span_port_ring *r = &port->ring;
	u32 seq = reply_seq(msg);

	if (le16_to_cpu(msg->type) != SPAN_MSG_REPLY ||
	    le16_to_cpu(msg->len) != sizeof(*reply) || reply->error ||
	    (u32)r->seq - seq >= SPAN_RING_SLOTS ||
	    r->types[seq % SPAN_RING_SLOTS] != SPAN_MSG_WATCH_CREATE)
		return;
	span_events_stray(port, le64_to_cpu(reply->value[0]));
}

static void take(struct span_port *port, const struct span_msg *msg)
{
	struct span_port_ring *r = &port->ring;

	r->silent = false;
	if (!answers(r, msg)) {
		dev_dbg(&port->dev, "message of type %u is no answer\n",
			le16_to_cpu(msg->type));
		take_late_reply(port, msg);
		return;
	}
	r->answer = *msg;
	r->want = 0;
	complete(&port->answered);
}

/* Returns false on a protocol error. Caller holds ring_lock. */
static bool drain(struct span_port *port)
{
	struct span_port_ring *r = &port->ring;
	struct span_msg msg;
	u32 head, left;

	head = span_ring_load(&r->to_l1->head);
	left = head - r->tail;
	if (left > SPAN_RING_SLOTS)
		return false;
	while (left--) {
		/* one copy, then only the copy */
		memcpy(&msg, &r->to_l1->slot[r->tail % SPAN_RING_SLOTS], sizeof(msg));
		span_ring_store(&r->to_l1->tail, ++r->tail);
		take(port, &msg);
	}
	return true;
}

void span_ring_restart(struct span_port *port)
{
	mutex_lock(&port->reg_lock);
	if (!port->gone) {
		mutex_lock(&port->ring_lock);
		reset_rings(port);
		writel(SPAN_CMD_RING_RESET, port->regs + SPAN_REG_COMMAND);
		mutex_unlock(&port->ring_lock);
	}
	mutex_unlock(&port->reg_lock);
}

/* Interrupt thread, or a call whose interrupt did not come. */
void span_ring_drain(struct span_port *port)
{
	bool sane;

	mutex_lock(&port->ring_lock);
	sane = !port->ring.to_l0 || drain(port);
	if (!sane)
		port->ring.errors++;
	mutex_unlock(&port->ring_lock);
	if (sane)
		return;
	dev_err_ratelimited(&port->dev, "L0 broke the ring protocol, starting both rings again\n");
	span_ring_restart(port);
}

static int answer_to_call(const struct span_msg *msg, struct span_port_call *call)
{
	u32 error;

	call->type = le16_to_cpu(msg->type);
	call->len = le16_to_cpu(msg->len);
	memset(call->payload, 0, sizeof(call->payload));
	memcpy(call->payload, msg->payload, call->len);
	if (call->type != SPAN_MSG_ERROR)
		return 0;
	error = le32_to_cpu(*(const __le32 *)msg->payload);
	return error && error <= MAX_ERRNO ? -(int)error : -EPROTO;
}

static void ring_doorbell(struct span_port *port)
{
	mutex_lock(&port->reg_lock);
	if (!port->gone)
		writel(1, port->regs + SPAN_REG_DOORBELL);
	mutex_unlock(&port->reg_lock);
}

/* Is the attachment that a call speaks of still there? 0 speaks of none. */
static bool attachment_is(struct span_port *port, u32 generation)
{
	bool is;

	down_read(&port->sem);
	is = !port->gone && (!generation || port->now.generation == generation);
	up_read(&port->sem);
	return is;
}

/*
 * The attachment changed: a call that speaks of the old one waits in vain.
 * Caller holds reg_lock.
 */
void span_ring_abort(struct span_port *port)
{
	struct span_port_ring *r = &port->ring;

	mutex_lock(&port->ring_lock);
	if (r->want && !attachment_is(port, le32_to_cpu(r->asked.generation))) {
		r->want = 0;
		r->aborted = true;
		complete(&port->answered);
	}
	mutex_unlock(&port->ring_lock);
}

static long wait_for_answer(struct span_port *port, bool control, bool silent)
{
	if (control)
		return wait_for_completion_timeout(&port->answered,
						   silent ? SILENT_TIMEOUT : CONTROL_TIMEOUT);
	return wait_for_completion_killable_timeout(&port->answered, ANSWER_TIMEOUT);
}

/* Caller holds call_lock, so that there is one waiter. */
static int call_locked(struct span_port *port, u32 generation, struct span_port_call *call)
{
	struct span_port_ring *r = &port->ring;
	bool control = answer_type(call->type) == SPAN_MSG_REPLY, silent;
	struct span_msg answer;
	long left;
	int ret;

	reinit_completion(&port->answered);
	mutex_lock(&port->ring_lock);
	/* Looked at under ring_lock: span_ring_abort() comes after it or finds us. */
	ret = attachment_is(port, generation) ? send(port, generation, call) : -ENODEV;
	if (!ret) {
		r->want = answer_type(call->type);
		r->aborted = false;
	}
	silent = r->silent;
	mutex_unlock(&port->ring_lock);
	if (ret == -EPROTO)
		span_ring_restart(port);
	if (ret)
		return ret;

	ring_doorbell(port);
	left = wait_for_answer(port, control, silent);
	if (!left)
		span_ring_drain(port);

	mutex_lock(&port->ring_lock);
	if (r->want)
		ret = left < 0 ? left : -ETIMEDOUT;
	else if (r->aborted)
		ret = -ENODEV;
	if (ret == -ETIMEDOUT && control)
		r->silent = true;
	r->want = 0;
	answer = r->answer;
	mutex_unlock(&port->ring_lock);
	return ret ?: answer_to_call(&answer, call);
}

/*
 * One message to L0 and its answer, both in @call, for a user. Sleeps for a
 * second at most. Requests about watches are not made this way: the driver would
 * not know about them.
 */
int span_ring_call(struct span_port *port, u32 generation, struct span_port_call *call)
{
	u16 want = answer_type(call->type);
	int ret;

	if (!(port->features & SPAN_PORT_F_RING))
		return -EOPNOTSUPP;
	if (!want || want == SPAN_MSG_REPLY)
		return -EINVAL;
	if (mutex_lock_killable(&port->call_lock))
		return -EINTR;
	ret = call_locked(port, generation, call);
	mutex_unlock(&port->call_lock);
	return ret;
}

/* A request about watches. The error is L0's or our own. Caller holds watch_lock. */
int span_ring_request(struct span_port *port, u32 generation, u16 type,
		      const void *payload, u16 len, struct span_msg_reply *reply)
{
	struct span_port_call call = { .type = type, .len = len };
	u32 error;
	int ret;

	lockdep_assert_held(&port->watch_lock);
	memcpy(call.payload, payload, len);
	mutex_lock(&port->call_lock);
	ret = call_locked(port, generation, &call);
	mutex_unlock(&port->call_lock);
	if (ret)
		return ret;
	span_events_retry(port);
	if (call.len != sizeof(*reply))
		return -EPROTO;
	memcpy(reply, call.payload, sizeof(*reply));
	error = le32_to_cpu(reply->error);
	/* the numbers beyond are the kernel's own */
	return error < ERESTARTSYS ? -(int)error : -EPROTO;
}

int span_ring_init(struct span_port *port)
{
	struct pci_dev *pdev = port->pdev;
	void *base;

	BUILD_BUG_ON(sizeof(struct span_msg) != SPAN_MSG_BYTES);
	BUILD_BUG_ON(sizeof(struct span_ring) != SPAN_RING_BYTES / 2);
	BUILD_BUG_ON(sizeof(struct span_msg_reply) > sizeof_field(struct span_msg, payload));

	mutex_init(&port->call_lock);
	mutex_init(&port->ring_lock);
	init_completion(&port->answered);
	if (!(port->features & SPAN_PORT_F_RING))
		return 0;
	if (pci_resource_len(pdev, SPAN_PORT_BAR_RING) < SPAN_RING_BYTES) {
		dev_err(&pdev->dev, "the ring BAR is too small\n");
		return -ENODEV;
	}
	/* It is memory on L0's side, and L0 reads it cached. */
	base = memremap(pci_resource_start(pdev, SPAN_PORT_BAR_RING),
			SPAN_RING_BYTES, MEMREMAP_WB);
	if (!base)
		return -ENOMEM;
	port->ring.to_l0 = base;
	port->ring.to_l1 = base + SPAN_RING_BYTES / 2;
	reset_rings(port);
	writel(SPAN_CMD_RING_RESET, port->regs + SPAN_REG_COMMAND);
	return 0;
}

/* After span_port_set_gone(): no new call starts, a late one finds NULL. */
void span_ring_exit(struct span_port *port)
{
	mutex_lock(&port->ring_lock);
	if (port->ring.to_l0)
		memunmap(port->ring.to_l0);
	port->ring.to_l0 = NULL;
	mutex_unlock(&port->ring_lock);
}
