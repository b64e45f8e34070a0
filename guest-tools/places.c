// SPDX-License-Identifier: GPL-2.0
#include <inttypes.h>
#include <stdio.h>

#include <json-c/json.h>

#include "places.h"

#define PAGE_SHIFT	12

bool places_text(struct image *img, const struct kernel *k, struct places *p)
{
	p->texts = kernel_text(img, k, p->text, MAX_TEXT_RANGES);
	return p->texts;
}

bool places_address(struct image *img, const struct kernel *k, uint64_t pgd, uint32_t pid,
		    uint64_t va, struct places *p)
{
	lookup(img, pgd, k->levels, va, &p->at);
	if (!p->at.present)
		return false;
	p->offset = image_offset(img, p->at.phys);
	p->has_address = p->offset != NOT_FOUND;
	p->pid = pid;
	p->va = va;
	return p->has_address;
}

static void add_hex(json_object *j, const char *name, uint64_t value)
{
	char text[20];

	snprintf(text, sizeof(text), "0x%" PRIx64, value);
	json_object_object_add(j, name, json_object_new_string(text));
}

static json_object *text_json(const struct places *p)
{
	json_object *list = json_object_new_array();
	size_t i;

	for (i = 0; i < p->texts; i++) {
		const struct text_range *t = &p->text[i];
		json_object *j = json_object_new_object();

		add_hex(j, "vaddr", t->va);
		json_object_object_add(j, "page", json_object_new_int64(t->offset >> PAGE_SHIFT));
		json_object_object_add(j, "pages", json_object_new_int64(t->bytes >> PAGE_SHIFT));
		json_object_array_add(list, j);
	}
	return list;
}

static json_object *address_json(const struct places *p)
{
	json_object *j = json_object_new_object();

	json_object_object_add(j, "pid", p->pid ? json_object_new_int64(p->pid) : NULL);
	add_hex(j, "vaddr", p->va);
	json_object_object_add(j, "page", json_object_new_int64(p->offset >> PAGE_SHIFT));
	json_object_object_add(j, "offset", json_object_new_int64(p->offset));
	json_object_object_add(j, "page_bytes", json_object_new_int64(p->at.size));
	json_object_object_add(j, "writable", json_object_new_boolean(p->at.write));
	json_object_object_add(j, "executable", json_object_new_boolean(p->at.exec));
	return j;
}

static void print_json(const struct places *p)
{
	json_object *top = json_object_new_object();

	if (p->texts)
		json_object_object_add(top, "kernel_text", text_json(p));
	if (p->has_address)
		json_object_object_add(top, "address", address_json(p));
	puts(json_object_to_json_string_ext(top, JSON_C_TO_STRING_PRETTY));
	json_object_put(top);
}

void places_print(const struct places *p, bool json)
{
	size_t i;

	if (json) {
		print_json(p);
		return;
	}
	for (i = 0; i < p->texts; i++)
		printf("0x%" PRIx64 "+0x%" PRIx64 "\n", p->text[i].offset >> PAGE_SHIFT,
		       p->text[i].bytes >> PAGE_SHIFT);
	if (p->has_address)
		printf("0x%" PRIx64 "\n", p->offset >> PAGE_SHIFT);
}
