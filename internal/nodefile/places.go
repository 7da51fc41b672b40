package nodefile

// Where hatchery's things lie on a node.
const (
	ConfigDir = "/etc/hatchery"     // what the builder laid: node.json, identity/
	StateDir  = "/var/lib/hatchery" // what is kept over boots
	RunDir    = "/run/hatchery"     // what goes with the boot
)

// Workloads is what the controller runs once the swarm is up (package declared), for
// root alone: 0600.
const Workloads = ConfigDir + "/workloads.json"

// SecretsDir is where the content of secrets waits on the controller until the swarm
// has it: a file each by its name, 0600 in a folder 0700.
const SecretsDir = StateDir + "/secrets"

// Folders of StateDir.
const (
	// BackupsDir has the swarm's sealed backups: on a node those that it keeps
	// for the controller, there the newest one.
	BackupsDir = "backups"
	// ServiceDir is what `hatchery serve` knows, on the controller.
	ServiceDir = "controller"
)
