package netboottest_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"hatchery/internal/ext4"
	"hatchery/internal/layer"
	"hatchery/internal/parttable"
	"hatchery/internal/testtool"
	"hatchery/netboot/node/nodetest"
	"hatchery/netboot/store"
	"hatchery/netboot/transfer"
)

// guestModules are the kernel's that the guests need: of the emulated board,
// nodeinit's, and Docker's.
var guestModules = strings.Fields(`
virtio_net virtio_mmio 8021q nbd ext4 crc32c_generic dwc2 libcomposite usb_f_ecm usb_f_ncm usb_f_acm configfs zram dm_snapshot
vfat nls_cp437 nls_ascii nls_iso8859_1 overlay bridge br_netfilter veth vxlan autofs4 dummy ip_vs ip_vs_rr xt_ipvs xt_mark xt_nat
xt_addrtype xt_conntrack xt_MASQUERADE xt_tcpudp xt_comment xt_multiport xt_REDIRECT ipt_REJECT iptable_nat iptable_filter
iptable_mangle ip6table_filter ip6table_nat nft_compat nf_tables nft_chain_nat nf_conntrack_netlink xfrm_user xfrm_algo esp4`)

// Names on the boot partition.
const (
	guestKernel = "kernel-virt.img"
	guestTree   = "virt.dtb"
)

// The disks of slots, in bytes: what netboot: has in cluster.yaml.
const diskSize, diskQuota = 3_997_171_712, 2_000_000_000

// images are what `hatchery build` has made.
type images struct {
	cluster string // the folder with cluster.yaml
	cache   string
	targets map[string]target
}

// target is one of manifest.json's.
type target struct {
	Target string `json:"target"`
	Base   struct {
		Digest digest.Digest `json:"digest"`
		Size   int64         `json:"size"`
	} `json:"base"`
	Layers []struct {
		File   string        `json:"file"`
		Digest digest.Digest `json:"digest"`
	} `json:"layers"`
}

// layKernel lays a kernel and its modules into a tree of the user's files, as
// one does who wants another kernel on the nodes.
func layKernel(t *testing.T, tree string) {
	t.Helper()
	kernel := nodetest.DebianKernel(t)
	boot := filepath.Join(tree, "boot", "firmware")
	modules := filepath.Join(tree, "usr", "lib", "modules", kernel.Release)
	for _, dir := range []string{boot, modules} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	copyFile(t, kernel.Image, filepath.Join(boot, guestKernel))
	dumpTree(t, filepath.Join(boot, guestTree))
	lib := filepath.Join("lib", "modules", kernel.Release) + "/"
	from := ""
	for _, file := range kernel.Modules(t, guestModules...) {
		before, rest, ok := strings.Cut(file, lib)
		if !ok {
			t.Fatalf("%s is in none of the kernel's folders", file)
		}
		from = before
		copyFile(t, file, filepath.Join(modules, rest))
	}
	for _, name := range []string{"modules.builtin", "modules.builtin.modinfo", "modules.order"} {
		copyFile(t, filepath.Join(from, lib, name), filepath.Join(modules, name))
	}
	// depmod knows /lib/modules alone.
	link := filepath.Join(tree, "lib")
	if err := os.Symlink("usr/lib", link); err != nil {
		t.Fatal(err)
	}
	testtool.Run(t, "depmod", "-b", tree, kernel.Release)
	if err := os.Remove(link); err != nil {
		t.Fatal(err)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(out, in)
	if err = errors.Join(err, out.Close()); err != nil {
		t.Fatal(err)
	}
}

// build has hatchery make the images, as users do.
func (s *scenario) build(t *testing.T) {
	hatchery := os.Getenv("HATCHERY_PROGRAM")
	if hatchery == "" {
		hatchery = filepath.Join(s.root, "bin", "hatchery")
	}
	if _, err := os.Stat(hatchery); err != nil {
		testtool.Missing(t, "bin/hatchery (make build)")
	}
	base := os.Getenv("HATCHERY_BASE_BOOKWORM")
	if base == "" {
		testtool.Missing(t, "HATCHERY_BASE_BOOKWORM=$(make -s print-base)")
	}
	layKernel(t, s.path("files", "node"))
	testtool.Run(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "netboot", "-f", s.path("key"))
	// apparmor=0: Debian's kernel wants a program for every container that
	// Docker there does not bring (docs/stand-in-base.md).
	text := fmt.Sprintf(`name: netboot
base: {image: %q}
user: {authorized_keys: [./key.pub]}
slots: {p1: {root: netboot, labels: {disk: none}}, p2: {root: netboot}}
netboot: {disk: 4GB, quota: 2GB}
swarm: {offline: true}
docker: {packages: [docker.io]}
boot: {cmdline: [apparmor=0], config: ["kernel=%s", "device_tree=%s"]}
overlays: [./files]
`, base, guestKernel, guestTree)
	if err := os.WriteFile(s.path("cluster.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(s.ctx, hatchery, "build", "-q", "--layers-only", "--no-sums", "--cache", s.images.cache)
	cmd.Dir = s.images.cluster
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("hatchery build: %v\n%s", err, out)
	}
	var manifest struct {
		Targets []target `json:"targets"`
	}
	data, err := os.ReadFile(s.path("out", "manifest.json"))
	if err == nil {
		err = json.Unmarshal(data, &manifest)
	}
	if err != nil {
		t.Fatal(err)
	}
	s.images.targets = map[string]target{}
	for _, one := range manifest.Targets {
		s.images.targets[one.Target] = one
	}
	p1, p2 := s.images.targets["p1"], s.images.targets["p2"]
	if p1.Base.Digest != p2.Base.Digest || len(p1.Layers) != 2 || p1.Layers[0] != p2.Layers[0] {
		t.Fatalf("p1 and p2 do not share base and Docker: %+v, %+v", p1, p2)
	}
}

// base is where a base image lies in the cache.
func (i images) base(d digest.Digest) string {
	return filepath.Join(i.cache, "images", d.Encoded()+".img")
}

// open opens a target's image, with what closes it.
func (i images) open(t *testing.T, name string) (top layer.Parent, closing func()) {
	t.Helper()
	one := i.targets[name]
	base, err := layer.OpenBase(i.base(one.Base.Digest), one.Base.Digest)
	if err != nil {
		t.Fatal(err)
	}
	closers := []io.Closer{base}
	top = base
	for _, l := range one.Layers {
		next, err := layer.Open(filepath.Join(i.cluster, "out", l.File), top)
		if err != nil {
			t.Fatal(err)
		}
		closers = append(closers, next)
		top = next
	}
	return top, func() {
		for _, c := range slices.Backward(closers) {
			c.Close()
		}
	}
}

// read reads files of a target's root.
func (i images) read(t *testing.T, name string, files ...string) map[string][]byte {
	t.Helper()
	disk, closing := i.open(t, name)
	defer closing()
	table, err := parttable.Read(disk, disk.Size())
	if err != nil {
		t.Fatal(err)
	}
	p := table.Partition(parttable.Root)
	root, err := ext4.OpenReadOnly(p.Reader(disk), p.Size)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]byte{}
	for _, file := range files {
		if all[file], err = root.ReadFile(file); err != nil {
			t.Fatalf("%s of %s: %v", file, name, err)
		}
	}
	return all
}

// push brings what p1 and p2 boot to the controller's store, as `hatchery push`
// does: what it says over ssh goes over a pipe here.
func (s *scenario) push(t *testing.T) {
	stock, err := store.Open(s.storeDir(), store.Options{Run: s.storeRun(), Reserve: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer stock.Close()
	offer := transfer.Offer{By: "test"}
	known := map[digest.Digest]bool{}
	add := func(kind store.Kind, d digest.Digest, path string) {
		if !known[d] {
			known[d] = true
			offer.Objects = append(offer.Objects, transfer.Source{Kind: kind, Digest: d, Path: path})
		}
	}
	for slot := 1; slot <= 2; slot++ {
		one := s.images.targets[fmt.Sprintf("p%d", slot)]
		assigned := transfer.Assignment{Slot: slot, Base: one.Base.Digest, Mode: store.Netboot, Size: diskSize, Quota: diskQuota}
		add(store.Base, one.Base.Digest, s.images.base(one.Base.Digest))
		for _, l := range one.Layers {
			add(store.Layer, l.Digest, s.path("out", l.File))
			assigned.Layers = append(assigned.Layers, l.Digest)
		}
		offer.Slots = append(offer.Slots, assigned)
	}
	here, there := net.Pipe()
	received := make(chan error, 1)
	go func() {
		_, err := transfer.Receive(s.ctx, there, stock, nil)
		there.Close()
		received <- err
	}()
	result, err := transfer.Send(s.ctx, here, offer)
	here.Close()
	if err = errors.Join(err, <-received); err != nil {
		t.Fatal(err)
	}
	if len(result.Stored) != 4 || len(result.Slots) != 2 {
		t.Errorf("a base, Docker and two slots' layers were pushed, for two slots; the controller says %+v", result)
	}
	t.Logf("pushed: %d bytes sent, %d before compression", result.Sent, result.Data)
}
