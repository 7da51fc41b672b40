package nodefile

// Where hatchery's things lie on a node.
const (
	ConfigDir = "/etc/hatchery"     // what the builder laid: node.json, identity/
	StateDir  = "/var/lib/hatchery" // what is kept over boots
	RunDir    = "/run/hatchery"     // what goes with the boot
)

// Folders of StateDir.
const (
	// BackupsDir has the swarm's sealed backups: on a node those that it keeps
	// for the controller, there the newest one.
	BackupsDir = "backups"
	// ServiceDir is what `hatchery serve` knows, on the controller.
	ServiceDir = "controller"
)
