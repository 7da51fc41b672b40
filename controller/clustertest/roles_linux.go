package clustertest

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"testing"
	"time"

	"hatchery/controller"
	"hatchery/controller/backup"
	"hatchery/controller/serving"
	"hatchery/firstboot"
	"hatchery/firstboot/bridge"
	"hatchery/firstboot/founding"
	"hatchery/firstboot/link"
	"hatchery/firstboot/member"
	"hatchery/internal/enginetest"
)

// roleVariable tells a test binary that it is to be an agent or a service, and
// where.
const roleVariable = "HATCHERY_CLUSTERTEST"

// A role is what a process of this test binary is.
type role struct {
	Serve                        bool
	Etc, State, Run, DockerRoot  string
	EngineHost, Units, BootID    string
	Firewall, DockerUser, Socket string
	Times                        controller.Times
	Backups                      backup.Times
	Founding                     founding.Waits
	Member                       member.Waits
	Intervals                    firstboot.Intervals
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
	if r.Serve {
		err = serving.Run(ctx, serving.Options{
			ConfigDir: r.Etc, StateDir: r.State, RunDir: r.Run, DockerHost: r.EngineHost, DockerRoot: r.DockerRoot, Socket: r.Socket,
			Log: log, Times: r.Times, Backups: r.Backups,
		})
	} else {
		// As cmd/firstboot has it.
		debug.SetGCPercent(25)
		debug.SetMemoryLimit(24 << 20)
		err = firstboot.Run(ctx, firstboot.Options{
			ConfigDir: r.Etc, StateDir: r.State, RunDir: r.Run, DockerHost: r.EngineHost, DockerRoot: r.DockerRoot,
			Units: enginetest.DialUnits(r.Units), EngineUnits: []string{enginetest.DockerSocket, enginetest.DockerService},
			BootID: r.BootID, SkipGadget: true, SkipMachine: true,
			Link:   link.Options{Networkd: r.Run, Log: log},
			Bridge: bridge.Options{Networkd: r.Run, Firewall: r.Firewall, DockerUser: r.DockerUser, RunDir: r.Run, Log: log},
			Member: r.Member, Founding: r.Founding, Intervals: r.Intervals,
			// The machines share a clock, which is right.
			SetTime:    func(time.Time) error { return nil },
			TrustClock: true, Consoles: []string{}, Log: log,
		})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
