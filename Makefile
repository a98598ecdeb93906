# City/Sync. `make` alone tells what there is.
#
# Every target works from a clean clone with empty caches. CITY=berkeley|cdmx|DIR chooses the
# city of run and demo; DATA=DIR the data folder of run; DEV="--separate --second-pds" says how it runs.

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CITY ?= berkeley
DATA ?=
ARGS ?=
DEV  ?=
export DEV

# The linter runs from its own module: as a tool of this one it would double go.sum.
LINT := go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

# What people wrote in Go: everything but the generated types.
GOFILES = git ls-files -co --exclude-standard '*.go' | grep -Ev '^lexicons/(citysync|community)/' | while read -r f; do [ ! -f "$$f" ] || echo "$$f"; done

.PHONY: help run test check race lint fmt gen bench bench-go e2e crash separate demo interop outside clean \
        build go postgres fmt-check vet gen-check paths-check

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

run: build postgres ## a whole city on this machine, with a demonstration in it; stays up until Ctrl-C
	@exec internal/make/city.sh run "$(CITY)" "$(DATA)" $(ARGS)

demo: build postgres ## the same on free ports in a temporary folder, verified from outside, then stopped
	@exec internal/make/city.sh demo "$(CITY)" "" $(ARGS)

test: go postgres ## all tests that need no browser and no Node
	go test ./...

race: go postgres ## the tests under the race detector (slow)
	go test -race ./...

check: fmt-check vet lint gen-check paths-check ## format, vet, lint, generated code is current, no machine paths

lint: go ## the linter alone
	$(LINT) run ./...

fmt: go ## format what people wrote
	@$(GOFILES) | xargs gofmt -w

gen: go ## generate the Go types of the schemas
	go run ./lexicons/gen

bench: go postgres ## one table: what the parts do in a second, each beside a peer or a limit of the same run (ARGS=pds: the PDS alone)
	@go run ./internal/e2e/bench $(ARGS)

bench-go: go postgres ## Go benchmarks of the packages that have some
	@grep -rl --include='*_test.go' '^func Benchmark' . | xargs -n1 dirname | sort -u | xargs go test -run '^$$' -bench . -benchmem

e2e: go postgres ## the pages in a real browser (installs Chromium by apt where it is missing)
	@internal/make/need.sh chromium
	go test -tags e2e -count=1 ./internal/e2e/...

separate: go postgres ## Berkeley in processes, databases and roles of its own, with part of it on a second PDS
	go test -tags separate -count=1 -timeout 15m -v ./internal/e2e/separate

crash: go postgres ## a city, and a PDS alone, whose processes and database are killed at labelled points while they are used
	go test -tags crash -count=1 -timeout 15m -v ./internal/crash ./internal/e2e/crash

interop: go postgres ## the protocol's official TypeScript packages against a city (needs npm; fetches Node 22 where it is older)
	@NODE="$$(internal/make/need.sh node)"; export NODE; go test -tags interop -count=1 -v ./internal/e2e/interop/

outside: go postgres ## Tessera's client and fsck on a city's log
	go test -tags interop -count=1 -v -run TestOutsideCheckersAcceptTheLog ./internal/e2e/interop/

clean: ## remove what was built here; data folders stay
	rm -rf bin .cache

# Parts of the above.

build: go
	@mkdir -p bin
	go build -o bin/citysync ./cmd/citysync

go:
	@internal/make/need.sh go

postgres:
	@internal/make/need.sh postgres

fmt-check: go
	@bad="$$($(GOFILES) | xargs gofmt -l)"; if [ -n "$$bad" ]; then echo "not formatted, run make fmt:"; echo "$$bad"; exit 1; fi

vet: go
	go vet -tags e2e,interop,separate,crash,bench ./...

# Compares before with after, so that it works in a tree with uncommitted changes too.
gen-check: go
	@state() { git ls-files -co --exclude-standard lexicons | sort | while read -r f; do [ ! -f "$$f" ] || echo "$$f $$(git hash-object "$$f")"; done; }; \
	before="$$(state)"; $(MAKE) --no-print-directory gen; after="$$(state)"; \
	if [ "$$before" != "$$after" ]; then echo "make gen changed these files:"; diff <(echo "$$before") <(echo "$$after") || exit 1; fi

# A path of somebody's machine works nowhere else, and tells about them.
paths-check:
	@if git grep -nIE '(^|[^A-Za-z0-9_./-])/([h]ome|[U]sers|[r]oot|[w]ork/(main|shared))/[A-Za-z0-9_.]' -- . | grep -v '/[h]ome/linuxbrew/'; \
	then echo "these lines name a place on one machine"; exit 1; fi
