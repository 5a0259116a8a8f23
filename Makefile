# make build | test | demo | bench | soak | vmtest | lint | fuzz | screenshots
#
# `make test` and `make demo` need Go, git and make; what else they use
# (a software TPM, a C compiler for the race detector) they install by apt-get
# when run as root, or name.

GO      ?= go
BENCH   ?= .
COUNT   ?= 1
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)
BIN     := bin

.PHONY: core pages build test demo bench soak vmtest lint fuzz screenshots tools clean

build: core
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/ ./cmd/...

# The checking core of the page /proof.
core:
	GOOS=js GOARCH=wasm $(GO) build -trimpath -ldflags '-s -w' -o verifier/console/core/writ.wasm ./verifier/console/wasm
	gzip -9nf verifier/console/core/writ.wasm
	cp "$$($(GO) env GOROOT)/lib/wasm/wasm_exec.js" verifier/console/core/

# The committed pages are what their sources make.
pages:
	cd verifier/console/web && npm ci --silent --ignore-scripts --no-audit --no-fund && npm run --silent check && npm run --silent build -- --logLevel warn
	@changed="$$(git status --porcelain -- verifier/console/dist)"; [ -z "$$changed" ] || { echo "writ: these are not what their sources make; commit them:"; echo "$$changed"; exit 1; } >&2

test: tools pages build
	CGO_ENABLED=1 $(GO) test -race -timeout 15m ./...
	cd internal/interop && CGO_ENABLED=0 $(GO) test -timeout 10m ./...

# The pictures of README and docs/, from the test that looks at the pages.
screenshots: tools pages
	cd internal/interop && WRIT_SCREENSHOTS=$(CURDIR)/$(BIN)/screenshots CGO_ENABLED=0 $(GO) test -count 1 -timeout 10m -run 'TestPages/documents' ./browser
	mkdir -p docs/img && cp $(BIN)/screenshots/docs/*.png docs/img/

demo: TOOLS := swtpm=swtpm
demo: tools build
	$(BIN)/writ dev --demo

bench: tools
	@printf 'load: %s\n' "$$(cut -d' ' -f1-3 /proc/loadavg)"
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem -count $(COUNT) -timeout 60m ./...
	cd internal/interop && CGO_ENABLED=0 $(GO) test -run '^$$' -bench '$(BENCH)' -benchmem -count $(COUNT) -timeout 60m ./...

# The tests of faults and chance, 20 times as long: 1,000 kills of a writer.
soak: tools
	WRIT_SOAK=20 CGO_ENABLED=1 $(GO) test -race -v -count 1 -timeout 6h -run 'Kill|Fault|DiskFull|Cut|Standby|TestEverythingRestored' ./verifier/store ./cmd/writd
	WRIT_SOAK=20 $(GO) test -v -count 1 -timeout 6h -run Adversary ./verifier/appraisal

# What needs a machine of its own: it sleeps over a deadline and has its clock set. The
# kernel is Debian's, in QEMU without hardware help; all else in it is Go.
VM  := $(BIN)/vm
# Of the tests that run anywhere, those that this kernel could see differently.
VMRUN := TestVM|TestKernelDeadlineBelow|TestEgress|TestKeeperStopped|TestKeeperFrozen
vmtest: TOOLS := qemu-system-x86_64=qemu-system-x86 cpio=cpio
vmtest: tools
	rm -rf $(VM) && mkdir -p $(VM)/root/t
	cd $(VM) && apt-get -qq download "$$(apt-cache depends linux-image-amd64 | sed -n 's/.*Depends: //p')" && dpkg-deb -x linux-image-*.deb .
	CGO_ENABLED=0 $(GO) build -trimpath -o $(VM)/root/init ./enclave/testdata/vminit
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o $(VM)/root/t/ ./cmd/writ-keeper ./cmd/writ-bpf ./enclave/testdata/hydra ./enclave/testdata/probe
	CGO_ENABLED=0 $(GO) test -c -tags vmtest -trimpath -o $(VM)/root/t/enclave.test ./enclave
	cd $(VM)/root && find . | cpio --quiet -o -H newc | gzip -1 >../initramfs
	timeout 900 qemu-system-x86_64 -accel tcg -smp 2 -m 1G -nographic -no-reboot -nic none \
	  -kernel $(VM)/boot/vmlinuz-* -initrd $(VM)/initramfs -append 'console=ttyS0 quiet no_console_suspend panic=-1 "vmtest=$(VMRUN)"' | tee $(VM)/log
	grep -q '^vmtest: passed' $(VM)/log

lint:
	@test -z "$$(gofmt -l .)" || { gofmt -l .; exit 1; }
	$(GO) vet ./...

fuzz:
	@for p in $$(grep -rl '^func Fuzz' --include='*_test.go' . | xargs -n1 dirname | sort -u); do \
	  for f in $$(grep -ho '^func Fuzz[A-Za-z0-9]*' $$p/*_test.go | cut -d' ' -f2); do \
	    $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime 10s -fuzzminimizetime 10x $$p || exit 1; done; done

# Tools by the Debian package that brings them: command=package.
# PostgreSQL's are not in PATH. No package may start a service of its own.
TOOLS := systemd-analyze=systemd swtpm=swtpm swtpm_setup=swtpm-tools tpm2_checkquote=tpm2-tools gcc=gcc node=nodejs npm=npm strace=strace unshare=util-linux chromium=chromium runc=runc \
	/usr/sbin/nginx=nginx-light /usr/lib/postgresql/15/bin/postgres=postgresql-15

tools:
	@missing=; for t in $(TOOLS); do command -v $${t%%=*} >/dev/null || missing="$$missing $${t##*=}"; done; \
	[ -z "$$missing" ] && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  mkdir -p /etc/postgresql-common && { [ -e /etc/postgresql-common/createcluster.conf ] || echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf; }; \
	  [ -e /usr/sbin/policy-rc.d ] || { trap 'rm -f /usr/sbin/policy-rc.d' EXIT; printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d; }; \
	  echo "installing$$missing"; apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing libc6-dev >/dev/null; \
	else echo "writ: install these packages first:$$missing" >&2; exit 1; fi

clean:
	rm -rf $(BIN)
