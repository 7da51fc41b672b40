package imagebuilder

import (
	"fmt"

	"hatchery/overlays"
)

// The programs of hatchery's own that images get, by their names.
const (
	AgentProgram = "firstboot" // every image: what brings the node into its cluster
	ToolProgram  = "hatchery"  // the controller's: the enrolment service and the commands
)

// Programs gives hatchery's own program of the given name for an architecture:
// armv6, which every 32-bit image runs, or arm64. Nil gives none, and images
// get none.
type Programs func(name, architecture string) ([]byte, error)

// ways are how edits come about, beside what they are made of.
type ways struct {
	assume   string // a release, for a base of one that is not known
	programs Programs
}

func waysOf(o Options) ways { return ways{o.AssumeRelease, o.Programs} }

// programEntries are hatchery's own programs for one target, whose base is for
// an architecture of Debian's.
func (w ways) programEntries(controller bool, architecture string) ([]overlays.Entry, error) {
	if w.programs == nil {
		return nil, nil
	}
	// 32-bit images get one build for all: what runs on a Zero runs on all.
	if architecture != "arm64" {
		architecture = "armv6"
	}
	places := []struct{ name, path string }{{AgentProgram, overlays.AgentPath}}
	if controller {
		places = append(places, struct{ name, path string }{ToolProgram, overlays.ToolPath})
	}
	var entries []overlays.Entry
	for _, p := range places {
		content, err := w.programs(p.name, architecture)
		if err != nil {
			return nil, fmt.Errorf("cannot put %s into the image: %w", p.path, err)
		}
		entries = append(entries, overlays.Entry{Path: p.path, Mode: 0o755, Content: content, From: "hatchery's own program " + p.name})
	}
	return entries, nil
}
