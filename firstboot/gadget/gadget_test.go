package gadget_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hatchery/firstboot/gadget"
	"hatchery/internal/clusterctrl"
	"hatchery/internal/nodefile"
)

func slot(n int) *nodefile.Node {
	return &nodefile.Node{
		Cluster: "homelab", Name: clusterctrl.SlotName(n), Role: nodefile.Worker, Slot: n, Hostname: "h",
		Address: netip.PrefixFrom(clusterctrl.SlotAddr(n), 24), ControllerAddr: clusterctrl.ControllerAddr(),
	}
}

// A board is the kernel's side: folders.
type board struct {
	t       *testing.T
	node    *nodefile.Node
	options gadget.Options
	gadgets string
}

func newBoard(t *testing.T, controllers ...string) *board {
	t.Helper()
	dir := t.TempDir()
	b := &board{t: t, node: slot(17), gadgets: filepath.Join(dir, "config", "usb_gadget")}
	b.options = gadget.Options{
		Configfs: filepath.Join(dir, "config"), UDCClass: filepath.Join(dir, "udc"),
		LoadModule: func(context.Context, string) error { return errors.New("a module is loaded") },
	}
	b.mkdir(b.gadgets)
	b.mkdir(b.options.UDCClass)
	for _, c := range controllers {
		b.write(filepath.Join(b.options.UDCClass, c), "")
	}
	return b
}

func (b *board) mkdir(name string) {
	b.t.Helper()
	if err := os.MkdirAll(name, 0o755); err != nil {
		b.t.Fatal(err)
	}
}

func (b *board) write(name, text string) {
	b.t.Helper()
	b.mkdir(filepath.Dir(name))
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

func (b *board) ensure(want gadget.Status) {
	b.t.Helper()
	got, err := gadget.Ensure(context.Background(), b.node, b.options)
	if err != nil || got != want {
		b.t.Fatalf("got %+v, %v, want %+v", got, err, want)
	}
}

// tree is what is written, as text.
func (b *board) tree() string {
	b.t.Helper()
	var text strings.Builder
	err := filepath.WalkDir(b.gadgets, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel := strings.TrimPrefix(name, b.gadgets+string(filepath.Separator))
		if d.Type()&fs.ModeSymlink != 0 {
			target, err := os.Readlink(name)
			fmt.Fprintf(&text, "%s -> %s\n", filepath.ToSlash(rel), filepath.ToSlash(strings.TrimPrefix(target, b.gadgets+string(filepath.Separator))))
			return err
		}
		data, err := os.ReadFile(name)
		if string(data) != "\n" { // as the kernel made it
			fmt.Fprintf(&text, "%s = %s", filepath.ToSlash(rel), data)
		}
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return text.String()
}

const slot17 = `clusterctrl/UDC = 20980000.usb
clusterctrl/bDeviceClass = 0xEF
clusterctrl/bDeviceProtocol = 0x01
clusterctrl/bDeviceSubClass = 0x02
clusterctrl/bcdDevice = 0x0100
clusterctrl/bcdUSB = 0x0200
clusterctrl/configs/c.1/MaxPower = 250
clusterctrl/configs/c.1/acm.usb0 -> clusterctrl/functions/acm.usb0
clusterctrl/configs/c.1/ecm.usb0 -> clusterctrl/functions/ecm.usb0
clusterctrl/configs/c.1/strings/0x409/configuration = network and console
clusterctrl/functions/ecm.usb0/dev_addr = 00:22:82:ff:ff:11
clusterctrl/functions/ecm.usb0/host_addr = 00:22:82:ff:fe:11
clusterctrl/idProduct = 0x0022
clusterctrl/idVendor = 0x3171
clusterctrl/strings/0x409/manufacturer = hatchery
clusterctrl/strings/0x409/product = ClusterCTRL
clusterctrl/strings/0x409/serialnumber = 17
`

var (
	made  = gadget.Status{State: gadget.Made, Gadget: "clusterctrl", Controller: "20980000.usb"}
	bound = gadget.Status{State: gadget.Bound, Gadget: "clusterctrl", Controller: "20980000.usb"}
)

// TestGadget makes one in plain folders, by the calls that configfs gets.
func TestGadget(t *testing.T) {
	b := newBoard(t)
	b.ensure(gadget.Status{State: gadget.NoController})
	if got := b.tree(); got != "" {
		t.Errorf("made without a controller:\n%s", got)
	}
	b.write(filepath.Join(b.options.UDCClass, "20980000.usb"), "")
	b.write(filepath.Join(b.options.UDCClass, "fe980000.usb"), "") // the first is taken
	b.ensure(made)
	if diff := cmp.Diff(slot17, b.tree()); diff != "" {
		t.Errorf("gadget (-want +got):\n%s", diff)
	}
	b.ensure(bound)
	if diff := cmp.Diff(slot17, b.tree()); diff != "" {
		t.Errorf("a bound gadget is touched (-want +got):\n%s", diff)
	}
}

// TestOrder makes it under the kernel's rules.
func TestOrder(t *testing.T) {
	b := newBoard(t, "20980000.usb")
	kernel := &configfs{gadgets: b.gadgets, udcs: []string{"20980000.usb"}}
	b.options = b.options.WithKernel(kernel)
	b.ensure(made)
	want := `mkdir clusterctrl
write clusterctrl/idVendor 0x3171
write clusterctrl/idProduct 0x0022
write clusterctrl/bcdDevice 0x0100
write clusterctrl/bcdUSB 0x0200
write clusterctrl/bDeviceClass 0xEF
write clusterctrl/bDeviceSubClass 0x02
write clusterctrl/bDeviceProtocol 0x01
mkdir clusterctrl/strings/0x409
write clusterctrl/strings/0x409/serialnumber 17
write clusterctrl/strings/0x409/manufacturer hatchery
write clusterctrl/strings/0x409/product ClusterCTRL
mkdir clusterctrl/functions/ecm.usb0
mkdir clusterctrl/functions/acm.usb0
write clusterctrl/functions/ecm.usb0/host_addr 00:22:82:ff:fe:11
write clusterctrl/functions/ecm.usb0/dev_addr 00:22:82:ff:ff:11
mkdir clusterctrl/configs/c.1
mkdir clusterctrl/configs/c.1/strings/0x409
write clusterctrl/configs/c.1/MaxPower 250
write clusterctrl/configs/c.1/strings/0x409/configuration network and console
link clusterctrl/configs/c.1/ecm.usb0 -> clusterctrl/functions/ecm.usb0
link clusterctrl/configs/c.1/acm.usb0 -> clusterctrl/functions/acm.usb0
write clusterctrl/UDC 20980000.usb`
	if diff := cmp.Diff(want, strings.Join(kernel.log, "\n")); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(slot17, b.tree()); diff != "" {
		t.Errorf("gadget (-want +got):\n%s", diff)
	}

	// Whichever call fails, the next run completes what there is.
	for call := 1; call <= len(kernel.log); call++ {
		b := newBoard(t, "20980000.usb")
		options := b.options
		failing := &configfs{gadgets: b.gadgets, udcs: []string{"20980000.usb"}, fail: call}
		b.options = options.WithKernel(failing)
		if s, err := gadget.Ensure(context.Background(), b.node, b.options); err == nil || !strings.Contains(err.Error(), "out of luck") || len(failing.log) != call {
			t.Fatalf("call %d: got %+v, %v after %d calls", call, s, err, len(failing.log))
		}
		b.options = options.WithKernel(&configfs{gadgets: b.gadgets, udcs: []string{"20980000.usb"}})
		b.ensure(made)
		if diff := cmp.Diff(slot17, b.tree()); diff != "" {
			t.Errorf("after call %d had failed (-want +got):\n%s", call, diff)
		}
		b.ensure(bound)
	}
}

func TestNCM(t *testing.T) {
	b := newBoard(t, "20980000.usb")
	b.options = b.options.WithKernel(&configfs{gadgets: b.gadgets, udcs: []string{"20980000.usb"}})
	b.node = slot(17)
	b.node.Gadget = string(gadget.NCM)
	b.ensure(made)
	want := strings.NewReplacer("ecm", "ncm", "0x0022", "0x0021").Replace(slot17)
	if diff := cmp.Diff(want, b.tree()); diff != "" {
		t.Errorf("gadget (-want +got):\n%s", diff)
	}
}

// TestBound: a gadget that is bound is left alone, whoever made it.
func TestBound(t *testing.T) {
	for _, name := range []string{"clusterctrl", "netboot"} {
		b := newBoard(t, "20980000.usb")
		b.mkdir(filepath.Join(b.gadgets, "another")) // without a UDC
		b.write(filepath.Join(b.gadgets, name, "UDC"), "other\n")
		b.ensure(gadget.Status{State: gadget.Bound, Gadget: name, Controller: "other"})
		if got := b.tree(); got != name+"/UDC = other\n" {
			t.Errorf("touched:\n%s", got)
		}
	}
}

// TestBoundMeanwhile: another program makes the gadget at the same time.
func TestBoundMeanwhile(t *testing.T) {
	b := newBoard(t, "20980000.usb")
	b.options = b.options.WithKernel(meanwhile{&configfs{gadgets: b.gadgets, udcs: []string{"20980000.usb"}}, b})
	b.ensure(bound)
}

type meanwhile struct {
	*configfs
	b *board
}

func (m meanwhile) Write(name, text string) error {
	if filepath.Base(name) == "UDC" {
		m.b.write(name, text)
	}
	return m.configfs.Write(name, text)
}

func TestRefused(t *testing.T) {
	controller := slot(1)
	controller.Role, controller.Slot = nodefile.Controller, 0
	rndis := slot(1)
	rndis.Gadget = "rndis"
	for _, test := range []struct {
		summary string
		node    *nodefile.Node
		change  func(*board)
		want    string
	}{
		{"the controller", controller, func(*board) {}, "nobody's gadget"},
		{"a function of no name", rndis, func(*board) {}, `USB network function "rndis"`},
		{"no such module", slot(1), func(b *board) { b.remove(b.gadgets) }, "cannot load the kernel's USB gadgets: a module is loaded"},
		{"configfs is not mounted", slot(1), func(b *board) {
			b.remove(b.gadgets)
			b.options.LoadModule = func(context.Context, string) error { return nil }
		}, "is configfs mounted?"},
		{"a gadget that cannot be looked at", slot(1), func(b *board) { b.mkdir(filepath.Join(b.gadgets, "other", "UDC")) }, "cannot see whether gadget other is bound"},
		{"the controller has gone", slot(1), func(b *board) { b.options = b.options.WithKernel(&configfs{gadgets: b.gadgets}) }, "cannot make the gadget of slot 1"},
	} {
		b := newBoard(t, "20980000.usb")
		test.change(b)
		s, err := gadget.Ensure(context.Background(), test.node, b.options)
		if err == nil || !strings.Contains(err.Error(), test.want) || s != (gadget.Status{}) {
			t.Errorf("%s: got %+v, %v, want %q", test.summary, s, err, test.want)
		}
	}
}

func (b *board) remove(name string) {
	b.t.Helper()
	if err := os.RemoveAll(name); err != nil {
		b.t.Fatal(err)
	}
}

// TestModule: libcomposite is loaded where nobody has.
func TestModule(t *testing.T) {
	b := newBoard(t, "20980000.usb")
	b.remove(b.gadgets)
	loaded := ""
	b.options.LoadModule = func(_ context.Context, name string) error {
		loaded += name
		b.mkdir(b.gadgets)
		return nil
	}
	b.ensure(made)
	b.ensure(bound)
	if loaded != "libcomposite" {
		t.Errorf("loaded %q", loaded)
	}
	// A kernel without any gadgets has not even the class.
	b.remove(b.options.UDCClass)
	b.ensure(gadget.Status{State: gadget.NoController})
}

func TestStatusWords(t *testing.T) {
	for s, want := range map[gadget.Status]string{
		made:                         "gadget clusterctrl is made, and bound to 20980000.usb",
		bound:                        "gadget clusterctrl is bound to 20980000.usb already",
		{State: gadget.NoController}: "no USB device controller (yet): no gadget",
	} {
		if s.String() != want {
			t.Errorf("%q, want %q", s, want)
		}
	}
}
