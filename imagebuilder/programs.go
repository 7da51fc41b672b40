package imagebuilder

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"runtime"

	"github.com/opencontainers/go-digest"

	"hatchery/internal/cachefile"
	"hatchery/internal/nodefile"
	"hatchery/overlays"
)

// The programs of hatchery's own that images get, by their names.
const (
	AgentProgram = "firstboot" // every image: what brings the node into its cluster
	ToolProgram  = "hatchery"  // the controller's: the enrolment service and the commands
	// NodeInitProgram is what a node starts that boots without a card. The
	// controller has it for all architectures, since it may make an initramfs anew.
	NodeInitProgram = "nodeinit"
	// WriterProgram writes a node's card anew, from its initramfs: the card's own, or
	// one that the controller makes where the card has none any more.
	WriterProgram = "reimage"
	// RegistryProgram is the registry of a controller that has one: it is large.
	RegistryProgram = "registry"
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
// an architecture of Debian's. What it takes time to make is kept for the next run
// at the places that beside gives.
func (w ways) programEntries(controller, registry bool, architecture string, beside func(kind string) string) ([]overlays.Entry, error) {
	if w.programs == nil {
		return nil, nil
	}
	// 32-bit images get one build for all: what runs on a Zero runs on all.
	if architecture != "arm64" {
		architecture = "armv6"
	}
	type place struct{ name, architecture, path string }
	places := []place{{AgentProgram, architecture, overlays.AgentPath}}
	if controller {
		places = append(places, place{ToolProgram, architecture, overlays.ToolPath})
		for _, nodes := range []string{"armv6", "arm64"} {
			places = append(places, place{NodeInitProgram, nodes, nodefile.NodeInit(nodes)}, place{WriterProgram, nodes, nodefile.CardWriter(nodes)})
		}
	}
	if registry {
		places = append(places, place{RegistryProgram, architecture, overlays.RegistryPath})
	}
	var entries []overlays.Entry
	for _, p := range places {
		content, err := w.programs(p.name, p.architecture)
		if err != nil {
			return nil, fmt.Errorf("cannot put %s into the image: %w", p.path, err)
		}
		if p.name == NodeInitProgram || p.name == WriterProgram {
			content = packed(content, beside("packed-"+p.name+"-"+p.architecture))
		}
		entries = append(entries, overlays.Entry{Path: p.path, Mode: 0o755, Content: content, From: "hatchery's own program " + p.name})
	}
	return entries, nil
}

// maxPacked is more than a packed program has, in bytes.
const maxPacked = 64 << 20

// packed is a program that the controller does not run itself, but hands on: of
// another architecture than its own, maybe. An earlier run may have left it at place.
func packed(program []byte, place string) []byte {
	// Another version of Go may pack it into other bytes.
	const kind = "packed program 1"
	key := runtime.Version() + " " + digest.FromBytes(program).String()
	if content, err := cachefile.Read(place, kind, key, maxPacked); err == nil {
		return content
	}
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	// Neither fails: the buffer takes everything.
	w.Write(program)
	w.Close()
	// What cannot be kept is packed again.
	_ = cachefile.Write(place, kind, key, out.Bytes())
	return out.Bytes()
}
