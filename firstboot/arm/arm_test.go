package arm_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hatchery/firstboot/arm"
	"hatchery/internal/enrol"
	"hatchery/internal/enrol/enroltest"
	"hatchery/internal/nodefile"
	"hatchery/internal/reimage"
)

// What boots, and what is prepared.
const (
	config   = "arm_64bit=0\ndtoverlay=dwc2\n"
	cmdline  = "root=PARTUUID=1a2b3c4d-02 rootwait\n"
	config2  = "dtoverlay=dwc2\n# for the writer\ninitramfs hatchery-initramfs.img followkernel\n"
	cmdline2 = "root=PARTUUID=1a2b3c4d-02 rootwait hatchery.root=reimage\n"
)

// A node is a folder for the boot partition and a file for the card.
type node struct {
	place   arm.Place
	options arm.Options
	cluster enroltest.Cluster
}

func succeed(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newNode(t *testing.T) *node {
	t.Helper()
	n := &node{cluster: enroltest.NewCluster(t, "homelab")}
	dir := t.TempDir()
	n.place = arm.Place{Disk: filepath.Join(dir, "disk"), Boot: filepath.Join(dir, "boot")}
	succeed(t, os.MkdirAll(filepath.Join(n.place.Boot, "hatchery"), 0o755))
	for name, content := range map[string]string{
		"config.txt": config, "cmdline.txt": cmdline, reimage.PreparedConfig: config2, reimage.PreparedCmdline: cmdline2,
		"hatchery-initramfs.img": "an archive", "kernel.img": "a kernel",
	} {
		succeed(t, os.WriteFile(filepath.Join(n.place.Boot, name), []byte(content), 0o644))
	}
	var sums []byte
	for _, name := range []string{"kernel.img", "hatchery-initramfs.img", reimage.PreparedConfig, reimage.PreparedCmdline} {
		sums = arm.Sum(sums, name, []byte(n.read(t, name)))
	}
	succeed(t, os.WriteFile(filepath.Join(n.place.Boot, arm.Sums), sums, 0o644))
	table := make([]byte, 512)
	for i, sectors := range [][2]uint32{{8192, 8192}, {16384, 16384}} {
		e := table[446+16*i:]
		e[4] = []byte{0x0c, 0x83}[i]
		binary.LittleEndian.PutUint32(e[8:], sectors[0])
		binary.LittleEndian.PutUint32(e[12:], sectors[1])
	}
	table[0], table[510], table[511] = 0xfa, 0x55, 0xaa
	succeed(t, os.WriteFile(n.place.Disk, table, 0o600))
	succeed(t, os.Truncate(n.place.Disk, 16<<20))
	identity := filepath.Join(dir, "identity")
	succeed(t, os.Mkdir(identity, 0o700))
	files := n.cluster.Files(t, 2)
	for name, content := range map[string][]byte{"key.pem": files.Key, "certificate.pem": files.Certificate, "ca.pem": files.CA} {
		succeed(t, os.WriteFile(filepath.Join(identity, name), content, 0o600))
	}
	n.options = arm.Options{
		Node: &nodefile.Node{
			Cluster: "homelab", Name: "p2", Role: nodefile.Worker, Slot: 2, Gadget: "ncm",
			Address: netip.MustParsePrefix("172.19.181.2/24"), ControllerAddr: netip.MustParseAddr("172.19.181.254"),
		},
		Identity: identity, BootID: "boot-1", Now: func() time.Time { return time.Unix(1778630400, 5) },
		Restart: func(context.Context) error { return nil },
	}
	return n
}

// armer is one on the node as it is now.
func (n *node) armer() *arm.Armer {
	o := n.options
	o.Find = func() (arm.Place, error) { return n.place, nil }
	return arm.New(o)
}

// copy is the node as a loss of power would leave it now.
func (n *node) copy(t *testing.T) *node {
	t.Helper()
	c := *n
	dir := t.TempDir()
	c.place = arm.Place{Disk: filepath.Join(dir, "disk"), Boot: filepath.Join(dir, "boot")}
	card, err := os.Open(n.place.Disk)
	succeed(t, err)
	defer card.Close()
	data := make([]byte, 2<<20) // nothing else of it is written
	_, err = io.ReadFull(card, data)
	succeed(t, err)
	succeed(t, os.WriteFile(c.place.Disk, data, 0o600))
	succeed(t, os.Truncate(c.place.Disk, 16<<20))
	succeed(t, os.CopyFS(c.place.Boot, os.DirFS(n.place.Boot)))
	return &c
}

// tree is the boot partition as text.
func (n *node) tree(t *testing.T) string {
	t.Helper()
	all := map[string]string{}
	succeed(t, filepath.WalkDir(n.place.Boot, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		name, _ := filepath.Rel(n.place.Boot, path)
		all[filepath.ToSlash(name)] = string(data)
		return err
	}))
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(&b, "%s %q\n", name, all[name])
	}
	return b.String()
}

func (n *node) read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(n.place.Boot, name))
	succeed(t, err)
	return string(data)
}

func (n *node) order(t *testing.T) *reimage.Order {
	t.Helper()
	f, err := os.Open(n.place.Disk)
	succeed(t, err)
	defer f.Close()
	o, err := reimage.ReadOrder(f)
	if errors.Is(err, reimage.ErrNoOrder) {
		return nil
	}
	succeed(t, err)
	return o
}

func TestArmAndDisarm(t *testing.T) {
	n := newNode(t)
	before := n.tree(t)
	disk, err := os.ReadFile(n.place.Disk)
	succeed(t, err)
	for range 2 { // the second time it is armed already
		succeed(t, n.armer().Arm("op-1"))
		if n.read(t, "config.txt") != config2 || n.read(t, "cmdline.txt") != cmdline2 {
			t.Fatal("what is prepared is not what boots:\n" + n.tree(t))
		}
		if n.read(t, reimage.SavedConfig) != config || n.read(t, reimage.SavedCmdline) != cmdline {
			t.Fatal("what booted is not saved:\n" + n.tree(t))
		}
	}
	o := n.order(t)
	id := n.cluster.Files(t, 2)
	want := reimage.Order{
		Version: 1, Operation: "op-1", Slot: 2, Cluster: "homelab", Controller: "172.19.181.254", Address: "172.19.181.2/24", Gadget: "ncm",
		Time: time.Unix(1778630400, 0).UTC(), Key: string(id.Key), Certificate: string(id.Certificate), CA: string(id.CA),
	}
	if o == nil || *o != want {
		t.Fatalf("the order is %+v", o)
	}
	if got, err := n.armer().Armed(); err != nil || got.Operation != "op-1" {
		t.Errorf("%v, %v", got, err)
	}
	armed, err := n.armer().Disarm()
	if err != nil || !armed {
		t.Fatalf("%v, %v", armed, err)
	}
	if after := n.tree(t); after != before {
		t.Errorf("the boot partition is another:\n%s\nwas:\n%s", after, before)
	}
	if data, err := os.ReadFile(n.place.Disk); err != nil || !bytes.Equal(data, disk) {
		t.Error("something is left on the card", err)
	}
	if armed, err := n.armer().Disarm(); err != nil || armed {
		t.Errorf("taken back twice: %v, %v", armed, err)
	}
	if _, err := n.armer().Armed(); !errors.Is(err, reimage.ErrNoOrder) {
		t.Errorf("%v", err)
	}
}

// TestPowerCuts stops at every write to the boot partition and to the card, of arming and
// of taking it back, and looks what boots then, and whether it goes on, which boots at
// every write too.
func TestPowerCuts(t *testing.T) {
	n := newNode(t)
	before := n.tree(t)
	// boots sees that what is there boots the card's own root, or all of the writer.
	boots := func(step string, c *node) {
		nowConfig, nowCmdline := c.read(t, "config.txt"), c.read(t, "cmdline.txt")
		if nowConfig != config && (nowConfig != config2 || nowCmdline != cmdline2 || c.order(t) == nil) {
			t.Errorf("%s: the initramfs is loaded without all that it needs:\n%s", step, c.tree(t))
		}
		if nowCmdline != cmdline && nowCmdline != cmdline2 {
			t.Errorf("%s: cmdline.txt is %q", step, nowCmdline)
		}
	}
	// through goes on after a cut: cut is called at every step of that.
	through := func(step string, c *node) {
		hook := func(c *node) func(string) { return func(then string) { boots(step+", "+then, c) } }
		again := c.copy(t)
		a := c.armer()
		a.OnStep(hook(c))
		if _, err := a.Disarm(); err != nil {
			t.Errorf("%s: %v", step, err)
		}
		if after := c.tree(t); after != before || c.order(t) != nil {
			t.Errorf("%s: taken back it is\n%s\nwas:\n%s", step, after, before)
		}
		a = again.armer()
		a.OnStep(hook(again))
		succeed(t, a.Arm("again"))
		if o := again.order(t); o == nil || o.Operation != "again" || again.read(t, "config.txt") != config2 || again.read(t, reimage.SavedConfig) != config || again.read(t, reimage.SavedCmdline) != cmdline {
			t.Errorf("%s: armed again it is\n%s", step, again.tree(t))
		}
		if _, err := a.Disarm(); err != nil || again.tree(t) != before {
			t.Errorf("%s: armed again and taken back it is\n%s, %v", step, again.tree(t), err)
		}
	}
	var cuts []string
	first := func(step string) {
		cuts = append(cuts, step)
		c := n.copy(t)
		boots(step, c)
		through(step, c)
	}
	a := n.armer()
	a.OnStep(first)
	succeed(t, a.Arm("op-1"))
	_, err := a.Disarm()
	succeed(t, err)
	file := func(name string) []string { return []string{"began " + name, "beside " + name, name} }
	order := []string{"order at 1081344", "order at 1048576"}
	removed := func(name, saved string) []string {
		return []string{"removed " + name + ".new", "removed " + saved + ".new", "removed " + saved}
	}
	if want := slices.Concat(file(reimage.SavedCmdline), file(reimage.SavedConfig), order, file("cmdline.txt"), file("config.txt"),
		file("config.txt"), file("cmdline.txt"), order, removed("cmdline.txt", reimage.SavedCmdline), removed("config.txt", reimage.SavedConfig)); !slices.Equal(cuts, want) {
		t.Errorf("the steps are %q", cuts)
	}
}

func TestNotPrepared(t *testing.T) {
	for _, test := range []struct {
		summary string
		spoil   func(n *node) error
		want    string
	}{
		{"no prepared config.txt", func(n *node) error { return os.Remove(filepath.Join(n.place.Boot, reimage.PreparedConfig)) }, "no hatchery/config.txt"},
		{"no prepared cmdline.txt", func(n *node) error { return os.Remove(filepath.Join(n.place.Boot, reimage.PreparedCmdline)) }, "no hatchery/cmdline.txt"},
		{"an empty one", func(n *node) error { return os.Truncate(filepath.Join(n.place.Boot, reimage.PreparedCmdline), 0) }, "is empty"},
		{"no initramfs", func(n *node) error { return os.Remove(filepath.Join(n.place.Boot, "hatchery-initramfs.img")) }, "no hatchery-initramfs.img"},
		{"one that is not loaded", func(n *node) error {
			return os.WriteFile(filepath.Join(n.place.Boot, reimage.PreparedConfig), []byte("a=b\n"), 0o644)
		}, "loads no initramfs"},
		{"one elsewhere", func(n *node) error {
			return os.WriteFile(filepath.Join(n.place.Boot, reimage.PreparedConfig), []byte("initramfs ../disk followkernel\n"), 0o644)
		}, "no file of its boot partition"},
		{"a kernel that was upgraded", func(n *node) error {
			return os.WriteFile(filepath.Join(n.place.Boot, "kernel.img"), []byte("b kernel"), 0o644)
		}, "kernel.img of its boot partition is another"},
		{"a kernel that is gone", func(n *node) error { return os.Remove(filepath.Join(n.place.Boot, "kernel.img")) }, "no kernel.img"},
		{"an initramfs that was changed", func(n *node) error {
			return os.WriteFile(filepath.Join(n.place.Boot, "hatchery-initramfs.img"), []byte("cut off"), 0o644)
		}, "hatchery-initramfs.img of its boot partition is another"},
		{"a card that an earlier version prepared", func(n *node) error { return os.Remove(filepath.Join(n.place.Boot, arm.Sums)) }, "no hatchery/prepared.sha256"},
		{"sums of nothing", func(n *node) error { return os.Truncate(filepath.Join(n.place.Boot, arm.Sums), 0) }, "prepared.sha256 is empty"},
		{"sums that are none", func(n *node) error {
			return os.WriteFile(filepath.Join(n.place.Boot, arm.Sums), []byte("kernel.img\n"), 0o644)
		}, "prepared.sha256 cannot be read"},
		{"sums of what is elsewhere", func(n *node) error {
			return os.WriteFile(filepath.Join(n.place.Boot, arm.Sums), arm.Sum(nil, "../disk", nil), 0o644)
		}, "prepared.sha256 cannot be read"},
		{"something where the order lies", func(n *node) error { return poke(n.place.Disk, 1<<20, "\xeaU-Boot") }, "something lies at byte 1048576"},
		{"something in its second half", func(n *node) error { return poke(n.place.Disk, 1<<20+32<<10, "\xeaU-Boot") }, "something lies"},
		{"a partition there", func(n *node) error { return poke(n.place.Disk, 446+8, "\x00\x08\x00\x00") }, "partition 1 begins at byte 1048576"},
		{"a partition behind the root", func(n *node) error {
			succeed(t, os.Truncate(n.place.Disk, 32<<20))
			return poke(n.place.Disk, 446+2*16+4, "\x83\x00\x00\x00\x00\x80\x00\x00\x00\x20\x00\x00")
		}, "has a partition 3, which would be lost"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			n := newNode(t)
			succeed(t, test.spoil(n))
			before := n.tree(t)
			disk, err := os.ReadFile(n.place.Disk)
			succeed(t, err)
			err = n.armer().Arm("op")
			var unprepared *arm.NotPreparedError
			if !errors.As(err, &unprepared) || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "flash the card") {
				t.Errorf("%v", err)
			}
			if n.tree(t) != before {
				t.Error("the boot partition was changed")
			}
			if data, _ := os.ReadFile(n.place.Disk); !bytes.Equal(data, disk) {
				t.Error("the card was changed")
			}
		})
	}
}

func poke(file string, at int64, content string) error {
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteAt([]byte(content), at)
	return err
}

// TestHalfAnOrder is armed over what a torn first write left.
func TestHalfAnOrder(t *testing.T) {
	for _, at := range []int64{1 << 20, 1<<20 + 512} {
		n := newNode(t)
		succeed(t, poke(n.place.Disk, at, "hatchery order 1\n and no more"))
		if err := n.armer().Arm("op"); err != nil || n.order(t) == nil {
			t.Errorf("%d: %v", at, err)
		}
	}
}

// TestTriedCard arms a card that an earlier `hatchery flash` has tried at the powers of
// two, one of them where the order is to lie; and none where others have something.
func TestTriedCard(t *testing.T) {
	random := rand.NewChaCha8([32]byte{1})
	noise := func() string {
		b := make([]byte, 4096)
		_, _ = random.Read(b)
		b[510] = 0
		return string(b)
	}
	for _, test := range []struct {
		summary string
		there   map[int64]string
		armed   bool
	}{
		{"what flash tried", map[int64]string{1 << 20: noise(), 2 << 20: noise()}, true},
		{"a boot loader beside what flash tried", map[int64]string{1 << 20: noise(), 1<<20 + 8192: "\xeaU-Boot", 2 << 20: noise()}, false},
		{"noise alone", map[int64]string{1 << 20: noise()}, false},
	} {
		n := newNode(t)
		for at, content := range test.there {
			succeed(t, poke(n.place.Disk, at, content))
		}
		err := n.armer().Arm("op")
		if !test.armed {
			var unprepared *arm.NotPreparedError
			if !errors.As(err, &unprepared) || n.order(t) != nil {
				t.Errorf("%s: %v", test.summary, err)
			}
			continue
		}
		if err != nil || n.order(t) == nil {
			t.Errorf("%s: %v", test.summary, err)
		}
		_, err = n.armer().Disarm()
		data, _ := os.ReadFile(n.place.Disk)
		if err != nil || !bytes.Equal(data[1<<20:1<<20+64<<10], make([]byte, 64<<10)) {
			t.Errorf("%s is not gone with the order: %v", test.summary, err)
		}
	}
}

// TestFailure takes back what was done where a step fails.
func TestFailure(t *testing.T) {
	n := newNode(t)
	before := n.tree(t)
	// Its config.txt cannot be written: something is where it is written beside.
	succeed(t, os.Mkdir(filepath.Join(n.place.Boot, "config.txt.new"), 0o755))
	if err := n.armer().Arm("op"); err == nil {
		t.Fatal("armed all the same")
	}
	_ = os.Remove(filepath.Join(n.place.Boot, "config.txt.new"))
	if n.tree(t) != before || n.order(t) != nil {
		t.Errorf("something is left:\n%s", n.tree(t))
	}
}

func TestWrongIdentity(t *testing.T) {
	n := newNode(t)
	n.options.Node.Slot = 3
	if err := n.armer().Arm("op"); err == nil || n.order(t) != nil {
		t.Errorf("another slot's identity went on the card: %v", err)
	}
}

// TestHandler is armed by the controller, and by nobody else.
func TestHandler(t *testing.T) {
	n := newNode(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	restarted := make(chan struct{})
	n.options.Restart = func(context.Context) error { close(restarted); return nil }
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	succeed(t, err)
	server := enrol.NewServer(n.cluster.Slot(t, 2), n.armer().Handler(ctx), nil)
	go server.ServeTLS(listener, "", "")
	defer server.Close()
	call := func(id *enrol.Identity, body string) (int, string) {
		t.Helper()
		transport := &http.Transport{TLSClientConfig: enrol.ClientTLS(id, 2), DisableKeepAlives: true}
		request, err := http.NewRequest(http.MethodPost, "https://"+listener.Addr().String()+reimage.PathArm, strings.NewReader(body))
		succeed(t, err)
		answer, err := transport.RoundTrip(request)
		succeed(t, err)
		defer answer.Body.Close()
		data, err := io.ReadAll(answer.Body)
		succeed(t, err)
		return answer.StatusCode, string(data)
	}
	controller := n.cluster.Slot(t, 0)
	for _, test := range []struct {
		summary string
		id      *enrol.Identity
		body    string
		status  int
	}{
		{"another slot", n.cluster.Slot(t, 3), `{"operation":"x"}`, http.StatusForbidden},
		{"the node itself", n.cluster.Slot(t, 2), `{"operation":"x"}`, http.StatusForbidden},
		{"no JSON", controller, `{`, http.StatusBadRequest},
		{"no operation", controller, `{}`, http.StatusBadRequest},
		{"a huge body", controller, `{"operation":"` + strings.Repeat("x", 20<<10) + `"}`, http.StatusRequestEntityTooLarge},
	} {
		if status, text := call(test.id, test.body); status != test.status || n.order(t) != nil {
			t.Errorf("%s: %d %s", test.summary, status, text)
		}
	}
	succeed(t, os.Rename(filepath.Join(n.place.Boot, "hatchery-initramfs.img"), filepath.Join(n.place.Boot, "away")))
	if status, text := call(controller, `{"operation":"x"}`); status != http.StatusConflict || !strings.Contains(text, string(arm.NotPrepared)) {
		t.Errorf("a card that is not prepared: %d %s", status, text)
	}
	succeed(t, os.Rename(filepath.Join(n.place.Boot, "away"), filepath.Join(n.place.Boot, "hatchery-initramfs.img")))
	status, text := call(controller, `{"operation":"x"}`)
	var armed reimage.Armed
	if status != http.StatusAccepted || json.Unmarshal([]byte(text), &armed) != nil || armed.BootID != "boot-1" {
		t.Errorf("%d %s", status, text)
	}
	if o := n.order(t); o == nil || o.Operation != "x" {
		t.Errorf("%v", o)
	}
	select {
	case <-restarted:
	case <-time.After(time.Minute):
		t.Error("the machine was not started again")
	}
}
