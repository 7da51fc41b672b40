package firstboot

import (
	"context"
	"log/slog"
	"time"

	"hatchery/firstboot/arm"
	"hatchery/firstboot/bridge"
	"hatchery/firstboot/founding"
	"hatchery/firstboot/link"
	"hatchery/firstboot/member"
	"hatchery/internal/enrol"
)

// Units starts and stops units of the service manager (firstboot/systemd).
type Units interface {
	StartUnit(ctx context.Context, name string) error
	StopUnit(ctx context.Context, name string) error
	// UnitState gives a unit's ActiveState (active, inactive, failed …) and
	// why it is in it.
	UnitState(ctx context.Context, name string) (active, reason string, err error)
}

// The units that the agent has to do with.
const (
	DockerUnit  = member.EngineUnit
	ServiceUnit = "hatchery.service" // the controller's service
)

// Options is where the agent runs, and on what. Zero fields are what a node
// has.
type Options struct {
	ConfigDir  string // node.json and identity/: /etc/hatchery
	StateDir   string // state.json, packages, preload, backups: /var/lib/hatchery
	RunDir     string // /run/hatchery
	DockerHost string // unix:///run/docker.sock
	DockerRoot string // /var/lib/docker

	// Units is systemd.
	Units Units
	// EngineUnits are what is stopped, in this order, and started for a
	// controller's engine that is to be down while its swarm is got back:
	// docker.socket and docker.service.
	EngineUnits []string
	// BootID is the kernel's random/boot_id, which tells one boot from
	// another.
	BootID string
	// Version is the agent's, for people.
	Version string
	// Build is what the image says that it is: nodefile.BuildFile.
	Build string

	// SkipGadget leaves the USB gadget out; SkipMachine also what is the
	// machine's own: growing the root, and packages.
	SkipGadget, SkipMachine bool
	// Card finds the node's card; nil is arm.Find, or no card where the machine is
	// skipped.
	Card func() (arm.Place, error)
	// Link is how a node's link to the controller is looked for, Bridge how
	// the controller's to the slots are.
	Link   link.Options
	Bridge bridge.Options
	// Member is how long a node waits for what with the swarm, Founding how
	// long the controller does.
	Member   member.Waits
	Founding founding.Waits
	// SetTime sets the system's clock, and Now reads it.
	SetTime func(time.Time) error
	Now     func() time.Time
	// TrustClock is for a controller whose clock is right whatever its kernel
	// says.
	TrustClock bool

	Intervals Intervals
	// Consoles are where people may watch: /dev/ttyGS0 and /dev/console. A
	// list that is empty, but not nil, is none.
	Consoles []string
	Log      *slog.Logger

	// Steps are what is gone through in place of the steps of the node's role,
	// which Report, where it is set, tells of in place of the controller.
	Steps  []Step
	Report Reporter
}

// A Reporter tells the controller where the node stands. It is enrol.Client.
type Reporter interface {
	Status(ctx context.Context, report enrol.StatusReport) (*enrol.StatusAnswer, error)
}
