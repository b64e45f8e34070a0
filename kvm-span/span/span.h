/* SPDX-License-Identifier: GPL-2.0 */
/*
 * KVM Span, L0 side: the objects and their locks. docs/locking.rst has the
 * order of the locks and the reasons.
 */
#ifndef KVM_SPAN_SPAN_H
#define KVM_SPAN_SPAN_H

#include <linux/bitmap.h>
#include <linux/fs.h>
#include <linux/kref.h>
#include <linux/kvm_host.h>
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/spinlock.h>
#include <linux/wait.h>
#include <uapi/linux/kvm_span.h>

/* Offsets are kept in 64-bit bitmaps per page later on: 4 TiB is plenty. */
#define KVM_SPAN_MAX_BYTES	(1ULL << 42)

/*
 * Records: live members, fenced ones that still hold their file, and those
 * that left and whose LEFT event nobody has read.
 */
#define KVM_SPAN_MAX_RECORDS	(4 * KVM_SPAN_MAX_MEMBERS)

/*
 * Mappings that one member may have. A QEMU needs one; a revoke visits each.
 */
#define KVM_SPAN_MAX_WINDOWS	64

/* Watches of all members of one span. */
#define KVM_SPAN_SPAN_WATCHES	64

/* Of each member's that nobody else can take; the others are for who comes first. */
#define KVM_SPAN_OWN_WATCHES	2
#define KVM_SPAN_COMMON_WATCHES	\
	(KVM_SPAN_SPAN_WATCHES - KVM_SPAN_MAX_MEMBERS * KVM_SPAN_OWN_WATCHES)

/* Bits of KVM_SPAN_ACCESS_* are 1 << these. */
enum { KVM_SPAN_R, KVM_SPAN_W, KVM_SPAN_X, KVM_SPAN_NR_ACCESS };

/* What of KVM_SPAN_RIGHT_* is about watches. */
#define KVM_SPAN_RIGHTS_WATCH	(KVM_SPAN_RIGHT_NOTIFY | KVM_SPAN_RIGHT_BLOCK | \
				 KVM_SPAN_RIGHT_DENY | KVM_SPAN_RIGHT_LOG)

struct kvm_span_hub;
struct kvm_span_watch;

/*
 * One guest's memory and who may reach it. The span fd, each
 * member's file and each memory slot that shows the memory hold a reference.
 */
struct kvm_span {
	struct kref ref;
	struct list_head node;		/* in kvm_spans, under kvm_spans_lock */
	struct hlist_node alive;	/* in kvm_spans_alive, RCU */
	bool open;			/* its fd is; slots are bound to such a one */
	struct rcu_head rcu;
	struct file *memfd;		/* constant, the guest's RAM */
	struct address_space *mapping;	/* constant, memfd's */
	struct kvm *kvm;		/* the guest's own VM, until the span fd closes */
	struct mm_struct *owner;	/* constant, mmgrab(): the guest's own process */
	u64 bytes;			/* constant, memfd is sealed */
	char name[KVM_SPAN_NAME_LEN];

	/* Guards everything below and the state of every member. */
	spinlock_t lock;
	struct list_head members;	/* struct kvm_span_member.node */
	u32 next_id;
	unsigned int nr_records;
	unsigned int nr_granted;
	unsigned int nr_joined;
	unsigned int nr_events;
	u64 grants;
	u64 joins;
	u64 revokes;
	u64 leaves;

	wait_queue_head_t wait;		/* readers of events */
	atomic64_t faults;
	atomic64_t refused;

	/*
	 * Watches come, go and change their masks with this held. Never taken
	 * by a vCPU, nor held over a copy from or to user space.
	 */
	struct mutex control;
	struct kvm_span_watch __rcu *watch[KVM_SPAN_SPAN_WATCHES];
	/* Places in use: until nothing names a watch that has ended any more. */
	DECLARE_BITMAP(watch_places, KVM_SPAN_SPAN_WATCHES);
	unsigned int nr_watches;
	unsigned int nr_common;		/* of them, beyond each member's own */
	struct kvm_span_events *events;	/* constant; event.c */

	/*
	 * A bit for each page of the guest: what all watches together mask, the
	 * pages under a log, and those whose next write some log has to hear
	 * of. Allocated when first needed, under control; they stay until the
	 * span ends. Bits of mask and logged change under mask_lock, those of
	 * armed by atomic operations; readers take no lock.
	 */
	spinlock_t mask_lock;		/* irqsave */
	bool active;			/* a watch exists that has bitmaps; control */
	unsigned long *mask[KVM_SPAN_NR_ACCESS];
	unsigned long *logged;
	unsigned long *armed;
	struct mutex fetch_lock;	/* one fetch takes bits at a time */
	ktime_t kicked;			/* vCPUs, by a fetch; fetch_lock */

	spinlock_t vms_lock;
	struct list_head vms;		/* struct kvm_span_vm, VMs with a bound slot */
	bool logging;			/* some page is under a log; with control */

	atomic64_t pages_zapped;
	atomic64_t pages_logged;

	/* Who owns which vCPU; made with the first that leaves. hub.c */
	struct kvm_span_hub __rcu *hub;
};

/*
 * One capability. Its file holds a reference, and so does the span's list
 * while it has the record. Every window (a VMA's file) holds the member's
 * file, so the file ends after the last mapping.
 */
struct kvm_span_member {
	struct kref ref;
	struct kvm_span *span;		/* referenced by the member's file */
	struct list_head node;		/* in span->members, under span->lock */
	u32 id;
	u32 access;
	u32 rights;
	u32 max_deadline_us;		/* of its watches */
	bool watcher;			/* has no VM, never joins */
	char name[KVM_SPAN_NAME_LEN];

	/*
	 * Faults put pages into page tables, and mmap() takes its decision,
	 * with this held for read. The state changes with span->lock and this
	 * held for write: after that, no fault that saw the old state is still
	 * on its way.
	 */
	rwlock_t map_lock;
	enum kvm_span_state state;

	atomic_t windows;		/* files of windows, <= KVM_SPAN_MAX_WINDOWS */

	u8 events;			/* pending: BIT(type), under span->lock */
	bool remapped;			/* and KVM_SPAN_EVENT_REMAP was told; same */

	/* Under span->control; found under RCU. */
	struct kvm_span_watch __rcu *watch[KVM_SPAN_MAX_WATCHES];
	unsigned int nr_watches;
	atomic_t ending;		/* watches that were taken out, not through yet */
	struct kvm_span_ring_state *ring;	/* set once, until the file's release */
	struct kvm_span_share_state *share;	/* set once, until the member is freed */

	/* Written once, at join, before the state becomes JOINED. */
	struct kvm *kvm;
	struct mm_struct *mm;		/* mmgrab(): an identity, no users */
	struct pid *pid;

	atomic64_t faults;
	atomic64_t refused;

	/*
	 * vCPUs that it owns, and that it owned and that are nobody's. Change
	 * with the mutex of the hub's site held.
	 */
	unsigned long vcpus;
	unsigned long leaving;
	atomic64_t irqs_to_l1;
	atomic64_t irqs_to_l0;
};

/* span.c */
void kvm_span_get(struct kvm_span *span);
void kvm_span_put(struct kvm_span *span);
int kvm_span_copy_arg(void *arg, size_t ksize, void __user *uarg);
int kvm_span_copy_arg_since(void *arg, size_t ksize, size_t first_size, void __user *uarg);
int kvm_span_return_arg(void __user *uarg, const void *arg, size_t ksize);
bool kvm_span_name_valid(const u8 *name);
struct kvm *kvm_span_get_vm(int fd);
struct kvm_span *kvm_span_get_open(struct address_space *mapping);
extern struct workqueue_struct *kvm_span_wq;

/* member.c */
long kvm_span_member_grant(struct kvm_span *span, void __user *uarg);
long kvm_span_member_revoke(struct kvm_span *span, void __user *uarg);
long kvm_span_member_query(struct kvm_span *span, void __user *uarg);
void kvm_span_member_expel(struct kvm_span_member *member);
void kvm_span_member_fence_all(struct kvm_span *span);
void kvm_span_member_drop_record(struct kvm_span_member *member);
struct kvm_span_member *kvm_span_member_get(struct kvm_span *span, u32 id);
void kvm_span_member_put(struct kvm_span_member *member);
void kvm_span_member_refused(struct kvm_span_member *member);
void kvm_span_member_tell(struct kvm_span_member *member, u32 type);
struct kvm_span_member *kvm_span_member_find(struct kvm_span *span, u32 id);
u32 kvm_span_member_remapped(struct kvm_span *span, const struct kvm *kvm);

/* slot.c */
int kvm_span_bind_vm(struct kvm_span *span, struct kvm *kvm);
void kvm_span_unbind_vm(struct kvm_span *span, struct kvm *kvm);

/* mask.c */
void kvm_span_mask_exit(struct kvm_span *span);

/* share.c, channel.c */
struct span_posts;
long kvm_span_share_setup(struct kvm_span_member *member, void __user *uarg);
long kvm_span_share_doorbell(struct kvm_span_member *member, void __user *uarg);
int kvm_span_share_mmap(struct kvm_span_member *member, struct vm_area_struct *vma);
void kvm_span_share_end(struct kvm_span_member *member);
void kvm_span_share_release(struct kvm_span_member *member);
struct span_posts *kvm_span_share_posts(struct kvm_span_member *member, bool to_l0);
void kvm_span_share_signal(struct kvm_span_member *member);
long kvm_span_channel(struct kvm_span *span, void __user *uarg);

/* salvage.c */
u64 kvm_span_salvage_features(void);
long kvm_span_salvage(struct kvm_span *span, void __user *uarg);

/* window.c */
struct kvm_span_member *kvm_span_window_member(struct vm_area_struct *vma);
int kvm_span_window_mmap(struct file *file, struct vm_area_struct *vma);
unsigned int kvm_span_window_zap(struct kvm_span_member *member);
void kvm_span_window_flush(void);
u64 kvm_span_window_bytes(struct kvm_span_member *member);

#endif
