// SPDX-License-Identifier: GPL-2.0
/*
 * The member fd as a capability: what it gives, to whom, and what it does not.
 *
 * test: mem/capability timeout=180
 */
#include "spanlib.h"

#include <sys/prctl.h>
#include <sys/syscall.h>

/* Runs in a child; the value is its exit status, 99 if it did not exit. */
static int in_child(int (*fn)(void *), void *arg)
{
	pid_t pid = MUST(fork());
	int status;

	if (!pid)
		_exit(fn(arg));
	MUST(waitpid(pid, &status, 0));
	return WIFEXITED(status) ? WEXITSTATUS(status) : 99;
}

/* Before joining, and for who did not join, the fd shows nothing. */
static void t_nothing_before_join(void)
{
	int memfd, span = span_new(&memfd), member = MUST(span_grant(span, ACCESS_RW, "L1a", NULL));

	CHECK_ERR(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, member, 0), EACCES);
	CHECK_ERR(mmap(NULL, MEM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, member, 0), EACCES);
	MUST(span_join(member, vm_new()));
	CHECK(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, member, 0) != MAP_FAILED, "%s", strerror(errno));
}

static int join_again(void *arg)
{
	return span_join(*(int *)arg, vm_new()) == -1 ? errno : 0;
}

static void t_used_once(void)
{
	int memfd, span = span_new(&memfd), member = MUST(span_grant(span, ACCESS_RW, "L1a", NULL));
	int vm = vm_new(), copy, r;

	MUST(span_join(member, vm));
	CHECK_ERR(span_join(member, vm), EBUSY);
	CHECK_ERR(span_join(member, vm_new()), EBUSY);
	copy = MUST(dup(member));
	CHECK_ERR(span_join(copy, vm_new()), EBUSY);
	r = in_child(join_again, &member);
	CHECK(r == EBUSY, "%s", strerror(r));
}

static int join_inherited(void *arg)
{
	int *fds = arg;

	return span_join(fds[0], fds[1]) == -1 ? errno : 0;
}

/* The VM must be of the process that joins. */
static void t_other_process_vm(void)
{
	int memfd, span = span_new(&memfd), r;
	int fds[2] = { MUST(span_grant(span, ACCESS_RW, "L1a", NULL)), vm_new() };

	r = in_child(join_inherited, fds);
	CHECK(r == EPERM, "%s", strerror(r));
	CHECK(span_stats(span).joined == 0, "joined all the same");
	CHECK(span_join(fds[0], fds[1]) == 0, "%s", strerror(errno));
}

static void t_one_membership_per_vm(void)
{
	int memfd, guest_vm = vm_new(), vm = vm_new(), span, a, b;
	uint32_t id;

	memfd = memfd_new(MEM_BYTES, GUEST_SEALS);
	span = span_create(memfd, guest_vm);
	a = MUST(span_grant(span, ACCESS_RW, "a", &id));
	b = MUST(span_grant(span, ACCESS_RW, "b", NULL));
	CHECK_ERR(span_join(a, guest_vm), EEXIST);
	MUST(span_join(a, vm));
	CHECK_ERR(span_join(b, vm), EEXIST);
	/* Once it is thrown out, it may be let in again. */
	MUST(span_revoke(span, id));
	CHECK(span_join(b, vm) == 0, "%s", strerror(errno));
}

static void t_mmap_rules(void)
{
	int memfd, span = span_new(&memfd), member = MUST(span_grant(span, ACCESS_RW, "L1a", NULL));
	struct kvm_span_member_info info;
	uint8_t *p;

	MUST(span_join(member, vm_new()));
	CHECK_ERR(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, member, 0), EINVAL);
	CHECK_ERR(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, member, 0), EINVAL);
	CHECK(mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, member, 0) == MAP_FAILED &&
	      (errno == EACCES || errno == EPERM), "executable: %s", strerror(errno));
	CHECK_ERR(mmap(NULL, MEM_BYTES + PAGE, PROT_READ, MAP_SHARED, member, 0), EINVAL);
	CHECK_ERR(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, member, MEM_BYTES), EINVAL);
	CHECK_ERR(mmap(NULL, 2 * PAGE, PROT_READ, MAP_SHARED, member, MEM_BYTES - PAGE), EINVAL);
	CHECK_ERR(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, member, 1UL << 62), EINVAL);
	CHECK(syscall(SYS_mmap, NULL, PAGE, PROT_READ, MAP_SHARED, member, -(long)PAGE) == -1 &&
	      (errno == EINVAL || errno == EOVERFLOW), "%s", strerror(errno));

	p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, member, MEM_BYTES - PAGE);
	CHECK(p != MAP_FAILED, "last page: %s", strerror(errno));
	CHECK(touch(p, true) == 0, "last page");
	CHECK_ERR(mprotect(p, PAGE, PROT_READ | PROT_EXEC), EACCES);
	MUST(munmap(p, PAGE));

	p = mmap(NULL, MEM_BYTES, PROT_READ, MAP_SHARED_VALIDATE, member, 0);
	CHECK(p != MAP_FAILED, "%s", strerror(errno));
	/* In one piece, always: a revoke visits each piece. */
	CHECK_ERR(mprotect(p + 4 * PAGE, PAGE, PROT_NONE), EINVAL);
	CHECK_ERR(munmap(p + 8 * PAGE, PAGE), EINVAL);
	CHECK_ERR(munmap(p, PAGE), EINVAL);
	CHECK(mmap(p + 8 * PAGE, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
	      MAP_FAILED, "mapped over a part");
	CHECK(mremap(p + 8 * PAGE, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, p + 2 * MEM_BYTES) ==
	      MAP_FAILED, "moved a part");
	MUST(mprotect(p, MEM_BYTES, PROT_NONE));
	MUST(mprotect(p, MEM_BYTES, PROT_READ));
	MUST(span_member(member, 0, &info));
	CHECK(info.mapped_bytes == MEM_BYTES, "%llu", info.mapped_bytes);
	CHECK_ERR(remap_file_pages(p, PAGE, 0, 1, 0), ENODEV);
	CHECK(madvise(p, PAGE, MADV_REMOVE) == -1, "punched a hole through a window");
	CHECK(madvise(p, PAGE, MADV_DODUMP) == -1, "guest memory in core dumps");
	CHECK(msync(p, PAGE, MS_SYNC) == 0, "%s", strerror(errno));
}

/* So many windows and no more, whatever became of the first ones. */
static void t_max_windows(void)
{
	enum { MAX = 64 };
	int memfd, span = span_new(&memfd), member = MUST(span_grant(span, ACCESS_RW, "L1a", NULL));
	struct kvm_span_member_info info;
	uint8_t *p[MAX], *q;
	int round, i;

	MUST(span_join(member, vm_new()));
	for (round = 0; round < 2; round++) {
		for (i = 0; i < MAX; i++) {
			p[i] = span_map(member, PROT_READ);
			if (!CHECK(p[i] != MAP_FAILED, "window %d, round %d: %s", i, round, strerror(errno)))
				return;
		}
		CHECK_ERR(span_map(member, PROT_READ), ENOMEM);
		/* Moved or copied to a child, a window is still one. */
		q = mremap(p[0], MEM_BYTES, MEM_BYTES, MREMAP_MAYMOVE | MREMAP_FIXED, p[0] - 2 * MEM_BYTES * MAX);
		CHECK(q != MAP_FAILED, "%s", strerror(errno));
		p[0] = q;
		CHECK_ERR(span_map(member, PROT_READ), ENOMEM);
		MUST(span_member(member, 0, &info));
		CHECK(info.mapped_bytes == MAX * MEM_BYTES, "%llu", info.mapped_bytes);
		/* One taken over by another mapping makes room for one. */
		MUST(mmap(p[1], MEM_BYTES, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
		     MAP_FAILED ? -1 : 0);
		q = span_map(member, PROT_READ);
		CHECK(q != MAP_FAILED, "%s", strerror(errno));
		MUST(munmap(q, MEM_BYTES));
		for (i = 0; i < MAX; i++)
			MUST(munmap(p[i], MEM_BYTES));
	}
}

/* Same offset, same byte, whoever looks. */
static void t_same_offsets(void)
{
	int memfd, span = span_new(&memfd);
	uint8_t *base, *a, *b;
	size_t off;

	base = mmap(NULL, MEM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
	MUST(base == MAP_FAILED ? -1 : 0);
	a = member_new(span, ACCESS_RW, "a", NULL, NULL);
	b = member_new(span, KVM_SPAN_ACCESS_R, "b", NULL, NULL);
	for (off = 0; off < MEM_BYTES; off += MEM_BYTES / 16 + PAGE + 8) {
		base[off] = 0x5a;
		CHECK(a[off] == 0x5a && b[off] == 0x5a, "at %#zx", off);
		a[off + 1] = 0xa5;
		CHECK(base[off + 1] == 0xa5 && b[off + 1] == 0xa5, "at %#zx", off + 1);
	}
}

static void t_readonly(void)
{
	int memfd, span = span_new(&memfd), fd, other, mem;
	char path[64], byte = 1;
	uint8_t *base, *p;
	int flags[] = { O_RDONLY, O_RDWR, O_WRONLY };
	size_t i;

	base = mmap(NULL, MEM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
	base[100] = 7;
	p = member_new(span, KVM_SPAN_ACCESS_R, "ro", NULL, &fd);
	CHECK(p[100] == 7, "%u", p[100]);
	CHECK_ERR(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), EACCES);
	CHECK_ERR(mmap(NULL, PAGE, PROT_WRITE, MAP_SHARED, fd, 0), EACCES);
	CHECK_ERR(mprotect(p, PAGE, PROT_READ | PROT_WRITE), EACCES);
	CHECK_ERR(mprotect(p, PAGE, PROT_WRITE), EACCES);
	CHECK(touch(p, true) == SIGSEGV, "wrote");
	/* Not by the back doors either. */
	mem = MUST(open("/proc/self/mem", O_RDWR));
	CHECK(pwrite(mem, &byte, 1, (uintptr_t)p + 100) == -1, "wrote through /proc/self/mem");
	for (i = 0; i < 3; i++) {
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		other = open(path, flags[i]);
		CHECK(other == -1, "opened %s again with %d", path, flags[i]);
		snprintf(path, sizeof(path), "/proc/self/map_files/%lx-%lx", (unsigned long)p,
			 (unsigned long)p + MEM_BYTES);
		other = open(path, flags[i]);
		CHECK(other == -1, "opened %s with %d", path, flags[i]);
	}
	CHECK(fcntl(fd, F_SETFL, O_RDWR) == -1 || (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDONLY,
	      "made writable by F_SETFL");
	CHECK_ERR(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), EACCES);
	CHECK(base[100] == 7, "%u", base[100]);
}

/* A writable member is not reopened either: the copy could not be revoked. */
static void t_no_reopen(void)
{
	int memfd, span = span_new(&memfd), fd, other;
	uint8_t *p = member_new(span, ACCESS_RW, "rw", NULL, &fd);
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	other = open(path, O_RDWR);
	CHECK(other == -1, "opened the capability again");
	snprintf(path, sizeof(path), "/proc/self/map_files/%lx-%lx", (unsigned long)p,
		 (unsigned long)p + MEM_BYTES);
	CHECK(access(path, F_OK) == 0 || errno == ENOENT || errno == ENXIO, "%s", strerror(errno));
	other = open(path, O_RDWR);
	CHECK(other == -1, "opened the window's file");
}

#ifndef UDMABUF_CREATE
struct udmabuf_create_arg {
	uint32_t memfd, flags;
	uint64_t offset, size;
};
#define UDMABUF_CREATE _IOW('u', 0x42, struct udmabuf_create_arg)
#endif

/* What takes a memfd does not take a member fd. */
static void t_no_udmabuf(void)
{
	int memfd, span = span_new(&memfd), fd, dev;
	struct udmabuf_create_arg arg = { .size = PAGE };

	member_new(span, ACCESS_RW, "rw", NULL, &fd);
	dev = open("/dev/udmabuf", O_RDWR);
	if (dev < 0)
		ktap_skip("no udmabuf in this kernel");
	arg.memfd = fd;
	CHECK_ERR(ioctl(dev, UDMABUF_CREATE, &arg), EBADFD);
}

static int touch_inherited(void *arg)
{
	/* No mapping at the address: SIGSEGV. One that shows nothing: SIGBUS. */
	return touch(arg, false);
}

static int map_inherited(void *arg)
{
	return span_map(*(int *)arg, PROT_READ) == MAP_FAILED ? errno : 0;
}

static void t_fork(void)
{
	int memfd, span = span_new(&memfd), fd, r;
	uint8_t *p = member_new(span, ACCESS_RW, "L1a", NULL, &fd);

	p[0] = 42;
	r = in_child(touch_inherited, p);
	CHECK(r == SIGSEGV, "child sees the window: %d", r);
	r = in_child(map_inherited, &fd);
	CHECK(r == EPERM, "child may map: %s", strerror(r));
	/* The parent may wish for a copy; it shows nothing. */
	MUST(madvise(p, MEM_BYTES, MADV_DOFORK));
	r = in_child(touch_inherited, p);
	CHECK(r == SIGBUS, "child sees a copied window: %d", r);
	CHECK(p[0] == 42, "%u", p[0]);
}

static void t_mremap(void)
{
	int memfd, span = span_new(&memfd);
	uint32_t id;
	uint8_t *p = member_new(span, ACCESS_RW, "L1a", &id, NULL), *q, *room;

	CHECK(mremap(p, PAGE, 2 * MEM_BYTES, MREMAP_MAYMOVE) == MAP_FAILED, "grew");
	CHECK(mremap(p, 0, MEM_BYTES, MREMAP_MAYMOVE) == MAP_FAILED, "doubled");
	CHECK(mremap(p, MEM_BYTES, MEM_BYTES, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL) == MAP_FAILED,
	      "left one behind");
	/* Moving is allowed, and a moved window is revoked like any other. */
	p[5 * PAGE] = 9;
	room = mmap(NULL, MEM_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	q = mremap(p, MEM_BYTES, MEM_BYTES, MREMAP_MAYMOVE | MREMAP_FIXED, room);
	CHECK(q == room, "%s", strerror(errno));
	CHECK(q[5 * PAGE] == 9, "%u", q[5 * PAGE]);
	MUST(span_revoke(span, id));
	CHECK(touch(q + 5 * PAGE, false) == SIGBUS, "readable after revoke");
}

/* dup() and SCM_RIGHTS give the same capability: one membership, one end. */
static void t_dup(void)
{
	int memfd, span = span_new(&memfd), fd, copy;
	struct kvm_span_event e;
	uint8_t *p;
	uint32_t id;

	p = member_new(span, ACCESS_RW, "L1a", &id, &fd);
	CHECK(span_event(span, 0).type == KVM_SPAN_EVENT_JOINED, "no JOINED");
	copy = MUST(dup(fd));
	close(fd);
	CHECK(span_event(span, 50).type == 0, "left with a descriptor open");
	CHECK(span_map(copy, PROT_READ) != MAP_FAILED, "%s", strerror(errno));
	close(copy);
	/* Mappings hold it as well. */
	CHECK(span_event(span, 50).type == 0, "left with a mapping");
	MUST(munmap(p, MEM_BYTES));
	CHECK(span_event(span, 50).type == 0, "left with a second mapping");
	MUST(span_revoke(span, id));
	CHECK(span_stats(span).joined == 0, "still counted as joined");
	(void)e;
}

static void t_names_and_ids(void)
{
	int memfd, span = span_new(&memfd), a, b;
	uint32_t ids[5];

	a = MUST(span_grant(span, ACCESS_RW, "L1a", &ids[0]));
	CHECK_ERR(span_grant(span, ACCESS_RW, "L1a", NULL), EEXIST);
	CHECK_ERR(span_grant(span, KVM_SPAN_ACCESS_R, "L1a", NULL), EEXIST);
	b = MUST(span_grant(span, ACCESS_RW, "L1b", &ids[1]));
	close(a);
	/* Free when the member left, and when it was revoked. */
	a = MUST(span_grant(span, ACCESS_RW, "L1a", &ids[2]));
	MUST(span_revoke(span, ids[2]));
	CHECK(span_grant(span, ACCESS_RW, "L1a", &ids[3]) >= 0, "%s", strerror(errno));
	close(b);
	while (span_event(span, 0).type)
		;
	CHECK(span_grant(span, ACCESS_RW, "L1b", &ids[4]) >= 0, "%s", strerror(errno));
	CHECK(ids[0] < ids[1] && ids[1] < ids[2] && ids[2] < ids[3] && ids[3] < ids[4],
	      "ids used again: %u %u %u %u %u", ids[0], ids[1], ids[2], ids[3], ids[4]);
	(void)a;
}

static void t_max_members(void)
{
	int memfd, span = span_new(&memfd), fds[KVM_SPAN_MAX_MEMBERS], i, r;
	uint32_t ids[KVM_SPAN_MAX_MEMBERS];
	char name[16];

	for (i = 0; i < KVM_SPAN_MAX_MEMBERS; i++) {
		snprintf(name, sizeof(name), "L1-%d", i);
		fds[i] = span_grant(span, ACCESS_RW, name, &ids[i]);
		CHECK(fds[i] >= 0, "%d: %s", i, strerror(errno));
	}
	CHECK_ERR(span_grant(span, ACCESS_RW, "more", NULL), ENOSPC);
	MUST(span_revoke(span, ids[3]));
	r = span_grant(span, ACCESS_RW, "more", NULL);
	CHECK(r >= 0, "after a revoke: %s", strerror(errno));
	close(fds[5]);
	CHECK(span_grant(span, ACCESS_RW, "yet more", NULL) >= 0, "after a leave: %s", strerror(errno));
	CHECK_ERR(span_grant(span, ACCESS_RW, "too many", NULL), ENOSPC);
}

/* After exec() it is another address space: no window, no descriptor. */
static void t_cloexec(void)
{
	int memfd, span = span_new(&memfd), fd;

	member_new(span, ACCESS_RW, "L1a", NULL, &fd);
	CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC, "member fd survives exec");
	CHECK(fcntl(span, F_GETFD) & FD_CLOEXEC, "span fd survives exec");
}

int main(void)
{
	static const struct ktap_test tests[] = {
		{ "no memory before join", t_nothing_before_join },
		{ "used once", t_used_once },
		{ "another process's VM", t_other_process_vm },
		{ "one membership per VM", t_one_membership_per_vm },
		{ "mmap rules", t_mmap_rules },
		{ "max windows", t_max_windows },
		{ "same offsets for all", t_same_offsets },
		{ "read-only", t_readonly },
		{ "no second file", t_no_reopen },
		{ "udmabuf refuses it", t_no_udmabuf },
		{ "fork", t_fork },
		{ "mremap", t_mremap },
		{ "dup", t_dup },
		{ "names and ids", t_names_and_ids },
		{ "max members", t_max_members },
		{ "close on exec", t_cloexec },
	};

	span_require();
	return KTAP_RUN(tests);
}
