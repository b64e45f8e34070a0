/* SPDX-License-Identifier: GPL-2.0 */
#if !defined(_TRACE_KVM_SPAN_H) || defined(TRACE_HEADER_MULTI_READ)
#define _TRACE_KVM_SPAN_H

#include <linux/tracepoint.h>

#undef TRACE_SYSTEM
#define TRACE_SYSTEM kvm_span

TRACE_EVENT(kvm_span_create,
	TP_PROTO(const char *span, u64 bytes),
	TP_ARGS(span, bytes),

	TP_STRUCT__entry(
		__string(span, span)
		__field(u64, bytes)
	),

	TP_fast_assign(
		__assign_str(span);
		__entry->bytes = bytes;
	),

	TP_printk("span %s bytes %llu", __get_str(span), __entry->bytes)
);

TRACE_EVENT(kvm_span_grant,
	TP_PROTO(const char *span, u32 member, const char *name, u32 access),
	TP_ARGS(span, member, name, access),

	TP_STRUCT__entry(
		__string(span, span)
		__string(name, name)
		__field(u32, member)
		__field(u32, access)
	),

	TP_fast_assign(
		__assign_str(span);
		__assign_str(name);
		__entry->member = member;
		__entry->access = access;
	),

	TP_printk("span %s member %u name %s access %#x", __get_str(span),
		  __entry->member, __get_str(name), __entry->access)
);

TRACE_EVENT(kvm_span_join,
	TP_PROTO(const char *span, u32 member, int pid),
	TP_ARGS(span, member, pid),

	TP_STRUCT__entry(
		__string(span, span)
		__field(u32, member)
		__field(int, pid)
	),

	TP_fast_assign(
		__assign_str(span);
		__entry->member = member;
		__entry->pid = pid;
	),

	TP_printk("span %s member %u pid %d", __get_str(span),
		  __entry->member, __entry->pid)
);

TRACE_EVENT(kvm_span_revoke,
	TP_PROTO(const char *span, u32 member, int state, unsigned int vmas),
	TP_ARGS(span, member, state, vmas),

	TP_STRUCT__entry(
		__string(span, span)
		__field(u32, member)
		__field(int, state)
		__field(unsigned int, vmas)
	),

	TP_fast_assign(
		__assign_str(span);
		__entry->member = member;
		__entry->state = state;
		__entry->vmas = vmas;
	),

	TP_printk("span %s member %u from state %d, %u areas unmapped",
		  __get_str(span), __entry->member, __entry->state,
		  __entry->vmas)
);

TRACE_EVENT(kvm_span_leave,
	TP_PROTO(const char *span, u32 member, int state),
	TP_ARGS(span, member, state),

	TP_STRUCT__entry(
		__string(span, span)
		__field(u32, member)
		__field(int, state)
	),

	TP_fast_assign(
		__assign_str(span);
		__entry->member = member;
		__entry->state = state;
	),

	TP_printk("span %s member %u from state %d", __get_str(span),
		  __entry->member, __entry->state)
);

TRACE_EVENT(kvm_span_fault,
	TP_PROTO(u32 member, unsigned long pgoff, bool write, unsigned int ret),
	TP_ARGS(member, pgoff, write, ret),

	TP_STRUCT__entry(
		__field(u32, member)
		__field(unsigned int, ret)
		__field(unsigned long, pgoff)
		__field(bool, write)
	),

	TP_fast_assign(
		__entry->member = member;
		__entry->pgoff = pgoff;
		__entry->write = write;
		__entry->ret = ret;
	),

	TP_printk("member %u page %#lx %s result %#x", __entry->member,
		  __entry->pgoff, __entry->write ? "write" : "read",
		  __entry->ret)
);

/* What was refused and why; reason is always a string constant. */
TRACE_EVENT(kvm_span_refuse,
	TP_PROTO(const char *what, const char *reason, u32 member, int err),
	TP_ARGS(what, reason, member, err),

	TP_STRUCT__entry(
		__string(what, what)
		__string(reason, reason)
		__field(u32, member)
		__field(int, err)
	),

	TP_fast_assign(
		__assign_str(what);
		__assign_str(reason);
		__entry->member = member;
		__entry->err = err;
	),

	TP_printk("%s member %u error %d: %s", __get_str(what),
		  __entry->member, __entry->err, __get_str(reason))
);

TRACE_EVENT(kvm_span_bind,
	TP_PROTO(const char *span, u32 member, u64 gfn, u64 pages, u64 page, bool bound),
	TP_ARGS(span, member, gfn, pages, page, bound),

	TP_STRUCT__entry(
		__string(span, span)
		__field(u32, member)
		__field(u64, gfn)
		__field(u64, pages)
		__field(u64, page)
		__field(bool, bound)
	),

	TP_fast_assign(
		__assign_str(span);
		__entry->member = member;
		__entry->gfn = gfn;
		__entry->pages = pages;
		__entry->page = page;
		__entry->bound = bound;
	),

	TP_printk("span %s member %u %s gfn %#llx pages %llu page %#llx", __get_str(span),
		  __entry->member, __entry->bound ? "bind" : "unbind", __entry->gfn,
		  __entry->pages, __entry->page)
);

TRACE_EVENT(kvm_span_zap,
	TP_PROTO(const char *span, u64 first, u64 pages),
	TP_ARGS(span, first, pages),

	TP_STRUCT__entry(
		__string(span, span)
		__field(u64, first)
		__field(u64, pages)
	),

	TP_fast_assign(
		__assign_str(span);
		__entry->first = first;
		__entry->pages = pages;
	),

	TP_printk("span %s page %#llx pages %llu", __get_str(span), __entry->first,
		  __entry->pages)
);

TRACE_EVENT(kvm_span_log_fetch,
	TP_PROTO(u32 member, u32 watch, u64 first, u64 next, u32 ranges, u64 dirty),
	TP_ARGS(member, watch, first, next, ranges, dirty),

	TP_STRUCT__entry(
		__field(u32, member)
		__field(u32, watch)
		__field(u64, first)
		__field(u64, next)
		__field(u32, ranges)
		__field(u64, dirty)
	),

	TP_fast_assign(
		__entry->member = member;
		__entry->watch = watch;
		__entry->first = first;
		__entry->next = next;
		__entry->ranges = ranges;
		__entry->dirty = dirty;
	),

	TP_printk("member %u watch %u pages %#llx-%#llx ranges %u dirty %llu",
		  __entry->member, __entry->watch, __entry->first, __entry->next,
		  __entry->ranges, __entry->dirty)
);

/* A watch comes, goes, or changes what it wants. */
TRACE_EVENT(kvm_span_watch,
	TP_PROTO(const char *what, u32 member, u32 watch, u32 access, u32 mode, u64 first,
		 u64 pages),
	TP_ARGS(what, member, watch, access, mode, first, pages),

	TP_STRUCT__entry(
		__string(what, what)
		__field(u32, member)
		__field(u32, watch)
		__field(u32, access)
		__field(u32, mode)
		__field(u64, first)
		__field(u64, pages)
	),

	TP_fast_assign(
		__assign_str(what);
		__entry->member = member;
		__entry->watch = watch;
		__entry->access = access;
		__entry->mode = mode;
		__entry->first = first;
		__entry->pages = pages;
	),

	TP_printk("%s member %u watch %u access %#x mode %u page %#llx pages %llu",
		  __get_str(what), __entry->member, __entry->watch, __entry->access,
		  __entry->mode, __entry->first, __entry->pages)
);

/* A watch was told of an access; put: there was room in its ring. */
TRACE_EVENT(kvm_span_event,
	TP_PROTO(u32 member, u32 watch, u64 event, u64 page, u32 access, u32 source,
		 u32 flags, bool put),
	TP_ARGS(member, watch, event, page, access, source, flags, put),

	TP_STRUCT__entry(
		__field(u32, member)
		__field(u32, watch)
		__field(u64, event)
		__field(u64, page)
		__field(u32, access)
		__field(u32, source)
		__field(u32, flags)
		__field(bool, put)
	),

	TP_fast_assign(
		__entry->member = member;
		__entry->watch = watch;
		__entry->event = event;
		__entry->page = page;
		__entry->access = access;
		__entry->source = source;
		__entry->flags = flags;
		__entry->put = put;
	),

	TP_printk("member %u watch %u event %llu page %#llx access %#x source %u flags %#x%s",
		  __entry->member, __entry->watch, __entry->event, __entry->page,
		  __entry->access, __entry->source, __entry->flags,
		  __entry->put ? "" : " lost")
);

TRACE_EVENT(kvm_span_answer,
	TP_PROTO(u32 member, u32 watch, u64 event, u32 verdict, u32 flags, int err),
	TP_ARGS(member, watch, event, verdict, flags, err),

	TP_STRUCT__entry(
		__field(u32, member)
		__field(u32, watch)
		__field(u64, event)
		__field(u32, verdict)
		__field(u32, flags)
		__field(int, err)
	),

	TP_fast_assign(
		__entry->member = member;
		__entry->watch = watch;
		__entry->event = event;
		__entry->verdict = verdict;
		__entry->flags = flags;
		__entry->err = err;
	),

	TP_printk("member %u watch %u event %llu verdict %u flags %#x error %d",
		  __entry->member, __entry->watch, __entry->event, __entry->verdict,
		  __entry->flags, __entry->err)
);

TRACE_EVENT(kvm_span_timeout,
	TP_PROTO(u32 member, u32 watch, u64 event, u32 verdict),
	TP_ARGS(member, watch, event, verdict),

	TP_STRUCT__entry(
		__field(u32, member)
		__field(u32, watch)
		__field(u64, event)
		__field(u32, verdict)
	),

	TP_fast_assign(
		__entry->member = member;
		__entry->watch = watch;
		__entry->event = event;
		__entry->verdict = verdict;
	),

	TP_printk("member %u watch %u event %llu verdict %u", __entry->member,
		  __entry->watch, __entry->event, __entry->verdict)
);

/* An access was denied; how: what the vCPU got for it, a string constant. */
TRACE_EVENT(kvm_span_deny,
	TP_PROTO(u64 page, u32 access, u32 source, const char *how),
	TP_ARGS(page, access, source, how),

	TP_STRUCT__entry(
		__string(how, how)
		__field(u64, page)
		__field(u32, access)
		__field(u32, source)
	),

	TP_fast_assign(
		__assign_str(how);
		__entry->page = page;
		__entry->access = access;
		__entry->source = source;
	),

	TP_printk("page %#llx access %#x source %u: %s", __entry->page, __entry->access,
		  __entry->source, __get_str(how))
);

/* A page was opened for a moment; watches: by their place in the span. */
TRACE_EVENT(kvm_span_lift,
	TP_PROTO(u64 event, u64 page, u32 access, u64 watches),
	TP_ARGS(event, page, access, watches),

	TP_STRUCT__entry(
		__field(u64, event)
		__field(u64, page)
		__field(u32, access)
		__field(u64, watches)
	),

	TP_fast_assign(
		__entry->event = event;
		__entry->page = page;
		__entry->access = access;
		__entry->watches = watches;
	),

	TP_printk("event %llu page %#llx access %#x watches %#llx", __entry->event,
		  __entry->page, __entry->access, __entry->watches)
);

/* A Virtual EPT leads from the guest's frame to another page than L0's does. */
TRACE_EVENT(kvm_span_remap,
	TP_PROTO(u32 member, u64 gfn, u64 page, u64 base_page),
	TP_ARGS(member, gfn, page, base_page),

	TP_STRUCT__entry(
		__field(u32, member)
		__field(u64, gfn)
		__field(u64, page)
		__field(u64, base_page)
	),

	TP_fast_assign(
		__entry->member = member;
		__entry->gfn = gfn;
		__entry->page = page;
		__entry->base_page = base_page;
	),

	TP_printk("member %u gfn %#llx page %#llx, of L0 %#llx", __entry->member,
		  __entry->gfn, __entry->page, __entry->base_page)
);

/* A vCPU of the guest has another owner: a member, 0 for this host, or -1, -2. */
TRACE_EVENT(kvm_span_vcpu,
	TP_PROTO(u32 vcpu, u32 from, u32 to),
	TP_ARGS(vcpu, from, to),

	TP_STRUCT__entry(
		__field(u32, vcpu)
		__field(u32, from)
		__field(u32, to)
	),

	TP_fast_assign(
		__entry->vcpu = vcpu;
		__entry->from = from;
		__entry->to = to;
	),

	TP_printk("vcpu %u from %d to %d", __entry->vcpu, (int)__entry->from,
		  (int)__entry->to)
);

/* Interrupts between hypervisors, and to whom; -1: kept for the next owner. */
TRACE_EVENT(kvm_span_post,
	TP_PROTO(u32 vcpu, u32 to, u32 event, const u64 *irr),
	TP_ARGS(vcpu, to, event, irr),

	TP_STRUCT__entry(
		__field(u32, vcpu)
		__field(u32, to)
		__field(u32, event)
		__array(u64, irr, 4)
	),

	TP_fast_assign(
		__entry->vcpu = vcpu;
		__entry->to = to;
		__entry->event = event;
		memcpy(__entry->irr, irr, sizeof(__entry->irr));
	),

	TP_printk("vcpu %u to %d event %#x irr %016llx %016llx %016llx %016llx",
		  __entry->vcpu, (int)__entry->to, __entry->event, __entry->irr[3],
		  __entry->irr[2], __entry->irr[1], __entry->irr[0])
);

/* A vCPU was taken from a member by force, or could not be. */
TRACE_EVENT(kvm_span_salvage,
	TP_PROTO(u32 vcpu, u32 member, u32 result, u32 exit),
	TP_ARGS(vcpu, member, result, exit),

	TP_STRUCT__entry(
		__field(u32, vcpu)
		__field(u32, member)
		__field(u32, result)
		__field(u32, exit)
	),

	TP_fast_assign(
		__entry->vcpu = vcpu;
		__entry->member = member;
		__entry->result = result;
		__entry->exit = exit;
	),

	TP_printk("vcpu %u of member %u: result %u, last exit %u", __entry->vcpu,
		  __entry->member, __entry->result, __entry->exit)
);

#endif /* _TRACE_KVM_SPAN_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH ../../span
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace

#include <trace/define_trace.h>
