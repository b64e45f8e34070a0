// SPDX-License-Identifier: GPL-2.0
/*
 * stop-at PID OFFSET kill|stop|hold|return [NUMBER]
 *
 * Meets a process at a certain place of its program, e.g. the QEMU of a peer in
 * the middle of a transfer: sets a breakpoint at the address OFFSET (hex, as nm tells of
 * a position-independent program), says "ready", waits until a thread gets there, says
 * "hit" and then
 *	kill	ends the process by SIGKILL
 *	stop	stops all of it by SIGSTOP, as a hypervisor that does not schedule it would
 *	hold	keeps that thread for so many milliseconds; the process goes on afterwards
 *	return	leaves the function, whose first instruction it must be, with that value
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

static _Noreturn void die(const char *what)
{
	printf("stop-at: %s: %s\n", what, strerror(errno));
	exit(2);
}

/* Where the program was loaded: the first mapping of its file. */
static uint64_t load_address(pid_t pid)
{
	char path[64], line[512], program[256] = "";
	unsigned long long start;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/exe", pid);
	if (readlink(path, program, sizeof(program) - 1) < 0)
		die(path);
	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	f = fopen(path, "re");
	if (!f)
		die(path);
	while (fgets(line, sizeof(line), f))
		if (strstr(line, program) && sscanf(line, "%llx", &start) == 1)
			return start;
	errno = ENOENT;
	die(program);
}

static void trace_threads(pid_t pid)
{
	char path[64];
	struct dirent *e;
	DIR *d;

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	d = opendir(path);
	if (!d)
		die(path);
	while ((e = readdir(d)))
		if (e->d_name[0] != '.' && ptrace(PTRACE_SEIZE, atoi(e->d_name), 0, PTRACE_O_TRACECLONE))
			die("PTRACE_SEIZE");
	closedir(d);
}

/* The thread that got to the address; everything else that threads stop for goes on. */
static pid_t wait_hit(uint64_t address)
{
	struct user_regs_struct regs;
	int status, sig;
	pid_t thread;

	for (;;) {
		thread = waitpid(-1, &status, __WALL);
		if (thread < 0)
			die("the process ended");
		if (!WIFSTOPPED(status))
			continue;
		sig = WSTOPSIG(status);
		if (sig == SIGTRAP && !(status >> 16) && !ptrace(PTRACE_GETREGS, thread, 0, &regs) &&
		    regs.rip == address + 1)
			return thread;
		ptrace(PTRACE_CONT, thread, 0, status >> 16 ? 0 : sig);
	}
}

static void step_back(pid_t thread, int mem, uint64_t address, uint8_t original)
{
	struct user_regs_struct regs;

	if (pwrite(mem, &original, 1, address) != 1)
		die("the breakpoint cannot be removed");
	ptrace(PTRACE_GETREGS, thread, 0, &regs);
	regs.rip = address;
	ptrace(PTRACE_SETREGS, thread, 0, &regs);
}

/* As if the function had done nothing but that. */
static void leave_function(pid_t thread, long long value)
{
	struct user_regs_struct regs;

	ptrace(PTRACE_GETREGS, thread, 0, &regs);
	errno = 0;
	regs.rip = ptrace(PTRACE_PEEKDATA, thread, regs.rsp, 0);
	if (errno)
		die("the stack cannot be read");
	regs.rsp += sizeof(regs.rip);
	regs.rax = value;
	ptrace(PTRACE_SETREGS, thread, 0, &regs);
}

int main(int argc, char **argv)
{
	const uint8_t int3 = 0xcc;
	uint8_t original;
	char path[64];
	uint64_t address;
	pid_t pid, thread;
	int mem;

	if (argc < 4) {
		fprintf(stderr, "usage: stop-at PID OFFSET kill|stop|hold|return [NUMBER]\n");
		return 2;
	}
	pid = atoi(argv[1]);
	address = load_address(pid) + strtoull(argv[2], NULL, 16);
	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	mem = open(path, O_RDWR | O_CLOEXEC);
	if (mem < 0 || pread(mem, &original, 1, address) != 1)
		die(path);
	trace_threads(pid);
	if (pwrite(mem, &int3, 1, address) != 1)
		die("the breakpoint cannot be set");
	puts("ready");
	fflush(stdout);
	thread = wait_hit(address);
	puts("hit");
	fflush(stdout);
	if (!strcmp(argv[3], "kill")) {
		kill(pid, SIGKILL);
		return 0;
	}
	step_back(thread, mem, address, original);
	if (!strcmp(argv[3], "stop"))
		kill(pid, SIGSTOP);
	else if (!strcmp(argv[3], "return"))
		leave_function(thread, argc > 4 ? atoll(argv[4]) : 0);
	else
		usleep(1000 * (argc > 4 ? atoi(argv[4]) : 0));
	/* Our end lets all threads go. */
	return 0;
}
