package node_test

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"hatchery/internal/testtool"
	"hatchery/netboot/node/nodetest"
)

func TestMain(m *testing.M) {
	nodetest.Pipe()
	os.Exit(m.Run())
}

// patience only ends a test that hangs: the board is emulated, beside others.
const patience = 3 * time.Minute

const (
	signature = 0x1a2b3c4d
	uuid      = "6a1f3c52-0f0e-4c35-9a39-5d8a8f6f1e01"
	cmdline   = "hatchery.slot=7 hatchery.root=%s hatchery.nbd=172.19.180.254:10809 hatchery.gadget=ecm hatchery.export=p7 root=PARTUUID=1a2b3c4d-02 rootfstype=ext4 "
)

var netbootModules = []string{"virtio_mmio", "virtio_net", "8021q", "nbd", "crc32c_generic", "crc32c", "ext4", "overlay"}

// A lab is what a board boots with.
type lab struct {
	t         *testing.T
	kernel    *nodetest.Kernel
	initramfs []byte
	image     string
	root      string // the folder that the image's root was made of
	socket    string
	server    *exec.Cmd
}

func newLab(t *testing.T, modules []string, more map[string][]byte) *lab {
	t.Helper()
	testtool.Need(t, "qemu-system-arm")
	testtool.Need(t, "qemu-nbd")
	l := &lab{t: t, kernel: nodetest.DebianKernel(t), image: filepath.Join(t.TempDir(), "disk.img")}
	l.initramfs = nodetest.Initramfs(t, nodetest.Build(t, "hatchery/cmd/nodeinit"), l.kernel.Modules(t, modules...), more)
	l.root = nodetest.Root(t, nodetest.Build(t, "hatchery/netboot/node/nodetest/guest"))
	nodetest.Disk(t, l.image, l.root, signature, 192, uuid)
	dir, err := os.MkdirTemp("", "nbd") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l.socket = filepath.Join(dir, "s")
	t.Cleanup(func() {
		if l.server != nil {
			l.kill()
		}
	})
	return l
}

// serve starts the NBD server: another project's, which knows nothing of us.
func (l *lab) serve(options ...string) {
	l.t.Helper()
	os.Remove(l.socket)
	args := append([]string{"-k", l.socket, "-x", "p7", "-f", "raw", "-t", "-e", "8", "--cache=writeback"}, options...)
	l.server = exec.Command(testtool.Need(l.t, "qemu-nbd"), append(args, l.image)...)
	if err := l.server.Start(); err != nil {
		l.t.Fatal(err)
	}
	for began := time.Now(); ; {
		if c, err := net.Dial("unix", l.socket); err == nil {
			c.Close()
			return
		}
		if time.Since(began) > patience {
			l.t.Fatal("qemu-nbd does not listen")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// kill ends the server at once: kill -9.
func (l *lab) kill() {
	l.server.Process.Kill()
	l.server.Wait()
	l.server = nil
}

func (l *lab) boot(root, more string) *nodetest.Board {
	l.t.Helper()
	return nodetest.Boot(l.t, nodetest.Options{
		Kernel: l.kernel, Initramfs: l.initramfs, Socket: l.socket, Append: fmt.Sprintf(cmdline, root) + more,
		Log: logFile(l.t),
	})
}

// logFile is where the console goes: HATCHERY_CONSOLES names a folder that is
// kept.
func logFile(t *testing.T) string {
	dir := os.Getenv("HATCHERY_CONSOLES")
	if dir == "" {
		dir = t.TempDir()
	}
	return filepath.Join(dir, strings.ReplaceAll(t.Name(), "/", "_")+".console")
}

func (l *lab) digest() string {
	l.t.Helper()
	f, err := os.Open(l.image)
	if err != nil {
		l.t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		l.t.Fatal(err)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

func contains(t *testing.T, text string, all ...string) {
	t.Helper()
	for _, words := range all {
		if !strings.Contains(text, words) {
			t.Errorf("no %q in:\n%s", words, text)
		}
	}
}

// TestNetboot boots to a root at the server, loses the server while it writes,
// and finds everything that it wrote.
func TestNetboot(t *testing.T) {
	l := newLab(t, netbootModules, nil)
	board := l.boot("netboot", "rw")
	// The node is there first: it waits, and says for what.
	contains(t, board.Await("the server says nothing", patience), "waiting (", "export p7 of 172.19.180.254:10809")
	l.serve()
	board.Await("GUEST up as 1", patience)
	contains(t, board.Console(), "kernel modules loaded", "gave eth0 the MAC address 00:22:82:ff:ff:07", "renamed eth0 to usb0", "made usb0.10 (VLAN 10, MTU 1496)",
		"gave usb0.10 the address 172.19.180.7/24", "export p7 of 172.19.180.254:10809 is /dev/nbd0", "PARTUUID=1a2b3c4d-02 (192 MiB, ext4 \"rootfs\")", "root file system: /dev/nbd0p2")
	contains(t, board.Do("cat /proc/mounts", patience), "| /dev/nbd0p2 / ext4 rw", "| proc /proc ", "| sysfs /sys ", "| devtmpfs /dev ", "| tmpfs /run ")
	contains(t, board.Do("cat /run/hatchery/nodeinit", patience), "| slot: 7", "| block-size: 512", "| device: /dev/nbd0p2", "| init: /sbin/init", "switched usb0 on")
	contains(t, board.Do("cat /run/hatchery/link", patience), "| state: connected", "| lost: 0 times")
	board.Do("overlay", patience)
	keeper := board.Do("keeper", patience)
	contains(t, keeper, "| oom_score_adj: -1000", "| PPid:\t1")
	for _, name := range []string{"VmRSS", "RssAnon", "VmLck", "Threads"} {
		t.Logf("the keeper at start: %s", regexp.MustCompile(name+`:.*`).FindString(keeper))
	}

	board.Type("write /data 12 1")
	board.Await("GUEST wrote 4", patience)
	l.kill()
	board.Await("is lost: what is read and written waits", patience)
	time.Sleep(10 * time.Second)
	l.serve()
	board.Await("connected to 172.19.180.254:10809 again", patience)
	board.Await("GUEST done write", patience)
	board.Do("verify /data 12 1", patience)
	// What systemd sends to everybody at shutdown does not end it, and after it
	// another connection is found.
	board.Do("signals", patience)
	l.kill()
	board.Await("is lost: what is read and written waits", patience)
	l.serve()
	board.Await("connected to 172.19.180.254:10809 again", patience)
	board.Do("write /more 2 2", patience)
	board.Do("verify /more 2 2", patience)
	contains(t, board.Do("cat /proc/mounts", patience), "| /dev/nbd0p2 / ext4 rw")
	contains(t, board.Do("cat /run/hatchery/link", patience), "| state: connected", "| lost: 2 times")
	keeper = board.Do("keeper", patience)
	for _, name := range []string{"VmRSS", "RssAnon", "VmLck"} {
		t.Logf("the keeper after two losses: %s", regexp.MustCompile(name+`:.*`).FindString(keeper))
	}
	if text := board.Console(); strings.Contains(text, "I/O error") || strings.Contains(text, "Remounting filesystem read-only") {
		t.Error("the kernel saw an error")
	}
	board.Type("poweroff")
	board.Ended(patience)
	l.kill()
	l.check("/data", 12)
}

// check has e2fsck look at the image's root, and takes the file out of it by
// debugfs.
func (l *lab) check(file string, mebibytes int) {
	l.t.Helper()
	at := l.image + "?offset=4194304"
	testtool.Run(l.t, "e2fsck", "-fn", at)
	out := filepath.Join(l.t.TempDir(), "file")
	testtool.Run(l.t, "debugfs", "-R", "dump "+file+" "+out, at)
	if s, err := os.Stat(out); err != nil || s.Size() != int64(mebibytes)<<20 {
		l.t.Errorf("%s: %v, %v", file, s, err)
	}
}

// TestEphemeral boots to a root whose changes stay in the node's memory.
func TestEphemeral(t *testing.T) {
	l := newLab(t, append(netbootModules, "lzo_rle", "zram", "dm_mod", "dm_snapshot"), nil)
	before := l.digest()
	l.serve("--read-only")
	board := l.boot("ephemeral", "rw hatchery.memory=24M")
	board.Await("GUEST up as 1", patience)
	contains(t, board.Console(), "what is written to the root stays in memory: 24 MiB of it", "root file system: /dev/dm-0")
	contains(t, board.Do("cat /proc/mounts", patience), "| /dev/dm-0 / ext4 rw,relatime,discard")
	board.Do("overlay", patience)
	board.Do("write /data 4 1", patience)
	l.kill()
	board.Await("is lost", patience)
	// What is in memory needs no server.
	board.Do("write /more 2 2", patience)
	l.serve("--read-only")
	board.Await("connected to 172.19.180.254:10809 again", patience)
	board.Do("verify /data 4 1", patience)
	board.Do("verify /more 2 2", patience)
	// Data that cannot be compressed fill it: the file system says so, and lives.
	full := board.Do("fill /full", patience)
	contains(t, full, "no space left on device")
	t.Logf("%s", regexp.MustCompile("filled.*").FindString(full))
	board.Do("verify /data 4 1", patience)
	if taken := l.taken(board); taken < 16<<20 || taken > 30<<20 {
		t.Errorf("the full root takes %d bytes of the memory", taken)
	}
	// What is deleted gives its memory back, once the journal's transaction is
	// over.
	board.Do("rm /full", patience)
	for began := time.Now(); l.taken(board) > 12<<20; {
		if time.Since(began) > patience {
			t.Fatal("a removed file keeps its memory")
		}
		board.Do("sync", patience)
		time.Sleep(time.Second)
	}
	board.Do("write /again 4 3", patience)
	board.Do("verify /again 4 3", patience)
	contains(t, board.Do("cat /proc/mounts", patience), "| /dev/dm-0 / ext4 rw,")
	if text := board.Console(); strings.Contains(text, "I/O error") || strings.Contains(text, "Invalidating snapshot") {
		t.Error("the kernel saw an error")
	}
	board.Type("poweroff")
	board.Ended(patience)
	l.kill()
	if l.digest() != before {
		t.Error("the base has changed")
	}
	l.serve("--read-only")
	board = l.boot("ephemeral", "rw hatchery.memory=24M")
	board.Await("GUEST up as 1", patience)
	if text := board.Do("ls /", patience); strings.Contains(text, "| data") || strings.Contains(text, "| overlay") {
		t.Errorf("something has survived:\n%s", text)
	}
}

// taken is what the root's changes take of the memory.
func (l *lab) taken(board *nodetest.Board) int {
	l.t.Helper()
	text := board.Do("cat /sys/block/zram0/mm_stat", patience)
	words := strings.Fields(text[strings.LastIndex(text, "GUEST |"):])
	n, err := strconv.Atoi(words[4])
	if err != nil {
		l.t.Fatalf("mm_stat: %s", text)
	}
	return n
}

// TestGadget has the kernel's own USB host on the other side: the gadget that
// nodeinit makes, the root that comes over it, and what is said and typed on
// its console while a mistake in the command line keeps the node from starting.
func TestGadget(t *testing.T) {
	shim := nodetest.Build(t, "hatchery/netboot/node/nodetest/shim")
	// The card and the host's side are there before anything else, the device
	// controller last: as on a board, the gadget comes late.
	l := newLab(t, append(netbootModules, "bridge", "libcomposite", "usb_f_ecm", "usb_f_acm", "cdc_ether", "cdc_acm", "dummy_hcd"),
		map[string][]byte{"nodeinit": nodetest.Build(t, "hatchery/cmd/nodeinit")})
	l.initramfs = nodetest.Initramfs(t, shim, l.kernel.Modules(t, append(netbootModules, "bridge", "libcomposite", "usb_f_ecm", "usb_f_acm", "cdc_ether", "cdc_acm", "dummy_hcd")...),
		map[string][]byte{"nodeinit": nodetest.Build(t, "hatchery/cmd/nodeinit")})
	l.serve()
	board := l.boot("netboot", "rw root=PARTUUID=99999999-02 shim.type=try_root=/dev/mmcblk0p2")
	board.Await("GUEST up as 1", patience)
	console := board.Console()
	if !regexp.MustCompile("SHIM ACM hatchery-nodeinit: +[0-9.]+ the node.s first program begins").MatchString(console) {
		t.Error("what was said before is not told on the console that came later")
	}
	contains(t, console, "USB gadget ClusterCTRL-usbboot (ecm), serial 7, at dummy_udc.0", "SHIM USB 3171 0022 ClusterCTRL-usbboot 7",
		"SHIM ACM hatchery-nodeinit: CANNOT GO ON: the root file system is not on this disk: root=PARTUUID=99999999-02, and it has PARTUUID=1a2b3c4d-01",
		"correct root= in cmdline.txt", "root file system: /dev/nbd0p2")
	board.Do("write /data 2 1", patience)
	board.Do("verify /data 2 1", patience)
}

// TestPulled pulls the link while the node writes: nobody says that the
// connection is over. Then the server has another disk under the same name.
func TestPulled(t *testing.T) {
	l := newLab(t, netbootModules, nil)
	l.serve()
	board := l.boot("netboot", "rw")
	board.Await("GUEST up as 1", patience)
	board.Type("write /data 12 1")
	board.Await("GUEST wrote 2", patience)
	board.Pull(true)
	board.Await("is lost: what is read and written waits", patience)
	board.Await("nothing answers at 172.19.180.254:10809", patience)
	l.kill()
	other := filepath.Join(t.TempDir(), "other.img")
	nodetest.Disk(t, other, l.root, signature, 192, "00000000-0000-4000-8000-000000000001")
	before := l.image
	l.image = other
	l.serve()
	board.Pull(false)
	board.Await("the server gives another disk under this name", patience)
	l.kill()
	l.image = before
	l.serve()
	board.Await("connected to 172.19.180.254:10809 again", patience)
	board.Await("GUEST done write", patience)
	board.Do("verify /data 12 1", patience)
	contains(t, board.Do("cat /run/hatchery/link", patience), "| state: connected", "| lost: 1 times")
	board.Type("poweroff")
	board.Ended(patience)
	l.kill()
	l.check("/data", 12)
}
