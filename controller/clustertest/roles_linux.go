package clustertest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"runtime/debug"
	"syscall"
	"testing"
	"time"

	"hatchery/controller"
	"hatchery/controller/backup"
	"hatchery/controller/hat"
	"hatchery/controller/operation"
	"hatchery/controller/power"
	"hatchery/controller/reimage"
	"hatchery/controller/serving"
	"hatchery/firstboot"
	"hatchery/firstboot/arm"
	"hatchery/firstboot/bridge"
	"hatchery/firstboot/founding"
	"hatchery/firstboot/link"
	"hatchery/firstboot/member"
	"hatchery/internal/enginetest"
	"hatchery/internal/enrol"
	wire "hatchery/internal/reimage"
	"hatchery/netboot/reimager"
)

// roleVariable tells a test binary that it is to be an agent or a service, and
// where.
const roleVariable = "HATCHERY_CLUSTERTEST"

// A role is what a process of this test binary is.
type role struct {
	Serve, Write                 bool
	Etc, State, Run, DockerRoot  string
	EngineHost, Units, BootID    string
	Firewall, DockerUser, Socket string
	Networkd                     string // systemd-networkd's folder of states
	Times                        controller.Times
	Backups                      backup.Times
	Founding                     founding.Waits
	Member                       member.Waits
	Intervals                    firstboot.Intervals
	Power                        power.Limits
	Operations                   operation.Limits
	Cards                        reimage.Times
	Expander                     string    // the HAT's
	Card                         arm.Place // the node's; the zero one is none
}

// untouched is how a writer ends whose card stays as it is.
const untouched = 3

// code is how a process ended.
func code(err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	return -1
}

// Main runs the tests, or whatever the process was started as.
func Main(m *testing.M) {
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
	switch {
	case r.Write:
		err = write(ctx, r, log)
	case r.Serve:
		var bus hat.Bus
		if r.Expander != "" {
			bus = expander(r.Expander)
		}
		err = serving.Run(ctx, serving.Options{
			ConfigDir: r.Etc, StateDir: r.State, RunDir: r.Run, DockerHost: r.EngineHost, DockerRoot: r.DockerRoot, Socket: r.Socket,
			Log: log, Times: r.Times, Backups: r.Backups, Power: r.Power, Operations: r.Operations, Cards: r.Cards, HAT: bus,
		})
	default:
		var find func() (arm.Place, error)
		if r.Card.Disk != "" {
			find = func() (arm.Place, error) { return r.Card, nil }
		}
		// As cmd/firstboot has it.
		debug.SetGCPercent(25)
		debug.SetMemoryLimit(24 << 20)
		err = firstboot.Run(ctx, firstboot.Options{
			ConfigDir: r.Etc, StateDir: r.State, RunDir: r.Run, DockerHost: r.EngineHost, DockerRoot: r.DockerRoot,
			Units: enginetest.DialUnits(r.Units), EngineUnits: []string{enginetest.DockerSocket, enginetest.DockerService},
			BootID: r.BootID, SkipGadget: true, SkipMachine: true, Card: find,
			Link:   link.Options{Networkd: r.Networkd, Log: log},
			Bridge: bridge.Options{Networkd: r.Networkd, Firewall: r.Firewall, DockerUser: r.DockerUser, RunDir: r.Run, Log: log},
			Member: r.Member, Founding: r.Founding, Intervals: r.Intervals,
			// The machines share a clock, which is right.
			SetTime:    func(time.Time) error { return nil },
			TrustClock: true, Consoles: []string{}, Log: log,
		})
	}
	var as *reimager.UntouchedError
	switch {
	case errors.As(err, &as):
		fmt.Fprintln(os.Stderr, err)
		return untouched
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// A cardFile is a card.
type cardFile struct{ *os.File }

func (cardFile) Size() int64   { return cardSize }
func (cardFile) Forget() error { return nil }

// write does what cmd/reimage does once it has its link.
func write(ctx context.Context, r role, log *slog.Logger) error {
	f, err := os.OpenFile(r.Card.Disk, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	order, err := wire.ReadOrder(f)
	if err != nil {
		return err
	}
	address, err := netip.ParsePrefix(order.Address)
	if err != nil {
		return err
	}
	caller, err := reimager.NewCaller(order, enrol.ClientOptions{Local: address.Addr()})
	if err != nil {
		return err
	}
	return reimager.Run(ctx, cardFile{f}, order, caller, reimager.Options{
		Log:   func(format string, args ...any) { log.Info(fmt.Sprintf(format, args...)) },
		Pause: func(int) time.Duration { return 300 * time.Millisecond },
	})
}
