package founding

// What the fuzz tests look into.
var ParseRemotes = parseRemotes

// ParsePlan gives the stage of a founding.json.
func ParsePlan(data []byte) (stage string, err error) {
	p, err := parsePlan(data)
	return p.Stage, err
}

// CopyTree copies a folder.
var CopyTree = copyTree

// SwarmFirst puts a swarm's backups first.
var SwarmFirst = swarmFirst
