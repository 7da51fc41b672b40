package archguard

import (
	"slices"
	"strings"

	"hatchery/internal/cpu"
	"hatchery/internal/stack/placement"
)

// A Platform is what an image is for, in the words of its manifest.
type Platform struct{ OS, Architecture, Variant string }

// String is the platform as Docker writes it: linux/arm/v6.
func (p Platform) String() string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// ambiguous says whether it is for 32-bit ARM, of a version that it does not
// name.
func (p Platform) ambiguous() bool { return p.Architecture == "arm" && p.Variant == "" }

// normal spells a platform in one way, as containerd does.
func (p Platform) normal() Platform {
	p = Platform{strings.ToLower(p.OS), strings.ToLower(p.Architecture), strings.ToLower(p.Variant)}
	switch p.Architecture {
	case "aarch64", "arm64":
		return Platform{p.OS, "arm64", ""} // a Raspberry Pi has v8 at least, and images no more
	case "armhf":
		return Platform{p.OS, "arm", "v7"}
	case "armel":
		return Platform{p.OS, "arm", "v6"}
	case "arm":
		p.Variant = "v" + strings.TrimPrefix(p.Variant, "v")
		if p.Variant == "v" {
			p.Variant = "v7"
		}
	case "x86_64", "x86-64", "amd64":
		return Platform{p.OS, "amd64", ""}
	}
	return p
}

// arm32 are the variants of 32-bit ARM that an architecture runs, the best
// first.
func arm32(architecture string) []string {
	order := []string{"v8", "v7", "v6", "v5"}
	switch architecture {
	case "armv6":
		return order[2:]
	case "armv7":
		return order[1:]
	case "arm64":
		return order
	}
	return nil
}

// runs says whether a node runs what is for a platform, by name.
func runs(n placement.Node, p Platform) bool {
	p = p.normal()
	architecture := n.Architecture()
	switch {
	case p.OS != "linux" && p.OS != "":
		return false
	case p.Architecture == "arm":
		// The kernel of a Pi 5 has pages of 16 KiB, with which 32-bit programs
		// do not start.
		return slices.Contains(arm32(architecture), p.Variant) && (architecture != "arm64" || n.Labels["hatchery.model"] != "5")
	}
	return p.Architecture == architecture
}

// target is the processor of a node, for programs that bring their own libc.
func target(n placement.Node) (cpu.Target, bool) {
	model := n.Labels["hatchery.model"]
	if model == "" {
		model = "auto"
	}
	t := cpu.Target{Model: model}
	switch n.Architecture() {
	case "armv6":
		t.Level = cpu.Level{Major: 6}
	case "armv7":
		t.Level = cpu.Level{Major: 7}
	case "arm64":
		t.AArch64, t.Level = true, cpu.Level{Major: 8}
		if model == "5" {
			t.Level.Minor = 2
		}
	default:
		return t, false
	}
	return t, true
}

// wanted is the platform that an image should have for a node.
func wanted(n placement.Node) string {
	switch a := n.Architecture(); a {
	case "armv6":
		return "linux/arm/v6"
	case "armv7":
		return "linux/arm/v7"
	default:
		return "linux/" + a
	}
}

// processor names a node's processor for people.
func processor(n placement.Node) string {
	switch a := n.Architecture(); a {
	case "armv6":
		return "ARMv6"
	case "armv7":
		return "ARMv7"
	default:
		return a
	}
}
