# Targets to install, and to make releases. A release contains what make install installs.

PREFIX  ?= /usr/local
DESTDIR ?=
INSTALL ?= install

# The packages of the programs to install. vmm-tag is for Linux guests: it is static, so users copy
# it from here into their guests.
PROGRAMS := ./cmd/vmm ./cmd/vmm-bench ./cmd/vmm-tag ./integration/stockkvm/cmd/stockkvm

# Where shells, man and C compilers look, below PREFIX. A distribution may have its own folders.
BINDIR  ?= $(PREFIX)/bin
MANDIR  ?= $(PREFIX)/share/man
INCDIR  ?= $(PREFIX)/include
BASHDIR ?= $(PREFIX)/share/bash-completion/completions
ZSHDIR  ?= $(PREFIX)/share/zsh/site-functions
FISHDIR ?= $(PREFIX)/share/fish/vendor_completions.d

# The date of the built files is the commit's, so that the same sources always give the same files.
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
export SOURCE_DATE_EPOCH

# make install copies from this folder.
STAGE := bin/install

.PHONY: stage
stage:
	rm -rf $(STAGE)
	mkdir -p $(STAGE)/bin $(STAGE)/man1 $(STAGE)/completions
	$(GOBUILD) $(RELEASE_FLAGS) -o $(STAGE)/bin/ $(PROGRAMS)
# vmm-bench comes last, because the page of vmm bench is its own.
	for program in vmm vmm-bench; do \
		$(GOBUILD) $(RELEASE_FLAGS) -tags man -o $(STAGE)/man ./cmd/$$program && \
		$(STAGE)/man man $(STAGE)/man1 || exit 1; done
	rm $(STAGE)/man
	for shell in bash zsh fish; do \
		$(STAGE)/bin/vmm completion $$shell > $(STAGE)/completions/$$shell || exit 1; \
		cp cmd/vmm-tag/share/vmm-tag.$$shell $(STAGE)/completions/ || exit 1; done
	sed "s/@DATE@/$$(LC_ALL=C date -u -d @$(SOURCE_DATE_EPOCH) '+%b %Y')/" \
		cmd/vmm-tag/share/vmm-tag.1 > $(STAGE)/man1/vmm-tag.1

.PHONY: install
install: stage ## install programs, tag.h, manual pages and completions (PREFIX=/usr/local)
	@$(MAKE) --no-print-directory install-staged

# Installs what stage has made. A different user, who may write to PREFIX, can run it.
.PHONY: install-staged
install-staged:
	$(INSTALL) -d $(DESTDIR)$(BINDIR) $(DESTDIR)$(INCDIR)/vmm $(DESTDIR)$(MANDIR)/man1 \
		$(DESTDIR)$(BASHDIR) $(DESTDIR)$(ZSHDIR) $(DESTDIR)$(FISHDIR)
	$(INSTALL) -m 755 $(STAGE)/bin/* $(DESTDIR)$(BINDIR)
	$(INSTALL) -m 644 tagging/include/tag.h $(DESTDIR)$(INCDIR)/vmm
	$(INSTALL) -m 644 $(STAGE)/man1/*.1 $(DESTDIR)$(MANDIR)/man1
	$(INSTALL) -m 644 $(STAGE)/completions/bash $(DESTDIR)$(BASHDIR)/vmm
	$(INSTALL) -m 644 $(STAGE)/completions/zsh $(DESTDIR)$(ZSHDIR)/_vmm
	$(INSTALL) -m 644 $(STAGE)/completions/fish $(DESTDIR)$(FISHDIR)/vmm.fish
	$(INSTALL) -m 644 $(STAGE)/completions/vmm-tag.bash $(DESTDIR)$(BASHDIR)/vmm-tag
	$(INSTALL) -m 644 $(STAGE)/completions/vmm-tag.zsh $(DESTDIR)$(ZSHDIR)/_vmm-tag
	$(INSTALL) -m 644 $(STAGE)/completions/vmm-tag.fish $(DESTDIR)$(FISHDIR)

.PHONY: uninstall
uninstall: ## remove what make install has installed at that PREFIX
	rm -f $(addprefix $(DESTDIR)$(BINDIR)/,$(notdir $(PROGRAMS)))
	rm -f $(DESTDIR)$(INCDIR)/vmm/tag.h
	rmdir $(DESTDIR)$(INCDIR)/vmm 2>/dev/null || true
	rm -f $(DESTDIR)$(MANDIR)/man1/vmm.1 $(DESTDIR)$(MANDIR)/man1/vmm-*.1
	for name in vmm vmm-tag; do \
		rm -f $(DESTDIR)$(BASHDIR)/$$name $(DESTDIR)$(ZSHDIR)/_$$name \
			$(DESTDIR)$(FISHDIR)/$$name.fish || exit 1; done

.PHONY: release
release: ## make reproducible archives with checksums and SBOMs in dist/
	@GO='$(GO)' ./scripts/release.sh dist

.PHONY: release-check
release-check: ## make a release twice, from checkouts at two places, and compare
	@GO='$(GO)' ./scripts/release-check.sh
