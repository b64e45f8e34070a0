// SPDX-License-Identifier: GPL-2.0
/*
 * The byte stream of the shared pages, both ends in one process: who pairs with
 * whom, that nothing is lost, repeated or mixed up, that nobody sleeps while there
 * is something to do, and what an end does about the other's nonsense. KTAP.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "streamlib.h"

#define EXPECT(cond) do {						\
	if (!(cond)) {							\
		printf("# %s:%d: %s\n", __func__, __LINE__, #cond);	\
		return false;						\
	}								\
} while (0)

static uint8_t pages[SPAN_SHARE_BYTES] __attribute__((aligned(4096)));

static void start(struct span_stream_end *l0, struct span_stream_end *l1)
{
	memset(pages, 0, sizeof(pages));
	memset(l0, 0, sizeof(*l0));
	memset(l1, 0, sizeof(*l1));
	span_stream_init(l0, pages, true);
	span_stream_init(l1, pages, false);
}

static void settle(struct span_stream_end *a, struct span_stream_end *b)
{
	int i;

	for (i = 0; i < 8; i++) {
		span_stream_look(a);
		span_stream_look(b);
	}
}

static bool pairs_in_any_order(void)
{
	struct span_stream_end a, b;
	int order;

	for (order = 0; order < 4; order++) {
		start(&a, &b);
		if (order & 1) {
			span_stream_open(&a, 5);
			EXPECT(!span_stream_look(&a) && a.state == SPAN_STREAM_WAITING);
			EXPECT(span_stream_room(&a) == -EAGAIN && span_stream_unread(&a) == -EAGAIN);
			span_stream_open(&b, 6);
		} else {
			span_stream_open(&b, 6);
			span_stream_open(&a, 5);
		}
		if (order & 2)
			span_stream_look(&b);
		settle(&a, &b);
		EXPECT(a.state == SPAN_STREAM_PAIRED && b.state == SPAN_STREAM_PAIRED);
		EXPECT(a.peer == 6 && b.peer == 5);
		EXPECT(span_stream_room(&a) == SPAN_STREAM_BYTES && span_stream_unread(&b) == -EAGAIN);
	}
	return true;
}

/* What was written before the end is read, then comes the end. */
static bool the_rest_is_read(void)
{
	struct span_stream_end a, b;
	uint64_t sent = 0, got = 0;
	bool ring;

	start(&a, &b);
	span_stream_open(&a, 1);
	span_stream_open(&b, 2);
	settle(&a, &b);
	EXPECT(stream_fill(&a, &sent, 1000, &ring) == 1000 && ring);
	EXPECT(stream_fill(&a, &sent, 1000, &ring) == 1000 && !ring);
	span_stream_close(&a);
	span_stream_open(&a, 3);	/* does not disturb what it left */
	span_stream_look(&a);
	EXPECT(a.state == SPAN_STREAM_WAITING);
	span_stream_look(&b);
	EXPECT(b.state == SPAN_STREAM_ENDED && span_stream_room(&b) == -EPIPE);
	EXPECT(stream_drain(&b, &got, 1500, &ring) == 1500);
	span_stream_look(&a);
	EXPECT(stream_drain(&b, &got, 1500, &ring) == 500);
	EXPECT(stream_drain(&b, &got, 1500, &ring) == 0);
	settle(&a, &b);
	EXPECT(b.state == SPAN_STREAM_ENDED && a.state == SPAN_STREAM_WAITING);
	span_stream_close(&b);
	span_stream_open(&b, 4);
	settle(&a, &b);
	EXPECT(a.state == SPAN_STREAM_PAIRED && b.state == SPAN_STREAM_PAIRED && b.peer == 3);
	return true;
}

/* The other end was here and went before we looked: with something to read or without. */
static bool missed_pairs(void)
{
	struct span_stream_end a, b;
	uint64_t sent = 0, got = 0;
	bool ring;

	start(&a, &b);
	span_stream_open(&a, 1);
	span_stream_open(&b, 2);
	EXPECT(span_stream_look(&a) && a.state == SPAN_STREAM_WAITING);
	EXPECT(span_stream_look(&b) && b.state == SPAN_STREAM_PAIRED);
	span_stream_close(&b);
	span_stream_open(&b, 7);
	settle(&a, &b);
	EXPECT(a.state == SPAN_STREAM_PAIRED && b.state == SPAN_STREAM_PAIRED && a.peer == 7);

	start(&a, &b);
	span_stream_open(&a, 1);
	span_stream_open(&b, 2);
	span_stream_look(&a);
	span_stream_look(&b);
	EXPECT(stream_fill(&b, &sent, 10, &ring) == 10 && ring);
	span_stream_close(&b);
	span_stream_look(&a);
	EXPECT(a.state == SPAN_STREAM_ENDED && stream_drain(&a, &got, 100, &ring) == 10);
	EXPECT(stream_drain(&a, &got, 100, &ring) == 0);
	return true;
}

static bool indices_that_cannot_be(void)
{
	struct span_stream_end a, b;
	uint64_t sent = 0;
	bool ring;

	start(&a, &b);
	span_stream_open(&a, 1);
	span_stream_open(&b, 2);
	settle(&a, &b);
	a.in->head = a.tail + SPAN_STREAM_BYTES + 1;
	EXPECT(span_stream_unread(&a) == -EPROTO && span_stream_room(&a) == -EPROTO);
	a.in->head = a.tail;
	EXPECT(span_stream_unread(&a) == -EPROTO && a.state == SPAN_STREAM_BROKEN);
	span_stream_look(&a);
	EXPECT(a.state == SPAN_STREAM_BROKEN);
	/* but the next stream is a new one */
	span_stream_close(&a);
	span_stream_close(&b);
	span_stream_open(&a, 3);
	span_stream_open(&b, 4);
	settle(&a, &b);
	EXPECT(span_stream_unread(&a) == -EAGAIN);
	a.out->tail = a.head + 1;
	EXPECT(stream_fill(&a, &sent, 1, &ring) == -EPROTO);
	return true;
}

/* Whatever was written over the words of one who waits, he can be paired with. */
static bool words_are_shown_again(void)
{
	struct span_stream_end a, b;

	start(&a, &b);
	span_stream_open(&a, 1);
	memset(pages, 0, sizeof(pages));
	span_stream_open(&b, 2);
	settle(&a, &b);
	EXPECT(a.state == SPAN_STREAM_PAIRED && b.state == SPAN_STREAM_PAIRED);
	return true;
}

/* An L1 reads ones while L0 takes the pages away. */
static bool ones_are_no_answer(void)
{
	struct span_stream_end a, b, keep;

	start(&a, &b);
	span_stream_open(&a, 1);
	span_stream_open(&b, 2);
	settle(&a, &b);
	keep = b;
	memset(pages, 0xff, sizeof(pages));
	EXPECT(!span_stream_look(&b) && !memcmp(&keep, &b, sizeof(b)));
	span_stream_close(&b);
	memset(pages, 0xff, sizeof(pages));
	span_stream_open(&b, 3);
	memset(pages, 0xff, sizeof(pages));
	EXPECT(!span_stream_look(&b) && b.state == SPAN_STREAM_WAITING && !b.peer);
	return true;
}

/* ---- at random, one after the other ---- */

struct side {
	struct span_stream_end end;
	uint64_t sent, got;
	bool reader_sleeps, writer_sleeps;	/* until rung */
	bool rung;
	uint32_t number;
	unsigned long pairs;
};

static void side_ring(struct side *to)
{
	to->rung = true;
}

/* What the interrupt (the doorbell) does. */
static void side_wake(struct side *s, struct side *other)
{
	s->rung = false;
	s->reader_sleeps = s->writer_sleeps = false;
	if (s->end.state != SPAN_STREAM_CLOSED && span_stream_look(&s->end))
		side_ring(other);
}

/* A sleeper that could go on, and nobody will tell it. */
static bool asleep_for_nothing(struct side *s)
{
	struct span_stream_end e = s->end;

	if (s->rung || e.state == SPAN_STREAM_CLOSED)
		return false;
	if (s->reader_sleeps && span_stream_unread(&e) != -EAGAIN)
		return true;
	return s->writer_sleeps && span_stream_room(&e) != -EAGAIN;
}

static bool side_read(struct side *s, struct side *other)
{
	bool ring;
	int n;

	if (span_stream_look(&s->end))
		side_ring(other);
	n = stream_drain(&s->end, &s->got, 1 + rand() % 100000, &ring);
	EXPECT(n != -EILSEQ && n != -EPROTO);
	s->reader_sleeps = n == -EAGAIN;
	if (ring)
		side_ring(other);
	return true;
}

static bool side_write(struct side *s, struct side *other)
{
	bool ring;
	int n;

	if (span_stream_look(&s->end))
		side_ring(other);
	n = stream_fill(&s->end, &s->sent, 1 + rand() % 100000, &ring);
	EXPECT(n != -EPROTO);
	s->writer_sleeps = n == -EAGAIN;
	if (ring)
		side_ring(other);
	return true;
}

static void side_reopen(struct side *s, struct side *other)
{
	s->pairs += s->end.state == SPAN_STREAM_PAIRED || s->end.state == SPAN_STREAM_ENDED;
	if (s->end.state != SPAN_STREAM_CLOSED) {
		span_stream_close(&s->end);
	} else {
		span_stream_open(&s->end, ++s->number);
		s->sent = s->got = 0;
		if (span_stream_look(&s->end))
			side_ring(other);
	}
	s->reader_sleeps = s->writer_sleeps = false;
	side_ring(other);
}

static bool side_step(struct side *s, struct side *other)
{
	int what = rand() % 1000;

	if (s->end.state == SPAN_STREAM_CLOSED || what < 5 ||
	    (s->end.state == SPAN_STREAM_ENDED && what < 300))
		side_reopen(s, other);
	else if (what < 400)
		return side_read(s, other);
	else if (what < 800)
		return side_write(s, other);
	else if (s->rung)
		side_wake(s, other);
	return true;
}

static bool random_steps(void)
{
	struct side a = { .number = 0x7ffffff0 }, b = { .number = 100 };
	uint64_t bytes = 0;
	int i;

	start(&a.end, &b.end);
	a.end.head = 0xffff0000;	/* wraps soon */
	for (i = 0; i < 40000; i++) {
		uint64_t before = a.got + b.got;

		EXPECT(rand() % 2 ? side_step(&a, &b) : side_step(&b, &a));
		if (a.got + b.got > before)
			bytes += a.got + b.got - before;
		if (asleep_for_nothing(&a) || asleep_for_nothing(&b)) {
			printf("# step %d: asleep for nothing\n", i);
			return false;
		}
	}
	printf("# %lu and %lu pairs, %llu MB\n", a.pairs, b.pairs, (unsigned long long)bytes >> 20);
	EXPECT(a.pairs > 50 && b.pairs > 50 && bytes > 10 << 20);
	return true;
}

/* Two who never leave get everything across, in time: nobody was forgotten. */
static bool random_progress(void)
{
	struct side a = { .number = 1 }, b = { .number = 100 };
	uint64_t want = 20 << 20;
	unsigned long steps = 0;

	start(&a.end, &b.end);
	side_reopen(&a, &b);
	side_reopen(&b, &a);
	while (a.got < want || b.got < want) {
		struct side *s = rand() % 2 ? &a : &b, *other = s == &a ? &b : &a;

		EXPECT(++steps < 10000000);
		if (s->rung && rand() % 3 == 0)
			side_wake(s, other);
		else if (rand() % 2 && !s->reader_sleeps)
			EXPECT(side_read(s, other));
		else if (!s->writer_sleeps)
			EXPECT(side_write(s, other));
	}
	EXPECT(a.end.state == SPAN_STREAM_PAIRED && b.end.state == SPAN_STREAM_PAIRED);
	return true;
}

/* ---- four threads at once, sleeping for real ---- */

struct bell {
	pthread_mutex_t lock;
	pthread_cond_t cond;
	unsigned long count;
};

struct party {
	struct span_stream_end end;
	pthread_mutex_t lock;
	struct bell bell, *other;
	uint32_t number;
	uint64_t sent, got;		/* of the current stream */
	uint64_t bytes;
	bool failed, reopens;
	volatile bool leaving;
	volatile bool *stop;
	unsigned long streams;
};

static void bell_ring(struct bell *b)
{
	pthread_mutex_lock(&b->lock);
	b->count++;
	pthread_cond_broadcast(&b->cond);
	pthread_mutex_unlock(&b->lock);
}

/* Returns false if nobody rang for long. */
static bool bell_wait(struct bell *b, unsigned long seen, volatile bool *stop)
{
	struct timespec until;
	bool rang;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 10;
	pthread_mutex_lock(&b->lock);
	while (b->count == seen && !*stop)
		if (pthread_cond_timedwait(&b->cond, &b->lock, &until))
			break;
	rang = b->count != seen || *stop;
	pthread_mutex_unlock(&b->lock);
	return rang;
}

static unsigned long bell_count(struct bell *b)
{
	return __atomic_load_n(&b->count, __ATOMIC_SEQ_CST);
}

typedef int stream_step(struct span_stream_end *end, uint64_t *at, uint32_t most, bool *ring);

/* One read or write under the lock, as the kernel's but with the copy in it. */
static int party_step(struct party *p, stream_step *step, uint64_t *at, uint32_t most)
{
	bool look, ring;
	int n;

	pthread_mutex_lock(&p->lock);
	look = span_stream_look(&p->end);
	n = step(&p->end, at, most, &ring);
	pthread_mutex_unlock(&p->lock);
	if (look || ring)
		bell_ring(p->other);
	return n;
}

static void *party_reader(void *arg)
{
	struct party *p = arg;
	unsigned int seed = 1;

	while (!*p->stop && !p->failed && !p->leaving) {
		unsigned long seen = bell_count(&p->bell);
		int n = party_step(p, stream_drain, &p->got, 1 + rand_r(&seed) % 90000);

		if (n > 0) {
			p->bytes += n;
			continue;
		}
		if (n == -EAGAIN && !bell_wait(&p->bell, seen, p->stop)) {
			printf("# a reader slept for ever\n");
			p->failed = true;
		}
		if (n == -EILSEQ || n == -EPROTO) {
			printf("# reader: %s at %llu\n", strerror(-n), (unsigned long long)p->got);
			p->failed = true;
		}
		if (n == 0)
			return NULL;
	}
	return NULL;
}

static void *party_writer(void *arg)
{
	struct party *p = arg;
	unsigned int seed = 2;

	while (!*p->stop && !p->failed) {
		unsigned long seen = bell_count(&p->bell);
		int n = party_step(p, stream_fill, &p->sent, 1 + rand_r(&seed) % 90000);

		if (n > 0 && p->reopens && rand_r(&seed) % 64 == 0)
			p->leaving = true;
		if (p->leaving)
			return NULL;
		if (n == -EAGAIN && !bell_wait(&p->bell, seen, p->stop)) {
			printf("# a writer slept for ever\n");
			p->failed = true;
		}
		if (n == -EPROTO)
			p->failed = true;
		if (n == -EPIPE)
			return NULL;
	}
	return NULL;
}

/* The bell wakes this one as well: it does what an interrupt does. */
static void *party_interrupt(void *arg)
{
	struct party *p = arg;

	while (!*p->stop) {
		unsigned long seen = bell_count(&p->bell);
		bool ring = false;

		pthread_mutex_lock(&p->lock);
		if (p->end.state != SPAN_STREAM_CLOSED)
			ring = span_stream_look(&p->end);
		pthread_mutex_unlock(&p->lock);
		if (ring)
			bell_ring(p->other);
		bell_wait(&p->bell, seen, p->stop);
	}
	return NULL;
}

/* Streams one after the other; a new one when the last one ended, or now and then. */
static void *party_life(void *arg)
{
	struct party *p = arg;
	pthread_t r, w;

	while (!*p->stop && !p->failed) {
		pthread_mutex_lock(&p->lock);
		p->sent = p->got = 0;
		span_stream_open(&p->end, ++p->number);
		pthread_mutex_unlock(&p->lock);
		bell_ring(p->other);
		pthread_create(&r, NULL, party_reader, p);
		pthread_create(&w, NULL, party_writer, p);
		pthread_join(w, NULL);
		/* If it was not he who left, the reader goes on to the end. */
		if (p->leaving)
			bell_ring(&p->bell);
		pthread_join(r, NULL);
		p->leaving = false;
		pthread_mutex_lock(&p->lock);
		span_stream_close(&p->end);
		pthread_mutex_unlock(&p->lock);
		bell_ring(p->other);
		p->streams++;
	}
	return NULL;
}

static void party_init(struct party *p, struct party *other, volatile bool *stop, uint32_t number)
{
	memset(p, 0, sizeof(*p));
	pthread_mutex_init(&p->lock, NULL);
	pthread_mutex_init(&p->bell.lock, NULL);
	pthread_cond_init(&p->bell.cond, NULL);
	p->other = &other->bell;
	p->stop = stop;
	p->number = number;
}

static bool threads_for(unsigned int ms, bool reopens, uint64_t want)
{
	struct party a, b;
	volatile bool stop = false;
	pthread_t t[4];
	int i;

	memset(pages, 0, sizeof(pages));
	party_init(&a, &b, &stop, 1);
	party_init(&b, &a, &stop, 1000000);
	a.reopens = reopens;
	span_stream_init(&a.end, pages, true);
	span_stream_init(&b.end, pages, false);
	pthread_create(&t[0], NULL, party_life, &a);
	pthread_create(&t[1], NULL, party_life, &b);
	pthread_create(&t[2], NULL, party_interrupt, &a);
	pthread_create(&t[3], NULL, party_interrupt, &b);
	for (i = 0; i < (int)ms / 10 && !a.failed && !b.failed; i++)
		usleep(10000);
	stop = true;
	bell_ring(&a.bell);
	bell_ring(&b.bell);
	for (i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	printf("# %lu and %lu streams, %llu and %llu MB\n", a.streams, b.streams,
	       (unsigned long long)a.bytes >> 20, (unsigned long long)b.bytes >> 20);
	EXPECT(!a.failed && !b.failed);
	EXPECT(a.bytes > want && b.bytes > want);
	EXPECT(!reopens || (a.streams > 10 && b.streams > 10));
	return true;
}

static bool threads_stay(void)
{
	return threads_for(1500, false, 1 << 20);
}

static bool threads_come_and_go(void)
{
	return threads_for(3000, true, 1 << 20);
}

static const struct {
	const char *name;
	bool (*run)(void);
} tests[] = {
	{ "pairs_in_any_order", pairs_in_any_order },
	{ "the_rest_is_read", the_rest_is_read },
	{ "missed_pairs", missed_pairs },
	{ "indices_that_cannot_be", indices_that_cannot_be },
	{ "words_are_shown_again", words_are_shown_again },
	{ "ones_are_no_answer", ones_are_no_answer },
	{ "random_steps", random_steps },
	{ "random_progress", random_progress },
	{ "threads_stay", threads_stay },
	{ "threads_come_and_go", threads_come_and_go },
};

int main(void)
{
	int n = sizeof(tests) / sizeof(tests[0]), failed = 0, i;

	srand(getpid());
	printf("# seed %d\n", getpid());
	printf("TAP version 13\n1..%d\n", n);
	for (i = 0; i < n; i++) {
		bool ok = tests[i].run();

		failed += !ok;
		printf("%s %d %s\n", ok ? "ok" : "not ok", i + 1, tests[i].name);
	}
	return !!failed;
}
