package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hatchery/controller/reimage"
	"hatchery/internal/bootpart"
	"hatchery/internal/enrol"
	"hatchery/internal/enrol/enroltest"
	"hatchery/internal/nodefile"
	wire "hatchery/internal/reimage"
	"hatchery/internal/testtool"
	"hatchery/netboot/node/nodetest"
	"hatchery/netboot/store"
)

func TestMain(m *testing.M) {
	nodetest.Pipe()
	os.Exit(m.Run())
}

// patience only ends a test that hangs: the board is emulated, beside others.
const patience = 5 * time.Minute

const (
	slot      = 7
	mib       = 1 << 20
	bootStart = 4 * mib
	bootSize  = 40 * mib
	rootStart = bootStart + bootSize
	rootSize  = 40 * mib
	signature = 0x1a2b3c4d
	// What the firmware is given, with a card that is not armed and with one that is. An
	// initramfs is there for both, since this kernel has the card's driver as a module:
	// with no order on the card it starts the card's own root.
	initramfsLine = "initramfs hatchery-initramfs.img followkernel\n"
	words         = "hatchery.slot=7 hatchery.root=reimage hatchery.gadget=ecm root=PARTUUID=1a2b3c4d-02 rootfstype=ext4 rw\n"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// makeCard makes the image of a card: a boot partition and a root, whose files tell
// their version.
func makeCard(t *testing.T, place, version string, initramfs, guest []byte) {
	t.Helper()
	f, err := os.Create(place)
	must(t, err)
	defer f.Close()
	must(t, f.Truncate(rootStart+rootSize))
	table := make([]byte, 512)
	binary.LittleEndian.PutUint32(table[440:], signature)
	for i, p := range [][3]uint32{{0x0c, bootStart / 512, bootSize / 512}, {0x83, rootStart / 512, rootSize / 512}} {
		e := table[446+16*i:]
		e[4] = byte(p[0])
		binary.LittleEndian.PutUint32(e[8:], p[1])
		binary.LittleEndian.PutUint32(e[12:], p[2])
	}
	table[510], table[511] = 0x55, 0xaa
	_, err = f.WriteAt(table, 0)
	must(t, err)

	boot := filepath.Join(t.TempDir(), "boot")
	b, err := os.Create(boot)
	must(t, err)
	must(t, b.Truncate(bootSize))
	must(t, b.Close())
	testtool.Run(t, "mkfs.vfat", "-F", "32", "-s", "1", "-i", "12345678", "--invariant", boot)
	content, err := os.ReadFile(boot)
	must(t, err)
	_, err = f.WriteAt(content, bootStart)
	must(t, err)
	fs, err := bootpart.Open(f, bootStart, bootSize)
	must(t, err)
	random := make([]byte, 6*mib)
	chacha(version).Read(random)
	must(t, fs.Mkdir("hatchery"))
	for _, file := range [][2]string{
		{"hatchery-initramfs.img", string(initramfs)},
		{"config.txt", "# " + version + "\n" + initramfsLine}, {"cmdline.txt", words}, {"start.elf", string(random)},
		{wire.PreparedConfig, "# armed " + version + "\n" + initramfsLine}, {wire.PreparedCmdline, words},
	} {
		must(t, fs.WriteFile(file[0], []byte(file[1])))
	}
	must(t, fs.Close())

	root := nodetest.Root(t, guest)
	must(t, os.WriteFile(filepath.Join(root, "version"), []byte("this is "+version+"\n"), 0o644))
	random = make([]byte, 10*mib)
	chacha(version + " root").Read(random)
	must(t, os.WriteFile(filepath.Join(root, "data"), random, 0o644))
	testtool.Run(t, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-O", "^metadata_csum,^64bit", "-E", fmt.Sprintf("offset=%d,root_owner=0:0", rootStart), "-d", root, place, fmt.Sprintf("%dk", rootSize>>10))
}

func chacha(seed string) *rand.ChaCha8 {
	var key [32]byte
	copy(key[:], seed)
	return rand.NewChaCha8(key)
}

// firmware reads what a card boots: false where the boot ROM finds nothing.
func firmware(t *testing.T, card string) (config, cmdline string, initramfs []byte, ok bool) {
	t.Helper()
	f, err := os.Open(card)
	must(t, err)
	defer f.Close()
	table := make([]byte, 512)
	_, err = f.ReadAt(table, 0)
	must(t, err)
	start := int64(binary.LittleEndian.Uint32(table[446+8:])) * 512
	size := int64(binary.LittleEndian.Uint32(table[446+12:])) * 512
	fs, err := bootpart.OpenReadOnly(f, start, size)
	if err != nil {
		first := make([]byte, 512)
		if _, err := f.ReadAt(first, start); err != nil || !bytes.Equal(first, make([]byte, 512)) {
			t.Fatalf("the boot partition is neither whole nor empty: %v", err)
		}
		return "", "", nil, false
	}
	read := func(name string) []byte {
		content, err := fs.ReadFile(name)
		must(t, err)
		return content
	}
	config = string(read("config.txt"))
	loaded, _ := bootpart.ParseConfig([]byte(config)).Effective(bootpart.ModelZero, "initramfs")
	name, _, _ := strings.Cut(loaded, " ")
	return config, strings.TrimSpace(string(read("cmdline.txt"))), read(name), true
}

// arm does what the node's agent does.
func arm(t *testing.T, card string, cluster enroltest.Cluster) {
	t.Helper()
	f, err := os.OpenFile(card, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	files := cluster.Files(t, slot)
	must(t, wire.WriteOrder(f, &wire.Order{
		Version: wire.OrderVersion, Operation: "test", Slot: slot, Cluster: "homelab", Controller: "172.19.181.254", Address: "172.19.181.7/24",
		Time: time.Now(), Key: string(files.Key), Certificate: string(files.Certificate), CA: string(files.CA),
	}))
	fs, err := bootpart.Open(f, bootStart, bootSize)
	must(t, err)
	for prepared, name := range map[string]string{wire.PreparedConfig: "config.txt", wire.PreparedCmdline: "cmdline.txt"} {
		content, err := fs.ReadFile(prepared)
		must(t, err)
		must(t, fs.WriteFile(name, content))
	}
	must(t, fs.Close())
}

// service starts the controller's end, which has an image for the slot. What the node
// says of its progress comes to said first.
func service(t *testing.T, cluster enroltest.Cluster, image string, said chan<- wire.Progress) (*enroltest.Service, *reimage.Service) {
	t.Helper()
	dir := t.TempDir()
	keep, err := store.Open(filepath.Join(dir, "store"), store.Options{Run: filepath.Join(dir, "run"), Reserve: -1})
	must(t, err)
	t.Cleanup(func() { keep.Close() })
	f, err := os.Open(image)
	must(t, err)
	defer f.Close()
	base, err := keep.AddBase(context.Background(), f, store.Import{Name: "new"})
	must(t, err)
	_, err = keep.Assign(context.Background(), slot, store.Root{Base: base, Slot: slot})
	must(t, err)

	// The agent, which takes being armed.
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	must(t, err)
	agent := enrol.NewServer(cluster.Slot(t, slot), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		enrol.WriteJSON(w, http.StatusAccepted, &wire.Armed{BootID: "boot-1"})
	}), slog.New(slog.DiscardHandler))
	go agent.ServeTLS(listener, "", "")
	t.Cleanup(func() { agent.Close() })
	local := netip.MustParseAddr("127.0.0.1")
	s, err := reimage.New(reimage.Options{
		Node: &nodefile.Node{Cluster: "homelab", Role: nodefile.Controller, Targets: []nodefile.Target{
			{Name: "controller", Address: local}, {Name: "p7", Slot: slot, Address: local},
		}},
		Identity: cluster.Slot(t, 0), Store: keep, Dir: filepath.Join(dir, "service"), Port: netip.MustParseAddrPort(listener.Addr().String()).Port(),
	})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	mux := http.NewServeMux()
	for pattern, call := range s.Calls() {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			peer, err := enrol.PeerOfRequest(r)
			if err != nil {
				t.Error(err)
			}
			if strings.HasSuffix(r.URL.Path, wire.PathProgress) {
				body, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20))
				var p wire.Progress
				if err := json.Unmarshal(body, &p); err != nil {
					t.Error(err)
				}
				said <- p
				r.Body = io.NopCloser(bytes.NewReader(body))
			}
			call(w, r, peer.Slot)
		})
	}
	return enroltest.Serve(t, cluster.Slot(t, 0), mux, nil), s
}

// TestBoot has an emulated board write its card anew, under a real kernel and with the
// controller's own end, and takes its power away again and again.
func TestBoot(t *testing.T) {
	testtool.Need(t, "qemu-system-arm")
	testtool.Need(t, "mkfs.vfat")
	testtool.Need(t, "mke2fs")
	kernel := nodetest.DebianKernel(t)
	initramfs := nodetest.Initramfs(t, nodetest.Build(t, "hatchery/cmd/nodeinit"),
		kernel.Modules(t, "virtio_mmio", "virtio_net", "virtio_blk", "crc32c_generic", "crc32c", "ext4"),
		map[string][]byte{"reimage": nodetest.Build(t, "hatchery/cmd/reimage")})
	guest := nodetest.Build(t, "hatchery/netboot/node/nodetest/guest")
	dir := t.TempDir()
	card, image := filepath.Join(dir, "card"), filepath.Join(dir, "new")
	makeCard(t, card, "old", initramfs, guest)
	makeCard(t, image, "new", initramfs, guest)
	must(t, os.Truncate(card, rootStart+rootSize+8*mib)) // a card is larger
	cluster := enroltest.NewCluster(t, "homelab")
	said := make(chan wire.Progress, 1000)
	calls, s := service(t, cluster, image, said)

	boots := 0
	boot := func(initramfs []byte, cmdline string) *nodetest.Board {
		boots++
		return nodetest.Boot(t, nodetest.Options{
			Kernel: kernel, Initramfs: initramfs, Append: cmdline, Socket: calls.Where.String(), Server: "172.19.181.254:7443",
			Card: card, Speed: 4 * mib, Plain: true, Log: filepath.Join(logs(t), fmt.Sprintf("boot-%d.console", boots)),
		})
	}
	// start starts what the card has, or over USB what the image has; nil for a card that
	// has its new system.
	start := func() *nodetest.Board {
		config, cmdline, loaded, ok := firmware(t, card)
		switch {
		case !ok:
			t.Log("the boot ROM finds nothing on the card: it boots over USB")
			return boot(initramfs, strings.TrimSpace(words))
		case strings.HasPrefix(config, "# new"):
			return nil
		case !strings.HasPrefix(config, "# armed old"):
			t.Fatalf("config.txt is %q", config)
		}
		return boot(loaded, cmdline)
	}

	result := make(chan error, 1)
	go func() { result <- s.Reimage(t.Context(), slot, func(string, string) {}) }()
	arm(t, card, cluster)

	type kill struct {
		summary string
		when    func(wire.Progress) bool
		after   time.Duration
	}
	kills := []kill{
		{"comparing", func(p wire.Progress) bool { return p.State == wire.Comparing }, 0},
		{"writing has begun", func(p wire.Progress) bool { return p.State == wire.Writing }, 300 * time.Millisecond},
		{"amid writing", func(p wire.Progress) bool { return p.State == wire.Writing && p.Done > p.Total/4 }, 0},
		{"the boot partition is being written", func(p wire.Progress) bool { return p.State == wire.Booting }, 700 * time.Millisecond},
		{"it is done", func(p wire.Progress) bool { return p.State == wire.Done }, 0},
	}
	if os.Getenv("HATCHERY_SOAK") != "" {
		for range 15 {
			after := time.Duration(rand.Int64N(int64(12 * time.Second)))
			kills = append([]kill{{fmt.Sprintf("%v after its first words", after), func(wire.Progress) bool { return true }, after}}, kills...)
		}
	}
	var board *nodetest.Board
	for _, k := range kills {
		if board = start(); board == nil {
			t.Logf("the card was whole before: %s", k.summary)
			break
		}
		deadline := time.After(patience)
		for hit := false; !hit; {
			select {
			case p := <-said:
				hit = k.when(p)
				if p.State == wire.Failed {
					t.Errorf("the node failed: %s", p.Detail)
				}
			case <-deadline:
				t.Fatalf("%s: the node does not get there:\n%s", k.summary, board.Console())
			}
		}
		time.Sleep(k.after)
		board.Kill()
		t.Logf("cut: %s", k.summary)
		for len(said) > 0 {
			<-said
		}
	}
	for tries := 0; ; tries++ {
		if board = start(); board == nil {
			break
		}
		if tries == 3 {
			t.Fatal("the card is not whole after three starts without a cut")
		}
		board.Ended(patience)
		if text := board.Console(); !strings.Contains(text, "the card is whole: the node starts anew") {
			t.Fatalf("the node did not say that its card is whole:\n%s", text)
		}
	}

	// The new system, all of it: free blocks are what they were.
	for _, part := range []struct {
		name     string
		from, to int64
	}{{"table", 0, 512}, {"boot partition's first sectors", bootStart, bootStart + 32*512}} {
		have, want := make([]byte, part.to-part.from), make([]byte, part.to-part.from)
		for name, into := range map[string][]byte{card: have, image: want} {
			f, err := os.Open(name)
			must(t, err)
			_, err = f.ReadAt(into, part.from)
			must(t, err)
			f.Close()
		}
		if !bytes.Equal(have, want) {
			t.Errorf("the %s differs from the image's", part.name)
		}
	}
	testtool.Run(t, "e2fsck", "-fn", fmt.Sprintf("%s?offset=%d", card, rootStart))
	config, cmdline, loaded, _ := firmware(t, card)
	if config != "# new\n"+initramfsLine || !bytes.Equal(loaded, initramfs) {
		t.Errorf("config.txt is %q", config)
	}
	// The agent of the new root wipes an order that a cut has left.
	f, err := os.OpenFile(card, os.O_RDWR, 0)
	must(t, err)
	must(t, wire.WipeOrder(f))
	must(t, f.Close())
	board = boot(loaded, cmdline)
	board.Await("GUEST up as 1", patience)
	if text := board.Console(); !strings.Contains(text, "the system on the card is started") {
		t.Errorf("it did not say why it starts:\n%s", text)
	}
	if text := board.Do("cat /version", patience); !strings.Contains(text, "this is new") {
		t.Errorf("the root is %s", text)
	}
	s.Heard(slot, "boot-2")
	select {
	case err := <-result:
		must(t, err)
	case <-time.After(time.Minute):
		t.Errorf("the controller does not know that it is done: %+v", s.View(slot))
	}
	board.Kill()
}

// logs is where the consoles go: HATCHERY_CONSOLES names a folder that is kept.
func logs(t *testing.T) string {
	if dir := os.Getenv("HATCHERY_CONSOLES"); dir != "" {
		return dir
	}
	return t.TempDir()
}
