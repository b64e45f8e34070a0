// SPDX-License-Identifier: GPL-2.0
/*
 * span_port: the rings of BAR 5. Events from L0's kernel go to the watches that
 * they name; answers go back.
 *
 * As in ring.c, each side keeps its own index privately; what the other side
 * writes is copied once and checked. A ring begins with the attachment. A driver
 * that is loaded in the middle of one goes on where the last one stopped.
 */
#include <linux/io.h>
#include <linux/ktime.h>
#include <linux/sched.h>
#include <linux/string.h>

#include "port.h"

/* L0 gives an L1 ids from 1 to this (KVM_SPAN_MAX_WATCHES). */
#define LEFTOVER_IDS	8

/* The part of BAR 5 that is about watches. */
#define WATCH_BYTES	(SPAN_WATCH_DATA + SPAN_WATCH_DATA_BYTES)

/* Tell the device that answers are there. Caller holds answer_lock. */
static void ring_doorbell(struct span_port *port)
{
	writel(1, port->regs + SPAN_REG_ANSWER);
}

/*
 * Events come for an id that nobody has here: a watch that was left over by a
 * process or driver that L0 could not tell of its end. End it. Not of ids that
 * are in use again: those events are old. Caller holds event_lock.
 */
static void found_stray(struct span_port *port, u64 id)
{
	struct span_port_events *ev = &port->ev;

	if (!ev->generation || !id || id >= SPAN_WATCH_IDS || ev->watch[id])
		return;
	__set_bit(id, ev->stray);
	schedule_work(&ev->stray_work);
}

void span_events_stray(struct span_port *port, u64 id)
{
	mutex_lock(&port->event_lock);
	found_stray(port, id);
	mutex_unlock(&port->event_lock);
}

/* L0 did not answer when it was to end this one: later. */
void span_events_left(struct span_port *port, u32 id)
{
	struct span_port_events *ev = &port->ev;

	mutex_lock(&port->event_lock);
	if (ev->generation && !ev->watch[id])
		__set_bit(id, ev->stray);
	mutex_unlock(&port->event_lock);
}

/* L0 answers: a good time to end what could not be ended before. */
void span_events_retry(struct span_port *port)
{
	struct span_port_events *ev = &port->ev;

	mutex_lock(&port->event_lock);
	if (ev->generation && !bitmap_empty(ev->stray, SPAN_WATCH_IDS))
		schedule_work(&ev->stray_work);
	mutex_unlock(&port->event_lock);
}

/* Takes one stray id, 0 if there is none. */
static u32 next_stray(struct span_port *port, u32 *generation)
{
	struct span_port_events *ev = &port->ev;
	u32 id;

	mutex_lock(&port->event_lock);
	id = find_first_bit(ev->stray, SPAN_WATCH_IDS);
	if (id < SPAN_WATCH_IDS)
		__clear_bit(id, ev->stray);
	else
		id = 0;
	*generation = ev->generation;
	mutex_unlock(&port->event_lock);
	return id;
}

static void end_strays(struct work_struct *work)
{
	struct span_port *port = container_of(work, struct span_port, ev.stray_work);
	u32 id, generation;

	/* Under it no id gets a new owner. */
	mutex_lock(&port->watch_lock);
	while ((id = next_stray(port, &generation))) {
		if (span_watch_destroy(port, generation, id) == -ETIMEDOUT) {
			span_events_left(port, id);
			break;
		}
	}
	mutex_unlock(&port->watch_lock);
}

/* Caller holds event_lock. */
static void take_event(struct span_port *port, const struct span_msg *msg)
{
	const struct span_msg_event *m = (const void *)msg->payload;
	struct span_port_events *ev = &port->ev;
	u32 id = le32_to_cpu(m->watch);
	struct span_watch_event event = {
		.event = le64_to_cpu(m->event),
		.time_ns = ktime_get_ns(),
		.gpa = le64_to_cpu(m->gpa),
		.rip = le64_to_cpu(m->rip),
		.cr3 = le64_to_cpu(m->cr3),
		.page = le32_to_cpu(m->page),
		.flags = le32_to_cpu(m->flags),
		.lost = ev->lost,
		.vcpu = le16_to_cpu(m->vcpu),
		.access = m->access,
		.source = m->source,
	};

	if (!id || id >= SPAN_WATCH_IDS) {
		atomic64_inc(&ev->errors);
		return;
	}
	if (ev->watch[id])
		span_watch_post(ev->watch[id], &event);
	else
		found_stray(port, id);
}

/* Everybody has to know: any of their pages may have been meant. Caller holds event_lock. */
static void take_lost(struct span_port *port, const struct span_msg *msg)
{
	const struct span_msg_lost *m = (const void *)msg->payload;
	struct span_port_events *ev = &port->ev;
	struct span_watch_event event = {
		.time_ns = ktime_get_ns(),
		.gpa = U64_MAX,
		.page = U32_MAX,
		.flags = SPAN_EVENT_F_NOTICE,
		.vcpu = U16_MAX,
	};
	u32 id;

	ev->lost += (u32)le64_to_cpu(m->count);
	event.lost = ev->lost;
	for (id = 1; id < SPAN_WATCH_IDS; id++)
		if (ev->watch[id])
			span_watch_post(ev->watch[id], &event);
}

/* Caller holds event_lock. */
static void take(struct span_port *port, const struct span_msg *msg)
{
	struct span_port_events *ev = &port->ev;
	u64 seq = le64_to_cpu(msg->seq);
	u16 type = le16_to_cpu(msg->type);
	u16 len = le16_to_cpu(msg->len);

	/* Says that something is wrong, but not with this message. */
	if (ev->seq && seq != ev->seq + 1)
		atomic64_inc(&ev->errors);
	ev->seq = seq;
	if (type == SPAN_MSG_EVENT && len == sizeof(struct span_msg_event))
		take_event(port, msg);
	else if (type == SPAN_MSG_LOST && len == sizeof(struct span_msg_lost))
		take_lost(port, msg);
	else
		atomic64_inc(&ev->errors);
}

/*
 * An index that cannot be. While L0 takes the ring away, reads give all ones,
 * and it may be another attachment's already: that is no error. Otherwise stay
 * where we are, and say so: L0 knows where it
 * is, and its next message puts that right. Caller holds event_lock.
 */
static void bad_index(struct span_port *port, u32 head)
{
	struct span_port_events *ev = &port->ev;

	if (!(readl(port->regs + SPAN_REG_STATUS) & SPAN_STATUS_WATCH) ||
	    readl(port->regs + SPAN_REG_GENERATION) != ev->generation)
		return;
	atomic64_inc(&ev->errors);
	dev_err_ratelimited(&port->dev, "L0 broke the protocol of events: index %u after %u\n",
			    head, ev->tail);
	span_ring_store(&ev->events->tail, ev->tail);
}

/* Caller holds event_lock. */
static void drain(struct span_port *port)
{
	struct span_port_events *ev = &port->ev;
	struct span_msg msg;
	u32 head, left;

	lockdep_assert_held(&port->event_lock);
	if (!ev->generation)
		return;
	head = span_ring_load(&ev->events->head);
	left = head - ev->tail;
	if (left > SPAN_RING_SLOTS) {
		bad_index(port, head);
		return;
	}
	while (left--) {
		/* one copy, then only the copy */
		memcpy(&msg, &ev->events->slot[ev->tail % SPAN_RING_SLOTS], sizeof(msg));
		span_ring_store(&ev->events->tail, ++ev->tail);
		take(port, &msg);
	}
}

/* Interrupt thread: L0 signals after each message, so one look is enough. */
void span_events_drain(struct span_port *port)
{
	mutex_lock(&port->event_lock);
	drain(port);
	mutex_unlock(&port->event_lock);
}

/*
 * From now on @w gets the events of its id. What was in the ring before was
 * meant for an earlier watch of that id. One that has the id here has lost it
 * on L0, which gave it away again.
 */
int span_events_add(struct span_port *port, struct span_watch *w)
{
	struct span_port_events *ev = &port->ev;
	int ret = 0;

	mutex_lock(&port->event_lock);
	drain(port);
	if (ev->generation != w->generation) {
		ret = -ENODEV;
	} else {
		if (ev->watch[w->id])
			span_watch_kill(ev->watch[w->id]);
		__clear_bit(w->id, ev->stray);
		ev->watch[w->id] = w;
	}
	mutex_unlock(&port->event_lock);
	return ret;
}

/* After this no event reaches @w. */
void span_events_remove(struct span_port *port, struct span_watch *w)
{
	mutex_lock(&port->event_lock);
	if (port->ev.watch[w->id] == w)
		port->ev.watch[w->id] = NULL;
	mutex_unlock(&port->event_lock);
}

/* Caller holds event_lock. */
static void kill_watches(struct span_port *port)
{
	struct span_port_events *ev = &port->ev;
	u32 id;

	for (id = 1; id < SPAN_WATCH_IDS; id++) {
		if (!ev->watch[id])
			continue;
		span_watch_kill(ev->watch[id]);
		ev->watch[id] = NULL;
	}
	bitmap_zero(ev->stray, SPAN_WATCH_IDS);
}

/* Caller holds event_lock. */
static void start_events(struct span_port_events *ev, u32 generation)
{
	u32 head;

	ev->generation = generation;
	ev->lost = 0;
	ev->seq = 0;
	if (!generation)
		return;
	ev->tail = span_ring_load(&ev->events->tail);
	head = span_ring_load(&ev->events->head);
	/* that was no driver's tail */
	if (head - ev->tail > SPAN_RING_SLOTS) {
		ev->tail = head;
		span_ring_store(&ev->events->tail, head);
	}
}

/* Caller holds answer_lock. */
static void start_answers(struct span_port_events *ev, u32 generation)
{
	u32 last;

	ev->answer_generation = generation;
	if (!generation)
		return;
	ev->head = span_ring_load(&ev->answers->head);
	last = (ev->head - 1) % SPAN_RING_SLOTS;
	ev->answer_seq = ev->head ? le64_to_cpu(ev->answers->slot[last].seq) : 0;
}

/*
 * Watches of whoever was here before, if it went without a word (kexec): those
 * that only log would never show by an event. Caller holds event_lock.
 */
static void end_leftovers(struct span_port_events *ev)
{
	bitmap_set(ev->stray, 1, LEFTOVER_IDS);
	schedule_work(&ev->stray_work);
	ev->looked = true;
}

/* The device is being reset, which ends the watches on L0. */
void span_events_reset(struct span_port *port)
{
	mutex_lock(&port->event_lock);
	kill_watches(port);
	mutex_unlock(&port->event_lock);
}

/*
 * The attachment changed: the watches of the old one are over, and the rings
 * begin anew. Caller holds reg_lock.
 */
void span_events_follow(struct span_port *port)
{
	u32 generation = span_may_watch(&port->now) ? port->now.generation : 0;
	struct span_port_events *ev = &port->ev;

	lockdep_assert_held(&port->reg_lock);
	if (!ev->base)
		return;
	mutex_lock(&port->event_lock);
	if (generation == ev->generation) {
		mutex_unlock(&port->event_lock);
		return;
	}
	kill_watches(port);
	start_events(ev, generation);
	mutex_lock(&port->answer_lock);
	start_answers(ev, generation);
	mutex_unlock(&port->answer_lock);
	/* their interrupts may have come before there was a driver */
	drain(port);
	if (generation && !ev->looked)
		end_leftovers(ev);
	mutex_unlock(&port->event_lock);
}

/* Caller holds answer_lock. */
static int put_answer(struct span_port *port, struct span_watch *w,
		      const struct span_watch_answer *a)
{
	struct span_port_events *ev = &port->ev;
	struct span_msg_answer answer = {
		.event = cpu_to_le64(a->event),
		.watch = cpu_to_le32(w->id),
		.verdict = a->verdict,
		.flags = a->flags,
	};
	struct span_msg msg = {
		.type = cpu_to_le16(SPAN_MSG_ANSWER),
		.len = cpu_to_le16(sizeof(answer)),
	};
	u32 used = ev->head - span_ring_load(&ev->answers->tail);

	if (used > SPAN_RING_SLOTS) {
		atomic64_inc(&ev->errors);
		return -EPROTO;
	}
	if (used == SPAN_RING_SLOTS)
		return -EAGAIN;
	msg.seq = cpu_to_le64(++ev->answer_seq);
	memcpy(msg.payload, &answer, sizeof(answer));
	ev->answers->slot[ev->head % SPAN_RING_SLOTS] = msg;
	span_ring_store(&ev->answers->head, ++ev->head);
	return 0;
}

/* Returns how many were sent, or why the first was not: EAGAIN, no room now. */
int span_events_answer(struct span_watch *w, const struct span_watch_answer *a,
		       unsigned int count)
{
	struct span_port *port = w->port;
	unsigned int done = 0;
	int ret = 0;

	mutex_lock(&port->answer_lock);
	if (port->ev.answer_generation != w->generation) {
		mutex_unlock(&port->answer_lock);
		return -ENODEV;
	}
	while (done < count) {
		ret = put_answer(port, w, &a[done]);
		if (ret)
			break;
		done++;
	}
	/* also when there is no room: so that there will be some */
	ring_doorbell(port);
	mutex_unlock(&port->answer_lock);
	return done ?: ret;
}

int span_events_init(struct span_port *port)
{
	struct span_port_events *ev = &port->ev;
	struct pci_dev *pdev = port->pdev;

	BUILD_BUG_ON(sizeof(struct span_msg_event) > sizeof_field(struct span_msg, payload));
	BUILD_BUG_ON(2 * sizeof(struct span_ring) > SPAN_WATCH_DATA);
	BUILD_BUG_ON(WATCH_BYTES > SPAN_SHARE_OFFSET);
	BUILD_BUG_ON(SPAN_SHARE_OFFSET + SPAN_SHARE_BYTES > SPAN_WATCH_BAR_BYTES);

	mutex_init(&port->watch_lock);
	mutex_init(&port->event_lock);
	mutex_init(&port->answer_lock);
	INIT_WORK(&ev->stray_work, end_strays);
	if (!(port->features & SPAN_PORT_F_WATCH) || !(port->features & SPAN_PORT_F_RING))
		return 0;
	/* Older devices end here. */
	if (pci_resource_len(pdev, SPAN_PORT_BAR_WATCH) < WATCH_BYTES) {
		dev_err(&pdev->dev, "the BAR of watches is too small\n");
		return -ENODEV;
	}
	/* Memory on L0's side, like BAR 4, when it is there. */
	ev->base = memremap(pci_resource_start(pdev, SPAN_PORT_BAR_WATCH),
			    WATCH_BYTES, MEMREMAP_WB);
	if (!ev->base)
		return -ENOMEM;
	ev->answers = ev->base;
	ev->events = ev->base + SPAN_RING_BYTES / 2;
	ev->data = ev->base + SPAN_WATCH_DATA;
	return 0;
}

/*
 * After span_port_set_gone(), which ended the generation: nothing looks at the
 * rings or queues work any more. A last request may still copy its data.
 */
void span_events_exit(struct span_port *port)
{
	cancel_work_sync(&port->ev.stray_work);
	mutex_lock(&port->watch_lock);
	if (port->ev.base)
		memunmap(port->ev.base);
	port->ev.base = NULL;
	mutex_unlock(&port->watch_lock);
}
