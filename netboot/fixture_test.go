package netboot_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hatchery/internal/clusterctrl"
	"hatchery/internal/imagetest"
	"hatchery/internal/nodefile"
	"hatchery/netboot"
	"hatchery/netboot/disk"
	"hatchery/netboot/node/nbdclient"
	"hatchery/netboot/slots"
	"hatchery/netboot/store"
	"hatchery/netboot/usbboot"
	"hatchery/netboot/usbboot/usbboottest"
	"hatchery/netboot/usbhost"
)

const release = "6.12.25+rpt-rpi-v6"

func nodeInit(architecture string) ([]byte, error) {
	return imagetest.Program("nodeinit " + architecture), nil
}

// base makes a miniature of Raspberry Pi OS that netboots.
func base(t *testing.T) string { return imagetest.Bookworm(t, imagetest.WithKernel(release)) }

// A hat is a HAT with fake boards in its slots, on a fake bus.
type hat struct {
	mu      sync.Mutex
	boards  map[int]*usbboottest.Board
	powered map[int]bool
	round   map[int]int // of the power
	changed chan struct{}
	open    map[string]usbboot.Device
	broken  map[int]error // of slots that cannot be switched
	rival   bool
	mute    map[int]bool // whose board is not on the bus
	cuts    map[int]int  // how often a slot's power was cut
	lost    bool         // nobody knows which port is which slot's
	first   int          // the slot of its first connector, where that is not 1
	shown   []usbhost.Device
}

func newHAT(t *testing.T, slots ...int) *hat {
	h := &hat{
		boards: map[int]*usbboottest.Board{}, powered: map[int]bool{}, round: map[int]int{},
		changed: make(chan struct{}, 16), open: map[string]usbboot.Device{}, broken: map[int]error{}, mute: map[int]bool{}, cuts: map[int]int{},
	}
	for _, n := range slots {
		h.boards[n] = usbboottest.New(usbboottest.Options{})
		t.Cleanup(func() { h.boards[n].Power(false) })
	}
	return h
}

// path is where a slot's board hangs: on the HAT's hub, or on another.
func path(n int) string {
	if n > 4 {
		return fmt.Sprintf("1-2.%d", n)
	}
	return fmt.Sprintf("1-1.%d", 5-n)
}

// path is where a slot's board hangs on this HAT, which may be another controller's.
func (h *hat) path(n int) string {
	if h.first == 0 {
		return path(n)
	}
	return path(n - h.first + 1)
}

func (h *hat) On(_ context.Context, n int) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.broken[n]; err != nil {
		return err
	}
	if !h.powered[n] {
		h.powered[n] = true
		h.round[n]++
		h.boards[n].Power(true)
		h.changed <- struct{}{}
	}
	return nil
}

func (h *hat) Off(_ context.Context, n int) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.broken[n]; err != nil {
		return err
	}
	if h.lost && h.powered[n] {
		h.shown = slices.DeleteFunc(h.shown, func(d usbhost.Device) bool { return d.Path == h.path(n) })
		select {
		case h.changed <- struct{}{}:
		default:
		}
	}
	if h.powered[n] {
		h.cuts[n]++
	}
	h.powered[n] = false
	h.boards[n].Power(false)
	return nil
}

// silent has a slot's board not show up.
func (h *hat) silent(n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mute[n] = true
}

func (h *hat) Powered(_ context.Context, n int) (bool, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.powered[n], nil
}

// Attend is netboot.Bus: each board that has power is served, attachment by
// attachment, until it has booted.
func (h *hat) Attend(ctx context.Context, seen func([]usbhost.Device), serve func(context.Context, usbhost.Device)) {
	var serving sync.WaitGroup
	defer serving.Wait()
	began := map[int]int{}
	for {
		seesAll := func() {
			h.mu.Lock()
			defer h.mu.Unlock()
			if h.lost {
				seen(slices.Clone(h.shown))
			}
		}
		if seesAll(); !h.lost {
			seen(nil)
		}
		h.mu.Lock()
		for n, board := range h.boards {
			if !h.powered[n] || h.mute[n] || began[n] == h.round[n] {
				continue
			}
			round := h.round[n]
			began[n] = round
			serving.Go(func() {
				for at := 0; ctx.Err() == nil; {
					number, d, err := board.Attachment(ctx, at)
					if err != nil {
						return
					}
					at = number
					device := usbhost.Device{Path: h.path(n), Vendor: usbboot.Vendor, Product: usbboot.ProductBCM2708, Interfaces: d.Interfaces, Address: number}
					if d.Stage == usbboot.StageFiles {
						device.SerialIndex = 1
					}
					h.mu.Lock()
					if !h.powered[n] || h.round[n] != round {
						h.mu.Unlock()
						return // its power went meanwhile: another round's are served by another
					}
					h.open[device.Path] = d
					h.shown = append(slices.DeleteFunc(h.shown, func(was usbhost.Device) bool { return was.Path == device.Path }), device)
					h.mu.Unlock()
					seesAll()
					serve(ctx, device)
				}
			})
		}
		h.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-h.changed:
		}
	}
}

func (h *hat) Open(d usbhost.Device) (usbboot.Transport, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.rival {
		return nil, &usbhost.BusyError{Path: d.Path}
	}
	return h.open[d.Path].Transport, nil
}

func (h *hat) FindWiring(s usbhost.Search, _ []usbhost.Device) (usbhost.Wiring, error) {
	if h.lost {
		return usbhost.Wiring{}, usbhost.ErrUnknownWiring
	}
	return usbhost.Wiring{Hub: "1-1", First: s.First}, nil
}

func (h *hat) Rivals() ([]usbhost.Process, error) {
	if h.rival {
		return []usbhost.Process{{PID: 4711, Command: "rpiboot -l"}}, nil
	}
	return nil, nil
}

// A link is what nodes connect by: each connection comes from the address that
// it says.
type link struct {
	net.Listener
	coming chan net.Conn
	done   chan struct{}
	once   sync.Once
}

func newLink() *link {
	return &link{coming: make(chan net.Conn), done: make(chan struct{})}
}

func (l *link) Accept() (net.Conn, error) {
	select {
	case c := <-l.coming:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *link) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *link) Addr() net.Addr { return &net.TCPAddr{} }

// from is a connection whose other end has an address.
type from struct {
	net.Conn
	addr netip.AddrPort
}

func (c from) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.addr) }

var nextPort struct {
	sync.Mutex
	n uint16
}

// dial connects to the roots from a slot's address.
func (w *world) dial(n int) net.Conn {
	w.t.Helper()
	nextPort.Lock()
	nextPort.n++
	port := 20000 + nextPort.n
	nextPort.Unlock()
	a := clusterctrl.RootNetwork.Addr().As4()
	a[3] = byte(n)
	server, client := socketPair(w.t)
	select {
	case w.link.coming <- from{server, netip.AddrPortFrom(netip.AddrFrom4(a), port)}:
	case <-time.After(patience):
		w.t.Fatal("nobody serves roots")
	}
	w.t.Cleanup(func() { client.Close() })
	client.SetDeadline(time.Now().Add(patience))
	return client
}

// socketPair is a connection, with buffers as TCP's have them.
func socketPair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if b, err = net.Dial("tcp", l.Addr().String()); err == nil {
		a, err = l.Accept()
	}
	if err != nil {
		t.Fatal(err)
	}
	return a, b
}

// A root is a slot's disk as its node has it.
type root struct {
	t *testing.T
	net.Conn
	nbdclient.Export
	cookie uint64
}

// attach opens a slot's disk.
func (w *world) attach(n int) *root {
	w.t.Helper()
	c := w.dial(n)
	e, err := nbdclient.Negotiate(c, clusterctrl.SlotName(n))
	if err != nil {
		w.t.Fatalf("p%d gets no root: %v", n, err)
	}
	return &root{t: w.t, Conn: c, Export: e}
}

// Commands of NBD, doc/proto.md.
const (
	nbdRead  = 0
	nbdWrite = 1
	nbdFlush = 3
)

// ask sends a request and reads the answer. It gives the error's number.
func (r *root) ask(command uint16, off int64, length int, data []byte) ([]byte, uint32, error) {
	r.cookie++
	b := binary.BigEndian.AppendUint32(nil, 0x25609513)
	b = binary.BigEndian.AppendUint16(b, 0)
	b = binary.BigEndian.AppendUint16(b, command)
	b = binary.BigEndian.AppendUint64(b, r.cookie)
	b = binary.BigEndian.AppendUint64(b, uint64(off))
	b = binary.BigEndian.AppendUint32(b, uint32(length))
	if _, err := r.Write(append(b, data...)); err != nil {
		return nil, 0, err
	}
	var head [16]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, 0, err
	}
	if binary.BigEndian.Uint32(head[:]) != 0x67446698 || binary.BigEndian.Uint64(head[8:]) != r.cookie {
		return nil, 0, errors.New("no answer of NBD's")
	}
	number := binary.BigEndian.Uint32(head[4:])
	if command != nbdRead || number != 0 {
		return nil, number, nil
	}
	content := make([]byte, length)
	_, err := io.ReadFull(r, content)
	return content, 0, err
}

// put writes, and says whether it was told written.
func (r *root) put(off int64, text string) uint32 {
	r.t.Helper()
	block := make([]byte, 4096)
	copy(block, text)
	_, number, err := r.ask(nbdWrite, off, len(block), block)
	if err != nil {
		r.t.Fatal(err)
	}
	return number
}

// text is what was put at an offset, "" for zeros.
func (r *root) text(off int64) string {
	r.t.Helper()
	block, number, err := r.ask(nbdRead, off, 4096, nil)
	if err != nil || number != 0 {
		r.t.Fatalf("cannot read: %d, %v", number, err)
	}
	return string(bytes.TrimRight(block, "\x00"))
}

// cut waits until the server has cut the connection.
func (r *root) cut() {
	r.t.Helper()
	if _, err := r.Read(make([]byte, 1)); err == nil {
		r.t.Error("the server said something")
	} else if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
		r.t.Error("the connection was not cut")
	}
}

// A world is a controller with its HAT.
type world struct {
	t     *testing.T
	dir   string
	store *store.Store
	hat   *hat
	node  *nodefile.Node

	change func(*netboot.Options) // of the next service

	link    *link
	service *netboot.Service
	stop    func()
}

// patience only ends a test that hangs.
const patience = 3 * time.Minute

const farOff = 300 << 20 // beyond the image, on the slot's disk

// newWorld makes a controller with slots 1 and 2 that netboot, 3 that is
// ephemeral, and 4 with a card. All boot one base.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), hat: newHAT(t, 1, 2, 3, 4, 5, 12)}
	w.node = &nodefile.Node{Cluster: "attic", Role: nodefile.Controller, Netboot: &nodefile.Netboot{Disk: 512 << 20, Quota: 1 << 20}}
	for n, r := range []string{"", nodefile.RootNetboot, nodefile.RootNetboot, nodefile.RootEphemeral, ""} {
		name := "controller"
		if n > 0 {
			name = clusterctrl.SlotName(n)
		}
		w.node.Targets = append(w.node.Targets, nodefile.Target{Name: name, Slot: n, Hostname: "host" + name, Model: "zero", Root: r})
	}
	w.openStore()
	f, err := os.Open(base(t))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d, err := w.store.AddBase(t.Context(), f, store.Import{Name: "miniature"})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{1, 2, 3, 4} {
		w.assign(n, d)
	}
	t.Cleanup(func() {
		if w.stop != nil {
			w.stop()
		}
		w.store.Close()
	})
	return w
}

func (w *world) openStore() {
	w.t.Helper()
	s, err := store.Open(filepath.Join(w.dir, "store"), store.Options{Run: filepath.Join(w.dir, "run"), Reserve: -1, Disk: disk.Options{Reserve: -1, FlushEvery: -1}})
	if err != nil {
		w.t.Fatal(err)
	}
	w.store = s
}

func (w *world) assign(n int, base digest.Digest, layers ...digest.Digest) {
	w.t.Helper()
	if _, err := w.store.Assign(w.t.Context(), n, store.Root{Base: base, Layers: layers}); err != nil {
		w.t.Fatal(err)
	}
}

// serve runs a service until stop.
func (w *world) serve() {
	w.t.Helper()
	w.link = newLink()
	o := netboot.Options{
		Node: w.node, Store: w.store, NodeInit: nodeInit, Bus: w.hat, Power: w.hat, Listener: w.link,
		Links:  func(ctx context.Context, _ func(netboot.Links)) { <-ctx.Done() },
		Limits: slots.Limits{OffFor: time.Millisecond},
	}
	if w.change != nil {
		w.change(&o)
	}
	service, err := netboot.New(w.t.Context(), o)
	if err != nil {
		w.t.Fatal(err)
	}
	w.service = service
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	go func() { done <- service.Run(ctx) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				w.t.Errorf("the service ended: %v", err)
			}
		case <-time.After(patience):
			w.t.Error("the service does not end")
		}
	})
}

// until waits for a slot to come to a state.
func (w *world) until(n int, want slots.State) netboot.SlotView {
	w.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		v := w.view(n)
		if v.State == want {
			return v
		}
		if time.Now().After(deadline) {
			var happened []string
			for _, e := range v.Events {
				happened = append(happened, string(e.State)+": "+e.Text)
			}
			w.t.Fatalf("p%d is %s (%s %s), not %s:\n%s", n, v.State, v.Detail, v.Reason, want, strings.Join(happened, "\n"))
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (w *world) view(n int) netboot.SlotView {
	w.t.Helper()
	for _, v := range w.service.View().Slots {
		if v.Number == n {
			return v
		}
	}
	w.t.Fatalf("there is no slot %d", n)
	return netboot.SlotView{}
}

// booted switches a slot on and waits until its board has all its files.
func (w *world) booted(n int) usbboottest.Boot {
	w.t.Helper()
	if err := w.service.On(w.t.Context(), n); err != nil {
		w.t.Fatal(err)
	}
	return w.hasFiles(n)
}

func (w *world) hasFiles(n int) usbboottest.Boot {
	w.t.Helper()
	w.until(n, slots.Link)
	boot, err := w.hat.boards[n].Booted()
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.hat.boards[n].Err(); err != nil {
		w.t.Error(err)
	}
	return boot
}
