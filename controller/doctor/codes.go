package doctor

import (
	"slices"

	"hatchery/firstboot/health"
)

// A Severity says how much a finding matters.
type Severity string

// The severities, the worst first.
const (
	Broken  Severity = "broken"  // something does not work
	Warning Severity = "warning" // something will not, or not well
	Note    Severity = "note"    // as somebody wanted it, perhaps
)

// worse orders severities.
func (s Severity) rank() int { return slices.Index([]Severity{Broken, Warning, Note}, s) }

// The codes of findings, beside those that machines find of themselves
// (firstboot/health).
const (
	ServiceDown     = "service-down"
	EngineDown      = "engine-down"
	UnitFailed      = "unit-failed"
	SwarmDown       = "swarm-down"
	BackupMissing   = "backup-missing"
	Alarm           = "alarm"
	NodeSilent      = "node-silent"
	NodeRefused     = "node-refused"
	NodeRevoked     = "node-revoked"
	NodeDown        = "node-down"
	NodeInactive    = "node-inactive"
	StepFailed      = "step-failed"
	SlotOff         = "slot-off"
	SlotError       = "slot-error"
	SlotDead        = "slot-dead"
	CardGivenUp     = "card-given-up"
	BootROMTrap     = "zero2-boot-rom"
	DiskQuota       = "disk-quota"
	NetbootProblem  = "netboot-problem"
	VersionsDiffer  = "versions-differ"
	ForwardPolicy   = "forward-policy"
	AddressClash    = "address-clash"
	AddressPool     = "address-pool"
	WrongProcessor  = "wrong-processor"
	IdentityExpires = "identity-expires"
	RPIBoot         = "rpiboot-running"
	Unknown         = "unknown" // what a newer agent found
)

// A Code is a kind of finding.
type Code struct {
	Code     string   `json:"code"`
	Severity Severity `json:"severity"`
	Means    string   `json:"means"` // what a person sees of it
}

// catalogue is every kind of finding there is.
var catalogue = []Code{
	{health.CgroupMemory, Broken, "services with a memory limit fail to start, or have none"},
	{health.Clock, Broken, "nodes do not join; certificates are not valid"},
	{health.LowVoltage, Warning, "nodes reset, hang, or lose their card's data"},
	{health.Throttled, Warning, "a node is slow"},
	{health.CardErrors, Broken, "a node hangs, becomes read-only or loses files"},
	{health.KernelModules, Broken, "services do not reach each other over overlay networks, or published ports do not answer"},
	{health.Certificate, Broken, "a node is down in the swarm, or will be"},
	{health.DiskFull, Broken, "containers do not start, images cannot be pulled"},
	{health.DiskNearlyFull, Warning, "containers will not start before long"},
	{health.RootReadOnly, Broken, "nothing can be written on a node"},
	{health.CardInSlot, Warning, "a slot that boots over USB boots something else, or not at all"},
	{health.OutOfMemory, Warning, "containers or services of a node end by themselves"},
	{health.MemoryLow, Warning, "a node is slow, and swaps"},
	{ServiceDown, Broken, "`hatchery status` finds no service"},
	{EngineDown, Broken, "Docker does not answer on the controller"},
	{UnitFailed, Broken, "a service of the controller's has failed"},
	{SwarmDown, Broken, "no service can be deployed; nodes wait for the controller's swarm"},
	{BackupMissing, Warning, "a controller that is lost would take the swarm with it"},
	{Alarm, Warning, "`hatchery status` shows an ALARM"},
	{NodeSilent, Broken, "a slot is `never` heard, or long ago"},
	{NodeRefused, Broken, "a slot is shown as refused"},
	{NodeRevoked, Note, "a slot waits for a new card"},
	{NodeDown, Broken, "the swarm lists a node as down whose agent is heard"},
	{NodeInactive, Note, "a node takes no tasks"},
	{StepFailed, Broken, "a node's agent does not get on"},
	{SlotOff, Note, "a slot has no power"},
	{SlotError, Warning, "the last thing that was done with a slot went wrong"},
	{SlotDead, Broken, "a slot without a card does not boot"},
	{CardGivenUp, Broken, "a slot's card is half written, and its node does not go on with it"},
	{BootROMTrap, Broken, "a Zero 2 W without a card does not boot, others do"},
	{DiskQuota, Warning, "a slot without a card cannot write any more, or soon"},
	{NetbootProblem, Warning, "booting without cards does not work as it should"},
	{VersionsDiffer, Warning, "agents and service are of different versions"},
	{ForwardPolicy, Broken, "nodes reach the controller, and neither the LAN nor each other"},
	{AddressClash, Broken, "nodes, or some machines of the LAN, cannot be reached from the controller"},
	{AddressPool, Warning, "a network that Docker makes may take the slots' addresses"},
	{WrongProcessor, Broken, "a container ends at once, with 139, 132 or an exec format error"},
	{IdentityExpires, Broken, "nodes and controller do not accept each other"},
	{RPIBoot, Broken, "slots without cards boot now and then, or not at all"},
	{Unknown, Warning, "something that this program does not know, of a newer agent"},
}

// Codes are the kinds of findings, those of machines first.
func Codes() []Code { return slices.Clone(catalogue) }

// severityOf is that of a code.
func severityOf(code string) Severity {
	for _, c := range catalogue {
		if c.Code == code {
			return c.Severity
		}
	}
	return Warning
}
