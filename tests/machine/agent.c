// SPDX-License-Identifier: GPL-2.0
/*
 * The test machine's agent: one static program in every level. It speaks
 * frames over one byte stream (a UART at L0, a virtio-serial port in a VM) and
 * runs commands, moves files, follows logs and opens unix sockets for the host.
 * A VM's agent is reached through such a socket, so levels nest without the
 * agent knowing: the host speaks the same frames inside a channel's data.
 *
 *   agent DEVICE | agent --port NAME	(NAME of a virtio-serial port)
 *
 * Frame: magic 'K' 'S', type, flags, u32 id, u32 len, payload; little-endian.
 * The id is the host's; every answer carries the id of its request.
 *
 * One thread, one poll() loop. Only the link is written with blocking writes:
 * whatever else hangs (a stopped VM, a full socket) must not stop the agent.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

enum type {
	/* host to agent */
	T_EXEC = 1,	/* shell command; flag 1: on a pty */
	T_INPUT,	/* bytes for the standard input of EXEC; none: close it */
	T_KILL,		/* SIGKILL to the process group of EXEC */
	T_PUT,		/* u32 mode, path; then DATA..., END */
	T_GET,		/* path */
	T_CONNECT,	/* path of a unix socket: a channel, DATA both ways */
	T_SENDFILE,	/* u32 channel id, path: as inner DATA..., END frames */
	T_FOLLOW,	/* path: DATA for ever as the file grows */
	T_DISKPUT,	/* u64 offset, u64 length, u32 mode, "device\0path" */
	T_DISKGET,	/* u64 offset, u64 limit, u32 0, "device\0path" */
	T_PING,
	T_TSC,
	/* both ways */
	T_DATA = 32,	/* flag 1: standard error of EXEC */
	T_END,		/* end of DATA; closes a channel */
	/* agent to host */
	T_HELLO = 64,	/* once at start: text */
	T_OK,		/* u64 value */
	T_EXIT,		/* u32 exit status as in sh */
	T_ERROR,	/* text */
};

#define MAGIC0	'K'
#define MAGIC1	'S'
#define CHUNK	2048	/* small: frames of several jobs take turns on the UART */
#define MAXLEN	65536
#define BLOCK	(1 << 20)
#define TICK_MS	50

struct header {
	uint8_t magic[2];
	uint8_t type;
	uint8_t flags;
	uint32_t id;
	uint32_t len;
} __attribute__((packed));

struct buf {
	char *p;
	size_t len, cap;
};

enum kind { K_EXEC, K_PUT, K_CHANNEL, K_FOLLOW };

struct job {
	struct job *next;
	enum kind kind;
	uint32_t id;
	int fd;			/* stdout or pty, file, socket */
	int err;		/* stderr of EXEC, or -1 */
	int in;			/* stdin of EXEC, or -1 */
	pid_t pid;
	int status;		/* of wait(), once pid is 0 */
	int dead;		/* to be freed at the end of the round */
	struct buf out;		/* not yet written to in or to the socket */
	int send;		/* SENDFILE in progress: the file, or -1 */
	uint32_t send_id;	/* id of its inner frames */
	char *path;		/* FOLLOW */
	off_t seen;
	int bad;		/* PUT: errno of a write that failed */
	int eof;		/* EXEC: close stdin once out is empty */
};

static struct job *jobs;
static int link_fd = -1;
static int is_port;

static void link_write(const void *p, size_t n)
{
	const char *c = p;

	while (n) {
		ssize_t r = write(link_fd, c, n);

		if (r > 0) {
			c += r;
			n -= r;
			continue;
		}
		if (r < 0 && (errno == EINTR || errno == EAGAIN)) {
			struct pollfd pf = { .fd = link_fd, .events = POLLOUT };

			poll(&pf, 1, 100);
			continue;
		}
		/* The host's end of a virtio port is away; it may come back. */
		usleep(20000);
	}
}

static void fill(struct header *h, int type, int flags, uint32_t id, uint32_t len)
{
	*h = (struct header){ { MAGIC0, MAGIC1 }, type, flags, id, len };
}

static void frame(int type, int flags, uint32_t id, const void *p, size_t n)
{
	static char b[sizeof(struct header) + MAXLEN];

	fill((struct header *)b, type, flags, id, n);
	if (n)
		memcpy(b + sizeof(struct header), p, n);
	link_write(b, sizeof(struct header) + n);
}

static void ok(uint32_t id, uint64_t v)
{
	frame(T_OK, 0, id, &v, sizeof(v));
}

static void error(uint32_t id, const char *fmt, ...)
{
	char b[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(b, sizeof(b), fmt, ap);
	va_end(ap);
	frame(T_ERROR, 0, id, b, strlen(b));
}

static void append(struct buf *b, const void *p, size_t n)
{
	if (b->len + n > b->cap) {
		b->cap = (b->len + n) * 2;
		b->p = realloc(b->p, b->cap);
		if (!b->p)
			abort();
	}
	memcpy(b->p + b->len, p, n);
	b->len += n;
}

static void consume(struct buf *b, size_t n)
{
	b->len -= n;
	memmove(b->p, b->p + n, b->len);
}

static struct job *job_new(enum kind kind, uint32_t id)
{
	struct job *j = calloc(1, sizeof(*j));

	if (!j)
		abort();
	j->kind = kind;
	j->id = id;
	j->fd = j->err = j->in = j->send = -1;
	j->next = jobs;
	jobs = j;
	return j;
}

static struct job *job_find(uint32_t id)
{
	struct job *j;

	for (j = jobs; j; j = j->next)
		if (j->id == id && !j->dead)
			return j;
	return NULL;
}

static void close_if(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static void sweep(void)
{
	struct job **pp = &jobs, *j;

	while ((j = *pp)) {
		if (!j->dead) {
			pp = &j->next;
			continue;
		}
		*pp = j->next;
		close_if(&j->fd);
		close_if(&j->err);
		close_if(&j->in);
		close_if(&j->send);
		free(j->out.p);
		free(j->path);
		free(j);
	}
}

static void nonblock(int fd)
{
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

static _Noreturn void run_shell(const char *cmd)
{
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	execl("/bin/sh", "sh", "-c", cmd, NULL);
	_exit(127);
}

static void do_exec_pty(uint32_t id, const char *cmd)
{
	int master;
	pid_t pid = forkpty(&master, NULL, NULL, NULL);
	struct job *j;

	if (pid < 0) {
		error(id, "forkpty: %s", strerror(errno));
		return;
	}
	if (!pid)
		run_shell(cmd);
	fcntl(master, F_SETFD, FD_CLOEXEC);
	nonblock(master);
	j = job_new(K_EXEC, id);
	j->fd = master;
	j->in = fcntl(master, F_DUPFD_CLOEXEC, 0);
	j->pid = pid;
}

static void do_exec(uint32_t id, int flags, const char *cmd)
{
	int in[2], out[2], err[2];
	struct job *j;
	pid_t pid;

	if (flags & 1) {
		do_exec_pty(id, cmd);
		return;
	}
	if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC)) {
		error(id, "pipe: %s", strerror(errno));
		return;
	}
	pid = fork();
	if (pid < 0) {
		error(id, "fork: %s", strerror(errno));
		return;
	}
	if (!pid) {
		setsid();
		dup2(in[0], 0);
		dup2(out[1], 1);
		dup2(err[1], 2);
		run_shell(cmd);
	}
	close(in[0]);
	close(out[1]);
	close(err[1]);
	nonblock(in[1]);
	nonblock(out[0]);
	nonblock(err[0]);
	j = job_new(K_EXEC, id);
	j->in = in[1];
	j->fd = out[0];
	j->err = err[0];
	j->pid = pid;
}

/* Read what is there, at most one chunk. Returns 0 at the end. */
static int pump_fd(uint32_t id, int *fd, int flags)
{
	char b[CHUNK];
	ssize_t n = read(*fd, b, sizeof(b));

	if (n > 0) {
		frame(T_DATA, flags, id, b, n);
		return 1;
	}
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 1;
	close_if(fd);
	return 0;
}

static void exec_finish(struct job *j)
{
	uint32_t st;
	int fl;

	/* What a dead command left in its pipes; a background child of it may
	 * hold them open, so do not wait for their end.
	 */
	for (fl = 0; fl < 2; fl++) {
		int fd = fl ? j->err : j->fd;
		char b[CHUNK];
		ssize_t n;

		while (fd >= 0 && (n = read(fd, b, sizeof(b))) > 0)
			frame(T_DATA, fl, j->id, b, n);
	}
	st = WIFEXITED(j->status) ? WEXITSTATUS(j->status) : 128 + WTERMSIG(j->status);
	frame(T_EXIT, 0, j->id, &st, sizeof(st));
	j->dead = 1;
}

static void reap(void)
{
	struct job *j;
	int st;
	pid_t pid;

	while ((pid = waitpid(-1, &st, WNOHANG)) > 0) {
		for (j = jobs; j; j = j->next) {
			if (j->kind != K_EXEC || j->pid != pid || j->dead)
				continue;
			j->pid = 0;
			j->status = st;
			exec_finish(j);
		}
	}
}

static void do_put(uint32_t id, uint32_t mode, const char *path)
{
	struct job *j;
	int fd;

	unlink(path);	/* a program that is running cannot be overwritten */
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
	if (fd < 0) {
		error(id, "%s: %s", path, strerror(errno));
		return;
	}
	fchmod(fd, mode);
	j = job_new(K_PUT, id);
	j->fd = fd;
}

static void write_file(struct job *j, const char *p, size_t n)
{
	while (n && !j->bad) {
		ssize_t r = write(j->fd, p, n);

		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0) {
			j->bad = errno ? errno : EIO;
			return;
		}
		p += r;
		n -= r;
	}
}

static void do_get(uint32_t id, const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	static char b[CHUNK * 8];
	ssize_t n;

	if (fd < 0) {
		error(id, "%s: %s", path, strerror(errno));
		return;
	}
	while ((n = read(fd, b, sizeof(b))) > 0)
		frame(T_DATA, 0, id, b, n);
	if (n < 0)
		error(id, "%s: %s", path, strerror(errno));
	else
		frame(T_END, 0, id, NULL, 0);
	close(fd);
}

static void do_connect(uint32_t id, const char *path)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	struct job *j;
	int fd;

	if (strlen(path) >= sizeof(sa.sun_path)) {
		error(id, "%s: name too long", path);
		return;
	}
	strcpy(sa.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&sa, sizeof(sa))) {
		error(id, "%s: %s", path, strerror(errno));
		close_if(&fd);
		return;
	}
	j = job_new(K_CHANNEL, id);
	j->fd = fd;
	ok(id, 0);
}

static void do_sendfile(uint32_t id, uint32_t channel, const char *path)
{
	struct job *j = job_find(channel);

	if (!j || j->kind != K_CHANNEL || j->send >= 0) {
		error(id, "channel %u is not there or busy", channel);
		return;
	}
	j->send = open(path, O_RDONLY | O_CLOEXEC);
	if (j->send < 0) {
		error(id, "%s: %s", path, strerror(errno));
		return;
	}
	j->send_id = id;
	ok(id, 0);
}

static void sendfile_more(struct job *j)
{
	static char b[sizeof(struct header) + 32768];
	struct header *h = (struct header *)b;
	ssize_t n = read(j->send, b + sizeof(*h), sizeof(b) - sizeof(*h));

	if (n <= 0)
		close_if(&j->send);
	fill(h, n > 0 ? T_DATA : T_END, 0, j->send_id, n > 0 ? n : 0);
	append(&j->out, b, sizeof(*h) + h->len);
}

static void do_follow(uint32_t id, const char *path)
{
	struct job *j = job_new(K_FOLLOW, id);

	j->path = strdup(path);
}

/* One chunk at most, so that a noisy console does not starve the rest. */
static void follow_tick(struct job *j)
{
	char b[CHUNK];
	struct stat st;
	ssize_t n;

	if (j->fd < 0)
		j->fd = open(j->path, O_RDONLY | O_CLOEXEC);
	if (j->fd < 0 || fstat(j->fd, &st))
		return;
	if (st.st_nlink == 0) {		/* replaced: a VM was started again */
		close_if(&j->fd);
		j->seen = 0;
		return;
	}
	if (st.st_size < j->seen)
		j->seen = 0;
	n = pread(j->fd, b, sizeof(b), j->seen);
	if (n <= 0)
		return;
	j->seen += n;
	frame(T_DATA, 0, j->id, b, n);
}

/*
 * Big files travel on a disk that the host and L0 share. O_DIRECT on the disk:
 * the page cache must not keep what the host has changed since.
 */
static void do_disk(uint32_t id, int put, uint64_t off, uint64_t len, uint32_t mode, char *arg)
{
	const char *path = arg + strlen(arg) + 1;
	int disk, file = -1;
	uint64_t done = 0;
	char *b = NULL;
	ssize_t n;

	disk = open(arg, (put ? O_RDONLY : O_WRONLY) | O_DIRECT | O_CLOEXEC);
	if (disk < 0) {
		error(id, "%s: %s", arg, strerror(errno));
		return;
	}
	if (put)
		unlink(path);
	file = open(path, (put ? O_WRONLY | O_CREAT | O_TRUNC : O_RDONLY) | O_CLOEXEC, mode);
	if (file < 0 || posix_memalign((void **)&b, 4096, BLOCK)) {
		error(id, "%s: %s", path, strerror(errno));
		goto out;
	}
	if (put)
		fchmod(file, mode);
	while (done < len) {
		size_t want = len - done < BLOCK ? len - done : BLOCK;
		size_t padded = (want + 4095) & ~4095ul;

		n = put ? pread(disk, b, padded, off + done) : read(file, b, want);
		if (n < 0 || (put && (size_t)n < want)) {
			error(id, "%s: read: %s", put ? arg : path, strerror(errno));
			goto out;
		}
		if (!n)
			break;
		if (put) {
			if (write(file, b, want) != (ssize_t)want) {
				error(id, "%s: write: %s", path, strerror(errno));
				goto out;
			}
			done += want;
			continue;
		}
		padded = ((size_t)n + 4095) & ~4095ul;
		memset(b + n, 0, padded - n);
		if (pwrite(disk, b, padded, off + done) != (ssize_t)padded) {
			error(id, "%s: write: %s", arg, strerror(errno));
			goto out;
		}
		done += n;
	}
	ok(id, done);
out:
	free(b);
	close_if(&file);
	close(disk);
}

static void on_data(uint32_t id, const char *p, size_t n)
{
	struct job *j = job_find(id);

	if (!j)
		return;
	if (j->kind == K_PUT)
		write_file(j, p, n);
	else if (j->kind == K_CHANNEL)
		append(&j->out, p, n);
}

static void on_end(uint32_t id)
{
	struct job *j = job_find(id);

	if (!j)
		return;
	if (j->kind == K_PUT) {
		if (j->bad)
			error(id, "write: %s", strerror(j->bad));
		else
			ok(id, 0);
	}
	j->dead = 1;
}

static void on_input(uint32_t id, const char *p, size_t n)
{
	struct job *j = job_find(id);

	if (!j || j->kind != K_EXEC)
		return;
	if (n)
		append(&j->out, p, n);
	else
		j->eof = 1;
	if (j->eof && !j->out.len)
		close_if(&j->in);
}

static void on_kill(uint32_t id)
{
	struct job *j = job_find(id);

	if (j && j->kind == K_EXEC && j->pid > 0)
		kill(-j->pid, SIGKILL);
	else if (j && j->kind == K_FOLLOW)
		j->dead = 1;
}

static uint32_t get32(const char *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static uint64_t get64(const char *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

/* p has a NUL behind its n bytes. */
static void handle(const struct header *h, char *p)
{
	size_t need = 0;

	switch (h->type) {
	case T_PUT: case T_SENDFILE: need = 5; break;
	case T_DISKPUT: case T_DISKGET: need = 23; break;
	}
	if (h->len < need) {
		error(h->id, "request %d is too short", h->type);
		return;
	}
	switch (h->type) {
	case T_EXEC: do_exec(h->id, h->flags, p); break;
	case T_INPUT: on_input(h->id, p, h->len); break;
	case T_KILL: on_kill(h->id); break;
	case T_PUT: do_put(h->id, get32(p), p + 4); break;
	case T_GET: do_get(h->id, p); break;
	case T_CONNECT: do_connect(h->id, p); break;
	case T_SENDFILE: do_sendfile(h->id, get32(p), p + 4); break;
	case T_FOLLOW: do_follow(h->id, p); break;
	case T_DISKPUT:
	case T_DISKGET:
		do_disk(h->id, h->type == T_DISKPUT, get64(p), get64(p + 8), get32(p + 16), p + 20);
		break;
	case T_PING: ok(h->id, 0); break;
	case T_TSC: ok(h->id, __rdtsc()); break;
	case T_DATA: on_data(h->id, p, h->len); break;
	case T_END: on_end(h->id); break;
	default: error(h->id, "unknown request %d", h->type);
	}
}

/* Take whole frames out of what came in; skip what is no frame. */
static void parse(struct buf *b)
{
	size_t at = 0;

	while (b->len - at >= sizeof(struct header)) {
		struct header h;
		char *p = b->p + at;
		char save;

		memcpy(&h, p, sizeof(h));
		if (h.magic[0] != MAGIC0 || h.magic[1] != MAGIC1 || h.len > MAXLEN) {
			at++;
			continue;
		}
		if (b->len - at < sizeof(h) + h.len)
			break;
		append(b, "", 1);	/* room for the NUL behind the last frame */
		b->len--;
		p = b->p + at + sizeof(h);
		save = p[h.len];
		p[h.len] = 0;
		handle(&h, p);
		p[h.len] = save;
		at += sizeof(h) + h.len;
	}
	consume(b, at);
}

static void link_read(void)
{
	static struct buf in;
	static char b[32768];
	ssize_t n = read(link_fd, b, sizeof(b));

	if (n > 0) {
		append(&in, b, n);
		parse(&in);
	} else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
		usleep(20000);	/* the other end is away */
	}
}

static void job_write(struct job *j)
{
	int *fd = j->kind == K_EXEC ? &j->in : &j->fd;
	ssize_t n;

	if (!j->out.len && j->send >= 0)
		sendfile_more(j);
	if (!j->out.len || *fd < 0)
		return;
	n = write(*fd, j->out.p, j->out.len);
	if (n > 0) {
		consume(&j->out, n);
		if (j->eof && !j->out.len)
			close_if(&j->in);
	} else if (errno != EAGAIN && errno != EINTR) {
		j->out.len = 0;
		close_if(&j->send);
		if (j->kind == K_EXEC)
			close_if(&j->in);
	}
}

static void channel_read(struct job *j)
{
	if (!pump_fd(j->id, &j->fd, 0)) {
		frame(T_END, 0, j->id, NULL, 0);
		j->dead = 1;
	}
}

#define MAXPOLL 128

struct watch {
	struct job *j;
	char what;	/* 'o'ut, 'e'rr, 'w'rite */
};

static int wants_write(struct job *j)
{
	return j->out.len || j->send >= 0;
}

static void round_of_work(void)
{
	struct pollfd pf[MAXPOLL];
	struct watch w[MAXPOLL];
	int n = 1, i, timeout = 10000;
	struct timespec ts;
	sigset_t none;
	struct job *j;

	pf[0] = (struct pollfd){ .fd = link_fd, .events = POLLIN };
	for (j = jobs; j && n < MAXPOLL - 3; j = j->next) {
		if (j->kind == K_FOLLOW) {
			timeout = TICK_MS;
			continue;
		}
		if (j->kind == K_PUT)
			continue;
		if (j->fd >= 0) {
			w[n] = (struct watch){ j, 'o' };
			pf[n++] = (struct pollfd){ .fd = j->fd, .events = POLLIN };
		}
		if (j->err >= 0) {
			w[n] = (struct watch){ j, 'e' };
			pf[n++] = (struct pollfd){ .fd = j->err, .events = POLLIN };
		}
		if (wants_write(j) && (j->kind == K_CHANNEL || j->in >= 0)) {
			w[n] = (struct watch){ j, 'w' };
			pf[n++] = (struct pollfd){
				.fd = j->kind == K_CHANNEL ? j->fd : j->in,
				.events = POLLOUT };
		}
	}
	/* SIGCHLD is blocked but here, so no child ends unseen. */
	sigemptyset(&none);
	ts.tv_sec = timeout / 1000;
	ts.tv_nsec = timeout % 1000 * 1000000L;
	if (ppoll(pf, n, &ts, &none) < 0)
		n = 0, pf[0].revents = 0;	/* interrupted: nothing is ready */
	else
		for (i = 1; i < n; i++) {
			if (!pf[i].revents || w[i].j->dead)
				continue;
			if (w[i].what == 'w')
				job_write(w[i].j);
			else if (w[i].what == 'e')
				pump_fd(w[i].j->id, &w[i].j->err, 1);
			else if (w[i].j->kind == K_CHANNEL)
				channel_read(w[i].j);
			else
				pump_fd(w[i].j->id, &w[i].j->fd, 0);
		}
	reap();
	if (pf[0].revents & POLLIN)
		link_read();
	else if (pf[0].revents & (POLLHUP | POLLERR))
		usleep(20000);
	for (j = jobs; j; j = j->next)
		if (j->kind == K_FOLLOW && !j->dead)
			follow_tick(j);
	sweep();
}

static int open_port(const char *name)
{
	const char *base = "/sys/class/virtio-ports";
	int try;

	for (try = 0; try < 100; try++) {
		DIR *d = opendir(base);
		struct dirent *e;

		while (d && (e = readdir(d))) {
			char p[512], b[128] = "";
			int fd, n;

			snprintf(p, sizeof(p), "%s/%s/name", base, e->d_name);
			fd = open(p, O_RDONLY | O_CLOEXEC);
			if (fd < 0)
				continue;
			n = read(fd, b, sizeof(b) - 1);
			close(fd);
			if (n <= 0 || strncmp(b, name, strlen(name)) || b[strlen(name)] != '\n')
				continue;
			snprintf(p, sizeof(p), "/dev/%s", e->d_name);
			closedir(d);
			return open(p, O_RDWR | O_CLOEXEC);
		}
		if (d)
			closedir(d);
		usleep(50000);
	}
	errno = ENODEV;
	return -1;
}

static int open_link(int argc, char **argv)
{
	struct termios t;
	int fd;

	if (argc == 3 && !strcmp(argv[1], "--port")) {
		is_port = 1;
		return open_port(argv[2]);
	}
	if (argc != 2) {
		fprintf(stderr, "usage: agent DEVICE | agent --port NAME\n");
		exit(2);
	}
	fd = open(argv[1], O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (fd >= 0 && !tcgetattr(fd, &t)) {
		cfmakeraw(&t);
		t.c_cflag |= CLOCAL | CREAD;
		t.c_cflag &= ~CRTSCTS;
		cfsetspeed(&t, B115200);
		tcsetattr(fd, TCSANOW, &t);
	}
	return fd;
}

static void on_child(int sig)
{
	(void)sig;
}

int main(int argc, char **argv)
{
	struct sigaction sa = { .sa_handler = on_child };
	const char *hello = "agent 1";
	sigset_t child;

	signal(SIGPIPE, SIG_IGN);
	sigaction(SIGCHLD, &sa, NULL);
	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	sigprocmask(SIG_BLOCK, &child, NULL);
	link_fd = open_link(argc, argv);
	if (link_fd < 0) {
		fprintf(stderr, "agent: %s: %s\n", argv[argc - 1], strerror(errno));
		return 1;
	}
	frame(T_HELLO, 0, 0, hello, strlen(hello));
	for (;;)
		round_of_work();
}
