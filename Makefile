# hatchery's commands. Each can be used alone and installs what it needs, from
# Debian's packages only.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := build

SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
GOENV := CGO_ENABLED=0

# What tests, demo and benchmarks call besides Go.
PACKAGES := acl apt attr avahi-daemon avahi-utils binfmt-support binutils bmap-tools btrfs-progs bzip2 ca-certificates cpio debian-archive-keyring \
	chromium dhcpcd-base dnsmasq-base docker.io dosfstools dpkg e2fsprogs fdisk fonts-dejavu-core gcc-arm-linux-gnueabi gcc-arm-linux-gnueabihf gpgv \
	iproute2 iptables kmod libc6-dev-armel-cross libc6-dev-armhf-cross libcap2-bin libnbd-bin libnss3-tools mount mtools network-manager nftables \
	openssh-client openssh-server openssl passwd procps python3-libnbd qemu-system-arm qemu-user-static qemu-utils shellcheck skopeo strace sudo systemd time udev \
	unzip util-linux wpasupplicant xfsprogs xz-utils zip zstd

## help: this list
help:
	@sed -n 's/^## //p' Makefile

.PHONY: help deps base print-base payload build demo test test-fast test-swarm test-netboot test-card e2e soak bench fuzz lint vuln clean

## deps: the Debian packages that tests, demo and benchmarks need
deps:
	@.ci/install $(PACKAGES)
	@.ci/promtool

RELEASE ?= bookworm

## base: the stand-in base images, bookworm's and trixie's, made once and kept under build/
base:
	@$(SUDO) testdata/base/make --release all

## print-base: where the stand-in base image of RELEASE (bookworm) lies
print-base:
	@testdata/base/make --release $(RELEASE) --print

## build: bin/hatchery, with the nodes' programs in it
build: payload
	$(GOENV) go build -trimpath -o bin/hatchery ./cmd/hatchery

## payload: the nodes' programs, which hatchery embeds
payload:
	@$(GOENV) go run cmd/hatchery/payload/pack.go

## demo: five images from the stand-in base, and what came out
demo: deps base build
	@examples/demo/run "$$(testdata/base/make --print)" "$$(testdata/base/make --release trixie --print)"

## test: everything, as CI runs it
test: deps base build
	@.ci/test
	@.ci/netboot
	@# One emulated board keeps one core busy: lint has what is left.
	@nice -n 19 .ci/lint >build/lint.log 2>&1 & lint=$$!; card=0; .ci/card || card=$$?; wait $$lint || { cat build/lint.log; exit 1; }; exit $$card
	@.ci/e2e

## test-fast: the quick tests, without root and without the base image; what needs more is skipped by name (-v shows it)
test-fast:
	go test -short ./...

## test-swarm: the agent and the service with real engines in network namespaces (root)
test-swarm: deps
	@.ci/swarm

## test-netboot: what boots slots without cards, with real kernels in QEMU and an emulated node from boot ROM to Ready (root)
test-netboot: deps base build
	@.ci/netboot

## test-card: cards written in place, from push to Ready, by an emulated node whose power is cut meanwhile (root)
test-card: deps base build
	@.ci/card

## e2e: a controller and a node, built, booted on two emulated Zeros and put to work (ten minutes; consoles and time line in build/e2e)
e2e: deps base build
	@.ci/e2e

## soak: the long forms, for hours: twenty kills and more of test-swarm, joins and leaves with flat memory, cards cut off as they are written, a stack and the registry on emulated boards
soak: deps base build
	@.ci/soak

## bench: benchmarks, and whole commands against the peer tools
bench: deps base build
	@.ci/bench "$$(testdata/base/make --print)"
	@$(SUDO) .ci/bench-flash "$$(testdata/base/make --print)"
	@.ci/install fio nbd-server nbdkit
	@.ci/bench-nbd

## fuzz: every fuzz target for FUZZTIME (default 10m) and the long random suites
fuzz: deps
	@.ci/fuzz $${FUZZTIME:-10m} long

## lint: gofmt, vet for every system that hatchery is built for, staticcheck
lint:
	@.ci/lint

## vuln: known vulnerabilities (needs the Go vulnerability database)
vuln:
	go run golang.org/x/vuln/cmd/govulncheck@latest ./...

## clean: removes bin, out and the demo's outputs; keeps the base
clean:
	rm -rf bin out build/demo build/e2e build/card
