package netboottest_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"hatchery/controller"
	"hatchery/controller/serving"
	"hatchery/firstboot"
	"hatchery/firstboot/bridge"
	"hatchery/firstboot/founding"
	"hatchery/firstboot/link"
	"hatchery/internal/enginetest"
	"hatchery/internal/nodefile"
	"hatchery/netboot"
	"hatchery/netboot/slots"
	"hatchery/netboot/store"
)

// roleVariable tells the test's program that it is to be one of the
// controller's processes, and where.
const roleVariable = "HATCHERY_NETBOOTTEST"

// The roles.
const (
	roleAgent   = "agent"
	roleServe   = "serve"   // enrolment
	roleNetboot = "netboot" // USB, roots, power
)

// A role is what a process of the test's program is.
type role struct {
	Play                        string
	Etc, State, Run, DockerRoot string
	EngineHost, Units, Socket   string
	Firewall, DockerUser        string

	Node, NodeInit      string // node.json with the slots' roots; the program for their initramfs
	World, Calls, Boots string // sockets, and the folder for what boards were sent
	StoreDir, StoreRun  string
}

func TestMain(m *testing.M) {
	if text := os.Getenv(roleVariable); text != "" {
		os.Exit(play(text))
	}
	os.Exit(m.Run())
}

func play(text string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var r role
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	var err error
	switch r.Play {
	case roleAgent:
		err = firstboot.Run(ctx, firstboot.Options{
			ConfigDir: r.Etc, StateDir: r.State, RunDir: r.Run, DockerHost: r.EngineHost, DockerRoot: r.DockerRoot,
			Units: enginetest.DialUnits(r.Units), EngineUnits: []string{enginetest.DockerSocket, enginetest.DockerService},
			BootID: "00000000-0000-4000-8000-000000000001", SkipGadget: true, SkipMachine: true,
			Link:     link.Options{Networkd: r.Run, Log: log},
			Bridge:   bridge.Options{Networkd: r.Run, Firewall: r.Firewall, DockerUser: r.DockerUser, RunDir: r.Run, Log: log},
			Founding: founding.Waits{Settle: time.Second, Grace: 5 * time.Second},
			SetTime:  func(time.Time) error { return nil }, TrustClock: true, Consoles: []string{}, Log: log,
		})
	case roleServe:
		err = serving.Run(ctx, serving.Options{
			ConfigDir: r.Etc, StateDir: r.State, RunDir: r.Run, DockerHost: r.EngineHost, DockerRoot: r.DockerRoot, Socket: r.Socket, Log: log,
		})
	case roleNetboot:
		err = r.netboot(ctx, log)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// netboot is the service, with a HAT that is the test's.
func (r role) netboot(ctx context.Context, log *slog.Logger) error {
	node, err := nodefile.Read(r.Node)
	if err != nil {
		return err
	}
	stock, err := store.Open(r.StoreDir, store.Options{Run: r.StoreRun, Reserve: -1, Log: log})
	if err != nil {
		return err
	}
	defer stock.Close()
	hat := newBus(dialWorld(r.World), r.Boots, log)
	service, err := netboot.New(ctx, netboot.Options{
		Node: node, Store: stock, Run: r.StoreRun, Bus: hat, Power: hat, Log: log,
		NodeInit: func(string) ([]byte, error) { return os.ReadFile(r.NodeInit) },
		// What the emulated board has in place of a Zero's USB port, and its
		// console.
		Modules: []string{"virtio_mmio", "virtio_net"}, Words: []string{"console=ttyAMA0"},
		// An emulated board is slower than one of the HAT's.
		Limits: slots.Limits{Link: 10 * time.Minute, Root: 10 * time.Minute, Boot: 20 * time.Minute, LostNBD: 20 * time.Minute},
		Told: func(s slots.Status) {
			log.Info("slot", "slot", s.Slot, "state", s.State, "detail", s.Detail, "reason", s.Reason)
		},
	})
	if err != nil {
		return err
	}
	if err := os.Remove(r.Calls); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err // of the process that was killed
	}
	l, err := net.Listen("unix", r.Calls)
	if err != nil {
		return err
	}
	calls := &http.Server{Handler: service.Calls()}
	go calls.Serve(l)
	defer calls.Close()
	go r.hear(ctx, service, hat)
	return service.Run(ctx)
}

// hear tells the service what the slots' agents say to the enrolment service,
// which does so itself where both are one process. Here it is asked every second,
// and what it answers may be of the boot before.
func (r role) hear(ctx context.Context, service *netboot.Service, hat *bus) {
	enrolment := controller.Dial(r.Socket)
	type report struct {
		at   time.Time
		boot string // a boot that is over
		on   int    // how often the slot was switched on
	}
	last := map[int]report{}
	for ; ctx.Err() == nil; time.Sleep(time.Second) {
		asking, done := context.WithTimeout(ctx, 10*time.Second)
		view, err := enrolment.Cluster(asking)
		done()
		if err != nil {
			continue
		}
		for _, s := range view.Slots {
			if s.LastSeen == nil {
				continue
			}
			was, known := last[s.Slot]
			now := report{*s.LastSeen, was.boot, hat.switchedOn(s.Slot)}
			if known && now.on != was.on {
				now.boot = s.BootID // no board boots within a second
			}
			last[s.Slot] = now
			if known && !was.at.Equal(now.at) && s.BootID != now.boot {
				service.Heard(ctx, s.Slot, s.NodeID != "" && s.Step == firstboot.Steady, s.Step+" "+s.State)
			}
		}
	}
}
