package health

// The codes of findings.
const (
	CgroupMemory   = "cgroup-memory"    // the kernel accounts for no container's memory
	Clock          = "clock"            // the clock is wrong, or nobody has set it
	LowVoltage     = "low-voltage"      // the supply's voltage was too low
	Throttled      = "throttled"        // the processor is slowed down
	CardErrors     = "card-errors"      // the card, or its file system, made errors
	KernelModules  = "kernel-modules"   // a module of overlay networks is missing
	Certificate    = "node-certificate" // the swarm's certificate expired, or will
	DiskFull       = "disk-full"        // the root is full
	DiskNearlyFull = "disk-nearly-full" // the root will be
	RootReadOnly   = "root-read-only"   // the root cannot be written to
	CardInSlot     = "card-in-slot"     // a node without a card has one
	OutOfMemory    = "out-of-memory"    // the kernel ended a program, for want of memory
	MemoryLow      = "memory-low"       // little is left
)

// Codes are all of them.
func Codes() []string {
	return []string{CgroupMemory, Clock, LowVoltage, Throttled, CardErrors, KernelModules, Certificate,
		DiskFull, DiskNearlyFull, RootReadOnly, CardInSlot, OutOfMemory, MemoryLow}
}
