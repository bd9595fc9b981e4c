# Copyright The weir Authors.
# SPDX-License-Identifier: Apache-2.0

GO ?= go

.PHONY: bench-gate
# Fails when weir's own watch cache has lost what it is for: watch lists of Pods on this program with it, in proportion to
# this program without it, on the same data. Takes one to two minutes after the build. Ratios of processor time and of live
# heap hardly depend on the machine or on what else it does; the limits are far from what is measured (0.11 to 0.16, and
# 0.80), so that noise does not pass them but a regression does.
bench-gate:
	$(GO) build -o bin/weir ./cmd/weir
	bin/weir bench watchlist --compare weir-off,weir --dataset b --pods 3000 --streams 8 --again 2 \
		--max-ratio 'server CPU s=0.40' --max-ratio 'heap live MB=0.95' --out bin/bench-gate

DURATION ?= 10m
SEED ?=
HISTORY ?= 75s
MEMBERS ?= 3
WRITES ?= 300
FAULTS ?=

.PHONY: robustness
# Writes to and reads from two weirs over one etcd while faults happen, for DURATION, and finds what is lost or wrong. Without
# a SEED it draws one and says it. HISTORY is how long the weirs keep events, 16s at least; MEMBERS are etcd's; WRITES are
# so many a second, with reads in proportion; FAULTS are the only kinds of faults to make, such as kill,etcd-cut, without any
# all. See test/robustness/doc.go.
robustness:
	WEIR_DURATION=$(DURATION) WEIR_SEED=$(SEED) WEIR_HISTORY=$(HISTORY) WEIR_MEMBERS=$(MEMBERS) WEIR_WRITES=$(WRITES) \
		WEIR_FAULTS=$(FAULTS) \
		$(GO) test ./test/robustness -run '^TestRobustness$$' -count 1 -timeout 0 -v

.PHONY: soak
# Puts the load of a robustness run, without faults, on two weirs for SOAK, and fails if what they use has grown. It says where
# it has left the curve.
SOAK ?= 2h
soak:
	WEIR_SOAK=$(SOAK) WEIR_SEED=$(SEED) WEIR_HISTORY=$(HISTORY) WEIR_MEMBERS=$(MEMBERS) WEIR_WRITES=$(WRITES) WEIR_HERD=20 \
		$(GO) test ./test/robustness -run '^TestSoak$$' -count 1 -timeout 0 -v

DEFINITIONS ?= 300
PROGRAMS ?=
.PHONY: definitions
# Measures what DEFINITIONS definitions of custom resources cost a server, without a single object: upstream's, weir with its
# gate OpenAPIOnDemand off, and weir, or PROGRAMS, for which see test/definitions/tax_test.go. About 5 minutes for each.
definitions:
	WEIR_DEFINITIONS=$(DEFINITIONS) WEIR_PROGRAMS=$(PROGRAMS) \
		$(GO) test ./test/definitions -run '^TestTax$$' -count 1 -timeout 0 -v

OBJECTS ?= 20000
.PHONY: objects
# Measures what OBJECTS custom resources in two versions cost a server when they are read first after its start, when they are written, and
# when a column changes while 16 informers have them: upstream's, and weir, or PROGRAMS. About 5 minutes for each.
objects:
	WEIR_OBJECTS=$(OBJECTS) WEIR_PROGRAMS=$(PROGRAMS) \
		$(GO) test ./test/definitions -run '^TestObjects$$' -count 1 -timeout 0 -v

KILLS ?= 200
.PHONY: killed
# Kills a stand-alone server KILLS times while it is written to, and looks for acknowledged writes that are lost.
killed:
	WEIR_KILLS=$(KILLS) WEIR_SEED=$(SEED) $(GO) test ./test/killed -run '^TestKilledUnderWrites$$' -count 1 -timeout 0 -v

LIES ?= all
.PHONY: robustness-lies
# Has weir lie, in one way after the other, and fails if the robustness run does not find it. LIES are names of them with commas
# between. About a minute for each; see test/robustness/lies/doc.go.
robustness-lies:
	WEIR_LIES=$(LIES) $(GO) test ./test/robustness/lies -run '^TestLies$$' -count 1 -timeout 0 -v

FUZZTIME ?= 30m

.PHONY: fuzz
# Fuzzes everything that reads what clients send or etcd holds, one target after the other, FUZZTIME for each. Each compares with
# upstream's own code, or with what was put in. What is found is written to the package's testdata/fuzz, where go test runs it.
fuzz:
	@failed=; for file in $$(grep -rl '^func Fuzz' --include='*_test.go' .); do \
		for target in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9]*\)(.*/\1/p' $$file); do \
			echo "$$target in $$(dirname $$file)"; \
			$(GO) test $$(dirname $$file) -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -timeout 0 || failed="$$failed $$target"; \
		done; \
	done; test -z "$$failed" || { echo "failed:$$failed"; exit 1; }

REQUESTS ?= 10000

.PHONY: who-may-see-what
# Puts REQUESTS random requests of restricted users to stock and to weir, both over one etcd, and compares what they are shown.
# Takes four minutes after the build. Without a SEED it draws one and says it. See test/authz/authz_test.go.
who-may-see-what:
	WEIR_REQUESTS=$(REQUESTS) WEIR_SEED=$(SEED) $(GO) test ./test/authz -run '^TestWhoMaySeeWhat$$' -count 1 -timeout 60m -v

DIST ?= dist
VERSION ?= $(shell git describe --tags --dirty 2>/dev/null || echo v0.0.0-g$$(git rev-parse --short HEAD))
KUBERNETES = $(shell $(GO) list -m -f '{{.Version}}' k8s.io/kubernetes)
IMAGE ?= weir.local/kube-apiserver
CERTIFICATES ?= $(wildcard /etc/ssl/certs/ca-certificates.crt)

.PHONY: release
# Makes, in DIST, static binaries for linux/amd64 and linux/arm64, a list of what is in each (CycloneDX), container images (archives for
# docker load, ctr images import and kind load image-archive, and an OCI layout), Debian packages and SHA256SUMS. VERSION is
# the last tag, IMAGE the name of the images, CERTIFICATES a file of authorities' certificates for them. It compiles Kubernetes
# once for each architecture: 10 minutes on 2 cores that do nothing else, or more. It takes no Docker and no root.
release:
	rm -rf $(DIST)
	mkdir -p $(DIST)
	for arch in amd64 arm64; do \
		CGO_ENABLED=0 GOOS=linux GOARCH=$$arch $(GO) build -trimpath -buildvcs=auto -ldflags '-s -w' -o $(DIST)/weir-linux-$$arch ./cmd/weir && \
		$(GO) run github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0 bin -json -output $(DIST)/weir-linux-$$arch.cdx.json $(DIST)/weir-linux-$$arch || exit 1; \
	done
	cd release && $(GO) run . --dist $(abspath $(DIST)) --version '$(VERSION)' --kubernetes $(KUBERNETES) --image $(IMAGE) \
		--certificates '$(CERTIFICATES)' --time $$(git log -1 --format=%ct 2>/dev/null || echo 0)

LIMIT ?=

.PHONY: limited
# Puts more on weirs than fits into their memory, in control groups of 1.5 GiB or LIMIT MiB, with 645 MB of data: everybody reads
# everything at the same time, large objects are written beside watches that nobody reads, and all informers of a server that dies come
# to another one. Upstream's server gets the same load after weir, and it is said how it ended. Takes up to two hours, and 5 GB of memory.
# See test/limited/doc.go.
limited:
	WEIR_LIMITED=1 WEIR_LIMIT=$(LIMIT) $(GO) test ./test/limited -run '^(TestLoad|TestLoadOfStock|TestHerd|TestListsHoldWhatIsEstimated)$$' -count 1 -timeout 0 -v

UPLOT ?= 1.6.32

.PHONY: uplot
# Gets the charts of weir dashboard, that version of the npm package uplot, and writes their checksums. npm compares what it gets with the
# registry's checksum; git diff shows whether it is what was there. Takes npm.
uplot:
	dir=$$(mktemp -d) && to=internal/status/dashboard/page/uplot && \
	(cd $$dir && npm pack --silent uplot@$(UPLOT) && tar xzf uplot-$(UPLOT).tgz) && \
	cp $$dir/package/LICENSE $$dir/package/dist/uPlot.esm.js $$dir/package/dist/uPlot.min.css $$to && rm -r $$dir && \
	(cd $$to && sha256sum LICENSE uPlot.esm.js uPlot.min.css >SHA256SUMS)

SHOTS ?=

.PHONY: browser
# Puts the page of weir dashboard before Chromium, and leaves pictures of it in SHOTS, if that is given. See test/browser/doc.go.
browser:
	cd test/browser && WEIR_SHOTS=$(abspath $(SHOTS)) $(GO) test -count 1 -v .

TURNS ?= 12
EMULATED ?= 1.36,1.35,1.34,=1.36,=1.34

.PHONY: swap
# Has stock and weir take turns on one etcd, TURNS times, under writes and informers, and then serve it beside each other, with stock as
# old as each of EMULATED ("=" before one: weir emulates it too). Without a SEED it draws one and says it. Two minutes on 2 cores for
# each four turns and for each version. See test/swap/doc.go.
swap:
	WEIR_TURNS=$(TURNS) WEIR_EMULATED=$(EMULATED) WEIR_SEED=$(SEED) \
		$(GO) test ./test/swap -run '^(TestTurns|TestBesideOlder|TestShutdown)$$' -count 1 -timeout 0 -v

.PHONY: swap-envtest swap-kwok
# Run what other projects test with: controller-runtime's suites on envtest, and a cluster of kwokctl's. Both need the module proxy; what
# else they need, and what can be set, stands in the scripts.
swap-envtest:
	test/swap/envtest.sh
swap-kwok:
	test/swap/kwok.sh
