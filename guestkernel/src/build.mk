# How guest.elf is made. Everything in this folder, this file included, counts into the sources'
# digest that the ELF carries, and so does the header that it takes from tagging/.
#
# Called with the folder of this file as the current one: make -f build.mk OUT=dir

OUT ?= build
CC = gcc
LD = ld

CFLAGS_ALL = -I. -I../../tagging/include -std=gnu11 -O2 -g0 -march=x86-64 \
	-ffreestanding -fno-stack-protector -fno-pic -fno-pie -mno-red-zone -fcf-protection=none \
	-fno-asynchronous-unwind-tables -fno-strict-aliasing -fno-tree-loop-distribute-patterns \
	-Wall -Wextra -Werror -Wmissing-prototypes -Wstrict-prototypes -Wshadow
CFLAGS_cpl0 = -mgeneral-regs-only -Os
CFLAGS_cpl3 =

TAG_H := ../../tagging/include/tag.h
SOURCES := $(sort $(wildcard cpl0/*.S cpl0/*.c cpl3/*.c))
OBJECTS := $(patsubst %,$(OUT)/%.o,$(basename $(SOURCES))) $(OUT)/cpl0/notes.o
HEADERS := $(sort $(wildcard *.h cpl3/*.h)) $(TAG_H)
INPUTS := $(sort $(wildcard *.h *.ld *.mk cpl0/* cpl3/*)) $(TAG_H)

all: $(OUT)/guest.elf

$(OUT)/guest.elf: $(OBJECTS) guest.ld build.mk
	$(LD) -nostdlib -static --build-id=none -z noexecstack --no-warn-rwx-segments \
		-z max-page-size=4096 -T guest.ld -o $@ $(OBJECTS)

$(OUT)/%.o: %.c $(HEADERS) build.mk
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) $(CFLAGS_$(*D)) -c -o $@ $<

$(OUT)/%.o: %.S $(HEADERS) build.mk
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) -c -o $@ $<

# The digest: SHA-256 of the list "<sha256>  <path>\n" of all inputs in the order of their paths,
# tag.h last. The compiler: the
# first lines of what gcc and ld call themselves.
$(OUT)/cpl0/notes.S: $(INPUTS)
	@mkdir -p $(@D)
	@{ \
	digest=$$(sha256sum $(INPUTS) | sha256sum | cut -d' ' -f1); \
	tools="$$($(CC) --version | head -n1); $$($(LD) --version | head -n1)"; \
	note='\t.section .note.%s, "a", @note\n\t.balign 4\n\t.long 10, 2f - 1f, %d\n'; \
	note="$$note"'\t.asciz "taskguide"\n\t.balign 4\n1:\t.ascii "%s"\n2:\t.balign 4\n'; \
	printf "$$note" digest 1 "$$digest"; \
	printf "$$note" tools 2 "$$tools"; \
	} > $@

$(OUT)/cpl0/notes.o: $(OUT)/cpl0/notes.S
	$(CC) -c -o $@ $<

.PHONY: all
