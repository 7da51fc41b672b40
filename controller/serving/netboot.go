package serving

import (
	"compress/gzip"
	"context"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"

	"hatchery/controller"
	"hatchery/controller/hat"
	"hatchery/internal/clusterctrl"
	"hatchery/internal/enrol"
	"hatchery/internal/nodefile"
	"hatchery/netboot"
	"hatchery/netboot/bootfiles"
	"hatchery/netboot/slots"
	"hatchery/netboot/store"
)

// netbooting is what the service does for slots without cards; the zero one is
// nothing, of a controller whose image was built before there was any of that.
type netbooting struct {
	service *netboot.Service
	store   *store.Store
	hat     *hat.HAT
	noHAT   error // why there is no hat
	broken  error // why there is no service, though there should be
	events  chan controller.Event

	mu   sync.Mutex
	last map[string]slots.State

	// Who writes cards, and who does operations, is there later; nil until then.
	unfinished, holds, keeps atomic.Pointer[func(slot int) bool]
	rescued                  atomic.Pointer[func(slot int)]
}

// asked asks somebody about a slot who may not be there yet: no until then.
func asked(who *atomic.Pointer[func(slot int) bool]) func(slot int) bool {
	return func(slot int) bool {
		ask := who.Load()
		return ask != nil && (*ask)(slot)
	}
}

// told tells somebody of a slot who may not be there yet: nobody until then.
func told(who *atomic.Pointer[func(slot int)]) func(slot int) {
	return func(slot int) {
		if tell := who.Load(); tell != nil {
			(*tell)(slot)
		}
	}
}

// openNetboot gets ready to boot slots without cards.
func openNetboot(ctx context.Context, o Options, node *nodefile.Node, id *enrol.Identity) (_ *netbooting, err error) {
	n := &netbooting{events: make(chan controller.Event, 64), last: map[string]slots.State{}}
	// Slots with cards are switched too, whatever becomes of the others.
	n.openHAT(ctx, o, node)
	if node.Netboot == nil {
		return n, nil
	}
	defer func() {
		if err != nil && n.store != nil {
			tellOf(o, "the store", n.store.Close())
			n.store = nil
		}
	}()
	n.store, err = store.Open(filepath.Join(o.StateDir, nodefile.NetbootDir), store.Options{Run: filepath.Join(o.RunDir, nodefile.NetbootDir), Log: o.Log})
	if err != nil {
		return n, err
	}
	var power slots.Power
	if n.hat != nil {
		power = n.hat
	}
	firmware, err := pinnedFirmware(node.Netboot.Firmware)
	if err != nil {
		return n, err
	}
	n.service, err = netboot.New(ctx, netboot.Options{
		Node: node, Store: n.store, NodeInit: nodeInit, Writer: cardWriter, Unfinished: asked(&n.unfinished), Hold: asked(&n.holds), Keeps: asked(&n.keeps), Rescued: told(&n.rescued), Firmware: firmware, Power: power, Bus: o.USB,
		Run:     filepath.Join(o.RunDir, nodefile.NetbootDir),
		Wiring:  filepath.Join(o.StateDir, nodefile.ServiceDir, "wiring.json"),
		Network: rootNetwork(node, o.Log), PortOf: rootSlotOf,
		TLS: enrol.ServerTLS(id), SlotOf: slotOfCertificate,
		Log: o.Log, Told: n.told,
	})
	return n, err
}

// openHAT finds the HAT, and sets it up if nobody has since it got power.
func (n *netbooting) openHAT(ctx context.Context, o Options, node *nodefile.Node) {
	version, first := "", 0
	if node.HAT != nil {
		version, first = node.HAT.Version, node.HAT.First
	}
	switch n.hat, n.noHAT = hat.Open(hat.Options{Version: version, First: first, Lock: filepath.Join(o.RunDir, "hat.lock"), Bus: o.HAT, Log: o.Log}); {
	case n.noHAT == nil:
		// Slots without cards need the HAT's hub, which is off when the HAT gets power.
		if err := n.hat.Start(ctx); err != nil {
			o.Log.Warn("the HAT does not do as it is told", "error", err)
		}
	case errors.Is(n.noHAT, hat.ErrNoHAT):
		o.Log.Info("the slots cannot be switched from here", "reason", n.noHAT)
	default:
		o.Log.Warn("the slots cannot be switched from here", "error", n.noHAT)
	}
}

// close lets go of everything. Nodes that run are left alone.
func (n *netbooting) close(o Options) {
	if n.hat != nil {
		tellOf(o, "the HAT", n.hat.Close())
	}
	if n.store != nil {
		tellOf(o, "the store", n.store.Close())
	}
}

func tellOf(o Options, what string, err error) {
	if err != nil {
		o.Log.Warn("cannot close "+what, "error", err)
	}
}

// runAgain is how long after it ended booting slots is tried again.
const runAgain = 10 * time.Second

// run boots slots until ctx ends. What goes wrong there keeps no node with a card
// from its cluster.
func (n *netbooting) run(ctx context.Context, o Options) {
	if n.service == nil {
		return
	}
	for {
		err := n.service.Run(ctx)
		if ctx.Err() != nil {
			return
		}
		o.Log.Error("booting slots without cards ended, and is begun again", "error", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(runAgain):
		}
	}
}

// calls are the command line's; where slots cannot boot, they say why.
func (n *netbooting) calls() http.Handler {
	if n.service != nil {
		return n.service.Calls()
	}
	why := "this controller's image is of before netboot: build it again, and flash it"
	if n.broken != nil {
		why = n.broken.Error()
	}
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		enrol.WriteError(w, &enrol.Error{Status: http.StatusServiceUnavailable, Code: netboot.Conflict, Detail: "slots without cards cannot boot: " + why})
	})
}

// told makes an event of a slot's way, each time that it comes into another
// state.
func (n *netbooting) told(status slots.Status) {
	n.mu.Lock()
	was := n.last[status.Slot]
	n.last[status.Slot] = status.State
	n.mu.Unlock()
	if was == status.State || was == "" && (status.State == slots.Unknown || status.State == slots.Off) {
		return
	}
	detail := fmt.Sprintf("%s: %s", status.Slot, status.State)
	for _, more := range []string{status.Detail, status.Reason} {
		if more != "" {
			detail += ": " + more
			break
		}
	}
	slot, err := clusterctrl.ParseSlot(status.Slot)
	if err != nil {
		return
	}
	select {
	case n.events <- controller.Event{Time: time.Now(), Slot: slot, Kind: controller.EventNetboot, Detail: detail}:
	default: // nobody is kept waiting by events
	}
}

// heard hands on what a node's agent said. One without Docker is ready when it
// has its link.
func (n *netbooting) heard(docker bool) func(int, enrol.StatusReport, bool) {
	if n.service == nil {
		return nil
	}
	return func(slot int, r enrol.StatusReport, member bool) {
		ready := member || !docker && r.State == enrol.StateDone
		n.service.Heard(context.Background(), slot, ready, r.Step+" "+r.State)
	}
}

func slotOfCertificate(c *x509.Certificate) (int, error) {
	peer, err := enrol.PeerOf(c)
	if err != nil {
		return 0, err
	}
	if peer.Slot == 0 {
		return 0, errors.New("the controller has no root over the link")
	}
	return peer.Slot, nil
}

// largestProgram bounds what is unpacked, in bytes.
const largestProgram = 64 << 20

// nodeInit gives what the controller's image has for nodes of an architecture.
func nodeInit(architecture string) ([]byte, error) {
	return program(nodefile.NodeInit(architecture))
}

// cardWriter gives what nodes of an architecture go on writing their cards with.
func cardWriter(architecture string) ([]byte, error) {
	return program(nodefile.CardWriter(architecture))
}

// program gives one that the controller's image has in gzip.
func program(place string) ([]byte, error) {
	file, err := os.Open(place)
	if err != nil {
		return nil, fmt.Errorf("cannot make an initramfs: %w (the controller's image is of before that: build it again)", err)
	}
	defer file.Close()
	z, err := gzip.NewReader(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", place, err)
	}
	program, err := io.ReadAll(io.LimitReader(z, largestProgram))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", place, err)
	}
	return program, nil
}

// pinnedFirmware reads the firmware files that cluster.yaml pinned.
func pinnedFirmware(pinned map[string]string) (map[string]bootfiles.Firmware, error) {
	files := map[string]bootfiles.Firmware{}
	for name, sum := range pinned {
		if _, err := hex.DecodeString(sum); err != nil || len(sum) != 64 || name != filepath.Base(name) {
			return nil, fmt.Errorf("%s: the firmware %q with the digest %q cannot be", nodefile.Path, name, sum)
		}
		content, err := os.ReadFile(filepath.Join(nodefile.FirmwareDir, name))
		if err != nil {
			return nil, err
		}
		files[name] = bootfiles.Firmware{Content: content, Digest: digest.NewDigestFromEncoded(digest.SHA256, sum)}
	}
	return files, nil
}
