package enrol

import "time"

// Port is where the controller's service listens, TCP.
const Port = 7443

// The calls.
const (
	PathTime    = "/v1/time"
	PathJoin    = "/v1/join"
	PathStatus  = "/v1/status"
	PathCluster = "/v1/cluster"
	// PathBackup is served by nodes, on the same port of their own address:
	// they keep the controller's backups.
	PathBackup = "/v1/backup"
	// PathShutdown is served by nodes too: POST, and the node that answers 202 shuts
	// down.
	PathShutdown = "/v1/shutdown"
)

// PathGenerations is served by controllers to each other, where there are several:
// POST, and each has the other's as well.
const PathGenerations = "/v1/generations"

// Generations are the least that a controller accepts of certificates.
type Generations struct {
	Slots       map[string]Generation `json:"slots,omitempty"`       // "p1" …
	Controllers map[string]int        `json:"controllers,omitempty"` // "controller2" …
}

// A Generation is the least that is accepted of a slot; what is below Revoked, a
// person revoked.
type Generation struct {
	Min     int `json:"min,omitempty"`
	Revoked int `json:"revoked,omitempty"`
}

// A TimeAnswer is the answer to GET /v1/time?nonce=…
type TimeAnswer struct {
	Nonce     string `json:"nonce"`
	UnixNanos int64  `json:"unix_nanos"`
}

// Why a controller takes its own clock to be right.
const (
	TimeNTP       = "ntp"      // time servers set it
	TimeOperator  = "operator" // swarm: {offline: true} says so
	TimeUntrusted = "untrusted"
)

// SwarmState is what a node's engine says of its membership.
type SwarmState struct {
	// State is the engine's LocalNodeState: inactive, pending, active, error
	// or locked; "" where the engine does not answer.
	State     string `json:"state"`
	NodeID    string `json:"node_id,omitempty"`
	ClusterID string `json:"cluster_id,omitempty"` // from the node's swarm certificate
	Error     string `json:"error,omitempty"`      // the engine's, of a state that is not active
}

// A JoinRequest is the body of POST /v1/join. Who asks is read from the
// certificate; a body that names another slot is refused.
type JoinRequest struct {
	Slot         *int       `json:"slot,omitempty"`
	BootID       string     `json:"boot_id"` // the kernel's random/boot_id
	AgentVersion string     `json:"agent_version"`
	Swarm        SwarmState `json:"swarm"`
}

// An Action is what the controller has a node do.
type Action string

// The actions.
const (
	Join         Action = "join"
	Stay         Action = "stay"
	LeaveAndJoin Action = "leave-and-join"
	Wait         Action = "wait"
)

// A JoinAnswer is the answer to POST /v1/join.
type JoinAnswer struct {
	Action        Action   `json:"action"`
	Reason        string   `json:"reason,omitempty"` // why, for people
	RetryAfterS   int      `json:"retry_after_s,omitempty"`
	JoinToken     Secret   `json:"join_token,omitempty"` // with Join and LeaveAndJoin only
	RemoteAddrs   []string `json:"remote_addrs,omitempty"`
	ClusterID     string   `json:"cluster_id,omitempty"`
	AdvertiseAddr string   `json:"advertise_addr,omitempty"`
	DataPathAddr  string   `json:"data_path_addr,omitempty"`
	Availability  string   `json:"availability,omitempty"` // pause: the controller makes it active
}

// A Secret is a string that is not printed: neither by fmt nor by slog. JSON
// carries it.
type Secret string

// String hides the secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "[secret]"
}

// GoString hides the secret.
func (s Secret) GoString() string { return `"` + s.String() + `"` }

// A StatusReport is the body of POST /v1/status: where a node stands.
type StatusReport struct {
	Slot         *int       `json:"slot,omitempty"`
	BootID       string     `json:"boot_id"`
	Seq          int64      `json:"seq"` // rises with every report of a boot
	AgentVersion string     `json:"agent_version,omitempty"`
	Step         string     `json:"step"`             // the step's name
	State        string     `json:"state"`            // StateRunning and so on
	Detail       string     `json:"detail,omitempty"` // for people
	Since        time.Time  `json:"since"`            // when the step came into this state, by the node's clock
	Swarm        SwarmState `json:"swarm"`
	Health       *Health    `json:"health,omitempty"` // with some of the reports: it changes slowly
	// Build is what the node's image says that it is (nodefile.BuildFile); "" where it
	// says nothing.
	Build string `json:"build,omitempty"`
}

// Health is what a machine finds of itself. Reports carry it at most every few
// minutes, and when a finding is new.
type Health struct {
	Kernel   string    `json:"kernel,omitempty"` // uname -r
	Engine   string    `json:"engine,omitempty"` // Docker's version
	System   string    `json:"system,omitempty"` // PRETTY_NAME of os-release
	UptimeS  int64     `json:"uptime_s,omitempty"`
	Memory   int64     `json:"memory,omitempty"` // bytes, of them available:
	Free     int64     `json:"free,omitempty"`
	Disk     int64     `json:"disk,omitempty"` // the root's size in bytes, of them available:
	DiskFree int64     `json:"disk_free,omitempty"`
	Findings []Finding `json:"findings,omitempty"`
}

// A Finding is something that a person should know, and what to do about it.
type Finding struct {
	Code   string `json:"code"`             // cgroup-memory, low-voltage: a word for programs
	Detail string `json:"detail"`           // what was found
	Remedy string `json:"remedy,omitempty"` // what to do
}

// The states of a step.
const (
	StateWaiting = "waiting" // its condition is not met
	StateRunning = "running"
	StateDone    = "done"
	StateFailed  = "failed" // it is tried again
)

// A StatusAnswer is the answer to POST /v1/status.
type StatusAnswer struct {
	// Rejoin says that the controller wants this node to call /v1/join: its
	// membership is not what it thinks it is.
	Rejoin bool `json:"rejoin,omitempty"`
	// NextS is when the controller wants to hear the next time, in seconds.
	NextS int `json:"next_s,omitempty"`
}

// A ClusterView is the answer to GET /v1/cluster: what `hatchery status`
// shows.
type ClusterView struct {
	Cluster    string       `json:"cluster"`
	ClusterID  string       `json:"cluster_id,omitempty"` // the swarm's
	Time       time.Time    `json:"time"`
	TimeSource string       `json:"time_source"` // TimeNTP, TimeOperator or TimeUntrusted
	Swarm      SwarmState   `json:"swarm"`       // the controller's own
	Backup     *BackupView  `json:"backup,omitempty"`
	Health     *Health      `json:"health,omitempty"` // what the controller found of itself
	Slots      []SlotView   `json:"slots"`
	Alarms     []AlarmEntry `json:"alarms,omitempty"`
	// Workloads is where what is declared to run stands; nil where nothing is.
	Workloads *WorkloadsView `json:"workloads,omitempty"`
}

// A WorkloadsView says where what is declared to run stands.
type WorkloadsView struct {
	State  string      `json:"state"` // waiting, applying, applied, failed
	Detail string      `json:"detail,omitempty"`
	Since  time.Time   `json:"since"`
	Stacks []StackView `json:"stacks,omitempty"`
}

// A StackView is one stack of them.
type StackView struct {
	Name   string `json:"name"`
	State  string `json:"state"` // waiting, applied, failed, orphaned
	Detail string `json:"detail,omitempty"`
}

// A SlotView is a slot as the controller knows it.
type SlotView struct {
	Slot          int               `json:"slot"`
	Name          string            `json:"name"`
	Hostname      string            `json:"hostname"`
	Model         string            `json:"model,omitempty"`
	Generation    int               `json:"generation,omitempty"`     // of the certificate it last came with
	MinGeneration int               `json:"min_generation,omitempty"` // older ones are refused
	BootID        string            `json:"boot_id,omitempty"`
	AgentVersion  string            `json:"agent_version,omitempty"`
	LastSeen      *time.Time        `json:"last_seen,omitempty"`
	Step          string            `json:"step,omitempty"`
	State         string            `json:"state,omitempty"`
	Detail        string            `json:"detail,omitempty"`
	NodeID        string            `json:"node_id,omitempty"`
	NodeState     string            `json:"node_state,omitempty"`   // the swarm's: ready, down …
	Availability  string            `json:"availability,omitempty"` // active, pause, drain
	Labels        map[string]string `json:"labels,omitempty"`
	Refused       string            `json:"refused,omitempty"` // why its last call was refused
	Root          string            `json:"root,omitempty"`    // netboot, ephemeral; "" for a card
	Health        *Health           `json:"health,omitempty"`  // what the node found of itself
	// What others than the node say of the slot; "" where nobody knows.
	Power     string         `json:"power,omitempty"` // on, off
	Link      string         `json:"link,omitempty"`  // of the USB link: up, down
	Boot      string         `json:"boot,omitempty"`  // of one that boots over USB: rom, files … as netboot has it
	BootInfo  string         `json:"boot_info,omitempty"`
	Operation *OperationView `json:"operation,omitempty"` // what is being done with it
	LastError *Told          `json:"last_error,omitempty"`
}

// An OperationView says what is being done with a slot: a rebuild, an upgrade.
type OperationView struct {
	ID     string    `json:"id"`
	Kind   string    `json:"kind"`         // rebuild, upgrade, undo
	By     string    `json:"by,omitempty"` // who asked for it
	Step   string    `json:"step"`         // drain, write, boot …
	Detail string    `json:"detail,omitempty"`
	Since  time.Time `json:"since"`
	// GivenUp says that nobody goes on with it by himself: a person has to see to it, as
	// Detail says.
	GivenUp bool `json:"given_up,omitempty"`
}

// Told is something that was said at a time.
type Told struct {
	Time time.Time `json:"time"`
	Text string    `json:"text"`
}

// A BackupView says where the swarm's newest backup is.
type BackupView struct {
	Taken time.Time `json:"taken"`
	Bytes int64     `json:"bytes"`
	Nodes []string  `json:"nodes"` // that have it: p1, p3
	Error string    `json:"error,omitempty"`
}

// An AlarmEntry is something that a person should look at.
type AlarmEntry struct {
	Time   time.Time `json:"time"`
	Slot   int       `json:"slot,omitempty"`
	Code   Code      `json:"code"`
	Detail string    `json:"detail"`
}

// A Code says what an error is.
type Code string

// The codes.
const (
	UnknownSlot     Code = "unknown-slot"
	Revoked         Code = "revoked"
	StaleGeneration Code = "stale-generation"
	WrongAddress    Code = "wrong-address"
	Clone           Code = "clone"
	ClockUntrusted  Code = "clock-untrusted"
	SwarmNotReady   Code = "swarm-not-ready"
	BadRequest      Code = "bad-request"
)

// An Error is the body of every answer that is not 2xx. It is an error of the
// client's too.
type Error struct {
	Status      int    `json:"-"` // the HTTP status
	Code        Code   `json:"code"`
	Detail      string `json:"detail"`
	RetryAfterS int    `json:"retry_after_s,omitempty"`
}

func (e *Error) Error() string {
	if e.Code == "" { // of something that is not hatchery's
		return e.Detail
	}
	return string(e.Code) + ": " + e.Detail
}
