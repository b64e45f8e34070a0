// SPDX-License-Identifier: GPL-2.0
/*
 * KVM Span, L1 side: a VM that has vCPUs of a guest whose other vCPUs run on L0
 * or in other L1s. What comes for those goes to L0 by the posts of the
 * span-port, and what L0 posts goes into the local APICs here.
 */
#include <linux/anon_inodes.h>
#include <linux/delay.h>
#include <linux/file.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/span_relay.h>

#include "x86.h"
#include "irq.h"
#include "lapic.h"
#include "vcpu.h"
#include "watch.h"
#include "trace.h"

/* Functions of span_port.ko, which may not be there, and does not need us. */
struct kvm_span_port_calls {
	typeof(&span_port_relay_open) open;
	typeof(&span_port_relay_close) close;
	typeof(&span_port_relay_posts) posts;
	typeof(&span_port_relay_ring) ring;
};

struct kvm_span_link {
	struct kvm_span_site site;
	struct kvm_span_port_calls port;
	struct span_port_relay *handle;
	struct span_posts *to_l0;	/* constant, until the handle is closed */
	struct span_posts *to_l1;
	bool ready;			/* all is in place; set once */
	bool gone;			/* the attachment is; set once, readers under RCU */
	atomic64_t lost;		/* interrupts that came for nobody we can reach */
};

static struct kvm_span_link *kvm_span_relay_of_site(struct kvm_span_site *site)
{
	return container_of(site, struct kvm_span_link, site);
}

/* Under RCU: may the posts be used? See kvm_span_relay_gone(). */
static bool kvm_span_relay_alive(const struct kvm_span_link *relay)
{
	return READ_ONCE(relay->ready) && !READ_ONCE(relay->gone);
}

static void kvm_span_relay_send(struct kvm_span_link *relay, unsigned int n,
				const struct kvm_span_bits *bits)
{
	trace_kvm_span_post(n, 0, bits->event, bits->irr);
	preempt_disable();
	if (kvm_span_posts_put(relay->to_l0, n, bits))
		relay->port.ring(relay->handle);
	preempt_enable();
}

static void kvm_span_relay_post(struct kvm_span_site *site, unsigned int n,
				const struct kvm_span_bits *bits)
{
	struct kvm_span_link *relay = kvm_span_relay_of_site(site);

	if (kvm_span_relay_alive(relay))
		kvm_span_relay_send(relay, n, bits);
	else
		atomic64_inc(&relay->lost);
}

/* Under RCU, any context. What is not here goes back to L0, which knows. */
static void kvm_span_relay_deliver(struct kvm_span_link *relay, unsigned int n,
				   struct kvm_span_bits *bits)
{
	struct kvm_span_site *site = &relay->site;
	struct kvm_vcpu *vcpu;

	if (bits->event & SPAN_POST_APIC)
		kvm_span_site_news(site, n);
	bits->event &= ~SPAN_POST_APIC;
	if (!kvm_span_bits_count(bits))
		return;
	if (test_bit(n, &site->kvm->arch.span.away)) {
		kvm_span_relay_send(relay, n, bits);
		return;
	}
	vcpu = kvm_get_vcpu_by_id(site->kvm, n);
	trace_kvm_span_post(n, n, bits->event, bits->irr);
	if (vcpu && lapic_in_kernel(vcpu))
		kvm_span_inject(vcpu, bits);
}

/*
 * Take what L0 posted for one vCPU. Where L0 has pulled the pages away already,
 * reads give ones: nothing of that is believed.
 */
static bool kvm_span_relay_take(struct kvm_span_link *relay, unsigned int n,
				struct kvm_span_bits *bits)
{
	return kvm_span_posts_take(relay->to_l1, n, bits) && span_posts_there(relay->to_l1);
}

/* Hard interrupt, or whoever wants to be sure that nothing is left there. */
static void kvm_span_relay_posted(void *opaque)
{
	struct kvm_span_link *relay = opaque;
	struct kvm_span_bits bits;
	unsigned long pending;
	unsigned int n;

	rcu_read_lock();
	if (!kvm_span_relay_alive(relay))
		goto out;
	pending = kvm_span_posts_pending(relay->to_l1);
	if (!span_posts_there(relay->to_l1))
		goto out;
	for_each_set_bit(n, &pending, SPAN_MAX_VCPUS)
		if (kvm_span_relay_take(relay, n, &bits))
			kvm_span_relay_deliver(relay, n, &bits);
out:
	rcu_read_unlock();
}

/* The posts are not touched any more when this returns. Local vCPUs stay local. */
static void kvm_span_relay_gone(void *opaque)
{
	struct kvm_span_link *relay = opaque;

	WRITE_ONCE(relay->gone, true);
	synchronize_rcu_expedited();
}

static const struct span_port_relay_ops kvm_span_relay_port_ops = {
	.posted = kvm_span_relay_posted,
	.gone = kvm_span_relay_gone,
};

/* Tell L0 how a vCPU of ours is addressed, and give it a moment to tell all. */
static void kvm_span_relay_publish(struct kvm_span_site *site, unsigned int n)
{
	static const struct kvm_span_bits apic = { .event = SPAN_POST_APIC };
	struct kvm_span_link *relay = kvm_span_relay_of_site(site);
	ktime_t until = ktime_add_ms(ktime_get(), KVM_SPAN_TAKE_MS);
	bool waits;

	rcu_read_lock();
	waits = kvm_span_relay_alive(relay);
	if (waits) {
		spin_lock(&site->ids_lock);
		kvm_span_ids_write(site, relay->to_l0, n);
		spin_unlock(&site->ids_lock);
		kvm_span_relay_send(relay, n, &apic);
	}
	rcu_read_unlock();
	while (waits && ktime_before(ktime_get(), until)) {
		usleep_range(20, 100);
		rcu_read_lock();
		waits = kvm_span_relay_alive(relay) &&
			!(le32_to_cpu(READ_ONCE(relay->to_l0->vcpu[n].apic)) & SPAN_APIC_ANSWERED);
		rcu_read_unlock();
	}
}

static struct span_post *kvm_span_relay_told(struct kvm_span_site *site, unsigned int n)
{
	struct kvm_span_link *relay = kvm_span_relay_of_site(site);

	return kvm_span_relay_alive(relay) && span_posts_there(relay->to_l1) ?
	       &relay->to_l1->vcpu[n] : NULL;
}

static void kvm_span_relay_free(struct kvm_span_site *site)
{
	kfree(kvm_span_relay_of_site(site));
}

static const struct kvm_span_site_ops kvm_span_relay_ops = {
	.post = kvm_span_relay_post,
	.publish = kvm_span_relay_publish,
	.told = kvm_span_relay_told,
	.free = kvm_span_relay_free,
};

/* Nothing that L0 posted for it stays behind here. Under site.mutex. */
static int kvm_span_relay_leave(struct kvm_span_link *relay, struct kvm_vcpu *vcpu)
{
	struct kvm_span_bits bits;
	int r;

	r = kvm_span_site_leave(&relay->site, vcpu);
	if (r)
		return r;
	rcu_read_lock();
	if (kvm_span_relay_alive(relay)) {
		if (kvm_span_relay_take(relay, vcpu->vcpu_id, &bits))
			kvm_span_relay_deliver(relay, vcpu->vcpu_id, &bits);
		/* Whatever others have put and not told yet: L0 has all of it now. */
		relay->port.ring(relay->handle);
	}
	rcu_read_unlock();
	trace_kvm_span_vcpu(vcpu->vcpu_id, 0, KVM_SPAN_VCPU_ELSEWHERE);
	return 0;
}

static int kvm_span_relay_come(struct kvm_span_link *relay, struct kvm_vcpu *vcpu)
{
	int r;

	r = kvm_span_site_come(&relay->site, vcpu);
	if (!r)
		trace_kvm_span_vcpu(vcpu->vcpu_id, KVM_SPAN_VCPU_ELSEWHERE, 0);
	return r;
}

static long kvm_span_relay_set_vcpu(struct kvm_span_link *relay, void __user *uarg)
{
	struct kvm_span_vcpu arg;
	struct kvm_vcpu *vcpu;
	bool away;
	int r;

	r = kvm_span_copy_arg(&arg, sizeof(arg), uarg);
	if (r)
		return r;
	if (arg.flags || arg.vcpu >= SPAN_MAX_VCPUS ||
	    (arg.owner && arg.owner != KVM_SPAN_VCPU_ELSEWHERE))
		return -EINVAL;
	vcpu = kvm_get_vcpu_by_id(relay->site.kvm, arg.vcpu);
	if (!vcpu)
		return -ENOENT;
	if (!arg.owner && READ_ONCE(relay->gone))
		return -ENODEV;
	/* No identity of before comes over the state that goes or comes. */
	flush_work(&relay->site.ids_work);
	if (mutex_lock_killable(&relay->site.mutex))
		return -EINTR;
	away = test_bit(arg.vcpu, &relay->site.kvm->arch.span.away);
	if (arg.owner && !away)
		r = kvm_span_relay_leave(relay, vcpu);
	if (!arg.owner && away)
		r = kvm_span_relay_come(relay, vcpu);
	mutex_unlock(&relay->site.mutex);
	return r;
}

static long kvm_span_relay_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	if (_IOC_TYPE(cmd) != KVM_SPAN_IO || _IOC_NR(cmd) != _IOC_NR(KVM_SPAN_SET_VCPU))
		return -ENOTTY;
	return kvm_span_relay_set_vcpu(file->private_data, (void __user *)arg);
}

/* Their timers run here again; what comes for them is theirs. */
static void kvm_span_relay_all_come(struct kvm_span_link *relay)
{
	struct kvm *kvm = relay->site.kvm;
	struct kvm_vcpu *vcpu;
	unsigned long i;

	mutex_lock(&relay->site.mutex);
	kvm_for_each_vcpu(i, vcpu, kvm)
		if (vcpu->vcpu_id < SPAN_MAX_VCPUS && test_bit(vcpu->vcpu_id, &kvm->arch.span.away))
			kvm_span_site_come(&relay->site, vcpu);
	mutex_unlock(&relay->site.mutex);
}

/* From here on all are elsewhere, also those that are made later. */
static int kvm_span_relay_all_leave(struct kvm_span_link *relay)
{
	struct kvm *kvm = relay->site.kvm;
	struct kvm_vcpu *vcpu;
	unsigned long i;
	int r = 0;

	mutex_lock(&relay->site.mutex);
	kvm_for_each_vcpu(i, vcpu, kvm) {
		if (vcpu->vcpu_id >= SPAN_MAX_VCPUS || test_bit(vcpu->vcpu_id, &kvm->arch.span.away))
			continue;
		r = kvm_span_site_leave(&relay->site, vcpu);
		if (r)
			break;
	}
	mutex_unlock(&relay->site.mutex);
	return r;
}

static void kvm_span_relay_put_calls(struct kvm_span_port_calls *port)
{
	if (port->open)
		symbol_put(span_port_relay_open);
	if (port->close)
		symbol_put(span_port_relay_close);
	if (port->posts)
		symbol_put(span_port_relay_posts);
	if (port->ring)
		symbol_put(span_port_relay_ring);
}

static int kvm_span_relay_get_calls(struct kvm_span_port_calls *port)
{
	port->open = symbol_get(span_port_relay_open);
	port->close = symbol_get(span_port_relay_close);
	port->posts = symbol_get(span_port_relay_posts);
	port->ring = symbol_get(span_port_relay_ring);
	if (port->open && port->close && port->posts && port->ring)
		return 0;
	kvm_span_relay_put_calls(port);
	return -ENODEV;
}

static void kvm_span_relay_end(struct kvm_span_link *relay)
{
	struct kvm *kvm = relay->site.kvm;
	struct kvm_span_port_calls port = relay->port;

	/* Nobody posts after this, and nobody is told. */
	kvm_span_relay_gone(relay);
	port.close(relay->handle);
	kvm_span_relay_all_come(relay);
	kvm_span_site_detach(&relay->site);
	kvm_span_site_put(&relay->site);
	kvm_span_relay_put_calls(&port);
	kvm_put_kvm(kvm);
}

static int kvm_span_relay_release(struct inode *inode, struct file *file)
{
	kvm_span_relay_end(file->private_data);
	return 0;
}

static void kvm_span_relay_show_fdinfo(struct seq_file *m, struct file *file)
{
	struct kvm_span_link *relay = file->private_data;

	seq_printf(m, "span-away:\t%#lx\n", READ_ONCE(relay->site.kvm->arch.span.away));
	seq_printf(m, "span-gone:\t%d\n", READ_ONCE(relay->gone));
	seq_printf(m, "span-lost:\t%lld\n", atomic64_read(&relay->lost));
}

static const struct file_operations kvm_span_relay_fops = {
	.owner = THIS_MODULE,
	.release = kvm_span_relay_release,
	.unlocked_ioctl = kvm_span_relay_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.show_fdinfo = kvm_span_relay_show_fdinfo,
};

/* vCPUs that do not exist yet are away when they are made. */
static unsigned long kvm_span_relay_missing(struct kvm *kvm)
{
	unsigned long away = ~0ul, i;
	struct kvm_vcpu *vcpu;

	kvm_for_each_vcpu(i, vcpu, kvm)
		if (vcpu->vcpu_id < SPAN_MAX_VCPUS)
			away &= ~BIT(vcpu->vcpu_id);
	return away;
}

static int kvm_span_relay_join_port(struct kvm_span_link *relay, struct file *port_file)
{
	struct span_port_relay *handle;

	handle = relay->port.open(port_file, &kvm_span_relay_port_ops, relay);
	if (IS_ERR(handle))
		return PTR_ERR(handle);
	relay->handle = handle;
	relay->to_l0 = relay->port.posts(handle, true);
	relay->to_l1 = relay->port.posts(handle, false);
	return 0;
}

static struct kvm_span_link *kvm_span_relay_new(struct kvm *kvm, struct file *port_file)
{
	struct kvm_span_link *relay = kzalloc(sizeof(*relay), GFP_KERNEL_ACCOUNT);
	int r;

	if (!relay)
		return ERR_PTR(-ENOMEM);
	r = kvm_span_relay_get_calls(&relay->port);
	if (r)
		goto err_free;
	r = kvm_span_site_init(&relay->site, kvm, &kvm_span_relay_ops);
	if (r)
		goto err_calls;
	r = kvm_span_relay_join_port(relay, port_file);
	if (r)
		goto err_site;
	r = kvm_span_site_attach(&relay->site, kvm_span_relay_missing(kvm));
	if (r)
		goto err_port;
	r = kvm_span_relay_all_leave(relay);
	if (r)
		goto err_attach;
	/* What was posted before: identities, mostly. */
	smp_store_release(&relay->ready, true);
	kvm_span_relay_posted(relay);
	/* What a relay before this one put and did not tell. */
	rcu_read_lock();
	if (kvm_span_relay_alive(relay))
		relay->port.ring(relay->handle);
	rcu_read_unlock();
	return relay;

err_attach:
	kvm_span_relay_all_come(relay);
	kvm_span_site_detach(&relay->site);
err_port:
	relay->port.close(relay->handle);
err_site:
	kvm_span_relay_put_calls(&relay->port);
	kvm_span_site_put(&relay->site);
	return ERR_PTR(r);
err_calls:
	kvm_span_relay_put_calls(&relay->port);
err_free:
	kfree(relay);
	return ERR_PTR(r);
}

static long kvm_span_relay_make_fd(struct kvm *kvm, struct file *port_file)
{
	struct kvm_span_link *relay;
	struct file *file;
	int fd;

	fd = get_unused_fd_flags(O_CLOEXEC);
	if (fd < 0)
		return fd;
	relay = kvm_span_relay_new(kvm, port_file);
	if (IS_ERR(relay)) {
		put_unused_fd(fd);
		return PTR_ERR(relay);
	}
	kvm_get_kvm(kvm);
	file = anon_inode_getfile("kvm-span-relay", &kvm_span_relay_fops, relay, O_RDWR);
	if (IS_ERR(file)) {
		kvm_span_relay_end(relay);
		put_unused_fd(fd);
		return PTR_ERR(file);
	}
	fd_install(fd, file);
	return fd;
}

/* KVM_SPAN_RELAY on /dev/kvm-span. */
long kvm_span_relay_open(void __user *uarg)
{
	struct kvm_span_relay arg;
	struct file *port_file;
	struct kvm *kvm;
	long r;

	r = kvm_span_copy_arg(&arg, sizeof(arg), uarg);
	if (r)
		return r;
	if (arg.flags)
		return -EINVAL;
	kvm = kvm_span_get_vm(arg.vm_fd);
	if (IS_ERR(kvm))
		return PTR_ERR(kvm);
	r = -EPERM;
	if (kvm->mm != current->mm)
		goto out_kvm;
	r = kvm_span_site_check_vm(kvm);
	if (r)
		goto out_kvm;
	r = -EBADF;
	port_file = fget(arg.port_fd);
	if (!port_file)
		goto out_kvm;
	r = kvm_span_relay_make_fd(kvm, port_file);
	fput(port_file);
out_kvm:
	if (r < 0)
		trace_kvm_span_refuse("relay", "see errno", 0, r);
	kvm_put_kvm(kvm);
	return r;
}
