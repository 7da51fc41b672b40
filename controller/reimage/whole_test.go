package reimage_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"hatchery/controller/reimage"
	"hatchery/firstboot/arm"
	"hatchery/internal/enrol"
	"hatchery/internal/nodefile"
	wire "hatchery/internal/reimage"
	"hatchery/netboot/reimager"
)

// A fileCard is a card in a file, whose power goes after some writes.
type fileCard struct {
	*os.File
	size   int64
	writes int // that are left; less than 0: all
}

var errPower = errors.New("the power is gone")

func (c *fileCard) Size() int64   { return c.size }
func (c *fileCard) Forget() error { return nil }

func (c *fileCard) WriteAt(p []byte, off int64) (int, error) {
	if c.writes == 0 {
		return 0, errPower
	}
	c.writes--
	return c.File.WriteAt(p, off)
}

// TestAllEnds has the agent arm a card, and the writer write it, with the controller's service
// at the other end; the power goes a few times, and the service is started again meanwhile.
func TestAllEnds(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	place := arm.Place{Disk: filepath.Join(dir, "card"), Boot: filepath.Join(dir, "boot")}
	before := image(9)
	succeed(t, os.WriteFile(place.Disk, before, 0o600))
	succeed(t, os.Truncate(place.Disk, imageSize+4*mib)) // a card is larger than its image
	succeed(t, os.MkdirAll(filepath.Join(place.Boot, "hatchery"), 0o755))
	for name, content := range map[string]string{
		"config.txt": "a=b\n", "cmdline.txt": "root=x\n", wire.PreparedConfig: "initramfs i.img followkernel\n", wire.PreparedCmdline: "root=x y\n", "i.img": "an archive",
		arm.Sums: string(arm.Sum(nil, "i.img", []byte("an archive"))),
	} {
		succeed(t, os.WriteFile(filepath.Join(place.Boot, name), []byte(content), 0o644))
	}
	identity := filepath.Join(dir, "identity")
	succeed(t, os.Mkdir(identity, 0o700))
	files := w.cluster.Files(t, slot)
	for name, content := range map[string][]byte{"key.pem": files.Key, "certificate.pem": files.Certificate, "ca.pem": files.CA} {
		succeed(t, os.WriteFile(filepath.Join(identity, name), content, 0o600))
	}
	restarts := make(chan struct{}, 10)
	armer := arm.New(arm.Options{
		Node: &nodefile.Node{
			Cluster: "homelab", Role: nodefile.Worker, Slot: slot,
			Address: netip.MustParsePrefix("127.0.0.1/8"), ControllerAddr: w.calls.Where.Addr(),
		},
		Identity: identity, BootID: agentBoot, Find: func() (arm.Place, error) { return place, nil },
		Restart: func(context.Context) error { restarts <- struct{}{}; return nil },
	})
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	succeed(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	server := enrol.NewServer(w.cluster.Slot(t, slot), armer.Handler(ctx), slog.New(slog.DiscardHandler))
	served := make(chan error, 1)
	go func() { served <- server.ServeTLS(listener, "", "") }()
	defer func() { server.Close(); <-served }()
	w.agent.listener.Close()
	w.agent.listener = listener // whose port the service calls
	w.restart()

	w.assign("B")
	done := w.reimage(ctx)
	await(t, "the restart", restarts)
	write := func(writes int) error {
		f, err := os.OpenFile(place.Disk, os.O_RDWR, 0)
		succeed(t, err)
		defer f.Close()
		order, err := wire.ReadOrder(f)
		succeed(t, err)
		caller, err := reimager.NewCaller(order, enrol.ClientOptions{Port: w.calls.Where.Port()})
		succeed(t, err)
		// What goes wrong for want of power is not tried again by who has none.
		once, end := context.WithCancel(ctx)
		defer end()
		card := &fileCard{File: f, size: imageSize + 4*mib, writes: writes}
		return reimager.Run(once, card, order, caller, reimager.Options{Pause: func(int) time.Duration {
			if card.writes == 0 {
				end()
			}
			return time.Millisecond
		}})
	}
	for _, writes := range []int{6, 11, 20} {
		if err := write(writes); err == nil {
			t.Fatalf("whole after %d writes", writes)
		}
		if got := w.phase(); got != reimage.Writing {
			t.Errorf("after %d writes it is %s", writes, got)
		}
	}
	cancelled := w.s
	w.restart()
	if err := await(t, "the old service's end", done); err == nil || w.s == cancelled {
		t.Errorf("%v", err)
	}
	done = w.goOn(ctx)
	succeed(t, write(-1))
	w.s.Heard(slot, nextBoot)
	succeed(t, await(t, "the end", done))
	card, err := os.ReadFile(place.Disk)
	succeed(t, err)
	want := w.images["B"]
	if !bytes.Equal(card[:512], want[:512]) || !bytes.Equal(card[bootStart:imageSize], want[bootStart:]) {
		t.Error("the card does not hold B")
	}
	if !bytes.Equal(card[mib:mib+wire.Piece], make([]byte, wire.Piece)) {
		t.Error("something of the order is left")
	}
	if w.state() != "B+" {
		t.Error(w.state())
	}
}
